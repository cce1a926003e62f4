//! The composition root: it makes every part of the service, gives each its dependencies, and ends them
//! in order. All other modules receive what they need.
//!
//! The file reads in the order of a process: listeners, state, accounts, rooms, gRPC, serve, drain.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::{net::TcpListener, time};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic::service::Routes;

use crate::{
    accounts::{Registry, Services},
    activity::ActivityLog,
    call::Calls,
    callers::Callers,
    config::{Changes, ConfigError, Limits, Reflection, Settings, TlsFiles},
    errors::errcode,
    events::Audits,
    journal::Journal,
    live::{Follower, Source},
    metrics::{Metrics, Provider},
    observe::{self, Observed, StateCounts, count_state},
    push::Receiver,
    recovery::{Recovery, poll_reviews, recover_pending},
    server::{
        admin::{Admin, Exposition, Probe},
        health::{self, Reporter},
        http1, http2,
        listener::{Listener, Places},
        middleware::{Budgets, Middleware, Shared},
        reflection,
    },
    service::{self, Rooms},
    state::{self, Measured, State},
    systemd,
    telemetry::Handles,
    tls::{Protocol, Tls},
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
        let bind = async |key, address| listen(key, address).await.map_err(anyhow::Error::msg);
        Ok(Self {
            grpc: bind("listen.grpc", settings.listen.grpc).await?,
            callback: match settings.receives_pushes() {
                true => Some(bind("listen.callback", settings.listen.callback).await?),
                false => None,
            },
            admin: bind("listen.admin", settings.listen.admin).await?,
        })
    }

    /// Logs the addresses, for operators and for scripts that wait for the service.
    fn log(&self, settings: &Settings) -> io::Result<()> {
        let callback = self.callback.as_ref().map(TcpListener::local_addr).transpose()?;
        tracing::info!(
            grpc = %self.grpc.local_addr()?,
            callback = callback.map(display),
            admin = %self.admin.local_addr()?,
            state = %settings.state.url,
            "serving"
        );
        Ok(())
    }
}

async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(address).await.map_err(|error| ConfigError {
        key: key.to_owned(),
        message: format!("cannot listen on {address}: {error}"),
    })
}

/// Serves until `shutdown`, then ends in order: health reports NOT_SERVING. After the lame-duck time
/// the listeners close and every connection gets GOAWAY. Connections without calls are closed.
/// Running calls and writes can take the drain time.
///
/// Meanwhile `source` is read anew when it changes, and every part gets the new settings.
///
/// Fails if the state cannot be opened, or if a setting cannot be used.
pub async fn run(
    settings: Settings,
    source: Source,
    listeners: Listeners,
    clock: Clock,
    telemetry: Handles,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let state = open(&settings, &clock).await?;
    run_with_state(state, settings, source, listeners, clock, telemetry, shutdown).await
}

/// Serves as [`run`] does, with a state that is already open.
pub async fn run_with_state(
    state: Arc<dyn State>,
    settings: Settings,
    source: Source,
    listeners: Listeners,
    clock: Clock,
    telemetry: Handles,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    App::build(state, settings, clock, telemetry).await?.serve(source, listeners, shutdown).await
}

/// Opens the state. An error names the key.
async fn open(settings: &Settings, clock: &Clock) -> anyhow::Result<Arc<dyn State>> {
    let url = &settings.state.url;
    let state = state::open(&settings.state, clock.clone()).await;
    state.map_err(|error| anyhow::anyhow!("state.url: {url}: {error}"))
}

/// Opens the certificate files of a listener, if its section names any.
fn open_tls(
    section: &'static str,
    files: Option<&TlsFiles>,
    protocol: Protocol,
    clock: &Clock,
) -> anyhow::Result<Option<Tls>> {
    files.map(|files| Tls::open(section, files.clone(), protocol, clock.clone())).transpose()
}

/// Opens the activity log. An error names the key and the path.
fn activity(settings: &Settings, metrics: Metrics) -> anyhow::Result<ActivityLog> {
    ActivityLog::open(&settings.activity, metrics).map_err(|error| {
        let log = &settings.activity.log;
        anyhow::anyhow!("activity.log: cannot open {log}: {error}")
    })
}

/// Returns the rooms between the services and the calls. Their background work ends with `stop`.
fn rooms(
    callers: Callers,
    calls: Calls,
    state: Arc<dyn State>,
    settings: &Settings,
    activity: ActivityLog,
    clock: &Clock,
    stop: &CancellationToken,
) -> Rooms {
    let metrics = calls.metrics().clone();
    let audits = Audits::new(state.clone(), settings, clock.clone(), metrics, stop.clone());
    let (tasks, poll_after) = (TaskTracker::new(), settings.audit.poll_after());
    let journal = Journal::new(state.clone(), poll_after, clock.clone(), tasks.clone(), activity);
    let recovery = Recovery::new(calls.clone(), journal.clone(), state.clone());
    let writes = Writes::new(calls.clone(), journal, recovery.clone(), tasks);
    let gives_tokens = settings.token_service.enabled;
    Rooms { callers, calls, writes, recovery, audits, state, gives_tokens }
}

/// Returns all gRPC services.
fn routes(rooms: &Rooms, health: &Reporter, has_reflection: Reflection) -> Routes {
    let routes = service::routes(rooms.clone()).add_service(health.service());
    match has_reflection {
        Reflection::Anyone | Reflection::Callers => reflection::add_to(routes),
        Reflection::Off => routes,
    }
    .prepare()
}

/// The limits on connections.
struct Connections {
    grpc: Arc<Places>,
    callback: Arc<Places>,
    admin: Arc<Places>,
    /// Of each gRPC connection.
    rules: Arc<ArcSwap<http2::Rules>>,
}

impl Connections {
    fn new(limits: &Limits) -> Self {
        Self {
            grpc: Places::new(limits.grpc()),
            callback: Places::new(limits.callback()),
            admin: Places::new(limits.admin()),
            rules: Arc::new(ArcSwap::from_pointee(http2::Rules::new(limits))),
        }
    }

    /// Changes the limits. Open connections stay open, with the rules that they have.
    fn update(&self, limits: &Limits) {
        self.grpc.update(limits.grpc());
        self.callback.update(limits.callback());
        self.admin.update(limits.admin());
        self.rules.store(Arc::new(http2::Rules::new(limits)));
    }
}

/// The service before it serves: every part is made, and no task runs.
struct App {
    settings: ArcSwap<Settings>,
    clock: Clock,
    registry: Registry,
    callers: Callers,
    rooms: Rooms,
    receiver: Receiver,
    /// True if `listen.callback` is open.
    receives: AtomicBool,
    health: Reporter,
    metrics: Arc<Provider>,
    middleware: Middleware<Routes>,
    budgets: Budgets,
    connections: Connections,
    /// Of gRPC.
    tls: Option<Tls>,
    /// Of the admin address.
    admin_tls: Option<Tls>,
    /// The tasks that run until `stop`.
    background: TaskTracker,
    /// Canceled when the service begins to stop.
    leaving: CancellationToken,
    /// Canceled when every connection gets GOAWAY. All background tasks end then.
    stop: CancellationToken,
}

impl App {
    async fn build(
        state: Arc<dyn State>,
        settings: Settings,
        clock: Clock,
        telemetry: Handles,
    ) -> anyhow::Result<Self> {
        let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());
        let listen = &settings.listen;
        let tls = open_tls("listen.tls", listen.tls.as_ref(), Protocol::Http2, &clock)?;
        let admin_tls =
            open_tls("listen.admin_tls", listen.admin_tls.as_ref(), Protocol::Http1, &clock)?;
        let shown = settings.metrics.accounts();
        let provider = Arc::new(Provider::new(errcode::class, shown, &telemetry.metrics)?);
        let (metrics, sampler) = (provider.metrics(), telemetry.sampler);
        let state = Measured::new(state, metrics.clone(), clock.clone());
        let state: Arc<dyn State> = Arc::new(state);
        let client = Client::new(&settings.wechat, &clock, metrics.clone())?;
        let Settings { accounts, platforms, limits, .. } = &settings;
        let services =
            Services { client: client.clone(), state: state.clone(), clock: clock.clone() };
        let registry = Registry::new(accounts, platforms, limits, services);
        let calls = Calls::new(registry.clone(), client, state.clone(), clock.clone());
        let activity = activity(&settings, metrics.clone())?;
        let callers = Callers::new(&settings, &clock);
        let rooms =
            rooms(callers.clone(), calls, state, &settings, activity.clone(), &clock, &stop);
        let receiver = Receiver::new(
            &settings,
            rooms.audits.clone(),
            registry.platforms().clone(),
            clock.clone(),
            sampler.clone(),
            metrics.clone(),
        )?;
        let health = Reporter::new().await;
        let routes = routes(&rooms, &health, settings.listen.reflection);
        // Otherwise the first callers could be refused.
        callers.loaded().await;
        let shared =
            Shared { callers: callers.clone(), activity, clock: clock.clone(), sampler, metrics };
        let middleware = Middleware::new(routes, shared, &settings, stop.clone());
        Ok(Self {
            budgets: Budgets::new(&settings.limits),
            connections: Connections::new(&settings.limits),
            settings: ArcSwap::from_pointee(settings),
            clock,
            registry,
            callers,
            rooms,
            receiver,
            receives: AtomicBool::new(false),
            health,
            metrics: provider,
            middleware,
            background: TaskTracker::new(),
            tls,
            admin_tls,
            leaving,
            stop,
        })
    }

    /// Serves until `shutdown`, then ends in order, as [`run`] describes.
    async fn serve(
        self,
        source: Source,
        listeners: Listeners,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let settings = self.settings.load_full();
        listeners.log(&settings)?;
        self.start_background(&settings);
        if let Some(socket) = listeners.callback {
            self.start_receiving(socket);
        }
        // Operators need this port until the process ends.
        let _ends_with_this = (self.start_admin(listeners.admin), self.start_signs_of_life());
        let listener = Listener::new(listeners.grpc, "listen.grpc", self.connections.grpc.clone());
        let listener = listener.with_tls(self.tls.clone());
        let middleware = self.middleware.clone();
        let rules = self.connections.rules.clone();
        let serving = http2::serve(listener, middleware, &self.budgets, rules, self.stop.clone());
        let mut serving = Box::pin(serving).fuse();

        systemd::ready("serving");
        tokio::select! {
            () = &mut serving => {}
            () = self.announce_end(shutdown) => {}
            () = self.follow(Follower::new(source)) => {}
        }
        self.stop.cancel();
        self.drain(serving).await;
        self.metrics.end().await;
        Ok(())
    }

    /// Gives new settings to every part whenever there are some. Never ends.
    async fn follow(&self, mut source: Follower) {
        loop {
            let applied = match source.next(&self.settings).await {
                Ok(settings) => self.update(settings).await,
                Err(errors) => Err(errors),
            };
            if applied
                .as_ref()
                .is_ok_and(|changes| changes.keys.iter().any(|key| key == "log.level"))
            {
                source.change_log_level(&self.settings.load().log.level);
            }
            let result = if applied.is_ok() { "ok" } else { "refused" };
            self.metrics.metrics().count_reload(result);
            source.report(applied);
        }
    }

    /// Gives new settings to every part. A part uses either the old ones or the new ones for a call, and
    /// never some of both.
    ///
    /// Returns the differences. If it returns errors, nothing has changed.
    async fn update(&self, settings: Settings) -> Result<Changes, Vec<ConfigError>> {
        let changes = Changes::between(&self.settings.load(), &settings);
        let fixed = changes.needing_restart();
        if !fixed.is_empty() {
            return Err(fixed);
        }
        // All that can fail comes first.
        let receivers = self.receiver.prepare(&settings).map_err(|error| {
            vec![ConfigError { key: "accounts".to_owned(), message: format!("{error:#}") }]
        })?;
        let opens = settings.receives_pushes() && !self.receives.load(Ordering::Relaxed);
        let socket = match opens {
            true => Some(listen("listen.callback", settings.listen.callback).await),
            false => None,
        };
        let socket = socket.transpose().map_err(|error| vec![error])?;

        self.callers.update(&settings);
        self.registry.update(&settings.accounts, &settings.platforms, &settings.limits);
        self.rooms.audits.update(&settings);
        self.middleware.update(&settings.limits);
        self.budgets.update(&settings.limits);
        self.connections.update(&settings.limits);
        self.receiver.update(receivers);
        if let Some(socket) = socket {
            self.start_receiving(socket);
        }
        for tls in self.encrypted() {
            // The files were checked with the settings. If one is wrong since, that is logged.
            let _ = tls.reload();
        }
        self.settings.store(Arc::new(settings));
        Ok(changes)
    }

    /// Receives WeChat's pushes until `stop`.
    fn start_receiving(&self, socket: TcpListener) {
        let receiver = self.receiver.clone();
        self.background.spawn(receive(
            receiver,
            socket,
            self.connections.callback.clone(),
            self.stop.clone(),
        ));
        self.receives.store(true, Ordering::Relaxed);
    }

    /// Starts the other tasks that run until `stop`.
    fn start_background(&self, settings: &Settings) {
        let Self { rooms, background, stop, .. } = self;
        let Rooms { recovery, audits, .. } = rooms.clone();
        background.spawn(poll_reviews(recovery.clone(), settings.audit.clone(), stop.clone()));
        background.spawn(recover_pending(recovery, audits.clone(), stop.clone()));
        background.spawn(count_state(
            rooms.state.clone(),
            audits.clone(),
            self.clock.clone(),
            self.observe(),
            stop.clone(),
        ));
        background.spawn(async move { audits.run().await });
        background.spawn(self.callers.clone().follow_proofs(stop.clone()));
        background.spawn(self.registry.platforms().clone().follow(stop.clone()));
        for tls in self.encrypted() {
            background.spawn(tls.watch(stop.clone()));
        }
    }

    /// Lets the metrics read what the parts have. Returns the counts that are made in the background.
    fn observe(&self) -> StateCounts {
        let Connections { grpc, callback, admin, .. } = &self.connections;
        let counts = StateCounts::default();
        let observed = Observed {
            registry: self.registry.clone(),
            audits: self.rooms.audits.clone(),
            budgets: self.budgets.clone(),
            places: [
                ("grpc", grpc.clone()),
                ("callback", callback.clone()),
                ("admin", admin.clone()),
            ],
            tls: self.encrypted().collect(),
            state: self.rooms.state.clone(),
            clock: self.clock.clone(),
        };
        observe::register(&self.metrics, observed, &counts);
        counts
    }

    /// Returns the TLS of all listeners that have any.
    fn encrypted(&self) -> impl Iterator<Item = Tls> {
        [&self.tls, &self.admin_tls].into_iter().flatten().cloned()
    }

    /// Answers operators until the returned guard is dropped.
    fn start_admin(&self, socket: TcpListener) -> DropGuard {
        let ended = CancellationToken::new();
        let (state, leaving) = (self.rooms.state.clone(), self.leaving.clone());
        let tls = self.encrypted().collect();
        let metrics = Exposition::new(self.metrics.clone(), self.clock.clone());
        let probe = Probe::new(state, self.clock.clone());
        let admin = Admin { probe, leaving, metrics, tls };
        let listener = Listener::new(socket, "listen.admin", self.connections.admin.clone());
        let listener = listener.with_tls(self.admin_tls.clone());
        tokio::spawn(admin.run(listener, ended.clone()));
        ended.drop_guard()
    }

    /// Reports signs of life to systemd until the returned handle is dropped.
    fn start_signs_of_life(&self) -> AbortOnDropHandle<()> {
        let routes = self.middleware.services();
        let alive = move || health::answers(routes.clone());
        AbortOnDropHandle::new(tokio::spawn(systemd::report_life(alive)))
    }

    /// Waits for `shutdown`, and then so long that load balancers and clients notice the end.
    async fn announce_end(&self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        let limits = self.settings.load().limits.clone();
        systemd::stopping(limits.lame_duck() + limits.drain());
        self.leaving.cancel();
        self.health.not_serving().await;
        time::sleep(limits.lame_duck()).await;
    }

    /// Waits until the running calls, tasks and writes have ended, at most for the drain time.
    async fn drain(&self, serving: impl Future<Output = ()>) {
        let Self { settings, rooms, budgets, background, .. } = self;
        background.close();
        let drained = async {
            serving.await;
            background.wait().await;
            rooms.writes.drained().await;
        };
        if time::timeout(settings.load().limits.drain(), drained).await.is_err() {
            tracing::warn!(
                calls = budgets.calls(),
                writes = rooms.writes.running(),
                background = background.len(),
                "drain time exceeded; aborted the calls that were still running"
            );
        }
    }
}

/// Receives WeChat's pushes until `stop`.
pub(crate) fn receive(
    receiver: Receiver,
    socket: TcpListener,
    places: Arc<Places>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let listener = Listener::new(socket, "listen.callback", places);
    let answer = move |request| {
        let receiver = receiver.clone();
        async move { receiver.answer(request).await }
    };
    http1::serve(listener, stop, answer)
}
