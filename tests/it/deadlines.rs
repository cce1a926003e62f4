//! Deadlines: the answer arrives before the caller gives up, and names the stage that was reached.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{
    App, GET_CARD, SET_CARD, STABLE_TOKEN, is, new_map_poi, reason, with_deadline, within,
};

/// The gateway's default deadline, which applies if the caller sets none. The caller's own timer
/// would race with the answer on a busy machine.
const SHORT_DEADLINE: &str = "[limits]\ndefault_deadline_ms = 1000";

fn stage(status: &Status) -> String {
    assert_eq!(reason(status), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    let info = status.get_details_error_info().expect("checked above");
    info.metadata["stage"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_error_names_the_stage() {
    let app = App::with_sections(SHORT_DEADLINE).await;
    app.fault(GET_CARD, Kind::Hold);
    let status = within(Duration::from_secs(10), app.read()).await.expect_err("held");
    assert_eq!(stage(&status), "wechat");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_wait_ends_at_deadline_without_sending() {
    let app = App::with_sections(SHORT_DEADLINE).await;
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 2_000 }));
    let status = within(Duration::from_secs(10), app.write()).await.expect_err("late");
    assert_eq!(stage(&status), "token");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(app.count(SET_CARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_read_timeout_is_not_a_sent_write() {
    let app = App::with_sections("[limits]\ndefault_deadline_ms = 1000").await;
    app.fault("/wxa/get_district", Kind::Hold);
    app.fault("/wxa/get_store_info", Kind::Hold);
    let place = new_map_poi();
    let store = pb::UpdateStoreRequest {
        poi_id: "472671857".to_owned(),
        contact_phone: Some("020-89190388".to_owned()),
        ..Default::default()
    };
    let (mut map_pois, mut stores) = (app.map_pois(), app.stores());
    let (created, updated) =
        tokio::join!(map_pois.create_map_poi(place), stores.update_store(store),);
    for status in [created.map(|_| ()), updated.map(|_| ())] {
        let status = status.expect_err("held");
        assert_eq!(reason(&status), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        let info = status.get_details_error_info().expect("checked above");
        assert_eq!(info.metadata["stage"], "admitted", "nothing was sent");
    }
    assert_eq!(app.count("/wxa/create_map_poi") + app.count("/wxa/update_store"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_deadline_overrides_default() {
    let app = App::start().await;
    app.fault(GET_CARD, Kind::Hold);
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    let request = with_deadline(request, Duration::from_secs(1));
    let mut cards = app.timeless_cards().await;
    let answer = within(Duration::from_secs(10), cards.get_store_card(request)).await;
    assert_eq!(stage(&answer.expect_err("held")), "wechat");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_running_call() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(GET_CARD, Kind::Latency { ms: 700 }));
    let mut cards = app.cards();
    let call = tokio::spawn(async move {
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        cards.get_store_card(request).await
    });
    while app.count(GET_CARD) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (clock, called) = (app.clock.clone(), app.clock.now());
    app.stop().await;
    assert!(clock.now() - called > Duration::from_millis(500), "it ended before the call");
    let status = call.await.expect("no panic").expect_err("there is no such store");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_refresh_timeout_names_token_stage() {
    let app = App::with_sections(SHORT_DEADLINE).await;
    app.read().await.expect_err("there is no such store");
    app.clock.advance(Duration::from_secs(60));
    app.wechat.refuse_next(GET_CARD, 42001);
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 3_000 }));
    let status = within(Duration::from_secs(10), app.read()).await.expect_err("late");
    assert_eq!(stage(&status), "token");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_after_drain_time() {
    let app = App::with_sections("[limits]\ndrain_ms = 200").await;
    app.fault(GET_CARD, Kind::Hold);
    let mut cards = app.cards();
    let call = tokio::spawn(async move {
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        cards.get_store_card(request).await
    });
    while app.count(GET_CARD) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    within(Duration::from_secs(3), app.stop()).await;
    call.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn excessive_deadline_is_shortened() {
    let limits = "[limits]\ndefault_deadline_ms = 300\nmax_deadline_ms = 300";
    let app = App::with_sections(limits).await;
    app.fault(GET_CARD, Kind::Hold);
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    let request = with_deadline(request, Duration::from_secs(60));
    let answer =
        within(Duration::from_secs(5), async { app.cards().get_store_card(request).await });
    let status = answer.await.expect_err("held");
    assert_eq!(reason(&status), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_unsent_write_is_not_sent() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 500 }));
    let left = tokio::time::timeout(Duration::from_millis(100), app.write()).await;
    assert!(left.is_err(), "it hung up");
    // This call waits for the same token and is sent after it.
    app.read().await.expect_err("there is no such store");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(app.count(SET_CARD), 0);
}
