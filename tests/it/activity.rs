//! The caller of a write: in the journal, in events, and in the activity log.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tonic::{Code, Request, metadata::MetadataValue};
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{self, WriteResolution, get_write_request::Lookup};

use crate::{
    access::{READ, bearer, call, caller, rpcs},
    support::{App, is, new_map_poi, new_store, reason, within},
};

const CREATE: &str = "/wxa/create_map_poi";
const REQUEST_ID: &str = "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a99";
const SOON: Duration = Duration::from_secs(20);

/// The file of an activity log, in a folder of its own.
struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("activity.jsonl")
    }

    /// Returns the section of the settings.
    fn section(&self) -> String {
        format!("[activity]\nlog = \"{}\"\n", self.path().display())
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("a file")
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Returns a field of each line.
    fn all(&self, field: &str) -> Vec<String> {
        self.lines().iter().map(|line| text(line, field)).collect()
    }

    /// Waits for this many lines.
    async fn await_lines(&self, count: usize) {
        let enough = async {
            while self.lines().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(SOON, enough).await;
    }
}

fn text(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap_or_else(|| panic!("{field} in {line}")).to_owned()
}

fn callers() -> String {
    [
        caller("orders", "role = \"writer\""),
        caller("stock", &format!("roles = {{ {OFFICIAL_APP_ID} = \"writer\" }}")),
        caller("reader", "role = \"reader\""),
        caller("admin", "role = \"admin\""),
    ]
    .concat()
}

/// Returns a request of this caller.
fn by<T>(caller: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(bearer(caller)).expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

fn create(request_id: &str) -> pb::CreateMapPoiRequest {
    pb::CreateMapPoiRequest { request_id: request_id.to_owned(), ..new_map_poi() }
}

async fn created(app: &App, caller: &str) -> pb::Submission {
    let answer = app.map_pois().create_map_poi(by(caller, create(REQUEST_ID))).await;
    answer.expect("created").into_inner().submission.expect("a submission")
}

async fn found(app: &App, caller: &str) -> pb::Write {
    let lookup = Some(Lookup::WriteRequestId(REQUEST_ID.to_owned()));
    let request = pb::GetWriteRequest { app_id: String::new(), lookup };
    let answer = app.writes().get_write(by(caller, request)).await.expect("it is there");
    answer.into_inner().write.expect("a write")
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_one_request_id_both_write() {
    let app = App::with_sections(&callers()).await;
    let (first, second) = (created(&app, "orders").await, created(&app, "stock").await);
    assert_ne!(first.submission_id, second.submission_id);
    assert_eq!((&*first.caller, &*second.caller), ("orders", "stock"));
    assert_eq!(app.count(CREATE), 2);
    assert_eq!(created(&app, "orders").await, first);
    assert_eq!(created(&app, "stock").await, second);
    assert_eq!(app.count(CREATE), 2, "repeats");
    for (caller, own) in [("orders", &first), ("stock", &second), ("reader", &second)] {
        let write = found(&app, caller).await;
        assert_eq!((&write.write_id, &write.caller), (&own.submission_id, &own.caller), "{caller}");
    }

    app.approve(&first);
    let events = async {
        loop {
            let request = by("reader", pb::ListAuditEventsRequest::default());
            let page = app.audits().list_audit_events(request).await.expect("events").into_inner();
            if let Some(event) = page.events.first() {
                break event.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let event = within(SOON, events).await;
    assert_eq!((event.submission_id, &*event.caller), (first.submission_id, "orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn named_caller_repeats_its_earlier_write() {
    let app = App::start().await;
    let before = app.map_pois().create_map_poi(create(REQUEST_ID)).await.expect("created");
    let before = before.into_inner().submission.expect("a submission");
    assert_eq!(before.caller, "");
    let mut app = app;
    app.change_settings("[wechat]", &format!("{}[wechat]", callers()));
    let app = app.restart().await;
    assert_eq!(created(&app, "orders").await, before);
    assert_eq!(app.count(CREATE), 1, "it was not executed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_writes_leaves_one_line() {
    let log = Log::new();
    let app = App::with_sections(&[log.section(), callers()].concat()).await;
    let mut lines = 0;
    for (method, access) in rpcs() {
        let short = format!("{}/{}", method.parent_service().name(), method.name());
        for (name, app_id, leaves) in [
            ("orders", OFFICIAL_APP_ID, true),
            ("admin", OFFICIAL_APP_ID, true),
            ("reader", OFFICIAL_APP_ID, true),
            ("stock", MINI_PROGRAM_APP_ID, true),
            ("unknown", OFFICIAL_APP_ID, false),
        ] {
            let result = call(&app, &method, &[&bearer(name)], app_id).await;
            lines += usize::from(leaves && access != READ);
            let written = log.lines();
            assert_eq!(written.len(), lines, "{short} {name} {result:?}");
            let Some(line) = written.last().filter(|_| leaves && access != READ) else { continue };
            assert_eq!(
                (text(line, "caller"), text(line, "method")),
                (name.to_owned(), short.clone())
            );
            let (code, why) = match &result {
                Ok(()) => ("Ok".to_owned(), String::new()),
                Err(status) => (format!("{:?}", status.code()), reason(status).1),
            };
            let outcome = text(line, "outcome").replace('_', "").to_lowercase();
            assert_eq!((outcome, text(line, "reason")), (code.to_lowercase(), why), "{line}");
            // A caller that may write nowhere is refused before its message is read.
            if name != "reader" && !["PERMISSION_MISSING"].contains(&&*text(line, "reason")) {
                assert_eq!(text(line, "app_id"), app_id, "{line}");
            }
            assert_eq!(text(line, "trace_id").len(), 32, "{line}");
        }
    }
    assert!(lines > 20, "there are several of these RPCs");
}

#[tokio::test(flavor = "multi_thread")]
async fn line_has_names_but_no_content() {
    let log = Log::new();
    let app = App::with_sections(&log.section()).await;
    let store = pb::AddStoreRequest {
        request_id: REQUEST_ID.to_owned(),
        client_reference: "shop-of-mr-li".to_owned(),
        ..new_store("2708071440732747189", "1")
    };
    let checked = pb::AddStoreRequest { validate_only: true, ..store.clone() };
    app.stores().add_store(checked).await.expect("good");
    let submission = app.stores().add_store(store.clone()).await.expect("submitted").into_inner();
    let submission = submission.submission.expect("a submission");
    let foreign = pb::AddStoreRequest { app_id: "13800138000".to_owned(), ..store.clone() };
    let refused = app.stores().add_store(foreign).await.expect_err("no account");
    assert_eq!(reason(&refused), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));

    assert_eq!(log.all("outcome"), ["OK", "OK", "INVALID_ARGUMENT"]);
    assert_eq!(log.all("reason"), ["VALIDATE_ONLY", "", "ACCOUNT_UNKNOWN"]);
    assert_eq!(log.all("app_id"), [OFFICIAL_APP_ID, OFFICIAL_APP_ID, ""], "the default account");
    assert_eq!(log.all("request_id"), [REQUEST_ID; 3]);
    assert_eq!(log.all("write_id"), ["", &submission.submission_id, ""]);
    let text = log.text();
    let private = [&store.contact_phone, &store.license_number, &store.client_reference];
    for value in private.into_iter().chain(&store.picture_urls) {
        assert!(!value.is_empty() && !text.contains(&**value), "{value} in {text}");
    }
    assert!(!text.contains("13800138000"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn write_of_caller_that_left_has_outcome() {
    let log = Log::new();
    let app = App::with_sections(&log.section()).await;
    app.wechat.fault(Fault::new(CREATE, Kind::Latency { ms: 1_000 }));
    let mut map_pois = app.map_pois();
    let call = tokio::spawn(async move { map_pois.create_map_poi(create(REQUEST_ID)).await });
    within(SOON, async {
        while app.count(CREATE) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    call.abort();
    log.await_lines(2).await;
    assert_eq!(log.all("outcome"), ["CALLER_LEFT", "EXECUTED"]);
    let ids = log.all("write_id");
    assert!(!ids[0].is_empty() && ids[0] == ids[1], "{ids:?}");
    assert_eq!(log.all("request_id"), [REQUEST_ID; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_outcome_has_a_line() {
    let log = Log::new();
    let app = App::with_sections(&[log.section(), callers()].concat()).await;
    app.wechat.fault(Fault::new(CREATE, Kind::ResetAfter));
    let lost = app.map_pois().create_map_poi(by("orders", create(REQUEST_ID))).await;
    assert_eq!(reason(&lost.expect_err("no reply")), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    let resolve = pb::ResolveWriteRequest {
        app_id: String::new(),
        write_id: found(&app, "orders").await.write_id,
        resolution: WriteResolution::NotExecuted.into(),
    };
    let write_id = resolve.write_id.clone();
    app.writes().resolve_write(by("admin", resolve)).await.expect("resolved");
    let of = |field| log.all(field);
    assert_eq!(of("outcome"), ["UNKNOWN", "NOT_EXECUTED", "OK"]);
    assert_eq!(of("caller"), ["orders", "orders", "admin"]);
    let methods =
        ["MapPoiService/CreateMapPoi", "MapPoiService/CreateMapPoi", "WriteService/ResolveWrite"];
    assert_eq!(of("method"), methods);
    assert_eq!(of("write_id"), [&*write_id; 3]);
    assert_eq!(of("app_id"), [OFFICIAL_APP_ID; 3]);
}
