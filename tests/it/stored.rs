//! The state of an earlier version, opened by this one. `tests/stored` describes its contents.

use std::{fs, path::PathBuf, sync::Arc};

use prost::Message;
use prost_types::Timestamp;
use serde_json::json;
use tonic::Code;
use wechat_simulator::OFFICIAL_APP_ID;
use wechat_store_gateway::{
    pb::{
        self, AuditState, SubmissionKind, WriteResolution, WriteState,
        get_write_request::Lookup,
        platform::{AuthorizerRecord, Kind},
    },
    state::{Authorizer, State, Ticket, sqlite::Sqlite},
    testing::Clock,
};

use crate::{
    access::{bearer, caller},
    servers::RedisServer,
    state::secret,
    state_platforms::{assert_platforms, authorizer, platform, platforms},
    support::{App, is, new_map_poi, new_store, reason},
};

const PLACE: &str = "2708071440732747189";

fn stored(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stored")).join(file)
}

/// The `request_id` of a stored write.
fn request_id(number: u8) -> String {
    format!("7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a{number:02}")
}

impl App {
    async fn stored_write(&self, number: u8) -> pb::Write {
        let lookup = Some(Lookup::WriteRequestId(request_id(number)));
        let request = pb::GetWriteRequest { app_id: String::new(), lookup };
        let answer = self.writes().get_write(request).await.expect("it is there");
        answer.into_inner().write.expect("a write")
    }
}

/// Repeats writes of the earlier version. WeChat shows what some of them changed.
async fn answer_from(app: &App) {
    // The store is gone, so the deletion was executed.
    let delete = pb::DeleteStoreRequest {
        request_id: request_id(3),
        poi_id: "472671857".to_owned(),
        ..Default::default()
    };
    let deleted = app.stores().delete_store(delete).await.expect("WeChat shows it").into_inner();
    assert!(deleted.recovered);
    assert_eq!(app.count("/wxa/del_store"), 0, "nothing was sent");

    // The old store migrates, so the store was added.
    let migrate = pb::AddStoreRequest {
        request_id: request_id(4),
        legacy_poi_id: "271262077".to_owned(),
        ..new_store(PLACE, "0004")
    };
    let migrated = app.stores().add_store(migrate).await.expect("WeChat shows it").into_inner();
    let submission = migrated.submission.expect("a submission");
    assert!(migrated.recovered);
    assert_eq!(submission.client_reference, "shop-0004");
    assert_eq!(submission.request_id, request_id(4));
    assert_eq!(
        (submission.kind(), submission.state()),
        (SubmissionKind::Store, AuditState::InReview)
    );
    assert!(submission.create_time.is_some());
    assert_eq!(app.submission(&submission.submission_id).await, submission);

    // Nothing shows a place, so an operator resolves the write.
    let unknown = app.stored_write(10).await;
    assert_eq!(unknown.state(), WriteState::Unknown);
    let resolve = pb::ResolveWriteRequest {
        write_id: unknown.write_id,
        resolution: WriteResolution::Executed.into(),
        ..Default::default()
    };
    app.writes().resolve_write(resolve).await.expect("resolved");
    let resolved = app.stored_write(10).await.response.expect("a response");
    let response: pb::CreateMapPoiResponse =
        prost::Message::decode(&*resolved.value).expect("its own");
    assert_eq!(response.submission.expect("a submission").client_reference, "shop-2");

    // A used request id cannot be repeated with new content.
    let other = pb::DeleteStoreRequest {
        request_id: request_id(3),
        poi_id: "1".to_owned(),
        ..Default::default()
    };
    let status = app.stores().delete_store(other).await.expect_err("another request");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "REQUEST_ID_REUSED"));

    // A submission with an open review.
    let request = pb::ListSubmissionsRequest {
        client_reference: "shop-0002".to_owned(),
        ..Default::default()
    };
    let listed = app.audits().list_submissions(request).await.expect("submissions").into_inner();
    let [submission] = &listed.submissions[..] else { panic!("{listed:?}") };
    assert_eq!(
        (submission.audit_id.as_str(), submission.state()),
        ("414569001", AuditState::InReview)
    );
    assert_eq!(
        (submission.map_poi_id.as_str(), submission.request_id.as_str()),
        (PLACE, &*request_id(1))
    );
    assert_eq!(app.count("/wxa/add_store"), 0, "nothing was sent");
}

async fn migrating(app: &App) {
    let old = json!([{ "poi_id": "271262077", "upgrade_status": 2 }]);
    let body = json!({ "app_id": OFFICIAL_APP_ID, "stores": old });
    app.wechat.control("POST", "legacy_stores", &body).expect("an old store");
    assert_eq!(app.progress().await.migrating_count, 1);
}

#[tokio::test]
async fn sqlite_file_of_version_0_1_answers_repeats() {
    let app = App::start().await;
    migrating(&app).await;
    let app = app.restart_after(|file| {
        fs::copy(stored("state.db"), file).expect("copied");
    });
    let app = app.await;
    answer_from(&app).await;
    app.stop().await;
}

/// Returns a write of a caller whose name the journal has.
fn create_by(caller: &str, number: u8) -> tonic::Request<pb::CreateMapPoiRequest> {
    let message = pb::CreateMapPoiRequest { request_id: request_id(number), ..new_map_poi() };
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", bearer(caller).parse().expect("ASCII"));
    request
}

#[tokio::test]
async fn sqlite_file_of_schema_2_answers_each_caller() {
    let callers = [caller("orders", "role = \"writer\""), caller("stock", "role = \"writer\"")];
    let app = App::with_sections(&callers.concat()).await;
    let app = app.restart_after(|file| {
        fs::copy(stored("schema_2.db"), file).expect("copied");
    });
    let app = app.await;
    let create = async |caller, number| {
        let answer = app.map_pois().create_map_poi(create_by(caller, number)).await;
        answer.map(|answer| answer.into_inner().submission.expect("a submission"))
    };
    let orders = create("orders", 1).await.expect("it was executed");
    let stock = create("stock", 1).await.expect("it was executed");
    assert_eq!((&*orders.caller, &*stock.caller), ("orders", "stock"));
    assert_ne!(orders.submission_id, stock.submission_id);
    let lost = create("orders", 2).await.expect_err("WeChat does not show it");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    assert_eq!(app.count("/wxa/create_map_poi"), 0, "nothing was sent");
    let version: i64 =
        app.open_state().pragma_query_value(None, "user_version", |row| row.get(0)).expect("one");
    assert_eq!(version, 3);
    app.stop().await;
}

#[tokio::test]
async fn redis_of_version_0_1_answers_repeats() {
    let server = RedisServer::start_from(&stored("dump.rdb")).await;
    let mut app = App::start().await;
    migrating(&app).await;
    app.set_state_url(&server.url());
    let app = app.restart().await;
    answer_from(&app).await;
    app.stop().await;
}

/// Returns the stored authorizers.
fn authorizers() -> Vec<Authorizer> {
    let described = AuthorizerRecord {
        permission_sets: vec![1, 18, 30],
        described: true,
        kind: Kind::MiniProgram.into(),
        nick_name: "花店".to_owned(),
        principal_name: "广州花店有限公司".to_owned(),
        describe_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        authorization_code: String::new(),
    };
    let ended = Authorizer {
        authorized: false,
        refresh_token: None,
        record: AuthorizerRecord::default().encode_to_vec(),
        ..authorizer("wx2", 1_700_000_001)
    };
    let record = described.encode_to_vec();
    vec![Authorizer { record, ..authorizer("wx1", 1_700_000_000) }, ended]
}

async fn assert_authorizers(state: &dyn State) {
    let found = state.authorizers(&platform(), None, 9).await.expect("no error");
    let expected = authorizers();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(expected) {
        let record = |it: &Authorizer| AuthorizerRecord::decode(&*it.record).expect("a record");
        assert_eq!(record(&found), record(&expected));
        assert_eq!(found, Authorizer { record: found.record.clone(), ..expected });
    }
}

/// Opens a copy of a stored file, and returns its folder, too.
fn copied(file: &str) -> (tempfile::TempDir, Arc<dyn State>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    fs::copy(stored(file), &path).expect("copied");
    (folder, Arc::new(Sqlite::open(&path, Clock::system()).expect("a state")))
}

#[tokio::test]
async fn sqlite_file_of_schema_3_has_its_authorizers() {
    let (_folder, state) = copied("schema_3.db");
    let ticket = Ticket { value: secret("ticket"), sent_at: 4_102_444_800 };
    assert_eq!(state.ticket(&platform()).await, Ok(Some(ticket)));
    assert_authorizers(&*state).await;
}

#[tokio::test]
async fn redis_has_its_stored_authorizers() {
    let server = RedisServer::start_from(&stored("authorizers.rdb")).await;
    assert_authorizers(&*server.open().await).await;
}

#[tokio::test]
async fn sqlite_file_of_schema_2_accepts_authorizers() {
    let (folder, state) = copied("schema_2.db");
    let put = platforms(&state).await;
    assert_platforms(&state, put.clone()).await;
    drop(state);
    let state = Sqlite::open(&folder.path().join("state.db"), Clock::system());
    assert_platforms(&(Arc::new(state.expect("a state")) as Arc<dyn State>), put).await;
}
