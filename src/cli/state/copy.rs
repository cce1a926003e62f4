//! `state copy`: moves a state to another place.

use serde_json::json;

use super::{conclude, counts, counts_json, damage_json, damage_lines, place, progress::Progress};
use crate::{
    cli::{Failure, print, settings::Source},
    config::Environment,
    state::transfer::{Copied, copy},
};

const NOTES: &str = "\
Stop every gateway first. FROM is not changed, and TO must be a new file or a Redis without a state.
If the command is killed, run it again: it continues. At the end it reads both sides again and compares
them; no gateway opens TO before that. Then set state.url to TO. Cursors stay valid.

A damaged row is damaged in the copy, too, and printed.";

/// The arguments of `state copy`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Copy {
    /// The place of the state
    from: String,
    /// The place of the copy
    to: String,
    #[command(flatten)]
    settings: Source,
    /// Delete an unfinished copy at TO and begin again
    #[arg(long)]
    anew: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Copy {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let place = |name, url| place(name, url, &self.settings, environment);
        let (from, to) = (place("FROM", &self.from)?, place("TO", &self.to)?);
        let copied = copy(&from, &to, self.anew, &mut Progress::new()).await?;
        print_copied(&copied, self.json, &format!("copied {from} to {to}"))?;
        conclude(copied.damaged)
    }
}

/// Prints a complete copy.
pub(super) fn print_copied(copied: &Copied, json: bool, done: &str) -> Result<(), Failure> {
    let Copied { rows, resumed, damage, damaged } = copied;
    if json {
        let json = json!({
            "rows": counts_json(rows),
            "resumed": resumed,
            "damaged": damaged,
            "damage": damage_json(damage),
        });
        return Ok(print::line(format_args!("{json:#}"))?);
    }
    print::line(format_args!("{done}\n{}", counts(rows)))?;
    if *damaged > 0 {
        print::line(format_args!(
            "{} in the state, and in the copy, too:{}",
            print::counted(*damaged, "damaged row"),
            damage_lines(damage, *damaged)
        ))?;
    }
    Ok(())
}
