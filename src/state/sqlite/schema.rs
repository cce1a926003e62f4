//! The tables, and the upgrade of a file from an older version.

// Not rusqlite_migration: the steps are a loop of three lines, and a newer file needs our own error.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::state::{
    Error,
    transfer::{UNFINISHED, unfinished},
};

/// The steps from each version to the next. The version of a file is its `user_version`. Steps must
/// only be appended.
const STEPS: [&str; 3] =
    [include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// The version that this code writes.
pub(super) const KNOWN: i64 = STEPS.len() as i64;

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
    let found = version(&transaction)?;
    if found == UNFINISHED {
        return Err(unfinished());
    }
    if found > KNOWN {
        return Err(Error::Newer { found, known: KNOWN });
    }
    apply(&transaction, found)?;
    if found < KNOWN {
        transaction.pragma_update(None, "user_version", KNOWN)?;
    }
    Ok(transaction.commit()?)
}

/// Returns the version of a file. A new file has 0.
pub(super) fn version(db: &Connection) -> Result<i64, Error> {
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Makes the tables in an empty file.
pub(super) fn create(db: &Connection) -> Result<(), Error> {
    apply(db, 0)
}

fn apply(db: &Connection, found: i64) -> Result<(), Error> {
    let applied = usize::try_from(found).unwrap_or_default();
    STEPS.iter().skip(applied).try_for_each(|step| Ok(db.execute_batch(step)?))
}

/// Deletes all tables.
pub(super) fn drop_all(db: &Connection) -> Result<(), Error> {
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut tables = db.prepare(tables)?;
    let tables = tables.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    tables.iter().try_for_each(|table| Ok(db.execute_batch(&format!("DROP TABLE {table}"))?))
}

/// Checks the whole file. Fails if its pages contradict each other, because then more is damaged
/// than a check can find. Indexes that do not match their tables are rebuilt without loss. A row
/// with a wrong value is left to the operation that reads it.
pub(super) fn check(db: &Connection) -> Result<(), Error> {
    let mut found = findings(db)?;
    if let Some(worst) = found.iter().find(|found| is_beyond_rows(found)) {
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
    check_end(db)
}

/// Fails if the log has another end than its events.
pub(super) fn check_end(db: &Connection) -> Result<(), Error> {
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

/// Returns the findings of `PRAGMA integrity_check`.
pub(super) fn findings(db: &Connection) -> Result<Vec<String>, Error> {
    let mut statement = db.prepare("PRAGMA integrity_check(50)")?;
    let found = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    Ok(found.into_iter().filter(|found| found != "ok").collect())
}

/// Returns true if a finding is about more than indexes and the values of rows.
pub(super) fn is_beyond_rows(found: &str) -> bool {
    !is_about_index(found) && !is_about_row(found)
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
