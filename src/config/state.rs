//! `[state]`: where the gateway keeps what must outlive its process.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

use super::ConfigErrors;

/// `[state]`
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// The place of the state.
    pub url: StateUrl,
    /// For how many days events and closed submissions are kept.
    pub retention_days: u32,
}

/// The place of the state.
#[derive(Clone, PartialEq, Eq)]
pub enum StateUrl {
    /// A Redis that several processes can share: `redis://[:password@]host[:port][/db]` or
    /// `redis+unix:///path`.
    Redis(String),
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

/// Hides the password.
impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(url) => match url.split_once("://") {
                Some((scheme, rest)) => match rest.rsplit_once('@') {
                    Some((_, place)) => write!(f, "{scheme}://[hidden]@{place}"),
                    None => f.write_str(url),
                },
                None => f.write_str("[hidden]"),
            },
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
}

impl Default for RawState {
    fn default() -> Self {
        Self { url: "sqlite:wechat-store-gateway.db".to_owned(), retention_days: 90 }
    }
}

pub(super) fn check(raw: RawState, errors: &mut ConfigErrors) -> State {
    let RawState { url, retention_days } = raw;
    errors.check_range("state.retention_days", retention_days, 1..=3650);
    let url = match url.split_once(':') {
        Some(("sqlite", path))
            if !Path::new(path).file_name().is_none_or(|name| name.is_empty()) =>
        {
            StateUrl::Sqlite(path.into())
        }
        #[cfg(feature = "redis")]
        Some(("redis" | "redis+unix", _))
            if redis::IntoConnectionInfo::into_connection_info(url.as_str()).is_ok() =>
        {
            StateUrl::Redis(url)
        }
        #[cfg(not(feature = "redis"))]
        Some(("redis" | "redis+unix", _)) => {
            errors.add(
                "state.url",
                "this build has no Redis support; use sqlite:/path/to/file, or a build with the \
                 feature redis",
            );
            StateUrl::Redis(url)
        }
        // The error does not quote the URL, because it may contain a password.
        _ => {
            errors.add(
                "state.url",
                "not a URL of a state; must be like sqlite:/path/to/file, redis://host:6379/0 or \
                 redis+unix:///path",
            );
            StateUrl::Redis(url)
        }
    };
    State { url, retention_days }
}
