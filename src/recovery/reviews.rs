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
    let pause = (settings.poll_interval() / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
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
        let SubmissionRecord { submission, expected_effect } =
            SubmissionRecord::from_state(stored, clock.wall(), overdue_after)?;
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
        let ended = |state| is_decided(state) && state != AuditState::NotSubmitted;
        Ok(found.filter(|result| ended(result.state)))
    }
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
