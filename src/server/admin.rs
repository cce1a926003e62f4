//! For operators, by HTTP: `/livez` and `/readyz`.
//!
//! Ready is who can keep what it is given: the state can be written, and the process is not ending.
//! WeChat's health is no part of it. gRPC health is another question, whether calls are taken at
//! all; many need no state.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::ACCEPT_PAUSE;
use crate::state::State;

/// A state that takes longer is not ready. Longer than a state itself waits for anything: it knows
/// better what is wrong.
const PATIENCE: Duration = Duration::from_millis(2500);
/// For a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Answers operators.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) state: Arc<dyn State>,
    /// Set when the process begins to end.
    pub(super) leaving: CancellationToken,
}

impl Admin {
    /// Answers for ever.
    pub(super) async fn run(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => drop(tokio::spawn(self.clone().serve(socket))),
                Err(error) => {
                    tracing::warn!("no connection of an operator could be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(self, socket: TcpStream) {
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .serve_connection(TokioIo::new(socket), service);
        if let Err(error) = connection.await {
            tracing::debug!("a connection of an operator ended: {error}");
        }
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
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
        Ok(response)
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
