//! `[state]`: where the gateway keeps what must outlive its process.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{
    ConfigErrors, Environment, RedisSettings, RedisTls, RedisUrl, SecretSource, redis,
    secret::{RawSecret, resolve},
};
use crate::util::id::Secret;

/// The bytes of a key of the state.
pub const STATE_KEY_BYTES: usize = 32;

/// Programs print base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `[state]`
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// The place of the state.
    pub url: StateUrl,
    /// For how many days events and closed submissions are kept.
    pub retention_days: u32,
    /// True if the secrets in the state are plain text.
    pub plain_secrets: bool,
    /// The keys of the secrets in the state. The first one seals, and each of them opens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<SecretSource>,
    /// What only a Redis needs.
    #[serde(flatten)]
    pub redis: RedisSettings,
}

/// The place of the state.
#[derive(Clone, PartialEq, Eq)]
pub enum StateUrl {
    /// A Redis that several processes can share.
    Redis(RedisUrl),
    /// A file that one process uses: `sqlite:/path`, or `sqlite:path` relative to the working
    /// directory.
    Sqlite(PathBuf),
}

impl State {
    /// Returns how long events and closed submissions are kept.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(24 * 3600) * self.retention_days
    }
}

impl StateUrl {
    /// Returns the parsed URL.
    ///
    /// Returns what is wrong with it. No error quotes the text, because it may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            return match Path::new(path).file_name().is_none_or(|name| name.is_empty()) {
                true => Err("must be like sqlite:/path/to/file".to_owned()),
                false => Ok(Self::Sqlite(path.into())),
            };
        }
        if !text.starts_with("redis") {
            return Err(format!(
                "not a URL of a state; must be like sqlite:/path/to/file, {}",
                redis::FORMS
            ));
        }
        match cfg!(feature = "redis") {
            true => RedisUrl::parse(text).map(Self::Redis),
            false => Err("this build has no Redis support; use sqlite:/path/to/file, or a build \
                          with the feature redis"
                .to_owned()),
        }
    }

    /// Returns the URL if it is that of a Redis.
    fn redis(&self) -> Option<&RedisUrl> {
        match self {
            Self::Redis(url) => Some(url),
            Self::Sqlite(_) => None,
        }
    }
}

/// Hides the password.
impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for StateUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The section as it stands in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawState {
    /// `sqlite:/path/to/file` for one process, or the URL of a Redis for several.
    url: String,
    /// For how many days events and closed submissions are kept.
    #[cfg_attr(test, schemars(range(min = 1, max = 3650)))]
    retention_days: u32,
    /// Stores secrets as plain text.
    plain_secrets: bool,
    /// The keys of the secrets in the state. The first one seals, and each of them opens.
    keys: Vec<RawSecret>,
    /// The password of Redis, if it is not in the URL. A file is read again for each connection.
    password: Option<RawSecret>,
    /// The user of the sentinels' access list.
    sentinel_user: Option<String>,
    /// The password of the sentinels.
    sentinel_password: Option<RawSecret>,
    /// The PEM files for TLS with Redis.
    tls: RedisTls,
}

impl Default for RawState {
    fn default() -> Self {
        Self {
            url: "sqlite:wechat-store-gateway.db".to_owned(),
            retention_days: 90,
            plain_secrets: false,
            keys: Vec::new(),
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            tls: RedisTls::default(),
        }
    }
}

/// Returns the key that a text stands for: 32 bytes in base64. Returns `None` for any other text.
pub fn parse_state_key(text: &Secret) -> Option<Zeroizing<[u8; STATE_KEY_BYTES]>> {
    let bytes = Zeroizing::new(BASE64.decode(text.expose()).ok()?);
    Some(Zeroizing::new(<[u8; STATE_KEY_BYTES]>::try_from(&bytes[..]).ok()?))
}

/// Returns the text of a key, as [`parse_state_key`] reads it.
pub fn state_key_text(key: &[u8; STATE_KEY_BYTES]) -> Secret {
    BASE64.encode(key).into()
}

pub(super) fn check(raw: RawState, environment: &Environment, errors: &mut ConfigErrors) -> State {
    let RawState { url, retention_days, plain_secrets, keys, .. } = raw;
    let RawState { password, sentinel_user, sentinel_password, tls, .. } = raw;
    errors.check_range("state.retention_days", retention_days, 1..=3650);
    let mut secret = |raw: Option<RawSecret>, key| {
        raw.and_then(|raw| resolve(Some(raw), environment, key, errors))
    };
    let password = secret(password, "state.password");
    let sentinel_password = secret(sentinel_password, "state.sentinel_password");
    let redis = RedisSettings { password, sentinel_user, sentinel_password, tls };
    let url = match StateUrl::parse(&url) {
        Ok(url) => {
            redis::check(url.redis(), &redis, errors);
            url
        }
        Err(problem) => {
            errors.add("state.url", problem);
            StateUrl::Sqlite(PathBuf::new())
        }
    };
    let keys = check_keys(keys, environment, errors);
    let has_error = errors.found.iter().any(|error| error.key.starts_with("state."));
    if url.redis().is_some() && keys.is_empty() && !plain_secrets && !has_error {
        errors.add(
            "state.keys",
            "missing; a Redis needs keys for the tokens in it: set keys = [{ env = \"NAME\" }] to what \
             `wechat-store-gateway state key` prints, or plain_secrets = true to store plain text",
        );
    }
    State { url, retention_days, plain_secrets, keys, redis }
}

fn check_keys(
    raw: Vec<RawSecret>,
    environment: &Environment,
    errors: &mut ConfigErrors,
) -> Vec<SecretSource> {
    let mut keys = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("state.keys[{index}]");
        let Some(source) = resolve(Some(raw), environment, &key, errors) else { continue };
        // A secret that cannot be read has its own error already.
        if source.read().is_ok_and(|text| parse_state_key(&text).is_none()) {
            errors.add(
                key,
                "not a key of the state; must be 32 random bytes in base64, as \
                 `wechat-store-gateway state key` prints",
            );
        }
        keys.push(source);
    }
    keys
}
