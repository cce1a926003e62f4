//! Answers operators over HTTP: `/livez`, `/readyz` and `/metrics`.
//!
//! A process is ready if its state can be written and it is not stopping. WeChat's health does not
//! matter. The gRPC health service differs: it reports whether calls are accepted at all, and reads
//! need no state.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{http1, listener::Listener};
use crate::{
    metrics::{self, Provider},
    state::State,
    tls::Tls,
    util::{
        clock::Clock,
        lock,
        single_flight::{Run, SingleFlight},
    },
};

/// A state that takes longer is not ready. This is longer than the state's own limits, whose errors
/// have more detail.
const PROBE_LIMIT: Duration = Duration::from_millis(2500);
/// A probe writes to the state, so all requests within this time share one.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Answers operators.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) probe: Probe,
    /// Canceled when the process begins to stop.
    pub(crate) leaving: CancellationToken,
    pub(crate) metrics: Arc<Provider>,
    /// The TLS of all listeners that have any.
    pub(crate) tls: Vec<Tls>,
}

impl Admin {
    /// Answers until `stop`.
    pub(crate) async fn run(self, listener: Listener, stop: CancellationToken) {
        let answer = move |request| {
            let admin = self.clone();
            async move { admin.answer(request).await }
        };
        http1::serve(listener, stop, answer).await;
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let mut content_type = "text/plain; charset=utf-8";
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => match self.ready().await {
                Ok(()) => (StatusCode::OK, format!("ok\n{}", self.warnings())),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
            },
            (&Method::GET | &Method::HEAD, "/metrics") => match self.metrics.text() {
                None => {
                    (StatusCode::NOT_FOUND, "OTEL_METRICS_EXPORTER has no prometheus\n".to_owned())
                }
                Some(Ok(text)) => {
                    content_type = metrics::CONTENT_TYPE;
                    (StatusCode::OK, text)
                }
                Some(Err(error)) => {
                    tracing::error!("failed to write the metrics: {error}");
                    (StatusCode::INTERNAL_SERVER_ERROR, "the log has the error\n".to_owned())
                }
            },
            _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }

    /// Returns a line for each listener whose new certificate files cannot be used. It continues with the
    /// old ones.
    fn warnings(&self) -> String {
        let failed = self.tls.iter().filter_map(|tls| tls.status().last_error);
        failed.map(|error| format!("warning: {error}\n")).collect()
    }

    /// Returns an error with the reason if the process is not ready.
    async fn ready(&self) -> Result<(), String> {
        if self.leaving.is_cancelled() {
            return Err("shutting down".to_owned());
        }
        self.probe.result().await
    }
}

/// The probe of the state, which all requests share. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Probe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Arc<dyn State>,
    clock: Clock,
    last: Mutex<Last>,
}

/// The last probe. Before the first one there is none.
#[derive(Debug, Default)]
struct Last {
    flight: SingleFlight<Result<(), String>>,
    run: Option<(Instant, Run<Result<(), String>>)>,
}

impl Probe {
    /// Returns a probe of this state that has not run yet.
    pub(crate) fn new(state: Arc<dyn State>, clock: Clock) -> Self {
        Self(Arc::new(Inner { state, clock, last: Mutex::default() }))
    }

    /// Returns the result of a probe that began at most [`PROBE_PAUSE`] ago, or is still running.
    async fn result(&self) -> Result<(), String> {
        let run = self.run();
        run.await
    }

    fn run(&self) -> Run<Result<(), String>> {
        let Inner { state, clock, last } = &*self.0;
        let (now, mut last) = (clock.now(), lock(last));
        if let Some(run) = last.flight.running() {
            return run;
        }
        if let Some((began, run)) = &last.run
            && now.duration_since(*began) < PROBE_PAUSE
        {
            return run.clone();
        }
        let state = state.clone();
        let run = last.flight.start(async move {
            match timeout(PROBE_LIMIT, state.probe()).await {
                Ok(probed) => probed.map_err(|error| error.to_string()),
                Err(_) => Err("the state does not answer".to_owned()),
            }
        });
        last.run = Some((now, run.clone()));
        run
    }
}
