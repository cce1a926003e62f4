//! How one call reaches WeChat.
//!
//! [`Calls::read`] and `Calls::attempts` take any WeChat call through account, token, quota, concurrency
//! limit and retry. [`writes`](crate::writes) sends writes through `attempts`, which records every
//! attempt in the journal before its first byte leaves.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::{cache::Cached, retry::Decision};
pub(crate) use self::{
    district::DistrictError,
    list::{Listing, PageError, Paged, unreadable},
    sending::Sending,
};
use crate::{
    accounts::{
        self, Account, Registry,
        concurrency::{Busy, Permit},
        platform::Platforms,
        quota::{Probe, Spent},
        token,
    },
    context::{Context, Stage},
    metrics::Metrics,
    pb,
    state::{self, State},
    util::clock::Clock,
    util::codec::Encoded,
    util::id::{AppId, Secret},
    util::keyed_mutex::KeyedMutex,
    util::scope::Scope,
    wechat::{self, AccountKinds, Attempt, Client, Endpoint, Errcode, Proof, Safety, Tries},
};

mod cache;
mod district;
mod list;
mod merchant;
mod retry;
mod sending;
mod write_queue;

/// After WeChat refused the current token, the next attempt waits at least this long: the token may be
/// too new for some of WeChat's machines.
const TOKEN_PAUSE: Duration = Duration::from_millis(400);

/// Makes calls to WeChat. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    client: Client,
    clock: Clock,
    categories: Cached<AppId, Encoded<pb::ListCategoriesResponse>>,
    districts: Cached<(), district::Districts>,
    state: Arc<dyn State>,
    queues: KeyedMutex<String>,
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
    /// WeChat accepts such writes one at a time, and the turn of this one would come too late.
    #[error("other writes are queued before this one, and its turn would come too late")]
    QueueBusy {
        /// The endpoint.
        path: &'static str,
        /// The time until its turn.
        wait: Duration,
    },
    /// The account has too many calls at WeChat, and the turn of this one would come too late.
    #[error("the account has too many calls in progress")]
    Overloaded {
        /// The account.
        app_id: AppId,
        /// The endpoint.
        path: &'static str,
        /// How long that takes.
        wait: Duration,
    },
    /// The quota of the call is spent, as WeChat has reported now or earlier.
    #[error(transparent)]
    Quota(#[from] Spent),
    /// The account has no token.
    #[error("{error}")]
    Token {
        /// The account.
        app_id: AppId,
        /// The platform that the account authorized. `None` if the settings name the account.
        platform: Option<AppId>,
        /// Why.
        error: token::Error,
    },
    /// WeChat refused, failed or was not reached.
    #[error("{error}")]
    WeChat {
        /// The endpoint.
        path: &'static str,
        /// Whether the call may be repeated after a lost reply.
        safety: Safety,
        /// The error.
        error: wechat::Error,
    },
    /// The state failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The process is ending.
    #[error("shutting down")]
    Stopped,
}

impl Error {
    /// Returns whether the write may have been executed nevertheless.
    pub(crate) fn leaves_doubt(&self) -> bool {
        let Self::WeChat { safety, error, .. } = self else { return false };
        match (safety, error) {
            (Safety::Read, _) => false,
            // WeChat answered, but the answer does not say whether it executed the write.
            (_, wechat::Error::Page | wechat::Error::Unreadable { .. }) => true,
            (Safety::Repeatable, _) => false,
            // For a write that makes something new, a busy system decides nothing.
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

impl Calls {
    /// Makes calls for the accounts of `registry`.
    pub(crate) fn new(
        registry: Registry,
        client: Client,
        state: Arc<dyn State>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner {
            registry,
            state,
            categories: Cached::new("categories", client.metrics().clone(), clock.clone()),
            districts: Cached::new("districts", client.metrics().clone(), clock.clone()),
            queues: KeyedMutex::default(),
            client,
            clock,
        }))
    }

    /// Returns the metrics.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.0.client.metrics()
    }

    /// Returns the time source.
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Returns the account that a request names for the call `E`, or the default one for it.
    ///
    /// Every call gets its account here and passes it on.
    pub(crate) async fn account<E: Endpoint>(&self, ctx: &Context) -> Result<Arc<Account>, Error> {
        Ok(self.0.registry.serve::<E>(ctx).await?)
    }

    /// Returns the account that a request names, or the default one.
    pub(crate) async fn any_account(&self, ctx: &Context) -> Result<Arc<Account>, Error> {
        Ok(self.0.registry.find(ctx, AccountKinds::Any).await?)
    }

    /// Returns the secret of an account, for the call `E` without a token.
    ///
    /// Fails if it cannot be read, if the settings have none, or if the call is not allowed from the cloud of
    /// the account.
    pub(crate) fn secret<E: Endpoint>(&self, account: &Account) -> Result<Secret, Error> {
        account.check_cloud::<E>()?;
        let secret = token::read_secret(account.secret());
        secret.map_err(|error| no_token(account, error.into()))
    }

    /// Returns a token of an account for another program of the operator. It lives for `least_life` if WeChat has
    /// one that does.
    ///
    /// Fails if the account is paused or read-only, if its tokens work only inside its container, or if no token
    /// arrives in time.
    pub(crate) async fn access_token(
        &self,
        ctx: &Context,
        account: &Account,
        least_life: Duration,
    ) -> Result<token::GivenToken, Error> {
        let tokens = account.given_tokens()?;
        ctx.progress.reach(Stage::Token);
        let given = tokens.give(least_life, ctx.deadline).await;
        given.map_err(|error| no_token(account, error))
    }

    /// Returns true if an account is paused, so that nothing may be sent for it.
    pub(crate) async fn is_paused(&self, app_id: &str) -> bool {
        self.0.registry.is_paused(app_id).await
    }

    /// Returns the platforms of the settings, and the accounts that authorized them.
    pub(crate) fn platforms(&self) -> &Platforms {
        self.0.registry.platforms()
    }

    /// Returns the accounts of the settings that are in a scope, ordered by their ids.
    pub(crate) fn accounts(&self, scope: &Scope) -> Vec<Arc<Account>> {
        self.0.registry.all(scope)
    }

    /// Returns the URL of WeChat's host to which the next call goes.
    pub(crate) fn current_host(&self) -> &str {
        self.0.client.current_host()
    }

    /// Makes a call that changes nothing. Ends when the caller leaves.
    pub(crate) async fn read<E: Endpoint>(
        &self,
        ctx: &Context,
        call: E,
    ) -> Result<E::Reply, Error> {
        let account = self.account::<E>(ctx).await?;
        self.attempts(&account, ctx, &call, None).await
    }

    /// Returns whether a call could be sent at once, as far as is known.
    pub(crate) fn is_ready<E: Endpoint>(&self, account: &Account) -> bool {
        E::PACE.is_none()
            && tokens::<E>(account).is_none_or(|tokens| tokens.is_current())
            && account.concurrency.has_free()
            && account.quotas.check(E::PATH, self.clock().unix()).is_ok()
    }

    /// Sends a call until it succeeds or another attempt is not allowed. A write has a `sending`, which
    /// records each attempt.
    pub(crate) async fn attempts<E: Endpoint>(
        &self,
        account: &Account,
        ctx: &Context,
        call: &E,
        mut sending: Option<&mut Sending>,
    ) -> Result<E::Reply, Error> {
        let Inner { client, clock, .. } = &*self.0;
        // Fails at once if there is nothing to wait for.
        let refused = |_: &Spent| client.metrics().count_quota_refusal(E::PATH);
        account.quotas.check(E::PATH, clock.unix()).inspect_err(refused)?;
        ctx.progress.reach(Stage::Token);
        let no_token = |error| no_token(account, error);
        let tokens = tokens::<E>(account);
        let mut token = match tokens {
            Some(tokens) => Some(tokens.get(ctx.deadline).await.map_err(no_token)?),
            None => None,
        };
        let mut tries = Tries::default();
        let (mut probe, mut failed) = (None, None);
        loop {
            if ctx.progress.stage() == Stage::Token {
                ctx.progress.reach(Stage::Queue);
            }
            let permit = self.enter::<E>(account, ctx, sending.as_deref_mut(), &mut probe).await;
            let permit = match permit {
                Ok(permit) => permit,
                // An earlier attempt may have been executed, so its error counts.
                Err(error) => {
                    return Err(failed.map_or(error, |failed| given_up::<E>(account, failed)));
                }
            };
            token = token.zip(tokens).map(|(token, tokens)| tokens.newest(token));
            let attempt = Attempt {
                token: token.as_ref().map(|token| &token.access),
                // The deadline does not shorten this. A read is dropped at its deadline, and a write
                // that was sent is followed to its end.
                limit: E::REPLY_LIMIT,
                time_left: ctx.time_left(clock),
                tries: &mut tries,
                parent: &ctx.trace.span,
            };
            ctx.progress.reach(Stage::WeChat);
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
                    let (Some(refused), Some(tokens)) = (&token, tokens) else {
                        return Err(given_up::<E>(account, error));
                    };
                    ctx.progress.reach(Stage::Token);
                    let next = tokens.refused(refused, E::PATH, error, ctx.deadline).await;
                    let next = next.map_err(no_token)?;
                    let same = next.generation == refused.generation;
                    clock.sleep(if same { wait.max(TOKEN_PAUSE) } else { wait }).await;
                    token = Some(next);
                }
            }
        }
    }

    /// Waits until a call may be sent. If its quota is spent, the call must be a half-open probe.
    async fn enter<'a, E: Endpoint>(
        &'a self,
        account: &'a Account,
        ctx: &Context,
        sending: Option<&mut Sending>,
        probe: &mut Option<Probe<'a>>,
    ) -> Result<Permit<'a>, Error> {
        let clock = self.clock();
        let left = sending.as_ref().map(|sending| &sending.left);
        let waits = (!account.concurrency.has_free()).then(|| clock.now());
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
        if let Some(since) = waits {
            self.0.client.metrics().record_permit_wait(clock.now() - since);
        }
        let permit = permit.map_err(busy)?;
        if ctx.time_left(clock).is_zero() || left.is_some_and(CancellationToken::is_cancelled) {
            return Err(Error::Deadline);
        }
        if probe.is_none() {
            let refused = |_: &Spent| self.0.client.metrics().count_quota_refusal(E::PATH);
            *probe = account.quotas.enter(E::PATH, clock.unix()).inspect_err(refused)?;
        }
        if let Some(sending) = sending {
            sending.before_attempt::<E>().await?;
        }
        Ok(permit)
    }
}

/// Returns the tokens of a call. Returns `None` if the call, or the account, has none.
fn tokens<E: Endpoint>(account: &Account) -> Option<&Arc<token::Tokens>> {
    account.tokens.as_ref().filter(|_| E::NEEDS_TOKEN)
}

fn no_token(account: &Account, error: token::Error) -> Error {
    let (app_id, platform) = (account.app_id.clone(), account.platform().cloned());
    Error::Token { app_id, platform, error }
}

fn given_up<E: Endpoint>(account: &Account, error: wechat::Error) -> Error {
    match error {
        // After renewals: our trouble with the token, not the caller's with the call.
        wechat::Error::Refused { code, .. } if E::NEEDS_TOKEN && code.refuses_token() => {
            let error = token::Error::Refused { path: E::PATH, refusal: error };
            no_token(account, error)
        }
        error => Error::WeChat { path: E::PATH, safety: E::SAFETY, error },
    }
}
