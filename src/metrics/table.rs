//! All instruments as data. Tests, `docs/metrics.md` and the checks of `/metrics` read this table.

use super::attribute::{
    APP_ID, CACHE, CAUSED_BY, COMMIT, CPU_MODE, LISTENER, ORIGIN, REASON, RESULT, SECRET,
    STATE_OPERATION, VERSION, WRITE_STATE,
};
use crate::telemetry::conventions::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, RPC_METHOD, RPC_STATUS_CODE,
    RPC_SYSTEM_NAME, SERVER_ADDRESS, SERVER_PORT, URL_TEMPLATE,
};

/// The most series of any instrument.
const MOST_SERIES: usize = 2_000;
/// The most accounts that can have series of their own in the life of a process. It is the highest value of
/// `metrics.accounts`.
pub(super) const MOST_NAMED_ACCOUNTS: usize = 300;
/// These, and the sum of all other accounts.
const MOST_ACCOUNTS: usize = MOST_NAMED_ACCOUNTS + 1;
/// More than there are RPCs, endpoints or operations of the state.
const MOST_NAMES: usize = 100;
/// More than any other attribute has values.
const MOST_VALUES: usize = 32;

/// One instrument.
#[derive(Debug)]
pub struct Instrument {
    /// The name in OpenTelemetry.
    pub name: &'static str,
    /// What it records.
    pub kind: Kind,
    /// The unit, by UCUM. Prometheus has it in the name, unless it is in braces.
    pub unit: &'static str,
    /// What it means, in one sentence.
    pub description: &'static str,
    /// The names of its attributes. A series need not have all of them.
    pub attributes: &'static [&'static str],
}

/// What an instrument records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// The value at the time of the scrape.
    Gauge,
    /// Durations.
    Histogram,
    /// The value at the time of the scrape. The values of several processes can be added.
    UpDownCounter,
}

impl Instrument {
    /// Returns the name in `/metrics`.
    pub fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let end = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{end}", self.name.replace('.', "_"))
    }

    /// Returns the most series that it can have. The values of further ones are added to one series, with the
    /// attribute `otel.metric.overflow`.
    ///
    /// The SDK reserves memory for all of them.
    pub(super) fn most_series(&self) -> usize {
        let values = |attribute: &&'static str| match *attribute {
            APP_ID => MOST_ACCOUNTS,
            RPC_METHOD | URL_TEMPLATE | STATE_OPERATION => MOST_NAMES,
            _ => MOST_VALUES,
        };
        self.attributes.iter().map(values).product::<usize>().min(MOST_SERIES)
    }

    /// Returns the type in `/metrics`.
    pub fn prometheus_type(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::UpDownCounter => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Makes a constant of each instrument, and the list of all.
macro_rules! instruments {
    ($($constant:ident: $kind:ident $name:literal in $unit:literal by $attributes:expr,
        $description:literal;)*) => {
        $(pub(crate) const $constant: Instrument = Instrument {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            description: $description,
            attributes: &$attributes,
        };)*

        /// Every instrument of the gateway.
        pub const INSTRUMENTS: &[Instrument] = &[$($constant),*];
    };
}

// By name.
instruments! {
    HTTP_CLIENT_REQUEST_DURATION: Histogram "http.client.request.duration" in "s"
        by [HTTP_REQUEST_METHOD, SERVER_ADDRESS, SERVER_PORT, URL_TEMPLATE, HTTP_RESPONSE_STATUS_CODE, ERROR_TYPE],
        "Duration of the HTTP requests to WeChat";
    PROCESS_CPU_TIME: Counter "process.cpu.time" in "s" by [CPU_MODE],
        "Processor time of the process";
    PROCESS_MEMORY_USAGE: UpDownCounter "process.memory.usage" in "By" by [],
        "Physical memory of the process";
    PROCESS_THREAD_COUNT: UpDownCounter "process.thread.count" in "{thread}" by [],
        "Threads of the process";
    PROCESS_UNIX_FILE_DESCRIPTOR_COUNT: UpDownCounter "process.unix.file_descriptor.count"
        in "{file_descriptor}" by [],
        "Open file descriptors of the process";
    RPC_SERVER_CALL_DURATION: Histogram "rpc.server.call.duration" in "s"
        by [RPC_SYSTEM_NAME, RPC_METHOD, RPC_STATUS_CODE, ERROR_TYPE, CAUSED_BY],
        "Duration of the calls that the gateway answered";
    ACTIVITY_FAILURES: Counter "wechat.activity.failures" in "{failure}" by [],
        "Failures to write into the file of the activity log";
    CACHE_LOOKUPS: Counter "wechat.cache.lookups" in "{lookup}" by [CACHE, RESULT],
        "Requests of values that the gateway caches, by hit and miss";
    WECHAT_CALLS: Counter "wechat.calls" in "{call}" by [URL_TEMPLATE, RESULT],
        "Calls to WeChat, by the class of what they brought";
    CALLER_REFUSALS: Counter "wechat.caller.refusals" in "{request}" by [REASON],
        "Requests that were refused because of their caller";
    CERTIFICATE_EXPIRY_TIME: Gauge "wechat.certificate.expiry_time" in "s" by [LISTENER],
        "Time at which the first certificate of a listener expires, since 1970";
    CONNECTION_COUNT: UpDownCounter "wechat.connections" in "{connection}" by [LISTENER],
        "Open connections of a listener";
    EVENT_DELIVERY_LAG: Histogram "wechat.event.delivery.lag" in "s" by [],
        "Time between the storage of an event and the moment at which watchers can read it";
    EVENT_LAG: Histogram "wechat.event.lag" in "s" by [ORIGIN],
        "Time between WeChat's own time of an event and its storage";
    JOURNAL_WRITES: Counter "wechat.journal.writes" in "{write}" by [WRITE_STATE],
        "Steps of writes that the journal recorded";
    PERMIT_USED: UpDownCounter "wechat.permit.used" in "{permit}" by [APP_ID],
        "Calls that are at WeChat now";
    PERMIT_WAIT: Histogram "wechat.permit.wait" in "s" by [],
        "Time that calls waited for a concurrency permit, if none was free";
    PERMIT_WAITING: UpDownCounter "wechat.permit.waiting" in "{call}" by [APP_ID],
        "Calls that wait for a concurrency permit now";
    PUSHES: Counter "wechat.pushes" in "{push}" by [RESULT],
        "Requests to the address for pushes, by what the gateway did with them";
    QUOTA_REFUSALS: Counter "wechat.quota.refusals" in "{call}" by [URL_TEMPLATE],
        "Calls that were not sent because their quota is spent";
    QUOTA_SPENT: UpDownCounter "wechat.quota.spent" in "{quota}" by [APP_ID],
        "Quotas that are spent now";
    CALLS_RUNNING: UpDownCounter "wechat.rpc.running" in "{call}" by [],
        "Calls of which the answer is not sent yet, streams included";
    SETTINGS_RELOADS: Counter "wechat.settings.reloads" in "{reload}" by [RESULT],
        "Reloads of the settings";
    STATE_OPERATION_DURATION: Histogram "wechat.state.operation.duration" in "s"
        by [STATE_OPERATION, ERROR_TYPE],
        "Duration of the operations of the state";
    STATE_OPERATION_AGE: Gauge "wechat.state.operation.age" in "s" by [],
        "Age of the oldest operation of the state that still runs. 0 if none runs";
    STATE_CLOSED_SECRETS: Counter "wechat.state.closed_secrets" in "{secret}" by [SECRET],
        "Attempts to open a secret of the state for which there is no key";
    STATE_COUNT_TIME: Gauge "wechat.state.count_time" in "s" by [],
        "Time at which unknown writes and submissions were last counted, since 1970";
    SUBMISSION_OLDEST_TIME: Gauge "wechat.submission.oldest_time" in "s" by [APP_ID],
        "Time at which the oldest open submission of an account was made, since 1970";
    SUBMISSIONS_OPEN: UpDownCounter "wechat.submission.open" in "{submission}" by [],
        "Submissions that WeChat has not decided";
    SUBMISSIONS_OVERDUE: UpDownCounter "wechat.submission.overdue" in "{submission}" by [],
        "Open submissions that are older than audit.overdue_after_hours";
    CALLBACK_LAST_TIME: Gauge "wechat.callback.last_time" in "s" by [APP_ID],
        "Time of WeChat's last push for an account with a callback, since 1970. 0 if none came since the start";
    SPANS: Counter "wechat.telemetry.spans" in "{span}" by [RESULT],
        "Finished spans of the traces that were exported, failed or dropped";
    TOKEN_AGE: Gauge "wechat.token.age" in "s" by [APP_ID],
        "Age of the access token of an account or platform";
    TOKENS_MISSING: UpDownCounter "wechat.token.missing" in "{account}" by [APP_ID],
        "Accounts and platforms without a valid access token whose last refresh failed, at most 15 minutes ago";
    TOKEN_REFRESHES: Counter "wechat.token.refreshes" in "{refresh}" by [APP_ID, RESULT],
        "Refreshes of access tokens";
    TOKEN_REFUSALS: Counter "wechat.token.refusals" in "{call}" by [APP_ID],
        "Calls that WeChat refused because of their access token";
    WATCHER_COUNT: UpDownCounter "wechat.watchers" in "{watcher}" by [],
        "Open watches of events";
    WATCHER_LAG: Gauge "wechat.watcher.lag" in "{event}" by [],
        "Events that the slowest watcher has not read yet";
    WRITE_QUEUE_WAIT: Histogram "wechat.write_queue.wait" in "s" by [URL_TEMPLATE],
        "Time that writes waited for their turn";
    WRITES_UNKNOWN: UpDownCounter "wechat.write.unknown" in "{write}" by [],
        "Writes of which the outcome is unknown";
    BUILD_INFO: Gauge "wechat_store_gateway.build.info" in "{build}" by [VERSION, COMMIT],
        "Always 1. The attributes name the build";
}
