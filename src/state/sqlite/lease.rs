//! Leases. A row is never deleted, because it holds the fence.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, later, readable};
use crate::state::{Acquired, Error, Leases, log_skipped};

#[tonic::async_trait]
impl Leases for Sqlite {
    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        let name = name.to_owned();
        self.writer().await?.write_ahead(move |db, now| acquire(db, now, &name, term)).await
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        let name = name.to_owned();
        self.writer().await?.write_ahead(move |db, now| renew(db, now, &name, fence, term)).await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        let name = name.to_owned();
        self.writer().await?.write_ahead(move |db, now| free(db, now, &name, fence, rest)).await
    }
}

pub(super) fn acquire(
    db: &Connection,
    now: u64,
    name: &str,
    term: Duration,
) -> Result<Acquired, Error> {
    let taken = db
        .prepare_cached("SELECT until - ?2 FROM leases WHERE name = ?1 AND until > ?2")?
        .query_row(params![name, now], |row| row.get(0))
        .optional();
    if let Some(left) = readable(taken, "a lease")? {
        return Ok(Acquired::Taken(Duration::from_millis(left)));
    }
    let acquired = db
        .prepare_cached(
            "INSERT INTO leases (name, fence, held, until) VALUES (?1, 1, TRUE, ?2)
             ON CONFLICT DO UPDATE SET fence = fence + 1, held = TRUE, until = excluded.until
             RETURNING fence",
        )?
        .query_row(params![name, later(now, term)], |row| row.get(0));
    match acquired.map_err(Error::from) {
        Ok(fence) => Ok(Acquired::Lease(fence)),
        Err(Error::Unreadable(why)) => {
            log_skipped("a lease", &why);
            // There is less than one lease per millisecond, so this fence is higher than every
            // earlier one.
            db.prepare_cached("REPLACE INTO leases VALUES (?1, ?2, TRUE, ?3)")?
                .execute(params![name, now, later(now, term)])?;
            Ok(Acquired::Lease(now))
        }
        Err(error) => Err(error),
    }
}

fn renew(db: &Connection, now: u64, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
    set_until(db, now, name, fence, true, later(now, term))
}

fn free(db: &Connection, now: u64, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
    set_until(db, now, name, fence, false, later(now, rest)).map(drop)
}

/// Changes a lease and returns true, unless its term is over or another owner has it.
fn set_until(
    db: &Connection,
    now: u64,
    name: &str,
    fence: u64,
    held: bool,
    until: u64,
) -> Result<bool, Error> {
    let changed = db
        .prepare_cached(
            "UPDATE leases SET held = ?4, until = ?5
             WHERE name = ?1 AND fence = ?2 AND held AND until > ?3",
        )?
        .execute(params![name, fence, now, held, until])?;
    Ok(changed > 0)
}
