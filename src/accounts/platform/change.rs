//! Stores the pushes about a platform: tickets and authorizations.
//!
//! A change is stored before WeChat gets its confirmation. The newest one counts by WeChat's own time, so a
//! push that comes twice or late does no harm. The questions to WeChat after an authorization follow in the
//! background. If the process ends before, the next one continues, because the code is stored.

use std::sync::Arc;

use prost::Message;

use super::{Error, Inner, Platform, authorizers::record, token_name};
use crate::{
    pb::platform::AuthorizerRecord,
    state::{self, Authorizer},
    util::id::{AppId, Secret},
    wechat::{self, Errcode, component::QueryAuth},
};

/// The attempts to store a refresh token while another one replaces it.
const MOST_REPLACEMENTS: u32 = 3;

/// A push about a platform. Each has the time at which WeChat sent it, in seconds after 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// An account authorized the platform, or changed what it grants.
    Authorized {
        /// The account.
        app_id: AppId,
        /// The code that WeChat exchanges once for a refresh token.
        code: Option<Secret>,
        /// The time.
        sent_at: u64,
    },
    /// A new ticket.
    Ticket {
        /// The ticket.
        ticket: Secret,
        /// The time.
        sent_at: u64,
    },
    /// An account withdrew its authorization.
    Unauthorized {
        /// The account.
        app_id: AppId,
        /// The time.
        sent_at: u64,
    },
}

impl Inner {
    /// Stores a change. It is durable when this returns.
    pub(super) async fn apply(
        self: &Arc<Self>,
        platform: &AppId,
        change: Change,
    ) -> Result<(), state::Error> {
        // The settings no longer have the platform.
        let Some(platform) = self.directory.get(platform) else { return Ok(()) };
        match change {
            Change::Ticket { ticket, sent_at } => {
                self.directory
                    .services
                    .state
                    .put_ticket(&platform.app_id, &ticket, sent_at)
                    .await?;
                platform.tokens.try_again();
                self.directory.has_ticket.notify_one();
                Ok(())
            }
            Change::Authorized { app_id, code, sent_at } => {
                self.authorized(platform, app_id, code, sent_at).await
            }
            Change::Unauthorized { app_id, sent_at } => {
                self.unauthorized(&platform, app_id, sent_at).await
            }
        }
    }

    async fn authorized(
        self: &Arc<Self>,
        platform: Arc<Platform>,
        app_id: AppId,
        code: Option<Secret>,
        sent_at: u64,
    ) -> Result<(), state::Error> {
        if !platform.put_authorization(&app_id, code.as_ref(), sent_at).await? {
            return Ok(());
        }
        self.authorizers.changed(&app_id);
        tracing::info!(%app_id, platform = %platform.app_id, "an account authorized the platform");
        let inner = self.clone();
        tokio::spawn(async move {
            if let Some(code) = code {
                platform.exchange(&app_id, code, sent_at).await;
            }
            platform.describe(&app_id, sent_at).await;
            inner.authorizers.changed(&app_id);
        });
        Ok(())
    }

    async fn unauthorized(
        &self,
        platform: &Platform,
        app_id: AppId,
        sent_at: u64,
    ) -> Result<(), state::Error> {
        let state = &self.directory.services.state;
        let authorizer = Authorizer {
            authorized: false,
            ..platform.new_authorizer(&app_id, sent_at, None, Default::default())
        };
        if !state.put_authorizer(&authorizer, false).await? {
            return Ok(());
        }
        state.drop_token(&token_name(&platform.app_id, &app_id)).await?;
        self.authorizers.drop_token(&app_id);
        tracing::info!(
            %app_id,
            platform = %platform.app_id,
            "an account withdrew its authorization of the platform"
        );
        Ok(())
    }
}

impl Platform {
    /// Stores an authorization and its code. Returns false if a later change is stored.
    ///
    /// A refresh token that is stored stays until WeChat returns the next one for the code, because it usually
    /// works on.
    async fn put_authorization(
        &self,
        app_id: &AppId,
        code: Option<&Secret>,
        sent_at: u64,
    ) -> Result<bool, state::Error> {
        let known = self.stored(app_id).await?;
        self.put_after(known, app_id, code, sent_at).await
    }

    /// Stores an authorization as [`put_authorization`](Self::put_authorization) does. `known` is the row that was
    /// read before, and can have changed meanwhile.
    async fn put_after(
        &self,
        known: Option<Authorizer>,
        app_id: &AppId,
        code: Option<&Secret>,
        sent_at: u64,
    ) -> Result<bool, state::Error> {
        let state = &self.services.state;
        let code = code.map(|code| code.expose().to_owned());
        match known.filter(|known| known.authorized) {
            // The same push again, or another change in the same second. An exchange may store a refresh token
            // at this moment, so only the code is written.
            Some(known) if known.changed_at == sent_at => {
                let Some(authorization_code) = code else { return Ok(true) };
                let record = AuthorizerRecord { authorization_code, ..record(&known) };
                let record = record.encode_to_vec();
                state.describe_authorizer(&self.app_id, app_id, sent_at, &record).await
            }
            known => {
                let authorization_code = code.unwrap_or_default();
                let record = AuthorizerRecord { authorization_code, ..Default::default() };
                let refresh_token = known.and_then(|known| known.refresh_token);
                let authorizer = self.new_authorizer(app_id, sent_at, refresh_token, record);
                state.put_authorizer(&authorizer, false).await
            }
        }
    }

    /// Exchanges the code of an authorization for a refresh token and a first token, and stores both, the
    /// refresh token first. An authorization that changed since `changed_at` stays. WeChat accepts a code once.
    /// A failure is logged: WeChat also returns the refresh token when it is asked about the account, unless the
    /// code was never exchanged.
    pub(super) async fn exchange(&self, app_id: &AppId, code: Secret, changed_at: u64) {
        let call =
            QueryAuth { component_appid: self.app_id.clone(), authorization_code: code.clone() };
        let sent_at = self.services.clock.now();
        let reply = match self.ask(&call, self.background_deadline()).await {
            Ok(reply) => reply.authorization_info,
            Err(error) => {
                tracing::warn!(
                    %app_id,
                    platform = %self.app_id,
                    "failed to exchange the code of an authorization: {error}"
                );
                if matches!(&error, Error::WeChat { error, .. } if is_final(error)) {
                    self.drop_code(app_id, &code).await;
                }
                return;
            }
        };
        if reply.authorizer_appid != *app_id {
            tracing::warn!(
                %app_id,
                platform = %self.app_id,
                "WeChat exchanged the code of an authorization for another account"
            );
            return;
        }
        // Without the permission for any call, there are no tokens.
        let Some(refresh_token) = reply.refresh_token() else {
            return self.drop_code(app_id, &code).await;
        };
        // If the state fails, the code stays. WeChat refuses it next time, and is then asked about the account.
        let Ok(stored) = self.put_refresh_token(app_id, changed_at, &refresh_token).await else {
            return;
        };
        self.drop_code(app_id, &code).await;
        if let Some((token, life)) = reply.access_token().filter(|_| stored) {
            let life = life.saturating_sub(self.services.clock.now() - sent_at);
            let (state, name) = (&self.services.state, token_name(&self.app_id, app_id));
            let before = state.token(&name).await.ok().flatten();
            let before = before.map_or(0, |token| token.generation);
            // If this fails, the first call fetches a token.
            let _ = state.put_token(&name, before, &token, life).await;
            self.confirm_token(app_id).await;
        }
    }

    /// Stores the refresh token of an authorization in place of the present one. Returns false if the
    /// authorization changed since `changed_at`.
    async fn put_refresh_token(
        &self,
        app_id: &AppId,
        changed_at: u64,
        value: &Secret,
    ) -> Result<bool, state::Error> {
        for _ in 0..MOST_REPLACEMENTS {
            let known = self.stored(app_id).await?;
            let is_same = |known: &Authorizer| known.authorized && known.changed_at == changed_at;
            let Some(known) = known.filter(is_same) else { return Ok(false) };
            let (state, before) = (&self.services.state, known.refresh_token.as_ref());
            // A refresh can replace it at the same moment.
            if state.replace_refresh_token(&self.app_id, app_id, before, value).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks after a token of an account was stored whether the account still authorizes the platform. If it
    /// does not, deletes the token and returns false.
    ///
    /// A withdrawal is stored before it deletes the token. So a token that is stored at the same moment is
    /// deleted there or here. If the state fails, WeChat itself refuses the token.
    pub(super) async fn confirm_token(&self, app_id: &AppId) -> bool {
        let state = &self.services.state;
        match state.authorizer(&self.app_id, app_id).await {
            Ok(found) if found.as_ref().is_none_or(|found| !found.authorized) => {
                // If this fails, the token expires within two hours.
                let _ = state.drop_token(&token_name(&self.app_id, app_id)).await;
                false
            }
            _ => true,
        }
    }

    /// Forgets a code, because WeChat never accepts it again. If this fails, WeChat refuses the code once more.
    async fn drop_code(&self, app_id: &AppId, code: &Secret) {
        let Ok(Some(known)) = self.stored(app_id).await else { return };
        let record = record(&known);
        // A later authorization has a code of its own.
        if record.authorization_code != code.expose() {
            return;
        }
        let record = AuthorizerRecord { authorization_code: String::new(), ..record };
        let (state, record) = (&self.services.state, record.encode_to_vec());
        let _ = state.describe_authorizer(&self.app_id, app_id, known.changed_at, &record).await;
    }
}

/// Returns true if WeChat refuses the code itself, and not the call.
fn is_final(error: &wechat::Error) -> bool {
    let wechat::Error::Refused { code, .. } = error else { return false };
    [Errcode::CODE_INVALID, Errcode::CODE_EXPIRED].contains(code)
}

#[cfg(test)]
mod tests {
    use super::{super::authorizers::left_code, *};
    use crate::{
        accounts::Services,
        config::{Environment, Settings},
        metrics::Metrics,
        state::temporary,
        util::clock::Clock,
        wechat::Client,
    };

    /// WeChat repeats the push, and the exchange of the code ends between a read and a write of the row.
    #[tokio::test]
    async fn repeated_authorization_keeps_new_refresh_token() {
        let clock = Clock::frozen();
        let file = "[[platforms]]\napp_id = \"wx00000000000000c1\"\nsecret = \"s\"\n\
            token = \"token\"\naes_key = \"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\"\n";
        let settings = Settings::parse(file, &Environment::new()).expect("good settings");
        let client = Client::new(&settings.wechat, &clock, Metrics::default()).expect("a client");
        let (_folder, state) = temporary(&clock);
        let services = Services { client, state, clock: clock.clone() };
        let platform = Platform::new(&settings.platforms[0], None, services);
        let (app_id, sent_at) = (AppId::from("wx00000000000000d1".to_owned()), clock.unix());
        let code = Secret::from("code".to_owned());
        let stored = async || platform.stored(&app_id).await.expect("a state").expect("a row");
        assert!(platform.put_authorization(&app_id, Some(&code), sent_at).await.expect("a state"));
        let before = stored().await;
        let value = Secret::from("new".to_owned());
        let put = platform.put_refresh_token(&app_id, sent_at, &value).await;
        assert!(put.expect("a state"));
        let put = platform.put_after(Some(before), &app_id, Some(&code), sent_at).await;
        assert!(put.expect("a state"));
        assert_eq!(stored().await.refresh_token, Some(value));
        assert_eq!(left_code(&stored().await), Some(code.clone()), "it is exchanged again");
        // Of an older authorization nothing is stored.
        let late = platform.put_refresh_token(&app_id, sent_at - 1, &code).await;
        assert!(!late.expect("a state"));
    }
}
