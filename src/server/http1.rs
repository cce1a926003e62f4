//! HTTP/1 for WeChat's pushes and for operators.
//!
//! The port for pushes is open to the world, so a peer gets only as much time and memory as a push
//! needs.

// Not axum: there are two routes, and the limits on heads, connections and time are most of this file.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    listener::{Accepted, Listener, serve_until},
    stream::Opened,
};

/// The longest head of a request, in bytes: many times the length that WeChat and operators send.
const HEAD_SIZE: usize = 16 * 1024;
/// A connection ends if the head of a request takes longer, or the pause between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// No connection is kept longer, however slowly its peer sends or reads.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// At the end of a connection, a request that has begun may take this much longer.
const END_LIMIT: Duration = Duration::from_secs(10);
/// At the end of a connection without a request, a request that is just arriving is awaited this long.
const IDLE_LIMIT: Duration = Duration::from_millis(500);

/// Serves the connections of a listener until `stop`. Returns when the requests that have begun are
/// answered.
pub(crate) async fn serve<F>(
    listener: Listener,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let serve = |accepted| serve_connection(accepted, stop.clone(), answer.clone());
    listener.run(&stop, serve).await;
}

/// Serves one connection to its end.
async fn serve_connection<F>(
    accepted: Accepted,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<Full<Bytes>>>,
{
    let Some(Opened { stream, place: _place, .. }) = accepted.open(&stop).await else { return };
    // True while a request is here and its answer is not.
    let busy = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        busy.store(true, Ordering::Relaxed);
        let (answer, busy) = (answer(request), busy.clone());
        async move {
            let answer = answer.await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let stop = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(CONNECTION_LIMIT) => {}
        }
    };
    let limit = async {
        sleep(IDLE_LIMIT).await;
        if busy.load(Ordering::Relaxed) {
            sleep(END_LIMIT).await;
        }
    };
    let connection = pin!(connection);
    serve_until(connection, stop, |connection| connection.graceful_shutdown(), limit).await;
}
