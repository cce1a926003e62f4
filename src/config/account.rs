//! `[[accounts]]`: on whose behalf WeChat is called.

use std::{collections::HashSet, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    AccountCallback, Environment, Mistakes,
    callback::{self, CallbackMode},
};
use crate::id::{AppId, Secret};

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

/// Where a secret is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// In a file, which is read again whenever the secret is needed.
    File(PathBuf),
    /// Known.
    #[serde(serialize_with = "hidden")]
    Value(Secret),
}

impl SecretSource {
    /// The secret, without the line's end that editors and secret stores add. Never empty: a file
    /// is, for a moment, while somebody writes it.
    pub fn read(&self) -> io::Result<Secret> {
        let path = match self {
            Self::File(path) => path,
            Self::Value(secret) => return Ok(secret.clone()),
        };
        match std::fs::read_to_string(path)?.trim() {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
            secret => Ok(secret.to_owned().into()),
        }
    }
}

fn hidden<S: serde::Serializer>(_: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("[hidden]")
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

#[derive(Deserialize)]
#[serde(untagged, expecting = "write \"…\", { env = \"NAME\" } or { file = \"PATH\" }")]
pub(super) enum WrittenSecret {
    Literal(Secret),
    Env { env: String },
    File { file: PathBuf },
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
    let app_id = environment.get("WECHAT_APP_ID")?.clone();
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

pub(super) fn resolve(
    written: Option<WrittenSecret>,
    environment: &Environment,
    key: &str,
    mistakes: &mut Mistakes,
) -> Option<SecretSource> {
    let secret = match written {
        None => {
            mistakes.add(key, "missing");
            return None;
        }
        Some(WrittenSecret::File { file }) => {
            let name = file.display().to_string();
            let source = SecretSource::File(file);
            if let Err(error) = source.read() {
                mistakes.add(key, format!("{name}: {error}"));
            }
            return Some(source);
        }
        Some(WrittenSecret::Literal(secret)) => secret,
        Some(WrittenSecret::Env { env }) => match environment.get(&env) {
            Some(secret) => secret.clone().into(),
            None => {
                mistakes.add(key, format!("the environment has no {env}"));
                return None;
            }
        },
    };
    let secret = secret.expose().trim();
    if secret.is_empty() {
        mistakes.add(key, "empty");
    }
    Some(SecretSource::Value(secret.to_owned().into()))
}

fn is_app_id(text: &str) -> bool {
    text.strip_prefix("wx").is_some_and(|rest| {
        rest.len() == 16 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}
