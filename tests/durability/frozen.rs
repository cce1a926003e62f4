//! Two gateways that share a Redis. One of them freezes during its work.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tonic::{Code, Request};
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb::{self, nearby_service_client::NearbyServiceClient};

use crate::{
    gateway::{Gateway, LONG, MOMENT, reason},
    redis::RedisServer,
    samples::nearby_profile,
    sender::WeChat,
};

const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
const ADD_NEARBY: &str = "/wxa/addnearbypoi";

/// The default deadline of callers.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn frozen_token_fetch_delays_other_gateway_briefly() {
    let (redis, wechat) = (RedisServer::start(true).await, WeChat::start().await);
    let (one, other) = pair(&wechat, &redis).await;
    wechat.simulator.fault(Fault::new(STABLE_TOKEN, Kind::Hold));
    let mut stores = one.stores();
    let held = tokio::spawn(async move { stores.get_store(get_store()).await });
    until(|| !wechat.simulator.calls(STABLE_TOKEN).is_empty()).await;
    one.signal("STOP");
    // Far more than a moment, and less than the rest after a lease of the whole deadline.
    let mut request = Request::new(get_store());
    request.set_timeout(DEFAULT_DEADLINE);
    let answer = other.stores().get_store(request).await.expect_err("there is no such store");
    assert_eq!(reason(&answer), (Code::NotFound, "STORE_NOT_FOUND".to_owned()));
    one.signal("CONT");
    let answer = held.await.expect("no panic").expect_err("there is no such store");
    assert_ne!(answer.code(), Code::Unavailable, "{answer:?}");
}

#[tokio::test]
async fn frozen_gateway_gives_up_its_write_queue() {
    let (redis, wechat) = (RedisServer::start(true).await, WeChat::start().await);
    let (one, other) = pair(&wechat, &redis).await;
    // The first call holds the write queue and waits for a token.
    wechat.simulator.fault(Fault::new(STABLE_TOKEN, Kind::Hold));
    let mut places = nearby(&one);
    let held =
        tokio::spawn(async move { places.add_nearby_poi(place("1", DEFAULT_DEADLINE)).await });
    until(|| !wechat.simulator.calls(STABLE_TOKEN).is_empty()).await;
    one.signal("STOP");
    let answer = nearby(&other).add_nearby_poi(place("2", DEFAULT_DEADLINE)).await;
    assert_eq!(wechat.simulator.calls(ADD_NEARBY).len(), 1, "{answer:?}");
    one.signal("CONT");
    // Whatever the result of the first call is, the two are not sent at the same time.
    let _ = held.await.expect("no panic");
    let calls = wechat.simulator.calls(ADD_NEARBY);
    let times: Vec<_> = calls.iter().map(|call| call.at_unix_ms).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 1_000), "{times:?}");
}

fn get_store() -> pb::GetStoreRequest {
    pb::GetStoreRequest { poi_id: "1".to_owned(), ..Default::default() }
}

fn nearby(gateway: &Gateway) -> NearbyServiceClient<tonic::transport::Channel> {
    NearbyServiceClient::new(gateway.channel())
}

/// Returns one of two nearby places to submit.
fn place(number: &str, time_left: Duration) -> Request<pb::AddNearbyPoiRequest> {
    let profile = pb::NearbyPoiProfile {
        license_number: format!("15671819351828{number}"),
        ..nearby_profile("2708071440732747189")
    };
    let request = pb::AddNearbyPoiRequest { profile: Some(profile), ..Default::default() };
    let mut request = Request::new(request);
    request.set_timeout(time_left);
    request
}

async fn pair(wechat: &WeChat, redis: &RedisServer) -> (Gateway, Gateway) {
    let url = redis.url();
    tokio::join!(Gateway::start(wechat.address, &url), Gateway::start(wechat.address, &url))
}

async fn until(happened: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !happened() {
        assert!(Instant::now() < end, "it does not happen");
        sleep(MOMENT).await;
    }
}
