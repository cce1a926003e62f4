//! Submissions: a hash each, indexed by number, by review, and by due time.

use std::{sync::LazyLock, time::Duration};

use ::redis::Script;

use super::{
    Redis,
    connection::{Call, lua, millis},
    event::set,
    failure::damaged,
};
use crate::{
    pb::{AuditState, SubmissionKind},
    state::{
        Error, NewSubmission, PAGE_BYTES, Submission, SubmissionPage, SubmissionQuery, Submissions,
        is_open,
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

/// A submission as `prelude.lua` returns it: number, message, created, audit id, state, reason, poi
/// id, map poi id, event id, decided.
type SubmissionRow = (u64, Vec<u8>, u64, String, i32, String, String, String, String, u64);

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
        let found: Option<SubmissionRow> = redis.run(call.arg(submission_id)).await?;
        found.map(parse_row).transpose()
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        let redis = &self.connection;
        let call = &mut redis.call(&PICTURES);
        let found: Option<SubmissionRow> =
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
        call.arg(set(kinds.into_iter().map(SubmissionKind::into)));
        call.arg(set(states.into_iter().map(AuditState::into)));
        call.arg(until.unwrap_or(u64::MAX));
        call.arg(client_reference.unwrap_or_default());
        call.arg(u8::from(only_open)).arg(PAGE_BYTES);
        let (seen, at_end, found): (u64, bool, Vec<SubmissionRow>) = redis.run(&call).await?;
        let submissions = found.into_iter().map(parse_row).collect::<Result<_, _>>()?;
        Ok(SubmissionPage { submissions, unreadable: 0, seen, at_end })
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        let redis = &self.connection;
        let call = &mut redis.call(&TAKE_DUE);
        let found: Vec<SubmissionRow> =
            redis.run(call.arg(millis(again)).arg(limit.min(MOST))).await?;
        found.into_iter().map(parse_row).collect()
    }
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
    call.arg("message").arg(&message[..]);
}

fn parse_row(written: SubmissionRow) -> Result<Submission, Error> {
    let (number, message, created, audit_id, state, reason, poi_id, map_poi_id, event_id, decided) =
        written;
    Ok(Submission {
        number,
        message: message.into(),
        created,
        audit_id: audit_id.into(),
        state: AuditState::try_from(state).map_err(|_| damaged("state of a review"))?,
        reason,
        poi_id: poi_id.into(),
        map_poi_id: map_poi_id.into(),
        event_id,
        decided,
    })
}
