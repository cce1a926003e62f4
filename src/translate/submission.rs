//! What a caller gets for a write that WeChat reviews.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::{
    id::AuditId,
    pb::{AuditState, Submission, SubmissionKind},
};

/// An administrator who has not confirmed by then can be asked again (S3 §2: 24 小时).
const CONFIRM_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// A new submission, taken by WeChat at `now`.
pub(crate) fn submission(
    kind: SubmissionKind,
    audit_id: AuditId,
    client_reference: String,
    now: SystemTime,
) -> Submission {
    let awaits_admin = kind == SubmissionKind::Merchant;
    let state = if awaits_admin { AuditState::AwaitingAdmin } else { AuditState::InReview };
    Submission {
        submission_id: Uuid::new_v4().to_string(),
        kind: kind.into(),
        audit_id: audit_id.into(),
        client_reference,
        state: state.into(),
        create_time: Some(now.into()),
        resubmit_after: awaits_admin.then(|| (now + CONFIRM_WITHIN).into()),
    }
}
