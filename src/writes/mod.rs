//! How a write runs: claim it in the journal, send it, record how it ended.
//!
//! A write runs in a task of its own, so one that was sent is followed to its end even if its caller
//! leaves. [`journal`](crate::journal) recognizes repeats, [`call`](crate::call) sends it, and
//! [`recovery`](crate::recovery) finds out what happened if its reply is lost.
//!
//! There are three kinds of writes, and a function for each. All claim, send and end alike:
//!
//! - [`Writes::write`]: the reply is the result, such as a deletion. The write is recorded as it is.
//! - [`Writes::submit`]: WeChat accepts data and reviews it later. The write waits in its write queue, and
//!   is recorded as a submission to which the event of the review is linked.
//! - [`Writes::update_store`]: the caller sends a part of a store. The store is read first, and the whole
//!   is sent.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accounts::Account,
    call::{self, Calls, Sending},
    context::Context,
    journal::{
        self, Claimed, ExpectedEffect, Journal, LateOutcome, SubmissionRecord, WriteRecord, replay,
    },
    pb::Recovered,
    recovery::{Decision, Recovery},
    state,
    translate::WriteCall,
    util::clock::Clock,
    validate::Invalid,
    wechat::{Endpoint, Safety},
};

mod store;
mod submission;

/// Runs writes. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Writes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls: Calls,
    journal: Journal,
    recovery: Recovery,
    tasks: TaskTracker,
    pictures: store::Pictures,
}

/// Why a write has no response.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The call to WeChat failed.
    #[error(transparent)]
    Call(#[from] call::Error),
    /// The request is wrong in a way that only WeChat's data shows.
    #[error("invalid request")]
    Invalid(Invalid),
    /// The journal has another write with this `request_id`, or failed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The write was sent, and its outcome is unknown.
    #[error("the outcome of write {write_id} is not known")]
    OutcomeUnknown {
        /// The endpoint.
        path: &'static str,
        /// The write.
        write_id: String,
        /// The error, if it occurred just now.
        cause: Option<Box<call::Error>>,
        /// The time after which a repeat may have the response.
        retry: Option<Duration>,
    },
    /// The client's gRPC library sent the write again, and there is no `request_id` by which the journal
    /// would have recognized it.
    #[error("the client repeated a write without a request_id")]
    RepeatedByClient {
        /// The endpoint.
        path: &'static str,
    },
}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Self {
        Self::Call(error.into())
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

/// A write that must be sent, or the response of an earlier call.
enum Begun<R> {
    Answered(R),
    New(Sending),
}

/// WeChat's answer to a write: the response, and the submission if WeChat reviews it.
type Answer<R> = (R, Option<SubmissionRecord>);

impl Writes {
    /// Runs writes through `calls`. `tasks` must be that of `journal`.
    pub(crate) fn new(
        calls: Calls,
        journal: Journal,
        recovery: Recovery,
        tasks: TaskTracker,
    ) -> Self {
        let pictures = store::Pictures::default();
        Self(Arc::new(Inner { calls, journal, recovery, tasks, pictures }))
    }

    /// Runs a call whose reply is its result, and stores its response for repeats. A call that WeChat
    /// reviews is run by [`Writes::submit`].
    ///
    /// If the caller leaves before the call is sent, it is not sent. A call that was sent runs to its
    /// end.
    pub(crate) async fn write<E: WriteCall, R: Recovered + 'static>(
        &self,
        ctx: &Context,
        call: E,
        answer: impl FnOnce(E::Reply) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let account = self.0.calls.account::<E>(ctx).await?;
        self.detached(ctx, |writes, ctx, left| async move {
            let record = |_: &str| call.record();
            let mut sending = match writes.begin::<E, R>(&account, &ctx, left, Some(record)).await?
            {
                Begun::Answered(response) => return Ok(response),
                Begun::New(sending) => sending,
            };
            sending.set_record(record);
            let reply = writes.0.calls.attempts(&account, &ctx, &call, Some(&mut sending)).await;
            let answered = reply.map(|reply| (answer(reply), None)).map_err(Error::from);
            writes.end::<E, R>(&ctx, sending, answered).await
        })
        .await
    }

    /// Runs `work` in a task of its own. Its token is canceled when the caller has left.
    async fn detached<T, F>(
        &self,
        ctx: &Context,
        work: impl FnOnce(Self, Context, CancellationToken) -> F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let left = CancellationToken::new();
        let _canceled_when_the_caller_leaves = left.clone().drop_guard();
        let (writes, ctx) = (self.clone(), ctx.clone());
        // Boxed because it has kilobytes, which would be copied on their way into the task.
        let work = Box::pin(work(self.clone(), ctx.clone(), left.clone()));
        let run = async move {
            let result = work.await;
            if left.is_cancelled() {
                writes.0.journal.log_late(&ctx, outcome(&result)).await;
            }
            result
        };
        match self.0.tasks.spawn(run).await {
            Ok(result) => result,
            // A panic is not reported as a stop: that error promises that nothing was executed.
            Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
            // The runtime ends.
            Err(_) => Err(call::Error::Stopped.into()),
        }
    }

    /// Claims a write in the journal, or returns the response of an earlier call. If the outcome of that
    /// one is unknown, finds it out first.
    ///
    /// `record` describes the write of that id, if that is possible before it runs. If there is nothing
    /// to wait for, the write is then claimed and recorded as sent in one step. This does not happen if
    /// nothing but an event or an operator shows the outcome: the process may exit, or the call may fail, before the first
    /// byte leaves, and the outcome of a write that was never sent would stay unknown.
    async fn begin<E: Endpoint, R: Recovered>(
        &self,
        account: &Account,
        ctx: &Context,
        left: CancellationToken,
        record: Option<impl FnOnce(&str) -> WriteRecord>,
    ) -> Result<Begun<R>, Error> {
        let Inner { calls, journal, recovery, .. } = &*self.0;
        if ctx.request_id.is_none() {
            // It can be sent twice, has no request_id to repeat it by, and is not reviewed.
            if !matches!(E::SAFETY, Safety::Once(_)) {
                return Ok(Begun::New(Sending::new(left, None)));
            }
            // The journal would not recognize a repeat.
            ctx.progress.forbid_repeat();
            if ctx.repeated_by_client {
                ctx.progress.repeat_unknown();
                return Err(Error::RepeatedByClient { path: E::PATH });
            }
        }
        let mut write = Journal::new_write(&account.app_id, ctx);
        if let Some(record) = record.filter(|_| calls.is_ready::<E>(account)) {
            let record = record(&write.write_id);
            let effect = record.expected_effect.as_ref();
            if record.repeatable || effect.is_some_and(ExpectedEffect::allows_repeat) {
                write.sent = Some(Journal::sent(&record, E::REPLY_LIMIT));
            }
        }
        loop {
            let claimed = journal.claim(&write, ctx, &left).await;
            ctx.progress.note(|names| names.write_id = write_id(&claimed).to_owned());
            match claimed? {
                Claimed::New(claim) => return Ok(Begun::New(Sending::new(left, Some(claim)))),
                Claimed::Finished { write_id: _, reply: Some(reply) } => {
                    return Ok(Begun::Answered(replay(&reply)?));
                }
                Claimed::Finished { write_id, reply: None } => {
                    let (path, cause, retry) = (E::PATH, None, None);
                    ctx.progress.repeat_unknown();
                    return Err(Error::OutcomeUnknown { path, write_id, cause, retry });
                }
                Claimed::Unknown(unknown) => {
                    // Boxed because this future is large and this branch is rare.
                    match Box::pin(recovery.decide(ctx, &unknown, &left)).await? {
                        Decision::Known => {}
                        Decision::Unknown { retry } => {
                            let (path, write_id, cause) = (E::PATH, unknown.write_id, None);
                            ctx.progress.repeat_unknown();
                            return Err(Error::OutcomeUnknown { path, write_id, cause, retry });
                        }
                    }
                }
            }
        }
    }

    /// Records how a write ended, and returns its response. If the outcome is unknown, asks WeChat at
    /// once.
    async fn end<E: Endpoint, R: Recovered>(
        &self,
        ctx: &Context,
        sending: Sending,
        answered: Result<Answer<R>, Error>,
    ) -> Result<R, Error> {
        let Some(claim) = sending.into_claim() else { return Ok(answered?.0) };
        match answered {
            Ok((response, submission)) => {
                claim.finish(&response.encode_to_vec(), submission.as_ref()).await;
                Ok(response)
            }
            Err(Error::Call(error)) if error.leaves_doubt() => {
                let write_id = claim.leave_unknown().await;
                // Boxed because this future is large and this branch is rare.
                let found = Box::pin(self.0.recovery.find_response(ctx, &write_id)).await;
                found.map_err(|retry| {
                    let (path, cause) = (E::PATH, Some(Box::new(error)));
                    let retry = retry.filter(|_| ctx.request_id.is_some());
                    Error::OutcomeUnknown { path, write_id, cause, retry }
                })
            }
            Err(error) => {
                claim.release().await;
                Err(error)
            }
        }
    }

    /// Returns how many writes are running.
    pub(crate) fn running(&self) -> usize {
        self.0.tasks.len()
    }

    /// Waits until the running writes have ended.
    pub(crate) async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Returns the time source.
    pub(crate) fn clock(&self) -> &Clock {
        self.0.calls.clock()
    }
}

/// Returns the id of a write that a claim named. Empty if it named none.
fn write_id(claimed: &Result<Claimed, journal::Error>) -> &str {
    match claimed {
        Ok(Claimed::New(claim)) => claim.write_id(),
        Ok(Claimed::Finished { write_id, .. }) => write_id,
        Ok(Claimed::Unknown(write)) => &write.write_id,
        Err(journal::Error::WriteInProgress { write_id, .. }) => write_id,
        Err(journal::Error::RequestIdReused | journal::Error::State(_)) => "",
    }
}

/// Returns how a write ended.
fn outcome<T>(result: &Result<T, Error>) -> LateOutcome {
    match result {
        Ok(_) => LateOutcome::Executed,
        Err(Error::OutcomeUnknown { .. } | Error::RepeatedByClient { .. }) => LateOutcome::Unknown,
        Err(_) => LateOutcome::NotExecuted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::{Registry, Services},
        config::{Limits, WeChat},
        wechat::Client,
    };

    #[tokio::test]
    async fn write_panic_is_not_reported_as_stop() {
        let clock = Clock::frozen();
        let client = Client::new(&WeChat::default(), &clock, crate::metrics::Metrics::default())
            .expect("a client");
        let (_folder, state) = state::temporary(&clock);
        let services =
            Services { client: client.clone(), state: state.clone(), clock: clock.clone() };
        let registry = Registry::new(&[], &[], &Limits::default(), services);
        let calls = Calls::new(registry, client, state.clone(), clock.clone());
        let tasks = TaskTracker::new();
        let journal = Journal::new(state.clone(), None, clock, tasks.clone(), Default::default());
        let recovery = Recovery::new(calls.clone(), journal.clone(), state);
        let writes = Writes::new(calls, journal, recovery, tasks);
        let ctx = Context::internal(writes.clock().now());
        let write = tokio::spawn(async move {
            writes.detached(&ctx, |_, _, _| async { panic!("on purpose") }).await
        });
        let result: Result<Result<(), Error>, _> = write.await;
        assert!(result.expect_err("a panic").is_panic());
    }
}
