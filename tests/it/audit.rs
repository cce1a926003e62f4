//! Reviews: submissions, events, and who watches them.

use std::time::Duration;

use serde_json::json;
use tokio_stream::StreamExt;
use tonic::{Code, Streaming};
use wechat_store_gateway::{
    pb::{
        self, AuditState, EventOrigin, SubmissionKind, WatchPosition,
        watch_audit_events_request::Start,
    },
    simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, audit::Decision},
};

use crate::support::{App, is, nearby_profile, new_store, reason, within};

const SOON: Duration = Duration::from_secs(20);

/// Someone who watches.
struct Watch(Streaming<pb::WatchAuditEventsResponse>);

impl Watch {
    async fn begin(app: &App, start: Start) -> Self {
        Self::filtered(app, start, "", &[]).await
    }

    async fn filtered(app: &App, start: Start, app_id: &str, kinds: &[SubmissionKind]) -> Self {
        let request = pb::WatchAuditEventsRequest {
            app_id: app_id.to_owned(),
            start: Some(start),
            kinds: kinds.iter().map(|kind| (*kind).into()).collect(),
        };
        Self(app.audits().watch_audit_events(request).await.expect("a stream").into_inner())
    }

    async fn next(&mut self) -> pb::WatchAuditEventsResponse {
        within(SOON, self.0.next()).await.expect("no end").expect("no error")
    }

    /// The next event, and the cursor after it.
    async fn event(&mut self) -> (pb::AuditEvent, String) {
        loop {
            let response = self.next().await;
            if let Some(event) = response.event {
                return (event, response.cursor);
            }
        }
    }
}

fn earliest() -> Start {
    Start::Position(WatchPosition::Earliest.into())
}

fn latest() -> Start {
    Start::Position(WatchPosition::Latest.into())
}

impl App {
    async fn submission(&self, submission_id: &str) -> pb::Submission {
        let submission_id = submission_id.to_owned();
        let request = pb::GetSubmissionRequest { submission_id, ..Default::default() };
        let answer = self.audits().get_submission(request).await.expect("remembered");
        answer.into_inner().submission.expect("a submission")
    }

    async fn events(&self, request: pb::ListAuditEventsRequest) -> Vec<pb::AuditEvent> {
        self.audits().list_audit_events(request).await.expect("events").into_inner().events
    }
}

#[tokio::test]
async fn the_result_of_a_review_arrives_with_the_callers_own_number() {
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
    assert_eq!((event.wechat_event.as_str(), event.wechat_status), ("add_store_audit_info", Some(1)));
    assert_eq!(event.origin(), EventOrigin::Pushed);
    assert!(event.wechat_message.contains("add_store_audit_info"), "{}", event.wechat_message);
    let Some(pb::audit_event::Detail::Store(store)) = event.detail else { panic!("a store") };
    assert_eq!(store.map_poi_id, "2708071440732747189");
    assert_eq!(store.poi_id, app.list_stores().await[0].poi_id);

    let settled = app.submission(&submission.submission_id).await;
    assert_eq!(settled.state(), AuditState::Approved);
    assert_eq!((settled.poi_id, settled.event_id), (store.poi_id, event.event_id));
    assert!(settled.settle_time.is_some() && !settled.overdue);
    app.stop().await;
}

#[tokio::test]
async fn every_kind_of_review_tells_its_result() {
    let app = App::start().await;
    let mut watch = Watch::begin(&app, latest()).await;
    let poi_id = app.approved_store("0001").await;
    assert_eq!(watch.event().await.0.kind(), SubmissionKind::Store);

    // New pictures, told by the submission which store they are of.
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
    assert_eq!((event.kind(), event.state()), (SubmissionKind::StorePictures, AuditState::Rejected));
    assert_eq!((event.client_reference.as_str(), event.reason.as_str()), ("shop-7", "图片不清晰"));
    let Some(pb::audit_event::Detail::StorePictures(detail)) = event.detail else { panic!() };
    assert_eq!(detail.poi_id, poi_id);
    let settled = app.submission(&submission.submission_id).await;
    assert_eq!((settled.state(), settled.reason.as_str()), (AuditState::Rejected, "图片不清晰"));

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
    assert!(!detail.poi_id.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn a_watcher_goes_on_where_it_was() {
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
    // Listed they are the same.
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
async fn filters_leave_out_what_is_not_wanted_and_checkpoints_pass_over_it() {
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
    let about = |submission_id: String| pb::ListAuditEventsRequest {
        submission_id,
        ..Default::default()
    };
    assert_eq!(app.events(about(submission.submission_id)).await.len(), 1);
    let other = "6f1f3f6e-9d3c-4a8e-8f6b-0d0c1b2a3948".to_owned();
    assert_eq!(app.events(about(other)).await.len(), 0);
    app.stop().await;
}

#[tokio::test]
async fn cursors_that_lead_nowhere_are_told() {
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
async fn what_is_pending_is_listed() {
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
    let before_all = pb::ListSubmissionsRequest { created_before: first.create_time, ..pending };
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
async fn a_stop_tells_watchers_where_to_go_on() {
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
async fn where_no_push_comes_wechat_is_asked() {
    let app = App::with_sections(
        "[audit]\nask_after_hours = 0.00005\nask_again_hours = 0.0001",
    )
    .await;
    let mut watch = Watch::begin(&app, latest()).await;
    let store = app.add_store("2708071440732747189", "0001").await;
    let audit_id = store.audit_id.parse().expect("a number");
    let made = app.wechat.decide_silently(audit_id, Decision::Approve, "").expect("an open review");
    let (event, _) = watch.event().await;
    assert_eq!((event.origin(), event.state()), (EventOrigin::Reconciled, AuditState::Approved));
    assert_eq!(event.client_reference, "shop-0001");
    let Some(pb::audit_event::Detail::Store(detail)) = &event.detail else { panic!("a store") };
    assert_eq!(detail.poi_id, app.list_stores().await[0].poi_id);
    let settled = app.submission(&store.submission_id).await;
    assert_eq!((settled.state(), &settled.event_id), (AuditState::Approved, &event.event_id));

    // The push comes after all.
    let push = json!({
        "Event": "add_store_audit_info", "audit_id": audit_id, "status": 1, "poiid": made.result,
    });
    app.wechat.push(OFFICIAL_APP_ID, &push).expect("a push");
    let (late, _) = watch.event().await;
    assert_eq!((late.origin(), &late.amends), (EventOrigin::Pushed, &event.event_id));
    assert_eq!(late.submission_id, store.submission_id);
    let settled = app.submission(&store.submission_id).await;
    assert_eq!(settled.event_id, late.event_id);
    app.stop().await;
}

#[tokio::test]
async fn a_review_that_cannot_be_looked_up_becomes_overdue() {
    let app = App::with_sections("[audit]\noverdue_after_hours = 24").await;
    let submission = app.add_store("2708071440732747189", "0001").await;
    let overdue = async || app.submission(&submission.submission_id).await.overdue;
    assert!(!overdue().await);
    app.clock.advance(Duration::from_secs(24 * 3600));
    assert!(overdue().await);
    app.stop().await;
}

#[tokio::test]
async fn a_submission_repeated_by_wechat_is_one_event() {
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
