//! `check`: prints the settings that `serve` would use.

use super::{Failure, print, settings::Source};
use crate::config::Environment;

const EXAMPLES: &str = "\
Prints the settings with all defaults as TOML. If there are errors, prints all of them, one per line,
and exits with 64.

Examples:
  wechat-store-gateway check --config settings.toml
  WECHAT_STORE_GATEWAY__LIMITS__DRAIN_MS=5000 wechat-store-gateway check --config settings.toml";

/// The arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    #[command(flatten)]
    settings: Source,
}

impl Check {
    /// Runs the command.
    pub fn run(self, environment: &Environment) -> Result<(), Failure> {
        let settings = self.settings.read(environment)?;
        let text = toml::to_string(&settings).map_err(Failure::new)?;
        let mut parts = print::counted(settings.accounts.len() as u64, "account");
        if !settings.platforms.is_empty() {
            let platforms = print::counted(settings.platforms.len() as u64, "platform");
            parts = format!("{parts}, {platforms}");
        }
        let name = self.settings.name();
        // A comment, so that the output stays TOML.
        print::line(format_args!("# {name}: no errors, {parts}; secrets are hidden"))?;
        Ok(print::line(text.trim_end())?)
    }
}
