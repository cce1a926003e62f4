//! The other submissions that an effect may belong to, and the events since a write.

use prost::Message;

use super::Recovery;
use crate::{
    call::Error,
    journal::{ExpectedEffect, SubmissionRecord},
    pb::{AuditEvent, Submission, SubmissionKind},
    state::{self, EventQuery, SubmissionQuery, Write},
    util::scope::Scope,
};

/// How many rows are read from the state at once.
const PAGE: usize = 1000;

impl Recovery {
    /// Visits all other submissions of the same kind and account, with the effect that is expected of
    /// each. There may be very many. The own submission is left out: another replica may have recorded it
    /// meanwhile.
    pub(super) async fn each_other(
        &self,
        submission: &Submission,
        mut visit: impl FnMut(state::Submission, Option<ExpectedEffect>),
    ) -> Result<(), state::Error> {
        self.each_submission(submission, |other| {
            let SubmissionRecord { submission: its, expected_effect, span_id: _ } =
                SubmissionRecord::parse(&other.message)?;
            if its.submission_id != submission.submission_id {
                visit(other, expected_effect);
            }
            Ok(())
        })
        .await
    }

    /// Returns all submissions of the same kind and account, in order.
    pub(super) async fn all_submissions(
        &self,
        like: &Submission,
    ) -> Result<Vec<state::Submission>, state::Error> {
        let mut all = Vec::new();
        self.each_submission(like, |submission| {
            all.push(submission);
            Ok(())
        })
        .await?;
        Ok(all)
    }

    async fn each_submission(
        &self,
        like: &Submission,
        mut visit: impl FnMut(state::Submission) -> Result<(), state::Error>,
    ) -> Result<(), state::Error> {
        let mut query = SubmissionQuery {
            limit: PAGE,
            accounts: Scope::one(like.app_id.clone()),
            kinds: vec![like.kind()],
            ..SubmissionQuery::default()
        };
        loop {
            let page = self.0.state.submissions(query.clone()).await?;
            if page.unreadable > 0 {
                // The effect may belong to the damaged one.
                let what = "a submission of the same kind and account is damaged".to_owned();
                return Err(state::Error::Unreadable(what));
            }
            page.submissions.into_iter().try_for_each(&mut visit)?;
            if page.at_end {
                return Ok(());
            }
            query.after = page.seen;
        }
    }

    /// Returns the first event since a write was sent that fits and belongs to no other submission.
    pub(super) async fn event(
        &self,
        write: &Write,
        kind: SubmissionKind,
        fits: impl Fn(&AuditEvent) -> bool,
    ) -> Result<Option<AuditEvent>, Error> {
        let mut query = EventQuery {
            limit: PAGE,
            accounts: Scope::one(write.app_id.clone()),
            kinds: vec![kind],
            // Both times come from the state's clock.
            from: Some(write.sent),
            ..EventQuery::default()
        };
        loop {
            let page = self.0.state.events(query.clone()).await?;
            for event in page.events {
                // An event that cannot be decoded shows nothing.
                if may_belong(event.submission.as_deref(), &write.write_id)
                    && let Ok(event) = AuditEvent::decode(&*event.message)
                    && fits(&event)
                {
                    return Ok(Some(event));
                }
            }
            if page.at_end {
                return Ok(None);
            }
            query.after = page.seen;
        }
    }
}

/// Returns whether an event with this submission may be about this write. Another replica may have
/// recorded the write's own submission meanwhile. An unreadable submission counts as another.
fn may_belong(submission: Option<&[u8]>, write_id: &str) -> bool {
    submission.is_none_or(|submission| {
        SubmissionRecord::parse(submission)
            .is_ok_and(|its| its.submission.submission_id == write_id)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::submission, *};

    #[test]
    fn event_of_another_submission_is_not_of_write() {
        let record = |submission_id: &str| {
            let submission = Submission {
                submission_id: submission_id.to_owned(),
                ..submission(SubmissionKind::Store, "7", "12")
            };
            SubmissionRecord { submission, expected_effect: None, span_id: 0 }
                .to_state(None)
                .message
        };
        let (own, other) = (record("write"), record("other"));
        for (its, expected) in [
            (None, true),
            (Some(&own[..]), true),
            (Some(&other[..]), false),
            (Some(&b"\xff"[..]), false),
        ] {
            assert_eq!(may_belong(its, "write"), expected);
        }
    }
}
