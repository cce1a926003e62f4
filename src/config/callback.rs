//! `[callback]`, and the `callback` of an account: what WeChat pushes, and to whom it goes on.

use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Environment, Mistakes, SecretSource,
    secret::{WrittenSecret, resolve},
};
use crate::message_crypto;

/// `[callback]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callback {
    /// How far a push's timestamp may be from our time, in seconds, so that old ones cannot be
    /// replayed. 0 takes any.
    pub timestamp_window_seconds: u64,
}

impl Default for Callback {
    fn default() -> Self {
        Self { timestamp_window_seconds: 600 }
    }
}

impl Callback {
    /// How far a push's timestamp may be from our time; `None` for any distance.
    pub fn timestamp_window(&self) -> Option<Duration> {
        (self.timestamp_window_seconds > 0)
            .then(|| Duration::from_secs(self.timestamp_window_seconds))
    }
}

/// The `callback` of one of `[[accounts]]`.
#[derive(Clone, Debug, Serialize)]
pub struct AccountCallback {
    /// The token (Token) that pushes are signed with.
    pub token: SecretSource,
    /// The key (EncodingAESKey) that they are sealed with; none in plain mode.
    pub aes_key: Option<SecretSource>,
    /// The key before it, which WeChat may still use for a while.
    pub previous_aes_key: Option<SecretSource>,
    /// How WeChat seals them.
    pub mode: CallbackMode,
    /// Further events that are kept in the log, by name, beside those about reviews.
    pub keep: Vec<String>,
    /// Who else gets the pushes, as they came.
    pub forward_to: Vec<ForwardTo>,
}

/// How pushes are sealed (消息加解密方式), as chosen in WeChat's backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackMode {
    /// 兼容模式: plain and sealed side by side. Only the sealed one is read.
    Compatible,
    /// 明文模式: not at all. Only the address they are sent to is signed.
    Plain,
    /// 安全模式.
    #[default]
    Safe,
}

/// Somebody who gets pushes, too.
#[derive(Clone, Debug, Serialize)]
pub struct ForwardTo {
    /// Where; WeChat's query is added.
    #[serde(serialize_with = "place")]
    pub url: Url,
    /// Only these: names of events, or types of messages such as `text`. Empty: all.
    pub only: Vec<String>,
    /// Not these.
    pub except: Vec<String>,
}

impl ForwardTo {
    /// Whether a push of this name goes there.
    pub fn wants(&self, name: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|entry| entry.eq_ignore_ascii_case(name));
        (self.only.is_empty() || has(&self.only)) && !has(&self.except)
    }
}

/// Without what is often secret: a query or a password.
fn place<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    let secret = url.query().is_some() || url.password().is_some() || !url.username().is_empty();
    match (secret, url.host_str()) {
        (true, Some(host)) => serializer.collect_str(&format_args!(
            "{}://{host}{} [hidden]",
            url.scheme(),
            url.path()
        )),
        _ => serializer.collect_str(url),
    }
}

/// As written in the file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    pub(super) token: Option<WrittenSecret>,
    pub(super) aes_key: Option<WrittenSecret>,
    pub(super) previous_aes_key: Option<WrittenSecret>,
    pub(super) mode: CallbackMode,
    pub(super) keep: Vec<String>,
    pub(super) forward_to: Vec<WrittenForwardTo>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenForwardTo {
    url: String,
    #[serde(default)]
    only: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
}

pub(super) fn check_account(
    written: Written,
    environment: &Environment,
    at: &str,
    mistakes: &mut Mistakes,
) -> Option<AccountCallback> {
    let Written { token, aes_key, previous_aes_key, mode, keep, forward_to } = written;
    let at = |key: &str| format!("{at}.{key}");
    let mut key = |written: Option<WrittenSecret>, name: &str| {
        let source = resolve(Some(written?), environment, &at(name), mistakes)?;
        // What cannot be read was told already.
        if source.read().is_ok_and(|text| message_crypto::Key::parse(&text).is_none()) {
            mistakes.add(at(name), "has to be the 43 characters of an EncodingAESKey");
        }
        Some(source)
    };
    let aes_key = key(aes_key, "aes_key");
    let previous_aes_key = key(previous_aes_key, "previous_aes_key");
    if mode != CallbackMode::Plain && aes_key.is_none() {
        mistakes.add(at("aes_key"), "missing; only mode = \"plain\" goes without");
    }
    let token = resolve(token, environment, &at("token"), mistakes);
    let mut targets = Vec::new();
    for (index, target) in forward_to.into_iter().enumerate() {
        let WrittenForwardTo { url, only, except } = target;
        match Url::parse(&url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                targets.push(ForwardTo { url, only, except });
            }
            _ => mistakes.add(at(&format!("forward_to[{index}].url")), "has to be a http URL"),
        }
    }
    Some(AccountCallback {
        token: token?,
        aes_key,
        previous_aes_key,
        mode,
        keep,
        forward_to: targets,
    })
}

pub(super) fn check(callback: Callback, mistakes: &mut Mistakes) -> Callback {
    if callback.timestamp_window_seconds > 0 && callback.timestamp_window_seconds < 30 {
        mistakes.add(
            "callback.timestamp_window_seconds",
            "WeChat sends again for 20 seconds; has to be 0 or at least 30",
        );
    }
    callback
}
