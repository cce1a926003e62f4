//! `state`: commands about the place where the gateway keeps its data.

use clap::Subcommand;

use super::Failure;

mod key;

/// The arguments of `state`.
#[derive(Debug, clap::Args)]
pub struct State {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key for the secrets in the state
    Key(key::Key),
}

impl State {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Key(key) => key.run(),
        }
    }
}
