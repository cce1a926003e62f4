//! Records the recent reply times of one account, to predict those of the next calls.
//!
//! Times older than two [`PERIOD`]s are dropped, so one slow reply an hour ago does not refuse
//! calls now.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Times of the current and the previous period are kept.
const PERIOD: Duration = Duration::from_secs(10);
/// The fewest times for a prediction. With fewer, one slow reply could refuse many calls.
const FEWEST: u32 = 8;

/// Recent times of calls.
#[derive(Debug)]
pub(super) struct ReplyTimes {
    fewest: u32,
    /// The times for which calls held a permit, including calls whose caller left before the reply.
    held: Times,
    /// The times of answered calls, by path.
    answered: HashMap<&'static str, Times>,
}

/// The predicted time of a call until its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forecast {
    /// The time of the fastest recent call.
    pub(super) least: Duration,
    /// As far above the mean as the fastest call is below it. Few calls take longer.
    pub(super) most: Duration,
}

impl ReplyTimes {
    /// Creates a record for an account with this many permits.
    pub(super) fn new(permits: usize) -> Self {
        let fewest = u32::try_from(permits).unwrap_or(u32::MAX).clamp(1, FEWEST);
        Self { fewest, held: Times::default(), answered: HashMap::new() }
    }

    /// Records that a call held its permit for this time until now. `path` is set if it was
    /// answered.
    pub(super) fn record(&mut self, path: Option<&'static str>, took: Duration, now: Instant) {
        self.held.record(took, now);
        if let Some(path) = path {
            self.answered.entry(path).or_default().record(took, now);
        }
    }

    /// Returns how long a call holds its permit on average, or `None` if there are too few times.
    pub(super) fn hold(&mut self, now: Instant) -> Option<Duration> {
        let Recent { count, total, .. } = self.held.recent(now);
        (count >= self.fewest).then(|| total / count)
    }

    /// Returns how long a call to `path` takes with a permit, or zero if there are no times.
    pub(super) fn reply(&mut self, path: &str, now: Instant) -> Forecast {
        let Some(times) = self.answered.get_mut(path) else { return Forecast::default() };
        let Recent { count, total, least } = times.recent(now);
        let Some(mean) = total.checked_div(count) else { return Forecast::default() };
        Forecast { least, most: mean + (mean - least) }
    }
}

/// Times of two periods.
#[derive(Debug, Default)]
struct Times {
    /// The current period and its beginning.
    period: Option<(Instant, Recent)>,
    before: Recent,
}

/// Times of one period.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    count: u32,
    total: Duration,
    least: Duration,
}

impl Times {
    fn record(&mut self, took: Duration, now: Instant) {
        self.forget(now);
        let (_, recent) = self.period.get_or_insert((now, Recent::default()));
        *recent = recent.and(Recent { count: 1, total: took, least: took });
    }

    fn recent(&mut self, now: Instant) -> Recent {
        self.forget(now);
        self.period.map_or(self.before, |(_, recent)| recent.and(self.before))
    }

    fn forget(&mut self, now: Instant) {
        let Some((began, recent)) = self.period else { return };
        let age = now.duration_since(began);
        if age >= PERIOD {
            let over = age >= PERIOD * 2;
            self.before = if over { Recent::default() } else { recent };
            // A period ends by time, regardless of calls.
            self.period = (!over).then(|| (began + PERIOD, Recent::default()));
        }
    }
}

impl Recent {
    fn and(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        Self {
            count: self.count.saturating_add(other.count),
            total: self.total.saturating_add(other.total),
            least: self.least.min(other.least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::Clock;

    const PATH: &str = "/wxa/get_store_list";

    #[test]
    fn times_are_dropped_after_two_periods() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(1);
        assert_eq!(times.hold(clock.now()), None);
        times.record(Some(PATH), Duration::from_secs(8), clock.now());
        clock.advance(PERIOD + PERIOD / 2);
        times.record(Some(PATH), Duration::from_secs(2), clock.now());
        let foreseen = Forecast { least: Duration::from_secs(2), most: Duration::from_secs(8) };
        assert_eq!(times.reply(PATH, clock.now()), foreseen);
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(5)));
        clock.advance(PERIOD / 2);
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(2)), "the slow one is old");
        clock.advance(PERIOD);
        assert_eq!(times.hold(clock.now()), None);
        assert_eq!(times.reply(PATH, clock.now()), Forecast::default());
    }

    #[test]
    fn long_silence_drops_all_times() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(1);
        times.record(Some(PATH), Duration::from_secs(8), clock.now());
        clock.advance(PERIOD * 100);
        assert_eq!(times.hold(clock.now()), None);
        times.record(Some(PATH), Duration::from_secs(2), clock.now());
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(2)));
    }

    #[test]
    fn few_times_predict_nothing() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(64);
        for number in 1..=FEWEST {
            assert_eq!(times.hold(clock.now()), None, "{number}");
            times.record(None, Duration::from_secs(1), clock.now());
        }
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(1)));
    }

    #[test]
    fn abandoned_call_does_not_count_as_reply() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(1);
        times.record(Some(PATH), Duration::from_secs(3), clock.now());
        times.record(Some("/wxa/add_store"), Duration::from_secs(9), clock.now());
        times.record(None, Duration::ZERO, clock.now());
        let three = Duration::from_secs(3);
        assert_eq!(times.reply(PATH, clock.now()), Forecast { least: three, most: three });
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(4)));
    }
}
