//! Records the spent quotas (接口调用额度) of an account per path, and the paths that a server has asked
//! to leave alone with HTTP 429 and `Retry-After`.
//!
//! The gateway refuses calls that WeChat would refuse. A per-minute quota is full again in the next
//! minute, and a daily quota at midnight in China. A daily quota can also be restored earlier, if
//! an administrator clears it or buys more. Every few minutes, one call is therefore sent as a
//! *half-open probe*, and its success clears the record for all calls.
//!
//! Every process records quotas for itself, so WeChat refuses one call of each replica. The token
//! endpoints are not covered, because [`token`](super::token) records their failures.

// Not governor: it limits a known rate. WeChat keeps the count, and this remembers that WeChat refused.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use crate::{
    util::lock,
    wechat::{Errcode, Error},
};

/// The pause after the first refusal and between two probes, in seconds.
const PROBE_PAUSE: u64 = 300;
/// China is eight hours ahead of UTC, all year.
const CHINA: u64 = 8 * 3600;
const DAY: u64 = 24 * 3600;
const MINUTE: u64 = 60;

/// The spent quotas of one account, at most one entry per path.
///
/// All times are seconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<&'static str, Entry>>);

/// A spent quota.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Spent {
    /// The path of the endpoint.
    pub path: &'static str,
    /// The refusal: [`Errcode::DAILY_QUOTA`], [`Errcode::MINUTE_QUOTA`] or HTTP 429.
    pub error: Error,
    /// The time until the next probe.
    pub retry_after: Duration,
    /// When the quota is full again.
    pub until: u64,
}

/// A call that tests whether a quota is still spent. There is only one per path at a time.
#[derive(Debug)]
#[must_use = "dropped, it lets the next one begin"]
pub(crate) struct Probe<'a> {
    quotas: &'a Quotas,
    path: &'static str,
    /// Distinguishes the entry of this probe from a later one.
    ends_at: u64,
}

#[derive(Debug)]
struct Entry {
    error: Error,
    ends_at: u64,
    /// The earliest time of the next probe.
    probe_at: u64,
    is_probed: bool,
}

impl Quotas {
    /// Fails if a call to `path` must not be sent at `now`. Does not begin a probe.
    pub(crate) fn check(&self, path: &'static str, now: u64) -> Result<(), Spent> {
        match self.entries(now).get(path) {
            Some(entry) if !entry.can_probe(now) => Err(entry.spent(path, now)),
            _ => Ok(()),
        }
    }

    /// Fails if a call to `path` must not be sent now. If the quota is spent, the call may be a
    /// probe, which is returned.
    pub(crate) fn enter(&self, path: &'static str, now: u64) -> Result<Option<Probe<'_>>, Spent> {
        let mut entries = self.entries(now);
        let Some(entry) = entries.get_mut(path) else { return Ok(None) };
        if !entry.can_probe(now) {
            return Err(entry.spent(path, now));
        }
        entry.is_probed = true;
        entry.probe_at = now + PROBE_PAUSE;
        Ok(Some(Probe { quotas: self, path, ends_at: entry.ends_at }))
    }

    /// Records the result of a call that was sent at `sent_at`.
    ///
    /// Fails if a quota is spent. A 429 is recorded, too, but its call may wait and be sent again.
    pub(crate) fn record(
        &self,
        path: &'static str,
        error: Option<&Error>,
        probe: &mut Option<Probe<'_>>,
        sent_at: u64,
        now: u64,
    ) -> Result<(), Spent> {
        match error {
            Some(refusal @ Error::Refused { code, .. }) => {
                if let Some(ends_at) = end(*code, sent_at) {
                    return Err(self.insert(path, refusal, ends_at, now));
                }
            }
            Some(limit @ Error::NotExecuted { status: 429, retry_after: Some(pause) }) => {
                let _ = self.insert(path, limit, now + pause.as_secs(), now);
            }
            _ => {}
        }
        // Other calls may have been sent before the quota was spent.
        if shows_quota(error)
            && let Some(probe) = probe.take()
        {
            probe.succeed();
        }
        Ok(())
    }

    /// Returns the quotas that are spent at `now`, ordered by path.
    pub(crate) fn spent(&self, now: u64) -> Vec<Spent> {
        let entries = self.entries(now);
        let mut spent = Vec::from_iter(entries.iter().map(|(path, entry)| entry.spent(path, now)));
        spent.sort_unstable_by_key(|spent| spent.path);
        spent
    }

    /// Returns the number of quotas that are spent at `now`.
    pub(crate) fn count(&self, now: u64) -> usize {
        self.entries(now).len()
    }

    /// Forgets the daily quotas that are spent, after WeChat cleared them. A quota for a minute and a
    /// pause that a server asked for remain.
    pub(crate) fn forget_daily(&self) {
        let is_daily = |entry: &Entry| {
            matches!(entry.error, Error::Refused { code: Errcode::DAILY_QUOTA, .. })
        };
        lock(&self.0).retain(|_, entry| !is_daily(entry));
    }

    fn insert(&self, path: &'static str, error: &Error, ends_at: u64, now: u64) -> Spent {
        let mut entries = self.entries(now);
        let error = error.clone();
        let new = Entry { error, ends_at, probe_at: now + PROBE_PAUSE, is_probed: false };
        let spent = new.spent(path, now);
        match entries.get(path) {
            // A daily quota outlasts a per-minute quota and has the times of its probes.
            Some(entry) if entry.ends_at >= ends_at => {
                Spent { retry_after: entry.wait(now), until: entry.ends_at, ..spent }
            }
            _ => {
                if now < ends_at {
                    entries.insert(path, new);
                }
                spent
            }
        }
    }

    /// Returns the entries that have not ended.
    fn entries(&self, now: u64) -> MutexGuard<'_, HashMap<&'static str, Entry>> {
        let mut entries = lock(&self.0);
        entries.retain(|_, entry| now < entry.ends_at);
        entries
    }
}

impl Entry {
    fn can_probe(&self, now: u64) -> bool {
        !self.is_probed && self.probe_at <= now
    }

    fn wait(&self, now: u64) -> Duration {
        let seconds = self.probe_at.min(self.ends_at).saturating_sub(now);
        Duration::from_secs(seconds.max(1))
    }

    fn spent(&self, path: &'static str, now: u64) -> Spent {
        let (error, until) = (self.error.clone(), self.ends_at);
        Spent { path, error, retry_after: self.wait(now), until }
    }
}

impl Probe<'_> {
    /// Removes the entry, because the quota is not spent any more.
    fn succeed(self) {
        self.change(|entries| drop(entries.remove(self.path)));
    }

    /// Changes the entries if the entry of this probe is still current.
    fn change(&self, change: impl FnOnce(&mut HashMap<&'static str, Entry>)) {
        let mut entries = lock(&self.quotas.0);
        if entries.get(self.path).is_some_and(|entry| entry.ends_at == self.ends_at) {
            change(&mut entries);
        }
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.change(|entries| {
            if let Some(entry) = entries.get_mut(self.path) {
                entry.is_probed = false;
            }
        });
    }
}

/// Returns when a quota that was spent at `at` is full again, or `None` if the code is not about a
/// quota.
fn end(code: Errcode, at: u64) -> Option<u64> {
    match code {
        Errcode::DAILY_QUOTA => Some(at + DAY - (at + CHINA) % DAY),
        Errcode::MINUTE_QUOTA => Some(at + MINUTE - at % MINUTE),
        _ => None,
    }
}

/// Returns true if the answer shows that there is quota left, because WeChat processed the call
/// itself.
fn shows_quota(error: Option<&Error>) -> bool {
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

    /// Returns a frozen clock that shows noon in China.
    fn noon() -> Clock {
        let clock = Clock::frozen();
        let midnight = end(Errcode::DAILY_QUOTA, clock.unix()).expect("a quota");
        clock.advance(Duration::from_secs(midnight - clock.unix() + DAY / 2));
        clock
    }

    fn refused(code: i64) -> Error {
        Error::Refused { code: Errcode(code), message: "rid: 1".to_owned() }
    }

    fn wait(result: Result<Option<Probe<'_>>, Spent>) -> u64 {
        result.expect_err("spent").retry_after.as_secs()
    }

    /// Sends a call that gets this answer, and returns whether it was sent.
    fn send(quotas: &Quotas, path: &'static str, clock: &Clock, error: Option<&Error>) -> bool {
        let now = clock.unix();
        let Ok(mut probe) = quotas.enter(path, now) else { return false };
        let _ = quotas.record(path, error, &mut probe, now, now);
        true
    }

    /// Returns the quotas of an account that has just spent its daily quota.
    fn spent(clock: &Clock) -> Quotas {
        let quotas = Quotas::default();
        assert!(send(&quotas, PATH, clock, Some(&refused(45009))));
        quotas
    }

    fn pause(clock: &Clock) {
        clock.advance(Duration::from_secs(PROBE_PAUSE));
    }

    #[test]
    fn spent_daily_quota_blocks_only_its_path() {
        let clock = noon();
        let (quotas, other) = (spent(&clock), Quotas::default());
        let spent = quotas.check(PATH, clock.unix()).expect_err("spent");
        assert_eq!((spent.path, spent.to_string()), (PATH, refused(45009).to_string()));
        assert_eq!(spent.retry_after.as_secs(), PROBE_PAUSE);
        assert_eq!(wait(quotas.enter(PATH, clock.unix() + 1)), PROBE_PAUSE - 1);
        assert!(send(&quotas, "/wxa/add_store", &clock, None), "another path");
        assert!(send(&other, PATH, &clock, None), "another account");
    }

    #[test]
    fn failed_probe_costs_one_call_per_pause() {
        let clock = noon();
        let quotas = spent(&clock);
        for _ in 0..3 {
            pause(&clock);
            assert!(quotas.check(PATH, clock.unix()).is_ok(), "a probe is due");
            assert!(send(&quotas, PATH, &clock, Some(&refused(45009))));
            assert!(!send(&quotas, PATH, &clock, None));
            assert_eq!(wait(quotas.enter(PATH, clock.unix())), PROBE_PAUSE);
        }
    }

    #[test]
    fn single_probe_success_unblocks_all_calls() {
        let clock = noon();
        let quotas = spent(&clock);
        pause(&clock);
        let mut probe = quotas.enter(PATH, clock.unix()).expect("due");
        assert!(probe.is_some());
        pause(&clock);
        assert_eq!(wait(quotas.enter(PATH, clock.unix())), 1, "the first is still under way");
        quotas.record(PATH, None, &mut probe, clock.unix(), clock.unix()).expect("no quota");
        assert!((0..10).all(|_| send(&quotas, PATH, &clock, None)));
        assert!(quotas.0.lock().expect("no panic").is_empty());
    }

    #[test]
    fn probe_without_verdict_allows_another() {
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
    fn daily_quota_ends_at_midnight_in_china() {
        let clock = noon();
        let quotas = spent(&clock);
        clock.advance(Duration::from_secs(DAY / 2 - 1));
        let mut late = quotas.enter(PATH, clock.unix()).expect("due");
        assert_eq!(wait(quotas.enter(PATH, clock.unix())), 1, "the day is nearly over");
        clock.advance(Duration::from_secs(1));
        assert_eq!((clock.unix() + CHINA) % DAY, 0);
        assert!(quotas.enter(PATH, clock.unix()).expect("a new day").is_none());

        let yesterday = clock.unix() - 1;
        let refusal =
            quotas.record(PATH, Some(&refused(45009)), &mut late, yesterday, clock.unix());
        assert_eq!(refusal.expect_err("a quota").retry_after.as_secs(), 1);
        assert!(send(&quotas, PATH, &clock, Some(&refused(45009))), "that was yesterday's");
        quotas.record(PATH, None, &mut late, yesterday, clock.unix()).expect("no quota");
        assert!(!send(&quotas, PATH, &clock, None), "and so was its probe");
    }

    #[test]
    fn minute_quota_ends_with_the_minute() {
        let clock = noon();
        clock.advance(Duration::from_secs(20));
        let quotas = Quotas::default();
        let (now, error) = (clock.unix(), refused(45011));
        let refusal = quotas.record(PATH, Some(&error), &mut None, now, now).expect_err("a quota");
        assert_eq!((refusal.to_string(), refusal.retry_after.as_secs()), (error.to_string(), 40));
        assert_eq!(wait(quotas.enter(PATH, now + 39)), 1);
        assert!(quotas.enter(PATH, now + 40).expect("the next minute").is_none());

        let quotas = spent(&clock);
        let refusal = quotas.record(PATH, Some(&error), &mut None, now, now).expect_err("a quota");
        assert_eq!(refusal.retry_after.as_secs(), PROBE_PAUSE);
        assert_eq!(wait(quotas.enter(PATH, now + 40)), PROBE_PAUSE - 40);
    }

    #[test]
    fn later_end_replaces_recorded_quota() {
        let limited = |seconds| Error::NotExecuted {
            status: 429,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let (minute, day) = (refused(45011), refused(45009));
        // The refusals in the order of their ends, at twenty seconds past the minute.
        let by_end = [limited(10), minute, limited(200), day];
        for (first, recorded) in by_end.iter().enumerate() {
            for (second, next) in by_end.iter().enumerate() {
                let clock = noon();
                clock.advance(Duration::from_secs(20));
                let (quotas, now) = (Quotas::default(), clock.unix());
                for error in [recorded, next] {
                    let _ = quotas.record(PATH, Some(error), &mut None, now, now);
                }
                let expected = &by_end[first.max(second)];
                let spent = quotas.check(PATH, now).expect_err("spent");
                assert_eq!(spent.to_string(), expected.to_string(), "{recorded} before {next}");
                assert!(quotas.check(PATH, now + 10 - 1).is_err());
                // The daily quota is probed after the pause. The others have ended by then.
                let sent = quotas.enter(PATH, now + PROBE_PAUSE).expect("due");
                assert_eq!(sent.is_some(), first.max(second) == 3, "{recorded} before {next}");
            }
        }
    }

    #[test]
    fn only_status_429_blocks_until_retry_after() {
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
            quotas.record(PATH, Some(&error), &mut None, now, now).expect("it may be sent again");
            let spent = quotas.check(PATH, now).err().map(|spent| spent.retry_after.as_secs());
            assert_eq!(spent, expected, "{error}");
            assert!(quotas.enter(PATH, now + 7).expect("over").is_none());
        }
    }
}
