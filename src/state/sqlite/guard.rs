//! Checks that the open files are still the files at their path.
//!
//! SQLite does not notice that its files were deleted, moved, replaced or cut. It continues with
//! the open files, and the next start finds different ones. The writer therefore asks a [`Guard`]
//! before it acknowledges anything, and every second while it is idle. A failed check fails every
//! operation until the check passes again, or until a restart if nothing else can help.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt::Display,
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::SystemTime,
};

use rusqlite::{Connection, config::DbConfig};

use super::{copier::Copier, unusable};
use crate::{state::Error, util::lock};

/// The number of pages (16 MB) after which the write-ahead log is copied into the database. A page
/// that was written several times is copied once. The names of writes are random, so a large file
/// has many changed pages.
const CHECKPOINT: u32 = 4000;
/// If more pages than this are left, another thread copies them.
const FEW: u32 = 200;
/// How many times in a row that thread copies what was written meanwhile. SQLite begins the log anew only when all
/// of it is copied, so the writing thread then copies the rest.
const COPIES: u32 = 3;
/// If the log has this many pages, the writing thread waits for that thread.
const LONGEST: u32 = 2 * CHECKPOINT;

/// The database and the locks that exclude other processes.
///
/// There are two locks. One is on the database itself, which every path leads to. The other is on a
/// file beside it, which remains if the database is moved away.
#[derive(Debug)]
pub(super) struct Files {
    /// The path as the settings spell it.
    path: PathBuf,
    /// The resolved path, without links.
    database: PathBuf,
    /// SQLite's write-ahead log.
    log: PathBuf,
    /// The index of the write-ahead log, in memory that processes share.
    index: PathBuf,
    id: Identity,
    /// Kept open for its lock. SQLite has opened this file a second time, and closing this handle
    /// would free SQLite's own locks in this process.
    handle: File,
    _lock: File,
}

impl Files {
    /// Opens the database, or creates an empty one, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, Error> {
        if fs::metadata(path).is_ok_and(|metadata| in_use().contains(&identity(&metadata))) {
            return Err(Error::Locked);
        }
        let handle = open_private(path)?;
        if cfg!(target_os = "linux") {
            // On other systems, this may be the same kind of lock as SQLite's own.
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

    /// Returns the path of the database, without links.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Returns the path of the write-ahead log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Returns true if the database is empty.
    pub(super) fn is_new(&self) -> bool {
        self.handle.metadata().is_ok_and(|metadata| metadata.len() == 0)
    }

    /// Returns the metadata of the database, or why the path does not lead to the open file alone.
    fn at_its_place(&self) -> Result<Metadata, String> {
        let there = fs::symlink_metadata(&self.database);
        let is_open = |metadata: &Metadata| identity(metadata) == self.id && links(metadata) == 1;
        // A folder on the path can become a link to wherever the folder moved: then the path leads to the
        // same file, and to the same log beside it.
        let leads_there = || {
            self.path == self.database || fs::metadata(&self.path).is_ok_and(|file| is_open(&file))
        };
        match there {
            Ok(there) if is_open(&there) && leads_there() => Ok(there),
            there => Err(self.what_moved(there)),
        }
    }

    /// Returns the text of an error. `there` is what was found at the database's path.
    fn what_moved(&self, there: io::Result<Metadata>) -> String {
        let path = self.path.display();
        let gone = |error: io::Error| format!("{path} is gone ({error}) while it is in use");
        let database = match fs::canonicalize(&self.path) {
            Ok(database) => database,
            Err(error) => return gone(error),
        };
        if database != self.database {
            return format!(
                "{path} leads to {} now, while another file is in use",
                database.display()
            );
        }
        match there {
            Err(error) => gone(error),
            Ok(there) if identity(&there) != self.id => {
                format!("another file was put to {path} while the first is in use")
            }
            Ok(there) => self.linked(&there),
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

/// Returns the databases that this process has open. Opening one a second time, even briefly, would free
/// SQLite's locks on it.
fn in_use() -> MutexGuard<'static, BTreeSet<Identity>> {
    static IN_USE: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());
    lock(&IN_USE)
}

/// Whether the state is reliable. All users of the state share it.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// An error that only a restart can clear.
    lasting: OnceLock<Error>,
    /// An error that may clear by itself.
    passing: Mutex<Option<Error>>,
}

impl Trust {
    /// Fails if the state is not reliable.
    pub(super) fn get(&self) -> Result<(), Error> {
        match self.lasting.get().cloned().or_else(|| self.lock().clone()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Records the error of an operation. If SQLite finds its file damaged or a sync fails, no
    /// later result is reliable.
    pub(super) fn record(&self, error: &Error) {
        if let Error::Damaged(_) | Error::Lost(_) = error
            && self.lasting.set(error.clone()).is_ok()
        {
            tracing::error!("refusing writes until a restart: {error}");
        }
    }

    /// Records or clears an error that may clear by itself.
    fn record_passing(&self, trouble: Option<String>) {
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
        lock(&self.passing)
    }
}

/// The checks of the writing thread.
#[derive(Debug)]
pub(super) struct Guard {
    files: Arc<Files>,
    pub(super) trust: Arc<Trust>,
    log: Identity,
    /// SQLite's log, kept open because a check reads its head.
    log_handle: File,
    index: Identity,
    /// The index of the write-ahead log. Also kept open for SQLite's locks on it.
    index_handle: File,
    last: Option<Snapshot>,
    /// Whether the whole write-ahead log was copied into the database after it lost its place.
    rescued: bool,
    /// Copies a long log. `None` until there is one.
    copier: Option<Copier>,
    /// How many times in a row it has copied.
    copies: u32,
}

/// A snapshot of the files.
#[derive(Debug)]
struct Snapshot {
    size: u64,
    modified: SystemTime,
    index: Index,
}

/// The reason why a check failed.
enum Trouble {
    /// The files are not at their path. The open files are unchanged.
    Moved(String),
    /// The log or its index is not at its path. Another process may have started new ones, even if
    /// it returned.
    Parted(String),
    /// The content differs from the written content.
    Changed(String),
}

impl Guard {
    /// Creates a guard for a database that was read at least once, so that its log and index exist.
    pub(super) fn new(files: &Arc<Files>, trust: &Arc<Trust>) -> Result<Self, Error> {
        let identity = |path: &Path| match identity_and_size(path) {
            Ok((identity, _)) => Ok(identity),
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
            last: None,
            rescued: false,
            copier: None,
            copies: 0,
        };
        guard.last = guard.snapshot().ok();
        Ok(guard)
    }

    /// Fails if nothing must be acknowledged. `wrote` means that this process committed something since
    /// the last check.
    pub(super) fn check(&mut self, db: &Connection, wrote: bool) -> Result<(), Error> {
        if self.trust.lasting.get().is_some() {
            return self.trust.get();
        }
        match self.inspect(wrote) {
            Ok(()) => {
                self.rescued = false;
                self.trust.record_passing(None);
            }
            Err(Trouble::Moved(what)) => {
                self.rescue(db);
                self.trust.record_passing(Some(
                    what + "; nothing is acknowledged until the file is back",
                ));
            }
            Err(Trouble::Parted(what)) => {
                self.rescue(db);
                let rescued = match self.rescued {
                    true => "; the database has all that was acknowledged",
                    false => "",
                };
                self.trust.record(&Error::Lost(
                    what + rescued + "; nothing is acknowledged until a restart",
                ));
            }
            Err(Trouble::Changed(what)) => {
                // On closing, SQLite would copy the log into a file that does not belong to it.
                let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                self.trust.record(&Error::Lost(what + "; nothing is acknowledged until a restart"));
            }
        }
        self.trust.get()
    }

    /// Copies a long write-ahead log into the database, most of it in another thread. This returns soon
    /// unless the log has become very long.
    pub(super) fn checkpoint(&mut self, db: &Connection) {
        if self.is_copying() && !self.collect(self.length().0 >= LONGEST) {
            return;
        }
        let (frames, left) = self.length();
        if frames < CHECKPOINT || left == 0 || self.trust.get().is_err() {
            self.copies = 0;
            return;
        }
        if left > FEW && self.copies < COPIES && self.begin_copy() {
            self.copies += 1;
            return;
        }
        self.copies = 0;
        // This copies as much as is possible now. A full disk stops it, and the next commit
        // tries again.
        if let Err(error) = checkpoint(db, "PASSIVE") {
            self.trust.record(&error);
        }
        self.last = self.snapshot().ok();
    }

    /// Copies the whole log into the database and cuts it to nothing. Returns false if a reader prevents that.
    pub(super) fn empty_log(&mut self, db: &Connection) -> bool {
        // SQLite makes one copy at a time.
        self.collect(true);
        let emptied = checkpoint(db, "TRUNCATE").inspect_err(|error| self.trust.record(error));
        self.last = self.snapshot().ok();
        emptied.is_ok_and(|complete| complete)
    }

    /// Ends the thread that copies. Its connection must be closed before the last one, which copies the rest.
    pub(super) fn stop_copying(&mut self) {
        self.collect(true);
        self.copier = None;
    }

    /// Returns the number of pages in the log, and how many of them were not copied yet, at the last check.
    fn length(&self) -> (u32, u32) {
        let length = |Snapshot { index, .. }: &Snapshot| (index.frames(), index.left());
        self.last.as_ref().map_or((0, 0), length)
    }

    fn is_copying(&self) -> bool {
        self.copier.as_ref().is_some_and(Copier::is_copying)
    }

    /// Begins to copy the log in another thread. Returns false if that is not possible.
    fn begin_copy(&mut self) -> bool {
        if self.copier.is_none() {
            self.copier = Copier::start(&self.files.database).ok();
        }
        let begun = self.copier.as_mut().is_some_and(Copier::begin);
        if !begun {
            self.copier = None;
        }
        begun
    }

    /// Records the result of the copy if it has ended. With `wait` it waits for the end. Returns true if no copy is in
    /// progress any more.
    fn collect(&mut self, wait: bool) -> bool {
        if let Some(result) = self.copier.as_mut().and_then(|copier| copier.result(wait)) {
            if let Err(error) = result {
                self.trust.record(&error);
            }
            self.last = self.snapshot().ok();
        }
        !self.is_copying()
    }

    fn inspect(&mut self, wrote: bool) -> Result<(), Trouble> {
        let there = self.files.at_its_place().map_err(Trouble::Moved)?;
        let known = |path: &Path, known: Identity| {
            let parted = |what: &dyn Display| Trouble::Parted(format!("{} {what}", path.display()));
            let (there, size) = identity_and_size(path).map_err(|_| parted(&"was deleted"))?;
            match there == known {
                true => Ok(size),
                false => Err(parted(&"was replaced")),
            }
        };
        let log_size = known(&self.files.log, self.log)?;
        known(&self.files.index, self.index)?;
        let changed = |path: &Path, what: &dyn Display| {
            Trouble::Changed(format!("{} {what}", path.display()))
        };
        let (database, log) = (&self.files.database, &self.files.log);
        let now = self
            .snapshot_with(&there)
            .map_err(|error| changed(database, &format_args!("cannot be read: {error}")))?;
        // A copy in progress changes the database at any time.
        if !self.is_copying()
            && let Some(last) = &self.last
            && (now.size, now.modified) != (last.size, last.modified)
        {
            // This process writes to the database only in `checkpoint` and in its thread. Another process may
            // do the same.
            let by_sqlite = match wrote {
                true => now.index.progress() != last.index.progress(),
                false => now.index != last.index,
            };
            if !by_sqlite && now.size < last.size {
                return Err(changed(
                    database,
                    &format_args!("was cut from {} to {} bytes", last.size, now.size),
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
        self.last = Some(now);
        Ok(())
    }

    /// Copies the whole log into the open database. The database is then complete by itself, and no
    /// log remains beside a file that replaces it.
    fn rescue(&mut self, db: &Connection) {
        if !self.rescued {
            // SQLite makes one copy at a time.
            self.collect(true);
            self.rescued = checkpoint(db, "TRUNCATE").is_ok_and(|complete| complete);
            self.last = self.snapshot().ok();
        }
    }

    fn snapshot(&self) -> io::Result<Snapshot> {
        self.snapshot_with(&self.files.handle.metadata()?)
    }

    fn snapshot_with(&self, metadata: &Metadata) -> io::Result<Snapshot> {
        let index = Index::read(&self.index_handle)?;
        Ok(Snapshot { size: metadata.len(), modified: metadata.modified()?, index })
    }
}

/// Copies the log into the database and returns true if that was all of it.
pub(super) fn checkpoint(db: &Connection, mode: &str) -> Result<bool, Error> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    Ok(db.query_row(&sql, [], |row| Ok(row.get::<_, i64>(0)? == 0))?)
}

/// The head of the index of the log, see “WAL-Index File Format” of SQLite: two copies of 48 bytes
/// in native byte order, then the progress of the copying.
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

    /// Returns true if no other process is writing the head.
    fn is_whole(&self) -> bool {
        self.copies[0] == self.copies[1]
    }

    fn page_size(&self) -> u64 {
        // The field has 16 bits, so it stores 65536 as 1.
        let size = u16::from_ne_bytes([self.copies[0][14], self.copies[0][15]]);
        if size == 1 { 1 << 16 } else { size.into() }
    }

    /// Returns the number of pages in the log.
    fn frames(&self) -> u32 {
        number(&self.copies[0], 16)
    }

    /// Returns the number of log pages that were copied into the database.
    fn backfilled(&self) -> u32 {
        self.backfilled
    }

    /// Returns the number of log pages that were not copied yet.
    fn left(&self) -> u32 {
        self.frames().saturating_sub(self.backfilled)
    }

    /// Returns the size of the database with the whole log.
    fn database_size(&self) -> u64 {
        u64::from(number(&self.copies[0], 20)) * self.page_size()
    }

    /// Returns values that change whenever pages are copied into the database.
    fn progress(&self) -> (u32, u32, &[u8]) {
        (self.backfilled, self.attempted, self.salts())
    }

    /// Returns the values that identify the log since its last restart.
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

/// Opens a file, or creates it for its owner alone. SQLite itself would make it readable for all
/// users.
pub(super) fn open_private(path: &Path) -> Result<File, Error> {
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

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = OsString::from(path);
    beside.push(suffix);
    beside.into()
}

/// Identifies a file by device and inode.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Returns the identity and the size of the file at a path. A link counts as a file of its own.
fn identity_and_size(path: &Path) -> io::Result<(Identity, u64)> {
    // If a caller requests the times of a file, Linux changes them with the next write. Each sync would
    // then also write the times to the disk, which takes as long as a third of a commit.
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

        let needed = StatxFlags::INO | StatxFlags::SIZE;
        if let Ok(found) = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, needed) {
            let device = makedev(found.stx_dev_major, found.stx_dev_minor);
            return Ok(((device, found.stx_ino), found.stx_size));
        }
        // The file is missing, or the system has no such call.
    }
    let metadata = fs::symlink_metadata(path)?;
    Ok((identity(&metadata), metadata.len()))
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, 0)
}

/// Returns the same value for every file, because other systems have no such identity.
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
