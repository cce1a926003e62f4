//! Any number of watchers of one log.
//!
//! While anybody watches, one task follows the log and keeps its end in memory: what this process
//! appended it is given, the rest it reads. A watcher takes what it has not seen from there, at its
//! own pace, as often as its connection has room; one that is further behind reads from the state
//! until it has caught up. So nobody waits for anybody, and a watcher costs no more than its place in
//! the log and the few events that it has taken.
//!
//! A watcher is looked at only while its connection has room. One that does not read stands still in
//! the middle of whatever it waits for, so it must not wait for anything that others share: a place
//! in a queue that came to such a watcher would be lost until it reads. The state is therefore read
//! in a task of its own.
//!
//! Every step from one event to the next is checked: whoever reads asks again for the last event
//! that it knows, and what is given says which event it follows. A log that lost its end and grew
//! anew is noticed that way, and never silently skipped over.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{Audits, Cursor, Error, Inner, Mark, PAUSE, large::Large, places::Place};
use crate::{
    pb::{SubmissionKind, WatchAuditEventsResponse, WatchPosition},
    state::{self, EventPage, EventQuery, Stretch, gap::is_gap},
    translate::{self, audit::Filter},
    util::codec::Encoded,
};

/// How many events are kept in memory …
const MOST_EVENTS: usize = 1024;
/// … and how many bytes of them, roughly.
const MOST_BYTES: usize = 4 << 20;
/// How many events a watcher takes at once …
const BATCH: usize = 64;
/// … and how many bytes of them, roughly, but one event in any case. This is what a watcher that does
/// not read has in memory, beside what is on its way to its connection.
const BATCH_BYTES: usize = 16 << 10;
/// How many watchers read the state at a time. The state has more readers than this: calls do not wait
/// for those who catch up.
pub(super) const CATCHING_UP: usize = 2;

/// Where a watcher starts.
#[derive(Debug)]
pub(crate) enum Start {
    /// After this one.
    Cursor(String),
    /// At an end of the log.
    End(WatchPosition),
}

/// What a watcher gets: an event and how far it has then come, or only that.
type Watched = Encoded<WatchAuditEventsResponse>;

/// An event in memory.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    mark: Mark,
    size: usize,
    app_id: String,
    kind: SubmissionKind,
    /// Whether it is lost: what is known of it may be damaged, so every watcher gets it.
    lost: bool,
    /// As all who watch get it.
    watched: Watched,
}

impl Large for Entry {
    fn name(&self) -> u64 {
        self.mark.position
    }

    fn is_large(&self) -> bool {
        self.size > BATCH_BYTES
    }
}

/// The end of the log, in memory.
#[derive(Debug)]
pub(super) struct Tail {
    recent: Mutex<Recent>,
    changed: watch::Sender<Change>,
    /// Somebody has come to watch.
    watched: Notify,
}

/// Told to all watchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    /// How far the log goes.
    newest: u64,
    /// Counts how often it was found to have lost its end: whoever watches looks where it stands.
    breaks: u64,
}

/// Events without a gap.
#[derive(Debug, Default)]
struct Recent {
    /// The place before the first of them; none before the log was looked at.
    base: Option<Cursor>,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

/// What memory knows of what comes after a place.
enum Found {
    /// These.
    Events(Vec<Arc<Entry>>),
    /// Nothing yet.
    End,
    /// It is too far back, or not where it was.
    Unknown,
}

impl Default for Tail {
    fn default() -> Self {
        let changed = watch::Sender::new(Change::default());
        Self { recent: Mutex::default(), changed, watched: Notify::new() }
    }
}

impl Tail {
    fn after(&self, at: Cursor) -> Found {
        let recent = self.lock();
        let Some(base) = recent.base else { return Found::Unknown };
        let offset = at.mark.position.checked_sub(base.mark.position);
        let Some(offset) = offset else { return Found::Unknown };
        let Ok(offset) = usize::try_from(offset) else { return Found::End };
        // Whoever reads from the state may be ahead of what is in memory.
        if offset > recent.entries.len() {
            return Found::End;
        }
        let here = offset.checked_sub(1).map_or(base.mark, |before| recent.entries[before].mark);
        if here != at.mark || base.epoch != at.epoch {
            return Found::Unknown;
        }
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let first = bytes == 0;
            bytes += entry.size;
            first || bytes <= BATCH_BYTES
        };
        let entries = recent.entries.range(offset..).take(BATCH).take_while(fits);
        match recent.entries.len() - offset {
            0 => Found::End,
            _ => Found::Events(entries.cloned().collect()),
        }
    }

    fn push(&self, entries: Vec<Arc<Entry>>) {
        let mut recent = self.lock();
        for entry in entries {
            recent.bytes += entry.size;
            recent.entries.push_back(entry);
        }
        while recent.entries.len() > MOST_EVENTS || recent.bytes > MOST_BYTES {
            let Some(oldest) = recent.entries.pop_front() else { break };
            recent.bytes -= oldest.size;
            if let Some(base) = &mut recent.base {
                base.mark = oldest.mark;
            }
        }
        let newest = recent.newest();
        drop(recent);
        if let Some(Cursor { mark, .. }) = newest {
            self.changed.send_modify(|change| change.newest = mark.position);
        }
    }

    /// Begins anew at the end of a log.
    fn restart(&self, log: &state::Log) {
        let base = Cursor { epoch: log.epoch, mark: log.newest.into() };
        let before =
            mem::replace(&mut *self.lock(), Recent { base: Some(base), ..Recent::default() });
        let broke = before.base.is_some();
        self.changed.send_modify(|change| {
            change.newest = base.mark.position;
            change.breaks += u64::from(broke);
        });
    }

    /// Leaves nothing in memory. Whoever comes to watch reads from the state until it is followed
    /// again.
    fn forget(&self) {
        *self.lock() = Recent::default();
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        // Every change is complete before anything can panic.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn newest(&self) -> Option<Cursor> {
        let Cursor { epoch, mark } = self.base?;
        Some(Cursor { epoch, mark: self.entries.back().map_or(mark, |entry| entry.mark) })
    }
}

impl Audits {
    /// Keeps the end of the log in memory while anybody watches, for ever.
    pub(super) async fn follow(&self) {
        let Inner { state, clock, tail, .. } = &*self.0;
        let mut failing = false;
        loop {
            if tail.changed.receiver_count() == 0 {
                tail.forget();
                tail.watched.notified().await;
                continue;
            }
            // After a failure at once: meanwhile the log may have become another one.
            let step = self.step(!failing).await;
            match step {
                Ok(()) if mem::take(&mut failing) => {
                    tracing::info!("reading the event log works again")
                }
                Ok(()) => {}
                Err(Error::Expired) => {
                    tracing::error!("the event log was truncated; some events are lost");
                    if let Ok(log) = state.log().await {
                        tail.restart(&log);
                    }
                    // One that was damaged by hand may go on to contradict itself.
                    clock.sleep(PAUSE).await;
                }
                Err(error) => {
                    if !mem::replace(&mut failing, true) {
                        tracing::warn!("failed to read the event log: {error}");
                    }
                    clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads what is new, and before waits for it if it is to.
    async fn step(&self, wait: bool) -> Result<(), Error> {
        let Inner { state, tail, .. } = &*self.0;
        let newest = tail.lock().newest();
        let Some(at) = newest else {
            tail.restart(&state.log().await?);
            return Ok(());
        };
        let newer = if wait { state.newer(at.mark.position).await? } else { None };
        let entries = match newer {
            Some(Stretch { after, events }) if Mark::from(after) == at.mark => {
                entries(at.epoch, &events)
            }
            _ => self.after(at).await?,
        };
        if !entries.is_empty() {
            tail.push(entries);
        }
        Ok(())
    }

    /// The next events after a place, from the state. Fails if the log does not go on from there.
    async fn after(&self, Cursor { epoch, mark }: Cursor) -> Result<Vec<Arc<Entry>>, Error> {
        let query = EventQuery {
            after: mark.position,
            limit: BATCH,
            bytes: Some(BATCH_BYTES),
            ..EventQuery::default()
        };
        let EventPage { events, before, log, .. } = self.0.state.events(query).await?;
        let goes_on = match before {
            Some(before) => Mark::from(before) == mark,
            // Nothing stands at position 0, nor where the log was pruned.
            None => {
                events.first().is_none_or(|first| first.position == mark.position + 1)
                    && Mark::from(log.pruned) == mark
            }
        };
        if !goes_on || log.epoch != epoch {
            return Err(Error::Expired);
        }
        let entries = entries(epoch, &events);
        Ok(entries.into_iter().map(|entry| self.0.large.one(entry)).collect())
    }

    /// The same for a watcher, in a task of its own, which gets on though nobody looks at it.
    async fn caught_up(&self, at: Cursor) -> Result<Vec<Arc<Entry>>, Error> {
        let audits = self.clone();
        let reading = tokio::spawn(async move {
            // Nobody closes the semaphore.
            let _place = audits.0.catching_up.acquire().await;
            audits.after(at).await
        });
        // Whoever is gone needs nothing.
        let lost = |_| state::Error::Unusable("a watcher's reader was lost".to_owned());
        AbortOnDropHandle::new(reading).await.map_err(lost)?
    }

    /// Ends at a time, or when the process does.
    fn alarm(&self, at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (stop, clock) = (self.0.stop.clone(), self.0.clock.clone());
        Box::pin(async move {
            stop.run_until_cancelled(clock.sleep_until(at)).await;
        })
    }
}

/// As all who watch get them.
fn entries(epoch: u64, events: &[state::Event]) -> Vec<Arc<Entry>> {
    let entries = events.iter().map(|stored| {
        let mark = stored.into();
        let event = translate::audit::event(stored);
        let cursor = Cursor { epoch, mark }.text();
        let (app_id, kind, lost) = (event.app_id.clone(), event.kind(), is_gap(&event));
        let watched = Encoded::new(&WatchAuditEventsResponse { cursor, event: Some(event) });
        // The message holds most of it.
        let size = stored.message.len() + mem::size_of::<Entry>();
        Arc::new(Entry { mark, size, app_id, kind, lost, watched })
    });
    entries.collect()
}

/// One who watches.
pub(crate) struct Watcher {
    audits: Audits,
    filter: Filter,
    at: Cursor,
    ready: VecDeque<Arc<Entry>>,
    changed: watch::Receiver<Change>,
    breaks: u64,
    checkpoint_at: Instant,
    /// Comes when it may be time for a checkpoint, and at the end. Kept from one event to the next,
    /// for to set a timer costs more than to look at one.
    alarm: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    greeted: bool,
    end: End,
    _place: Place,
}

/// How far a watcher's end has come.
#[derive(Clone, Copy, Debug)]
enum End {
    No,
    /// It got a last checkpoint.
    Told,
    Over,
}

impl Watcher {
    pub(super) async fn new(
        audits: Audits,
        start: Start,
        filter: Filter,
        place: Place,
    ) -> Result<Self, Error> {
        let changed = audits.0.tail.changed.subscribe();
        audits.0.tail.watched.notify_one();
        // First: where it breaks from here on, it has to be looked again.
        let breaks = changed.borrow().breaks;
        let (at, ready) = match start {
            Start::Cursor(text) => {
                let at = Cursor::read(&text).ok_or(Error::Malformed)?;
                // Told now rather than in the stream.
                (at, audits.after(at).await?)
            }
            Start::End(end) => {
                let state::Log { epoch, pruned, newest } = audits.0.state.log().await?;
                let latest = end == WatchPosition::Latest;
                (Cursor { epoch, mark: if latest { newest } else { pruned }.into() }, Vec::new())
            }
        };
        let checkpoint_at = audits.0.clock.now();
        Ok(Self {
            audits,
            filter,
            at,
            ready: ready.into(),
            changed,
            breaks,
            checkpoint_at,
            alarm: None,
            greeted: false,
            end: End::No,
            _place: place,
        })
    }

    /// What comes next, as soon as there is something; after an error, nothing.
    pub(crate) async fn next(&mut self) -> Option<Result<Watched, Error>> {
        let next = match self.end {
            End::No => self.advance().await,
            End::Told => Err(Error::Stopped),
            End::Over => return None,
        };
        self.end = match (&next, self.end) {
            (Ok(_), end) => end,
            // Where to go on, before the end.
            (Err(Error::Stopped), End::No) => {
                self.end = End::Told;
                return Some(Ok(self.checkpoint()));
            }
            (Err(_), _) => End::Over,
        };
        Some(next)
    }

    async fn advance(&mut self) -> Result<Watched, Error> {
        if !mem::replace(&mut self.greeted, true) {
            return Ok(self.checkpoint());
        }
        loop {
            let passed_over = !self.ready.is_empty();
            while let Some(entry) = self.ready.pop_front() {
                self.at.mark = entry.mark;
                if entry.lost || self.filter.wants(&entry.app_id, entry.kind) {
                    self.put_off_checkpoint();
                    return Ok(entry.watched.clone());
                }
            }
            if self.audits.0.stop.is_cancelled() {
                return Err(Error::Stopped);
            }
            // On the way through much that the filter leaves out; after a step, so that one who
            // seldom comes gets on, too.
            if passed_over && self.audits.0.clock.now() >= self.checkpoint_at {
                return Ok(self.checkpoint());
            }
            let breaks = self.changed.borrow_and_update().breaks;
            let found = match self.audits.0.tail.after(self.at) {
                found if breaks == self.breaks => found,
                _ => Found::Unknown,
            };
            let found = match found {
                Found::Events(entries) => entries,
                Found::End => Vec::new(),
                Found::Unknown => {
                    // Seldom, and large.
                    let entries = Box::pin(self.audits.caught_up(self.at)).await?;
                    self.breaks = breaks;
                    entries
                }
            };
            if !found.is_empty() {
                self.ready = found.into();
                continue;
            }
            let alarm = self.alarm.get_or_insert_with(|| self.audits.alarm(self.checkpoint_at));
            tokio::select! {
                // The sender lives as long as the log.
                _ = self.changed.changed() => {}
                () = alarm => {
                    self.alarm = None;
                    // The checkpoint may have been put off since.
                    let audits = &self.audits.0;
                    if !audits.stop.is_cancelled() && audits.clock.now() >= self.checkpoint_at {
                        return Ok(self.checkpoint());
                    }
                }
            }
        }
    }

    fn checkpoint(&mut self) -> Watched {
        self.put_off_checkpoint();
        Encoded::new(&WatchAuditEventsResponse { cursor: self.at.text(), event: None })
    }

    fn put_off_checkpoint(&mut self) {
        let Inner { clock, settings, .. } = &*self.audits.0;
        self.checkpoint_at = clock.now() + settings.checkpoint();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        config::Settings,
        context::Peer,
        pb::{AuditState, SubmissionKind},
        state::{EventKey, NewEvent, Origin, temporary},
        util::clock::Clock,
    };

    /// A log with 200 events.
    async fn long(clock: &Clock) -> (TempDir, Settings, Audits) {
        let (folder, state) = temporary(clock);
        for number in 0..200_u8 {
            let event = NewEvent {
                key: EventKey([number; 32]),
                event_id: number.to_string(),
                app_id: "wx1".to_owned().into(),
                kind: SubmissionKind::Store,
                audit_id: number.to_string().into(),
                state: AuditState::Approved,
                reason: String::new(),
                poi_id: String::new().into(),
                map_poi_id: String::new().into(),
                event_time: 0,
                origin: Origin::Pushed,
                message: Default::default(),
            };
            state.append(event).await.expect("appended");
        }
        let environment = [("WECHAT_APP_ID", "wx0123456789abcdef"), ("WECHAT_APP_SECRET", "hush")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::read("", &environment.into()).expect("good settings");
        let audits = Audits::new(state, &settings, clock.clone(), Default::default());
        (folder, settings, audits)
    }

    #[tokio::test]
    async fn watchers_that_stand_still_hold_up_no_reader() {
        let (_folder, _settings, audits) = long(&Clock::frozen()).await;
        let mut watchers = Vec::new();
        for _ in 0..20 {
            let start = Start::End(WatchPosition::Earliest);
            let watcher = audits.watch(start, Filter::default(), Peer::NONE).await;
            watchers.push(watcher.expect("a log"));
        }
        // Each is looked at until it waits for something, and then not any more.
        let mut still = Vec::new();
        for watcher in &mut watchers {
            watcher.next().await.expect("no end").expect("no error");
            let mut next = Box::pin(watcher.next());
            assert!((&mut next).now_or_never().is_none(), "it reads");
            still.push(next);
        }
        let read = async {
            for _ in 0..20 {
                let query = EventQuery { limit: 1, ..EventQuery::default() };
                audits.list(query).await.expect("a page");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("there are readers");
        for next in still {
            let watched = next.await.expect("no end").expect("no error").decode().expect("one");
            assert_eq!(watched.event.expect("the first").audit_id, "");
        }
    }

    #[tokio::test]
    async fn whoever_wants_nothing_of_a_long_log_hears_how_far_that_is_known() {
        let clock = Clock::frozen();
        let (_folder, settings, audits) = long(&clock).await;
        let filter = Filter::new("wx2".to_owned(), &[]).expect("a filter");
        let start = Start::End(WatchPosition::Earliest);
        let mut watcher = audits.watch(start, filter, Peer::NONE).await.expect("a log");
        let mut places = Vec::new();
        for _ in 0..3 {
            let Some(Ok(watched)) = watcher.next().await else { panic!("none") };
            let WatchAuditEventsResponse { cursor, event: None } = watched.decode().expect("one")
            else {
                panic!("an event")
            };
            places.push(Cursor::read(&cursor).expect("a cursor").mark.position);
            clock.advance(settings.audit.checkpoint());
        }
        assert_eq!(places[0], 0);
        assert!(places.is_sorted_by(|one, next| one < next) && places[2] < 200, "{places:?}");
    }
}
