//! Reviews of which no push came: WeChat is asked, where it can be.
//!
//! What an answer proves, and how surely, stands in `docs/audit-events.md`. Where it proves nothing
//! the review stays open and, in time, becomes overdue.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    time::{Duration, Instant, SystemTime},
};

use super::{Audits, Inner};
use crate::{
    call::{Error, Operations},
    context::Context,
    pb::{self, AuditEvent, AuditState, GetMerchantAuditResponse, SubmissionKind, UpgradeState},
    state::{self, Appended, EventKey, NewEvent, Origin, is_decided},
    translate::{Evidence, Remembered, audit::reconciled, merchant::other_audit},
    wechat::{merchant::GetMerchantAuditInfo, store::GetStoreInfo},
};

/// How often it is looked whether there is something to ask about: each time may read whole lists,
/// so that what comes due one by one has to be asked about together …
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// … and at least so much rest is in between.
const LEAST_REST: Duration = Duration::from_millis(50);
/// So many reviews are asked about before it is looked again.
const BATCH: usize = 32;
/// For all calls about one review.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a review ended, by what WeChat shows.
#[derive(Debug, Default)]
struct Finding {
    state: AuditState,
    /// WeChat's number for it; 0 where it has none.
    wechat_status: Option<i32>,
    reason: String,
    audit_id: String,
    poi_id: String,
}

/// Asks about reviews until the process ends. `ops` makes the calls.
pub(crate) async fn reconcile(audits: Audits, ops: Operations) {
    let Inner { settings, clock, stop, .. } = &*audits.0;
    if settings.ask_after().is_none() {
        return;
    }
    let rest = (settings.ask_again() / 4).clamp(LEAST_REST, LONGEST_REST);
    let ask_for_ever = async {
        loop {
            if let Err(error) = Round::new(&audits, &ops).run().await {
                tracing::warn!("failed to poll overdue reviews: {error}");
            }
            clock.sleep(rest).await;
        }
    };
    stop.run_until_cancelled(ask_for_ever).await;
}

/// Asks about all whose time has come. What WeChat shows is asked for once, however many reviews it
/// is about: a list may take hundreds of calls.
struct Round<'a> {
    audits: &'a Audits,
    ops: &'a Operations,
    merchants: ByAccount<GetMerchantAuditResponse>,
    /// What was listed before is too old.
    began: Instant,
}

/// What WeChat shows of each account, or why it does not.
type ByAccount<T> = HashMap<String, Result<T, Error>>;

/// What is shown of the account; asked for if it is not known yet.
async fn once<'a, T>(
    known: &'a mut ByAccount<T>,
    ctx: &Context,
    ask: impl Future<Output = Result<T, Error>>,
) -> Result<&'a T, Error> {
    match known.entry(ctx.app_id.clone()) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(ask.await),
    }
    .as_ref()
    .map_err(Error::clone)
}

impl<'a> Round<'a> {
    fn new(audits: &'a Audits, ops: &'a Operations) -> Self {
        Self { audits, ops, merchants: HashMap::new(), began: ops.clock().now() }
    }

    async fn run(mut self) -> Result<(), super::Error> {
        let Inner { state, settings, .. } = &*self.audits.0;
        loop {
            let due = state.take_due(settings.ask_again(), BATCH).await?;
            let count = due.len();
            for stored in due {
                match self.look_up(stored).await {
                    // It is not in the way of the others.
                    Err(super::Error::State(error @ state::Error::Unreadable(_))) => {
                        tracing::error!(
                            "failed to read a submission record, its review is not polled: {error}"
                        );
                    }
                    looked_up => looked_up?,
                }
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }

    /// Asks about one. It comes again unless it is settled now.
    async fn look_up(&mut self, stored: state::Submission) -> Result<(), super::Error> {
        let Inner { state, clock, settings, .. } = &*self.audits.0;
        let Remembered { submission, evidence } =
            Remembered::from_state(stored, clock.wall(), settings.overdue_after())?;
        let mut ctx = Context::internal(clock.now() + PATIENCE);
        ctx.app_id.clone_from(&submission.app_id);
        let submission_id = &submission.submission_id;
        match self.find(&ctx, &submission, evidence.as_ref()).await {
            Ok(Some(finding)) => {
                let event = event(&submission, finding, clock.unix());
                if let Appended::New(_) = state.append(event).await? {
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

    /// How the review ended, if WeChat shows that it did.
    async fn find(
        &mut self,
        ctx: &Context,
        submission: &pb::Submission,
        evidence: Option<&Evidence>,
    ) -> Result<Option<Finding>, Error> {
        let found = match submission.kind() {
            SubmissionKind::Merchant => self.merchant(ctx, submission, evidence).await?,
            SubmissionKind::NearbyPoi => self.nearby_poi(ctx, submission).await?,
            SubmissionKind::Store => match evidence {
                Some(Evidence::NewStore(looks)) => self.store(ctx, submission, looks).await?,
                Some(Evidence::Migration(poi_id)) => self.migrated_store(ctx, poi_id).await?,
                _ => None,
            },
            SubmissionKind::StorePictures => self.pictures(ctx, submission).await?,
            // Nobody can be asked about a place.
            SubmissionKind::MapPoi | SubmissionKind::Unspecified => None,
        };
        let ended = |state| is_decided(state) && state != AuditState::NotSubmitted;
        Ok(found.filter(|finding| ended(finding.state)))
    }

    /// A merchant: WeChat says where the newest application stands, and of no other.
    async fn merchant(
        &mut self,
        ctx: &Context,
        submission: &pb::Submission,
        evidence: Option<&Evidence>,
    ) -> Result<Option<Finding>, Error> {
        let ops = self.ops;
        let ask = async { Ok(ops.read(ctx, GetMerchantAuditInfo {}).await?.into()) };
        let shown = once(&mut self.merchants, ctx, ask).await?.clone();
        // What was shown before this application is not about it.
        if let Some(Evidence::OtherMerchantAudit(before)) = evidence
            && other_audit(before, &shown).is_none()
        {
            return Ok(None);
        }
        let all = ops.all_submissions(submission).await?;
        let Some((newest, older)) = all.split_last() else { return Ok(None) };
        if Remembered::read(&newest.message)?.submission.submission_id != submission.submission_id {
            return Ok(None);
        }
        // As long as an administrator has not confirmed it, the one before may be what is shown.
        let of = |other: &state::Submission| other.audit_id.as_str() == shown.audit_id;
        let known = !shown.audit_id.is_empty();
        let renumbered = !newest.audit_id.is_empty() && !of(newest);
        if known && (renumbered || older.iter().any(of)) {
            return Ok(None);
        }
        Ok(Some(Finding {
            state: shown.state(),
            wechat_status: shown.wechat_status,
            reason: shown.reason,
            audit_id: shown.audit_id,
            poi_id: String::new(),
        }))
    }

    /// A new store: the listed one that came of it, if that is sure.
    async fn store(
        &mut self,
        ctx: &Context,
        submission: &pb::Submission,
        looks: &[u8],
    ) -> Result<Option<Finding>, Error> {
        let listed = self.ops.stores(ctx, self.began).await?;
        let found = self.ops.new_store(listed.whole()?, submission, looks).await?;
        Ok(found.map(|store| Finding {
            state: store.state,
            wechat_status: store.wechat_status,
            poi_id: store.poi_id.clone(),
            ..Finding::default()
        }))
    }

    /// A store that migrates: the old store is listed with how far it is.
    async fn migrated_store(
        &mut self,
        ctx: &Context,
        legacy_poi_id: &str,
    ) -> Result<Option<Finding>, Error> {
        let listed = self.ops.legacy_stores(ctx, self.began).await?;
        let found = listed.rows.iter().find(|store| store.poi_id == legacy_poi_id);
        Ok(found.map(|store| {
            let state = match store.upgrade_state {
                UpgradeState::Migrated => AuditState::Approved,
                UpgradeState::Failed => AuditState::Rejected,
                _ => AuditState::InReview,
            };
            Finding { state, reason: store.upgrade_comment.clone(), ..Finding::default() }
        }))
    }

    /// New pictures: the state of their store, if no newer ones were submitted; passed only if it
    /// shows them.
    async fn pictures(
        &self,
        ctx: &Context,
        submission: &pb::Submission,
    ) -> Result<Option<Finding>, Error> {
        let poi_id = submission.poi_id.clone().into();
        let state = &self.audits.0.state;
        let newest = state.pictures(&submission.app_id.clone().into(), &poi_id).await?;
        let newest = newest.map(|stored| Remembered::read(&stored.message)).transpose()?;
        if newest.is_none_or(|newest| newest.submission.submission_id != submission.submission_id) {
            return Ok(None);
        }
        let shown = self.ops.read(ctx, GetStoreInfo { poi_id }).await?.business.base_info;
        let shown = pb::Store::from(shown);
        // A store may well have passed before, with other pictures.
        let pictures = |urls: &[String]| urls.iter().cloned().collect::<HashSet<_>>();
        let others = pictures(&shown.picture_urls) != pictures(&submission.picture_urls);
        if others && shown.state() == AuditState::Approved {
            return Ok(None);
        }
        Ok(Some(Finding {
            state: shown.state(),
            wechat_status: shown.wechat_status,
            poi_id: submission.poi_id.clone(),
            ..Finding::default()
        }))
    }

    /// A nearby place: it is listed with its state.
    async fn nearby_poi(
        &mut self,
        ctx: &Context,
        submission: &pb::Submission,
    ) -> Result<Option<Finding>, Error> {
        let listed = self.ops.listed_nearby_pois(ctx, self.began).await?;
        let same = |one: &str, other: &str| !one.is_empty() && one == other;
        let found = listed.rows.iter().find(|place| {
            // A replaced place keeps its id, but has a review for each time.
            if place.audit_id.is_empty() || submission.audit_id.is_empty() {
                same(&place.nearby_poi_id, &submission.poi_id)
            } else {
                same(&place.audit_id, &submission.audit_id)
            }
        });
        Ok(found.map(|place| Finding {
            state: place.state(),
            wechat_status: place.wechat_status,
            reason: place.reason.clone(),
            audit_id: String::new(),
            poi_id: place.nearby_poi_id.clone(),
        }))
    }
}

/// The event that should have come.
fn event(submission: &pb::Submission, finding: Finding, now: u64) -> NewEvent {
    let Finding { state, wechat_status, reason, audit_id, poi_id } = finding;
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
