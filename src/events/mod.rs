//! The log of events about reviews, and its watchers.
//!
//! * [`Audits`] is the log as the rest of the service uses it.
//! * `watch` serves any number of watchers: new events from memory, older ones from the state, in one
//!   order.
//! * `tail` keeps the end of the log in memory.
//! * `frame` makes the response to watchers out of a stored event.
//! * `cursor` is the position of a watcher. It shows if the log is another one, or lost its end.
//! * `large` keeps every large event in memory once.
//! * `last_push` is the time of the last push of each account.
//! * `places` counts the watchers.
//! * `backlog` counts the open work of an account.

use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::watch::{Start, Watcher};
use self::{
    cursor::{Cursor, TaggedPosition},
    large::Shared,
    last_push::LastPushes,
    places::Places,
    tail::{Entry, Tail},
};
use crate::{
    callers::{Grant, Refused},
    config,
    context::Peer,
    journal::SubmissionRecord,
    metrics::Metrics,
    pb::{self, AuditEvent},
    state::{self, Appended, EventQuery, NewEvent, State, SubmissionQuery},
    translate::{self, audit::Filter},
    util::{clock::Clock, id::AppId, lock},
};

mod backlog;
mod cursor;
mod frame;
mod large;
mod last_push;
mod places;
mod tail;
mod watch;

/// The pause between two searches for expired records.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// The pause after a failure of the state.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The log of events. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Audits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Arc<dyn State>,
    clock: Clock,
    settings: ArcSwap<config::Audit>,
    /// How long records are kept.
    retention: ArcSwap<Duration>,
    tail: Tail,
    large: Shared<Entry>,
    places: Places,
    /// Limits the watchers that read the state.
    catching_up: Semaphore,
    pushed: Mutex<HashSet<AppId>>,
    last_pushes: LastPushes,
    /// The positions of the watchers.
    positions: Mutex<Vec<Weak<AtomicU64>>>,
    metrics: Metrics,
    stop: CancellationToken,
}

/// The reason why a reader cannot continue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The events after the cursor are gone, or it belongs to another log.
    #[error("the cursor is invalid or expired; events may have been missed")]
    Expired,
    /// The text is not a cursor.
    #[error("not a cursor")]
    Malformed,
    /// The state failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The settings of the caller changed while it watched.
    #[error("the settings of this caller changed; watch again from the last cursor")]
    CallerChanged,
    /// The proof of the caller's identity ended while it watched.
    #[error("{0}")]
    ProofEnded(Refused),
    /// The process is stopping.
    #[error("shutting down")]
    Stopped,
    /// The caller, its connection or its address has reached its limit of watches.
    #[error("the limit of open watches is reached: {setting} = {most}")]
    TooMany {
        /// The limit.
        most: usize,
        /// The setting that sets it.
        setting: &'static str,
    },
}

/// A page of events, and the positions after it.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) events: Vec<AuditEvent>,
    /// The value of [`EventQuery::after`] for the next page. `None` after the last page.
    pub(crate) next: Option<u64>,
    /// The cursor from which a watcher continues.
    pub(crate) cursor: String,
}

impl Audits {
    /// Returns the log in a state. Its watchers end with `stop`.
    pub(crate) fn new(
        state: Arc<dyn State>,
        settings: &config::Settings,
        clock: Clock,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let (places, retention) = (Places::new(&settings.limits), settings.state.retention());
        let retention = ArcSwap::from_pointee(retention);
        let settings = ArcSwap::from_pointee(settings.audit.clone());
        Self(Arc::new(Inner {
            state,
            clock,
            settings,
            retention,
            tail: Tail::default(),
            large: Shared::default(),
            places,
            catching_up: Semaphore::new(watch::CATCHING_UP),
            pushed: Mutex::default(),
            last_pushes: LastPushes::default(),
            positions: Mutex::default(),
            metrics,
            stop,
        }))
    }

    /// Uses other settings from now on.
    pub(crate) fn update(&self, settings: &config::Settings) {
        let Inner { settings: audit, retention, places, .. } = &*self.0;
        audit.store(Arc::new(settings.audit.clone()));
        retention.store(Arc::new(settings.state.retention()));
        places.update(&settings.limits);
    }

    /// Appends an event to the log. It is durable when this returns. If the future is dropped, it is
    /// unknown whether the event is in the log.
    pub(crate) async fn append(&self, event: NewEvent) -> Result<Appended, state::Error> {
        let app_id = event.app_id.clone();
        let appended = self.0.state.append(event).await?;
        if let Appended::New(_) = appended {
            lock(&self.0.pushed).insert(app_id);
        }
        Ok(appended)
    }

    /// Returns the accounts for which events were appended since the last call.
    pub(crate) fn pushed(&self) -> HashSet<AppId> {
        mem::take(&mut lock(&self.0.pushed))
    }

    /// Notes in this process that WeChat sent a push for an account or platform of the settings now, for operators.
    pub(crate) fn note_push(&self, app_id: &AppId) {
        self.0.last_pushes.note(app_id, self.0.clock.wall());
    }

    /// Notes the same for an authorizer of a platform.
    pub(crate) fn note_authorizer_push(&self, app_id: &AppId) {
        self.0.last_pushes.note_authorizer(app_id, self.0.clock.wall());
    }

    /// Returns when WeChat last sent a push for the account. `None` if there was none since the start, or if
    /// thousands of other authorizers received one since then.
    pub(crate) fn last_push(&self, app_id: &AppId) -> Option<SystemTime> {
        self.0.last_pushes.of(app_id)
    }

    /// Adds the position of a new watcher, and removes those of ended ones from time to time. Metrics may
    /// never ask for them.
    fn remember(&self, position: &Arc<AtomicU64>) {
        let mut positions = lock(&self.0.positions);
        if positions.len() == positions.capacity() {
            positions.retain(|position| position.strong_count() > 0);
            let alive = positions.len();
            positions.reserve(alive.max(16));
        }
        positions.push(Arc::downgrade(position));
    }

    /// Returns the number of watchers, and how many events the slowest one has not examined.
    pub(crate) fn watchers(&self) -> (usize, u64) {
        let newest = self.0.tail.newest_position();
        let mut positions = lock(&self.0.positions);
        positions.retain(|position| position.strong_count() > 0);
        let alive = positions.iter().filter_map(Weak::upgrade);
        let lags = alive.map(|position| newest.saturating_sub(position.load(Ordering::Relaxed)));
        (positions.len(), lags.max().unwrap_or_default())
    }

    /// Returns the age at which an open review is overdue.
    pub(crate) fn overdue_after(&self) -> Duration {
        self.0.settings.load().overdue_after()
    }

    /// Follows the log for the watchers and deletes expired records, until the process stops.
    pub(crate) async fn run(&self) {
        tokio::select! {
            () = self.follow() => {}
            () = self.prune() => {}
            () = self.0.stop.cancelled() => {}
        }
    }

    /// Starts a watcher. Fails if its cursor is invalid or expired, or if a limit is reached.
    pub(crate) async fn watch(
        &self,
        start: Start,
        filter: Filter,
        grant: Grant,
        peer: Peer,
        ending: CancellationToken,
    ) -> Result<Watcher, Error> {
        let place = self.0.places.take(peer, grant.caller()).await?;
        let watcher = Watcher::new(self.clone(), start, filter, grant, place, ending);
        watcher.await
    }

    /// Returns a page of events.
    pub(crate) async fn list(&self, query: EventQuery) -> Result<Page, Error> {
        let page = self.0.state.events(query).await?;
        let events = page.events.iter().map(translate::audit::event).collect();
        let at = match page.events.last() {
            Some(last) if last.position == page.seen => TaggedPosition::from(last),
            _ if page.log.newest.position == page.seen => page.log.newest.into(),
            _ => self.tagged(page.seen).await?,
        };
        let cursor = Cursor { epoch: page.log.epoch, at }.text();
        Ok(Page { events, next: (!page.at_end).then_some(page.seen), cursor })
    }

    /// Returns the trace and the span of the call that submitted what the event at this position is about.
    /// `None` if that is not known, or if the state cannot be read.
    pub(crate) async fn submitting_span(&self, position: u64) -> Option<(String, u64)> {
        let query = EventQuery { after: position.checked_sub(1)?, limit: 1, ..Default::default() };
        let page = self.0.state.events(query).await.ok()?;
        let event = page.events.into_iter().find(|event| event.position == position)?;
        let record = SubmissionRecord::parse(&event.submission?).ok()?;
        Some((record.submission.trace_id, record.span_id))
    }

    /// Returns a submission by its id.
    pub(crate) async fn submission(
        &self,
        submission_id: &str,
    ) -> Result<Option<pb::Submission>, Error> {
        let stored = self.0.state.submission(submission_id).await?;
        Ok(stored.map(|stored| self.shown(stored)).transpose()?)
    }

    /// Returns a page of submissions, the number of those that cannot be read, and the number after which
    /// the next page begins.
    pub(crate) async fn submissions(
        &self,
        query: SubmissionQuery,
    ) -> Result<(Vec<pb::Submission>, u64, Option<u64>), Error> {
        let page = self.0.state.submissions(query).await?;
        let (mut submissions, mut unreadable) = (Vec::new(), page.unreadable);
        for stored in page.submissions {
            match self.shown(stored) {
                Ok(submission) => submissions.push(submission),
                Err(state::Error::Unreadable(_)) => unreadable += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok((submissions, unreadable, (!page.at_end).then_some(page.seen)))
    }

    fn shown(&self, stored: state::Submission) -> Result<pb::Submission, state::Error> {
        let Inner { clock, settings, .. } = &*self.0;
        Ok(SubmissionRecord::from_state(stored, clock.wall(), settings.load().overdue_after())?
            .submission)
    }

    /// Returns a position that was just examined, with its tag.
    async fn tagged(&self, position: u64) -> Result<TaggedPosition, Error> {
        let query = EventQuery { after: position, ..EventQuery::default() };
        let page = self.0.state.events(query).await?;
        // If it is before the first event, or was pruned meanwhile, the oldest kept event follows.
        Ok(page.before.unwrap_or(page.log.pruned).into())
    }

    async fn prune(&self) {
        let Inner { state, clock, retention, .. } = &*self.0;
        loop {
            match state.prune(**retention.load()).await {
                Ok(0) => {}
                // There may be more.
                Ok(pruned) => {
                    tracing::debug!(pruned, "pruned expired events and submissions");
                    continue;
                }
                Err(error) => tracing::warn!("failed to prune expired records: {error}"),
            }
            clock.sleep(PRUNE_EVERY).await;
        }
    }
}
