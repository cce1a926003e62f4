//! What stands in the log in place of an event that cannot be read.

use crate::pb::{AuditEvent, EventGap, SubmissionKind, audit_event::Detail};

/// An event that says that another one is lost, with what is still known of that one.
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

/// Whether an event only says that another one is lost.
pub(crate) fn is_gap(event: &AuditEvent) -> bool {
    matches!(event.detail, Some(Detail::Gap(_)))
}
