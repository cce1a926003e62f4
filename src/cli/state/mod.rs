//! `state`: copies, backs up, checks and describes the stored state, and makes keys for its secrets.

mod backup;
mod copy;
mod key;
mod progress;
mod show;
mod verify;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Failure, print, settings::Source};
use crate::{
    config::{Environment, RedisSettings, StateUrl},
    state::transfer::{Damage, Error, Kind, Place},
};

/// The exit code if the command was executed and found damage.
const DAMAGED: u8 = 3;
/// The most damaged rows that are printed for people.
const PRINTED: usize = 20;

const EXAMPLES: &str = "\
A place is sqlite:/path/to/file or the URL of a Redis, as in state.url of the settings. The settings of --config have the
password and the certificates for a Redis.

Examples:
  wechat-store-gateway state show --config settings.toml
  wechat-store-gateway state verify --config settings.toml
  wechat-store-gateway state backup --config settings.toml /backup/state.db
  wechat-store-gateway state copy sqlite:/var/lib/wechat-store-gateway/state.db redis://host:6379/0

Exit codes:
  0    success
  1    failure
  3    success, and the state has damaged rows
  64   wrong arguments or wrong settings";

/// The arguments of `state`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct State {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Copy a state to another place, such as from SQLite to Redis; no gateway may run
    Copy(copy::Copy),
    /// Write the whole state into a new SQLite file
    Backup(backup::Backup),
    /// Check all rows of a state; a gateway may run
    Verify(verify::Verify),
    /// Print what a state contains, without secrets; a gateway may run
    Show(show::Show),
    /// Make a key for the secrets in the state
    Key(key::Key),
}

impl State {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        match self.action {
            Action::Copy(copy) => copy.run(environment).await,
            Action::Backup(backup) => backup.run(environment).await,
            Action::Verify(verify) => verify.run(environment).await,
            Action::Show(show) => show.run(environment).await,
            Action::Key(key) => key.run(),
        }
    }
}

/// The place of a state: an argument, or that of the settings.
#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// The place of the state [default: state.url of the settings]
    #[arg(value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    settings: Source,
}

impl PlaceArgs {
    fn get(&self, environment: &Environment) -> Result<Place, Failure> {
        match &self.url {
            Some(url) => place("URL", url, &self.settings, environment),
            None => Ok(self.settings.read(environment)?.state.into()),
        }
    }
}

/// Returns the place that an argument names. A settings file has the password and the certificates for it.
fn place(
    argument: &str,
    url: &str,
    settings: &Source,
    environment: &Environment,
) -> Result<Place, Failure> {
    let url = StateUrl::parse(url);
    let url = url.map_err(|error| Failure::usage(format_args!("{argument}: {error}")))?;
    let redis = match settings.file() {
        Some(_) => settings.read(environment)?.state.redis,
        None => RedisSettings::default(),
    };
    Ok(Place { url, redis })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error)
    }
}

/// Fails if a state has damaged rows.
fn conclude(damaged: u64) -> Result<(), Failure> {
    if damaged == 0 { Ok(()) } else { Err(Failure::printed(DAMAGED)) }
}

/// Returns lines with the counts of all kinds.
fn counts<'a>(rows: impl IntoIterator<Item = &'a (Kind, u64)>) -> String {
    let line = |(kind, count): &(Kind, u64)| format!("  {:<12} {count}", kind.name());
    rows.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the counts of all kinds as JSON.
fn counts_json<'a>(rows: impl IntoIterator<Item = &'a (Kind, u64)>) -> Value {
    rows.into_iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect()
}

/// Returns lines with the first damaged rows. Empty if there are none.
fn damage_lines(damage: &[Damage], damaged: u64) -> String {
    let line = |Damage { row, why }: &Damage| {
        format!("\n  {}: {}", print::without_controls(row), print::without_controls(why))
    };
    let mut lines: String = damage.iter().take(PRINTED).map(line).collect();
    let shown = damage.len().min(PRINTED) as u64;
    if damaged > shown {
        lines += &format!("\n  and {} more", damaged - shown);
    }
    lines
}

fn damage_json(damage: &[Damage]) -> Value {
    damage.iter().map(|Damage { row, why }| json!({ "row": row, "why": why })).collect()
}
