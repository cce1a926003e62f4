//! The tables, and how a file of an older version gets them.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::state::Error;

/// What leads from each version to the next; a file's is its `user_version`. Only ever appended to.
const STEPS: [&str; 1] = [include_str!("schema_1.sql")];

/// After so many pages, 16 MB, the log goes to its places in the file. What was written to a page
/// several times goes there once; the names of writes are random, so that the pages of a large file
/// are many.
const CHECKPOINT: u32 = 4000;

/// How many kilobytes of pages the connection that writes keeps. SQLite's own 2,000 are too few for
/// the names of a day's writes, which are random: each would be read from the file again.
const CACHE: i32 = 8_000;

/// Brings a file up to date.
pub(super) fn prepare(db: &mut Connection) -> Result<(), Error> {
    // Readers do not wait; a commit is on the disk when it returns.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    db.pragma_update(None, "cache_size", -CACHE)?;
    let transaction = Transaction::new(db, TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(Error::Newer { found, known });
    }
    let applied = usize::try_from(found).unwrap_or_default();
    for step in STEPS.iter().skip(applied) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

/// Writes what is different each time, for SQLite does not write what is there already.
pub(super) fn probe(db: &Connection) -> Result<(), Error> {
    db.prepare_cached("UPDATE log SET probes = probes + 1")?.execute([])?;
    Ok(())
}
