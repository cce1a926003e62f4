//! Reviews: submissions, events and watchers.

use std::time::Duration;

use serde_json::json;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{
    self, AuditState, EventOrigin, SubmissionKind, WatchPosition,
    audit_service_client::AuditServiceClient, watch_audit_events_request::Start,
};

use crate::support::{
    App, Limit, STABLE_TOKEN, hours, is, nearby_profile, new_store, reason, within,
};

const SOON: Duration = Duration::from_secs(20);

/// A watcher of events.
pub(crate) struct Watch(Streaming<pb::WatchAuditEventsResponse>);

impl Watch {
    pub(crate) async fn begin(app: &App, start: Start) -> Self {
        Self::filtered(app, start, "", &[]).await
    }

    pub(crate) async fn filtered(
        app: &App,
        start: Start,
        app_id: &str,
        kinds: &[SubmissionKind],
    ) -> Self {
        let request = pb::WatchAuditEventsRequest {
            app_id: app_id.to_owned(),
            start: Some(start),
            kinds: kinds.iter().map(|kind| (*kind).into()).collect(),
        };
        Self(app.audits().watch_audit_events(request).await.expect("a stream").into_inner())
    }

    pub(crate) async fn next(&mut self) -> pb::WatchAuditEventsResponse {
        within(SOON, self.0.next()).await.expect("no end").expect("no error")
    }

    /// Returns the next event and the cursor after it.
    pub(crate) async fn event(&mut self) -> (pb::AuditEvent, String) {
        loop {
            let response = self.next().await;
            if let Some(event) = response.event {
                return (event, response.cursor);
            }
        }
    }
}

pub(crate) fn earliest() -> Start {
    Start::Position(WatchPosition::Earliest.into())
}

pub(crate) fn latest() -> Start {
    Start::Position(WatchPosition::Latest.into())
}

impl App {
    pub(crate) async fn submission(&self, submission_id: &str) -> pb::Submission {
        let submission_id = submission_id.to_owned();
        let request = pb::GetSubmissionRequest { submission_id, ..Default::default() };
        let answer = self.audits().get_submission(request).await.expect("remembered");
        answer.into_inner().submission.expect("a submission")
    }

    pub(crate) async fn events(&self, request: pb::ListAuditEventsRequest) -> Vec<pb::AuditEvent> {
        self.audits().list_audit_events(request).await.expect("events").into_inner().events
    }
}

#[tokio::test]
async fn review_result_has_client_reference() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    assert_eq!(watch.next().await.event, None, "first where the stream starts");

    let submission = app.add_store("2708071440732747189", "0001").await;
    app.approve(&submission);
    let (event, _) = watch.event().await;
    assert_eq!((event.kind(), event.state()), (SubmissionKind::Store, AuditState::Approved));
    assert_eq!(event.app_id, OFFICIAL_APP_ID);
    assert_eq!(event.client_reference, "shop-0001");
    assert_eq!(event.submission_id, submission.submission_id);
    assert_eq!(event.audit_id, submission.audit_id);
    assert_eq!(
        (event.wechat_event.as_str(), event.wechat_status),
        ("add_store_audit_info", Some(1))
    );
    assert_eq!(event.origin(), EventOrigin::Pushed);
    assert!(event.wechat_message.contains("add_store_audit_info"), "{}", event.wechat_message);
    let Some(pb::audit_event::Detail::Store(store)) = event.detail else { panic!("a store") };
    assert_eq!(store.map_poi_id, "2708071440732747189");
    assert_eq!(store.poi_id, app.list_stores().await[0].poi_id);

    let decided = app.submission(&submission.submission_id).await;
    assert_eq!(decided.state(), AuditState::Approved);
    assert_eq!((decided.poi_id, decided.event_id), (store.poi_id, event.event_id));
    assert!(decided.decide_time.is_some() && !decided.overdue);
    app.stop().await;
}

#[tokio::test]
async fn every_review_kind_reports_its_result() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let poi_id = app.approved_store("0001").await;
    assert_eq!(watch.event().await.0.kind(), SubmissionKind::Store);

    // New pictures, for which the submission names the store.
    let pictures = pb::UpdateStoreRequest {
        client_reference: "shop-7".to_owned(),
        poi_id: poi_id.clone(),
        picture_urls: Some(pb::PictureUrls {
            urls: vec!["http://mmbiz.qpic.cn/mmbiz_png/new/0".to_owned()],
        }),
        ..Default::default()
    };
    let answer = app.stores().update_store(pictures).await.expect("submitted").into_inner();
    let submission = answer.submission.expect("reviewed");
    let audit_id = submission.audit_id.parse().expect("a number");
    app.wechat.reject(audit_id, "图片不清晰").expect("open");
    let (event, _) = watch.event().await;
    assert_eq!(
        (event.kind(), event.state()),
        (SubmissionKind::StorePictures, AuditState::Rejected)
    );
    assert_eq!((event.client_reference.as_str(), event.reason.as_str()), ("shop-7", "图片不清晰"));
    let Some(pb::audit_event::Detail::StorePictures(detail)) = event.detail else { panic!() };
    assert_eq!(detail.poi_id, poi_id);
    let decided = app.submission(&submission.submission_id).await;
    assert_eq!((decided.state(), decided.reason.as_str()), (AuditState::Rejected, "图片不清晰"));

    // A nearby place of the mini program.
    let request = pb::AddNearbyPoiRequest {
        client_reference: "shop-8".to_owned(),
        profile: Some(nearby_profile("2708071440732747189")),
        ..Default::default()
    };
    let answer = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    app.approve(&answer.submission.expect("reviewed"));
    let (event, _) = watch.event().await;
    assert_eq!((event.kind(), event.state()), (SubmissionKind::NearbyPoi, AuditState::Approved));
    assert_eq!((event.app_id.as_str(), event.wechat_status), (MINI_PROGRAM_APP_ID, Some(3)));
    assert_eq!(event.client_reference, "shop-8");
    let Some(pb::audit_event::Detail::NearbyPoi(detail)) = event.detail else { panic!() };
    assert!(!detail.nearby_poi_id.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn watcher_resumes_from_its_cursor() {
    let app = App::start().await;
    let places = app.places(5).await;
    for (index, place) in places.iter().enumerate() {
        let submission = app.add_store(place, &format!("{index:04}")).await;
        app.approve(&submission);
    }
    let mut watch = Watch::begin(&app, earliest()).await;
    let mut all = Vec::new();
    for _ in &places {
        all.push(watch.event().await);
    }
    drop(watch);
    for (seen, (_, cursor)) in all.iter().enumerate() {
        let mut watch = Watch::begin(&app, Start::Cursor(cursor.clone())).await;
        for (event, _) in &all[seen + 1..] {
            assert_eq!(watch.event().await.0, *event);
        }
    }
    // A list returns the same events.
    let request = pb::ListAuditEventsRequest { page_size: 2, ..Default::default() };
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListAuditEventsRequest { page_token, ..request.clone() };
        let page = app.audits().list_audit_events(request).await.expect("a page").into_inner();
        listed.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            let mut watch = Watch::begin(&app, Start::Cursor(page.cursor)).await;
            assert_eq!(watch.next().await.event, None, "nothing is left");
            break;
        }
    }
    assert_eq!(listed, all.into_iter().map(|(event, _)| event).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test]
async fn pages_of_large_events_fit_client_limit() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let mut watched = Vec::new();
    for audit_id in 0..30 {
        let push = json!({
            "Event": "add_store_audit_info", "audit_id": audit_id, "status": 3,
            "reason": "店".repeat(30_000),
        });
        app.wechat.push(OFFICIAL_APP_ID, &push).expect("a push");
        watched.push(watch.event().await.0);
    }
    let (mut listed, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request =
            pb::ListAuditEventsRequest { page_size: 1000, page_token, ..Default::default() };
        // The client accepts at most four megabytes per message.
        let page = app.audits().list_audit_events(request).await.expect("a page").into_inner();
        assert!(!page.events.is_empty());
        listed.extend(page.events);
        (page_token, pages) = (page.next_page_token, pages + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert!(pages > 1 && listed == watched, "{pages} pages, {} events", listed.len());
    app.stop().await;
}

#[tokio::test]
async fn watches_are_limited_per_connection_and_address() {
    let limits = "[limits]\nwatches_per_connection = 3\nwatches_per_address = 4";
    let app = App::with_sections(limits).await;
    let watch = async |channel: &Channel| {
        let start = Some(latest());
        let request = pb::WatchAuditEventsRequest { start, ..Default::default() };
        let mut client = AuditServiceClient::new(channel.clone());
        let mut stream = client.watch_audit_events(request).await?.into_inner();
        within(SOON, stream.next()).await.expect("no end").map(|_| stream)
    };
    let too_many = |result: Result<Streaming<_>, Status>| {
        let status = result.map(|_| ()).expect_err("refused");
        assert_eq!(reason(&status), is(Code::ResourceExhausted, "TOO_MANY_WATCHES"));
        let details = status.get_error_details();
        details.error_info().expect("a reason").metadata["setting"].clone()
    };
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(watch(&app.channel).await.expect("room"));
    }
    assert_eq!(too_many(watch(&app.channel).await), "limits.watches_per_connection");
    let endpoint = Channel::from_shared(format!("http://{}", app.address)).expect("a URL");
    let other = endpoint.connect().await.expect("it listens");
    let _fourth = watch(&other).await.expect("this connection has none");
    assert_eq!(too_many(watch(&other).await), "limits.watches_per_address");
    // Other calls do not count as watches, and an ended watch frees its place.
    app.events(pb::ListAuditEventsRequest::default()).await;
    watches.pop();
    within(SOON, async {
        while watch(&app.channel).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn filtered_watcher_gets_checkpoints() {
    // A watcher that ignores its checkpoints could search forever.
    let _limit = Limit::new(6 * SOON);
    let app = App::with_sections("[audit]\ncheckpoint_seconds = 0.2").await;
    let kinds = [SubmissionKind::NearbyPoi];
    let mut nearby = Watch::filtered(&app, earliest(), MINI_PROGRAM_APP_ID, &kinds).await;
    let start = nearby.next().await.cursor;
    let submission = app.add_store("2708071440732747189", "0001").await;
    app.approve(&submission);
    Watch::begin(&app, earliest()).await.event().await;
    let passed = loop {
        let checkpoint = nearby.next().await;
        assert_eq!(checkpoint.event, None, "it is another account's");
        if checkpoint.cursor != start {
            break checkpoint.cursor;
        }
    };
    let mut all = Watch::begin(&app, Start::Cursor(passed)).await;
    assert_eq!(all.next().await.event, None);
    assert_eq!(all.next().await.event, None, "the store's event was passed over");

    let of = |app_id: &str, kinds: &[SubmissionKind]| pb::ListAuditEventsRequest {
        app_id: app_id.to_owned(),
        kinds: kinds.iter().map(|kind| (*kind).into()).collect(),
        ..Default::default()
    };
    assert_eq!(app.events(of(OFFICIAL_APP_ID, &[SubmissionKind::Store])).await.len(), 1);
    assert_eq!(app.events(of(MINI_PROGRAM_APP_ID, &[])).await.len(), 0);
    assert_eq!(app.events(of("", &[SubmissionKind::MapPoi])).await.len(), 0);
    let about =
        |submission_id: String| pb::ListAuditEventsRequest { submission_id, ..Default::default() };
    assert_eq!(app.events(about(submission.submission_id)).await.len(), 1);
    let other = "6f1f3f6e-9d3c-4a8e-8f6b-0d0c1b2a3948".to_owned();
    assert_eq!(app.events(about(other)).await.len(), 0);
    app.stop().await;
}

#[tokio::test]
async fn invalid_cursor_is_reported() {
    let (app, other) = (App::start().await, App::start().await);
    let foreign = Watch::begin(&other, latest()).await.next().await.cursor;
    let watch = async |start| {
        let request = pb::WatchAuditEventsRequest { start, ..Default::default() };
        let answer = app.audits().watch_audit_events(request).await;
        reason(&answer.map(|_| ()).expect_err("refused"))
    };
    let expired = is(Code::OutOfRange, "CURSOR_EXPIRED");
    assert_eq!(watch(Some(Start::Cursor(foreign))).await, expired);
    let malformed = watch(Some(Start::Cursor("nonsense".to_owned()))).await;
    assert_eq!(malformed, is(Code::InvalidArgument, "CURSOR_EXPIRED"));
    let invalid = is(Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(watch(None).await, invalid);
    assert_eq!(watch(Some(Start::Position(0))).await, invalid);
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn pending_submissions_are_listed() {
    let app = App::start().await;
    let places = app.places(3).await;
    let mut ids = Vec::new();
    for (index, place) in places.iter().enumerate() {
        ids.push(app.add_store(place, &format!("{index:04}")).await);
    }
    app.approve(&ids[1]);
    Watch::begin(&app, earliest()).await.event().await;
    let list = async |request: pb::ListSubmissionsRequest| {
        let page = app.audits().list_submissions(request).await.expect("a page").into_inner();
        assert_eq!(page.next_page_token, "");
        page.submissions.into_iter().map(|found| found.submission_id).collect::<Vec<_>>()
    };
    let pending = pb::ListSubmissionsRequest {
        states: vec![AuditState::AwaitingAdmin.into(), AuditState::InReview.into()],
        ..Default::default()
    };
    let [first, second, third] = &ids[..] else { panic!("three") };
    assert_eq!(list(pending.clone()).await, [&*first.submission_id, &*third.submission_id]);
    let before_all = pb::ListSubmissionsRequest { end_time: first.create_time, ..pending };
    assert_eq!(list(before_all).await, Vec::<String>::new());
    let client_reference = second.client_reference.clone();
    let request = pb::ListSubmissionsRequest { client_reference, ..Default::default() };
    assert_eq!(list(request).await, [&*second.submission_id]);

    let unknown = pb::GetSubmissionRequest {
        submission_id: "6f1f3f6e-9d3c-4a8e-8f6b-0d0c1b2a3948".to_owned(),
        ..Default::default()
    };
    let refused = app.audits().get_submission(unknown).await.expect_err("unknown");
    assert_eq!(reason(&refused), is(Code::NotFound, "SUBMISSION_NOT_FOUND"));
    let of_another = pb::GetSubmissionRequest {
        app_id: MINI_PROGRAM_APP_ID.to_owned(),
        submission_id: first.submission_id.clone(),
    };
    let refused = app.audits().get_submission(of_another).await.expect_err("another account's");
    assert_eq!(reason(&refused), is(Code::NotFound, "SUBMISSION_NOT_FOUND"));
    app.stop().await;
}

#[tokio::test]
async fn stopping_sends_watchers_a_last_cursor() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let start = watch.next().await.cursor;
    app.announce_stop();
    let last = watch.next().await;
    assert_eq!((last.event, last.cursor), (None, start));
    let end = within(SOON, watch.0.next()).await.expect("a status").expect_err("an end");
    assert_eq!(reason(&end), is(Code::Unavailable, "SHUTTING_DOWN"));
    app.stop().await;
}

#[tokio::test]
async fn unpollable_review_becomes_overdue() {
    let app = App::with_sections("[audit]\noverdue_after_hours = 24").await;
    let submission = app.add_store("2708071440732747189", "0001").await;
    let overdue = async || app.submission(&submission.submission_id).await.overdue;
    assert!(!overdue().await);
    app.clock.advance(Duration::from_secs(24 * 3600));
    assert!(overdue().await);
    app.stop().await;
}

#[tokio::test]
async fn repeated_push_is_one_event() {
    let app = App::start().await;
    app.wechat.control("POST", "settings", &json!({ "push_duplicates": 3 })).expect("set");
    let first = new_store("2708071440732747189", "0001");
    let answer = app.stores().add_store(first).await.expect("submitted").into_inner();
    app.approve(&answer.submission.expect("a submission"));
    let mut watch = Watch::begin(&app, earliest()).await;
    watch.event().await;
    let sent = || app.wechat.pushes().iter().map(|push| push.attempts.len()).sum::<usize>();
    while sent() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(app.events(pb::ListAuditEventsRequest::default()).await.len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn unreadable_push_reaches_watchers_without_kinds() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let mut stores = Watch::filtered(&app, latest(), "", &[SubmissionKind::Store]).await;
    stores.next().await;
    let faulty = "{\"MsgType\":\"event\",\"Event\":\"add_store_audit_info\",\"status\":3,\
                  \"audit_id\":416620525,\"reason\":\"a\u{14}\n\0b\"}";
    for text in ["<xml><Event>add_store", faulty] {
        let push = json!({ "app_id": OFFICIAL_APP_ID, "text": text });
        app.wechat.control("POST", "pushes", &push).expect("pushed");
        let (event, _) = watch.event().await;
        assert_eq!(event.raw_wechat_message, text);
    }
    let (event, _) = stores.event().await;
    assert_eq!(event.raw_wechat_message, faulty, "a watcher of a kind gets only that");
    let app = app.restart().await;
    let [unreadable, read] = &app.events(pb::ListAuditEventsRequest::default()).await[..] else {
        panic!("not two events")
    };
    assert_eq!((unreadable.kind(), unreadable.wechat_event.as_str()), Default::default());
    assert_eq!(unreadable.raw_wechat_message, "<xml><Event>add_store");
    assert!(unreadable.receive_time.is_some());
    assert_eq!((read.kind(), read.state()), (SubmissionKind::Store, AuditState::Rejected));
    assert_eq!((read.audit_id.as_str(), read.reason.as_str()), ("416620525", "a\u{14}\n\0b"));
    app.stop().await;
}

#[tokio::test]
async fn restart_keeps_events_and_submissions() {
    let app = App::start().await;
    let poi_id = app.approved_store("0001").await;
    let mut watch = Watch::begin(&app, earliest()).await;
    let (event, cursor) = watch.event().await;
    let pending = app.add_store(&app.places(1).await[0], "0002").await;
    let urls = vec!["http://mmbiz.qpic.cn/mmbiz_png/new/0".to_owned()];
    let pictures = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        picture_urls: Some(pb::PictureUrls { urls: urls.clone() }),
        ..Default::default()
    };
    app.stores().update_store(pictures).await.expect("submitted");
    let tokens = app.count(STABLE_TOKEN);

    let app = app.restart().await;
    // The same push again is the same event.
    let [push] = &app.wechat.pushes()[..] else { panic!("one push") };
    let again = json!({ "app_id": OFFICIAL_APP_ID, "text": push.message });
    app.wechat.control("POST", "pushes", &again).expect("pushed");
    app.approve(&pending);
    let mut watch = Watch::begin(&app, Start::Cursor(cursor)).await;
    let (next, _) = watch.event().await;
    assert_eq!(next.client_reference, "shop-0002");
    let known = app.events(pb::ListAuditEventsRequest::default()).await;
    assert_eq!(known, [event, next]);

    // WeChat still returns the old pictures. Sending those would withdraw the new ones.
    let hours = pb::UpdateStoreRequest {
        poi_id,
        hours: Some(hours("09:00", "20:00")),
        ..Default::default()
    };
    let updated = app.stores().update_store(hours).await.expect("updated").into_inner();
    assert_eq!(updated.picture_urls, urls);
    assert_eq!(app.count(STABLE_TOKEN), tokens, "the token lives on");
    app.stop().await;
}

#[tokio::test]
async fn newer_result_amends_and_older_is_superseded() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let submission = app.add_store("2708071440732747189", "0001").await;
    app.approve(&submission);
    let (first, _) = watch.event().await;
    let seconds = first.event_time.expect("a time").seconds;
    let push = |status: i64, seconds: i64| {
        let event = json!({
            "Event": "add_store_audit_info", "CreateTime": seconds, "status": status,
            "audit_id": submission.audit_id, "reason": "违规",
        });
        app.wechat.push(OFFICIAL_APP_ID, &event).expect("a push");
    };
    push(3, seconds + 60);
    let (second, _) = watch.event().await;
    assert_eq!((second.supersedes, second.superseded_by.as_str()), (first.event_id, ""));
    push(3, seconds - 60);
    let (late, _) = watch.event().await;
    assert_eq!((late.supersedes.as_str(), &late.superseded_by), ("", &second.event_id));
    let decided = app.submission(&submission.submission_id).await;
    assert_eq!((decided.state(), decided.event_id), (AuditState::Rejected, second.event_id));
    assert!(!decided.poi_id.is_empty(), "the id stays known");
    app.stop().await;
}

#[tokio::test]
async fn foreign_submission_is_reported_other_messages_are_not() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let push = |event| app.wechat.push(OFFICIAL_APP_ID, &event).expect("a push");
    push(json!({ "MsgType": "text", "Content": "在吗" }));
    push(json!({ "Event": "subscribe" }));
    push(json!({ "Event": "poi_check_notify", "result": "succ" }));
    let (raw, _) = watch.event().await;
    assert_eq!(
        (raw.kind(), raw.wechat_event.as_str()),
        (SubmissionKind::Unspecified, "poi_check_notify")
    );
    push(json!({ "Event": "create_map_poi_audit_info", "audit_id": 7, "status": 1, "name": "店" }));
    let (event, _) = watch.event().await;
    assert_eq!((event.kind(), event.state()), (SubmissionKind::MapPoi, AuditState::Rejected));
    assert_eq!((event.audit_id.as_str(), event.submission_id.as_str()), ("7", ""));
    assert_eq!(app.events(pb::ListAuditEventsRequest::default()).await.len(), 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submission_record_is_stored_after_state_recovers() {
    let app = App::start().await;
    app.read().await.expect_err("there is no such store, but now a token");
    // The state fails while WeChat has the write.
    app.wechat.fault(Fault::new("/wxa/add_store", Kind::Latency { ms: 500 }));
    let lock = async {
        while app.count("/wxa/add_store") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        app.lock_state()
    };
    let added = app.add_store("2708071440732747189", "0001");
    let (lock, submission) = tokio::join!(lock, added);
    assert!(!submission.submission_id.is_empty(), "WeChat took it, so the caller has to know");
    drop(lock);
    within(SOON, async {
        let request = pb::GetSubmissionRequest {
            submission_id: submission.submission_id.clone(),
            ..Default::default()
        };
        while app.audits().get_submission(request.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    app.approve(&submission);
    let (event, _) = Watch::begin(&app, earliest()).await.event().await;
    assert_eq!(event.client_reference, "shop-0001");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_event_is_linked_to_later_submission() {
    let app = App::start().await;
    // The simulator's numbers are predictable, so the next one is known.
    let audit_id = 414_569_001;
    let push = json!({ "Event": "add_store_audit_info", "audit_id": audit_id, "status": 3 });
    app.wechat.push(OFFICIAL_APP_ID, &push).expect("a push");
    let (event, _) = Watch::begin(&app, earliest()).await.event().await;
    assert_eq!(event.submission_id, "");
    let submission = app.add_store("2708071440732747189", "0001").await;
    assert_eq!(submission.audit_id, audit_id.to_string());
    let [event] = &app.events(pb::ListAuditEventsRequest::default()).await[..] else { panic!() };
    assert_eq!(event.submission_id, submission.submission_id);
    let decided = app.submission(&submission.submission_id).await;
    assert_eq!((decided.state(), &decided.event_id), (AuditState::Rejected, &event.event_id));
    app.stop().await;
}
