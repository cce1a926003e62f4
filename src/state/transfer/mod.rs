//! The whole of a state as rows: copies it to another place, checks it, and describes it.
//!
//! The operations of [`State`](super::State) hide how rows are linked, so a copy that used them would give
//! each event another position and each write another number. A `Source` returns the rows themselves
//! instead, in one form for both backends, and a `Target` stores them. What the rows have and what a copy
//! leaves out is in `docs/decisions/0053-copies.md`.
//!
//! All of this is for the commands of operators. A gateway never uses it.

mod backup;
mod copy;
mod row;
mod show;
mod verify;

use std::fmt;

pub(in crate::state) use self::row::{Raw, Row, Value};
pub use self::{
    backup::backup,
    copy::{Copied, copy},
    row::Kind,
    show::{Bounds, Process, Shown, TokenLife, show},
    verify::{Secrets, Verified, verify},
};
use super::{Error as StateError, EventKey, sqlite};
use crate::config::{RedisSettings, State, StateUrl};

/// The schema of an unfinished copy. Every version of the gateway refuses it, because it is newer.
pub(super) const UNFINISHED: i64 = 1_000_000_000;

/// The most rows of one batch. A script of Redis cannot have more than 8,000 values.
const BATCH: usize = 250;
/// A batch ends with the row after which it has more bytes than this.
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// The place of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its URL.
    pub url: StateUrl,
    /// What only a Redis needs.
    pub redis: RedisSettings,
}

impl From<State> for Place {
    fn from(settings: State) -> Self {
        Self { url: settings.url, redis: settings.redis }
    }
}

/// Hides the password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// The reason why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A state cannot be used.
    #[error("{place}: {error}")]
    At {
        /// The place of the state, without a password.
        place: String,
        /// The reason.
        error: StateError,
    },
    /// The command must not be executed now.
    #[error("{0}")]
    Refused(String),
    /// The copy differs from its source.
    #[error("{0}")]
    Differs(String),
}

/// Receives the progress of a command.
pub trait Observer: Send {
    /// A step begins, which examines so many rows.
    fn begin(&mut self, step: &str, rows: u64);
    /// So many more rows are done.
    fn advance(&mut self, rows: u64);
    /// The step has ended.
    fn end(&mut self);
    /// Something that the operator should read.
    fn note(&mut self, text: &str);
}

/// A damaged row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The row, by its kind and its id.
    pub row: String,
    /// The damage.
    pub why: String,
}

/// The values of a state that are in no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The name of the log. `None` if it has none yet.
    pub(super) epoch: Option<u64>,
    /// The newest position.
    pub(super) newest: u64,
    /// The last position that is no longer kept.
    pub(super) pruned: u64,
    /// The key of that event.
    pub(super) pruned_key: EventKey,
    /// The last number of a submission.
    pub(super) last_submission: u64,
    /// The last number of a write.
    pub(super) last_write: u64,
    /// A number that all later fences and generations exceed.
    pub(super) base: u64,
}

/// A part of the rows of one kind.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The rows, in order. The end has none.
    pub(super) rows: Vec<Row>,
    /// The last position of the log that was not kept when this was read.
    pub(super) pruned: u64,
    /// The entries of indexes that are missing or wrong, if the source checks them.
    pub(super) wrong: Vec<Damage>,
}

/// The facts about a state that are in no row and not copied.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The number of the schema.
    pub(super) schema: i64,
    /// The place from which an unfinished copy comes, and the row up to which it has come.
    pub(super) unfinished: Option<(String, String)>,
    /// The size in bytes.
    pub(super) bytes: Option<u64>,
    /// The number of submissions that are open.
    pub(super) open_submissions: u64,
    /// The number of writes that have not finished.
    pub(super) unfinished_writes: u64,
    /// The processes that use a Redis, and the milliseconds since each was seen.
    pub(super) processes: Vec<(String, u64)>,
    /// The era of a state in Redis.
    pub(super) era: Option<u64>,
    /// Whether a gateway uses it, as far as that is known.
    pub(super) is_used: bool,
}

/// A state whose rows can be read. Nothing is changed.
#[tonic::async_trait]
pub(super) trait Source: Send {
    /// Returns the values beside the rows.
    async fn head(&mut self) -> Result<Head, StateError>;

    /// Returns the number of rows of a kind.
    async fn count(&mut self, kind: Kind) -> Result<u64, StateError>;

    /// Returns at most `most` rows of a kind after the row with this [mark](Row::mark), in order. Tickets
    /// and counters whose time is over are left out.
    async fn rows(&mut self, kind: Kind, after: &str, most: usize) -> Result<Page, StateError>;

    /// Returns the time in milliseconds since 1970.
    async fn now(&mut self) -> Result<u64, StateError>;

    /// Fails if the state was changed since it was opened.
    async fn unchanged(&mut self) -> Result<(), StateError>;

    /// Checks what no row shows. Returns the damage.
    async fn verify(&mut self) -> Result<Vec<Damage>, StateError>;

    /// Returns the facts for operators.
    async fn facts(&mut self) -> Result<Facts, StateError>;
}

/// The result of [`Target::begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The copy has begun or continues. `at` is the progress, as in [`Target::put`], and `began` the time
    /// when it first began, in milliseconds since 1970.
    At { at: String, began: u64 },
    /// A complete state is there already, or something else.
    Taken,
    /// An unfinished copy of another state is there, from this place.
    Other(String),
}

/// A place that receives a copy.
#[tonic::async_trait]
pub(super) trait Target: Source {
    /// Begins a copy of the state with this id, which was read from `place`, or continues one. With `anew`,
    /// first deletes an unfinished one.
    async fn begin(&mut self, id: &str, place: &str, anew: bool) -> Result<Begun, StateError>;

    /// Stores rows of one kind in one atomic step, which also moves the progress from `before` to `at`.
    /// Fails if the progress is not `before`.
    async fn put(&mut self, rows: &[Row], before: &str, at: &str) -> Result<(), StateError>;

    /// Stores the values beside the rows.
    async fn put_head(&mut self, head: &Head) -> Result<(), StateError>;

    /// Ends the copy: a gateway can open it from now on.
    async fn finish(&mut self) -> Result<(), StateError>;
}

/// Opens a state to look at it while a gateway may use it.
async fn look(place: &Place) -> Result<Box<dyn Source>, StateError> {
    match &place.url {
        #[cfg(feature = "redis")]
        StateUrl::Redis(url) => {
            Ok(Box::new(super::redis::Transfer::look(url, &place.redis).await?))
        }
        #[cfg(not(feature = "redis"))]
        StateUrl::Redis(_) => Err(without_redis()),
        StateUrl::Sqlite(path) => Ok(Box::new(sqlite::Transfer::look(path)?)),
    }
}

/// Opens a state that no gateway uses. Waits for at most a minute to find that out.
async fn source(place: &Place, observer: &mut dyn Observer) -> Result<Box<dyn Source>, StateError> {
    match &place.url {
        #[cfg(feature = "redis")]
        StateUrl::Redis(url) => {
            Ok(Box::new(super::redis::Transfer::source(url, &place.redis, observer).await?))
        }
        #[cfg(not(feature = "redis"))]
        StateUrl::Redis(_) => Err(without_redis()),
        StateUrl::Sqlite(path) => {
            let _ = observer;
            Ok(Box::new(sqlite::Transfer::source(path)?))
        }
    }
}

/// Opens a place that receives a copy.
async fn target(place: &Place) -> Result<Box<dyn Target>, StateError> {
    match &place.url {
        #[cfg(feature = "redis")]
        StateUrl::Redis(url) => {
            Ok(Box::new(super::redis::Transfer::target(url, &place.redis).await?))
        }
        #[cfg(not(feature = "redis"))]
        StateUrl::Redis(_) => Err(without_redis()),
        StateUrl::Sqlite(path) => Ok(Box::new(sqlite::Transfer::target(path)?)),
    }
}

#[cfg(not(feature = "redis"))]
fn without_redis() -> StateError {
    StateError::Unusable("this build has no Redis support".to_owned())
}

/// Returns the error of a gateway or a command that finds an unfinished copy.
pub(super) fn unfinished() -> StateError {
    StateError::Unusable(
        "it is an unfinished copy of another state; finish it with the same `state copy` command, or \
         delete it"
            .to_owned(),
    )
}

/// Returns a function that adds the place to an error.
fn at(place: &Place) -> impl Fn(StateError) -> Error {
    let place = place.to_string();
    move |error| Error::At { place: place.clone(), error }
}
