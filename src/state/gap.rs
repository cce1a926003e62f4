//! The replacement for an event of the log that cannot be read.

use crate::pb::{AuditEvent, EventGap, SubmissionKind, audit_event::Detail};

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
