//! The sources of tokens: of a platform, by its ticket, and of an authorizer, by its refresh token.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    super::token::{self, FetchError, Fetched, SecretUnreadable, Source, ask},
    Directory, Error, Platform,
    ask::refuses_token,
    authorizers::{is_not_authorized, left_code},
    list, token_name,
};
use crate::{
    config::SecretSource,
    state::{Authorizer, State},
    util::{
        id::{AppId, Secret},
        lock,
    },
    wechat::{
        self, Client, Endpoint, Errcode, TokenName, Tries,
        component::{AuthorizerToken, ComponentToken, StartPushTicket},
    },
};

/// The pause between two requests for a ticket, over all replicas.
const TICKET_PAUSE: Duration = Duration::from_secs(600);

/// The source of a platform's own token.
#[derive(Debug)]
pub(super) struct PlatformSource {
    app_id: AppId,
    secret: SecretSource,
    state: Arc<dyn State>,
}

impl PlatformSource {
    pub(super) fn new(app_id: AppId, secret: SecretSource, state: Arc<dyn State>) -> Self {
        Self { app_id, secret, state }
    }

    async fn token(&self, client: &Client, tries: &mut Tries) -> Result<Fetched, FetchError> {
        let secret = self.secret.read().map_err(SecretUnreadable::from)?;
        let Some(ticket) = self.state.ticket(&self.app_id).await? else {
            self.request_ticket(client, secret).await;
            return Err(FetchError::NoTicket);
        };
        let call = |ticket| ComponentToken {
            component_appid: self.app_id.clone(),
            component_appsecret: secret.clone(),
            component_verify_ticket: ticket,
        };
        let refused = match ask(client, call(ticket.value.clone()), tries).await {
            Err(FetchError::WeChat(error)) if refuses_ticket(&error) => error,
            fetched => return fetched,
        };
        // A newer ticket may have arrived meanwhile.
        match self.state.ticket(&self.app_id).await? {
            Some(newer) if newer.value != ticket.value => {
                ask(client, call(newer.value), tries).await
            }
            _ => Err(refused.into()),
        }
    }

    /// Asks WeChat to push tickets again. WeChat stops if the address did not answer for long. A failure is
    /// only logged, because the caller gets the error about the missing ticket.
    async fn request_ticket(&self, client: &Client, secret: Secret) {
        let counter = format!("ticket/{}", self.app_id);
        if !self.state.spend(&counter, 1, TICKET_PAUSE).await.is_ok_and(|left| left) {
            return;
        }
        let call =
            StartPushTicket { component_appid: self.app_id.clone(), component_secret: secret };
        match super::link::start_push(client, &call).await {
            Ok(()) => tracing::info!(
                platform = %self.app_id,
                "asked WeChat to push a ticket, because there is none"
            ),
            Err(error) => tracing::warn!(
                platform = %self.app_id,
                "failed to ask WeChat for a ticket: {error}"
            ),
        }
    }
}

impl Source for PlatformSource {
    fn path(&self) -> &'static str {
        ComponentToken::PATH
    }

    fn can_force(&self) -> bool {
        false
    }

    fn token_name(&self) -> TokenName {
        TokenName::ComponentAccessToken
    }

    fn fetch<'a>(
        &'a self,
        client: &'a Client,
        tries: &'a mut Tries,
        _force: bool,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        self.token(client, tries).boxed()
    }
}

/// The source of an authorizer's token.
#[derive(Debug)]
pub(super) struct AuthorizerSource {
    directory: Arc<Directory>,
    platform: AppId,
    app_id: AppId,
    /// A refresh token that WeChat returned and that could not be stored: the one that it replaces, and itself.
    unsaved: Mutex<Option<(Secret, Secret)>>,
}

impl AuthorizerSource {
    pub(super) fn new(directory: Arc<Directory>, platform: AppId, app_id: AppId) -> Self {
        Self { directory, platform, app_id, unsaved: Mutex::default() }
    }

    async fn token(&self, tries: &mut Tries) -> Result<Fetched, FetchError> {
        let platform = self.directory.get(&self.platform).ok_or(FetchError::NotAuthorized)?;
        self.save_left().await?;
        let mut authorizer = self.authorizer().await?;
        if authorizer.refresh_token.is_none() {
            authorizer = self.exchanged(&platform, authorizer).await?;
        }
        let (refresh_token, is_fresh) = match &authorizer.refresh_token {
            Some(refresh_token) => (refresh_token.clone(), false),
            None => (self.recovered(&platform, None).await?, true),
        };
        let refused = match self.refresh(&platform, &refresh_token, tries).await {
            Err(FetchError::WeChat(error))
                if refuses_refresh_token(&error) || is_not_authorized(&error) =>
            {
                error
            }
            fetched => return fetched,
        };
        let newer = self.authorizer().await?;
        let newer = self.exchanged(&platform, newer).await?.refresh_token;
        let next = match newer.filter(|newer| *newer != refresh_token) {
            // The account authorized the platform again, or another replica recovered the token.
            Some(newer) => newer,
            None if is_not_authorized(&refused) => {
                self.end(authorizer.changed_at).await?;
                return Err(refused.into());
            }
            None if is_fresh => return Err(refused.into()),
            None => match self.recovered(&platform, Some(&refresh_token)).await {
                Ok(recovered) => recovered,
                Err(FetchError::NoRefreshToken) => return Err(refused.into()),
                Err(error) => return Err(error),
            },
        };
        self.refresh(&platform, &next, tries).await
    }

    /// Exchanges the code of an authorization that is left, if there is one. Returns the authorizer as it is then.
    async fn exchanged(
        &self,
        platform: &Platform,
        authorizer: Authorizer,
    ) -> Result<Authorizer, FetchError> {
        let Some(code) = left_code(&authorizer) else { return Ok(authorizer) };
        platform.exchange(&self.app_id, code, authorizer.changed_at).await;
        self.authorizer().await
    }

    /// Stores that the account withdrew its authorization, because WeChat states it and the push was lost. Deletes
    /// its token. A change since `changed_at` stays.
    async fn end(&self, changed_at: u64) -> Result<(), FetchError> {
        let ended = Authorizer {
            platform: self.platform.clone(),
            app_id: self.app_id.clone(),
            changed_at,
            authorized: false,
            refresh_token: None,
            record: Vec::new(),
        };
        let state = &self.directory.services.state;
        if state.put_authorizer(&ended, false).await? {
            state.drop_token(&token_name(&self.platform, &self.app_id)).await?;
        }
        Ok(())
    }

    /// Returns the authorizer as the state has it. Fails if it is not authorized.
    async fn authorizer(&self) -> Result<Authorizer, FetchError> {
        let found = self.directory.services.state.authorizer(&self.platform, &self.app_id).await?;
        found.filter(|found| found.authorized).ok_or(FetchError::NotAuthorized)
    }

    /// Fetches a token. Stores the refresh token that comes with it before it returns.
    async fn refresh(
        &self,
        platform: &Platform,
        refresh_token: &Secret,
        tries: &mut Tries,
    ) -> Result<Fetched, FetchError> {
        let call = AuthorizerToken {
            component_appid: self.platform.clone(),
            authorizer_appid: self.app_id.clone(),
            authorizer_refresh_token: refresh_token.clone(),
        };
        let deadline = platform.background_deadline();
        let reply = platform.ask_once(&call, tries, deadline).await?;
        let life = reply.life().unwrap_or_default();
        // Without one, the present one stays.
        if let Some(returned) = reply.refresh_token().filter(|returned| returned != refresh_token) {
            self.save(refresh_token.clone(), returned).await?;
        }
        Ok(Fetched { value: reply.authorizer_access_token.0.into(), life })
    }

    /// Stores a refresh token in place of another. If the account authorized the platform anew meanwhile, that
    /// authorization stays.
    async fn save(&self, before: Secret, value: Secret) -> Result<(), FetchError> {
        let state = &self.directory.services.state;
        let (platform, app_id) = (&self.platform, &self.app_id);
        let replaced = state.replace_refresh_token(platform, app_id, Some(&before), &value).await;
        let failed = replaced.as_ref().is_err();
        *lock(&self.unsaved) = failed.then_some((before, value));
        replaced?;
        Ok(())
    }

    /// Stores the refresh token that could not be stored before.
    async fn save_left(&self) -> Result<(), FetchError> {
        let left = lock(&self.unsaved).clone();
        match left {
            Some((before, value)) => self.save(before, value).await,
            None => Ok(()),
        }
    }

    /// Returns the refresh token that WeChat has for the account, after storing it in place of `before`.
    async fn recovered(
        &self,
        platform: &Platform,
        before: Option<&Secret>,
    ) -> Result<Secret, FetchError> {
        let found = list::refresh_token(platform, &self.app_id, before).await?;
        let Some(value) = found else { return Err(FetchError::NoRefreshToken) };
        let state = &self.directory.services.state;
        state.replace_refresh_token(&self.platform, &self.app_id, before, &value).await?;
        tracing::info!(
            app_id = %self.app_id,
            platform = %self.platform,
            "recovered the refresh token from WeChat"
        );
        // Another replica, or a new authorization, may have stored another one first.
        self.authorizer().await?.refresh_token.ok_or(FetchError::NoRefreshToken)
    }
}

impl Source for AuthorizerSource {
    fn path(&self) -> &'static str {
        AuthorizerToken::PATH
    }

    fn can_force(&self) -> bool {
        false
    }

    fn fetch<'a>(
        &'a self,
        _client: &'a Client,
        tries: &'a mut Tries,
        _force: bool,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        self.token(tries).boxed()
    }

    fn confirm(&self) -> BoxFuture<'_, bool> {
        async {
            match self.directory.get(&self.platform) {
                Some(platform) => platform.confirm_token(&self.app_id).await,
                // Its calls are refused.
                None => true,
            }
        }
        .boxed()
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        match error {
            Error::Token { error, .. } => Self::Platform(Box::new(error)),
            // It is the platform's token that WeChat refuses. The next attempt has a newer one.
            Error::WeChat { path, error } if refuses_token(&error) => {
                Self::Platform(Box::new(token::Error::Refused { path, refusal: error }))
            }
            Error::WeChat { error, .. } => Self::WeChat(error),
            Error::State(error) => Self::State(error),
            Error::Secret(error) => Self::Secret(error),
            Error::Deadline | Error::NoDefault { .. } | Error::Unknown { .. } => Self::Deadline,
        }
    }
}

/// Returns true if WeChat refuses the ticket.
pub(in crate::accounts) fn refuses_ticket(error: &wechat::Error) -> bool {
    let wechat::Error::Refused { code, .. } = error else { return false };
    [Errcode::TICKET_EXPIRED, Errcode::TICKET_INVALID, Errcode::TICKET_REFUSED].contains(code)
}

fn refuses_refresh_token(error: &wechat::Error) -> bool {
    matches!(error, wechat::Error::Refused { code: Errcode::REFRESH_TOKEN_INVALID, .. })
}
