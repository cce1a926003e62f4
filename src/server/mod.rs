//! The running service: listeners, connections, health, and an orderly end.

use std::{
    convert::Infallible,
    future::Future,
    io::{self, Cursor},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::Service;

use self::{
    admin::Admin,
    coalesce::{Gathered, Gathering},
    health::Reporter,
    unsent::Unsent,
};
use crate::{
    accounts::Registry,
    call::{Operations, settle},
    config::Settings,
    events::{Audits, reconcile},
    push::Receiver,
    server::accept::{Accepted, Acceptor},
    server::middleware::{Admission, Budgets, Connection, Share},
    service,
    state::{self, State},
    telemetry::Sampler,
    util::clock::Clock,
    wechat::Client,
};

pub(crate) mod accept;
mod admin;
mod coalesce;
mod health;
pub(crate) mod http1;
pub mod middleware;
mod reflection;
mod taken;
mod unsent;

/// What every client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Who has not said it by then never will; hyper would wait for ever.
const PREFACE_LIMIT: Duration = Duration::from_secs(5);
/// After this long without a frame the peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A peer that does not answer that for so long is gone.
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(20);
/// Calls at once on one connection; further ones wait at the client.
const STREAMS: u32 = 1_024;
/// The longest head that HTTP/2 reads to its end, in bytes. What `admit` takes is less, so that most
/// long heads get a gRPC status; beyond this the answer is HTTP's 431.
const HEAD_SIZE: u32 = 64 * 1024;
/// From so many bytes on that a stream has given, and that could not be sent yet, nothing more is taken
/// from it. Some times what is written at once; h2's own 400 KB would be in memory for every stream that
/// nobody reads.
const STREAM_BUFFER: usize = 4 * 1024;
/// At a stop, a connection without calls is kept for so long: a call may be on its way, and what the
/// last one answered.
const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// How often that is looked at.
const IDLE_TICK: Duration = Duration::from_millis(50);

/// The sockets that the service listens on, bound by the caller.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For WeChat's pushes, where an account receives them.
    pub callback: Option<TcpListener>,
    /// For operators.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds what the settings name. An error names the key.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let receives = settings.accounts.iter().any(|account| account.callback.is_some());
        Ok(Self {
            grpc: listen("listen.grpc", settings.listen.grpc).await?,
            callback: match receives {
                true => Some(listen("listen.callback", settings.listen.callback).await?),
                false => None,
            },
            admin: listen("listen.admin", settings.listen.admin).await?,
        })
    }
}

async fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("{key}: cannot listen on {address}: {error}"))
}

/// Serves until `shutdown`, then ends in order: health says NOT_SERVING; after the lame-duck time
/// no connection is accepted and every client is told to go away; connections without calls are
/// closed, running calls and writes go on for at most the drain time.
///
/// Fails if the state cannot be opened or the settings' hosts cannot be used.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    clock: Clock,
    sampler: Sampler,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let state = open(&settings, &clock).await?;
    run_over(state, settings, listeners, clock, sampler, shutdown).await
}

/// Serves as [`run`] does, over a state that is open already.
pub async fn run_over(
    state: Arc<dyn State>,
    settings: Settings,
    listeners: Listeners,
    clock: Clock,
    sampler: Sampler,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (go_away, connections) = (CancellationToken::new(), TaskTracker::new());
    let audits = Audits::new(state.clone(), &settings, clock.clone(), go_away.clone());
    let receiver = Receiver::new(&settings, audits.clone(), clock.clone())?;
    let client = Client::new(&settings.wechat, &clock)?;
    let registry = Registry::new(&settings.accounts, &settings.limits, &client, &state, &clock);
    let ask_after = settings.audit.ask_after();
    let ops = Operations::new(registry, client, state.clone(), ask_after, clock.clone());
    let health = Reporter::new(go_away.clone()).await;
    let routes = service::routes(&ops, audits.clone(), state.clone()).add_service(health.service());
    let routes = reflection::add_to(routes, &go_away).prepare();
    let limits = &settings.limits;
    let budgets = Budgets::new(limits);
    let admission = Admission::new(routes, limits, clock, sampler, go_away.clone());

    let callback = listeners.callback.as_ref().map(TcpListener::local_addr).transpose()?;
    tracing::info!(
        grpc = %listeners.grpc.local_addr()?,
        callback = callback.map(display),
        admin = %listeners.admin.local_addr()?,
        state = %settings.state.url,
        "serving"
    );
    // They end when every client is told to go away.
    let background = TaskTracker::new();
    if let (Some(receiver), Some(listener)) = (receiver, listeners.callback) {
        background.spawn(receiver.run(listener, go_away.clone()));
    }
    background.spawn(reconcile(audits.clone(), ops.clone()));
    background.spawn(settle(ops.clone(), audits.clone(), go_away.clone()));
    background.spawn(async move { audits.run().await });
    // Until the very end: operators want to see that, too.
    let (leaving, ended) = (CancellationToken::new(), CancellationToken::new());
    let admin = Admin { state, leaving: leaving.clone() };
    let _ends_with_this = ended.clone().drop_guard();
    let acceptor = Acceptor::new(listeners.admin, "listen.admin", limits.admin());
    tokio::spawn(admin.run(acceptor, ended));
    let acceptor = Acceptor::new(listeners.grpc, "listen.grpc", limits.grpc());
    let accept = async {
        loop {
            let accepted = acceptor.next().await;
            let connection = budgets.connection(accepted.peer);
            let service = admission.by(connection.clone());
            connections.spawn(serve(accepted, service, connection, go_away.clone()));
        }
    };
    tokio::select! {
        () = accept => {}
        () = async {
            shutdown.await;
            leaving.cancel();
            health.not_serving().await;
            tokio::time::sleep(limits.lame_duck()).await;
        } => {}
    }
    drop(acceptor);
    go_away.cancel();
    connections.close();
    background.close();
    let drained = async {
        connections.wait().await;
        background.wait().await;
        ops.drained().await;
    };
    if tokio::time::timeout(limits.drain(), drained).await.is_err() {
        tracing::warn!(
            calls = budgets.calls.taken(),
            writes = ops.writes(),
            background = background.len(),
            "drain time exceeded; aborted the calls that were still running"
        );
    }
    Ok(())
}

/// Opens the state. An error names the key.
async fn open(settings: &Settings, clock: &Clock) -> anyhow::Result<Arc<dyn State>> {
    let url = &settings.state.url;
    let state = state::open(&settings.state, clock.clone()).await;
    state.map_err(|error| anyhow::anyhow!("state.url: {url}: {error}"))
}

/// Serves one connection to its end.
async fn serve<S>(
    accepted: Accepted,
    service: S,
    connection: Arc<Connection>,
    go_away: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + Unpin,
{
    let Accepted { stream, place: _place, .. } = accepted;
    let calls = connection.calls.clone();
    let service = Gathering { service, connection, unsent: Unsent::default() };
    let greeted = go_away.run_until_cancelled(greeted(stream)).await;
    let Some(Ok(stream)) = greeted else { return };
    let connection = http2::Builder::new(taken::Executor { stop: go_away.clone() })
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_LIMIT)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_SIZE)
        .max_send_buf_size(STREAM_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let gathered =
        Gathered { connection: connection.as_mut(), calls: calls.clone(), gave_way: false };
    let result = tokio::select! {
        result = gathered => result,
        () = go_away.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                // Its peer does not answer, so it would not end by itself.
                () = idle(&calls) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection failed: {error}");
    }
}

/// Waits until a connection has had no calls for a while.
async fn idle(calls: &Share) {
    let mut busy = Instant::now();
    while busy.elapsed() < IDLE_LIMIT {
        tokio::time::sleep(IDLE_TICK).await;
        if calls.own() > 0 {
            busy = Instant::now();
        }
    }
}

/// Waits for the preface, which the connection that comes back says once more.
async fn greeted(mut stream: TcpStream) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin> {
    let mut preface = [0; PREFACE.len()];
    tokio::time::timeout(PREFACE_LIMIT, stream.read_exact(&mut preface)).await??;
    let (reader, writer) = stream.into_split();
    Ok(tokio::io::join(Cursor::new(preface).chain(reader), writer))
}
