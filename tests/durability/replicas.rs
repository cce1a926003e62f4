//! Two gateways that share a Redis.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::time::sleep;
use tonic::{Code, Status, transport::Channel};
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb::{
    self, AuditState, store_service_client::StoreServiceClient, watch_audit_events_request::Start,
};

use crate::{
    gateway::{Gateway, LONG, MOMENT, add_store, earliest, event, new_store, reason},
    print_figures, random,
    redis::RedisServer,
    sender::{WeChat, send, success},
    watcher::Watcher,
};

const ADD_STORE: &str = "/wxa/add_store";

#[tokio::test]
async fn two_gateways_fetch_one_token() {
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let (one, other) = pair(&wechat, &redis).await;
    let ask = async |gateway: &Gateway| {
        let request = pb::GetStoreRequest { poi_id: "1".to_owned(), ..Default::default() };
        reason(&gateway.stores().get_store(request).await.expect_err("there is no such store"))
    };
    let missing = (Code::NotFound, "STORE_NOT_FOUND".to_owned());
    let calls = (0..16).map(|call| ask(if call % 2 == 0 { &one } else { &other }));
    for answer in join_all(calls).await {
        assert_eq!(answer, missing, "WeChat was asked, with a token");
    }
    let fetched = wechat.simulator.calls("/cgi-bin/stable_token").len();
    print_figures(&format!("16 calls at 2 gateways: {fetched} token"));
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn event_at_other_gateway_is_linked_to_submission() {
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let (one, other) = pair(&wechat, &redis).await;
    wechat.push_to(&other);
    let submission = add_store(&one).await.expect("submitted");
    let mut watch = one.watch(earliest()).await.expect("a stream");
    wechat.simulator.approve(submission.audit_id.parse().expect("a number")).expect("open");
    let (first, _) = event(&mut watch).await;
    assert_eq!(first.submission_id, submission.submission_id);
    for gateway in [&one, &other] {
        let submission_id = submission.submission_id.clone();
        let request = pb::GetSubmissionRequest { submission_id, ..Default::default() };
        let found = gateway.audits().get_submission(request).await.expect("remembered");
        let found = found.into_inner().submission.expect("a submission");
        assert_eq!((found.state(), &found.event_id), (AuditState::Approved, &first.event_id));
    }
}

#[tokio::test]
async fn watchers_of_two_gateways_see_one_order() {
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let (mut one, mut other) = pair(&wechat, &redis).await;
    let mut random = random("replicas");
    let watchers = [&one, &other].map(|gateway| Watcher::start(gateway, random.fork()));
    // The events go to both at once, and often the same event.
    let events = 200;
    for audit_id in (1..=events).step_by(4) {
        let sent = (audit_id..audit_id + 4).flat_map(|audit_id| {
            let either = if random.bool() { &one } else { &other };
            [send(&one, audit_id), send(either, audit_id)]
        });
        for answer in join_all(sent).await {
            assert_eq!(answer.expect("an answer"), success());
        }
    }
    let log: Vec<_> = other.log_of_events().await.into_iter().map(|event| event.event_id).collect();
    assert_eq!(log.len() as u64, events, "each is there once");
    for watcher in watchers {
        let seen = watcher.finish(log.len(), LONG).await;
        assert_eq!(seen.failed, None);
        assert!(seen.events == log, "one order for all");
    }

    // A cursor of one gateway is valid at the other after the first was killed.
    let mut watch = one.watch(earliest()).await.expect("a stream");
    let mut cursor = String::new();
    for id in &log[..100] {
        let (event, its) = event(&mut watch).await;
        assert_eq!(event.event_id, *id);
        cursor = its;
    }
    one.kill();
    assert!(watch.message().await.is_err() || one.readyz().await.is_err());
    let mut watch = other.watch(Start::Cursor(cursor.clone())).await.expect("a stream");
    for id in &log[100..] {
        let (event, its) = event(&mut watch).await;
        assert_eq!(event.event_id, *id);
        cursor = its;
    }
    one.spawn();
    one.serves().await;
    other.kill();
    let mut watch = one.watch(Start::Cursor(cursor)).await.expect("a stream");
    assert_eq!(send(&one, events + 1).await.expect("an answer"), success());
    let (event, _) = event(&mut watch).await;
    assert_eq!(event.audit_id, (events + 1).to_string());
}

#[tokio::test]
async fn emptied_redis_executes_running_write_once() {
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let (one, other) = pair(&wechat, &redis).await;
    assert_eq!(send(&one, 1).await.expect("an answer"), success());
    let (_, cursor) = event(&mut one.watch(earliest()).await.expect("a stream")).await;
    wechat.simulator.fault(Fault::new(ADD_STORE, Kind::Latency { ms: 3_000 }));
    let sent = tokio::spawn(add_named(one.stores()));
    let end = Instant::now() + LONG;
    while wechat.simulator.calls(ADD_STORE).is_empty() {
        assert!(Instant::now() < end, "it is not sent");
        sleep(MOMENT).await;
    }

    assert!(redis.command("FLUSHALL").await.starts_with("+OK"));
    // An impatient caller asks the other gateway repeatedly.
    let repeated = loop {
        assert!(Instant::now() < end, "it does not recover");
        match add_named(other.stores()).await {
            Ok(answer) => break answer,
            Err(status) => {
                let (code, reason) = reason(&status);
                let (unavailable, running) = (Code::Unavailable, Code::Aborted);
                assert!(code == unavailable || code == running, "{code:?} {reason}");
                sleep(MOMENT).await;
            }
        }
    };
    let answer = sent.await.expect("no panic").expect("WeChat took it");
    assert_eq!(repeated.submission, answer.submission);
    assert_eq!(wechat.simulator.calls(ADD_STORE).len(), 1);

    // The new log accepts events, and readers of the old one are notified.
    for gateway in [&one, &other] {
        gateway.reports(200, "ok").await;
        let begun = gateway.watch(Start::Cursor(cursor.clone())).await;
        let status = begun.expect_err("the cursor is expired");
        assert_eq!(reason(&status), (Code::OutOfRange, "CURSOR_EXPIRED".to_owned()));
    }
    assert_eq!(send(&one, 2).await.expect("an answer"), success());
    assert_eq!(other.lists().await, Ok(1));
    let logged =
        [&one, &other].map(|gateway| gateway.output().matches("Redis was emptied:").count());
    assert_eq!(logged.iter().sum::<usize>(), 1, "one of them logs it, once");
    assert!(redis.command("GET {wechat-store-gateway}:schema").await.starts_with("$1"));
}

/// Submits a store, always with the same request id.
async fn add_named(
    mut stores: StoreServiceClient<Channel>,
) -> Result<pb::AddStoreResponse, Status> {
    let request_id = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d".to_owned();
    let request = pb::AddStoreRequest { request_id, ..new_store() };
    Ok(stores.add_store(request).await?.into_inner())
}

/// Starts two gateways at the same time, because then both would begin the same work.
async fn pair(wechat: &WeChat, redis: &RedisServer) -> (Gateway, Gateway) {
    let url = redis.url();
    tokio::join!(Gateway::start(wechat.address, &url), Gateway::start(wechat.address, &url))
}
