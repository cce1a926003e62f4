//! Makes a backup: a SQLite file with the whole state.

use std::path::Path;

use super::{Copied, Error, Observer, Place, at, copy::copy};
use crate::{
    config::{RedisSettings, StateUrl},
    state::sqlite,
};

/// Writes a backup of a state into a new file. A gateway may use a state in SQLite meanwhile. A state in Redis is
/// copied, so no gateway may use it. Returns the copy in that case.
///
/// Fails if the file exists, unless it is an unfinished copy of the same Redis.
pub async fn backup(
    place: &Place,
    to: &Path,
    observer: &mut dyn Observer,
) -> Result<Option<Copied>, Error> {
    let redis = RedisSettings::default();
    let file = Place { url: StateUrl::Sqlite(to.to_owned()), redis };
    match &place.url {
        StateUrl::Redis(_) => copy(place, &file, false, observer).await.map(Some),
        StateUrl::Sqlite(path) => {
            if to.try_exists().unwrap_or(true) {
                return Err(Error::Refused(format!(
                    "{}: it exists already; a backup needs a new file",
                    to.display()
                )));
            }
            observer.begin("copying pages", 0);
            let copied = sqlite::backup(path, to, &mut |pages| observer.advance(pages));
            observer.end();
            match copied {
                Ok(()) => Ok(None),
                Err(sqlite::BackupError::Source(error)) => Err(at(place)(error)),
                Err(sqlite::BackupError::Target(error)) => Err(at(&file)(error)),
            }
        }
    }
}
