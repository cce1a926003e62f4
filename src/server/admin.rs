//! Answers operators over HTTP: `/livez`, `/readyz` and `/metrics`.
//!
//! A process is ready if its state can be written and it is not stopping. WeChat's health does not
//! matter. The gRPC health service differs: it reports whether calls are accepted at all, and reads
//! need no state.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::{
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{http1, listener::Listener};
use crate::{
    metrics::{self, Provider},
    state::State,
    tls::Tls,
    util::{clock::Clock, shared_run::SharedRun},
};

/// A state that takes longer is not ready. This is longer than the state's own limits, whose errors
/// have more detail.
const PROBE_LIMIT: Duration = Duration::from_millis(2500);
/// A probe writes to the state, and a rendering reads all metrics, so all requests within this time share one.
const SHARED_TIME: Duration = Duration::from_secs(1);
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers operators.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) probe: Probe,
    /// Canceled when the process begins to stop.
    pub(crate) leaving: CancellationToken,
    pub(crate) metrics: Exposition,
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
        let plain = |status, text: String| (status, PLAIN, Bytes::from(text));
        let (status, content_type, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/livez") => plain(StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => match self.ready().await {
                Ok(()) => plain(StatusCode::OK, format!("ok\n{}", self.warnings())),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
            },
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics.result().await,
            _ => {
                let text = "there are /livez, /readyz and /metrics\n";
                plain(StatusCode::NOT_FOUND, text.to_owned())
            }
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
pub(crate) struct Probe {
    state: Arc<dyn State>,
    run: Arc<SharedRun<Result<(), String>>>,
}

impl Probe {
    /// Returns a probe of this state that has not run yet.
    pub(crate) fn new(state: Arc<dyn State>, clock: Clock) -> Self {
        Self { state, run: Arc::new(SharedRun::new(SHARED_TIME, clock)) }
    }

    /// Returns the result of a probe that began at most [`SHARED_TIME`] ago, or is still running.
    async fn result(&self) -> Result<(), String> {
        let probe = || {
            let state = self.state.clone();
            async move {
                match timeout(PROBE_LIMIT, state.probe()).await {
                    Ok(probed) => probed.map_err(|error| error.to_string()),
                    Err(_) => Err("the state does not answer".to_owned()),
                }
            }
        };
        self.run.join(probe).await
    }
}

/// The text of `/metrics`, which all requests share. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Exposition {
    metrics: Arc<Provider>,
    run: Arc<SharedRun<Rendered>>,
}

/// The answer to `/metrics`.
type Rendered = (StatusCode, &'static str, Bytes);

impl Exposition {
    /// Returns the text of these metrics, which is not rendered yet.
    pub(crate) fn new(metrics: Arc<Provider>, clock: Clock) -> Self {
        Self { metrics, run: Arc::new(SharedRun::new(SHARED_TIME, clock)) }
    }

    /// Returns a text that was rendered at most [`SHARED_TIME`] ago, or is just being rendered.
    async fn result(&self) -> Rendered {
        let render = || {
            let metrics = self.metrics.clone();
            // It takes milliseconds, in which a worker of the runtime could serve calls.
            let rendered = spawn_blocking(move || metrics.text());
            async move { answer_with(rendered.await) }
        };
        self.run.join(render).await
    }
}

/// Returns the answer with the text of the metrics. Logs a failure.
fn answer_with(rendered: Result<Option<Result<String, prometheus::Error>>, JoinError>) -> Rendered {
    let failure = match rendered {
        Ok(Some(Ok(text))) => return (StatusCode::OK, metrics::CONTENT_TYPE, text.into()),
        Ok(None) => {
            let text = Bytes::from_static(b"OTEL_METRICS_EXPORTER has no prometheus\n");
            return (StatusCode::NOT_FOUND, PLAIN, text);
        }
        Ok(Some(Err(error))) => error.to_string(),
        Err(ended) => ended.to_string(),
    };
    tracing::error!("failed to write the metrics: {failure}");
    (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, Bytes::from_static(b"the log has the error\n"))
}
