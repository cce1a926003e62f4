//! Whether the files that are open are still the files at their path.
//!
//! SQLite does not notice that its files were deleted, moved, replaced or cut. It goes on with what it
//! has open, and the next start finds something else. So the writer asks a [`Guard`] before it
//! acknowledges anything, and every second while it has nothing to do. What does not hold is an error
//! for every verb until it holds again, or until a restart where nothing else can make it good.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt::Display,
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, config::DbConfig};

use super::unusable;
use crate::state::Error;

/// After so many pages, 16 MB, the log goes to its places in the file. What was written to a page
/// several times goes there once; the names of writes are random, so that the pages of a large file
/// are many.
const CHECKPOINT: u32 = 4000;

/// The database and what keeps other processes from it.
///
/// Two locks: one on the database itself, which every path leads to, and one on a file beside it,
/// which stays when the database is moved away.
#[derive(Debug)]
pub(super) struct Files {
    /// As the settings spell it.
    path: PathBuf,
    /// Where that leads, without links.
    database: PathBuf,
    /// SQLite's log of what is not in the database yet.
    log: PathBuf,
    /// The index of the log, in memory that processes share.
    index: PathBuf,
    id: Identity,
    /// Kept open for the lock on it. SQLite has this file open a second time, and closing this one
    /// would free SQLite's own locks in this process.
    handle: File,
    _lock: File,
}

impl Files {
    /// Opens the database, or makes an empty one, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, Error> {
        if fs::metadata(path).is_ok_and(|metadata| in_use().contains(&identity(&metadata))) {
            return Err(Error::Locked);
        }
        let handle = open_private(path)?;
        if cfg!(target_os = "linux") {
            // Elsewhere this may be the same kind of lock as SQLite's own.
            try_lock(path, &handle)?;
        }
        let metadata = handle.metadata().map_err(|error| unusable(path, &error))?;
        if !metadata.is_file() {
            return Err(Error::Unusable(format!("{} is not a file", path.display())));
        }
        let database = fs::canonicalize(path).map_err(|error| unusable(path, &error))?;
        let lock = open_private(&beside(&database, ".lock"))?;
        try_lock(path, &lock)?;
        if cfg!(unix) {
            in_use().insert(identity(&metadata));
        }
        let (log, index) = (beside(&database, "-wal"), beside(&database, "-shm"));
        let path = path.to_owned();
        let id = identity(&metadata);
        let files = Self { path, database, log, index, id, handle, _lock: lock };
        if links(&metadata) != 1 {
            return Err(Error::Unusable(files.linked(&metadata)));
        }
        if metadata.len() == 0 && fs::metadata(&files.log).is_ok_and(|log| log.len() > 0) {
            return Err(Error::Damaged(format!(
                "{} is empty or missing, but its log {} is there; put the database back, or move \
                 the log away to begin anew",
                files.path.display(),
                files.log.display()
            )));
        }
        Ok(files)
    }

    /// The database's path, without links.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// The path of SQLite's log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether nothing was written yet.
    pub(super) fn is_new(&self) -> bool {
        self.handle.metadata().is_ok_and(|metadata| metadata.len() == 0)
    }

    /// Returns what the path leads to, or why that is not the open file alone.
    fn at_its_place(&self, depth: Depth) -> Result<Metadata, String> {
        let path = self.path.display();
        let gone = |error| format!("{path} is gone ({error}) while it is in use");
        if depth == Depth::Links {
            let database = fs::canonicalize(&self.path).map_err(gone)?;
            if database != self.database {
                return Err(format!(
                    "{path} leads to {} now, while another file is in use",
                    database.display()
                ));
            }
        }
        let there = fs::metadata(&self.path).map_err(gone)?;
        if identity(&there) != self.id {
            return Err(format!("another file was put to {path} while the first is in use"));
        }
        match links(&there) {
            1 => Ok(there),
            _ => Err(self.linked(&there)),
        }
    }

    fn linked(&self, metadata: &Metadata) -> String {
        format!(
            "{} has {} names (hard links), and SQLite would have a log for each",
            self.path.display(),
            links(metadata)
        )
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        in_use().remove(&self.id);
    }
}

/// The databases that this process has open. To open one a second time, even for a moment, would free
/// SQLite's locks on it.
fn in_use() -> MutexGuard<'static, BTreeSet<Identity>> {
    static IN_USE: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());
    // Every change is complete before anything can panic.
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the state can be relied on. Shared by all who use it.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// What only a restart can make good.
    lasting: OnceLock<Error>,
    /// What may pass.
    passing: Mutex<Option<Error>>,
}

impl Trust {
    /// Fails if the state cannot be relied on.
    pub(super) fn get(&self) -> Result<(), Error> {
        match self.lasting.get().cloned().or_else(|| self.lock().clone()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Takes notice of an error of a verb. If SQLite finds its file damaged, or a sync failed, nothing
    /// that follows can be relied on.
    pub(super) fn hear(&self, error: &Error) {
        if let Error::Damaged(_) | Error::Lost(_) = error
            && self.lasting.set(error.clone()).is_ok()
        {
            tracing::error!("refusing writes until a restart: {error}");
        }
    }

    /// Takes notice of what may pass.
    fn pass(&self, trouble: Option<String>) {
        let found = trouble.map(Error::Lost);
        let before = mem::replace(&mut *self.lock(), found.clone());
        match (before, found) {
            (before, Some(error)) if before.as_ref() != Some(&error) => {
                tracing::error!("refusing writes: {error}");
            }
            (Some(_), None) => {
                tracing::info!("the state file is in place again; accepting writes")
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Error>> {
        // Every change is complete before anything can panic.
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How thoroughly the files are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// The files themselves: a handful of system calls.
    Files,
    /// Also each symbolic link on the path, which costs a system call for each folder.
    Links,
}

/// The links of the path are checked again after this time. The lock on the file itself keeps other
/// processes away even if a link changes.
const LINKS_EVERY: Duration = Duration::from_secs(1);
/// A transaction that follows a check by less than this is not checked before it begins, only before
/// it is acknowledged.
const STILL_FRESH: Duration = Duration::from_millis(10);

/// What a thread that writes asks.
#[derive(Debug)]
pub(super) struct Guard {
    files: Arc<Files>,
    pub(super) trust: Arc<Trust>,
    log: Identity,
    /// SQLite's log, kept open because a check reads its head.
    log_handle: File,
    index: Identity,
    /// The index of the log. Kept open, for SQLite's locks on it as well.
    index_handle: File,
    seen: Option<Seen>,
    /// Whether the whole log was brought into the database since that lost its place.
    rescued: bool,
    /// When the files were last checked and in order.
    checked: Option<Instant>,
    /// When the links were last checked and in order.
    links_checked: Option<Instant>,
}

/// A state of the files.
#[derive(Debug)]
struct Seen {
    size: u64,
    modified: SystemTime,
    index: Index,
}

/// What does not hold.
enum Trouble {
    /// The files are not where they were. What is open is what it was.
    Moved(String),
    /// So is the log or its index. It may have come back, but somebody may have begun another one.
    Parted(String),
    /// The content is not what was written.
    Changed(String),
}

impl Guard {
    /// Over a database that was read at least once: its log and index are there.
    pub(super) fn new(files: &Arc<Files>, trust: &Arc<Trust>) -> Result<Self, Error> {
        let identity = |path: &Path| match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(identity(&metadata)),
            Err(error) => Err(unusable(path, &error)),
        };
        let open = |path: &Path| File::open(path).map_err(|error| unusable(path, &error));
        let mut guard = Self {
            log: identity(&files.log)?,
            log_handle: open(&files.log)?,
            index: identity(&files.index)?,
            index_handle: open(&files.index)?,
            files: files.clone(),
            trust: trust.clone(),
            seen: None,
            rescued: false,
            checked: None,
            links_checked: None,
        };
        guard.seen = guard.see().ok();
        Ok(guard)
    }

    /// Fails if no transaction must begin. Relies on a check that was made a moment before `now`.
    pub(super) fn check_before(&mut self, db: &Connection, now: Instant) -> Result<(), Error> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < STILL_FRESH;
        match self.checked {
            Some(at) if fresh(at) => self.trust.get(),
            _ => self.check(db, false, now),
        }
    }

    /// Fails if nothing must be acknowledged. `wrote` means that this process committed something since
    /// the last check.
    pub(super) fn check(
        &mut self,
        db: &Connection,
        wrote: bool,
        now: Instant,
    ) -> Result<(), Error> {
        self.checked = None;
        if self.trust.lasting.get().is_some() {
            return self.trust.get();
        }
        let depth = match self.links_checked {
            Some(at) if now.saturating_duration_since(at) < LINKS_EVERY => Depth::Files,
            _ => Depth::Links,
        };
        match self.look(wrote, depth) {
            Ok(()) => {
                self.checked = Some(now);
                if depth == Depth::Links {
                    self.links_checked = Some(now);
                }
                self.rescued = false;
                self.trust.pass(None);
            }
            Err(Trouble::Moved(what)) => {
                self.links_checked = None;
                self.rescue(db);
                self.trust.pass(Some(what + "; nothing is acknowledged until the file is back"));
            }
            Err(Trouble::Parted(what)) => {
                self.rescue(db);
                let rescued = match self.rescued {
                    true => "; the database has all that was acknowledged",
                    false => "",
                };
                self.trust.hear(&Error::Lost(
                    what + rescued + "; nothing is acknowledged until a restart",
                ));
            }
            Err(Trouble::Changed(what)) => {
                // The end would bring what is in the log into a file that is not the one it is about.
                let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                self.trust.hear(&Error::Lost(what + "; nothing is acknowledged until a restart"));
            }
        }
        self.trust.get()
    }

    /// Brings a long log into the database.
    pub(super) fn checkpoint(&mut self, db: &Connection) {
        let long = |Seen { index, .. }: &Seen| {
            index.frames() >= CHECKPOINT && index.backfilled() < index.frames()
        };
        if self.trust.get().is_ok() && self.seen.as_ref().is_some_and(long) {
            // It does what is possible now. A full disk stops it, and the next commit tries again.
            if let Err(error) = checkpoint(db, "PASSIVE") {
                self.trust.hear(&error);
            }
            self.seen = self.see().ok();
        }
    }

    fn look(&mut self, wrote: bool, depth: Depth) -> Result<(), Trouble> {
        let there = self.files.at_its_place(depth).map_err(Trouble::Moved)?;
        let known = |path: &Path, known: Identity| {
            let parted = |what: &dyn Display| Trouble::Parted(format!("{} {what}", path.display()));
            let there = fs::symlink_metadata(path).map_err(|_| parted(&"was deleted"))?;
            match identity(&there) == known {
                true => Ok(there),
                false => Err(parted(&"was replaced")),
            }
        };
        let log_size = known(&self.files.log, self.log)?.len();
        known(&self.files.index, self.index)?;
        let changed = |path: &Path, what: &dyn Display| {
            Trouble::Changed(format!("{} {what}", path.display()))
        };
        let (database, log) = (&self.files.database, &self.files.log);
        let now = self
            .seen(&there)
            .map_err(|error| changed(database, &format_args!("cannot be read: {error}")))?;
        if let Some(seen) = &self.seen
            && (now.size, now.modified) != (seen.size, seen.modified)
        {
            // This process writes to it in `checkpoint` alone. Another one may do the same.
            let by_sqlite = match wrote {
                true => now.index.progress() != seen.index.progress(),
                false => now.index != seen.index,
            };
            if !by_sqlite && now.size < seen.size {
                return Err(changed(
                    database,
                    &format_args!("was cut from {} to {} bytes", seen.size, now.size),
                ));
            }
            if !by_sqlite {
                return Err(changed(database, &"was written to by something other than SQLite"));
            }
        }
        if now.index.is_whole() {
            let whole = now.index.frames() == now.index.backfilled();
            if whole && now.size < now.index.database_size() {
                return Err(changed(database, &format_args!("was cut to {} bytes", now.size)));
            }
            if !now
                .index
                .has_log(&self.log_handle, log_size)
                .map_err(|error| changed(log, &format_args!("cannot be read: {error}")))?
            {
                return Err(changed(log, &"was cut or overwritten"));
            }
        }
        self.seen = Some(now);
        Ok(())
    }

    /// Brings all of the log into the database that is open, so that this one is complete by itself,
    /// and no log stays beside whatever comes to its place.
    fn rescue(&mut self, db: &Connection) {
        if !self.rescued {
            self.rescued = checkpoint(db, "TRUNCATE").is_ok_and(|complete| complete);
            self.seen = self.see().ok();
        }
    }

    fn see(&self) -> io::Result<Seen> {
        self.seen(&self.files.handle.metadata()?)
    }

    fn seen(&self, metadata: &Metadata) -> io::Result<Seen> {
        let index = Index::read(&self.index_handle)?;
        Ok(Seen { size: metadata.len(), modified: metadata.modified()?, index })
    }
}

/// Brings what it can of the log into the database; whether that was all.
fn checkpoint(db: &Connection, mode: &str) -> Result<bool, Error> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    Ok(db.query_row(&sql, [], |row| Ok(row.get::<_, i64>(0)? == 0))?)
}

/// The head of the index of the log: see “WAL-Index File Format” of SQLite. Two copies of 48 bytes,
/// in the machine's order of bytes, then how far the log is in the database.
#[derive(Debug, PartialEq, Eq)]
struct Index {
    copies: [[u8; 48]; 2],
    backfilled: u32,
    attempted: u32,
}

impl Index {
    fn read(index: &File) -> io::Result<Self> {
        let mut bytes = [0; 132];
        read_at(index, &mut bytes)?;
        let mut copies = [[0; 48]; 2];
        copies[0].copy_from_slice(&bytes[..48]);
        copies[1].copy_from_slice(&bytes[48..96]);
        Ok(Self { copies, backfilled: number(&bytes, 96), attempted: number(&bytes, 128) })
    }

    /// Whether no other process is just writing it.
    fn is_whole(&self) -> bool {
        self.copies[0] == self.copies[1]
    }

    fn page_size(&self) -> u64 {
        // 65536 does not fit and is 1.
        let size = u16::from_ne_bytes([self.copies[0][14], self.copies[0][15]]);
        if size == 1 { 1 << 16 } else { size.into() }
    }

    /// How many pages are in the log.
    fn frames(&self) -> u32 {
        number(&self.copies[0], 16)
    }

    /// How many of these are in the database, too.
    fn backfilled(&self) -> u32 {
        self.backfilled
    }

    /// How large the database is, all of the log included.
    fn database_size(&self) -> u64 {
        u64::from(number(&self.copies[0], 20)) * self.page_size()
    }

    /// Changes when something is brought into the database.
    fn progress(&self) -> (u32, u32, &[u8]) {
        (self.backfilled, self.attempted, self.salts())
    }

    /// Names the log since it last began anew.
    fn salts(&self) -> &[u8] {
        &self.copies[0][32..40]
    }

    /// Returns whether a log of this size has all that the index names, and is the log of this index.
    fn has_log(&self, log: &File, log_size: u64) -> io::Result<bool> {
        const HEAD: usize = 32;
        const FRAME_HEAD: u64 = 24;
        if self.frames() == 0 {
            return Ok(true);
        }
        let size = HEAD as u64 + u64::from(self.frames()) * (FRAME_HEAD + self.page_size());
        if log_size < size {
            return Ok(false);
        }
        let mut head = [0; HEAD];
        read_at(log, &mut head)?;
        Ok(head[16..24] == *self.salts())
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(number)
}

/// Opens a file, and makes it for its owner alone: SQLite itself would make it readable for everybody.
fn open_private(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| unusable(path, &error))
}

fn try_lock(path: &Path, file: &File) -> Result<(), Error> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::Locked,
        TryLockError::Error(error) => unusable(path, &error),
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = OsString::from(path);
    beside.push(suffix);
    beside.into()
}

/// Tells files apart: device and inode.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, 0)
}

/// Elsewhere files are not told apart.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    1
}

#[cfg(not(unix))]
fn read_at(mut file: &File, bytes: &mut [u8]) -> io::Result<()> {
    use io::{Read, Seek};
    file.rewind()?;
    file.read_exact(bytes)
}
