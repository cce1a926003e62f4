//! The state in SQLite: a file that one process uses.
//!
//! One thread writes (`writer.rs`), and a few connections read (`reader.rs`). The operations are
//! functions over a connection in a transaction, one file per concern. Times are milliseconds since
//! 1970.

mod backup;
mod copier;
mod event;
mod guard;
mod inspect;
mod key_file;
mod lease;
mod platform;
mod reader;
mod recent;
mod schema;
mod secret;
mod submission;
mod token;
mod transfer;
mod wal;
mod write;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, ffi, types::ValueRef};
use tokio::{sync::OnceCell, task};

pub(super) use self::{
    backup::{BackupError, backup},
    inspect::inspect,
    key_file::{make_key, read_key},
    platform::peek,
    transfer::Transfer,
};
use self::{
    guard::{Files, Guard, Trust},
    reader::Readers,
    writer::Writer,
};
use crate::{
    state::{Error, State, log_skipped, sum},
    util::{clock::Clock, lock},
};

/// How long SQLite waits for another process's lock. An operator's shell holds one briefly, or else
/// too long for any caller.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// The number of prepared statements that a connection keeps. There are fewer.
const STATEMENTS: usize = 64;

/// The most rows that one page reads.
const SCAN: u64 = 5000;

/// The most rows that are pruned at once, because pruning blocks other writes.
const PRUNE: u64 = 1000;

/// The pause between two attempts to open a file on a full disk.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The state in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    clock: Clock,
    open: OnceCell<Open>,
    /// The time and the error of the last failed attempt to open the file.
    failed: Mutex<Option<(Instant, Error)>>,
}

/// An open file.
#[derive(Debug)]
struct Open {
    // Fields are dropped in this order: the file must be closed before another process can get the
    // lock.
    readers: Readers,
    writer: Writer,
    _files: Arc<Files>,
}

impl Sqlite {
    /// Opens the file, or creates it. Its folder must exist. A full disk does not fail this.
    /// Instead, every operation fails until there is room.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, Error> {
        let (open, failed) = match Open::new(path, &clock) {
            Ok(open) => (OnceCell::new_with(Some(open)), None),
            Err(error @ Error::Full) => {
                tracing::error!("failed to open the state, trying again on demand: {error}");
                (OnceCell::new(), Some((clock.now(), error)))
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), clock, open, failed: Mutex::new(failed) })
    }

    async fn writer(&self) -> Result<&Writer, Error> {
        Ok(&self.opened().await?.writer)
    }

    async fn readers(&self) -> Result<&Readers, Error> {
        Ok(&self.opened().await?.readers)
    }

    /// Returns the open file. Opens it now if an earlier attempt failed.
    async fn opened(&self) -> Result<&Open, Error> {
        // Only one caller at a time tries to open the file.
        let open = async || {
            let now = self.clock.now();
            if let Some((at, error)) = lock(&self.failed).clone()
                && now < at + REOPEN_PAUSE
            {
                return Err(error);
            }
            let (path, clock) = (self.path.clone(), self.clock.clone());
            let opened = task::spawn_blocking(move || Open::new(&path, &clock)).await;
            let opened = opened.unwrap_or_else(|ended| Err(Error::Unusable(ended.to_string())));
            match &opened {
                Ok(_) => tracing::info!("opened the state after an earlier failure"),
                Err(error) => {
                    let failed = Some((now, error.clone()));
                    *lock(&self.failed) = failed;
                }
            }
            opened
        };
        self.open.get_or_try_init(open).await
    }
}

impl Open {
    fn new(path: &Path, clock: &Clock) -> Result<Self, Error> {
        let files = Arc::new(Files::lock(path)?);
        let named = |error| match error {
            Error::Damaged(what) | Error::Unreadable(what) => Error::Damaged(format!(
                "{}: {what}; restore a backup, or move the file away to begin anew",
                path.display()
            )),
            error => error,
        };
        wal::check(files.log()).map_err(named)?;
        let mut db = connect(files.database(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let is_new = files.is_new();
        schema::prepare(&mut db).map_err(named)?;
        if !is_new {
            schema::check(&db).map_err(named)?;
        }
        let trust = Arc::new(Trust::default());
        let guard = Guard::new(&files, &trust)?;
        Ok(Self {
            readers: Readers::new(files.database(), &trust),
            writer: Writer::start(db, guard, clock.clone()).map_err(named)?,
            _files: files,
        })
    }
}

#[tonic::async_trait]
impl State for Sqlite {
    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        let writer = self.writer().await?;
        writer
            .write(move |db, now| {
                let before = now.saturating_sub(millis(age));
                let mut gone = event::prune(db, before, PRUNE)?;
                gone += submission::prune(db, before, PRUNE - gone)?;
                gone += write::prune(db, now, PRUNE - gone)?;
                gone += platform::prune(db, now, before, PRUNE - gone)?;
                Ok(gone)
            })
            .await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.writer().await?.write(|db, _| schema::probe(db)).await
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, Error> {
    // SQLite's own mutex is not needed: a connection is used by one thread at a time.
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(LOCK_WAIT)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without this, SQLite plans a statement again whenever a bound value may change its plan.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return Error::Full;
    }
    Error::Unusable(match path.parent() {
        Some(folder) if error.kind() == io::ErrorKind::NotFound => {
            format!("there is no folder {}", folder.display())
        }
        _ => format!("{}: {error}", path.display()),
    })
}

/// Converts an error without quoting stored values.
impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error() {
            Some(error) => match error.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
                ErrorCode::DiskFull => Self::Full,
                // SQLite reports this if the disk has no room for the files beside the database.
                _ if error.extended_code == ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::Damaged(error.to_string())
                }
                // The gateway writes no wrong types, so such a value was damaged. A column that is
                // not even written can also report this.
                _ if error.extended_code == ffi::SQLITE_CONSTRAINT_DATATYPE => {
                    Self::Unreadable("a value has a wrong type".to_owned())
                }
                // Data that was not synced before may be lost, even if the next sync succeeds.
                _ if error.extended_code == ffi::SQLITE_IOERR_FSYNC => {
                    Self::Lost("the disk failed to sync".to_owned())
                }
                _ => Self::Unusable(error.to_string()),
            },
            None => Self::Unreadable("a value has a wrong type".to_owned()),
        }
    }
}

/// Ignores the error of a change if it is about a damaged row.
fn unless_damaged(changed: rusqlite::Result<usize>, what: &'static str) -> Result<(), Error> {
    readable(changed.map(Some), what).map(drop)
}

/// Returns the value of a row, or `None` if that row is damaged, because it must not block
/// operations on other rows.
fn readable<T>(read: rusqlite::Result<Option<T>>, what: &'static str) -> Result<Option<T>, Error> {
    match read.map_err(Error::from) {
        Err(Error::Unreadable(why)) => {
            log_skipped(what, &why);
            Ok(None)
        }
        read => read,
    }
}

/// Returns the message of a row's value without its checksum. Fails if it is wrong.
fn message(value: ValueRef<'_>) -> Result<Bytes, Error> {
    let stored = value.as_blob().map_err(|_| Error::Unreadable("it is no message".to_owned()))?;
    Ok(Bytes::copy_from_slice(sum::without_checksum(stored, &[])?))
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

/// Limits a number to the signed range of SQLite. Larger numbers are out of reach.
fn storable(number: u64) -> u64 {
    number.min(i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{
        Acquired, EventQuery, Events, Leases, Submissions, WRITES_KEPT, WriteQuery, WriteState,
        Writes,
    };

    fn state() -> (tempfile::TempDir, Sqlite) {
        let folder = tempfile::tempdir().expect("a folder");
        let state = Sqlite::open(&folder.path().join("state.db"), Clock::frozen()).expect("opened");
        (folder, state)
    }

    fn writer(state: &Sqlite) -> &Writer {
        &state.open.get().expect("open").writer
    }

    fn fill(db: &Connection) -> Result<(), Error> {
        db.execute("INSERT INTO leases VALUES (hex(randomblob(100000)), 1, 0, 0)", [])?;
        Ok(())
    }

    fn sleep_in_writer(_: &Connection, _: u64) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    #[tokio::test]
    async fn full_disk_fails_until_there_is_space() {
        let (_folder, state) = state();
        let limit = |pages: u32| {
            writer(&state)
                .write(move |db, _| Ok(db.pragma_update(None, "max_page_count", pages)?))
        };
        limit(30).await.expect("limited");
        assert_eq!(writer(&state).write(|db, _| fill(db)).await, Err(Error::Full));
        state.probe().await.expect("this needs no space");
        limit(1000).await.expect("limited");
        assert_eq!(writer(&state).write(|db, _| fill(db)).await, Ok(()));
    }

    #[tokio::test]
    async fn failed_operation_does_not_affect_its_batch() {
        let (_folder, state) = state();
        let writer = writer(&state);
        // The first operation blocks the thread, so that the others share a transaction.
        let (_, before, failed, after) = tokio::join!(
            writer.write(sleep_in_writer),
            writer.write(|db, now| lease::acquire(db, now, "a", Duration::MAX)),
            writer.write(|db, now| {
                lease::acquire(db, now, "b", Duration::MAX)?;
                Err::<(), _>(Error::Unusable("on purpose".to_owned()))
            }),
            writer.write(|db, now| lease::acquire(db, now, "c", Duration::MAX)),
        );
        assert_eq!((before, after), (Ok(Acquired::Lease(1)), Ok(Acquired::Lease(1))));
        assert_eq!(failed, Err(Error::Unusable("on purpose".to_owned())));
        let again = state.acquire("b", Duration::MAX).await;
        assert_eq!(again, Ok(Acquired::Lease(1)), "the lease is free");
    }

    #[tokio::test]
    async fn abandoned_operation_is_not_run() {
        let (_folder, state) = state();
        let writer = writer(&state);
        let slow = writer.write(sleep_in_writer);
        let left = async {
            // It has the same durability as the slow operation. Others would run before it.
            let acquire = writer.write(|db, now| lease::acquire(db, now, "a", Duration::MAX));
            assert!(tokio::time::timeout(Duration::from_millis(1), acquire).await.is_err());
        };
        let (slow, ()) = tokio::join!(slow, left);
        slow.expect("done");
        assert_eq!(state.acquire("a", Duration::MAX).await, Ok(Acquired::Lease(1)));
    }

    #[tokio::test]
    async fn panicked_writer_fails_every_operation() {
        let (_folder, state) = state();
        let broken =
            writer(&state).write(|_, _| -> Result<(), Error> { panic!("on purpose") }).await;
        assert_eq!(broken, Err(writer::ended()));
        assert_eq!(state.probe().await, Err(writer::ended()));
        assert_eq!(state.newer(0).await, Err(writer::ended()));
    }

    #[tokio::test]
    async fn scans_and_prunes_are_bounded() {
        let (_folder, state) = state();
        let append = |db: &Connection, now| {
            for n in 0..SCAN + 2 {
                db.execute(
                    "INSERT INTO events VALUES (?1, randomblob(32), '', ?2, 0, '', NULL, 0, 0, 1, '',
                       '', '', 0, ?3, '', '', zeroblob(0))",
                    (n + 1, if n < SCAN { "" } else { "wx1" }, now),
                )?;
            }
            db.execute("UPDATE log SET newest = ?1", [SCAN + 2])?;
            Ok(())
        };
        writer(&state).write(append).await.expect("appended");
        let accounts = crate::util::scope::Scope::one("wx1".to_owned());
        let query = EventQuery { limit: 9, accounts, ..EventQuery::default() };
        let page = state.events(query.clone()).await.expect("a page");
        assert_eq!((page.events.len(), page.seen, page.at_end), (0, SCAN, false));
        let page = state.events(EventQuery { after: SCAN, ..query }).await.expect("a page");
        assert_eq!((page.events.len(), page.seen, page.at_end), (2, SCAN + 2, true));

        state.clock.advance(Duration::from_secs(2));
        assert_eq!(state.prune(Duration::from_secs(1)).await, Ok(PRUNE));
    }

    #[tokio::test]
    async fn unknown_write_is_found_without_full_scan() {
        let (_folder, state) = state();
        let note = |db: &Connection, now| {
            for n in 0..SCAN + 2 {
                let (stands, ended) = if n == SCAN { ("unknown", 0) } else { ("finished", now) };
                db.execute(
                    "INSERT INTO writes VALUES (?1, ?1, 'wx1', '', ?1, zeroblob(32), '', ?2, 1, 0,
                       1, 0, 0, ?3, zeroblob(0), NULL, '')",
                    (n + 1, stands, ended),
                )?;
            }
            Ok(())
        };
        writer(&state).write(note).await.expect("noted");
        let all = WriteQuery { limit: usize::MAX, ..WriteQuery::default() };
        let page = state.writes(all.clone()).await.expect("a page");
        assert_eq!((page.writes.len() as u64, page.seen, page.at_end), (SCAN, SCAN, false));
        let states = vec![WriteState::Unknown, WriteState::Sent];
        let request_id = Some(format!("{}", SCAN + 1));
        for query in [WriteQuery { states, ..all.clone() }, WriteQuery { request_id, ..all }] {
            let page = state.writes(query).await.expect("a page");
            assert_eq!((page.writes.len(), page.seen, page.at_end), (1, SCAN + 2, true));
            assert_eq!(page.writes[0].number, SCAN + 1);
        }

        state.clock.advance(WRITES_KEPT + Duration::from_secs(1));
        assert_eq!(state.prune(Duration::ZERO).await, Ok(PRUNE));
    }

    #[tokio::test]
    async fn panicked_reader_is_replaced() {
        let (_folder, state) = state();
        for _ in 0..10 {
            let broken = state
                .open
                .get()
                .expect("open")
                .readers
                .read(|_| -> Result<(), Error> { panic!("on purpose") });
            assert!(matches!(broken.await, Err(Error::Unusable(_))));
        }
        assert_eq!(state.submission("s").await, Ok(None));
    }
}
