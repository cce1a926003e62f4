//! Submissions: a hash each, indexed by number, by review, and by due time.

use std::{sync::LazyLock, time::Duration};

use ::redis::{Script, Value, from_redis_value};
use bytes::Bytes;

use super::{
    Redis,
    connection::{Call, lua, millis},
    event::set,
};
use crate::{
    pb::{AuditState, SubmissionKind},
    state::{
        Error, NewSubmission, PAGE_BYTES, Submission, SubmissionPage, SubmissionQuery, Submissions,
        is_open, log_skipped, sum,
    },
    util::id::{AppId, PoiId},
};

static REMEMBER: LazyLock<Script> = lua!("remember.lua");
static SUBMISSION: LazyLock<Script> = lua!("submission.lua");
static PICTURES: LazyLock<Script> = lua!("pictures.lua");
static SUBMISSIONS: LazyLock<Script> = lua!("submissions.lua");
static TAKE_DUE: LazyLock<Script> = lua!("take_due.lua");

/// The most submissions that are taken at once.
const MOST: usize = 1000;

/// This many damaged submissions that are due do not block the others.
const MOST_DAMAGED: usize = 1000;

/// A submission as `prelude.lua` returns it: number, message, created, audit id, state, reason, poi
/// id, map poi id, event id, decided, app id, kind.
type SubmissionRow =
    (u64, Option<Vec<u8>>, u64, String, i32, String, String, String, String, u64, String, i32);

#[tonic::async_trait]
impl Submissions for Redis {
    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        let redis = &self.connection;
        let mut call = redis.call(&REMEMBER);
        describe(&mut call, submission);
        redis.run(&call).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        let redis = &self.connection;
        let call = &mut redis.call(&SUBMISSION);
        let found: Option<Value> = redis.run(call.arg(submission_id)).await?;
        found.map(parse_row).transpose()
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        let redis = &self.connection;
        let call = &mut redis.call(&PICTURES);
        let found: Option<Value> =
            redis.run(call.arg(app_id.as_str()).arg(poi_id.as_str())).await?;
        found.map(parse_row).transpose()
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        let redis = &self.connection;
        let SubmissionQuery { after, limit, accounts, kinds, states, until, client_reference } =
            query;
        let only_open = !states.is_empty() && states.iter().all(|&state| is_open(state));
        let mut call = redis.call(&SUBMISSIONS);
        call.arg(after).arg(limit);
        call.arg(accounts.set());
        call.arg(others::<SubmissionKind>(&kinds)).arg(others::<AuditState>(&states));
        call.arg(until.unwrap_or(u64::MAX));
        call.arg(client_reference.unwrap_or_default());
        call.arg(u8::from(only_open)).arg(PAGE_BYTES);
        let (seen, at_end, found): (u64, bool, Vec<Value>) = redis.run(&call).await?;
        let count = found.len();
        let submissions: Vec<_> = found.into_iter().filter_map(readable).collect();
        let unreadable = (count - submissions.len()) as u64;
        Ok(SubmissionPage { submissions, unreadable, seen, at_end })
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        let redis = &self.connection;
        let (mut taken, mut skipped) = (Vec::new(), 0);
        loop {
            let wanted = (limit - taken.len()).min(MOST);
            let call = &mut redis.call(&TAKE_DUE);
            let found: Vec<Value> = redis.run(call.arg(millis(again)).arg(wanted)).await?;
            let (count, before) = (found.len(), taken.len());
            taken.extend(found.into_iter().filter_map(readable));
            skipped += before + count - taken.len();
            if count < wanted || taken.len() == limit || skipped > MOST_DAMAGED {
                return Ok(taken);
            }
        }
    }
}

/// Returns the known values that are not wanted, in the form of a script's set. A damaged value is not
/// among them.
fn others<T: PartialEq + TryFrom<i32> + Into<i32>>(wanted: &[T]) -> String {
    let known = (0..=i32::from(u8::MAX)).filter_map(|number| T::try_from(number).ok());
    let other = |value: &T| !wanted.is_empty() && !wanted.contains(value);
    set(known.filter(other).map(Into::into))
}

/// Returns the submission in a row, unless the row is damaged.
fn readable(row: Value) -> Option<Submission> {
    parse_row(row).inspect_err(|error| log_skipped("a submission", &error.to_string())).ok()
}

/// Adds the fields of a submission to a call, each after its name.
pub(super) fn describe(call: &mut Call, submission: NewSubmission) {
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
    call.arg("submission_id").arg(submission_id);
    call.arg("app_id").arg(app_id.as_str());
    call.arg("kind").arg(kind as i32);
    call.arg("audit_id").arg(audit_id.as_str());
    call.arg("poi_id").arg(poi_id.as_str());
    call.arg("client_reference").arg(client_reference);
    call.arg("state").arg(state as i32);
    call.arg("open").arg(u8::from(is_open(state)));
    call.arg("ask_after").arg(ask_after.map_or(String::new(), |after| millis(after).to_string()));
    call.arg("message").arg(sum::with_checksum(&message, &[]));
}

fn parse_row(row: Value) -> Result<Submission, Error> {
    let row: SubmissionRow = from_redis_value(row).map_err(|_| unknown("form"))?;
    let (
        number,
        stored,
        created,
        audit_id,
        state,
        reason,
        poi_id,
        map_poi_id,
        event_id,
        decided,
        ..,
    ) = row;
    let stored = stored.ok_or_else(|| unknown("message"))?;
    // Lists filter by it.
    SubmissionKind::try_from(row.11).map_err(|_| unknown("kind"))?;
    Ok(Submission {
        number,
        message: Bytes::copy_from_slice(sum::without_checksum(&stored, &[])?),
        created,
        audit_id: audit_id.into(),
        state: AuditState::try_from(state).map_err(|_| unknown("state"))?,
        reason,
        poi_id: poi_id.into(),
        map_poi_id: map_poi_id.into(),
        event_id,
        decided,
    })
}

fn unknown(what: &str) -> Error {
    Error::Unreadable(format!("a submission has no known {what}"))
}
