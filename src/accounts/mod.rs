//! The accounts on whose behalf WeChat is called.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    config::{self, AccountKind},
    state::State,
    util::clock::Clock,
    util::id::AppId,
    wechat::{AccountKinds, Client},
};

pub mod concurrency;
pub mod quota;
mod reply_times;
pub mod token;

/// One official account or mini program.
#[derive(Debug)]
pub struct Account {
    /// Its id.
    pub app_id: AppId,
    /// What it is.
    pub kind: AccountKind,
    /// Its access token.
    pub tokens: Arc<token::Tokens>,
    /// What it may not call for now.
    pub quotas: quota::Quotas,
    /// How many of its calls are at WeChat at a time.
    pub slots: concurrency::Slots,
}

/// All accounts of the settings.
#[derive(Debug)]
pub struct Registry {
    accounts: HashMap<AppId, Arc<Account>>,
    default_official: Option<Arc<Account>>,
    default_mini_program: Option<Arc<Account>>,
}

/// Why no account can serve a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request names none and the settings name no default of that kind.
    #[error("the settings name no default account that is {needed}")]
    NoDefault {
        /// What the call needs.
        needed: AccountKinds,
    },
    /// The settings do not know it.
    #[error("{app_id:?} is not in the settings")]
    Unknown {
        /// The id of the request.
        app_id: String,
    },
    /// It exists but cannot make this call.
    #[error("{app_id} is not {needed}")]
    WrongKind {
        /// The id of the request.
        app_id: String,
        /// What the call needs.
        needed: AccountKinds,
    },
}

impl Registry {
    /// Takes the accounts over from the settings; asks WeChat nothing yet.
    pub fn new(
        settings: &[config::Account],
        limits: &config::Limits,
        client: &Client,
        state: &Arc<dyn State>,
        clock: &Clock,
    ) -> Self {
        let mut registry =
            Self { accounts: HashMap::new(), default_official: None, default_mini_program: None };
        for settings in settings {
            let account = Arc::new(Account {
                app_id: settings.app_id.clone(),
                kind: settings.kind,
                tokens: token::Tokens::new(settings, client.clone(), state.clone(), clock.clone()),
                quotas: quota::Quotas::default(),
                slots: concurrency::Slots::new(limits.account_concurrency()),
            });
            if settings.default {
                *match settings.kind {
                    AccountKind::MiniProgram => &mut registry.default_mini_program,
                    AccountKind::Official => &mut registry.default_official,
                } = Some(account.clone());
            }
            registry.accounts.insert(account.app_id.clone(), account);
        }
        registry
    }

    /// The account that a request means. An empty id means the default account of the kind that
    /// the call needs; where both kinds serve, the official one goes first.
    pub fn find(&self, app_id: &str, needed: AccountKinds) -> Result<&Arc<Account>, Error> {
        if app_id.is_empty() {
            let default = match needed {
                AccountKinds::Any => {
                    self.default_official.as_ref().or(self.default_mini_program.as_ref())
                }
                AccountKinds::MiniProgram => self.default_mini_program.as_ref(),
                AccountKinds::Official => self.default_official.as_ref(),
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
    fn where_both_kinds_serve_the_official_default_goes_first() {
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
            let settings = Settings::read(&file, &Environment::new()).expect("good settings");
            let clock = Clock::frozen();
            let client = Client::new(&settings.wechat, &clock).expect("a client");
            let (_folder, state) = state::temporary(&clock);
            let registry =
                Registry::new(&settings.accounts, &settings.limits, &client, &state, &clock);
            let found = registry.find("", AccountKinds::Any).ok();
            assert_eq!(found.map(|account| account.app_id.as_str()), expected);
            for (needed, is_default) in [
                (AccountKinds::Official, official_default),
                (AccountKinds::MiniProgram, mini_default),
            ] {
                assert_eq!(registry.find("", needed).is_ok(), is_default, "{needed}");
            }
        }
    }
}
