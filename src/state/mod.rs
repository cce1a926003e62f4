//! The data that outlives a process, or that replicas share: the log of events, submissions, the journal of
//! writes, leases, tokens, and the authorizers of platforms.
//!
//! A [`State`] is the sum of one trait per concern, each in a file of its own with its data types:
//! [`Events`], [`Submissions`], [`Writes`], [`Leases`], [`Tokens`], [`Platforms`]. The backends have files of the same
//! names: [`sqlite`], a file beside one process, and [`redis`], shared by several. In front of the backend, `sealed`
//! seals the secrets, so that neither the file nor Redis has one as plain text.
//!
//! Each method is one atomic step of this domain, and durable when it returns, unless its comment states
//! otherwise. There are no transactions across methods and there is no key-value access, so that both
//! backends can do all of it well. Time is the backend's own, because the clocks of replicas differ.
//!
//! Messages are stored encoded: events as types of the contract, writes, submissions and authorizers as
//! records of their own (`proto/internal/`). Both only grow, so every later version reads what one version wrote.
//! The fields that the methods examine are columns beside the message.
//!
//! If the future of a method is dropped, the method may still take effect.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::write::WRITES_KEPT;
pub use self::{
    event::{
        Appended, Event, EventKey, EventPage, EventQuery, Events, Log, LogPosition, NewEvent,
        Origin, Segment,
    },
    lease::{Acquired, Leases},
    platform::{Authorizer, Platforms, Ticket},
    secret::{Backend, SecretColumn, SecretPage, Secrets, StoredSecret},
    submission::{NewSubmission, Submission, SubmissionPage, SubmissionQuery, Submissions},
    token::{SharedToken, Tokens},
    write::{Begun, NewWrite, Outcome, Sent, Write, WritePage, WriteQuery, WriteState, Writes},
};
pub(crate) use self::{
    measured::Measured,
    submission::{is_decided, is_open},
};
use crate::{
    config, telemetry,
    util::{
        clock::Clock,
        id::{AppId, Secret},
    },
};

mod event;
pub(crate) mod gap;
mod lease;
mod measured;
mod platform;
#[cfg(feature = "redis")]
pub mod redis;
mod sealed;
mod secret;
pub mod sqlite;
mod submission;
mod sum;
mod token;
pub mod transfer;
mod write;

/// Opens the state that the settings name, and upgrades an older schema. Its secrets are sealed.
///
/// Fails if it cannot be opened, belongs to another process, or was written by a newer version, or if a key cannot be
/// read or made.
pub async fn open(settings: &config::State, clock: Clock) -> Result<Arc<dyn State>, Error> {
    let backend: Arc<dyn Backend> = match &settings.url {
        #[cfg(feature = "redis")]
        config::StateUrl::Redis(url) => Arc::new(redis::Redis::open(url, &settings.redis).await?),
        #[cfg(not(feature = "redis"))]
        config::StateUrl::Redis(_) => {
            return Err(Error::Unusable("this build has no Redis support".to_owned()));
        }
        config::StateUrl::Sqlite(path) => Arc::new(sqlite::Sqlite::open(path, clock)?),
    };
    Ok(sealed::Sealed::open(backend, settings).await?)
}

/// What can be found out about a state without opening it.
#[derive(Debug)]
pub struct Inspection {
    /// The observation, for people.
    pub found: String,
    /// The reason why the state may lose data, and the remedy.
    pub warning: Option<String>,
}

/// Inspects the state that the settings name, without opening or changing it.
///
/// Fails if it could not be opened.
pub async fn inspect(settings: &config::State) -> Result<Inspection, Error> {
    match &settings.url {
        #[cfg(feature = "redis")]
        config::StateUrl::Redis(url) => redis::inspect(url, &settings.redis).await,
        #[cfg(not(feature = "redis"))]
        config::StateUrl::Redis(_) => {
            Err(Error::Unusable("this build has no Redis support".to_owned()))
        }
        config::StateUrl::Sqlite(path) => {
            let path = path.clone();
            let inspected = tokio::task::spawn_blocking(move || sqlite::inspect(&path)).await;
            inspected.unwrap_or_else(|ended| Err(Error::Unusable(ended.to_string())))
        }
    }
}

/// The secrets of a platform that a state has.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The newest ticket, whatever its age.
    pub ticket: Option<Ticket>,
    /// The access token, if it has not expired.
    pub token: Option<Secret>,
    /// True if there is one of them that no key opens.
    pub has_closed: bool,
}

/// Returns the secrets of a platform without opening or changing the state. A gateway that runs is not
/// disturbed. Returns none if there is no state yet.
///
/// Fails if it cannot be read, or if a key cannot be read.
pub async fn peek(
    settings: &config::State,
    platform: &AppId,
    clock: &Clock,
) -> Result<Peeked, Error> {
    let stored = match &settings.url {
        #[cfg(feature = "redis")]
        config::StateUrl::Redis(url) => redis::peek(url, &settings.redis, platform).await?,
        #[cfg(not(feature = "redis"))]
        config::StateUrl::Redis(_) => {
            return Err(Error::Unusable("this build has no Redis support".to_owned()));
        }
        config::StateUrl::Sqlite(path) => {
            let (path, platform, clock) = (path.clone(), platform.clone(), clock.clone());
            let read = move || sqlite::peek(&path, &platform, &clock);
            let read = tokio::task::spawn_blocking(read).await;
            read.unwrap_or_else(|ended| Err(Error::Unusable(ended.to_string())))?
        }
    };
    sealed::open_peeked(settings, platform, stored)
}

/// A page ends before its rows have more bytes than this, unless its first row alone has more. Clients
/// of gRPC accept answers of up to 4 MiB, and the answer for a page has little more than its rows.
pub(crate) const PAGE_BYTES: usize = 3 << 20;
/// The bytes for which a row counts in addition to its texts.
const ROW_BYTES: usize = 64;

/// The whole state, as both backends implement it.
#[tonic::async_trait]
pub trait State:
    Events + Submissions + Writes + Leases + Tokens + Platforms + fmt::Debug + Send + Sync
{
    /// Deletes events that were received, and submissions that were decided, more than `age` ago, up to
    /// a limit. The newest event always stays. Deletes finished writes, and claims whose term is over,
    /// after a day, and never a write whose outcome is unknown. Deletes authorizers whose authorization
    /// ended more than `age` ago, and expired tickets. Returns the number of deleted rows.
    async fn prune(&self, age: Duration) -> Result<u64, Error>;

    /// Writes something durably, to check that writing works.
    async fn probe(&self) -> Result<(), Error>;

    /// Returns how often a secret of each kind could not be opened since the start.
    fn closed_secrets(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// The reason why a step failed. The step may have taken effect nevertheless, as with any connection
/// that breaks. Every step can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stored data is not what this version writes.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// No space is left.
    #[error("the disk is full")]
    Full,
    /// Data that was acknowledged is gone, or the next start would not find it.
    #[error("the state cannot be relied on: {0}")]
    Lost(String),
    /// One row is damaged. The others can be read.
    #[error("a row of the state cannot be read: {0}")]
    Unreadable(String),
    /// Another process holds it.
    #[error("the state is locked by another process")]
    Locked,
    /// It was written by a newer version.
    #[error("the state has schema {found}, and this version supports up to {known}")]
    Newer {
        /// The schema of the file.
        found: i64,
        /// The schema of this version.
        known: i64,
    },
    /// It cannot be reached or used now.
    #[error("the state cannot be used: {0}")]
    Unusable(String),
}

/// Logs that a damaged row was skipped.
fn log_skipped(what: &'static str, why: &str) {
    if let Some(unlogged) = telemetry::may_log("skipped a damaged row of the state", what) {
        tracing::error!(what, why, unlogged, "skipped a damaged row of the state");
    }
}

/// Returns the time so many milliseconds after the start of 1970, as the state stores times.
pub(crate) fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// Returns a state for a unit test, and the folder in which it is.
#[cfg(test)]
pub(crate) fn temporary(clock: &Clock) -> (tempfile::TempDir, Arc<dyn State>) {
    let folder = tempfile::tempdir().expect("a folder");
    let state = sqlite::Sqlite::open(&folder.path().join("state.db"), clock.clone());
    (folder, Arc::new(state.expect("a state")))
}
