//! Polls reviews without a push: asks WeChat for their results, if WeChat shows them.
//!
//! `docs/audit-events.md` describes which answer proves a result, and how surely. If it proves nothing,
//! the review stays open and becomes overdue in time.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::{Recovery, TIME_LIMIT};
use crate::{
    call::Error,
    config,
    context::Context,
    journal::{ExpectedEffect, SubmissionRecord},
    pb::{self, AuditEvent, AuditState, GetMerchantAuditResponse, SubmissionKind},
    state::{self, Appended, EventKey, NewEvent, Origin, is_decided},
    translate::audit::reconciled,
};

/// The longest pause between two rounds. Each round may read whole lists, so reviews that become due one by
/// one are asked about together …
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// … and the shortest pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How many due reviews are taken from the state at once.
const BATCH: usize = 32;

/// The result of a review, by what WeChat shows.
#[derive(Debug, Default)]
pub(super) struct ReviewResult {
    pub(super) state: AuditState,
    /// WeChat's number for the state.
    pub(super) wechat_status: Option<i32>,
    pub(super) reason: String,
    pub(super) audit_id: String,
    pub(super) poi_id: String,
}

/// Polls reviews until `stop`.
pub(crate) async fn poll_reviews(
    recovery: Recovery,
    settings: config::Audit,
    stop: CancellationToken,
) {
    if settings.poll_after().is_none() {
        return;
    }
    let pause = pause(settings.poll_interval());
    let poll_for_ever = async {
        loop {
            if let Err(error) = Round::new(&recovery, &settings).run().await {
                tracing::warn!("failed to poll overdue reviews: {error}");
            }
            recovery.0.calls.clock().sleep(pause).await;
        }
    };
    stop.run_until_cancelled(poll_for_ever).await;
}

/// Returns the pause between two rounds. A review then waits little longer than the interval.
fn pause(poll_interval: Duration) -> Duration {
    (poll_interval / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// Polls all reviews that are due. A list is read once for all reviews in it, because it may take hundreds
/// of calls.
struct Round<'a> {
    recovery: &'a Recovery,
    settings: &'a config::Audit,
    merchants: ByAccount<GetMerchantAuditResponse>,
    /// Older lists must not be used.
    began: Instant,
}

/// The reply for each account, or its error.
type ByAccount<T> = HashMap<String, Result<T, Error>>;

/// Returns what is known of the account. Asks for it if nothing is known yet.
async fn once<T: Clone>(
    known: &mut ByAccount<T>,
    ctx: &Context,
    ask: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match known.entry(ctx.app_id.clone()) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(ask.await),
    }
    .clone()
}

impl<'a> Round<'a> {
    fn new(recovery: &'a Recovery, settings: &'a config::Audit) -> Self {
        let began = recovery.0.calls.clock().now();
        Self { recovery, settings, merchants: HashMap::new(), began }
    }

    async fn run(mut self) -> Result<(), state::Error> {
        loop {
            let state = &self.recovery.0.state;
            let due = state.take_due(self.settings.poll_interval(), BATCH).await?;
            let count = due.len();
            for stored in due {
                match self.poll(stored).await {
                    // The other reviews are polled nevertheless.
                    Err(error @ state::Error::Unreadable(_)) => {
                        tracing::error!(
                            "failed to read a submission record, its review is not polled: {error}"
                        );
                    }
                    polled => polled?,
                }
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }

    /// Asks about one review. It becomes due again unless it is decided now.
    async fn poll(&mut self, stored: state::Submission) -> Result<(), state::Error> {
        let clock = self.recovery.0.calls.clock();
        let overdue_after = self.settings.overdue_after();
        let SubmissionRecord { submission, expected_effect, span_id: _ } =
            SubmissionRecord::from_state(stored, clock.wall(), overdue_after)?;
        if self.recovery.0.calls.is_paused(&submission.app_id).await {
            return Ok(());
        }
        let mut ctx = Context::internal(clock.now() + TIME_LIMIT);
        ctx.app_id.clone_from(&submission.app_id);
        let submission_id = &submission.submission_id;
        match self.result(&ctx, &submission, expected_effect.as_ref()).await {
            Ok(Some(result)) => {
                let event = event(&submission, result, clock.unix());
                if let Appended::New(_) = self.recovery.0.state.append(event).await? {
                    tracing::info!(
                        submission_id,
                        "found a review result at WeChat that no push reported"
                    );
                }
            }
            Ok(None) if submission.overdue => {
                let kind = submission.kind().as_str_name();
                tracing::warn!(
                    submission_id,
                    kind,
                    "a review is overdue and WeChat shows no result"
                );
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(submission_id, "failed to query WeChat about a review: {error}");
            }
        }
        Ok(())
    }

    /// Returns the result of the review, if WeChat shows that it has one.
    async fn result(
        &mut self,
        ctx: &Context,
        submission: &pb::Submission,
        expected: Option<&ExpectedEffect>,
    ) -> Result<Option<ReviewResult>, Error> {
        let (recovery, began) = (self.recovery, self.began);
        let found = match (submission.kind(), expected) {
            (SubmissionKind::Merchant, expected) => {
                let before = match expected {
                    Some(ExpectedEffect::MerchantAuditChanged(before)) => Some(before),
                    _ => None,
                };
                let shown = once(&mut self.merchants, ctx, recovery.merchant_audit(ctx)).await?;
                recovery.merchant_review(submission, before, shown).await?
            }
            (SubmissionKind::NearbyPoi, _) => {
                recovery.nearby_review(ctx, submission, began).await?
            }
            (SubmissionKind::Store, Some(ExpectedEffect::NewStore(wanted))) => {
                recovery.store_review(ctx, submission, wanted, began).await?
            }
            (SubmissionKind::Store, Some(ExpectedEffect::Migration(poi_id))) => {
                recovery.migration_review(ctx, poi_id, began).await?
            }
            (SubmissionKind::StorePictures, _) => recovery.pictures_review(ctx, submission).await?,
            // No call of WeChat shows the review of a map place.
            (SubmissionKind::MapPoi | SubmissionKind::Store | SubmissionKind::Unspecified, _) => {
                None
            }
        };
        Ok(found.filter(|result| has_ended(result.state)))
    }
}

/// Returns whether a review with this result has ended. WeChat may not show a new review yet, so an
/// absent one has not.
fn has_ended(state: AuditState) -> bool {
    is_decided(state) && state != AuditState::NotSubmitted
}

/// Returns the event that the missing push would have caused.
fn event(submission: &pb::Submission, result: ReviewResult, now: u64) -> NewEvent {
    let ReviewResult { state, wechat_status, reason, audit_id, poi_id } = result;
    let audit_id = if audit_id.is_empty() { submission.audit_id.clone() } else { audit_id };
    let parts = ["reconciled", &submission.submission_id, state.as_str_name()];
    let submitted = submission.create_time.map_or(0, |time| time.seconds.unsigned_abs());
    let key = EventKey::of(submitted, parts.map(str::as_bytes));
    let kind = submission.kind();
    let (detail, wechat_event) = reconciled(kind, poi_id);
    let event = AuditEvent {
        app_id: submission.app_id.clone(),
        kind: kind.into(),
        wechat_event: wechat_event.to_owned(),
        state: state.into(),
        wechat_status,
        audit_id,
        reason,
        event_time: Some((SystemTime::UNIX_EPOCH + Duration::from_secs(now)).into()),
        detail,
        ..AuditEvent::default()
    };
    let submission_id = submission.submission_id.clone();
    NewEvent::from_event(key, event, Origin::Polled { submission_id })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{super::testing::submission, *};
    use crate::{
        pb::{EventOrigin, audit_event::Detail},
        util::clock::Clock,
    };

    #[test]
    fn pause_is_quarter_of_interval_within_limits() {
        for (interval, expected) in [
            (Duration::ZERO, SHORTEST_PAUSE),
            (Duration::from_secs(60), Duration::from_secs(15)),
            (Duration::from_secs(24 * 3600), LONGEST_PAUSE),
        ] {
            assert_eq!(pause(interval), expected);
        }
    }

    #[test]
    fn only_final_results_end_review() {
        use AuditState::{Approved, AwaitingAdmin, InReview, NotSubmitted, Rejected, Unspecified};
        for (state, ended) in [
            (Approved, true),
            (Rejected, true),
            (InReview, false),
            (AwaitingAdmin, false),
            (NotSubmitted, false),
            (Unspecified, false),
        ] {
            assert_eq!(has_ended(state), ended, "{state:?}");
        }
    }

    #[tokio::test]
    async fn account_is_asked_once_for_reply_and_error() {
        for answer in [Ok(1), Err(Error::Stopped)] {
            let mut known = HashMap::new();
            let ctx = Context::internal(Clock::frozen().now());
            let first = once(&mut known, &ctx, async { answer.clone() }).await;
            let again = once(&mut known, &ctx, async { panic!("asked again") }).await;
            assert_eq!((first.ok(), again.ok()), (answer.clone().ok(), answer.ok()));
            let other = Context { app_id: "wx2".to_owned(), ..ctx.clone() };
            assert_eq!(once(&mut known, &other, async { Ok(2) }).await.ok(), Some(2));
        }
    }

    #[test]
    fn polled_event_has_detail_of_its_kind() {
        let result = |audit_id: &str, poi_id: &str| ReviewResult {
            state: AuditState::Rejected,
            reason: "门头不清".to_owned(),
            audit_id: audit_id.to_owned(),
            poi_id: poi_id.to_owned(),
            ..ReviewResult::default()
        };
        for (kind, shown, audit_id, poi_id) in [
            (SubmissionKind::Store, "", "7", "12"),
            (SubmissionKind::Store, "8", "8", "12"),
            (SubmissionKind::NearbyPoi, "", "7", "12"),
            // A merchant is no place.
            (SubmissionKind::Merchant, "", "7", ""),
        ] {
            let asked = submission(kind, "7", "");
            let made = event(&asked, result(shown, "12"), 1_700_000_000);
            assert_eq!((made.kind, made.state), (kind, AuditState::Rejected));
            assert_eq!((made.audit_id.as_str(), made.poi_id.as_str()), (audit_id, poi_id));
            assert_eq!((&*made.reason, made.event_time), ("门头不清", 1_700_000_000));
            assert_eq!(made.origin, Origin::Polled { submission_id: "write".to_owned() });
            let message = AuditEvent::decode(&*made.message).expect("an event");
            assert_eq!(message.origin(), EventOrigin::Polled);
            let is_merchant = matches!(message.detail, Some(Detail::Merchant(_)));
            assert_eq!(is_merchant, kind == SubmissionKind::Merchant);
        }
    }

    #[test]
    fn two_polls_of_one_result_make_one_event() {
        let result = |state| ReviewResult { state, ..ReviewResult::default() };
        let asked = submission(SubmissionKind::Store, "7", "12");
        let first = event(&asked, result(AuditState::Approved), 1).key;
        assert_eq!(event(&asked, result(AuditState::Approved), 2).key, first);
        assert_ne!(event(&asked, result(AuditState::Rejected), 1).key, first);
        let other = pb::Submission { submission_id: "other".to_owned(), ..asked };
        assert_ne!(event(&other, result(AuditState::Approved), 1).key, first);
    }
}
