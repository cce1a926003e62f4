//! The level of the log, which can change while the process runs.

use std::sync::Arc;

use tracing_subscriber::{
    EnvFilter, Registry,
    filter::ParseError,
    reload::{self, Handle},
};

use super::{ACTIVITY, TRACE};
use crate::config::Environment;

/// h2 logs warnings about single frames, and a peer can send any number of them.
const QUIET: &str = "h2=error";

/// The lines about new settings. Without them, an operator could not see that a level is in force.
const SETTINGS: &str = "wechat_store_gateway::live";

/// The level of the log. Clones change the same one. A default value changes nothing.
#[derive(Clone, Debug, Default)]
pub struct LogLevel(Option<Arc<Handle<EnvFilter, Registry>>>);

/// The filter of the log, which a [`LogLevel`] can replace.
pub(super) type Filter = reload::Layer<EnvFilter, Registry>;

impl LogLevel {
    /// Returns the filter of the start: that of `RUST_LOG`, or else the level of the settings. Returns an
    /// error if `RUST_LOG` is malformed.
    pub(super) fn start(environment: &Environment, level: &str) -> anyhow::Result<(Filter, Self)> {
        let variable = environment.get("RUST_LOG");
        let filter = match variable {
            Some(directives) => complete(EnvFilter::try_new(directives)?)?,
            None => filter(level)?,
        };
        let (filter, handle) = reload::Layer::new(filter);
        Ok((filter, Self(variable.is_none().then(|| Arc::new(handle)))))
    }

    /// Changes the level. The settings have checked it.
    pub(crate) fn change(&self, level: &str) {
        let Some(handle) = &self.0 else {
            tracing::warn!("log.level has no effect while RUST_LOG is set");
            return;
        };
        let changed = filter(level).map(|filter| handle.reload(filter));
        if !matches!(changed, Ok(Ok(()))) {
            tracing::error!(level, "failed to change the log level");
        }
    }
}

/// Returns the filter of a level of the settings.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // The last of two directives for the same part counts.
    complete(EnvFilter::try_new(format!("{QUIET},{level}"))?)
}

/// Adds what no level changes.
fn complete(filter: EnvFilter) -> Result<EnvFilter, ParseError> {
    Ok(filter
        .add_directive(format!("{TRACE}=off").parse()?)
        .add_directive(format!("{ACTIVITY}=info").parse()?)
        .add_directive(format!("{SETTINGS}=info").parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_part_overrides_the_quiet_default() {
        let shown = filter("info,h2=trace").expect("a filter").to_string();
        assert!(shown.contains("h2=trace") && !shown.contains("h2=error"), "{shown}");
    }
}
