//! `call --rows`: a method for every line of a file, so that an import of ten thousand rows is one
//! command, which can be killed and run again.
//!
//! Lines stream: a thread reads them, as many are under way as [`Rows::at_once`] says, and what has
//! been answered is written down at once. All that grows with the file is each row's name and number.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use prost_reflect::MethodDescriptor;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    attempt::{Answer, Caller, Halt, Outcome},
    input::{Ask, Reader, Row, Source},
    progress::Progress,
    results::{Line, Results},
    summary::{End, Tally},
};
use super::{Client, Header};
use crate::cli::{Failure, print, signal};

mod attempt;
mod input;
mod name;
mod progress;
mod results;
mod summary;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(200);

/// A method for every line of a file.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Many requests")]
pub(super) struct Rows {
    /// Call the method once for every line of this file, a request in JSON each; - reads standard
    /// input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["request", "list", "describe"])]
    rows: Option<PathBuf>,
    /// Append results to this file instead of printing them; rows that are ok there are not sent
    #[arg(long, value_name = "FILE", requires = "rows")]
    results: Option<PathBuf>,
    /// So many rows are under way at once, 1000 at most
    #[arg(long, value_name = "NUMBER", default_value = "8", requires = "rows",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    at_once: u16,
    /// A row that finds nobody, or is told to come again, is sent again for so long
    #[arg(long, value_name = "SECONDS", default_value = "300", requires = "rows",
          value_parser = super::seconds)]
    patience: Duration,
    /// Send nothing more after so many rows have failed
    #[arg(long, value_name = "NUMBER", requires = "rows")]
    max_failures: Option<u64>,
    /// Part of every row's name; with another name the same rows are other rows
    #[arg(long, value_name = "NAME", default_value = "", requires = "rows")]
    batch: String,
    /// Only read the rows and tell which cannot be read or come twice; send nothing
    #[arg(long, requires = "rows")]
    check: bool,
}

impl Rows {
    /// Whether there is anything to do.
    pub(super) const fn wanted(&self) -> bool {
        self.rows.is_some()
    }

    /// Calls the method for every row.
    pub(super) async fn run(
        self,
        client: Client,
        method: MethodDescriptor,
        deadline: Option<Duration>,
        headers: Vec<Header>,
    ) -> Result<(), Failure> {
        let Some(path) = self.rows else { return Ok(()) };
        if method.is_client_streaming() || method.is_server_streaming() {
            let name = method.name();
            return Err(Failure::usage(format_args!("--rows: {name} is a stream")));
        }
        let reader = Reader::new(&method, &self.batch);
        let source = Source::open(path)?;
        let scan = match self.check || source.can_be_read_twice() {
            true => Some(source.scan(&reader).await?),
            false => None,
        };
        if let Some(scan) = &scan {
            print::problem(scan);
            if self.check {
                return if scan.is_good() { Ok(()) } else { Err(summary::failed()) };
            }
        }
        let (results, done) = Results::open(self.results)?;
        let stopping = CancellationToken::new();
        let caller = Caller::new(client, method, deadline, headers, self.patience, &stopping);
        let import = Import {
            caller: Arc::new(caller),
            results,
            done,
            seen: HashMap::new(),
            tally: Tally::default(),
            progress: Progress::new(scan.map(|scan| scan.rows)),
            at_once: self.at_once.into(),
            max_failures: self.max_failures,
            stopping,
            end: End::Complete,
        };
        import.run(source, reader).await
    }
}

/// An import that runs.
struct Import {
    caller: Arc<Caller>,
    results: Results,
    /// What is ok by an earlier run's results.
    done: HashSet<Uuid>,
    /// Where each row came first.
    seen: HashMap<Uuid, u64>,
    tally: Tally,
    progress: Progress,
    at_once: usize,
    max_failures: Option<u64>,
    /// Set when nothing more is to be sent.
    stopping: CancellationToken,
    end: End,
}

/// A row that was answered, or was not.
struct Ended {
    row: u64,
    id: Uuid,
    request_id: Option<String>,
    app_id: String,
    answer: Answer,
}

impl Import {
    async fn run(mut self, source: Source, reader: Reader) -> Result<(), Failure> {
        let began = Instant::now();
        let stop = signal::stop()?;
        let mut stop = std::pin::pin!(stop);
        let mut rows = source.stream(reader, self.at_once);
        let mut under_way = JoinSet::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut open, mut signalled) = (true, false);
        while open || !under_way.is_empty() {
            let room = open && under_way.len() < self.at_once;
            tokio::select! {
                biased;
                () = &mut stop, if !signalled => {
                    signalled = true;
                    print::problem("stopping: waiting for the rows that are under way");
                    self.halt(End::Interrupted);
                }
                _ = tick.tick() => self.progress.show(&self.tally),
                Some(ended) = under_way.join_next() => self.record(ended.map_err(Failure::new)?)?,
                row = rows.recv(), if room => match row {
                    Some(row) => if let Some(ask) = self.admit(row?)? {
                        under_way.spawn(send(self.caller.clone(), ask));
                    },
                    None => open = false,
                },
            }
            open &= !self.stopping.is_cancelled();
        }
        self.progress.finish();
        self.tally.conclude(self.end, self.progress.total, began.elapsed())
    }

    /// Whether, and as what, a row is sent.
    fn admit(&mut self, Row { number, ask }: Row) -> Result<Option<(u64, Ask)>, Failure> {
        self.tally.seen += 1;
        let ask = match ask {
            Ok(ask) => ask,
            Err(problem) => {
                self.failed(attempt::UNREADABLE);
                self.write(&Line::unreadable(number, problem))?;
                return Ok(None);
            }
        };
        match self.seen.entry(ask.id) {
            Entry::Occupied(first) => {
                let first = *first.get();
                self.tally.duplicate(number, first);
                self.write(&Line::duplicate(number, &ask, first))?;
                return Ok(None);
            }
            Entry::Vacant(entry) => entry.insert(number),
        };
        if self.done.remove(&ask.id) {
            self.tally.before += 1;
            return Ok(None);
        }
        if self.tally.holds(&ask.app_id) {
            return Ok(None);
        }
        Ok(Some((number, ask)))
    }

    fn record(&mut self, ended: Ended) -> Result<(), Failure> {
        let Ended { row, id, request_id, app_id, answer: Answer { outcome, halt } } = ended;
        let reason = outcome.reason();
        match &outcome {
            Outcome::Ok(_) => self.tally.ok += 1,
            // It is not the row that is wrong.
            Outcome::Failed(_) if matches!(halt, Some(Halt::Account { .. })) => {
                self.tally.failed(&reason);
            }
            Outcome::Failed(_) => self.failed(&reason),
            Outcome::Unfinished(_) => self.tally.unfinished(&reason),
            Outcome::Unknown(_) => self.tally.unknown += 1,
        }
        match halt {
            None => {}
            Some(Halt::All(why)) => self.halt(End::Halted(why)),
            Some(Halt::Account { reason, until }) => {
                if let Some(told) = self.tally.hold(app_id, reason, until) {
                    self.progress.aside(|| print::problem(told));
                }
            }
        }
        let line = Line::answered(row, id, request_id, outcome);
        self.write(&line)
    }

    fn failed(&mut self, reason: &str) {
        self.tally.failed(reason);
        if self.max_failures.is_some_and(|most| self.tally.failures() >= most) {
            self.halt(End::Halted("so many rows failed as --max-failures allows".to_owned()));
        }
    }

    /// Lets nothing more begin. The first reason is the one that is told.
    fn halt(&mut self, end: End) {
        if matches!(self.end, End::Complete) {
            self.end = end;
        }
        self.stopping.cancel();
    }

    fn write(&mut self, line: &Line) -> Result<(), Failure> {
        let written = match self.results {
            Results::Stdout => self.progress.aside(|| self.results.write(line)),
            Results::File(_) => self.results.write(line),
        };
        written.map_err(|error| {
            Failure::new(format_args!(
                "results cannot be written, so nothing more is sent: {error}"
            ))
        })
    }
}

async fn send(caller: Arc<Caller>, (row, ask): (u64, Ask)) -> Ended {
    let Ask { id, request_id, app_id, message } = ask;
    Ended { row, id, request_id, app_id, answer: caller.call(message).await }
}

/// Waits for this, but not after everything has stopped and some time has passed.
async fn unless_stopped<T>(
    stopping: &CancellationToken,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return Some(done),
        () = stopping.cancelled() => {}
    }
    timeout(grace, work).await.ok()
}
