//! The log of events, and which of several results of one review counts.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{SCAN, storable, submission};
use crate::{
    id::AppId,
    pb::SubmissionKind,
    state::{
        Appended, Error, Event, EventKey, EventPage, EventQuery, Log, Mark, NewEvent, Origin,
        is_decided,
    },
};

/// What events about the same thing have in common. Where both the audit id is empty and there is no
/// submission, an event stands alone.
#[derive(Debug)]
pub(super) struct Review<'a> {
    pub(super) app_id: &'a AppId,
    pub(super) kind: SubmissionKind,
    pub(super) audit_id: String,
    pub(super) submission_id: Option<String>,
}

/// The result of a review that counts.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) event_id: String,
    pub(super) state: i32,
    pub(super) reason: String,
    pub(super) poi_id: String,
    pub(super) map_poi_id: String,
    /// Greater is what counts more; where it is equal, what came later.
    weight: (bool, u64),
}

/// What became of it; and the event, as [`page`] reads it, if it is new.
pub(super) fn append(
    db: &Connection,
    now: u64,
    event: &NewEvent,
) -> Result<(Appended, Option<Event>), Error> {
    let EventKey(key) = event.key;
    let known = db
        .prepare_cached("SELECT position FROM events WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    if let Some(position) = known {
        return Ok((Appended::Known(position), None));
    }
    let review = match &event.origin {
        Origin::Pushed => submission::review(db, event)?,
        Origin::Reconciled { submission_id } => {
            match submission::open_review(db, event, submission_id)? {
                Some(review) => review,
                None => return Ok((Appended::Settled, None)),
            }
        }
    };
    link(db, &review)?;

    let decided = is_decided(event.state);
    let pushed = event.origin == Origin::Pushed;
    let event_time = storable(event.event_time);
    let (mut amends, mut superseded_by) = (String::new(), String::new());
    if decided && let Some(other) = verdict(db, &review)? {
        let wins = (pushed, event_time) >= other.weight;
        *(if wins { &mut amends } else { &mut superseded_by }) = other.event_id;
    }

    // Not by RETURNING, for which SQLite makes a table of its own each time.
    let position = newest(db)? + 1;
    db.prepare_cached("UPDATE log SET newest = ?1, newest_key = ?2")?
        .execute(params![position, key])?;
    db.prepare_cached(
        "INSERT INTO events (position, key, event_id, app_id, kind, audit_id, submission_id, state,
           decided, pushed, reason, poi_id, map_poi_id, event_time, received, amends,
           superseded_by, message)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        position,
        key,
        event.event_id,
        event.app_id.as_str(),
        event.kind as i32,
        event.audit_id.as_str(),
        review.submission_id,
        event.state as i32,
        decided,
        pushed,
        event.reason,
        event.poi_id.as_str(),
        event.map_poi_id.as_str(),
        event_time,
        now,
        amends,
        superseded_by,
        &*event.message,
    ])?;
    submission::settle(db, now, &review)?;
    let submission = match &review.submission_id {
        Some(submission_id) => submission::message(db, submission_id)?,
        None => None,
    };
    let event = Event {
        position,
        key: event.key,
        received: now,
        message: event.message.clone(),
        amends,
        superseded_by,
        submission,
    };
    Ok((Appended::New(position), Some(event)))
}

/// Whether events about a review are in the log.
pub(super) fn is_known(db: &Connection, review: &Review<'_>) -> Result<bool, Error> {
    if review.audit_id.is_empty() {
        return Ok(false);
    }
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (
               SELECT 1 FROM events WHERE app_id = ?1 AND kind = ?2 AND audit_id = ?3)",
        )?
        .query_row(params![review.app_id.as_str(), review.kind as i32, review.audit_id], |row| {
            row.get(0)
        })?)
}

/// Links the events that came before their submission.
pub(super) fn link(db: &Connection, review: &Review<'_>) -> Result<(), Error> {
    if let (Some(submission_id), false) = (&review.submission_id, review.audit_id.is_empty()) {
        db.prepare_cached(
            "UPDATE events SET submission_id = ?4
             WHERE app_id = ?1 AND kind = ?2 AND audit_id = ?3 AND submission_id IS NULL",
        )?
        .execute(params![
            review.app_id.as_str(),
            review.kind as i32,
            review.audit_id,
            submission_id
        ])?;
    }
    Ok(())
}

/// The result that counts, of those that are in the log.
pub(super) fn verdict(db: &Connection, review: &Review<'_>) -> Result<Option<Verdict>, Error> {
    let verdict = db
        .prepare_cached(
            "SELECT event_id, state, reason, poi_id, map_poi_id, pushed, event_time FROM events
             WHERE decided AND (
               (app_id = ?1 AND kind = ?2 AND audit_id = nullif(?3, '')) OR submission_id = ?4)
             ORDER BY pushed DESC, event_time DESC, position DESC LIMIT 1",
        )?
        .query_row(
            params![
                review.app_id.as_str(),
                review.kind as i32,
                review.audit_id,
                review.submission_id
            ],
            |row| {
                Ok(Verdict {
                    event_id: row.get(0)?,
                    state: row.get(1)?,
                    reason: row.get(2)?,
                    poi_id: row.get(3)?,
                    map_poi_id: row.get(4)?,
                    weight: (row.get(5)?, row.get(6)?),
                })
            },
        )
        .optional()?;
    Ok(verdict)
}

pub(super) fn page(db: &Connection, query: &EventQuery) -> Result<EventPage, Error> {
    let narrowed = match query.submission_id {
        Some(_) => "event.submission_id = ?3",
        None => "?3 IS NULL",
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT event.position, event.key, event.app_id, event.kind, event.received, event.message,
           event.amends, event.superseded_by, submission.message AS submission
         FROM events AS event LEFT JOIN submissions AS submission USING (submission_id)
         WHERE event.position > ?1 AND {narrowed}
         ORDER BY event.position LIMIT ?2"
    ))?;
    let mut rows =
        statement.query(params![storable(query.after), SCAN + 1, query.submission_id])?;
    let (before, log) = (mark(db, query.after)?, log(db)?);
    let mut page = EventPage { events: Vec::new(), seen: query.after, at_end: false, before, log };
    let (mut bytes, most_bytes) = (0, query.most_bytes());
    for looked in 0.. {
        let Some(row) = rows.next()? else { break };
        if looked == SCAN || page.events.len() == query.limit {
            return Ok(page);
        }
        let position = row.get("position")?;
        if fits(row, query)? {
            let event = read(row)?;
            bytes += event.size();
            if bytes > most_bytes && !page.events.is_empty() {
                return Ok(page);
            }
            page.events.push(event);
        }
        page.seen = position;
    }
    Ok(EventPage { seen: page.seen.max(page.log.newest.position), at_end: true, ..page })
}

fn fits(row: &Row<'_>, query: &EventQuery) -> Result<bool, Error> {
    // The others are the statement's.
    let EventQuery { after: _, limit: _, bytes: _, app_id, kinds, submission_id: _, from, until } =
        query;
    let received: u64 = row.get("received")?;
    let of_account: String = row.get("app_id")?;
    let of_kind: i32 = row.get("kind")?;
    Ok(app_id.as_ref().is_none_or(|app_id| app_id.as_str() == of_account)
        && (kinds.is_empty() || kinds.iter().any(|kind| *kind as i32 == of_kind))
        && from.is_none_or(|from| from <= received)
        && until.is_none_or(|until| received < until))
}

fn read(row: &Row<'_>) -> Result<Event, Error> {
    Ok(Event {
        position: row.get("position")?,
        key: EventKey(row.get("key")?),
        received: row.get("received")?,
        message: row.get::<_, Vec<u8>>("message")?.into(),
        amends: row.get("amends")?,
        superseded_by: row.get("superseded_by")?,
        submission: row.get::<_, Option<Vec<u8>>>("submission")?.map(Into::into),
    })
}

/// The event at a position.
fn mark(db: &Connection, position: u64) -> Result<Option<Mark>, Error> {
    let key = db
        .prepare_cached("SELECT key FROM events WHERE position = ?1")?
        .query_row([storable(position)], |row| row.get(0))
        .optional()?;
    Ok(key.map(|key| Mark { position, key: EventKey(key) }))
}

pub(super) fn newest(db: &Connection) -> Result<u64, Error> {
    Ok(db.prepare_cached("SELECT newest FROM log")?.query_row([], |row| row.get(0))?)
}

pub(super) fn log(db: &Connection) -> Result<Log, Error> {
    let log = db
        .prepare_cached("SELECT epoch, pruned, pruned_key, newest, newest_key FROM log")?
        .query_row([], |row| {
        Ok(Log {
            epoch: row.get::<_, i64>(0)?.cast_unsigned(),
            pruned: Mark { position: row.get(1)?, key: EventKey(row.get(2)?) },
            newest: Mark { position: row.get(3)?, key: EventKey(row.get(4)?) },
        })
    })?;
    Ok(log)
}

/// Forgets the oldest, up to the first one that is to stay, so that no gap comes to be.
pub(super) fn prune(db: &Connection, before: u64, limit: u64) -> Result<u64, Error> {
    let newest = newest(db)?;
    let mut oldest =
        db.prepare_cached("SELECT position, received FROM events ORDER BY position LIMIT ?1")?;
    let mut rows = oldest.query([limit])?;
    let mut last: Option<u64> = None;
    while let Some(row) = rows.next()? {
        let position = row.get(0)?;
        if position == newest || row.get::<_, u64>(1)? >= before {
            break;
        }
        last = Some(position);
    }
    drop(rows);
    let Some(last) = last else { return Ok(0) };
    db.prepare_cached(
        "UPDATE log SET (pruned, pruned_key) = (SELECT position, key FROM events WHERE position = ?1)",
    )?
    .execute([last])?;
    let gone = db.prepare_cached("DELETE FROM events WHERE position <= ?1")?.execute([last])?;
    Ok(gone.try_into().unwrap_or(u64::MAX))
}
