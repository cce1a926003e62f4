//! The thread that copies SQLite's log into the database.
//!
//! Copying a long log writes thousands of pages and syncs them. That takes tens of milliseconds, and while the
//! writing thread did it, every write waited. This thread has a connection of its own, and the writing thread
//! continues meanwhile.

use std::{
    path::Path,
    sync::mpsc::{self, Receiver, SyncSender, TryRecvError},
    thread::{self, JoinHandle},
};

use rusqlite::{OpenFlags, config::DbConfig};

use super::{connect, guard::checkpoint};
use crate::state::Error;

/// Copies on request until it is dropped.
#[derive(Debug)]
pub(super) struct Copier {
    /// `None` only while the copier is being dropped.
    requests: Option<SyncSender<()>>,
    results: Receiver<Result<(), Error>>,
    thread: Option<JoinHandle<()>>,
    copying: bool,
}

impl Copier {
    /// Starts the thread. Fails if the database cannot be opened once more.
    pub(super) fn start(path: &Path) -> Result<Self, Error> {
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.pragma_update(None, "synchronous", "FULL")?;
        // Only a request copies.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let (requests, requested) = mpsc::sync_channel(1);
        let (sender, results) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("state-copy".to_owned())
            .spawn(move || {
                while requested.recv().is_ok() {
                    // The writing thread may have ended.
                    let _ = sender.send(checkpoint(&db, "PASSIVE").map(drop));
                }
            })
            .map_err(|error| Error::Unusable(error.to_string()))?;
        Ok(Self { requests: Some(requests), results, thread: Some(thread), copying: false })
    }

    /// Begins to copy as much as is possible now. Returns false if the thread has ended.
    pub(super) fn begin(&mut self) -> bool {
        self.copying = self.requests.as_ref().is_some_and(|requests| requests.try_send(()).is_ok());
        self.copying
    }

    /// Returns true while a copy is in progress.
    pub(super) fn is_copying(&self) -> bool {
        self.copying
    }

    /// Returns the result of the copy in progress, or `None` if there is none, or if it has not ended yet. With `wait` it
    /// waits for the end.
    pub(super) fn result(&mut self, wait: bool) -> Option<Result<(), Error>> {
        if !self.copying {
            return None;
        }
        let result = match wait {
            true => self.results.recv().map_err(TryRecvError::from),
            false => self.results.try_recv(),
        };
        let result = match result {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                Err(Error::Unusable("the thread that copies the log has ended".to_owned()))
            }
        };
        self.copying = false;
        Some(result)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the writing thread has received an error.
            let _ = thread.join();
        }
    }
}
