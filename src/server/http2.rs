//! HTTP/2 for gRPC.

use std::{
    future::pending,
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
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
    middleware::{Budgets, Connection, Middleware},
    stream::{Opened, Stream, TLS_BEGIN},
    unread,
    unsent::Unsent,
};
use crate::{config::Limits, context::Ending, telemetry::may_log};

/// A connection without the preface (RFC 9113, 3.4) ends after this time. hyper would wait without a limit.
const PREFACE_LIMIT: Duration = Duration::from_secs(5);
/// HTTP/2 reads a head to its end if it is at most so many times as long as the middleware allows. So most
/// long heads get a gRPC status. A longer one gets HTTP's 431.
const HEAD_FACTOR: usize = 4;
/// A stream is asked for no further bytes while this many of its bytes wait to be sent. The value is a
/// few times the size of a usual write. h2's default of 400 KB would stay in memory for every stream
/// that its peer does not read.
const STREAM_BUFFER: usize = 4 * 1024;
/// After `stop`, and when it is too old, a connection without calls is kept for this time: a call may be on its way to this
/// process, and the answer to the last call may be on its way to the client.
const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// The interval at which a connection is checked for calls then.
const IDLE_TICK: Duration = Duration::from_millis(50);
/// The age of a connection differs from the setting by up to this part, so that connections that began
/// together do not end together.
const JITTER: f64 = 0.1;

/// The limits of each connection, from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    age: Option<Duration>,
    grace: Duration,
    longest_call: Duration,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
    streams: u32,
    resets: usize,
    protocol_errors: usize,
    head_size: u32,
}

impl Rules {
    /// Returns the limits of the settings.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            age: limits.connection_age(),
            grace: limits.connection_age_grace(),
            longest_call: limits.max_deadline(),
            keepalive_interval: limits.keepalive_interval(),
            keepalive_timeout: limits.keepalive_timeout(),
            streams: limits.streams_per_connection,
            resets: limits.resets_per_connection(),
            protocol_errors: limits.protocol_errors_per_connection(),
            head_size: u32::try_from(limits.longest_metadata() * HEAD_FACTOR).unwrap_or(u32::MAX),
        }
    }

    /// Waits until a new connection is too old.
    async fn aged(&self) {
        match self.age {
            Some(age) => sleep(age.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))).await,
            None => pending().await,
        }
    }

    /// Waits until an old connection must close even if it has calls. First its watches end. All other
    /// calls have ended after the longest deadline.
    async fn overdue(&self, ending: &Ending) {
        sleep(self.grace).await;
        ending.begin();
        sleep(self.longest_call + IDLE_LIMIT).await;
    }
}

/// Serves the connections of a listener until `stop`. Then sends GOAWAY to every client, and
/// returns when the calls that have begun are answered.
pub(crate) async fn serve(
    listener: Listener,
    middleware: Middleware<Routes>,
    budgets: &Budgets,
    rules: Arc<ArcSwap<Rules>>,
    stop: CancellationToken,
) {
    let serve = |accepted| {
        let (middleware, budgets) = (middleware.clone(), budgets.clone());
        serve_connection(accepted, middleware, budgets, rules.load_full(), stop.clone())
    };
    listener.run(&stop, serve).await;
}

/// Serves one connection to its end.
async fn serve_connection(
    accepted: Accepted,
    middleware: Middleware<Routes>,
    budgets: Budgets,
    rules: Arc<Rules>,
    stop: CancellationToken,
) {
    let Some(opened) = accepted.open(&stop).await else { return };
    let Opened { mut stream, peer, certificate, place: _place } = opened;
    let Some(Ok(())) = stop.run_until_cancelled(greeted(&mut stream)).await else { return };
    let ending = Ending::new(&stop);
    let connection = budgets.connection(peer, certificate, ending.clone());
    let service = middleware.for_connection(connection.clone());
    let shares = connection.clone();
    let service = CoalescingService { service, connection, unsent: Unsent::default() };
    let connection = http2::Builder::new(unread::Executor { stop: ending.token() })
        .timer(TokioTimer::new())
        .keep_alive_interval(rules.keepalive_interval)
        .keep_alive_timeout(rules.keepalive_timeout)
        .max_concurrent_streams(rules.streams)
        .max_pending_accept_reset_streams(rules.resets)
        .max_local_error_reset_streams(rules.protocol_errors)
        .max_header_list_size(rules.head_size)
        .max_send_buf_size(STREAM_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let connection = pin!(connection);
    let connection = pin!(Coalesced { connection, shares: shares.clone(), gave_way: false });
    let end = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = rules.aged() => {}
        }
    };
    // If the peer is silent, the connection does not end by itself.
    let limit = async {
        tokio::select! {
            () = idle(&shares) => {}
            () = rules.overdue(&ending) => {}
        }
    };
    serve_until(
        connection,
        end,
        |connection| connection.get_mut().connection.as_mut().graceful_shutdown(),
        limit,
    )
    .await;
}

/// Waits until a connection has had no calls for a while.
async fn idle(connection: &Connection) {
    let mut busy = Instant::now();
    while busy.elapsed() < IDLE_LIMIT {
        sleep(IDLE_TICK).await;
        if connection.calls() > 0 {
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
