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
    /// How many watches a connection may have open at a time.
    pub watches_per_connection: u32,
    /// How many watches all connections from one address may have open at a time.
    pub watches_per_address: u32,
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
            watches_per_connection: 1_000,
            watches_per_address: 10_000,
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

    /// How many watches a connection may have open at a time.
    pub fn watches_per_connection(&self) -> usize {
        usize::try_from(self.watches_per_connection).unwrap_or(usize::MAX)
    }

    /// How many watches all connections from one address may have open at a time.
    pub fn watches_per_address(&self) -> usize {
        usize::try_from(self.watches_per_address).unwrap_or(usize::MAX)
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
    for (key, watches) in [
        ("limits.watches_per_connection", limits.watches_per_connection),
        ("limits.watches_per_address", limits.watches_per_address),
    ] {
        if !(1..=1_000_000).contains(&watches) {
            mistakes.add(key, "has to be from 1 to 1000000");
        }
    }
    limits
}
