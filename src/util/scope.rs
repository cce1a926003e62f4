//! The accounts that a caller, a list or a watch covers.

use super::id::AppId;

/// A set of accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every account, also one that is added later.
    #[default]
    All,
    /// Only these accounts.
    Only(Vec<AppId>),
}

impl Scope {
    /// Returns the set of one account.
    pub fn one(app_id: impl Into<AppId>) -> Self {
        Self::Only(vec![app_id.into()])
    }

    /// Returns true if the set has the account.
    pub fn has(&self, app_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(accounts) => accounts.iter().any(|account| account.as_str() == app_id),
        }
    }

    /// Returns the ids in the form of a script's set, with a comma on each side. Empty for every account.
    #[cfg(feature = "redis")]
    pub(crate) fn set(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Only(accounts) => {
                accounts.iter().fold(",".to_owned(), |set, account| format!("{set}{account},"))
            }
        }
    }
}
