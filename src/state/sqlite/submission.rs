//! Submissions: the one that an event is about, and the state of each.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SCAN, Sqlite,
    event::{self, Review, Verdict},
    later, readable, storable, unless_damaged,
};
use crate::{
    pb::{AuditState, SubmissionKind},
    state::{
        Error, NewEvent, NewSubmission, PAGE_BYTES, Submission, SubmissionPage, SubmissionQuery,
        Submissions, is_open, log_skipped, sum,
    },
    util::id::{AppId, PoiId},
};

/// The columns that [`parse_row`] and [`fits`] need.
const COLUMNS: &str = "number, message, created, audit_id, state, reason, poi_id, map_poi_id,
    event_id, settled, app_id, kind";

/// This many damaged submissions that are due do not block the others.
const MOST_DAMAGED: usize = 1000;

#[tonic::async_trait]
impl Submissions for Sqlite {
    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        self.writer().await?.write(move |db, now| remember(db, now, &submission)).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        let submission_id = submission_id.to_owned();
        self.readers().await?.read(move |db| by_id(db, &submission_id)).await
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        let (app_id, poi_id) = (app_id.clone(), poi_id.clone());
        self.readers().await?.read(move |db| pictures(db, &app_id, &poi_id)).await
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        self.readers().await?.read(move |db| page(db, &query)).await
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        self.writer().await?.write(move |db, now| take_due(db, now, again, limit)).await
    }
}

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
    // A failed insertion would use up a number, so the row is searched first.
    let known = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM submissions WHERE submission_id = ?1)")?
        .query_row([submission_id], |row| row.get(0))?;
    if known {
        return Ok(());
    }
    let decided = if is_open(*state) { 0 } else { now };
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
        decided,
        ask_after.map(|wait| later(now, wait)),
        sum::with_checksum(message, &[]),
    ])?;
    let review = Review {
        app_id,
        kind: *kind,
        audit_id: audit_id.as_str().to_owned(),
        submission_id: Some(submission_id.clone()),
    };
    // Usually there is none.
    if event::is_known(db, &review)? {
        event::link(db, &review)?;
        apply_verdict(db, now, &review)?;
    }
    Ok(())
}

/// Returns the review that a pushed event is about.
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
        let found = db
            .prepare_cached(&sql)?
            .query_row(params![app_id.as_str(), *kind as i32, value], |row| row.get(0))
            .optional();
        readable(found, "a submission")
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
            let mut number =
                db.prepare_cached("UPDATE submissions SET audit_id = ?2 WHERE submission_id = ?1")?;
            unless_damaged(number.execute([submission_id, audit_id.as_str()]), "a submission")?;
        }
    }
    Ok(Review { submission_id, ..review })
}

/// Returns the review that a polled event is about, or `None` if it was decided or pruned.
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

/// Sets a submission to the result that counts, if there is one.
pub(super) fn apply_verdict(db: &Connection, now: u64, review: &Review<'_>) -> Result<(), Error> {
    let Some(submission_id) = &review.submission_id else { return Ok(()) };
    let Some(verdict) = event::verdict(db, review)? else { return Ok(()) };
    let Verdict { event_id, state, reason, poi_id, map_poi_id, .. } = verdict;
    let mut stand = db.prepare_cached(
        "UPDATE submissions SET
           event_id = ?2, state = ?3, reason = ?4,
           poi_id = iif(?5 = '', poi_id, ?5),
           map_poi_id = iif(?6 = '', map_poi_id, ?6),
           settled = ?7
         WHERE submission_id = ?1 AND event_id <> ?2",
    )?;
    let stands = params![submission_id, event_id, state, reason, poi_id, map_poi_id, now];
    unless_damaged(stand.execute(stands), "a submission")
}

fn by_id(db: &Connection, submission_id: &str) -> Result<Option<Submission>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM submissions WHERE submission_id = ?1");
    db.prepare_cached(&sql)?.query([submission_id])?.next()?.map(parse_row).transpose()
}

/// Returns the message that was stored with a submission at first.
pub(super) fn message(db: &Connection, submission_id: &str) -> Result<Option<Bytes>, Error> {
    let message = db
        .prepare_cached("SELECT message FROM submissions WHERE submission_id = ?1")?
        .query_row([submission_id], |row| Ok(super::message(row.get_ref(0)?).ok()))
        .optional()?;
    Ok(message.flatten())
}

fn pictures(db: &Connection, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM submissions WHERE app_id = ?1 AND kind = ?2 AND poi_id <> '' AND poi_id = ?3
         ORDER BY number DESC LIMIT 1"
    );
    let kind = SubmissionKind::StorePictures as i32;
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![app_id.as_str(), kind, poi_id.as_str()])?;
    rows.next()?.map(parse_row).transpose()
}

fn page(db: &Connection, query: &SubmissionQuery) -> Result<SubmissionPage, Error> {
    // Open submissions are a small part of all.
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
    let mut page = SubmissionPage { seen: query.after, ..SubmissionPage::default() };
    let mut bytes = 0;
    for looked in 0.. {
        let Some(row) = rows.next()? else { break };
        if looked == SCAN || page.submissions.len() == query.limit {
            return Ok(page);
        }
        let number = row.get("number")?;
        match fits(row, query).then(|| parse_row(row)) {
            None => {}
            Some(Ok(submission)) => {
                bytes += submission.size();
                if bytes > PAGE_BYTES && !page.submissions.is_empty() {
                    return Ok(page);
                }
                page.submissions.push(submission);
            }
            Some(Err(error)) => {
                log_skipped("a submission", &error.to_string());
                page.unreadable += 1;
            }
        }
        page.seen = number;
    }
    Ok(SubmissionPage { seen: page.seen.max(newest(db)?), at_end: true, ..page })
}

/// Returns true if a row matches the query, or might match if its unreadable parts were known.
fn fits(row: &Row<'_>, query: &SubmissionQuery) -> bool {
    // The statement itself applies the other conditions.
    let SubmissionQuery { after: _, limit: _, accounts, kinds, states, until, client_reference: _ } =
        query;
    let of_account: Option<String> = row.get("app_id").ok();
    let known = |of_account: &String| accounts.has(of_account);
    let of_kind = row.get::<_, i32>("kind").ok().and_then(|kind| kind.try_into().ok());
    let in_state: Option<i32> = row.get("state").ok();
    let in_state = in_state.and_then(|state| AuditState::try_from(state).ok());
    let created: Option<u64> = row.get("created").ok();
    of_account.as_ref().is_none_or(known)
        && (kinds.is_empty() || of_kind.is_none_or(|kind| kinds.contains(&kind)))
        && (states.is_empty() || in_state.is_none_or(|state| states.contains(&state)))
        && until.is_none_or(|until| created.is_none_or(|created| created < until))
}

/// Returns the highest number in use.
fn newest(db: &Connection) -> Result<u64, Error> {
    let newest: Option<u64> = db
        .prepare_cached("SELECT max(number) FROM submissions")?
        .query_row([], |row| row.get(0))?;
    Ok(newest.unwrap_or_default())
}

fn take_due(
    db: &Connection,
    now: u64,
    again: Duration,
    limit: usize,
) -> Result<Vec<Submission>, Error> {
    // The rows are changed one by one, because the change of a damaged row may fail.
    let mut due = db.prepare_cached(
        "SELECT number FROM submissions INDEXED BY submissions_due
         WHERE settled = 0 AND ask_at <= ?1 ORDER BY ask_at LIMIT ?2",
    )?;
    let most = i64::try_from(limit.saturating_add(MOST_DAMAGED)).unwrap_or(i64::MAX);
    let due = due.query_map(params![now, most], |row| row.get(0))?;
    let due: Vec<u64> = due.collect::<Result<_, _>>()?;
    let sql = format!("UPDATE submissions SET ask_at = ?2 WHERE number = ?1 RETURNING {COLUMNS}");
    let mut take = db.prepare_cached(&sql)?;
    let mut taken = Vec::new();
    for number in due {
        if taken.len() == limit {
            break;
        }
        let mut rows = take.query(params![number, later(now, again)])?;
        let row = rows.next().map_err(Error::from);
        match row.and_then(|row| row.map(parse_row).transpose()) {
            Ok(submission) => taken.extend(submission),
            Err(Error::Unreadable(why)) => log_skipped("a submission", &why),
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Deletes submissions that were decided before this time. Open ones stay.
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

fn parse_row(row: &Row<'_>) -> Result<Submission, Error> {
    // These columns must be valid, because lists filter by them.
    row.get_ref("app_id")?.as_str().map_err(|_| unknown("account"))?;
    SubmissionKind::try_from(row.get::<_, i32>("kind")?).map_err(|_| unknown("kind"))?;
    let state: i32 = row.get("state")?;
    Ok(Submission {
        number: row.get("number")?,
        message: super::message(row.get_ref("message")?)?,
        created: row.get("created")?,
        audit_id: row.get::<_, String>("audit_id")?.into(),
        state: AuditState::try_from(state).map_err(|_| unknown("state"))?,
        reason: row.get("reason")?,
        poi_id: row.get::<_, String>("poi_id")?.into(),
        map_poi_id: row.get::<_, String>("map_poi_id")?.into(),
        event_id: row.get("event_id")?,
        decided: row.get("settled")?,
    })
}

fn unknown(what: &str) -> Error {
    Error::Unreadable(format!("a submission has no known {what}"))
}
