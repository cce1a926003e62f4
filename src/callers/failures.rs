//! The limit on tokens with a wrong signature, so that a forger cannot keep the processor busy.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};

use crate::util::{clock::Clock, lock};

/// The most wrong signatures from one address in one window.
pub(super) const MOST: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);
/// The number of addresses that are counted. The address that failed longest ago is forgotten first.
const ADDRESSES: u64 = 16_384;

/// The wrong signatures of each address. A token that was verified is never counted.
#[derive(Debug)]
pub(super) struct Failures {
    windows: Cache<IpAddr, Arc<Mutex<Window>>>,
    clock: Clock,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u32,
}

impl Failures {
    pub(super) fn new(clock: &Clock) -> Self {
        let windows =
            Cache::builder().max_capacity(ADDRESSES).eviction_policy(EvictionPolicy::lru()).build();
        Self { windows, clock: clock.clone() }
    }

    /// Returns an error with the time to wait if the address has reached the limit.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let Some(window) = self.windows.get(&address) else { return Ok(()) };
        let window = lock(&window);
        let left = WINDOW.saturating_sub(self.clock.now().duration_since(window.began));
        match window.count >= MOST && !left.is_zero() {
            true => Err(left),
            false => Ok(()),
        }
    }

    /// Counts a wrong signature.
    pub(super) fn count(&self, address: IpAddr) {
        let now = self.clock.now();
        let new = || Arc::new(Mutex::new(Window { began: now, count: 0 }));
        let window = self.windows.get_with(address, new);
        let mut window = lock(&window);
        if now.duration_since(window.began) >= WINDOW {
            *window = Window { began: now, count: 0 };
        }
        window.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn failing_address_waits_for_next_window() {
        let (one, other) = (IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)), Ipv4Addr::LOCALHOST.into());
        let clock = Clock::frozen();
        let failures = Failures::new(&clock);
        for _ in 0..MOST {
            assert_eq!(failures.check(one), Ok(()));
            failures.count(one);
        }
        assert_eq!(failures.check(one), Err(WINDOW));
        assert_eq!(failures.check(other), Ok(()));
        clock.advance(WINDOW / 4);
        assert_eq!(failures.check(one), Err(WINDOW * 3 / 4));
        clock.advance(WINDOW * 3 / 4);
        assert_eq!(failures.check(one), Ok(()));
        failures.count(one);
        assert_eq!(failures.check(one), Ok(()), "the old failures no longer count");
    }
}
