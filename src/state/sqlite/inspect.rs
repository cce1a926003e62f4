//! Inspects the place of a state without opening the state.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::Path,
};

use super::{guard::beside, unusable};
use crate::state::{Error, Inspection};

/// Inspects the file and its folder. A gateway that runs is not disturbed.
///
/// Fails if the folder is missing or not writable, or if the path is not a file.
pub(in crate::state) fn inspect(path: &Path) -> Result<Inspection, Error> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Permissions, read-only mounts and full disks are different on each system. This is the same test.
    let trial = beside(path, &format!(".doctor-{:016x}", fastrand::u64(..)));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&trial)
        .and_then(|_| fs::remove_file(&trial))
        .map_err(|error| unusable(path, &error))?;
    let found = match fs::canonicalize(path) {
        Err(_) => "a new file; the folder is writable",
        Ok(database) if !database.is_file() => {
            return Err(Error::Unusable("the path is not a file".to_owned()));
        }
        Ok(database) if is_held(&beside(&database, ".lock"))? => {
            "a running gateway holds the file; the folder is writable"
        }
        Ok(_) => "no gateway holds the file; the folder is writable",
    };
    let found = format!("{found}; SQLite syncs every write");
    Ok(Inspection { found, warning: fleeting(folder) })
}

/// Returns true if a process holds the lock.
pub(super) fn is_held(lock: &Path) -> Result<bool, Error> {
    // Without the file, no process can hold it. The shared lock ends at once with this handle.
    let Ok(lock) = File::open(lock) else { return Ok(false) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(Error::Unusable(error.to_string())),
    }
}

/// Returns a warning if the folder is on a file system that loses files or has unreliable locks.
#[cfg(target_os = "linux")]
fn fleeting(folder: &Path) -> Option<String> {
    const TMPFS: u64 = 0x0102_1994;
    const NFS: u64 = 0x6969;
    const SMB: [u64; 2] = [0xff53_4d42, 0xfe53_4d42];
    let kind = rustix::fs::statfs(folder).ok()?.f_type.cast_unsigned();
    if kind == TMPFS {
        Some(
            "the folder is in memory (tmpfs): a restart of the machine loses it; use a disk".into(),
        )
    } else if kind == NFS || SMB.contains(&kind) {
        Some("the folder is on a network, where SQLite's locks are unreliable; use a disk".into())
    } else {
        None
    }
}

#[cfg(not(target_os = "linux"))]
fn fleeting(_: &Path) -> Option<String> {
    None
}
