//! Submissions: which one an event is about, and where each stands.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SCAN,
    event::{self, Review, Verdict},
    later, storable,
};
use crate::{
    id::{AppId, PoiId},
    pb::{AuditState, SubmissionKind},
    state::{
        Error, NewEvent, NewSubmission, PAGE_BYTES, Submission, SubmissionPage, SubmissionQuery,
        is_open,
    },
};

/// What [`read`] reads, and [`fits`].
const COLUMNS: &str = "number, message, created, audit_id, state, reason, poi_id, map_poi_id,
    event_id, settled, app_id, kind";

pub(super) fn remember(db: &Connection, now: u64, submission: &NewSubmission) -> Result<(), Error> {
    let NewSubmission {
        submission_id,
        app_id,
        kind,
        audit_id,
        poi_id,
        client_reference,
        state,
        ask_after,
        message,
    } = submission;
    // Found first: a failed insertion would use up a number.
    let known = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM submissions WHERE submission_id = ?1)")?
        .query_row([submission_id], |row| row.get(0))?;
    if known {
        return Ok(());
    }
    let settled = if is_open(*state) { 0 } else { now };
    db.prepare_cached(
        "INSERT INTO submissions (submission_id, app_id, kind, audit_id, poi_id, map_poi_id,
               client_reference, state, reason, event_id, created, settled, ask_at, message)
             VALUES (?1, ?2, ?3, ?4, ?5, '', ?6, ?7, '', '', ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        submission_id,
        app_id.as_str(),
        *kind as i32,
        audit_id.as_str(),
        poi_id.as_str(),
        client_reference,
        *state as i32,
        now,
        settled,
        ask_after.map(|wait| later(now, wait)),
        &**message,
    ])?;
    let review = Review {
        app_id,
        kind: *kind,
        audit_id: audit_id.as_str().to_owned(),
        submission_id: Some(submission_id.clone()),
    };
    // Mostly not.
    if event::is_known(db, &review)? {
        event::link(db, &review)?;
        settle(db, now, &review)?;
    }
    Ok(())
}

/// What a pushed event is about.
pub(super) fn review<'a>(db: &Connection, event: &'a NewEvent) -> Result<Review<'a>, Error> {
    let NewEvent { app_id, kind, audit_id, poi_id, .. } = event;
    let alone = Review { app_id, kind: *kind, audit_id: String::new(), submission_id: None };
    if *kind == SubmissionKind::Unspecified {
        return Ok(alone);
    }
    let review = Review { audit_id: audit_id.as_str().to_owned(), ..alone };
    let newest = |condition: &str, value: &str| {
        let sql = format!(
            "SELECT submission_id FROM submissions WHERE app_id = ?1 AND kind = ?2 AND {condition}
             ORDER BY number DESC LIMIT 1"
        );
        db.prepare_cached(&sql)?
            .query_row(params![app_id.as_str(), *kind as i32, value], |row| row.get(0))
            .optional()
    };
    let mut submission_id: Option<String> = None;
    if !audit_id.is_empty() {
        submission_id = newest("audit_id = ?3", audit_id.as_str())?;
    }
    if submission_id.is_none() {
        submission_id = match kind {
            SubmissionKind::Merchant => newest("audit_id = ?3", "")?,
            SubmissionKind::Store if !poi_id.is_empty() => {
                newest("audit_id = '' AND poi_id <> '' AND poi_id = ?3", poi_id.as_str())?
            }
            _ => None,
        };
        if let Some(submission_id) = &submission_id {
            db.prepare_cached("UPDATE submissions SET audit_id = ?2 WHERE submission_id = ?1")?
                .execute([submission_id, audit_id.as_str()])?;
        }
    }
    Ok(Review { submission_id, ..review })
}

/// What an event that was asked for is about; `None` if that is settled, or gone.
pub(super) fn open_review<'a>(
    db: &Connection,
    event: &'a NewEvent,
    submission_id: &str,
) -> Result<Option<Review<'a>>, Error> {
    let audit_id = db
        .prepare_cached(
            "UPDATE submissions SET audit_id = iif(audit_id = '', ?2, audit_id)
             WHERE submission_id = ?1 AND settled = 0 RETURNING audit_id",
        )?
        .query_row(params![submission_id, event.audit_id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(audit_id.map(|audit_id| Review {
        app_id: &event.app_id,
        kind: event.kind,
        audit_id,
        submission_id: Some(submission_id.to_owned()),
    }))
}

/// Lets a submission stand where the result that counts puts it, if there is one.
pub(super) fn settle(db: &Connection, now: u64, review: &Review<'_>) -> Result<(), Error> {
    let Some(submission_id) = &review.submission_id else { return Ok(()) };
    let Some(verdict) = event::verdict(db, review)? else { return Ok(()) };
    let Verdict { event_id, state, reason, poi_id, map_poi_id, .. } = verdict;
    db.prepare_cached(
        "UPDATE submissions SET
           event_id = ?2, state = ?3, reason = ?4,
           poi_id = iif(?5 = '', poi_id, ?5),
           map_poi_id = iif(?6 = '', map_poi_id, ?6),
           settled = ?7
         WHERE submission_id = ?1 AND event_id <> ?2",
    )?
    .execute(params![submission_id, event_id, state, reason, poi_id, map_poi_id, now])?;
    Ok(())
}

pub(super) fn by_id(db: &Connection, submission_id: &str) -> Result<Option<Submission>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM submissions WHERE submission_id = ?1");
    db.prepare_cached(&sql)?.query([submission_id])?.next()?.map(read).transpose()
}

/// What was remembered of a submission, as it was at first.
pub(super) fn message(db: &Connection, submission_id: &str) -> Result<Option<Bytes>, Error> {
    let message: Option<Vec<u8>> = db
        .prepare_cached("SELECT message FROM submissions WHERE submission_id = ?1")?
        .query_row([submission_id], |row| row.get(0))
        .optional()?;
    Ok(message.map(Into::into))
}

pub(super) fn pictures(
    db: &Connection,
    app_id: &AppId,
    poi_id: &PoiId,
) -> Result<Option<Submission>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM submissions WHERE app_id = ?1 AND kind = ?2 AND poi_id <> '' AND poi_id = ?3
         ORDER BY number DESC LIMIT 1"
    );
    let kind = SubmissionKind::StorePictures as i32;
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![app_id.as_str(), kind, poi_id.as_str()])?;
    rows.next()?.map(read).transpose()
}

pub(super) fn page(db: &Connection, query: &SubmissionQuery) -> Result<SubmissionPage, Error> {
    // The open ones are few among all.
    let only_open = !query.states.is_empty() && query.states.iter().all(|state| is_open(*state));
    let narrowed = match query.client_reference {
        Some(_) => {
            "INDEXED BY submissions_with_reference
             WHERE client_reference <> '' AND client_reference = ?3"
        }
        None if only_open => "INDEXED BY submissions_settled WHERE settled = 0 AND ?3 IS NULL",
        None => "WHERE ?3 IS NULL",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM submissions {narrowed} AND number > ?1 ORDER BY number LIMIT ?2"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows =
        statement.query(params![storable(query.after), SCAN + 1, query.client_reference])?;
    let mut page = SubmissionPage { submissions: Vec::new(), seen: query.after, at_end: false };
    let mut bytes = 0;
    for looked in 0.. {
        let Some(row) = rows.next()? else { break };
        if looked == SCAN || page.submissions.len() == query.limit {
            return Ok(page);
        }
        let number = row.get("number")?;
        if fits(row, query)? {
            let submission = read(row)?;
            bytes += submission.size();
            if bytes > PAGE_BYTES && !page.submissions.is_empty() {
                return Ok(page);
            }
            page.submissions.push(submission);
        }
        page.seen = number;
    }
    Ok(SubmissionPage { seen: page.seen.max(newest(db)?), at_end: true, ..page })
}

fn fits(row: &Row<'_>, query: &SubmissionQuery) -> Result<bool, Error> {
    // The others are the statement's.
    let SubmissionQuery { after: _, limit: _, app_id, kinds, states, until, client_reference: _ } =
        query;
    let of_account: String = row.get("app_id")?;
    let of_kind: i32 = row.get("kind")?;
    let in_state: i32 = row.get("state")?;
    let created: u64 = row.get("created")?;
    Ok(app_id.as_ref().is_none_or(|app_id| app_id.as_str() == of_account)
        && (kinds.is_empty() || kinds.iter().any(|kind| *kind as i32 == of_kind))
        && (states.is_empty() || states.iter().any(|state| *state as i32 == in_state))
        && until.is_none_or(|until| created < until))
}

/// The highest number that there is.
fn newest(db: &Connection) -> Result<u64, Error> {
    let newest: Option<u64> = db
        .prepare_cached("SELECT max(number) FROM submissions")?
        .query_row([], |row| row.get(0))?;
    Ok(newest.unwrap_or_default())
}

pub(super) fn take_due(
    db: &Connection,
    now: u64,
    again: Duration,
    limit: usize,
) -> Result<Vec<Submission>, Error> {
    let sql = format!(
        "UPDATE submissions SET ask_at = ?2 WHERE number IN (
           SELECT number FROM submissions INDEXED BY submissions_due
           WHERE settled = 0 AND ask_at <= ?1 ORDER BY ask_at LIMIT ?3)
         RETURNING {COLUMNS}"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![now, later(now, again), limit])?;
    let mut taken = Vec::new();
    while let Some(row) = rows.next()? {
        taken.push(read(row)?);
    }
    Ok(taken)
}

/// Forgets what was settled before then. What is open stays.
pub(super) fn prune(db: &Connection, before: u64, limit: u64) -> Result<u64, Error> {
    let gone = db
        .prepare_cached(
            "DELETE FROM submissions WHERE number IN (
               SELECT number FROM submissions INDEXED BY submissions_settled
               WHERE settled > 0 AND settled < ?1 LIMIT ?2)",
        )?
        .execute([before, limit])?;
    Ok(gone.try_into().unwrap_or(u64::MAX))
}

fn read(row: &Row<'_>) -> Result<Submission, Error> {
    let state: i32 = row.get("state")?;
    Ok(Submission {
        number: row.get("number")?,
        message: row.get::<_, Vec<u8>>("message")?.into(),
        created: row.get("created")?,
        audit_id: row.get::<_, String>("audit_id")?.into(),
        state: AuditState::try_from(state)
            .map_err(|_| Error::Damaged("a submission is in no known state".to_owned()))?,
        reason: row.get("reason")?,
        poi_id: row.get::<_, String>("poi_id")?.into(),
        map_poi_id: row.get::<_, String>("map_poi_id")?.into(),
        event_id: row.get("event_id")?,
        settled: row.get("settled")?,
    })
}
