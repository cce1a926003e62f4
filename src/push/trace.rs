//! The trace of a push.
//!
//! The port is open to the world, so a `traceparent` in the request has no effect: otherwise anyone could have
//! any number of pushes traced.

use std::time::Duration;

use http::{StatusCode, Version, request::Parts};
use opentelemetry::TraceId;
use tokio::time::timeout;
use tracing::field::Empty;

use super::Route;
use crate::{
    events::Audits,
    telemetry::{
        self, Sampler, TRACE, Trace,
        conventions::{
            ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
            NETWORK_PROTOCOL_VERSION, URL_PATH, URL_SCHEME,
        },
    },
};

/// The limit for finding the submission. WeChat waits five seconds in total.
const LINK_TIME: Duration = Duration::from_millis(200);
/// The event that a push became.
const EVENT_ID: &str = "wechat_store_gateway.event_id";

/// The trace of one push. Its span has the names of OpenTelemetry's HTTP conventions, and is disabled if the push is
/// not traced.
#[derive(Debug)]
pub(super) struct PushTrace(Trace);

impl PushTrace {
    /// Returns the trace of a request that is no push. It has no span.
    pub(super) fn none() -> Self {
        Self(Trace::none())
    }

    /// Returns the trace id for the log. A push that is not traced has one, too.
    pub(super) fn id(&self) -> TraceId {
        self.0.id
    }

    /// Begins the span of a push to a known address.
    pub(super) fn begin(route: &Route<'_>, head: &Parts, sampler: &Sampler) -> Self {
        let name = route.span_name();
        if !sampler.chooses_root(name) {
            return Self::none();
        }
        // Without the query: it has the signature.
        Self(Trace::of(tracing::info_span!(
            target: TRACE,
            parent: None,
            "push",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            { HTTP_REQUEST_METHOD } = head.method.as_str(),
            { HTTP_ROUTE } = name.trim_start_matches("POST "),
            { URL_PATH } = route.path(),
            // A proxy in front of the gateway ends TLS.
            { URL_SCHEME } = "http",
            { NETWORK_PROTOCOL_VERSION } = if head.version == Version::HTTP_10 { "1.0" } else { "1.1" },
            { HTTP_RESPONSE_STATUS_CODE } = Empty,
            { ERROR_TYPE } = Empty,
            { EVENT_ID } = Empty,
        )))
    }

    /// Records the event that the push became, and links the span to that of the submission.
    pub(super) async fn stored(&self, event_id: &str, position: u64, audits: &Audits) {
        let span = &self.0.span;
        if span.is_disabled() {
            return;
        }
        span.record(EVENT_ID, event_id);
        let found = timeout(LINK_TIME, audits.submitting_span(position)).await;
        if let Ok(Some((trace_id, span_id))) = found {
            telemetry::link(span, &trace_id, span_id);
        }
    }

    /// Records the answer.
    pub(super) fn end(&self, status: StatusCode) {
        let span = &self.0.span;
        span.record(HTTP_RESPONSE_STATUS_CODE, status.as_u16());
        if status.is_server_error() {
            span.record(ERROR_TYPE, status.as_str());
            span.record("otel.status_code", "ERROR");
        }
    }
}
