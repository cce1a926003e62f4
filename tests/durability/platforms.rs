//! Third-party platforms: no merchant must authorize again because a process ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tonic::{Code, Status};
use wechat_simulator::{Component, Fault, faults::Kind, push::State};
use wechat_store_gateway::pb::{self, nearby_service_client::NearbyServiceClient};

use crate::{
    gateway::{Gateway, LONG, MOMENT, PROMPT, reason},
    print_figures, random,
    redis::RedisServer,
    sender::WeChat,
};

const PLATFORM: &str = "wx00000000000000c1";
const SECRET: &str = "the secret of the platform";
const TOKEN: &str = "PLATFORMTOKEN";
const AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
/// The permission set of nearby places.
const SETS: &[u16] = &[37];
const AUTHORIZER_TOKEN: &str = "/cgi-bin/component/api_authorizer_token";
const LIST_NEARBY: &str = "/wxa/getnearbypoilist";
const QUERY_AUTH: &str = "/cgi-bin/component/api_query_auth";
/// WeChat refuses a refresh token.
const REFUSED: Option<i64> = Some(61023);
/// WeChat refuses the platform's own token, before it reads the refresh token.
const PLATFORM_REFUSED: [Option<i64>; 2] = [Some(40001), Some(42001)];
/// Longer than the life of a token.
const EXPIRY: Duration = Duration::from_secs(7_300);
/// Longer than WeChat accepts a refresh token that it replaced.
const GRACE: Duration = Duration::from_secs(301);
/// The merchants of two gateways, and the lives of their tokens.
const SHARED: usize = 24;
const LIVES: usize = 2;
/// A gateway notices within this time what another one stored.
const FOLLOWING: Duration = Duration::from_secs(5);
/// How long a request to a far Redis is on the way, and its answer.
const DISTANCE: Duration = Duration::from_millis(60);
/// The merchants at the start.
const MERCHANTS: u64 = 6;
/// How long the kills go on, unless `CHAOS_SECONDS` has another time.
const SECONDS: u64 = 20;

#[tokio::test]
async fn merchants_survive_kills_with_sqlite() {
    survive("platforms, sqlite", "sqlite:{folder}/state.db").await;
}

#[tokio::test]
async fn merchants_survive_kills_with_redis() {
    let redis = RedisServer::start(true).await;
    survive("platforms, redis", &redis.url()).await;
}

/// WeChat pushes to one gateway, and callers use both. The other one is far from Redis: while its request is on the
/// way, the first one ends a fetch that it had not begun before.
#[tokio::test]
async fn two_gateways_share_platform() {
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let rules = json!({ "rotate_refresh_tokens": true });
    wechat.simulator.control("POST", "settings", &rules).expect("set");
    let slow = Fault { times: 0, ..Fault::new(AUTHORIZER_TOKEN, Kind::Latency { ms: 100 }) };
    wechat.simulator.fault(slow);
    let section = section();
    let start = async |url: &str| {
        let mut gateway = Gateway::with(wechat.address, url, &section);
        gateway.spawn();
        gateway.serves().await;
        gateway
    };
    let (near, far) = (redis.url(), far_from(redis.port).await);
    let (one, other) = tokio::join!(start(&near), start(&far));
    connect(&wechat, &one).await;
    let merchants: Vec<_> = (0..SHARED).map(|number| new_merchant(&wechat, number)).collect();
    is_confirmed(&wechat, "authorized", merchants.len()).await;
    join_all(merchants.iter().map(|merchant| is_served(&other, merchant))).await;
    join_all(merchants.iter().map(|merchant| is_served(&one, merchant))).await;

    let fetched = || {
        let calls = wechat.simulator.calls(AUTHORIZER_TOKEN).into_iter();
        calls.filter(|call| call.errcode == Some(0)).count()
    };
    let mut refreshes = Vec::new();
    for _ in 0..LIVES {
        let before = fetched();
        wechat.simulator.clock().advance(EXPIRY);
        let both = merchants
            .iter()
            .flat_map(|merchant| [is_served(&one, merchant), is_served(&other, merchant)]);
        join_all(both).await;
        refreshes.push(fetched() - before);
    }

    let merchant = &merchants[0];
    wechat.simulator.unauthorize(PLATFORM, merchant).expect("withdrawn");
    is_confirmed(&wechat, "unauthorized", 1).await;
    let withdrawn = Instant::now();
    is_refused(&one, &wechat, merchant, Duration::ZERO).await;
    is_refused(&other, &wechat, merchant, FOLLOWING + PROMPT).await;
    print_figures(&format!(
        "{SHARED} merchants at 2 gateways: {refreshes:?} tokens in the next lives, a withdrawal followed \
         after {:.1?}",
        withdrawn.elapsed()
    ));
    assert_eq!(refreshes, [SHARED; LIVES]);
}

/// Returns the URL of a link to a Redis that takes some time in both directions.
async fn far_from(port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.expect("a Redis");
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(pass_on(from_client, to_server));
            tokio::spawn(pass_on(from_server, to_client));
        }
    });
    format!("redis://{address}")
}

/// Passes on all bytes in one direction, each [`DISTANCE`] after it came.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut pieces) = mpsc::unbounded_channel();
    let read = async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let due = Instant::now() + DISTANCE;
            if sender.send((due, piece[..length].to_vec())).is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due.into()).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

/// Waits until a gateway serves a merchant.
async fn is_served(gateway: &Gateway, merchant: &str) {
    let (mut nearby, end) = (NearbyServiceClient::new(gateway.channel()), Instant::now() + LONG);
    while let Err(status) = list(&mut nearby, merchant).await {
        assert!(Instant::now() < end, "{merchant} is not served: {status}");
        sleep(MOMENT).await;
    }
}

/// Waits until a gateway itself refuses a merchant that withdrew its authorization, without a call at WeChat.
async fn is_refused(gateway: &Gateway, wechat: &WeChat, merchant: &str, within: Duration) {
    let (mut nearby, end) = (NearbyServiceClient::new(gateway.channel()), Instant::now() + within);
    let lost = (Code::FailedPrecondition, "AUTHORIZATION_LOST".to_owned());
    loop {
        let before = wechat.simulator.calls(LIST_NEARBY).len();
        let status = list(&mut nearby, merchant).await.expect_err("withdrawn");
        if reason(&status) == lost && wechat.simulator.calls(LIST_NEARBY).len() == before {
            return;
        }
        assert!(Instant::now() < end, "not refused: {status}");
        sleep(MOMENT).await;
    }
}

/// Kills the gateway in each life of the tokens. Then compares what WeChat received with what a gateway needs.
async fn survive(name: &str, state: &str) {
    let seconds =
        option_env!("CHAOS_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number"));
    let (began, mut random) = (Instant::now(), random(name));
    let mut run = Run::start(state).await;
    for _ in 0..MERCHANTS {
        let merchant = run.authorize();
        run.call_confirmed(merchant).await;
    }
    run.all_are_served(Instant::now()).await;
    // One round passes without a kill: each token is fetched once.
    let mut kills_here = 0;
    while began.elapsed() < Duration::from_secs(seconds) || run.rounds.len() < 2 {
        let expired = run.expire();
        for _ in 0..kills_here {
            run.interrupt(&mut random).await;
        }
        run.all_are_served(expired).await;
        run.rounds.last_mut().expect("a round").kills = kills_here;
        kills_here = random.u64(1..=2);
    }
    run.check(name, began);
}

/// A gateway, its merchants, and callers that never stop.
struct Run {
    wechat: WeChat,
    gateway: Gateway,
    merchants: Vec<String>,
    /// One life of the tokens each.
    rounds: Vec<Round>,
    /// When the last answered call of each merchant began.
    served: Arc<Mutex<BTreeMap<String, Instant>>>,
    /// The reasons of the calls that failed.
    failed: Arc<Mutex<BTreeMap<String, u64>>>,
    callers: JoinSet<()>,
}

struct Round {
    /// The calls of the round come after this time of WeChat's clock, in milliseconds since 1970.
    begin: u128,
    kills: u64,
}

impl Run {
    async fn start(state: &str) -> Self {
        let wechat = WeChat::start().await;
        // Only a process that ends may lose a code, and not the time that WeChat keeps it.
        let rules =
            json!({ "rotate_refresh_tokens": true, "authorization_code_seconds": 100_000_000 });
        wechat.simulator.control("POST", "settings", &rules).expect("set");
        for path in [AUTHORIZER_TOKEN, QUERY_AUTH] {
            // WeChat has executed the call, and its answer is on the way.
            let late = Fault { times: 0, ..Fault::new(path, Kind::Latency { ms: 30 }) };
            wechat.simulator.fault(late);
        }
        let mut gateway = Gateway::with(wechat.address, state, &section());
        gateway.spawn();
        gateway.serves().await;
        connect(&wechat, &gateway).await;
        Self {
            wechat,
            gateway,
            merchants: Vec::new(),
            rounds: vec![Round { begin: 0, kills: 0 }],
            served: Arc::default(),
            failed: Arc::default(),
            callers: JoinSet::new(),
        }
    }

    /// Lets a new merchant authorize the platform.
    fn authorize(&mut self) -> String {
        let merchant = new_merchant(&self.wechat, self.merchants.len());
        self.merchants.push(merchant.clone());
        merchant
    }

    /// Waits until the gateway confirmed the authorization of the merchant. Then calls for it until the end.
    async fn call_confirmed(&mut self, merchant: String) {
        is_confirmed(&self.wechat, "authorized", self.merchants.len()).await;
        let mut nearby = NearbyServiceClient::new(self.gateway.channel());
        let (served, failed) = (self.served.clone(), self.failed.clone());
        self.callers.spawn(async move {
            loop {
                let began = Instant::now();
                match timeout(PROMPT, list(&mut nearby, &merchant)).await {
                    Ok(Ok(())) => {
                        served.lock().expect("no panic").insert(merchant.clone(), began);
                    }
                    Ok(Err(status)) => {
                        let (code, reason) = reason(&status);
                        let name = format!("{code:?} {reason}");
                        *failed.lock().expect("no panic").entry(name).or_default() += 1;
                    }
                    Err(_) => {}
                }
                sleep(3 * MOMENT).await;
            }
        });
    }

    /// Ends the life of all tokens, and of all refresh tokens that WeChat replaced. Returns the time of it.
    fn expire(&mut self) -> Instant {
        let clock = self.wechat.simulator.clock();
        let before = clock.wall().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        clock.advance(EXPIRY);
        // Between the two times no call can come.
        let begin = before + EXPIRY.as_millis() / 2;
        self.rounds.push(Round { begin, kills: 0 });
        Instant::now()
    }

    /// Kills the process at a moment at which it may hold something that is nowhere else, and starts it again.
    async fn interrupt(&mut self, random: &mut fastrand::Rng) {
        let before = (self.count(AUTHORIZER_TOKEN), self.count(LIST_NEARBY));
        match random.u32(..5) {
            0 => sleep(Duration::from_millis(random.u64(..300))).await,
            // WeChat replaced a refresh token. Its answer is on the way, just read, or stored.
            1 => self.until(|run| run.count(AUTHORIZER_TOKEN) > before.0).await,
            // A call has the new token.
            2 => self.until(|run| run.served_calls() > 0).await,
            // The authorization is confirmed, and its code was not exchanged or is being exchanged.
            _ => {
                if random.bool() {
                    let busy = Kind::Latency { ms: 100 };
                    let busy = Fault { execute: Some(false), ..Fault::new(QUERY_AUTH, busy) };
                    self.wechat.simulator.fault(busy);
                }
                let merchant = self.authorize();
                self.call_confirmed(merchant).await;
            }
        }
        sleep(Duration::from_millis(random.u64(..60))).await;
        self.gateway.kill();
        if random.bool() {
            self.wechat.simulator.clock().advance(GRACE);
        }
        self.gateway.spawn();
        self.gateway.serves().await;
    }

    fn count(&self, path: &str) -> usize {
        self.wechat.simulator.calls(path).len()
    }

    /// Returns the number of calls for merchants that WeChat executed in this round.
    fn served_calls(&self) -> usize {
        let begin = self.rounds.last().expect("a round").begin;
        let calls = self.wechat.simulator.calls(LIST_NEARBY).into_iter().rev();
        let here = calls.take_while(|call| u128::from(call.at_unix_ms) > begin);
        here.filter(|call| call.errcode == Some(0)).count()
    }

    /// Waits for a condition, which may have come already.
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PROMPT;
        while !condition(self) && Instant::now() < end {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a call for each merchant that began after this time was answered.
    async fn all_are_served(&self, since: Instant) {
        let end = Instant::now() + LONG;
        loop {
            let lost = {
                let served = self.served.lock().expect("no panic");
                let is_lost = |app_id: &&String| served.get(*app_id).is_none_or(|at| *at < since);
                self.merchants.iter().filter(is_lost).cloned().collect::<Vec<_>>()
            };
            if lost.is_empty() {
                return;
            }
            let failed = self.failed.lock().expect("no panic").clone();
            assert!(Instant::now() < end, "lost: {lost:?}, failed: {failed:?}");
            sleep(MOMENT).await;
        }
    }

    fn check(&self, name: &str, began: Instant) {
        let tokens = self.wechat.simulator.calls(AUTHORIZER_TOKEN);
        let is_empty = |call: &&wechat_simulator::journal::Entry| {
            call.body["authorizer_refresh_token"].as_str().is_none_or(str::is_empty)
        };
        let failed = self.failed.lock().expect("no panic").clone();
        let kills: u64 = self.rounds.iter().map(|round| round.kills).sum();
        print_figures(&format!(
            "{name}: {kills} kills in {} lives of tokens, {} merchants, 0 lost, {} calls for tokens, {} \
             of them with a lost refresh token, {} calls served, failed: {failed:?}, {:.0?}",
            self.rounds.len(),
            self.merchants.len(),
            tokens.len(),
            tokens.iter().filter(|call| call.errcode == REFUSED).count(),
            self.count(LIST_NEARBY),
            began.elapsed(),
        ));
        assert_eq!(
            tokens.iter().filter(is_empty).count(),
            0,
            "an empty refresh token reached WeChat"
        );
        let lost = ["ACCOUNT_UNKNOWN", "AUTHORIZATION_LOST"];
        let is_lost = |failure: &&String| lost.iter().any(|reason| failure.ends_with(reason));
        assert_eq!(failed.keys().find(is_lost), None, "a caller was sent to the merchant");
        for merchant in &self.merchants {
            self.check_merchant(merchant);
        }
    }

    /// Checks that a merchant's token was fetched once in each life, and at most two times more for each kill.
    /// A refresh token was only lost with the token that came with it.
    fn check_merchant(&self, merchant: &str) {
        let simulator = &self.wechat.simulator;
        let mut calls = [simulator.calls(AUTHORIZER_TOKEN), simulator.calls(LIST_NEARBY)].concat();
        calls.sort_by_key(|call| call.seq);
        calls.retain(|call| !PLATFORM_REFUSED.contains(&call.errcode));
        calls.retain(|call| match call.path.as_str() {
            AUTHORIZER_TOKEN => call.body["authorizer_appid"] == merchant,
            _ => call.app_id == merchant,
        });
        let mut is_used = false;
        for call in &calls {
            if call.path == AUTHORIZER_TOKEN {
                assert!(
                    call.errcode != REFUSED || !is_used,
                    "{merchant}: the token was used before its refresh token was stored"
                );
                is_used = false;
            } else {
                is_used |= call.errcode == Some(0);
            }
        }
        let ends = self.rounds.iter().skip(1).map(|round| round.begin).chain([u128::MAX]);
        for (round, end) in self.rounds.iter().zip(ends) {
            let is_here = |at: u64| (round.begin..end).contains(&u128::from(at));
            let fetched = calls
                .iter()
                .filter(|call| call.path == AUTHORIZER_TOKEN && is_here(call.at_unix_ms))
                .count() as u64;
            let most = 1 + 2 * round.kills;
            assert!(fetched <= most, "{merchant}: {fetched} tokens, {} kills", round.kills);
        }
    }
}

/// Returns the section of the settings for the platform.
fn section() -> String {
    // The simulator's time is far ahead.
    format!(
        "[callback]\ntimestamp_window_seconds = 0\n[[platforms]]\napp_id = \"{PLATFORM}\"\n\
         secret = \"{SECRET}\"\ntoken = \"{TOKEN}\"\naes_key = \"{AES_KEY}\"\n"
    )
}

/// Directs the pushes of the platform to this gateway, and waits until it confirmed a ticket.
async fn connect(wechat: &WeChat, gateway: &Gateway) {
    let base = format!("http://{}/wechat/platform/{PLATFORM}", gateway.callback);
    let component = Component {
        events_url: Some(format!("{base}/events")),
        messages_url: Some(format!("{base}/messages/$APPID$")),
        ..Component::new(PLATFORM, SECRET, TOKEN, AES_KEY)
    };
    wechat.simulator.add_component(component).expect("a good component");
    is_confirmed(wechat, "component_verify_ticket", 1).await;
}

/// Waits until the gateway confirmed this many different pushes with a name.
async fn is_confirmed(wechat: &WeChat, name: &str, count: usize) {
    let end = Instant::now() + LONG;
    loop {
        let pushes = wechat.simulator.pushes().into_iter();
        let confirmed = pushes.filter(|push| push.event == name && push.state == State::Delivered);
        if confirmed.map(|push| push.id).collect::<BTreeSet<_>>().len() >= count {
            return;
        }
        assert!(Instant::now() < end, "{name} is not confirmed");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Adds an account at WeChat, which authorizes the platform.
fn new_merchant(wechat: &WeChat, number: usize) -> String {
    let merchant = format!("wx{:016x}", 0xd000 + number);
    let account = json!({ "app_id": merchant, "secret": "unknown to all", "kind": "mini_program" });
    wechat.simulator.control("POST", "accounts", &account).expect("a new account");
    wechat.simulator.authorize(PLATFORM, &merchant, SETS).expect("authorized");
    merchant
}

async fn list(
    nearby: &mut NearbyServiceClient<tonic::transport::Channel>,
    app_id: &str,
) -> Result<(), Status> {
    let request = pb::ListNearbyPoisRequest { app_id: app_id.to_owned(), ..Default::default() };
    nearby.list_nearby_pois(request).await.map(drop)
}
