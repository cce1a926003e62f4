//! The one source of time.
//!
//! All code that reads the time or waits for a moment uses a [`Clock`]. So the simulator and tests can move
//! time forward without sleeping. Tokio's paused time would not do, because it stops neither sockets nor
//! other threads.
//!
//! This is a crate of its own because the gateway and the simulator share it and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

/// Returns the time and waits for moments. It is cheap to clone, and clones share one time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    started_wall: SystemTime,
    /// Whether time passes by itself. If not, only [`Clock::advance`] moves the clock.
    runs: bool,
    /// How far the clock was advanced by hand, in nanoseconds. It holds about five hundred years.
    advanced: AtomicU64,
    /// Wakes the sleepers when `advanced` changes.
    changes: watch::Sender<()>,
}

impl Clock {
    /// Returns a clock that runs with real time and can be advanced beyond it.
    pub fn system() -> Self {
        Self::new(true)
    }

    /// Returns a clock that stands still until it is advanced, for tests.
    pub fn frozen() -> Self {
        Self::new(false)
    }

    /// Returns the time since an arbitrary start. It never goes back.
    pub fn now(&self) -> Instant {
        self.real() + self.advanced()
    }

    /// Returns the date and time of day. It follows the machine's clock when that is set, even backward.
    /// So a service that started with a wrong clock is right as soon as the machine's clock is right.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub fn wall(&self) -> SystemTime {
        let real = if self.0.runs { SystemTime::now() } else { self.0.started_wall };
        real + self.advanced()
    }

    /// Returns the seconds since 1970-01-01 UTC.
    pub fn unix(&self) -> u64 {
        self.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// Waits until `deadline`, which comes as time passes or by [`Clock::advance`].
    pub async fn sleep_until(&self, deadline: Instant) {
        let mut changes = self.0.changes.subscribe();
        loop {
            let real = self.real();
            let left = deadline.saturating_duration_since(real + self.advanced());
            if left.is_zero() {
                return;
            }
            if self.0.runs {
                tokio::select! {
                    () = tokio::time::sleep_until((real + left).into()) => {}
                    // The sender lives in `self`, so this ends only by a change.
                    _ = changes.changed() => {}
                }
            } else {
                let _ = changes.changed().await;
            }
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// Moves the time forward and wakes every sleeper whose moment has come.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let _ = self.0.advanced.fetch_update(Ordering::Release, Ordering::Relaxed, |advanced| {
            Some(advanced.saturating_add(by))
        });
        self.0.changes.send_replace(());
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn new(runs: bool) -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            started_wall: SystemTime::now(),
            runs,
            advanced: AtomicU64::new(0),
            changes: watch::Sender::new(()),
        }))
    }

    fn real(&self) -> Instant {
        if self.0.runs { Instant::now() } else { self.0.started }
    }

    fn advanced(&self) -> Duration {
        Duration::from_nanos(self.0.advanced.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frozen_clock_moves_only_when_advanced() {
        let clock = Clock::frozen();
        let (start, wall) = (clock.now(), clock.wall());
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(3600)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(clock.now(), start);
        assert!(!sleeper.is_finished());

        clock.advance(Duration::from_secs(3600));
        sleeper.await.expect("the sleeper wakes");
        assert_eq!(clock.now() - start, Duration::from_secs(3600));
        assert_eq!(clock.wall().duration_since(wall).ok(), Some(Duration::from_secs(3600)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "compared with the one clock")]
    fn wall_time_follows_a_reset_machine_clock() {
        let mut clock = Clock::system();
        let inner = Arc::get_mut(&mut clock.0).expect("only here");
        inner.started_wall -= Duration::from_secs(3600);
        clock.advance(Duration::from_secs(60));
        let ahead = clock.wall().duration_since(SystemTime::now()).expect("ahead").as_secs();
        assert!((59..=60).contains(&ahead), "{ahead} s");
    }
}
