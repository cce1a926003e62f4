//! Which of WeChat's quotas (接口调用额度) an account has spent, remembered per path; and which
//! paths a server on the way wants to have left alone, by HTTP 429 with `Retry-After`.
//!
//! What WeChat would refuse is refused here. A minute's quota is full again with the next minute, a
//! day's at midnight in China; but a day's can also be lifted early, when somebody clears it or buys
//! more. So every few minutes one call goes through as a *trial*, and a success ends the memory for
//! all.
//!
//! Every process learns for itself: of each replica one call is refused by WeChat. The token
//! endpoints are not covered, since [`token`](super::token) remembers their failures.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::wechat::{Errcode, Error};

/// In seconds. After the first refusal, and between two trials.
const TRIAL_PAUSE: u64 = 300;
/// China is eight hours ahead of UTC, all year.
const CHINA: u64 = 8 * 3600;
const DAY: u64 = 24 * 3600;
const MINUTE: u64 = 60;

/// The quotas of one account that are known to be spent: at most one entry per path that we call.
///
/// All times are seconds since 1970.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<HashMap<&'static str, Memory>>);

/// A quota that is spent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Spent {
    /// The endpoint.
    pub path: &'static str,
    /// What came instead of a reply: [`Errcode::DAILY_QUOTA`], [`Errcode::MINUTE_QUOTA`] or HTTP
    /// 429.
    pub error: Error,
    /// When WeChat is asked again.
    pub retry_after: Duration,
    /// When the quota is full again.
    pub until: u64,
}

/// A call that finds out whether a quota is still spent. Only one per path is under way.
#[derive(Debug)]
#[must_use = "dropped, it lets the next one begin"]
pub struct Trial<'a> {
    quotas: &'a Quotas,
    path: &'static str,
    /// Tells the memory that it is about from a later one.
    ends_at: u64,
}

#[derive(Debug)]
struct Memory {
    error: Error,
    ends_at: u64,
    /// No trial begins before.
    trial_at: u64,
    on_trial: bool,
}

impl Quotas {
    /// Fails where a call to `path` could not be sent at `now`. Begins no trial yet.
    pub fn check(&self, path: &'static str, now: u64) -> Result<(), Spent> {
        match self.known(now).get(path) {
            Some(memory) if !memory.wants_trial(now) => Err(memory.told(path, now)),
            _ => Ok(()),
        }
    }

    /// The same for a call that is sent at once: where the quota is spent it may be a trial.
    pub fn enter(&self, path: &'static str, now: u64) -> Result<Option<Trial<'_>>, Spent> {
        let mut known = self.known(now);
        let Some(memory) = known.get_mut(path) else { return Ok(None) };
        if !memory.wants_trial(now) {
            return Err(memory.told(path, now));
        }
        memory.on_trial = true;
        memory.trial_at = now + TRIAL_PAUSE;
        Ok(Some(Trial { quotas: self, path, ends_at: memory.ends_at }))
    }

    /// Learns from what became of a call that was sent at `sent_at`. Fails if that was a quota; a
    /// 429 is remembered as well, but its call may still wait and be sent again.
    pub fn learn(
        &self,
        path: &'static str,
        error: Option<&Error>,
        trial: &mut Option<Trial<'_>>,
        sent_at: u64,
        now: u64,
    ) -> Result<(), Spent> {
        match error {
            Some(refusal @ Error::Refused { code, .. }) => {
                if let Some(ends_at) = end(*code, sent_at) {
                    return Err(self.remember(path, refusal, ends_at, now));
                }
            }
            Some(limit @ Error::NotExecuted { status: 429, retry_after: Some(pause) }) => {
                let _ = self.remember(path, limit, now + pause.as_secs(), now);
            }
            _ => {}
        }
        // Others were perhaps sent before it was spent.
        if passes(error)
            && let Some(trial) = trial.take()
        {
            trial.succeed();
        }
        Ok(())
    }

    fn remember(&self, path: &'static str, error: &Error, ends_at: u64, now: u64) -> Spent {
        let mut known = self.known(now);
        let error = error.clone();
        let new = Memory { error, ends_at, trial_at: now + TRIAL_PAUSE, on_trial: false };
        let told = new.told(path, now);
        match known.get(path) {
            // That of the day says more than that of a minute, and knows when its trials were.
            Some(memory) if memory.ends_at >= ends_at => {
                Spent { retry_after: memory.wait(now), until: memory.ends_at, ..told }
            }
            _ => {
                if now < ends_at {
                    known.insert(path, new);
                }
                told
            }
        }
    }

    /// What is not over.
    fn known(&self, now: u64) -> MutexGuard<'_, HashMap<&'static str, Memory>> {
        // Every change is complete before anything can panic.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, memory| now < memory.ends_at);
        known
    }
}

impl Memory {
    fn wants_trial(&self, now: u64) -> bool {
        !self.on_trial && self.trial_at <= now
    }

    fn wait(&self, now: u64) -> Duration {
        let seconds = self.trial_at.min(self.ends_at).saturating_sub(now);
        Duration::from_secs(seconds.max(1))
    }

    fn told(&self, path: &'static str, now: u64) -> Spent {
        let (error, until) = (self.error.clone(), self.ends_at);
        Spent { path, error, retry_after: self.wait(now), until }
    }
}

impl Trial<'_> {
    /// The quota is not spent any more.
    fn succeed(self) {
        self.change(|known| drop(known.remove(self.path)));
    }

    /// Changes what is known, if it is still what this is the trial of.
    fn change(&self, change: impl FnOnce(&mut HashMap<&'static str, Memory>)) {
        let mut known = self.quotas.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(self.path).is_some_and(|memory| memory.ends_at == self.ends_at) {
            change(&mut known);
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.change(|known| {
            if let Some(memory) = known.get_mut(self.path) {
                memory.on_trial = false;
            }
        });
    }
}

/// When a quota is full again that was spent at `at`; nothing for what is no quota.
fn end(code: Errcode, at: u64) -> Option<u64> {
    match code {
        Errcode::DAILY_QUOTA => Some(at + DAY - (at + CHINA) % DAY),
        Errcode::MINUTE_QUOTA => Some(at + MINUTE - at % MINUTE),
        _ => None,
    }
}

/// Whether WeChat's answer shows that there is quota left: it looked at the call itself.
fn passes(error: Option<&Error>) -> bool {
    match error {
        None => true,
        Some(Error::Refused { code, .. }) => !code.refuses_token() && *code != Errcode::BUSY,
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::Clock;

    const PATH: &str = "/wxa/get_store_list";

    /// A frozen clock, on which it is noon in China.
    fn noon() -> Clock {
        let clock = Clock::frozen();
        let midnight = end(Errcode::DAILY_QUOTA, clock.unix()).expect("a quota");
        clock.advance(Duration::from_secs(midnight - clock.unix() + DAY / 2));
        clock
    }

    fn refused(code: i64) -> Error {
        Error::Refused { code: Errcode(code), message: "rid: 1".to_owned() }
    }

    fn wait(result: Result<Option<Trial<'_>>, Spent>) -> u64 {
        result.expect_err("spent").retry_after.as_secs()
    }

    /// Sends a call that WeChat answers so.
    fn send(quotas: &Quotas, path: &'static str, clock: &Clock, error: Option<&Error>) -> bool {
        let now = clock.unix();
        let Ok(mut trial) = quotas.enter(path, now) else { return false };
        let _ = quotas.learn(path, error, &mut trial, now, now);
        true
    }

    /// An account whose daily quota is spent since now.
    fn spent(clock: &Clock) -> Quotas {
        let quotas = Quotas::default();
        assert!(send(&quotas, PATH, clock, Some(&refused(45009))));
        quotas
    }

    fn pause(clock: &Clock) {
        clock.advance(Duration::from_secs(TRIAL_PAUSE));
    }

    #[test]
    fn a_daily_quota_is_remembered_for_its_path_alone() {
        let clock = noon();
        let (quotas, other) = (spent(&clock), Quotas::default());
        let told = quotas.check(PATH, clock.unix()).expect_err("spent");
        assert_eq!((told.path, told.to_string()), (PATH, refused(45009).to_string()));
        assert_eq!(told.retry_after.as_secs(), TRIAL_PAUSE);
        assert_eq!(wait(quotas.enter(PATH, clock.unix() + 1)), TRIAL_PAUSE - 1);
        assert!(send(&quotas, "/wxa/add_store", &clock, None), "another path");
        assert!(send(&other, PATH, &clock, None), "another account");
    }

    #[test]
    fn a_trial_that_fails_costs_one_call_in_a_pause() {
        let clock = noon();
        let quotas = spent(&clock);
        for _ in 0..3 {
            pause(&clock);
            assert!(quotas.check(PATH, clock.unix()).is_ok(), "a trial is due");
            assert!(send(&quotas, PATH, &clock, Some(&refused(45009))));
            assert!(!send(&quotas, PATH, &clock, None));
            assert_eq!(wait(quotas.enter(PATH, clock.unix())), TRIAL_PAUSE);
        }
    }

    #[test]
    fn there_is_one_trial_at_a_time_and_its_success_counts_for_all() {
        let clock = noon();
        let quotas = spent(&clock);
        pause(&clock);
        let mut trial = quotas.enter(PATH, clock.unix()).expect("due");
        assert!(trial.is_some());
        pause(&clock);
        assert_eq!(wait(quotas.enter(PATH, clock.unix())), 1, "the first is still under way");
        quotas.learn(PATH, None, &mut trial, clock.unix(), clock.unix()).expect("no quota");
        assert!((0..10).all(|_| send(&quotas, PATH, &clock, None)));
        assert!(quotas.0.lock().expect("no panic").is_empty());
    }

    #[test]
    fn a_trial_without_a_verdict_lets_the_next_one_begin() {
        let clock = noon();
        let quotas = spent(&clock);
        pause(&clock);
        drop(quotas.enter(PATH, clock.unix()).expect("due"));
        assert!(!send(&quotas, PATH, &clock, None), "after a pause");
        for undecided in [refused(40001), refused(-1), Error::Lost { cause: String::new() }] {
            pause(&clock);
            assert!(send(&quotas, PATH, &clock, Some(&undecided)));
            assert!(!send(&quotas, PATH, &clock, None));
        }
        pause(&clock);
        assert!(send(&quotas, PATH, &clock, Some(&refused(65115))), "WeChat looked for the store");
        assert!(send(&quotas, PATH, &clock, None));
    }

    #[test]
    fn a_day_ends_at_midnight_in_china() {
        let clock = noon();
        let quotas = spent(&clock);
        clock.advance(Duration::from_secs(DAY / 2 - 1));
        let mut late = quotas.enter(PATH, clock.unix()).expect("due");
        assert_eq!(wait(quotas.enter(PATH, clock.unix())), 1, "the day is nearly over");
        clock.advance(Duration::from_secs(1));
        assert_eq!((clock.unix() + CHINA) % DAY, 0);
        assert!(quotas.enter(PATH, clock.unix()).expect("a new day").is_none());

        let yesterday = clock.unix() - 1;
        let heard = quotas.learn(PATH, Some(&refused(45009)), &mut late, yesterday, clock.unix());
        assert_eq!(heard.expect_err("a quota").retry_after.as_secs(), 1);
        assert!(send(&quotas, PATH, &clock, Some(&refused(45009))), "that was yesterday's");
        quotas.learn(PATH, None, &mut late, yesterday, clock.unix()).expect("no quota");
        assert!(!send(&quotas, PATH, &clock, None), "and so was its trial");
    }

    #[test]
    fn a_minute_ends_with_the_next_one_and_not_the_day() {
        let clock = noon();
        clock.advance(Duration::from_secs(20));
        let quotas = Quotas::default();
        let (now, error) = (clock.unix(), refused(45011));
        let heard = quotas.learn(PATH, Some(&error), &mut None, now, now).expect_err("a quota");
        assert_eq!((heard.to_string(), heard.retry_after.as_secs()), (error.to_string(), 40));
        assert_eq!(wait(quotas.enter(PATH, now + 39)), 1);
        assert!(quotas.enter(PATH, now + 40).expect("the next minute").is_none());

        let quotas = spent(&clock);
        let heard = quotas.learn(PATH, Some(&error), &mut None, now, now).expect_err("a quota");
        assert_eq!(heard.retry_after.as_secs(), TRIAL_PAUSE);
        assert_eq!(wait(quotas.enter(PATH, now + 40)), TRIAL_PAUSE - 40);
    }

    #[test]
    fn a_known_quota_gives_way_only_to_one_that_ends_later() {
        let limited = |seconds| Error::NotExecuted {
            status: 429,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let (minute, day) = (refused(45011), refused(45009));
        // In the order of their ends, at twenty seconds past the minute.
        let by_end = [limited(10), minute, limited(200), day];
        for (first, known) in by_end.iter().enumerate() {
            for (second, next) in by_end.iter().enumerate() {
                let clock = noon();
                clock.advance(Duration::from_secs(20));
                let (quotas, now) = (Quotas::default(), clock.unix());
                for error in [known, next] {
                    let _ = quotas.learn(PATH, Some(error), &mut None, now, now);
                }
                let expected = &by_end[first.max(second)];
                let told = quotas.check(PATH, now).expect_err("spent");
                assert_eq!(told.to_string(), expected.to_string(), "{known} before {next}");
                assert!(quotas.check(PATH, now + 10 - 1).is_err());
                // A day is asked for again after the pause, the others are over by then.
                let sent = quotas.enter(PATH, now + TRIAL_PAUSE).expect("due");
                assert_eq!(sent.is_some(), first.max(second) == 3, "{known} before {next}");
            }
        }
    }

    #[test]
    fn a_429_is_remembered_as_long_as_it_says_and_no_other_status_is() {
        let clock = noon();
        let pause = Some(Duration::from_secs(7));
        for (error, expected) in [
            (Error::NotExecuted { status: 429, retry_after: pause }, Some(7)),
            (Error::NotExecuted { status: 429, retry_after: Some(Duration::ZERO) }, None),
            (Error::NotExecuted { status: 429, retry_after: None }, None),
            (Error::NotExecuted { status: 403, retry_after: pause }, None),
            (Error::BadStatus { status: 503, retry_after: pause }, None),
        ] {
            let quotas = Quotas::default();
            let now = clock.unix();
            quotas.learn(PATH, Some(&error), &mut None, now, now).expect("it may be sent again");
            let told = quotas.check(PATH, now).err().map(|told| told.retry_after.as_secs());
            assert_eq!(told, expected, "{error}");
            assert!(quotas.enter(PATH, now + 7).expect("over").is_none());
        }
    }
}
