//! The one thread that writes.
//!
//! What reaches the disk costs milliseconds, no matter how much it is. So the thread takes all verbs
//! that wait, runs them in one transaction, and answers when that is durable. Before it, in one of
//! their own, come those that need not be: SQLite's log is a file that is only appended to, and what
//! is durable in it is so with all that stands before it.

use std::{
    fmt, iter,
    sync::mpsc::{self, RecvTimeoutError},
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

/// How many verbs share a transaction at most, lest the first wait too long for the last.
const BATCH: usize = 256;
/// Where so many shared the last one, there will be more in a moment …
const CROWD: usize = 20;
/// … which is waited for: a sync takes longer, and then is one for all of them.
const MOMENT: Duration = Duration::from_micros(500);
/// With nothing to write for so long, the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Writes, until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Waiting>>,
    thread: Option<JoinHandle<()>>,
    recent: watch::Receiver<Recent>,
}

/// A verb on its way, and what its answer promises.
type Waiting = (Lasts, Box<dyn Job>);

/// What an answer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// It outlives this process, and the machine once anything later does.
    Process,
    /// It is on the disk.
    Machine,
}

/// A verb, whatever its answer is.
trait Job: fmt::Debug + Send {
    /// Does it, but for the end of the transaction, unless it has failed before or nobody waits for
    /// it any more.
    fn run(&mut self, db: &Connection, now: u64) -> Result<(), Error>;
    /// Answers, when the transaction has ended. What was appended is told first.
    fn answer(self: Box<Self>, committed: &Result<(), Error>, recent: &watch::Sender<Recent>);
}

struct Asked<F, T> {
    verb: F,
    /// Of its last run.
    result: Result<Option<(T, Option<Event>)>, Error>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(db: Connection, mut guard: Guard, clock: Clock) -> Result<Self, Error> {
        let (recent_sender, recent) = watch::channel(Recent::new(&event::log(&db)?));
        let (sender, jobs) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                // The database is closed before what the guard has open.
                let db = db;
                work(&db, &mut guard, &clock, &jobs, &recent_sender);
            })
            .map_err(|error| Error::Unusable(error.to_string()))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread), recent })
    }

    /// Runs a verb, all or nothing; durable when this returns. It is run again where another that
    /// shared its transaction failed.
    pub(super) async fn write<T, F>(&self, verb: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        self.run(Lasts::Machine, verb).await
    }

    /// The same; durable when anything later is.
    pub(super) async fn write_ahead<T, F>(&self, verb: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        self.run(Lasts::Process, verb).await
    }

    /// One of the two.
    pub(super) async fn run<T, F>(&self, lasts: Lasts, verb: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<T, Error> + Send + 'static,
    {
        self.ask(lasts, move |db, now| Ok((verb(db, now)?, None))).await
    }

    /// As [`Writer::write`], with the event that came of it. Whoever waits for events is told.
    pub(super) async fn append<T, F>(&self, verb: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<(T, Option<Event>), Error> + Send + 'static,
    {
        self.ask(Lasts::Machine, verb).await
    }

    async fn ask<T, F>(&self, lasts: Lasts, verb: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection, u64) -> Result<(T, Option<Event>), Error> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Asked { verb, result: Ok(None), answer };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send((lasts, Box::new(job))).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// The newest events.
    pub(super) fn recent(&self) -> watch::Receiver<Recent> {
        self.recent.clone()
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
    guard: &mut Guard,
    clock: &Clock,
    jobs: &mpsc::Receiver<Waiting>,
    recent: &watch::Sender<Recent>,
) {
    let (mut last, mut crowd) = (None, 0);
    loop {
        let first = match jobs.recv_timeout(LOOK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                // Whatever is wrong was logged.
                let _ = guard.check(db, false, clock.now());
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if crowd >= CROWD {
            thread::sleep(MOMENT);
        }
        let mut batch: Vec<_> = iter::once(first).chain(jobs.try_iter()).take(BATCH).collect();
        crowd = batch.iter().filter(|(lasts, _)| *lasts == Lasts::Machine).count();
        for lasts in [Lasts::Process, Lasts::Machine] {
            let batch = batch.extract_if(.., |(its, _)| *its == lasts);
            let mut batch: Vec<_> = batch.map(|(_, job)| job).collect();
            if batch.is_empty() {
                continue;
            }
            let committed = guard
                .check_before(db, clock.now())
                .and_then(|()| promise(db, &mut last, lasts))
                .and_then(|()| transact(db, guard, clock, &mut batch));
            // Before anything is acknowledged: it may have gone into a file that no path leads to.
            let committed = committed.and(guard.check(db, true, clock.now()));
            for job in batch {
                job.answer(&committed, recent);
            }
        }
        guard.checkpoint(db);
    }
}

/// Lets the next transactions promise that.
fn promise(db: &Connection, last: &mut Option<Lasts>, lasts: Lasts) -> Result<(), Error> {
    if *last != Some(lasts) {
        let synchronous = match lasts {
            Lasts::Process => "NORMAL",
            Lasts::Machine => "FULL",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        *last = Some(lasts);
    }
    Ok(())
}

/// Runs all in one transaction, which rolls back unless it is committed. One verb that fails leaves
/// the others alone: they run once more, without it.
fn transact(
    db: &Connection,
    guard: &Guard,
    clock: &Clock,
    batch: &mut [Box<dyn Job>],
) -> Result<(), Error> {
    loop {
        let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        let run = batch.iter_mut().try_for_each(|job| job.run(db, now(clock)));
        match run.inspect_err(|error| guard.trust.hear(error)) {
            Ok(()) => {
                let committed = transaction.commit().map_err(Error::from);
                return committed.inspect_err(|error| guard.trust.hear(error));
            }
            // SQLite gives up the whole transaction after some errors, such as a full disk.
            Err(error) if transaction.is_autocommit() => return Err(error),
            Err(_) => transaction.rollback()?,
        }
    }
}

impl<F, T> Job for Asked<F, T>
where
    T: Send,
    F: Fn(&Connection, u64) -> Result<(T, Option<Event>), Error> + Send,
{
    fn run(&mut self, db: &Connection, now: u64) -> Result<(), Error> {
        if self.result.is_ok() && !self.answer.is_closed() {
            self.result = (self.verb)(db, now).map(Some);
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
        // Whoever asked may have left.
        let _ = self.answer.send(result);
    }
}

impl<F, T> fmt::Debug for Asked<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}
