//! SQLite: a file beside one process.
//!
//! One thread writes (`writer.rs`), a few connections read (`reader.rs`). What the verbs do stands in
//! a file per concern, as functions over a connection in a transaction. Times are milliseconds since
//! 1970.

mod event;
mod guard;
mod lease;
mod reader;
mod recent;
mod schema;
mod submission;
mod sum;
mod token;
mod wal;
mod write;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, ffi};
use tokio::{sync::OnceCell, task};

use self::{
    guard::{Files, Guard, Trust},
    reader::Readers,
    writer::{Lasts, Writer},
};
use crate::{
    state::{
        Acquired, Appended, Begun, Error, EventPage, EventQuery, Log, NewEvent, NewSubmission,
        NewWrite, Outcome, SharedToken, State, Stretch, Submission, SubmissionPage,
        SubmissionQuery, Write, WritePage, WriteQuery,
    },
    telemetry,
    util::clock::Clock,
    util::id::{AppId, PoiId, Secret},
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

/// How long a file that had no room to be opened is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// The state in a file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    clock: Clock,
    open: OnceCell<Open>,
    /// When and why it could not be opened last.
    failed: Mutex<Option<(Instant, Error)>>,
}

/// A file that is open.
#[derive(Debug)]
struct Open {
    // Fields are dropped in this order: nobody else gets the lock before the file is closed.
    readers: Readers,
    writer: Writer,
    _files: Arc<Files>,
}

impl Sqlite {
    /// Opens the file, or makes it. Its folder has to be there. A disk that is full does not fail this:
    /// every verb does until there is room.
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

    /// The file, opened now if it could not be before.
    async fn opened(&self) -> Result<&Open, Error> {
        // The next who waits comes after this one.
        let open = async || {
            let now = self.clock.now();
            if let Some((at, error)) =
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
                && now < at + AGAIN
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
                    *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
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
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        self.writer().await?.append(move |db, now| event::append(db, now, &event)).await
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        self.readers().await?.read(move |db| event::page(db, &query)).await
    }

    async fn newer(&self, position: u64) -> Result<Option<Stretch>, Error> {
        let mut recent = self.writer().await?.recent();
        let newer = recent.wait_for(|recent| recent.newest() > position);
        match tokio::time::timeout(WAIT, newer).await {
            Ok(Err(_)) => Err(writer::ended()),
            Ok(Ok(recent)) => Ok(recent.after(position)),
            Err(_) => Ok(None),
        }
    }

    async fn log(&self) -> Result<Log, Error> {
        self.readers().await?.read(event::log).await
    }

    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        let writer = self.writer().await?;
        writer
            .write(move |db, now| {
                let before = now.saturating_sub(millis(age));
                let events = event::prune(db, before, PRUNE)?;
                let submissions = submission::prune(db, before, PRUNE - events)?;
                Ok(events + submissions + write::prune(db, now, PRUNE - events - submissions)?)
            })
            .await
    }

    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        self.writer().await?.write(move |db, now| submission::remember(db, now, &submission)).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        let submission_id = submission_id.to_owned();
        self.readers().await?.read(move |db| submission::by_id(db, &submission_id)).await
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        let (app_id, poi_id) = (app_id.clone(), poi_id.clone());
        self.readers().await?.read(move |db| submission::pictures(db, &app_id, &poi_id)).await
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        self.readers().await?.read(move |db| submission::page(db, &query)).await
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        self.writer().await?.write(move |db, now| submission::take_due(db, now, again, limit)).await
    }

    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error> {
        let lasts = if write.sent.is_some() { Lasts::Machine } else { Lasts::Process };
        self.writer().await?.run(lasts, move |db, now| write::begin(db, now, &write, term)).await
    }

    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        sought: Bytes,
    ) -> Result<bool, Error> {
        let write_id = write_id.to_owned();
        let sent = move |db: &_, now| write::sent(db, now, &write_id, fence, by, &sought);
        self.writer().await?.write(sent).await
    }

    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error> {
        let write_id = write_id.to_owned();
        self.writer()
            .await?
            .write(move |db, now| write::ended(db, now, &write_id, fence, &outcome))
            .await
    }

    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error> {
        let (write_id, now) = (write_id.to_owned(), now(&self.clock));
        self.readers().await?.read(move |db| write::by_id(db, now, &write_id)).await
    }

    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error> {
        let now = now(&self.clock);
        self.readers().await?.read(move |db| write::page(db, now, &query)).await
    }

    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error> {
        let write_id = write_id.to_owned();
        self.writer()
            .await?
            .write(move |db, now| write::resolve(db, now, &write_id, &outcome))
            .await
    }

    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        let name = name.to_owned();
        self.writer().await?.write_ahead(move |db, now| lease::acquire(db, now, &name, term)).await
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        let name = name.to_owned();
        self.writer()
            .await?
            .write_ahead(move |db, now| lease::renew(db, now, &name, fence, term))
            .await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        let name = name.to_owned();
        self.writer()
            .await?
            .write_ahead(move |db, now| lease::free(db, now, &name, fence, rest))
            .await
    }

    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        let (app_id, now) = (app_id.clone(), now(&self.clock));
        self.readers().await?.read(move |db| token::living(db, now, &app_id)).await
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        let (app_id, value) = (app_id.clone(), value.clone());
        self.writer()
            .await?
            .write(move |db, now| token::put(db, now, &app_id, before, &value, life))
            .await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        let counter = counter.to_owned();
        self.writer()
            .await?
            .write(move |db, now| token::spend(db, now, &counter, limit, window))
            .await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        let counter = counter.to_owned();
        self.writer().await?.write(move |db, now| token::refund(db, now, &counter)).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.writer().await?.write(|db, _| schema::probe(db)).await
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, Error> {
    // Without a mutex of SQLite's: a connection is used by one thread at a time.
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(PATIENCE)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise a statement is planned anew whenever a value is bound that its plan may depend on.
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

/// Says what went wrong, without what is stored.
impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error() {
            Some(error) => match error.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
                ErrorCode::DiskFull => Self::Full,
                // So SQLite says of what lies beside the file.
                _ if error.extended_code == ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::Damaged(error.to_string())
                }
                // Nothing of ours has a wrong type: a column that is not even written does.
                _ if error.extended_code == ffi::SQLITE_CONSTRAINT_DATATYPE => {
                    Self::Unreadable("a value has a wrong type".to_owned())
                }
                // What was not synced before may be lost, too, though the next sync succeeds.
                _ if error.extended_code == ffi::SQLITE_IOERR_FSYNC => {
                    Self::Lost("the disk failed to sync".to_owned())
                }
                _ => Self::Unusable(error.to_string()),
            },
            None => Self::Unreadable("a value has a wrong type".to_owned()),
        }
    }
}

/// Passes over a change of rows of which one is damaged.
fn unless_damaged(changed: rusqlite::Result<usize>, what: &'static str) -> Result<(), Error> {
    readable(changed.map(Some), what).map(drop)
}

/// What a row has, or nothing if that row is damaged: it must not hold up what is about others.
fn readable<T>(read: rusqlite::Result<Option<T>>, what: &'static str) -> Result<Option<T>, Error> {
    match read.map_err(Error::from) {
        Err(Error::Unreadable(why)) => {
            skipped(what, &why);
            Ok(None)
        }
        read => read,
    }
}

/// Says that a damaged row was left out.
fn skipped(what: &'static str, why: &str) {
    if let Some(unlogged) = telemetry::seldom("skipped a damaged row of the state", what) {
        tracing::error!(what, why, unlogged, "skipped a damaged row of the state");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{WRITES_KEPT, WriteState};

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

    fn dawdle(_: &Connection, _: u64) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_until_there_is_space() {
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
    async fn a_verb_that_fails_leaves_nothing_and_the_others_alone() {
        let (_folder, state) = state();
        let writer = writer(&state);
        // The first holds up the thread, so that the others share a transaction.
        let (_, before, failed, after) = tokio::join!(
            writer.write(dawdle),
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
        assert_eq!(again, Ok(Acquired::Lease(1)), "nobody has it");
    }

    #[tokio::test]
    async fn a_verb_that_nobody_waits_for_is_left_out() {
        let (_folder, state) = state();
        let writer = writer(&state);
        let slow = writer.write(dawdle);
        let left = async {
            // Of the same kind as the slow one: others go before it.
            let acquire = writer.write(|db, now| lease::acquire(db, now, "a", Duration::MAX));
            assert!(tokio::time::timeout(Duration::from_millis(1), acquire).await.is_err());
        };
        let (slow, ()) = tokio::join!(slow, left);
        slow.expect("done");
        assert_eq!(state.acquire("a", Duration::MAX).await, Ok(Acquired::Lease(1)));
    }

    #[tokio::test]
    async fn a_writer_that_panicked_is_an_error() {
        let (_folder, state) = state();
        let broken =
            writer(&state).write(|_, _| -> Result<(), Error> { panic!("on purpose") }).await;
        assert_eq!(broken, Err(writer::ended()));
        assert_eq!(state.probe().await, Err(writer::ended()));
        assert_eq!(state.newer(0).await, Err(writer::ended()));
    }

    #[tokio::test]
    async fn what_is_looked_at_or_forgotten_at_once_is_bounded() {
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
        let app_id = Some("wx1".to_owned().into());
        let query = EventQuery { limit: 9, app_id, ..EventQuery::default() };
        let page = state.events(query.clone()).await.expect("a page");
        assert_eq!((page.events.len(), page.seen, page.at_end), (0, SCAN, false));
        let page = state.events(EventQuery { after: SCAN, ..query }).await.expect("a page");
        assert_eq!((page.events.len(), page.seen, page.at_end), (2, SCAN + 2, true));

        state.clock.advance(Duration::from_secs(2));
        assert_eq!(state.prune(Duration::from_secs(1)).await, Ok(PRUNE));
    }

    #[tokio::test]
    async fn a_write_whose_outcome_is_not_known_is_found_at_once_among_many() {
        let (_folder, state) = state();
        let note = |db: &Connection, now| {
            for n in 0..SCAN + 2 {
                let (stands, ended) = if n == SCAN { ("unknown", 0) } else { ("finished", now) };
                db.execute(
                    "INSERT INTO writes VALUES (?1, ?1, 'wx1', '', ?1, zeroblob(32), '', ?2, 1, 0,
                       1, 0, 0, ?3, zeroblob(0), NULL)",
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
    async fn a_reader_that_panicked_is_replaced() {
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
