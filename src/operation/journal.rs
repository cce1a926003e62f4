//! Writes under a name: a repeat gets the answer of the first.
//!
//! Before its first byte leaves, a write is noted as sent; a process that dies then leaves one whose
//! outcome is open, never one that nobody knows of. See `WriteService` in `proto/`.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Error, Operations};
use crate::{
    account::Account,
    context::Context,
    id::AppId,
    pb::Settled,
    state::{self, Begun, NewWrite, Outcome, State, Write, WriteState},
    translate::write::{kept, known},
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
}

/// A write that this process runs.
#[derive(Clone, Debug)]
struct Claim {
    state: Arc<dyn State>,
    write_id: String,
    fence: u64,
}

impl Sending {
    /// Notes that the call is about to be sent. Fails if it must not be.
    pub(super) async fn begin<E: Endpoint>(&self) -> Result<(), Error> {
        let Some(Claim { state, write_id, fence }) = &self.claim else { return Ok(()) };
        match state.sent(write_id, *fence, E::REPLY_LIMIT + SEND_MARGIN).await? {
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
                return run(ops, account, ctx, Sending { left, claim: None }).await;
            }
            let claim = match ops.claim(&account.app_id, &ctx, &left).await? {
                Begun::Claimed { write_id, fence } => {
                    Claim { state: ops.0.state.clone(), write_id, fence }
                }
                Begun::Known(Write { reply: Some(reply), .. }) => return Ok(read(&reply)?),
                Begun::Known(Write { write_id, .. }) => {
                    return Err(Error::OutcomeUnknown { path: E::PATH, write_id });
                }
                Begun::Other => return Err(Error::RequestIdReused),
            };
            let sending = Sending { left, claim: Some(claim.clone()) };
            let result = run(ops.clone(), account, ctx, sending).await;
            let outcome = match &result {
                Ok(response) => Outcome::Finished(kept(response)),
                Err(error) if error.leaves_doubt() => Outcome::Unknown,
                Err(_) => Outcome::Released,
            };
            let ending = ops.0.writes.spawn(ops.clone().ended(claim, outcome));
            // Whether that ended or not: the caller gets what WeChat answered.
            let _ = tokio::time::timeout(PATIENCE, ending).await;
            result
        })
        .await
    }

    /// Claims a write, or waits for what somebody else makes of it.
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
            let Begun::Known(running) = &begun else { return Ok(begun) };
            if !matches!(running.state, WriteState::Claimed | WriteState::Sent) {
                return Ok(begun);
            }
            let write_id = running.write_id.clone();
            let mut rest = running.rest;
            while is_running(state.write(&write_id).await?, &mut rest) {
                if ctx.patience(self.clock()).is_zero() || left.is_cancelled() {
                    return Err(Error::WriteInProgress { write_id, rest });
                }
                self.clock().sleep(LOOK_AGAIN).await;
            }
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
        None => Ok(R::settled()),
    }
}

fn is_running(write: Option<Write>, rest: &mut Duration) -> bool {
    let Some(write) = write else { return false };
    *rest = write.rest;
    matches!(write.state, WriteState::Claimed | WriteState::Sent) && !write.rest.is_zero()
}
