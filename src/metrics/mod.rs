//! Metrics: what the gateway counts and measures, for `/metrics` and for OTLP.
//!
//! [`INSTRUMENTS`] is the list of all instruments, as data. A [`Provider`] belongs to one gateway. It
//! collects, and writes the text of `/metrics`. The other rooms get a [`Metrics`] and record with it.
//!
//! No attribute has a value that a caller or WeChat chose freely, so the number of series is bounded.

// One provider per gateway and no global one: tests run many gateways in one process.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};

use self::provider::Maker;
pub use self::table::{INSTRUMENTS, Instrument, Kind};
pub(crate) use self::{
    provider::{CONTENT_TYPE, Provider},
    rpc::Running,
    wechat::{Exchange, Outcome, Server},
};
use crate::util::lock;

pub(crate) mod attribute;
pub(crate) mod process;
mod provider;
mod rpc;
mod state;
pub(crate) mod table;
mod wechat;

/// Stands for all accounts that have no series of their own. No app id is like this.
pub(crate) const OTHER_ACCOUNTS: &str = "other";

/// Records what happens. Clones are cheap. The default one records nothing.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Recorders>);

/// Returns the class of WeChat's error code of the call to a path.
pub(crate) type Classify = fn(path: &str, errcode: i64) -> &'static str;

struct Recorders {
    classify: Classify,
    /// The number of accounts that have series of their own.
    most_accounts: usize,
    /// These accounts.
    accounts: ArcSwap<HashMap<String, KeyValue>>,
    /// All accounts that have had series of their own. Counters keep these until the process ends, so their
    /// number has a limit, too.
    ever: Mutex<HashSet<String>>,
    activity_failures: Counter<u64>,
    cache_lookups: Counter<u64>,
    caller_refusals: Counter<u64>,
    event_lag: Histogram<f64>,
    event_delivery_lag: Histogram<f64>,
    http_duration: Histogram<f64>,
    journal_writes: Counter<u64>,
    permit_wait: Histogram<f64>,
    pushes: Counter<u64>,
    quota_refusals: Counter<u64>,
    rpc_duration: Histogram<f64>,
    settings_reloads: Counter<u64>,
    state_duration: Histogram<f64>,
    state_running: state::Running,
    token_refreshes: Counter<u64>,
    token_refusals: Counter<u64>,
    wechat_calls: Counter<u64>,
    write_queue_wait: Histogram<f64>,
}

impl Metrics {
    fn new(maker: &Maker, classify: Classify, most_accounts: usize) -> Self {
        Self(Arc::new(Recorders {
            classify,
            most_accounts,
            accounts: ArcSwap::default(),
            ever: Mutex::default(),
            activity_failures: maker.counter(&table::ACTIVITY_FAILURES),
            cache_lookups: maker.counter(&table::CACHE_LOOKUPS),
            caller_refusals: maker.counter(&table::CALLER_REFUSALS),
            event_lag: maker.histogram(&table::EVENT_LAG),
            event_delivery_lag: maker.histogram(&table::EVENT_DELIVERY_LAG),
            http_duration: maker.histogram(&table::HTTP_CLIENT_REQUEST_DURATION),
            journal_writes: maker.counter(&table::JOURNAL_WRITES),
            permit_wait: maker.histogram(&table::PERMIT_WAIT),
            pushes: maker.counter(&table::PUSHES),
            quota_refusals: maker.counter(&table::QUOTA_REFUSALS),
            rpc_duration: maker.histogram(&table::RPC_SERVER_CALL_DURATION),
            settings_reloads: maker.counter(&table::SETTINGS_RELOADS),
            state_duration: maker.histogram(&table::STATE_OPERATION_DURATION),
            state_running: state::Running::default(),
            token_refreshes: maker.counter(&table::TOKEN_REFRESHES),
            token_refusals: maker.counter(&table::TOKEN_REFUSALS),
            wechat_calls: maker.counter(&table::WECHAT_CALLS),
            write_queue_wait: maker.histogram(&table::WRITE_QUEUE_WAIT),
        }))
    }

    /// Sets the accounts of the settings, in their order. The first ones get series of their own, as long as the
    /// instruments have room for them.
    pub(crate) fn set_accounts<'a>(&self, app_ids: impl Iterator<Item = &'a str>) {
        let mut ever = lock(&self.0.ever);
        let first = app_ids.take(self.0.most_accounts).filter(|app_id| {
            if ever.len() < table::MOST_NAMED_ACCOUNTS {
                ever.insert((*app_id).to_owned());
            }
            ever.contains(*app_id)
        });
        let named = |app_id: &str| KeyValue::new(attribute::APP_ID, Arc::<str>::from(app_id));
        let accounts = first.map(|app_id| (app_id.to_owned(), named(app_id))).collect();
        self.0.accounts.store(Arc::new(accounts));
    }

    /// Returns the attribute of an account. All accounts beyond the limit have the same one.
    pub(crate) fn account(&self, app_id: &str) -> KeyValue {
        let accounts = self.0.accounts.load();
        let known = accounts.get(app_id).cloned();
        known.unwrap_or_else(|| KeyValue::new(attribute::APP_ID, OTHER_ACCOUNTS))
    }

    /// Counts a failure to write into the activity log.
    pub(crate) fn count_activity_failure(&self) {
        self.0.activity_failures.add(1, &[]);
    }

    /// Counts a request of a cached value.
    pub(crate) fn count_cache_lookup(&self, cache: &'static str, hit: bool) {
        let result = if hit { "hit" } else { "miss" };
        let attributes =
            [KeyValue::new(attribute::CACHE, cache), KeyValue::new(attribute::RESULT, result)];
        self.0.cache_lookups.add(1, &attributes);
    }

    /// Counts a request that the settings of the callers refuse.
    pub(crate) fn count_caller_refusal(&self, reason: &'static str) {
        self.0.caller_refusals.add(1, &[KeyValue::new(attribute::REASON, reason)]);
    }

    /// Records a new event of the log: the time between WeChat's own time of it, in seconds since 1970, and
    /// its storage.
    pub(crate) fn record_event(&self, origin: &'static str, event_time: u64, now: SystemTime) {
        let happened = SystemTime::UNIX_EPOCH + Duration::from_secs(event_time);
        let lag = now.duration_since(happened).unwrap_or_default();
        self.0.event_lag.record(lag.as_secs_f64(), &[KeyValue::new(attribute::ORIGIN, origin)]);
    }

    /// Records an event that a watcher gets soon after it was stored.
    pub(crate) fn record_delivery(&self, lag: Duration) {
        self.0.event_delivery_lag.record(lag.as_secs_f64(), &[]);
    }

    /// Counts a step of a write in the journal.
    pub(crate) fn count_journal_write(&self, step: &'static str) {
        self.0.journal_writes.add(1, &[KeyValue::new(attribute::WRITE_STATE, step)]);
    }

    /// Records how long a call waited for a concurrency permit. A call that found a free one did not wait.
    pub(crate) fn record_permit_wait(&self, wait: Duration) {
        self.0.permit_wait.record(wait.as_secs_f64(), &[]);
    }

    /// Counts a request to the address for pushes.
    pub(crate) fn count_push(&self, result: &'static str) {
        self.0.pushes.add(1, &[KeyValue::new(attribute::RESULT, result)]);
    }

    /// Counts a call that was not sent because its quota is spent.
    pub(crate) fn count_quota_refusal(&self, path: &'static str) {
        let path = KeyValue::new(crate::telemetry::conventions::URL_TEMPLATE, path);
        self.0.quota_refusals.add(1, &[path]);
    }

    /// Counts new settings.
    pub(crate) fn count_reload(&self, result: &'static str) {
        self.0.settings_reloads.add(1, &[KeyValue::new(attribute::RESULT, result)]);
    }

    /// Counts a refresh of an account's token.
    pub(crate) fn count_token_refresh(&self, app_id: &str, result: &'static str) {
        let attributes = [self.account(app_id), KeyValue::new(attribute::RESULT, result)];
        self.0.token_refreshes.add(1, &attributes);
    }

    /// Counts a call that WeChat refused because of the account's token.
    pub(crate) fn count_token_refusal(&self, app_id: &str) {
        self.0.token_refusals.add(1, &[self.account(app_id)]);
    }

    /// Records how long a write waited for its turn.
    pub(crate) fn record_write_queue_wait(&self, path: &'static str, wait: Duration) {
        let path = KeyValue::new(crate::telemetry::conventions::URL_TEMPLATE, path);
        self.0.write_queue_wait.record(wait.as_secs_f64(), &[path]);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&Maker::none(), |_, _| "refused", 0)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_many_reloads_keep_within_limit() {
        let metrics = Metrics::new(&Maker::none(), |_, _| "refused", 300);
        let app_id = |number: usize| format!("wx{number:016x}");
        let reload = |first: usize| {
            let app_ids = Vec::from_iter((first..first + 200).map(app_id));
            metrics.set_accounts(app_ids.iter().map(String::as_str));
        };
        let has_series = |number| metrics.account(&app_id(number)).value.as_str() != OTHER_ACCOUNTS;
        reload(0);
        reload(200);
        assert!(has_series(299) && !has_series(300));
        assert!(!has_series(0), "it is removed");
        reload(0);
        assert!(has_series(0) && has_series(199), "they had series before");
    }
}
