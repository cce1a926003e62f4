//! Stores: from the first submission to the last deletion.

use std::time::Duration;

use futures_util::future::join;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::Code;
use wechat_simulator::{Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{
    self, AuditState, LegacyStoreState, SubmissionKind, UpgradeState, UpgradeStep,
};

use crate::support::{App, hours, is, new_store, reason, with_deadline, within};

const ADD: &str = "/wxa/add_store";
const UPDATE: &str = "/wxa/update_store";
const NEW_PICTURE: &str = "http://mmbiz.qpic.cn/mmbiz_png/second/0";

#[tokio::test(flavor = "multi_thread")]
async fn store_is_submitted_approved_listed_and_deleted() {
    let app = App::start().await;
    let [place] = &app.places(1).await[..] else { panic!("a place") };
    let submission = app.add_store(place, "1").await;
    assert_eq!(submission.kind(), SubmissionKind::Store);
    assert_eq!(submission.state(), AuditState::InReview);
    assert_eq!(submission.client_reference, "shop-1");
    assert!(!submission.submission_id.is_empty() && submission.create_time.is_some());

    let listed = app.list_stores().await;
    assert_eq!((listed.len(), listed[0].state()), (1, AuditState::InReview));
    app.approve(&submission);
    let store = app.store(&listed[0].poi_id).await;
    assert_eq!((store.state(), store.wechat_status), (AuditState::Approved, Some(1)));
    assert_eq!(store.hours.as_ref().map(|hours| hours.open.as_str()), Some("10:00"));
    assert_eq!(store.contact_phone, "020-89190388");
    assert!(store.location.is_some());

    let poi_id = store.poi_id;
    let delete = pb::DeleteStoreRequest { poi_id: poi_id.clone(), ..Default::default() };
    app.stores().delete_store(delete.clone()).await.expect("deleted");
    let status = app.stores().delete_store(delete).await.expect_err("gone");
    assert_eq!(reason(&status), is(Code::Aborted, "DELETION_FAILED"));
    let request = pb::GetStoreRequest { poi_id, ..Default::default() };
    let status = app.stores().get_store(request).await.expect_err("gone");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn submission_is_sent_as_documented() {
    let app = App::start().await;
    let mut store = new_store("2708071440732747189", "1");
    store.picture_urls.push(NEW_PICTURE.to_owned());
    (store.company_name, store.card_id) = ("巷口餐饮".to_owned(), "pabc".to_owned());
    store.qualification_media_ids = vec![app.upload().await, app.upload().await];
    let ids = store.qualification_media_ids.join("|");
    app.stores().add_store(store).await.expect("submitted");
    let sent = &app.wechat.calls(ADD)[0].body;
    let pictures = r#"{"list":["http://mmbiz.qpic.cn/mmbiz_png/first/0","http://mmbiz.qpic.cn/mmbiz_png/second/0"]}"#;
    for (field, value) in [
        ("map_poi_id", "2708071440732747189"),
        ("pic_list", pictures),
        ("contract_phone", "020-89190388"),
        ("hour", "10:00-21:30"),
        ("credential", "91440105MA591"),
        ("company_name", "巷口餐饮"),
        ("qualification_list", &ids),
        ("card_id", "pabc"),
    ] {
        assert_eq!(sent[field], json!(value), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_submits_nothing() {
    let app = App::start().await;
    let store =
        pb::AddStoreRequest { validate_only: true, ..new_store("2708071440732747189", "1") };
    let answer = app.stores().add_store(store).await.expect("valid").into_inner();
    assert_eq!(answer.submission, None);
    assert_eq!(app.count(ADD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn update_keeps_absent_fields() {
    let app = App::start().await;
    let poi_id = app.approved_store("1").await;
    let update = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        hours: Some(hours("08:00", "23:00")),
        card_id: Some("pabc".to_owned()),
        ..Default::default()
    };
    let sent = app.stores().update_store(update).await.expect("updated").into_inner();
    assert_eq!(sent.submission, None, "nothing to review");
    assert_eq!(sent.contact_phone, "020-89190388");
    assert_eq!(sent.picture_urls, ["http://mmbiz.qpic.cn/mmbiz_png/first/0"]);
    let body = &app.wechat.calls(UPDATE)[0].body;
    assert_eq!(body["hour"], "08:00-23:00");
    assert_eq!(body["contract_phone"], "020-89190388");
    assert_eq!(body["card_id"], "pabc");
    assert_eq!(body["pic_list"], r#"{"list":["http://mmbiz.qpic.cn/mmbiz_png/first/0"]}"#);
    let store = app.store(&poi_id).await;
    assert_eq!(store.hours.map(|hours| hours.text).as_deref(), Some("08:00-23:00"));

    let nothing = pb::UpdateStoreRequest { poi_id, ..Default::default() };
    let status = app.stores().update_store(nothing).await.expect_err("nothing changes");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_in_review_survive_other_update() {
    let app = App::start().await;
    let poi_id = app.approved_store("1").await;
    let urls = vec![NEW_PICTURE.to_owned()];
    let update = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        picture_urls: Some(pb::PictureUrls { urls: urls.clone() }),
        ..Default::default()
    };
    let sent = app.stores().update_store(update).await.expect("updated").into_inner();
    let submission = sent.submission.expect("pictures are reviewed");
    assert_eq!(submission.kind(), SubmissionKind::StorePictures);

    let update = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        contact_phone: Some("020-1".to_owned()),
        ..Default::default()
    };
    let sent = app.stores().update_store(update).await.expect("updated").into_inner();
    assert_eq!(sent.picture_urls, urls, "not the old ones, which WeChat still shows");
    app.approve(&submission);
    assert_eq!(app.store(&poi_id).await.picture_urls, urls);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_updates_do_not_undo_each_other() {
    let app = App::start().await;
    let poi_id = app.approved_store("1").await;
    app.wechat.fault(Fault::new("/wxa/get_store_info", Kind::Latency { ms: 200 }).times(2));
    let phone = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        contact_phone: Some("020-1".to_owned()),
        ..Default::default()
    };
    let open = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        hours: Some(hours("08:00", "23:00")),
        ..Default::default()
    };
    let (mut first, mut second) = (app.stores(), app.stores());
    let (phone, open) = join(first.update_store(phone), second.update_store(open)).await;
    phone.expect("updated");
    open.expect("updated");
    let store = app.store(&poi_id).await;
    assert_eq!(store.contact_phone, "020-1");
    assert_eq!(store.hours.map(|hours| hours.open).as_deref(), Some("08:00"));
}

#[tokio::test(flavor = "multi_thread")]
async fn possibly_executed_write_is_not_resent() {
    let busy = Kind::Errcode { errcode: -1, errmsg: None };
    for (kind, executed) in [
        (Kind::ResetAfter, true),
        (Kind::Truncate, true),
        (Kind::NotJson, true),
        (Kind::Empty, true),
        (Kind::Html502, false),
        (busy, false),
    ] {
        let app = App::start().await;
        app.fault(ADD, kind.clone());
        let store = new_store("2708071440732747189", "1");
        match app.stores().add_store(store).await {
            Ok(answer) => assert!(executed && answer.into_inner().recovered, "{kind:?}"),
            Err(status) => {
                assert!(!executed, "{kind:?}");
                assert_eq!(reason(&status), is(Code::Unknown, "OUTCOME_UNKNOWN"), "{kind:?}");
            }
        }
        assert_eq!(app.count(ADD), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_token_allows_resending_a_write() {
    let app = App::start().await;
    app.wechat.refuse_next(ADD, 42001);
    app.add_store("2708071440732747189", "1").await;
    assert_eq!(app.count(ADD), 2, "the first was refused before it was executed");
}

async fn answers_with_a_token(server: &TcpListener) {
    let (mut socket, _) = server.accept().await.expect("the gateway comes");
    let _ = socket.read(&mut [0; 4096]).await;
    let body = r#"{"access_token":"t","expires_in":7200}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = socket.write_all(answer.as_bytes()).await;
}

/// WeChat returns one token and then disappears.
#[tokio::test(flavor = "multi_thread")]
async fn certainly_unsent_write_is_reported() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("bound");
    tokio::spawn(async move { answers_with_a_token(&server).await });
    let app = App::in_front_of(address).await;
    let store = new_store("2708071440732747189", "1");
    let status = app.stores().add_store(store).await.expect_err("no server is there");
    assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
}

/// Returns one token, then accepts a call and leaves the answer to the test.
async fn takes_a_call(server: TcpListener) -> TcpStream {
    answers_with_a_token(&server).await;
    let (mut call, _) = server.accept().await.expect("the gateway comes again");
    let mut request = Vec::new();
    while !String::from_utf8_lossy(&request).contains("card_id") {
        call.read_buf(&mut request).await.expect("the call");
    }
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_write_survives_its_caller_and_delays_stop() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let app = App::in_front_of(server.local_addr().expect("bound")).await;
    let call = tokio::spawn(takes_a_call(server));
    let request = pb::SetStoreCardRequest {
        poi_id: "1".to_owned(),
        card_id: "pabc".to_owned(),
        ..Default::default()
    };
    let patience = Duration::from_secs(1);
    let mut cards = app.timeless_cards().await;
    let status =
        cards.set_store_card(with_deadline(request, patience)).await.expect_err("no answer");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let mut call = call.await.expect("no panic");
    let moment = Duration::from_millis(300);
    let hung_up = tokio::time::timeout(moment, call.read(&mut [0])).await;
    assert!(hung_up.is_err(), "{hung_up:?}");

    let gateway = app.address;
    let mut stop = tokio::spawn(app.stop());
    assert!(tokio::time::timeout(moment, &mut stop).await.is_err(), "it did not wait");
    TcpStream::connect(gateway).await.expect_err("new connections are refused");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"errcode\":0}";
    call.write_all(answer).await.expect("the gateway listens");
    within(Duration::from_secs(5), stop).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_do_not_skip_or_repeat_stores() {
    let app = App::start().await;
    for (index, place) in app.places(8).await.iter().enumerate() {
        let submission = app.add_store(place, &index.to_string()).await;
        app.approve(&submission);
    }
    let all: Vec<_> = app.list_stores().await.into_iter().map(|store| store.poi_id).collect();
    assert_eq!(all.len(), 8);

    let mut seen = Vec::new();
    let mut list = pb::ListStoresRequest { page_size: 3, ..Default::default() };
    loop {
        let page = app.stores().list_stores(list.clone()).await.expect("a page").into_inner();
        assert!(page.stores.len() <= 3);
        seen.extend(page.stores.into_iter().map(|store| store.poi_id));
        if seen.len() == 3 {
            // The last id of the page, and an earlier one.
            for poi_id in [&all[2], &all[0]] {
                let poi_id = poi_id.clone();
                let delete = pb::DeleteStoreRequest { poi_id, ..Default::default() };
                app.stores().delete_store(delete).await.expect("deleted");
            }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        list.page_token = page.next_page_token;
    }
    assert_eq!(seen, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_store_is_readable_until_deleted() {
    let app = App::start().await;
    let old = json!([{"poi_id": "271262077", "branch_name": "艺苑路店", "upgrade_status": 4}]);
    let body = json!({"app_id": OFFICIAL_APP_ID, "stores": old});
    app.wechat.control("POST", "legacy_stores", &body).expect("old stores");
    let legacy_poi_id = "271262077".to_owned();
    let get =
        pb::GetLegacyStoreRequest { legacy_poi_id: legacy_poi_id.clone(), ..Default::default() };
    let answer = app.stores().get_legacy_store(get.clone()).await.expect("a store").into_inner();
    let store = answer.store.expect("a store");
    assert_eq!(
        (store.legacy_poi_id.as_str(), store.branch_name.as_str()),
        ("271262077", "艺苑路店")
    );
    assert_eq!(store.state(), LegacyStoreState::Approved);
    assert_eq!(store.upgrade_state(), UpgradeState::Unspecified, "only the list has it");

    let delete = pb::DeleteLegacyStoreRequest { legacy_poi_id, ..Default::default() };
    app.stores().delete_legacy_store(delete).await.expect("deleted");
    let status = app.stores().get_legacy_store(get).await.expect_err("gone");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_progress_reaches_completion() {
    let app = App::start().await;
    let old = json!([
        {"poi_id": "271262077", "upgrade_status": 0},
        {"poi_id": "271262078", "upgrade_status": 4},
        {"poi_id": "271262079", "upgrade_status": 3}
    ]);
    let body = json!({"app_id": OFFICIAL_APP_ID, "stores": old});
    app.wechat.control("POST", "legacy_stores", &body).expect("old stores");
    let progress = app.progress().await;
    assert!(!progress.complete);
    assert_eq!(progress.next_step(), UpgradeStep::Migrate);
    assert_eq!(
        (progress.pending_count, progress.forbidden_count, progress.migrated_count),
        (1, 1, 1)
    );
    let [blocker] = &progress.blockers[..] else { panic!("one blocker") };
    assert_eq!(
        (blocker.legacy_poi_id.as_str(), blocker.next_step()),
        ("271262078", UpgradeStep::Delete)
    );
    let list = pb::ListLegacyStoresRequest { page_size: 2, ..Default::default() };
    let page = app.stores().list_legacy_stores(list).await.expect("a page").into_inner();
    assert_eq!((page.stores.len(), page.total_size), (2, Some(3)));
    assert_eq!(page.stores[0].upgrade_state(), UpgradeState::Pending);
    assert!(!page.next_page_token.is_empty());

    let new = new_store("2708071440732747189", "1");
    let status = app.stores().add_store(new.clone()).await.expect_err("migrate first");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "UPGRADE_REQUIRED"));
    let legacy_poi_id = "271262078".to_owned();
    let delete = pb::DeleteLegacyStoreRequest { legacy_poi_id, ..Default::default() };
    app.stores().delete_legacy_store(delete).await.expect("deleted");
    let migrate = pb::AddStoreRequest { legacy_poi_id: "271262077".to_owned(), ..new };
    let answer = app.stores().add_store(migrate).await.expect("submitted").into_inner();
    assert_eq!(app.progress().await.next_step(), UpgradeStep::Wait);
    app.approve(&answer.submission.expect("a submission"));
    assert!(app.progress().await.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn doubly_listed_old_store_is_counted_once() {
    let app = App::start().await;
    let list = |ids: &mut dyn Iterator<Item = u32>| {
        let rows: Vec<_> = ids.map(|id| json!({"base_info": {"poi_id": id}})).collect();
        let body = json!({"errcode": 0, "business_list": rows, "total_count": 51});
        app.wechat.fault(Fault::new("/cgi-bin/poi/getpoilist", Kind::Replace { body }));
    };
    list(&mut (1..=50));
    // In the meantime WeChat reorders the stores, and the last ones have moved.
    list(&mut [7, 1, 51].into_iter());
    list(&mut [7, 1, 51].into_iter());
    assert_eq!(app.progress().await.total_count, 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn flag_or_audit_id_indicates_picture_review() {
    let app = App::start().await;
    let update = pb::UpdateStoreRequest {
        poi_id: "472671857".to_owned(),
        contact_phone: Some("020-1".to_owned()),
        hours: Some(hours("08:00", "23:00")),
        picture_urls: Some(pb::PictureUrls { urls: vec![NEW_PICTURE.to_owned()] }),
        ..Default::default()
    };
    for (data, audit_id) in [
        (json!({"has_audit_id": 0}), None),
        (json!({"has_audit_id": 0, "audit_id": 0}), None),
        (json!({"has_audit_id": 0, "audit_id": 7}), Some("7")),
        (json!({"has_audit_id": null, "audit_id": "7"}), Some("7")),
        (json!({"has_audit_id": 0, "audit_id": {}}), Some("")),
        (json!({"has_audit_id": 1}), Some("")),
        (json!({"has_audit_id": "1", "audit_id": 7}), Some("7")),
    ] {
        let body = json!({"errcode": 0, "data": data});
        app.wechat.fault(Fault::new(UPDATE, Kind::Replace { body }));
        let answer = app.stores().update_store(update.clone()).await.expect("updated");
        let submission = answer.into_inner().submission;
        assert_eq!(submission.map(|it| it.audit_id).as_deref(), audit_id, "{data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn update_without_time_to_run_is_not_sent() {
    let app = App::start().await;
    app.wechat.fault(Fault::new("/wxa/get_store_info", Kind::Hold));
    let update = pb::UpdateStoreRequest {
        poi_id: "472671857".to_owned(),
        contact_phone: Some("020-1".to_owned()),
        ..Default::default()
    };
    let mut stores = app.stores();
    let first = update.clone();
    let first = tokio::spawn(async move { stores.update_store(first).await });
    while app.count("/wxa/get_store_info") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut stores = app.timeless_stores().await;
    let second = with_deadline(update, Duration::from_secs(1));
    let status = stores.update_store(second).await.expect_err("the first one is not done");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "WRITE_QUEUE_BUSY"));
    let other = pb::UpdateStoreRequest {
        poi_id: "472671858".to_owned(),
        contact_phone: Some("020-1".to_owned()),
        ..Default::default()
    };
    let status = app.stores().update_store(other).await.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    assert_eq!(app.count(UPDATE), 0);
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn page_token_is_bound_to_list_and_account() {
    let other = "wx00000000000000ff";
    let app = App::with_sections(&format!(
        "[[accounts]]\napp_id = \"{other}\"\nkind = \"official\"\nsecret = \"s\""
    ))
    .await;
    for (index, place) in app.places(2).await.iter().enumerate() {
        app.add_store(place, &index.to_string()).await;
    }
    let list = pb::ListStoresRequest { page_size: 1, ..Default::default() };
    let page = app.stores().list_stores(list).await.expect("a page").into_inner();
    let page_token = page.next_page_token;
    assert!(!page_token.is_empty());
    let invalid = is(Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    let request = pb::ListStoresRequest {
        app_id: other.to_owned(),
        page_token: page_token.clone(),
        page_size: 1,
    };
    let status = app.stores().list_stores(request).await.expect_err("another account");
    assert_eq!(reason(&status), invalid);
    let request = pb::ListLegacyStoresRequest { page_token, ..Default::default() };
    let status = app.stores().list_legacy_stores(request).await.expect_err("another list");
    assert_eq!(reason(&status), invalid);
}
