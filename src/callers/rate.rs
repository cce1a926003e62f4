//! The rate at which one caller may call.

use std::{fmt, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{self, Clock as _},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::{config::Rate, util::clock::Clock};

/// The limit on the calls of one caller.
pub(super) struct Limiter(
    RateLimiter<NotKeyed, InMemoryState, Time, NoOpMiddleware<std::time::Instant>>,
);

impl Limiter {
    /// Returns the limiter of a rate, or `None` if there is no limit.
    pub(super) fn new(Rate { per_second, burst }: Rate, clock: &Clock) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        let burst = NonZeroU32::new(burst).unwrap_or(per_second);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Some(Self(RateLimiter::direct_with_clock(quota, Time(clock.clone()))))
    }

    /// Counts a call. Returns the time until the next one is allowed if this one is not.
    pub(super) fn check(&self) -> Result<(), Duration> {
        let now = self.0.clock().now();
        self.0.check().map_err(|refused| refused.wait_time_from(now))
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limiter")
    }
}

/// The gateway's time, for `governor`.
#[derive(Clone, Debug)]
struct Time(Clock);

impl clock::Clock for Time {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        self.0.now()
    }
}
