//! What came of all rows together, and the exit code.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::{self, Write},
    time::Duration,
};

use crate::cli::{Failure, print};

const FAILED: u8 = 2;
const UNKNOWN: u8 = 3;
const UNFINISHED: u8 = 4;
const INTERRUPTED: u8 = 5;
/// So many duplicates are named one by one; all of them are among the results.
const NAMED: usize = 5;

/// Why nothing more was sent.
#[derive(Debug)]
pub(super) enum End {
    /// There was nothing more.
    Complete,
    Halted(String),
    /// By a signal.
    Interrupted,
}

/// What became of the rows so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How many rows were looked at.
    pub(super) seen: u64,
    pub(super) ok: u64,
    /// Ok by an earlier run's results.
    pub(super) before: u64,
    pub(super) unknown: u64,
    failed: BTreeMap<String, u64>,
    unfinished: BTreeMap<String, u64>,
    duplicates: u64,
    first_duplicates: Vec<(u64, u64)>,
    /// The accounts whose further rows are not sent, by `app_id`.
    held: BTreeMap<String, Held>,
}

/// Why rows of an account are not sent, and how many were not.
#[derive(Debug)]
struct Held {
    reason: String,
    until: Option<String>,
    rows: u64,
}

/// Some rows failed, which has been told.
pub(super) fn failed() -> Failure {
    Failure::told(FAILED)
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
        if self.first_duplicates.len() < NAMED {
            self.first_duplicates.push((row, first));
        }
    }

    /// Notes that further rows of an account are not to be sent. Returns what to tell, the first
    /// time.
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
                Some(format!("no more rows of {account} are sent{held}"))
            }
        }
    }

    /// Returns true, and counts the row, if rows of this account are not to be sent.
    pub(super) fn holds(&mut self, app_id: &str) -> bool {
        let held = self.held.get_mut(app_id);
        held.map(|held| held.rows += 1).is_some()
    }

    /// How many rows were not sent because those of their account are not.
    fn held(&self) -> u64 {
        self.held.values().map(|held| held.rows).sum()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn without_answer(&self) -> u64 {
        self.unfinished.values().sum()
    }

    /// How many rows were sent and have ended.
    pub(super) fn sent(&self) -> u64 {
        self.ok + self.unknown + self.failures() + self.without_answer()
    }

    /// How many rows have ended.
    pub(super) fn done(&self) -> u64 {
        self.sent() + self.before + self.duplicates + self.held()
    }

    /// What is not well, in a few words; empty if all is.
    pub(super) fn problems(&self) -> String {
        let counts = [
            (self.failures(), "failed"),
            (self.unknown, "unknown"),
            (self.without_answer(), "unfinished"),
        ];
        let some = counts.iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }

    /// Tells it all, and how that ends the command.
    pub(super) fn conclude(
        &self,
        end: End,
        total: Option<u64>,
        took: Duration,
    ) -> Result<(), Failure> {
        print::problem(self.text(&end, total, took));
        match self.exit_code(&end) {
            0 => Ok(()),
            code => Err(Failure::told(code)),
        }
    }

    fn exit_code(&self, end: &End) -> u8 {
        match end {
            End::Interrupted => INTERRUPTED,
            End::Halted(_) => UNFINISHED,
            End::Complete if self.without_answer() > 0 || !self.held.is_empty() => UNFINISHED,
            End::Complete if self.unknown > 0 => UNKNOWN,
            End::Complete if self.failures() > 0 => FAILED,
            End::Complete => 0,
        }
    }

    fn text(&self, end: &End, total: Option<u64>, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        let mut text = match end {
            End::Complete => String::new(),
            End::Halted(why) => format!("stopped: {why}\n"),
            End::Interrupted => "interrupted: ".to_owned(),
        };
        let rate = self.sent() as f64 / seconds.max(0.001);
        let rows = total.unwrap_or(self.seen);
        let not_sent = total.map(|total| total.saturating_sub(self.seen));
        let counts = [
            ("ok", self.ok),
            ("ok before", self.before),
            ("failed", self.failures()),
            ("unknown", self.unknown),
            ("unfinished", self.without_answer()),
            ("the same as an earlier row", self.duplicates),
            ("not sent", not_sent.unwrap_or(0) + self.held()),
        ];
        let counts = counts.iter().filter(|(what, count)| *what == "ok" || *count > 0);
        let counts: Vec<_> = counts.map(|(what, count)| format!("{count} {what}")).collect();
        // Writing to a text does not fail.
        let _ = write!(text, "{rows} rows: {}", counts.join(", "));
        let _ = write!(text, "; {seconds:.1} s, {rate:.1} a second");
        if not_sent.is_none() && !matches!(end, End::Complete) {
            let _ = write!(text, "\n  the rest of the rows was not read, and not sent");
        }
        for (app_id, held) in &self.held {
            let (account, rows) = (Account(app_id), held.rows);
            let _ = write!(text, "\n  stopped: {account}{held}; {rows} of its rows not sent");
        }
        for (what, reasons) in [("failed", &self.failed), ("unfinished", &self.unfinished)] {
            let reasons: Vec<_> =
                reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            if !reasons.is_empty() {
                let _ = write!(text, "\n  {what}: {}", reasons.join(", "));
            }
        }
        if self.without_answer() > 0 {
            let _ = write!(text, "\n  unfinished rows can be sent again: repeat the command");
        }
        if self.unknown > 0 {
            let _ = write!(
                text,
                "\n  unknown: nobody knows whether WeChat executed these. Look there; WriteService/GetWrite \
                 with the row's request_id gives the write_id, WriteService/ResolveWrite takes what \
                 you found; then repeat the command"
            );
        }
        if !self.first_duplicates.is_empty() {
            let named: Vec<_> = self
                .first_duplicates
                .iter()
                .map(|(row, first)| format!("{row} is {first}"))
                .collect();
            let more = if self.duplicates > named.len() as u64 { ", …" } else { "" };
            let _ =
                write!(text, "\n  not sent, for it says the same: line {}{more}", named.join(", "));
        }
        text
    }
}

/// An account as people read it.
struct Account<'a>(&'a str);

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("the default account"),
            app_id => f.write_str(app_id),
        }
    }
}

/// Follows what is stopped.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(until) = &self.until {
            write!(f, " until {until}")?;
        }
        write!(f, ": {}", self.reason)
    }
}
