//! `[log]`: the lines that the log has.

use serde::{Deserialize, Serialize};

use super::ConfigErrors;
use crate::telemetry::LogLevel;

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The lowest level of the lines: `off`, `error`, `warn`, `info`, `debug` or `trace`. Parts of the gateway
    /// can have levels of their own, in the syntax of `RUST_LOG`. `RUST_LOG` overrides it.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

pub(super) fn check(log: Log, errors: &mut ConfigErrors) -> Log {
    if let Err(problem) = LogLevel::check(&log.level) {
        errors.add("log.level", problem);
    }
    log
}
