//! The unfinished work of this process, as a backup for a Redis that loses it.
//!
//! A sent write and a held lease are known both to Redis and to the process that owns them. If
//! Redis loses them, the process restores them before another process can begin the same write or
//! get the same lease.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::state::{NewWrite, Outcome};

/// The number of recently ended writes that are restored, too, because a replica that takes over
/// may lack them.
const MOST_ENDED: usize = 1000;
/// How long a process checks that its ended writes are still stored.
const FRESH: Duration = Duration::from_secs(60);
/// If a write has not ended this long after its deadline, this process will never receive its end.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// The unfinished work of this process, and the writes that ended last.
#[derive(Clone, Debug, Default)]
pub(super) struct Backup {
    writes: HashMap<String, WriteBackup>,
    ended: VecDeque<(Instant, String)>,
    leases: HashMap<String, LeaseBackup>,
}

/// A write that this process claimed.
#[derive(Clone, Debug)]
pub(super) struct WriteBackup {
    pub(super) write: NewWrite,
    pub(super) fence: u64,
    pub(super) sent: Option<SentBackup>,
    pub(super) outcome: Option<Outcome>,
    /// True if it was claimed in a state that is lost. It must not be sent any more.
    pub(super) void: bool,
}

/// The sending of a write.
#[derive(Clone, Debug)]
pub(super) struct SentBackup {
    pub(super) at: Instant,
    pub(super) until: Instant,
    pub(super) attempts: u32,
    pub(super) record: Bytes,
}

/// A lease of this process, held or in the pause after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseBackup {
    pub(super) fence: u64,
    pub(super) held: bool,
    pub(super) until: Instant,
}

impl Backup {
    /// Records that a write was claimed under this id. A write with `sent` is recorded as sent,
    /// too.
    pub(super) fn claimed(&mut self, write_id: String, fence: u64, mut write: NewWrite) {
        write.write_id.clone_from(&write_id);
        let sent = write.sent.take().map(|sent| SentBackup {
            at: Instant::now(),
            until: Instant::now() + sent.by,
            attempts: 1,
            record: sent.record,
        });
        self.writes
            .insert(write_id, WriteBackup { write, fence, sent, outcome: None, void: false });
    }

    /// Records that a write is sent.
    pub(super) fn sent(&mut self, write_id: &str, by: Duration, record: Bytes) {
        let Some(write) = self.writes.get_mut(write_id) else { return };
        let attempts = write.sent.as_ref().map_or(0, |sent| sent.attempts) + 1;
        let at = Instant::now();
        write.sent = Some(SentBackup { at, until: at + by, attempts, record });
    }

    /// Records that a write has ended.
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

    /// Returns true if a write was claimed in a state that is lost.
    pub(super) fn is_void(&self, write_id: &str) -> bool {
        self.writes.get(write_id).is_some_and(|write| write.void)
    }

    /// Records that a lease was acquired, renewed or released with a pause.
    pub(super) fn leased(&mut self, name: &str, fence: u64, held: bool, span: Duration) {
        let now = Instant::now();
        if span.is_zero() {
            self.leases.remove(name);
        } else {
            // This is longer than any lease, and a clock can add it.
            let until = now + span.min(Duration::from_secs(24 * 60 * 60));
            self.leases.insert(name.to_owned(), LeaseBackup { fence, held, until });
        }
    }

    /// Marks all claims as belonging to a state that is lost.
    pub(super) fn void_all(&mut self) {
        self.writes.values_mut().for_each(|write| write.void = true);
    }

    /// Returns the work to restore: the sent writes, and the leases with their ends.
    pub(super) fn all(&self) -> (Vec<&WriteBackup>, Vec<(&String, &LeaseBackup)>) {
        let now = Instant::now();
        let sent = self.writes.values().filter(|write| write.sent.is_some());
        (sent.collect(), self.leases.iter().filter(|(_, lease)| lease.until > now).collect())
    }

    /// Drops entries that are not needed any more.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, lease| lease.until > now);
        self.writes.retain(|_, write| write.is_of_use());
    }

    /// Returns true if there is unfinished work, or was a moment ago.
    pub(super) fn has_unfinished(&self) -> bool {
        let now = Instant::now();
        self.ended.back().is_some_and(|(at, _)| now.duration_since(*at) < FRESH)
            || self.leases.values().any(|lease| lease.until > now)
            || self.writes.values().any(|write| write.outcome.is_none() && write.is_of_use())
    }
}

impl WriteBackup {
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
            caller: String::new(),
            app_id: "wx1".to_owned().into(),
            method: "StoreService/AddStore".to_owned(),
            request_id: None,
            fingerprint: [0; 32],
            client_reference: String::new(),
            sent: sent.map(|by| Sent { by, record: Bytes::new() }),
        }
    }

    #[test]
    fn sent_write_is_kept_until_many_have_ended() {
        let minute = Duration::from_secs(60);
        let mut backup = Backup::default();
        for number in 0..MOST_ENDED + 10 {
            let id = number.to_string();
            backup.claimed(id.clone(), 1, write("other", Some(minute)));
            backup.ended(&id, Outcome::Unknown);
        }
        backup.claimed("claimed".to_owned(), 1, write("claimed", None));
        backup.claimed("released".to_owned(), 1, write("released", Some(minute)));
        backup.ended("released", Outcome::Released);
        assert_eq!(backup.all().0.len(), MOST_ENDED);
        backup.void_all();
        assert!(backup.is_void("claimed") && !backup.is_void("new"));
        let mut backup = Backup::default();
        backup.claimed("claimed".to_owned(), 1, write("claimed", None));
        assert!(backup.has_unfinished());
        backup.ended("claimed", Outcome::Released);
        assert!(!backup.has_unfinished());
    }

    #[test]
    fn lease_is_kept_until_it_ends() {
        let mut backup = Backup::default();
        backup.leased("a", 1, true, Duration::MAX);
        backup.leased("b", 1, true, Duration::from_nanos(1));
        assert_eq!(backup.all().1.len(), 1);
        backup.leased("a", 1, false, Duration::ZERO);
        assert!(!backup.has_unfinished());
    }
}
