//! One watcher of the log, of any number.
//!
//! A watcher takes the events after its cursor from the tail of the log, at its own pace, as often as its
//! connection has room. A watcher that is further behind reads from the state until it has caught up. So
//! watchers do not wait for each other. A watcher costs only its cursor and the few events that it has
//! taken.
//!
//! A watcher is polled only while its connection has room. If its client does not read, it stops in the
//! middle of any wait. So it must not wait for a resource that others share: a place in a queue that came
//! to such a watcher would be lost until its client reads. It therefore reads the state in a task of its
//! own.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Audits, Cursor, Error, Inner,
    places::Place,
    tail::{Change, Entry, Found, Watched},
};
use crate::{
    callers::Grant,
    pb::{WatchAuditEventsResponse, WatchPosition},
    state,
    translate::audit::Filter,
    util::{clock::Clock, codec::Encoded},
};

/// The most watchers that read the state at a time. The state has more readers than this, so that calls
/// do not wait for watchers that catch up.
pub(super) const CATCHING_UP: usize = 2;

/// The start of a watcher.
#[derive(Debug)]
pub(crate) enum Start {
    /// After this cursor.
    Cursor(String),
    /// At an end of the log.
    End(WatchPosition),
}

impl Audits {
    /// Reads the next events after a cursor from the state, in a task of its own, which continues even if
    /// the watcher is not polled.
    async fn caught_up(&self, cursor: Cursor) -> Result<Vec<Arc<Entry>>, Error> {
        let audits = self.clone();
        let reading = tokio::spawn(async move {
            // The semaphore is never closed.
            let _place = audits.0.catching_up.acquire().await;
            audits.after(cursor).await
        });
        // If the watcher is dropped, the task is aborted.
        let lost = |_| state::Error::Unusable("a watcher's reader was lost".to_owned());
        AbortOnDropHandle::new(reading).await.map_err(lost)?
    }
}

/// A watcher.
pub(crate) struct Watcher {
    audits: Audits,
    grant: Grant,
    filter: Filter,
    /// The position of the last event that it has examined.
    cursor: Cursor,
    /// Its position, for metrics.
    position: Arc<AtomicU64>,
    ready: VecDeque<Arc<Entry>>,
    changed: watch::Receiver<Change>,
    breaks: u64,
    checkpoint_at: Instant,
    /// Canceled when the watcher must end.
    ending: CancellationToken,
    /// Ends when a checkpoint may be due, and with `ending`. It is kept from one event to the next, because
    /// setting a timer costs more than checking one.
    alarm: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    greeted: bool,
    end: End,
    _place: Place,
}

/// The progress of a watcher's end.
#[derive(Clone, Copy, Debug)]
enum End {
    No,
    /// It has sent its last checkpoint.
    Announced,
    Over,
}

impl Watcher {
    /// Starts a watcher. Fails if its cursor is malformed or expired.
    pub(super) async fn new(
        audits: Audits,
        start: Start,
        filter: Filter,
        grant: Grant,
        place: Place,
        ending: CancellationToken,
    ) -> Result<Self, Error> {
        let changed = audits.0.tail.changed.subscribe();
        audits.0.tail.watched.notify_one();
        // Read first, so that a later break of the log is noticed.
        let breaks = changed.borrow().breaks;
        let (cursor, ready) = match start {
            Start::Cursor(text) => {
                let cursor = Cursor::parse(&text).ok_or(Error::Malformed)?;
                // Read now, so that an expired cursor fails the call rather than the stream.
                (cursor, audits.after(cursor).await?)
            }
            Start::End(end) => {
                let state::Log { epoch, pruned, newest } = audits.0.state.log().await?;
                let latest = end == WatchPosition::Latest;
                (Cursor { epoch, at: if latest { newest } else { pruned }.into() }, Vec::new())
            }
        };
        let checkpoint_at = audits.0.clock.now();
        let position = Arc::new(AtomicU64::new(cursor.at.position));
        audits.remember(&position);
        Ok(Self {
            audits,
            grant,
            filter,
            cursor,
            position,
            ready: ready.into(),
            changed,
            breaks,
            checkpoint_at,
            ending,
            alarm: None,
            greeted: false,
            end: End::No,
            _place: place,
        })
    }

    /// Waits for the next response. Returns `None` after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Watched, Error>> {
        let next = match self.end {
            End::No => self.advance().await,
            End::Announced => Err(self.end().unwrap_or(Error::Stopped)),
            End::Over => return None,
        };
        self.end = match (&next, self.end) {
            (Ok(_), end) => end,
            // The last response is the cursor from which the client can resume.
            (Err(Error::CallerChanged | Error::ProofEnded(_) | Error::Stopped), End::No) => {
                self.end = End::Announced;
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
            // A caller that lost its rights gets nothing more, not even what is ready.
            if self.grant.ended().is_cancelled() {
                return Err(self.grant_end());
            }
            let passed_over = !self.ready.is_empty();
            while let Some(entry) = self.ready.pop_front() {
                self.cursor.at = entry.at;
                self.position.store(entry.at.position, Ordering::Relaxed);
                if entry.lost || self.filter.wants(&entry.app_id, entry.kind) {
                    self.postpone_checkpoint();
                    return Ok(entry.watched.clone());
                }
            }
            if let Some(end) = self.end() {
                return Err(end);
            }
            // The filter can skip many events. The check comes after a step, so that a watcher that is
            // rarely polled advances too.
            if passed_over && self.audits.0.clock.now() >= self.checkpoint_at {
                return Ok(self.checkpoint());
            }
            let breaks = self.changed.borrow_and_update().breaks;
            let found = match self.audits.0.tail.after(self.cursor) {
                found if breaks == self.breaks => found,
                _ => Found::Unknown,
            };
            let found = match found {
                Found::Events(entries) => entries,
                Found::End => Vec::new(),
                Found::Unknown => {
                    // Boxed because this future is large and this branch is rare.
                    let entries = Box::pin(self.audits.caught_up(self.cursor)).await?;
                    self.breaks = breaks;
                    entries
                }
            };
            if !found.is_empty() {
                self.ready = found.into();
                continue;
            }
            let alarm = self.alarm.get_or_insert_with(|| {
                alarm(&self.ending, &self.grant, &self.audits.0.clock, self.checkpoint_at)
            });
            tokio::select! {
                // The sender lives as long as the log.
                _ = self.changed.changed() => {}
                () = alarm => {
                    self.alarm = None;
                    // The checkpoint may have been postponed since.
                    if self.end().is_none() && self.audits.0.clock.now() >= self.checkpoint_at {
                        return Ok(self.checkpoint());
                    }
                }
            }
        }
    }

    /// Returns the reason why the watch ends, if it does.
    fn end(&self) -> Option<Error> {
        if self.ending.is_cancelled() {
            Some(Error::Stopped)
        } else if self.grant.ended().is_cancelled() {
            Some(self.grant_end())
        } else {
            None
        }
    }

    /// Returns the reason why the grant ended.
    fn grant_end(&self) -> Error {
        self.grant.refusal().map_or(Error::CallerChanged, Error::ProofEnded)
    }

    fn checkpoint(&mut self) -> Watched {
        self.postpone_checkpoint();
        Encoded::new(&WatchAuditEventsResponse { cursor: self.cursor.text(), event: None })
    }

    fn postpone_checkpoint(&mut self) {
        let Inner { clock, settings, .. } = &*self.audits.0;
        self.checkpoint_at = clock.now() + settings.load().checkpoint();
    }
}

/// Returns a future that ends at a time, when the grant ends, or when the watcher must end.
fn alarm(
    ending: &CancellationToken,
    grant: &Grant,
    clock: &Clock,
    at: Instant,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (ending, ended, clock) = (ending.clone(), grant.ended().clone(), clock.clone());
    Box::pin(async move {
        let sleep = ended.run_until_cancelled(clock.sleep_until(at));
        ending.run_until_cancelled(sleep).await;
    })
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
        pb::{AuditEvent, AuditState, SubmissionKind},
        state::{EventKey, EventQuery, NewEvent, Origin, temporary},
        util::scope::Scope,
    };

    /// Returns a log with 200 events.
    async fn long(clock: &Clock) -> (TempDir, Settings, Audits) {
        let (folder, state) = temporary(clock);
        for number in 0..200_u8 {
            let event = AuditEvent {
                app_id: "wx1".to_owned(),
                kind: SubmissionKind::Store.into(),
                audit_id: number.to_string(),
                state: AuditState::Approved.into(),
                ..AuditEvent::default()
            };
            let event = NewEvent::from_event(EventKey([number; 32]), event, Origin::Pushed);
            state.append(event).await.expect("appended");
        }
        let environment = [("WECHAT_APP_ID", "wx0123456789abcdef"), ("WECHAT_APP_SECRET", "hush")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::parse("", &environment.into()).expect("good settings");
        let audits =
            Audits::new(state, &settings, clock.clone(), Default::default(), Default::default());
        (folder, settings, audits)
    }

    #[tokio::test]
    async fn stopped_watchers_do_not_block_readers() {
        let (_folder, _settings, audits) = long(&Clock::frozen()).await;
        let mut watchers = Vec::new();
        for _ in 0..20 {
            let start = Start::End(WatchPosition::Earliest);
            let watcher = audits
                .watch(
                    start,
                    Filter::default(),
                    Grant::internal(),
                    Peer::NONE,
                    CancellationToken::new(),
                )
                .await;
            watchers.push(watcher.expect("a log"));
        }
        // Each is polled until it waits for something, and then no more.
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
            assert_eq!(watched.event.expect("the first").audit_id, "0");
        }
    }

    #[tokio::test]
    async fn filtered_watcher_gets_checkpoints() {
        let clock = Clock::frozen();
        let (_folder, settings, audits) = long(&clock).await;
        let filter = Filter::new(Scope::one("wx2".to_owned()), &[]).expect("a filter");
        let start = Start::End(WatchPosition::Earliest);
        let mut watcher = audits
            .watch(start, filter, Grant::internal(), Peer::NONE, CancellationToken::new())
            .await
            .expect("a log");
        let mut places = Vec::new();
        for _ in 0..3 {
            let Some(Ok(watched)) = watcher.next().await else { panic!("none") };
            let WatchAuditEventsResponse { cursor, event: None } = watched.decode().expect("one")
            else {
                panic!("an event")
            };
            places.push(Cursor::parse(&cursor).expect("a cursor").at.position);
            clock.advance(settings.audit.checkpoint());
        }
        assert_eq!(places[0], 0);
        assert!(places.is_sorted_by(|one, next| one < next) && places[2] < 200, "{places:?}");
    }
}
