//! The span of a push.
//!
//! The port is open to the world, so a `traceparent` in the request has no effect: otherwise anyone could have
//! any number of pushes traced.

use std::time::Duration;

use http::{StatusCode, Version, request::Parts};
use tokio::time::timeout;
use tracing::{Span, field::Empty};

use crate::{
    events::Audits,
    telemetry::{
        self, Sampler, TRACE,
        conventions::{
            ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
            NETWORK_PROTOCOL_VERSION, URL_PATH, URL_SCHEME,
        },
    },
    util::id::AppId,
};

/// The path of pushes, without the value in it.
const ROUTE: &str = "/wechat/callback/{app_id}";
/// The limit for finding the submission. WeChat waits five seconds in total.
const LINK_TIME: Duration = Duration::from_millis(200);
/// The event that a push became.
const EVENT_ID: &str = "wechat_store_gateway.event_id";

/// The span of one push, with the names of OpenTelemetry's HTTP conventions. Disabled if it is not traced.
#[derive(Debug)]
pub(super) struct PushTrace(Span);

impl PushTrace {
    /// Begins the span of a push to a known account.
    pub(super) fn begin(app_id: &AppId, head: &Parts, sampler: &Sampler) -> Self {
        let name = "POST /wechat/callback/{app_id}";
        if !sampler.chooses_root(name) {
            return Self(Span::none());
        }
        // Without the query: it has the signature.
        Self(tracing::info_span!(
            target: TRACE,
            parent: None,
            "push",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            { HTTP_REQUEST_METHOD } = head.method.as_str(),
            { HTTP_ROUTE } = ROUTE,
            { URL_PATH } = format!("/wechat/callback/{app_id}"),
            // A proxy in front of the gateway ends TLS.
            { URL_SCHEME } = "http",
            { NETWORK_PROTOCOL_VERSION } = if head.version == Version::HTTP_10 { "1.0" } else { "1.1" },
            { HTTP_RESPONSE_STATUS_CODE } = Empty,
            { ERROR_TYPE } = Empty,
            { EVENT_ID } = Empty,
        ))
    }

    /// Records the event that the push became, and links the span to that of the submission.
    pub(super) async fn stored(&self, event_id: &str, position: u64, audits: &Audits) {
        if self.0.is_disabled() {
            return;
        }
        self.0.record(EVENT_ID, event_id);
        let found = timeout(LINK_TIME, audits.submitting_span(position)).await;
        if let Ok(Some((trace_id, span_id))) = found {
            telemetry::link(&self.0, &trace_id, span_id);
        }
    }

    /// Records the answer.
    pub(super) fn end(self, status: StatusCode) {
        let Self(span) = self;
        span.record(HTTP_RESPONSE_STATUS_CODE, status.as_u16());
        if status.is_server_error() {
            span.record(ERROR_TYPE, status.as_str());
            span.record("otel.status_code", "ERROR");
        }
    }
}
