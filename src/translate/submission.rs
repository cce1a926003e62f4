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
        ..Submission::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_has_an_id_of_its_own_and_a_state_by_its_kind() {
        let new = |kind| {
            let reference = "shop-7".to_owned();
            submission(kind, "1".to_owned().into(), reference, SystemTime::UNIX_EPOCH)
        };
        let store = new(SubmissionKind::Store);
        assert_eq!((store.state(), store.resubmit_after), (AuditState::InReview, None));
        assert_eq!((store.client_reference.as_str(), store.audit_id.as_str()), ("shop-7", "1"));
        let merchant = new(SubmissionKind::Merchant);
        assert_eq!(merchant.state(), AuditState::AwaitingAdmin);
        assert_eq!(merchant.resubmit_after.map(|at| at.seconds), Some(24 * 3600));
        assert_ne!(store.submission_id, merchant.submission_id);
    }
}
