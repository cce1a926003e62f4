//! Merchants: WeChat shows only the newest application of an account.

use std::time::Duration;

use super::{Effect, Question, Recovery, reviews::ReviewResult};
use crate::{
    call::Error,
    context::Context,
    journal::{CONFIRM_WITHIN, MerchantAudit, SubmissionRecord},
    pb::{AuditState, GetMerchantAuditResponse, Submission},
    state::{self, is_open},
    wechat::merchant::GetMerchantAuditInfo,
};

impl Recovery {
    /// Returns the effect of an application, if WeChat shows another review than `before` and no other
    /// application may be the reason.
    pub(super) async fn merchant_audit_changed(
        &self,
        Question { ctx, write, .. }: Question<'_>,
        submission: &Submission,
        before: &MerchantAudit,
    ) -> Result<Option<Effect>, Error> {
        let shown = self.merchant_audit(ctx).await?.into();
        let Some(audit_id) = changed(before, &shown) else { return Ok(None) };
        let mut of_another = false;
        let visit = |other: state::Submission, _| {
            of_another |= may_be_of(&other, &audit_id, write.sent);
        };
        self.each_other(submission, visit).await?;
        Ok((!of_another).then(|| Effect { audit_id, ..Effect::default() }))
    }

    /// Returns where the newest application of the account stands.
    pub(super) async fn merchant_audit(
        &self,
        ctx: &Context,
    ) -> Result<GetMerchantAuditResponse, Error> {
        Ok(self.0.calls.read(ctx, GetMerchantAuditInfo {}).await?.into())
    }

    /// Returns the result of an application, if `shown` is about it.
    pub(super) async fn merchant_review(
        &self,
        submission: &Submission,
        before: Option<&MerchantAudit>,
        shown: GetMerchantAuditResponse,
    ) -> Result<Option<ReviewResult>, Error> {
        // A state from before this application is not about it.
        if before.is_some_and(|before| changed(before, &shown.clone().into()).is_none()) {
            return Ok(None);
        }
        let all = self.all_submissions(submission).await?;
        let Some((newest, older)) = all.split_last() else { return Ok(None) };
        let record = SubmissionRecord::parse(&newest.message)?;
        if record.submission.submission_id != submission.submission_id
            || !is_about_newest(&shown.audit_id, newest, older)
        {
            return Ok(None);
        }
        Ok(Some(ReviewResult {
            state: shown.state(),
            wechat_status: shown.wechat_status,
            reason: shown.reason,
            audit_id: shown.audit_id,
            poi_id: String::new(),
        }))
    }
}

/// Returns the number of the shown review, which may be empty, if it is another review than the one shown
/// before.
fn changed(before: &MerchantAudit, shown: &MerchantAudit) -> Option<String> {
    let shows_nothing = |audit: &MerchantAudit| {
        audit.audit_id.is_empty() && audit.audit_state() == AuditState::Unspecified
    };
    if shows_nothing(before) || shows_nothing(shown) {
        return None;
    }
    let (old, new) = (before.audit_state(), shown.audit_state());
    let same_number = before.audit_id == shown.audit_id;
    // An application that was open before may have ended since, by itself.
    if same_number && (old == new || is_open(old)) {
        return None;
    }
    let submitted = !matches!(new, AuditState::Unspecified | AuditState::NotSubmitted);
    let renumbered = !same_number && !shown.audit_id.is_empty();
    (renumbered || submitted).then(|| shown.audit_id.clone())
}

/// Returns whether another application may be the reason for the shown review. `sent` is when the write
/// was sent, in milliseconds since 1970.
fn may_be_of(other: &state::Submission, audit_id: &str, sent: u64) -> bool {
    let same_number = !audit_id.is_empty() && other.audit_id.as_str() == audit_id;
    // The administrator may have confirmed it since.
    let confirmable = other.created.saturating_add(millis(CONFIRM_WITHIN)) > sent;
    let nameless = is_open(other.state) && other.audit_id.is_empty();
    same_number || nameless && confirmable
}

/// Returns whether WeChat shows the newest application. Until an administrator has confirmed it, WeChat
/// may show the one before.
fn is_about_newest(
    audit_id: &str,
    newest: &state::Submission,
    older: &[state::Submission],
) -> bool {
    let of = |other: &state::Submission| other.audit_id.as_str() == audit_id;
    let renumbered = !newest.audit_id.is_empty() && !of(newest);
    audit_id.is_empty() || !(renumbered || older.iter().any(of))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::other, *};

    fn audit(audit_id: &str, state: AuditState) -> MerchantAudit {
        let state = state.into();
        MerchantAudit { audit_id: audit_id.to_owned(), state, ..MerchantAudit::default() }
    }

    #[test]
    fn review_changes_by_number_or_after_end() {
        use AuditState::{Approved, InReview, NotSubmitted, Rejected, Unspecified};
        let change =
            |(old_id, old), (new_id, new)| changed(&audit(old_id, old), &audit(new_id, new));
        let same = |number: &str| Some(number.to_owned());
        assert_eq!(change(("7", Rejected), ("8", InReview)), same("8"));
        assert_eq!(change(("", NotSubmitted), ("", InReview)), same(""));
        assert_eq!(change(("7", Rejected), ("7", InReview)), same("7"), "submitted again");
        assert_eq!(change(("7", Rejected), ("7", Rejected)), None);
        assert_eq!(change(("7", InReview), ("7", Approved)), None, "it ended by itself");
        assert_eq!(change(("7", Rejected), ("", NotSubmitted)), None);
        assert_eq!(change(("", Unspecified), ("7", InReview)), None, "nothing was shown before");
        assert_eq!(change(("7", Rejected), ("", Unspecified)), None, "nothing is shown now");
    }

    #[test]
    fn other_application_may_explain_change_for_a_day() {
        use AuditState::{AwaitingAdmin, Rejected};
        let day = millis(CONFIRM_WITHIN);
        assert!(may_be_of(&other(Rejected, "7", ""), "7", u64::MAX));
        assert!(!may_be_of(&other(Rejected, "6", ""), "7", 0));
        assert!(!may_be_of(&other(Rejected, "", ""), "", 0), "it has ended");
        // The other one was created at 1,000.
        assert!(may_be_of(&other(AwaitingAdmin, "", ""), "7", day + 999));
        assert!(!may_be_of(&other(AwaitingAdmin, "", ""), "7", day + 1_000));
    }

    #[test]
    fn older_application_may_be_shown_before_confirmation() {
        use AuditState::{AwaitingAdmin, Rejected};
        let older = [other(Rejected, "6", "")];
        assert!(!is_about_newest("6", &other(AwaitingAdmin, "", ""), &older));
        assert!(is_about_newest("7", &other(AwaitingAdmin, "", ""), &older));
        assert!(is_about_newest("7", &other(AwaitingAdmin, "7", ""), &older));
        assert!(!is_about_newest("8", &other(AwaitingAdmin, "7", ""), &older));
        assert!(is_about_newest("", &other(AwaitingAdmin, "7", ""), &older));
    }
}
