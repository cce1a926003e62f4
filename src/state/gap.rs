//! The replacement for an event of the log that cannot be read.

use prost::Message;

use super::{Event, EventKey, log_skipped};
use crate::pb::{AuditEvent, EventGap, SubmissionKind, audit_event::Detail};

/// Replaces the message of an unreadable submission: the event has a submission, and the event
/// itself is not damaged. No message begins with this byte.
pub(super) const NO_MESSAGE: [u8; 1] = [0xFF];

/// The facts about an unreadable event that its row still shows.
#[derive(Debug, Default)]
pub(super) struct LostEvent {
    pub(super) position: u64,
    pub(super) key: Option<EventKey>,
    pub(super) app_id: Option<String>,
    pub(super) kind: Option<i32>,
    pub(super) received: Option<u64>,
}

impl LostEvent {
    /// Returns the placeholder for the event, and logs the cause. It has the key of the event if that is
    /// known.
    pub(super) fn placeholder(self, cause: &str) -> Event {
        log_skipped("an event", cause);
        let Self { position, key, app_id, kind, received } = self;
        let key = key.unwrap_or_else(|| placeholder_key(position));
        let kind = kind.and_then(|kind| SubmissionKind::try_from(kind).ok()).unwrap_or_default();
        let event = gap(key.event_id(), app_id.unwrap_or_default(), kind, cause.to_owned());
        Event {
            position,
            key,
            received: received.unwrap_or_default(),
            message: event.encode_to_vec().into(),
            supersedes: String::new(),
            superseded_by: String::new(),
            submission: None,
        }
    }
}

/// Returns the key for an event whose own key is lost. It depends only on the position.
pub(super) fn placeholder_key(position: u64) -> EventKey {
    EventKey::of(0, [&b"lost"[..], &position.to_be_bytes()])
}

/// Returns an event which states that another one is lost, with the known facts about that one.
pub(crate) fn gap(
    event_id: String,
    app_id: String,
    kind: SubmissionKind,
    cause: String,
) -> AuditEvent {
    AuditEvent {
        event_id,
        app_id,
        kind: kind.into(),
        detail: Some(Detail::Gap(EventGap { lost_events: 1, cause })),
        ..AuditEvent::default()
    }
}

/// Returns whether an event only states that another one is lost.
pub(crate) fn is_gap(event: &AuditEvent) -> bool {
    matches!(event.detail, Some(Detail::Gap(_)))
}
