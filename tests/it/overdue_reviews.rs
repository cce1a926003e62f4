//! Overdue reviews: the gateway polls WeChat and turns a result into an event only if it is
//! certain.

use std::time::Duration;

use serde_json::json;
use wechat_simulator::{Fault, OFFICIAL_APP_ID, audit::Decision, faults::Kind};
use wechat_store_gateway::pb::{
    self, AuditEvent, AuditState, EventOrigin, SubmissionKind, audit_event::Detail,
};

use crate::{
    audit::{Watch, latest},
    support::{App, nearby_profile, new_map_poi, new_store, within},
};

/// Polls after a fifth of a second, and then three times a second.
pub(crate) const EAGER: &str = "[audit]\npoll_after_hours = 0.00005\npoll_interval_hours = 0.0001";
const PLACE: &str = "2708071440732747189";

/// Starts a gateway that polls soon, and a watcher.
async fn eager() -> (App, Watch) {
    let app = App::with_sections(EAGER).await;
    let watch = Watch::begin(&app, latest()).await;
    (app, watch)
}

impl App {
    /// Decides a review without a push, and returns the id that this created.
    fn decide_silently(&self, audit_id: &str, decision: Decision) -> String {
        let audit_id = audit_id.parse().expect("a number");
        let decided = self.wechat.decide_silently(audit_id, decision, "资料不全");
        decided.expect("an open review").result.unwrap_or_default()
    }

    /// Lets WeChat list only stores that look like the one with the credential `0001`.
    fn list_alike(&self, poi_ids: &[u64], status: u32) {
        self.list_alike_of(poi_ids, status, poi_ids.len());
    }

    /// Lets WeChat list stores like [`App::list_alike`], with this total number of stores.
    fn list_alike_of(&self, poi_ids: &[u64], status: u32, total: usize) {
        let row = |poi_id: &u64| {
            json!({ "base_info": {
                "poi_id": poi_id, "status": status, "telephone": "020-89190388",
                "open_time": "10:00-21:30", "qualification_num": "91440105MA590001",
                "photo_list": [{ "photo_url": "http://mmbiz.qpic.cn/mmbiz_png/first/0" }],
            } })
        };
        let rows: Vec<_> = poi_ids.iter().map(row).collect();
        let body = json!({ "errcode": 0, "business_list": rows, "total_count": total });
        self.wechat.control("DELETE", "faults", &json!({})).expect("cleared");
        self.fault("/wxa/get_store_list", Kind::Replace { body });
    }

    async fn new_pictures(&self, poi_id: &str, picture: &str) -> pb::Submission {
        let urls = vec![format!("http://mmbiz.qpic.cn/mmbiz_png/{picture}/0")];
        let request = pb::UpdateStoreRequest {
            poi_id: poi_id.to_owned(),
            picture_urls: Some(pb::PictureUrls { urls }),
            ..Default::default()
        };
        let answer = self.stores().update_store(request).await.expect("submitted").into_inner();
        answer.submission.expect("a review")
    }

    /// Returns a valid application.
    pub(crate) async fn application(&self) -> pb::ApplyMerchantRequest {
        let categories =
            self.merchants().list_categories(pb::ListCategoriesRequest::default()).await;
        let categories = categories.expect("categories").into_inner().categories;
        let category = categories.into_iter().find(|one| one.level == 2 && !one.sensitive);
        let category = category.expect("one without documents");
        pb::ApplyMerchantRequest {
            client_reference: "brand-1".to_owned(),
            first_category_id: category.parent_id,
            second_category_id: category.id,
            avatar_media_id: self.upload().await,
            name: "巷口小馆".to_owned(),
            introduction: "家常菜".to_owned(),
            ..Default::default()
        }
    }

    async fn apply_merchant(&self) -> pb::Submission {
        let request = self.application().await;
        let answer = self.merchants().apply_merchant(request).await.expect("submitted");
        answer.into_inner().submission.expect("a submission")
    }

    /// Waits until WeChat was asked several times.
    async fn asked(&self, path: &str, times: usize) {
        let before = self.count(path);
        within(Duration::from_secs(20), async {
            while self.count(path) < before + times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// Returns the next event, which must come from polling.
async fn found(watch: &mut Watch, submission: &pb::Submission) -> AuditEvent {
    let (event, _) = watch.event().await;
    assert_eq!(event.origin(), EventOrigin::Polled);
    assert_eq!(event.kind(), submission.kind());
    assert_eq!(event.submission_id, submission.submission_id);
    assert_eq!(event.client_reference, submission.client_reference);
    assert_eq!(event.wechat_message, "");
    event
}

#[tokio::test]
async fn new_store_is_found_by_its_fingerprint() {
    let (app, mut watch) = eager().await;
    let store = app.add_store(PLACE, "0001").await;
    app.asked("/wxa/get_store_list", 2).await;
    assert_eq!(app.submission(&store.submission_id).await.state(), AuditState::InReview);
    let poi_id = app.decide_silently(&store.audit_id, Decision::Approve);
    let event = found(&mut watch, &store).await;
    assert_eq!((event.state(), event.wechat_status), (AuditState::Approved, Some(1)));
    assert_eq!(event.wechat_event, "add_store_audit_info");
    let Some(Detail::Store(detail)) = &event.detail else { panic!("a store") };
    assert_eq!((&detail.poi_id, detail.map_poi_id.as_str()), (&poi_id, PLACE));
    let decided = app.submission(&store.submission_id).await;
    assert_eq!((decided.state(), &decided.event_id), (AuditState::Approved, &event.event_id));

    // The push arrives after all.
    let push = json!({
        "Event": "add_store_audit_info", "audit_id": store.audit_id, "status": 1, "poiid": poi_id,
    });
    app.wechat.push(OFFICIAL_APP_ID, &push).expect("a push");
    let (late, _) = watch.event().await;
    assert_eq!((late.origin(), &late.supersedes), (EventOrigin::Pushed, &event.event_id));
    assert_eq!(late.submission_id, store.submission_id);
    let decided = app.submission(&store.submission_id).await;
    assert_eq!(decided.event_id, late.event_id);
    app.stop().await;
}

#[tokio::test]
async fn identical_stores_prove_nothing() {
    let (app, mut watch) = eager().await;
    let store = app.add_store(PLACE, "0001").await;
    app.list_alike(&[7, 8], 1);
    app.asked("/wxa/get_store_list", 2).await;
    assert_eq!(app.submission(&store.submission_id).await.state(), AuditState::InReview);

    // As soon as one store belongs to another submission, only the other remains.
    let other = app.add_store(&app.places(1).await[0], "0002").await;
    let push = json!({
        "Event": "add_store_audit_info", "audit_id": other.audit_id, "status": 1, "poiid": 7,
    });
    app.wechat.push(OFFICIAL_APP_ID, &push).expect("a push");
    assert_eq!(watch.event().await.0.origin(), EventOrigin::Pushed);
    let event = found(&mut watch, &store).await;
    let Some(Detail::Store(detail)) = &event.detail else { panic!("a store") };
    assert_eq!(detail.poi_id, "8");
    app.stop().await;
}

#[tokio::test]
async fn incomplete_list_proves_nothing() {
    let (app, mut watch) = eager().await;
    app.list_alike(&[], 1);
    let store = app.add_store(PLACE, "0001").await;
    // The store that is not listed may look the same.
    app.list_alike_of(&[7], 1, 2);
    app.asked("/wxa/get_store_list", 4).await;
    assert_eq!(app.submission(&store.submission_id).await.state(), AuditState::InReview);
    app.list_alike(&[7], 1);
    assert_eq!(found(&mut watch, &store).await.state(), AuditState::Approved);
    app.stop().await;
}

#[tokio::test]
async fn disabled_polling_asks_nothing() {
    let asks = "[audit]\npoll_after_hours = 1\npoll_interval_hours = 0.0001";
    let mut app = App::with_sections(asks).await;
    let store = app.add_store(PLACE, "0001").await;
    app.decide_silently(&store.audit_id, Decision::Approve);
    // A write with an unknown outcome is still recovered.
    let hidden = "/wxa/get_store_info";
    app.fault(hidden, Kind::Html502);
    app.wechat.fault(Fault::new("/wxa/del_store", Kind::ResetBefore));
    let delete = pb::DeleteStoreRequest { poi_id: "1".to_owned(), ..Default::default() };
    app.stores().delete_store(delete).await.expect_err("unknown");
    app.change_settings("poll_after_hours = 1", "poll_after_hours = 0");
    let app = app.restart().await;
    for _ in 0..3 {
        app.clock.advance(Duration::from_secs(2 * 3600));
        app.asked(hidden, 1).await;
    }
    assert_eq!(app.count("/wxa/get_store_list"), 0, "the review was due");
    assert_eq!(app.submission(&store.submission_id).await.state(), AuditState::InReview);
    app.stop().await;
}

#[tokio::test]
async fn ambiguous_store_proves_nothing() {
    let (app, mut watch) = eager().await;
    app.list_alike(&[], 1);
    let one = app.add_store(PLACE, "0001").await;
    app.decide_silently(&one.audit_id, Decision::Reject);
    let two = app.add_store(PLACE, "0001").await;
    app.list_alike(&[7], 1);
    app.asked("/wxa/get_store_list", 3).await;
    for submission in [&one, &two] {
        let stands = app.submission(&submission.submission_id).await;
        assert_eq!(stands.state(), AuditState::InReview, "which of the two is it?");
    }

    // The first one failed, and the listed failed store may be that one.
    let push = json!({
        "Event": "add_store_audit_info", "audit_id": one.audit_id, "status": 3, "reason": "",
    });
    app.list_alike(&[7], 3);
    app.asked("/wxa/get_store_list", 2).await;
    app.wechat.push(OFFICIAL_APP_ID, &push).expect("a push");
    assert_eq!(watch.event().await.0.origin(), EventOrigin::Pushed);
    app.asked("/wxa/get_store_list", 3).await;
    assert_eq!(app.submission(&two.submission_id).await.state(), AuditState::InReview);

    app.list_alike(&[7], 1);
    assert_eq!(found(&mut watch, &two).await.state(), AuditState::Approved);
    app.stop().await;
}

#[tokio::test]
async fn migration_result_is_found_in_old_stores() {
    let (app, mut watch) = eager().await;
    let old = json!([{ "poi_id": "271262077", "upgrade_status": 0, "available_state": 3 }]);
    let body = json!({ "app_id": OFFICIAL_APP_ID, "stores": old });
    app.wechat.control("POST", "legacy_stores", &body).expect("old stores");
    let request =
        pb::AddStoreRequest { legacy_poi_id: "271262077".to_owned(), ..new_store(PLACE, "0001") };
    let answer = app.stores().add_store(request).await.expect("submitted").into_inner();
    let submission = answer.submission.expect("a submission");
    app.decide_silently(&submission.audit_id, Decision::Reject);
    let event = found(&mut watch, &submission).await;
    assert_eq!((event.state(), event.wechat_status), (AuditState::Rejected, None));
    app.stop().await;
}

#[tokio::test]
async fn picture_result_follows_store_state() {
    let (app, mut watch) = eager().await;
    let poi_id = app.approved_store("0001").await;
    watch.event().await;
    let _older = app.new_pictures(&poi_id, "older").await;
    let newer = app.new_pictures(&poi_id, "newer").await;
    app.decide_silently(&newer.audit_id, Decision::Reject);
    let event = found(&mut watch, &newer).await;
    assert_eq!((event.state(), event.wechat_status), (AuditState::Rejected, Some(3)));
    let Some(Detail::StorePictures(detail)) = &event.detail else { panic!("pictures") };
    assert_eq!(detail.poi_id, poi_id);
    app.stop().await;
}

#[tokio::test]
async fn store_with_other_pictures_proves_nothing() {
    let (app, mut watch) = eager().await;
    let poi_id = app.approved_store("0001").await;
    watch.event().await;
    let submission = app.new_pictures(&poi_id, "newer").await;
    let before = json!({ "poi_id": poi_id, "status": 1, "photo_list": [
        { "photo_url": "http://mmbiz.qpic.cn/mmbiz_png/first/0" },
    ] });
    let body = json!({ "errcode": 0, "business": { "base_info": before } });
    app.fault("/wxa/get_store_info", Kind::Replace { body });
    app.asked("/wxa/get_store_info", 3).await;
    let stands = app.submission(&submission.submission_id).await;
    assert_eq!(stands.state(), AuditState::InReview, "maybe they failed, and the store did not");

    app.wechat.control("DELETE", "faults", &json!({})).expect("cleared");
    app.decide_silently(&submission.audit_id, Decision::Approve);
    assert_eq!(found(&mut watch, &submission).await.state(), AuditState::Approved);
    app.stop().await;
}

#[tokio::test]
async fn nearby_place_result_is_found_in_list() {
    let (app, mut watch) = eager().await;
    let request = pb::AddNearbyPoiRequest {
        client_reference: "shop-8".to_owned(),
        profile: Some(nearby_profile(PLACE)),
        ..Default::default()
    };
    let answer = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    let submission = answer.submission.expect("a submission");
    app.decide_silently(&submission.audit_id, Decision::Reject);
    let event = found(&mut watch, &submission).await;
    assert_eq!((event.state(), event.wechat_status), (AuditState::Rejected, Some(4)));
    assert_eq!(event.reason, "资料不全");
    app.stop().await;
}

#[tokio::test]
async fn application_result_is_polled() {
    let (app, mut watch) = eager().await;
    let no_merchant = json!({ "app_id": OFFICIAL_APP_ID, "exists": false });
    app.wechat.control("POST", "merchant", &no_merchant).expect("gone");
    let submission = app.apply_merchant().await;
    let audit_id = app.wechat.audits()[0].audit_id.to_string();
    app.asked("/wxa/get_merchant_audit_info", 2).await;
    app.decide_silently(&audit_id, Decision::Decline);
    let event = found(&mut watch, &submission).await;
    assert_eq!((event.state(), event.wechat_status), (AuditState::DeclinedByAdmin, Some(4)));
    assert_eq!(event.audit_id, audit_id, "the audit id was unknown before");
    assert_eq!(app.submission(&submission.submission_id).await.audit_id, audit_id);
    app.stop().await;
}

#[tokio::test]
async fn previous_application_result_is_ignored() {
    let (app, mut watch) = eager().await;
    let no_merchant = json!({ "app_id": OFFICIAL_APP_ID, "exists": false });
    app.wechat.control("POST", "merchant", &no_merchant).expect("gone");
    let first = app.apply_merchant().await;
    let audit_id = app.wechat.audits()[0].audit_id;
    app.decide_silently(&audit_id.to_string(), Decision::Reject);
    found(&mut watch, &first).await;

    // WeChat returns it until an administrator confirms the next application.
    let data = json!({ "audit_id": audit_id, "status": 3, "reason": "资料不全" });
    let body = json!({ "errcode": 0, "data": data });
    app.fault("/wxa/get_merchant_audit_info", Kind::Replace { body });
    let next = app.apply_merchant().await;
    app.asked("/wxa/get_merchant_audit_info", 3).await;
    let stands = app.submission(&next.submission_id).await;
    assert_eq!((stands.state(), &*stands.audit_id), (AuditState::AwaitingAdmin, ""));

    app.wechat.control("DELETE", "faults", &json!({})).expect("cleared");
    let audits = app.wechat.audits();
    let newest = audits.iter().map(|audit| audit.audit_id).max().expect("two");
    app.decide_silently(&newest.to_string(), Decision::Approve);
    assert_eq!(found(&mut watch, &next).await.state(), AuditState::Approved);
    app.stop().await;
}

#[tokio::test]
async fn map_place_cannot_be_polled() {
    let overdue = "overdue_after_hours = 24";
    let app = App::with_sections(&format!("{EAGER}\n{overdue}")).await;
    let answer =
        app.map_pois().create_map_poi(new_map_poi()).await.expect("submitted").into_inner();
    let place = answer.submission.expect("a submission");
    app.decide_silently(&place.audit_id, Decision::Approve);
    // By the time this event arrives, WeChat was polled twice.
    app.add_store(PLACE, "0001").await;
    app.asked("/wxa/get_store_list", 2).await;
    app.clock.advance(Duration::from_secs(24 * 3600));
    let open = app.submission(&place.submission_id).await;
    assert_eq!((open.kind(), open.state()), (SubmissionKind::MapPoi, AuditState::InReview));
    assert!(open.overdue);
    assert_eq!(app.events(pb::ListAuditEventsRequest::default()).await, []);
    app.stop().await;
}
