//! The state in a file: the suite, and what only files do.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;
use wechat_store_gateway::{
    clock::Clock,
    state::{Appended, Error, State, sqlite::Sqlite},
};

use crate::state::{Backend, conformance, event};

conformance!(sqlite);

struct File {
    folder: TempDir,
    clock: Clock,
    state: Option<Arc<dyn State>>,
}

async fn sqlite() -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = File { folder, clock: Clock::frozen(), state: None };
    file.reopen().await;
    file
}

impl File {
    fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn open(&self) -> Result<Sqlite, Error> {
        Sqlite::open(&self.path(), self.clock.clone())
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
        self.state = Some(Arc::new(self.open().expect("nobody else has it")));
    }
}

#[tokio::test]
async fn a_file_belongs_to_one_process() {
    let mut file = sqlite().await;
    assert_eq!(file.open().err(), Some(Error::Locked));
    file.state().probe().await.expect("the first goes on");
    file.reopen().await;
    file.state().probe().await.expect("given back");
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_left_alone() {
    let mut file = sqlite().await;
    file.state = None;
    Connection::open(file.path())
        .and_then(|db| db.pragma_update(None, "user_version", 2))
        .expect("written");
    assert_eq!(file.open().err(), Some(Error::Newer { found: 2, known: 1 }));
}

#[tokio::test]
async fn what_is_no_database_is_damaged() {
    let mut file = sqlite().await;
    file.state = None;
    fs::write(file.path(), "not a database, but a letter to somebody: ".repeat(100))
        .expect("written");
    let error = file.open().expect_err("refused");
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    assert!(!error.to_string().contains("letter"), "{error}");
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let error = Sqlite::open(Path::new("/nowhere/state.db"), Clock::frozen()).expect_err("refused");
    assert_eq!(error.to_string(), "the state cannot be used: there is no folder /nowhere");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_owner_alone() {
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
async fn a_lock_of_somebody_else_is_an_error_while_it_lasts() {
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
async fn appends_at_once_share_commits() {
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

/// How many commits are in the write-ahead log: the last page of each says so in its head. See “The
/// WAL File Format” of SQLite.
fn commits(database: &Path) -> usize {
    const HEAD: usize = 32;
    const FRAME: usize = 24 + 4096;
    let log = fs::read(database.with_extension("db-wal")).expect("a write-ahead log");
    log[HEAD..].chunks_exact(FRAME).filter(|frame| frame[4..8] != [0; 4]).count()
}

#[tokio::test]
async fn what_is_appended_is_given_to_those_who_wait_for_it() {
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
