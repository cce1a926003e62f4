//! `[audit]`: how the results of reviews are followed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Mistakes;

/// `[audit]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// After how many hours without a push WeChat is asked what became of a review. 0: never.
    pub ask_after_hours: f64,
    /// How many hours lie between two such questions about one review.
    pub ask_again_hours: f64,
    /// After how many hours an open review counts as overdue.
    pub overdue_after_hours: f64,
    /// After how many seconds without an event a watcher gets a checkpoint.
    pub checkpoint_seconds: f64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            ask_after_hours: 24.0,
            ask_again_hours: 6.0,
            overdue_after_hours: 168.0,
            checkpoint_seconds: 30.0,
        }
    }
}

/// However small the number is, not everything is asked about all the time.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// Ten years; no wait is longer.
const MOST_HOURS: f64 = 87_600.0;

impl Audit {
    /// After which time without a push WeChat is asked; `None` for never.
    pub fn ask_after(&self) -> Option<Duration> {
        (self.ask_after_hours > 0.0).then(|| hours(self.ask_after_hours))
    }

    /// The time between two questions about one review.
    pub fn ask_again(&self) -> Duration {
        hours(self.ask_again_hours).max(LEAST_PAUSE)
    }

    /// After which time an open review counts as overdue.
    pub fn overdue_after(&self) -> Duration {
        hours(self.overdue_after_hours)
    }

    /// After which time without an event a watcher gets a checkpoint.
    pub fn checkpoint(&self) -> Duration {
        Duration::from_secs_f64(self.checkpoint_seconds)
    }
}

fn hours(hours: f64) -> Duration {
    Duration::from_secs_f64(hours * 3600.0)
}

pub(super) fn check(audit: Audit, mistakes: &mut Mistakes) -> Audit {
    if !(0.0..=MOST_HOURS).contains(&audit.ask_after_hours) {
        mistakes.add("audit.ask_after_hours", "has to be from 0 to 87600");
    }
    for (key, value) in [
        ("audit.ask_again_hours", audit.ask_again_hours),
        ("audit.overdue_after_hours", audit.overdue_after_hours),
    ] {
        if !(value > 0.0 && value <= MOST_HOURS) {
            mistakes.add(key, "has to be more than 0 and at most 87600");
        }
    }
    if !(0.1..=3600.0).contains(&audit.checkpoint_seconds) {
        mistakes.add("audit.checkpoint_seconds", "has to be from 0.1 to 3600");
    }
    audit
}
