//! Chooses the host of WeChat for each attempt.
//!
//! - One host is the current one for every account and every call of this process. It starts as the
//!   first host of the settings.
//! - A host is out immediately if no connection can be made. If its answers are missing or do not
//!   come from WeChat, it is out after two such failures in a row.
//! - After a pause, a host that is out gets a *half-open probe*: one read that has time left for
//!   another attempt elsewhere. All other calls stay at the current host. A successful probe moves
//!   all calls back. A failed probe doubles the pause.
//! - If all hosts are out, each failure moves on to the next host.
//!
//! This module neither waits nor sends.

// Not failsafe or recloser: their breakers guard one host each. Here the hosts are one decision, and one
// read probes.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use reqwest::Url;

use crate::util::{clock::Clock, lock};

/// The pause between a failure of a host and its first probe. Each failed probe doubles it, and so
/// does a new failure soon after the host recovered.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The number of doubtful failures in a row that count as a certain one. A read has three attempts,
/// so its last one goes to the next host.
const DOUBTS: u32 = 2;
/// Failures closer together than this have one cause, such as a connection that carried several
/// calls.
const APART: Duration = Duration::from_millis(50);
/// A caller that leaves earlier than this is no evidence about the host.
const LEAST_WAIT: Duration = Duration::from_secs(1);

/// The hosts and their health.
#[derive(Debug)]
pub(super) struct Hosts {
    list: Vec<Host>,
    clock: Clock,
    state: Mutex<State>,
}

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    /// The URL, without a path other than `/`.
    pub(super) url: Url,
    pub(super) address: String,
    pub(super) port: u16,
}

#[derive(Debug)]
struct State {
    current: usize,
    /// Counts the changes of `current`. The result of an attempt that began before the last change
    /// is outdated.
    changes: u64,
    changed_at: Option<Instant>,
    /// One entry per host.
    health: Vec<Health>,
}

#[derive(Clone, Debug)]
struct Health {
    doubts: u32,
    doubted_at: Option<Instant>,
    /// The time of the next probe. Set if the host is out.
    probe_at: Option<Instant>,
    pause: Duration,
    back_at: Option<Instant>,
}

/// The meaning of an attempt's result for its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// WeChat answered, with any content.
    Answered,
    /// The host may be at fault: no answer arrived, or it did not come from WeChat.
    Doubtful,
    /// The result means nothing for the host.
    Nothing,
    /// No connection could be made.
    Unreachable,
}

/// The host of one attempt. Dropping it without a report means that the caller left.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    hosts: &'a Hosts,
    index: usize,
    is_probe: bool,
    changes: u64,
    chosen_at: Instant,
    reported: bool,
}

impl Hosts {
    /// Creates the set from at least one host, in order of preference.
    pub(super) fn new(list: Vec<Host>, clock: Clock) -> Self {
        let health = Health {
            doubts: 0,
            doubted_at: None,
            probe_at: None,
            pause: FIRST_PAUSE,
            back_at: None,
        };
        let health = vec![health; list.len()];
        let state = State { current: 0, changes: 0, changed_at: None, health };
        Self { list, clock, state: Mutex::new(state) }
    }

    /// Returns the number of hosts.
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// Returns the URL of the current host, without a slash at its end.
    pub(super) fn current(&self) -> &str {
        self.list[self.lock().current].base()
    }

    /// Returns when the current host last changed.
    pub(super) fn changed_at(&self) -> Option<Instant> {
        self.lock().changed_at
    }

    /// Returns the host for an attempt. `can_probe` allows a host that is due for a probe.
    pub(super) fn choose(&self, can_probe: bool) -> Choice<'_> {
        let now = self.clock.now();
        let mut state = self.lock();
        let preferred = &state.health[..state.current];
        let due = |health: &Health| health.probe_at.is_some_and(|at| now >= at);
        let due = preferred.iter().position(due).filter(|_| can_probe);
        if let Some(index) = due {
            // Later calls must wait for another pause, whatever the result of this probe is.
            let health = &mut state.health[index];
            health.probe_at = Some(now + health.pause);
        }
        self.choice(due.unwrap_or(state.current), due.is_some(), state.changes, now)
    }

    /// Returns the host of an earlier attempt again. A call that may have arrived there must stay
    /// there.
    pub(super) fn stay(&self, index: usize) -> Choice<'_> {
        self.choice(index, false, self.lock().changes, self.clock.now())
    }

    fn choice(&self, index: usize, is_probe: bool, changes: u64, chosen_at: Instant) -> Choice<'_> {
        Choice { hosts: self, index, is_probe, changes, chosen_at, reported: false }
    }

    fn record(&self, choice: &Choice<'_>, sign: Sign) {
        // There is no other host to switch to.
        if self.list.len() < 2 {
            return;
        }
        let now = self.clock.now();
        let state = &mut *self.lock();
        let index = choice.index;
        if choice.is_probe {
            match sign {
                Sign::Answered => self.is_back(state, index, now),
                _ => state.health[index].stays_out(now),
            }
            return;
        }
        if choice.changes != state.changes || index != state.current {
            return;
        }
        let health = &mut state.health[index];
        match sign {
            Sign::Nothing => {}
            Sign::Answered => {
                health.doubts = 0;
                if health.probe_at.is_some() {
                    self.is_back(state, index, now);
                }
            }
            Sign::Doubtful => {
                let apart = health.doubted_at.is_none_or(|at| now.duration_since(at) >= APART);
                health.doubted_at = Some(now);
                health.doubts += u32::from(apart || health.doubts == 0);
                if health.doubts >= DOUBTS {
                    self.is_out(state, now);
                }
            }
            Sign::Unreachable => self.is_out(state, now),
        }
    }

    /// Marks the current host as out. The next host is the best one that is not out, or else simply
    /// the next one.
    fn is_out(&self, state: &mut State, now: Instant) {
        let failed = state.current;
        let known = state.health[failed].fails(now);
        let next = state.health.iter().position(|health| health.probe_at.is_none());
        state.moves(next.unwrap_or((failed + 1) % self.list.len()), now);
        if !known {
            let [host, next] = [failed, state.current].map(|index| self.list[index].base());
            tracing::warn!(%host, %next, "a host of WeChat's failed; switching to the next one");
        }
    }

    /// Marks a host that was out as healthy.
    fn is_back(&self, state: &mut State, index: usize, now: Instant) {
        let health = &mut state.health[index];
        health.doubts = 0;
        health.probe_at = None;
        health.back_at = Some(now);
        // A better host may have recovered in the meantime.
        if index < state.current || state.health[state.current].probe_at.is_some() {
            state.moves(index, now);
        }
        let host = self.list[index].base();
        tracing::info!(%host, "a host of WeChat's recovered; switching back to it");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Host {
    /// Returns the URL without a slash at its end.
    pub(super) fn base(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

impl State {
    fn moves(&mut self, to: usize, now: Instant) {
        self.current = to;
        self.changes += 1;
        self.changed_at = Some(now);
    }
}

impl Health {
    /// Records a failure and returns true if the host was already out.
    fn fails(&mut self, now: Instant) -> bool {
        let known = self.probe_at.is_some();
        if !known {
            let soon = self.back_at.is_some_and(|at| now.duration_since(at) < LONGEST_PAUSE);
            self.pause = if soon { self.longer() } else { FIRST_PAUSE };
        }
        self.doubts = 0;
        self.probe_at = Some(now + self.pause);
        known
    }

    fn stays_out(&mut self, now: Instant) {
        self.pause = self.longer();
        self.probe_at = Some(now + self.pause);
    }

    fn longer(&self) -> Duration {
        (self.pause * 2).min(LONGEST_PAUSE)
    }
}

impl Choice<'_> {
    pub(super) fn host(&self) -> &Host {
        &self.hosts.list[self.index]
    }

    /// Returns the position of the host in the settings.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Returns when the attempt began.
    pub(super) fn chosen_at(&self) -> Instant {
        self.chosen_at
    }

    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Reports the result of the attempt.
    pub(super) fn report(mut self, sign: Sign) {
        self.reported = true;
        self.hosts.record(&self, sign);
    }
}

impl Drop for Choice<'_> {
    fn drop(&mut self) {
        if !self.reported {
            let waited = self.hosts.clock.now().duration_since(self.chosen_at);
            let sign = if waited >= LEAST_WAIT { Sign::Doubtful } else { Sign::Nothing };
            self.hosts.record(self, sign);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Sign::*, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn hosts(names: &[&str]) -> (Hosts, Clock) {
        let clock = Clock::frozen();
        let host = |name: &&str| Host {
            url: Url::parse(&format!("https://{name}")).expect("a URL"),
            address: (*name).to_owned(),
            port: 443,
        };
        (Hosts::new(names.iter().map(host).collect(), clock.clone()), clock)
    }

    /// Makes an attempt with this result and returns the address of its host.
    fn attempt(hosts: &Hosts, can_probe: bool, sign: Sign) -> String {
        let choice = hosts.choose(can_probe);
        let address = choice.host().address.clone();
        choice.report(sign);
        address
    }

    fn read(hosts: &Hosts, sign: Sign) -> String {
        attempt(hosts, true, sign)
    }

    fn write(hosts: &Hosts, sign: Sign) -> String {
        attempt(hosts, false, sign)
    }

    #[test]
    fn unreachable_host_is_left_by_all_calls() {
        let (hosts, clock) = hosts(&["a", "b"]);
        assert_eq!(read(&hosts, Answered), "a");
        assert_eq!(hosts.changed_at(), None);
        assert_eq!(read(&hosts, Unreachable), "a");
        assert_eq!((write(&hosts, Answered), read(&hosts, Answered)), ("b".into(), "b".into()));
        assert_eq!(hosts.changed_at(), Some(clock.now()));
    }

    #[test]
    fn consecutive_doubts_count_once_per_cause() {
        let (hosts, clock) = hosts(&["a", "b"]);
        for sign in [Doubtful, Nothing, Answered, Doubtful, Doubtful] {
            assert_eq!(read(&hosts, sign), "a");
        }
        clock.advance(APART);
        assert_eq!(read(&hosts, Doubtful), "a");
        assert_eq!(read(&hosts, Answered), "b");
    }

    #[test]
    fn attempt_from_before_a_change_is_ignored() {
        let (hosts, _) = hosts(&["a", "b"]);
        let [first, second, third] = [(); 3].map(|()| hosts.choose(true));
        first.report(Unreachable);
        second.report(Unreachable);
        assert_eq!(read(&hosts, Answered), "b");
        third.report(Answered);
        assert_eq!(read(&hosts, Answered), "b");
    }

    #[test]
    fn successful_probe_moves_all_calls_back() {
        let (hosts, clock) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        clock.advance(FIRST_PAUSE - SECOND);
        assert_eq!(read(&hosts, Answered), "b");
        clock.advance(SECOND);
        assert_eq!(write(&hosts, Answered), "b", "a write is never a probe");
        let probe = hosts.choose(true);
        assert!(probe.is_probe());
        assert_eq!((probe.host().address.as_str(), read(&hosts, Answered)), ("a", "b".into()));
        probe.report(Answered);
        assert_eq!((write(&hosts, Answered), read(&hosts, Answered)), ("a".into(), "a".into()));
    }

    #[test]
    fn failed_probe_costs_one_call_and_doubles_pause() {
        let (hosts, clock) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        let mut pause = FIRST_PAUSE;
        for sign in [Unreachable, Doubtful, Nothing, Doubtful, Doubtful] {
            clock.advance(pause - SECOND);
            assert_eq!(read(&hosts, Answered), "b", "not yet");
            clock.advance(SECOND);
            assert_eq!([read(&hosts, sign), read(&hosts, Answered)], ["a", "b"], "{sign:?}");
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(pause, LONGEST_PAUSE);
    }

    #[test]
    fn abandoned_probe_is_followed_by_another() {
        let (hosts, clock) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        clock.advance(FIRST_PAUSE);
        drop(hosts.choose(true));
        assert_eq!(read(&hosts, Answered), "b");
        clock.advance(FIRST_PAUSE * 2);
        assert_eq!([read(&hosts, Answered), read(&hosts, Answered)], ["a", "a"]);
    }

    #[test]
    fn callers_leaving_after_a_wait_are_doubts() {
        let (hosts, clock) = hosts(&["a", "b"]);
        for _ in 0..DOUBTS {
            drop(hosts.choose(true));
            assert_eq!(read(&hosts, Nothing), "a", "they left at once");
        }
        for _ in 0..DOUBTS {
            let choice = hosts.choose(true);
            assert_eq!(choice.host().address, "a");
            clock.advance(LEAST_WAIT);
        }
        assert_eq!(read(&hosts, Answered), "b");
    }

    #[test]
    fn flapping_host_backs_off() {
        let (hosts, clock) = hosts(&["a", "b"]);
        for pause in [30, 60, 120, 240, 300, 300] {
            assert_eq!(read(&hosts, Unreachable), "a");
            clock.advance(Duration::from_secs(pause - 1));
            assert_eq!(read(&hosts, Answered), "b");
            clock.advance(SECOND);
            assert_eq!(read(&hosts, Answered), "a", "after {pause} s");
        }
        clock.advance(LONGEST_PAUSE);
        assert_eq!(read(&hosts, Unreachable), "a");
        clock.advance(FIRST_PAUSE);
        assert_eq!(read(&hosts, Answered), "a", "a failure long after is a first one");
    }

    #[test]
    fn all_hosts_out_rotates_until_one_answers() {
        let (hosts, clock) = hosts(&["a", "b", "c"]);
        let tried: Vec<_> = (0..7).map(|_| read(&hosts, Unreachable)).collect();
        assert_eq!(tried, ["a", "b", "c", "a", "b", "c", "a"]);
        assert_eq!([read(&hosts, Answered), read(&hosts, Answered)], ["b", "b"]);
        assert_eq!(read(&hosts, Unreachable), "b");
        assert_eq!(write(&hosts, Answered), "c");
        clock.advance(FIRST_PAUSE);
        assert_eq!(read(&hosts, Unreachable), "a", "the best one first");
        assert_eq!(write(&hosts, Answered), "c");
        clock.advance(FIRST_PAUSE);
        assert_eq!([read(&hosts, Answered), read(&hosts, Answered)], ["b", "b"]);
        clock.advance(FIRST_PAUSE);
        assert_eq!([read(&hosts, Answered), write(&hosts, Answered)], ["a", "a"]);
    }

    #[test]
    fn staying_call_does_not_move_others() {
        let (hosts, _) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        let stays = hosts.stay(0);
        assert_eq!(stays.host().address, "a");
        stays.report(Unreachable);
        assert_eq!(write(&hosts, Answered), "b");
    }

    #[test]
    fn single_host_is_never_left() {
        let (hosts, _) = hosts(&["a"]);
        for sign in [Unreachable, Doubtful, Doubtful, Answered] {
            assert_eq!(read(&hosts, sign), "a");
        }
        assert_eq!(hosts.changed_at(), None);
    }
}
