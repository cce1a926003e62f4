//! A limit on log lines, so that a flood of failures is no flood of lines.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many lines of one cause are written at once …
const BURST: u32 = 20;
/// … and then one in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// So many causes are told apart. What comes beyond them shares one limit, since a caller can make up
/// causes, such as names of methods.
const CAUSES: usize = 512;

/// How many lines of this cause were left out since the last one, if one may be written now.
///
/// Of each `cause` of a `line` the first 20 may be written, then one a second.
///
/// ```ignore
/// if let Some(unlogged) = telemetry::seldom("refused a push", reason) {
///     tracing::warn!(reason, unlogged, "refused a push");
/// }
/// ```
pub(crate) fn seldom(line: &'static str, cause: &str) -> Option<u64> {
    static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(Mutex::default);
    // A panic between two lines of code leaves nothing half done here.
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.take(line, cause, Instant::now())
}

#[derive(Debug, Default)]
struct Lines {
    hasher: RandomState,
    causes: HashMap<u64, Bucket>,
    others: Bucket,
}

impl Lines {
    fn take(&mut self, line: &'static str, cause: &str, now: Instant) -> Option<u64> {
        let key = self.hasher.hash_one((line, cause));
        if self.causes.len() >= CAUSES && !self.causes.contains_key(&key) {
            self.causes.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = match self.causes.len() < CAUSES || self.causes.contains_key(&key) {
            true => self.causes.entry(key).or_default(),
            false => &mut self.others,
        };
        bucket.take(now)
    }
}

/// The lines of one cause.
#[derive(Debug, Default)]
struct Bucket {
    /// When it will be full again: each line takes one pause of it. `None` before the first.
    full_at: Option<Instant>,
    unlogged: u64,
}

impl Bucket {
    fn is_full(&self, now: Instant) -> bool {
        self.unlogged == 0 && self.full_at.is_none_or(|full_at| full_at <= now)
    }

    fn take(&mut self, now: Instant) -> Option<u64> {
        let full_at = self.full_at.unwrap_or(now).max(now) + PAUSE;
        if full_at > now + BURST * PAUSE {
            self.unlogged += 1;
            return None;
        }
        self.full_at = Some(full_at);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_cause_is_a_few_lines_and_a_count() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let written = (0..100_000).filter(|_| lines.take("line", "a", start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(lines.take("line", "a", start + PAUSE), Some(99_980));
        assert_eq!(lines.take("line", "a", start + PAUSE), None);
        assert_eq!(lines.take("line", "a", start + 1_000 * PAUSE), Some(1));
    }

    #[test]
    fn a_flood_of_one_cause_hides_no_other() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        for _ in 0..1_000 {
            lines.take("line", "a", start);
        }
        assert_eq!(lines.take("line", "b", start), Some(0));
        assert_eq!(lines.take("another line", "a", start), Some(0));
    }

    #[test]
    fn made_up_causes_take_no_more_memory_than_is_set() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let mut take = |cause: usize, at| lines.take("line", &cause.to_string(), at).is_some();
        let written = (0..100_000).filter(|cause| take(*cause, start)).count();
        assert_eq!(written, CAUSES + BURST as usize);
        assert!(take(100_000, start + 2 * PAUSE), "a quiet cause gives its place away");
        assert_eq!(lines.causes.len(), 1);
    }
}
