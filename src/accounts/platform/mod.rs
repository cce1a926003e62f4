//! Third-party platforms (第三方平台), and the accounts that authorized them: the authorizers.
//!
//! A platform acts for any number of accounts. WeChat sends it a *ticket* every ten minutes. Ticket and secret
//! give the platform's own token, and that token gives a token for each authorizer, together with the
//! authorizer's *refresh token*.
//!
//! * [`Platforms`] is the door of this room.
//! * `ask` sends a call with a platform's own token.
//! * `source` fetches the tokens of platforms and authorizers.
//! * `authorizers` keeps the accounts that are in use in memory, and reads them from the state.
//! * `change` stores tickets and authorizations that WeChat pushes.
//! * `list` reads all authorizers from WeChat, when the state lost them or missed a push.
//! * `link` creates the link with which an account authorizes a platform.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};

use self::{
    authorizers::Authorizers,
    source::{AuthorizerSource, PlatformSource},
};
pub(crate) use self::{
    authorizers::{Authorization, record},
    change::Change,
    link::{Form, Link},
};
use super::{Account, Services, token};
use crate::{
    config,
    state::{self, Authorizer, Ticket},
    util::id::AppId,
    wechat,
};

mod ask;
mod authorizers;
mod change;
mod link;
mod list;
mod source;

pub(in crate::accounts) use self::source::refuses_ticket;

/// The calls of one platform that run at the same time. More than that wait, so that thousands of accounts
/// that need a token at once do not flood WeChat.
const CONCURRENT_CALLS: usize = 16;
/// The limit for a call of a platform in the background.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The platforms of the settings, and their authorizers. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Platforms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Arc<Directory>,
    authorizers: Authorizers,
}

/// The platforms at one time, for all parts of this room.
#[derive(Debug)]
struct Directory {
    services: Services,
    current: ArcSwap<Vec<Arc<Platform>>>,
    /// Notified when a ticket of any platform arrives.
    has_ticket: Notify,
}

/// One platform.
#[derive(Debug)]
pub(crate) struct Platform {
    /// The id of the platform.
    pub(crate) app_id: AppId,
    /// Its own tokens.
    pub(crate) tokens: Arc<token::Tokens>,
    /// Its settings.
    pub(crate) settings: config::Platform,
    services: Services,
    /// Limits its concurrent calls.
    calls: Arc<Semaphore>,
}

/// The reason why a platform cannot do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The call would have come too late.
    #[error("the deadline passed before the call was sent")]
    Deadline,
    /// The request names no platform, and the settings do not have exactly one.
    #[error("{}", no_default(*has_several))]
    NoDefault {
        /// True if the settings have several.
        has_several: bool,
    },
    /// The platform has no secret that can be read.
    #[error(transparent)]
    Secret(#[from] token::SecretUnreadable),
    /// The state failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The platform has no token.
    #[error("{error}")]
    Token {
        /// The platform.
        platform: AppId,
        /// The reason.
        error: token::Error,
    },
    /// The settings have no such platform.
    #[error("{app_id:?} is not a platform in the settings")]
    Unknown {
        /// The id of the request.
        app_id: String,
    },
    /// WeChat refused the call, or did not answer it.
    #[error("{error}")]
    WeChat {
        /// The call.
        path: &'static str,
        /// The error.
        error: wechat::Error,
    },
}

/// Returns the text without a number, because not every caller may learn it.
fn no_default(has_several: bool) -> &'static str {
    match has_several {
        false => "the settings have no platform",
        true => "the settings have several platforms, so the request must name one",
    }
}

impl Platforms {
    /// Returns the platforms of the settings. Sends nothing to WeChat yet.
    pub(crate) fn new(
        settings: &[config::Platform],
        limits: &config::Limits,
        services: Services,
    ) -> Self {
        let directory = Arc::new(Directory {
            services,
            current: ArcSwap::default(),
            has_ticket: Notify::new(),
        });
        let authorizers = Authorizers::new(directory.clone(), limits.account_concurrency());
        let platforms = Self(Arc::new(Inner { directory, authorizers }));
        platforms.update(settings, limits);
        platforms
    }

    /// Replaces the platforms. A platform that stays keeps its token, unless its secret changed.
    pub(super) fn update(&self, settings: &[config::Platform], limits: &config::Limits) {
        let Inner { directory, authorizers } = &*self.0;
        let before = directory.current.load();
        let platforms = settings.iter().map(|settings| {
            match before.iter().find(|known| known.app_id == settings.app_id) {
                Some(known) if known.settings == *settings => known.clone(),
                known => Arc::new(Platform::new(settings, known, directory.services.clone())),
            }
        });
        directory.current.store(Arc::new(platforms.collect()));
        authorizers.update(limits.account_concurrency());
    }

    /// Returns true if the settings have no platform.
    pub(crate) fn are_none(&self) -> bool {
        self.0.directory.current.load().is_empty()
    }

    /// Returns all platforms, in the order of the settings.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<Platform>>> {
        self.0.directory.current.load_full()
    }

    /// Returns the platform of this id. Empty: the only platform of the settings.
    ///
    /// Fails if there is no such platform, or if the id is empty and there is not exactly one.
    pub(crate) fn named(&self, app_id: &str) -> Result<Arc<Platform>, Error> {
        let current = self.0.directory.current.load();
        match (app_id, &current[..]) {
            ("", [only]) => Ok(only.clone()),
            ("", several) => Err(Error::NoDefault { has_several: !several.is_empty() }),
            _ => {
                let named = current.iter().find(|platform| platform.app_id.as_str() == app_id);
                named.cloned().ok_or_else(|| Error::Unknown { app_id: app_id.to_owned() })
            }
        }
    }

    /// Returns an authorizer as an account. `None` if the account authorized no platform.
    ///
    /// Fails if it withdrew its authorization, or if the state fails.
    pub(super) async fn account(&self, app_id: &str) -> Result<Option<Arc<Account>>, super::Error> {
        match self.are_none() {
            true => Ok(None),
            false => self.0.authorizers.account(app_id).await,
        }
    }

    /// Asks WeChat again what an authorizer granted, unless that is recent: the push about a change may be lost.
    pub(super) fn describe_again(&self, account: &Account) {
        self.0.authorizers.describe_again(&account.app_id);
    }

    /// Stores a change of a platform. It is durable when this returns.
    pub(crate) async fn apply(&self, platform: &AppId, change: Change) -> Result<(), state::Error> {
        self.0.apply(platform, change).await
    }

    /// Returns an authorizer of a platform. `None` if the account never authorized it.
    pub(crate) async fn authorizer(
        &self,
        platform: &Platform,
        app_id: &AppId,
    ) -> Result<Option<Authorizer>, Error> {
        Ok(platform.services.state.authorizer(&platform.app_id, app_id).await?)
    }

    /// Returns authorizers of a platform, ordered by their ids. Those that withdrew their authorization are
    /// among them.
    pub(crate) async fn authorizers(
        &self,
        platform: &Platform,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, Error> {
        Ok(platform.services.state.authorizers(&platform.app_id, after, most).await?)
    }

    /// Keeps the authorizers complete until `stop`: at the start and once a day, reads the list of WeChat.
    pub(crate) async fn follow(self, stop: tokio_util::sync::CancellationToken) {
        stop.run_until_cancelled(list::follow(self)).await;
    }
}

impl Platform {
    fn new(settings: &config::Platform, before: Option<&Arc<Self>>, services: Services) -> Self {
        let app_id = settings.app_id.clone();
        let kept = before.filter(|before| before.settings.secret == settings.secret);
        let tokens = kept.map_or_else(
            || {
                let secret = settings.secret.clone();
                let state = services.state.clone();
                let source = PlatformSource::new(app_id.clone(), secret, state);
                token::Tokens::new(
                    app_id.clone(),
                    app_id.clone(),
                    Box::new(source),
                    false,
                    &services,
                )
            },
            |before| before.tokens.clone(),
        );
        let new = || Arc::new(Semaphore::new(CONCURRENT_CALLS));
        let calls = before.map_or_else(new, |before| before.calls.clone());
        Self { app_id, tokens, settings: settings.clone(), services, calls }
    }

    /// Returns the newest ticket. `None` if there is none that WeChat accepts.
    pub(crate) async fn ticket(&self) -> Result<Option<Ticket>, Error> {
        Ok(self.services.state.ticket(&self.app_id).await?)
    }

    /// Returns an authorizer as the state has it. A damaged row counts as absent, so that WeChat's answer
    /// replaces it.
    async fn stored(&self, app_id: &AppId) -> Result<Option<Authorizer>, state::Error> {
        match self.services.state.authorizer(&self.app_id, app_id).await {
            Err(state::Error::Unreadable(_)) => Ok(None),
            found => found,
        }
    }

    /// Returns the time by which a call in the background must end.
    fn background_deadline(&self) -> Instant {
        self.services.clock.now() + TIME_LIMIT
    }
}

impl Directory {
    /// Returns the platform of this id, if the settings have it.
    fn get(&self, app_id: &AppId) -> Option<Arc<Platform>> {
        self.current.load().iter().find(|platform| platform.app_id == *app_id).cloned()
    }

    /// Returns the tokens of an authorizer.
    fn tokens(self: &Arc<Self>, platform: &AppId, app_id: &AppId) -> Arc<token::Tokens> {
        let source = AuthorizerSource::new(self.clone(), platform.clone(), app_id.clone());
        let name = token_name(platform, app_id);
        token::Tokens::new(app_id.clone(), name, Box::new(source), false, &self.services)
    }
}

/// Returns the name under which the state has the token of an authorizer. An account can authorize several
/// platforms, and each has a token of its own.
fn token_name(platform: &AppId, app_id: &AppId) -> AppId {
    AppId::from(format!("{app_id}@{platform}"))
}
