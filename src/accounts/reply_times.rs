//! How long calls of one account took lately, to foresee how long the next ones will take.
//!
//! What is older than [`PERIOD`] twice counts for nothing: one slow reply of an hour ago refuses no
//! call today.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Times are kept for this one and the one before.
const PERIOD: Duration = Duration::from_secs(10);
/// Fewer times foresee nothing, or one slow reply would refuse a crowd of calls.
const FEWEST: u32 = 8;

/// What calls took lately.
#[derive(Debug)]
pub(super) struct ReplyTimes {
    fewest: u32,
    /// All calls, those included whose caller left before the reply.
    held: Times,
    /// Only those that were answered, by path.
    answered: HashMap<&'static str, Times>,
}

/// How long a call will take until its reply, if nothing changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Foreseen {
    /// As long as the fastest one lately.
    pub(super) least: Duration,
    /// As far above the mean as the fastest one is below it: few take longer.
    pub(super) most: Duration,
}

impl ReplyTimes {
    /// `slots` calls run at a time.
    pub(super) fn new(slots: usize) -> Self {
        let fewest = u32::try_from(slots).unwrap_or(u32::MAX).clamp(1, FEWEST);
        Self { fewest, held: Times::default(), answered: HashMap::new() }
    }

    /// Notes that a call held its slot for so long, until now; `path` if it was answered.
    pub(super) fn note(&mut self, path: Option<&'static str>, took: Duration, now: Instant) {
        self.held.note(took, now);
        if let Some(path) = path {
            self.answered.entry(path).or_default().note(took, now);
        }
    }

    /// Returns for how long a call holds its slot on average; nothing if too few calls show it.
    pub(super) fn hold(&mut self, now: Instant) -> Option<Duration> {
        let Recent { count, total, .. } = self.held.recent(now);
        (count >= self.fewest).then(|| total / count)
    }

    /// Returns how long a call to `path` takes once it has a slot: no time if nothing shows it.
    pub(super) fn reply(&mut self, path: &str, now: Instant) -> Foreseen {
        let Some(times) = self.answered.get_mut(path) else { return Foreseen::default() };
        let Recent { count, total, least } = times.recent(now);
        let Some(mean) = total.checked_div(count) else { return Foreseen::default() };
        Foreseen { least, most: mean + (mean - least) }
    }
}

/// Some times, of two periods.
#[derive(Debug, Default)]
struct Times {
    /// This period, and when it began.
    period: Option<(Instant, Recent)>,
    before: Recent,
}

/// Some times.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    count: u32,
    total: Duration,
    least: Duration,
}

impl Times {
    fn note(&mut self, took: Duration, now: Instant) {
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
            // From its end on, whether calls come or not.
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
    fn times_are_forgotten_after_two_periods() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(1);
        assert_eq!(times.hold(clock.now()), None);
        times.note(Some(PATH), Duration::from_secs(8), clock.now());
        clock.advance(PERIOD + PERIOD / 2);
        times.note(Some(PATH), Duration::from_secs(2), clock.now());
        let foreseen = Foreseen { least: Duration::from_secs(2), most: Duration::from_secs(8) };
        assert_eq!(times.reply(PATH, clock.now()), foreseen);
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(5)));
        clock.advance(PERIOD / 2);
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(2)), "the slow one is old");
        clock.advance(PERIOD);
        assert_eq!(times.hold(clock.now()), None);
        assert_eq!(times.reply(PATH, clock.now()), Foreseen::default());
    }

    #[test]
    fn a_long_silence_forgets_everything() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(1);
        times.note(Some(PATH), Duration::from_secs(8), clock.now());
        clock.advance(PERIOD * 100);
        assert_eq!(times.hold(clock.now()), None);
        times.note(Some(PATH), Duration::from_secs(2), clock.now());
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(2)));
    }

    #[test]
    fn few_times_of_many_slots_foresee_nothing() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(64);
        for number in 1..=FEWEST {
            assert_eq!(times.hold(clock.now()), None, "{number}");
            times.note(None, Duration::from_secs(1), clock.now());
        }
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_caller_who_left_says_nothing_about_replies() {
        let clock = Clock::frozen();
        let mut times = ReplyTimes::new(1);
        times.note(Some(PATH), Duration::from_secs(3), clock.now());
        times.note(Some("/wxa/add_store"), Duration::from_secs(9), clock.now());
        times.note(None, Duration::ZERO, clock.now());
        let three = Duration::from_secs(3);
        assert_eq!(times.reply(PATH, clock.now()), Foreseen { least: three, most: three });
        assert_eq!(times.hold(clock.now()), Some(Duration::from_secs(4)));
    }
}
