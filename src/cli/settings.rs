//! `--config`, for the commands that read the settings.

use std::path::PathBuf;

use super::Failure;
use crate::config::{Environment, Settings};

/// Where the settings are.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// The settings, a TOML file; without it the environment has to say everything
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    /// Reads the settings, or tells all that is wrong with them, a line each.
    pub(super) fn read(&self, environment: &Environment) -> Result<Settings, Failure> {
        let (name, text) = match &self.config {
            None => ("the environment".to_owned(), String::new()),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Failure::usage(format_args!("{name}: cannot be read: {error}"))
                })?;
                (name, text)
            }
        };
        Settings::read(&text, environment).map_err(|mistakes| {
            let mut lines = vec![match mistakes.len() {
                1 => format!("{name}: 1 mistake"),
                count => format!("{name}: {count} mistakes"),
            }];
            lines.extend(mistakes.iter().map(ToString::to_string));
            Failure::usage(lines.join("\n"))
        })
    }
}
