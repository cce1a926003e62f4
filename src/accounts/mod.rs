//! The configured WeChat accounts, with their tokens, quotas and concurrency limits.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    callers::Forbidden,
    config::{self, AccountKind},
    context::Context,
    pb::Access,
    state::State,
    util::clock::Clock,
    util::{id::AppId, scope::Scope},
    wechat::{AccountKinds, Client},
};

pub(crate) mod concurrency;
pub(crate) mod quota;
mod reply_times;
pub(crate) mod token;

/// One official account or mini program.
#[derive(Debug)]
pub(crate) struct Account {
    /// The id of the account.
    pub app_id: AppId,
    /// Whether it is an official account or a mini program.
    pub kind: AccountKind,
    /// The access tokens of the account.
    pub tokens: Arc<token::Tokens>,
    /// The quotas of the account that are spent.
    pub quotas: Arc<quota::Quotas>,
    /// The limit on concurrent calls of the account.
    pub concurrency: Arc<concurrency::Limit>,
    /// The settings of the account.
    pub settings: config::Account,
}

/// All configured accounts. Clones are cheap and share everything.
///
/// The settings can change while the process runs. All accounts are then replaced together, so a call
/// sees either the old ones or the new ones. A call keeps the account with which it began.
#[derive(Clone, Debug)]
pub(crate) struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Table>,
    client: Client,
    state: Arc<dyn State>,
    clock: Clock,
}

/// The accounts at one time.
#[derive(Debug, Default)]
struct Table {
    accounts: HashMap<AppId, Arc<Account>>,
    default_official: Option<Arc<Account>>,
    default_mini_program: Option<Arc<Account>>,
}

/// The reason why no account can serve a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The operator paused the account.
    #[error(
        "the settings pause {app_id}; no call about it reaches WeChat until `paused` is removed"
    )]
    Paused {
        /// The id of the account.
        app_id: AppId,
    },
    /// The operator allows only calls that change nothing.
    #[error("the settings allow only reads of {app_id}, until `read_only` is removed")]
    ReadOnly {
        /// The id of the account.
        app_id: AppId,
    },
    /// The account is not configured.
    #[error("{app_id:?} is not in the settings")]
    Unknown {
        /// The id of the request.
        app_id: String,
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

impl Registry {
    /// Creates the accounts from the settings. Sends nothing to WeChat yet.
    pub(crate) fn new(
        settings: &[config::Account],
        limits: &config::Limits,
        client: &Client,
        state: &Arc<dyn State>,
        clock: &Clock,
    ) -> Self {
        let (client, state, clock) = (client.clone(), state.clone(), clock.clone());
        let registry = Self(Arc::new(Inner { current: ArcSwap::default(), client, state, clock }));
        registry.update(settings, limits);
        registry
    }

    /// Replaces the accounts. An account that stays keeps its quotas and its running calls. It keeps its
    /// token, unless the settings of its token changed.
    pub(crate) fn update(&self, settings: &[config::Account], limits: &config::Limits) {
        let app_ids = settings.iter().map(|account| account.app_id.as_str());
        self.0.client.metrics().set_accounts(app_ids);
        let before = self.0.current.load();
        let mut table = Table::default();
        for settings in settings {
            let known = before.accounts.get(&settings.app_id);
            let account = match known {
                Some(account) if account.settings == *settings => account.clone(),
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
        let Inner { client, state, clock, .. } = &*self.0;
        let of_token = |settings: &config::Account| {
            (settings.secret.clone(), settings.token, settings.force_refresh)
        };
        let kept = before.filter(|before| of_token(&before.settings) == of_token(settings));
        let tokens = kept.map(|before| before.tokens.clone()).unwrap_or_else(|| {
            token::Tokens::new(settings, client.clone(), state.clone(), clock.clone())
        });
        let limit = || Arc::new(concurrency::Limit::new(limits.account_concurrency()));
        Account {
            app_id: settings.app_id.clone(),
            kind: settings.kind,
            tokens,
            quotas: before.map(|before| before.quotas.clone()).unwrap_or_default(),
            concurrency: before.map_or_else(limit, |before| before.concurrency.clone()),
            settings: settings.clone(),
        }
    }

    /// Returns the account of a call that needs WeChat. [`find`](Self::find) describes which one that is.
    ///
    /// Also fails if the account is paused, or if it is read-only and the call can change something.
    pub(crate) fn serve(&self, ctx: &Context, needed: AccountKinds) -> Result<Arc<Account>, Error> {
        let account = self.find(ctx, needed)?;
        let app_id = || account.app_id.clone();
        match &account.settings {
            settings if settings.paused => Err(Error::Paused { app_id: app_id() }),
            settings if settings.read_only && ctx.access != Access::Read => {
                Err(Error::ReadOnly { app_id: app_id() })
            }
            _ => Ok(account),
        }
    }

    /// Returns true if the account is paused.
    pub(crate) fn is_paused(&self, app_id: &str) -> bool {
        let table = self.0.current.load();
        table.accounts.get(app_id).is_some_and(|account| account.settings.paused)
    }

    /// Returns the account that a request names. An empty id means the default account of the kind
    /// that the call needs. If both kinds can serve the call, the official account is preferred.
    ///
    /// Fails if there is no such account, if it is of the wrong kind, or if the caller may not use it.
    pub(crate) fn find(&self, ctx: &Context, needed: AccountKinds) -> Result<Arc<Account>, Error> {
        let table = self.0.current.load();
        let account = table.named(&ctx.app_id, needed);
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
        if let Ok(account) = account {
            // It may be a default one.
            ctx.progress.note(|write| account.app_id.as_str().clone_into(&mut write.app_id));
        }
        account.cloned()
    }

    /// Returns the accounts of a scope, ordered by their ids.
    pub(crate) fn all(&self, scope: &Scope) -> Vec<Arc<Account>> {
        let table = self.0.current.load();
        let accounts = table.accounts.values();
        let mut accounts =
            Vec::from_iter(accounts.filter(|account| scope.has(account.app_id.as_str())).cloned());
        accounts.sort_unstable_by(|one, other| one.app_id.cmp(&other.app_id));
        accounts
    }
}

impl Table {
    fn named(&self, app_id: &str, needed: AccountKinds) -> Result<&Arc<Account>, Error> {
        if app_id.is_empty() {
            let default = match needed {
                AccountKinds::Any => {
                    self.default_official.as_ref().or(self.default_mini_program.as_ref())
                }
                AccountKinds::MiniProgram => self.default_mini_program.as_ref(),
                AccountKinds::Official => self.default_official.as_ref(),
                AccountKinds::Platform => None,
            };
            return default.ok_or(Error::NoDefault { needed });
        }
        let Some(account) = self.accounts.get(app_id) else {
            return Err(Error::Unknown { app_id: app_id.to_owned() });
        };
        let serves = match needed {
            AccountKinds::Any => true,
            AccountKinds::MiniProgram => account.kind == AccountKind::MiniProgram,
            AccountKinds::Official => account.kind == AccountKind::Official,
            AccountKinds::Platform => false,
        };
        if !serves {
            return Err(Error::WrongKind { app_id: app_id.to_owned(), needed });
        }
        Ok(account)
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

    #[test]
    fn official_default_account_is_preferred() {
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
            let registry =
                Registry::new(&settings.accounts, &settings.limits, &client, &state, &clock);
            let ctx = Context::internal(clock.now());
            let found = registry.find(&ctx, AccountKinds::Any).ok();
            let found = found.map(|account| account.app_id.clone());
            assert_eq!(found.as_ref().map(AppId::as_str), expected);
            for (needed, is_default) in [
                (AccountKinds::Official, official_default),
                (AccountKinds::MiniProgram, mini_default),
            ] {
                assert_eq!(registry.find(&ctx, needed).is_ok(), is_default, "{needed}");
            }
        }
    }
}
