//! How many calls of an account are at WeChat at a time.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{App, GET_CARD, SET_CARD, STABLE_TOKEN, is, patient, reason, within};

const LONG: Duration = Duration::from_secs(30);

/// So many reads of the official account, each of a task that ends with its caller.
fn reads(app: &App, count: usize, patience: Duration) -> Vec<JoinHandle<Result<(), Status>>> {
    let read = || {
        let mut cards = app.cards();
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        tokio::spawn(
            async move { cards.get_store_card(patient(request, patience)).await.map(|_| ()) },
        )
    };
    (0..count).map(|_| read()).collect()
}

/// Waits until so many calls came to WeChat, and no more come.
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
async fn a_busy_account_does_not_delay_another() {
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
async fn no_more_calls_of_an_account_are_at_wechat_than_may_be() {
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
        // The first has to be answered before the fifth is sent.
        assert!(five[4] - five[0] >= 190, "{came:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_has_an_end_and_who_waits_is_told_in_time() {
    let app = App::with_sections("[limits]\naccount_concurrency = 1").await;
    app.fault(GET_CARD, Kind::Hold);
    let held = reads(&app, 1, LONG);
    arrived(&app, GET_CARD, 1).await;
    let mut waiting = reads(&app, 17, Duration::from_secs(5));
    // One of them comes after sixteen others.
    let (first, ..) = within(Duration::from_secs(3), select_all(&mut waiting)).await;
    overloaded(&first.expect("no panic").expect_err("the line is too long"));
    let waiting = waiting.into_iter().filter(|read| !read.is_finished());
    let answers = within(LONG, join_all(waiting)).await;
    assert_eq!(answers.len(), 16, "they have waited for their turn");
    for answer in answers {
        overloaded(&answer.expect("no panic").expect_err("no turn came"));
    }
    assert_eq!(app.count(GET_CARD), 1);

    // The place of a read is free when its caller leaves.
    held.iter().for_each(JoinHandle::abort);
    let _read = reads(&app, 1, LONG);
    arrived(&app, GET_CARD, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_turn_comes_too_late_is_refused_on_arrival() {
    // The clock stands still, so no deadline passes: what is refused was foreseen.
    let app = App::still_with_sections("[limits]\naccount_concurrency = 1").await;
    app.fault(GET_CARD, Kind::Hold);
    let cards = app.timeless_cards().await;
    let read = move |patience| {
        let mut cards = cards.clone();
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        tokio::spawn(async move { cards.get_store_card(patient(request, patience)).await })
    };
    // A call holds its slot for twenty seconds, until its caller leaves.
    let first = read(LONG);
    arrived(&app, GET_CARD, 1).await;
    app.clock.advance(Duration::from_secs(20));
    first.abort();
    let second = read(LONG);
    arrived(&app, GET_CARD, 2).await;
    // So the next one would wait for twenty seconds.
    let refused = within(LONG, read(Duration::from_secs(20))).await;
    let status = refused.expect("no panic").expect_err("its turn comes too late");
    overloaded(&status);
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(retry, Some(Duration::from_secs(5)));
    let waits = read(LONG);
    assert_eq!(app.count(GET_CARD), 2, "a refused call is not sent");

    // However long the last calls took, a free slot is given.
    app.wechat.control("DELETE", "faults", &serde_json::json!({})).expect("cleared");
    second.abort();
    waits.abort();
    let answer = within(LONG, async {
        loop {
            let answer = read(Duration::from_secs(1)).await.expect("no panic");
            let status = answer.expect_err("there is no such store");
            // Until the gateway notices that the callers have left.
            if status.code() != Code::ResourceExhausted {
                return status;
            }
        }
    });
    assert_eq!(answer.await.code(), Code::NotFound);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_sent_keeps_its_place_when_its_caller_leaves() {
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
async fn a_write_whose_caller_leaves_the_line_is_not_sent() {
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
async fn who_waits_for_a_token_is_in_nobodys_way() {
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
async fn what_was_sent_is_not_told_as_overload_when_its_retry_has_no_turn() {
    let limits = "[limits]\naccount_concurrency = 1\ndefault_deadline_ms = 4000";
    let app = App::with_sections(limits).await;
    app.wechat.fault(Fault::new(GET_CARD, Kind::Latency { ms: 1_000 }));
    app.wechat.fault(Fault::new(GET_CARD, Kind::Hold));
    app.wechat.fault(Fault::new(SET_CARD, Kind::ResetAfter));
    // In line: a read, the write, and a read that holds on to the slot before the write's retry.
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
