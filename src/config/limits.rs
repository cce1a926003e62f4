//! `[limits]`: how long, how much.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Mistakes;

/// `[limits]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A call's deadline where the caller sets none, in milliseconds.
    pub default_deadline_ms: u64,
    /// The longest deadline that a caller can have, in milliseconds.
    pub max_deadline_ms: u64,
    /// How many calls of one account are at WeChat at a time.
    pub account_concurrency: u32,
    /// At a stop, how long health says NOT_SERVING before new connections are refused, in
    /// milliseconds: the time load balancers need to notice.
    pub lame_duck_ms: u64,
    /// At a stop, how long running calls may go on, in milliseconds.
    pub drain_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            default_deadline_ms: 15_000,
            max_deadline_ms: 60_000,
            account_concurrency: 64,
            lame_duck_ms: 0,
            drain_ms: 20_000,
        }
    }
}

impl Limits {
    /// A call's deadline where the caller sets none.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.default_deadline_ms)
    }

    /// The longest deadline that a caller can have.
    pub fn max_deadline(&self) -> Duration {
        Duration::from_millis(self.max_deadline_ms)
    }

    /// How many calls of one account are at WeChat at a time.
    pub fn account_concurrency(&self) -> usize {
        usize::try_from(self.account_concurrency).unwrap_or(usize::MAX)
    }

    /// How long health says NOT_SERVING before new connections are refused.
    pub fn lame_duck(&self) -> Duration {
        Duration::from_millis(self.lame_duck_ms)
    }

    /// How long running calls may go on after that.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

pub(super) fn check(limits: Limits, mistakes: &mut Mistakes) -> Limits {
    if !(1..=limits.max_deadline_ms).contains(&limits.default_deadline_ms) {
        mistakes.add("limits.default_deadline_ms", "has to be from 1 to max_deadline_ms");
    }
    if limits.max_deadline_ms > 3_600_000 {
        mistakes.add("limits.max_deadline_ms", "has to be at most 3600000, an hour");
    }
    if !(1..=10_000).contains(&limits.account_concurrency) {
        mistakes.add("limits.account_concurrency", "has to be from 1 to 10000");
    }
    limits
}
