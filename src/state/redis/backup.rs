//! The unfinished work of this process, as a backup for a Redis that loses it.
//!
//! A sent write and a held lease are known both to Redis and to the process that owns them. If
//! Redis loses them, the process restores them before another process can begin the same write or
//! get the same lease.
//!
//! Tickets and authorizers of platforms are known to the processes that stored or read them last. WeChat
//! sends the next ticket after minutes, and does not repeat what became of an authorization.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    state::{Authorizer, NewWrite, Outcome, Ticket, platform::TICKET_LIFE},
    util::id::AppId,
};

/// The number of recently ended writes that are restored, too, because a replica that takes over
/// may lack them.
const MOST_ENDED: usize = 1000;
/// The number of recently changed authorizers that are restored.
const MOST_CHANGED: usize = 1000;
/// How long a changed authorizer is restored. Later, this process may lack a change by another one.
const CHANGED: Duration = Duration::from_secs(60 * 60);
/// How long a process checks that its ended writes and changed authorizers are still stored.
const FRESH: Duration = Duration::from_secs(60);
/// If a write has not ended this long after its deadline, this process will never receive its end.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// The unfinished work of this process, the writes that ended last, and the newest data of platforms.
#[derive(Clone, Debug, Default)]
pub(super) struct Backup {
    writes: HashMap<String, WriteBackup>,
    ended: VecDeque<(Instant, String)>,
    leases: HashMap<String, LeaseBackup>,
    /// The newest ticket of each platform, and when this process got it.
    tickets: HashMap<AppId, (Instant, Ticket)>,
    authorizers: HashMap<(AppId, AppId), AuthorizerBackup>,
    /// The authorizers with their revisions, in the order of their changes.
    changed: VecDeque<((AppId, AppId), u64)>,
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

/// An authorizer as this process changed it.
#[derive(Clone, Debug)]
pub(super) struct AuthorizerBackup {
    pub(super) authorizer: Authorizer,
    pub(super) revision: u64,
    pub(super) at: Instant,
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

    /// Records the ticket of a platform, unless a later one is known.
    pub(super) fn ticketed(&mut self, platform: &AppId, ticket: &Ticket) {
        let known = self.tickets.get(platform);
        if known.is_none_or(|(_, known)| known.sent_at <= ticket.sent_at) {
            // One that is read again is as old as before.
            let at = known.filter(|(_, known)| known == ticket).map(|(at, _)| *at);
            let at = at.unwrap_or_else(Instant::now);
            self.tickets.insert(platform.clone(), (at, ticket.clone()));
        }
    }

    /// Records that an authorizer was changed.
    pub(super) fn changed(&mut self, authorizer: &Authorizer, revision: u64) {
        let key = (authorizer.platform.clone(), authorizer.app_id.clone());
        if self.authorizers.get(&key).is_some_and(|known| known.revision >= revision) {
            return;
        }
        let (authorizer, at) = (authorizer.clone(), Instant::now());
        self.authorizers.insert(key.clone(), AuthorizerBackup { authorizer, revision, at });
        self.changed.push_back((key, revision));
        while self.changed.len() > MOST_CHANGED {
            self.forget_oldest_change();
        }
    }

    fn forget_oldest_change(&mut self) {
        let Some((key, revision)) = self.changed.pop_front() else { return };
        if self.authorizers.get(&key).is_some_and(|known| known.revision == revision) {
            self.authorizers.remove(&key);
        }
    }

    /// Marks all claims as belonging to a state that is lost.
    pub(super) fn void_all(&mut self) {
        self.writes.values_mut().for_each(|write| write.void = true);
    }

    /// Returns the writes to restore: the sent ones.
    pub(super) fn writes(&self) -> impl Iterator<Item = &WriteBackup> {
        self.writes.values().filter(|write| write.sent.is_some())
    }

    /// Returns the leases to restore.
    pub(super) fn leases(&self) -> impl Iterator<Item = (&String, &LeaseBackup)> {
        let now = Instant::now();
        self.leases.iter().filter(move |(_, lease)| lease.until > now)
    }

    /// Returns the tickets to restore, with their platforms.
    pub(super) fn tickets(&self) -> impl Iterator<Item = (&AppId, &Ticket)> {
        self.tickets.iter().map(|(platform, (_, ticket))| (platform, ticket))
    }

    /// Returns the authorizers to restore.
    pub(super) fn authorizers(&self) -> impl Iterator<Item = &AuthorizerBackup> {
        self.authorizers.values().filter(|known| known.at.elapsed() < CHANGED)
    }

    /// Drops entries that are not needed any more.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, lease| lease.until > now);
        self.writes.retain(|_, write| write.is_of_use());
        self.tickets.retain(|_, (at, _)| at.elapsed() < TICKET_LIFE);
        let is_old = |known: &AuthorizerBackup| known.at.elapsed() >= CHANGED;
        while let Some((oldest, _)) = self.changed.front()
            && self.authorizers.get(oldest).is_none_or(is_old)
        {
            self.forget_oldest_change();
        }
    }

    /// Returns true if there is unfinished work, or was a moment ago, or if there is a ticket.
    pub(super) fn has_unfinished(&self) -> bool {
        let now = Instant::now();
        self.ended.back().is_some_and(|(at, _)| now.duration_since(*at) < FRESH)
            || self.leases.values().any(|lease| lease.until > now)
            || !self.tickets.is_empty()
            || self.authorizers.values().any(|known| known.at.elapsed() < FRESH)
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
        assert_eq!(backup.writes().count(), MOST_ENDED);
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
        assert_eq!(backup.leases().count(), 1);
        backup.leased("a", 1, false, Duration::ZERO);
        assert!(!backup.has_unfinished());
    }

    #[test]
    fn newest_ticket_is_restored() {
        let platform = AppId::from("wxp".to_owned());
        let ticket = |sent_at| Ticket { value: format!("sent at {sent_at}").into(), sent_at };
        let mut backup = Backup::default();
        for sent_at in [2, 1, 3, 2] {
            backup.ticketed(&platform, &ticket(sent_at));
        }
        assert_eq!(backup.tickets().collect::<Vec<_>>(), [(&platform, &ticket(3))]);
        backup.tidy();
        assert!(backup.has_unfinished(), "it is checked as long as it counts");
    }

    #[test]
    fn last_changes_of_authorizers_are_restored() {
        let authorizer = |number: usize| Authorizer {
            platform: "wxp".to_owned().into(),
            app_id: format!("wx{number}").into(),
            changed_at: 1,
            authorized: true,
            refresh_token: None,
            record: Vec::new(),
        };
        let mut backup = Backup::default();
        for number in 0..MOST_CHANGED + 10 {
            backup.changed(&authorizer(number), 5);
            // The answers to two changes can arrive in the other order.
            backup.changed(&authorizer(0), 7 + number as u64);
            backup.changed(&authorizer(0), 6);
        }
        assert_eq!(backup.authorizers().count(), MOST_CHANGED / 2 + 1);
        let first = backup.authorizers().find(|known| known.authorizer == authorizer(0));
        assert_eq!(first.map(|known| known.revision), Some(7 + MOST_CHANGED as u64 + 9));
        backup.tidy();
        assert_eq!(backup.authorizers().count(), MOST_CHANGED / 2 + 1, "they are young");
    }
}
