//! Reviews: the log of their events, who follows it, and what is done where no event comes.
//!
//! * [`Audits`] is the log as the rest of the service sees it.
//! * `watch` gives the log to any number of watchers: new events from memory, older ones from the
//!   state, in one order.
//! * `cursor` says where a watcher is, and notices a log that is another one or lost its end.
//! * `large` has every large event in memory once.
//! * `places` counts how many watch.
//! * `reconcile` asks WeChat about reviews of which no push came.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{
    cursor::{Cursor, Mark},
    large::Shared,
    places::Places,
    watch::{Entry, Tail},
};
pub(crate) use self::{
    reconcile::reconcile,
    watch::{Start, Watcher},
};
use crate::{
    config,
    context::Peer,
    pb::{self, AuditEvent},
    state::{self, Appended, EventQuery, NewEvent, State, SubmissionQuery},
    translate::{self, Remembered, audit::Filter, for_caller},
    util::clock::Clock,
    util::id::AppId,
};

mod cursor;
mod large;
mod places;
mod reconcile;
mod watch;

/// How often what is too old is looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// After a failure of the state.
const PAUSE: Duration = Duration::from_secs(1);

/// The log and what is done with it. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Audits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Arc<dyn State>,
    clock: Clock,
    settings: config::Audit,
    retention: Duration,
    tail: Tail,
    large: Shared<Entry>,
    places: Places,
    /// Watchers that read the state.
    catching_up: Semaphore,
    pushed: Mutex<HashSet<AppId>>,
    stop: CancellationToken,
}

/// Why a reader gets no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What followed the cursor is gone, or it is of another log.
    #[error("the cursor leads nowhere in this log")]
    Expired,
    /// It is no cursor.
    #[error("not a cursor")]
    Malformed,
    /// The state failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The process is ending.
    #[error("shutting down")]
    Stopped,
    /// The caller's connection, or its address, has as many watches as it may.
    #[error("as many watches are open as {setting} allows, {most}")]
    TooMany {
        /// How many it may have.
        most: usize,
        /// What says so.
        setting: &'static str,
    },
}

/// Some events, and where reading goes on.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) events: Vec<AuditEvent>,
    /// What [`EventQuery::after`] is for the next page; `None` after the last.
    pub(crate) next: Option<u64>,
    /// Where a watcher goes on.
    pub(crate) cursor: String,
}

impl Audits {
    /// Over a state. Watchers end when `stop` comes.
    pub fn new(
        state: Arc<dyn State>,
        settings: &config::Settings,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        let (places, retention) = (Places::new(&settings.limits), settings.state.retention());
        let settings = settings.audit.clone();
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
            stop,
        }))
    }

    /// Takes an event into the log; durable when this returns. Its future may be dropped, but then
    /// nobody knows whether it is.
    pub async fn append(&self, event: NewEvent) -> Result<Appended, state::Error> {
        let app_id = event.app_id.clone();
        let appended = self.0.state.append(event).await?;
        if let Appended::New(_) = appended {
            self.lock_pushed().insert(app_id);
        }
        Ok(appended)
    }

    /// Of which accounts events came since this was asked last.
    pub(crate) fn pushed(&self) -> HashSet<AppId> {
        mem::take(&mut self.lock_pushed())
    }

    fn lock_pushed(&self) -> MutexGuard<'_, HashSet<AppId>> {
        // Every change is complete before anything can panic.
        self.0.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the log for the watchers and forgets what is too old, until the process ends.
    pub(crate) async fn run(&self) {
        tokio::select! {
            () = self.follow() => {}
            () = self.prune() => {}
            () = self.0.stop.cancelled() => {}
        }
    }

    /// Begins to watch.
    pub(crate) async fn watch(
        &self,
        start: Start,
        filter: Filter,
        peer: Peer,
    ) -> Result<Watcher, Error> {
        let place = self.0.places.take(peer).await?;
        Watcher::new(self.clone(), start, filter, place).await
    }

    /// Some events.
    pub(crate) async fn list(&self, query: EventQuery) -> Result<Page, Error> {
        let page = self.0.state.events(query).await?;
        let events = page.events.iter().map(translate::audit::event).collect();
        let mark = match page.events.last() {
            Some(last) if last.position == page.seen => Mark::from(last),
            _ if page.log.newest.position == page.seen => page.log.newest.into(),
            _ => self.mark(page.seen).await?,
        };
        let cursor = Cursor { epoch: page.log.epoch, mark }.text();
        Ok(Page { events, next: (!page.at_end).then_some(page.seen), cursor })
    }

    /// A submission.
    pub(crate) async fn submission(
        &self,
        submission_id: &str,
    ) -> Result<Option<pb::Submission>, Error> {
        let stored = self.0.state.submission(submission_id).await?;
        Ok(stored.map(|stored| self.shown(stored)).transpose()?)
    }

    /// Some submissions, how many were left out because they cannot be read, and where the next page
    /// begins.
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
        let remembered = Remembered::from_state(stored, clock.wall(), settings.overdue_after())?;
        Ok(for_caller(remembered.submission))
    }

    /// The mark at a position that was just looked at.
    async fn mark(&self, position: u64) -> Result<Mark, Error> {
        let query = EventQuery { after: position, ..EventQuery::default() };
        let page = self.0.state.events(query).await?;
        // Gone meanwhile, or before the first event: from the oldest that is kept.
        Ok(page.before.unwrap_or(page.log.pruned).into())
    }

    async fn prune(&self) {
        let Inner { state, clock, retention, .. } = &*self.0;
        loop {
            match state.prune(*retention).await {
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
