//! The one thread that writes.
//!
//! What reaches the disk costs milliseconds, no matter how much it is. So the thread takes all verbs
//! that wait, runs them in one transaction, and answers when that is durable.

use std::{
    fmt, iter,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::{event, now};
use crate::{clock::Clock, state::Error};

/// How many verbs share a transaction at most, lest the first wait too long for the last.
const BATCH: usize = 256;

/// Writes, until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    newest: watch::Receiver<u64>,
}

/// A verb on its way, whatever its answer is.
trait Job: fmt::Debug + Send {
    /// Whether anybody still waits for it.
    fn wanted(&self) -> bool;
    /// Does it, but for the end of the transaction.
    fn run(&mut self, db: &Connection, now: u64) -> Result<(), Error>;
    /// Answers, when the transaction has ended.
    fn answer(self: Box<Self>, committed: &Result<(), Error>);
}

struct Asked<F, T> {
    /// Taken when it runs.
    verb: Option<F>,
    result: Result<T, Error>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(db: Connection, clock: Clock) -> Result<Self, Error> {
        let (newest_sender, newest) = watch::channel(event::newest(&db)?);
        let (sender, jobs) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || work(&db, &clock, &jobs, &newest_sender))
            .map_err(|error| Error::Unusable(error.to_string()))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread), newest })
    }

    /// Runs a verb, all or nothing; durable when this returns.
    pub(super) async fn write<T, F>(&self, verb: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Asked { verb: Some(verb), result: Err(ended()), answer };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Box::new(job)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// The position of the newest event, which is durable.
    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Whoever waited for what it was doing when it panicked was told by a broken channel.
            let _ = thread.join();
        }
    }
}

/// Nobody writes any more.
pub(super) fn ended() -> Error {
    Error::Unusable("its thread has ended".to_owned())
}

/// What the thread does until nobody can ask it any more.
fn work(
    db: &Connection,
    clock: &Clock,
    jobs: &mpsc::Receiver<Box<dyn Job>>,
    newest: &watch::Sender<u64>,
) {
    for first in jobs {
        let mut batch: Vec<_> = iter::once(first).chain(jobs.try_iter()).take(BATCH).collect();
        let committed = transact(db, clock, &mut batch);
        if let (Ok(()), Ok(now)) = (&committed, event::newest(db)) {
            newest.send_if_modified(|newest| std::mem::replace(newest, now) != now);
        }
        for job in batch {
            job.answer(&committed);
        }
    }
}

/// Runs all in one transaction, which rolls back unless it is committed. One verb that fails leaves
/// the others alone, and one that nobody waits for any more is left out.
fn transact(db: &Connection, clock: &Clock, batch: &mut [Box<dyn Job>]) -> Result<(), Error> {
    let mut transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    for job in batch.iter_mut().filter(|job| job.wanted()) {
        let savepoint = transaction.savepoint()?;
        match job.run(&savepoint, now(clock)) {
            Ok(()) => savepoint.commit()?,
            // SQLite gives up the whole transaction after some errors, such as a full disk.
            Err(error) if savepoint.is_autocommit() => return Err(error),
            Err(_) => savepoint.finish()?,
        }
    }
    Ok(transaction.commit()?)
}

impl<F, T> Job for Asked<F, T>
where
    T: Send,
    F: FnOnce(&Connection, u64) -> Result<T, Error> + Send,
{
    fn wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    fn run(&mut self, db: &Connection, now: u64) -> Result<(), Error> {
        if let Some(verb) = self.verb.take() {
            self.result = verb(db, now);
        }
        self.result.as_ref().map(|_| ()).map_err(Error::clone)
    }

    fn answer(self: Box<Self>, committed: &Result<(), Error>) {
        // Whoever asked may have left.
        let _ = self.answer.send(committed.clone().and(self.result));
    }
}

impl<F, T> fmt::Debug for Asked<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}
