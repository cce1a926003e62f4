//! The journal of writes.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, Params, Row, params, types::ValueRef};

use super::{SCAN, Sqlite, later, message, millis, now, storable, submission, writer::Durability};
use crate::state::{
    Begun, Error, NewWrite, Outcome, PAGE_BYTES, WRITES_KEPT, Write, WritePage, WriteQuery,
    WriteState, Writes, log_skipped, sum::stored_form,
};

/// The columns that [`parse_row`] needs.
const COLUMNS: &str =
    "number, write_id, caller, app_id, method, request_id, client_reference, state, until,
    attempts, created, sent, ended, sought, reply";

#[tonic::async_trait]
impl Writes for Sqlite {
    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error> {
        let durability =
            if write.sent.is_some() { Durability::Machine } else { Durability::Process };
        self.writer().await?.run(durability, move |db, now| begin(db, now, &write, term)).await
    }

    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        record: Bytes,
    ) -> Result<bool, Error> {
        let write_id = write_id.to_owned();
        let sent = move |db: &_, now| sent(db, now, &write_id, fence, by, &record);
        self.writer().await?.write(sent).await
    }

    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error> {
        let write_id = write_id.to_owned();
        self.writer().await?.write(move |db, now| ended(db, now, &write_id, fence, &outcome)).await
    }

    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error> {
        let (write_id, now) = (write_id.to_owned(), now(&self.clock));
        self.readers().await?.read(move |db| by_id(db, now, &write_id)).await
    }

    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error> {
        let now = now(&self.clock);
        self.readers().await?.read(move |db| page(db, now, &query)).await
    }

    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error> {
        let write_id = write_id.to_owned();
        self.writer().await?.write(move |db, now| resolve(db, now, &write_id, &outcome)).await
    }
}

fn begin(db: &Connection, now: u64, write: &NewWrite, term: Duration) -> Result<Begun, Error> {
    let NewWrite { write_id, fingerprint, sent, .. } = write;
    let NewWrite { caller, app_id, method, request_id, client_reference, .. } = write;
    let request_id = named(request_id);
    let Some(known) = known(db, now, write)? else {
        db.prepare_cached(
            "INSERT INTO writes (write_id, caller, app_id, method, request_id, fingerprint,
               client_reference, state, fence, until, attempts, created, sent, ended, sought)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, ?9, ?10, ?11, ?12, 0, ?13)",
        )?
        .execute(params![
            write_id,
            caller,
            app_id.as_str(),
            method,
            request_id,
            fingerprint,
            client_reference,
            if sent.is_some() { WriteState::Sent } else { WriteState::Claimed }.name(),
            later(now, sent.as_ref().map_or(term, |sent| sent.by)),
            sent.is_some(),
            now,
            if sent.is_some() { now } else { 0 },
            sent.as_ref().map_or_else(Vec::new, |sent| stored_form(&sent.record)),
        ])?;
        let write_id = write_id.clone();
        return Ok(Begun::Claimed { write_id, fence: 1, sent: sent.is_some() });
    };
    let same: bool = db
        .prepare_cached("SELECT fingerprint = ?2 FROM writes WHERE write_id = ?1")?
        .query_row(params![known.write_id, fingerprint], |row| row.get(0))?;
    if !same {
        return Ok(Begun::Other);
    }
    // The request was repeated, and the repeated one has sent nothing yet.
    let again = known.write_id == *write_id;
    let (term, sent) = match (known.state, sent) {
        (WriteState::Claimed, _) if again || known.rest.is_zero() => (term, false),
        (WriteState::Sent, Some(sent)) if again => (sent.by, true),
        _ => return Ok(Begun::Known(known)),
    };
    let fence = db
        .prepare_cached(
            "UPDATE writes SET fence = fence + ?2, until = ?3 WHERE write_id = ?1 RETURNING fence",
        )?
        .query_row(params![known.write_id, !again, later(now, term)], |row| row.get(0))?;
    Ok(Begun::Claimed { write_id: known.write_id, fence, sent })
}

/// Returns a request id, or `None` if it is empty.
fn named(request_id: &Option<String>) -> Option<&str> {
    request_id.as_deref().filter(|request_id| !request_id.is_empty())
}

/// Returns the write that the journal has already: the caller's own, or else the same request of a caller
/// without a name.
fn known(db: &Connection, now: u64, write: &NewWrite) -> Result<Option<Write>, Error> {
    let NewWrite { write_id, caller, app_id, method, request_id, fingerprint, .. } = write;
    let Some(request_id) = named(request_id) else { return by_id(db, now, write_id) };
    let named = "request_id = ?1 AND app_id = ?2 AND method = ?3
        AND (caller = ?4 OR (caller = '' OR ?4 = '') AND fingerprint = ?5)
        ORDER BY caller = ?4 DESC, number DESC LIMIT 1";
    find(db, now, named, params![request_id, app_id.as_str(), method, caller, fingerprint])
}

fn sent(
    db: &Connection,
    now: u64,
    write_id: &str,
    fence: u64,
    by: Duration,
    record: &[u8],
) -> Result<bool, Error> {
    let changed = db
        .prepare_cached(
            "UPDATE writes
             SET state = 'sent', attempts = attempts + 1, sent = ?3, until = ?4, sought = ?5
             WHERE write_id = ?1 AND fence = ?2 AND state IN ('claimed', 'sent') AND until > ?3",
        )?
        .execute(params![write_id, storable(fence), now, later(now, by), stored_form(record)])?;
    Ok(changed > 0)
}

fn ended(
    db: &Connection,
    now: u64,
    write_id: &str,
    fence: u64,
    outcome: &Outcome,
) -> Result<(), Error> {
    if let Outcome::Finished { submission: Some(submission), .. } = outcome {
        submission::remember(db, now, submission)?;
    }
    let fence = storable(fence);
    match outcome {
        Outcome::Finished { reply, submission: _ } => db
            .prepare_cached(
                "UPDATE writes SET state = 'finished', reply = ?3, ended = ?4
                 WHERE write_id = ?1 AND fence = ?2 AND state <> 'finished'",
            )?
            .execute(params![write_id, fence, stored_form(reply), now])?,
        Outcome::Released => db
            .prepare_cached(
                "DELETE FROM writes WHERE write_id = ?1 AND fence = ?2 AND state <> 'finished'",
            )?
            .execute(params![write_id, fence])?,
        Outcome::Unknown => db
            .prepare_cached(
                "UPDATE writes SET state = 'unknown'
                 WHERE write_id = ?1 AND fence = ?2 AND state <> 'finished'",
            )?
            .execute(params![write_id, fence])?,
    };
    Ok(())
}

fn by_id(db: &Connection, now: u64, write_id: &str) -> Result<Option<Write>, Error> {
    find(db, now, "write_id = ?1", [write_id])
}

fn page(db: &Connection, now: u64, query: &WriteQuery) -> Result<WritePage, Error> {
    // Unfinished writes are a small part of all.
    let only_unfinished = !query.states.is_empty() && !query.states.contains(&WriteState::Finished);
    let request_id = named(&query.request_id);
    let narrowed = match request_id {
        Some(_) => "INDEXED BY writes_with_request WHERE request_id = ?3",
        None if only_unfinished => "INDEXED BY writes_unfinished WHERE ended = 0 AND ?3 IS NULL",
        None => "WHERE ?3 IS NULL",
    };
    let sql =
        format!("SELECT {COLUMNS} FROM writes {narrowed} AND number > ?1 ORDER BY number LIMIT ?2");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![storable(query.after), SCAN + 1, request_id])?;
    let mut page = WritePage { seen: query.after, ..WritePage::default() };
    let mut bytes = 0;
    for looked in 0.. {
        let Some(row) = rows.next()? else { break };
        if looked == SCAN || page.writes.len() == query.limit {
            return Ok(page);
        }
        let number = row.get("number")?;
        let write = match parse_row(row, now) {
            Ok(write) => write,
            Err(error) => {
                if might_fit(row, query) {
                    log_skipped("a write", &error.to_string());
                    page.unreadable += 1;
                }
                page.seen = number;
                continue;
            }
        };
        if fits(&write, query) {
            bytes += write.size();
            if bytes > PAGE_BYTES && !page.writes.is_empty() {
                return Ok(page);
            }
            page.writes.push(write);
        }
        page.seen = number;
    }
    Ok(WritePage { seen: page.seen.max(newest(db)?), at_end: true, ..page })
}

fn fits(write: &Write, query: &WriteQuery) -> bool {
    // The statement itself applies the other conditions.
    let WriteQuery { after: _, limit: _, accounts, states, request_id: _, until } = query;
    accounts.has(write.app_id.as_str())
        && (states.is_empty() || states.contains(&write.state))
        && until.is_none_or(|until| write.created < until)
}

/// Returns true if an unreadable row might match the query, judged by its readable columns.
fn might_fit(row: &Row<'_>, query: &WriteQuery) -> bool {
    let of_account: Option<String> = row.get("app_id").ok();
    let known = |of: &String| query.accounts.has(of);
    let state = row.get_ref("state").ok().and_then(|state| WriteState::named(state.as_str().ok()?));
    // The state of a sent write may be unknown by now.
    let also = |state: &WriteState| match state {
        WriteState::Sent => Some(WriteState::Unknown),
        _ => None,
    };
    let in_state = |state: &WriteState| {
        query.states.is_empty()
            || query.states.contains(state)
            || also(state).is_some_and(|state| query.states.contains(&state))
    };
    of_account.as_ref().is_none_or(known) && state.as_ref().is_none_or(in_state)
}

/// Returns the highest number in use.
fn newest(db: &Connection) -> Result<u64, Error> {
    let newest: Option<u64> =
        db.prepare_cached("SELECT max(number) FROM writes")?.query_row([], |row| row.get(0))?;
    Ok(newest.unwrap_or_default())
}

fn resolve(
    db: &Connection,
    now: u64,
    write_id: &str,
    outcome: &Outcome,
) -> Result<Option<Write>, Error> {
    let found = by_id(db, now, write_id)?.filter(|write| write.state == WriteState::Unknown);
    let Some(write) = found else { return Ok(None) };
    let fence = db
        .prepare_cached("SELECT fence FROM writes WHERE write_id = ?1")?
        .query_row([write_id], |row| row.get(0))?;
    ended(db, now, write_id, fence, outcome)?;
    Ok(Some(write))
}

/// Deletes writes that finished long ago and claims that were abandoned long ago. A sent write
/// stays until it has finished.
pub(super) fn prune(db: &Connection, now: u64, limit: u64) -> Result<u64, Error> {
    let before = now.saturating_sub(millis(WRITES_KEPT));
    let finished = db
        .prepare_cached(
            "DELETE FROM writes WHERE number IN (
               SELECT number FROM writes INDEXED BY writes_finished
               WHERE ended > 0 AND ended < ?1 LIMIT ?2)",
        )?
        .execute([before, limit])?;
    let finished = u64::try_from(finished).unwrap_or(u64::MAX);
    let claimed = db
        .prepare_cached(
            "DELETE FROM writes WHERE number IN (
               SELECT number FROM writes INDEXED BY writes_unfinished
               WHERE ended = 0 AND state = 'claimed' AND until < ?1 LIMIT ?2)",
        )?
        .execute([before, limit.saturating_sub(finished)])?;
    Ok(finished.saturating_add(claimed.try_into().unwrap_or(u64::MAX)))
}

/// Returns the write that matches a condition.
fn find(
    db: &Connection,
    now: u64,
    condition: &str,
    params: impl Params,
) -> Result<Option<Write>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM writes WHERE {condition}");
    db.prepare_cached(&sql)?.query(params)?.next()?.map(|row| parse_row(row, now)).transpose()
}

fn parse_row(row: &Row<'_>, now: u64) -> Result<Write, Error> {
    let stored = WriteState::named(row.get_ref("state")?.as_str().unwrap_or_default())
        .ok_or_else(|| Error::Unreadable("a write is in no known state".to_owned()))?;
    let rest = match stored {
        WriteState::Finished => 0,
        _ => row.get::<_, u64>("until")?.saturating_sub(now),
    };
    let reply = match row.get_ref("reply")? {
        ValueRef::Null => None,
        reply => Some(message(reply)?),
    };
    Ok(Write {
        number: row.get("number")?,
        write_id: row.get("write_id")?,
        caller: row.get("caller")?,
        app_id: row.get::<_, String>("app_id")?.into(),
        method: row.get("method")?,
        request_id: row.get::<_, Option<String>>("request_id")?.unwrap_or_default(),
        client_reference: row.get("client_reference")?,
        state: if stored == WriteState::Sent && rest == 0 { WriteState::Unknown } else { stored },
        attempts: row.get("attempts")?,
        record: message(row.get_ref("sought")?)?,
        reply,
        created: row.get("created")?,
        sent: row.get("sent")?,
        ended: row.get("ended")?,
        rest: Duration::from_millis(rest),
    })
}
