//! Writes whose outcome is not known: WeChat is asked what it shows.
//!
//! A write is never sent again to find out. What its call leaves behind at WeChat is looked for: when
//! its reply was lost, when it is repeated, when an event comes, and from time to time. What proves
//! it settles it. That it is not there proves something only once WeChat cannot execute it any more;
//! then a write that does no harm twice, or is refused then, counts as not executed, so that a repeat
//! is sent. All others stay unknown. `docs/writes.md` has the table and the reasons.

use std::{
    collections::{HashMap, HashSet},
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Operations,
    list::{Listing, Paged, unreadable},
};
use crate::{
    context::Context,
    events::Audits,
    pb::{
        self, AuditEvent, AuditState, LegacyStore, NearbyPoi, Store, Submission, SubmissionKind,
        UpgradeState, audit_event::Detail,
    },
    state::{self, EventQuery, Outcome, SubmissionQuery, Write, WriteQuery, WriteState, is_open},
    translate::{
        CONFIRM_WITHIN, Evidence, Looks, Remembered, Sought,
        change::{is_comparable, shows},
        damaged, for_caller,
        map_poi::is_about,
        merchant::other_audit,
        nearby::looks,
        store::fingerprint,
        write::kept,
    },
    util::id::AppId,
    wechat::{
        self, Endpoint, Errcode,
        merchant::GetMerchantAuditInfo,
        nearby::GetNearbyPoiList,
        store::{GetPoi, GetPoiList, GetStoreInfo, GetStoreList, PoiInfo, StoreInfo},
    },
};

/// There is no such store, or there was one.
const STORE_GONE: [Errcode; 2] = [Errcode(65115), Errcode(65116)];
/// For all calls about one write that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked which writes are unknown.
const EVERY: Duration = Duration::from_secs(5);
/// After the first look at a write; doubles with each up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// After which time, without being asked, what WeChat does not show was not executed: lists may lag.
const SHOWN_WITHIN: Duration = Duration::from_secs(600);
/// So many are read from the state at once.
const PAGE: usize = 1000;

/// What is known of a write after a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It was executed; the journal knows, and what it submitted is remembered.
    Executed,
    /// It was not, or that is the same: it may be sent again.
    NotExecuted,
    /// Nobody knows.
    Unknown,
}

/// What WeChat shows of a write that was executed.
#[derive(Debug, Default)]
struct Found {
    audit_id: String,
    poi_id: String,
}

/// WeChat's lists, each read once for all who ask at the same time.
#[derive(Debug)]
pub(super) struct Lists {
    stores: List<ListedStore>,
    legacy_stores: List<ListedLegacyStore>,
    nearby_pois: List<NearbyPoi>,
}

/// What is kept of a listed store: an account may have many thousands.
#[derive(Debug)]
pub(crate) struct ListedStore {
    pub(crate) poi_id: String,
    pub(crate) state: AuditState,
    pub(crate) wechat_status: Option<i32>,
    looks: Vec<u8>,
}

impl From<StoreInfo> for ListedStore {
    fn from(store: StoreInfo) -> Self {
        let store = Store::from(store);
        let (state, looks) = (store.state(), fingerprint(&store));
        Self { poi_id: store.poi_id, state, wechat_status: store.wechat_status, looks }
    }
}

/// What is kept of a listed old store.
#[derive(Debug)]
pub(crate) struct ListedLegacyStore {
    pub(crate) poi_id: String,
    pub(crate) upgrade_state: UpgradeState,
    pub(crate) upgrade_comment: String,
}

impl From<PoiInfo> for ListedLegacyStore {
    fn from(store: PoiInfo) -> Self {
        let store = LegacyStore::from(store);
        let upgrade_state = store.upgrade_state();
        let LegacyStore { legacy_poi_id, upgrade_comment, .. } = store;
        Self { poi_id: legacy_poi_id, upgrade_state, upgrade_comment }
    }
}

type List<T> = moka::sync::Cache<AppId, Arc<tokio::sync::Mutex<Option<Read<T>>>>>;

/// A list, or why there is none, and when reading it began.
type Read<T> = (Instant, Result<Arc<Listing<T>>, Error>);

impl Default for Lists {
    fn default() -> Self {
        Self { stores: list(), legacy_stores: list(), nearby_pois: list() }
    }
}

fn list<T: Send + Sync + 'static>() -> List<T> {
    moka::sync::Cache::builder().time_to_idle(PATIENCE).build()
}

/// Returns the list as it was when `asked`, or later. A caller that leaves does not stop the reading:
/// the list is of use to others, and to the same caller when it comes again.
async fn read<L, T>(
    lists: &List<T>,
    ops: &Operations,
    ctx: &Context,
    asked: Instant,
) -> Result<Arc<Listing<T>>, Error>
where
    L: Paged,
    T: From<L::Row> + Send + Sync + 'static,
{
    let list = lists.get_with(ctx.app_id.clone().into(), Default::default);
    let (ops, app_id) = (ops.clone(), ctx.app_id.clone());
    let reading = tokio::spawn(async move {
        let mut list = list.lock_owned().await;
        if let Some((began, rows)) = &*list
            && *began >= asked
        {
            return rows.clone();
        }
        let began = ops.clock().now();
        let ctx = Context { app_id, ..Context::internal(began + PATIENCE) };
        let rows = ops.listing::<L, T>(&ctx, T::from).await.map(Arc::new);
        *list = Some((began, rows.clone()));
        rows
    });
    match reading.await {
        Ok(rows) => rows,
        Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
        // The runtime ends.
        Err(_) => Err(Error::Stopped),
    }
}

impl Operations {
    /// Looks what became of a write whose outcome is not known, on behalf of whoever has `ctx`, and
    /// settles it if WeChat shows that it was executed. What WeChat showed before `asked` is too old.
    pub(super) async fn settle(
        &self,
        ctx: &Context,
        write: &Write,
        asked: Instant,
    ) -> Result<Outlook, Error> {
        let mut sought = Sought::read(&write.sought)?;
        if sought.repeatable {
            return Ok(Outlook::NotExecuted);
        }
        // Only what WeChat took is remembered: nothing but the end could not be noted any more.
        if let Some(stored) = self.0.state.submission(&write.write_id).await? {
            sought.submission = Some(Remembered::read(&stored.message)?.submission);
            self.executed(write, sought, Found::default()).await?;
            return Ok(Outlook::Executed);
        }
        let Some(evidence) = &sought.evidence else { return Ok(Outlook::Unknown) };
        let mut ctx = ctx.beforehand();
        write.app_id.as_str().clone_into(&mut ctx.app_id);
        match self.look(&ctx, write, &sought, evidence, asked).await? {
            Some(found) => {
                self.executed(write, sought, found).await?;
                tracing::info!(
                    write_id = write.write_id,
                    method = write.method,
                    "write confirmed at WeChat after its reply was lost"
                );
                Ok(Outlook::Executed)
            }
            // It may still arrive.
            None if !write.rest.is_zero() => Ok(Outlook::Unknown),
            None if evidence.repeats() => Ok(Outlook::NotExecuted),
            None => Ok(Outlook::Unknown),
        }
    }

    /// Settles a write by the word of somebody who looked. Answers what it was, if it was unknown.
    pub(crate) async fn resolve(
        &self,
        write: &Write,
        executed: bool,
    ) -> Result<Option<Write>, Error> {
        if !executed {
            return Ok(self.0.state.resolve(&write.write_id, Outcome::Released).await?);
        }
        self.executed(write, Sought::read(&write.sought)?, Found::default()).await
    }

    /// Notes that a write was executed, and remembers what it submitted.
    async fn executed(
        &self,
        write: &Write,
        mut sought: Sought,
        Found { audit_id, poi_id }: Found,
    ) -> Result<Option<Write>, Error> {
        if write.state != WriteState::Unknown {
            return Ok(None);
        }
        if let Some(submission) = &mut sought.submission {
            if !audit_id.is_empty() {
                submission.audit_id = audit_id;
            }
            if !poi_id.is_empty() {
                submission.poi_id = poi_id;
            }
        }
        let submission = sought.submission.clone().map(for_caller);
        let response = pb::recovered(&write.method, &sought.response, submission);
        let response = response.map_err(damaged)?;
        // Nothing answers a method of another version.
        let reply = response.map(|response| kept(&response)).unwrap_or_default();
        let remembered = sought.remembered();
        let submission =
            remembered.map(|remembered| Box::new(remembered.to_state(self.0.ask_after)));
        // In one step, for others may look at the same time.
        let outcome = Outcome::Finished { reply, submission };
        Ok(self.0.state.resolve(&write.write_id, outcome).await?)
    }

    /// Returns what WeChat shows of a write that was executed, or `None` if WeChat shows that there is
    /// no such thing. Fails if WeChat shows neither, as a list does that is not whole.
    async fn look(
        &self,
        ctx: &Context,
        write: &Write,
        sought: &Sought,
        evidence: &Evidence,
        asked: Instant,
    ) -> Result<Option<Found>, Error> {
        match (evidence, &sought.submission) {
            (Evidence::NewStore(looks), Some(submission)) => {
                let listed = self.stores(ctx, asked).await?;
                let Some(store) = self.new_store(listed.whole()?, submission, looks).await? else {
                    return Ok(None);
                };
                let poi_id = store.poi_id.clone();
                // Its event may have come first, and names its review.
                let event = self.event(write, SubmissionKind::Store, |event| {
                    matches!(&event.detail, Some(Detail::Store(its)) if its.poi_id == poi_id)
                });
                let audit_id = event.await?.map(|event| event.audit_id).unwrap_or_default();
                Ok(Some(Found { audit_id, poi_id }))
            }
            (Evidence::Migration(legacy_poi_id), Some(submission)) => {
                let listed = self.legacy_stores(ctx, asked).await?;
                let mut stores = listed.rows.iter();
                let Some(store) = stores.find(|store| store.poi_id == *legacy_poi_id) else {
                    listed.whole()?;
                    return Ok(None);
                };
                match store.upgrade_state {
                    UpgradeState::Migrating | UpgradeState::Migrated => {}
                    // A failed one may have failed before.
                    UpgradeState::Pending | UpgradeState::Failed | UpgradeState::Forbidden => {
                        return Ok(None);
                    }
                    UpgradeState::Unspecified => {
                        return Err(unreadable(GetPoiList::PATH, "no known state of a store"));
                    }
                }
                let mut by_another = false;
                let look = |other: state::Submission, its: Option<Evidence>| {
                    let moved = is_open(other.state) || other.state == AuditState::Approved;
                    by_another |= moved && its.as_ref() == Some(evidence);
                };
                self.each_other(submission, look).await?;
                Ok((!by_another).then(Found::default))
            }
            (Evidence::OtherMerchantAudit(before), Some(submission)) => {
                let shown = self.read(ctx, GetMerchantAuditInfo {}).await?.into();
                let Some(audit_id) = other_audit(before, &shown) else { return Ok(None) };
                let others = self.other_submissions(submission).await?;
                let is_anothers = others.iter().any(|other| {
                    let numbered = !audit_id.is_empty() && other.audit_id.as_str() == audit_id;
                    // It may have been confirmed since.
                    let confirmable = other.created.saturating_add(millis(CONFIRM_WITHIN));
                    let nameless = is_open(other.state) && other.audit_id.is_empty();
                    numbered || nameless && confirmable > write.sent
                });
                Ok((!is_anothers).then(|| Found { audit_id, ..Found::default() }))
            }
            (Evidence::MapPoiEvent(proposed), Some(submission)) => {
                let event = self.event(write, SubmissionKind::MapPoi, |event| {
                    matches!(&event.detail, Some(Detail::MapPoi(place)) if is_about(place, proposed))
                });
                let Some(event) = event.await? else { return Ok(None) };
                let mut maybe_anothers = false;
                let look = |other: state::Submission, its: Option<Evidence>| {
                    // It may be about that one, whose number is not known.
                    let nameless = is_open(other.state) && other.audit_id.is_empty();
                    maybe_anothers |= nameless && its.as_ref() == Some(evidence);
                };
                self.each_other(submission, look).await?;
                let found = Found { audit_id: event.audit_id, ..Found::default() };
                Ok((!maybe_anothers).then_some(found))
            }
            (Evidence::NearbyPoi(wanted), Some(submission)) => {
                let listed = self.listed_nearby_pois(ctx, asked).await?;
                let mut others = Vec::new();
                let look = |other, its: Option<Evidence>| {
                    let alike = its.as_ref() == Some(evidence);
                    others.push((other, alike));
                };
                self.each_other(submission, look).await?;
                let fits = |place: &&NearbyPoi| {
                    is_wanted(place, wanted) && !is_anothers(place, wanted, &others)
                };
                for place in listed.rows.iter().filter(fits) {
                    let event = self.event(write, SubmissionKind::NearbyPoi, |event| {
                        matches!(&event.detail, Some(Detail::NearbyPoi(its)) if its.nearby_poi_id == place.nearby_poi_id)
                    });
                    let audit_id = match event.await? {
                        Some(event) => event.audit_id,
                        None => match place.state() {
                            state if is_open(state) => place.audit_id.clone(),
                            AuditState::Unspecified => {
                                let cause = "no known state of a place";
                                return Err(unreadable(GetNearbyPoiList::PATH, cause));
                            }
                            // It may have been like this before.
                            _ => continue,
                        },
                    };
                    return Ok(Some(Found { audit_id, poi_id: place.nearby_poi_id.clone() }));
                }
                listed.whole()?;
                Ok(None)
            }
            (Evidence::Store(wanted), _) if wanted.unseen => Ok(None),
            (Evidence::Store(wanted), _) => {
                let poi_id = wanted.poi_id.clone().into();
                let shown = self.read(ctx, GetStoreInfo { poi_id }).await?.business.base_info;
                let shown = shown.into();
                if !is_comparable(&shown) {
                    let cause = format!("fields {:?} of the store", shown.unreadable_fields);
                    return Err(unreadable(GetStoreInfo::PATH, cause));
                }
                Ok(shows(&shown, wanted).then(Found::default))
            }
            (Evidence::StoreGone(poi_id), _) => {
                let call = GetStoreInfo { poi_id: poi_id.clone().into() };
                gone(self.read(ctx, call).await.err())
            }
            (Evidence::LegacyStoreGone(poi_id), _) => {
                let call = GetPoi { poi_id: poi_id.clone().into() };
                gone(self.read(ctx, call).await.err())
            }
            (Evidence::NearbyPoiGone(poi_id), _) => {
                let listed = self.listed_nearby_pois(ctx, asked).await?;
                if listed.rows.iter().any(|place| place.nearby_poi_id == *poi_id) {
                    return Ok(None);
                }
                listed.whole()?;
                Ok(Some(Found::default()))
            }
            (
                Evidence::NewStore(_)
                | Evidence::Migration(_)
                | Evidence::OtherMerchantAudit(_)
                | Evidence::MapPoiEvent(_)
                | Evidence::NearbyPoi(_),
                None,
            ) => Err(state::Error::Damaged("a submission is missing".to_owned()).into()),
        }
    }

    /// All stores of the account, as they were at `asked` or later.
    pub(crate) async fn stores(
        &self,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<ListedStore>>, Error> {
        read::<GetStoreList, _>(&self.0.lists.stores, self, ctx, asked).await
    }

    /// All old stores of the account, as they were at `asked` or later.
    pub(crate) async fn legacy_stores(
        &self,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<ListedLegacyStore>>, Error> {
        read::<GetPoiList, _>(&self.0.lists.legacy_stores, self, ctx, asked).await
    }

    /// All nearby places of the account, as they were at `asked` or later.
    pub(crate) async fn listed_nearby_pois(
        &self,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<NearbyPoi>>, Error> {
        read::<GetNearbyPoiList, _>(&self.0.lists.nearby_pois, self, ctx, asked).await
    }

    /// The store that came of a submission: the only listed one that looks as it was submitted, and
    /// that no other submission has become or may have become.
    pub(crate) async fn new_store<'a>(
        &self,
        listed: &'a [ListedStore],
        submission: &Submission,
        looks: &[u8],
    ) -> Result<Option<&'a ListedStore>, Error> {
        let mut alike = Vec::from_iter(listed.iter().filter(|store| store.looks == looks));
        if alike.is_empty() {
            return Ok(None);
        }
        let mut twins = Vec::new();
        let look = |other: state::Submission, its: Option<Evidence>| {
            alike.retain(|store| store.poi_id != other.poi_id.as_str());
            if other.poi_id.is_empty()
                && matches!(its, Some(Evidence::NewStore(its)) if its == looks)
            {
                twins.push(other.state);
            }
        };
        self.each_other(submission, look).await?;
        let [store] = alike[..] else { return Ok(None) };
        // It may be the other's, or have failed when the other did.
        let maybe_anothers =
            |twin: &AuditState| is_open(*twin) || store.state != AuditState::Approved;
        Ok((!twins.iter().any(maybe_anothers)).then_some(store))
    }

    /// Looks at all other submissions of the same kind and account, with their evidence. Somebody who
    /// looked at the same time may have remembered this one.
    async fn each_other(
        &self,
        submission: &Submission,
        mut look: impl FnMut(state::Submission, Option<Evidence>),
    ) -> Result<(), state::Error> {
        self.each_submission(submission, |other| {
            let Remembered { submission: its, evidence } = Remembered::read(&other.message)?;
            if its.submission_id != submission.submission_id {
                look(other, evidence);
            }
            Ok(())
        })
        .await
    }

    /// All other submissions of the same kind and account, in order.
    async fn other_submissions(
        &self,
        submission: &Submission,
    ) -> Result<Vec<state::Submission>, state::Error> {
        let mut others = Vec::new();
        self.each_other(submission, |other, _| others.push(other)).await?;
        Ok(others)
    }

    /// All submissions of the same kind and account, in order.
    pub(crate) async fn all_submissions(
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

    /// Looks at all submissions of the same kind and account, in order. There may be very many.
    async fn each_submission(
        &self,
        like: &Submission,
        mut look: impl FnMut(state::Submission) -> Result<(), state::Error>,
    ) -> Result<(), state::Error> {
        let mut query = SubmissionQuery {
            limit: PAGE,
            app_id: Some(like.app_id.clone().into()),
            kinds: vec![like.kind()],
            ..SubmissionQuery::default()
        };
        loop {
            let page = self.0.state.submissions(query.clone()).await?;
            if page.unreadable > 0 {
                // It may be the one that something belongs to.
                let what = "a submission of the same kind and account is damaged".to_owned();
                return Err(state::Error::Unreadable(what));
            }
            page.submissions.into_iter().try_for_each(&mut look)?;
            if page.at_end {
                return Ok(());
            }
            query.after = page.seen;
        }
    }

    /// The first event since a write was sent that belongs to no other submission and fits.
    async fn event(
        &self,
        write: &Write,
        kind: SubmissionKind,
        fits: impl Fn(&AuditEvent) -> bool,
    ) -> Result<Option<AuditEvent>, Error> {
        let mut query = EventQuery {
            limit: PAGE,
            app_id: Some(write.app_id.clone()),
            kinds: vec![kind],
            // By the state's clock, too.
            from: Some(write.sent),
            ..EventQuery::default()
        };
        loop {
            let page = self.0.state.events(query.clone()).await?;
            for event in page.events {
                // Somebody who looked at the same time may have remembered this write's own.
                let own = event.submission.as_ref().is_none_or(|submission| {
                    Remembered::read(submission)
                        .is_ok_and(|its| its.submission.submission_id == write.write_id)
                });
                // One that cannot be read shows nothing.
                if own
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

/// Whether a listed place looks as a lost call wanted it.
fn is_wanted(place: &NearbyPoi, wanted: &Looks) -> bool {
    looks(&place.license_number, &place.address) == wanted.hash
        && (wanted.poi_id.is_empty() || wanted.poi_id == place.nearby_poi_id)
}

/// Whether another submission made a listed place what it is, or may have. Beside each of them stands
/// whether it wanted the same.
fn is_anothers(place: &NearbyPoi, wanted: &Looks, others: &[(state::Submission, bool)]) -> bool {
    others.iter().any(|(other, alike)| {
        let same = other.poi_id.as_str() == place.nearby_poi_id;
        let numbered = !place.audit_id.is_empty() && other.audit_id.as_str() == place.audit_id;
        let nameless = other.poi_id.is_empty() && other.audit_id.is_empty() && is_open(other.state);
        // One that was replaced has had other reviews before.
        numbered || same && (wanted.poi_id.is_empty() || is_open(other.state)) || nameless && *alike
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the answer to a question about something says that there is none.
fn gone(answer: Option<Error>) -> Result<Option<Found>, Error> {
    match answer {
        None => Ok(None),
        Some(Error::WeChat { error: wechat::Error::Refused { code, .. }, .. })
            if STORE_GONE.contains(&code) =>
        {
            Ok(Some(Found::default()))
        }
        Some(error) => Err(error),
    }
}

/// Looks what became of unknown writes until the process ends: at once, then ever more rarely; and
/// sooner where an event of their account comes.
pub(crate) async fn settle(ops: Operations, audits: Audits, stop: CancellationToken) {
    let settling = async {
        let mut looks = HashMap::new();
        loop {
            let pushed = audits.pushed();
            if let Err(error) = ops.settle_all(&mut looks, &pushed).await {
                tracing::warn!("failed to recover writes with an unknown outcome: {error}");
            }
            ops.clock().sleep(EVERY).await;
        }
    };
    stop.run_until_cancelled(settling).await;
}

/// When a write was looked at, and how long it is left alone then.
#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Instant,
    pause: Duration,
}

impl Operations {
    async fn settle_all(
        &self,
        looks: &mut HashMap<String, Looked>,
        pushed: &HashSet<AppId>,
    ) -> Result<(), Error> {
        let unknown = self.unknown().await?;
        let still = HashSet::<_>::from_iter(unknown.iter().map(|write| write.write_id.as_str()));
        looks.retain(|write_id, _| still.contains(&**write_id));
        let asked = (self.clock().now(), self.clock().wall());
        let mut due = HashMap::<_, Vec<_>>::new();
        for write in unknown {
            let pause = match looks.get(&write.write_id) {
                None => FIRST_PAUSE,
                Some(Looked { at, pause }) => {
                    // An event may be about what is reviewed, and a storm of them is one reason.
                    let told = pushed.contains(&write.app_id) && is_reviewed(&write);
                    let pause = if told { FIRST_PAUSE.min(*pause) } else { *pause };
                    if asked.0 < *at + pause {
                        continue;
                    }
                    (2 * pause).min(LONGEST_PAUSE)
                }
            };
            let pause = pause.max(write.rest);
            looks.insert(write.write_id.clone(), Looked { at: asked.0, pause });
            due.entry(write.app_id.clone()).or_default().push(write);
        }
        // WeChat may be slow for one account, and there may be many writes of it.
        let accounts = due.into_values().map(|writes| async move {
            for write in writes {
                self.look_again(&write, asked).await;
            }
        });
        join_all(accounts).await;
        Ok(())
    }

    /// Looks at a write that nobody asks for.
    async fn look_again(&self, write: &Write, (asked, now): (Instant, SystemTime)) {
        let Write { write_id, method, .. } = write;
        let ctx = Context::internal(self.clock().now() + PATIENCE);
        let looked = async {
            let outlook = self.settle(&ctx, write, asked).await?;
            let sent = UNIX_EPOCH + Duration::from_millis(write.sent);
            let shown = now.duration_since(sent).is_ok_and(|since| since >= SHOWN_WITHIN);
            if outlook == Outlook::NotExecuted && shown {
                tracing::info!(
                    write_id,
                    method,
                    "no trace of the write found at WeChat, recorded as not executed"
                );
                self.0.state.resolve(write_id, Outcome::Released).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = looked.await {
            tracing::warn!(write_id, "failed to query WeChat about a write: {error}");
        }
    }

    /// The writes whose outcome is not known.
    async fn unknown(&self) -> Result<Vec<Write>, Error> {
        let states = vec![WriteState::Unknown];
        let mut query = WriteQuery { limit: PAGE, states, ..WriteQuery::default() };
        let mut all = Vec::new();
        loop {
            let page = self.0.state.writes(query.clone()).await?;
            all.extend(page.writes);
            if page.at_end {
                return Ok(all);
            }
            query.after = page.seen;
        }
    }
}

/// Whether an event may come of a write.
fn is_reviewed(write: &Write) -> bool {
    Sought::read(&write.sought).is_ok_and(|sought| sought.submission.is_some())
}
