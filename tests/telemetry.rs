//! Traces and logs of real processes: their contents, and the secrets that they must not contain.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Channel};
use wechat_simulator::MINI_PROGRAM_APP_ID;
use wechat_store_gateway::pb::{
    self, account_service_client::AccountServiceClient, card_service_client::CardServiceClient,
    media_service_client::MediaServiceClient, nearby_service_client::NearbyServiceClient,
    store_service_client::StoreServiceClient,
};

use self::forms::forms;

#[path = "it/forms.rs"]
mod forms;

const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_ID: &str = "00f067aa0ba902b7";
const OFFICIAL_APP_ID: &str = "wx00000000000000c1";
const OFFICIAL_SECRET: &str = "canary-official-secret-0123456789";
const CLASSIC_TOKEN: &str = "CANARY-classic-access-token_0123456789";
const CLASSIC_SECRET: &str = "canary/secret+with=signs&more";
const PHONE: &str = "13900007788";

/// The variables from which many programs take a proxy. This one ignores them.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// Receives spans.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("no panic").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let service = TraceServiceServer::new(receiver.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
        );
        (receiver, address)
    }

    /// Returns the schemas of the first export.
    fn schemas(&self) -> [String; 2] {
        let requests = self.0.lock().expect("no panic");
        let resource = &requests[0].resource_spans[0];
        [resource.schema_url.clone(), resource.scope_spans[0].schema_url.clone()]
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().expect("no panic");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// A process that ends with the test.
struct Process {
    child: Child,
    /// The folder of its data.
    _folder: TempDir,
    log: std::path::PathBuf,
}

impl Process {
    fn start(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let log = folder.join(format!("{name}-{}.log", std::process::id()));
        let file = std::fs::File::create(&log).expect("a log file");
        let own = tempfile::tempdir().expect("a folder");
        let child = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"))
            .args(arguments)
            .current_dir(&own)
            .env("WECHAT_STORE_GATEWAY__LISTEN__ADMIN", "127.0.0.1:0")
            // Nothing listens there, so a process that used the proxy would fail.
            .envs(PROXIES.map(|name| (name, "http://127.0.0.1:1")))
            .env("NO_PROXY", "")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("our own binary");
        Self { child, _folder: own, log }
    }

    /// Ends it like a supervisor, and returns all its output.
    fn stop(mut self) -> String {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.expect("kill is there").success());
        let status = self.child.wait().expect("it ends");
        let output = std::fs::read_to_string(&self.log).expect("its log");
        assert!(status.success(), "{status}: {output}");
        output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a port that is free now, lies below the ports that the system assigns, and is not used
/// by tests in other processes.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 27_000 + u16::try_from(std::process::id() % 180).expect("small") * 10;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 10;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn connect(port: u16) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
    for _ in 0..200 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no server listens at {port}");
}

/// Posts to the simulator over a socket.
fn post(port: u16, path: &str, body: &serde_json::Value) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the simulator listens");
    let body = body.to_string();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the simulator reads");
    std::io::read_to_string(socket).expect("the simulator answers")
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

fn is_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_one_trace_from_caller_to_wechat() {
    let (receiver, otlp) = Receiver::start().await;
    let (grpc, wechat) = (free_port(), free_port());
    let sandbox = Process::start(
        "traced-sandbox",
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
        // By default a sandbox logs only warnings.
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{otlp}")), ("RUST_LOG", "info")],
    );
    let mut cards = CardServiceClient::new(connect(grpc).await);
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
    cards.get_store_card(request).await.expect_err("there is no such store");
    let log = sandbox.stop();

    let spans = receiver.spans();
    let [rpc, http] = &*by_kind(&spans) else { panic!("two spans: {spans:#?}") };
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
    for trace_id in [TRACE_ID, &"5".repeat(32)] {
        assert!(log.contains(trace_id), "the log of a failed call names its trace: {log}");
    }
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
    let (grpc, wechat) = (free_port(), free_port());
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
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("scanned-{}.toml", std::process::id()));
    std::fs::write(&file, settings).expect("a settings file");
    let gateway = Process::start(
        "scanned-serve",
        &["serve", "--config", file.to_str().expect("UTF-8")],
        &[
            ("RUST_LOG", "trace"),
            ("OFFICIAL", OFFICIAL_SECRET),
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
    shown.push(format!("{spans:?}"));
    let all = shown.concat();
    assert!(all.contains("access_token=REDACTED"), "the scan sees the traces");
    assert!(all.contains("no access token"), "the scan sees the logs");
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
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("named-{}.toml", std::process::id()));
    std::fs::write(&file, settings).expect("a settings file");
    let gateway = Process::start(
        "named-serve",
        &["serve", "--config", file.to_str().expect("UTF-8")],
        &[
            ("RUST_LOG", "error,activity=off"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{otlp}")),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ],
    );
    let mut cards = CardServiceClient::new(connect(grpc).await);
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
