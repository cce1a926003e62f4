//! Recovery of writes with lost replies: reads at WeChat show the outcome, and the write itself is
//! not sent again.

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{self, AuditState, WriteState, get_write_request::Lookup};

use crate::support::{App, hours, is, nearby_profile, new_map_poi, new_store, reason, within};

const NAME: &str = "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a90";
const PLACE: &str = "2708071440732747189";
/// After this time, WeChat cannot execute a sent call any more.
const LIMIT: Duration = Duration::from_secs(16);
const SOON: Duration = Duration::from_secs(20);

/// The writes that reads at WeChat can confirm.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Write {
    AddNearbyPoi,
    AddStore,
    DeleteLegacyStore,
    DeleteNearbyPoi,
    DeleteStore,
    Migrate,
    ReplaceNearbyPoi,
    UpdateStore,
}

const ALL: [Write; 8] = [
    Write::AddNearbyPoi,
    Write::AddStore,
    Write::DeleteLegacyStore,
    Write::DeleteNearbyPoi,
    Write::DeleteStore,
    Write::Migrate,
    Write::ReplaceNearbyPoi,
    Write::UpdateStore,
];

impl Write {
    fn path(self) -> &'static str {
        match self {
            Self::AddNearbyPoi | Self::ReplaceNearbyPoi => "/wxa/addnearbypoi",
            Self::AddStore | Self::Migrate => "/wxa/add_store",
            Self::DeleteLegacyStore => "/cgi-bin/poi/delpoi",
            Self::DeleteNearbyPoi => "/wxa/delnearbypoi",
            Self::DeleteStore => "/wxa/del_store",
            Self::UpdateStore => "/wxa/update_store",
        }
    }

    /// Returns the path of the read that shows the outcome.
    fn read_path(self) -> &'static str {
        match self {
            Self::AddNearbyPoi | Self::DeleteNearbyPoi | Self::ReplaceNearbyPoi => {
                "/wxa/getnearbypoilist"
            }
            Self::AddStore => "/wxa/get_store_list",
            Self::DeleteLegacyStore => "/cgi-bin/poi/getpoi",
            Self::DeleteStore | Self::UpdateStore => "/wxa/get_store_info",
            Self::Migrate => "/cgi-bin/poi/getpoilist",
        }
    }
}

impl App {
    /// Creates the objects that the write needs, and returns the id, or an empty text.
    async fn prepare(&self, write: Write) -> String {
        match write {
            Write::AddNearbyPoi | Write::AddStore => String::new(),
            Write::DeleteLegacyStore | Write::Migrate => {
                let old = json!([{ "poi_id": "271262077", "upgrade_status": 0 }]);
                let body = json!({ "app_id": OFFICIAL_APP_ID, "stores": old });
                self.wechat.control("POST", "legacy_stores", &body).expect("an old store");
                "271262077".to_owned()
            }
            Write::DeleteNearbyPoi | Write::ReplaceNearbyPoi => {
                let answer = self.add_nearby_poi("").await.expect("submitted");
                self.approve(&answer.submission.expect("a submission"));
                self.clock.advance(Duration::from_secs(2));
                let hide = pb::SetNearbyPoiVisibilityRequest {
                    nearby_poi_id: answer.nearby_poi_id.clone(),
                    visible: Some(false),
                    ..Default::default()
                };
                self.nearby().set_nearby_poi_visibility(hide).await.expect("hidden");
                answer.nearby_poi_id
            }
            Write::DeleteStore | Write::UpdateStore => self.approved_store("0009").await,
        }
    }

    async fn add_nearby_poi(&self, request_id: &str) -> Result<pb::AddNearbyPoiResponse, Status> {
        let request = pb::AddNearbyPoiRequest {
            request_id: request_id.to_owned(),
            client_reference: "shop-1".to_owned(),
            profile: Some(nearby_profile(PLACE)),
            ..Default::default()
        };
        Ok(self.nearby().add_nearby_poi(request).await?.into_inner())
    }

    /// Runs the write with a request id, and returns whether it was recovered, and its submission.
    async fn run(
        &self,
        write: Write,
        poi_id: &str,
    ) -> Result<(bool, Option<pb::Submission>), Status> {
        let (request_id, poi_id) = (NAME.to_owned(), poi_id.to_owned());
        Ok(match write {
            Write::AddNearbyPoi => {
                let answer = self.add_nearby_poi(&request_id).await?;
                let submission = answer.submission.expect("a submission");
                assert_eq!(answer.nearby_poi_id, submission.nearby_poi_id);
                (answer.recovered, Some(submission))
            }
            Write::AddStore => {
                let request = pb::AddStoreRequest { request_id, ..new_store(PLACE, "0001") };
                let answer = self.stores().add_store(request).await?.into_inner();
                (answer.recovered, Some(answer.submission.expect("a submission")))
            }
            Write::DeleteLegacyStore => {
                let request = pb::DeleteLegacyStoreRequest {
                    request_id,
                    legacy_poi_id: poi_id,
                    ..Default::default()
                };
                (self.stores().delete_legacy_store(request).await?.into_inner().recovered, None)
            }
            Write::DeleteNearbyPoi => {
                let request = pb::DeleteNearbyPoiRequest {
                    request_id,
                    nearby_poi_id: poi_id,
                    ..Default::default()
                };
                (self.nearby().delete_nearby_poi(request).await?.into_inner().recovered, None)
            }
            Write::DeleteStore => {
                let request = pb::DeleteStoreRequest { request_id, poi_id, ..Default::default() };
                (self.stores().delete_store(request).await?.into_inner().recovered, None)
            }
            Write::Migrate => {
                let request = pb::AddStoreRequest {
                    request_id,
                    legacy_poi_id: poi_id,
                    ..new_store(PLACE, "0001")
                };
                let answer = self.stores().add_store(request).await?.into_inner();
                (answer.recovered, Some(answer.submission.expect("a submission")))
            }
            Write::ReplaceNearbyPoi => {
                let request = pb::ReplaceNearbyPoiRequest {
                    request_id,
                    client_reference: "shop-1".to_owned(),
                    nearby_poi_id: poi_id,
                    profile: Some(nearby_profile(PLACE)),
                    ..Default::default()
                };
                let answer = self.nearby().replace_nearby_poi(request).await?.into_inner();
                (answer.recovered, Some(answer.submission.expect("a submission")))
            }
            Write::UpdateStore => {
                let request = pb::UpdateStoreRequest {
                    request_id,
                    poi_id,
                    contact_phone: Some("020-1".to_owned()),
                    hours: Some(hours("08:00", "09:00")),
                    ..Default::default()
                };
                let answer = self.stores().update_store(request).await?.into_inner();
                assert_eq!(answer.contact_phone, "020-1");
                (answer.recovered, answer.submission)
            }
        })
    }

    async fn noted(&self) -> Option<pb::Write> {
        let lookup = Some(Lookup::WriteRequestId(NAME.to_owned()));
        let request = pb::GetWriteRequest { app_id: String::new(), lookup };
        self.writes().get_write(request).await.ok().and_then(|answer| answer.into_inner().write)
    }

    /// Waits until the write is in this state, or until it is deleted for `None`.
    async fn reaches(&self, state: Option<WriteState>) {
        within(SOON, async {
            while self.noted().await.map(|write| write.state()) != state {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Waits until the log has this many events.
    async fn has_events(&self, count: usize) {
        within(SOON, async {
            while self.events(pb::ListAuditEventsRequest::default()).await.len() < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Ends all faults.
    fn heal(&self) {
        self.wechat.control("DELETE", "faults", &json!({})).expect("cleared");
    }
}

#[tokio::test]
async fn executed_write_is_recovered_and_not_resent() {
    for write in ALL {
        let app = App::start().await;
        let poi_id = app.prepare(write).await;
        let before = app.count(write.path());
        app.wechat.fault(Fault::new(write.path(), Kind::ResetAfter));
        let (recovered, submission) = app.run(write, &poi_id).await.expect("it got through");
        assert!(recovered, "{write:?}");
        // A repeat gets the same answer.
        assert_eq!(app.run(write, &poi_id).await.expect("known"), (true, submission.clone()));
        assert_eq!(app.count(write.path()), before + 1, "{write:?}");
        let noted = app.noted().await.expect("remembered");
        assert_eq!((noted.state(), noted.attempts), (WriteState::Finished, 1));
        if let Some(submission) = submission {
            let known = app.submission(&submission.submission_id).await;
            assert_eq!(known, submission, "{write:?}");
            assert_eq!(known.state(), AuditState::InReview);
            assert!(!known.client_reference.is_empty());
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn unexecuted_write_is_resent_after_the_limit() {
    for write in ALL {
        let app = App::still().await;
        let poi_id = app.prepare(write).await;
        let before = app.count(write.path());
        // The request was sent and dropped before WeChat did anything.
        app.wechat.fault(Fault::new(write.path(), Kind::ResetBefore));
        for _ in 0..2 {
            let lost = app.run(write, &poi_id).await.expect_err("the outcome is unknown");
            assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"), "{write:?}");
        }
        assert_eq!(app.count(write.path()), before + 1, "{write:?}");
        app.clock.advance(LIMIT);
        let (recovered, _) = app.run(write, &poi_id).await.expect("sent again");
        assert!(!recovered, "{write:?}");
        assert_eq!(app.count(write.path()), before + 2, "{write:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn repeat_recovers_after_failed_read() {
    for write in ALL {
        let app = App::start().await;
        let poi_id = app.prepare(write).await;
        let before = app.count(write.path());
        // An update reads the store first.
        let passing = write == Write::UpdateStore;
        app.wechat.fault(Fault::new(write.path(), Kind::ResetAfter));
        app.wechat
            .fault(Fault::new(write.read_path(), Kind::Html502).times(0).after(u64::from(passing)));
        let lost = app.run(write, &poi_id).await.expect_err("the outcome is unknown");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"), "{write:?}");
        // The next process does not send it either.
        let app = app.restart().await;
        let unknown = app.run(write, &poi_id).await.expect_err("the outcome is unknown");
        assert_eq!(reason(&unknown), is(Code::Unknown, "OUTCOME_UNKNOWN"), "{write:?}");
        assert!(unknown.get_details_retry_info().is_some(), "it may still arrive");
        app.heal();
        let (recovered, _) = app.run(write, &poi_id).await.expect("it got through");
        assert!(recovered, "{write:?}");
        assert_eq!(app.count(write.path()), before + 1, "{write:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn abandoned_write_is_recovered_in_background() {
    for executed in [true, false] {
        let app = App::start().await;
        let kind = if executed { Kind::ResetAfter } else { Kind::ResetBefore };
        app.wechat.fault(Fault::new("/wxa/add_store", kind));
        app.fault("/wxa/get_store_list", Kind::Html502);
        app.run(Write::AddStore, "").await.expect_err("the outcome is unknown");
        // A later process finds it.
        let app = app.restart().await;
        app.heal();
        app.clock.advance(Duration::from_secs(700));
        app.reaches(executed.then_some(WriteState::Finished)).await;
        assert_eq!(app.count("/wxa/add_store"), 1);
        let listed = app.list_stores().await.len();
        assert_eq!(listed, usize::from(executed));
        app.stop().await;
    }
}

#[tokio::test]
async fn recovered_store_is_linked_to_its_event() {
    for event_first in [true, false] {
        let app = App::start().await;
        app.wechat.fault(Fault::new("/wxa/add_store", Kind::ResetAfter));
        app.fault("/wxa/get_store_list", Kind::Html502);
        app.run(Write::AddStore, "").await.expect_err("the outcome is unknown");
        let audit_id = app.wechat.audits()[0].audit_id;
        if event_first {
            app.wechat.approve(audit_id).expect("an open review");
            app.has_events(1).await;
        }
        app.heal();
        let (recovered, submission) = app.run(Write::AddStore, "").await.expect("it got through");
        assert!(recovered);
        let submission = submission.expect("a submission");
        if !event_first {
            app.wechat.approve(audit_id).expect("an open review");
            app.has_events(1).await;
        }
        let known = app.submission(&submission.submission_id).await;
        assert_eq!(known.state(), AuditState::Approved);
        assert_eq!(known.audit_id, audit_id.to_string());
        assert!(!known.poi_id.is_empty());
        app.stop().await;
    }
}

#[tokio::test]
async fn replaced_place_is_recovered_after_its_review() {
    for executed in [true, false] {
        let app = App::start().await;
        let poi_id = app.prepare(Write::ReplaceNearbyPoi).await;
        let before = app.count("/wxa/addnearbypoi");
        let kind = if executed { Kind::ResetAfter } else { Kind::ResetBefore };
        app.wechat.fault(Fault::new("/wxa/addnearbypoi", kind));
        app.fault("/wxa/getnearbypoilist", Kind::Html502);
        app.run(Write::ReplaceNearbyPoi, &poi_id).await.expect_err("the outcome is unknown");
        if executed {
            let audit_id = app.wechat.audits().last().expect("a review").audit_id;
            app.wechat.approve(audit_id).expect("an open review");
            app.has_events(2).await;
        }
        app.heal();
        app.clock.advance(LIMIT);
        let (recovered, _) = app.run(Write::ReplaceNearbyPoi, &poi_id).await.expect("known");
        assert_eq!(recovered, executed);
        let calls = app.count("/wxa/addnearbypoi") - before;
        assert_eq!(calls, if executed { 1 } else { 2 });
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_recovery_finds_the_write_too() {
    let app = App::start().await;
    let poi_id = app.prepare(Write::ReplaceNearbyPoi).await;
    app.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::ResetAfter));
    app.fault("/wxa/getnearbypoilist", Kind::Html502);
    app.run(Write::ReplaceNearbyPoi, &poi_id).await.expect_err("the outcome is unknown");
    let audit_id = app.wechat.audits().last().expect("a review").audit_id;
    app.wechat.approve(audit_id).expect("an open review");
    app.has_events(2).await;
    app.heal();

    // The process that finds it first stores the submission record. A process that lost its claim
    // stops after that.
    let state = app.open_state();
    state
        .execute_batch(
            "CREATE TRIGGER undone AFTER UPDATE ON writes WHEN new.state = 'finished' BEGIN
               UPDATE writes SET state = 'unknown', reply = NULL, ended = 0
               WHERE number = new.number;
             END",
        )
        .expect("a trigger");
    app.fault("/wxa/getnearbypoilist", Kind::Latency { ms: 300 });
    app.clock.advance(LIMIT);
    let looks = (0..3u64).map(|turn| {
        let (app, poi_id) = (&app, &poi_id);
        async move {
            tokio::time::sleep(Duration::from_millis(50 * turn)).await;
            app.run(Write::ReplaceNearbyPoi, poi_id).await
        }
    });
    let freed = async {
        let all = pb::ListSubmissionsRequest::default;
        let remembered = || async {
            app.audits().list_submissions(all()).await.expect("a list").into_inner().submissions
        };
        while remembered().await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        state.execute_batch("DROP TRIGGER undone").expect("no trigger");
    };
    let (_, answers) = within(SOON, join(freed, join_all(looks))).await;
    assert!(!answers.iter().any(|answer| matches!(answer, Ok((false, _)))), "{answers:?}");
    let (recovered, _) = app.run(Write::ReplaceNearbyPoi, &poi_id).await.expect("known");
    assert!(recovered);
    assert_eq!(app.count("/wxa/addnearbypoi"), 2, "it was sent again");
    app.stop().await;
}

#[tokio::test]
async fn proposed_place_is_recovered_only_by_its_event() {
    let app = App::start().await;
    app.wechat.fault(Fault::new("/wxa/create_map_poi", Kind::ResetAfter));
    let request = || pb::CreateMapPoiRequest { request_id: NAME.to_owned(), ..new_map_poi() };
    let lost = app.map_pois().create_map_poi(request()).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.clock.advance(Duration::from_secs(3600));
    let unknown =
        app.map_pois().create_map_poi(request()).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&unknown), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    assert!(unknown.get_details_retry_info().is_none(), "waiting alone is of no use");
    assert_eq!(app.count("/wxa/create_map_poi"), 1);

    // The event of another place proves nothing.
    let other = pb::CreateMapPoiRequest { name: "对面小馆".to_owned(), ..new_map_poi() };
    let other = app.map_pois().create_map_poi(other).await.expect("submitted").into_inner();
    app.approve(&other.submission.expect("a submission"));
    app.has_events(1).await;
    let unknown =
        app.map_pois().create_map_poi(request()).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&unknown), is(Code::Unknown, "OUTCOME_UNKNOWN"));

    let audit_id = app.wechat.audits()[0].audit_id;
    app.wechat.approve(audit_id).expect("an open review");
    app.has_events(2).await;
    // The event confirms the matching write without a read.
    app.clock.advance(Duration::from_secs(30));
    app.reaches(Some(WriteState::Finished)).await;
    let answer = app.map_pois().create_map_poi(request()).await.expect("known").into_inner();
    assert!(answer.recovered);
    let submission = answer.submission.expect("a submission");
    let known = app.submission(&submission.submission_id).await;
    assert_eq!((known.state(), known.audit_id), (AuditState::Approved, audit_id.to_string()));
    assert!(!known.map_poi_id.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn identical_store_of_another_write_proves_nothing() {
    let app = App::start().await;
    // The same store under another request id. That write was executed.
    let first = pb::AddStoreRequest { request_id: String::new(), ..new_store(PLACE, "0001") };
    app.stores().add_store(first).await.expect("submitted");
    app.wechat.fault(Fault::new("/wxa/add_store", Kind::ResetBefore));
    let lost = app.run(Write::AddStore, "").await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.clock.advance(LIMIT);
    let there = app.run(Write::AddStore, "").await.expect_err("it is there");
    assert_eq!(there.code(), Code::AlreadyExists);
    app.stop().await;
}

#[tokio::test]
async fn update_is_recovered_despite_other_changes() {
    let app = App::start().await;
    let poi_id = app.approved_store("0001").await;
    let phone = || pb::UpdateStoreRequest {
        request_id: NAME.to_owned(),
        poi_id: poi_id.clone(),
        contact_phone: Some("020-1".to_owned()),
        ..Default::default()
    };
    app.wechat.fault(Fault::new("/wxa/update_store", Kind::ResetAfter));
    app.wechat.fault(Fault::new("/wxa/get_store_info", Kind::Html502).times(3).after(1));
    let lost = app.stores().update_store(phone()).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.heal();
    app.clock.advance(LIMIT);
    let hours = pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        hours: Some(hours("08:00", "09:00")),
        ..Default::default()
    };
    app.stores().update_store(hours).await.expect("updated");
    let answer = app.stores().update_store(phone()).await.expect("it is shown").into_inner();
    assert!(answer.recovered);
    assert_eq!(app.count("/wxa/update_store"), 2);
    app.stop().await;
}

#[tokio::test]
async fn invisible_update_is_resent() {
    let app = App::start().await;
    let poi_id = app.approved_store("0001").await;
    let request = || pb::UpdateStoreRequest {
        request_id: NAME.to_owned(),
        poi_id: poi_id.clone(),
        card_id: Some("pabcedfg1234567hijklmn".to_owned()),
        ..Default::default()
    };
    app.wechat.fault(Fault::new("/wxa/update_store", Kind::ResetAfter));
    let lost = app.stores().update_store(request()).await.expect_err("no call shows the card");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.clock.advance(LIMIT);
    let answer = app.stores().update_store(request()).await.expect("sent again").into_inner();
    assert!(!answer.recovered);
    assert_eq!(app.count("/wxa/update_store"), 2);
    app.stop().await;
}

#[tokio::test]
async fn application_is_recovered_by_its_changes() {
    const LOOK: &str = "/wxa/get_merchant_audit_info";
    // This does not hold if the store could not be read before the write.
    for seen_before in [true, false] {
        let app = App::start().await;
        let no_merchant = json!({ "app_id": OFFICIAL_APP_ID, "exists": false });
        app.wechat.control("POST", "merchant", &no_merchant).expect("gone");
        let request =
            pb::ApplyMerchantRequest { request_id: NAME.to_owned(), ..app.application().await };
        app.wechat.fault(Fault::new("/wxa/apply_merchant", Kind::ResetAfter));
        let passing = u64::from(seen_before);
        app.wechat.fault(Fault::new(LOOK, Kind::Html502).times(0).after(passing));
        let lost = app
            .merchants()
            .apply_merchant(request.clone())
            .await
            .expect_err("the outcome is unknown");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
        app.heal();
        app.clock.advance(LIMIT);
        let again = app.merchants().apply_merchant(request).await;
        assert_eq!(app.count("/wxa/apply_merchant"), 1);
        if !seen_before {
            let unknown = again.expect_err("the outcome is unknown");
            assert_eq!(reason(&unknown), is(Code::Unknown, "OUTCOME_UNKNOWN"));
            app.stop().await;
            continue;
        }
        let answer = again.expect("it is shown").into_inner();
        assert!(answer.recovered);
        let submission = answer.submission.expect("a submission");
        let audit_id = app.wechat.audits()[0].audit_id;
        assert_eq!(submission.audit_id, audit_id.to_string());
        app.wechat.approve(audit_id).expect("an open review");
        app.has_events(1).await;
        let known = app.submission(&submission.submission_id).await;
        assert_eq!(known.state(), AuditState::Approved);
        app.stop().await;
    }
}

#[tokio::test]
async fn recorded_submission_proves_execution() {
    for write in [Write::AddNearbyPoi, Write::AddStore, Write::Migrate, Write::ReplaceNearbyPoi] {
        let app = App::start().await;
        let poi_id = app.prepare(write).await;
        let before = app.count(write.path());
        let (_, submission) = app.run(write, &poi_id).await.expect("submitted");
        let submission = submission.expect("a submission");
        // The process ended before it could record the end of the write.
        let unnoted = "UPDATE writes SET state = 'sent', until = 0, reply = NULL, ended = 0;
                       COMMIT";
        app.lock_state().execute_batch(unnoted).expect("as if");
        let (recovered, again) = app.run(write, &poi_id).await.expect("known");
        assert_eq!((recovered, again), (true, Some(submission)), "{write:?}");
        assert_eq!(app.count(write.path()), before + 1, "{write:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn empty_answer_proves_nothing() {
    let app = App::start().await;
    let poi_id = app.prepare(Write::DeleteNearbyPoi).await;
    app.wechat.fault(Fault::new("/wxa/delnearbypoi", Kind::ResetBefore));
    app.fault("/wxa/getnearbypoilist", Kind::NullField { pointer: "/data".to_owned() });
    let lost = app.run(Write::DeleteNearbyPoi, &poi_id).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;

    let app = App::start().await;
    let no_merchant = json!({ "app_id": OFFICIAL_APP_ID, "exists": false });
    app.wechat.control("POST", "merchant", &no_merchant).expect("gone");
    let request =
        pb::ApplyMerchantRequest { request_id: NAME.to_owned(), ..app.application().await };
    app.wechat.fault(Fault::new("/wxa/apply_merchant", Kind::ResetBefore));
    let nothing = Kind::NullField { pointer: "/data".to_owned() };
    app.wechat.fault(Fault::new("/wxa/get_merchant_audit_info", nothing).times(0).after(1));
    let lost = app.merchants().apply_merchant(request).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;
}

#[tokio::test]
async fn change_by_another_application_proves_nothing() {
    let app = App::start().await;
    let no_merchant = json!({ "app_id": OFFICIAL_APP_ID, "exists": false });
    app.wechat.control("POST", "merchant", &no_merchant).expect("gone");
    let request = app.application().await;
    app.merchants().apply_merchant(request.clone()).await.expect("submitted");
    // Until an administrator confirms the new application, WeChat returns the previous one.
    let earlier = json!({ "errcode": 0, "data": { "audit_id": 7, "status": 3, "reason": "" } });
    let earlier = Kind::Replace { body: earlier };
    app.wechat.fault(Fault::new("/wxa/get_merchant_audit_info", earlier).times(2));
    app.wechat.fault(Fault::new("/wxa/apply_merchant", Kind::ResetBefore));
    let second = pb::ApplyMerchantRequest { request_id: NAME.to_owned(), ..request };
    let lost =
        app.merchants().apply_merchant(second.clone()).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.heal();
    app.clock.advance(LIMIT);
    let unknown = app.merchants().apply_merchant(second).await.expect_err("it is the first one's");
    assert_eq!(reason(&unknown), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;
}

#[tokio::test]
async fn ambiguous_event_proves_nothing() {
    for event_first in [true, false] {
        let app = App::start().await;
        // The same place, without a number in its reply. An operator saw that it was submitted.
        let nameless = Kind::NullField { pointer: "/data/base_id".to_owned() };
        app.wechat.fault(Fault::new("/wxa/create_map_poi", nameless));
        let lost = app.map_pois().create_map_poi(new_map_poi()).await.expect_err("no number");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
        let listed = app.writes().list_writes(pb::ListWritesRequest::default()).await;
        let write_id = listed.expect("a page").into_inner().writes.remove(0).write_id;
        let resolution = pb::WriteResolution::Executed.into();
        let seen = pb::ResolveWriteRequest { write_id, resolution, ..Default::default() };
        app.writes().resolve_write(seen).await.expect("recovered");
        let audit_id = app.wechat.audits()[0].audit_id;
        if event_first {
            app.wechat.approve(audit_id).expect("an open review");
            app.has_events(1).await;
            app.clock.advance(Duration::from_secs(1));
        }
        app.wechat.fault(Fault::new("/wxa/create_map_poi", Kind::ResetBefore));
        let request = || pb::CreateMapPoiRequest { request_id: NAME.to_owned(), ..new_map_poi() };
        let lost =
            app.map_pois().create_map_poi(request()).await.expect_err("the outcome is unknown");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
        if !event_first {
            app.wechat.approve(audit_id).expect("an open review");
            app.has_events(1).await;
        }
        let unknown =
            app.map_pois().create_map_poi(request()).await.expect_err("the outcome is unknown");
        assert_eq!(reason(&unknown), is(Code::Unknown, "OUTCOME_UNKNOWN"));
        app.stop().await;
    }
}

#[tokio::test]
async fn existing_place_proves_nothing() {
    let app = App::start().await;
    let answer = app.add_nearby_poi("").await.expect("submitted");
    app.approve(&answer.submission.expect("a submission"));
    app.has_events(1).await;
    app.clock.advance(Duration::from_secs(2));
    // Like a place that was added by hand, or whose record was pruned.
    app.lock_state().execute_batch("DELETE FROM submissions; COMMIT").expect("forgotten");
    app.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::ResetBefore));
    let lost = app.run(Write::AddNearbyPoi, "").await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.clock.advance(LIMIT);
    let there = app.run(Write::AddNearbyPoi, "").await.expect_err("it is there");
    assert_eq!(there.code(), Code::AlreadyExists);
    app.stop().await;
}

#[tokio::test]
async fn incomplete_list_proves_nothing() {
    let stores =
        |rows: Value, total| json!({ "errcode": 0, "business_list": rows, "total_count": total });
    let places = |rows: Value| {
        let rows = json!({ "poi_list": rows }).to_string();
        json!({
            "errcode": 0, "data": { "left_apply_num": 8, "max_apply_num": 10, "data": rows }
        })
    };
    let (none, nameless) = (json!([]), json!([{}, {}]));
    for (write, listed) in [
        (Write::AddStore, stores(none.clone(), json!(1))),
        (Write::AddStore, stores(none.clone(), Value::Null)),
        (Write::AddStore, stores(json!([{ "base_info": {} }]), json!(1))),
        (Write::Migrate, stores(none.clone(), json!(1))),
        (Write::Migrate, stores(json!([{ "base_info": { "poi_id": 271262077 } }]), json!(1))),
        (Write::AddNearbyPoi, places(none.clone())),
        (Write::AddNearbyPoi, places(nameless.clone())),
        (Write::ReplaceNearbyPoi, places(none.clone())),
        (Write::DeleteNearbyPoi, places(none)),
        (Write::DeleteNearbyPoi, places(nameless)),
    ] {
        let app = App::start().await;
        let poi_id = app.prepare(write).await;
        let before = app.count(write.path());
        app.wechat.fault(Fault::new(write.path(), Kind::ResetBefore));
        app.fault(write.read_path(), Kind::Replace { body: listed.clone() });
        app.run(write, &poi_id).await.expect_err("the outcome is unknown");
        // The same holds if a complete list would prove that the write was not executed.
        app.clock.advance(LIMIT);
        let lost = app.run(write, &poi_id).await.expect_err("the outcome is unknown");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"), "{write:?}: {listed}");
        let looks = app.count(write.read_path());
        app.clock.advance(Duration::from_secs(700));
        within(SOON, async {
            while app.count(write.read_path()) < looks + 2 {
                app.clock.advance(Duration::from_secs(60));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let noted = app.noted().await.map(|write| write.state());
        assert_eq!(noted, Some(WriteState::Unknown), "{write:?}: {listed}");
        assert_eq!(app.count(write.path()), before + 1, "{write:?}: {listed}");

        app.heal();
        let (recovered, _) = app.run(write, &poi_id).await.expect("sent again");
        assert!(!recovered, "{write:?}: {listed}");
        app.stop().await;
    }
}

#[tokio::test]
async fn busy_reply_leaves_creation_unknown() {
    for write in ALL {
        let makes = ![
            Write::DeleteLegacyStore,
            Write::DeleteNearbyPoi,
            Write::DeleteStore,
            Write::UpdateStore,
        ]
        .contains(&write);
        for executed in [true, false] {
            let app = App::start().await;
            let poi_id = app.prepare(write).await;
            let before = app.count(write.path());
            let busy = Kind::Errcode { errcode: -1, errmsg: None };
            app.wechat.fault(Fault::new(write.path(), busy).execute(executed));
            let passing = u64::from(write == Write::UpdateStore);
            app.wechat.fault(Fault::new(write.read_path(), Kind::Html502).times(0).after(passing));
            app.run(write, &poi_id).await.expect_err("busy");
            let noted = app.noted().await.map(|write| write.state());
            assert_eq!(noted, makes.then_some(WriteState::Unknown), "{write:?}");
            app.heal();
            if makes && executed {
                let (recovered, _) = app.run(write, &poi_id).await.expect("it got through");
                assert!(recovered, "{write:?}");
            }
            assert_eq!(app.count(write.path()), before + 1, "{write:?}");
            app.stop().await;
        }
    }
}

/// Returns a reply that lists this place in review.
fn in_review(poi_id: &str, audit_id: &str) -> Kind {
    let pb::NearbyPoiProfile { address, license_number, .. } = nearby_profile(PLACE);
    let rows = json!({ "poi_list": [{
        "poi_id": poi_id, "qualification_address": address, "qualification_num": license_number,
        "audit_status": 3, "display_status": 0, "audit_id": audit_id,
    }] });
    let (data, most) = (rows.to_string(), 10);
    let data = json!({ "left_apply_num": most - 1, "max_apply_num": most, "data": data });
    Kind::Replace { body: json!({ "errcode": 0, "data": data }) }
}

impl App {
    /// Adds a place that is not executed and whose reply is lost.
    async fn lose_place(&self) -> Status {
        self.clock.advance(Duration::from_secs(2));
        self.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::ResetBefore));
        self.run(Write::AddNearbyPoi, "").await.expect_err("the outcome is unknown")
    }
}

#[tokio::test]
async fn place_of_another_submission_proves_nothing() {
    let app = App::start().await;
    app.add_nearby_poi("").await.expect("submitted");
    assert_eq!(reason(&app.lose_place().await), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;
}

#[tokio::test]
async fn place_in_another_review_proves_nothing() {
    for (audit_id, is_anothers) in [("7", true), ("8", false)] {
        let app = App::start().await;
        // Only the review number of the other submission is known, not its place.
        let body = json!({ "errcode": 0, "data": { "audit_id": 7 } });
        app.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::Replace { body }));
        app.add_nearby_poi("").await.expect("submitted");
        app.fault("/wxa/getnearbypoilist", in_review("503450501", audit_id));
        app.clock.advance(Duration::from_secs(2));
        app.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::ResetBefore));
        match app.run(Write::AddNearbyPoi, "").await {
            Ok((recovered, _)) => assert!(recovered && !is_anothers),
            Err(status) => {
                assert!(is_anothers);
                assert_eq!(reason(&status), is(Code::Unknown, "OUTCOME_UNKNOWN"));
            }
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn ambiguous_place_proves_nothing() {
    let app = App::start().await;
    let other = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d";
    app.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::ResetBefore));
    app.add_nearby_poi(other).await.expect_err("the outcome is unknown");
    app.clock.advance(LIMIT);
    let writes = app.writes().list_writes(pb::ListWritesRequest::default()).await.expect("writes");
    let resolve = pb::ResolveWriteRequest {
        write_id: writes.into_inner().writes.remove(0).write_id,
        resolution: pb::WriteResolution::Executed.into(),
        ..Default::default()
    };
    // The operator knows neither the id of the place nor the number of its review.
    app.writes().resolve_write(resolve).await.expect("resolved");
    app.fault("/wxa/getnearbypoilist", in_review("503450501", ""));
    assert_eq!(reason(&app.lose_place().await), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;
}

#[tokio::test]
async fn place_replaced_by_another_submission_proves_nothing() {
    let app = App::start().await;
    let poi_id = app.prepare(Write::ReplaceNearbyPoi).await;
    let replace = pb::ReplaceNearbyPoiRequest {
        nearby_poi_id: poi_id.clone(),
        profile: Some(nearby_profile(PLACE)),
        ..Default::default()
    };
    app.nearby().replace_nearby_poi(replace).await.expect("submitted");
    app.clock.advance(Duration::from_secs(2));
    app.wechat.fault(Fault::new("/wxa/addnearbypoi", Kind::ResetBefore));
    let lost = app.run(Write::ReplaceNearbyPoi, &poi_id).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;
}
