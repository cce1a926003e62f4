//! How calls run.
//!
//! [`Operations::read`] and `Operations::write` take any WeChat call through account, token and
//! retry. A read ends with its caller; a write runs in a task of its own, so that one that was sent
//! is followed to its end even if the caller leaves.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{cache::Cached, journal::Sending, retry::Decision};
use crate::{
    accounts::{
        self, Account, Registry,
        concurrency::{Busy, Permit},
        quota::{Probe, Spent},
        token,
    },
    context::{Context, Stage},
    pb::{self, Recovered},
    state::{self, State},
    translate::{Evident, Invalid, Sought},
    util::clock::Clock,
    util::codec::Encoded,
    util::id::AppId,
    util::keyed_mutex::KeyedMutex,
    wechat::{self, Attempt, Client, Endpoint, Errcode, Proof, Safety, Tries},
};

mod cache;
mod district;
mod journal;
mod list;
mod merchant;
mod retry;
mod serial_queue;
mod settle;
mod store;
mod submission;

pub(crate) use self::settle::settle;

/// A refused token that is still the current one may be too new for WeChat's machines.
const SETTLING_WAIT: Duration = Duration::from_millis(400);

/// Runs calls. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Operations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    client: Client,
    clock: Clock,
    writes: TaskTracker,
    categories: Cached<AppId, Encoded<pb::ListCategoriesResponse>>,
    districts: Cached<(), district::Districts>,
    state: Arc<dyn State>,
    /// After which time WeChat is asked about a review.
    ask_after: Option<Duration>,
    lanes: KeyedMutex<String>,
    lists: settle::Lists,
    pictures: store::Pictures,
}

/// Why a call brought no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No account can serve it.
    #[error("no account for this call")]
    Account(#[from] accounts::Error),
    /// The caller's deadline passed before anything was sent.
    #[error("the deadline passed before the call was sent")]
    Deadline,
    /// Tencent Maps has no such district.
    #[error("no district {district}")]
    DistrictUnknown {
        /// Its id or its names.
        district: String,
    },
    /// The request is wrong in a way that only WeChat's data shows.
    #[error("invalid request")]
    Invalid(Invalid),
    /// WeChat takes such writes one at a time, and the turn of this one would come too late.
    #[error("others are before this one, and its turn would come too late")]
    LaneBusy {
        /// The endpoint.
        path: &'static str,
        /// How long that takes.
        wait: Duration,
    },
    /// A write was sent, and nobody knows whether it was executed.
    #[error("the outcome of write {write_id} is not known")]
    OutcomeUnknown {
        /// The endpoint.
        path: &'static str,
        /// The write.
        write_id: String,
        /// What happened, if that was just now.
        cause: Option<Box<Error>>,
        /// When a repeat may tell more.
        retry: Option<Duration>,
    },
    /// The account has too many calls at WeChat, and the turn of this one would come too late.
    #[error("the account has too many calls under way")]
    Overloaded {
        /// The account.
        app_id: AppId,
        /// The endpoint.
        path: &'static str,
        /// How long that takes.
        wait: Duration,
    },
    /// The page token belongs to another list.
    #[error("not a page token of this list")]
    PageToken,
    /// The quota of the call is spent: WeChat said so, now or before.
    #[error(transparent)]
    Quota(#[from] Spent),
    /// The account has no token.
    #[error("{error}")]
    Token {
        /// The account.
        app_id: AppId,
        /// Why.
        error: token::Error,
    },
    /// WeChat refused, failed or was not reached.
    #[error("{error}")]
    WeChat {
        /// The endpoint.
        path: &'static str,
        /// What a lost reply means there.
        safety: Safety,
        /// What happened.
        error: wechat::Error,
    },
    /// Another request has this name.
    #[error("the request_id names another request")]
    RequestIdReused,
    /// The state failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The process is ending.
    #[error("shutting down")]
    Stopped,
    /// The write of this name is still running.
    #[error("write {write_id} is still running")]
    WriteInProgress {
        /// The write.
        write_id: String,
        /// Until when it will have ended.
        rest: Duration,
    },
}

impl Error {
    /// Whether the write may have been executed all the same.
    pub(crate) fn leaves_doubt(&self) -> bool {
        let Self::WeChat { safety, error, .. } = self else { return false };
        match (safety, error) {
            (Safety::Read, _) => false,
            // There was an answer, and it does not say what WeChat did.
            (_, wechat::Error::Page | wechat::Error::Unreadable { .. }) => true,
            (Safety::Repeatable, _) => false,
            // On what makes something new it is no verdict.
            (Safety::Once(proof), wechat::Error::Refused { code: Errcode::BUSY, .. }) => {
                !matches!(proof, Proof::Gone | Proof::Values)
            }
            (
                _,
                wechat::Error::NotExecuted { .. }
                | wechat::Error::NotSent { .. }
                | wechat::Error::ProxyRefused
                | wechat::Error::Refused { .. },
            ) => false,
            (
                Safety::Once(_),
                wechat::Error::BadStatus { .. }
                | wechat::Error::Lost { .. }
                | wechat::Error::TimedOut { .. },
            ) => true,
        }
    }
}

impl Operations {
    /// Runs calls for the accounts of `registry`.
    pub fn new(
        registry: Registry,
        client: Client,
        state: Arc<dyn State>,
        ask_after: Option<Duration>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner {
            registry,
            client,
            state,
            ask_after,
            writes: TaskTracker::new(),
            categories: Cached::new(clock.clone()),
            districts: Cached::new(clock.clone()),
            lanes: KeyedMutex::default(),
            lists: settle::Lists::default(),
            pictures: store::Pictures::default(),
            clock,
        }))
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The account that a request means for the call `E`.
    pub fn account<E: Endpoint>(&self, ctx: &Context) -> Result<&Arc<Account>, Error> {
        Ok(self.0.registry.find(&ctx.app_id, E::ACCOUNT)?)
    }

    /// Runs a call that changes nothing. Ends when the caller leaves.
    pub async fn read<E: Endpoint>(&self, ctx: &Context, call: E) -> Result<E::Reply, Error> {
        let account = self.account::<E>(ctx)?;
        self.attempts(account, ctx, &call, None).await
    }

    /// Runs a call that changes something, in a task of its own, and remembers what is answered. If
    /// the caller leaves before it was sent, it is not sent; afterwards it runs to its end.
    pub(crate) async fn write<E: Evident, R: Recovered + 'static>(
        &self,
        ctx: &Context,
        call: E,
        answer: impl FnOnce(E::Reply) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let sought = Sought::after(&call);
        let sought = Some(|_: &_, _: &_, _: &_| sought);
        self.journaled::<E, _, _>(ctx, sought, |ops, account, ctx, sending| async move {
            let mut sending = sending.seeking(|| Sought::after(&call));
            Ok((answer(ops.attempts(&account, &ctx, &call, Some(&mut sending)).await?), None))
        })
        .await
    }

    /// Runs `work` in a task of its own; the token tells it when the caller has left.
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
        let _leaves_with_the_caller = left.clone().drop_guard();
        // Kilobytes, which would be copied on their way into the task.
        let run = Box::pin(work(self.clone(), ctx.clone(), left));
        match self.0.writes.spawn(run).await {
            Ok(result) => result,
            // Not a stop, of which callers hear that nothing was executed.
            Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
            // The runtime ends.
            Err(_) => Err(Error::Stopped),
        }
    }

    /// How many writes are under way.
    pub fn writes(&self) -> usize {
        self.0.writes.len()
    }

    /// Waits until the writes under way have ended.
    pub async fn drained(&self) {
        self.0.writes.close();
        self.0.writes.wait().await;
    }

    async fn attempts<E: Endpoint>(
        &self,
        account: &Account,
        ctx: &Context,
        call: &E,
        mut sending: Option<&mut Sending>,
    ) -> Result<E::Reply, Error> {
        let Inner { client, clock, .. } = &*self.0;
        // At once, where there is nothing to wait for.
        account.quotas.check(E::PATH, clock.unix())?;
        ctx.stage.reach(Stage::Token);
        let no_token = |error| Error::Token { app_id: account.app_id.clone(), error };
        let mut token = account.tokens.get(ctx.deadline).await.map_err(no_token)?;
        let mut tries = Tries::default();
        let (mut probe, mut failed) = (None, None);
        loop {
            if ctx.stage.get() == Stage::Token {
                ctx.stage.reach(Stage::Queue);
            }
            let permit = self.enter::<E>(account, ctx, sending.as_deref_mut(), &mut probe).await;
            let permit = match permit {
                Ok(permit) => permit,
                // What was sent before may have been executed, and nobody is told otherwise.
                Err(error) => {
                    return Err(failed.map_or(error, |failed| given_up::<E>(account, failed)));
                }
            };
            token = account.tokens.newest(token);
            let attempt = Attempt {
                token: Some(&token.access),
                // Not less where the deadline comes first: a read is dropped then, and a write that
                // was sent is followed to its end.
                limit: E::REPLY_LIMIT,
                time_left: ctx.time_left(clock),
                tries: &mut tries,
                parent: &ctx.trace.span,
            };
            ctx.stage.reach(Stage::WeChat);
            let sent_at = clock.unix();
            let result = client.send(call, attempt).await;
            permit.answered();
            let error = result.as_ref().err();
            if error.is_some() || probe.is_some() {
                account.quotas.record(E::PATH, error, &mut probe, sent_at, clock.unix())?;
            }
            let error = match result {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let (attempts, time_left) = (tries.count(), ctx.time_left(clock));
            match retry::decide(E::SAFETY, &error, attempts, client.hosts(), time_left) {
                Decision::GiveUp => return Err(given_up::<E>(account, error)),
                Decision::SendAgain(wait) => {
                    failed = Some(error);
                    clock.sleep(wait).await;
                }
                Decision::RenewToken(wait) => {
                    ctx.stage.reach(Stage::Token);
                    let tokens = &account.tokens;
                    let next = tokens.refused(&token, E::PATH, error, ctx.deadline).await;
                    let next = next.map_err(no_token)?;
                    let same = next.generation == token.generation;
                    clock.sleep(if same { wait.max(SETTLING_WAIT) } else { wait }).await;
                    token = next;
                }
            }
        }
    }

    /// Waits until a call may be sent. Where its quota is spent it has to be a probe.
    async fn enter<'a, E: Endpoint>(
        &'a self,
        account: &'a Account,
        ctx: &Context,
        sending: Option<&mut Sending>,
        probe: &mut Option<Probe<'a>>,
    ) -> Result<Permit<'a>, Error> {
        let clock = self.clock();
        let left = sending.as_ref().map(|sending| &sending.left);
        let permit = account.concurrency.acquire(E::PATH, ctx.deadline, clock);
        let permit = match left {
            Some(left) => left.run_until_cancelled(permit).await.ok_or(Error::Deadline)?,
            None => permit.await,
        };
        let busy = |Busy { wait }| Error::Overloaded {
            app_id: account.app_id.clone(),
            path: E::PATH,
            wait,
        };
        let permit = permit.map_err(busy)?;
        if ctx.time_left(clock).is_zero() || left.is_some_and(CancellationToken::is_cancelled) {
            return Err(Error::Deadline);
        }
        if probe.is_none() {
            *probe = account.quotas.enter(E::PATH, clock.unix())?;
        }
        if let Some(sending) = sending {
            sending.begin::<E>(clock).await?;
        }
        Ok(permit)
    }
}

fn given_up<E: Endpoint>(account: &Account, error: wechat::Error) -> Error {
    match error {
        // After renewals: our trouble with the token, not the caller's with the call.
        wechat::Error::Refused { code, .. } if code.refuses_token() => {
            let error = token::Error::Refused { path: E::PATH, refusal: error };
            Error::Token { app_id: account.app_id.clone(), error }
        }
        error => Error::WeChat { path: E::PATH, safety: E::SAFETY, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, WeChat};

    #[tokio::test]
    async fn a_write_that_panics_is_not_taken_for_a_stop() {
        let clock = Clock::frozen();
        let client = Client::new(&WeChat::default(), &clock).expect("a client");
        let (_folder, state) = state::temporary(&clock);
        let registry = Registry::new(&[], &Limits::default(), &client, &state, &clock);
        let ops = Operations::new(registry, client, state, None, clock);
        let ctx = Context::internal(ops.clock().now());
        let write = tokio::spawn(async move {
            ops.detached(&ctx, |_, _, _| async { panic!("on purpose") }).await
        });
        let result: Result<Result<(), Error>, _> = write.await;
        assert!(result.expect_err("a panic").is_panic());
    }
}
