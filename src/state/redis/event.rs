//! The log of events: one stream whose entry ids are the positions.

use std::{sync::LazyLock, time::Duration};

use ::redis::Script;

use super::{
    Redis,
    connection::{Connection, lua, millis},
    failure::damaged,
};
use crate::{
    pb::SubmissionKind,
    state::{
        Appended, Error, Event, EventKey, EventPage, EventQuery, Events, Log, LogPosition,
        NewEvent, Origin, Segment, WRITES_KEPT, is_decided,
    },
};

static APPEND: LazyLock<Script> = lua!("append.lua");
static EVENTS: LazyLock<Script> = lua!("events.lua");
static LOG: LazyLock<Script> = lua!("log.lua");
static PRUNE: LazyLock<Script> = lua!("prune.lua");

/// A script's numbers are floats, so a larger position would be inexact.
const EXACT: u64 = 1 << 53;

/// An event as `events.lua` returns it: position, key, received, message, supersedes, superseded by,
/// and the message of its submission.
type EventRow = (u64, Vec<u8>, u64, Vec<u8>, String, String, Option<Vec<u8>>);

/// A log position as scripts return it.
type PositionRow = Option<(u64, Vec<u8>)>;

/// The key of the event before a page.
type PreviousKey = Option<Vec<u8>>;

/// A log as scripts return it: epoch, pruned, newest.
type LogRow = (u64, PositionRow, PositionRow);

#[tonic::async_trait]
impl Events for Redis {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        let redis = &self.connection;
        let NewEvent {
            key,
            event_id,
            app_id,
            kind,
            audit_id,
            state,
            reason,
            poi_id,
            map_poi_id,
            event_time,
            origin,
            message,
        } = event;
        let (pushed, asked_about) = match &origin {
            Origin::Pushed => (true, ""),
            Origin::Polled { submission_id } => (false, submission_id.as_str()),
        };
        let mut call = redis.call(&APPEND);
        call.arg("key").arg(&key.0[..]);
        call.arg("event_id").arg(event_id);
        call.arg("app_id").arg(app_id.as_str());
        call.arg("kind").arg(kind as i32);
        call.arg("audit_id").arg(audit_id.as_str());
        call.arg("state").arg(state as i32);
        call.arg("decides").arg(u8::from(is_decided(state)));
        call.arg("reason").arg(reason);
        call.arg("poi_id").arg(poi_id.as_str());
        call.arg("map_poi_id").arg(map_poi_id.as_str());
        call.arg("event_time").arg(event_time);
        call.arg("pushed").arg(u8::from(pushed));
        call.arg("asked_about").arg(asked_about);
        call.arg("message").arg(&message[..]);
        let (what, position): (String, u64) = redis.run(&call).await?;
        match what.as_str() {
            "new" => Ok(Appended::New(position)),
            "known" => Ok(Appended::Known(position)),
            "decided" => Ok(Appended::Decided),
            _ => Err(damaged("word")),
        }
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        let redis = &self.connection;
        let most_bytes = query.most_bytes();
        let EventQuery { after, limit, bytes: _, accounts, kinds, submission_id, from, until } =
            query;
        let mut call = redis.call(&EVENTS);
        call.arg(after.min(EXACT)).arg(limit);
        call.arg(accounts.set());
        call.arg(set(kinds.into_iter().map(SubmissionKind::into)));
        call.arg(submission_id.unwrap_or_default());
        call.arg(from.unwrap_or(0)).arg(until.unwrap_or(u64::MAX)).arg(new_epoch()).arg(most_bytes);
        let (seen, at_end, events, before, found): (u64, bool, Vec<EventRow>, PreviousKey, LogRow) =
            redis.run(&call).await?;
        let events = events.into_iter().map(event).collect::<Result<_, _>>()?;
        let before = before.map(key).transpose()?.map(|key| LogPosition { position: after, key });
        Ok(EventPage { events, seen: seen.max(after), at_end, before, log: parse_log(found)? })
    }

    async fn newer(&self, position: u64) -> Result<Option<Segment>, Error> {
        self.connection.wait("log", &format!("{position}-0")).await?;
        Ok(None)
    }

    async fn log(&self) -> Result<Log, Error> {
        let redis = &self.connection;
        parse_log(redis.run(redis.call(&LOG).arg(new_epoch())).await?)
    }
}

/// Returns an epoch for a log that has none yet.
fn new_epoch() -> u64 {
    fastrand::u64(1..)
}

fn parse_log((epoch, pruned, newest): LogRow) -> Result<Log, Error> {
    Ok(Log { epoch, pruned: log_position(pruned)?, newest: log_position(newest)? })
}

pub(super) async fn prune(redis: &Connection, age: Duration) -> Result<u64, Error> {
    redis.run(redis.call(&PRUNE).arg(millis(age)).arg(millis(WRITES_KEPT))).await
}

/// Returns numbers in the form of a script's set, with a comma on each side.
pub(super) fn set(numbers: impl Iterator<Item = i32>) -> String {
    numbers.fold(",".to_owned(), |set, number| format!("{set}{number},"))
}

fn event(written: EventRow) -> Result<Event, Error> {
    let (position, found, received, message, supersedes, superseded_by, submission) = written;
    Ok(Event {
        position,
        key: key(found)?,
        received,
        message: message.into(),
        supersedes,
        superseded_by,
        submission: submission.map(Into::into),
    })
}

fn log_position(place: PositionRow) -> Result<LogPosition, Error> {
    let (position, found) = place.unwrap_or((0, vec![0; 32]));
    Ok(LogPosition { position, key: key(found)? })
}

fn key(found: Vec<u8>) -> Result<EventKey, Error> {
    found.try_into().map(EventKey).map_err(|_| damaged("key"))
}
