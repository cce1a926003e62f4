//! What every call passes first: limits, deadline, trace, and one shape for every error.
//!
//! One tower layer around all services. Requests are read here as a whole, and deadlines are kept here
//! and not by tonic, whose timer drops the handler and answers a bare CANCELLED.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::Service;

use self::request::{GRPC_ENCODING, Head, Waits, not_grpc};
pub(crate) use self::{
    budget::{Budget, Held, Share},
    request::Unfit,
};
use crate::{
    config::Limits,
    context::{Arrival, Peer, StageCell},
    errors::status,
    service,
    telemetry::{Sampler, Trace},
    util::clock::Clock,
};

mod budget;
mod request;

/// So that our answer, which says more, arrives before the caller's own timer fires, also on a far
/// continent or a busy machine; of short deadlines it is a tenth.
const EARLY: Duration = Duration::from_millis(250);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) calls: Arc<Budget>,
    unfinished: Arc<Budget>,
    memory: Arc<Budget>,
}

/// A connection, and what it has of all that.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: Peer,
    /// Calls that are under way, their answers included; counted by whoever serves the connection.
    pub(crate) calls: Arc<Share>,
    unfinished: Arc<Share>,
    /// Of requests, and of answers that are not read.
    pub(crate) memory: Arc<Share>,
}

impl Budgets {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            calls: Budget::new("limits.calls", limits.calls()),
            unfinished: Budget::new("limits.unfinished_requests", limits.unfinished_requests()),
            memory: Budget::new("limits.request_memory_mib", limits.request_memory()),
        }
    }

    pub(crate) fn connection(&self, peer: Peer) -> Arc<Connection> {
        Arc::new(Connection {
            peer,
            calls: self.calls.share(),
            unfinished: self.unfinished.share(),
            memory: self.memory.share(),
        })
    }
}

/// Admits the calls of all connections to the services inside.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    services: S,
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    clock: Clock,
    default_deadline: Duration,
    max_deadline: Duration,
    sampler: Sampler,
    waits: Waits,
}

/// Admits the calls of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Admit<S> {
    services: S,
    rules: Arc<Rules>,
    connection: Arc<Connection>,
}

impl<S: Clone> Admission<S> {
    /// Wraps all services. From `stop` on no request is waited for.
    pub(crate) fn new(
        services: S,
        limits: &Limits,
        clock: Clock,
        sampler: Sampler,
        stop: CancellationToken,
    ) -> Self {
        let rules = Rules {
            clock,
            default_deadline: limits.default_deadline(),
            max_deadline: limits.max_deadline(),
            sampler,
            waits: Waits { silence: limits.request_silence(), stop },
        };
        Self { services, rules: Arc::new(rules) }
    }

    /// For one connection.
    pub(crate) fn by(&self, connection: Arc<Connection>) -> Admit<S> {
        Admit { services: self.services.clone(), rules: self.rules.clone(), connection }
    }
}

impl Rules {
    /// How long we take at most, by how long the caller waits and our limits.
    fn patience(&self, timeout: Option<Duration>) -> Duration {
        let Some(asked) = timeout else { return self.default_deadline };
        asked.saturating_sub(EARLY.min(asked / 10)).min(self.max_deadline)
    }
}

/// What kind of service a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One of `wechat.store.v1`.
    Ours,
    /// Health. It is answered also where nothing else is, and not traced.
    Health,
    /// Reflection: streams of messages.
    Reflection,
    /// None that is here.
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
}

impl<S, B> Service<Request<B>> for Admit<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let arrived = self.rules.clock.now();
        let mut admit = self.clone();
        let mut request = request.map(Some);
        // What a call has is here once, and all below borrows it: of many requests only the head is
        // there, and then this is all that they take.
        async move { Ok(admit.serve(&mut request, arrived).await) }.boxed()
    }
}

impl<S> Admit<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    async fn serve<B>(
        &mut self,
        request: &mut Request<Option<B>>,
        arrived: Instant,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        if let Some(response) = not_grpc(request) {
            return response;
        }
        let kind = Kind::of(request.uri().path());
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let trace = match kind {
            Kind::Ours | Kind::None => {
                Trace::begin(&method, request.headers(), &self.rules.sampler)
            }
            Kind::Health | Kind::Reflection => Trace::none(),
        };
        let response = match self.answer(kind, request, arrived, &trace).await {
            Ok(response) => response,
            Err(unfit) => Status::from(unfit).into_http(),
        };
        match failure(&response) {
            None => {
                trace.end(&method, None);
                match kind {
                    Kind::Reflection => shaped(response, method, trace),
                    _ => response,
                }
            }
            Some(failure) => finished(failure, &method, &trace).into_http(),
        }
    }

    async fn answer<B>(
        &mut self,
        kind: Kind,
        request: &mut Request<Option<B>>,
        arrived: Instant,
        trace: &Trace,
    ) -> Result<Response<Body>, Unfit>
    where
        B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        let head = Head::read(request)?;
        // Whoever asks how we are is told so above all when there is much to do.
        if kind != Kind::Health || request.uri().path().ends_with("/Watch") {
            self.connection.calls.check()?;
        }
        match kind {
            Kind::Ours => self.in_time(head, request, arrived, trace).await,
            // Their streams have no deadline.
            Kind::Health => {
                let (message, _held) = self.message(head, request).await?;
                Ok(self.call(request, Body::new(Full::new(message))).await)
            }
            Kind::Reflection => {
                let body = request.body_mut().take();
                let body = self.rules.waits.clone().stream(body, self.connection.clone());
                Ok(self.call(request, body).await)
            }
            Kind::None => Ok(self.call(request, Body::empty()).await),
        }
    }

    /// Answers by the caller's deadline.
    async fn in_time<B>(
        &mut self,
        head: Head,
        request: &mut Request<Option<B>>,
        arrived: Instant,
        trace: &Trace,
    ) -> Result<Response<Body>, Unfit>
    where
        B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        let patience = self.rules.patience(head.timeout);
        let deadline = arrived + patience;
        let (stage, clock) = (StageCell::default(), self.rules.clock.clone());
        let answer = async {
            let (message, held) = self.message(head, request).await?;
            let (peer, held) = (self.connection.peer, Arc::new(held));
            let (trace, stage) = (trace.clone(), stage.clone());
            request.extensions_mut().insert(Arrival { peer, deadline, trace, stage, held });
            Ok(self.call(request, Body::new(Full::new(message))).await)
        };
        tokio::select! {
            // First what is ready: an answer that is there is not thrown away.
            biased;
            answer = answer => answer,
            () = clock.sleep_until(deadline) => {
                Ok(status::deadline_exceeded(patience, stage.get()).into_http())
            }
        }
    }

    /// Reads the one message of a request.
    async fn message<B>(
        &mut self,
        head: Head,
        request: &mut Request<Option<B>>,
    ) -> Result<(Bytes, Held), Unfit>
    where
        B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        let limit = service::longest_request(request.uri().path());
        let whole = self.rules.waits.message(head, request.body_mut(), limit, &self.connection);
        let whole = whole.await?;
        // Below here no message is compressed.
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

/// Gives a failure the shape of all, and notes it.
fn finished(failure: Status, method: &str, trace: &Trace) -> Status {
    let failure = status::finished(failure, &trace.id.to_string());
    trace.end(method, Some(&failure));
    failure
}

/// Gives the failure that a stream ends with the shape of all.
fn shaped(response: Response<Body>, method: String, trace: Trace) -> Response<Body> {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| match frame.into_trailers() {
            Err(data) => data,
            Ok(trailers) => match Status::from_header_map(&trailers) {
                Some(failure) if failure.code() != Code::Ok => {
                    let failure = finished(failure, &method, &trace);
                    Frame::trailers(failure.into_http::<()>().into_parts().0.headers)
                }
                _ => Frame::trailers(trailers),
            },
        }))
    })
}

/// The failure that a response carries; a failed unary call has it in its headers.
fn failure(response: &Response<Body>) -> Option<Status> {
    let headers = response.headers();
    let status =
        headers.contains_key("grpc-status").then(|| Status::from_header_map(headers))??;
    (status.code() != Code::Ok).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_answer_a_little_before_the_caller_gives_up() {
        let stop = CancellationToken::new();
        let limits = Limits::default();
        let admission = Admission::new((), &limits, Clock::frozen(), Sampler::default(), stop);
        for (asked, expected) in [
            (None, Duration::from_secs(15)),
            (Some(Duration::from_millis(500)), Duration::from_millis(450)),
            (Some(Duration::from_secs(10)), Duration::from_millis(9_750)),
            (Some(Duration::from_secs(3_600)), Duration::from_secs(60)),
            (Some(Duration::ZERO), Duration::ZERO),
        ] {
            assert_eq!(admission.rules.patience(asked), expected, "{asked:?}");
        }
    }
}
