//! Which of WeChat's hosts a call goes to now.
//!
//! * One host is the current one, for every account and every call of this process. At first it is
//!   the first of the settings.
//! * A host that cannot be connected to is out at once; one whose answers stay away, or come from
//!   something that is not WeChat, only when it happens again with no answer in between.
//! * A host that is out gets a *trial* after a pause: one read, whose caller has time for another
//!   attempt elsewhere. All other calls stay where they are. A success brings everybody back; a
//!   failure doubles the pause.
//! * Where all are out there is nothing to lose: each failure moves on to the next.
//!
//! Nothing here waits or sends.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Url;

use crate::util::clock::Clock;

/// From a host's failure to its first trial; doubled by each trial that fails, and where it fails
/// again soon after it came back.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// So many doubtful failures in a row count as a certain one: a read, which has three attempts, then
/// makes its last one at the next host.
const DOUBTS: u32 = 2;
/// Closer together they have one cause, such as a connection that took several calls along.
const APART: Duration = Duration::from_millis(50);
/// A caller who left earlier than this says nothing about the host.
const PATIENCE: Duration = Duration::from_secs(1);

/// The hosts, and how they are doing.
#[derive(Debug)]
pub(super) struct Hosts {
    list: Vec<Host>,
    clock: Clock,
    state: Mutex<State>,
}

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    /// With no path but `/`.
    pub(super) url: Url,
    pub(super) address: String,
    pub(super) port: u16,
}

#[derive(Debug)]
struct State {
    current: usize,
    /// Counts the changes of `current`: what a call began before the last one says nothing new.
    changes: u64,
    changed_at: Option<Instant>,
    /// As many as there are hosts.
    health: Vec<Health>,
}

#[derive(Clone, Debug)]
struct Health {
    doubts: u32,
    doubted_at: Option<Instant>,
    /// Set where the host is out: when the next trial may be.
    trial_at: Option<Instant>,
    pause: Duration,
    back_at: Option<Instant>,
}

/// What an attempt says about its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// WeChat answered, whatever it said.
    Answered,
    /// Perhaps the host's fault: no answer, or not WeChat's.
    Doubtful,
    /// Nothing.
    Nothing,
    /// No connection could be made.
    Unreachable,
}

/// The host of one attempt. Dropped without a sign it stands for a caller who left.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    hosts: &'a Hosts,
    index: usize,
    trial: bool,
    changes: u64,
    chosen_at: Instant,
    told: bool,
}

impl Hosts {
    /// In order of preference, and at least one.
    pub(super) fn new(list: Vec<Host>, clock: Clock) -> Self {
        let health = Health {
            doubts: 0,
            doubted_at: None,
            trial_at: None,
            pause: FIRST_PAUSE,
            back_at: None,
        };
        let health = vec![health; list.len()];
        let state = State { current: 0, changes: 0, changed_at: None, health };
        Self { list, clock, state: Mutex::new(state) }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// When another host last became the current one.
    pub(super) fn changed_at(&self) -> Option<Instant> {
        self.lock().changed_at
    }

    /// The host for an attempt; `for_trial` where the call may be a trial.
    pub(super) fn choose(&self, for_trial: bool) -> Choice<'_> {
        let now = self.clock.now();
        let mut state = self.lock();
        let preferred = &state.health[..state.current];
        let due = |health: &Health| health.trial_at.is_some_and(|at| now >= at);
        let due = preferred.iter().position(due).filter(|_| for_trial);
        if let Some(index) = due {
            // Whoever comes next is too early, whatever becomes of this one.
            let health = &mut state.health[index];
            health.trial_at = Some(now + health.pause);
        }
        self.choice(due.unwrap_or(state.current), due.is_some(), state.changes, now)
    }

    /// The host of an earlier attempt once more, as a call has to that may have arrived there.
    pub(super) fn stay(&self, index: usize) -> Choice<'_> {
        self.choice(index, false, self.lock().changes, self.clock.now())
    }

    fn choice(&self, index: usize, trial: bool, changes: u64, chosen_at: Instant) -> Choice<'_> {
        Choice { hosts: self, index, trial, changes, chosen_at, told: false }
    }

    fn hear(&self, choice: &Choice<'_>, sign: Sign) {
        // There is nowhere else to go.
        if self.list.len() < 2 {
            return;
        }
        let now = self.clock.now();
        let state = &mut *self.lock();
        let index = choice.index;
        if choice.trial {
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
                if health.trial_at.is_some() {
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

    /// The current host failed: the next one is the best that is not out, or, where all are, simply
    /// the next.
    fn is_out(&self, state: &mut State, now: Instant) {
        let failed = state.current;
        let known = state.health[failed].fails(now);
        let next = state.health.iter().position(|health| health.trial_at.is_none());
        state.moves(next.unwrap_or((failed + 1) % self.list.len()), now);
        if !known {
            let [host, next] = [failed, state.current].map(|index| self.list[index].base());
            tracing::warn!(%host, %next, "a host of WeChat's failed; switching to the next one");
        }
    }

    /// A host that was out answered.
    fn is_back(&self, state: &mut State, index: usize, now: Instant) {
        let health = &mut state.health[index];
        health.doubts = 0;
        health.trial_at = None;
        health.back_at = Some(now);
        // Somebody else may have come further back meanwhile.
        if index < state.current || state.health[state.current].trial_at.is_some() {
            state.moves(index, now);
        }
        let host = self.list[index].base();
        tracing::info!(%host, "a host of WeChat's recovered; switching back to it");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// The URL without a slash at its end.
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
    /// Notes a failure; whether the host was out already.
    fn fails(&mut self, now: Instant) -> bool {
        let known = self.trial_at.is_some();
        if !known {
            let soon = self.back_at.is_some_and(|at| now.duration_since(at) < LONGEST_PAUSE);
            self.pause = if soon { self.longer() } else { FIRST_PAUSE };
        }
        self.doubts = 0;
        self.trial_at = Some(now + self.pause);
        known
    }

    fn stays_out(&mut self, now: Instant) {
        self.pause = self.longer();
        self.trial_at = Some(now + self.pause);
    }

    fn longer(&self) -> Duration {
        (self.pause * 2).min(LONGEST_PAUSE)
    }
}

impl Choice<'_> {
    pub(super) fn host(&self) -> &Host {
        &self.hosts.list[self.index]
    }

    /// Its place in the settings.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// When the attempt began.
    pub(super) fn chosen_at(&self) -> Instant {
        self.chosen_at
    }

    pub(super) fn is_trial(&self) -> bool {
        self.trial
    }

    /// What the attempt said about the host.
    pub(super) fn tell(mut self, sign: Sign) {
        self.told = true;
        self.hosts.hear(&self, sign);
    }
}

impl Drop for Choice<'_> {
    fn drop(&mut self) {
        if !self.told {
            let waited = self.hosts.clock.now().duration_since(self.chosen_at);
            let sign = if waited >= PATIENCE { Sign::Doubtful } else { Sign::Nothing };
            self.hosts.hear(self, sign);
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

    /// Makes an attempt that ends so; answers where.
    fn attempt(hosts: &Hosts, for_trial: bool, sign: Sign) -> String {
        let choice = hosts.choose(for_trial);
        let address = choice.host().address.clone();
        choice.tell(sign);
        address
    }

    fn read(hosts: &Hosts, sign: Sign) -> String {
        attempt(hosts, true, sign)
    }

    fn write(hosts: &Hosts, sign: Sign) -> String {
        attempt(hosts, false, sign)
    }

    #[test]
    fn one_that_cannot_be_reached_is_left_at_once_and_by_everybody() {
        let (hosts, clock) = hosts(&["a", "b"]);
        assert_eq!(read(&hosts, Answered), "a");
        assert_eq!(hosts.changed_at(), None);
        assert_eq!(read(&hosts, Unreachable), "a");
        assert_eq!((write(&hosts, Answered), read(&hosts, Answered)), ("b".into(), "b".into()));
        assert_eq!(hosts.changed_at(), Some(clock.now()));
    }

    #[test]
    fn doubt_counts_in_a_row_and_one_cause_once() {
        let (hosts, clock) = hosts(&["a", "b"]);
        for sign in [Doubtful, Nothing, Answered, Doubtful, Doubtful] {
            assert_eq!(read(&hosts, sign), "a");
        }
        clock.advance(APART);
        assert_eq!(read(&hosts, Doubtful), "a");
        assert_eq!(read(&hosts, Answered), "b");
    }

    #[test]
    fn what_began_before_a_change_says_nothing_after_it() {
        let (hosts, _) = hosts(&["a", "b"]);
        let [first, second, third] = [(); 3].map(|()| hosts.choose(true));
        first.tell(Unreachable);
        second.tell(Unreachable);
        assert_eq!(read(&hosts, Answered), "b");
        third.tell(Answered);
        assert_eq!(read(&hosts, Answered), "b");
    }

    #[test]
    fn one_read_tries_and_a_success_brings_everybody_back() {
        let (hosts, clock) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        clock.advance(FIRST_PAUSE - SECOND);
        assert_eq!(read(&hosts, Answered), "b");
        clock.advance(SECOND);
        assert_eq!(write(&hosts, Answered), "b", "no write is a trial");
        let trial = hosts.choose(true);
        assert!(trial.is_trial());
        assert_eq!((trial.host().address.as_str(), read(&hosts, Answered)), ("a", "b".into()));
        trial.tell(Answered);
        assert_eq!((write(&hosts, Answered), read(&hosts, Answered)), ("a".into(), "a".into()));
    }

    #[test]
    fn a_trial_that_fails_costs_one_call_and_doubles_the_pause() {
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
    fn a_trial_whose_caller_leaves_is_not_the_last() {
        let (hosts, clock) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        clock.advance(FIRST_PAUSE);
        drop(hosts.choose(true));
        assert_eq!(read(&hosts, Answered), "b");
        clock.advance(FIRST_PAUSE * 2);
        assert_eq!([read(&hosts, Answered), read(&hosts, Answered)], ["a", "a"]);
    }

    #[test]
    fn callers_who_wait_in_vain_and_leave_are_doubts() {
        let (hosts, clock) = hosts(&["a", "b"]);
        for _ in 0..DOUBTS {
            drop(hosts.choose(true));
            assert_eq!(read(&hosts, Nothing), "a", "they left at once");
        }
        for _ in 0..DOUBTS {
            let choice = hosts.choose(true);
            assert_eq!(choice.host().address, "a");
            clock.advance(PATIENCE);
        }
        assert_eq!(read(&hosts, Answered), "b");
    }

    #[test]
    fn one_that_comes_and_goes_is_tried_less_and_less() {
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
    fn where_all_are_out_each_has_its_turn_and_the_first_to_answer_stays() {
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
    fn a_call_that_stays_does_not_move_the_others() {
        let (hosts, _) = hosts(&["a", "b"]);
        read(&hosts, Unreachable);
        let stays = hosts.stay(0);
        assert_eq!(stays.host().address, "a");
        stays.tell(Unreachable);
        assert_eq!(write(&hosts, Answered), "b");
    }

    #[test]
    fn a_single_host_is_never_left() {
        let (hosts, _) = hosts(&["a"]);
        for sign in [Unreachable, Doubtful, Doubtful, Answered] {
            assert_eq!(read(&hosts, sign), "a");
        }
        assert_eq!(hosts.changed_at(), None);
    }
}
