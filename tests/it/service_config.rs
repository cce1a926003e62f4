//! The service config that clients load, and what the gateway does if their libraries repeat a call.
//! `tests/clients/retries.py` does the same with real libraries.

use std::{collections::BTreeMap, time::Duration};

use prost_reflect::DescriptorPool;
use serde_json::Value;
use tonic::{Code, Request, Status};
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::{
    documented::{AfterLostReply, examples},
    support::{App, GET_CARD, is, new_map_poi, new_store, reason, with_deadline},
};

const ADD_STORE: &str = "/wxa/add_store";
const PLACE: &str = "2708071440732747189";
const NAME: &str = "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a93";
const LONG: Duration = Duration::from_secs(20);

/// Returns the config of each method in the published file, such as `wechat.store.v1.StoreService/GetStore`.
fn methods() -> BTreeMap<String, Value> {
    let file = include_str!("../../proto/service_config.json");
    let config: Value = serde_json::from_str(file).expect("JSON");
    let mut methods = BTreeMap::new();
    for config in config["methodConfig"].as_array().expect("a list") {
        for name in config["name"].as_array().expect("a list") {
            let text = |key| name[key].as_str().expect("a text");
            let name = format!("{}/{}", text("service"), text("method"));
            assert!(methods.insert(name.clone(), config.clone()).is_none(), "{name} comes twice");
        }
    }
    methods
}

#[test]
fn published_config_has_every_rpc() {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let rpcs = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut rpcs = Vec::from_iter(
        rpcs.map(|rpc| format!("{}/{}", rpc.parent_service().full_name(), rpc.name())),
    );
    rpcs.extend(["Check", "List"].map(|method| format!("grpc.health.v1.Health/{method}")));
    rpcs.sort();
    assert_eq!(methods().into_keys().collect::<Vec<_>>(), rpcs);
}

#[test]
fn retried_rpc_reads_or_has_a_request_id() {
    let methods = methods();
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let name = format!("{}/{}", rpc.parent_service().full_name(), rpc.name());
        let retries = methods[&name].get("retryPolicy").is_some();
        let reads = pb::access(&format!("/{name}")) == Some(pb::Access::Read);
        let has_id = rpc.input().get_field_by_name("request_id").is_some();
        // It needs the role of an admin, and only returns a token.
        let gives_token = name == "wechat.store.v1.TokenService/GetAccessToken";
        assert!(!retries || reads || has_id || gives_token, "{name}");
    }
    // WeChat's documents and the config agree about what may be repeated without a thought.
    for (file, example) in examples() {
        let config = &methods[&format!("wechat.store.v1.{}", example.rpc)];
        if example.after_lost_reply == AfterLostReply::Again {
            assert!(config.get("retryPolicy").is_some(), "{file}");
        }
    }
}

#[test]
fn waiting_call_has_a_timeout() {
    for (name, config) in methods() {
        let waits = config.get("waitForReady").is_some();
        assert!(!waits || config.get("timeout").is_some(), "{name}");
    }
}

/// Returns a request as a library sends it for the second time.
fn again<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-previous-rpc-attempts", "1".parse().expect("ASCII"));
    request
}

pub(crate) fn pushback(status: &Status) -> Option<&str> {
    status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().expect("ASCII"))
}

#[tokio::test(flavor = "multi_thread")]
async fn library_repeats_only_recognizable_writes() {
    let app = App::start().await;
    let nameless = new_store(PLACE, "0009");
    let status = app.stores().add_store(again(nameless.clone())).await.expect_err("refused");
    assert_eq!(reason(&status), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    assert_eq!((app.count(ADD_STORE), pushback(&status)), (0, Some("-1")));

    let named = pb::AddStoreRequest { request_id: NAME.to_owned(), ..nameless };
    let first = app.stores().add_store(named.clone()).await.expect("added").into_inner();
    let second = app.stores().add_store(again(named)).await.expect("known").into_inner();
    assert_eq!((first, app.count(ADD_STORE)), (second, 1));

    // A repeat of this one is harmless.
    let card = pb::SetStoreCardRequest {
        poi_id: "472671857".to_owned(),
        card_id: "pabcedfg1234567hijklmn".to_owned(),
        ..Default::default()
    };
    let status = app.cards().set_store_card(again(card)).await.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn library_leaves_nameless_write_to_caller() {
    let app = App::start().await;
    for (request_id, expected) in [(NAME, None), ("", Some("-1"))] {
        app.fault(ADD_STORE, Kind::Status { code: 403, body: String::new() });
        let request_id = request_id.to_owned();
        let request = pb::AddStoreRequest { request_id, ..new_store(PLACE, "0009") };
        let status = app.stores().add_store(request).await.expect_err("WeChat refused");
        assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
        assert_eq!(pushback(&status), expected);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn library_leaves_early_nameless_failure_to_caller() {
    let app = App::start().await;
    app.fault("/wxa/get_district", Kind::Html502);
    for (request_id, expected) in [(NAME, None), ("", Some("-1"))] {
        let request_id = request_id.to_owned();
        let request = pb::CreateMapPoiRequest { request_id, ..new_map_poi() };
        let status = app.map_pois().create_map_poi(request).await.expect_err("no districts");
        assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
        assert_eq!(pushback(&status), expected);
    }
    assert_eq!(app.count("/wxa/create_map_poi"), 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn library_waits_only_within_callers_time() {
    let app = App::start().await;
    let request = || pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    app.wechat.fault(Fault::new(GET_CARD, Kind::Errcode { errcode: -1, errmsg: None }).times(3));
    let status = app.cards().get_store_card(with_deadline(request(), LONG)).await;
    let status = status.expect_err("busy");
    assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_BUSY"));
    assert_eq!(pushback(&status), Some("1000"));

    app.fault(GET_CARD, Kind::Throttle { retry_after: "120".to_owned() });
    // Without a deadline, the gateway's own default counts.
    for request in [with_deadline(request(), LONG), Request::new(request())] {
        let status = app.cards().get_store_card(request).await.expect_err("limited");
        assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
        assert_eq!(pushback(&status), Some("-1"));
    }
    let long = Duration::from_secs(3_600);
    let status = app.cards().get_store_card(with_deadline(request(), long)).await;
    assert_ne!(pushback(&status.expect_err("limited")), Some("-1"));
    app.stop().await;
}
