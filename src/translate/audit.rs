//! Translates events and submissions of the state for callers.

use prost::Message;
use uuid::Uuid;

use crate::{
    journal::SubmissionRecord,
    pb::{self, AuditState, SubmissionKind, audit_event::Detail},
    state::{Event, EventQuery, SubmissionQuery, from_millis, gap::gap},
    util::scope::Scope,
    validate::{Check, Invalid},
};

/// Returns an event for callers, with the data of the log and of its submission. An event that cannot be
/// decoded becomes a gap.
pub(crate) fn event(stored: &Event) -> pb::AuditEvent {
    let unreadable = |error: prost::DecodeError| {
        let (id, kind) = (stored.key.event_id(), SubmissionKind::Unspecified);
        gap(id, String::new(), kind, error.to_string())
    };
    completed(stored, pb::AuditEvent::decode(&*stored.message).unwrap_or_else(unreadable))
}

/// Adds the fields that the log and the submission know to a stored event's own.
pub(crate) fn completed(stored: &Event, mut event: pb::AuditEvent) -> pb::AuditEvent {
    // The time of a lost event is unknown.
    event.receive_time = (stored.received > 0).then(|| from_millis(stored.received).into());
    event.supersedes.clone_from(&stored.supersedes);
    event.superseded_by.clone_from(&stored.superseded_by);
    let record = stored.submission.as_ref();
    let record = record.and_then(|message| SubmissionRecord::parse(message).ok());
    let Some(SubmissionRecord { submission, .. }) = record else { return event };
    event.submission_id = submission.submission_id;
    event.client_reference = submission.client_reference;
    event.request_id = submission.request_id;
    event.caller = submission.caller;
    event.trace_id = submission.trace_id;
    match &mut event.detail {
        Some(Detail::Store(store)) => store.map_poi_id = submission.map_poi_id,
        Some(Detail::StorePictures(pictures)) => pictures.poi_id = submission.poi_id,
        _ => {}
    }
    event
}

/// Returns the detail and the name of an event that WeChat did not push.
pub(crate) fn reconciled(kind: SubmissionKind, poi_id: String) -> (Option<Detail>, &'static str) {
    match kind {
        SubmissionKind::Merchant => {
            (Some(Detail::Merchant(pb::MerchantAudit {})), "apply_merchant_audit_info")
        }
        SubmissionKind::MapPoi => {
            (Some(Detail::MapPoi(pb::MapPoiAudit::default())), "create_map_poi_audit_info")
        }
        SubmissionKind::Store => {
            let store = pb::StoreAudit { poi_id, ..pb::StoreAudit::default() };
            (Some(Detail::Store(store)), "add_store_audit_info")
        }
        SubmissionKind::StorePictures => {
            let pictures = pb::StorePicturesAudit { poi_id };
            (Some(Detail::StorePictures(pictures)), "modify_store_audit_info")
        }
        SubmissionKind::NearbyPoi => (
            Some(Detail::NearbyPoi(pb::NearbyPoiAudit { nearby_poi_id: poi_id })),
            "add_nearby_poi_audit_info",
        ),
        SubmissionKind::Unspecified => (None, ""),
    }
}

/// Selects the events of a watcher.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    accounts: Scope,
    kinds: Vec<SubmissionKind>,
}

impl Filter {
    /// Parses the fields of a request.
    pub(crate) fn new(accounts: Scope, kinds: &[i32]) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let kinds = check.kinds(kinds);
        check.done(Self { accounts, kinds })
    }

    /// Returns whether the watcher gets this event.
    pub(crate) fn wants(&self, app_id: &str, kind: SubmissionKind) -> bool {
        self.accounts.has(app_id) && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// Parses a request for events.
pub(crate) fn wanted_events(
    accounts: Scope,
    request: pb::ListAuditEventsRequest,
) -> Result<EventQuery, Invalid> {
    let pb::ListAuditEventsRequest {
        app_id: _,
        kinds,
        submission_id,
        start_time,
        end_time,
        page_size,
        page_token: _,
    } = request;
    let mut check = Check::default();
    let query = EventQuery {
        after: 0,
        limit: check.rows(page_size),
        bytes: None,
        accounts,
        kinds: check.kinds(&kinds),
        submission_id: check.submission_id(submission_id),
        from: check.moment("start_time", start_time),
        until: check.moment("end_time", end_time),
    };
    check.done(query)
}

/// Parses a request for submissions.
pub(crate) fn wanted_submissions(
    accounts: Scope,
    request: pb::ListSubmissionsRequest,
) -> Result<SubmissionQuery, Invalid> {
    let pb::ListSubmissionsRequest {
        app_id: _,
        kinds,
        states,
        end_time,
        client_reference,
        page_size,
        page_token: _,
    } = request;
    let mut check = Check::default();
    let query = SubmissionQuery {
        after: 0,
        limit: check.rows(page_size),
        accounts,
        kinds: check.kinds(&kinds),
        states: check.states(&states),
        until: check.moment("end_time", end_time),
        client_reference: Some(check.reference(client_reference))
            .filter(|reference| !reference.is_empty()),
    };
    check.done(query)
}

/// Parses a request for one submission, and returns its id.
pub(crate) fn wanted_submission(request: pb::GetSubmissionRequest) -> Result<String, Invalid> {
    let pb::GetSubmissionRequest { app_id: _, submission_id } = request;
    let mut check = Check::default();
    let submission_id = check.required("submission_id", submission_id);
    let submission_id = check.submission_id(submission_id).unwrap_or_default();
    check.done(submission_id)
}

impl Check {
    fn kinds(&mut self, kinds: &[i32]) -> Vec<SubmissionKind> {
        let known = |kind: &i32| match SubmissionKind::try_from(*kind) {
            Ok(SubmissionKind::Unspecified) | Err(_) => None,
            Ok(kind) => Some(kind),
        };
        self.each("kinds", kinds, known)
    }

    fn states(&mut self, states: &[i32]) -> Vec<AuditState> {
        self.each("states", states, |state| AuditState::try_from(*state).ok())
    }

    fn submission_id(&mut self, id: String) -> Option<String> {
        if id.is_empty() {
            return None;
        }
        match Uuid::parse_str(&id) {
            // In the spelling of the response, whatever spelling the caller uses.
            Ok(id) => Some(id.to_string()),
            Err(_) => {
                self.refuse("submission_id", "must be a UUID");
                None
            }
        }
    }
}
