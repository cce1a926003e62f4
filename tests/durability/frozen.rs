//! Two gateways that share a Redis, of which one freezes with its hands full.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tonic::{Code, Request};
use wechat_simulator::{COMPANY, Fault, MINI_PROGRAM_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{self, nearby_service_client::NearbyServiceClient};

use crate::{
    gateway::{Gateway, LONG, MOMENT, new_store, reason},
    redis::Redis,
    sender::WeChat,
};

const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
const ADD_NEARBY: &str = "/wxa/addnearbypoi";

/// What callers wait by default.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_gateway_that_froze_while_it_fetched_a_token_holds_up_the_other_for_moments() {
    let (redis, wechat) = (Redis::start(true).await, WeChat::start().await);
    let (one, other) = pair(&wechat, &redis).await;
    wechat.simulator.fault(Fault::new(STABLE_TOKEN, Kind::Hold));
    let mut stores = one.stores();
    let held = tokio::spawn(async move { stores.get_store(get_store()).await });
    until(|| !wechat.simulator.calls(STABLE_TOKEN).is_empty()).await;
    signal(&one, "STOP");
    // Far more than a moment, and less than what a lease of the whole patience would leave.
    let mut request = Request::new(get_store());
    request.set_timeout(PATIENCE);
    let answer = other.stores().get_store(request).await.expect_err("there is no such store");
    assert_eq!(reason(&answer), (Code::NotFound, "STORE_NOT_FOUND".to_owned()));
    signal(&one, "CONT");
    let answer = held.await.expect("no panic").expect_err("there is no such store");
    assert_ne!(answer.code(), Code::Unavailable, "{answer:?}");
}

#[tokio::test]
async fn a_gateway_that_froze_before_it_sent_leaves_its_turn_to_the_other() {
    let (redis, wechat) = (Redis::start(true).await, WeChat::start().await);
    let (one, other) = pair(&wechat, &redis).await;
    // It has its turn, and waits for a token.
    wechat.simulator.fault(Fault::new(STABLE_TOKEN, Kind::Hold));
    let mut places = nearby(&one);
    let held = tokio::spawn(async move { places.add_nearby_poi(place("1", PATIENCE)).await });
    until(|| !wechat.simulator.calls(STABLE_TOKEN).is_empty()).await;
    signal(&one, "STOP");
    let answer = nearby(&other).add_nearby_poi(place("2", PATIENCE)).await;
    assert_eq!(wechat.simulator.calls(ADD_NEARBY).len(), 1, "{answer:?}");
    signal(&one, "CONT");
    // Whatever comes of the first, it is not sent beside another.
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

/// A nearby place to submit; one of two.
fn place(number: &str, patience: Duration) -> Request<pb::AddNearbyPoiRequest> {
    let store = new_store();
    let profile = pb::NearbyPoiProfile {
        name: "巷口小馆".to_owned(),
        map_poi_id: store.map_poi_id,
        address: "广东省广州市海珠区新港中路397号".to_owned(),
        picture_urls: store.picture_urls,
        contact_phone: store.contact_phone,
        hours: store.hours,
        company_name: COMPANY.to_owned(),
        license_number: format!("15671819351828{number}"),
        service_labels: vec![pb::ServiceLabel {
            kind: pb::NearbyServiceKind::Delivery.into(),
            app_id: MINI_PROGRAM_APP_ID.to_owned(),
            path: "pages/index".to_owned(),
            description: "满减".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = pb::AddNearbyPoiRequest { profile: Some(profile), ..Default::default() };
    let mut request = Request::new(request);
    request.set_timeout(patience);
    request
}

async fn pair(wechat: &WeChat, redis: &Redis) -> (Gateway, Gateway) {
    let url = redis.url();
    tokio::join!(Gateway::start(wechat.address, &url), Gateway::start(wechat.address, &url))
}

fn signal(gateway: &Gateway, name: &str) {
    let id = gateway.process_id().expect("it runs").to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
    assert!(status.success());
}

async fn until(happened: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !happened() {
        assert!(Instant::now() < end, "it does not happen");
        sleep(MOMENT).await;
    }
}
