//! The work of a run: callers that repeat their writes, and a WeChat that repeats its pushes, each at any gateway.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prost::Message;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, transport::Channel};
use wechat_simulator::Simulator;
use wechat_store_gateway::pb::{
    self, nearby_service_client::NearbyServiceClient, store_service_client::StoreServiceClient,
};

use crate::{
    gateway::{Gateway, new_store, reason},
    samples::nearby_profile,
    sender::{send_to, success},
};

pub(super) const ADD_STORE: &str = "/wxa/add_store";
pub(super) const ADD_NEARBY: &str = "/wxa/addnearbypoi";

/// The callers that add stores.
const STORE_CALLERS: usize = 4;
/// The callers that add nearby places, which wait for each other.
const NEARBY_CALLERS: usize = 2;
/// The pushes that are sent at once.
const SENDERS: usize = 4;
/// More stores than any run has.
const STORES: usize = 1_000_000;
/// A push without an answer in this time is sent again.
const PUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// A write or a push that has not ended this long after the faults never ends.
const NEVER: Duration = Duration::from_secs(90);

/// The work, and its results.
pub(super) struct Load {
    doors: Vec<Door>,
    simulator: Simulator,
    counter: AtomicU64,
    written: AtomicUsize,
    ended: AtomicBool,
    done: AtomicBool,
    tasks: Mutex<JoinSet<()>>,
    pub(super) writes: Mutex<Vec<Arc<Write>>>,
    pub(super) pushes: Mutex<Vec<Acknowledged>>,
    /// The broken promises that were seen.
    pub(super) wrong: Mutex<Vec<String>>,
}

/// One gateway as its callers and WeChat use it.
struct Door {
    channel: Channel,
    callback: SocketAddr,
}

/// A push that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) audit_id: u64,
    pub(super) began: Instant,
    pub(super) until: Instant,
}

/// A write with its request id.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) request_id: String,
    pub(super) request: Body,
    /// The first answer, and when the write began and ended.
    pub(super) done: Mutex<Option<(Vec<u8>, Instant, Instant)>>,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Store(pb::AddStoreRequest),
    Nearby(pb::AddNearbyPoiRequest),
}

impl Body {
    /// Returns the place of its call in the simulator's journal: the path and the license number.
    pub(super) fn mark(&self) -> (&'static str, &str) {
        match self {
            Self::Store(add) => (ADD_STORE, &add.license_number),
            Self::Nearby(add) => {
                (ADD_NEARBY, add.profile.as_ref().map_or("", |profile| &profile.license_number))
            }
        }
    }
}

impl Load {
    /// Starts all callers and senders.
    pub(super) fn start(
        simulator: &Simulator,
        gateways: &[&Gateway],
        random: &mut fastrand::Rng,
    ) -> Arc<Self> {
        let rules = json!({ "store_limit": STORES, "nearby_limit": STORES });
        simulator.control("POST", "settings", &rules).expect("set");
        let doors = gateways
            .iter()
            .map(|gateway| Door { channel: gateway.channel(), callback: gateway.callback });
        let load = Arc::new(Self {
            doors: doors.collect(),
            simulator: simulator.clone(),
            counter: AtomicU64::new(1),
            written: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            done: AtomicBool::new(false),
            tasks: Mutex::default(),
            writes: Mutex::default(),
            pushes: Mutex::default(),
            wrong: Mutex::default(),
        });
        {
            let mut tasks = load.tasks.lock().expect("no panic");
            for caller in 0..STORE_CALLERS + NEARBY_CALLERS {
                tasks.spawn(write_on(load.clone(), random.fork(), caller >= STORE_CALLERS));
            }
            for _ in 0..SENDERS {
                tasks.spawn(push_on(load.clone(), random.fork()));
            }
        }
        load
    }

    /// Begins no more work, and waits until all that was begun has ended.
    pub(super) async fn finish(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().expect("no panic"));
        let all = async {
            while let Some(task) = tasks.join_next().await {
                task.expect("no panic");
            }
        };
        if timeout(NEVER, all).await.is_err() {
            self.wrong("some work never ends".to_owned());
        }
        self.done.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Returns the numbers of acknowledged events and writes.
    pub(super) fn acknowledged(&self) -> (usize, usize) {
        let pushes = self.pushes.lock().expect("no panic").len();
        (pushes, self.written.load(Ordering::Relaxed))
    }

    pub(super) fn wrong(&self, what: String) {
        self.wrong.lock().expect("no panic").push(what);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns a write that differs from all others.
    fn new_write(&self, random: &mut fastrand::Rng, nearby: bool) -> Write {
        let request_id = uuid::Builder::from_u128(random.u128(..)).into_uuid().to_string();
        let license_number = format!("{:015}", self.next());
        let request = if nearby {
            let profile = pb::NearbyPoiProfile { license_number, ..nearby_profile("") };
            Body::Nearby(pb::AddNearbyPoiRequest {
                request_id: request_id.clone(),
                profile: Some(profile),
                ..Default::default()
            })
        } else {
            Body::Store(pb::AddStoreRequest {
                request_id: request_id.clone(),
                map_poi_id: self.new_place(),
                license_number,
                ..new_store()
            })
        };
        Write { request_id, request, done: Mutex::default() }
    }

    /// Adds a place to the map, and returns its id.
    fn new_place(&self) -> String {
        let places = self.simulator.control("POST", "map_pois", &json!({ "count": 1 }));
        places.expect("a place")["map_poi_ids"][0].as_str().expect("a text").to_owned()
    }

    /// Sends a write once to one of the gateways, and returns the bytes of the answer.
    pub(super) async fn send(
        &self,
        gateway: usize,
        request: Body,
        time_left: Duration,
    ) -> Result<Vec<u8>, Status> {
        let channel = self.doors[gateway % self.doors.len()].channel.clone();
        let answer = async {
            Ok(match request {
                Body::Store(add) => {
                    let mut add = Request::new(add);
                    add.set_timeout(time_left);
                    let answer = StoreServiceClient::new(channel).add_store(add).await?;
                    // A repeat has another value here.
                    pb::AddStoreResponse { recovered: false, ..answer.into_inner() }.encode_to_vec()
                }
                Body::Nearby(add) => {
                    let mut add = Request::new(add);
                    add.set_timeout(time_left);
                    let answer = NearbyServiceClient::new(channel).add_nearby_poi(add).await?;
                    pb::AddNearbyPoiResponse { recovered: false, ..answer.into_inner() }
                        .encode_to_vec()
                }
            })
        };
        // A frozen gateway does not answer.
        let silence = || Status::deadline_exceeded("silence");
        timeout(time_left + PUSH_TIMEOUT, answer).await.unwrap_or_else(|_| Err(silence()))
    }
}

/// Adds stores or nearby places until the end. Each write is repeated until it is done, and some are repeated once more.
async fn write_on(load: Arc<Load>, mut random: fastrand::Rng, nearby: bool) {
    while !load.has_ended() {
        sleep(Duration::from_millis(random.u64(50..250))).await;
        let write = Arc::new(load.new_write(&mut random, nearby));
        load.writes.lock().expect("no panic").push(write.clone());
        let began = Instant::now();
        let Some(answer) = send_until_done(&load, &write, &mut random).await else { continue };
        *write.done.lock().expect("no panic") = Some((answer.clone(), began, Instant::now()));
        load.written.fetch_add(1, Ordering::Relaxed);
        if random.u32(..5) == 0
            && let Some(repeated) = send_until_done(&load, &write, &mut random).await
            && repeated != answer
        {
            load.wrong(format!("two answers: {write:?}"));
        }
    }
}

/// Sends a write until it is done. Returns `None` if a repeat cannot help.
async fn send_until_done(
    load: &Load,
    write: &Write,
    random: &mut fastrand::Rng,
) -> Option<Vec<u8>> {
    loop {
        let time_left = Duration::from_millis(random.u64(2_000..6_000));
        match load.send(random.usize(..), write.request.clone(), time_left).await {
            Ok(answer) => return Some(answer),
            Err(status) if is_final(&status) => {
                let (path, license_number) = write.request.mark();
                load.wrong(format!("refused: {path} {license_number} got {:?}", reason(&status)));
                return None;
            }
            Err(_) => sleep(Duration::from_millis(random.u64(50..300))).await,
        }
    }
}

fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
    )
}

/// Pushes events until the end. Each is repeated until a gateway acknowledges it.
async fn push_on(load: Arc<Load>, mut random: fastrand::Rng) {
    while !load.has_ended() {
        let audit_id = load.next();
        loop {
            let (began, gateway) = (Instant::now(), random.usize(..load.doors.len()));
            let sent = send_to(load.doors[gateway].callback, audit_id);
            if let Ok(Ok(answer)) = timeout(PUSH_TIMEOUT, sent).await
                && answer == success()
            {
                let until = Instant::now();
                let acknowledged = Acknowledged { audit_id, began, until };
                load.pushes.lock().expect("no panic").push(acknowledged);
                break;
            }
            sleep(Duration::from_millis(random.u64(20..60))).await;
        }
        sleep(Duration::from_millis(random.u64(20..60))).await;
    }
}
