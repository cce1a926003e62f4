//! The newest events, in memory, so that watchers do not read the events that this process has just
//! written.

use std::collections::VecDeque;

use crate::state::{Event, Log, LogPosition, Segment};

/// The most events that are kept.
const MOST: usize = 64;

/// The end of the log. Every event in it is durable.
#[derive(Debug)]
pub(super) struct Recent {
    /// The position before the first of `events`.
    base: LogPosition,
    /// The events, without a gap.
    events: VecDeque<Event>,
}

impl Recent {
    /// Creates an empty cache for a log.
    pub(super) fn new(log: &Log) -> Self {
        Self { base: log.newest, events: VecDeque::new() }
    }

    /// Returns the position of the newest event.
    pub(super) fn newest(&self) -> u64 {
        self.events.back().map_or(self.base.position, |event| event.position)
    }

    /// Adds an event.
    pub(super) fn push(&mut self, event: Event) {
        if event.position != self.newest() + 1 {
            // The file was replaced, so watchers must read it.
            *self = Self { base: event.log_position(), events: VecDeque::new() };
            return;
        }
        if self.events.len() == MOST
            && let Some(oldest) = self.events.pop_front()
        {
            self.base = oldest.log_position();
        }
        self.events.push_back(event);
    }

    /// Returns the events after a position. Returns `None` if the position is too old or is the
    /// end.
    pub(super) fn after(&self, position: u64) -> Option<Segment> {
        let passed = usize::try_from(position.checked_sub(self.base.position)?).ok()?;
        if passed >= self.events.len() {
            return None;
        }
        let after =
            passed.checked_sub(1).map_or(self.base, |last| self.events[last].log_position());
        Some(Segment { after, events: self.events.range(passed..).cloned().collect() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::state::EventKey;

    fn log_position(position: u64) -> LogPosition {
        LogPosition { position, key: EventKey([position as u8; 32]) }
    }

    fn event(position: u64) -> Event {
        Event {
            position,
            key: log_position(position).key,
            received: 0,
            message: Bytes::new(),
            supersedes: String::new(),
            superseded_by: String::new(),
            submission: None,
        }
    }

    fn after(recent: &Recent, at: u64) -> Vec<u64> {
        let Some(Segment { after, events }) = recent.after(at) else { return Vec::new() };
        assert_eq!(after, log_position(at));
        events.iter().map(|event| event.position).collect()
    }

    #[test]
    fn after_returns_known_events_only() {
        let mut recent =
            Recent::new(&Log { epoch: 1, pruned: log_position(0), newest: log_position(7) });
        assert_eq!((recent.newest(), after(&recent, 7)), (7, vec![]));
        (8..=10).for_each(|position| recent.push(event(position)));
        assert_eq!(recent.newest(), 10);
        for (at, known) in [(6, 11..11), (7, 8..11), (8, 9..11), (9, 10..11), (10, 11..11)] {
            assert_eq!(after(&recent, at), known.collect::<Vec<_>>(), "{at}");
        }

        (11..=10 + MOST as u64).for_each(|position| recent.push(event(position)));
        assert!(after(&recent, 9).is_empty(), "it is too far back");
        assert_eq!(after(&recent, 10).len(), MOST);

        recent.push(event(3));
        assert_eq!((recent.newest(), after(&recent, 2)), (3, vec![]));
        recent.push(event(4));
        assert_eq!(after(&recent, 3), [4]);
    }
}
