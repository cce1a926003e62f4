//! `[audit]`: how the gateway follows reviews.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigErrors;

/// `[audit]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Hours without a push after which the gateway polls WeChat for a review's result. 0: never.
    pub poll_after_hours: f64,
    /// Hours between two polls of the same review.
    pub poll_interval_hours: f64,
    /// Hours after which an open review counts as overdue.
    pub overdue_after_hours: f64,
    /// Seconds without an event after which a watcher receives a checkpoint.
    pub checkpoint_seconds: f64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            poll_after_hours: 24.0,
            poll_interval_hours: 6.0,
            overdue_after_hours: 168.0,
            checkpoint_seconds: 30.0,
        }
    }
}

/// The shortest time between two polls, so that a tiny setting does not poll WeChat continuously.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The longest time that can be set: ten years.
const MAX_HOURS: f64 = 87_600.0;

impl Audit {
    /// Returns the time without a push after which WeChat is polled, or `None` for never.
    pub fn poll_after(&self) -> Option<Duration> {
        (self.poll_after_hours > 0.0).then(|| hours(self.poll_after_hours))
    }

    /// Returns the time between two polls of the same review.
    pub fn poll_interval(&self) -> Duration {
        hours(self.poll_interval_hours).max(MIN_POLL_INTERVAL)
    }

    /// Returns the time after which an open review counts as overdue.
    pub fn overdue_after(&self) -> Duration {
        hours(self.overdue_after_hours)
    }

    /// Returns the time without an event after which a watcher receives a checkpoint.
    pub fn checkpoint(&self) -> Duration {
        Duration::from_secs_f64(self.checkpoint_seconds)
    }
}

fn hours(hours: f64) -> Duration {
    Duration::from_secs_f64(hours * 3600.0)
}

pub(super) fn check(audit: Audit, errors: &mut ConfigErrors) -> Audit {
    errors.check_range("audit.poll_after_hours", audit.poll_after_hours, 0.0..=MAX_HOURS);
    for (key, value) in [
        ("audit.poll_interval_hours", audit.poll_interval_hours),
        ("audit.overdue_after_hours", audit.overdue_after_hours),
    ] {
        if !(value > 0.0 && value <= MAX_HOURS) {
            errors.add(key, format!("must be more than 0 and at most {MAX_HOURS}, but is {value}"));
        }
    }
    errors.check_range("audit.checkpoint_seconds", audit.checkpoint_seconds, 0.1..=3600.0);
    audit
}
