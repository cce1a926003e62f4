//! `[token_service]`: whether other programs can get the access tokens.

use serde::{Deserialize, Serialize};

/// `[token_service]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TokenService {
    /// Lets admins get the access tokens of the accounts. An access token allows everything that the
    /// account may do at WeChat.
    pub enabled: bool,
}
