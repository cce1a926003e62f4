//! `[[accounts]]`: the WeChat accounts that the gateway acts for.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    AccountCallback, ConfigErrors, Environment, SecretSource, TokenKind,
    callback::{self, CallbackMode, RawAccountCallback},
    invisible,
    secret::{RawSecret, resolve},
    token::{self, RawToken},
};
use crate::util::id::AppId;

/// One section of `[[accounts]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The account's AppID: `wx` and 16 characters.
    pub app_id: AppId,
    /// The kind of account.
    pub kind: AccountKind,
    /// True if requests without an `app_id` use this account. At most one account per kind.
    pub default: bool,
    /// The account's AppSecret. `None` if its tokens need none.
    pub secret: Option<SecretSource>,
    /// The source of its access tokens.
    pub token: TokenKind,
    /// Allows a forced refresh of a stable token that WeChat keeps refusing. A forced refresh
    /// invalidates the token of every system that shares the account.
    pub force_refresh: bool,
    /// Refuses every call that needs WeChat. Pushes are still received.
    pub paused: bool,
    /// Refuses every call that can change something.
    pub read_only: bool,
    /// How pushes from WeChat are received. `None` if the account receives none.
    pub callback: Option<AccountCallback>,
}

/// The kind of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// 小程序
    MiniProgram,
    /// 公众号: a service or subscription account.
    Official,
}

/// An account as it stands in the file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(test, schemars(extend(
    "required" = ["app_id", "kind"],
    "if" = { "properties": { "token": { "enum": ["classic", "stable"] } } },
    "then" = { "required": ["secret"] },
)))]
pub(super) struct RawAccount {
    /// The AppID: `wx` and 16 characters.
    #[cfg_attr(test, schemars(extend("pattern" = "^wx[0-9a-f]{16}$")))]
    app_id: String,
    /// The kind of account.
    kind: Option<AccountKind>,
    /// Requests without an `app_id` use this account. At most one account of each kind.
    default: bool,
    /// The AppSecret. Only the tokens "stable" and "classic" need it.
    secret: Option<RawSecret>,
    /// The source of the access tokens. "stable" if it is not set.
    token: Option<RawToken>,
    /// Allows a forced refresh of a stable token that WeChat keeps refusing.
    force_refresh: bool,
    /// Refuses every call that needs WeChat. Pushes are still received.
    paused: bool,
    /// Refuses every call that can change something.
    read_only: bool,
    /// How pushes from WeChat are received. Without it the account receives none.
    callback: Option<RawAccountCallback>,
}

/// Checks all accounts. If the file has none, the environment can describe one.
pub(super) fn check(
    mut raw: Vec<RawAccount>,
    can_be_empty: bool,
    environment: &Environment,
    errors: &mut ConfigErrors,
) -> Vec<Account> {
    let before = errors.found.len();
    if raw.is_empty() {
        raw.extend(from_environment(environment, errors));
    }
    if raw.is_empty() && !can_be_empty && errors.found.len() == before {
        errors.add(
            "accounts",
            "no account is configured; add an [[accounts]] or a [[platforms]] section, or set the \
             environment variables WECHAT_APP_ID and WECHAT_APP_SECRET",
        );
    }
    let mut seen = HashSet::new();
    let mut default_kinds = Vec::new();
    let mut accounts = Vec::new();
    for (index, account) in raw.into_iter().enumerate() {
        let key = |name: &str| format!("accounts[{index}].{name}");
        let RawAccount {
            app_id,
            kind,
            default,
            secret,
            token,
            force_refresh,
            paused,
            read_only,
            callback,
        } = account;
        if let Some(problem) = app_id_problem(&app_id, &mut seen) {
            errors.add(key("app_id"), problem);
        }
        // A wrong one was removed, and has its error.
        let token = match errors.has(&key("token")) {
            true => None,
            false => token::check(token, kind, environment, &key("token"), errors),
        };
        let secret = check_secret(secret, token.as_ref(), environment, &key("secret"), errors);
        if kind.is_none() {
            errors.add(key("kind"), "missing; set \"official\" or \"mini_program\"");
        }
        if force_refresh && token.as_ref().is_some_and(|token| *token != TokenKind::Stable) {
            errors.add(key("force_refresh"), "has no effect here; it requires token = \"stable\"");
        }
        let callback = callback.and_then(|callback| {
            callback::check_account(callback, environment, &key("callback"), errors)
        });
        let Some(kind) = kind else { continue };
        if default && default_kinds.contains(&kind) {
            errors.add(
                key("default"),
                "another account of this kind is already the default; set default = false here \
                 or there",
            );
        }
        default_kinds.extend(default.then_some(kind));
        let (Some(secret), Some(token)) = (secret, token) else { continue };
        accounts.push(Account {
            app_id: app_id.into(),
            kind,
            default,
            secret,
            token,
            force_refresh,
            paused,
            read_only,
            callback,
        });
    }
    accounts
}

/// Checks the secret of an account. Adds an error if it returns `None`.
fn check_secret(
    raw: Option<RawSecret>,
    token: Option<&TokenKind>,
    environment: &Environment,
    key: &str,
    errors: &mut ConfigErrors,
) -> Option<Option<SecretSource>> {
    match (raw, token) {
        (None, Some(token)) if !token.needs_secret() => Some(None),
        // The error is about the token.
        (None, None) => None,
        (Some(_), Some(token)) if token.is_of_cloud() => {
            errors.add(
                key,
                "has no use with this token; remove it, because WeChat identifies the container",
            );
            None
        }
        (raw, _) => resolve(raw, environment, key, errors).map(Some),
    }
}

/// Returns the error of an AppID. `seen` has the AppIDs before this one, and gets it if it is new.
pub(super) fn app_id_problem(app_id: &str, seen: &mut HashSet<String>) -> Option<String> {
    if app_id.is_empty() {
        Some("missing; set the AppID, such as wx0123456789abcdef".to_owned())
    } else if !is_app_id(app_id) {
        Some("not an AppID; must be wx followed by 16 characters from 0-9 and a-f".to_owned())
    } else if !seen.insert(app_id.to_owned()) {
        Some(format!("duplicate app_id {app_id}; remove one of the two sections"))
    } else {
        None
    }
}

/// Returns the default account that the environment describes, if it describes one.
///
/// `WECHAT_APP_ID` and `WECHAT_APP_SECRET` are enough. With `WECHAT_CALLBACK_TOKEN` the account
/// receives plain pushes, and with `WECHAT_CALLBACK_AES_KEY` also set it receives encrypted ones.
fn from_environment(environment: &Environment, errors: &mut ConfigErrors) -> Option<RawAccount> {
    let app_id = environment.get("WECHAT_APP_ID")?.trim().to_owned();
    if let Some(problem) = invisible::find(&app_id) {
        errors.add("WECHAT_APP_ID", problem);
        return None;
    }
    let kind = match environment.get("WECHAT_ACCOUNT_KIND").map(String::as_str) {
        None | Some("official") => AccountKind::Official,
        Some("mini_program") => AccountKind::MiniProgram,
        Some(_) => {
            errors.add("WECHAT_ACCOUNT_KIND", "unknown kind; must be official or mini_program");
            return None;
        }
    };
    errors.variables.insert("accounts[0].app_id".to_owned(), "WECHAT_APP_ID".to_owned());
    let variable = |name: &str| Some(RawSecret::Env { env: name.to_owned() });
    let secret = variable("WECHAT_APP_SECRET");
    let callback = environment.contains_key("WECHAT_CALLBACK_TOKEN").then(|| {
        let encrypted = environment.contains_key("WECHAT_CALLBACK_AES_KEY");
        RawAccountCallback {
            token: variable("WECHAT_CALLBACK_TOKEN"),
            aes_key: variable("WECHAT_CALLBACK_AES_KEY").filter(|_| encrypted),
            mode: if encrypted { CallbackMode::Safe } else { CallbackMode::Plain },
            ..RawAccountCallback::default()
        }
    });
    Some(RawAccount {
        app_id,
        kind: Some(kind),
        default: true,
        secret,
        callback,
        ..RawAccount::default()
    })
}

/// Returns true if a text has the form of an AppID.
pub(crate) fn is_app_id(text: &str) -> bool {
    text.strip_prefix("wx").is_some_and(|rest| {
        rest.len() == 16 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}
