//! A backup of a file that a gateway may use, with SQLite's own means.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{
    connect,
    guard::{beside, open_private},
    schema, unusable,
};
use crate::state::{
    Error,
    transfer::{UNFINISHED, unfinished},
};

/// The pages that one step copies.
const PAGES: i32 = 2000;
/// The pause before a step is repeated because another process holds a lock.
const PAUSE: Duration = Duration::from_millis(50);

/// The side of a backup that failed.
#[derive(Debug)]
pub(in crate::state) enum BackupError {
    /// The state.
    Source(Error),
    /// The new file.
    Target(Error),
}

/// Copies the state of one moment into a new file, and reports the pages of each step. The file gets its name
/// only when it is complete and on the disk.
pub(in crate::state) fn backup(
    path: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), BackupError> {
    use BackupError::{Source, Target};

    let database = fs::canonicalize(path);
    let database = database.map_err(|error| Source(Error::Unusable(error.to_string())))?;
    let source = open_source(&database).map_err(Source)?;
    let part = beside(to, ".part");
    // The rest of a backup that was killed.
    remove(&part).map_err(|error| Target(unusable(&part, &error)))?;
    drop(open_private(&part).map_err(Target)?);
    let written = write(&source, &part, progress).map_err(Target).and_then(|()| {
        let named =
            sync(&part).and_then(|()| fs::hard_link(&part, to)).and_then(|()| sync_folder(to));
        named.map_err(|error| Target(unusable(to, &error)))
    });
    // The name `to` stays. A failure leaves nothing behind.
    let _ = remove(&part);
    written
}

/// Opens the file at one moment. The moment stays the same in spite of later writes, so no step begins anew.
fn open_source(database: &Path) -> Result<Connection, Error> {
    let source = connect(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    match schema::version(&source)? {
        0 => Err(Error::Unusable("it has no state".to_owned())),
        UNFINISHED => Err(unfinished()),
        found if found > schema::KNOWN => Err(Error::Newer { found, known: schema::KNOWN }),
        _ => Ok(source),
    }
}

fn write(source: &Connection, part: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
    let mut target = connect(part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The file is synced once, at the end.
    target.pragma_update(None, "synchronous", "OFF")?;
    {
        let backup = Backup::new(source, &mut target)?;
        let mut done = 0;
        loop {
            let step = backup.step(PAGES)?;
            let so_far = backup.progress();
            let copied = u64::try_from(so_far.pagecount - so_far.remaining).unwrap_or_default();
            progress(copied.saturating_sub(done));
            done = copied;
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(PAUSE),
            }
        }
    }
    schema::findings(&target)?.first().map_or(Ok(()), |found| {
        Err(Error::Damaged(format!("the state, or this copy of it: {found}")))
    })
}

fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a new name durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync(folder.unwrap_or(Path::new(".")))
}
