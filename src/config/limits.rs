//! `[limits]`: time limits and sizes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigErrors, Rate, callers::HIGHEST_RATE};

/// `[limits]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The deadline of a call whose caller sets none, in milliseconds.
    pub default_deadline_ms: u64,
    /// The longest deadline that a caller can set, in milliseconds.
    pub max_deadline_ms: u64,
    /// Maximum number of concurrent calls to WeChat per account.
    pub account_concurrency: u32,
    /// Maximum number of open watches per connection.
    pub watches_per_connection: u32,
    /// Maximum number of open watches per client address.
    pub watches_per_address: u32,
    /// Maximum number of open watches per caller of `[[callers]]`.
    pub watches_per_caller: u32,
    /// The calls per second of one caller of `[[callers]]`. 0 for no limit.
    pub caller_rate: u32,
    /// The calls of one caller that may come at once after a pause.
    pub caller_burst: u32,
    /// Maximum number of open gRPC connections.
    pub connections: u32,
    /// Maximum number of open gRPC connections per client address.
    pub connections_per_address: u32,
    /// Maximum number of open connections for WeChat's pushes.
    pub callback_connections: u32,
    /// Maximum number of open connections for WeChat's pushes per client address.
    pub callback_connections_per_address: u32,
    /// Maximum number of open connections for operators.
    pub admin_connections: u32,
    /// Maximum number of open connections for operators per client address.
    pub admin_connections_per_address: u32,
    /// Maximum number of calls in progress, watches included.
    pub calls: u32,
    /// Maximum number of health and reflection calls in progress, watches included.
    pub open_calls: u32,
    /// Maximum number of requests whose message has not arrived completely.
    pub unfinished_requests: u32,
    /// Maximum memory of all requests together, in MiB.
    pub request_memory_mib: u32,
    /// How long an incomplete request can pause, in milliseconds, before it is canceled.
    pub request_silence_ms: u64,
    /// Maximum number of calls at a time on one connection. Further calls wait at the client.
    pub streams_per_connection: u32,
    /// How long a gRPC connection is used, in milliseconds, plus or minus a tenth. 0: without a limit.
    pub connection_age_ms: u64,
    /// How long after that its watches can continue, in milliseconds.
    pub connection_age_grace_ms: u64,
    /// After this time without a frame the client gets a ping, in milliseconds.
    pub keepalive_interval_ms: u64,
    /// How long the client can take to answer a ping, in milliseconds.
    pub keepalive_timeout_ms: u64,
    /// Maximum number of requests of one connection that their client canceled before the gateway began
    /// them.
    pub resets_per_connection: u32,
    /// Maximum number of requests of one connection that violate HTTP/2.
    pub protocol_errors_per_connection: u32,
    /// The longest message of a request without a picture, in KiB.
    pub message_kib: u32,
    /// The longest metadata of a request, in KiB.
    pub metadata_kib: u32,
    /// At shutdown, how long health reports NOT_SERVING before the gateway refuses new connections,
    /// in milliseconds. Load balancers need this time to react.
    pub lame_duck_ms: u64,
    /// At shutdown, how long running calls can continue, in milliseconds.
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
            watches_per_caller: 1_000,
            caller_rate: 1_000,
            caller_burst: 2_000,
            connections: 2_048,
            connections_per_address: 1_024,
            callback_connections: 512,
            callback_connections_per_address: 256,
            admin_connections: 64,
            admin_connections_per_address: 32,
            calls: 16_384,
            open_calls: 8_192,
            unfinished_requests: 8_192,
            request_memory_mib: 128,
            request_silence_ms: 10_000,
            streams_per_connection: 1_024,
            connection_age_ms: 1_800_000,
            connection_age_grace_ms: 300_000,
            keepalive_interval_ms: 30_000,
            keepalive_timeout_ms: 20_000,
            resets_per_connection: 20,
            protocol_errors_per_connection: 1_024,
            message_kib: 4_096,
            metadata_kib: 16,
            lame_duck_ms: 0,
            drain_ms: 20_000,
        }
    }
}

/// The connection limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Maximum number of open connections.
    pub in_all: usize,
    /// Maximum number of open connections per client address.
    pub per_address: usize,
}

impl Limits {
    /// Returns the deadline of a call whose caller sets none.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.default_deadline_ms)
    }

    /// Returns the longest deadline that a caller can set.
    pub fn max_deadline(&self) -> Duration {
        Duration::from_millis(self.max_deadline_ms)
    }

    /// Returns the maximum number of concurrent calls to WeChat per account.
    pub fn account_concurrency(&self) -> usize {
        count(self.account_concurrency)
    }

    /// Returns the connection limits of the gRPC listener.
    pub fn grpc(&self) -> Connections {
        connections(self.connections, self.connections_per_address)
    }

    /// Returns the connection limits of the listener for WeChat's pushes.
    pub fn callback(&self) -> Connections {
        connections(self.callback_connections, self.callback_connections_per_address)
    }

    /// Returns the connection limits of the listener for operators.
    pub fn admin(&self) -> Connections {
        connections(self.admin_connections, self.admin_connections_per_address)
    }

    /// Returns the maximum number of calls in progress.
    pub fn calls(&self) -> usize {
        count(self.calls)
    }

    /// Returns the maximum number of health and reflection calls in progress.
    pub fn open_calls(&self) -> usize {
        count(self.open_calls)
    }

    /// Returns the maximum number of incomplete requests.
    pub fn unfinished_requests(&self) -> usize {
        count(self.unfinished_requests)
    }

    /// Returns the maximum memory of all requests together, in bytes.
    pub fn request_memory(&self) -> usize {
        count(self.request_memory_mib) << 20
    }

    /// Returns how long an incomplete request can pause before it is canceled.
    pub fn request_silence(&self) -> Duration {
        Duration::from_millis(self.request_silence_ms)
    }

    /// Returns the maximum number of open watches per connection.
    pub fn watches_per_connection(&self) -> usize {
        count(self.watches_per_connection)
    }

    /// Returns the maximum number of open watches per client address.
    pub fn watches_per_address(&self) -> usize {
        count(self.watches_per_address)
    }

    /// Returns how long a gRPC connection is used. `None` for no limit.
    pub fn connection_age(&self) -> Option<Duration> {
        (self.connection_age_ms > 0).then(|| Duration::from_millis(self.connection_age_ms))
    }

    /// Returns how long the watches of an old connection can continue.
    pub fn connection_age_grace(&self) -> Duration {
        Duration::from_millis(self.connection_age_grace_ms)
    }

    /// Returns the time without a frame after which the client gets a ping.
    pub fn keepalive_interval(&self) -> Duration {
        Duration::from_millis(self.keepalive_interval_ms)
    }

    /// Returns how long the client can take to answer a ping.
    pub fn keepalive_timeout(&self) -> Duration {
        Duration::from_millis(self.keepalive_timeout_ms)
    }

    /// Returns the maximum number of requests of one connection that their client canceled early.
    pub fn resets_per_connection(&self) -> usize {
        count(self.resets_per_connection)
    }

    /// Returns the maximum number of requests of one connection that violate HTTP/2.
    pub fn protocol_errors_per_connection(&self) -> usize {
        count(self.protocol_errors_per_connection)
    }

    /// Returns the longest message of a request without a picture, in bytes.
    pub fn longest_message(&self) -> usize {
        count(self.message_kib) << 10
    }

    /// Returns the longest metadata of a request, in bytes.
    pub fn longest_metadata(&self) -> usize {
        count(self.metadata_kib) << 10
    }

    /// Returns the maximum number of open watches per caller.
    pub fn watches_per_caller(&self) -> usize {
        count(self.watches_per_caller)
    }

    /// Returns the rate of a caller whose section names none.
    pub fn caller_rate(&self) -> Rate {
        Rate { per_second: self.caller_rate, burst: self.caller_burst }
    }

    /// Returns how long health reports NOT_SERVING before the gateway refuses new connections.
    pub fn lame_duck(&self) -> Duration {
        Duration::from_millis(self.lame_duck_ms)
    }

    /// Returns how long running calls can continue after that.
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

pub(super) fn check(limits: Limits, errors: &mut ConfigErrors) -> Limits {
    let (default, max) = (limits.default_deadline_ms, limits.max_deadline_ms);
    if !(1..=max).contains(&default) {
        errors.add(
            "limits.default_deadline_ms",
            format!("must be between 1 and limits.max_deadline_ms ({max}), but is {default}"),
        );
    }
    if max > 3_600_000 {
        errors.add(
            "limits.max_deadline_ms",
            format!("must be at most 3600000 (one hour), but is {max}"),
        );
    }
    for (key, value, range) in [
        ("account_concurrency", limits.account_concurrency, 1..=10_000),
        ("watches_per_connection", limits.watches_per_connection, 1..=1_000_000),
        ("watches_per_address", limits.watches_per_address, 1..=1_000_000),
        ("watches_per_caller", limits.watches_per_caller, 1..=1_000_000),
        ("caller_rate", limits.caller_rate, 0..=HIGHEST_RATE),
        ("caller_burst", limits.caller_burst, 1..=HIGHEST_RATE),
        ("connections", limits.connections, 1..=100_000),
        ("connections_per_address", limits.connections_per_address, 1..=100_000),
        ("callback_connections", limits.callback_connections, 1..=100_000),
        ("callback_connections_per_address", limits.callback_connections_per_address, 1..=100_000),
        ("admin_connections", limits.admin_connections, 1..=100_000),
        ("admin_connections_per_address", limits.admin_connections_per_address, 1..=100_000),
        ("calls", limits.calls, 2..=1_000_000),
        ("open_calls", limits.open_calls, 2..=1_000_000),
        ("unfinished_requests", limits.unfinished_requests, 2..=1_000_000),
        // One connection can use half of it, and a picture has up to 10 MiB.
        ("request_memory_mib", limits.request_memory_mib, 32..=65_536),
        ("streams_per_connection", limits.streams_per_connection, 1..=100_000),
        ("resets_per_connection", limits.resets_per_connection, 1..=100_000),
        ("protocol_errors_per_connection", limits.protocol_errors_per_connection, 1..=1_000_000),
        // No request without a picture is longer than 4 MiB.
        ("message_kib", limits.message_kib, 16..=4_096),
        ("metadata_kib", limits.metadata_kib, 4..=64),
    ] {
        errors.check_range(format!("limits.{key}"), value, range);
    }
    for (key, value, range) in [
        ("request_silence_ms", limits.request_silence_ms, 100..=600_000),
        ("connection_age_grace_ms", limits.connection_age_grace_ms, 0..=86_400_000),
        ("keepalive_interval_ms", limits.keepalive_interval_ms, 1_000..=3_600_000),
        ("keepalive_timeout_ms", limits.keepalive_timeout_ms, 1_000..=600_000),
    ] {
        errors.check_range(format!("limits.{key}"), value, range);
    }
    if limits.connection_age_ms != 0 {
        errors.check_range(
            "limits.connection_age_ms",
            limits.connection_age_ms,
            1_000..=604_800_000,
        );
    }
    limits
}
