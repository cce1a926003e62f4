//! The summary of an import, and its exit code.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::{self, Write},
    time::Duration,
};

use crate::cli::{
    Failure,
    print::{self, counted},
};

const FAILED: u8 = 2;
const UNKNOWN: u8 = 3;
const UNFINISHED: u8 = 4;
const INTERRUPTED: u8 = 5;
/// How many duplicates the summary lists. The results contain all of them.
const LISTED: usize = 5;

/// The reason why an import ended.
#[derive(Debug)]
pub(super) enum End {
    /// All rows were processed.
    Complete,
    /// It stopped early, for this reason.
    Halted(String),
    /// A signal interrupted it.
    Interrupted,
}

/// The results so far, counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How many rows were read.
    pub(super) seen: u64,
    pub(super) ok: u64,
    /// Rows that are ok by the results of an earlier run.
    pub(super) before: u64,
    pub(super) unknown: u64,
    failed: BTreeMap<String, u64>,
    unfinished: BTreeMap<String, u64>,
    duplicates: u64,
    first_duplicates: Vec<(u64, u64)>,
    /// The accounts that were stopped, by `app_id`.
    held: BTreeMap<String, Held>,
}

/// Why the rows of an account are not sent, and how many were not.
#[derive(Debug)]
struct Held {
    reason: String,
    until: Option<String>,
    rows: u64,
}

/// Returns the failure if some rows failed. They are already printed.
pub(super) fn some_failed() -> Failure {
    Failure::printed(FAILED)
}

impl Tally {
    pub(super) fn failed(&mut self, reason: &str) {
        *self.failed.entry(reason.to_owned()).or_default() += 1;
    }

    pub(super) fn unfinished(&mut self, reason: &str) {
        *self.unfinished.entry(reason.to_owned()).or_default() += 1;
    }

    pub(super) fn duplicate(&mut self, row: u64, first: u64) {
        self.duplicates += 1;
        if self.first_duplicates.len() < LISTED {
            self.first_duplicates.push((row, first));
        }
    }

    /// Stops an account. Returns a message for the user, unless the account was stopped before.
    pub(super) fn hold(
        &mut self,
        app_id: String,
        reason: String,
        until: Option<String>,
    ) -> Option<String> {
        let account = Account(&app_id).to_string();
        match self.held.entry(app_id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let held = entry.insert(Held { reason, until, rows: 0 });
                Some(format!("stopping {account}{held}"))
            }
        }
    }

    /// Returns true, and counts the row, if the account was stopped.
    pub(super) fn holds(&mut self, app_id: &str) -> bool {
        let held = self.held.get_mut(app_id);
        held.map(|held| held.rows += 1).is_some()
    }

    /// Returns how many rows were not sent because their account was stopped.
    fn held(&self) -> u64 {
        self.held.values().map(|held| held.rows).sum()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn without_response(&self) -> u64 {
        self.unfinished.values().sum()
    }

    /// Returns how many rows were sent and have ended.
    pub(super) fn sent(&self) -> u64 {
        self.ok + self.unknown + self.failures() + self.without_response()
    }

    /// Returns how many rows have ended.
    pub(super) fn done(&self) -> u64 {
        self.sent() + self.before + self.duplicates + self.held()
    }

    /// Returns the counts of rows that are not ok, or an empty text.
    pub(super) fn problems(&self) -> String {
        let counts = [
            (self.failures(), "failed"),
            (self.unknown, "unknown"),
            (self.without_response(), "unfinished"),
        ];
        let some = counts.iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }

    /// Prints the summary and returns the result of the command.
    pub(super) fn conclude(
        &self,
        end: End,
        total: Option<u64>,
        took: Duration,
    ) -> Result<(), Failure> {
        print::problem(self.text(&end, total, took));
        match self.exit_code(&end) {
            0 => Ok(()),
            code => Err(Failure::printed(code)),
        }
    }

    fn exit_code(&self, end: &End) -> u8 {
        match end {
            End::Interrupted => INTERRUPTED,
            End::Halted(_) => UNFINISHED,
            End::Complete if self.without_response() > 0 || !self.held.is_empty() => UNFINISHED,
            End::Complete if self.unknown > 0 => UNKNOWN,
            End::Complete if self.failures() > 0 => FAILED,
            End::Complete => 0,
        }
    }

    /// Returns the summary: a line with all counts, then an aligned line for each further fact.
    fn text(&self, end: &End, total: Option<u64>, took: Duration) -> String {
        let rows = counted(total.unwrap_or(self.seen), "row");
        let not_read = total.map(|total| total.saturating_sub(self.seen));
        let counts = [
            ("ok", self.ok),
            ("ok before", self.before),
            ("failed", self.failures()),
            ("unknown", self.unknown),
            ("unfinished", self.without_response()),
            ("duplicate", self.duplicates),
            ("not sent", not_read.unwrap_or(0) + self.held()),
        ];
        let counts = counts.iter().filter(|(what, count)| *what == "ok" || *count > 0);
        let counts: Vec<_> = counts.map(|(what, count)| format!("{count} {what}")).collect();
        let seconds = took.as_secs_f64();
        let rate = self.sent() as f64 / seconds.max(0.001);
        let mut text = format!("{rows}: {} ({seconds:.1} s, {rate:.1} rows/s)", counts.join(", "));
        for (label, fact) in self.facts(end, not_read.is_some()) {
            // Writing to a text does not fail.
            let _ = write!(text, "\n  {label:<10}  {fact}");
        }
        text
    }

    /// Returns the further facts, each with its label.
    fn facts(&self, end: &End, total_known: bool) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        match end {
            End::Complete => {}
            End::Halted(why) => facts.push(("stopped", why.clone())),
            End::Interrupted => facts.push(("stopped", "interrupted by a signal".to_owned())),
        }
        if !total_known && !matches!(end, End::Complete) {
            facts.push(("stopped", "further rows were neither read nor sent".to_owned()));
        }
        for (app_id, held) in &self.held {
            let (account, rows) = (Account(app_id), held.rows);
            facts.push(("stopped", format!("{account}{held}; {rows} of its rows not sent")));
        }
        for (label, reasons) in [("failed", &self.failed), ("unfinished", &self.unfinished)] {
            facts
                .extend(reasons.iter().map(|(reason, count)| (label, format!("{count} {reason}"))));
        }
        if !self.first_duplicates.is_empty() {
            let listed = self.first_duplicates.iter();
            let listed: Vec<_> =
                listed.map(|(row, first)| format!("line {row} repeats line {first}")).collect();
            let more = if self.duplicates > listed.len() as u64 { ", …" } else { "" };
            facts.push(("duplicate", format!("{}{more}; sent once", listed.join(", "))));
        }
        if self.without_response() > 0 {
            facts.push(("next", "unfinished rows: run the same command again".to_owned()));
        }
        if self.unknown > 0 {
            facts.extend([
                ("next", "unknown rows: check at WeChat whether the write was executed".to_owned()),
                ("", "WriteService/GetWrite returns the write_id of a row's request_id".to_owned()),
                ("", "WriteService/ResolveWrite takes the write_id and what you found".to_owned()),
                ("", "then run the same command again".to_owned()),
            ]);
        }
        facts
    }
}

/// The name of an account for people.
struct Account<'a>(&'a str);

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("the default account"),
            app_id => f.write_str(app_id),
        }
    }
}

/// Follows the name of the account.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(until) = &self.until {
            write!(f, " until {until}")?;
        }
        write!(f, ": {}", self.reason)
    }
}
