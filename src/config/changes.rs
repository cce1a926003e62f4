//! The differences between two settings, and which of them a running gateway can apply.

use std::{collections::BTreeMap, mem::discriminant};

use serde::Serialize;
use toml::Table;

use super::{ConfigError, Settings};

/// The keys of single sections that can change while the gateway runs. Every other one takes effect only
/// at the start.
const LIVE: &[&str] = &[
    "audit.checkpoint_seconds",
    "audit.overdue_after_hours",
    "callback.timestamp_window_seconds",
    "callers",
    "issuers",
    "limits.account_concurrency",
    "limits.admin_connections",
    "limits.admin_connections_per_address",
    "limits.callback_connections",
    "limits.callback_connections_per_address",
    "limits.caller_burst",
    "limits.caller_rate",
    "limits.calls",
    "limits.connection_age_grace_ms",
    "limits.connection_age_ms",
    "limits.connections",
    "limits.connections_per_address",
    "limits.default_deadline_ms",
    "limits.drain_ms",
    "limits.keepalive_interval_ms",
    "limits.keepalive_timeout_ms",
    "limits.lame_duck_ms",
    "limits.max_deadline_ms",
    "limits.message_kib",
    "limits.metadata_kib",
    "limits.open_calls",
    "limits.protocol_errors_per_connection",
    "limits.request_memory_mib",
    "limits.request_silence_ms",
    "limits.resets_per_connection",
    "limits.streams_per_connection",
    "limits.unfinished_requests",
    "limits.watches_per_address",
    "limits.watches_per_caller",
    "limits.watches_per_connection",
    "log.level",
    "state.retention_days",
];

/// The differences between two settings, by name. They contain no value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The keys of single sections, such as `limits.calls`.
    pub keys: Vec<String>,
    /// The accounts, by `app_id`.
    pub accounts: Differences,
    /// The platforms, by `app_id`.
    pub platforms: Differences,
    /// The callers, by name.
    pub callers: Differences,
    /// True if the new settings let every caller in and the old ones did not.
    pub opens: bool,
}

/// The names that are only in the new list, only in the old one, or in both with different settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Only in the new list.
    pub added: Vec<String>,
    /// Only in the old list.
    pub removed: Vec<String>,
    /// In both, with different settings.
    pub changed: Vec<String>,
}

impl Changes {
    /// Returns the differences.
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let accounts = |settings: &Settings| {
            let named = settings.accounts.iter();
            named.map(|account| (account.app_id.as_str().to_owned(), account.clone())).collect()
        };
        let platforms = |settings: &Settings| {
            let named = settings.platforms.iter();
            named.map(|platform| (platform.app_id.as_str().to_owned(), platform.clone())).collect()
        };
        let callers = |settings: &Settings| {
            let named = settings.callers.known().iter();
            named.map(|caller| (caller.name.clone(), caller.clone())).collect()
        };
        let mut keys = Vec::new();
        compare("listen", &old.listen, &new.listen, &mut keys);
        compare("wechat", &old.wechat, &new.wechat, &mut keys);
        compare("limits", &old.limits, &new.limits, &mut keys);
        compare("state", &old.state, &new.state, &mut keys);
        compare("callback", &old.callback, &new.callback, &mut keys);
        compare("audit", &old.audit, &new.audit, &mut keys);
        compare("log", &old.log, &new.log, &mut keys);
        compare("metrics", &old.metrics, &new.metrics, &mut keys);
        compare("activity", &old.activity, &new.activity, &mut keys);
        compare("token_service", &old.token_service, &new.token_service, &mut keys);
        // The serialized form hides the secrets of these, so it can be the same.
        for (key, same) in [
            ("wechat.proxy", old.wechat.proxy == new.wechat.proxy),
            ("state.url", old.state.url == new.state.url),
            ("state.password", old.state.redis.password == new.state.redis.password),
            (
                "state.sentinel_password",
                old.state.redis.sentinel_password == new.state.redis.sentinel_password,
            ),
            ("state.keys", old.state.keys == new.state.keys),
        ] {
            if !same && keys.iter().all(|known| known != key) {
                keys.push(key.to_owned());
            }
        }
        if discriminant(&old.callers) != discriminant(&new.callers) {
            keys.push("callers".to_owned());
        }
        if old.issuers != new.issuers {
            keys.push("issuers".to_owned());
        }
        Self {
            keys,
            accounts: Differences::between(&accounts(old), &accounts(new)),
            platforms: Differences::between(&platforms(old), &platforms(new)),
            callers: Differences::between(&callers(old), &callers(new)),
            opens: old.callers.are_known() && !new.callers.are_known(),
        }
    }

    /// Returns true if there is no difference.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns an error for each difference that a running gateway cannot apply.
    pub fn needing_restart(&self) -> Vec<ConfigError> {
        // A section that is lost by mistake must not let every caller in.
        let opened = self.opens.then_some("callers");
        let fixed = self.keys.iter().map(String::as_str).filter(|key| !LIVE.contains(key));
        let fixed = fixed.chain(opened);
        fixed
            .map(|key| ConfigError {
                key: key.to_owned(),
                message: "cannot change while the gateway runs; restart it, or set the old value \
                          again"
                    .to_owned(),
            })
            .collect()
    }
}

impl Differences {
    fn between<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Self {
        let only = |these: &BTreeMap<String, T>, others: &BTreeMap<String, T>| {
            these.keys().filter(|name| !others.contains_key(*name)).cloned().collect()
        };
        let changed =
            new.iter().filter(|(name, now)| old.get(*name).is_some_and(|was| was != *now));
        Self {
            added: only(new, old),
            removed: only(old, new),
            changed: changed.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// Adds the keys of a section that differ.
fn compare<T: Serialize>(section: &str, old: &T, new: &T, keys: &mut Vec<String>) {
    // A section always serializes: `check` prints it.
    let table = |section| Table::try_from(section).unwrap_or_default();
    let (old, new) = (table(old), table(new));
    let mut names = old.keys().chain(new.keys()).collect::<Vec<_>>();
    names.sort();
    names.dedup();
    let differs = |name: &&&String| old.get(**name) != new.get(**name);
    keys.extend(names.iter().filter(differs).map(|name| format!("{section}.{name}")));
}
