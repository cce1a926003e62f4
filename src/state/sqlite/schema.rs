//! The tables, and how a file of an older version gets them.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::state::Error;

/// What leads from each version to the next; a file's is its `user_version`. Only ever appended to.
const STEPS: [&str; 1] = [include_str!("schema_1.sql")];

/// How many kilobytes of pages the connection that writes keeps. SQLite's own 2,000 are too few for
/// the names of a day's writes, which are random: each would be read from the file again.
const CACHE: i32 = 8_000;

/// If more events than this are missing at the end of the log, it is not events that are damaged, but
/// the number that says how many there are.
const MOST_MISSING: u64 = 10_000;

/// Brings a file up to date.
pub(super) fn prepare(db: &mut Connection) -> Result<(), Error> {
    // Readers do not wait; a commit is on the disk when it returns.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // The guard does it, between two commits.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
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
    if found < known {
        transaction.pragma_update(None, "user_version", known)?;
    }
    Ok(transaction.commit()?)
}

/// Looks through the whole file. Fails if pages of it contradict each other: then more is damaged than
/// can be seen. Indexes that do not fit their tables are made anew, and lose nothing; a row with a
/// wrong value is left to whatever reads it.
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

/// Whether `PRAGMA integrity_check` says that an index does not fit its table.
fn is_about_index(found: &str) -> bool {
    found.starts_with("wrong # of entries in index ")
        || found.starts_with("non-unique entry in index ")
        || found.starts_with("row ") && found.contains(" missing from index ")
        || found.starts_with("row ") && found.contains(" values differ from index ")
        || found.starts_with("rowid not at end-of-record for row ")
}

/// Whether it says that a row has a value that its column does not take.
fn is_about_row(found: &str) -> bool {
    let wrong =
        ["NULL value in ", "NUMERIC value in ", "TEXT value in ", "CHECK constraint failed in "];
    found.starts_with("non-") && found.contains(" value in ")
        || wrong.iter().any(|wrong| found.starts_with(wrong))
}

/// Writes what is different each time, for SQLite does not write what is there already.
pub(super) fn probe(db: &Connection) -> Result<(), Error> {
    db.prepare_cached("UPDATE log SET probes = probes + 1")?.execute([])?;
    Ok(())
}
