//! For operators, by HTTP: `/livez` and `/readyz`.
//!
//! Ready is who can keep what it is given: the state can be written, and the process is not ending.
//! WeChat's health is no part of it. gRPC health is another question, whether calls are taken at
//! all; reads need no state.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;

use crate::{server::accept::Acceptor, server::http1, state::State};

/// A state that takes longer is not ready. Longer than a state itself waits for anything: it knows
/// better what is wrong.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Answers operators.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) state: Arc<dyn State>,
    /// Set when the process begins to end.
    pub(super) leaving: CancellationToken,
}

impl Admin {
    /// Answers until `stop`.
    pub(super) async fn run(self, acceptor: Acceptor, stop: CancellationToken) {
        let answer = move |request| {
            let admin = self.clone();
            async move { admin.answer(request).await }
        };
        http1::run(acceptor, stop, answer).await;
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => match self.ready().await {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
            },
            _ => (StatusCode::NOT_FOUND, "there are /livez and /readyz\n".to_owned()),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    }

    async fn ready(&self) -> Result<(), String> {
        if self.leaving.is_cancelled() {
            return Err("shutting down".to_owned());
        }
        match tokio::time::timeout(PATIENCE, self.state.probe()).await {
            Ok(probed) => probed.map_err(|error| error.to_string()),
            Err(_) => Err("the state does not answer".to_owned()),
        }
    }
}
