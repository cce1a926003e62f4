//! Reviews of which no push came: WeChat is asked, where it can be.
//!
//! What an answer proves, and how surely, stands in `docs/audit-events.md`. Where it proves nothing
//! the review stays open and, in time, becomes overdue.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use prost::Message;

use super::{Audits, Inner, PAUSE};
use crate::{
    context::Context,
    id::MapPoiId,
    operation::{Error, Operations},
    pb::{
        self, AuditEvent, AuditState, EventOrigin, GetMerchantAuditResponse, LegacyStore,
        SubmissionKind, UpgradeState,
    },
    state::{self, Appended, EventKey, NewEvent, Origin, SubmissionQuery, is_open},
    translate::{Evidence, Remembered, audit::reconciled, page::Cursor, store::fingerprint},
    wechat::{
        merchant::GetMerchantAuditInfo,
        store::{GetPoiList, GetStoreInfo, GetStoreList},
    },
};

/// How often it is looked whether there is something to ask about …
const LONGEST_REST: Duration = Duration::from_secs(60);
/// … and at least so much rest is in between.
const LEAST_REST: Duration = Duration::from_millis(50);
/// So many reviews are asked about before it is looked again.
const BATCH: usize = 32;
/// For all calls about one review.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many nearby places are looked at at most: more than WeChat grants anybody.
const MOST_PLACES: u32 = 1000;

/// How a review ended, by what WeChat shows.
#[derive(Debug, Default)]
struct Finding {
    state: AuditState,
    /// WeChat's number for it; 0 where it has none.
    wechat_status: i32,
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
            let pause = match audits.ask(&ops).await {
                Ok(BATCH) => Duration::ZERO,
                Ok(_) => rest,
                Err(error) => {
                    tracing::warn!("overdue reviews cannot be looked up: {error}");
                    rest.max(PAUSE)
                }
            };
            clock.sleep(pause).await;
        }
    };
    stop.run_until_cancelled(ask_for_ever).await;
}

impl Audits {
    /// Asks about those whose time has come; how many they were.
    async fn ask(&self, ops: &Operations) -> Result<usize, super::Error> {
        let Inner { state, clock, settings, .. } = &*self.0;
        let due = state.take_due(settings.ask_again(), BATCH).await?;
        let count = due.len();
        for stored in due {
            let Remembered { submission, evidence } =
                Remembered::from_state(stored, clock.wall(), settings.overdue_after())?;
            let mut ctx = Context::internal(clock.now() + PATIENCE);
            ctx.app_id.clone_from(&submission.app_id);
            match self.find(ops, &ctx, &submission, &evidence).await {
                Ok(Some(finding)) => {
                    let event = event(&submission, finding, clock.unix());
                    if let Appended::New(_) = state.append(event).await? {
                        tracing::info!(
                            submission_id = submission.submission_id,
                            "no push came, but WeChat shows how the review ended"
                        );
                    }
                }
                Ok(None) if submission.overdue => tracing::warn!(
                    submission_id = submission.submission_id,
                    kind = submission.kind().as_str_name(),
                    "a review is overdue, and WeChat does not show how it ended"
                ),
                Ok(None) => {}
                // It comes again.
                Err(error) => tracing::warn!(
                    submission_id = submission.submission_id,
                    "WeChat cannot be asked about a review: {error}"
                ),
            }
        }
        Ok(count)
    }

    /// How the review ended, if WeChat shows that it did.
    async fn find(
        &self,
        ops: &Operations,
        ctx: &Context,
        submission: &pb::Submission,
        evidence: &Evidence,
    ) -> Result<Option<Finding>, Error> {
        let found = match submission.kind() {
            SubmissionKind::Merchant => merchant(ops, ctx).await?,
            SubmissionKind::NearbyPoi => nearby_poi(ops, ctx, submission).await?,
            SubmissionKind::Store if evidence.legacy_poi_id.is_empty() => {
                self.store(ops, ctx, submission, evidence).await?
            }
            SubmissionKind::Store => migrated(ops, ctx, &evidence.legacy_poi_id).await?,
            SubmissionKind::StorePictures => self.pictures(ops, ctx, submission).await?,
            // Nobody can be asked about a place.
            SubmissionKind::MapPoi | SubmissionKind::Unspecified => None,
        };
        let ended = |state| {
            !is_open(state) && !matches!(state, AuditState::Unspecified | AuditState::NotSubmitted)
        };
        Ok(found.filter(|finding| ended(finding.state)))
    }

    /// A new store: the only listed one that looks as it was submitted, and that no other
    /// submission has become.
    async fn store(
        &self,
        ops: &Operations,
        ctx: &Context,
        submission: &pb::Submission,
        evidence: &Evidence,
    ) -> Result<Option<Finding>, Error> {
        let mut alike = Vec::new();
        for info in ops.all::<GetStoreList>(ctx).await? {
            let store = pb::Store::from(info);
            if fingerprint(&store) == evidence.fingerprint {
                alike.push(store);
            }
        }
        if alike.is_empty() {
            return Ok(None);
        }
        let taken = self.stores_of_others(submission).await?;
        alike.retain(|store| !taken.contains(&store.poi_id));
        let [store] = &mut alike[..] else { return Ok(None) };
        Ok(Some(Finding {
            state: store.state(),
            wechat_status: store.wechat_status,
            poi_id: std::mem::take(&mut store.poi_id),
            ..Finding::default()
        }))
    }

    /// The stores that the account's other submissions have become.
    async fn stores_of_others(
        &self,
        submission: &pb::Submission,
    ) -> Result<HashSet<String>, state::Error> {
        let mut query = SubmissionQuery {
            limit: 1000,
            app_id: Some(submission.app_id.clone().into()),
            kinds: vec![SubmissionKind::Store],
            ..SubmissionQuery::default()
        };
        let mut taken = HashSet::new();
        loop {
            let page = self.0.state.submissions(query.clone()).await?;
            taken.extend(page.submissions.into_iter().map(|other| String::from(other.poi_id)));
            if page.at_end {
                return Ok(taken);
            }
            query.after = page.seen;
        }
    }

    /// New pictures: the state of their store, if no newer ones were submitted.
    async fn pictures(
        &self,
        ops: &Operations,
        ctx: &Context,
        submission: &pb::Submission,
    ) -> Result<Option<Finding>, Error> {
        let poi_id = submission.poi_id.clone().into();
        let newest = self.0.state.pictures(&submission.app_id.clone().into(), &poi_id).await?;
        let newest = newest.map(|stored| Remembered::read(&stored.message)).transpose()?;
        let is_newest = newest
            .is_some_and(|newest| newest.submission.submission_id == submission.submission_id);
        if !is_newest {
            return Ok(None);
        }
        let shown = ops.read(ctx, GetStoreInfo { poi_id }).await?.business.base_info;
        let shown = pb::Store::from(shown);
        Ok(Some(Finding {
            state: shown.state(),
            wechat_status: shown.wechat_status,
            poi_id: submission.poi_id.clone(),
            ..Finding::default()
        }))
    }
}

/// A merchant: WeChat says where the newest application stands.
async fn merchant(ops: &Operations, ctx: &Context) -> Result<Option<Finding>, Error> {
    let shown = GetMerchantAuditResponse::from(ops.read(ctx, GetMerchantAuditInfo {}).await?);
    Ok(Some(Finding {
        state: shown.state(),
        wechat_status: shown.wechat_status,
        reason: shown.reason,
        audit_id: shown.audit_id,
        poi_id: String::new(),
    }))
}

/// A nearby place: it is listed with its state.
async fn nearby_poi(
    ops: &Operations,
    ctx: &Context,
    submission: &pb::Submission,
) -> Result<Option<Finding>, Error> {
    let listed = ops.nearby_pois(ctx, &Cursor::start("nearby"), MOST_PLACES).await?.pois;
    let same = |one: &str, other: &str| !one.is_empty() && one == other;
    let found = listed.into_iter().find(|place| {
        // A replaced place keeps its id, but has a review for each time.
        if place.audit_id.is_empty() || submission.audit_id.is_empty() {
            same(&place.poi_id, &submission.poi_id)
        } else {
            same(&place.audit_id, &submission.audit_id)
        }
    });
    Ok(found.map(|place| Finding {
        state: place.state(),
        wechat_status: place.wechat_status,
        reason: place.reason,
        audit_id: String::new(),
        poi_id: place.poi_id,
    }))
}

/// A store that migrates: the old store is listed with how far it is.
async fn migrated(
    ops: &Operations,
    ctx: &Context,
    legacy_poi_id: &str,
) -> Result<Option<Finding>, Error> {
    let listed = ops.all::<GetPoiList>(ctx).await?.into_iter().map(LegacyStore::from);
    let found = listed.into_iter().find(|store| store.poi_id == legacy_poi_id);
    Ok(found.map(|store| {
        let state = match store.upgrade_state() {
            UpgradeState::Migrated => AuditState::Approved,
            UpgradeState::Failed => AuditState::Rejected,
            _ => AuditState::InReview,
        };
        Finding { state, reason: store.upgrade_comment, ..Finding::default() }
    }))
}

/// The event that should have come.
fn event(submission: &pb::Submission, finding: Finding, now: u64) -> NewEvent {
    let Finding { state, wechat_status, reason, audit_id, poi_id } = finding;
    let audit_id = if audit_id.is_empty() { submission.audit_id.clone() } else { audit_id };
    let parts = ["reconciled", &submission.submission_id, state.as_str_name()];
    let key = EventKey::of(parts.map(str::as_bytes));
    let kind = submission.kind();
    let (detail, wechat_event) = reconciled(kind, poi_id.clone());
    let event_id = key.event_id();
    let message = AuditEvent {
        event_id: event_id.clone(),
        app_id: submission.app_id.clone(),
        kind: kind.into(),
        wechat_event: wechat_event.to_owned(),
        state: state.into(),
        wechat_status: Some(wechat_status).filter(|status| *status != 0),
        audit_id: audit_id.clone(),
        reason: reason.clone(),
        origin: EventOrigin::Reconciled.into(),
        event_time: Some((SystemTime::UNIX_EPOCH + Duration::from_secs(now)).into()),
        detail,
        ..AuditEvent::default()
    };
    NewEvent {
        key,
        event_id,
        app_id: submission.app_id.clone().into(),
        kind,
        audit_id: audit_id.into(),
        state,
        reason,
        poi_id: poi_id.into(),
        map_poi_id: MapPoiId::default(),
        event_time: now,
        origin: Origin::Reconciled { submission_id: submission.submission_id.clone() },
        message: message.encode_to_vec().into(),
    }
}
