//! Connections from WeChat, or from whoever else finds this port: it is open to the world.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Further ones wait to be accepted.
const CONNECTIONS: usize = 512;
/// Many times what WeChat sends as the head of a request, in bytes.
const HEAD_SIZE: usize = 16 * 1024;
/// For the head of a request, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Nobody keeps one for longer, whether he sends or reads slowly.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// What was begun before its connection is to end takes no longer.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Where no socket is left, a pause lets some close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then ends what it has begun.
pub(super) async fn run<F>(
    listener: TcpListener,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let accept = async {
        // Nobody closes the semaphore.
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let served = serve(stream, stop.clone(), answer.clone());
                    connections.spawn(async {
                        served.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("no connection could be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accept).await;
    drop(listener);
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
    // A socket that is already dead tells below.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
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
        () = tokio::time::sleep(CONNECTION_LIMIT) => None,
    };
    let ended = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(END_LIMIT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}
