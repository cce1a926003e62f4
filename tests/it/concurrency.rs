//! The limit on concurrent calls of an account.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{App, GET_CARD, SET_CARD, STABLE_TOKEN, is, reason, with_deadline, within};

const LONG: Duration = Duration::from_secs(30);

/// Starts this many reads of the official account, each in a task that ends with its caller.
fn reads(app: &App, count: usize, time_left: Duration) -> Vec<JoinHandle<Result<(), Status>>> {
    let read = || {
        let mut cards = app.cards();
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        tokio::spawn(async move {
            cards.get_store_card(with_deadline(request, time_left)).await.map(|_| ())
        })
    };
    (0..count).map(|_| read()).collect()
}

/// Waits until this many calls have reached WeChat and no more arrive.
async fn arrived(app: &App, path: &str, count: usize) {
    within(LONG, async {
        while app.count(path) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.count(path), count);
}

fn overloaded(status: &Status) {
    assert_eq!(reason(status), is(Code::ResourceExhausted, "OVERLOADED"));
    let info = status.get_details_error_info().expect("checked above");
    for (key, value) in [("app_id", OFFICIAL_APP_ID), ("path", GET_CARD), ("fix_by", "wait")] {
        assert_eq!(info.metadata[key], value);
    }
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_account_does_not_delay_another() {
    let app = App::start().await;
    app.fault(GET_CARD, Kind::Hold);
    let held = reads(&app, 200, LONG);
    arrived(&app, GET_CARD, 64).await;
    let request = pb::ListNearbyPoisRequest::default();
    let mut nearby = app.nearby();
    let read = within(Duration::from_secs(3), nearby.list_nearby_pois(request));
    read.await.expect("an account of its own");
    assert_eq!(app.count(GET_CARD), 64);
    held.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_per_account_are_limited() {
    let app = App::with_sections("[limits]\naccount_concurrency = 4").await;
    app.fault(GET_CARD, Kind::Latency { ms: 200 });
    let answers = within(LONG, join_all(reads(&app, 20, LONG))).await;
    for answer in answers {
        let status = answer.expect("no panic").expect_err("there is no such store");
        assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    }
    let came: Vec<_> = app.wechat.calls(GET_CARD).iter().map(|call| call.at_unix_ms).collect();
    assert_eq!(came.len(), 20);
    for five in came.windows(5) {
        // The first call must be answered before the fifth is sent.
        assert!(five[4] - five[0] >= 190, "{came:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_refuses_and_waiting_ends_in_time() {
    let app = App::with_sections("[limits]\naccount_concurrency = 1").await;
    app.fault(GET_CARD, Kind::Hold);
    let held = reads(&app, 1, LONG);
    arrived(&app, GET_CARD, 1).await;
    let mut waiting = reads(&app, 17, Duration::from_secs(5));
    // One of them arrives after sixteen others.
    let (first, ..) = within(Duration::from_secs(3), select_all(&mut waiting)).await;
    overloaded(&first.expect("no panic").expect_err("the line is too long"));
    let waiting = waiting.into_iter().filter(|read| !read.is_finished());
    let answers = within(LONG, join_all(waiting)).await;
    assert_eq!(answers.len(), 16, "they have waited for their turn");
    for answer in answers {
        overloaded(&answer.expect("no panic").expect_err("no turn came"));
    }
    assert_eq!(app.count(GET_CARD), 1);

    // The place of a read becomes free when its caller leaves.
    held.iter().for_each(JoinHandle::abort);
    let _read = reads(&app, 1, LONG);
    arrived(&app, GET_CARD, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_call_is_refused_on_arrival() {
    // The clock stands still, so no deadline passes, and every refusal is a prediction.
    let app = App::still_with_sections("[limits]\naccount_concurrency = 1").await;
    app.fault(GET_CARD, Kind::Hold);
    let cards = app.timeless_cards().await;
    let read = move |time_left| {
        let mut cards = cards.clone();
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        tokio::spawn(async move { cards.get_store_card(with_deadline(request, time_left)).await })
    };
    // A call holds its permit for twenty seconds, until its caller leaves.
    let first = read(LONG);
    arrived(&app, GET_CARD, 1).await;
    app.clock.advance(Duration::from_secs(20));
    first.abort();
    let second = read(LONG);
    arrived(&app, GET_CARD, 2).await;
    // The next call would therefore wait for twenty seconds.
    let refused = within(LONG, read(Duration::from_secs(20))).await;
    let status = refused.expect("no panic").expect_err("its turn comes too late");
    overloaded(&status);
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(retry, Some(Duration::from_secs(5)));
    let waits = read(LONG);
    assert_eq!(app.count(GET_CARD), 2, "a refused call is not sent");

    // A free permit is granted even after slow calls.
    app.wechat.control("DELETE", "faults", &serde_json::json!({})).expect("cleared");
    second.abort();
    waits.abort();
    let answer = within(LONG, async {
        loop {
            let answer = read(Duration::from_secs(1)).await.expect("no panic");
            let status = answer.expect_err("there is no such store");
            // This may take until the gateway notices that the callers have left.
            if status.code() != Code::ResourceExhausted {
                return status;
            }
        }
    });
    assert_eq!(answer.await.code(), Code::NotFound);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_write_keeps_permit_after_caller_leaves() {
    let app = App::with_sections("[limits]\naccount_concurrency = 1").await;
    app.wechat.fault(Fault::new(SET_CARD, Kind::Latency { ms: 3_000 }));
    let left = tokio::time::timeout(Duration::from_millis(500), app.write()).await;
    assert!(left.is_err(), "it hung up");
    assert_eq!(app.count(SET_CARD), 1);
    let read = reads(&app, 1, Duration::from_secs(1)).remove(0);
    overloaded(&read.await.expect("no panic").expect_err("no turn came"));
    assert_eq!(app.count(GET_CARD), 0);
    let read = within(LONG, reads(&app, 1, LONG).remove(0)).await;
    let status = read.expect("no panic").expect_err("there is no such store");
    assert_eq!(status.code(), Code::NotFound, "WeChat has answered the write");
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_queued_write_is_not_sent() {
    let app = App::with_sections("[limits]\naccount_concurrency = 1").await;
    app.wechat.fault(Fault::new(GET_CARD, Kind::Latency { ms: 1_000 }));
    let read = reads(&app, 1, LONG).remove(0);
    arrived(&app, GET_CARD, 1).await;
    let left = tokio::time::timeout(Duration::from_millis(200), app.write()).await;
    assert!(left.is_err(), "it hung up");
    read.await.expect("no panic").expect_err("there is no such store");
    app.read().await.expect_err("there is no such store");
    assert_eq!(app.count(SET_CARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_wait_holds_no_permit() {
    let app = App::with_sections("[limits]\naccount_concurrency = 1").await;
    app.read().await.expect_err("there is no such store");
    app.clock.advance(Duration::from_secs(60));
    app.wechat.refuse_next(GET_CARD, 42001);
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 3_000 }));
    let refused = reads(&app, 1, LONG).remove(0);
    arrived(&app, STABLE_TOKEN, 2).await;
    within(Duration::from_secs(2), app.write()).await.expect_err("there is no such store");
    assert!(!refused.is_finished());
    refused.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_write_never_fails_as_overloaded() {
    let limits = "[limits]\naccount_concurrency = 1\ndefault_deadline_ms = 4000";
    let app = App::with_sections(limits).await;
    app.wechat.fault(Fault::new(GET_CARD, Kind::Latency { ms: 1_000 }));
    app.wechat.fault(Fault::new(GET_CARD, Kind::Hold));
    app.wechat.fault(Fault::new(SET_CARD, Kind::ResetAfter));
    // The queue has a read, the write, and a read that keeps its permit before the retry of the
    // write.
    let first = reads(&app, 1, LONG);
    arrived(&app, GET_CARD, 1).await;
    let others = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let held = reads(&app, 1, LONG);
        first.into_iter().next().expect("it began").await.expect("no panic").expect_err("no store");
        arrived(&app, GET_CARD, 2).await;
        held
    };
    let (written, held) = tokio::join!(app.write(), others);
    let status = written.expect_err("lost");
    assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
    assert_eq!(app.count(SET_CARD), 1);
    held.iter().for_each(JoinHandle::abort);
}
