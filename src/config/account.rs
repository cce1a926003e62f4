//! `[[accounts]]`: on whose behalf WeChat is called.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    AccountCallback, Environment, Mistakes, SecretSource,
    callback::{self, CallbackMode},
    invisible,
    secret::{WrittenSecret, resolve},
};
use crate::util::id::AppId;

/// One of `[[accounts]]`.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// The account's id: `wx` and 16 characters.
    pub app_id: AppId,
    /// What it is.
    pub kind: AccountKind,
    /// Whether requests without an app_id mean it. At most one per kind.
    pub default: bool,
    /// Its secret (AppSecret).
    pub secret: SecretSource,
    /// Where its access tokens come from.
    pub token: TokenKind,
    /// Allows a forced refresh of a stable token that WeChat keeps refusing. It ends the token of
    /// everybody who shares the account.
    pub force_refresh: bool,
    /// What it takes to receive what WeChat pushes; `None` where nothing is received.
    pub callback: Option<AccountCallback>,
}

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// 小程序
    MiniProgram,
    /// 公众号: a service or subscription account.
    Official,
}

/// Where access tokens come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// `GET /cgi-bin/token`: every call ends the previous token.
    Classic,
    /// `POST /cgi-bin/stable_token`: the same token for everyone who asks.
    #[default]
    Stable,
}

/// As written in the file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    app_id: String,
    kind: Option<AccountKind>,
    default: bool,
    secret: Option<WrittenSecret>,
    token: TokenKind,
    force_refresh: bool,
    callback: Option<callback::Written>,
}

pub(super) fn check(
    mut written: Vec<Written>,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Vec<Account> {
    let before = mistakes.0.len();
    if written.is_empty() {
        written.extend(from_environment(environment, mistakes));
    }
    if written.is_empty() && mistakes.0.len() == before {
        mistakes.add(
            "accounts",
            "none; write [[accounts]], or set WECHAT_APP_ID and WECHAT_APP_SECRET",
        );
    }
    let mut seen = HashSet::new();
    let mut defaults = Vec::new();
    let mut accounts = Vec::new();
    for (index, account) in written.into_iter().enumerate() {
        let at = |key: &str| format!("accounts[{index}].{key}");
        let Written { app_id, kind, default, secret, token, force_refresh, callback } = account;
        if app_id.is_empty() {
            mistakes.add(at("app_id"), "missing");
        } else if !is_app_id(&app_id) {
            mistakes.add(at("app_id"), "has to be `wx` and 16 characters from 0-9a-f");
        } else if !seen.insert(app_id.clone()) {
            mistakes.add(at("app_id"), format!("{app_id} is there twice"));
        }
        let secret = resolve(secret, environment, &at("secret"), mistakes);
        if kind.is_none() {
            mistakes.add(at("kind"), "missing; official or mini_program");
        }
        if force_refresh && token != TokenKind::Stable {
            mistakes.add(at("force_refresh"), "only with token = \"stable\"");
        }
        let callback = callback.and_then(|callback| {
            callback::check_account(callback, environment, &at("callback"), mistakes)
        });
        let (Some(kind), Some(secret)) = (kind, secret) else { continue };
        if default && defaults.contains(&kind) {
            mistakes.add(at("default"), "there is another default account of this kind");
        }
        defaults.extend(default.then_some(kind));
        accounts.push(Account {
            app_id: app_id.into(),
            kind,
            default,
            secret,
            token,
            force_refresh,
            callback,
        });
    }
    accounts
}

/// `WECHAT_APP_ID` and `WECHAT_APP_SECRET` are enough for one default account; with
/// `WECHAT_CALLBACK_TOKEN` it receives pushes, sealed ones with `WECHAT_CALLBACK_AES_KEY`.
fn from_environment(environment: &Environment, mistakes: &mut Mistakes) -> Option<Written> {
    let app_id = environment.get("WECHAT_APP_ID")?.trim().to_owned();
    if let Some(mistake) = invisible::found(&app_id) {
        mistakes.add("WECHAT_APP_ID", mistake);
        return None;
    }
    let kind = match environment.get("WECHAT_ACCOUNT_KIND").map(String::as_str) {
        None | Some("official") => AccountKind::Official,
        Some("mini_program") => AccountKind::MiniProgram,
        Some(_) => {
            mistakes.add("WECHAT_ACCOUNT_KIND", "has to be official or mini_program");
            return None;
        }
    };
    let variable = |name: &str| Some(WrittenSecret::Env { env: name.to_owned() });
    let secret = variable("WECHAT_APP_SECRET");
    let callback = environment.contains_key("WECHAT_CALLBACK_TOKEN").then(|| {
        let sealed = environment.contains_key("WECHAT_CALLBACK_AES_KEY");
        callback::Written {
            token: variable("WECHAT_CALLBACK_TOKEN"),
            aes_key: variable("WECHAT_CALLBACK_AES_KEY").filter(|_| sealed),
            mode: if sealed { CallbackMode::Safe } else { CallbackMode::Plain },
            ..callback::Written::default()
        }
    });
    Some(Written {
        app_id,
        kind: Some(kind),
        default: true,
        secret,
        callback,
        ..Written::default()
    })
}

fn is_app_id(text: &str) -> bool {
    text.strip_prefix("wx").is_some_and(|rest| {
        rest.len() == 16 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}
