//! HTTP/1 for WeChat's pushes and for operators. The first of these ports is open to the world, so
//! a peer gets no more of it than a push needs: time, memory, connections.

use std::{
    convert::Infallible,
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
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::server::accept::{Accepted, Acceptor};

/// Many times the longest head of a request here, in bytes.
const HEAD_SIZE: usize = 16 * 1024;
/// For the head of a request, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// A connection is kept no longer, whether its peer sends or reads slowly.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// What was begun before its connection is to end takes no longer.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Where nothing was begun this is for a request that is just arriving.
const IDLE_LIMIT: Duration = Duration::from_millis(500);

/// Serves until `stop`, then ends what it has begun.
pub(crate) async fn run<F>(
    acceptor: Acceptor,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            let Accepted { stream, place, .. } = acceptor.next().await;
            let served = serve(stream, stop.clone(), answer.clone());
            connections.spawn(async {
                served.await;
                drop(place);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
    drop(acceptor);
    connections.close();
    connections.wait().await;
}

/// Serves one connection to its end.
async fn serve<F>(
    stream: TcpStream,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<Full<Bytes>>>,
{
    // Whether a request is here whose answer is not.
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
    tokio::pin!(connection);
    let ended = tokio::select! {
        result = &mut connection => Some(result),
        () = stop.cancelled() => None,
        () = sleep(CONNECTION_LIMIT) => None,
    };
    let ended = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            let mut ended = timeout(IDLE_LIMIT, connection.as_mut()).await;
            if ended.is_err() && busy.load(Ordering::Relaxed) {
                ended = timeout(END_LIMIT, connection).await;
            }
            ended.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection failed: {error}");
    }
}
