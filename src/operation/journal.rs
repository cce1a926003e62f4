//! Writes under a name: a repeat gets the answer of the first.
//!
//! Before its first byte leaves, a write is noted as sent; a process that dies then leaves one whose
//! outcome is open, never one that nobody knows of. See `WriteService` in `proto/`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Error, Operations, settle::Outlook};
use crate::{
    account::Account,
    context::Context,
    id::AppId,
    pb::Settled,
    state::{self, Begun, NewWrite, Outcome, State, Write, WriteState},
    translate::{
        Sought,
        write::{kept, known},
    },
    wechat::{Endpoint, Safety},
};

/// Beyond the deadline: nothing is sent after it, but the claim has to be given back.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);
/// Beyond WeChat's time to answer, until the outcome counts as lost.
const SEND_MARGIN: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody else has ended the write.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Whoever waits for an answer waits no longer for the end to be noted.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a failure of the state.
const PAUSE: Duration = Duration::from_secs(1);

/// What a write needs on its way: who still waits for it, and how it is noted.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    /// Set when the caller has left.
    pub(super) left: CancellationToken,
    claim: Option<Claim>,
    /// What is looked for if its reply is lost, encoded.
    sought: Bytes,
}

/// A write that this process runs.
#[derive(Clone, Debug)]
struct Claim {
    state: Arc<dyn State>,
    write_id: String,
    fence: u64,
}

impl Sending {
    /// The same for a call that leaves this behind.
    pub(super) fn seeking(self, sought: &Sought) -> Self {
        match self.claim {
            Some(_) => Self { sought: sought.encode_to_vec().into(), ..self },
            None => self,
        }
    }

    /// Names the write. Empty if it is not noted.
    pub(super) fn write_id(&self) -> &str {
        self.claim.as_ref().map_or("", |claim| &claim.write_id)
    }

    /// Notes that the call is about to be sent. Fails if it must not be.
    pub(super) async fn begin<E: Endpoint>(&self) -> Result<(), Error> {
        let Some(Claim { state, write_id, fence }) = &self.claim else { return Ok(()) };
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
    /// what every repeat gets.
    pub(super) async fn journaled<E, R, F>(
        &self,
        ctx: &Context,
        run: impl FnOnce(Self, Arc<Account>, Context, Sending) -> F + Send + 'static,
    ) -> Result<R, Error>
    where
        E: Endpoint,
        R: Settled + 'static,
        F: Future<Output = Result<R, Error>> + Send + 'static,
    {
        let account = self.account::<E>(ctx)?.clone();
        self.detached(ctx, |ops, ctx, left| async move {
            // Twice is the same as once, and nobody asks for it again.
            if ctx.request_id.is_none() && !matches!(E::SAFETY, Safety::Once(_)) {
                let sending = Sending { left, claim: None, sought: Bytes::new() };
                return run(ops, account, ctx, sending).await;
            }
            let claim = match ops.claim(&account.app_id, &ctx, &left).await? {
                Begun::Claimed { write_id, fence } => {
                    Claim { state: ops.0.state.clone(), write_id, fence }
                }
                Begun::Known(Write { reply: Some(reply), .. }) => return Ok(read(&reply)?),
                Begun::Known(Write { write_id, rest, .. }) => {
                    return Err(Error::OutcomeUnknown { path: E::PATH, write_id, rest });
                }
                Begun::Other => return Err(Error::RequestIdReused),
            };
            let sending = Sending { left, claim: Some(claim.clone()), sought: Bytes::new() };
            let result = run(ops.clone(), account, ctx.clone(), sending).await;
            let outcome = match &result {
                Ok(response) => Outcome::Finished(kept(&response.encode_to_vec())),
                Err(error) if error.leaves_doubt() => Outcome::Unknown,
                Err(_) => Outcome::Released,
            };
            let in_doubt = outcome == Outcome::Unknown;
            let write_id = claim.write_id.clone();
            let ending = ops.0.writes.spawn(ops.clone().ended(claim, outcome));
            // Whether that ended or not: the caller gets what WeChat answered.
            let _ = tokio::time::timeout(PATIENCE, ending).await;
            match in_doubt {
                true => ops.found(&ctx, &write_id).await.map_or(result, Ok),
                false => result,
            }
        })
        .await
    }

    /// The response to a write whose reply was just lost, if WeChat shows at once that it got
    /// through. Otherwise others will look.
    async fn found<R: Settled>(&self, ctx: &Context, write_id: &str) -> Option<R> {
        let look = async {
            let write = self.0.state.write(write_id).await?;
            let Some(write) = write.filter(|write| write.state == WriteState::Unknown) else {
                return Ok(None);
            };
            self.settle(ctx, &write, self.clock().now()).await?;
            let settled = self.0.state.write(write_id).await?;
            let reply = settled.and_then(|write| write.reply);
            Ok::<_, Error>(reply.map(|reply| read(&reply)).transpose()?)
        };
        let too_late = self.clock().now() + ctx.patience(self.clock());
        tokio::select! {
            biased;
            found = look => found.unwrap_or_default(),
            () = self.clock().sleep_until(too_late) => None,
        }
    }

    /// Claims a write, or waits for what somebody else makes of it; where nobody knows, it is looked
    /// what WeChat shows.
    async fn claim(
        &self,
        app_id: &AppId,
        ctx: &Context,
        left: &CancellationToken,
    ) -> Result<Begun, Error> {
        let state = &self.0.state;
        let write = NewWrite {
            write_id: Uuid::new_v4().to_string(),
            app_id: app_id.clone(),
            method: ctx.method.to_owned(),
            request_id: ctx.request_id.map(|id| id.to_string()),
            fingerprint: ctx.fingerprint,
            client_reference: ctx.client_reference.clone(),
        };
        loop {
            let term = ctx.time_left(self.clock()) + CLAIM_MARGIN;
            let begun = state.begin(write.clone(), term).await?;
            let Begun::Known(known) = &begun else { return Ok(begun) };
            match known.state {
                WriteState::Finished => return Ok(begun),
                WriteState::Unknown => match self.settled(ctx, known, left).await? {
                    true => continue,
                    false => return Ok(begun),
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

    /// Looks what became of a write that is repeated, until it is known or cannot be known in time.
    /// Says whether the journal knows more now.
    async fn settled(
        &self,
        ctx: &Context,
        write: &Write,
        left: &CancellationToken,
    ) -> Result<bool, Error> {
        let clock = self.clock();
        loop {
            let Some(write) = self.0.state.write(&write.write_id).await? else { return Ok(true) };
            if write.state != WriteState::Unknown {
                return Ok(true);
            }
            let look = self.settle(ctx, &write, clock.now());
            match left.run_until_cancelled(look).await {
                Some(Ok(Outlook::Executed)) => return Ok(true),
                Some(Ok(Outlook::NotExecuted)) => {
                    self.0.state.resolve(&write.write_id, None).await?;
                    return Ok(true);
                }
                Some(Ok(Outlook::Unknown)) => {}
                Some(Err(error)) => {
                    let write_id = write.write_id;
                    tracing::warn!(write_id, "WeChat cannot be asked about a write: {error}");
                    return Ok(false);
                }
                None => return Err(Error::Deadline),
            }
            if write.rest.is_zero() || write.rest >= ctx.patience(clock) {
                return Ok(false);
            }
            // Only then is it of use that WeChat shows nothing.
            left.run_until_cancelled(clock.sleep(write.rest)).await.ok_or(Error::Deadline)?;
        }
    }

    /// Notes how a write ended, however long that takes.
    async fn ended(self, Claim { state, write_id, fence }: Claim, outcome: Outcome) {
        while let Err(error) = state.ended(&write_id, fence, outcome.clone()).await {
            tracing::error!(write_id, "the outcome of a write cannot be noted yet: {error}");
            self.clock().sleep(PAUSE).await;
        }
    }
}

fn read<R: Settled>(reply: &[u8]) -> Result<R, state::Error> {
    match known(reply) {
        Some(response) => {
            R::decode(response).map_err(|error| state::Error::Damaged(error.to_string()))
        }
        None => {
            let mut response = R::default();
            response.settle(None);
            Ok(response)
        }
    }
}

fn is_running(write: Option<Write>, rest: &mut Duration) -> bool {
    let Some(write) = write else { return false };
    *rest = write.rest;
    matches!(write.state, WriteState::Claimed | WriteState::Sent) && !write.rest.is_zero()
}
