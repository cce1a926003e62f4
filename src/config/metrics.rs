//! `[metrics]`: the series that `/metrics` has.

use serde::{Deserialize, Serialize};

use super::ConfigErrors;

/// `[metrics]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// The first accounts of the file have series of their own, up to this many. All others together have
    /// one, with `wechat.app_id` = `other`.
    pub accounts: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { accounts: 50 }
    }
}

impl Metrics {
    /// Returns the number of accounts that have series of their own.
    pub(crate) fn accounts(&self) -> usize {
        usize::try_from(self.accounts).unwrap_or(usize::MAX)
    }
}

pub(super) fn check(metrics: Metrics, errors: &mut ConfigErrors) -> Metrics {
    // A refresh has some series for each account, and an instrument has at most 2,000.
    errors.check_range("metrics.accounts", metrics.accounts, 0..=300);
    metrics
}
