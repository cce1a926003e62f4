//! The first layer of every gRPC call: limits, deadline, trace, and one shape for every error.
//!
//! It is one tower layer around all services. It reads each request as a whole. It also keeps the
//! deadlines, because tonic's timer drops the handler and answers a bare CANCELLED.

use std::{
    convert::Infallible,
    fmt::Display,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::Service;

use self::{
    questions::Questions,
    request::{GRPC_ENCODING, Head, RequestBody, Waits, Whole, not_grpc},
    write_line::WriteLine,
};
use crate::{
    activity::ActivityLog,
    callers::{Caller, Callers, Forbidden, Identity, TooFast},
    config::{Limits, Reflection, Settings},
    context::{Arrival, Ending, Peer, Progress},
    errors::{Unfit, status},
    metrics::{Metrics, Running},
    pb::{self, Access},
    service, service_config,
    telemetry::{Sampler, Trace, may_log},
    tls::ClientCertificate,
    util::{
        budget::{Budget, Share},
        clock::Clock,
    },
};

mod questions;
mod request;
mod write_line;

/// The gateway answers this long before the caller's deadline, or a tenth of a short deadline. So its
/// answer, which has more detail, arrives before the caller's own timer fires, even over a long distance
/// or on a busy machine.
const EARLY: Duration = Duration::from_millis(250);

/// WeChat answers nearly all calls within this time. A caller that gives a call less causes its DEADLINE_EXCEEDED
/// itself.
const FAIR_TIME: Duration = Duration::from_secs(2);

/// The metadata of each answer that names its trace, for callers that report a problem.
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// The budgets that all connections share. Health and reflection have small ones of their own: a client that
/// proves nothing can reach them, and must not take the places of callers. So a gateway with many calls still
/// answers health checks, too.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    ours: Pool,
    open: Pool,
}

/// The budgets of some services.
#[derive(Clone, Debug)]
struct Pool {
    calls: Arc<Budget>,
    unfinished: Arc<Budget>,
    memory: Arc<Budget>,
}

/// The memory for each call of the open services, in bytes: its metadata and a short message.
const OPEN_MEMORY: usize = 32 * 1024;
/// The calls of the open services that each connection can always make: the watch of health that the service
/// config asks for, and a check beside it. The limits on connections bound them.
const OPEN_GUARANTEED: usize = 2;

/// A connection, with its shares of the budgets.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: Peer,
    /// The certificate that the client sent.
    certificate: Option<Arc<ClientCertificate>>,
    /// Ends the answers that do not end by themselves.
    ending: Ending,
    ours: Shares,
    open: Shares,
}

/// A connection's shares of a pool.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The calls of which the answer is not sent yet. The server of the connection counts them.
    pub(crate) calls: Arc<Share>,
    unfinished: Arc<Share>,
    /// The memory of requests, and of answers that the peer has not read.
    pub(crate) memory: Arc<Share>,
}

impl Pool {
    /// Returns the shares of a new connection, which can make `guaranteed` short calls even if other
    /// connections have taken everything.
    fn shares(&self, guaranteed: usize) -> Shares {
        Shares {
            calls: self.calls.share(guaranteed),
            unfinished: self.unfinished.share(guaranteed),
            memory: self.memory.share(guaranteed * OPEN_MEMORY),
        }
    }
}

impl Connection {
    /// Returns the shares that a request to this path uses.
    pub(crate) fn shares(&self, path: &str) -> &Shares {
        match Kind::of(path) {
            Kind::Health | Kind::Reflection => &self.open,
            Kind::Ours | Kind::None => &self.ours,
        }
    }

    /// Returns the number of calls of which the answer is not sent yet.
    pub(crate) fn calls(&self) -> usize {
        self.ours.calls.own() + self.open.calls.own()
    }
}

impl Budgets {
    /// Returns the budgets that the settings allow.
    pub(crate) fn new(limits: &Limits) -> Self {
        let (open, calls) = ("limits.open_calls", limits.open_calls());
        Self {
            ours: Pool {
                calls: Budget::new("limits.calls", limits.calls()),
                unfinished: Budget::new("limits.unfinished_requests", limits.unfinished_requests()),
                memory: Budget::new("limits.request_memory_mib", limits.request_memory()),
            },
            open: Pool {
                calls: Budget::new(open, calls),
                unfinished: Budget::new(open, calls),
                memory: Budget::new(open, calls * OPEN_MEMORY),
            },
        }
    }

    /// Changes the limits to those of other settings.
    pub(crate) fn update(&self, limits: &Limits) {
        self.ours.calls.set_limit(limits.calls());
        self.ours.unfinished.set_limit(limits.unfinished_requests());
        self.ours.memory.set_limit(limits.request_memory());
        self.open.calls.set_limit(limits.open_calls());
        self.open.unfinished.set_limit(limits.open_calls());
        self.open.memory.set_limit(limits.open_calls() * OPEN_MEMORY);
    }

    /// Returns the number of calls in progress.
    pub(crate) fn calls(&self) -> usize {
        self.ours.calls.taken() + self.open.calls.taken()
    }

    /// Returns a new connection.
    pub(crate) fn connection(
        &self,
        peer: Peer,
        certificate: Option<Arc<ClientCertificate>>,
        ending: Ending,
    ) -> Arc<Connection> {
        Arc::new(Connection {
            peer,
            certificate,
            ending,
            ours: self.ours.shares(0),
            open: self.open.shares(OPEN_GUARANTEED),
        })
    }
}

/// The layer around the services `S`, for all connections.
#[derive(Clone, Debug)]
pub(crate) struct Middleware<S> {
    services: S,
    rules: Arc<ArcSwap<Rules>>,
}

/// What the middleware shares with other parts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) callers: Callers,
    pub(crate) activity: ActivityLog,
    pub(crate) clock: Clock,
    pub(crate) sampler: Sampler,
    pub(crate) metrics: Metrics,
}

/// What applies to each call. A call keeps those with which it began.
#[derive(Clone, Debug)]
struct Rules {
    callers: Callers,
    activity: ActivityLog,
    reflection: Reflection,
    clock: Clock,
    default_deadline: Duration,
    max_deadline: Duration,
    /// In bytes.
    longest_message: usize,
    /// In bytes.
    longest_metadata: usize,
    sampler: Sampler,
    metrics: Metrics,
    waits: Waits,
}

/// The layer around the services, for one connection. It serves each call.
#[derive(Clone, Debug)]
pub(crate) struct CallService<S> {
    services: S,
    latest_rules: Arc<ArcSwap<Rules>>,
    /// Those of the call.
    rules: Arc<Rules>,
    connection: Arc<Connection>,
}

impl<S: Clone> Middleware<S> {
    /// Returns the services without the layer.
    pub(crate) fn services(&self) -> S {
        self.services.clone()
    }

    /// Wraps all services. After `stop` it does not wait for further requests.
    pub(crate) fn new(
        services: S,
        shared: Shared,
        settings: &Settings,
        stop: CancellationToken,
    ) -> Self {
        let Shared { callers, activity, clock, sampler, metrics } = shared;
        let limits = &settings.limits;
        let rules = Rules {
            callers,
            activity,
            reflection: settings.listen.reflection,
            clock,
            default_deadline: limits.default_deadline(),
            max_deadline: limits.max_deadline(),
            longest_message: limits.longest_message(),
            longest_metadata: limits.longest_metadata(),
            sampler,
            metrics,
            waits: Waits { silence: limits.request_silence(), stop },
        };
        Self { services, rules: Arc::new(ArcSwap::from_pointee(rules)) }
    }

    /// Changes the limits of further calls.
    pub(crate) fn update(&self, limits: &Limits) {
        let before = self.rules.load();
        let silence = limits.request_silence();
        self.rules.store(Arc::new(Rules {
            default_deadline: limits.default_deadline(),
            max_deadline: limits.max_deadline(),
            longest_message: limits.longest_message(),
            longest_metadata: limits.longest_metadata(),
            waits: Waits { silence, stop: before.waits.stop.clone() },
            ..Rules::clone(&before)
        }));
    }

    /// Returns the service for one connection.
    pub(crate) fn for_connection(&self, connection: Arc<Connection>) -> CallService<S> {
        let (services, latest_rules) = (self.services.clone(), self.rules.clone());
        CallService { services, rules: latest_rules.load_full(), latest_rules, connection }
    }
}

impl Rules {
    /// Returns the time for a call, by the caller's timeout and the settings' limits.
    fn time_for_call(&self, timeout: Option<Duration>) -> Duration {
        let Some(asked) = timeout else { return self.default_deadline };
        asked.saturating_sub(EARLY.min(asked / 10)).min(self.max_deadline)
    }
}

/// The longest name of a method in a log, in characters. The contract has no longer one.
const LONGEST_NAME: usize = 100;

/// A call, as logs and traces name it.
#[derive(Debug)]
struct Call {
    /// The service and the RPC, without the first slash.
    method: String,
    /// True if the contract has the method.
    known: bool,
    trace: Trace,
    /// Measures the call until it is dropped.
    running: Running,
    /// `None` until the caller is known.
    caller: Option<Arc<Caller>>,
    /// The line in the activity log, if the call writes.
    line: Option<WriteLine>,
    /// `None` until the call is one of the contract.
    progress: Option<Progress>,
    /// The end of the caller's time. `None` without an end.
    ends: Option<Instant>,
    /// The caller's time for the call. `None` if it sent none.
    asked: Option<Duration>,
    /// True if the whole request has arrived.
    received: bool,
}

impl Call {
    fn begin(kind: Kind, path: &str, headers: &HeaderMap, rules: &Rules) -> Self {
        // A client can invent a name of any length.
        let method = path.trim_start_matches('/').chars().take(LONGEST_NAME).collect::<String>();
        let known = pb::access(path).is_some();
        let trace = Trace::begin(headers);
        let running = rules.metrics.begin_call(kind.method(path));
        Self {
            method,
            known,
            trace,
            running,
            caller: None,
            line: None,
            progress: None,
            ends: None,
            asked: None,
            received: false,
        }
    }

    /// Records the caller. Begins the span of the call, unless the call is about this process itself.
    fn identified(
        &mut self,
        kind: Kind,
        caller: &Arc<Caller>,
        headers: &HeaderMap,
        sampler: &Sampler,
    ) {
        if matches!(kind, Kind::Ours | Kind::None) {
            self.trace.sample(&self.method, self.known, headers, sampler);
            self.trace.record_caller(caller.name());
        }
        self.caller = Some(caller.clone());
    }

    /// Returns a failure with the shape of all failures.
    fn shape(&self, failure: Status) -> Status {
        status::finished(failure, &self.trace.id.to_string())
    }

    /// Records the end of the call in the trace, in the log and in the metrics.
    fn end(&mut self, failure: Option<&Status>) {
        let code = failure.map_or(Code::Ok, Status::code);
        self.running.set_code(code);
        if self.is_caused_by_caller(code) {
            self.running.set_caused_by_caller();
        }
        let caller = self.caller.as_ref().map_or("", |caller| caller.name());
        self.trace.end(&self.method, self.known, caller, failure);
    }

    /// Returns true if the caller caused a failure, though its code is one of a failing server.
    fn is_caused_by_caller(&self, code: Code) -> bool {
        match code {
            Code::DeadlineExceeded => {
                let has_little_time = self.asked.is_some_and(|asked| asked < FAIR_TIME);
                // It has a caller as soon as the gateway could read the rest.
                has_little_time || (self.caller.is_some() && !self.received)
            }
            Code::Unknown => self.progress.as_ref().is_some_and(Progress::repeats_unknown),
            _ => false,
        }
    }

    /// Writes the line of the activity log, if the call writes.
    async fn write_line(&mut self, failure: Option<&Status>) {
        if let Some(line) = self.line.take() {
            line.write(failure).await;
        }
    }
}

/// The kind of service that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A service of `wechat.store.v1`.
    Ours,
    /// The health service. It answers even beyond the limit of calls, and has no trace.
    Health,
    /// The reflection services. Their requests are streams.
    Reflection,
    /// No service of this process.
    None,
}

impl Kind {
    fn of(path: &str) -> Self {
        if path.starts_with("/wechat.store.v1.") {
            Self::Ours
        } else if path.starts_with("/grpc.health.") {
            Self::Health
        } else if path.starts_with("/grpc.reflection.") {
            Self::Reflection
        } else {
            Self::None
        }
    }

    /// Returns the full name of the method at a path. Returns `None` if this process does not have it.
    fn method(self, path: &str) -> Option<&'static str> {
        match self {
            Self::Ours => pb::full_name(path),
            Self::Health | Self::Reflection => {
                OTHERS.into_iter().find(|method| path.strip_prefix('/') == Some(*method))
            }
            Self::None => None,
        }
    }
}

/// The methods beside those of the contract.
const OTHERS: [&str; 5] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Returns true if a method answers with a stream.
fn streams(method: &str) -> bool {
    method.rsplit('/').next().is_some_and(|name| name.starts_with("Watch"))
}

impl<S, B> Service<Request<B>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: RequestBody,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut service = self.clone();
        service.rules = self.latest_rules.load_full();
        let arrived = service.rules.clock.now();
        let mut request = request.map(Some);
        // The request is in memory once, and all functions below borrow it. Of many requests only the
        // head has arrived, and then this is all the memory that they take.
        async move { Ok(service.serve(&mut request, arrived).await) }.boxed()
    }
}

impl<S> CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    /// Returns the response to a request, with the shape of all failures.
    async fn serve(
        &mut self,
        request: &mut Request<Option<impl RequestBody>>,
        arrived: Instant,
    ) -> Response<Body> {
        if let Some(response) = not_grpc(request) {
            return response;
        }
        let kind = Kind::of(request.uri().path());
        let (path, headers) = (request.uri().path(), request.headers());
        let mut call = Call::begin(kind, path, headers, &self.rules);
        let response = match self.answer(kind, request, arrived, &mut call).await {
            Ok(response) => response,
            Err(unfit) => Status::from(unfit).into_http(),
        };
        let failure = failure(&response).map(|failure| {
            let now = self.rules.clock.now();
            let time_left = call.ends.map(|ends| ends.saturating_duration_since(now));
            let may_repeat = call.progress.as_ref().is_none_or(Progress::may_repeat);
            status::held_back(call.shape(failure), may_repeat, time_left)
        });
        call.write_line(failure.as_ref()).await;
        call.end(failure.as_ref());
        let trace_id = call.trace.header();
        let mut response = match failure {
            Some(failure) => failure.into_http(),
            None if kind == Kind::Reflection => shaped(response, call),
            None if streams(call.method.as_str()) => measured(response, call.running),
            None => response,
        };
        if kind != Kind::Health {
            response.headers_mut().extend(trace_id.map(|id| (TRACE_ID, id)));
        }
        response
    }

    /// Returns the service's response, or the reason why the request reaches no service.
    async fn answer(
        &mut self,
        kind: Kind,
        request: &mut Request<Option<impl RequestBody>>,
        arrived: Instant,
        call: &mut Call,
    ) -> Result<Response<Body>, Unfit> {
        let head = Head::parse(request, self.rules.longest_metadata)?;
        // A health check must be answered even when the process has the most to do.
        if kind != Kind::Health || request.uri().path().ends_with("/Watch") {
            self.connection.shares(request.uri().path()).calls.check()?;
        }
        match kind {
            Kind::Ours => self.in_time(head, request, arrived, call).await,
            // A watch of the health has no deadline, but its request has one.
            Kind::Health => {
                let silence = self.rules.waits.silence;
                let message = timeout(silence, self.message(head, request)).await;
                let (message, _held) = message.map_err(|_| Unfit::Silent(silence))??;
                request.extensions_mut().insert(self.connection.ending.clone());
                Ok(self.call(request, message).await)
            }
            Kind::Reflection => {
                if self.rules.reflection != Reflection::Anyone {
                    self.identify(kind, request.headers(), call).await?;
                }
                let body = request.body_mut().take();
                request.extensions_mut().insert(self.connection.ending.clone());
                let questions = Questions::new(call.caller.clone());
                let body = self.rules.waits.clone().stream(
                    body,
                    self.connection.open.unfinished.clone(),
                    questions.clone(),
                );
                let mut response = self.call(request, body).await;
                response.extensions_mut().insert(questions);
                Ok(response)
            }
            Kind::None => {
                self.identify(kind, request.headers(), call).await?;
                Ok(self.call(request, Body::empty()).await)
            }
        }
    }

    /// Returns the service's response, or DEADLINE_EXCEEDED a little before the caller's deadline.
    async fn in_time(
        &mut self,
        head: Head,
        request: &mut Request<Option<impl RequestBody>>,
        arrived: Instant,
        call: &mut Call,
    ) -> Result<Response<Body>, Unfit> {
        let time = self.rules.time_for_call(head.timeout);
        let deadline = arrived + time;
        let access = pb::access(request.uri().path());
        let progress = match access {
            None | Some(Access::Read) => Progress::default(),
            Some(_) => Progress::of_write(service_config::is_sent_once(request.uri().path())),
        };
        // Some libraries do not send the timeout of a service config.
        let time_of_caller = head.timeout.unwrap_or(self.rules.default_deadline);
        call.ends = arrived.checked_add(time_of_caller);
        call.asked = head.timeout;
        call.progress = Some(progress.clone());
        let clock = self.rules.clock.clone();
        let answer = async {
            let identity = self.identify(Kind::Ours, request.headers(), call).await?;
            call.line = WriteLine::new(&self.rules, call, &progress, &identity.caller);
            let access = access.unwrap_or(Access::Admin);
            if !identity.caller.may_somewhere(access) {
                self.rules.metrics.count_caller_refusal("role");
                return Err(Forbidden::new(&identity.caller, access, None).into());
            }
            let (message, held) = self.message(head, request).await?;
            call.received = true;
            let (peer, held) = (self.connection.peer, Arc::new(held));
            let ending = self.connection.ending.clone();
            let (trace, progress) = (call.trace.clone(), progress.clone());
            let arrival = Arrival { identity, peer, ending, deadline, trace, progress, held };
            request.extensions_mut().insert(arrival);
            Ok(self.call(request, message).await)
        };
        tokio::select! {
            // The answer is polled first, so that a ready answer is never thrown away.
            biased;
            answer = answer => answer,
            () = clock.sleep_until(deadline) => {
                Ok(status::deadline_exceeded(time, progress.stage()).into_http())
            }
        }
    }

    /// Returns the identity of a request, records it, and counts the call. Logs a refusal.
    async fn identify(
        &mut self,
        kind: Kind,
        headers: &HeaderMap,
        call: &mut Call,
    ) -> Result<Identity, Unfit> {
        let Connection { peer, certificate, .. } = &*self.connection;
        let identified =
            self.rules.callers.identify(headers, certificate.as_ref(), peer.address).await;
        let identity = identified.inspect_err(|refused| self.log_refusal(refused))?;
        call.identified(kind, &identity.caller, headers, &self.rules.sampler);
        let too_fast = |_: &TooFast| self.rules.metrics.count_caller_refusal("rate");
        identity.caller.count_call().inspect_err(too_fast)?;
        Ok(identity)
    }

    fn log_refusal(&self, refused: &dyn Display) {
        self.rules.metrics.count_caller_refusal("unknown");
        let address = self.connection.peer.address;
        let text = "refused a caller";
        if let Some(unlogged) = may_log(text, &format!("{address} {refused}")) {
            tracing::warn!(%address, unlogged, "{text}: {refused}");
        }
    }

    /// Reads the one message of a request.
    async fn message(
        &mut self,
        head: Head,
        request: &mut Request<Option<impl RequestBody>>,
    ) -> Result<Whole, Unfit> {
        let limit = service::longest_request(request.uri().path(), self.rules.longest_message);
        let path = request.uri().path().to_owned();
        let shares = self.connection.shares(&path);
        let whole = self.rules.waits.message(head, request.body_mut(), limit, shares);
        let whole = whole.await?;
        // The message is uncompressed from here on.
        request.headers_mut().remove(&GRPC_ENCODING);
        Ok(whole)
    }

    /// Calls the service that a request names.
    async fn call<B>(&mut self, request: &mut Request<Option<B>>, body: Body) -> Response<Body> {
        let mut whole = Request::new(body);
        *whole.method_mut() = request.method().clone();
        *whole.version_mut() = request.version();
        *whole.uri_mut() = std::mem::take(request.uri_mut());
        *whole.headers_mut() = std::mem::take(request.headers_mut());
        *whole.extensions_mut() = std::mem::take(request.extensions_mut());
        match AssertUnwindSafe(self.services.call(whole)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Err(_) => status::internal("a handler panicked").into_http(),
        }
    }
}

/// Returns a stream of which a failure at the end has the shape of all failures.
fn shaped(response: Response<Body>, mut call: Call) -> Response<Body> {
    let questions = response.extensions().get::<Questions>().cloned();
    // The answer has begun, and the peer may close the stream.
    call.running.set_code(Code::Cancelled);
    response.map(|body| {
        Body::new(body.map_frame(move |frame| match frame.into_trailers() {
            Err(data) => data,
            Ok(trailers) => {
                // The service ends its answers without a failure if its questions fail.
                let refusal = questions.as_ref().and_then(Questions::refusal);
                let failure = refusal.or_else(|| Status::from_header_map(&trailers));
                match failure.filter(|failure| failure.code() != Code::Ok) {
                    Some(failure) => {
                        let failure = call.shape(failure);
                        call.end(Some(&failure));
                        Frame::trailers(failure.into_http::<()>().into_parts().0.headers)
                    }
                    None => {
                        call.running.set_code(Code::Ok);
                        Frame::trailers(trailers)
                    }
                }
            }
        }))
    })
}

/// Returns a stream that is measured to its end.
fn measured(response: Response<Body>, mut running: Running) -> Response<Body> {
    // The answer has begun, and the peer may close the stream.
    running.set_code(Code::Cancelled);
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(trailers) = frame.trailers_ref() {
                let status = Status::from_header_map(trailers);
                running.set_code(status.map_or(Code::Unknown, |status| status.code()));
            }
            frame
        }))
    })
}

/// Returns the failure that a response carries. A failed unary call has it in its headers.
fn failure(response: &Response<Body>) -> Option<Status> {
    let headers = response.headers();
    let status =
        headers.contains_key("grpc-status").then(|| Status::from_header_map(headers))??;
    (status.code() != Code::Ok).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn gateway_answers_shortly_before_caller_deadline() {
        let settings =
            "[[accounts]]\napp_id = \"wx0123456789abcdef\"\nkind = \"official\"\nsecret = \"s\"";
        let settings = Settings::parse(settings, &Environment::new()).expect("good settings");
        let clock = Clock::frozen();
        let shared = Shared {
            callers: Callers::new(&settings, &clock),
            activity: ActivityLog::default(),
            clock,
            sampler: Sampler::default(),
            metrics: Metrics::default(),
        };
        let middleware = Middleware::new((), shared, &settings, CancellationToken::new());
        for (asked, expected) in [
            (None, Duration::from_secs(15)),
            (Some(Duration::from_millis(500)), Duration::from_millis(450)),
            (Some(Duration::from_secs(10)), Duration::from_millis(9_750)),
            (Some(Duration::from_secs(3_600)), Duration::from_secs(60)),
            (Some(Duration::ZERO), Duration::ZERO),
        ] {
            assert_eq!(middleware.rules.load().time_for_call(asked), expected, "{asked:?}");
        }
    }
}
