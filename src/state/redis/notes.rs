//! What this process has under way, so that a Redis that lost it gets it again.
//!
//! A write that was sent and a lease that is held are known to the process that has them as well as
//! to Redis. Where Redis lost them, the process notes them anew before anybody can begin the same
//! write, or get the same lease, once more.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::state::{NewWrite, Outcome};

/// So many writes that ended last are noted anew, too: a replica of Redis that takes over may lack
/// them.
const MOST_ENDED: usize = 1000;
/// Whoever ended a write looks for so long whether that is still there.
const FRESH: Duration = Duration::from_secs(60);
/// A write that has no end so long after its time has none that this process will hear of.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// What this process has under way, and which writes it ended last.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    writes: HashMap<String, NotedWrite>,
    ended: VecDeque<(Instant, String)>,
    leases: HashMap<String, NotedLease>,
}

/// A write that this process claimed.
#[derive(Clone, Debug)]
pub(super) struct NotedWrite {
    pub(super) write: NewWrite,
    pub(super) fence: u64,
    pub(super) sent: Option<NotedSent>,
    pub(super) outcome: Option<Outcome>,
    /// It was claimed of a state that is gone: it must not be sent any more.
    pub(super) void: bool,
}

/// That a write was sent.
#[derive(Clone, Debug)]
pub(super) struct NotedSent {
    pub(super) at: Instant,
    pub(super) until: Instant,
    pub(super) attempts: u32,
    pub(super) sought: Bytes,
}

/// A lease of this process, or one that rests after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotedLease {
    pub(super) fence: u64,
    pub(super) held: bool,
    pub(super) until: Instant,
}

impl Notes {
    /// A write was claimed, under this id; one that has its `sent` is sent, too.
    pub(super) fn claimed(&mut self, write_id: String, fence: u64, mut write: NewWrite) {
        write.write_id.clone_from(&write_id);
        let sent = write.sent.take().map(|sent| NotedSent {
            at: Instant::now(),
            until: Instant::now() + sent.by,
            attempts: 1,
            sought: sent.sought,
        });
        self.writes.insert(write_id, NotedWrite { write, fence, sent, outcome: None, void: false });
    }

    /// A write is sent.
    pub(super) fn sent(&mut self, write_id: &str, by: Duration, sought: Bytes) {
        let Some(write) = self.writes.get_mut(write_id) else { return };
        let attempts = write.sent.as_ref().map_or(0, |sent| sent.attempts) + 1;
        let at = Instant::now();
        write.sent = Some(NotedSent { at, until: at + by, attempts, sought });
    }

    /// A write has ended.
    pub(super) fn ended(&mut self, write_id: &str, outcome: Outcome) {
        let Some(write) = self.writes.get_mut(write_id) else { return };
        if outcome == Outcome::Released || write.sent.is_none() {
            self.writes.remove(write_id);
            return;
        }
        write.outcome = Some(outcome);
        self.ended.push_back((Instant::now(), write_id.to_owned()));
        while self.ended.len() > MOST_ENDED {
            let Some((_, oldest)) = self.ended.pop_front() else { break };
            self.writes.remove(&oldest);
        }
    }

    /// Whether a write was claimed of a state that is gone.
    pub(super) fn is_void(&self, write_id: &str) -> bool {
        self.writes.get(write_id).is_some_and(|write| write.void)
    }

    /// A lease was got, prolonged, or given back for a rest.
    pub(super) fn leased(&mut self, name: &str, fence: u64, held: bool, span: Duration) {
        let now = Instant::now();
        if span.is_zero() {
            self.leases.remove(name);
        } else {
            // Longer than any lease, and no more than a clock can add.
            let until = now + span.min(Duration::from_secs(24 * 60 * 60));
            self.leases.insert(name.to_owned(), NotedLease { fence, held, until });
        }
    }

    /// What was claimed before is of a state that is gone.
    pub(super) fn avoid(&mut self) {
        self.writes.values_mut().for_each(|write| write.void = true);
    }

    /// What has to be noted anew: what was sent, and when the leases end.
    pub(super) fn all(&self) -> (Vec<&NotedWrite>, Vec<(&String, &NotedLease)>) {
        let now = Instant::now();
        let sent = self.writes.values().filter(|write| write.sent.is_some());
        (sent.collect(), self.leases.iter().filter(|(_, lease)| lease.until > now).collect())
    }

    /// Drops what is of no use any more.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, lease| lease.until > now);
        self.writes.retain(|_, write| write.is_of_use());
    }

    /// Whether anything is under way, or was a moment ago.
    pub(super) fn is_under_way(&self) -> bool {
        let now = Instant::now();
        self.ended.back().is_some_and(|(at, _)| now.duration_since(*at) < FRESH)
            || self.leases.values().any(|lease| lease.until > now)
            || self.writes.values().any(|write| write.outcome.is_none() && write.is_of_use())
    }
}

impl NotedWrite {
    fn is_of_use(&self) -> bool {
        let sent = self.sent.as_ref();
        self.outcome.is_some() || sent.is_none_or(|sent| sent.until.elapsed() < GIVEN_UP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Sent;

    fn write(id: &str, sent: Option<Duration>) -> NewWrite {
        NewWrite {
            write_id: id.to_owned(),
            app_id: "wx1".to_owned().into(),
            method: "StoreService/AddStore".to_owned(),
            request_id: None,
            fingerprint: [0; 32],
            client_reference: String::new(),
            sent: sent.map(|by| Sent { by, sought: Bytes::new() }),
        }
    }

    #[test]
    fn what_was_sent_is_noted_until_it_is_one_of_many_that_ended() {
        let minute = Duration::from_secs(60);
        let mut notes = Notes::default();
        for number in 0..MOST_ENDED + 10 {
            let id = number.to_string();
            notes.claimed(id.clone(), 1, write("other", Some(minute)));
            notes.ended(&id, Outcome::Unknown);
        }
        notes.claimed("claimed".to_owned(), 1, write("claimed", None));
        notes.claimed("released".to_owned(), 1, write("released", Some(minute)));
        notes.ended("released", Outcome::Released);
        assert_eq!(notes.all().0.len(), MOST_ENDED);
        notes.avoid();
        assert!(notes.is_void("claimed") && !notes.is_void("new"));
        let mut notes = Notes::default();
        notes.claimed("claimed".to_owned(), 1, write("claimed", None));
        assert!(notes.is_under_way());
        notes.ended("claimed", Outcome::Released);
        assert!(!notes.is_under_way());
    }

    #[test]
    fn a_lease_is_noted_while_it_lasts() {
        let mut notes = Notes::default();
        notes.leased("a", 1, true, Duration::MAX);
        notes.leased("b", 1, true, Duration::from_nanos(1));
        assert_eq!(notes.all().1.len(), 1);
        notes.leased("a", 1, false, Duration::ZERO);
        assert!(!notes.is_under_way());
    }
}
