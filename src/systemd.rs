//! Reports to systemd, if it started this process: ready, reloading, stopping, alive. Otherwise nothing
//! happens. `deploy/systemd/` has the unit.

use std::{future::Future, time::Duration};

#[cfg(unix)]
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// systemd waits this long beyond the time that an orderly end needs, for the last traces.
const REMAINDER: Duration = Duration::from_secs(10);
/// A sign of life goes out so many times within the time after which systemd ends the process.
const SIGNS: u32 = 3;

/// Reports that the process serves, with the settings of the start or with new ones. `status` is a line of
/// `systemctl status`.
pub(crate) fn ready(status: &str) {
    #[cfg(unix)]
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    #[cfg(not(unix))]
    let _ = status;
}

/// Reports that SIGHUP makes the process read its settings. [`ready`] must follow.
pub(crate) fn reloading() {
    // systemd compares the time with that of its signal. Without the time it would end the process.
    #[cfg(unix)]
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "failed to read the time for systemd"),
    }
}

/// Reports that the process ends, and how long that may take.
pub(crate) fn stopping(longest: Duration) {
    #[cfg(unix)]
    {
        let longest = u32::try_from((longest + REMAINDER).as_micros()).unwrap_or(u32::MAX);
        notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)]);
    }
    #[cfg(not(unix))]
    let _ = longest + REMAINDER;
}

/// Reports a sign of life each time that `check` succeeds, if systemd waits for them. Never ends if it does.
/// If the process can no longer check, systemd ends it and starts it again.
pub(crate) async fn report_life<F: Future<Output = bool>>(check: impl Fn() -> F) {
    #[cfg(unix)]
    if let Some(limit) = sd_notify::watchdog_enabled() {
        repeat(limit / SIGNS, check, || notify(&[NotifyState::Watchdog])).await;
    }
    #[cfg(not(unix))]
    let _ = check;
}

/// Calls `report` each time that `check` succeeds within the interval. Never ends.
async fn repeat<F: Future<Output = bool>>(
    every: Duration,
    check: impl Fn() -> F,
    report: impl Fn(),
) {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if timeout(every, check()).await.unwrap_or(false) {
            report();
        }
    }
}

#[cfg(unix)]
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "failed to report to systemd");
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_successful_checks_are_reported() {
        let (checks, signs) = (Cell::new(0), Cell::new(0));
        let check = || {
            checks.set(checks.get() + 1);
            let number = checks.get();
            async move {
                match number {
                    1 | 4 => true,
                    2 => false,
                    _ => pending().await,
                }
            }
        };
        let second = Duration::from_secs(1);
        let forever = repeat(second, check, || signs.set(signs.get() + 1));
        let _ = timeout(second * 10, forever).await;
        assert!(checks.get() >= 5, "a check without an answer ends nothing: {}", checks.get());
        assert_eq!(signs.get(), 2);
    }
}
