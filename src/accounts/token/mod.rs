//! Access tokens of the accounts, and of platforms.
//!
//! - Each account has at most one refresh at a time, in a task of its own. Callers wait for it, and
//!   a caller that leaves does not stop it.
//! - A *generation* counts the changes of the token. A refusal causes a refresh only if the refused
//!   token is still current, so a thousand refusals cause one refresh.
//! - A token is renewed before it expires. If that fails, the previous token is used until it
//!   expires.
//! - A late answer never replaces a newer token. The life of a token counts from the time when its
//!   request was sent.
//! - Replicas share tokens through the [`TokenState`](crate::state): a replica that needs one reads the
//!   state first, and one replica at a time asks WeChat. If the state fails, each replica asks for
//!   itself. Platforms and authorizers get no new token then, because the state has what they send for one.
//! - Every account has a daily budget, which replicas share, and a failure is kept for a while, so
//!   that nothing loops.
//! - A token that another program fetched is only read, by each process for itself. It has no budget and no
//!   lease. See [`external`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use tracing::Span;

pub(crate) use self::external::Missing;
pub(crate) use self::status::{GivenToken, TokenFailure, TokenStatus};
use self::{classic::Classic, external::External, stable::Stable};
use super::{Services, platform::refuses_ticket};
use crate::{
    config::{self, SecretSource, TokenKind},
    state::{self, Acquired, SharedToken},
    util::{
        clock::Clock,
        id::{AppId, Secret},
        lock,
        single_flight::{Run, SingleFlight},
    },
    wechat::{
        self, AccessToken, Attempt, Client, Endpoint, Errcode, TokenName, Tries,
        component::ComponentTokenReply, token::TokenReply,
    },
};

mod classic;
mod external;
mod stable;
mod status;

/// In the last five minutes of a token's life, WeChat returns the next one, and both are valid.
const RENEW_AHEAD: Duration = Duration::from_secs(300);
/// A random time that keeps replicas from renewing in the same second.
const RENEW_JITTER: Duration = Duration::from_secs(60);
/// A new token reaches all machines of WeChat after a moment, and those of another host may get it
/// later. A refusal this soon after a refresh or a change of host proves nothing.
const PROPAGATION_TIME: Duration = Duration::from_secs(3);
/// The pause after a fetch that returned the refused token again.
const SUSPECT_PAUSE: Duration = Duration::from_secs(30);
/// The first pause between two refusals for which the token of another program is read again. Each further one
/// doubles it up to [`LONGEST_REREAD_PAUSE`]. So a token server that gives a useless token each time is not flooded.
const REREAD_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_REREAD_PAUSE: Duration = Duration::from_secs(60);
/// If two endpoints refuse the token within this time, the fault is not that of one endpoint.
const CORROBORATION: Duration = Duration::from_secs(60);
/// WeChat ignores forced refreshes that follow faster, and allows 20 a day.
const FORCE_PAUSE: Duration = Duration::from_secs(30);
/// The gateway's share of WeChat's 20 forced refreshes a day.
const FORCE_BUDGET: u32 = 4;
/// The gateway's share of WeChat's 2,000 classic tokens a day (500,000 stable ones). A failed fetch
/// is refunded, and pauses keep failures rare enough. After a day of failures, an account can still
/// recover immediately.
const DAILY_BUDGET: u32 = 1_000;
/// The pause after a failure that only an operator or administrator can fix.
const HUMAN_PAUSE: Duration = Duration::from_secs(60);
/// The pause after the first transient failure. Each further failure doubles it up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that a server's `Retry-After` can cause. Without a token, the account is
/// unusable.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);
/// The number of attempts in one refresh while WeChat is busy or unreachable.
const ATTEMPTS: u32 = 3;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The life of a token whose end is unknown.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);
/// A token that is about to expire is read again no faster than this.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// How long other replicas wait for this one if it freezes or crashes during a fetch. A running
/// fetch renews the lease.
const LEASE: Duration = Duration::from_secs(3);
const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// The longest plausible lease or quiet period of the state. A longer one means that a clock was
/// set back.
const LONGEST_LEASE: Duration = Duration::from_secs(6);
/// The interval of checks whether another replica has ended its fetch.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// A shared token with less life than this is not used.
const LEAST_LIFE: Duration = Duration::from_secs(5);

/// A valid access token.
#[derive(Debug)]
pub(crate) struct Token {
    /// The token itself.
    pub access: AccessToken,
    /// The number of changes of the token since the start.
    pub generation: u64,
    fetched_at: Instant,
    renew_at: Instant,
    expires_at: Instant,
    /// False if the end of its life is unknown.
    has_end: bool,
}

/// The reason why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The account withdrew its authorization of the platform.
    #[error("the account does not authorize the platform any more")]
    NotAuthorized,
    /// The place of the settings from which the token is read has none.
    #[error("{problem}")]
    Missing {
        /// The problem.
        problem: Missing,
        /// The time until the next attempt.
        retry_after: Duration,
    },
    /// WeChat has no refresh token for the account, so it must authorize the platform again.
    #[error("WeChat has no refresh token for the account")]
    NoRefreshToken,
    /// No ticket of the last twelve hours is there. WeChat pushes one every ten minutes.
    #[error("WeChat has pushed no ticket to the platform in the last 12 hours")]
    NoTicket {
        /// The time until the next attempt.
        retry_after: Duration,
    },
    /// The platform of the account has no token of its own.
    #[error("the platform has no token: {0}")]
    Platform(Box<Error>),
    /// The state has what a token is fetched with, and it failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// Today's budget of tokens is spent.
    #[error("today's budget of {DAILY_BUDGET} tokens is used up")]
    BudgetSpent,
    /// No token arrived before the caller's deadline.
    #[error("no access token came in time")]
    Deadline,
    /// WeChat refuses the token that it keeps returning.
    #[error("WeChat refuses the access token and gives no other")]
    Refused {
        /// The path of the refused call.
        path: &'static str,
        /// WeChat's refusal.
        refusal: wechat::Error,
    },
    /// The account's secret file is unreadable.
    #[error("the account's secret cannot be read: {0}")]
    Secret(#[from] SecretUnreadable),
    /// The token endpoint failed.
    #[error("no access token: {error}")]
    Unavailable {
        /// The path of the endpoint.
        path: &'static str,
        /// The error of the endpoint.
        error: wechat::Error,
        /// The time until the next attempt.
        retry_after: Duration,
    },
}

/// The account's secret file is unreadable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretUnreadable(String);

/// Returns the secret of an account. Fails if it cannot be read, or if the settings have none.
pub(crate) fn read_secret(source: Option<&SecretSource>) -> Result<Secret, SecretUnreadable> {
    let missing = || SecretUnreadable("the settings have no secret of this account".to_owned());
    Ok(source.ok_or_else(missing)?.read()?)
}

/// Reads the token of an account once, without keeping it. Returns `None` if the gateway fetches the account's
/// tokens, or if it has none.
pub(crate) async fn read_external(
    kind: &TokenKind,
    clock: &Clock,
) -> Option<Result<AccessToken, Missing>> {
    let source = External::new(kind, clock)?;
    let name = source.token_name();
    Some(source.read().await.map(|fetched| AccessToken::new(fetched.value, name)))
}

impl From<std::io::Error> for SecretUnreadable {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A source of tokens.
pub(super) trait Source: fmt::Debug + Send + Sync {
    fn path(&self) -> &'static str;

    /// Returns true if `force` has an effect.
    fn can_force(&self) -> bool;

    /// Returns the name that the token has in the query of a call.
    fn token_name(&self) -> TokenName {
        TokenName::AccessToken
    }

    /// Returns true if another program fetches the tokens, and the gateway only reads them.
    fn is_external(&self) -> bool {
        false
    }

    /// Returns the time after which a token with this life is read again. `None` if its end decides.
    fn interval(&self, _life: Duration) -> Option<Duration> {
        None
    }

    /// Returns true if a read takes no time, so that a call waits for it.
    fn is_quick(&self) -> bool {
        false
    }

    fn fetch<'a>(
        &'a self,
        client: &'a Client,
        tries: &'a mut Tries,
        force: bool,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>>;

    /// Checks a token after it was shared. Returns false if the account may not have it any more, after deleting
    /// it for all replicas.
    fn confirm(&self) -> BoxFuture<'_, bool> {
        ready(true).boxed()
    }
}

/// Sends one request to a token endpoint.
pub(super) async fn ask<E: Endpoint<Reply: Into<Fetched>>>(
    client: &Client,
    call: E,
    tries: &mut Tries,
) -> Result<Fetched, FetchError> {
    // A refresh serves many calls, so it belongs to no call's trace.
    let parent = &Span::none();
    let limit = E::REPLY_LIMIT;
    let attempt = Attempt { token: None, limit, time_left: limit, tries, parent };
    Ok(client.send(&call, attempt).await?.into())
}

/// A token of a source, and how long it lives.
pub(super) struct Fetched {
    pub(super) value: Secret,
    pub(super) life: Duration,
}

/// The reason why a source returned no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no token of the platform came in time")]
    Deadline,
    #[error("the account does not authorize the platform any more")]
    NotAuthorized,
    #[error("WeChat has no refresh token for the account")]
    NoRefreshToken,
    #[error("WeChat has pushed no ticket")]
    NoTicket,
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error(transparent)]
    Platform(Box<Error>),
    #[error(transparent)]
    Secret(#[from] SecretUnreadable),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    WeChat(#[from] wechat::Error),
}

impl From<ComponentTokenReply> for Fetched {
    fn from(reply: ComponentTokenReply) -> Self {
        let life = reply.life().unwrap_or_default();
        Self { value: reply.component_access_token.0.into(), life }
    }
}

impl From<TokenReply> for Fetched {
    fn from(reply: TokenReply) -> Self {
        let life = reply.life().unwrap_or_default();
        Self { value: reply.access_token.0.into(), life }
    }
}

/// The token of one account or platform.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// The account or platform, as the log and metrics name it.
    app_id: AppId,
    /// The name in the state.
    name: AppId,
    source: Box<dyn Source>,
    force_allowed: bool,
    client: Client,
    clock: Clock,
    /// The latest token, which may have expired.
    latest: Mutex<Option<Arc<Token>>>,
    shared: Arc<dyn state::State>,
    state: Mutex<TokenState>,
}

#[derive(Debug, Default)]
struct TokenState {
    generation: u64,
    /// The number of refreshes that were started.
    started: u64,
    /// The number of the last refresh that stored a token. An earlier one comes too late.
    stored: u64,
    refreshing: SingleFlight<Result<Arc<Token>, Error>>,
    failure: Option<Failure>,
    /// The last failure and its time, for operators. It stays after a success.
    last_failure: Option<(Error, Instant)>,
    suspect: Option<Suspect>,
    rereads: Option<Rereads>,
    forced_at: Option<Instant>,
    /// When a token that was about to expire was last renewed for another program.
    renewed_early_at: Option<Instant>,
}

/// The last refresh failed. Until `retry_at`, its error is returned.
#[derive(Debug)]
struct Failure {
    error: Error,
    in_a_row: u32,
    retry_at: Instant,
}

impl Failure {
    /// Returns true if a new ticket may end the failure.
    fn is_about_ticket(&self) -> bool {
        match &self.error {
            Error::NoTicket { .. } => true,
            Error::Unavailable { error, .. } => refuses_ticket(error),
            _ => false,
        }
    }

    /// Returns the error, with the time that is left until the next attempt.
    fn error_at(&self, now: Instant) -> Error {
        let mut error = self.error.clone();
        if let Error::Missing { retry_after, .. }
        | Error::NoTicket { retry_after }
        | Error::Unavailable { retry_after, .. } = &mut error
        {
            *retry_after = self.retry_at - now;
        }
        error
    }
}

/// Returns the result of a refresh, as metrics name it.
fn result_name(result: &Result<Arc<Token>, Error>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::BudgetSpent) => "budget_spent",
        Err(Error::Missing { .. }) => "missing",
        Err(Error::NoTicket { .. }) => "no_ticket",
        Err(Error::NotAuthorized | Error::NoRefreshToken) => "not_authorized",
        Err(Error::Secret(_)) => "secret_unreadable",
        Err(
            Error::Deadline
            | Error::Platform(_)
            | Error::Refused { .. }
            | Error::State(_)
            | Error::Unavailable { .. },
        ) => "failed",
    }
}

/// A token that was refused.
#[derive(Debug, Default)]
struct Suspect {
    generation: u64,
    refused_by: Vec<(&'static str, Instant)>,
    /// True while a refusal causes a fetch.
    asking: bool,
    /// Set after such a fetch. The next one must wait until then.
    ask_again_at: Option<Instant>,
}

/// The reads of another program's token because WeChat refused it.
#[derive(Debug)]
struct Rereads {
    in_a_row: u32,
    /// The time before which no further refusal causes one.
    again_at: Instant,
}

impl Rereads {
    /// Counts a read at the time `now`. Returns `None` if it must wait.
    fn after(before: Option<&Self>, now: Instant) -> Option<Self> {
        let in_a_row = match before {
            Some(before) if now < before.again_at => return None,
            Some(before) if now < before.again_at + LONGEST_REREAD_PAUSE => before.in_a_row + 1,
            _ => 1,
        };
        let pause = REREAD_PAUSE * 2_u32.pow(in_a_row.min(6) - 1);
        Some(Self { in_a_row, again_at: now + pause.min(LONGEST_REREAD_PAUSE) })
    }
}

impl Tokens {
    /// Returns the tokens of an account of the settings. Returns `None` if its calls have no token.
    pub(super) fn of_account(settings: &config::Account, services: &Services) -> Option<Arc<Self>> {
        let (app_id, secret) = (settings.app_id.clone(), settings.secret.clone());
        let source: Box<dyn Source> = match &settings.token {
            TokenKind::Classic => Box::new(Classic { app_id, secret }),
            TokenKind::Stable => Box::new(Stable { app_id, secret }),
            TokenKind::OpenInterface => return None,
            external => Box::new(External::new(external, &services.clock)?),
        };
        let (app_id, force) = (settings.app_id.clone(), settings.force_refresh);
        Some(Self::new(app_id.clone(), app_id, source, force, services))
    }

    /// Returns the tokens of a source. The state has them under `name`.
    pub(super) fn new(
        app_id: AppId,
        name: AppId,
        source: Box<dyn Source>,
        force_allowed: bool,
        services: &Services,
    ) -> Arc<Self> {
        let Services { client, state, clock } = services.clone();
        Arc::new(Self {
            app_id,
            name,
            source,
            force_allowed,
            client,
            clock,
            latest: Mutex::default(),
            shared: state,
            state: Mutex::default(),
        })
    }

    /// Returns the current token, and waits for one until `deadline` if there is none.
    ///
    /// Fails if no token arrives in time. Dropping the future does not stop a running refresh.
    pub(crate) async fn get(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Token>, Error> {
        let now = self.clock.now();
        if let Some(token) = self.current_at(now) {
            if now < token.renew_at {
                return Ok(token);
            }
            let run = self.refresh(&mut self.lock(), false);
            // The old token is still valid, so no caller waits for WeChat, and a failure does no harm yet.
            return match run {
                Ok(run) if self.source.is_quick() => {
                    Ok(self.wait(run, deadline).await.unwrap_or(token))
                }
                _ => Ok(token),
            };
        }
        let run = {
            let mut state = self.lock();
            match self.current() {
                Some(token) => return Ok(token),
                None => self.refresh(&mut state, false)?,
            }
        };
        self.wait(run, deadline).await
    }

    /// Returns the next token, or this one if there is no other yet. WeChat is not asked faster than every half
    /// minute, because it has the next one only in the last minutes of this one.
    async fn renewed(self: &Arc<Self>, token: Arc<Token>, deadline: Instant) -> Arc<Token> {
        let run = {
            let (mut state, now) = (self.lock(), self.clock.now());
            match state.renewed_early_at {
                Some(at) if now < at + SUSPECT_PAUSE => state.refreshing.running(),
                _ => {
                    state.renewed_early_at = Some(now);
                    self.refresh(&mut state, false).ok()
                }
            }
        };
        match run {
            Some(run) => self.wait(run, deadline).await.unwrap_or(token),
            None => self.newest(token),
        }
    }

    /// Forgets the token. A call that has it keeps it.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        *self.latest() = None;
        state.failure = None;
    }

    /// Ends the pause after a failure, because what was missing has arrived.
    pub(super) fn try_again(&self) {
        let mut state = self.lock();
        if state.failure.as_ref().is_some_and(Failure::is_about_ticket) {
            state.failure = None;
        }
    }

    /// Returns true if there is a valid token, so that a call would not wait for one.
    pub(crate) fn is_current(&self) -> bool {
        let now = self.clock.now();
        self.latest().as_ref().is_some_and(|token| now < token.expires_at)
    }

    /// Returns the token that is current now. `known` may have been replaced during a wait.
    pub(crate) fn newest(&self, known: Arc<Token>) -> Arc<Token> {
        if self.lock().generation == known.generation {
            return known;
        }
        self.current().unwrap_or(known)
    }

    /// Returns the token to try after WeChat refused `token` for a call to `path`. That is a newer
    /// token or, soon after a refresh or a change of host, the same one again.
    ///
    /// Fails if WeChat has no other token, or if none arrives before `deadline`.
    pub(crate) async fn refused(
        self: &Arc<Self>,
        token: &Token,
        path: &'static str,
        refusal: wechat::Error,
        deadline: Instant,
    ) -> Result<Arc<Token>, Error> {
        self.client.metrics().count_token_refusal(self.app_id.as_str());
        let run = {
            let mut state = self.lock();
            let now = self.clock.now();
            if let Some(current) = self.current() {
                let moved_at = self.client.host_changed_at();
                let propagating = [Some(current.fetched_at), moved_at]
                    .into_iter()
                    .flatten()
                    .any(|at| now.duration_since(at) < PROPAGATION_TIME);
                let propagating = propagating && !self.source.is_external();
                if current.generation != token.generation || propagating {
                    return Ok(current);
                }
            }
            match self.after_refusal(&mut state, token, path, now) {
                Some(force) => self.refresh(&mut state, force)?,
                None => return Err(Error::Refused { path, refusal }),
            }
        };
        let fresh = self.wait(run, deadline).await?;
        if fresh.generation == token.generation {
            return Err(Error::Refused { path, refusal });
        }
        Ok(fresh)
    }

    /// Records the refusal. Returns `None` if no refresh may start, or else whether it must be
    /// forced.
    fn after_refusal(
        &self,
        state: &mut TokenState,
        token: &Token,
        path: &'static str,
        now: Instant,
    ) -> Option<bool> {
        if state.suspect.as_ref().is_none_or(|suspect| suspect.generation != token.generation) {
            let generation = token.generation;
            state.suspect = Some(Suspect { generation, ..Suspect::default() });
        }
        let suspect = state.suspect.as_mut()?;
        if self.source.is_external() {
            // A refusal can join a read that runs. A file costs little.
            if state.refreshing.running().is_none() && !self.source.is_quick() {
                state.rereads = Some(Rereads::after(state.rereads.as_ref(), now)?);
            }
            suspect.asking = true;
            return Some(false);
        }
        suspect
            .refused_by
            .retain(|(by, at)| *by != path && now.duration_since(*at) < CORROBORATION);
        suspect.refused_by.push((path, now));
        if suspect.ask_again_at.is_none_or(|at| now >= at) {
            suspect.asking = true;
            return Some(false);
        }
        // WeChat returned the refused token again. A forced refresh makes a new one, but ends the
        // token of all other users. It therefore must be allowed by the settings, rare, and
        // confirmed by two endpoints.
        let corroborated = suspect.refused_by.len() >= 2;
        let rested = state.forced_at.is_none_or(|at| now.duration_since(at) >= FORCE_PAUSE);
        let force = self.force_allowed && self.source.can_force() && corroborated && rested;
        if force {
            suspect.asking = true;
            state.forced_at = Some(now);
        }
        force.then_some(true)
    }

    /// Joins the running refresh or starts one. Fails during the pause after a failure.
    fn refresh(
        self: &Arc<Self>,
        state: &mut TokenState,
        force: bool,
    ) -> Result<Run<Result<Arc<Token>, Error>>, Error> {
        if let Some(run) = state.refreshing.running() {
            return Ok(run);
        }
        let now = self.clock.now();
        if let Some(failure) = &state.failure
            && now < failure.retry_at
        {
            return Err(failure.error_at(now));
        }
        state.started += 1;
        let (tokens, number) = (self.clone(), state.started);
        Ok(state.refreshing.start(async move {
            if tokens.source.is_external() {
                tokens.read(number).await
            } else {
                tokens.run(number, force).await
            }
        }))
    }

    fn count(&self, result: &Result<Arc<Token>, Error>) {
        self.client.metrics().count_token_refresh(self.app_id.as_str(), result_name(result));
    }

    /// Reads the token of another program.
    async fn read(self: Arc<Self>, number: u64) -> Result<Arc<Token>, Error> {
        let before = self.lock().generation;
        let mut tries = Tries::default();
        let read_at = self.clock.now();
        let result = match self.source.fetch(&self.client, &mut tries, false).await {
            Ok(fetched) => Ok(self.store(number, fetched, read_at)),
            Err(error) => Err(self.fail(error)),
        };
        // A file is read each second. Only what is new counts.
        if result.as_ref().map_or(true, |token| token.generation != before) {
            self.count(&result);
        }
        result
    }

    /// Fetches a token, or takes that of another replica.
    async fn run(self: Arc<Self>, number: u64, wants_force: bool) -> Result<Arc<Token>, Error> {
        let result = self.shared_or_fetched(number, wants_force).await;
        self.count(&result);
        result
    }

    async fn shared_or_fetched(&self, number: u64, wants_force: bool) -> Result<Arc<Token>, Error> {
        let force = wants_force && self.may_force().await;
        loop {
            let before = match self.read_shared(number).await {
                Ok(token) => return Ok(token),
                Err(before) => before,
            };
            let lease = match self.shared.acquire(&self.lease(), LEASE).await {
                Ok(Acquired::Lease(fence)) => Some(fence),
                Ok(Acquired::Taken(rest)) if rest <= LONGEST_LEASE => {
                    self.clock.sleep(rest.min(CHECK_INTERVAL)).await;
                    continue;
                }
                // The shared state is unavailable, but a token can still be fetched.
                Ok(Acquired::Taken(_)) | Err(_) => None,
            };
            let Some(fence) = lease else {
                if let Some(result) = self.fetch(number, force, None, before).await {
                    return result;
                }
                continue;
            };
            let result = tokio::select! {
                result = self.fetch_alone(number, force, fence) => result,
                () = self.keep_lease(fence) => None,
            };
            // If this fails, the lease ends by itself.
            let _ = self.shared.free(&self.lease(), fence, Duration::ZERO).await;
            if let Some(result) = result {
                return result;
            }
        }
    }

    /// Returns the token of the state, if it is better than the current one. Otherwise returns its generation as
    /// the error, or 0 if there is none.
    async fn read_shared(&self, number: u64) -> Result<Arc<Token>, u64> {
        let shared = self.shared.token(&self.name).await.ok().flatten();
        let adopted = shared.as_ref().and_then(|shared| self.adopt(number, shared));
        adopted.ok_or_else(|| shared.map_or(0, |shared| shared.generation))
    }

    /// Fetches a token while this process has the lease. Another replica may have ended its fetch between the last
    /// reading of the state and the lease, so this reads the state once more.
    async fn fetch_alone(
        &self,
        number: u64,
        force: bool,
        fence: u64,
    ) -> Option<Result<Arc<Token>, Error>> {
        match self.read_shared(number).await {
            Ok(token) => Some(Ok(token)),
            Err(before) => self.fetch(number, force, Some(fence), before).await,
        }
    }

    /// Renews the lease until the future is dropped.
    async fn keep_lease(&self, fence: u64) {
        loop {
            self.clock.sleep(LEASE_RENEWAL).await;
            // A lost lease is detected before the next attempt. The reply to a sent request is
            // still awaited.
            let _ = self.shared.renew(&self.lease(), fence, LEASE).await;
        }
    }

    /// Fetches a token from WeChat and shares it. Returns `None` if another replica may have
    /// fetched one in the meantime.
    async fn fetch(
        &self,
        number: u64,
        force: bool,
        lease: Option<u64>,
        before: u64,
    ) -> Option<Result<Arc<Token>, Error>> {
        let budget = format!("tokens/{}", self.name);
        if let Ok(false) = self.shared.spend(&budget, DAILY_BUDGET, DAY).await {
            return Some(Err(self.store_failure(Error::BudgetSpent, 1, HUMAN_PAUSE)));
        }
        let mut tries = Tries::default();
        loop {
            let sent_at = self.clock.now();
            match self.source.fetch(&self.client, &mut tries, force).await {
                Ok(fetched) => {
                    let Fetched { value, life } = &fetched;
                    let life = life.saturating_sub(self.clock.now() - sent_at);
                    let put = self.shared.put_token(&self.name, before, value, life).await;
                    if !self.source.confirm().await {
                        return Some(Err(self.fail(FetchError::NotAuthorized)));
                    }
                    return Some(Ok(match put {
                        Ok(shared) if shared.value != *value => self
                            .adopt(number, &shared)
                            .unwrap_or_else(|| self.store(number, fetched, sent_at)),
                        _ => self.store(number, fetched, sent_at),
                    }));
                }
                Err(error)
                    if (1..ATTEMPTS).contains(&tries.count()) && repeats_soon(&error) && !force =>
                {
                    self.clock.sleep(Duration::from_millis(200) * tries.count()).await;
                    if let Some(fence) = lease
                        && let Ok(false) = self.shared.renew(&self.lease(), fence, LEASE).await
                    {
                        // This process was frozen, and another replica has taken over.
                        let _ = self.shared.refund(&budget).await;
                        return None;
                    }
                }
                Err(error) => {
                    let _ = self.shared.refund(&budget).await;
                    return Some(Err(self.fail(error)));
                }
            }
        }
    }

    /// Returns true if a forced refresh is allowed now. It must be rare over all replicas.
    async fn may_force(&self) -> bool {
        let spend = async |what: &str, limit, window| {
            let counter = format!("{what}/{}", self.name);
            self.shared.spend(&counter, limit, window).await.is_ok_and(|left| left)
        };
        spend("force", 1, FORCE_PAUSE).await && spend("forces", FORCE_BUDGET, DAY).await
    }

    /// Returns another replica's token after storing it, or `None` if it is no better than the
    /// current one.
    fn adopt(&self, number: u64, shared: &SharedToken) -> Option<Arc<Token>> {
        let now = self.clock.now();
        let newer = self.current().is_none_or(|current| {
            *current.access.value() != shared.value
                || now + shared.life > current.expires_at + LEAST_LIFE
        });
        if !newer || shared.life <= LEAST_LIFE {
            return None;
        }
        let (value, age) = (shared.value.clone(), shared.age);
        let fetched_at = now.checked_sub(age).unwrap_or(now);
        let life = shared.life + (now - fetched_at);
        Some(self.store(number, Fetched { value, life }, fetched_at))
    }

    fn lease(&self) -> String {
        format!("token/{}", self.name)
    }

    fn store(&self, number: u64, fetched: Fetched, sent_at: Instant) -> Arc<Token> {
        let mut state = self.lock();
        let current = self.current();
        if number < state.stored
            && let Some(newer) = current
        {
            return newer;
        }
        state.stored = number;
        state.failure = None;
        let same = current.as_ref().is_some_and(|current| *current.access.value() == fetched.value);
        if !same {
            state.generation += 1;
            state.suspect = None;
        } else if let Some(suspect) = state.suspect.as_mut().filter(|suspect| suspect.asking) {
            suspect.asking = false;
            suspect.ask_again_at = Some(self.clock.now() + SUSPECT_PAUSE);
            if self.source.is_external() {
                tracing::warn!(
                    app_id = %self.app_id,
                    "WeChat refused the access token, and its place has no other"
                );
            } else {
                tracing::warn!(
                    app_id = %self.app_id,
                    "WeChat refused the access token and returned the same one again"
                );
            }
        }
        let expires_at = sent_at + fetched.life;
        let token = Arc::new(Token {
            access: AccessToken::new(fetched.value, self.source.token_name()),
            generation: state.generation,
            // WeChat returned the same token, so its age does not change.
            fetched_at: current.filter(|_| same).map_or(sent_at, |current| current.fetched_at),
            renew_at: self.renew_at(sent_at, fetched.life),
            expires_at,
            has_end: fetched.life < ENDLESS,
        });
        *self.latest() = Some(token.clone());
        token
    }

    /// Returns when a token must be fetched or read again.
    fn renew_at(&self, sent_at: Instant, life: Duration) -> Instant {
        let ahead = RENEW_AHEAD.min(life / 2);
        let jitter = RENEW_JITTER.min(ahead).mul_f64(fastrand::f64());
        let by_life = sent_at + life - ahead + jitter;
        match self.source.interval(life) {
            Some(interval) => by_life.min(sent_at + interval),
            None if self.source.is_external() => by_life.max(sent_at + LEAST_INTERVAL),
            None => by_life,
        }
    }

    fn fail(&self, error: FetchError) -> Error {
        let is_transient = is_transient(&error);
        let in_a_row = self.lock().failure.as_ref().map_or(0, |failure| failure.in_a_row) + 1;
        let pause = if is_minute_quota(&error) {
            let into = self.clock.unix() % MINUTE.as_secs();
            MINUTE - Duration::from_secs(into)
        } else if self.source.is_quick() {
            FIRST_PAUSE
        } else if matches!(error, FetchError::Platform(_)) {
            // The platform has a pause of its own.
            FIRST_PAUSE
        } else if is_transient {
            (FIRST_PAUSE * 2_u32.pow(in_a_row.min(6) - 1)).min(LONGEST_PAUSE)
        } else {
            HUMAN_PAUSE
        };
        let pause = pause.max(asked_pause(&error).min(LONGEST_ASKED_PAUSE));
        let path = self.source.path();
        let error = match error {
            FetchError::Deadline => Error::Deadline,
            FetchError::NotAuthorized => Error::NotAuthorized,
            FetchError::NoRefreshToken => Error::NoRefreshToken,
            FetchError::NoTicket => Error::NoTicket { retry_after: pause },
            FetchError::Missing(problem) => Error::Missing { problem, retry_after: pause },
            FetchError::Platform(error) => Error::Platform(error),
            FetchError::Secret(error) => Error::Secret(error),
            FetchError::State(error) => Error::State(error),
            FetchError::WeChat(error) => Error::Unavailable { path, error, retry_after: pause },
        };
        self.store_failure(error, in_a_row, pause)
    }

    /// Stores the error, which is returned until the pause is over.
    fn store_failure(&self, error: Error, in_a_row: u32, pause: Duration) -> Error {
        // A file is read each second.
        if !self.source.is_quick() || in_a_row.is_power_of_two() {
            tracing::warn!(
                app_id = %self.app_id,
                retry_after_s = pause.as_secs(),
                "paused requests for an access token: {error}"
            );
        }
        let (now, mut state) = (self.clock.now(), self.lock());
        state.failure = Some(Failure { error: error.clone(), in_a_row, retry_at: now + pause });
        state.last_failure = Some((error.clone(), now));
        error
    }

    async fn wait(
        &self,
        run: Run<Result<Arc<Token>, Error>>,
        deadline: Instant,
    ) -> Result<Arc<Token>, Error> {
        tokio::select! {
            result = run => result,
            () = self.clock.sleep_until(deadline) => Err(Error::Deadline),
        }
    }

    fn current(&self) -> Option<Arc<Token>> {
        self.current_at(self.clock.now())
    }

    fn current_at(&self, now: Instant) -> Option<Arc<Token>> {
        self.latest().as_ref().filter(|token| now < token.expires_at).cloned()
    }

    fn latest(&self) -> MutexGuard<'_, Option<Arc<Token>>> {
        lock(&self.latest)
    }

    fn lock(&self) -> MutexGuard<'_, TokenState> {
        lock(&self.state)
    }
}

/// Returns true if the failure may pass without a person's help.
fn is_transient(error: &FetchError) -> bool {
    match error {
        FetchError::NoRefreshToken | FetchError::NotAuthorized | FetchError::Secret(_) => false,
        FetchError::Deadline
        | FetchError::Missing(_)
        | FetchError::NoTicket
        | FetchError::Platform(_)
        | FetchError::State(_) => true,
        FetchError::WeChat(error @ wechat::Error::Refused { code, .. }) => {
            *code == Errcode::BUSY || refuses_ticket(error)
        }
        FetchError::WeChat(wechat::Error::ProxyRefused) => false,
        FetchError::WeChat(_) => true,
    }
}

/// Returns true if another attempt in the same refresh may help.
fn repeats_soon(error: &FetchError) -> bool {
    let is_of_call = matches!(error, FetchError::WeChat(error) if !refuses_ticket(error));
    is_of_call && is_transient(error) && asked_pause(error).is_zero()
}

/// Returns the pause that the server's `Retry-After` asks for.
fn asked_pause(error: &FetchError) -> Duration {
    match error {
        FetchError::WeChat(error) => error.retry_after().unwrap_or_default(),
        _ => Duration::ZERO,
    }
}

/// Returns true if the failure passes with the next minute.
fn is_minute_quota(error: &FetchError) -> bool {
    matches!(error, FetchError::WeChat(wechat::Error::Refused { code: Errcode::MINUTE_QUOTA, .. }))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::config::AccountKind;

    fn tokens(clock: &Clock) -> (TempDir, Arc<Tokens>) {
        let settings = config::Account {
            app_id: "wx0000000000000001".to_owned().into(),
            kind: AccountKind::Official,
            default: true,
            secret: Some(SecretSource::Value("hush".to_owned().into())),
            token: TokenKind::Stable,
            paused: false,
            read_only: false,
            force_refresh: false,
            callback: None,
        };
        let client =
            Client::new(&config::WeChat::default(), clock, crate::metrics::Metrics::default())
                .expect("a client");
        let (folder, shared) = state::temporary(clock);
        let services = Services { client, state: shared, clock: clock.clone() };
        (folder, Tokens::of_account(&settings, &services).expect("tokens"))
    }

    fn fetched(value: &str, life: u64) -> Fetched {
        Fetched { value: value.to_owned().into(), life: Duration::from_secs(life) }
    }

    #[test]
    fn late_answer_does_not_replace_newer_token() {
        let clock = Clock::frozen();
        let (_folder, tokens) = tokens(&clock);
        tokens.store(2, fetched("newer", 7_200), clock.now());
        let kept = tokens.store(1, fetched("older", 7_200), clock.now());
        assert_eq!(kept.access.value().expose(), "newer");
        assert_eq!(tokens.current().expect("a token").access.value().expose(), "newer");
    }

    #[test]
    fn token_life_counts_from_its_request() {
        let clock = Clock::frozen();
        let (_folder, tokens) = tokens(&clock);
        let sent_at = clock.now();
        clock.advance(Duration::from_secs(100));
        for (number, life, ahead) in [(1, 7_200, 240..=300), (2, 60, 0..=30)] {
            let token = tokens.store(number, fetched("t", life), sent_at);
            assert_eq!(token.expires_at, sent_at + Duration::from_secs(life));
            let left = (token.expires_at - token.renew_at).as_secs();
            assert!(ahead.contains(&left), "{left} s before the end of {life} s");
        }
        let renewals: Vec<_> =
            (3..9).map(|n| tokens.store(n, fetched("t", 7_200), sent_at).renew_at).collect();
        assert!(renewals.iter().any(|at| *at != renewals[0]), "replicas renew apart");
    }

    #[tokio::test]
    async fn lease_of_set_back_clock_does_not_block() {
        let clock = Clock::system();
        let (_folder, tokens) = tokens(&clock);
        let year = 365 * DAY;
        tokens.shared.acquire(&tokens.lease(), year).await.expect("a state");
        let asked = tokio::time::timeout(DAY / 3600, tokens.get(clock.now() + year));
        let answer = asked.await.expect("the wait ends within a year");
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "WeChat was asked: {answer:?}");
    }

    #[test]
    fn same_value_keeps_generation_and_age() {
        let clock = Clock::frozen();
        let (_folder, tokens) = tokens(&clock);
        let first = tokens.store(1, fetched("t", 7_200), clock.now());
        clock.advance(Duration::from_secs(60));
        let again = tokens.store(2, fetched("t", 7_140), clock.now());
        assert_eq!((again.generation, again.fetched_at), (first.generation, first.fetched_at));
        let other = tokens.store(3, fetched("u", 7_200), clock.now());
        assert_eq!((other.generation, other.fetched_at), (first.generation + 1, clock.now()));
    }

    #[test]
    fn failure_pauses_grow_until_success() {
        let clock = Clock::frozen();
        let (_folder, tokens) = tokens(&clock);
        let refused = |code| {
            let (code, message) = (Errcode(code), String::new());
            FetchError::WeChat(wechat::Error::Refused { code, message })
        };
        let pause = |error| {
            tokens.fail(error);
            let state = tokens.lock();
            (state.failure.as_ref().expect("a failure").retry_at - clock.now()).as_secs()
        };
        let lost = || FetchError::WeChat(wechat::Error::Lost { cause: String::new() });
        assert_eq!([(); 7].map(|()| pause(lost())), [1, 2, 4, 8, 16, 30, 30]);
        for permanent in [
            refused(40164),
            FetchError::Secret(SecretUnreadable("?".into())),
            FetchError::WeChat(wechat::Error::ProxyRefused),
        ] {
            assert_eq!(pause(permanent), 60);
        }
        tokens.store(1, fetched("t", 7_200), clock.now());
        assert_eq!(pause(refused(-1)), 1);
        let ends_in = 60 - clock.unix() % 60;
        assert_eq!(
            [pause(refused(45011)), pause(refused(45011))],
            [ends_in; 2],
            "the minute's end"
        );
        let limited = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            FetchError::WeChat(wechat::Error::NotExecuted { status: 429, retry_after })
        };
        assert!(!repeats_soon(&limited(1)) && repeats_soon(&lost()));
        assert_eq!([1, 77, 9_999].map(|asked| pause(limited(asked))), [8, 77, 300]);
    }
}
