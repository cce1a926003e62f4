//! `[log]`: the lines that the log has, and their form.

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::ConfigErrors;

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The lowest level of the lines: `off`, `error`, `warn`, `info`, `debug` or `trace`. Parts of the gateway
    /// can have levels of their own, in the syntax of `RUST_LOG`. `RUST_LOG` overrides it.
    pub level: String,
    /// The form of the lines: `json`, or `text` for people at a terminal.
    pub format: LogFormat,
}

/// The form of the lines in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// One text per line, with colors at a terminal.
    Text,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Json }
    }
}

pub(super) fn check(log: Log, errors: &mut ConfigErrors) -> Log {
    if let Err(problem) = check_level(&log.level) {
        errors.add("log.level", problem);
    }
    log
}

/// Returns a description of what is wrong with a level.
fn check_level(level: &str) -> Result<(), String> {
    // tracing takes a word that is no level as the name of a part, and then hides everything else.
    let is_wrong = |part: &&str| {
        let is_level = part.parse::<LevelFilter>().is_ok();
        part.trim() != *part || part.is_empty() || !(is_level || part.contains(['=', ']', '}']))
    };
    let wrong = level.split(',').find(is_wrong).map(str::to_owned);
    let wrong = wrong.or_else(|| EnvFilter::try_new(level).err().map(|_| level.to_owned()));
    wrong.map_or(Ok(()), |wrong| {
        Err(format!(
            "{wrong:?} is not a level; must be off, error, warn, info, debug or trace, or a list such \
             as info,wechat_store_gateway::push=debug"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted() {
        for level in [
            "off",
            "info",
            "WARN",
            "info,h2=debug",
            "warn,wechat_store_gateway::push=trace",
            "error,a[b{c=1}]=info",
        ] {
            assert_eq!(check_level(level), Ok(()), "{level}");
        }
    }

    #[test]
    fn misspelled_level_is_refused() {
        for level in ["", "inof", "info,", "info, h2=error", "info,h2", "h2=loud", "info;debug"] {
            let problem = check_level(level).expect_err(level);
            assert!(problem.contains("must be off, error, warn"), "{problem}");
        }
    }
}
