//! The WeChat accounts that the gateway acts for, with their tokens, quotas and concurrency limits.
//!
//! Most are in the settings. The others authorized a third-party platform of the settings: see [`platform`].

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;

use self::platform::{Authorization, Platforms};
use crate::{
    callers::Forbidden,
    config::{self, AccountKind, SecretSource, TokenKind},
    context::Context,
    pb::Access,
    state::{self, State},
    util::clock::Clock,
    util::{id::AppId, scope::Scope},
    wechat::{AccountKinds, Client, Endpoint},
};

pub(crate) mod concurrency;
pub(crate) mod platform;
pub(crate) mod quota;
mod reply_times;
pub(crate) mod token;

/// One official account or mini program.
#[derive(Debug)]
pub(crate) struct Account {
    /// The id of the account.
    pub app_id: AppId,
    /// Whether it is an official account or a mini program. `None` if WeChat has not stated it yet for an
    /// account that authorized a platform.
    pub kind: Option<AccountKind>,
    /// The access tokens of the account. `None` if WeChat identifies its calls without one.
    pub tokens: Option<Arc<token::Tokens>>,
    /// The quotas of the account that are spent.
    pub quotas: Arc<quota::Quotas>,
    /// The limit on concurrent calls of the account.
    pub concurrency: Arc<concurrency::Limit>,
    /// The place from which the gateway knows the account.
    pub origin: Origin,
}

/// The place from which the gateway knows an account.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The account authorized a platform.
    Platform(Authorization),
    /// The settings name the account.
    Settings(Box<config::Account>),
}

/// The parts of the service that fetch tokens and keep them.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) client: Client,
    pub(crate) state: Arc<dyn State>,
    pub(crate) clock: Clock,
}

/// All accounts. Clones are cheap and share everything.
///
/// The settings can change while the process runs. All accounts are then replaced together, so a call
/// sees either the old ones or the new ones. A call keeps the account with which it began.
#[derive(Clone, Debug)]
pub(crate) struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Table>,
    platforms: Platforms,
    services: Services,
}

/// The accounts of the settings at one time.
#[derive(Debug, Default)]
struct Table {
    accounts: HashMap<AppId, Arc<Account>>,
    default_official: Option<Arc<Account>>,
    default_mini_program: Option<Arc<Account>>,
}

/// The reason why no account can serve a call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request names no account, and there is no default account of a suitable kind.
    #[error("the settings name no default account that is {needed}")]
    NoDefault {
        /// The kind of account that the call needs.
        needed: AccountKinds,
    },
    /// The caller may not use the account.
    #[error("the caller may not use the account")]
    Forbidden(Forbidden),
    /// The operator paused the account, or the platform that it authorized.
    #[error(
        "the settings pause {}; calls for it are refused until `paused` is removed",
        with_platform(app_id, platform.as_ref())
    )]
    Paused {
        /// The id of the account.
        app_id: AppId,
        /// The platform that the account authorized. `None` if the settings name the account.
        platform: Option<AppId>,
    },
    /// The operator allows only calls that change nothing.
    #[error(
        "the settings allow only reads of {} until `read_only` is removed",
        with_platform(app_id, platform.as_ref())
    )]
    ReadOnly {
        /// The id of the account.
        app_id: AppId,
        /// The platform that the account authorized. `None` if the settings name the account.
        platform: Option<AppId>,
    },
    /// The account did not give the platform a permission set that the call needs.
    #[error(
        "{app_id} gave the platform {platform} none of the permission sets {} that {path} needs",
        list(sets)
    )]
    NotGranted {
        /// The id of the account.
        app_id: AppId,
        /// The platform that the account authorized.
        platform: AppId,
        /// The call.
        path: &'static str,
        /// The permission sets, one of which is enough.
        sets: &'static [u8],
    },
    /// Too many accounts were looked up at WeChat within a minute, so it is unknown whether this one authorized a
    /// platform.
    #[error("too many unknown accounts were looked up at WeChat; try {app_id} again in a minute")]
    Lookups {
        /// The id of the account.
        app_id: AppId,
    },
    /// WeChat could not be asked whether the account authorized a platform.
    #[error("failed to ask WeChat about the account: {0}")]
    Platform(Box<platform::Error>),
    /// The state failed, so it is unknown whether the account authorized a platform.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The account withdrew its authorization.
    #[error("{app_id} no longer authorizes the platform {platform}")]
    Unauthorized {
        /// The id of the account.
        app_id: AppId,
        /// The platform that the account had authorized.
        platform: AppId,
    },
    /// The account has no token that works outside its container.
    #[error("{app_id} has token = {token:?}, which works only inside its container")]
    TokenStays {
        /// The id of the account.
        app_id: AppId,
        /// The name of its token in the settings.
        token: &'static str,
    },
    /// WeChat does not allow the call from cloud hosting, and the account can call only from there.
    #[error(
        "{app_id} has token = {token:?}, and WeChat does not allow {path} from cloud hosting; it needs an account \
         whose token comes from a secret"
    )]
    NotOfCloud {
        /// The id of the account.
        app_id: AppId,
        /// The name of its token in the settings.
        token: &'static str,
        /// The call.
        path: &'static str,
    },
    /// The account is not configured, and it authorized no platform.
    #[error("{app_id:?} is not in the settings{}", or_authorizer(*has_platforms))]
    Unknown {
        /// The id of the request.
        app_id: String,
        /// Whether the settings have a platform.
        has_platforms: bool,
    },
    /// The account cannot make this call.
    #[error("{app_id} is not {needed}")]
    WrongKind {
        /// The id of the request.
        app_id: String,
        /// The kind of account that the call needs.
        needed: AccountKinds,
    },
}

impl From<Forbidden> for Error {
    fn from(forbidden: Forbidden) -> Self {
        Self::Forbidden(forbidden)
    }
}

/// Returns numbers as text.
fn list(sets: &[u8]) -> String {
    sets.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the name of an account. The settings of an authorizer are those of its platform.
fn with_platform(app_id: &AppId, platform: Option<&AppId>) -> String {
    match platform {
        None => app_id.to_string(),
        Some(platform) => format!("{app_id} with the platform {platform}"),
    }
}

fn or_authorizer(has_platforms: bool) -> &'static str {
    if has_platforms { ", and it authorized none of the platforms there" } else { "" }
}

impl Account {
    /// Returns true if no call may be made for the account.
    pub(crate) fn is_paused(&self) -> bool {
        match &self.origin {
            Origin::Platform(authorization) => authorization.paused,
            Origin::Settings(settings) => settings.paused,
        }
    }

    /// Returns true if only calls that change nothing may be made for the account.
    pub(crate) fn is_read_only(&self) -> bool {
        match &self.origin {
            Origin::Platform(authorization) => authorization.read_only,
            Origin::Settings(settings) => settings.read_only,
        }
    }

    /// Returns true if the gateway receives WeChat's pushes for the account.
    pub(crate) fn receives_pushes(&self) -> bool {
        match &self.origin {
            // All messages about authorizers come to one address of their platform.
            Origin::Platform(_) => true,
            Origin::Settings(settings) => settings.callback.is_some(),
        }
    }

    /// Returns the platform that the account authorized. `None` if the settings name the account.
    pub(crate) fn platform(&self) -> Option<&AppId> {
        match &self.origin {
            Origin::Platform(authorization) => Some(&authorization.platform),
            Origin::Settings(_) => None,
        }
    }

    /// Returns the account's own secret. `None` if the gateway does not have it.
    pub(crate) fn secret(&self) -> Option<&SecretSource> {
        match &self.origin {
            Origin::Platform(_) => None,
            Origin::Settings(settings) => settings.secret.as_ref(),
        }
    }

    /// Fails if the account authorized a platform and did not give it a permission set that the call needs.
    pub(crate) fn check_grant<E: Endpoint>(&self) -> Result<(), Error> {
        let Origin::Platform(authorization) = &self.origin else { return Ok(()) };
        let Some(granted) = &authorization.permission_sets else { return Ok(()) };
        let sets = E::PERMISSION_SETS;
        if sets.is_empty() || sets.iter().any(|set| granted.contains(set)) {
            return Ok(());
        }
        let platform = authorization.platform.clone();
        Err(Error::NotGranted { app_id: self.app_id.clone(), platform, path: E::PATH, sets })
    }

    /// Fails if WeChat does not allow the call from cloud hosting, and the account can call only from there.
    pub(crate) fn check_cloud<E: Endpoint>(&self) -> Result<(), Error> {
        match self.cloud_token().filter(|_| !E::CLOUD) {
            None => Ok(()),
            Some(token) => {
                Err(Error::NotOfCloud { app_id: self.app_id.clone(), token, path: E::PATH })
            }
        }
    }

    /// Returns the name of its token in the settings, if the account can call only from cloud hosting.
    fn cloud_token(&self) -> Option<&'static str> {
        let Origin::Settings(settings) = &self.origin else { return None };
        match &settings.token {
            TokenKind::Cloudbase(_) => Some("cloudbase"),
            TokenKind::OpenInterface => Some("open_interface"),
            TokenKind::Classic | TokenKind::External(_) | TokenKind::Stable => None,
        }
    }

    /// Fails if the account is paused, or if it is read-only and something with this access can change
    /// something.
    fn check_use(&self, access: Access) -> Result<(), Error> {
        let (app_id, platform) = (self.app_id.clone(), self.platform().cloned());
        if self.is_paused() {
            return Err(Error::Paused { app_id, platform });
        }
        if self.is_read_only() && access != Access::Read {
            return Err(Error::ReadOnly { app_id, platform });
        }
        Ok(())
    }

    /// Returns the tokens for another program of the operator, which can do everything with them.
    ///
    /// Fails if the account is paused or read-only, or if its tokens work only inside its container.
    pub(crate) fn given_tokens(&self) -> Result<&Arc<token::Tokens>, Error> {
        self.check_use(Access::Admin)?;
        match (&self.tokens, self.cloud_token()) {
            (Some(tokens), None) => Ok(tokens),
            (_, token) => {
                let token = token.unwrap_or_default();
                Err(Error::TokenStays { app_id: self.app_id.clone(), token })
            }
        }
    }
}

impl Registry {
    /// Creates the accounts from the settings. Sends nothing to WeChat yet.
    pub(crate) fn new(
        settings: &[config::Account],
        platforms: &[config::Platform],
        limits: &config::Limits,
        services: Services,
    ) -> Self {
        let platforms = Platforms::new(platforms, limits, services.clone());
        let registry = Self(Arc::new(Inner { current: ArcSwap::default(), platforms, services }));
        registry.update_accounts(settings, limits);
        registry
    }

    /// Returns the platforms of the settings, and the accounts that authorized them.
    pub(crate) fn platforms(&self) -> &Platforms {
        &self.0.platforms
    }

    /// Replaces the accounts. An account that stays keeps its quotas and its running calls. It keeps its
    /// token, unless the settings of its token changed.
    pub(crate) fn update(
        &self,
        settings: &[config::Account],
        platforms: &[config::Platform],
        limits: &config::Limits,
    ) {
        self.0.platforms.update(platforms, limits);
        self.update_accounts(settings, limits);
    }

    /// Returns the accounts of the settings and the platforms, with their tokens.
    pub(crate) fn token_holders(&self) -> Vec<(AppId, Arc<token::Tokens>)> {
        let platforms = self.0.platforms.all();
        let platforms = platforms.iter().map(|it| (it.app_id.clone(), it.tokens.clone()));
        let accounts = self.all(&Scope::All).into_iter();
        let accounts = accounts.filter_map(|it| Some((it.app_id.clone(), it.tokens.clone()?)));
        accounts.chain(platforms).collect()
    }

    fn update_accounts(&self, settings: &[config::Account], limits: &config::Limits) {
        let platforms = self.0.platforms.all();
        let app_ids = settings.iter().map(|account| account.app_id.as_str());
        let app_ids = app_ids.chain(platforms.iter().map(|platform| platform.app_id.as_str()));
        self.0.services.client.metrics().set_accounts(app_ids);
        let before = self.0.current.load();
        let mut table = Table::default();
        for settings in settings {
            let known = before.accounts.get(&settings.app_id);
            let account = match known {
                Some(account) if account.is_of(settings) => account.clone(),
                _ => Arc::new(self.account(settings, known.map(|known| &**known), limits)),
            };
            account.concurrency.resize(limits.account_concurrency());
            if settings.default {
                *match settings.kind {
                    AccountKind::MiniProgram => &mut table.default_mini_program,
                    AccountKind::Official => &mut table.default_official,
                } = Some(account.clone());
            }
            table.accounts.insert(account.app_id.clone(), account);
        }
        self.0.current.store(Arc::new(table));
    }

    /// Returns an account that is new, or of which the settings changed since `before`.
    fn account(
        &self,
        settings: &config::Account,
        before: Option<&Account>,
        limits: &config::Limits,
    ) -> Account {
        let of_token = |settings: &config::Account| {
            (settings.secret.clone(), settings.token.clone(), settings.force_refresh)
        };
        let kept = before.filter(|before| match &before.origin {
            Origin::Platform(_) => false,
            Origin::Settings(before) => of_token(before) == of_token(settings),
        });
        let tokens = kept.map_or_else(
            || token::Tokens::of_account(settings, &self.0.services),
            |before| before.tokens.clone(),
        );
        let limit = || Arc::new(concurrency::Limit::new(limits.account_concurrency()));
        Account {
            app_id: settings.app_id.clone(),
            kind: Some(settings.kind),
            tokens,
            quotas: before.map(|before| before.quotas.clone()).unwrap_or_default(),
            concurrency: before.map_or_else(limit, |before| before.concurrency.clone()),
            origin: Origin::Settings(Box::new(settings.clone())),
        }
    }

    /// Returns the account of a call that needs WeChat. [`find`](Self::find) describes which one that is.
    ///
    /// Also fails if the account is paused, if it is read-only and the call can change something, if it
    /// did not give its platform the permission for the call, or if the call is not allowed from its cloud.
    pub(crate) async fn serve<E: Endpoint>(&self, ctx: &Context) -> Result<Arc<Account>, Error> {
        let account = self.find(ctx, E::ACCOUNT).await?;
        account.check_use(ctx.access)?;
        account.check_cloud::<E>()?;
        if let Err(refused) = account.check_grant::<E>() {
            self.0.platforms.describe_again(&account);
            return Err(refused);
        }
        Ok(account)
    }

    /// Returns true if the account is paused.
    pub(crate) async fn is_paused(&self, app_id: &str) -> bool {
        let known = self.0.current.load().accounts.get(app_id).cloned();
        match known {
            Some(account) => account.is_paused(),
            None => {
                let found = self.0.platforms.account(app_id).await;
                found.is_ok_and(|account| account.is_some_and(|account| account.is_paused()))
            }
        }
    }

    /// Returns the account that a request names. An empty id means the default account of the kind
    /// that the call needs. If both kinds can serve the call, the official account is preferred.
    ///
    /// Fails if there is no such account, if it is of the wrong kind, or if the caller may not use it.
    pub(crate) async fn find(
        &self,
        ctx: &Context,
        needed: AccountKinds,
    ) -> Result<Arc<Account>, Error> {
        let account = self.0.current.load().named(&ctx.app_id, needed);
        let may = match &account {
            Ok(account) => ctx.caller().may(ctx.access, account.app_id.as_str()),
            // A caller must not learn from the error which accounts exist.
            Err(_) => match ctx.app_id.is_empty() {
                true => ctx.caller().may_everywhere(ctx.access),
                false => ctx.caller().may(ctx.access, &ctx.app_id),
            },
        };
        if !may {
            let app_id = Some(ctx.app_id.clone()).filter(|app_id| !app_id.is_empty());
            return Err(Forbidden::new(ctx.caller(), ctx.access, app_id).into());
        }
        let account = match account {
            Err(Error::Unknown { app_id, .. }) => self.authorizer(app_id, needed).await?,
            account => account?,
        };
        // It may be a default one.
        ctx.progress.note(|write| account.app_id.as_str().clone_into(&mut write.app_id));
        Ok(account)
    }

    /// Returns an account that authorized a platform.
    async fn authorizer(
        &self,
        app_id: String,
        needed: AccountKinds,
    ) -> Result<Arc<Account>, Error> {
        let platforms = &self.0.platforms;
        match platforms.account(&app_id).await? {
            Some(account) => account.checked(needed),
            None => Err(Error::Unknown { app_id, has_platforms: !platforms.are_none() }),
        }
    }

    /// Returns the accounts of the settings that are in a scope, ordered by their ids.
    pub(crate) fn all(&self, scope: &Scope) -> Vec<Arc<Account>> {
        let table = self.0.current.load();
        let accounts = table.accounts.values();
        let mut accounts =
            Vec::from_iter(accounts.filter(|account| scope.has(account.app_id.as_str())).cloned());
        accounts.sort_unstable_by(|one, other| one.app_id.cmp(&other.app_id));
        accounts
    }
}

impl Account {
    fn is_of(&self, settings: &config::Account) -> bool {
        matches!(&self.origin, Origin::Settings(own) if **own == *settings)
    }

    /// Returns the account. Fails if it is of another kind than the call needs. A kind that is unknown fits:
    /// WeChat then decides.
    fn checked(self: Arc<Self>, needed: AccountKinds) -> Result<Arc<Self>, Error> {
        let fits = match (needed, self.kind) {
            (AccountKinds::Platform, _) => false,
            (AccountKinds::Any, _) | (_, None) => true,
            (AccountKinds::MiniProgram, Some(kind)) => kind == AccountKind::MiniProgram,
            (AccountKinds::Official, Some(kind)) => kind == AccountKind::Official,
        };
        match fits {
            true => Ok(self),
            false => Err(Error::WrongKind { app_id: self.app_id.to_string(), needed }),
        }
    }
}

impl Table {
    fn named(&self, app_id: &str, needed: AccountKinds) -> Result<Arc<Account>, Error> {
        if app_id.is_empty() {
            let default = match needed {
                AccountKinds::Any => {
                    self.default_official.as_ref().or(self.default_mini_program.as_ref())
                }
                AccountKinds::MiniProgram => self.default_mini_program.as_ref(),
                AccountKinds::Official => self.default_official.as_ref(),
                AccountKinds::Platform => None,
            };
            return default.cloned().ok_or(Error::NoDefault { needed });
        }
        match self.accounts.get(app_id) {
            Some(account) => account.clone().checked(needed),
            None => Err(Error::Unknown { app_id: app_id.to_owned(), has_platforms: false }),
        }
    }
}

impl fmt::Display for AccountKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "an official account or a mini program",
            Self::MiniProgram => "a mini program",
            Self::Official => "an official account",
            Self::Platform => "a third-party platform",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Environment, Settings},
        state,
    };

    #[tokio::test]
    async fn official_default_account_is_preferred() {
        let account = |app_id, kind, default| {
            format!(
                "[[accounts]]\napp_id = \"{app_id}\"\nkind = \"{kind}\"\ndefault = {default}\n\
                 secret = \"s\"\n"
            )
        };
        let [official, mini] = ["wx00000000000000a1", "wx00000000000000b2"];
        for (official_default, mini_default, expected) in [
            (true, true, Some(official)),
            (false, true, Some(mini)),
            (true, false, Some(official)),
            (false, false, None),
        ] {
            let file = account(mini, "mini_program", mini_default)
                + &account(official, "official", official_default);
            let settings = Settings::parse(&file, &Environment::new()).expect("good settings");
            let clock = Clock::frozen();
            let client = Client::new(&settings.wechat, &clock, crate::metrics::Metrics::default())
                .expect("a client");
            let (_folder, state) = state::temporary(&clock);
            let services = Services { client, state, clock: clock.clone() };
            let registry = Registry::new(&settings.accounts, &[], &settings.limits, services);
            let ctx = Context::internal(clock.now());
            let found = registry.find(&ctx, AccountKinds::Any).await.ok();
            let found = found.map(|account| account.app_id.clone());
            assert_eq!(found.as_ref().map(AppId::as_str), expected);
            for (needed, is_default) in [
                (AccountKinds::Official, official_default),
                (AccountKinds::MiniProgram, mini_default),
            ] {
                assert_eq!(registry.find(&ctx, needed).await.is_ok(), is_default, "{needed}");
            }
        }
    }
}
