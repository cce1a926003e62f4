//! The end of the log, in memory, for all watchers.
//!
//! While there are watchers, one task follows the log. The state hands it the events that this process
//! appended, and it reads the others.
//!
//! Every step from one event to the next is checked. A reader asks again for the last event that it has,
//! and the answer names the event that it follows. If the log lost its end and grew again, the two
//! differ, so that no event is skipped silently.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, watch};

use super::{Audits, Cursor, Error, Inner, RETRY_PAUSE, TaggedPosition, frame, large::Large};
use crate::{
    pb::{SubmissionKind, WatchAuditEventsResponse},
    state::{self, EventPage, EventQuery, Segment},
    util::{codec::Encoded, lock},
};

/// The most events in memory.
const MOST_EVENTS: usize = 1024;
/// The most bytes of them, approximately.
const MOST_BYTES: usize = 4 << 20;
/// The most events that a watcher takes at once.
const BATCH: usize = 64;
/// The most bytes of them, approximately, except for the first event. A watcher that does not read keeps
/// this much in memory, in addition to what is on its way to its connection.
pub(super) const BATCH_BYTES: usize = 16 << 10;

/// A response to a watcher: an event with the cursor after it, or only a cursor.
pub(super) type Watched = Encoded<WatchAuditEventsResponse>;

/// An event in memory.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) at: TaggedPosition,
    size: usize,
    pub(super) app_id: String,
    pub(super) kind: SubmissionKind,
    /// Whether the event cannot be read. Every watcher gets it, because its account and kind may be
    /// damaged too.
    pub(super) lost: bool,
    /// The response to all watchers.
    pub(super) watched: Watched,
}

impl Large for Entry {
    fn name(&self) -> u64 {
        self.at.position
    }

    fn is_large(&self) -> bool {
        self.size > BATCH_BYTES
    }
}

/// The end of the log, in memory.
#[derive(Debug)]
pub(super) struct Tail {
    buffer: Mutex<Buffer>,
    pub(super) changed: watch::Sender<Change>,
    /// Notified when a watcher comes.
    pub(super) watched: Notify,
}

/// A change of the log, for all watchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The newest position.
    newest: u64,
    /// Counts how often the log was found to have lost its end. Each watcher must then check its own
    /// position.
    pub(super) breaks: u64,
}

/// Events without a gap.
#[derive(Debug, Default)]
struct Buffer {
    /// The position before the first of them. `None` before the log was read.
    base: Option<Cursor>,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

/// The events in memory after a position.
pub(super) enum Found {
    /// The next events.
    Events(Vec<Arc<Entry>>),
    /// There is no further event yet.
    End,
    /// Memory does not reach back so far, or another event has this position.
    Unknown,
}

impl Default for Tail {
    fn default() -> Self {
        let changed = watch::Sender::new(Change::default());
        Self { buffer: Mutex::default(), changed, watched: Notify::new() }
    }
}

impl Tail {
    /// Returns the events after a position.
    pub(super) fn after(&self, cursor: Cursor) -> Found {
        let buffer = lock(&self.buffer);
        let Some(base) = buffer.base else { return Found::Unknown };
        let offset = cursor.at.position.checked_sub(base.at.position);
        let Some(offset) = offset else { return Found::Unknown };
        let Ok(offset) = usize::try_from(offset) else { return Found::End };
        // A watcher that reads from the state can be ahead of memory.
        if offset > buffer.entries.len() {
            return Found::End;
        }
        let here = offset.checked_sub(1).map_or(base.at, |before| buffer.entries[before].at);
        if here != cursor.at || base.epoch != cursor.epoch {
            return Found::Unknown;
        }
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let first = bytes == 0;
            bytes += entry.size;
            first || bytes <= BATCH_BYTES
        };
        let entries = buffer.entries.range(offset..).take(BATCH).take_while(fits);
        match buffer.entries.len() - offset {
            0 => Found::End,
            _ => Found::Events(entries.cloned().collect()),
        }
    }

    fn push(&self, entries: Vec<Arc<Entry>>) {
        let mut buffer = lock(&self.buffer);
        for entry in entries {
            buffer.bytes += entry.size;
            buffer.entries.push_back(entry);
        }
        while buffer.entries.len() > MOST_EVENTS || buffer.bytes > MOST_BYTES {
            let Some(oldest) = buffer.entries.pop_front() else { break };
            buffer.bytes -= oldest.size;
            if let Some(base) = &mut buffer.base {
                base.at = oldest.at;
            }
        }
        let newest = buffer.newest();
        drop(buffer);
        if let Some(Cursor { at, .. }) = newest {
            self.changed.send_modify(|change| change.newest = at.position);
        }
    }

    /// Empties the buffer and starts it again at the end of a log.
    fn restart(&self, log: &state::Log) {
        let base = Cursor { epoch: log.epoch, at: log.newest.into() };
        let new = Buffer { base: Some(base), ..Buffer::default() };
        let before = mem::replace(&mut *lock(&self.buffer), new);
        let broke = before.base.is_some();
        self.changed.send_modify(|change| {
            change.newest = base.at.position;
            change.breaks += u64::from(broke);
        });
    }

    /// Empties the buffer. A new watcher reads from the state until the log is followed again.
    fn forget(&self) {
        *lock(&self.buffer) = Buffer::default();
    }

    /// Returns the newest position that is known. 0 without watchers.
    pub(super) fn newest_position(&self) -> u64 {
        self.newest().map_or(0, |newest| newest.at.position)
    }

    fn newest(&self) -> Option<Cursor> {
        lock(&self.buffer).newest()
    }
}

impl Buffer {
    fn newest(&self) -> Option<Cursor> {
        let Cursor { epoch, at } = self.base?;
        Some(Cursor { epoch, at: self.entries.back().map_or(at, |entry| entry.at) })
    }
}

impl Audits {
    /// Keeps the end of the log in memory while there are watchers. Never returns.
    pub(super) async fn follow(&self) {
        let Inner { state, clock, tail, .. } = &*self.0;
        let mut failing = false;
        loop {
            if tail.changed.receiver_count() == 0 {
                tail.forget();
                tail.watched.notified().await;
                continue;
            }
            // After a failure it does not wait: another log may have taken the place of this one.
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
                    // A log that was damaged by hand can continue to contradict itself.
                    clock.sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    if !mem::replace(&mut failing, true) {
                        tracing::warn!("failed to read the event log: {error}");
                    }
                    clock.sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Reads the new events. If `wait` is set, first waits until there may be some.
    async fn step(&self, wait: bool) -> Result<(), Error> {
        let Inner { state, tail, .. } = &*self.0;
        let Some(newest) = tail.newest() else {
            tail.restart(&state.log().await?);
            return Ok(());
        };
        let newer = if wait { state.newer(newest.at.position).await? } else { None };
        let entries = match newer {
            Some(Segment { after, events }) if TaggedPosition::from(after) == newest.at => {
                let now = self.0.clock.wall();
                for event in &events {
                    let stored = state::from_millis(event.received);
                    let lag = now.duration_since(stored).unwrap_or_default();
                    self.0.metrics.record_delivery(lag);
                }
                entries(newest.epoch, &events)
            }
            _ => self.after(newest).await?,
        };
        if !entries.is_empty() {
            tail.push(entries);
        }
        Ok(())
    }

    /// Returns the next events after a position, from the state. Fails if the log does not continue from
    /// there.
    pub(super) async fn after(
        &self,
        Cursor { epoch, at }: Cursor,
    ) -> Result<Vec<Arc<Entry>>, Error> {
        let query = EventQuery {
            after: at.position,
            limit: BATCH,
            bytes: Some(BATCH_BYTES),
            ..EventQuery::default()
        };
        let EventPage { events, before, log, .. } = self.0.state.events(query).await?;
        let continues = match before {
            Some(before) => TaggedPosition::from(before) == at,
            // There is no event at position 0, nor where the log was pruned.
            None => {
                events.first().is_none_or(|first| first.position == at.position + 1)
                    && TaggedPosition::from(log.pruned) == at
            }
        };
        if !continues || log.epoch != epoch {
            return Err(Error::Expired);
        }
        let entries = entries(epoch, &events);
        Ok(entries.into_iter().map(|entry| self.0.large.one(entry)).collect())
    }
}

/// Returns the entries of some events.
fn entries(epoch: u64, events: &[state::Event]) -> Vec<Arc<Entry>> {
    let entries = events.iter().map(|stored| {
        let at = stored.into();
        let framed = frame::framed(Cursor { epoch, at }, stored);
        let frame::Framed { app_id, kind, lost, watched } = framed;
        // The message is most of it.
        let size = stored.message.len() + mem::size_of::<Entry>();
        Arc::new(Entry { at, size, app_id, kind, lost, watched })
    });
    entries.collect()
}
