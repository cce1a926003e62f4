//! HTTP/2 for gRPC.

use std::{
    io,
    pin::pin,
    time::{Duration, Instant},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{
    coalesce::{Coalesced, CoalescingService},
    listener::{Accepted, Listener, serve_until},
    middleware::{Budgets, Middleware},
    stream::{Opened, Stream, TLS_BEGIN},
    unread,
    unsent::Unsent,
};
use crate::{telemetry::may_log, util::budget::Share};

/// A connection without the preface (RFC 9113, 3.4) ends after this time. hyper would wait without a limit.
const PREFACE_LIMIT: Duration = Duration::from_secs(5);
/// After this time without a frame the peer gets a ping.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A connection ends if its peer does not answer the ping within this time.
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(20);
/// The number of calls at a time on one connection. Further calls wait at the client.
const STREAMS: u32 = 1_024;
/// The longest head that HTTP/2 reads to its end, in bytes. The middleware's limit is lower, so that
/// most long heads get a gRPC status. Beyond this limit the answer is HTTP's 431.
const HEAD_SIZE: u32 = 64 * 1024;
/// A stream is asked for no further bytes while this many of its bytes wait to be sent. The value is a
/// few times the size of a usual write. h2's default of 400 KB would stay in memory for every stream
/// that its peer does not read.
const STREAM_BUFFER: usize = 4 * 1024;
/// After `stop`, a connection without calls is kept for this time: a call may be on its way to this
/// process, and the answer to the last call may be on its way to the client.
const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// The interval at which a connection is checked for calls after `stop`.
const IDLE_TICK: Duration = Duration::from_millis(50);

/// Serves the connections of a listener until `stop`. Then sends GOAWAY to every client, and
/// returns when the calls that have begun are answered.
pub(crate) async fn serve(
    listener: Listener,
    middleware: Middleware<Routes>,
    budgets: &Budgets,
    stop: CancellationToken,
) {
    let serve =
        |accepted| serve_connection(accepted, middleware.clone(), budgets.clone(), stop.clone());
    listener.run(&stop, serve).await;
}

/// Serves one connection to its end.
async fn serve_connection(
    accepted: Accepted,
    middleware: Middleware<Routes>,
    budgets: Budgets,
    stop: CancellationToken,
) {
    let Some(opened) = accepted.open(&stop).await else { return };
    let Opened { mut stream, peer, certificate, place: _place } = opened;
    let Some(Ok(())) = stop.run_until_cancelled(greeted(&mut stream)).await else { return };
    let connection = budgets.connection(peer, certificate);
    let service = middleware.for_connection(connection.clone());
    let calls = connection.calls.clone();
    let service = CoalescingService { service, connection, unsent: Unsent::default() };
    let connection = http2::Builder::new(unread::Executor { stop: stop.clone() })
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_LIMIT)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_SIZE)
        .max_send_buf_size(STREAM_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let connection = pin!(connection);
    let connection = pin!(Coalesced { connection, calls: calls.clone(), gave_way: false });
    // If the peer is silent, the connection does not end by itself.
    let limit = idle(&calls);
    serve_until(
        connection,
        stop.cancelled(),
        |connection| connection.get_mut().connection.as_mut().graceful_shutdown(),
        limit,
    )
    .await;
}

/// Waits until a connection has had no calls for a while.
async fn idle(calls: &Share) {
    let mut busy = Instant::now();
    while busy.elapsed() < IDLE_LIMIT {
        sleep(IDLE_TICK).await;
        if calls.own() > 0 {
            busy = Instant::now();
        }
    }
}

/// Waits for the preface, and leaves it in the stream for hyper.
async fn greeted(stream: &mut Stream) -> io::Result<()> {
    let preface = timeout(PREFACE_LIMIT, stream.begin()).await??;
    if preface[0] == TLS_BEGIN {
        let cause = "the client uses TLS, but this port does not; add [listen.tls]";
        if let Some(unlogged) = may_log("refused a connection", cause) {
            tracing::warn!(unlogged, "refused a connection: {cause}");
        }
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}
