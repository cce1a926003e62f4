//! The state in a file: the common suite, and the behavior of files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;
use wechat_store_gateway::{
    pb::AuditEvent,
    state::{
        Acquired, Appended, Error, Event, EventKey, EventQuery, Events, NewEvent, NewSubmission,
        State, sqlite::Sqlite,
    },
    testing::Clock,
};

use crate::{
    damage::loosen,
    state::{Backend, about, app, conformance, event, find, secret, submission},
    state_platforms,
};

conformance!(sqlite);

pub(crate) struct File {
    folder: TempDir,
    clock: Clock,
    pub(crate) state: Option<Arc<dyn State>>,
}

pub(crate) async fn sqlite() -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = File { folder, clock: Clock::frozen(), state: None };
    file.reopen().await;
    file
}

impl File {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn open(&self) -> Result<Sqlite, Error> {
        Sqlite::open(&self.path(), self.clock.clone())
    }

    /// Changes a row past the gateway.
    fn damage(&self, sql: &str) {
        let db = Connection::open(self.path()).expect("opened");
        loosen(&db);
        assert_eq!(db.execute(sql, []).expect("changed"), 1, "{sql}");
    }
}

impl Backend for File {
    fn state(&self) -> Arc<dyn State> {
        self.state.clone().expect("open")
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn pass_for_writes(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn reopen(&mut self) {
        self.state = None;
        self.state = Some(Arc::new(self.open().expect("no other process has the file")));
    }
}

#[tokio::test]
async fn file_belongs_to_one_process() {
    let mut file = sqlite().await;
    assert_eq!(file.open().err(), Some(Error::Locked));
    file.state().probe().await.expect("the first goes on");
    file.reopen().await;
    file.state().probe().await.expect("given back");
}

#[tokio::test]
async fn file_of_newer_version_is_refused() {
    let mut file = sqlite().await;
    file.state = None;
    Connection::open(file.path())
        .and_then(|db| db.pragma_update(None, "user_version", 4))
        .expect("written");
    assert_eq!(file.open().err(), Some(Error::Newer { found: 4, known: 3 }));
}

#[tokio::test]
async fn non_database_is_damaged() {
    let mut file = sqlite().await;
    file.state = None;
    fs::write(file.path(), "not a database, but a letter to a friend: ".repeat(100))
        .expect("written");
    let error = file.open().expect_err("refused");
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    assert!(!error.to_string().contains("letter"), "{error}");
}

#[tokio::test]
async fn missing_folder_is_named() {
    let error = Sqlite::open(Path::new("/nowhere/state.db"), Clock::frozen()).expect_err("refused");
    assert_eq!(error.to_string(), "the state cannot be used: there is no folder /nowhere");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;

    let file = sqlite().await;
    file.state().append(event("a")).await.expect("appended");
    let mut found = 0;
    for entry in fs::read_dir(file.folder.path()).expect("a folder") {
        let entry = entry.expect("a file");
        let mode = entry.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
        found += 1;
    }
    assert_eq!(found, 4, "the database, its log, their index and the lock");
}

#[tokio::test]
async fn foreign_lock_fails_while_it_lasts() {
    let file = sqlite().await;
    let state = file.state();
    let shell = Connection::open(file.path()).expect("opened");
    shell.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    assert_eq!(state.append(event("a")).await, Err(Error::Locked));
    assert_eq!(state.probe().await, Err(Error::Locked));
    assert_eq!(state.submission("s").await, Ok(None), "readers do not mind");
    shell.execute_batch("ROLLBACK").expect("unlocked");
    assert_eq!(state.append(event("a")).await, Ok(Appended::New(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_share_commits() {
    let file = sqlite().await;
    let before = commits(&file.path());
    let mut appends = JoinSet::new();
    for n in 0..64 {
        let state = file.state();
        appends.spawn(async move { state.append(event(&format!("{n}"))).await });
    }
    assert!(appends.join_all().await.iter().all(Result::is_ok));
    let shared = commits(&file.path()) - before;
    assert!((1..32).contains(&shared), "{shared} commits");

    let before = commits(&file.path());
    for n in 0..3 {
        file.state().append(event(&format!("alone {n}"))).await.expect("appended");
    }
    assert_eq!(commits(&file.path()) - before, 3, "each is durable");
}

/// Returns the number of commits in the write-ahead log. The head of each commit's last page marks
/// it. See “The WAL File Format” of SQLite.
fn commits(database: &Path) -> usize {
    const HEAD: usize = 32;
    const FRAME: usize = 24 + 4096;
    let log = fs::read(database.with_extension("db-wal")).expect("a write-ahead log");
    log[HEAD..].chunks_exact(FRAME).filter(|frame| frame[4..8] != [0; 4]).count()
}

#[tokio::test]
async fn append_wakes_waiting_readers() {
    let file = sqlite().await;
    let state = file.state();
    for passed in 0..3 {
        let append = state.append(event(&passed.to_string()));
        let (newer, appended) = tokio::join!(state.newer(passed), append);
        assert_eq!(appended, Ok(Appended::New(passed + 1)));
        let stretch = newer.expect("no error").expect("at hand");
        assert_eq!((stretch.after.position, stretch.events.len()), (passed, 1));
    }
}

/// Returns an open file with one event.
async fn with_an_event() -> (File, Arc<dyn State>) {
    let file = sqlite().await;
    let state = file.state();
    assert_eq!(state.append(event("before")).await, Ok(Appended::New(1)));
    (file, state)
}

/// Checks that nothing is acknowledged, that nothing is read as if it was complete, and that the
/// error gives this reason.
async fn refuses(state: &Arc<dyn State>, why: &str) {
    let refused = [
        state.append(event("after")).await.map(drop),
        state.acquire("lane", Duration::from_secs(1)).await.map(drop),
        state.probe().await,
        state.events(EventQuery { limit: 9, ..EventQuery::default() }).await.map(drop),
    ];
    for refused in refused {
        let error = refused.expect_err("not acknowledged");
        assert!(matches!(&error, Error::Lost(what) if what.contains(why)), "{why}: {error}");
    }
}

async fn keys(state: &Arc<dyn State>) -> Vec<EventKey> {
    let page = state.events(EventQuery { limit: 99, ..EventQuery::default() }).await;
    page.expect("a page").events.into_iter().map(|event| event.key).collect()
}

#[tokio::test]
async fn moved_state_is_refused_until_back() {
    let (mut file, state) = with_an_event().await;
    let (path, away) = (file.path(), file.folder.path().join("away.db"));
    fs::rename(&path, &away).expect("moved");
    refuses(&state, "is gone").await;
    fs::copy(&away, &path).expect("copied");
    refuses(&state, "another file").await;
    fs::rename(&away, &path).expect("moved back");
    assert_eq!(state.append(event("after")).await, Ok(Appended::New(2)));

    let (folder, away) = (file.folder.path().to_owned(), file.folder.path().with_extension("away"));
    fs::rename(&folder, &away).expect("moved");
    refuses(&state, "is gone").await;
    fs::create_dir(&folder).expect("made");
    refuses(&state, "is gone").await;
    fs::remove_dir(&folder).expect("removed");
    fs::rename(&away, &folder).expect("moved back");
    assert_eq!(state.append(event("later")).await, Ok(Appended::New(3)));
    drop(state);
    file.reopen().await;
    assert_eq!(keys(&file.state()).await.len(), 3);
}

#[tokio::test]
async fn deleted_state_is_refused() {
    let (file, state) = with_an_event().await;
    for name in ["state.db", "state.db-wal", "state.db-shm", "state.db.lock"] {
        fs::remove_file(file.folder.path().join(name)).expect("removed");
    }
    refuses(&state, "is gone").await;
}

#[tokio::test]
async fn relinked_state_is_refused_until_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let (link, first, second) =
        (folder.path().join("link"), folder.path().join("first"), folder.path().join("second"));
    for target in [&first, &second] {
        fs::create_dir(target).expect("made");
    }
    let lead_to = |target: &Path| {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).expect("linked");
    };
    lead_to(&first);
    let state = Sqlite::open(&link.join("state.db"), Clock::frozen()).expect("opened");
    let state: Arc<dyn State> = Arc::new(state);
    state.probe().await.expect("written");
    lead_to(&second);
    refuses(&state, "is gone").await;
    fs::write(second.join("state.db"), "").expect("written");
    refuses(&state, "leads to").await;
    lead_to(&first);
    state.probe().await.expect("it leads back");

    // The file moves elsewhere, and a link replaces it. Its log would not be found there.
    let (path, away) = (first.join("state.db"), second.join("state.db"));
    fs::rename(&path, &away).expect("moved");
    std::os::unix::fs::symlink(&away, &path).expect("linked");
    refuses(&state, "leads to").await;
}

#[tokio::test]
async fn hard_linked_state_is_refused_until_single() {
    let (mut file, state) = with_an_event().await;
    let other = file.folder.path().join("other.db");
    fs::hard_link(file.path(), &other).expect("linked");
    refuses(&state, "2 names").await;
    let second = Sqlite::open(&other, Clock::frozen());
    assert_eq!(second.err(), Some(Error::Locked));
    drop(state);
    file.state = None;
    let error = file.open().expect_err("either name may have a log");
    assert!(matches!(&error, Error::Unusable(what) if what.contains("2 names")), "{error}");
    fs::remove_file(other).expect("removed");
    file.reopen().await;
    assert_eq!(keys(&file.state()).await.len(), 1);
}

#[tokio::test]
async fn lock_holds_for_every_path() {
    let (file, state) = with_an_event().await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let link = elsewhere.path().join("state.db");
    std::os::unix::fs::symlink(file.path(), &link).expect("linked");
    let around =
        file.folder.path().join("..").join(file.folder.path().file_name().expect("a name"));
    fs::remove_file(file.folder.path().join("state.db.lock")).expect("removed");
    for path in [link, around.join("state.db"), file.path()] {
        let second = Sqlite::open(&path, Clock::frozen());
        assert_eq!(second.err(), Some(Error::Locked), "{}", path.display());
    }
    assert_eq!(state.append(event("after")).await, Ok(Appended::New(2)));
}

#[tokio::test]
async fn state_without_log_is_refused_without_loss() {
    for name in ["state.db-wal", "state.db-shm"] {
        for replaced in [false, true] {
            let (mut file, state) = with_an_event().await;
            let path = file.folder.path().join(name);
            let content = fs::read(&path).expect("a file");
            fs::remove_file(&path).expect("removed");
            if replaced {
                fs::write(&path, content).expect("written");
            }
            let why = if replaced { "was replaced" } else { "was deleted" };
            refuses(&state, &format!("{name} {why}; the database has all that was acknowledged"))
                .await;
            // The file as a kill leaves it.
            let left = tempfile::tempdir().expect("a folder");
            fs::copy(file.path(), left.path().join("state.db")).expect("copied");
            let left =
                Sqlite::open(&left.path().join("state.db"), Clock::frozen()).expect("opened");
            let left: Arc<dyn State> = Arc::new(left);
            assert_eq!(keys(&left).await, [event("before").key]);
            drop(state);
            file.reopen().await;
            assert_eq!(keys(&file.state()).await, [event("before").key]);
        }
    }
}

#[tokio::test]
async fn cut_or_overwritten_state_is_refused_until_restart() {
    let cut = |path: &Path, to| {
        let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
        file.set_len(to).expect("cut");
    };
    let database = |name: &str| name == "state.db";
    for name in ["state.db", "state.db-wal"] {
        for to in [0, 100, 4096, 5000] {
            let (file, state) = with_an_event().await;
            // The database needs more than one page.
            let shell = Connection::open(file.path()).expect("opened");
            let checkpoint = "PRAGMA wal_checkpoint";
            shell.query_row(checkpoint, [], |_| Ok(())).expect("a checkpoint");
            drop(shell);
            state.append(event("1")).await.expect("a checkpoint of another process is no damage");
            cut(&file.folder.path().join(name), to);
            refuses(&state, if database(name) { "was cut" } else { "was cut or overwritten" })
                .await;
            refuses(&state, "until a restart").await;
        }
        let (file, state) = with_an_event().await;
        let path = file.folder.path().join(name);
        let mut content = fs::read(&path).expect("a file");
        state.append(event("1")).await.expect("appended");
        content.resize(content.len().max(1 << 20), 7);
        if !database(name) {
            content[16] ^= 1;
        }
        fs::write(&path, content).expect("written over");
        let why = if database(name) { "written to by something" } else { "was cut or overwritten" };
        refuses(&state, why).await;
    }
}

#[tokio::test]
async fn state_overwritten_during_write_is_refused() {
    let (file, state) = with_an_event().await;
    let appending = async {
        for n in 0.. {
            if let Err(error) = state.append(event(&n.to_string())).await {
                return error;
            }
        }
        unreachable!()
    };
    let writing = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let content = fs::read(file.path()).expect("a file");
        fs::write(file.path(), content).expect("written over");
    };
    let (error, ()) = tokio::join!(appending, writing);
    assert!(matches!(&error, Error::Lost(_)), "{error}");
}

#[tokio::test]
async fn other_sqlite_processes_may_write_and_checkpoint() {
    let (file, state) = with_an_event().await;
    let shell = Connection::open(file.path()).expect("opened");
    for sql in ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        state.append(event(sql)).await.expect("appended");
        shell.query_row(sql, [], |_| Ok(())).expect("a checkpoint");
        state.probe().await.expect("no damage");
    }
    shell
        .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(9999999))")
        .expect("written");
    state.probe().await.expect("no damage");
    shell.execute_batch("DROP TABLE t; VACUUM").expect("written");
    shell.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    state.probe().await.expect("no damage");
    assert_eq!(keys(&state).await.len(), 3);
}

#[tokio::test]
async fn long_log_is_copied_and_begins_anew() {
    let (file, state) = with_an_event().await;
    let size = || fs::metadata(file.path()).expect("a file").len();
    let before = size();
    for n in 0..80 {
        let message = vec![0; 1 << 20].into();
        state.append(NewEvent { message, ..event(&n.to_string()) }).await.expect("appended");
    }
    assert!(size() > before + (40 << 20), "{} bytes", size());
    let log = fs::metadata(file.folder.path().join("state.db-wal")).expect("a file").len();
    assert!(log < 36 << 20, "{log} bytes");
    let last = EventQuery { after: 80, limit: 9, ..EventQuery::default() };
    let page = state.events(last).await.expect("a page");
    assert_eq!((page.events.len(), page.at_end), (1, true));
}

#[tokio::test]
async fn missing_database_beside_log_is_refused() {
    let (mut file, state) = with_an_event().await;
    let log = file.folder.path().join("state.db-wal");
    let content = fs::read(&log).expect("a file");
    drop(state);
    file.state = None;
    fs::remove_file(file.path()).expect("removed");
    fs::write(&log, content).expect("written");
    for _ in 0..2 {
        let error = file.open().expect_err("refused");
        assert!(
            matches!(&error, Error::Damaged(what) if what.contains("missing, but its log")),
            "{error}"
        );
    }
    fs::remove_file(log).expect("removed");
    file.reopen().await;
}

#[tokio::test]
async fn contradicting_pages_fail_the_start() {
    let mut file = sqlite().await;
    for n in 0..50 {
        file.state().append(event(&n.to_string())).await.expect("appended");
    }
    file.state = None;
    let whole = fs::read(file.path()).expect("a file");
    let mut refused = 0;
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        // The positions of its cells.
        damaged[page * 4096 + if page == 0 { 103 } else { 3 }] ^= 0x55;
        fs::write(file.path(), damaged).expect("written");
        match file.open() {
            Ok(_) => panic!("page {page} is damaged"),
            Err(Error::Damaged(what)) => {
                assert!(what.contains("state.db: ") && what.contains("backup"), "{what}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 10);
    fs::write(file.path(), whole).expect("written");
    file.reopen().await;
    assert_eq!(keys(&file.state()).await.len(), 50);
}

#[tokio::test]
async fn damaged_index_is_rebuilt_at_start() {
    let mut file = sqlite().await;
    file.state().append(event("a")).await.expect("appended");
    file.state = None;
    let mut content = fs::read(file.path()).expect("a file");
    let EventKey(key) = event("a").key;
    // The key is in the row of the log, in the table, and last in the table's index, which is
    // searched when the event arrives again.
    let at = content.windows(32).rposition(|bytes| bytes == key).expect("in the index");
    content[at] ^= 0xFF;
    fs::write(file.path(), content).expect("written");
    file.reopen().await;
    assert_eq!(file.state().append(event("a")).await, Ok(Appended::Known(1)));
}

/// Opens a copied file as a state of its own, and returns its events or the refusal.
async fn opened_anew(content: &[u8]) -> Result<Vec<Event>, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    fs::write(&path, content).expect("written");
    let state = Sqlite::open(&path, Clock::frozen())?;
    let query = EventQuery { limit: 99, ..EventQuery::default() };
    state.events(query).await.map(|page| page.events)
}

#[tokio::test]
async fn flipped_bits_are_refused_repaired_or_gaps() {
    let mut file = sqlite().await;
    for n in 0..30 {
        let reason = n.to_string();
        let message = AuditEvent { reason: reason.repeat(n), ..AuditEvent::default() };
        let message = message.encode_to_vec().into();
        file.state().append(NewEvent { message, ..event(&reason) }).await.expect("appended");
    }
    file.state = None;
    let whole = fs::read(file.path()).expect("a file");
    let events = opened_anew(&whole).await.expect("whole");
    assert_eq!(events.len(), 30);
    let (mut refused, mut gaps, mut harmless) = (0, 0, 0);
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..300 {
        let mut damaged = whole.clone();
        let at = random.usize(..damaged.len());
        damaged[at] ^= 1 << random.u32(..8);
        let found = match opened_anew(&damaged).await {
            Err(Error::Damaged(_) | Error::Newer { .. }) => {
                refused += 1;
                continue;
            }
            found => found.unwrap_or_else(|error| panic!("{at}: {error}")),
        };
        // There may be more events at the end, if the damaged number of events is too high.
        assert!(found.len() >= events.len(), "{at}: {}", found.len());
        for (found, event) in found.iter().zip(&events) {
            let message = AuditEvent::decode(&*found.message).expect("a message");
            let is_gap = message.detail.is_some();
            assert!(is_gap || found == event, "{at}: {found:?} was {event:?}");
            gaps += usize::from(is_gap);
        }
        harmless += usize::from(found == events);
    }
    assert!(refused > 5 && gaps > 5 && harmless > 5, "{refused} {gaps} {harmless}");
}

#[tokio::test]
async fn damaged_rows_are_pruned_with_neighbors() {
    let (file, state) = with_an_event().await;
    for n in 0..4 {
        state.append(event(&n.to_string())).await.expect("appended");
    }
    let db = Connection::open(file.path()).expect("opened");
    loosen(&db);
    db.execute_batch(
        "UPDATE events SET received = 'x' WHERE position = 1;
         UPDATE events SET key = 'x' WHERE position = 4;
         DELETE FROM events WHERE position = 2",
    )
    .expect("damaged");
    file.clock.advance(Duration::from_secs(60));
    assert_eq!(state.prune(Duration::from_secs(1)).await, Ok(3));
    assert_eq!(state.log().await.expect("a log").pruned.position, 4);
    assert_eq!(keys(&state).await.len(), 1);
}

#[tokio::test]
async fn damaged_leases_and_counters_restart() {
    let (file, state) = with_an_event().await;
    let db = Connection::open(file.path()).expect("opened");
    let term = Duration::from_secs(60);
    for set in ["until = 'x'", "until = x'FF'", "fence = 'x', until = 0", "fence = -7, until = 0"] {
        let Ok(Acquired::Lease(before)) = state.acquire(set, term).await else { panic!("free") };
        loosen(&db);
        let sql = format!("UPDATE leases SET {set} WHERE name = ?1");
        db.execute(&sql, [set]).expect("damaged");
        let acquired = state.acquire(set, term).await;
        let Ok(Acquired::Lease(fence)) = acquired else { panic!("{set}: {acquired:?}") };
        assert!(fence > before || !set.starts_with("until"), "{set}: {fence}");
        assert_eq!(state.renew(set, fence, term).await, Ok(true), "{set}");
    }
    for set in ["until = 'x'", "spent = 'x'", "spent = -1"] {
        assert_eq!(state.spend(set, 1, term).await, Ok(true));
        let sql = format!("UPDATE counters SET {set} WHERE name = ?1");
        db.execute(&sql, [set]).expect("damaged");
        state.spend(set, 1, term).await.expect("no error");
    }
}

#[tokio::test]
async fn damaged_rows_do_not_block_linking() {
    for damage in [
        "UPDATE events SET state = 'x' WHERE position = 1",
        "UPDATE events SET reason = x'FF' WHERE position = 1",
        "UPDATE submissions SET reason = x'FF' WHERE submission_id = 'damaged'",
        "UPDATE submissions SET created = 'x' WHERE submission_id = 'damaged'",
    ] {
        let mut file = sqlite().await;
        let review = |id: &str| NewSubmission { audit_id: id.to_owned().into(), ..submission(id) };
        file.state().append(about("1", "a", 1)).await.expect("appended");
        file.state().append(about("1", "b", 2)).await.expect("appended");
        let damaged = NewSubmission { audit_id: "2".to_owned().into(), ..submission("damaged") };
        file.state().remember(damaged).await.expect("remembered");
        file.state = None;
        let db = Connection::open(file.path()).expect("opened");
        let strict: Vec<(String, String)> = {
            let mut tables = db.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table'");
            let tables = tables.as_mut().expect("a schema");
            let tables = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
            tables.expect("tables").collect::<Result<_, _>>().expect("tables")
        };
        loosen(&db);
        db.execute(damage, []).expect("damaged");
        // The columns are strict again, as after damage.
        db.execute_batch("PRAGMA writable_schema = ON").expect("set");
        for (name, sql) in strict {
            let set = "UPDATE sqlite_schema SET sql = ?2 WHERE name = ?1";
            db.execute(set, [name, sql]).expect("set");
        }
        drop(db);
        file.reopen().await;
        let state = file.state();

        let again = Duration::from_secs(3600);
        let due = |id: &str| NewSubmission { ask_after: Some(Duration::ZERO), ..review(id) };
        state.remember(due("1")).await.unwrap_or_else(|error| panic!("{damage}: {error}"));
        let decided = find(&state, "1").await;
        assert!(!decided.event_id.is_empty(), "{damage}");
        state.append(about("2", "c", 3)).await.unwrap_or_else(|error| panic!("{damage}: {error}"));
        state.append(about("1", "d", 3)).await.unwrap_or_else(|error| panic!("{damage}: {error}"));
        let query =
            EventQuery { limit: 9, submission_id: Some("1".to_owned()), ..EventQuery::default() };
        let linked = state.events(query).await.expect("a page").events.len();
        assert!(linked >= 2, "{damage}: {linked}");
        state.remember(due("3")).await.expect("remembered");
        let taken = state.take_due(again, 9).await.expect("no error");
        assert!(taken.iter().any(|one| one.audit_id.as_str() == "3"), "{damage}: {taken:?}");
    }
}

#[tokio::test]
async fn log_damaged_in_middle_is_refused() {
    let (file, state) = with_an_event().await;
    for n in 0..9 {
        state.append(event(&n.to_string())).await.expect("appended");
    }
    let log = fs::read(file.folder.path().join("state.db-wal")).expect("a log");
    let database = fs::read(file.path()).expect("a file");
    // The file as a kill leaves it, with these bits flipped.
    let opened = async |flips: &[usize], length: usize| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        fs::write(&path, &database).expect("written");
        let mut log = log[..length].to_vec();
        flips.iter().for_each(|at| log[*at] ^= 1);
        fs::write(folder.path().join("state.db-wal"), log).expect("written");
        let state: Arc<dyn State> = Arc::new(Sqlite::open(&path, Clock::frozen())?);
        Ok::<_, Error>(keys(&state).await.len())
    };
    const FRAME: usize = 24 + 4096;
    let commits = commits(&file.path());
    assert!(commits >= 10);
    let ends = |number: usize| {
        // A frame that ends a commit is marked.
        let frames = log[32..].chunks_exact(FRAME).enumerate();
        let ends = frames.filter(|(_, frame)| frame[4..8] != [0; 4]);
        32 + FRAME * (1 + ends.map(|(at, _)| at).nth(number).expect("a commit"))
    };
    assert_eq!(opened(&[], log.len()).await, Ok(10));
    // The results of a power failure: the last commit is missing, cut or wrong.
    assert_eq!(opened(&[], ends(commits - 2)).await, Ok(9));
    assert_eq!(opened(&[], log.len() - 1).await, Ok(9));
    assert_eq!(opened(&[log.len() - 1], log.len()).await, Ok(9));
    assert_eq!(opened(&[ends(commits - 3) + 100], log.len()).await, Ok(8));
    // The results of damage alone: a page, the checksum of a frame, its salt, the head of the log.
    let frame = ends(2);
    let head = [0, 1, 2, 3, 5, 9, 13, 17, 22, 25, 31];
    for at in head.into_iter().chain([frame + 100, frame + 17, frame + 9]) {
        let refused = opened(&[at], log.len()).await;
        assert!(
            matches!(&refused, Err(Error::Damaged(what)) if what.contains("would be lost")),
            "{at}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn damaged_authorizer_is_replaced() {
    for set in [
        "changed_at = 9999999999",
        "changed_at = 'soon'",
        "changed_at = -1",
        "authorized = 0",
        "authorized = 'yes'",
        "refresh_token = 'other'",
        "refresh_token = ''",
        "refresh_token = x'FF'",
        "refresh_token = NULL",
        "record = substr(record, 1, 3)",
        "record = x'00' || substr(record, 2)",
        "record = zeroblob(0)",
        "record = 7",
        "record = NULL",
    ] {
        let file = sqlite().await;
        let sql = format!("UPDATE authorizers SET {set} WHERE app_id = 'wx2'");
        let damage = async || file.damage(&sql);
        state_platforms::damaged_authorizer_is_replaced(&file.state(), damage, set).await;
    }
}

#[tokio::test]
async fn damaged_ticket_is_replaced() {
    for set in [
        "sent_at = 9999999999",
        "sent_at = 'soon'",
        "value = substr(value, 1, 3)",
        "value = 'text'",
        "value = NULL",
    ] {
        let file = sqlite().await;
        let sql = format!("UPDATE tickets SET {set}");
        let damage = async || file.damage(&sql);
        state_platforms::damaged_ticket_is_replaced(&file.state(), damage, set).await;
    }
}

#[tokio::test]
async fn damaged_token_can_be_dropped() {
    let file = sqlite().await;
    let (state, name) = (file.state(), app("wx1@wxplatform"));
    state.put_token(&name, 0, &secret("one"), Duration::from_secs(60)).await.expect("stored");
    file.damage("UPDATE tokens SET generation = 'first'");
    state.drop_token(&name).await.expect("dropped");
    assert_eq!(state.token(&name).await, Ok(None));
    let next = state.put_token(&name, 0, &secret("one"), Duration::from_secs(60)).await;
    assert!(next.is_ok_and(|token| token.generation > 1_600_000_000_000));
}
