//! Limits log lines, so that a flood of failures does not become a flood of lines.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use crate::util::lock;

/// The number of lines per cause that may be written at once.
const BURST: u32 = 20;
/// The interval of further lines.
const PAUSE: Duration = Duration::from_secs(1);
/// The number of causes with a limit of their own. All others share one limit, because a caller can
/// invent causes, such as method names.
const CAUSES: usize = 512;

/// Returns how many lines of this cause were suppressed since the last one, or `None` if this one must
/// be suppressed, too.
///
/// The first 20 lines of each `cause` of a `line` may be written, then one per second.
///
/// ```ignore
/// if let Some(unlogged) = telemetry::may_log("refused a push", reason) {
///     tracing::warn!(reason, unlogged, "refused a push");
/// }
/// ```
pub(crate) fn may_log(line: &'static str, cause: &str) -> Option<u64> {
    static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(Mutex::default);
    let mut lines = lock(&LINES);
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
    /// When the bucket is full again. Each line uses up one interval. `None` before the first line.
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
    fn flood_of_one_cause_is_limited_and_counted() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let written = (0..100_000).filter(|_| lines.take("line", "a", start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(lines.take("line", "a", start + PAUSE), Some(99_980));
        assert_eq!(lines.take("line", "a", start + PAUSE), None);
        assert_eq!(lines.take("line", "a", start + 1_000 * PAUSE), Some(1));
    }

    #[test]
    fn flood_of_one_cause_does_not_hide_others() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        for _ in 0..1_000 {
            lines.take("line", "a", start);
        }
        assert_eq!(lines.take("line", "b", start), Some(0));
        assert_eq!(lines.take("another line", "a", start), Some(0));
    }

    #[test]
    fn invented_causes_use_bounded_memory() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let mut take = |cause: usize, at| lines.take("line", &cause.to_string(), at).is_some();
        let written = (0..100_000).filter(|cause| take(*cause, start)).count();
        assert_eq!(written, CAUSES + BURST as usize);
        assert!(take(100_000, start + 2 * PAUSE), "a quiet cause gives its place away");
        assert_eq!(lines.causes.len(), 1);
    }
}
