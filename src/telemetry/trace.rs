//! The trace of one call.

use std::{sync::Arc, time::Instant};

use base16ct::lower;
use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, SpanKind, TraceContextExt, TraceState},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SamplingDecision, ShouldSample},
};
use tonic::{Code, Status};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    TRACE,
    conventions::{
        ERROR_TYPE, OTHER_METHOD, RPC_METHOD, RPC_METHOD_ORIGINAL, RPC_STATUS_CODE, RPC_SYSTEM_NAME,
    },
};

/// The program that calls. The conventions have no attribute for it: `enduser.id` is a person.
const CALLER: &str = "wechat_store_gateway.caller";

/// Decides whether a call is traced.
#[derive(Clone, Debug, Default)]
pub struct Sampler(Option<Arc<dyn ShouldSample>>);

impl Sampler {
    /// Creates a sampler. Without a rule, it samples nothing.
    pub(crate) fn new(rule: Option<Arc<dyn ShouldSample>>) -> Self {
        Self(rule)
    }

    /// Decides whether work that no caller began is traced.
    pub(crate) fn chooses_root(&self, name: &str) -> bool {
        self.0.is_some() && self.chooses(&Context::new(), TraceId::from(fastrand::u128(1..)), name)
    }

    fn chooses(&self, parent: &Context, id: TraceId, method: &str) -> bool {
        self.0.as_ref().is_some_and(|rule| {
            let decided =
                rule.should_sample(Some(parent), id, method, &SpanKind::Server, &[], &[]).decision;
            decided == SamplingDecision::RecordAndSample
        })
    }
}

/// The position of a call in its trace. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The trace id of the caller, or a new one. Calls that are not traced have one, too, for the
    /// logs.
    pub id: TraceId,
    /// The span of the call. Disabled if the call is not traced.
    pub span: Span,
    started: Instant,
}

impl Trace {
    /// Begins the trace of a call. It has no span yet.
    pub fn begin(headers: &HeaderMap) -> Self {
        let caller = parent(headers).span().span_context().trace_id();
        match caller == TraceId::INVALID {
            true => Self::none(),
            false => Self { id: caller, ..Self::none() },
        }
    }

    /// Begins the span of a call to `method`, such as `wechat.store.v1.CardService/GetStoreCard`, if the call
    /// is sampled. The method is `known` if the contract has it.
    ///
    /// The headers can demand it, so this comes after the identification of the caller.
    pub fn sample(&mut self, method: &str, known: bool, headers: &HeaderMap, sampler: &Sampler) {
        let parent = parent(headers);
        if !sampler.chooses(&parent, self.id, method) {
            return;
        }
        let span = tracing::info_span!(
            target: TRACE,
            "rpc",
            otel.name = if known { method } else { "grpc" },
            otel.kind = "server",
            otel.status_code = Empty,
            { RPC_SYSTEM_NAME } = "grpc",
            { RPC_METHOD } = if known { method } else { OTHER_METHOD },
            { RPC_METHOD_ORIGINAL } = (!known).then_some(method),
            { CALLER } = Empty,
            { RPC_STATUS_CODE } = Empty,
            { ERROR_TYPE } = Empty,
        );
        // This only fails if there is no exporter, and then nothing is sampled.
        let _ = span.set_parent(parent);
        *self = Self { id: id_of(&span).unwrap_or(self.id), span, started: self.started };
    }

    /// Returns the trace of work that has begun with this span. It has an id even if the span is disabled.
    pub(crate) fn of(span: Span) -> Self {
        let trace = Self::none();
        Self { id: id_of(&span).unwrap_or(trace.id), span, ..trace }
    }

    /// Returns a trace for work that belongs to no call. It is not sampled.
    pub fn none() -> Self {
        Self { id: TraceId::from(fastrand::u128(1..)), span: Span::none(), started: Instant::now() }
    }

    /// Returns the trace id as the value of a header.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut text = [0; 32];
        let text = lower::encode(&self.id.to_bytes(), &mut text).ok()?;
        HeaderValue::from_bytes(text).ok()
    }

    /// Returns the id of the span. 0 if the call is not traced.
    pub(crate) fn span_id(&self) -> u64 {
        match self.span.is_disabled() {
            true => 0,
            false => {
                u64::from_be_bytes(self.span.context().span().span_context().span_id().to_bytes())
            }
        }
    }

    /// Records the caller, which is known only after the call has begun. An empty name is not recorded.
    pub fn record_caller(&self, caller: &str) {
        if !caller.is_empty() && !self.span.is_disabled() {
            self.span.record(CALLER, caller);
        }
    }

    /// Records the end of the call on its span and, if it failed, in the log. Each method and code logs
    /// at most a few lines per second. All methods that are not `known` count as one, because a client may
    /// have invented their names. `caller` is empty if it is not known.
    pub fn end(&self, method: &str, known: bool, caller: &str, failure: Option<&Status>) {
        let code = failure.map_or(Code::Ok, Status::code);
        if !self.span.is_disabled() {
            self.span.record(RPC_STATUS_CODE, code_name(code));
            if is_server_failure(code) {
                self.span.record(ERROR_TYPE, code_name(code));
                self.span.record("otel.status_code", "ERROR");
            }
        }
        let duration_ms = || u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(failure) = failure else {
            tracing::debug!(method, trace_id = %self.id, duration_ms = duration_ms(), "served");
            return;
        };
        let Some(unlogged) = super::may_log(code_name(code), if known { method } else { "" })
        else {
            return;
        };
        // The level depends on the action needed: an operator's now, an operator's later, or the
        // caller's.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    method,
                    caller = (!caller.is_empty()).then_some(caller),
                    trace_id = %self.id,
                    code = code_name(code),
                    duration_ms = duration_ms(),
                    unlogged = (unlogged > 0).then_some(unlogged),
                    "{}",
                    failure.message()
                )
            };
        }
        match code {
            Code::Internal | Code::DataLoss => log!(error),
            // The caller asked for a method that does not exist, like a port scanner.
            Code::Unimplemented => log!(info),
            code if is_server_failure(code) => log!(warn),
            Code::FailedPrecondition | Code::PermissionDenied | Code::ResourceExhausted => {
                log!(warn)
            }
            _ => log!(info),
        }
    }
}

/// Returns the trace id of a span. `None` if the span is not traced.
fn id_of(span: &Span) -> Option<TraceId> {
    let id = span.context().span().span_context().trace_id();
    (id != TraceId::INVALID).then_some(id)
}

/// Links a span to the span of an earlier call. Does nothing if either is not traced.
pub(crate) fn link(span: &Span, trace_id: &str, span_id: u64) {
    let Ok(trace_id) = TraceId::from_hex(trace_id) else { return };
    let (span_id, flags) = (SpanId::from(span_id), TraceFlags::SAMPLED);
    let linked = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
    if linked.is_valid() {
        span.add_link(linked);
    }
}

/// Returns the context of the caller's span. Empty if the caller sends none.
fn parent(headers: &HeaderMap) -> Context {
    match headers.contains_key("traceparent") {
        true => {
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
        }
        false => Context::new(),
    }
}

/// Returns true for codes that are failures of a server, by OpenTelemetry's gRPC conventions. The others are
/// the caller's mistakes.
pub(crate) fn is_server_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Returns the name of a code in the conventions.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
