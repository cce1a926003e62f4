//! The log of events: one stream whose entry ids are the positions.

use std::{str, sync::LazyLock, time::Duration};

use ::redis::Script;
use bytes::Bytes;

use super::{
    Redis,
    connection::{Connection, lua, millis},
    failure::damaged,
};
use crate::{
    pb::SubmissionKind,
    state::{
        Appended, Error, Event, EventKey, EventPage, EventQuery, Events, Log, LogPosition,
        NewEvent, Origin, Segment, WRITES_KEPT,
        gap::{LostEvent, NO_MESSAGE, placeholder_key},
        is_decided, sum,
    },
};

static APPEND: LazyLock<Script> = lua!("append.lua");
static EVENTS: LazyLock<Script> = lua!("events.lua");
static LOG: LazyLock<Script> = lua!("log.lua");
static PRUNE: LazyLock<Script> = lua!("prune.lua");

/// A script's numbers are floats, so a larger position would be inexact.
const EXACT: u64 = 1 << 53;

/// A field of an event, if it is there.
type Field = Option<Vec<u8>>;

/// An event as `events.lua` returns it: position, key, received, app id, kind, and the damage, which
/// replaces the other fields. They are message, supersedes, superseded by, and the message of its
/// submission.
type EventRow = (u64, Field, Field, Field, Field, Option<String>, Field, Field, Field, Field);

/// A log position as scripts return it. The key is empty if it is lost.
type PositionRow = Option<(u64, Vec<u8>)>;

/// The key of the event before a page. Empty if it is lost.
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
        let events = events.into_iter().map(event).collect();
        let before = before.map(|found| log_position(Some((after, found))));
        Ok(EventPage { events, seen: seen.max(after), at_end, before, log: parse_log(found) })
    }

    async fn newer(&self, position: u64) -> Result<Option<Segment>, Error> {
        self.connection.wait("log", &format!("{position}-0")).await?;
        Ok(None)
    }

    async fn log(&self) -> Result<Log, Error> {
        let redis = &self.connection;
        redis.run(redis.call(&LOG).arg(new_epoch())).await.map(parse_log)
    }
}

/// Returns an epoch for a log that has none yet.
fn new_epoch() -> u64 {
    fastrand::u64(1..)
}

fn parse_log((epoch, pruned, newest): LogRow) -> Log {
    Log { epoch, pruned: log_position(pruned), newest: log_position(newest) }
}

pub(super) async fn prune(redis: &Connection, age: Duration) -> Result<u64, Error> {
    redis.run(redis.call(&PRUNE).arg(millis(age)).arg(millis(WRITES_KEPT))).await
}

/// Returns numbers in the form of a script's set, with a comma on each side.
pub(super) fn set(numbers: impl Iterator<Item = i32>) -> String {
    numbers.fold(",".to_owned(), |set, number| format!("{set}{number},"))
}

/// Returns an event, or its placeholder if it cannot be read.
fn event(row: EventRow) -> Event {
    let (position, key, received, app_id, kind, damage, message, supersedes, superseded_by, its) =
        row;
    let lost = LostEvent {
        position,
        key: key.and_then(parse_key),
        app_id: app_id.and_then(|app_id| String::from_utf8(app_id).ok()),
        kind: kind.and_then(|kind| str::from_utf8(&kind).ok()?.parse().ok()),
        received: received.and_then(|time| str::from_utf8(&time).ok()?.parse().ok()),
    };
    let text = |field: Field| String::from_utf8(field?).ok();
    let whole = || {
        Some(Event {
            position,
            key: lost.key?,
            received: lost.received?,
            message: message?.into(),
            supersedes: text(supersedes)?,
            superseded_by: text(superseded_by)?,
            submission: its.map(submission_message),
        })
    };
    match damage {
        Some(damage) => lost.placeholder(&damage),
        None => whole().unwrap_or_else(|| lost.placeholder("a field has an unexpected form")),
    }
}

/// Returns the stored message of an event's submission.
fn submission_message(stored: Vec<u8>) -> Bytes {
    match sum::without_checksum(&stored, &[]) {
        Ok(message) if !message.is_empty() => Bytes::copy_from_slice(message),
        _ => Bytes::from_static(&NO_MESSAGE),
    }
}

fn log_position(place: PositionRow) -> LogPosition {
    let Some((position, found)) = place else {
        return LogPosition { position: 0, key: EventKey([0; 32]) };
    };
    let key = parse_key(found).unwrap_or_else(|| placeholder_key(position));
    LogPosition { position, key }
}

fn parse_key(found: Vec<u8>) -> Option<EventKey> {
    found.try_into().map(EventKey).ok()
}
