//! `check`: what `serve` would run with.

use super::{Failure, print, settings::Source};
use crate::config::Environment;

/// Checks the settings.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    settings: Source,
}

impl Check {
    /// Runs the command.
    pub fn run(self, environment: &Environment) -> Result<(), Failure> {
        let settings = self.settings.read(environment)?;
        let text = toml::to_string(&settings).map_err(Failure::new)?;
        Ok(print::line(text.trim_end())?)
    }
}
