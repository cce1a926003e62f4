//! The tables, and the upgrade of a file from an older version.

// Not rusqlite_migration: the steps are a loop of three lines, and a newer file needs our own error.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::state::Error;

/// The steps from each version to the next. The version of a file is its `user_version`. Steps must
/// only be appended.
const STEPS: [&str; 3] =
    [include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// The page cache of the writing connection, in kilobytes. SQLite's default of 2,000 is too small:
/// the names of a day's writes are random, so each would be read from the file again.
const CACHE: i32 = 8_000;

/// If more events than this are missing at the end of the log, the damage is in the number of
/// events, not in the events.
const MOST_MISSING: u64 = 10_000;

/// Upgrades a file to the current version.
pub(super) fn prepare(db: &mut Connection) -> Result<(), Error> {
    // In this mode, readers do not wait, and a commit is on the disk when it returns.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // The guard copies the log between two commits.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.pragma_update(None, "cache_size", -CACHE)?;
    // A replaced row is overwritten with zeros. A secret can have been in it.
    db.pragma_update(None, "secure_delete", "FAST")?;
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
    if found < known {
        transaction.pragma_update(None, "user_version", known)?;
    }
    Ok(transaction.commit()?)
}

/// Checks the whole file. Fails if its pages contradict each other, because then more is damaged
/// than a check can find. Indexes that do not match their tables are rebuilt without loss. A row
/// with a wrong value is left to the operation that reads it.
pub(super) fn check(db: &Connection) -> Result<(), Error> {
    let mut found = findings(db)?;
    let beyond = |found: &&String| !is_about_index(found) && !is_about_row(found);
    if let Some(worst) = found.iter().find(beyond) {
        return Err(Error::Damaged(worst.clone()));
    }
    if let Some(first) = found.iter().find(|found| is_about_index(found)) {
        tracing::error!("rebuilding a damaged index of the state: {first}");
        db.execute_batch("REINDEX").map_err(|_| Error::Damaged(first.clone()))?;
        found = findings(db)?;
        if let Some(left) = found.iter().find(|found| !is_about_row(found)) {
            return Err(Error::Damaged(left.clone()));
        }
    }
    for found in found {
        tracing::error!("found a damaged row in the state: {found}");
    }
    let fits = db.query_row(
        "SELECT newest - ifnull((SELECT max(position) FROM events), newest) BETWEEN 0 AND ?1 FROM log",
        [MOST_MISSING],
        |row| row.get(0),
    );
    match fits {
        Ok(true) => Ok(()),
        _ => Err(Error::Damaged("the log of events has another end than its events".to_owned())),
    }
}

fn findings(db: &Connection) -> Result<Vec<String>, Error> {
    let mut statement = db.prepare("PRAGMA integrity_check(50)")?;
    let found = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    Ok(found.into_iter().filter(|found| found != "ok").collect())
}

/// Returns true if this finding of `PRAGMA integrity_check` is about an index that does not match
/// its table.
fn is_about_index(found: &str) -> bool {
    found.starts_with("wrong # of entries in index ")
        || found.starts_with("non-unique entry in index ")
        || found.starts_with("row ") && found.contains(" missing from index ")
        || found.starts_with("row ") && found.contains(" values differ from index ")
        || found.starts_with("rowid not at end-of-record for row ")
}

/// Returns true if the finding is about a row whose value has the wrong type for its column.
fn is_about_row(found: &str) -> bool {
    let wrong =
        ["NULL value in ", "NUMERIC value in ", "TEXT value in ", "CHECK constraint failed in "];
    found.starts_with("non-") && found.contains(" value in ")
        || wrong.iter().any(|wrong| found.starts_with(wrong))
}

/// Writes a different value each time, because SQLite skips a write that changes nothing.
pub(super) fn probe(db: &Connection) -> Result<(), Error> {
    db.prepare_cached("UPDATE log SET probes = probes + 1")?.execute([])?;
    Ok(())
}
