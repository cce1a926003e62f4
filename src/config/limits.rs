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
    /// How many gRPC connections are open at a time.
    pub connections: u32,
    /// How many of them come from one address.
    pub connections_per_address: u32,
    /// How many connections for pushes are open at a time.
    pub callback_connections: u32,
    /// How many of them come from one address.
    pub callback_connections_per_address: u32,
    /// How many connections of operators are open at a time.
    pub admin_connections: u32,
    /// How many of them come from one address.
    pub admin_connections_per_address: u32,
    /// How many calls are under way at a time, watches included.
    pub calls: u32,
    /// How many requests may be on their way at a time: begun, but not yet here as a whole.
    pub unfinished_requests: u32,
    /// How many MiB all requests together may have in memory.
    pub request_memory_mib: u32,
    /// How long a request that is on its way may bring nothing, in milliseconds.
    pub request_silence_ms: u64,
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
            connections: 2_048,
            connections_per_address: 1_024,
            callback_connections: 512,
            callback_connections_per_address: 256,
            admin_connections: 64,
            admin_connections_per_address: 32,
            calls: 16_384,
            unfinished_requests: 8_192,
            request_memory_mib: 128,
            request_silence_ms: 10_000,
            lame_duck_ms: 0,
            drain_ms: 20_000,
        }
    }
}

/// How many connections a listener has at a time.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// In all.
    pub in_all: usize,
    /// From one address.
    pub per_address: usize,
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
        count(self.account_concurrency)
    }

    /// For callers.
    pub fn grpc(&self) -> Connections {
        connections(self.connections, self.connections_per_address)
    }

    /// For pushes.
    pub fn callback(&self) -> Connections {
        connections(self.callback_connections, self.callback_connections_per_address)
    }

    /// For operators.
    pub fn admin(&self) -> Connections {
        connections(self.admin_connections, self.admin_connections_per_address)
    }

    /// How many calls are under way at a time.
    pub fn calls(&self) -> usize {
        count(self.calls)
    }

    /// How many requests may be on their way at a time.
    pub fn unfinished_requests(&self) -> usize {
        count(self.unfinished_requests)
    }

    /// How many bytes all requests together may have in memory.
    pub fn request_memory(&self) -> usize {
        count(self.request_memory_mib) << 20
    }

    /// How long a request that is on its way may bring nothing.
    pub fn request_silence(&self) -> Duration {
        Duration::from_millis(self.request_silence_ms)
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

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn connections(in_all: u32, per_address: u32) -> Connections {
    Connections { in_all: count(in_all), per_address: count(per_address) }
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
    for (key, connections) in [
        ("connections", limits.connections),
        ("connections_per_address", limits.connections_per_address),
        ("callback_connections", limits.callback_connections),
        ("callback_connections_per_address", limits.callback_connections_per_address),
        ("admin_connections", limits.admin_connections),
        ("admin_connections_per_address", limits.admin_connections_per_address),
    ] {
        if !(1..=100_000).contains(&connections) {
            mistakes.add(format!("limits.{key}"), "has to be from 1 to 100000");
        }
    }
    for (key, value) in
        [("calls", limits.calls), ("unfinished_requests", limits.unfinished_requests)]
    {
        if !(2..=1_000_000).contains(&value) {
            mistakes.add(format!("limits.{key}"), "has to be from 2 to 1000000");
        }
    }
    if !(32..=65_536).contains(&limits.request_memory_mib) {
        let rule = "has to be from 32 to 65536: a connection gets half, and a picture has 10";
        mistakes.add("limits.request_memory_mib", rule);
    }
    if !(100..=600_000).contains(&limits.request_silence_ms) {
        mistakes.add("limits.request_silence_ms", "has to be from 100 to 600000, ten minutes");
    }
    limits
}
