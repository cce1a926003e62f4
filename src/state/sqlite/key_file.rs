//! The key beside the database, for a gateway whose settings have none.
//!
//! A program that can read the folder has both. So the key protects copies of the database alone, such as backups.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{
    guard::{beside, open_private},
    unusable,
};
use crate::{
    config::{STATE_KEY_BYTES, SecretSource, parse_state_key, state_key_text},
    state::Error,
    util::id::Secret,
};

/// Returns the key beside a database. Returns `None` if there is no such file.
///
/// Fails if the file cannot be read, or has no key.
pub(in crate::state) fn read_key(database: &Path) -> Result<Option<Secret>, Error> {
    let Some(file) = key_file(database) else { return Ok(None) };
    if !file.try_exists().map_err(|error| unusable(&file, &error))? {
        return Ok(None);
    }
    let wrong = |what: &str| {
        Error::Unusable(format!(
            "{what}; restore the file, or delete it: the gateway then makes a new key, and gets the secrets from \
             WeChat again"
        ))
    };
    let source = SecretSource::File { file };
    let key = source.read().map_err(|error| wrong(&error.to_string()))?;
    match parse_state_key(&key) {
        Some(_) => Ok(Some(key)),
        None => Err(wrong(&format!("{}{KEY}: it has no key", database.display()))),
    }
}

/// Makes a key beside a database that this process has locked.
pub(in crate::state) fn make_key(database: &Path) -> Result<Option<Secret>, Error> {
    let Some(file) = key_file(database) else { return Ok(None) };
    let mut bytes = Zeroizing::new([0; STATE_KEY_BYTES]);
    let filled = SystemRandom::new().fill(&mut *bytes);
    filled.map_err(|_| Error::Unusable("the system returned no random numbers".to_owned()))?;
    let key = state_key_text(&bytes);
    // A key that is not completely on the disk must never be found.
    let new = beside(&file, ".new");
    let mut opened = open_private(&new)?;
    write_new(&mut opened, &key, &new, &file).map_err(|error| unusable(&file, &error))?;
    tracing::info!(file = %file.display(), "made a key for the secrets of the state");
    Ok(Some(key))
}

fn write_new(opened: &mut File, key: &Secret, new: &Path, file: &Path) -> io::Result<()> {
    opened.set_len(0)?;
    opened.write_all(key.expose().as_bytes())?;
    opened.write_all(b"\n")?;
    opened.sync_all()?;
    fs::rename(new, file)?;
    if let (true, Some(folder)) = (cfg!(unix), file.parent()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// What the name of the key adds to that of the database.
const KEY: &str = ".key";

/// Returns the path of the key. Returns `None` if there is no database.
fn key_file(database: &Path) -> Option<PathBuf> {
    Some(beside(&fs::canonicalize(database).ok()?, KEY))
}
