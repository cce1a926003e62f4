//! SQLite: a file beside one process.
//!
//! One thread writes ([`writer`]), a few connections read ([`reader`]). What the verbs do stands in
//! a file per concern, as functions over a connection in a transaction. Times are milliseconds since
//! 1970.

mod event;
mod lease;
mod reader;
mod schema;
mod submission;
mod token;
mod writer;

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::{reader::Readers, writer::Writer};
use crate::{
    clock::Clock,
    id::{AppId, PoiId, Secret},
    state::{
        Acquired, Appended, Error, EventPage, EventQuery, Log, NewEvent, NewSubmission,
        SharedToken, State, Submission, SubmissionPage, SubmissionQuery,
    },
};

/// How long SQLite waits for a lock that another process has. That of an operator with a shell is
/// short, or too long for any caller.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many prepared statements a connection keeps; more than there are.
const STATEMENTS: usize = 64;

/// At how many rows a page looks at most.
const SCAN: u64 = 5000;

/// How many rows are forgotten at once: writing stands still meanwhile.
const PRUNE: u64 = 1000;

/// How long [`State::newer`] waits at most.
const WAIT: Duration = Duration::from_secs(30);

/// The state in a file.
#[derive(Debug)]
pub struct Sqlite {
    // Fields are dropped in this order: nobody else gets the lock before the file is closed.
    readers: Readers,
    writer: Writer,
    clock: Clock,
    _lock: File,
}

impl Sqlite {
    /// Opens the file, or makes it. Its folder has to be there.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, Error> {
        let mut lock_path = OsString::from(path);
        lock_path.push(".lock");
        let lock = open_private(Path::new(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Locked,
            TryLockError::Error(error) => unusable(path, &error),
        })?;
        // SQLite itself would make it readable for everybody.
        open_private(path)?;
        let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        schema::prepare(&mut db)?;
        Ok(Self {
            readers: Readers::new(path),
            writer: Writer::start(db, clock.clone())?,
            clock,
            _lock: lock,
        })
    }
}

#[tonic::async_trait]
impl State for Sqlite {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        self.writer.write(move |db, now| event::append(db, now, &event)).await
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        self.readers.read(move |db| event::page(db, &query)).await
    }

    async fn newer(&self, position: u64) -> Result<(), Error> {
        let mut newest = self.writer.newest();
        match tokio::time::timeout(WAIT, newest.wait_for(|newest| *newest > position)).await {
            Ok(Err(_)) => Err(writer::ended()),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn log(&self) -> Result<Log, Error> {
        self.readers.read(event::log).await
    }

    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        self.writer
            .write(move |db, now| {
                let before = now.saturating_sub(millis(age));
                let events = event::prune(db, before, PRUNE)?;
                Ok(events + submission::prune(db, before, PRUNE - events)?)
            })
            .await
    }

    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        self.writer.write(move |db, now| submission::remember(db, now, &submission)).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        let submission_id = submission_id.to_owned();
        self.readers.read(move |db| submission::by_id(db, &submission_id)).await
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        let (app_id, poi_id) = (app_id.clone(), poi_id.clone());
        self.readers.read(move |db| submission::pictures(db, &app_id, &poi_id)).await
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        self.readers.read(move |db| submission::page(db, &query)).await
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        self.writer.write(move |db, now| submission::take_due(db, now, again, limit)).await
    }

    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        let name = name.to_owned();
        self.writer.write(move |db, now| lease::acquire(db, now, &name, term)).await
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        let name = name.to_owned();
        self.writer.write(move |db, now| lease::renew(db, now, &name, fence, term)).await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        let name = name.to_owned();
        self.writer.write(move |db, now| lease::free(db, now, &name, fence, rest)).await
    }

    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        let (app_id, now) = (app_id.clone(), now(&self.clock));
        self.readers.read(move |db| token::living(db, now, &app_id)).await
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        let (app_id, value) = (app_id.clone(), value.clone());
        self.writer.write(move |db, now| token::put(db, now, &app_id, before, &value, life)).await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        let counter = counter.to_owned();
        self.writer.write(move |db, now| token::spend(db, now, &counter, limit, window)).await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        let counter = counter.to_owned();
        self.writer.write(move |db, now| token::refund(db, now, &counter)).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.writer.write(|db, _| schema::probe(db)).await
    }
}

/// Opens a file, and makes it for its owner alone.
fn open_private(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| unusable(path, &error))
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, Error> {
    // Without a mutex of SQLite's: a connection is used by one thread at a time.
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(PATIENCE)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Unusable(match path.parent() {
        Some(folder) if error.kind() == io::ErrorKind::NotFound => {
            format!("there is no folder {}", folder.display())
        }
        _ => format!("{}: {error}", path.display()),
    })
}

/// Says what went wrong, without what is stored.
impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error() {
            Some(error) => match error.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::Damaged(error.to_string())
                }
                _ => Self::Unusable(error.to_string()),
            },
            None => Self::Damaged("a value has a wrong type".to_owned()),
        }
    }
}

fn now(clock: &Clock) -> u64 {
    millis(clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn later(now: u64, by: Duration) -> u64 {
    storable(now.saturating_add(millis(by)))
}

fn millis(duration: Duration) -> u64 {
    storable(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// SQLite's numbers have a sign. What is too large for them is out of reach anyway.
fn storable(number: u64) -> u64 {
    number.min(i64::MAX.unsigned_abs())
}
