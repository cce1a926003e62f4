//! The thread that writes.
//!
//! A sync of the disk costs milliseconds, regardless of the amount of data. The thread therefore
//! takes all waiting operations, runs them in one transaction, and answers when the transaction is
//! durable. Operations that need not be durable run before them in a transaction of their own.
//! SQLite's log is only appended to, so a later sync also covers them.

// Not tokio-rusqlite or deadpool: neither commits the writes of several callers in one transaction.

use std::{
    fmt, iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::{event, guard::Guard, now, recent::Recent};
use crate::{
    state::{Error, Event},
    util::clock::Clock,
};

/// The most operations in one transaction, so that the first does not wait too long for the last.
const BATCH: usize = 256;
/// If the last transaction had this many operations, more will arrive in a moment.
const CROWD: usize = 20;
/// How long the thread then waits. A sync takes longer, and one sync then covers all of them.
const GATHER_TIME: Duration = Duration::from_micros(500);
/// How long the thread is idle before it checks the files.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Runs operations until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while the writer is being dropped.
    jobs: Option<mpsc::Sender<Queued>>,
    thread: Option<JoinHandle<()>>,
    recent: watch::Receiver<Recent>,
    /// Set while the log must be emptied.
    empties_log: Arc<AtomicBool>,
}

/// A queued operation and the durability of its answer.
type Queued = (Durability, Box<dyn Job>);

/// The durability of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// The change survives the end of this process. It survives a power failure as soon as a later
    /// durable change does.
    Process,
    /// The change is on the disk.
    Machine,
}

/// An operation with any type of answer.
trait Job: fmt::Debug + Send {
    /// Runs the operation, but does not end the transaction. Does nothing if it failed before or if
    /// its caller has left.
    fn run(&mut self, db: &Connection, now: u64) -> Result<(), Error>;
    /// Sends the answer after the end of the transaction. Publishes an appended event first.
    fn answer(self: Box<Self>, committed: &Result<(), Error>, recent: &watch::Sender<Recent>);
}

struct Pending<F, T> {
    operation: F,
    /// The result of the last run.
    result: Result<Option<(T, Option<Event>)>, Error>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(db: Connection, mut guard: Guard, clock: Clock) -> Result<Self, Error> {
        let (recent_sender, recent) = watch::channel(Recent::new(&event::log(&db)?));
        let (sender, jobs) = mpsc::channel();
        let empties_log = Arc::<AtomicBool>::default();
        let must_empty = empties_log.clone();
        let thread = thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                // The database must be closed before the guard closes its files.
                let db = db;
                work(&db, &mut guard, &clock, &jobs, &recent_sender, &must_empty);
            })
            .map_err(|error| Error::Unusable(error.to_string()))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread), recent, empties_log })
    }

    /// Runs an operation completely or not at all. It is durable when this returns. It runs again
    /// if another operation of its transaction failed.
    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        self.run(Durability::Machine, operation).await
    }

    /// Runs an operation that becomes durable together with any later one.
    pub(super) async fn write_ahead<T, F>(&self, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        self.run(Durability::Process, operation).await
    }

    /// Runs an operation with this durability.
    pub(super) async fn run<T, F>(&self, durability: Durability, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        self.enqueue(durability, move |db, now| Ok((operation(db, now)?, None))).await
    }

    /// Runs an operation like [`Writer::write`], and publishes the event that it appended.
    pub(super) async fn append<T, F>(&self, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<(T, Option<Event>), Error> + Send + 'static,
    {
        self.enqueue(Durability::Machine, operation).await
    }

    async fn enqueue<T, F>(&self, durability: Durability, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<(T, Option<Event>), Error> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Pending { operation, result: Ok(None), answer };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send((durability, Box::new(job))).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Lets the thread copy the whole log into the database and cut it, within about a second.
    pub(super) fn empty_log(&self) {
        self.empties_log.store(true, Ordering::Relaxed);
    }

    /// Returns the newest events.
    pub(super) fn recent(&self) -> watch::Receiver<Recent> {
        self.recent.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, its callers have already received an error.
            let _ = thread.join();
        }
    }
}

/// Returns the error for an operation after the end of the thread.
pub(super) fn ended() -> Error {
    Error::Unusable("its thread has ended".to_owned())
}

/// Runs queued operations until the writer is dropped.
fn work(
    db: &Connection,
    guard: &mut Guard,
    clock: &Clock,
    jobs: &mpsc::Receiver<Queued>,
    recent: &watch::Sender<Recent>,
    must_empty: &AtomicBool,
) {
    let (mut last, mut crowd) = (None, 0);
    loop {
        let first = match jobs.recv_timeout(IDLE_CHECK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                // The guard has already logged any problem.
                let trusted = guard.check(db, false);
                guard.checkpoint(db);
                if trusted.is_ok() && must_empty.load(Ordering::Relaxed) && guard.empty_log(db) {
                    must_empty.store(false, Ordering::Relaxed);
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return guard.stop_copying(),
        };
        if crowd >= CROWD {
            thread::sleep(GATHER_TIME);
        }
        let mut batch: Vec<_> = iter::once(first).chain(jobs.try_iter()).take(BATCH).collect();
        crowd = batch.iter().filter(|(durability, _)| *durability == Durability::Machine).count();
        for durability in [Durability::Process, Durability::Machine] {
            let batch = batch.extract_if(.., |(its, _)| *its == durability);
            let mut batch: Vec<_> = batch.map(|(_, job)| job).collect();
            if batch.is_empty() {
                continue;
            }
            let committed = guard
                .check(db, false)
                .and_then(|()| set_durability(db, &mut last, durability))
                .and_then(|()| transact(db, guard, clock, &mut batch));
            // This must run before any answer, because the commit may have gone into a file that no
            // path leads to.
            let committed = committed.and(guard.check(db, true));
            for job in batch {
                job.answer(&committed, recent);
            }
        }
        guard.checkpoint(db);
    }
}

/// Sets the durability of the next transactions.
fn set_durability(
    db: &Connection,
    last: &mut Option<Durability>,
    durability: Durability,
) -> Result<(), Error> {
    if *last != Some(durability) {
        let synchronous = match durability {
            Durability::Process => "NORMAL",
            Durability::Machine => "FULL",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        *last = Some(durability);
    }
    Ok(())
}

/// Runs all operations in one transaction. If one fails, the transaction is rolled back and the
/// others run again without it.
fn transact(
    db: &Connection,
    guard: &Guard,
    clock: &Clock,
    batch: &mut [Box<dyn Job>],
) -> Result<(), Error> {
    loop {
        let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        let run = batch.iter_mut().try_for_each(|job| job.run(db, now(clock)));
        match run.inspect_err(|error| guard.trust.record(error)) {
            Ok(()) => {
                let committed = transaction.commit().map_err(Error::from);
                return committed.inspect_err(|error| guard.trust.record(error));
            }
            // After some errors, such as a full disk, SQLite rolls back the whole transaction
            // itself.
            Err(error) if transaction.is_autocommit() => return Err(error),
            Err(_) => transaction.rollback()?,
        }
    }
}

impl<F, T> Job for Pending<F, T>
where
    T: Send,
    F: Fn(&Connection, u64) -> Result<(T, Option<Event>), Error> + Send,
{
    fn run(&mut self, db: &Connection, now: u64) -> Result<(), Error> {
        if self.result.is_ok() && !self.answer.is_closed() {
            self.result = (self.operation)(db, now).map(Some);
            self.result.as_ref().map(drop).map_err(Error::clone)?;
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: &Result<(), Error>, recent: &watch::Sender<Recent>) {
        let result = committed.clone().and(self.result).and_then(|done| done.ok_or_else(ended));
        let result = result.map(|(answer, event)| {
            if let Some(event) = event {
                recent.send_modify(|recent| recent.push(event));
            }
            answer
        });
        // The caller may have left.
        let _ = self.answer.send(result);
    }
}

impl<F, T> fmt::Debug for Pending<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}
