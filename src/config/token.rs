//! The `token` of an account: where its access tokens come from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    AccountKind, CaFile, ConfigErrors, Environment, RedisUrl, SecretSource,
    secret::{RawSecret, resolve},
    wechat::{has_credentials, is_loopback},
};
use crate::util::id::Secret;

/// The file of a container in WeChat's cloud hosting that has its token.
const CLOUDBASE_FILE: &str = "/.tencentcloudbase/wx/cloudbase_access_token";

/// The source of an account's access tokens. It serializes as it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// `GET /cgi-bin/token`: every call invalidates the previous token.
    Classic,
    /// `POST /cgi-bin/stable_token`: returns the same token to every system that shares the account.
    #[default]
    Stable,
    /// The file of a container in WeChat's cloud hosting (微信云托管).
    Cloudbase(PathBuf),
    /// No token: WeChat identifies the container by its network (开放接口服务).
    OpenInterface,
    /// A place of the operator's own. Another program fetches the tokens from WeChat.
    #[serde(untagged)]
    External(ExternalToken),
}

/// The place from which the gateway reads a token that another program fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ExternalToken {
    /// A file.
    File {
        /// The path of the file.
        file: PathBuf,
        /// The field of the token, if the file has JSON.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
    /// The reply of a server.
    Url {
        /// The address.
        url: TokenUrl,
        /// A header of the request, `Name: value`.
        #[serde(skip_serializing_if = "Option::is_none")]
        header: Option<SecretSource>,
        /// Certificate authorities that are trusted in addition to the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca: Option<CaFile>,
        /// The field of the token, if the reply is JSON.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
    /// A key in a Redis.
    Redis {
        /// The key.
        redis_key: String,
        /// The URL of the Redis, which can have a password.
        url: SecretSource,
        /// The certificate authorities of the Redis, instead of the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca: Option<CaFile>,
        /// The field of the token, if the value is JSON.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
}

/// The address of a token server. Its path and its query can be a secret, so only its host is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenUrl(Url);

impl TokenUrl {
    /// Returns the whole URL, for the request only.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for TokenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [hidden]", self.0.origin().ascii_serialization())
    }
}

impl Serialize for TokenUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl TokenKind {
    /// Returns true if the account can make only the calls that WeChat allows from cloud hosting.
    pub fn is_of_cloud(&self) -> bool {
        matches!(self, Self::Cloudbase(_) | Self::OpenInterface)
    }

    /// Returns true if the gateway fetches the tokens from WeChat, with the secret of the account.
    pub fn needs_secret(&self) -> bool {
        matches!(self, Self::Classic | Self::Stable)
    }
}

/// The `token` as it stands in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    untagged,
    expecting = "must be \"stable\", \"classic\", \"cloudbase\", \"open_interface\", \
                 { cloudbase = \"PATH\" }, { url = \"https://…\" }, { file = \"PATH\" } or \
                 { redis_key = \"KEY\", url = … }, with `field`, and for a url `header` and `ca`"
)]
pub(super) enum RawToken {
    /// A source without settings of its own.
    Name(RawTokenName),
    /// A place that the gateway reads.
    Place(RawTokenPlace),
}

/// A source without settings of its own.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(super) enum RawTokenName {
    /// `GET /cgi-bin/token`: every call invalidates the previous token.
    Classic,
    /// `POST /cgi-bin/stable_token`: returns the same token to every system that shares the account.
    Stable,
    /// The usual file of a container in WeChat's cloud hosting (微信云托管).
    Cloudbase,
    /// No token: WeChat identifies the container by its network (开放接口服务).
    OpenInterface,
}

/// A place that the gateway reads. Exactly one of `cloudbase`, `file`, `redis_key` and `url` names it. A
/// `redis_key` also has a `url`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawTokenPlace {
    /// The file of a container in WeChat's cloud hosting, if it is not at its usual path.
    cloudbase: Option<PathBuf>,
    /// A file that another program writes.
    file: Option<PathBuf>,
    /// A key in the Redis of `url`.
    redis_key: Option<String>,
    /// The address of a token server, or of the Redis.
    url: Option<RawSecret>,
    /// A header for the token server, `Name: value`.
    header: Option<RawSecret>,
    /// Certificate authorities for the token server that are trusted in addition to the system's, or those of the
    /// Redis.
    ca: Option<PathBuf>,
    /// The field of the token in JSON: a name, or a JSON pointer such as `/data/token`.
    field: Option<String>,
}

/// Checks the `token` of an account, whose key is `key`. Adds an error if it returns `None`.
pub(super) fn check(
    raw: Option<RawToken>,
    kind: Option<AccountKind>,
    environment: &Environment,
    key: &str,
    errors: &mut ConfigErrors,
) -> Option<TokenKind> {
    let token = match raw {
        None => TokenKind::default(),
        Some(RawToken::Name(name)) => match name {
            RawTokenName::Classic => TokenKind::Classic,
            RawTokenName::Stable => TokenKind::Stable,
            RawTokenName::Cloudbase => TokenKind::Cloudbase(CLOUDBASE_FILE.into()),
            RawTokenName::OpenInterface => TokenKind::OpenInterface,
        },
        Some(RawToken::Place(place)) => check_place(place, environment, key, errors)?,
    };
    if token.is_of_cloud() && kind == Some(AccountKind::Official) {
        errors.add(
            key,
            "needs kind = \"mini_program\"; the only calls that WeChat allows from cloud hosting are \
             those about nearby places, which an official account cannot make",
        );
    }
    Some(token)
}

fn check_place(
    raw: RawTokenPlace,
    environment: &Environment,
    key: &str,
    errors: &mut ConfigErrors,
) -> Option<TokenKind> {
    let RawTokenPlace { cloudbase, file, redis_key, url, header, ca, field } = raw;
    let of = |name: &str| format!("{key}.{name}");
    if field.as_deref().is_some_and(|field| field.is_empty() || cloudbase.is_some()) {
        errors.add(of("field"), "must be the name of a field in JSON; remove it for plain text");
    }
    if header.is_some() && (url.is_none() || redis_key.is_some()) {
        errors.add(key, "header is only for the url of a token server; remove it");
    }
    if ca.is_some() && url.is_none() {
        errors.add(key, "ca is only for the url of a token server or a Redis; remove it");
    }
    let ca = ca.filter(|_| url.is_some()).map(CaFile::from);
    if let Some(file) = &ca
        && let Err(error) = file.read()
    {
        errors.add(of("ca"), format!("{file}: {error}"));
    }
    let place = match (cloudbase, file, redis_key, url) {
        (Some(file), None, None, None) => {
            check_path(&file, &of("cloudbase"), errors);
            return Some(TokenKind::Cloudbase(file));
        }
        (None, Some(file), None, None) => {
            check_path(&file, &of("file"), errors);
            ExternalToken::File { file, field }
        }
        (None, None, Some(redis_key), Some(url)) => {
            let url = resolve(Some(url), environment, &of("url"), errors)?;
            check_redis(&redis_key, &url, ca.is_some(), key, errors);
            ExternalToken::Redis { redis_key, url, ca, field }
        }
        (None, None, None, Some(url)) => {
            let url = resolve(Some(url), environment, &of("url"), errors)?;
            let url = check_url(&url, &of("url"), errors)?;
            let header = header.and_then(|header| {
                let header = resolve(Some(header), environment, &of("header"), errors)?;
                // A source that cannot be read is already among the errors.
                if header.read().is_ok_and(|text| parse_header(&text).is_none()) {
                    errors.add(of("header"), "not a header; must be like \"Name: value\"");
                }
                Some(header)
            });
            ExternalToken::Url { url, header, ca, field }
        }
        _ => {
            errors.add(
                key,
                "must name one place: { cloudbase = \"PATH\" }, { url = \"https://…\" }, \
                 { file = \"PATH\" } or { redis_key = \"KEY\", url = \"redis://…\" }",
            );
            return None;
        }
    };
    Some(TokenKind::External(place))
}

/// Checks a path. The file itself can appear later.
fn check_path(file: &Path, key: &str, errors: &mut ConfigErrors) {
    if !file.is_absolute() {
        errors.add(key, "must be an absolute path");
    }
}

/// Returns the address of a token server. Adds an error if it returns `None`.
fn check_url(source: &SecretSource, key: &str, errors: &mut ConfigErrors) -> Option<TokenUrl> {
    // A source that cannot be read is already among the errors.
    let text = source.read().ok()?;
    let url = Url::parse(text.expose()).ok().filter(|url| url.has_host());
    // No error quotes the value, because it may contain a secret.
    let problem = match url {
        None => "not a URL; must be like https://host/path",
        Some(url) if has_credentials(&url) => "must have no user name; use header instead",
        Some(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {
            return Some(TokenUrl(url));
        }
        Some(_) => {
            "must begin with https://; plain HTTP would expose the token, so it is only for a \
                    loopback address"
        }
    };
    errors.add(key, problem);
    None
}

/// Checks a key in a Redis, and the URL of that Redis.
fn check_redis(
    redis_key: &str,
    url: &SecretSource,
    has_ca: bool,
    key: &str,
    errors: &mut ConfigErrors,
) {
    if cfg!(not(feature = "redis")) {
        errors.add(key, "this build has no Redis support; use a build with the feature redis");
    }
    if redis_key.is_empty() {
        errors.add(format!("{key}.redis_key"), "empty; set the name of the key");
    }
    // A source that cannot be read is already among the errors.
    match url.read().map(|text| RedisUrl::parse(text.expose())) {
        Ok(Err(problem)) => errors.add(format!("{key}.url"), problem),
        Ok(Ok(url)) if has_ca && !url.tls => {
            errors.add(format!("{key}.ca"), "is only for a url like rediss://host:6379; remove it");
        }
        _ => {}
    }
}

/// Returns the name and the value of a header such as `Authorization: Bearer …`. Returns `None` if the text is no
/// header.
pub(crate) fn parse_header(text: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.expose().split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}
