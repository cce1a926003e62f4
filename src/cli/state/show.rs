//! `state show`: describes a state.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;

use super::{PlaceArgs, counts, counts_json};
use crate::{
    cli::{Failure, print},
    config::{Environment, StateUrl},
    state::transfer::{Bounds, Shown, show},
};

/// The most tokens and processes that are printed for people.
const PRINTED: usize = 20;

/// The arguments of `state show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let place = self.place.get(environment)?;
        let url = &place.url;
        let shown = show(&place).await?;
        match self.json {
            true => print::line(to_json(url, &shown))?,
            false => print::line(to_text(url, &shown).trim_end())?,
        }
        Ok(())
    }
}

/// Returns the name of a log as people compare it.
fn named(name: Option<u64>) -> Option<String> {
    name.map(|name| format!("{name:016x}"))
}

const fn backend(url: &StateUrl) -> &'static str {
    match url {
        StateUrl::Sqlite(_) => "sqlite",
        StateUrl::Redis(_) => "redis",
    }
}

fn to_json(url: &StateUrl, shown: &Shown) -> String {
    let event =
        |(position, received): (u64, u64)| json!({ "position": position, "received_ms": received });
    let events = shown.events.as_ref();
    let tokens = shown.tokens.iter().map(|token| {
        json!({
            "app_id": token.app_id,
            "generation": token.generation,
            "left_ms": token.left,
        })
    });
    let processes = shown.processes.iter();
    let processes = processes.map(|one| json!({ "name": one.name, "seen_ms_ago": one.seen }));
    let unfinished = shown.unfinished.as_ref();
    let json = json!({
        "backend": backend(url),
        "place": url.to_string(),
        "name": named(shown.name),
        "schema": shown.schema,
        "unfinished_copy": unfinished.map(|(place, at)| json!({ "from": place, "at": at })),
        "used": shown.is_used,
        "bytes": shown.bytes,
        "rows": counts_json(&shown.rows),
        "open_submissions": shown.open_submissions,
        "unfinished_writes": shown.unfinished_writes,
        "oldest_event": events.map(|Bounds { oldest, .. }| event(*oldest)),
        "newest_event": events.map(|Bounds { newest, .. }| event(*newest)),
        "tokens": tokens.collect::<serde_json::Value>(),
        "era": named(shown.era),
        "processes": processes.collect::<serde_json::Value>(),
    });
    format!("{json:#}")
}

fn to_text(url: &StateUrl, shown: &Shown) -> String {
    let mut text = format!("{url}\n");
    let mut line = |name: &str, value: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {name:<18} {}", print::without_controls(&value));
    };
    line("backend", backend(url).to_owned());
    line("name of the log", named(shown.name).unwrap_or_else(|| "none yet".to_owned()));
    match &shown.unfinished {
        Some((place, at)) => {
            line("schema", "none: an unfinished copy".to_owned());
            line("copied from", format!("{place}, up to {at}"));
        }
        None => line("schema", shown.schema.to_string()),
    }
    line("in use", if shown.is_used { "yes" } else { "no" }.to_owned());
    if let Some(bytes) = shown.bytes {
        let of = if backend(url) == "redis" { " in memory, with all other data" } else { "" };
        line("size", format!("{:.1} MB{of}", bytes as f64 / 1e6));
    }
    line("open submissions", shown.open_submissions.to_string());
    line("unfinished writes", shown.unfinished_writes.to_string());
    if let Some(Bounds { oldest, newest }) = &shown.events {
        for (name, (position, received)) in [("oldest event", oldest), ("newest event", newest)] {
            line(name, format!("{position}, received {}", date(*received)));
        }
    }
    let tokens = shown.tokens.iter().filter(|token| token.left > 0);
    for token in tokens.take(PRINTED) {
        let (app_id, left) = (&token.app_id, span(token.left));
        line("token", format!("{app_id}, {left} left, generation {}", token.generation));
    }
    if let Some(era) = named(shown.era) {
        line("era", era);
    }
    for process in shown.processes.iter().take(PRINTED) {
        line("process", format!("{}, seen {} ago", process.name, span(process.seen)));
    }
    text + "rows\n" + &counts(&shown.rows)
}

/// Returns a time as text.
fn date(millis: u64) -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_millis(millis))
}

/// Returns milliseconds as text.
fn span(millis: u64) -> String {
    match millis / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
