//! All instruments as data. Tests, `docs/metrics.md` and the checks of `/metrics` read this table.

use super::attribute::RESULT;
use crate::telemetry::conventions::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, RPC_METHOD, RPC_STATUS_CODE,
    RPC_SYSTEM_NAME, SERVER_ADDRESS, SERVER_PORT, URL_TEMPLATE,
};

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
        $(pub(super) const $constant: Instrument = Instrument {
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
    RPC_SERVER_CALL_DURATION: Histogram "rpc.server.call.duration" in "s"
        by [RPC_SYSTEM_NAME, RPC_METHOD, RPC_STATUS_CODE, ERROR_TYPE],
        "Duration of the calls that the gateway answered";
    WECHAT_CALLS: Counter "wechat.calls" in "{call}" by [URL_TEMPLATE, RESULT],
        "Calls to WeChat, by the class of what they brought";
}
