//! Metrics: what the gateway counts and measures, for `/metrics` and for OTLP.
//!
//! [`INSTRUMENTS`] is the list of all instruments, as data. A [`Provider`] belongs to one gateway. It
//! collects, and writes the text of `/metrics`. The other rooms get a [`Metrics`] and record with it.
//!
//! No attribute has a value that a caller or WeChat chose freely, so the number of series is bounded.

// One provider per gateway and no global one: tests run many gateways in one process.

use std::{fmt, sync::Arc};

use opentelemetry::metrics::{Counter, Histogram};

use self::provider::Maker;
pub use self::table::{INSTRUMENTS, Instrument, Kind};
pub(crate) use self::{
    provider::{CONTENT_TYPE, Provider},
    rpc::Running,
    wechat::{Exchange, Outcome, Server},
};

pub(crate) mod attribute;
mod provider;
mod rpc;
mod table;
mod wechat;

/// Records what happens. Clones are cheap. The default one records nothing.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Recorders>);

/// Returns the class of WeChat's error code of the call to a path.
pub(crate) type Classify = fn(path: &str, errcode: i64) -> &'static str;

struct Recorders {
    classify: Classify,
    rpc_duration: Histogram<f64>,
    http_duration: Histogram<f64>,
    wechat_calls: Counter<u64>,
}

impl Metrics {
    fn new(maker: &Maker, classify: Classify) -> Self {
        Self(Arc::new(Recorders {
            classify,
            rpc_duration: maker.histogram(&table::RPC_SERVER_CALL_DURATION),
            http_duration: maker.histogram(&table::HTTP_CLIENT_REQUEST_DURATION),
            wechat_calls: maker.counter(&table::WECHAT_CALLS),
        }))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&Maker::none(), |_, _| "refused")
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
