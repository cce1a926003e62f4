//! Writes under a name: a repeat gets the answer of the first.
//!
//! Before its first byte leaves, a write is noted as sent; a process that dies then leaves one whose
//! outcome is open, never one that nobody knows of. See `WriteService` in `proto/`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Error, Operations,
    serial_queue::{Hold, Lane},
    settle::Outlook,
};
use crate::{
    accounts::Account,
    context::Context,
    pb::Recovered,
    state::{self, Begun, NewWrite, Outcome, Sent, State, Write, WriteState},
    translate::{
        Evidence, Remembered, Sought, damaged,
        write::{kept, known},
    },
    util::clock::Clock,
    util::id::AppId,
    wechat::{Endpoint, Safety},
};

/// Beyond the deadline: nothing is sent after it, but the claim has to be given back.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);
/// Beyond WeChat's time to answer, until the outcome counts as lost.
const SEND_MARGIN: Duration = Duration::from_secs(5);
/// What is noted as sent with its claim leaves within this, or is noted anew.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody else has ended the write.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Whoever waits for an answer waits no longer for the end to be noted.
const PATIENCE: Duration = Duration::from_secs(1);
/// Whoever lost a lane gets it again within this.
const LANE_LOST: Duration = Duration::from_secs(1);
/// The fence of a new claim.
const FIRST: u64 = 1;
/// After a failure of the state.
const PAUSE: Duration = Duration::from_secs(1);
/// Where WeChat could not be asked what it shows, it can be asked again then.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What a write needs on its way: who still waits for it, and how it is noted.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    /// Set when the caller has left.
    pub(super) left: CancellationToken,
    claim: Option<Claim>,
    /// What is looked for if its reply is lost, encoded.
    sought: Bytes,
    /// Until when the next attempt may be sent without being noted, for its claim was noted as sent.
    noted: Option<Instant>,
    /// The lane that it is sent in.
    lane: Option<Arc<Hold>>,
}

/// A write that this process runs.
#[derive(Clone, Debug)]
struct Claim {
    state: Arc<dyn State>,
    write_id: String,
    fence: u64,
}

impl Sending {
    /// The same for a call that leaves this behind, unless that is known already.
    pub(super) fn seeking(self, sought: impl FnOnce() -> Sought) -> Self {
        match self.claim {
            Some(_) if self.sought.is_empty() => {
                Self { sought: sought().encode_to_vec().into(), ..self }
            }
            _ => self,
        }
    }

    /// The same for a call that is sent only while this lane is held.
    pub(super) fn within(self, lane: Option<&Lane>) -> Self {
        Self { lane: lane.map(Lane::hold), ..self }
    }

    /// Names the write. Empty if it is not noted.
    pub(super) fn write_id(&self) -> &str {
        self.claim.as_ref().map_or("", |claim| &claim.write_id)
    }

    /// Notes that the call is about to be sent. Fails if it must not be.
    pub(super) async fn begin<E: Endpoint>(&mut self, clock: &Clock) -> Result<(), Error> {
        if let Some(lane) = &self.lane
            && !lane.send(E::REPLY_LIMIT).await?
        {
            // This process was frozen, and another one may have its turn.
            return Err(Error::LaneBusy { path: E::PATH, wait: LANE_LOST });
        }
        let Some(Claim { state, write_id, fence }) = &self.claim else { return Ok(()) };
        if self.noted.take().is_some_and(|until| clock.now() < until) {
            return Ok(());
        }
        let by = E::REPLY_LIMIT + SEND_MARGIN;
        match state.sent(write_id, *fence, by, self.sought.clone()).await? {
            true => Ok(()),
            // It took too long: somebody else may have begun meanwhile.
            false => Err(Error::Deadline),
        }
    }
}

impl Operations {
    /// Runs a write in a task of its own, under its name. `run` is what it does; what that answers is
    /// what every repeat gets. WeChat took what is to be remembered, so that this does not fail: where
    /// the state does, it is tried again, beside the answer, until it works or the process ends.
    ///
    /// `sought` is what a write of that id leaves behind, where that is known before it runs. Then it is
    /// claimed and noted as sent in one step if nothing has to be waited for; but not where only an
    /// event tells the outcome, for a process may die, or fail, between that and the first byte: what
    /// was not sent would have an outcome that nobody knows.
    pub(super) async fn journaled<E, R, F>(
        &self,
        ctx: &Context,
        sought: Option<impl FnOnce(&Context, &AppId, &str) -> Sought + Send + 'static>,
        run: impl FnOnce(Self, Arc<Account>, Context, Sending) -> F + Send + 'static,
    ) -> Result<R, Error>
    where
        E: Endpoint,
        R: Recovered + 'static,
        F: Future<Output = Result<(R, Option<Remembered>), Error>> + Send + 'static,
    {
        let account = self.account::<E>(ctx)?.clone();
        self.detached(ctx, |ops, ctx, left| async move {
            // Twice is the same as once, nobody asks for it again, and nothing is reviewed.
            if ctx.request_id.is_none() && !matches!(E::SAFETY, Safety::Once(_)) {
                let sending =
                    Sending { left, claim: None, sought: Bytes::new(), noted: None, lane: None };
                return Ok(run(ops, account, ctx, sending).await?.0);
            }
            // By time, so that the newest stand together in an index.
            let write_id = Uuid::now_v7().to_string();
            let sought = sought.filter(|_| ops.is_ready::<E>(&account));
            let sought = sought.map(|sought| sought(&ctx, &account.app_id, &write_id));
            let shown = |sought: &Sought| sought.evidence.as_ref().is_none_or(Evidence::repeats);
            let sought = sought.filter(shown).map(|sought| Bytes::from(sought.encode_to_vec()));
            let until = ops.clock().now() + AT_ONCE;
            let begun = ops.claim::<E>(&account, &ctx, &left, write_id, sought.clone()).await?;
            let (claim, noted) = match begun {
                Begun::Claimed { write_id, fence, sent } => {
                    (Claim { state: ops.0.state.clone(), write_id, fence }, sent.then_some(until))
                }
                Begun::Known(Write { reply: Some(reply), .. }) => return Ok(read(&reply)?),
                Begun::Known(Write { write_id, .. }) => {
                    let (path, cause, retry) = (E::PATH, None, None);
                    return Err(Error::OutcomeUnknown { path, write_id, cause, retry });
                }
                Begun::Other => return Err(Error::RequestIdReused),
            };
            // Another claim's id may stand in what was not noted.
            let sought = sought.filter(|_| noted.is_some()).unwrap_or_default();
            let sending = Sending { left, claim: Some(claim.clone()), sought, noted, lane: None };
            let result = run(ops.clone(), account, ctx.clone(), sending).await;
            let outcome = match &result {
                Ok((response, remembered)) => Outcome::Finished {
                    reply: kept(&response.encode_to_vec()),
                    submission: remembered
                        .as_ref()
                        .map(|remembered| Box::new(remembered.to_state(ops.0.ask_after))),
                },
                Err(error) if error.leaves_doubt() => Outcome::Unknown,
                Err(_) => Outcome::Released,
            };
            let in_doubt = outcome == Outcome::Unknown;
            let write_id = claim.write_id.clone();
            let mut ending = Box::pin(ops.clone().ended(claim, outcome));
            if tokio::time::timeout(PATIENCE, &mut ending).await.is_err() {
                // The caller gets what WeChat answered.
                ops.0.writes.spawn(ending);
            }
            match result {
                Err(error) if in_doubt => {
                    // Seldom, and large.
                    let found = Box::pin(ops.found(&ctx, &write_id)).await;
                    found.map_err(|retry| {
                        let (path, cause) = (E::PATH, Some(Box::new(error)));
                        let retry = retry.filter(|_| ctx.request_id.is_some());
                        Error::OutcomeUnknown { path, write_id, cause, retry }
                    })
                }
                result => result.map(|(response, _)| response),
            }
        })
        .await
    }

    /// The response to a write whose reply was just lost, if WeChat shows at once that it got
    /// through. Otherwise when a repeat may tell more.
    async fn found<R: Recovered>(
        &self,
        ctx: &Context,
        write_id: &str,
    ) -> Result<R, Option<Duration>> {
        let look = async {
            let Some(write) = self.0.state.write(write_id).await? else { return Ok(Err(None)) };
            if write.state == WriteState::Unknown {
                self.settle(ctx, &write, self.clock().now()).await?;
            }
            let settled = self.0.state.write(write_id).await?;
            Ok::<_, Error>(match settled.and_then(|write| write.reply) {
                Some(reply) => Ok(read(&reply)?),
                None => Err(Some(write.rest).filter(|rest| !rest.is_zero())),
            })
        };
        let too_late = self.clock().now() + ctx.patience(self.clock());
        tokio::select! {
            biased;
            found = look => found.unwrap_or(Err(Some(ASK_AGAIN))),
            () = self.clock().sleep_until(too_late) => Err(Some(ASK_AGAIN)),
        }
    }

    /// Whether a call could be sent at once, as far as can be seen.
    fn is_ready<E: Endpoint>(&self, account: &Account) -> bool {
        E::PACE.is_none()
            && account.tokens.is_current()
            && account.concurrency.has_free()
            && account.quotas.check(E::PATH, self.clock().unix()).is_ok()
    }

    /// Claims a write, or waits for what somebody else makes of it; where nobody knows, it is looked
    /// what WeChat shows. With what is `sought` it is noted as sent, too, if it is new.
    async fn claim<E: Endpoint>(
        &self,
        account: &Account,
        ctx: &Context,
        left: &CancellationToken,
        write_id: String,
        sought: Option<Bytes>,
    ) -> Result<Begun, Error> {
        let (state, path) = (&self.0.state, E::PATH);
        let write = || NewWrite {
            write_id: write_id.clone(),
            app_id: account.app_id.clone(),
            method: ctx.method.to_owned(),
            request_id: ctx.request_id.map(|id| id.to_string()),
            fingerprint: ctx.fingerprint,
            client_reference: ctx.client_reference.clone(),
            sent: sought.clone().map(|sought| Sent { by: E::REPLY_LIMIT + SEND_MARGIN, sought }),
        };
        loop {
            let term = ctx.time_left(self.clock()) + CLAIM_MARGIN;
            let begun = state.begin(write(), term).await;
            if begun.is_err() && sought.is_some() {
                // It may be noted nevertheless; where this fails, too, it is looked what became of it.
                let (state, write_id) = (state.clone(), write_id.clone());
                let release = async move { state.ended(&write_id, FIRST, Outcome::Released).await };
                self.0.writes.spawn(release);
            }
            let begun = begun?;
            let Begun::Known(known) = &begun else { return Ok(begun) };
            match known.state {
                WriteState::Finished => return Ok(begun),
                // Seldom, and large.
                WriteState::Unknown => match Box::pin(self.settled(ctx, known, left)).await? {
                    Ok(()) => continue,
                    Err(retry) => {
                        let (write_id, cause) = (known.write_id.clone(), None);
                        return Err(Error::OutcomeUnknown { path, write_id, cause, retry });
                    }
                },
                WriteState::Claimed | WriteState::Sent => {}
            }
            let write_id = known.write_id.clone();
            let mut rest = known.rest;
            while is_running(state.write(&write_id).await?, &mut rest) {
                if ctx.patience(self.clock()).is_zero() || left.is_cancelled() {
                    return Err(Error::WriteInProgress { write_id, rest });
                }
                self.clock().sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Looks what became of a write that is repeated, until the journal knows, or it cannot be known
    /// in time; then says when a repeat may tell more.
    async fn settled(
        &self,
        ctx: &Context,
        write: &Write,
        left: &CancellationToken,
    ) -> Result<Result<(), Option<Duration>>, Error> {
        let clock = self.clock();
        loop {
            let Some(write) = self.0.state.write(&write.write_id).await? else {
                return Ok(Ok(()));
            };
            if write.state != WriteState::Unknown {
                return Ok(Ok(()));
            }
            let look = self.settle(ctx, &write, clock.now());
            let look = tokio::select! {
                biased;
                () = left.cancelled() => return Err(Error::Deadline),
                look = look => look,
                () = clock.sleep(ctx.patience(clock)) => return Ok(Err(Some(ASK_AGAIN))),
            };
            match look {
                Ok(Outlook::Executed) => return Ok(Ok(())),
                Ok(Outlook::NotExecuted) => {
                    self.0.state.resolve(&write.write_id, Outcome::Released).await?;
                    return Ok(Ok(()));
                }
                Ok(Outlook::Unknown) => {}
                Err(error) => {
                    let write_id = write.write_id;
                    tracing::warn!(write_id, "failed to query WeChat about a write: {error}");
                    return Ok(Err(Some(ASK_AGAIN)));
                }
            }
            if write.rest.is_zero() {
                return Ok(Err(None));
            }
            if write.rest >= ctx.patience(clock) {
                return Ok(Err(Some(write.rest)));
            }
            // Only then is it of use that WeChat shows nothing.
            left.run_until_cancelled(clock.sleep(write.rest)).await.ok_or(Error::Deadline)?;
        }
    }

    /// Notes how a write ended, however long that takes.
    async fn ended(self, Claim { state, write_id, fence }: Claim, outcome: Outcome) {
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
            self.clock().sleep(PAUSE).await;
        }
    }
}

fn read<R: Recovered>(reply: &[u8]) -> Result<R, state::Error> {
    match known(reply) {
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
