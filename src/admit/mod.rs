//! What every call passes first: deadline, trace, and one shape for every error.
//!
//! One tower layer around all services. Deadlines are kept here and not by tonic, whose timer drops
//! the handler and answers a bare CANCELLED.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::{
    clock::Clock,
    config::Limits,
    context::{Arrival, Peer, StageCell},
    service::status,
    telemetry::{Sampler, Trace},
};

/// So that our answer, which says more, arrives before the caller's own timer fires, also on a far
/// continent or a busy machine; of short deadlines it is a tenth.
const EARLY: Duration = Duration::from_millis(250);

/// Admits calls to the services inside.
#[derive(Clone, Debug)]
pub struct Admit<S> {
    inner: S,
    clock: Clock,
    default_deadline: Duration,
    max_deadline: Duration,
    sampler: Sampler,
    peer: Peer,
}

impl<S> Admit<S> {
    /// Wraps all services. Each connection takes a clone of its own by [`by`](Self::by).
    pub fn new(inner: S, limits: &Limits, clock: Clock, sampler: Sampler) -> Self {
        let (default_deadline, max_deadline) = (limits.default_deadline(), limits.max_deadline());
        Self { inner, clock, default_deadline, max_deadline, sampler, peer: Peer::NONE }
    }

    /// The same for the calls of one connection.
    pub fn by(self, peer: Peer) -> Self {
        Self { peer, ..self }
    }

    /// How long the caller waits, by its `grpc-timeout`, within our limits.
    fn patience(&self, headers: &HeaderMap) -> Duration {
        let Some(asked) = headers.get("grpc-timeout").and_then(|value| timeout(value.as_bytes()))
        else {
            return self.default_deadline;
        };
        asked.saturating_sub(EARLY.min(asked / 10)).min(self.max_deadline)
    }
}

impl<S, B> Service<Request<B>> for Admit<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let patience = self.patience(request.headers());
        let deadline = self.clock.now() + patience;
        let path = request.uri().path();
        if path.starts_with("/grpc.") {
            // Health and reflection need none of this, and their streams have no deadline.
            return self.inner.call(request).boxed();
        }
        let method = path.trim_start_matches('/').to_owned();
        let trace = Trace::begin(&method, request.headers(), &self.sampler);
        let stage = StageCell::default();
        request.extensions_mut().insert(Arrival {
            peer: self.peer,
            deadline,
            trace: trace.clone(),
            stage: stage.clone(),
        });
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let clock = self.clock.clone();
        async move {
            let response = tokio::select! {
                // First what is ready: an answer that is there is not thrown away.
                biased;
                answer = answer => match answer {
                    Ok(Ok(response)) => response,
                    Err(_) => status::internal("a handler panicked").into_http(),
                },
                () = clock.sleep_until(deadline) => {
                    status::deadline_exceeded(patience, stage.get()).into_http()
                }
            };
            Ok(match failure(&response) {
                None => {
                    trace.end(&method, None);
                    response
                }
                Some(failure) => {
                    let failure = status::finished(failure, &trace.id.to_string());
                    trace.end(&method, Some(&failure));
                    failure.into_http()
                }
            })
        }
        .boxed()
    }
}

/// The failure that a response carries; a failed unary call has it in its headers.
fn failure(response: &Response<Body>) -> Option<Status> {
    let headers = response.headers();
    let status =
        headers.contains_key("grpc-status").then(|| Status::from_header_map(headers))??;
    (status.code() != Code::Ok).then_some(status)
}

/// Reads `grpc-timeout`: at most eight digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_answer_a_little_before_the_caller_gives_up() {
        let admit = Admit::new((), &Limits::default(), Clock::frozen(), Sampler::default());
        for (asked, expected) in [
            (None, Duration::from_secs(15)),
            (Some("nonsense"), Duration::from_secs(15)),
            (Some("500m"), Duration::from_millis(450)),
            (Some("10S"), Duration::from_millis(9_750)),
            (Some("1H"), Duration::from_secs(60)),
            (Some("0m"), Duration::ZERO),
        ] {
            let headers = asked.map(|asked| {
                (http::HeaderName::from_static("grpc-timeout"), asked.parse().expect("ASCII"))
            });
            let headers: HeaderMap = headers.into_iter().collect();
            assert_eq!(admit.patience(&headers), expected, "{asked:?}");
        }
    }

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("123456789S", None),
            ("1x", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text:?}");
        }
    }
}
