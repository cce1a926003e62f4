//! `[state]`: where what outlives a process is kept.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

use super::Mistakes;

/// `[state]`
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// Where it is.
    pub url: StateUrl,
    /// For how many days events and settled submissions are kept.
    pub retention_days: u32,
}

/// Where the state is.
#[derive(Clone, PartialEq, Eq)]
pub enum StateUrl {
    /// At a Redis that several processes may share: `redis://[:password@]host[:port][/db]` or
    /// `redis+unix:///path`.
    Redis(String),
    /// In a file beside this one process: `sqlite:/path`, or `sqlite:path` from where it was started.
    Sqlite(PathBuf),
}

impl State {
    /// How long events and settled submissions are kept.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(24 * 3600) * self.retention_days
    }
}

/// Shows no password.
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

/// As written in the file.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    url: String,
    retention_days: u32,
}

impl Default for Written {
    fn default() -> Self {
        Self { url: "sqlite:wechat-store-gateway.db".to_owned(), retention_days: 90 }
    }
}

pub(super) fn check(written: Written, mistakes: &mut Mistakes) -> State {
    let Written { url, retention_days } = written;
    if !(1..=3650).contains(&retention_days) {
        mistakes.add("state.retention_days", "has to be from 1 to 3650");
    }
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
            mistakes
                .add("state.url", "must be sqlite:/path/to/file: this build has no Redis support");
            StateUrl::Redis(url)
        }
        // What was written may contain a password.
        _ => {
            mistakes.add(
                "state.url",
                "has to be sqlite:/path/to/file, redis://host:6379/0 or redis+unix:///path",
            );
            StateUrl::Redis(url)
        }
    };
    State { url, retention_days }
}
