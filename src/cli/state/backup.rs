//! `state backup`: writes a state into a new file.

use std::path::PathBuf;

use serde_json::json;

use super::{conclude, copy::print_copied, progress::Progress};
use crate::{
    cli::{Failure, print, settings::Source},
    config::Environment,
    state::transfer::backup,
};

const NOTES: &str = "\
A gateway may use a state in SQLite meanwhile. The backup has all that was acknowledged before the command began.
A state in Redis is copied into the file as by `state copy`, so every gateway must be stopped. For a Redis in use, take
Redis's own snapshot.

A backup contains tokens, so keep it as safe as the state.";

/// The arguments of `state backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Backup {
    /// The new file
    to: PathBuf,
    #[command(flatten)]
    settings: Source,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let place = self.settings.read(environment)?.state.into();
        let copied = backup(&place, &self.to, &mut Progress::new()).await?;
        let done = format!("backed up {place} to {}", self.to.display());
        match &copied {
            Some(copied) => {
                print_copied(copied, self.json, &done)?;
                conclude(copied.damaged)
            }
            None if self.json => Ok(print::line(
                json!({ "from": place.to_string(), "to": self.to.display().to_string() }),
            )?),
            None => Ok(print::line(done)?),
        }
    }
}
