//! Writes with a request id: the answer of a repeat, and the calls that are sent.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{self, WriteResolution, WriteState, get_write_request::Lookup};

use crate::support::{App, SET_CARD, is, new_store, reason, with_deadline, within};

const ADD_STORE: &str = "/wxa/add_store";
const PLACE: &str = "2708071440732747189";
const NAME: &str = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d";
const OTHER: &str = "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a90";
const SOON: Duration = Duration::from_secs(20);

/// Returns a store that is submitted with this request id.
fn with_request_id(name: &str) -> pb::AddStoreRequest {
    pb::AddStoreRequest { request_id: name.to_owned(), ..new_store(PLACE, "0001") }
}

impl App {
    async fn add(&self, request: pb::AddStoreRequest) -> Result<pb::AddStoreResponse, Status> {
        Ok(self.stores().add_store(request).await?.into_inner())
    }

    async fn get_write(&self, name: &str) -> Result<pb::Write, Status> {
        let lookup = Some(Lookup::WriteRequestId(name.to_owned()));
        let request = pb::GetWriteRequest { app_id: String::new(), lookup };
        Ok(self.writes().get_write(request).await?.into_inner().write.expect("a write"))
    }

    async fn list_writes(&self, states: &[WriteState]) -> Vec<pb::Write> {
        let states = states.iter().map(|state| (*state).into()).collect();
        let request = pb::ListWritesRequest { states, ..Default::default() };
        self.writes().list_writes(request).await.expect("writes").into_inner().writes
    }

    async fn resolve(
        &self,
        write_id: &str,
        resolution: WriteResolution,
    ) -> Result<pb::Write, Status> {
        let (write_id, resolution) = (write_id.to_owned(), resolution.into());
        let request = pb::ResolveWriteRequest { app_id: String::new(), write_id, resolution };
        Ok(self.writes().resolve_write(request).await?.into_inner().write.expect("a write"))
    }

    /// Makes a write whose reply is lost and whose outcome WeChat does not show.
    async fn lost(&self) -> pb::Write {
        self.wechat.fault(Fault::new(ADD_STORE, Kind::ResetAfter));
        self.fault("/wxa/get_store_list", Kind::Html502);
        let lost = self.add(with_request_id(NAME)).await.expect_err("no reply");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
        let write = self.get_write(NAME).await.expect("remembered");
        assert_eq!((write.state(), write.attempts), (WriteState::Unknown, 1));
        write
    }
}

#[tokio::test]
async fn repeat_gets_first_answer() {
    let app = App::start().await;
    let first = app.add(with_request_id(NAME)).await.expect("submitted");
    let again = app.add(with_request_id(NAME)).await.expect("known");
    assert_eq!(again, first);
    assert_eq!(app.count(ADD_STORE), 1);
    let write = app.get_write(NAME).await.expect("remembered");
    assert_eq!(
        (write.state(), write.method.as_str()),
        (WriteState::Finished, "StoreService/AddStore")
    );
    assert_eq!(write.client_reference, "shop-0001");
    let response = write.response.expect("the response");
    assert_eq!(response.type_url, "type.googleapis.com/wechat.store.v1.AddStoreResponse");
    assert_eq!(pb::AddStoreResponse::decode(&*response.value).expect("a response"), first);

    // The same holds after a restart and for an empty response.
    let app = app.restart().await;
    assert_eq!(app.add(with_request_id(NAME)).await.expect("known"), first);
    assert_eq!(app.count(ADD_STORE), 1);
    app.approve(&first.submission.expect("a submission"));
    let card = pb::SetStoreCardRequest {
        request_id: OTHER.to_owned(),
        poi_id: app.list_stores().await[0].poi_id.clone(),
        card_id: "pabcedfg1234567hijklmn".to_owned(),
        ..Default::default()
    };
    for _ in 0..2 {
        let answer = app.cards().set_store_card(card.clone()).await.expect("set").into_inner();
        assert!(!answer.recovered);
    }
    assert_eq!(app.count(SET_CARD), 1);
    app.stop().await;
}

#[tokio::test]
async fn concurrent_repeats_share_one_execution() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(ADD_STORE, Kind::Latency { ms: 300 }));
    let calls = (0..20).map(|_| app.add(with_request_id(NAME)));
    let answers = futures_util::future::join_all(calls).await;
    let first = answers[0].as_ref().expect("submitted");
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer == first)));
    assert_eq!(app.count(ADD_STORE), 1);
    app.stop().await;
}

#[tokio::test]
async fn other_request_with_same_id_is_refused() {
    let app = App::start().await;
    app.add(with_request_id(NAME)).await.expect("submitted");
    let other = pb::AddStoreRequest { contact_phone: "020-1".to_owned(), ..with_request_id(NAME) };
    let refused = app.add(other).await.expect_err("another one");
    assert_eq!(reason(&refused), is(Code::InvalidArgument, "REQUEST_ID_REUSED"));
    let violations = refused.get_details_bad_request().expect("fields").field_violations;
    assert_eq!(violations[0].field, "request_id");
    // A request id counts per method.
    let card = pb::SetStoreCardRequest {
        request_id: NAME.to_owned(),
        poi_id: "1".to_owned(),
        card_id: "p".to_owned(),
        ..Default::default()
    };
    let missing = app.cards().set_store_card(card).await.expect_err("no such store");
    assert_eq!(reason(&missing), is(Code::NotFound, "STORE_NOT_FOUND"));
    app.stop().await;
}

#[tokio::test]
async fn repeat_executes_refused_or_unsent_write() {
    let app = App::start().await;
    app.wechat.refuse_next(ADD_STORE, 85038);
    app.add(with_request_id(NAME)).await.expect_err("refused");
    let unknown = app.get_write(NAME).await.expect_err("released");
    assert_eq!(reason(&unknown), is(Code::NotFound, "WRITE_NOT_FOUND"));
    app.add(with_request_id(NAME)).await.expect("submitted");
    assert_eq!(app.count(ADD_STORE), 2);

    // No token arrives in time, so nothing is sent.
    app.wechat.control("DELETE", "tokens", &serde_json::json!({})).expect("revoked");
    app.fault("/cgi-bin/stable_token", Kind::Latency { ms: 3_000 });
    let late = pb::AddStoreRequest { license_number: "2".to_owned(), ..with_request_id(OTHER) };
    let request = with_deadline(late, Duration::from_millis(500));
    app.stores().add_store(request).await.expect_err("too late");
    within(SOON, async {
        while app.get_write(OTHER).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn lost_reply_causes_no_second_call() {
    let app = App::start().await;
    let write = app.lost().await;
    let app = app.restart().await;
    let again = app.add(with_request_id(NAME)).await.expect_err("the outcome is unknown");
    assert_eq!(reason(&again), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    let info = again.get_details_error_info().expect("a reason");
    assert_eq!(info.metadata["write_id"], write.write_id);
    assert_eq!(app.count(ADD_STORE), 1);
    assert_eq!(app.list_writes(&[WriteState::Unknown]).await, [write]);
    assert_eq!(app.list_writes(&[WriteState::Finished]).await, []);
    app.stop().await;
}

#[tokio::test]
async fn operator_resolves_unknown_write() {
    let app = App::start().await;
    let write = app.lost().await;
    let before = app.resolve(&write.write_id, WriteResolution::Executed).await.expect("resolved");
    assert_eq!(before, write);
    let recovered = app.add(with_request_id(NAME)).await.expect("executed");
    let submission = recovered.submission.expect("the submission");
    assert!(recovered.recovered);
    assert_eq!(app.submission(&submission.submission_id).await, submission);
    let done = app.resolve(&write.write_id, WriteResolution::NotExecuted).await;
    let done = done.expect_err("it is known");
    assert_eq!(reason(&done), is(Code::FailedPrecondition, "WRITE_NOT_RESOLVABLE"));
    assert_eq!(app.count(ADD_STORE), 1);
    app.stop().await;

    let app = App::start().await;
    let write = app.lost().await;
    let foreign = pb::ResolveWriteRequest {
        app_id: MINI_PROGRAM_APP_ID.to_owned(),
        write_id: write.write_id.clone(),
        resolution: WriteResolution::NotExecuted.into(),
    };
    let foreign = app.writes().resolve_write(foreign).await.expect_err("another account's");
    assert_eq!(reason(&foreign), is(Code::NotFound, "WRITE_NOT_FOUND"));
    let unsaid = app.resolve(&write.write_id, WriteResolution::Unspecified).await;
    assert_eq!(reason(&unsaid.expect_err("what?")), is(Code::InvalidArgument, "INVALID_REQUEST"));
    app.resolve(&write.write_id, WriteResolution::NotExecuted).await.expect("resolved");
    // The simulator had executed it regardless of its answer. Only the second call matters here.
    app.add(with_request_id(NAME)).await.expect_err("it is there already");
    assert_eq!(app.count(ADD_STORE), 2);
    app.stop().await;
}

#[tokio::test]
async fn repeat_after_leaving_gets_the_outcome() {
    let app = App::start().await;
    app.read().await.expect_err("there is no such store, but now a token");
    app.wechat.fault(Fault::new(ADD_STORE, Kind::Latency { ms: 1_500 }));
    let request = with_deadline(with_request_id(NAME), Duration::from_millis(700));
    let left = app.stores().add_store(request).await.expect_err("too late");
    assert_eq!(left.code(), Code::DeadlineExceeded);
    let sent = app.get_write(NAME).await.expect("remembered");
    assert_eq!((sent.state(), sent.attempts), (WriteState::Sent, 1));
    let hasty = with_deadline(with_request_id(NAME), Duration::from_millis(300));
    let running = app.stores().add_store(hasty).await.expect_err("still running");
    assert_eq!(reason(&running), is(Code::Aborted, "WRITE_IN_PROGRESS"));
    assert!(running.get_details_retry_info().is_some());
    // A longer wait gets the answer.
    let answer = app.add(with_request_id(NAME)).await.expect("submitted");
    let write = app.get_write(NAME).await.expect("remembered");
    assert_eq!(write.state(), WriteState::Finished);
    let response = write.response.expect("the response");
    assert_eq!(pb::AddStoreResponse::decode(&*response.value).expect("a response"), answer);
    assert_eq!(app.count(ADD_STORE), 1);
    app.stop().await;
}

#[tokio::test]
async fn unrecordable_write_is_not_sent() {
    let app = App::start().await;
    app.read().await.expect_err("there is no such store, but now a token");
    let lock = app.lock_state();
    let refused = app.add(with_request_id(NAME)).await.expect_err("no state");
    assert_eq!(reason(&refused), is(Code::Unavailable, "STATE_UNAVAILABLE"));
    assert_eq!(app.count(ADD_STORE), 0);
    drop(lock);
    app.add(with_request_id(NAME)).await.expect("submitted");
    app.stop().await;
}

#[tokio::test]
async fn nonrepeatable_write_without_id_is_recorded() {
    let app = App::start().await;
    app.add(new_store(PLACE, "0001")).await.expect("submitted");
    app.write().await.expect_err("there is no such store");
    assert_eq!(app.count(SET_CARD), 1);
    let [write] = &app.list_writes(&[]).await[..] else { panic!("one record") };
    assert_eq!((write.method.as_str(), write.request_id.as_str()), ("StoreService/AddStore", ""));
    app.stop().await;
}

#[tokio::test]
async fn outcome_is_recorded_after_state_recovers() {
    for refused in [false, true] {
        let app = App::start().await;
        // The state fails as soon as it must record an end.
        let end = if refused { "DELETE" } else { "UPDATE OF ended" };
        let state = app.open_state();
        let fails = format!(
            "CREATE TRIGGER failing BEFORE {end} ON writes BEGIN SELECT RAISE(ABORT, 'no'); END"
        );
        state.execute_batch(&fails).expect("a trigger");
        if refused {
            app.wechat.refuse_next(ADD_STORE, 85038);
        }
        let first = app.add(with_request_id(NAME)).await;
        assert_eq!(first.is_err(), refused, "the caller gets WeChat's answer");
        let open = app.get_write(NAME).await.expect("noted before it was sent");
        assert_eq!(open.state(), WriteState::Sent);

        state.execute_batch("DROP TRIGGER failing").expect("no trigger");
        within(SOON, async {
            let noted = || async { app.get_write(NAME).await.map(|write| write.state()).ok() };
            while noted().await == Some(WriteState::Sent) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let again = app.add(with_request_id(NAME)).await.expect("known, or sent again");
        assert!(!again.recovered, "WeChat was not asked what became of it");
        assert_eq!(app.count(ADD_STORE), if refused { 2 } else { 1 });
        assert_eq!(app.count("/wxa/get_store_list"), 0);
        app.stop().await;
    }
}
