//! Pushes of WeChat as bytes on a socket, and their treatment.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use wechat_simulator::{
    MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID,
    message_crypto::{Key, sign},
};
use wechat_store_gateway::{
    config::{Environment, Settings},
    pb::{AuditEvent, AuditState, SubmissionKind, audit_event::Detail},
    state::{
        Acquired, Appended, Authorizer, Begun, Error, EventPage, EventQuery, Events, Leases, Log,
        NewEvent, NewSubmission, NewWrite, Outcome, Platforms, Segment, SharedToken, State,
        Submission, SubmissionPage, SubmissionQuery, Submissions, Ticket, Tokens, Write, WritePage,
        WriteQuery, Writes,
    },
    testing::{self, AppId, Clock, PoiId, Secret},
};

use crate::{
    leaks::forms,
    support::{CALLBACK_TOKEN, MINI_PROGRAM_AES_KEY, OFFICIAL_AES_KEY, within},
};

const LONG: Duration = Duration::from_secs(15);
const NONCE: &str = "415670741";
/// Occurs in every message and must not occur in a log.
const OPENID: &str = "od1P50M-fNQI5Gcq-trm4a7apsU8";
const SAFE: &str = "";

const FAILED: &str = "<xml><FromUserName><![CDATA[od1P50M-fNQI5Gcq-trm4a7apsU8]]></FromUserName>\
    <CreateTime>1488856741</CreateTime><MsgType><![CDATA[event]]></MsgType>\
    <Event><![CDATA[add_store_audit_info]]></Event><audit_id>416620525</audit_id>\
    <status>3</status><reason><![CDATA[门头不清]]></reason></xml>";
const FAILED_JSON: &str = r#"{"FromUserName":"od1P50M-fNQI5Gcq-trm4a7apsU8",
    "CreateTime":1488856741,"MsgType":"event","Event":"add_store_audit_info",
    "audit_id":416620525,"status":3,"reason":"门头不清"}"#;
const TEXT: &str = r#"{"FromUserName":"od1P50M-fNQI5Gcq-trm4a7apsU8","CreateTime":1488856741,
    "MsgType":"text","Content":"你好","MsgId":23456789012345678}"#;

/// A receiver with a list as its event log.
struct Gateway {
    address: SocketAddr,
    log: Arc<List>,
    lines: Lines,
    _captured: DefaultGuard,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Gateway {
    /// Starts a receiver for the official account with these further settings. The mini program has
    /// no callback.
    async fn start(callback: &str) -> Self {
        Self::with_key(callback, &format!("\"{OFFICIAL_AES_KEY}\"")).await
    }

    async fn with_key(callback: &str, key: &str) -> Self {
        Self::with_section(&format!("token = \"{CALLBACK_TOKEN}\"\naes_key = {key}\n{callback}"))
            .await
    }

    /// Starts a receiver inside cloud hosting.
    async fn in_cloud() -> Self {
        Self::with_section("mode = \"cloud\"\npublic_route_closed = true").await
    }

    async fn with_section(callback: &str) -> Self {
        let settings = format!(
            r#"
            [[accounts]]
            app_id = "{MINI_PROGRAM_APP_ID}"
            kind = "mini_program"
            secret = "secret"
            [[accounts]]
            app_id = "{OFFICIAL_APP_ID}"
            kind = "official"
            secret = "secret"
            [accounts.callback]
            {callback}
            "#
        );
        let settings = Settings::parse(&settings, &Environment::new()).expect("good settings");
        let lines = Lines::default();
        let filter = EnvFilter::new("debug,wechat_store_gateway=trace");
        let subscriber = tracing_subscriber::fmt().json().with_env_filter(filter);
        let subscriber = subscriber.with_writer(lines.clone()).finish();
        let captured = tracing::subscriber::set_default(subscriber);

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let log = Arc::new(List::default());
        let (clock, stop) = (Clock::system(), CancellationToken::new());
        let state = log.clone();
        let receives = testing::receive_pushes(state, &settings, listener, clock, stop.clone());
        let served = tokio::spawn(receives.expect("one account receives, with good secrets"));
        Self { address, log, lines, _captured: captured, stop, served }
    }

    async fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        within(LONG, send(self.address, request.as_ref())).await
    }

    async fn push(&self, push: Push) -> Answer {
        self.send(push.post()).await
    }

    fn events(&self) -> Vec<AuditEvent> {
        let events = self.log.events.lock().expect("no panic");
        let decoded = |event: &NewEvent| AuditEvent::decode(event.message.clone());
        events.iter().map(|event| decoded(event).expect("a message")).collect()
    }
}

impl Drop for Gateway {
    /// No secret and no part of a message may be in the log, whatever happened.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let text = self.lines.text();
        let secrets = [CALLBACK_TOKEN, OFFICIAL_AES_KEY, MINI_PROGRAM_AES_KEY, OPENID];
        for secret in secrets.iter().flat_map(|secret| forms(secret)) {
            assert!(!text.contains(&secret), "{secret} was logged: {text}");
        }
    }
}

/// The answer on a connection that ends after it.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn is_success(&self) -> bool {
        (self.status, self.body.as_str()) == (200, "success")
    }
}

async fn send(address: SocketAddr, request: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).await.expect("a listener");
    let (mut reader, mut writer) = stream.into_split();
    // An answer may arrive before the request was sent completely.
    let sent = async {
        let _ = writer.write_all(request).await;
    };
    let mut answer = Vec::new();
    let received = async {
        let _ = reader.read_to_end(&mut answer).await;
    };
    tokio::join!(sent, received);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// A push in WeChat's form.
#[derive(Clone)]
struct Push {
    account: String,
    timestamp: String,
    token: &'static str,
    /// Parameters in addition to those for signatures.
    further: String,
    body: Vec<u8>,
    /// The ciphertext that `msg_signature` covers, if there is one.
    encrypted: Option<String>,
}

impl Push {
    fn plain(message: impl Into<Vec<u8>>) -> Self {
        Self {
            account: OFFICIAL_APP_ID.to_owned(),
            timestamp: Clock::system().unix().to_string(),
            token: CALLBACK_TOKEN,
            further: format!("&openid={OPENID}"),
            body: message.into(),
            encrypted: None,
        }
    }

    fn encrypted(message: impl AsRef<[u8]>) -> Self {
        Self::with(OFFICIAL_AES_KEY, OFFICIAL_APP_ID, message)
    }

    fn with(key: &str, app_id: &str, message: impl AsRef<[u8]>) -> Self {
        let key = Key::parse(key).expect("a key");
        Self::around(key.encrypt(message.as_ref(), app_id, [7; 16]))
    }

    fn around(encrypted: String) -> Self {
        let further = format!("&openid={OPENID}&encrypt_type=aes");
        let body = format!("<xml><ToUserName>gh</ToUserName><Encrypt>{encrypted}</Encrypt></xml>");
        Self { further, encrypted: Some(encrypted), ..Self::plain(body) }
    }

    fn at(mut self, timestamp: impl ToString) -> Self {
        self.timestamp = timestamp.to_string();
        self
    }

    fn to(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    fn signed_with(mut self, token: &'static str) -> Self {
        self.token = token;
        self
    }

    fn in_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn query(&self) -> String {
        let Self { timestamp, further, .. } = self;
        let signature = sign(self.token, &[timestamp, NONCE]);
        let mut query = format!("signature={signature}&timestamp={timestamp}&nonce={NONCE}");
        query += further;
        if let Some(encrypted) = &self.encrypted {
            query += "&msg_signature=";
            query += &sign(self.token, &[timestamp, NONCE, encrypted]);
        }
        query
    }

    fn target(&self) -> String {
        format!("/wechat/callback/{}?{}", self.account, self.query())
    }

    fn post(&self) -> Vec<u8> {
        self.request("POST", &self.target())
    }

    fn request(&self, verb: &str, target: &str) -> Vec<u8> {
        let length = self.body.len();
        let mut request = format!(
            "{verb} {target} HTTP/1.1\r\nHost: gateway\r\nContent-Type: text/xml; x=y\r\n\
             Connection: close\r\nContent-Length: {length}\r\n\r\n"
        )
        .into_bytes();
        request.extend(&self.body);
        request
    }
}

#[tokio::test]
async fn cloud_push_needs_no_signature() {
    let gateway = Gateway::in_cloud().await;
    let post = |body: &str| unsigned(OFFICIAL_APP_ID, body);
    // WeChat repeats a push that it believes lost. The form is part of its key, so XML is another event.
    for body in [FAILED, FAILED_JSON, FAILED_JSON] {
        let answer = gateway.send(post(body)).await;
        assert!(answer.is_success(), "{answer:?}");
    }
    let events = gateway.events();
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!((event.audit_id.as_str(), event.state()), ("416620525", AuditState::Rejected));
        assert_eq!(event.event_time.expect("a time").seconds, 1_488_856_741);
    }
    assert!(gateway.send(post(TEXT)).await.is_success());
    assert_eq!(gateway.events().len(), 2, "a message of a person is not kept");

    for (body, status) in [("", 400), ("{", 400), ("not a message", 400)] {
        assert_eq!(gateway.send(post(body)).await.status, status, "{body}");
    }
    let encrypted = format!("{{\"ToUserName\":\"gh\",\"Encrypt\":\"{}\"}}", "A".repeat(64));
    assert_eq!(gateway.send(post(&encrypted)).await.status, 403);
    let other = unsigned(MINI_PROGRAM_APP_ID, FAILED_JSON);
    assert_eq!(gateway.send(other).await.status, 404, "this account has no callback");
}

#[tokio::test]
async fn probe_of_cloud_hosting_is_answered() {
    let keep = "keep = [\"CheckContainerPath\"]";
    let section = format!("mode = \"cloud\"\npublic_route_closed = true\n{keep}");
    let gateway = Gateway::with_section(&section).await;
    for probe in [
        r#"{"action":"CheckContainerPath"}"#,
        "<xml><action><![CDATA[CheckContainerPath]]></action></xml>",
        "<xml><action>CheckContainerPath</action></xml>",
    ] {
        let answer = gateway.send(unsigned(OFFICIAL_APP_ID, probe)).await;
        assert!(answer.is_success(), "{probe}: {answer:?}");
    }
    assert!(gateway.events().is_empty());
    let review = FAILED_JSON.replacen('{', r#"{"action":"CheckContainerPath","#, 1);
    assert!(gateway.send(unsigned(OFFICIAL_APP_ID, &review)).await.is_success());
    assert_eq!(gateway.events().len(), 1, "a message is no probe, whatever else it has");
    let path = format!("/wechat/callback/{OFFICIAL_APP_ID}");
    let ask =
        |method: &str| format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!(gateway.send(ask("HEAD")).await.status, 200);
    assert_eq!(gateway.send(ask("GET")).await.status, 403, "nothing verifies an address here");
}

#[tokio::test]
async fn unsigned_push_is_refused_in_every_other_mode() {
    for callback in [SAFE, "mode = \"compatible\"", "mode = \"plain\""] {
        let gateway = Gateway::start(callback).await;
        for body in [FAILED_JSON, r#"{"action":"CheckContainerPath"}"#] {
            let mut request = unsigned(OFFICIAL_APP_ID, body);
            let header = "x-wx-source: wx_push\r\n";
            request.insert_str(request.find("content-type").expect("one"), header);
            let answer = gateway.send(request).await;
            assert!([400, 403].contains(&answer.status), "{callback}: {answer:?}");
        }
        assert!(gateway.events().is_empty());
    }
}

/// Returns a push as cloud hosting sends it.
fn unsigned(app_id: &str, body: &str) -> String {
    format!(
        "POST /wechat/callback/{app_id} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn every_mode_accepts_xml_and_json() {
    for message in [FAILED, FAILED_JSON] {
        let encrypted = Push::encrypted(message);
        let inner = encrypted.encrypted.clone().expect("sealed");
        let json = json!({"ToUserName": "gh", "Encrypt": inner}).to_string();
        // Anyone could have written the plain part, and this one is forged.
        let forged = format!(
            "<xml><MsgType>event</MsgType><Event>add_store_audit_info</Event><status>1</status>\
             <poiid>666</poiid><Encrypt>{inner}</Encrypt></xml>"
        );
        for (mode, push) in [
            ("mode = \"plain\"", Push::plain(message)),
            ("mode = \"safe\"", encrypted.clone()),
            ("mode = \"safe\"", encrypted.clone().in_body(json.clone())),
            ("mode = \"compatible\"", encrypted.clone().in_body(json)),
            ("mode = \"compatible\"", encrypted.clone().in_body(forged)),
        ] {
            let gateway = Gateway::start(mode).await;
            let answer = gateway.push(push.clone()).await;
            assert!(answer.is_success(), "{mode}: {answer:?}");
            assert!(answer.head.contains("content-type: text/plain"));
            let [event] = &gateway.events()[..] else { panic!("{mode}: not one event") };
            assert_eq!(event.wechat_message, message);
            assert_eq!(event.kind(), SubmissionKind::Store);
            assert_eq!(event.state(), AuditState::Rejected);
            assert_eq!((event.audit_id.as_str(), event.reason.as_str()), ("416620525", "门头不清"));
            assert!(matches!(&event.detail, Some(Detail::Store(store)) if store.poi_id.is_empty()));
            assert!(gateway.push(push).await.is_success(), "again");
            assert_eq!(gateway.events().len(), 1, "the same is the same");
            assert_eq!(gateway.lines.warnings(), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn encrypted_push_to_plain_account_is_refused() {
    let gateway = Gateway::start("mode = \"plain\"").await;
    let answer = gateway.push(Push::encrypted(FAILED)).await;
    assert!(!answer.is_success(), "{answer:?}");
    assert_eq!((gateway.events().len(), gateway.lines.warnings().len()), (0, 1));
}

#[tokio::test]
async fn foreign_push_is_refused_without_details() {
    let good = Push::encrypted(FAILED);
    let now = Clock::system().unix();
    let encrypted = good.encrypted.clone().expect("sealed");
    let bytes = BASE64_STANDARD.decode(&encrypted).expect("base64");
    let truncated = BASE64_STANDARD.encode(&bytes[..bytes.len() - 32]);
    let mut padding = bytes.clone();
    padding[bytes.len() - 20] ^= 0xFF;
    let padding = BASE64_STANDARD.encode(padding);
    let laughs = (0..9).fold(String::from("<!ENTITY l0 \"ha\">"), |laughs, level| {
        laughs + &format!("<!ENTITY l{} \"{}\">", level + 1, format!("&l{level};").repeat(10))
    });
    let laughs = format!("<!DOCTYPE xml [{laughs}]><xml><Encrypt>&l9;</Encrypt></xml>");
    let file = "<!DOCTYPE xml [<!ENTITY f SYSTEM \"file:///etc/passwd\">]><xml><a>&f;</a></xml>";
    let get = |push: &Push| Push::plain("").request("GET", &push.target());
    let no_msg_signature = good.target().replace("msg_signature", "no_signature");
    let swapped = no_msg_signature.replace("?signature", "?msg_signature");
    let upper = Push { body: Vec::new(), ..good.clone() }.target().to_uppercase();
    let upper = upper.replace("/WECHAT/CALLBACK/WX", "/wechat/callback/wx");
    let ten = vec![b'x'; 10 << 20];
    let mut chunked = good.request("POST", &good.target());
    let head = chunked.windows(15).position(|part| part == b"Content-Length:").expect("there");
    chunked.truncate(head);
    chunked.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    for _ in 0..10 {
        chunked.extend(format!("{:x}\r\n", 1 << 20).bytes());
        chunked.extend(&ten[..1 << 20]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");

    let gateway = Gateway::start(SAFE).await;
    for (what, request, status) in [
        ("another token", good.clone().signed_with("another").post(), 403),
        ("no token", good.clone().signed_with("").post(), 403),
        ("an upper-case query", good.request("POST", &upper), 403),
        ("no msg_signature", good.request("POST", &no_msg_signature), 403),
        ("signature for it", good.request("POST", &swapped), 403),
        ("another body", good.clone().in_body(Push::encrypted(TEXT).body).post(), 403),
        ("no query", good.request("POST", &format!("/wechat/callback/{OFFICIAL_APP_ID}")), 403),
        ("old", good.clone().at(now - 700).post(), 403),
        ("from the future", good.clone().at(now + 700).post(), 403),
        ("without a time", good.clone().at("").post(), 403),
        ("at no time", good.clone().at("99999999999999999999999").post(), 403),
        ("for another", Push::with(OFFICIAL_AES_KEY, MINI_PROGRAM_APP_ID, FAILED).post(), 403),
        ("another key", Push::with(MINI_PROGRAM_AES_KEY, OFFICIAL_APP_ID, FAILED).post(), 403),
        ("truncated", Push::around(truncated).post(), 403),
        ("wrong padding", Push::around(padding).post(), 403),
        ("not base64", Push::around("!".repeat(64)).post(), 403),
        ("plain", Push::plain(FAILED).post(), 400),
        ("plain JSON", Push::plain(FAILED_JSON).post(), 400),
        ("nothing", Push::plain("").post(), 400),
        ("garbage", Push::plain(vec![0xFF; 1000]).post(), 400),
        ("laughs around it", Push::plain(laughs.clone()).post(), 400),
        ("a file around it", Push::plain(file).post(), 400),
        ("too much", Push::plain(ten).post(), 413),
        ("too much in chunks", chunked, 413),
        ("to an unknown account", good.clone().to("wx0000000000000000").post(), 404),
        ("to one without callback", good.clone().to(MINI_PROGRAM_APP_ID).post(), 404),
        ("to no account", good.clone().to("").post(), 404),
        ("deeper", good.clone().to(&format!("{OFFICIAL_APP_ID}/x")).post(), 404),
        ("elsewhere", good.request("POST", "/"), 404),
        ("to no path", good.request("POST", "/wechat/callback"), 404),
        ("to another path", good.request("POST", &good.target().replace("callback", "call")), 404),
        ("deleting", good.request("DELETE", &good.target()), 405),
        ("putting", good.request("PUT", &good.target()), 405),
        ("another's question", get(&good.clone().signed_with("another")), 403),
        ("an old question", get(&good.clone().at(now - 700)), 403),
    ] {
        gateway.lines.clear();
        let answer = gateway.send(request).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{what}");
        assert_eq!(gateway.events(), [], "{what}");
        let warnings = gateway.lines.warnings();
        assert_eq!(warnings.len(), 1, "{what}: {warnings:?}");
        assert_eq!(warnings[0].contains(OFFICIAL_APP_ID), status != 404, "{what}: {warnings:?}");
        let text = gateway.lines.text();
        for part in ["signature=", "416620525", "callback/", "laughs", &encrypted[..20]] {
            assert!(!text.contains(part), "{what}: {part} was logged: {text}");
        }
    }
    assert!(gateway.push(good).await.is_success(), "and it still receives");
}

/// Returns settings for another account that receives encrypted pushes.
fn another_account(app_id: &str, token: &str) -> String {
    format!(
        "[[accounts]]\napp_id = \"{app_id}\"\nkind = \"official\"\nsecret = \"secret\"\n\
         [accounts.callback]\ntoken = \"{token}\"\naes_key = \"{OFFICIAL_AES_KEY}\""
    )
}

/// Returns messages that are unreadable.
fn unreadable() -> Vec<Vec<u8>> {
    let laughs = (0..9).fold(String::from("<!ENTITY l0 \"ha\">"), |laughs, level| {
        laughs + &format!("<!ENTITY l{} \"{}\">", level + 1, format!("&l{level};").repeat(10))
    });
    let laughs = format!("<!DOCTYPE xml [{laughs}]><xml><Event>&l9;</Event></xml>");
    let file = "<!DOCTYPE xml [<!ENTITY f SYSTEM \"file:///etc/passwd\">]><xml><a>&f;</a></xml>";
    let html = "<html><body>502 Bad Gateway</body></html>";
    let texts = [&*laughs, file, html, "", "\0", "success", "[1]", "null", "{", "<xml>"];
    let mut unreadable: Vec<_> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let cut = |text: &str| text.as_bytes()[..text.len() - 5].to_vec();
    unreadable.extend([cut(FAILED), cut(FAILED_JSON), vec![0xFF; 1000]]);
    unreadable.push(FAILED.encode_utf16().flat_map(u16::to_le_bytes).collect());
    unreadable
}

#[tokio::test]
async fn unreadable_authentic_push_is_kept() {
    let gateway = Gateway::start(SAFE).await;
    for (number, message) in unreadable().into_iter().enumerate() {
        gateway.lines.clear();
        let what = message.escape_ascii().to_string();
        for push in [Push::encrypted(&message), Push::encrypted(&message)] {
            let answer = gateway.push(push).await;
            assert!(answer.is_success(), "{what}: {answer:?}");
        }
        let events = gateway.events();
        assert_eq!(events.len(), number + 1, "kept, and once: {what}");
        let event = &events[number];
        assert_eq!((event.kind(), event.state()), Default::default());
        assert_eq!((event.wechat_event.as_str(), event.audit_id.as_str()), ("", ""));
        assert_eq!(event.app_id, OFFICIAL_APP_ID);
        assert_eq!(event.raw_wechat_message, message, "{what}");
        assert_eq!(event.wechat_message, String::from_utf8_lossy(&message));
    }
}

#[tokio::test]
async fn unreadable_push_warns_without_its_content() {
    // A separate account, so that its log lines are counted separately.
    let app_id = "wx00000000000000f2";
    let gateway = Gateway::start(&another_account(app_id, CALLBACK_TOKEN)).await;
    let push = Push::with(OFFICIAL_AES_KEY, app_id, "<xml><Event>secret</xml>").to(app_id);
    assert!(gateway.push(push).await.is_success());
    let [event] = &gateway.events()[..] else { panic!("not one event") };
    let [warning] = &gateway.lines.warnings()[..] else { panic!("not one warning") };
    assert!(warning.contains(&event.event_id) && warning.contains(app_id), "{warning}");
    assert!(!warning.contains("secret"), "{warning}");
}

#[tokio::test]
async fn faulty_push_loses_only_faulty_field() {
    let faulty = |reason: &[u8]| {
        let [before, after] = [FAILED_JSON, FAILED]
            .map(|form| form.split("门头不清").collect::<Vec<_>>())
            .map(|parts| [parts[0].as_bytes(), parts[1].as_bytes()]);
        [before, after].map(|[before, after]| [before, reason, after].concat())
    };
    let gbk = b"\xc3\xc5\xcd\xb7\xb2\xbb\xc7\xe5";
    let mut messages = Vec::new();
    for reason in ["门头\u{14}不清", "门头\n不清", "门头\0不清", "门头\u{feff}不清"]
    {
        messages.extend(faulty(reason.as_bytes()).map(|message| (message, reason)));
    }
    messages.extend(faulty(gbk).map(|message| (message, "门头不清")));
    messages
        .extend(faulty(&"门头不清".as_bytes()[..11]).map(|message| (message, "门头不\u{fffd}")));
    let [json, _] = faulty(b"\\ud83d \"x\" \\x");
    messages.push((json, "\u{fffd} \"x\" \\x"));
    for (message, reason) in messages {
        let gateway = Gateway::start(SAFE).await;
        let answer = gateway.push(Push::encrypted(&message)).await;
        let what = message.escape_ascii();
        assert!(answer.is_success(), "{what}: {answer:?}");
        let [event] = &gateway.events()[..] else { panic!("{what}: not one event") };
        assert_eq!((event.kind(), event.state()), (SubmissionKind::Store, AuditState::Rejected));
        assert_eq!((event.audit_id.as_str(), event.reason.as_str()), ("416620525", reason));
        let kept = match &*event.raw_wechat_message {
            b"" => event.wechat_message.as_bytes(),
            bytes => bytes,
        };
        assert_eq!(kept, message, "{what}");
        assert_eq!(gateway.lines.warnings(), Vec::<String>::new(), "{what}");
    }
}

#[tokio::test]
async fn faulty_follower_message_is_not_kept() {
    let gateway = Gateway::start(SAFE).await;
    for text in ["a\u{14}b", "a\nb", "a \"b\" c", "\\ud83d", "\\x"] {
        let message = TEXT.replace("你好", text);
        assert!(gateway.push(Push::encrypted(message)).await.is_success());
    }
    let gbk =
        [b"<xml><MsgType>text</MsgType><Content>", &b"\xc4\xe3\xba\xc3"[..], b"</Content></xml>"];
    assert!(gateway.push(Push::encrypted(gbk.concat())).await.is_success());
    assert_eq!(gateway.events(), []);
}

#[tokio::test]
async fn event_name_ignores_case() {
    let gateway = Gateway::start(SAFE).await;
    let written =
        ["ADD_STORE_AUDIT_INFO", " add_store_audit_info\u{200b}", "add_store_audit_info\0"];
    for (number, name) in written.into_iter().enumerate() {
        for form in [FAILED, FAILED_JSON] {
            let message = form.replace("add_store_audit_info", name);
            assert!(gateway.push(Push::encrypted(message)).await.is_success());
        }
        let events = gateway.events();
        assert_eq!(events.len(), 2 * (number + 1), "{name}");
        assert!(events.iter().all(|event| event.kind() == SubmissionKind::Store), "{name}");
    }
    // A damaged name may be that of a result.
    let damaged =
        [FAILED, FAILED_JSON].map(|form| form.replace("add_store_audit_info", "add_st\u{fffd}"));
    for message in damaged {
        assert!(gateway.push(Push::encrypted(message)).await.is_success());
    }
    let events = gateway.events();
    assert_eq!(events.len(), 8);
    assert!(events[6..].iter().all(|event| event.kind() == SubmissionKind::Unspecified));
}

#[tokio::test]
async fn faulty_envelope_is_decrypted_if_authentic() {
    let gateway = Gateway::start(SAFE).await;
    let push = Push::encrypted(FAILED);
    let encrypted = push.encrypted.clone().expect("sealed");
    let plain = "<reason>a < b & c</b></reason><!DOCTYPE";
    for body in [
        format!("<xml>{plain}<Encrypt><![CDATA[{encrypted}]]></Encrypt><Encrypt></Encrypt></xml>"),
        format!("{{{plain},\"Encrypt\" : \"{}\"", encrypted.replace('/', "\\/")),
        format!("\u{feff}{{\"ToUserName\":\"g\nh\",\"Encrypt\":\"{encrypted}\"}}\0"),
        format!("<xml><ToUserName>&nbsp;</ToUserName><Encrypt>{encrypted}</Encrypt></xml>"),
    ] {
        assert!(gateway.push(push.clone().in_body(body)).await.is_success());
    }
    assert_eq!(gateway.events().len(), 1);
}

#[tokio::test]
async fn unreadable_plain_push_is_refused() {
    let gateway = Gateway::start("mode = \"plain\"").await;
    for message in unreadable() {
        let what = message.escape_ascii().to_string();
        assert_eq!(gateway.push(Push::plain(message)).await.status, 400, "{what}");
    }
    assert_eq!(gateway.events(), []);
    let faulty = FAILED_JSON.replace("门头", "门\u{14}头");
    assert!(gateway.push(Push::plain(faulty)).await.is_success());
    let [event] = &gateway.events()[..] else { panic!("not one event") };
    assert_eq!((event.kind(), event.reason.as_str()), (SubmissionKind::Store, "门\u{14}头不清"));
}

#[tokio::test]
async fn unreadable_number_keeps_other_fields() {
    let gateway = Gateway::start(SAFE).await;
    let message = r#"{"CreateTime":"soon","MsgType":"event","Event":"create_map_poi_audit_info",
        "audit_id":" 123456789012345678901234\u200b","status":0,"map_poi_id":5938314494307741153,
        "name":"a","latitude":"abc","longitude":113.3}"#;
    let unknown = r#"{"MsgType":"event","Event":"add_store_audit_info","audit_id":0,"status":97,
        "is_upgrade":99999999999}"#;
    for message in [message, unknown] {
        assert!(gateway.push(Push::encrypted(message)).await.is_success());
    }
    let [place, store] = &gateway.events()[..] else { panic!("not two events") };
    assert_eq!(place.state(), AuditState::Approved);
    assert_eq!(place.audit_id, "123456789012345678901234");
    assert_eq!(place.unreadable_fields, ["latitude", "CreateTime"]);
    let Some(Detail::MapPoi(detail)) = &place.detail else { panic!("a place") };
    assert_eq!((detail.map_poi_id.as_str(), &detail.location), ("5938314494307741153", &None));

    assert_eq!((store.kind(), store.state()), (SubmissionKind::Store, AuditState::Unspecified));
    assert_eq!((store.wechat_status, store.audit_id.as_str()), (Some(97), ""));
    assert_eq!(store.unreadable_fields, ["is_upgrade"]);
}

#[tokio::test]
async fn path_ignores_case_and_extra_slashes() {
    let gateway = Gateway::start(SAFE).await;
    let push = Push::encrypted(FAILED);
    let question = Push::plain("");
    for path in [
        format!("/wechat/callback/{OFFICIAL_APP_ID}/"),
        format!("/wechat/callback/{OFFICIAL_APP_ID}//"),
        format!("//wechat//callback/{OFFICIAL_APP_ID}"),
        format!("/wechat/callback/{}", OFFICIAL_APP_ID.to_uppercase()),
        format!("/WeChat/Callback/{}/", OFFICIAL_APP_ID.to_uppercase()),
    ] {
        let target = format!("{path}?{}", push.query());
        assert!(gateway.send(push.request("POST", &target)).await.is_success(), "{path}");
        let target = format!("{path}?{}&echostr=hello", question.query());
        assert_eq!(gateway.send(question.request("GET", &target)).await.body, "hello", "{path}");
    }
    let [event] = &gateway.events()[..] else { panic!("not one event") };
    assert_eq!(event.app_id, OFFICIAL_APP_ID);
    assert_eq!(gateway.lines.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn head_probe_is_not_refused() {
    let gateway = Gateway::start(SAFE).await;
    let probe = Push::plain("");
    let here = format!("/wechat/callback/{OFFICIAL_APP_ID}");
    for (target, status) in [(&*here, 200), (&*probe.target(), 200), ("/wechat/callback/x", 404)] {
        let answer = gateway.send(probe.request("HEAD", target)).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{target}");
    }
    assert_eq!(gateway.lines.warnings(), Vec::<String>::new());
    let answer = gateway.send(probe.request("OPTIONS", &here)).await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: get, head, post"), "{answer:?}");
}

#[tokio::test]
async fn flood_of_refusals_writes_few_lines() {
    // A separate account, so that its log lines are counted separately.
    let app_id = "wx00000000000000f1";
    let gateway = Gateway::start(&another_account(app_id, "another")).await;
    let bad = Push::encrypted(FAILED).to(app_id);
    let begun = Instant::now();
    for _ in 0..300 {
        assert_eq!(gateway.push(bad.clone()).await.status, 403);
    }
    let lines = gateway.lines.warnings().len() as u64;
    assert!((1..=21 + begun.elapsed().as_secs()).contains(&lines), "{lines} lines");
    assert!(gateway.push(Push::encrypted(FAILED)).await.is_success(), "another account");
}

#[tokio::test]
async fn plain_mode_requires_url_signature() {
    let gateway = Gateway::start("mode = \"plain\"").await;
    let good = Push::plain(FAILED);
    let old = good.clone().at(Clock::system().unix() - 700);
    for push in [good.clone().signed_with("another"), old] {
        assert_eq!(gateway.push(push).await.status, 403);
    }
    let unsigned = format!("/wechat/callback/{OFFICIAL_APP_ID}");
    assert_eq!(gateway.send(good.request("POST", &unsigned)).await.status, 403);
    assert_eq!(gateway.push(Push::plain("nonsense")).await.status, 400);
    assert_eq!(gateway.events(), []);
    assert_eq!(gateway.lines.warnings().len(), 4);
}

#[tokio::test]
async fn verification_request_is_echoed() {
    for mode in ["mode = \"plain\"", "mode = \"safe\"", "mode = \"compatible\""] {
        let gateway = Gateway::start(mode).await;
        let mut question = Push::plain("");
        question.further = "&echostr=%3Cb%3E1+2%22%E5%AE%A1".to_owned();
        let answer = gateway.send(question.request("GET", &question.target())).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "<b>1 2\"审"), "{mode}");
        assert!(answer.head.contains("content-type: text/plain"), "not for a browser to show");
        assert_eq!(gateway.events(), []);
    }
}

#[tokio::test]
async fn zero_window_accepts_any_timestamp() {
    let gateway = Gateway::start("[callback]\ntimestamp_window_seconds = 0").await;
    assert!(gateway.push(Push::encrypted(FAILED).at(1_488_856_741)).await.is_success());
    assert_eq!(gateway.events().len(), 1);
}

#[tokio::test]
async fn previous_key_still_decrypts() {
    let previous = format!("previous_aes_key = \"{MINI_PROGRAM_AES_KEY}\"");
    let gateway = Gateway::start(&previous).await;
    let old = Push::with(MINI_PROGRAM_AES_KEY, OFFICIAL_APP_ID, FAILED);
    assert!(gateway.push(old).await.is_success());
    assert!(gateway.push(Push::encrypted(FAILED_JSON)).await.is_success());
    assert_eq!(gateway.events().len(), 2);
}

#[tokio::test]
async fn key_file_change_applies_immediately() {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(OFFICIAL_AES_KEY.as_bytes()).expect("written");
    let source = format!("{{ file = \"{}\" }}", file.path().display());
    let gateway = Gateway::with_key("", &source).await;
    assert!(gateway.push(Push::encrypted(FAILED)).await.is_success());

    std::fs::write(file.path(), "").expect("emptied");
    assert_eq!(gateway.push(Push::encrypted(FAILED)).await.status, 503, "it comes again");
    std::fs::write(file.path(), MINI_PROGRAM_AES_KEY).expect("changed");
    let new = Push::with(MINI_PROGRAM_AES_KEY, OFFICIAL_APP_ID, FAILED_JSON);
    assert!(gateway.push(new).await.is_success());
    assert_eq!(gateway.push(Push::encrypted(FAILED)).await.status, 403);
}

#[tokio::test]
async fn unstored_push_is_not_acknowledged() {
    let target = Target::start(OK).await;
    let gateway = Gateway::start(&forward_to(&[&target.entry("")])).await;
    for health in [Health::Full, Health::Hangs] {
        *gateway.log.health.lock().expect("no panic") = health;
        gateway.lines.clear();
        let begun = Instant::now();
        let answer = gateway.push(Push::encrypted(FAILED)).await;
        assert_eq!((answer.status, answer.body.as_str()), (503, ""));
        assert!(begun.elapsed() < Duration::from_secs(5), "WeChat does not wait for longer");
        assert_eq!(gateway.lines.warnings().len(), 1);
        assert!(
            gateway.push(Push::encrypted(TEXT)).await.is_success(),
            "there is nothing to store"
        );
    }
    assert_eq!(target.requests().len(), 2, "no push is relayed before it is stored");

    *gateway.log.health.lock().expect("no panic") = Health::Works;
    assert!(gateway.push(Push::encrypted(FAILED)).await.is_success());
    assert_eq!(gateway.events().len(), 1);
}

#[tokio::test]
async fn slow_sender_is_disconnected() {
    let gateway = Gateway::start(SAFE).await;
    let push = Push::encrypted(FAILED).post();
    let slow = |begin: Vec<u8>, drip: &'static str| {
        let address = gateway.address;
        async move {
            let mut stream = TcpStream::connect(address).await.expect("a listener");
            stream.write_all(&begin).await.expect("open");
            let mut answer = [0; 1024];
            loop {
                tokio::select! {
                    _ = stream.read(&mut answer) => return,
                    () = tokio::time::sleep(Duration::from_millis(200)) => {
                        let _ = stream.write_all(drip.as_bytes()).await;
                    }
                }
            }
        }
    };
    let half = push[..push.len() - 100].to_vec();
    within(LONG, async {
        tokio::join!(
            slow(Vec::new(), ""),
            slow(b"POST / HTTP/1.1\r\n".to_vec(), "x: y\r\n"),
            slow(half.clone(), "x"),
            slow(half, "")
        )
    })
    .await;
    assert_eq!(gateway.events(), []);
    assert!(gateway.send(push).await.is_success());
}

#[tokio::test]
async fn connection_serves_several_pushes_until_stop() {
    let mut gateway = Gateway::start(SAFE).await;
    let mut stream = TcpStream::connect(gateway.address).await.expect("a listener");
    for message in [FAILED, FAILED_JSON] {
        let push = Push::encrypted(message).post();
        let push = String::from_utf8(push).expect("text").replace("Connection: close\r\n", "");
        stream.write_all(push.as_bytes()).await.expect("open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"success") {
            assert_ne!(within(LONG, stream.read_buf(&mut answer)).await.expect("open"), 0);
        }
    }
    assert_eq!(gateway.events().len(), 2);
    let begun = Instant::now();
    let silent = TcpStream::connect(gateway.address).await.expect("a listener");
    tokio::task::yield_now().await;
    gateway.stop.cancel();
    let mut rest = Vec::new();
    within(LONG, stream.read_to_end(&mut rest)).await.expect("an orderly end");
    within(LONG, &mut gateway.served).await.expect("no panic");
    assert!(begun.elapsed() < Duration::from_secs(4), "no push waits for the silent target");
    drop(silent);
    assert!(TcpStream::connect(gateway.address).await.is_err());
}

#[tokio::test]
async fn non_http_connection_is_closed() {
    let gateway = Gateway::start(SAFE).await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"PRI * HTTP/2.0\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(gateway.address).await.expect("a listener");
        stream.write_all(garbage).await.expect("open");
        let _ = within(LONG, stream.read_to_end(&mut Vec::new())).await;
    }
    let long = Push::encrypted(FAILED).to(&"x".repeat(20_000));
    assert_eq!(gateway.push(long).await.status, 431);
    assert_eq!(gateway.events(), []);
    assert!(gateway.push(Push::encrypted(FAILED)).await.is_success());
}

// === Relay targets ===

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsuccess";
const ECHO: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/xml; a=b\r\nContent-Length: 12\r\n\r\n<xml>1</xml>";
const HELLO: &str = "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello";
const BROKEN: &str = "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";
const MOVED: &str = "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n";
const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<xml>";
/// The reply of a target that never answers.
const HANGS: &str = "";

/// A relay target that always gives the same answer.
struct Target {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Target {
    async fn start(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::default();
        let target = Self { address, requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let (answer, requests) = (answer.clone(), requests.clone());
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !is_whole(&request) {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let request = String::from_utf8(request).expect("text");
                    requests.lock().expect("no panic").push(request);
                    if answer == HANGS {
                        std::future::pending::<()>().await;
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        target
    }

    /// Returns an entry of `forward_to`.
    fn entry(&self, further: &str) -> String {
        format!("{{ url = \"http://{}/in?key=own\"{further} }}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    request.len() >= head.len() + 4 + length
}

fn forward_to(entries: &[&str]) -> String {
    format!("forward_to = [{}]", entries.join(", "))
}

#[tokio::test]
async fn relayed_push_is_unchanged() {
    let target = Target::start(OK).await;
    let gateway = Gateway::start(&forward_to(&[&target.entry("")])).await;
    let mut push = Push::encrypted(TEXT);
    push.further += "&odd=%2B+%2f~%E5&odd=&&=";
    assert!(gateway.push(push.clone()).await.is_success());
    let requests = target.requests();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    let (head, body) = request.split_once("\r\n\r\n").expect("a request");
    assert_eq!(body.as_bytes(), push.body);
    let line = format!("POST /in?key=own&{} HTTP/1.1", push.query());
    assert_eq!(head.lines().next(), Some(line.as_str()));
    assert!(head.contains("content-type: text/xml; x=y"), "{head}");
    assert_eq!(gateway.events(), [], "followers' messages are not ours to keep");

    assert!(gateway.push(Push::encrypted(FAILED)).await.is_success());
    assert_eq!(target.requests().len(), 2);
    assert_eq!(gateway.events().len(), 1, "the gateway's own events are passed on, too");
}

#[tokio::test]
async fn targets_receive_only_selected_messages() {
    let all = Target::start(OK).await;
    let texts = Target::start(OK).await;
    let rest = Target::start(OK).await;
    let entries = [
        all.entry(""),
        texts.entry(", only = [\"text\"]"),
        rest.entry(", except = [\"text\", \"subscribe\"]"),
    ];
    let gateway = Gateway::start(&forward_to(&entries.each_ref().map(String::as_str))).await;
    for message in [TEXT, FAILED, r#"{"MsgType":"event","Event":"subscribe"}"#] {
        assert!(gateway.push(Push::encrypted(message)).await.is_success());
    }
    let counts = || [&all, &texts, &rest].map(|target| target.requests().len());
    assert_eq!(counts(), [3, 1, 1]);
    // A faulty message still has a name, but an unreadable one has none.
    assert!(gateway.push(Push::encrypted(TEXT.replace("你好", "a\nb"))).await.is_success());
    assert_eq!(counts(), [4, 2, 1]);
    assert!(gateway.push(Push::encrypted("{")).await.is_success());
    assert_eq!(counts(), [5, 2, 2]);
}

#[tokio::test]
async fn first_nonempty_target_reply_is_returned() {
    let long = "x".repeat(70_000);
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    let empty = OK.replace("7\r\n\r\nsuccess", "0\r\n\r\n");
    let xml = (200, "<xml>1</xml>", "content-type: text/xml; a=b");
    let success = (200, "success", "content-type: text/plain");
    for (answers, expected) in [
        (vec![OK, &empty, ECHO, HELLO], xml),
        (vec![&long, ECHO], xml),
        (vec![HELLO, ECHO], (200, "hello", "content-type: text/plain")),
        (vec![OK, &empty, &long], success),
        (vec![], success),
        (vec![ECHO, BROKEN], (502, "", "")),
    ] {
        let mut entries = Vec::new();
        for answer in &answers {
            entries.push(Target::start(*answer).await.entry(""));
        }
        let entries = entries.iter().map(String::as_str).collect::<Vec<_>>();
        let gateway = Gateway::start(&forward_to(&entries)).await;
        let answer = gateway.push(Push::encrypted(TEXT)).await;
        assert_eq!((answer.status, answer.body.as_str()), (expected.0, expected.1), "{answers:?}");
        assert!(answer.head.contains(expected.2), "{answer:?}");
    }
}

#[tokio::test]
async fn failed_relay_is_repeated_and_stored_once() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let closed = Target { address: free.local_addr().expect("bound"), requests: Arc::default() };
    drop(free);
    let mut targets = vec![(closed, "is unreachable")];
    for (answer, cause) in [
        (BROKEN, "answered 500"),
        (MOVED, "answered 302"),
        (CUT, "broke the connection"),
        ("nonsense", "broke the connection"),
        (HANGS, "took too long"),
    ] {
        targets.push((Target::start(answer).await, cause));
    }
    for (target, cause) in targets {
        let entry = target.entry("");
        let good = Target::start(OK).await;
        let gateway = Gateway::start(&forward_to(&[&entry, &good.entry("")])).await;
        for attempt in 1..=2 {
            gateway.lines.clear();
            let begun = Instant::now();
            let answer = gateway.push(Push::encrypted(FAILED)).await;
            assert_eq!((answer.status, answer.body.as_str()), (502, ""), "{cause}");
            assert!(begun.elapsed() < Duration::from_secs(5), "WeChat is gone: {cause}");
            assert_eq!(gateway.events().len(), 1, "{cause}");
            assert_eq!(good.requests().len(), attempt, "{cause}");
            assert!(target.requests().len() <= attempt, "nothing is repeated or followed: {cause}");
            let warnings = gateway.lines.warnings();
            assert_eq!(warnings.len(), 1, "{cause}");
            assert!(warnings[0].contains(cause), "{warnings:?}");
            assert!(!gateway.lines.text().contains("key=own"), "{cause}");
        }
    }
}

// === The event log and the log ===

/// The state of the event log.
#[derive(Clone, Copy, Debug, Default)]
enum Health {
    #[default]
    Works,
    Full,
    Hangs,
}

/// An event log in a list. All other operations of the state fail.
#[derive(Debug, Default)]
struct List {
    events: Mutex<Vec<NewEvent>>,
    health: Mutex<Health>,
}

#[tonic::async_trait]
impl Events for List {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        let health = *self.health.lock().expect("no panic");
        match health {
            Health::Works => {}
            Health::Full => return Err(Error::Full),
            Health::Hangs => std::future::pending().await,
        }
        let mut events = self.events.lock().expect("no panic");
        let known = events.iter().position(|known| known.key == event.key);
        Ok(match known {
            Some(index) => Appended::Known(index as u64 + 1),
            None => {
                events.push(event);
                Appended::New(events.len() as u64)
            }
        })
    }

    async fn events(&self, _: EventQuery) -> Result<EventPage, Error> {
        unimplemented!()
    }
    async fn newer(&self, _: u64) -> Result<Option<Segment>, Error> {
        unimplemented!()
    }
    async fn log(&self) -> Result<Log, Error> {
        unimplemented!()
    }
}

#[tonic::async_trait]
impl Submissions for List {
    async fn remember(&self, _: NewSubmission) -> Result<(), Error> {
        unimplemented!()
    }
    async fn submission(&self, _: &str) -> Result<Option<Submission>, Error> {
        unimplemented!()
    }
    async fn pictures(&self, _: &AppId, _: &PoiId) -> Result<Option<Submission>, Error> {
        unimplemented!()
    }
    async fn submissions(&self, _: SubmissionQuery) -> Result<SubmissionPage, Error> {
        unimplemented!()
    }
    async fn take_due(&self, _: Duration, _: usize) -> Result<Vec<Submission>, Error> {
        unimplemented!()
    }
}

#[tonic::async_trait]
impl Writes for List {
    async fn begin(&self, _: NewWrite, _: Duration) -> Result<Begun, Error> {
        unimplemented!()
    }
    async fn sent(&self, _: &str, _: u64, _: Duration, _: bytes::Bytes) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn ended(&self, _: &str, _: u64, _: Outcome) -> Result<(), Error> {
        unimplemented!()
    }
    async fn write(&self, _: &str) -> Result<Option<Write>, Error> {
        unimplemented!()
    }
    async fn writes(&self, _: WriteQuery) -> Result<WritePage, Error> {
        unimplemented!()
    }
    async fn resolve(&self, _: &str, _: Outcome) -> Result<Option<Write>, Error> {
        unimplemented!()
    }
}

#[tonic::async_trait]
impl Leases for List {
    async fn acquire(&self, _: &str, _: Duration) -> Result<Acquired, Error> {
        unimplemented!()
    }
    async fn renew(&self, _: &str, _: u64, _: Duration) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn free(&self, _: &str, _: u64, _: Duration) -> Result<(), Error> {
        unimplemented!()
    }
}

#[tonic::async_trait]
impl Tokens for List {
    async fn token(&self, _: &AppId) -> Result<Option<SharedToken>, Error> {
        unimplemented!()
    }
    async fn put_token(
        &self,
        _: &AppId,
        _: u64,
        _: &Secret,
        _: Duration,
    ) -> Result<SharedToken, Error> {
        unimplemented!()
    }
    async fn drop_token(&self, _: &AppId) -> Result<(), Error> {
        unimplemented!()
    }
    async fn spend(&self, _: &str, _: u32, _: Duration) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn refund(&self, _: &str) -> Result<(), Error> {
        unimplemented!()
    }
}

#[tonic::async_trait]
impl Platforms for List {
    async fn put_ticket(&self, _: &AppId, _: &Secret, _: u64) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn ticket(&self, _: &AppId) -> Result<Option<Ticket>, Error> {
        unimplemented!()
    }
    async fn put_authorizer(&self, _: &Authorizer, _: bool) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn authorizer(&self, _: &AppId, _: &AppId) -> Result<Option<Authorizer>, Error> {
        unimplemented!()
    }
    async fn replace_refresh_token(
        &self,
        _: &AppId,
        _: &AppId,
        _: Option<&Secret>,
        _: &Secret,
    ) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn describe_authorizer(
        &self,
        _: &AppId,
        _: &AppId,
        _: u64,
        _: &[u8],
    ) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn authorizers(
        &self,
        _: &AppId,
        _: Option<&AppId>,
        _: usize,
    ) -> Result<Vec<Authorizer>, Error> {
        unimplemented!()
    }
}

#[tonic::async_trait]
impl State for List {
    async fn prune(&self, _: Duration) -> Result<u64, Error> {
        unimplemented!()
    }
    async fn probe(&self) -> Result<(), Error> {
        unimplemented!()
    }
}

/// The log lines of this test's thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }

    /// Returns the lines that an operator would see.
    fn warnings(&self) -> Vec<String> {
        let is_ours = |line: &&str| {
            !line.contains(r#""level":"DEBUG""#) && !line.contains(r#""level":"TRACE""#)
        };
        self.text().lines().filter(is_ours).map(str::to_owned).collect()
    }

    fn clear(&self) {
        self.0.lock().expect("no panic").clear();
    }
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
