//! `[callback]` and the `callback` of an account: how pushes from WeChat are received and forwarded.

use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    ConfigErrors, Environment, SecretSource,
    secret::{RawSecret, resolve},
};
use crate::message_crypto;

/// `[callback]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Callback {
    /// How many seconds a push's timestamp may differ from this machine's time. The limit stops
    /// replays of old pushes. 0 accepts any timestamp.
    pub timestamp_window_seconds: u64,
}

impl Default for Callback {
    fn default() -> Self {
        Self { timestamp_window_seconds: 600 }
    }
}

impl Callback {
    /// Returns how far a push's timestamp may differ from this machine's time, or `None` for
    /// any difference.
    pub fn timestamp_window(&self) -> Option<Duration> {
        (self.timestamp_window_seconds > 0)
            .then(|| Duration::from_secs(self.timestamp_window_seconds))
    }
}

/// The `callback` of one of `[[accounts]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountCallback {
    /// The Token that WeChat signs pushes with. `None` in cloud mode.
    pub token: Option<SecretSource>,
    /// The EncodingAESKey that WeChat encrypts pushes with. `None` in plain and in cloud mode.
    pub aes_key: Option<SecretSource>,
    /// The previous EncodingAESKey, which WeChat can still use for a while after a change.
    pub previous_aes_key: Option<SecretSource>,
    /// How WeChat encrypts pushes.
    pub mode: CallbackMode,
    /// True if only WeChat's network reaches the gateway. Cloud mode needs it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub public_route_closed: bool,
    /// The names of further events to keep in the log, in addition to events about reviews.
    pub keep: Vec<String>,
    /// The other systems that receive the pushes, unchanged.
    pub forward_to: Vec<ForwardTo>,
}

/// How WeChat encrypts pushes (消息加解密方式), as chosen in WeChat's backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CallbackMode {
    /// 云托管: neither signature nor encryption. WeChat sends the pushes inside its own network.
    Cloud,
    /// 兼容模式: plain and encrypted content side by side. The gateway reads only the encrypted part.
    Compatible,
    /// 明文模式: no encryption. Only the query of the URL is signed.
    Plain,
    /// 安全模式: encrypted content only.
    #[default]
    Safe,
}

/// Another system that receives the pushes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForwardTo {
    /// The address. WeChat's query is added to it.
    #[serde(serialize_with = "without_secrets")]
    pub url: Url,
    /// If not empty, only these pushes are forwarded: names of events, or types of messages such as
    /// `text`.
    pub only: Vec<String>,
    /// These pushes are not forwarded.
    pub except: Vec<String>,
}

impl ForwardTo {
    /// Returns true if a push with this name is forwarded to this system.
    pub fn wants(&self, name: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|entry| entry.eq_ignore_ascii_case(name));
        (self.only.is_empty() || has(&self.only)) && !has(&self.except)
    }
}

/// Serializes a URL without its query and its password, because both are often secret.
pub(super) fn without_secrets<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
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

/// The `callback` of an account as it stands in the file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(test, schemars(extend(
    "if" = { "properties": { "mode": { "const": "cloud" } }, "required": ["mode"] },
    "then" = { "required": ["public_route_closed"] },
    "else" = { "required": ["token"] },
)))]
pub(super) struct RawAccountCallback {
    /// The Token from WeChat's backend: 3 to 32 letters and digits. Not needed in cloud mode.
    pub(super) token: Option<RawSecret>,
    /// The EncodingAESKey from WeChat's backend. Not needed in plain and in cloud mode.
    pub(super) aes_key: Option<RawSecret>,
    /// The previous EncodingAESKey, which WeChat can still use for a while after a change.
    pub(super) previous_aes_key: Option<RawSecret>,
    /// How WeChat encrypts pushes.
    pub(super) mode: CallbackMode,
    /// Only WeChat's network reaches the gateway. Only for cloud mode, which needs it.
    pub(super) public_route_closed: bool,
    /// The names of further events to keep in the log.
    pub(super) keep: Vec<String>,
    /// Other systems that receive the pushes, unchanged.
    pub(super) forward_to: Vec<RawForwardTo>,
}

/// Another system that receives the pushes.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawForwardTo {
    /// The address. WeChat's query is added to it.
    url: String,
    /// If not empty, only these pushes are forwarded: names of events, or types of messages.
    #[serde(default)]
    only: Vec<String>,
    /// These pushes are not forwarded.
    #[serde(default)]
    except: Vec<String>,
}

/// Checks the `callback` of an account, whose key path is `parent`.
pub(super) fn check_account(
    raw: RawAccountCallback,
    environment: &Environment,
    parent: &str,
    errors: &mut ConfigErrors,
) -> Option<AccountCallback> {
    let RawAccountCallback {
        token,
        aes_key,
        previous_aes_key,
        mode,
        public_route_closed,
        keep,
        forward_to,
    } = raw;
    let key = |name: &str| format!("{parent}.{name}");
    let is_cloud = mode == CallbackMode::Cloud;
    let secrets = [
        ("token", token.is_some()),
        ("aes_key", aes_key.is_some()),
        ("previous_aes_key", previous_aes_key.is_some()),
    ];
    for (name, _) in secrets.into_iter().filter(|(_, is_set)| is_cloud && *is_set) {
        errors.add(
            key(name),
            "has no use with mode = \"cloud\", because WeChat neither signs nor encrypts these pushes; \
             remove it",
        );
    }
    if is_cloud && !public_route_closed {
        errors.add(
            key("public_route_closed"),
            "must be true with mode = \"cloud\"; these pushes have no signature, so everyone who reaches \
             listen.callback could send them; close the public route (公网访问) of the service in the \
             console of cloud hosting, and then set this key",
        );
    }
    if !is_cloud && public_route_closed {
        errors.add(
            key("public_route_closed"),
            "is only for mode = \"cloud\"; remove it, because pushes in other modes are signed",
        );
    }
    let mut check_aes_key = |raw: Option<RawSecret>, name: &str| {
        let source = resolve(Some(raw?), environment, &key(name), errors)?;
        // A source that cannot be read is already among the errors.
        if source.read().is_ok_and(|text| message_crypto::Key::parse(&text).is_none()) {
            errors.add(key(name), "not an EncodingAESKey; must be the 43 characters from WeChat");
        }
        Some(source)
    };
    let aes_key = check_aes_key(aes_key, "aes_key");
    let previous_aes_key = check_aes_key(previous_aes_key, "previous_aes_key");
    if !is_cloud && mode != CallbackMode::Plain && aes_key.is_none() {
        errors.add(
            key("aes_key"),
            "missing; set the EncodingAESKey from WeChat, or mode = \"plain\" if pushes are not \
             encrypted",
        );
    }
    let token = match is_cloud {
        true => None,
        false => resolve(token, environment, &key("token"), errors),
    };
    // A source that cannot be read is already among the errors.
    if let Some(Ok(text)) = token.as_ref().map(SecretSource::read)
        && !is_token(text.expose())
    {
        errors.add(key("token"), "not a Token of WeChat; must be 3 to 32 letters and digits");
    }
    let mut targets = Vec::new();
    for (index, target) in forward_to.into_iter().enumerate() {
        let RawForwardTo { url, only, except } = target;
        match Url::parse(&url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                targets.push(ForwardTo { url, only, except });
            }
            _ => errors.add(
                key(&format!("forward_to[{index}].url")),
                "not an HTTP URL; must begin with http:// or https://",
            ),
        }
    }
    if token.is_none() && !is_cloud {
        return None;
    }
    Some(AccountCallback {
        token,
        aes_key,
        previous_aes_key,
        mode,
        public_route_closed,
        keep,
        forward_to: targets,
    })
}

/// Returns true if WeChat can have this Token. WeChat's form takes letters and digits. Tests and
/// simulators also use `-` and `_`.
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (3..=32).contains(&text.len()) && text.bytes().all(is_allowed)
}

pub(super) fn check(callback: Callback, errors: &mut ConfigErrors) -> Callback {
    if callback.timestamp_window_seconds > 0 && callback.timestamp_window_seconds < 30 {
        errors.add(
            "callback.timestamp_window_seconds",
            format!(
                "must be 0 or at least 30, but is {}; WeChat repeats a push for 20 seconds",
                callback.timestamp_window_seconds
            ),
        );
    }
    callback
}
