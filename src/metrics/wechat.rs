//! The calls to WeChat.

use std::{sync::Arc, time::Duration};

use http::Method;
use opentelemetry::{KeyValue, StringValue, Value};

use super::{Metrics, attribute::RESULT};
use crate::telemetry::conventions::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, SERVER_ADDRESS, SERVER_PORT,
    URL_TEMPLATE,
};

/// A host of WeChat, as metrics name it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    address: KeyValue,
    port: KeyValue,
}

impl Server {
    pub(crate) fn new(address: &str, port: u16) -> Self {
        let address = Value::String(StringValue::from(Arc::<str>::from(address)));
        Self {
            address: KeyValue::new(SERVER_ADDRESS, address),
            port: KeyValue::new(SERVER_PORT, i64::from(port)),
        }
    }
}

/// What one attempt brought.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// A reply that states success.
    Ok,
    /// A refusal with this error code.
    Refused(i64),
    /// No usable reply, for this reason.
    Failed(&'static str),
}

/// One HTTP request to WeChat that has ended.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) server: &'a Server,
    pub(crate) method: &'a Method,
    pub(crate) path: &'static str,
    /// The HTTP status, if one arrived.
    pub(crate) status: Option<u16>,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
}

/// The statuses that servers and proxies usually send. A server could send any other.
const USUAL: [u16; 18] =
    [200, 301, 302, 304, 307, 400, 401, 403, 404, 405, 408, 412, 413, 429, 500, 502, 503, 504];

/// Returns a status as metrics name it. One that is not usual counts as the first of its class.
fn bounded(status: u16) -> u16 {
    if USUAL.contains(&status) { status } else { status / 100 * 100 }
}

impl Metrics {
    /// Records a request to WeChat, and the call that it carried.
    pub(crate) fn record_exchange(&self, exchange: &Exchange<'_>) {
        let result = match exchange.outcome {
            Outcome::Ok => "ok",
            Outcome::Refused(errcode) => (self.0.classify)(exchange.path, errcode),
            Outcome::Failed(reason) => reason,
        };
        let path = KeyValue::new(URL_TEMPLATE, exchange.path);
        self.0.wechat_calls.add(1, &[path.clone(), KeyValue::new(RESULT, result)]);
        let seconds = exchange.duration.as_secs_f64();
        let Server { address, port } = exchange.server;
        let method = KeyValue::new(HTTP_REQUEST_METHOD, name(exchange.method));
        let duration = &self.0.http_duration;
        let (address, port) = (address.clone(), port.clone());
        let code = exchange.status.map(bounded);
        let status = code.map(|code| KeyValue::new(HTTP_RESPONSE_STATUS_CODE, i64::from(code)));
        let failed = |kind: Value| KeyValue::new(ERROR_TYPE, kind);
        match (code, exchange.outcome, status) {
            (Some(code), _, Some(status)) if code >= 400 => {
                let failed = failed(Value::String(code.to_string().into()));
                duration.record(seconds, &[method, address, port, path, status, failed]);
            }
            (None, Outcome::Failed(reason), _) => {
                duration.record(seconds, &[method, address, port, path, failed(reason.into())]);
            }
            (_, _, Some(status)) => {
                duration.record(seconds, &[method, address, port, path, status]);
            }
            (_, _, None) => duration.record(seconds, &[method, address, port, path]),
        }
    }
}

/// Returns the name of a method. WeChat's calls have these two.
fn name(method: &Method) -> &'static str {
    if *method == Method::GET { "GET" } else { "POST" }
}
