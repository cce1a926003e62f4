//! The running service: listeners, connections, health, and an orderly end.

use std::{
    convert::Infallible,
    future::Future,
    io::{self, Cursor},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
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
    gather::{Calls, Gathered, Gathering},
    unsent::Unsent,
};
use crate::{
    account::Registry,
    admit::Admit,
    audit::{Audits, reconcile},
    callback::Receiver,
    clock::Clock,
    config::Settings,
    context::Peer,
    operation::{Operations, settle},
    service,
    state::{self, State},
    telemetry::Sampler,
    wechat::Client,
};

mod admin;
mod gather;
mod health;
mod reflection;
mod unsent;

/// What every client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Who has not said it by then never will; hyper would wait for ever.
const PREFACE_LIMIT: Duration = Duration::from_secs(5);
/// After this long without a frame the peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Calls at once on one connection; further ones wait at the client.
const STREAMS: u32 = 1_024;
/// From so many bytes on that a stream has given, and that could not be sent yet, nothing more is taken
/// from it. Some times what is written at once; h2's own 400 KB would be in memory for every stream that
/// nobody reads.
const STREAM_BUFFER: usize = 4 * 1024;
/// Where no socket is left, a pause lets some close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
/// no connection is accepted and every client is told to go away; running calls and writes go on
/// for at most the drain time.
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
    let connections = Connections::default();
    let Connections { go_away, tasks } = &connections;
    let audits = Audits::new(state.clone(), &settings, clock.clone(), go_away.clone());
    let receiver = Receiver::new(&settings, audits.clone(), clock.clone())?;
    let client = Client::new(&settings.wechat, &clock)?;
    let registry = Registry::new(&settings.accounts, &settings.limits, &client, &state, &clock);
    let ask_after = settings.audit.ask_after();
    let ops = Operations::new(registry, client, state.clone(), ask_after, clock.clone());
    let (health, health_service) = health::service().await;
    let routes = service::routes(&ops, audits.clone(), state.clone()).add_service(health_service);
    let routes = reflection::add_to(routes, go_away).prepare();
    let service = Admit::new(routes, &settings.limits, clock, sampler);

    let callback = listeners.callback.as_ref().map(TcpListener::local_addr).transpose()?;
    tracing::info!(
        grpc = %listeners.grpc.local_addr()?,
        callback = callback.map(display),
        admin = %listeners.admin.local_addr()?,
        state = %settings.state.url,
        "serving"
    );
    // They end when every client is told to go away.
    if let (Some(receiver), Some(listener)) = (receiver, listeners.callback) {
        tasks.spawn(receiver.run(listener, go_away.clone()));
    }
    tasks.spawn(reconcile(audits.clone(), ops.clone()));
    tasks.spawn(settle(ops.clone(), audits.clone(), go_away.clone()));
    tasks.spawn(async move { audits.run().await });
    // Until the very end: operators want to see that, too.
    let (leaving, ended) = (CancellationToken::new(), CancellationToken::new());
    let admin = Admin { state, leaving: leaving.clone() };
    let _ends_with_this = ended.clone().drop_guard();
    tokio::spawn(admin.run(listeners.admin, ended));
    tokio::select! {
        () = accept(&listeners.grpc, |peer| service.clone().by(peer), &connections) => {}
        () = async {
            shutdown.await;
            leaving.cancel();
            health.not_serving().await;
            tokio::time::sleep(settings.limits.lame_duck()).await;
        } => {}
    }
    drop(listeners.grpc);
    health.end_watches().await;
    connections.go_away.cancel();
    connections.tasks.close();
    let drained = async {
        connections.tasks.wait().await;
        ops.drained().await;
    };
    if tokio::time::timeout(settings.limits.drain(), drained).await.is_err() {
        tracing::warn!("calls were still running at the end of the drain time");
    }
    Ok(())
}

/// Opens the state. An error names the key.
async fn open(settings: &Settings, clock: &Clock) -> anyhow::Result<Arc<dyn State>> {
    let url = &settings.state.url;
    let state = state::open(&settings.state, clock.clone()).await;
    state.map_err(|error| anyhow::anyhow!("state.url: {url}: {error}"))
}

/// The open connections, each in a task of its own, so that each can be told to go away; and what
/// else has to end in time.
#[derive(Debug, Default)]
struct Connections {
    go_away: CancellationToken,
    tasks: TaskTracker,
}

/// Accepts connections for ever, each with a service of its own.
async fn accept<S>(listener: &TcpListener, service: impl Fn(Peer) -> S, connections: &Connections)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + Unpin,
{
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let go_away = connections.go_away.clone();
                let service = service(Peer::new(address));
                connections.tasks.spawn(serve(stream, service, go_away));
            }
            Err(error) => {
                tracing::warn!("no connection could be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve<S>(stream: TcpStream, service: S, go_away: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + Unpin,
{
    let calls = Calls::default();
    let service = Gathering { service, calls: calls.clone(), unsent: Unsent::default() };
    // Small frames must not wait for each other; a socket that is already dead tells below.
    let _ = stream.set_nodelay(true);
    let greeted = go_away.run_until_cancelled(greeted(stream)).await;
    let Some(Ok(stream)) = greeted else { return };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(STREAM_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let gathered = Gathered { connection: connection.as_mut(), calls, gave_way: false };
    let result = tokio::select! {
        result = gathered => result,
        () = go_away.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Waits for the preface, which the connection that comes back says once more.
async fn greeted(mut stream: TcpStream) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin> {
    let mut preface = [0; PREFACE.len()];
    tokio::time::timeout(PREFACE_LIMIT, stream.read_exact(&mut preface)).await??;
    let (reader, writer) = stream.into_split();
    Ok(tokio::io::join(Cursor::new(preface).chain(reader), writer))
}
