//! The journal of writes: a hash each, indexed by request id, by number, and by the time of
//! pruning.

use std::{sync::LazyLock, time::Duration};

use ::redis::{Script, Value, from_redis_value};
use bytes::Bytes;

use super::{
    Redis,
    connection::{Call, lost, lua, millis, quiet},
    failure::damaged,
    submission,
};
use crate::state::{
    Begun, Error, NewWrite, Outcome, PAGE_BYTES, Sent, Write, WritePage, WriteQuery, WriteState,
    Writes, log_skipped,
    sum::{stored_form, without_checksum},
};

static BEGIN: LazyLock<Script> = lua!("begin.lua");
static SENT: LazyLock<Script> = lua!("sent.lua");
static ENDED: LazyLock<Script> = lua!("ended.lua");
static WRITE: LazyLock<Script> = lua!("write.lua");
static WRITES: LazyLock<Script> = lua!("writes.lua");
static RESOLVE: LazyLock<Script> = lua!("resolve.lua");

/// A write as `prelude.lua` returns it: its properties and its state.
type WriteRow = (PropertiesRow, StateRow);

/// Number, write id, app id, method, request id, client reference, caller.
type PropertiesRow = (u64, String, String, String, String, String, String);

/// State, attempts, reply, created, sent, ended, time left, expected effect.
type StateRow = (String, u32, Option<Vec<u8>>, u64, u64, u64, u64, Vec<u8>);

#[tonic::async_trait]
impl Writes for Redis {
    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error> {
        let redis = &self.connection;
        let mut call = redis.call(&BEGIN);
        describe(&mut call, &write);
        call.arg("term").arg(millis(term));
        if let Some(Sent { by, record }) = &write.sent {
            call.arg("by").arg(millis(*by)).arg("record").arg(stored_form(record));
        }
        let begun =
            redis.run_recording(&call, |backup, begun: &(String, String, u64, Option<Value>)| {
                let (what, write_id, fence, _) = begun;
                match what.as_str() {
                    "claimed" => {
                        backup.claimed(write_id.clone(), *fence, NewWrite { sent: None, ..write })
                    }
                    "sent" => backup.claimed(write_id.clone(), *fence, write),
                    _ => {}
                }
            });
        let (what, write_id, fence, known) = begun.await?;
        match (what.as_str(), known) {
            ("claimed" | "sent", _) => Ok(Begun::Claimed { write_id, fence, sent: what == "sent" }),
            ("other", _) => Ok(Begun::Other),
            ("known", Some(row)) => Ok(Begun::Known(parse_row(row)?)),
            ("unreadable", _) => Err(unreadable()),
            ("quiet", _) => Err(quiet(fence)),
            _ => Err(damaged("word")),
        }
    }

    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        record: Bytes,
    ) -> Result<bool, Error> {
        let redis = &self.connection;
        if redis.is_void(write_id) {
            return Err(lost());
        }
        let mut call = redis.call(&SENT);
        call.arg(write_id).arg(fence).arg(millis(by)).arg(stored_form(&record));
        let sent = redis.run_recording(&call, |backup, sent: &bool| {
            if *sent {
                backup.sent(write_id, by, record);
            }
        });
        sent.await
    }

    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error> {
        let redis = &self.connection;
        let mut call = redis.call(&ENDED);
        call.arg(write_id).arg(fence);
        add_outcome(&mut call, outcome.clone());
        redis.run_recording(&call, |backup, (): &()| backup.ended(write_id, outcome)).await
    }

    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error> {
        let redis = &self.connection;
        let found: Option<Value> = redis.run(redis.call(&WRITE).arg(write_id)).await?;
        found.map(parse_row).transpose()
    }

    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error> {
        let redis = &self.connection;
        let WriteQuery { after, limit, accounts, states, request_id, until } = query;
        let only_unfinished = !states.is_empty() && !states.contains(&WriteState::Finished);
        let mut call = redis.call(&WRITES);
        call.arg(after).arg(limit);
        call.arg(accounts.set());
        call.arg(
            states.iter().fold(",".to_owned(), |set, state| format!("{set}{},", state.name())),
        );
        call.arg(until.unwrap_or(u64::MAX));
        call.arg(request_id.unwrap_or_default());
        call.arg(u8::from(only_unfinished)).arg(PAGE_BYTES);
        let (seen, at_end, found): (u64, bool, Vec<Value>) = redis.run(&call).await?;
        let count = found.len();
        let readable = |row| {
            parse_row(row).inspect_err(|error| log_skipped("a write", &error.to_string())).ok()
        };
        let writes: Vec<_> = found.into_iter().filter_map(readable).collect();
        let unreadable = (count - writes.len()) as u64;
        Ok(WritePage { writes, unreadable, seen, at_end })
    }

    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error> {
        let redis = &self.connection;
        let mut call = redis.call(&RESOLVE);
        call.arg(write_id);
        add_outcome(&mut call, outcome);
        let found: Option<Value> = redis.run(&call).await?;
        found.map(parse_row).transpose()
    }
}

/// Adds the fields of a write to a call, each after its name.
pub(super) fn describe(call: &mut Call, write: &NewWrite) {
    let NewWrite { write_id, caller, app_id, method, request_id, .. } = write;
    let NewWrite { fingerprint, client_reference, .. } = write;
    call.arg("write_id").arg(write_id);
    call.arg("caller").arg(caller);
    call.arg("app_id").arg(app_id.as_str());
    call.arg("method").arg(method);
    call.arg("request_id").arg(request_id.as_deref().unwrap_or_default());
    call.arg("fingerprint").arg(&fingerprint[..]);
    call.arg("client_reference").arg(client_reference);
}

/// Adds an outcome to the arguments of a script: its name, the reply, and the fields of its
/// submission.
fn add_outcome(call: &mut Call, outcome: Outcome) {
    let (outcome, reply, submission) = match outcome {
        Outcome::Finished { reply, submission } => ("finished", reply, submission),
        Outcome::Released => ("released", Bytes::new(), None),
        Outcome::Unknown => ("unknown", Bytes::new(), None),
    };
    call.arg(outcome).arg(stored_form(&reply));
    if let Some(submission) = submission {
        submission::describe(call, *submission);
    }
}

fn unreadable() -> Error {
    Error::Unreadable("a write has no known form".to_owned())
}

fn parse_row(row: Value) -> Result<Write, Error> {
    let (about, standing): WriteRow = from_redis_value(row).map_err(|_| unreadable())?;
    let (number, write_id, app_id, method, request_id, client_reference, caller) = about;
    let (state, attempts, reply, created, sent, ended, rest, record) = standing;
    Ok(Write {
        number,
        write_id,
        caller,
        app_id: app_id.into(),
        method,
        request_id,
        client_reference,
        state: WriteState::named(&state).ok_or_else(unreadable)?,
        attempts,
        record: message(&record)?,
        reply: reply.as_deref().map(message).transpose()?,
        created,
        sent,
        ended,
        rest: Duration::from_millis(rest),
    })
}

/// Returns a stored message without its checksum.
fn message(stored: &[u8]) -> Result<Bytes, Error> {
    Ok(Bytes::copy_from_slice(without_checksum(stored, &[])?))
}
