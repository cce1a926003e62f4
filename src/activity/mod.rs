//! The activity log: which caller wrote what, to which account, with which outcome.
//!
//! Each call of an RPC that writes leaves one line, whether it is executed or refused. The line is written
//! before the answer is sent, so an answered write always has one. It has names and ids, and never a value
//! of the request. `docs/security.md` describes the fields.
//!
//! The lines go into the normal log with the target [`telemetry::ACTIVITY`], or into a file of their own.
//! The log never refuses a write: the journal has already recorded it with its caller.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use serde::Serialize;

use self::file::LogFile;
use crate::{config, metrics::Metrics, telemetry};

mod file;

/// An answer waits this long at most for its line. After that the line still follows.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The activity log. Clones are cheap and share everything. The default one writes into the normal log.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActivityLog(Option<Arc<LogFile>>);

/// One line. A text is empty if it is not known.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Entry {
    /// When the line was written, in UTC.
    pub(crate) timestamp: String,
    /// The name of the caller. Empty if the settings name no callers.
    pub(crate) caller: String,
    /// The RPC, as in `StoreService/AddStore`.
    pub(crate) method: String,
    /// The account.
    pub(crate) app_id: String,
    /// The caller's name for the write.
    pub(crate) request_id: String,
    /// The journal's id of the write.
    pub(crate) write_id: String,
    /// The name of a gRPC code, or the word for what happened without an answer.
    pub(crate) outcome: &'static str,
    /// The reason of a failure, as in `error.proto`.
    pub(crate) reason: String,
    /// The id of the trace, which an error has, too.
    pub(crate) trace_id: String,
}

impl Entry {
    /// Returns an empty line of this time.
    pub(crate) fn at(time: SystemTime) -> Self {
        let mut timestamp = Timestamp::from(time);
        // Milliseconds are enough for a person.
        timestamp.nanos -= timestamp.nanos % 1_000_000;
        Self { timestamp: timestamp.to_string(), ..Self::default() }
    }

    /// Writes the line into the normal log.
    fn log(&self) {
        let Self {
            timestamp: _,
            caller,
            method,
            app_id,
            request_id,
            write_id,
            outcome,
            reason,
            trace_id,
        } = self;
        tracing::info!(
            target: telemetry::ACTIVITY,
            caller,
            method,
            app_id,
            request_id,
            write_id,
            outcome,
            reason,
            trace_id,
            "write"
        );
    }
}

impl ActivityLog {
    /// Returns the log of the settings. Fails if its file cannot be opened.
    pub(crate) fn open(settings: &config::Activity, metrics: Metrics) -> io::Result<Self> {
        Ok(match &settings.log {
            config::ActivityTarget::Stderr => Self::default(),
            config::ActivityTarget::File(path) => {
                Self(Some(Arc::new(LogFile::open(path, metrics)?)))
            }
        })
    }

    /// Writes a line. Returns when it is written, or after a second.
    ///
    /// A line that cannot be written into the file goes into the normal log.
    pub(crate) async fn write(&self, entry: Entry) {
        match &self.0 {
            None => entry.log(),
            Some(file) => {
                let _ = tokio::time::timeout(WRITE_LIMIT, file.write(entry)).await;
            }
        }
    }

    /// Writes a line soon, as [`ActivityLog::write`] does, for a caller that does not wait.
    pub(crate) fn write_soon(&self, entry: Entry) {
        match &self.0 {
            None => entry.log(),
            Some(file) => file.write_soon(entry),
        }
    }
}
