//! The log of events, and the choice of the result that counts among several for one review.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params, types::ValueRef};

use super::{SCAN, Sqlite, readable, storable, submission, unless_damaged, writer};
use crate::{
    pb::SubmissionKind,
    state::{
        Appended, Error, Event, EventKey, EventPage, EventQuery, Events, Log, LogPosition,
        NewEvent, Origin, Segment,
        gap::{LostEvent, NO_MESSAGE, placeholder_key},
        is_decided, sum,
    },
    util::id::AppId,
};

/// How long [`Events::newer`] waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The properties that events about the same review share. An event without an audit id and without
/// a submission stands alone.
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
    /// The greater weight counts. If the weights are equal, the later result counts.
    weight: (bool, u64),
}

#[tonic::async_trait]
impl Events for Sqlite {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        self.writer().await?.append(move |db, now| append(db, now, &event)).await
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        self.readers().await?.read(move |db| page(db, &query)).await
    }

    async fn newer(&self, position: u64) -> Result<Option<Segment>, Error> {
        let mut recent = self.writer().await?.recent();
        let newer = recent.wait_for(|recent| recent.newest() > position);
        match tokio::time::timeout(LONGEST_WAIT, newer).await {
            Ok(Err(_)) => Err(writer::ended()),
            Ok(Ok(recent)) => Ok(recent.after(position)),
            Err(_) => Ok(None),
        }
    }

    async fn log(&self) -> Result<Log, Error> {
        self.readers().await?.read(log).await
    }
}

/// Appends an event and returns the result. If the event is new, also returns it in the form of
/// [`page`].
fn append(db: &Connection, now: u64, event: &NewEvent) -> Result<(Appended, Option<Event>), Error> {
    if let Some(position) = position_of(db, event.key)? {
        return Ok((Appended::Known(position), None));
    }
    let Some(review) = review_of(db, event)? else { return Ok((Appended::Decided, None)) };
    link(db, &review)?;
    let (supersedes, superseded_by) = compare(db, event, &review)?;
    // RETURNING is slower, because SQLite creates a temporary table for it each time.
    let position = newest(db)? + 1;
    let beside = Covered {
        position,
        key: event.key,
        received: now,
        kind: event.kind as i32,
        app_id: event.app_id.as_str(),
        supersedes: &supersedes,
        superseded_by: &superseded_by,
    };
    insert(db, event, &review, &beside)?;
    submission::apply_verdict(db, now, &review)?;
    let submission = match &review.submission_id {
        Some(submission_id) => submission::message(db, submission_id)?,
        None => None,
    };
    let event = Event {
        position,
        key: event.key,
        received: now,
        message: event.message.clone(),
        supersedes,
        superseded_by,
        submission,
    };
    Ok((Appended::New(position), Some(event)))
}

/// Returns the position of an event that is in the log.
fn position_of(db: &Connection, EventKey(key): EventKey) -> Result<Option<u64>, Error> {
    Ok(db
        .prepare_cached("SELECT position FROM events WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?)
}

/// Returns the review that a new event is about, and links the event to its submission. Returns `None`
/// if WeChat was polled about a submission that is decided by now.
fn review_of<'a>(db: &Connection, event: &'a NewEvent) -> Result<Option<Review<'a>>, Error> {
    match &event.origin {
        Origin::Pushed => Ok(Some(submission::review(db, event)?)),
        Origin::Polled { submission_id } => submission::open_review(db, event, submission_id),
    }
}

/// Compares a new event with the result so far. Returns the id of the event that it supersedes, and
/// of the event by which it is superseded. At least one of them is empty.
fn compare(
    db: &Connection,
    event: &NewEvent,
    review: &Review<'_>,
) -> Result<(String, String), Error> {
    if !is_decided(event.state) {
        return Ok(Default::default());
    }
    let weight = (event.origin == Origin::Pushed, storable(event.event_time));
    Ok(match verdict(db, review)? {
        None => Default::default(),
        Some(other) if weight >= other.weight => (other.event_id, String::new()),
        Some(other) => (String::new(), other.event_id),
    })
}

/// Inserts an event at the end of the log. `beside` has its values that the checksum covers.
fn insert(
    db: &Connection,
    event: &NewEvent,
    review: &Review<'_>,
    beside: &Covered<'_>,
) -> Result<(), Error> {
    let Covered { position, key: EventKey(key), received, kind, app_id, .. } = *beside;
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
        app_id,
        kind,
        event.audit_id.as_str(),
        review.submission_id,
        event.state as i32,
        is_decided(event.state),
        event.origin == Origin::Pushed,
        event.reason,
        event.poi_id.as_str(),
        event.map_poi_id.as_str(),
        storable(event.event_time),
        received,
        beside.supersedes,
        beside.superseded_by,
        beside.sum(|beside| sum::with_checksum(&event.message, beside)),
    ])?;
    Ok(())
}

/// Returns true if the log has an event about this review.
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

/// Links the events that arrived before their submission.
pub(super) fn link(db: &Connection, review: &Review<'_>) -> Result<(), Error> {
    let (Some(submission_id), false) = (&review.submission_id, review.audit_id.is_empty()) else {
        return Ok(());
    };
    let its = "app_id = ?1 AND kind = ?2 AND audit_id = ?3 AND submission_id IS NULL";
    let (app_id, kind) = (review.app_id.as_str(), review.kind as i32);
    let linked = db
        .prepare_cached(&format!("UPDATE events SET submission_id = ?4 WHERE {its}"))?
        .execute(params![app_id, kind, review.audit_id, submission_id]);
    match linked.map_err(Error::from) {
        // A damaged row fails the whole statement, so the events are linked one by one.
        Err(Error::Unreadable(_)) => {}
        linked => return linked.map(drop),
    }
    let mut events = db.prepare(&format!("SELECT position FROM events WHERE {its}"))?;
    let events = events.query_map(params![app_id, kind, review.audit_id], |row| row.get(0))?;
    for position in events.collect::<Result<Vec<i64>, _>>()? {
        let mut link =
            db.prepare_cached("UPDATE events SET submission_id = ?2 WHERE position = ?1")?;
        unless_damaged(link.execute(params![position, submission_id]), "an event")?;
    }
    Ok(())
}

/// Returns the result that counts among those in the log.
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
        .optional();
    readable(verdict, "an event")
}

fn page(db: &Connection, query: &EventQuery) -> Result<EventPage, Error> {
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
    let log = log(db)?;
    let before = log_position(db, query.after, &log)?;
    let mut page = EventPage { events: Vec::new(), seen: query.after, at_end: false, before, log };
    let (mut bytes, most_bytes) = (0, query.most_bytes());
    // Adds an event and returns whether there was room.
    let mut push = |page: &mut EventPage, event: Event| {
        let room = page.events.len() < query.limit
            && (page.events.is_empty() || bytes + event.size() <= most_bytes);
        if room {
            bytes += event.size();
            page.events.push(event);
        }
        room
    };
    let mut looked = 0;
    loop {
        let row = rows.next()?;
        // The positions of one submission's events have gaps, so a gap is no sign of a missing row.
        let whole = query.submission_id.is_none();
        let position = match row {
            Some(row) => row.get("position")?,
            None => page.log.newest.position.saturating_add(1),
        };
        let expected = page.seen.max(page.log.pruned.position).saturating_add(1);
        for missing in if whole { expected..position } else { 0..0 } {
            if looked == SCAN || !push(&mut page, placeholder(missing, None, "its row is missing"))
            {
                return Ok(page);
            }
            (page.seen, looked) = (missing, looked + 1);
        }
        let Some(row) = row else { break };
        if looked == SCAN || page.events.len() == query.limit {
            return Ok(page);
        }
        let event = match Stored::parse_row(row, position) {
            Ok(stored) => stored.fits(query).then(|| stored.event(submission_of(row))),
            Err(error) => Some(placeholder(position, Some(row), &error.to_string())),
        };
        if let Some(event) = event
            && !push(&mut page, event)
        {
            return Ok(page);
        }
        (page.seen, looked) = (position, looked + 1);
    }
    Ok(EventPage { seen: page.seen.max(page.log.newest.position), at_end: true, ..page })
}

/// A row with a valid checksum, or without one.
struct Stored<'a> {
    beside: Covered<'a>,
    message: &'a [u8],
}

impl<'a> Stored<'a> {
    fn parse_row(row: &'a Row<'_>, position: u64) -> Result<Self, Error> {
        let text = |column| {
            let value = row.get_ref(column)?.as_str();
            value.map_err(|_| Error::Unreadable(format!("{column} is no text")))
        };
        let beside = Covered {
            position,
            key: EventKey(row.get("key")?),
            received: row.get("received")?,
            kind: row.get("kind")?,
            app_id: text("app_id")?,
            supersedes: text("amends")?,
            superseded_by: text("superseded_by")?,
        };
        let message = row.get_ref("message")?.as_blob();
        let message = message.map_err(|_| Error::Unreadable("message is no message".to_owned()))?;
        let message = beside.sum(|beside| sum::without_checksum(message, beside))?;
        Ok(Self { beside, message })
    }

    fn fits(&self, query: &EventQuery) -> bool {
        // The statement itself applies the other conditions.
        let EventQuery {
            after: _,
            limit: _,
            bytes: _,
            accounts,
            kinds,
            submission_id: _,
            from,
            until,
        } = query;
        let Covered { app_id: of_account, kind: of_kind, received, .. } = self.beside;
        accounts.has(of_account)
            && (kinds.is_empty() || kinds.iter().any(|kind| *kind as i32 == of_kind))
            && from.is_none_or(|from| from <= received)
            && until.is_none_or(|until| received < until)
    }

    fn event(&self, submission: Option<Bytes>) -> Event {
        let Covered { position, key, received, supersedes, superseded_by, .. } = self.beside;
        Event {
            position,
            key,
            received,
            message: Bytes::copy_from_slice(self.message),
            supersedes: supersedes.to_owned(),
            superseded_by: superseded_by.to_owned(),
            submission,
        }
    }
}

/// Returns the stored message of an event's submission.
fn submission_of(row: &Row<'_>) -> Option<Bytes> {
    let message = match row.get_ref("submission").ok()? {
        ValueRef::Null => return None,
        message => {
            message.as_blob().ok().and_then(|message| sum::without_checksum(message, &[]).ok())
        }
    };
    Some(Bytes::copy_from_slice(message.unwrap_or(&NO_MESSAGE)))
}

/// Returns the placeholder for an unreadable event.
fn placeholder(position: u64, row: Option<&Row<'_>>, cause: &str) -> Event {
    let lost = LostEvent {
        position,
        key: row.and_then(|row| row.get("key").ok()).map(EventKey),
        app_id: row.and_then(|row| row.get("app_id").ok()),
        kind: row.and_then(|row| row.get("kind").ok()),
        received: row.and_then(|row| row.get("received").ok()),
    };
    lost.placeholder(cause)
}

/// Returns the message of a row without its checksum. Fails if the row is damaged.
pub(super) fn message_of(row: &Row<'_>) -> Result<Vec<u8>, Error> {
    Ok(Stored::parse_row(row, row.get("position")?)?.message.to_vec())
}

/// The values that the checksum of an event's message covers in addition to the message.
#[derive(Clone, Copy)]
pub(super) struct Covered<'a> {
    pub(super) position: u64,
    pub(super) key: EventKey,
    pub(super) received: u64,
    pub(super) kind: i32,
    pub(super) app_id: &'a str,
    pub(super) supersedes: &'a str,
    pub(super) superseded_by: &'a str,
}

impl Covered<'_> {
    pub(super) fn sum<T>(&self, sum: impl FnOnce(&[&[u8]]) -> T) -> T {
        let Self { position, key, received, kind, app_id, supersedes, superseded_by } = self;
        sum(&[
            &position.to_be_bytes(),
            &key.0,
            &received.to_be_bytes(),
            &kind.to_be_bytes(),
            app_id.as_bytes(),
            supersedes.as_bytes(),
            superseded_by.as_bytes(),
        ])
    }
}

/// Returns the log position of an event, or `None` if the event was pruned or does not exist yet.
fn log_position(db: &Connection, position: u64, log: &Log) -> Result<Option<LogPosition>, Error> {
    if position <= log.pruned.position || position > log.newest.position {
        return Ok(None);
    }
    Ok(Some(LogPosition { position, key: key_at(db, position)? }))
}

/// Returns the key of the event at a position, or a placeholder if the row or its key is lost.
pub(super) fn key_at(db: &Connection, position: u64) -> Result<EventKey, Error> {
    let key = db
        .prepare_cached("SELECT key FROM events WHERE position = ?1")?
        .query_row([storable(position)], |row| Ok(row.get(0).ok()))
        .optional()?;
    Ok(key.flatten().map_or_else(|| placeholder_key(position), EventKey))
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
            pruned: LogPosition { position: row.get(1)?, key: EventKey(row.get(2)?) },
            newest: LogPosition { position: row.get(3)?, key: EventKey(row.get(4)?) },
        })
    })?;
    Ok(log)
}

/// Deletes the oldest events up to the first one that must stay, so that no gap appears.
pub(super) fn prune(db: &Connection, before: u64, limit: u64) -> Result<u64, Error> {
    let newest = newest(db)?;
    let mut oldest =
        db.prepare_cached("SELECT position, received FROM events ORDER BY position LIMIT ?1")?;
    let mut rows = oldest.query([limit])?;
    let mut last: Option<u64> = None;
    while let Some(row) = rows.next()? {
        let position = row.get(0)?;
        // A row with an unreadable time is as old as its neighbors.
        if position == newest || row.get(1).is_ok_and(|received: u64| received >= before) {
            break;
        }
        last = Some(position);
    }
    drop(rows);
    let Some(last) = last else { return Ok(0) };
    let key = log_position(db, last, &log(db)?)?
        .map_or_else(|| placeholder_key(last), |position| position.key);
    db.prepare_cached("UPDATE log SET pruned = ?1, pruned_key = ?2")?
        .execute(params![last, key.0])?;
    let gone = db.prepare_cached("DELETE FROM events WHERE position <= ?1")?.execute([last])?;
    Ok(gone.try_into().unwrap_or(u64::MAX))
}
