//! The composition root: it makes every part of the service, gives each its dependencies, and ends them
//! in order. All other modules receive what they need.

use std::{net::SocketAddr, sync::Arc};

use futures_util::FutureExt;
use tokio::{net::TcpListener, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accounts::Registry,
    call::Calls,
    config::Settings,
    events::Audits,
    journal::Journal,
    push::Receiver,
    recovery::{Recovery, poll_reviews, recover_pending},
    server::{
        admin::Admin,
        health::Reporter,
        http1, http2,
        listener::Listener,
        middleware::{Budgets, Middleware},
        reflection,
    },
    service,
    state::{self, State},
    telemetry::Sampler,
    util::clock::Clock,
    wechat::Client,
    writes::Writes,
};

/// The sockets that the service listens on, bound by the caller.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For WeChat's pushes. `None` if no account receives them.
    pub callback: Option<TcpListener>,
    /// For operators.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the settings. An error names the key.
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

/// Serves until `shutdown`, then ends in order: health reports NOT_SERVING. After the lame-duck time
/// the listeners close and every connection gets GOAWAY. Connections without calls are closed.
/// Running calls and writes can take the drain time.
///
/// Fails if the state cannot be opened, or if a setting cannot be used.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    clock: Clock,
    sampler: Sampler,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let state = open(&settings, &clock).await?;
    run_with_state(state, settings, listeners, clock, sampler, shutdown).await
}

/// Serves as [`run`] does, with a state that is already open.
pub async fn run_with_state(
    state: Arc<dyn State>,
    settings: Settings,
    listeners: Listeners,
    clock: Clock,
    sampler: Sampler,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let limits = &settings.limits;
    // Cancelled when every connection gets GOAWAY. All background tasks end then.
    let stop = CancellationToken::new();

    let audits = Audits::new(state.clone(), &settings, clock.clone(), stop.clone());
    let receiver = Receiver::new(&settings, audits.clone(), clock.clone())?;
    let client = Client::new(&settings.wechat, &clock)?;
    let registry = Registry::new(&settings.accounts, limits, &client, &state, &clock);
    let calls = Calls::new(registry, client, state.clone(), clock.clone());
    let (tasks, poll_after) = (TaskTracker::new(), settings.audit.poll_after());
    let journal = Journal::new(state.clone(), poll_after, clock.clone(), tasks.clone());
    let recovery = Recovery::new(calls.clone(), journal.clone(), state.clone());
    let writes = Writes::new(calls.clone(), journal, recovery.clone(), tasks);
    let health = Reporter::new(stop.clone()).await;
    let rooms = service::Rooms {
        calls,
        writes: writes.clone(),
        recovery: recovery.clone(),
        audits: audits.clone(),
        state: state.clone(),
    };
    let routes = service::routes(rooms).add_service(health.service());
    let routes = reflection::add_to(routes, &stop).prepare();
    let budgets = Budgets::new(limits);
    let middleware = Middleware::new(routes, limits, clock, sampler, stop.clone());

    let callback = listeners.callback.as_ref().map(TcpListener::local_addr).transpose()?;
    tracing::info!(
        grpc = %listeners.grpc.local_addr()?,
        callback = callback.map(display),
        admin = %listeners.admin.local_addr()?,
        state = %settings.state.url,
        "serving"
    );
    let background = TaskTracker::new();
    if let (Some(receiver), Some(socket)) = (receiver, listeners.callback) {
        background.spawn(receive(receiver, socket, &settings, stop.clone()));
    }
    background.spawn(poll_reviews(recovery.clone(), settings.audit.clone(), stop.clone()));
    background.spawn(recover_pending(recovery, audits.clone(), stop.clone()));
    background.spawn(async move { audits.run().await });
    // Operators need this port until the process ends.
    let (leaving, ended) = (CancellationToken::new(), CancellationToken::new());
    let _ends_with_this = ended.clone().drop_guard();
    let admin = Admin { state, leaving: leaving.clone() };
    let listener = Listener::new(listeners.admin, "listen.admin", limits.admin());
    tokio::spawn(admin.run(listener, ended));
    let listener = Listener::new(listeners.grpc, "listen.grpc", limits.grpc());
    let mut serving = Box::pin(http2::serve(listener, middleware, &budgets, stop.clone())).fuse();

    tokio::select! {
        () = &mut serving => {}
        () = async {
            shutdown.await;
            leaving.cancel();
            health.not_serving().await;
            time::sleep(limits.lame_duck()).await;
        } => {}
    }
    stop.cancel();
    background.close();
    let drained = async {
        serving.await;
        background.wait().await;
        writes.drained().await;
    };
    if time::timeout(limits.drain(), drained).await.is_err() {
        tracing::warn!(
            calls = budgets.calls.taken(),
            writes = writes.running(),
            background = background.len(),
            "drain time exceeded; aborted the calls that were still running"
        );
    }
    Ok(())
}

/// Receives WeChat's pushes until `stop`.
pub(crate) fn receive(
    receiver: Receiver,
    socket: TcpListener,
    settings: &Settings,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let listener = Listener::new(socket, "listen.callback", settings.limits.callback());
    let answer = move |request| {
        let receiver = receiver.clone();
        async move { receiver.answer(request).await }
    };
    http1::serve(listener, stop, answer)
}

/// Opens the state. An error names the key.
async fn open(settings: &Settings, clock: &Clock) -> anyhow::Result<Arc<dyn State>> {
    let url = &settings.state.url;
    let state = state::open(&settings.state, clock.clone()).await;
    state.map_err(|error| anyhow::anyhow!("state.url: {url}: {error}"))
}
