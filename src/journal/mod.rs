//! The journal of writes: a repeat gets the response of the first call.
//!
//! [`Journal::claim`] gives a write to one caller. Before the first byte leaves, [`Claim::note_sent`]
//! records that the write is sent. A process that exits then leaves a write with an unknown outcome, and
//! never one that the journal has not seen. [`Claim::finish`] records how the write ended. See
//! `WriteService` in `proto/`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub(crate) use self::record::{
    CONFIRM_WITHIN, ExpectedEffect, MapPoi, MerchantAudit, NearbyPoiFingerprint, Review,
    StoreFingerprint, SubmissionRecord, WriteName, WriteRecord,
};
use self::record::{damaged, known_response, stored_response};
use crate::{
    activity::{ActivityLog, Entry},
    context::Context,
    pb::{self, Recovered},
    state::{self, Begun, NewWrite, Outcome, Sent, State, Write, WriteQuery, WriteState},
    util::clock::Clock,
    util::id::{AppId, PoiId},
};

pub(crate) mod record;

/// A claim lasts this much longer than its caller's deadline: nothing is sent after the deadline, but
/// the claim must be released.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);
/// How long after WeChat's time to answer the outcome counts as unknown.
const SEND_MARGIN: Duration = Duration::from_secs(5);
/// A write that was recorded as sent with its claim leaves within this time, or is recorded again.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How often a waiting repeat checks whether the other caller has ended the write.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// A caller waits this long at most for the end of its write to be recorded.
const FINISH_LIMIT: Duration = Duration::from_secs(1);
/// The fence of a new claim.
const FIRST: u64 = 1;
/// Pause after a failure of the state.
const PAUSE: Duration = Duration::from_secs(1);
/// How many writes are read from the state at once.
const PAGE: usize = 1000;

/// The journal. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    state: Arc<dyn State>,
    clock: Clock,
    /// Runs what must end although its caller has left.
    tasks: TaskTracker,
    /// After this time WeChat is polled about a review.
    poll_after: Option<Duration>,
    activity: ActivityLog,
}

/// How a write ended, if that was found out after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LateOutcome {
    /// It was executed.
    Executed,
    /// It was not executed.
    NotExecuted,
    /// It is not known yet. Recovery finds it out.
    Unknown,
}

impl LateOutcome {
    /// Returns the word for it in the activity log.
    const fn name(self) -> &'static str {
        match self {
            Self::Executed => "EXECUTED",
            Self::NotExecuted => "NOT_EXECUTED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Why a write was not claimed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another request has this `request_id`.
    #[error("the request_id names another request")]
    RequestIdReused,
    /// The state failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The write with this `request_id` is still running.
    #[error("write {write_id} is still running")]
    WriteInProgress {
        /// The write.
        write_id: String,
        /// The time after which it has ended.
        rest: Duration,
    },
}

/// The result of an attempt to claim a write.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The caller must run the write.
    New(Claim),
    /// The write was executed before.
    Finished {
        /// Its id.
        write_id: String,
        /// The response, for [`replay`].
        reply: Option<Bytes>,
    },
    /// The write was sent before, and its outcome is unknown.
    Unknown(Write),
}

/// A write that this process runs, until [`Claim::finish`].
///
/// A claim that is dropped is safe: the state ends it when its time is over. The write then counts as
/// never sent, or has an unknown outcome if it was recorded as sent.
#[derive(Debug)]
#[must_use = "a write that does not finish has an unknown outcome"]
pub(crate) struct Claim {
    journal: Journal,
    write_id: String,
    fence: u64,
    /// The encoded record that the state stores when the write is sent. Empty if it is not known yet.
    record: Bytes,
    /// Until then the next attempt needs no record, because the claim was recorded as sent.
    recorded_until: Option<Instant>,
}

impl Journal {
    /// Returns the journal in `state`. `tasks` runs what must end although its caller has left.
    pub(crate) fn new(
        state: Arc<dyn State>,
        poll_after: Option<Duration>,
        clock: Clock,
        tasks: TaskTracker,
        activity: ActivityLog,
    ) -> Self {
        Self { state, clock, tasks, poll_after, activity }
    }

    /// Writes into the activity log how a write ended whose caller had left.
    pub(crate) async fn log_late(&self, ctx: &Context, outcome: LateOutcome) {
        let Some(names) = ctx.progress.names() else { return };
        let entry = Entry {
            caller: ctx.caller().name().to_owned(),
            method: ctx.method.to_owned(),
            app_id: names.app_id,
            request_id: names.request_id.map(|id| id.to_string()).unwrap_or_default(),
            write_id: names.write_id,
            outcome: outcome.name(),
            trace_id: ctx.trace.id.to_string(),
            ..Entry::at(self.clock.wall())
        };
        self.activity.write(entry).await;
    }

    /// Writes into the activity log how a write ended whose outcome was unknown.
    async fn log_closed(&self, closed: Option<&Write>, outcome: LateOutcome) {
        let Some(write) = closed else { return };
        let Write { caller, app_id, method, request_id, write_id, .. } = write.clone();
        let (app_id, outcome) = (app_id.into(), outcome.name());
        let now = Entry::at(self.clock.wall());
        let entry = Entry { caller, method, app_id, request_id, write_id, outcome, ..now };
        self.activity.write(entry).await;
    }

    /// Describes a write of the caller that has `ctx`, with a new id.
    pub(crate) fn new_write(app_id: &AppId, ctx: &Context) -> NewWrite {
        NewWrite {
            // Ids begin with the time, so the newest are neighbors in an index.
            write_id: Uuid::now_v7().to_string(),
            caller: ctx.caller().name().to_owned(),
            app_id: app_id.clone(),
            method: ctx.method.to_owned(),
            request_id: ctx.request_id.map(|id| id.to_string()),
            fingerprint: ctx.fingerprint,
            client_reference: ctx.client_reference.clone(),
            sent: None,
        }
    }

    /// Returns what the state records of a write that is sent now.
    pub(crate) fn sent(record: &WriteRecord, reply_limit: Duration) -> Sent {
        Sent { by: reply_limit + SEND_MARGIN, record: record.encode_to_vec().into() }
    }

    /// Claims a write. If another caller runs it, waits for the end of it.
    ///
    /// Fails if `ctx` leaves no time to wait, or when `left` is canceled.
    pub(crate) async fn claim(
        &self,
        write: &NewWrite,
        ctx: &Context,
        left: &CancellationToken,
    ) -> Result<Claimed, Error> {
        loop {
            let at_once = self.clock.now() + AT_ONCE;
            let known = match self.begin(write, ctx).await? {
                Begun::Claimed { write_id, fence, sent } => {
                    // Without `sent` the claim may have the id of an earlier one, and a record names
                    // its write.
                    let record = write.sent.as_ref().filter(|_| sent);
                    return Ok(Claimed::New(Claim {
                        journal: self.clone(),
                        write_id,
                        fence,
                        record: record.map(|sent| sent.record.clone()).unwrap_or_default(),
                        recorded_until: sent.then_some(at_once),
                    }));
                }
                Begun::Other => return Err(Error::RequestIdReused),
                Begun::Known(known) => known,
            };
            match known.state {
                WriteState::Finished => {
                    let Write { write_id, reply, .. } = known;
                    return Ok(Claimed::Finished { write_id, reply });
                }
                WriteState::Unknown => return Ok(Claimed::Unknown(known)),
                WriteState::Claimed | WriteState::Sent => {}
            }
            let Write { write_id, mut rest, .. } = known;
            while is_running(self.state.write(&write_id).await?, &mut rest) {
                if ctx.wait_limit(&self.clock).is_zero() || left.is_cancelled() {
                    return Err(Error::WriteInProgress { write_id, rest });
                }
                self.clock.sleep(CHECK_EVERY).await;
            }
        }
    }

    async fn begin(&self, write: &NewWrite, ctx: &Context) -> Result<Begun, state::Error> {
        let term = ctx.time_left(&self.clock) + CLAIM_MARGIN;
        let begun = self.state.begin(write.clone(), term).await;
        if begun.is_err() && write.sent.is_some() {
            // The state may have recorded it nevertheless. If this fails, too, recovery finds out.
            let (state, write_id) = (self.state.clone(), write.write_id.clone());
            let release = async move { state.ended(&write_id, FIRST, Outcome::Released).await };
            self.tasks.spawn(release);
        }
        begun
    }

    /// Returns a write by its id.
    pub(crate) async fn write(&self, write_id: &str) -> Result<Option<Write>, state::Error> {
        self.state.write(write_id).await
    }

    /// Returns the newest submission of pictures for a store.
    pub(crate) async fn pictures(
        &self,
        app_id: &AppId,
        poi_id: &PoiId,
    ) -> Result<Option<state::Submission>, state::Error> {
        self.state.pictures(app_id, poi_id).await
    }

    /// Returns the writes with an unknown outcome.
    pub(crate) async fn unknown(&self) -> Result<Vec<Write>, state::Error> {
        let states = vec![WriteState::Unknown];
        let mut query = WriteQuery { limit: PAGE, states, ..WriteQuery::default() };
        let mut all = Vec::new();
        loop {
            let page = self.state.writes(query.clone()).await?;
            all.extend(page.writes);
            if page.at_end {
                return Ok(all);
            }
            query.after = page.seen;
        }
    }

    /// Records that a write with an unknown outcome was executed, and the submission that came of it.
    /// Returns the write as it was before, or `None` if its outcome was known already.
    pub(crate) async fn close_as_executed(
        &self,
        write: &Write,
        record: WriteRecord,
    ) -> Result<Option<Write>, state::Error> {
        if write.state != WriteState::Unknown {
            return Ok(None);
        }
        let submission = record.submission.clone().map(pb::Submission::from);
        let response =
            pb::recovered(&write.method, &record.response, submission).map_err(damaged)?;
        // Another version may have had this method.
        let reply = response.map(|response| stored_response(&response)).unwrap_or_default();
        let submission = record.submission_record();
        let submission = submission.map(|record| Box::new(record.to_state(self.poll_after)));
        // In one step, because another replica may recover the write at the same time.
        let outcome = Outcome::Finished { reply, submission };
        let closed = self.state.resolve(&write.write_id, outcome).await?;
        self.log_closed(closed.as_ref(), LateOutcome::Executed).await;
        Ok(closed)
    }

    /// Records that a write with an unknown outcome was not executed, so that a repeat is sent. Returns
    /// the write as it was before, or `None` if its outcome was known already.
    pub(crate) async fn close_as_not_executed(
        &self,
        write_id: &str,
    ) -> Result<Option<Write>, state::Error> {
        let closed = self.state.resolve(write_id, Outcome::Released).await?;
        self.log_closed(closed.as_ref(), LateOutcome::NotExecuted).await;
        Ok(closed)
    }
}

impl Claim {
    /// Returns the id of the write.
    pub(crate) fn write_id(&self) -> &str {
        &self.write_id
    }

    /// Sets what [`Claim::note_sent`] records, unless it is recorded already.
    pub(crate) fn set_record(&mut self, record: impl FnOnce(&str) -> WriteRecord) {
        if self.record.is_empty() {
            self.record = record(&self.write_id).encode_to_vec().into();
        }
    }

    /// Records that the write is about to be sent, and that its outcome is known soon after
    /// `reply_limit`. Returns false if the claim was lost: the write must not be sent then.
    pub(crate) async fn note_sent(&mut self, reply_limit: Duration) -> Result<bool, state::Error> {
        let Journal { state, clock, .. } = &self.journal;
        if self.recorded_until.take().is_some_and(|until| clock.now() < until) {
            return Ok(true);
        }
        let by = reply_limit + SEND_MARGIN;
        state.sent(&self.write_id, self.fence, by, self.record.clone()).await
    }

    /// Records that the write was executed, with its response and the submission that came of it.
    pub(crate) async fn finish(self, response: &[u8], submission: Option<&SubmissionRecord>) {
        let poll_after = self.journal.poll_after;
        let submission = submission.map(|record| Box::new(record.to_state(poll_after)));
        let reply = stored_response(response);
        self.end(Outcome::Finished { reply, submission }).await;
    }

    /// Records that the write was certainly not executed, so that a repeat is sent.
    pub(crate) async fn release(self) {
        self.end(Outcome::Released).await;
    }

    /// Records that the outcome of the write is unknown. Returns its id.
    pub(crate) async fn leave_unknown(self) -> String {
        let write_id = self.write_id.clone();
        self.end(Outcome::Unknown).await;
        write_id
    }

    /// Records how the write ended. WeChat has answered, so this does not fail: if the state does, a
    /// task of its own tries again until it works or the process exits.
    async fn end(self, outcome: Outcome) {
        let tasks = self.journal.tasks.clone();
        let mut ending = Box::pin(self.record_end(outcome));
        if tokio::time::timeout(FINISH_LIMIT, &mut ending).await.is_err() {
            // The caller gets WeChat's answer now.
            tasks.spawn(ending);
        }
    }

    async fn record_end(self, outcome: Outcome) {
        let Self { journal: Journal { state, clock, .. }, write_id, fence, .. } = self;
        while let Err(error) = state.ended(&write_id, fence, outcome.clone()).await {
            let submission = match &outcome {
                Outcome::Finished { submission, .. } => submission.as_ref(),
                Outcome::Released | Outcome::Unknown => None,
            };
            let audit_id = submission.map_or("", |submission| submission.audit_id.as_str());
            tracing::error!(
                write_id,
                audit_id,
                "failed to record the outcome of a write, trying again: {error}"
            );
            clock.sleep(PAUSE).await;
        }
    }
}

/// Returns the response that the journal stored.
pub(crate) fn replay<R: Recovered>(reply: &[u8]) -> Result<R, state::Error> {
    match known_response(reply) {
        Some(response) => R::decode(response).map_err(damaged),
        None => {
            let mut response = R::default();
            response.recover(None);
            Ok(response)
        }
    }
}

fn is_running(write: Option<Write>, rest: &mut Duration) -> bool {
    let Some(write) = write else { return false };
    *rest = write.rest;
    matches!(write.state, WriteState::Claimed | WriteState::Sent) && !write.rest.is_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal in a file, and a caller with a deadline in a minute.
    fn journal() -> (tempfile::TempDir, Journal, Context) {
        let clock = Clock::frozen();
        let (folder, state) = state::temporary(&clock);
        let mut ctx = Context::internal(clock.now() + Duration::from_secs(60));
        ctx.method = "CardService/SetStoreCard";
        ctx.request_id = Some(Uuid::from_u128(7));
        let (tasks, activity) = (TaskTracker::new(), ActivityLog::default());
        (folder, Journal::new(state, None, clock, tasks, activity), ctx)
    }

    async fn claim(journal: &Journal, ctx: &Context) -> Claimed {
        let write = Journal::new_write(&"wx1".to_owned().into(), ctx);
        journal.claim(&write, ctx, &CancellationToken::new()).await.expect("claimed")
    }

    fn new(claimed: Claimed) -> Claim {
        match claimed {
            Claimed::New(claim) => claim,
            known => panic!("{known:?}"),
        }
    }

    #[tokio::test]
    async fn unsent_dropped_claim_goes_to_next_caller() {
        let (_folder, journal, mut ctx) = journal();
        let first = new(claim(&journal, &ctx).await);
        let write_id = first.write_id().to_owned();
        drop(first);
        journal.clock.advance(Duration::from_secs(66));
        ctx.deadline = journal.clock.now() + Duration::from_secs(60);
        let second = new(claim(&journal, &ctx).await);
        assert_eq!((second.write_id(), second.fence), (&*write_id, FIRST + 1));
    }

    #[tokio::test]
    async fn claim_dropped_after_sending_leaves_an_unknown_write() {
        let (_folder, journal, mut ctx) = journal();
        let mut sent = new(claim(&journal, &ctx).await);
        let write_id = sent.write_id().to_owned();
        sent.set_record(|_| WriteRecord { repeatable: true, ..WriteRecord::default() });
        assert!(sent.note_sent(Duration::from_secs(10)).await.expect("recorded"));
        drop(sent);
        assert!(journal.unknown().await.expect("writes").is_empty(), "WeChat may still answer");
        journal.clock.advance(Duration::from_secs(16));
        ctx.deadline = journal.clock.now() + Duration::from_secs(60);
        let Claimed::Unknown(write) = claim(&journal, &ctx).await else { panic!("not unknown") };
        assert_eq!(write.write_id, write_id);
        assert!(WriteRecord::parse(&write.record).expect("readable").repeatable);
    }

    #[tokio::test]
    async fn finished_write_is_replayed_released_one_is_claimed() {
        let (_folder, journal, ctx) = journal();
        new(claim(&journal, &ctx).await).release().await;
        let claimed = new(claim(&journal, &ctx).await);
        let response = pb::UpdateStoreResponse { hours: None, ..Default::default() };
        claimed.finish(&response.encode_to_vec(), None).await;
        let Claimed::Finished { reply: Some(reply), .. } = claim(&journal, &ctx).await else {
            panic!("not finished")
        };
        assert_eq!(replay::<pb::UpdateStoreResponse>(&reply), Ok(response));
        // Only the execution is known.
        assert!(replay::<pb::UpdateStoreResponse>(b"").expect("a response").recovered);
    }
}
