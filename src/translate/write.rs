//! Translates writes of the journal for callers.

use prost_types::Any;

use crate::{
    journal::record::known_response,
    pb::{self, get_write_request::Lookup},
    state::{self, WriteQuery, WriteState, from_millis},
    util::scope::Scope,
    validate::{Check, Invalid},
};

/// Returns a write for callers.
pub(crate) fn write(write: state::Write) -> pb::Write {
    let state::Write {
        number: _,
        record: _,
        write_id,
        caller,
        app_id,
        method,
        request_id,
        client_reference,
        state,
        attempts,
        reply,
        created,
        sent,
        ended,
        rest: _,
    } = write;
    let state = match state {
        WriteState::Claimed => pb::WriteState::Claimed,
        WriteState::Finished => pb::WriteState::Finished,
        WriteState::Sent => pb::WriteState::Sent,
        WriteState::Unknown => pb::WriteState::Unknown,
    };
    let moment = |millis| (millis > 0).then(|| from_millis(millis).into());
    let name = method.rsplit('/').next().unwrap_or_default();
    let response = reply.as_deref().and_then(known_response).map(|response| Any {
        type_url: format!("type.googleapis.com/wechat.store.v1.{name}Response"),
        value: response.to_vec(),
    });
    pb::Write {
        write_id,
        app_id: app_id.into(),
        method,
        request_id,
        client_reference,
        state: state.into(),
        attempts: attempts.try_into().unwrap_or(i32::MAX),
        create_time: moment(created),
        send_time: moment(sent),
        finish_time: moment(ended),
        response,
        caller,
    }
}

/// Checks the name by which a caller looks up a write.
pub(crate) fn wanted_write(lookup: Option<Lookup>) -> Result<Lookup, Invalid> {
    let mut check = Check::default();
    let mut uuid = |field, id: String| match check.uuid(field, &id) {
        Some(id) => id.to_string(),
        None => {
            check.refuse(field, "required");
            String::new()
        }
    };
    let lookup = match lookup {
        Some(Lookup::WriteRequestId(id)) => Lookup::WriteRequestId(uuid("write_request_id", id)),
        Some(Lookup::WriteId(id)) => Lookup::WriteId(uuid("write_id", id)),
        None => Lookup::WriteId(uuid("write_id", String::new())),
    };
    check.done(lookup)
}

/// Parses a request for writes.
pub(crate) fn wanted_writes(
    accounts: Scope,
    request: pb::ListWritesRequest,
) -> Result<WriteQuery, Invalid> {
    let pb::ListWritesRequest { app_id: _, states, end_time, page_size, page_token: _ } = request;
    let mut check = Check::default();
    let states = check.each("states", &states, |state| match pb::WriteState::try_from(*state) {
        Ok(pb::WriteState::Claimed) => Some(WriteState::Claimed),
        Ok(pb::WriteState::Finished) => Some(WriteState::Finished),
        Ok(pb::WriteState::Sent) => Some(WriteState::Sent),
        Ok(pb::WriteState::Unknown) => Some(WriteState::Unknown),
        Ok(pb::WriteState::Unspecified) | Err(_) => None,
    });
    let query = WriteQuery {
        after: 0,
        limit: check.rows(page_size),
        accounts,
        states,
        request_id: None,
        until: check.moment("end_time", end_time),
    };
    check.done(query)
}

/// Returns the id of a write that an operator resolves, and whether it was executed.
pub(crate) fn resolution(request: pb::ResolveWriteRequest) -> Result<(String, bool), Invalid> {
    let resolution = request.resolution();
    let mut check = Check::default();
    let write_id = match wanted_write(Some(Lookup::WriteId(request.write_id)))? {
        Lookup::WriteId(id) | Lookup::WriteRequestId(id) => id,
    };
    if resolution == pb::WriteResolution::Unspecified {
        check.refuse(
            "resolution",
            "must be WRITE_RESOLUTION_EXECUTED or WRITE_RESOLUTION_NOT_EXECUTED",
        );
    }
    check.done((write_id, resolution == pb::WriteResolution::Executed))
}
