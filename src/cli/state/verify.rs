//! `state verify`: checks all rows of a state.

use std::fmt::Write as _;

use serde_json::json;

use super::{PlaceArgs, conclude, damage_json, damage_lines, progress::Progress};
use crate::{
    cli::{Failure, print},
    config::Environment,
    state::transfer::{Place, Verified, verify},
};

const NOTES: &str = "\
Reads every row, and changes nothing. A damaged row affects only itself: docs/state.md lists the effects.
Exits with 3 if the state has damage.";

/// The arguments of `state verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Verify {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let place = self.place.get(environment)?;
        let verified = verify(&place, &mut Progress::new()).await?;
        match self.json {
            true => print::line(to_json(&verified))?,
            false => print::line(to_text(&place, &verified))?,
        }
        conclude(verified.damaged)
    }
}

fn to_json(verified: &Verified) -> String {
    let rows = verified.rows.iter().map(|(kind, rows, damaged)| {
        (kind.name().to_owned(), json!({ "rows": rows, "damaged": damaged }))
    });
    let json = json!({
        "rows": rows.collect::<serde_json::Value>(),
        "secrets": { "plain": verified.secrets.plain, "sealed": verified.secrets.sealed },
        "damaged": verified.damaged,
        "damage": damage_json(&verified.damage),
    });
    format!("{json:#}")
}

fn to_text(place: &Place, verified: &Verified) -> String {
    let mut text = format!("{place}\n");
    for (kind, rows, damaged) in &verified.rows {
        let damaged = match damaged {
            0 => String::new(),
            damaged => format!(", {damaged} damaged"),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {:<12} {rows}{damaged}", kind.name());
    }
    let mut secrets = vec![format!("{} plain", verified.secrets.plain)];
    let sealed = verified.secrets.sealed.iter();
    secrets.extend(sealed.map(|(key, count)| format!("{count} sealed with key {key}")));
    let _ = writeln!(text, "  {:<12} {}", "secrets", print::without_controls(&secrets.join(", ")));
    text += &match verified.damaged {
        0 => "no damage".to_owned(),
        damaged => {
            print::counted(damaged, "damaged row") + ":" + &damage_lines(&verified.damage, damaged)
        }
    };
    text
}
