//! Traces and logs of real processes: their contents, and the secrets that they must not contain.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use serde_json::json;
use tonic::{Request, transport::Channel};
use wechat_simulator::MINI_PROGRAM_APP_ID;
use wechat_store_gateway::pb::{
    self, account_service_client::AccountServiceClient, audit_service_client::AuditServiceClient,
    card_service_client::CardServiceClient, media_service_client::MediaServiceClient,
    nearby_service_client::NearbyServiceClient, store_service_client::StoreServiceClient,
    watch_audit_events_request::Start,
};

use self::{
    leaks::forms,
    process::{Process, connect, free_port, get, post},
    receiver::{Receiver, text, with_tls},
    samples::nearby_profile,
};

#[path = "../leaks/mod.rs"]
mod leaks;
mod process;
mod receiver;
#[path = "../samples/mod.rs"]
mod samples;
mod unwilling;
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_ID: &str = "00f067aa0ba902b7";
const OFFICIAL_APP_ID: &str = "wx00000000000000c1";
const OFFICIAL_SECRET: &str = "canary-official-secret-0123456789";
const CLASSIC_TOKEN: &str = "CANARY-classic-access-token_0123456789";
const CLASSIC_SECRET: &str = "canary/secret+with=signs&more";
const PHONE: &str = "13900007788";

fn attribute(span: &Span, key: &str) -> Option<String> {
    span.attributes.iter().find(|attribute| attribute.key == key).map(text)
}

fn is_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A sandbox that sends its traces to a receiver.
struct Sandbox {
    process: Process,
    channel: Channel,
    wechat: u16,
}

impl Sandbox {
    async fn start(name: &str, otlp: &str, environment: &[(&str, &str)]) -> Self {
        let (grpc, wechat) = (free_port(), free_port());
        // By default a sandbox logs only warnings.
        let own = [("OTEL_EXPORTER_OTLP_ENDPOINT", otlp), ("RUST_LOG", "info")];
        let process = Process::start(
            name,
            &[
                "sandbox",
                "--grpc",
                &format!("127.0.0.1:{grpc}"),
                "--simulator",
                &format!("127.0.0.1:{wechat}"),
                "--callback",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ],
            &[&own, environment].concat(),
        );
        Self { process, channel: connect(grpc).await, wechat }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_receiver_gets_one_trace_per_call() {
    let (receiver, otlp) = Receiver::start().await;
    let otlp = format!("http://{otlp}");
    receives_one_trace_per_call("traced-grpc", receiver, &otlp, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_receiver_gets_one_trace_per_call() {
    let (receiver, otlp) = Receiver::start_http().await;
    let (otlp, http) = (format!("http://{otlp}"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"));
    receives_one_trace_per_call("traced-http", receiver, &otlp, &[http]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_with_tls_get_traces() {
    for (name, protocol, variable) in
        [("tls-grpc", "h2", "grpc"), ("tls-http", "http/1.1", "http/protobuf")]
    {
        let (receiver, plain) = match variable {
            "grpc" => Receiver::start().await,
            _ => Receiver::start_http().await,
        };
        let (port, ca) = with_tls(plain, protocol.as_bytes()).await;
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.pem", std::process::id()));
        std::fs::write(&file, ca).expect("a file");
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", variable),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().expect("UTF-8")),
        ];
        let otlp = format!("https://localhost:{port}");
        receives_one_trace_per_call(name, receiver, &otlp, &variables).await;
    }
}

/// Makes an untraced and a traced call, and checks what the receiver gets.
async fn receives_one_trace_per_call(
    name: &str,
    receiver: Receiver,
    otlp: &str,
    variables: &[(&str, &str)],
) {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let sandbox = Sandbox::start(name, otlp, &[variables, &[attributes]].concat()).await;
    let mut cards = CardServiceClient::new(sandbox.channel);
    let message = || pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    // Not traced: the caller is not traced, and the share is one hundredth.
    let mut request = Request::new(message());
    let unsampled = format!("00-{}-{PARENT_ID}-00", "5".repeat(32));
    request.metadata_mut().insert("traceparent", unsampled.parse().expect("ASCII"));
    cards.get_store_card(request).await.expect_err("there is no such store");
    // Traced, because the caller is.
    let mut request = Request::new(message());
    let traceparent = format!("00-{TRACE_ID}-{PARENT_ID}-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
    let failure = cards.get_store_card(request).await.expect_err("there is no such store");
    assert_eq!(failure.metadata().get("x-trace-id").expect("an id"), TRACE_ID);
    let log = sandbox.process.stop();

    let mut spans = receiver.spans();
    // The simulator pushes a ticket at the start, and one push in a hundred is traced.
    spans.retain(|span| span.name != "POST /wechat/platform/{platform}/events");
    let [rpc, http] = &*by_kind(&spans) else { panic!("two spans: {spans:#?}\n{log}") };
    assert_eq!(hex(&rpc.trace_id), TRACE_ID);
    assert_eq!(hex(&http.trace_id), TRACE_ID);
    assert_eq!(hex(&rpc.parent_span_id), PARENT_ID);
    assert_eq!(http.parent_span_id, rpc.span_id);
    assert_eq!(rpc.name, "wechat.store.v1.CardService/GetStoreCard");
    assert_eq!(http.name, "POST /card/storewxa/get");
    for (span, key, value) in [
        (rpc, "rpc.system.name", "grpc"),
        (rpc, "rpc.method", "wechat.store.v1.CardService/GetStoreCard"),
        (rpc, "rpc.status_code", "NOT_FOUND"),
        (http, "http.request.method", "POST"),
        (http, "http.response.status_code", "200"),
        (http, "network.protocol.version", "1.1"),
        (http, "url.template", "/card/storewxa/get"),
        (http, "server.address", "127.0.0.1"),
        (http, "wechat.errcode", "65115"),
        (http, "error.type", "refused"),
    ] {
        assert_eq!(attribute(span, key).as_deref(), Some(value), "{key}");
    }
    assert!(!is_failed(rpc), "it is the caller's mistake");
    assert_eq!(attribute(rpc, "error.type"), None, "it is the caller's mistake");
    assert_eq!(receiver.schemas(), [SCHEMA, SCHEMA], "of the resource, and of the scope");
    assert!(is_failed(http));
    let url = attribute(http, "url.full").expect("a URL");
    assert!(url.ends_with("/card/storewxa/get?access_token=REDACTED"), "{url}");
    let resource = receiver.resource();
    let value =
        |key: &str| resource.iter().find(|(known, _)| known == key).map(|(_, value)| &**value);
    assert_eq!(value("service.name"), Some("wechat-store-gateway"));
    assert_eq!(value("service.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(value("service.instance.id").map(str::len), Some(36));
    assert_eq!(value("deployment.environment.name"), Some("test"));
    let metrics = receiver.metrics();
    for name in ["rpc.server.call.duration", "http.client.request.duration", "wechat.calls"] {
        let expected = ("wechat-store-gateway".to_owned(), name.to_owned());
        assert!(metrics.contains(&expected), "no {name}: {metrics:?}\n{log}");
    }
    for trace_id in [TRACE_ID, &"5".repeat(32)] {
        assert!(log.contains(trace_id), "the log of a failed call names its trace: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn push_links_to_the_trace_of_its_submission() {
    let (receiver, otlp) = Receiver::start().await;
    let always = ("OTEL_TRACES_SAMPLER", "always_on");
    let lines = ("RUST_LOG", "info,wechat_store_gateway::push=debug");
    let sandbox = Sandbox::start("linked", &format!("http://{otlp}"), &[always, lines]).await;
    let mut nearby = NearbyServiceClient::new(sandbox.channel.clone());
    let added = nearby.add_nearby_poi(new_place()).await.expect("submitted");
    let trace_id = added.metadata().get("x-trace-id").expect("an id").to_str().expect("ASCII");
    let trace_id = trace_id.to_owned();
    let submission = added.into_inner().submission.expect("a submission");
    assert_eq!(submission.trace_id, trace_id);
    let decide = format!("/_simulator/audits/{}", submission.audit_id);
    let answer = post(sandbox.wechat, &decide, &json!({"decision": "approve"}));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let start = Some(Start::Position(pb::WatchPosition::Earliest.into()));
    let watch = pb::WatchAuditEventsRequest { start, ..Default::default() };
    let watched = AuditServiceClient::new(sandbox.channel).watch_audit_events(watch).await;
    let mut watched = watched.expect("a stream").into_inner();
    let event = loop {
        let response = tokio::time::timeout(Duration::from_secs(30), watched.message()).await;
        let response = response.expect("in time").expect("no failure").expect("no end");
        if let Some(event) = response.event {
            break event;
        }
    };
    assert_eq!((&event.submission_id, &event.trace_id), (&submission.submission_id, &trace_id));
    drop(watched);
    let log = sandbox.process.stop();

    let spans = receiver.spans();
    let named = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.unwrap_or_else(|| panic!("no {name}: {spans:#?}\n{log}"))
    };
    let rpc = named("wechat.store.v1.NearbyService/AddNearbyPoi");
    let push = named("POST /wechat/callback/{app_id}");
    assert_eq!(hex(&rpc.trace_id), trace_id);
    assert!(push.parent_span_id.is_empty() && push.trace_id != rpc.trace_id);
    let [link] = &*push.links else { panic!("one link: {push:#?}") };
    assert_eq!((&link.trace_id, &link.span_id), (&rpc.trace_id, &rpc.span_id));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/wechat/callback/{app_id}"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("wechat_store_gateway.event_id", &*event.event_id),
    ] {
        assert_eq!(attribute(push, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(push, "url.query"), None, "it has the signature");
    let line = log.lines().find(|line| {
        // Tickets of the platform are pushes, too.
        line.contains("accepted a push") && line.contains("\"stored\":true")
    });
    let line = line.expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["trace_id"], hex(&push.trace_id), "{line}");
}

#[test]
fn wrong_variable_stops_the_start_with_its_name() {
    for command in ["serve", "check"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"))
            .arg(command)
            .env("WECHAT_APP_ID", OFFICIAL_APP_ID)
            .env("WECHAT_APP_SECRET", OFFICIAL_SECRET)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "gprc")
            .env("OTEL_TRACES_SAMPLER_ARG", "often")
            .output()
            .expect("our own binary");
        let printed = String::from_utf8_lossy(&output.stderr);
        leaks::check(&printed);
        assert_eq!(output.status.code(), Some(64), "{command}: {printed}");
        for variable in ["OTEL_EXPORTER_OTLP_PROTOCOL: ", "OTEL_TRACES_SAMPLER_ARG: "] {
            let lines = printed.lines().filter(|line| line.starts_with(variable));
            assert!(lines.count() > 0, "{command}: {variable} in {printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_log_names_the_trace_of_a_failure() {
    let grpc = free_port();
    let settings = format!(
        r#"
        [listen]
        grpc = "127.0.0.1:{grpc}"
        [log]
        format = "text"
        [[accounts]]
        app_id = "{OFFICIAL_APP_ID}"
        kind = "official"
        default = true
        secret = "{OFFICIAL_SECRET}"
        "#
    );
    let gateway = Process::serve("text-log", &settings, &[("RUST_LOG", "debug,h2=error")]);
    let mut cards = CardServiceClient::new(connect(grpc).await);
    let failure = cards.get_store_card(pb::GetStoreCardRequest::default()).await;
    let failure = failure.expect_err("the id is missing");
    let trace_id = failure.metadata().get("x-trace-id").expect("an id").to_str().expect("ASCII");
    let read = AccountServiceClient::new(connect(grpc).await)
        .list_accounts(pb::ListAccountsRequest::default())
        .await
        .expect("accounts");
    let read = read.metadata().get("x-trace-id").expect("an id").to_str().expect("ASCII");
    let log = gateway.stop();
    let line = |text: &str| {
        let line = log.lines().find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("no {text} in {log}"))
    };
    for id in [trace_id, read] {
        assert!(line(id).contains(&format!("trace_id={id}")), "{log}");
    }
    let line = line(trace_id);
    assert!(line.contains(" INFO ") && line.contains("code=\"INVALID_ARGUMENT\""), "{line}");
    assert!(!log.contains('\u{1b}'), "colors are for terminals");
}

/// Returns a nearby place to submit.
fn new_place() -> pb::AddNearbyPoiRequest {
    let place = nearby_profile("2708071440732747189");
    let profile = pb::NearbyPoiProfile { contact_phone: PHONE.to_owned(), ..place };
    pb::AddNearbyPoiRequest { profile: Some(profile), ..Default::default() }
}

/// Returns the span of the RPC, then the span of the attempt.
fn by_kind(spans: &[Span]) -> Vec<Span> {
    let mut spans = spans.to_vec();
    spans.sort_by_key(|span| span.kind != SpanKind::Server as i32);
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_traces_and_answers_contain_no_secret() {
    let (receiver, otlp) = Receiver::start().await;
    let (grpc, wechat, admin) = (free_port(), free_port(), free_port());
    let simulator = Process::start(
        "scanned-simulate",
        &["simulate", "--listen", &format!("127.0.0.1:{wechat}")],
        &[("RUST_LOG", "trace")],
    );
    let settings = format!(
        r#"
        [listen]
        grpc = "127.0.0.1:{grpc}"
        [wechat]
        hosts = ["http://127.0.0.1:{wechat}"]
        [[accounts]]
        app_id = "{OFFICIAL_APP_ID}"
        kind = "official"
        default = true
        secret = {{ env = "OFFICIAL" }}
        [[accounts]]
        app_id = "{MINI_PROGRAM_APP_ID}"
        kind = "mini_program"
        default = true
        secret = "{CLASSIC_SECRET}"
        token = "classic"
        "#
    );
    let gateway = Process::serve(
        "scanned-serve",
        &settings,
        &[
            ("RUST_LOG", "trace"),
            ("OFFICIAL", OFFICIAL_SECRET),
            ("WECHAT_STORE_GATEWAY__LISTEN__ADMIN", &format!("127.0.0.1:{admin}")),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{otlp}")),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ],
    );
    let channel = connect(grpc).await;
    connect(wechat).await;
    // The simulator's own accounts are not secret, because it prints them.
    let account = json!({"app_id": OFFICIAL_APP_ID, "secret": OFFICIAL_SECRET, "kind": "official"});
    let answer = post(wechat, "/_simulator/accounts", &account);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut shown = every_kind_of_call(channel, wechat).await;
    // The stable token is the same for every caller.
    let asked = json!({
        "grant_type": "client_credential", "appid": OFFICIAL_APP_ID, "secret": OFFICIAL_SECRET
    });
    let answer = post(wechat, "/cgi-bin/stable_token", &asked);
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    let token: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let token = token["access_token"].as_str().expect("a token").to_owned();

    let metrics = get(admin, "/metrics");
    // Without the values, which could be like a mobile number.
    metrics
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .for_each(|(name, _)| leaks::check(name));
    shown.push(metrics);
    shown.push(gateway.stop());
    shown.push(simulator.stop());
    let spans = receiver.spans();
    assert!(spans.len() > 20, "{} spans", spans.len());
    for (key, value, failed) in [
        ("error.type", "bad_status", true),
        ("http.request.resend_count", "2", true),
        ("rpc.status_code", "INVALID_ARGUMENT", false),
        ("rpc.status_code", "UNKNOWN", true),
        ("wechat.errcode", "0", false),
    ] {
        let span = spans.iter().find(|span| attribute(span, key).as_deref() == Some(value));
        let span = span.unwrap_or_else(|| panic!("no {key} is {value}"));
        assert_eq!(is_failed(span), failed, "{key} {value}: {span:?}");
    }
    leaks::check(&receiver.everything());
    shown.push(receiver.everything());
    let all = shown.concat();
    assert!(all.contains("access_token=REDACTED"), "the scan sees the traces");
    assert!(all.contains("no access token"), "the scan sees the logs");
    assert!(all.contains("wechat_calls_total{"), "the scan sees the metrics");
    for secret in [OFFICIAL_SECRET, CLASSIC_SECRET, CLASSIC_TOKEN, &token, PHONE] {
        for form in forms(secret) {
            if let Some(at) = all.find(&form) {
                let from = all.floor_char_boundary(at.saturating_sub(200));
                panic!("{form} of {secret} in …{}", &all[from..all.ceil_char_boundary(at + 100)]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_names_its_caller_at_any_level() {
    let (receiver, otlp) = Receiver::start().await;
    let grpc = free_port();
    // The SHA-256 hash of `token`.
    let hash = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0";
    let settings = format!(
        r#"
        [listen]
        grpc = "127.0.0.1:{grpc}"
        [[accounts]]
        app_id = "{OFFICIAL_APP_ID}"
        kind = "official"
        default = true
        secret = "{OFFICIAL_SECRET}"
        [[callers]]
        name = "orders"
        role = "writer"
        tokens = ["{hash}"]
        "#
    );
    let gateway = Process::serve(
        "named-serve",
        &settings,
        &[
            ("RUST_LOG", "error,activity=off"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{otlp}")),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ],
    );
    let mut cards = CardServiceClient::new(connect(grpc).await);
    // A client that is no known caller cannot force a span.
    let mut request = Request::new(pb::SetStoreCardRequest::default());
    let traceparent = format!("00-{TRACE_ID}-{PARENT_ID}-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
    request.metadata_mut().insert("authorization", "Bearer wrong".parse().expect("ASCII"));
    cards.set_store_card(request).await.expect_err("not known");
    // The id is wrong, so WeChat is not called.
    let mut request = Request::new(pb::SetStoreCardRequest::default());
    request.metadata_mut().insert("authorization", "Bearer token".parse().expect("ASCII"));
    cards.set_store_card(request).await.expect_err("no id");
    let log = gateway.stop();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [line] = &*lines else { panic!("one line: {log}") };
    for (field, value) in [
        ("target", "activity"),
        ("caller", "orders"),
        ("method", "CardService/SetStoreCard"),
        ("outcome", "INVALID_ARGUMENT"),
        ("reason", "INVALID_REQUEST"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    let spans = receiver.spans();
    let [span] = &*spans else { panic!("one span: {spans:#?}") };
    assert_eq!(attribute(span, "wechat_store_gateway.caller").as_deref(), Some("orders"));
}

/// Makes calls that succeed, that are refused, and that fail in the transport or at the token
/// endpoint. Returns the answers.
async fn every_kind_of_call(channel: Channel, wechat: u16) -> Vec<String> {
    let mut shown = Vec::new();
    let fault = |path: &str, kind: serde_json::Value, times: u32| {
        let fault = json!({"path": path, "kind": kind, "times": times});
        let answer = post(wechat, "/_simulator/faults", &fault);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let mut cards = CardServiceClient::new(channel.clone());
    let card = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    for kind in [
        json!("html502"),
        json!("reset_before"),
        json!("reset_after"),
        json!("truncate"),
        json!("not_json"),
        json!({"errcode": {"errcode": 40001}}),
        json!({"errcode": {"errcode": 48001}}),
    ] {
        fault("/card/storewxa/get", kind, 3);
        shown.push(format!("{:?}", cards.get_store_card(card.clone()).await));
    }
    let mut stores = StoreServiceClient::new(channel.clone());
    let store = pb::AddStoreRequest {
        map_poi_id: "2708071440732747189".to_owned(),
        picture_urls: vec!["http://mmbiz.qpic.cn/a".to_owned()],
        contact_phone: PHONE.to_owned(),
        hours: Some(pb::OpeningHours {
            open: "10:00".to_owned(),
            close: "21:00".to_owned(),
            text: String::new(),
        }),
        license_number: "22883878-0".to_owned(),
        ..Default::default()
    };
    shown.push(format!("{:?}", stores.add_store(store.clone()).await));
    for kind in [json!("reset_after"), json!("html502"), json!({"errcode": {"errcode": 85041}})] {
        fault("/wxa/add_store", kind, 1);
        shown.push(format!("{:?}", stores.add_store(store.clone()).await));
    }
    let bad = pb::AddStoreRequest { contact_phone: format!("{PHONE}\u{7}"), ..store };
    shown.push(format!("{:?}", stores.add_store(bad).await));
    let mut media = MediaServiceClient::new(channel.clone());
    let picture = pb::UploadImageRequest { content: "no picture".into(), ..Default::default() };
    shown.push(format!("{:?}", media.upload_image(picture).await));

    // The secret of the official account is sent in the body.
    let mut accounts = AccountServiceClient::new(channel.clone());
    let clear = pb::ClearQuotaRequest { use_secret: true, ..Default::default() };
    for kind in [json!("reset_after"), json!({"errcode": {"errcode": 40001}})] {
        fault("/cgi-bin/clear_quota/v2", kind, 1);
        shown.push(format!("{:?}", accounts.clear_quota(clear.clone()).await));
    }
    shown.push(format!("{:?}", accounts.clear_quota(clear).await.expect("cleared")));
    let list = pb::ListAccountsRequest::default();
    shown.push(format!("{:?}", accounts.list_accounts(list).await.expect("accounts")));

    // The mini program's secret is wrong, and is sent in a query.
    let mut nearby = NearbyServiceClient::new(channel);
    let list = pb::ListNearbyPoisRequest::default();
    shown.push(format!("{:?}", nearby.list_nearby_pois(list.clone()).await));
    shown.push(format!("{:?}", nearby.list_nearby_pois(list.clone()).await));
    post(wechat, "/_simulator/clock", &json!({"advance_seconds": 0}));
    let token = json!({"access_token": CLASSIC_TOKEN, "expires_in": 7200});
    fault("/cgi-bin/token", json!({"replace": {"body": token}}), 0);
    let list = pb::ListNearbyPoisRequest { page_size: 1, ..list };
    shown.push(format!("{:?}", nearby.list_nearby_pois(list).await));
    shown
}
