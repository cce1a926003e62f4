//! Nearby places (附近的小程序).

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use tonic::Code;
use wechat_simulator::faults::Kind;
use wechat_store_gateway::pb::{self, AuditState, SubmissionKind};

use crate::support::{App, is, nearby_profile, reason};

const ADD: &str = "/wxa/addnearbypoi";
const PLACE: &str = "2708071440732747189";

async fn add(app: &App, license_number: &str) -> pb::AddNearbyPoiResponse {
    let profile =
        pb::NearbyPoiProfile { license_number: license_number.to_owned(), ..nearby_profile(PLACE) };
    let request = pb::AddNearbyPoiRequest {
        client_reference: "shop-9".to_owned(),
        profile: Some(profile),
        ..Default::default()
    };
    let answer = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    app.clock.advance(Duration::from_secs(2));
    answer
}

async fn list(app: &App) -> pb::ListNearbyPoisResponse {
    let request = pb::ListNearbyPoisRequest::default();
    app.nearby().list_nearby_pois(request).await.expect("places").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn place_is_added_shown_hidden_and_deleted() {
    let app = App::start().await;
    let empty = list(&app).await;
    assert!(empty.pois.is_empty() && empty.remaining_count == empty.maximum_count);
    let added = add(&app, "156718193518281").await;
    let submission = added.submission.expect("a submission");
    assert_eq!(submission.kind(), SubmissionKind::NearbyPoi);
    let listed = list(&app).await;
    assert_eq!(listed.pois[0].state(), AuditState::InReview);
    assert_eq!(listed.remaining_count, listed.maximum_count.map(|most| most - 1));
    app.approve(&submission);
    let poi = list(&app).await.pois.remove(0);
    assert_eq!(
        (poi.state(), poi.wechat_status, poi.visible),
        (AuditState::Approved, Some(5), true)
    );

    let nearby_poi_id = poi.nearby_poi_id;
    let delete =
        pb::DeleteNearbyPoiRequest { nearby_poi_id: nearby_poi_id.clone(), ..Default::default() };
    let status = app.nearby().delete_nearby_poi(delete.clone()).await.expect_err("shown");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "NEARBY_POI_VISIBLE"));
    let mut hide = pb::SetNearbyPoiVisibilityRequest { nearby_poi_id, ..Default::default() };
    let status = app.nearby().set_nearby_poi_visibility(hide.clone()).await.expect_err("how?");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
    hide.visible = Some(false);
    app.nearby().set_nearby_poi_visibility(hide).await.expect("hidden");
    assert!(!list(&app).await.pois[0].visible);
    app.nearby().delete_nearby_poi(delete).await.expect("deleted");
    assert!(list(&app).await.pois.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn place_is_sent_as_json_inside_strings() {
    let app = App::start().await;
    let mut profile = nearby_profile(PLACE);
    profile.service_labels.push(pb::ServiceLabel {
        kind: pb::NearbyServiceKind::Custom.into(),
        custom_name: "自定义".to_owned(),
        app_id: "wx0000000000000002".to_owned(),
        path: "pages/more".to_owned(),
        description: String::new(),
    });
    profile.customer_service = Some(pb::CustomerService {
        open: true,
        avatar_url: "http://mmbiz.qpic.cn/mmbiz_png/waiter/0".to_owned(),
        name: "小二".to_owned(),
    });
    let request = pb::AddNearbyPoiRequest { profile: Some(profile), ..Default::default() };
    app.nearby().add_nearby_poi(request).await.expect("submitted");
    let sent = &app.wechat.calls(ADD)[0].body;
    assert_eq!(sent["is_comm_nearby"], "1");
    let nested = |field: &str| -> Value {
        serde_json::from_str(sent[field].as_str().expect("a string")).expect("JSON")
    };
    assert_eq!(nested("pic_list"), json!({"list": ["http://mmbiz.qpic.cn/mmbiz_png/first/0"]}));
    let waiter = json!({
        "open_kf": true,
        "kf_headimg": "http://mmbiz.qpic.cn/mmbiz_png/waiter/0",
        "kf_name": "小二"
    });
    assert_eq!(nested("kf_info"), waiter);
    let labels = nested("service_infos");
    let labels = labels["service_infos"].as_array().expect("a list");
    assert_eq!((&labels[0]["id"], &labels[0]["type"]), (&json!(1), &json!(1)));
    assert_eq!((&labels[0]["name"], &labels[0]["desc"]), (&json!("外送"), &json!("满减")));
    assert_eq!((&labels[1]["id"], &labels[1]["type"]), (&json!(0), &json!(2)));
    assert_eq!(labels[1]["name"], "自定义");
}

#[tokio::test(flavor = "multi_thread")]
async fn replacement_sends_id_and_all_fields() {
    let app = App::start().await;
    let added = add(&app, "156718193518281").await;
    app.approve(&added.submission.expect("a submission"));
    let poi_id = list(&app).await.pois.remove(0).nearby_poi_id;
    let request = pb::ReplaceNearbyPoiRequest {
        nearby_poi_id: poi_id.clone(),
        profile: Some(nearby_profile(PLACE)),
        ..Default::default()
    };
    app.nearby().replace_nearby_poi(request).await.expect("submitted");
    assert_eq!(app.wechat.calls(ADD)[1].body["poi_id"], json!(poi_id));
    assert_eq!(list(&app).await.pois.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_parsed_in_every_wrapping() {
    let app = App::start().await;
    let inner = r#"{"poi_list":[{"poi_id":503450501,"qualification_address":"a",
        "qualification_num":"1","audit_status":"4","display_status":0,"refuse_reason":"no"}]}"#;
    for (data, left) in [
        (json!(inner), 9),
        (json!(""), 10),
        (Value::Null, 10),
        (json!("{}"), 10),
        (json!("null"), 10),
    ] {
        let body = json!({
            "errcode": 0, "errmsg": "",
            "data": {"left_apply_num": left.to_string(), "max_apply_num": 10, "data": data}
        });
        app.wechat
            .fault(wechat_simulator::Fault::new("/wxa/getnearbypoilist", Kind::Replace { body }));
        let listed = list(&app).await;
        assert_eq!(
            (listed.pois.len(), listed.remaining_count),
            (10 - left, Some(left as i32)),
            "{data}"
        );
        assert_eq!(listed.next_page_token, "", "{data}");
        for poi in listed.pois {
            assert_eq!(
                (poi.nearby_poi_id.as_str(), poi.state()),
                ("503450501", AuditState::Rejected)
            );
            assert_eq!(poi.reason, "no");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_paged() {
    let app = App::start().await;
    for number in 0..5 {
        add(&app, &format!("15671819351828{number}")).await;
    }
    let mut ids = HashSet::new();
    let mut request = pb::ListNearbyPoisRequest { page_size: 2, ..Default::default() };
    loop {
        let page = app.nearby().list_nearby_pois(request.clone()).await.expect("a page");
        let page = page.into_inner();
        assert!(page.pois.len() <= 2);
        for poi in page.pois {
            assert!(ids.insert(poi.nearby_poi_id));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(ids.len(), 5);
}
