//! Restarts under load: no call fails behind a client with the service config, and no write is lost or doubled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb::{self, store_service_client::StoreServiceClient};

use crate::{
    gateway::{Gateway, LONG, MOMENT, new_store},
    print_figures,
    redis::RedisServer,
    sender::WeChat,
};

const ADD_STORE: &str = "/wxa/add_store";
const LIST_STORES: &str = "/wxa/get_store_list";
/// The callers of the rolling restart.
const CALLERS: usize = 48;
/// The callers that wait when a process gets SIGTERM.
const WAITING: usize = 1_000;
/// Their connections.
const CONNECTIONS: usize = 20;
/// How many of their calls WeChat has at once.
const AT_ONCE: usize = 250;

/// The retries of the published service config, as a gRPC library makes them. tonic has none.
#[derive(Clone)]
struct Retries {
    attempts: u64,
    first_pause: Duration,
    longest_pause: Duration,
    factor: u32,
}

impl Retries {
    /// Returns the retries of an RPC.
    fn of(service: &str, method: &str) -> Self {
        let file = include_str!("../../proto/service_config.json");
        let config: Value = serde_json::from_str(file).expect("JSON");
        let name = json!({ "service": format!("wechat.store.v1.{service}"), "method": method });
        let methods = config["methodConfig"].as_array().expect("a list");
        let has = |config: &&Value| config["name"].as_array().expect("a list").contains(&name);
        let policy = &methods.iter().find(has).expect("every RPC")["retryPolicy"];
        assert_eq!(policy["retryableStatusCodes"], json!(["UNAVAILABLE"]), "{method}");
        let pause = |key: &str| {
            let text = policy[key].as_str().and_then(|text| text.strip_suffix('s'));
            Duration::from_secs_f64(text.and_then(|text| text.parse().ok()).expect("seconds"))
        };
        Self {
            attempts: policy["maxAttempts"].as_u64().expect("a number"),
            first_pause: pause("initialBackoff"),
            longest_pause: pause("maxBackoff"),
            factor: policy["backoffMultiplier"]
                .as_u64()
                .and_then(|n| n.try_into().ok())
                .expect("small"),
        }
    }

    /// Makes a call, and repeats it at the next gateway while it is UNAVAILABLE. Counts the repeats.
    async fn call<M: Clone, R, F>(
        &self,
        message: &M,
        first: usize,
        repeats: &AtomicUsize,
        send: impl Fn(usize, Request<M>) -> F,
    ) -> Result<R, Status>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let mut pause = self.first_pause;
        for attempt in 0.. {
            let mut request = Request::new(message.clone());
            if attempt > 0 {
                let count = attempt.to_string().parse().expect("ASCII");
                request.metadata_mut().insert("grpc-previous-rpc-attempts", count);
            }
            let gateway = first + usize::try_from(attempt).expect("small");
            let status = match send(gateway, request).await {
                Err(status) if is_unavailable(&status) && attempt + 1 < self.attempts => status,
                end => return end,
            };
            repeats.fetch_add(1, Ordering::Relaxed);
            let pushback = status.metadata().get("grpc-retry-pushback-ms");
            let wait = match pushback.map(|value| value.to_str().expect("ASCII").parse()) {
                Some(Ok(millis)) => Duration::from_millis(millis),
                Some(Err(_)) => return Err(status),
                None => pause.mul_f64(fastrand::f64()),
            };
            sleep(wait).await;
            pause = (pause * self.factor).min(self.longest_pause);
        }
        unreachable!("the last attempt returns")
    }
}

/// Returns true if a library would report the code UNAVAILABLE. tonic has other codes for some broken
/// connections.
fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// A caller's results.
#[derive(Default)]
struct Ends {
    ended: AtomicUsize,
    repeats: AtomicUsize,
    stop: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_fails_no_call() {
    let began = Instant::now();
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let places = places(&wechat, 20_000);
    let url = redis.url();
    let start = || Gateway::start(wechat.address, &url);
    let (one, other) = tokio::join!(start(), start());
    let mut gateways = [one, other];
    let ends = Arc::new(Ends::default());
    let channels = gateways.each_ref().map(Gateway::channel);
    let callers = (0..CALLERS).map(|caller| {
        let places = places.iter().skip(caller).step_by(CALLERS).cloned().collect();
        tokio::spawn(call_on(caller, channels.clone(), places, ends.clone()))
    });
    let callers: Vec<_> = callers.collect();

    for _ in 0..2 {
        for gateway in &mut gateways {
            progress(&ends, 2 * CALLERS).await;
            gateway.signal("TERM");
            assert_eq!(gateway.ends().await, Some(0));
            progress(&ends, 2 * CALLERS).await;
            gateway.spawn();
            gateway.serves().await;
        }
    }
    progress(&ends, 2 * CALLERS).await;
    ends.stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    for result in join_all(callers).await {
        written += result.expect("no panic").expect("no call fails");
    }
    let mut sent = HashMap::<_, usize>::new();
    for call in wechat.simulator.calls(ADD_STORE) {
        *sent.entry(call.body["map_poi_id"].to_string()).or_default() += 1;
    }
    print_figures(&format!(
        "rolling restart: 4 restarts, {} calls, {} repeats, {written} writes, {:.1?}",
        ends.ended.load(Ordering::Relaxed),
        ends.repeats.load(Ordering::Relaxed),
        began.elapsed(),
    ));
    assert_eq!(sent.len(), written, "every write is there");
    assert!(sent.values().all(|times| *times == 1), "none is there twice");
}

/// Adds stores and reads until the end. Returns the number of stores.
async fn call_on(
    caller: usize,
    channels: [Channel; 2],
    places: Vec<String>,
    ends: Arc<Ends>,
) -> Result<usize, Status> {
    let writing = Retries::of("StoreService", "AddStore");
    let reading = Retries::of("StoreService", "ListStores");
    let client = |gateway: usize| StoreServiceClient::new(channels[gateway % 2].clone());
    let mut written = 0;
    for (turn, map_poi_id) in places.into_iter().enumerate() {
        if ends.stop.load(Ordering::Relaxed) {
            break;
        }
        let first = caller + turn;
        let store = named_store(map_poi_id);
        let send = async |gateway, request| client(gateway).add_store(request).await;
        writing.call(&store, first, &ends.repeats, send).await?;
        written += 1;
        let list = pb::ListStoresRequest { page_size: 5, ..Default::default() };
        let send = async |gateway, request| client(gateway).list_stores(request).await;
        reading.call(&list, first, &ends.repeats, send).await?;
        ends.ended.fetch_add(2, Ordering::Relaxed);
    }
    Ok(written)
}

/// Waits until this many further calls have ended.
async fn progress(ends: &Ends, calls: usize) {
    let goal = ends.ended.load(Ordering::Relaxed) + calls;
    let end = Instant::now() + LONG;
    while ends.ended.load(Ordering::Relaxed) < goal {
        assert!(Instant::now() < end, "the callers do not get on");
        sleep(MOMENT).await;
    }
}

/// Returns so many places on the map, and lets the account have as many stores.
fn places(wechat: &WeChat, count: usize) -> Vec<String> {
    let control = |what, body| wechat.simulator.control("POST", what, &body).expect("controlled");
    control("settings", json!({ "store_limit": count }));
    let places = control("map_pois", json!({ "count": count }));
    let ids = places["map_poi_ids"].as_array().expect("ids");
    ids.iter().map(|id| id.as_str().expect("a text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_answers_every_waiting_caller() {
    let began = Instant::now();
    let wechat = WeChat::start().await;
    let limits =
        format!("[limits]\naccount_concurrency = {AT_ONCE}\nlame_duck_ms = 4000\ndrain_ms = 25000");
    let mut gateway = Gateway::with(wechat.address, "sqlite:{folder}/state.db", &limits);
    gateway.spawn();
    gateway.serves().await;
    let mut health = HealthClient::new(gateway.channel());
    let watch = health.watch(HealthCheckRequest::default()).await.expect("a stream");
    let mut watch = watch.into_inner();
    let first = watch.message().await.expect("no failure").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);

    // The calls that WeChat does not have yet wait for a permit, and the last of them until the listener has closed.
    for path in [LIST_STORES, ADD_STORE] {
        wechat.simulator.fault(Fault::new(path, Kind::Latency { ms: 1_500 }).times(0));
    }
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| gateway.channel()).collect();
    let mut places = places(&wechat, WAITING / 2);
    let callers = (0..WAITING).map(|caller| {
        let stores = StoreServiceClient::new(channels[caller % CONNECTIONS].clone());
        let place = if caller.is_multiple_of(2) { places.pop() } else { None };
        tokio::spawn(list_or_add(stores, place))
    });
    let callers: Vec<_> = callers.collect();
    let reached = || [LIST_STORES, ADD_STORE].map(|path| wechat.simulator.calls(path).len());
    let end = Instant::now() + LONG;
    while reached().iter().sum::<usize>() < AT_ONCE {
        assert!(Instant::now() < end, "{:?} calls", reached());
        sleep(MOMENT).await;
    }

    let ended = callers.iter().filter(|caller| caller.is_finished()).count();
    assert!(ended < WAITING / 10, "{ended} callers do not wait");
    let stopped = Instant::now();
    gateway.signal("TERM");
    let next = timeout(LONG, watch.message()).await.expect("in time");
    let next = next.expect("no failure").expect("a status");
    assert_eq!(next.status(), ServingStatus::NotServing);
    // Health reports it first. A new connection is still served.
    assert_eq!(gateway.lists().await, Ok(0));
    while TcpStream::connect(gateway.grpc).await.is_ok() {
        assert!(stopped.elapsed() < LONG, "it still listens");
        sleep(MOMENT).await;
    }
    // No caller set a deadline. tonic would end a call itself on a busy machine, and hide a broken stream.
    let mut ends = BTreeMap::<_, usize>::new();
    for end in join_all(callers).await {
        *ends.entry(end.expect("no panic")).or_default() += 1;
    }
    assert_eq!(gateway.ends().await, Some(0));
    let took = stopped.elapsed();
    print_figures(&format!(
        "SIGTERM under {WAITING} callers: {ends:?}, exit after {took:.1?}, {:.1?} in all",
        began.elapsed()
    ));
    assert!(took < Duration::from_secs(25), "within the drain time");
    let unexplained: Vec<_> = ends.keys().filter(|(_, reason)| reason.is_empty()).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    let added = wechat.simulator.calls(ADD_STORE).len();
    let ok = ends.get(&("OK".to_owned(), "OK".to_owned())).copied().unwrap_or_default();
    assert!(added <= WAITING / 2 && ok > 0, "{added} stores, {ok} OK");
    assert!(!gateway.output().contains("drain time exceeded"), "{}", gateway.output());
}

/// Adds a store at a place, or lists stores. Returns the code and the reason. Only the gateway's own statuses
/// have one.
async fn list_or_add(
    mut stores: StoreServiceClient<Channel>,
    place: Option<String>,
) -> (String, String) {
    let ended = match place {
        None => {
            let request = pb::ListStoresRequest { page_size: 5, ..Default::default() };
            stores.list_stores(request).await.map(drop)
        }
        Some(map_poi_id) => stores.add_store(named_store(map_poi_id)).await.map(drop),
    };
    let Err(status) = ended else { return ("OK".to_owned(), "OK".to_owned()) };
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    (format!("{:?}", status.code()), reason)
}

/// Returns a request for a store like no other, with a name of its own.
fn named_store(map_poi_id: String) -> pb::AddStoreRequest {
    pb::AddStoreRequest {
        request_id: uuid::Builder::from_u128(fastrand::u128(..)).into_uuid().to_string(),
        license_number: format!("91{map_poi_id}"),
        map_poi_id,
        ..new_store()
    }
}
