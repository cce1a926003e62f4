//! Deadlines: the answer comes before the caller gives up, and says what was going on.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;
use wechat_store_gateway::{
    pb,
    simulator::{Fault, faults::Kind},
};

use crate::support::{App, GET_CARD, SET_CARD, STABLE_TOKEN, is, patient, reason, within};

const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_answered_with_details_before_the_caller_gives_up() {
    let app = App::start().await;
    app.fault(GET_CARD, Kind::Hold);
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    let status = app.cards().get_store_card(patient(request, PATIENCE)).await.expect_err("held");
    assert_eq!(reason(&status), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["stage"], "wechat");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_token_ends_with_the_deadline_and_the_call_is_not_sent() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 4_000 }));
    let request = pb::SetStoreCardRequest {
        poi_id: "1".to_owned(),
        card_id: "c".to_owned(),
        ..Default::default()
    };
    let status = app.cards().set_store_card(patient(request, PATIENCE)).await.expect_err("late");
    assert_eq!(reason(&status), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["stage"], "token");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(app.count(SET_CARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_before_a_write_is_not_the_write() {
    let app = App::with_sections("[limits]\ndefault_deadline_ms = 1000").await;
    app.fault("/wxa/get_district", Kind::Hold);
    app.fault("/wxa/get_store_info", Kind::Hold);
    let place = pb::CreateMapPoiRequest {
        name: "巷口小馆".to_owned(),
        district_id: "440105".to_owned(),
        address: "新港中路397号".to_owned(),
        location: Some(pb::LatLng { latitude: 23.09, longitude: 113.32 }),
        category: "美食:中餐厅".to_owned(),
        telephones: vec!["020-89190388".to_owned()],
        photo_url: "http://mmbiz.qpic.cn/a/0".to_owned(),
        licence_url: "http://mmbiz.qpic.cn/b/0".to_owned(),
        introduction: "家常菜".to_owned(),
        ..Default::default()
    };
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
async fn without_a_deadline_of_the_caller_ours_applies() {
    let app = App::with_sections("[limits]\ndefault_deadline_ms = 300").await;
    app.fault(GET_CARD, Kind::Hold);
    let status = within(Duration::from_secs(5), app.read()).await.expect_err("held");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_running_call() {
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
    app.stop().await;
    let status = call.await.expect("no panic").expect_err("there is no such store");
    assert_eq!(status.code(), Code::NotFound);
}
