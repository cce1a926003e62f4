//! `--config`, for the commands that read the settings.

use std::path::PathBuf;

use super::{Failure, print::counted};
use crate::{
    config::{Environment, Settings},
    telemetry,
};

/// The source of the settings.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// The settings file (TOML) [default: none, all settings come from environment variables]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    /// Returns the name of the source for messages.
    pub(super) fn name(&self) -> String {
        match &self.config {
            None => "environment".to_owned(),
            Some(path) => path.display().to_string(),
        }
    }

    /// Returns the file.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Returns the text of the file, or an empty text without one.
    pub(super) fn text(&self) -> Result<String, Failure> {
        let Some(path) = &self.config else { return Ok(String::new()) };
        std::fs::read_to_string(path).map_err(|error| {
            let name = self.name();
            Failure::usage(format_args!("{name}: failed to read the settings: {error}"))
        })
    }

    /// Returns the settings. Returns all errors together, those of the variables of OpenTelemetry included, one per
    /// line.
    pub(super) fn read(&self, environment: &Environment) -> Result<Settings, Failure> {
        let name = self.name();
        let text = self.text()?;
        let (settings, mut errors) = match Settings::parse(&text, environment) {
            Ok(settings) => (Some(settings), Vec::new()),
            Err(errors) => (None, errors),
        };
        errors.extend(telemetry::check(environment));
        settings.filter(|_| errors.is_empty()).ok_or_else(|| {
            let mut lines = vec![format!("{name}: {}", counted(errors.len() as u64, "error"))];
            lines.extend(errors.iter().map(ToString::to_string));
            Failure::usage(lines.join("\n"))
        })
    }
}
