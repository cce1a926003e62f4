//! `call --rows`: calls a method for every line of a file. An import of ten thousand rows is one
//! command, which can be killed and run again.
//!
//! Lines stream: a thread reads them, up to [`Rows::at_once`] are in flight, and each result is written
//! as soon as it arrives. Only the id and the number of each row stay in memory.

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
    input::{Reader, Row, RowCall, Source},
    progress::Progress,
    results::{Line, Results},
    summary::{End, Tally},
};
use super::{Client, Header};
use crate::cli::{Failure, print, signal};

mod attempt;
mod input;
mod progress;
mod results;
mod row_id;
mod summary;

/// How often the progress is updated.
const TICK: Duration = Duration::from_millis(200);

/// The arguments of `--rows`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options for many requests")]
pub(super) struct Rows {
    /// Call the method once for each line of this file, which is a request in JSON; - reads standard
    /// input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["request", "list", "describe"])]
    rows: Option<PathBuf>,
    /// Append the results to this file instead of printing them; skip rows that are ok there
    #[arg(long, value_name = "FILE", requires = "rows")]
    results: Option<PathBuf>,
    /// Maximum number of rows in flight (1-1000)
    #[arg(long, value_name = "NUMBER", default_value = "8", requires = "rows",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    at_once: u16,
    /// How long to retry a row after its first error, while the service is unreachable or asks for a
    /// retry. The connection at the start is not retried
    #[arg(long, value_name = "SECONDS", default_value = "300", requires = "rows",
          value_parser = super::seconds)]
    retry_for: Duration,
    /// Stop after this number of failed rows
    #[arg(long, value_name = "NUMBER", requires = "rows")]
    max_failures: Option<u64>,
    /// Name the batch; the same rows in another batch are executed again
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true,
        requires = "rows"
    )]
    batch: String,
    /// Report unreadable and duplicate rows, and send nothing
    #[arg(long, requires = "rows")]
    check: bool,
}

impl Rows {
    /// Returns true if `--rows` was given.
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
            return Err(Failure::usage(format_args!(
                "--rows: {name} is a stream; --rows works only with unary methods"
            )));
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
                return if scan.is_good() { Ok(()) } else { Err(summary::some_failed()) };
            }
        }
        let (results, done) = Results::open(self.results)?;
        let stopping = CancellationToken::new();
        let caller = Caller::new(client, method, deadline, headers, self.retry_for, &stopping);
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

/// A running import.
struct Import {
    caller: Arc<Caller>,
    results: Results,
    /// The rows that are ok by the results of an earlier run.
    done: HashSet<Uuid>,
    /// The line of the first occurrence of each row.
    seen: HashMap<Uuid, u64>,
    tally: Tally,
    progress: Progress,
    at_once: usize,
    max_failures: Option<u64>,
    /// Canceled when no further rows must be sent.
    stopping: CancellationToken,
    end: End,
}

/// A row that has ended, with or without a response.
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
        let mut in_flight = JoinSet::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut open, mut signaled) = (true, false);
        while open || !in_flight.is_empty() {
            let room = open && in_flight.len() < self.at_once;
            tokio::select! {
                biased;
                () = &mut stop, if !signaled => {
                    signaled = true;
                    print::problem("stopping; waiting for the rows in flight");
                    self.halt(End::Interrupted);
                }
                _ = tick.tick() => self.progress.show(&self.tally),
                Some(ended) = in_flight.join_next() => self.record(ended.map_err(Failure::new)?)?,
                row = rows.recv(), if room => match row {
                    Some(row) => if let Some(row) = self.next(row?)? {
                        in_flight.spawn(send(self.caller.clone(), row));
                    },
                    None => open = false,
                },
            }
            open &= !self.stopping.is_cancelled();
        }
        self.progress.finish();
        self.tally.conclude(self.end, self.progress.total, began.elapsed())
    }

    /// Returns the call of a row and its line, or `None` if the row is not sent.
    fn next(&mut self, Row { number, call }: Row) -> Result<Option<(u64, RowCall)>, Failure> {
        self.tally.seen += 1;
        let call = match call {
            Ok(call) => call,
            Err(problem) => {
                self.failed(attempt::UNREADABLE);
                self.write(&Line::unreadable(number, problem))?;
                return Ok(None);
            }
        };
        match self.seen.entry(call.id) {
            Entry::Occupied(first) => {
                let first = *first.get();
                self.tally.duplicate(number, first);
                self.write(&Line::duplicate(number, &call, first))?;
                return Ok(None);
            }
            Entry::Vacant(entry) => entry.insert(number),
        };
        if self.done.remove(&call.id) {
            self.tally.before += 1;
            return Ok(None);
        }
        if self.tally.holds(&call.app_id) {
            return Ok(None);
        }
        Ok(Some((number, call)))
    }

    fn record(&mut self, ended: Ended) -> Result<(), Failure> {
        let Ended { row, id, request_id, app_id, answer: Answer { outcome, halt } } = ended;
        let reason = outcome.reason();
        match &outcome {
            Outcome::Ok(_) => self.tally.ok += 1,
            // The row itself is not wrong, so it does not count for --max-failures.
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
                if let Some(message) = self.tally.hold(app_id, reason, until) {
                    self.progress.aside(|| print::problem(message));
                }
            }
        }
        let line = Line::answered(row, id, request_id, outcome);
        self.write(&line)
    }

    fn failed(&mut self, reason: &str) {
        self.tally.failed(reason);
        if self.max_failures.is_some_and(|most| self.tally.failures() >= most) {
            self.halt(End::Halted("--max-failures was reached".to_owned()));
        }
    }

    /// Stops sending rows. The summary prints the first reason.
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
                "failed to write the results, so no further rows are sent: {error}"
            ))
        })
    }
}

async fn send(caller: Arc<Caller>, (row, call): (u64, RowCall)) -> Ended {
    let RowCall { id, request_id, app_id, message } = call;
    Ended { row, id, request_id, app_id, answer: caller.call(message).await }
}

/// Returns the result of the work, or `None` if the import was stopped and the grace period passed.
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
