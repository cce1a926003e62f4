//! Two gateways that share a Redis.

use futures_util::future::join_all;
use tonic::Code;
use wechat_store_gateway::pb::{self, AuditState, watch_audit_events_request::Start};

use crate::{
    gateway::{Gateway, LONG, add_store, earliest, event, reason},
    random,
    redis::Redis,
    sender::{WeChat, send, success},
    tell,
    watcher::Watcher,
};

#[tokio::test]
async fn two_gateways_fetch_one_token() {
    let redis = Redis::start(true).await;
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
    tell(&format!("16 calls at 2 gateways: {fetched} token"));
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn what_one_gateway_submitted_and_the_other_heard_is_linked() {
    let redis = Redis::start(true).await;
    let wechat = WeChat::start().await;
    let (one, other) = pair(&wechat, &redis).await;
    wechat.push_to(&other);
    let submission = add_store(&one).await.expect("submitted");
    let mut watch = one.watch(earliest()).await.expect("a stream");
    wechat.simulator.approve(submission.audit_id.parse().expect("a number")).expect("open");
    let (told, _) = event(&mut watch).await;
    assert_eq!(told.submission_id, submission.submission_id);
    for gateway in [&one, &other] {
        let submission_id = submission.submission_id.clone();
        let request = pb::GetSubmissionRequest { submission_id, ..Default::default() };
        let found = gateway.audits().get_submission(request).await.expect("remembered");
        let found = found.into_inner().submission.expect("a submission");
        assert_eq!((found.state(), &found.event_id), (AuditState::Approved, &told.event_id));
    }
}

#[tokio::test]
async fn watchers_of_two_gateways_see_one_order_and_may_change_over() {
    let redis = Redis::start(true).await;
    let wechat = WeChat::start().await;
    let (mut one, mut other) = pair(&wechat, &redis).await;
    let mut random = random("replicas");
    let watchers = [&one, &other].map(|gateway| Watcher::start(gateway, random.fork()));
    // To both at once, and often the same event.
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

    // A cursor of either is good at the other, when the one is dead.
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

/// Two that start at the same time, for that is when both would begin the same.
async fn pair(wechat: &WeChat, redis: &Redis) -> (Gateway, Gateway) {
    let url = redis.url();
    tokio::join!(Gateway::start(wechat.address, &url), Gateway::start(wechat.address, &url))
}
