//! Callers that prove their identity with a JWT.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use wechat_simulator::OFFICIAL_APP_ID;
use wechat_store_gateway::pb::{
    self, card_service_client::CardServiceClient, watch_audit_events_request::Start,
};

use crate::{
    access,
    issuer::{KeyServer, Signer, answer, encode, key_set},
    service_config::pushback,
    support::{App, GET_CARD, SET_CARD, is, new_store, reason, within},
    tls::Authority,
};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The limit for each wait. A test that needs it has failed.
const LIMIT: Duration = Duration::from_secs(60);
const SUBJECT: &str = "system:serviceaccount:shop:orders";

/// Returns settings with a reader that is one service account of a cluster.
fn sections(jwks: &str) -> String {
    format!(
        r#"
        [[issuers]]
        issuer = "{ISSUER}"
        audiences = ["wechat-store-gateway"]
        jwks = {jwks}
        [[callers]]
        name = "orders"
        role = "reader"
        jwt = [{{ issuer = "{ISSUER}", subject = "{SUBJECT}" }}]
        "#
    )
}

/// A key set in a file.
struct KeyFile(TempDir);

impl KeyFile {
    fn new(signers: &[&Signer]) -> Self {
        let file = Self(tempfile::tempdir().expect("a folder"));
        file.set_keys(signers);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("jwks.json")
    }

    fn set_keys(&self, signers: &[&Signer]) {
        let next = self.0.path().join("next");
        std::fs::write(&next, key_set(signers)).expect("a file");
        std::fs::rename(next, self.path()).expect("renamed");
    }

    fn sections(&self) -> String {
        sections(&format!("{{ file = {:?} }}", self.path()))
    }
}

/// Returns the claims of a service account's token that is valid for a month, because these tests advance the clock.
fn claims() -> Value {
    #[expect(clippy::disallowed_methods, reason = "the issuer has a clock of its own")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": ["wechat-store-gateway"],
        "iat": now, "nbf": now, "exp": now + 30 * 24 * 3600,
        "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "orders" } },
    })
}

fn claims_but(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[claim] = value;
    claims
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

/// Reads the card of a store that does not exist, so that WeChat's answer is `STORE_NOT_FOUND`.
async fn read(app: &App, token: &str) -> Status {
    let message = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    let mut cards = CardServiceClient::new(app.channel.clone());
    cards.get_store_card(with_token(message, token)).await.expect_err("no such store")
}

async fn is_allowed(app: &App, token: &str) -> bool {
    let status = read(app, token).await;
    match reason(&status) {
        (Code::NotFound, _) => true,
        (Code::Unauthenticated, reason) if reason == "CALLER_UNKNOWN" => false,
        other => panic!("{other:?}: {status:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_account_token_proves_its_caller() {
    let signers = [Signer::rsa("rsa"), Signer::p256("p256"), Signer::ed25519("ed25519")];
    let file = KeyFile::new(&signers.each_ref());
    let app = App::with_sections(&file.sections()).await;
    for signer in &signers {
        assert!(is_allowed(&app, &signer.sign(&claims())).await);
    }
    assert_eq!(app.count(GET_CARD), 3);
    let message = pb::SetStoreCardRequest {
        poi_id: "1".to_owned(),
        card_id: "pabc".to_owned(),
        ..Default::default()
    };
    let token = signers[0].sign(&claims());
    let status = app.cards().set_store_card(with_token(message, &token)).await;
    let status = status.expect_err("a reader writes nothing");
    assert_eq!(reason(&status), is(Code::PermissionDenied, "PERMISSION_MISSING"));
    assert_eq!(app.count(SET_CARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_token_reaches_no_rpc() {
    let (signer, forger) = (Signer::p256("a"), Signer::p256("a"));
    let file = KeyFile::new(&[&signer]);
    let app = App::with_sections(&file.sections()).await;
    let none = encode(json!({ "alg": "none" }).to_string());
    let unsigned = format!("{none}.{}.", encode(claims().to_string()));
    let public_key = signer.jwk();
    let mac_header = json!({ "alg": "HS256", "kid": "a", "jwk": public_key });
    for (token, why) in [
        (signer.sign(&claims_but("exp", json!(1))), "has expired"),
        (signer.sign(&claims_but("nbf", json!(u32::MAX))), "is not valid yet"),
        (signer.sign(&claims_but("iat", json!(u32::MAX))), "is not valid yet"),
        (signer.sign(&claims_but("aud", json!("other"))), "another audience"),
        (signer.sign(&claims_but("iss", json!("https://other"))), "issuer of the token is unknown"),
        (signer.sign(&claims_but("sub", json!("system:serviceaccount:shop:other"))), "no caller"),
        (signer.sign(&claims_but("sub", Value::Null)), "claim of the token is missing"),
        (forger.sign(&claims()), "signature of the token is wrong"),
        (Signer::p256("b").sign(&claims()), "key of the token is unknown"),
        (unsigned, "algorithm of the token is not allowed"),
        (signer.sign_with(&mac_header, &claims()), "algorithm of the token is not allowed"),
        ("a.b.c".to_owned(), "malformed"),
    ] {
        for (method, _) in access::rpcs() {
            let proof = format!("Bearer {token}");
            let status = access::call(&app, &method, &[&proof], OFFICIAL_APP_ID).await;
            let status = status.expect_err("refused");
            assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"), "{why}");
            assert!(status.message().contains(why), "{why}: {}", status.message());
            for part in token.split('.').filter(|part| part.len() > 8) {
                assert!(!format!("{status:?}").contains(part), "the error has a part of the token");
            }
        }
    }
    assert!(!access::wechat_was_called(&app));
    assert!(!is_allowed(&app, &signer.sign(&claims_but("pad", json!("x".repeat(9000))))).await);
    assert_eq!(app.count(GET_CARD), 0);
    assert!(is_allowed(&app, &signer.sign(&claims())).await);
}

/// Many callers that call without a pause, all with the same token.
struct Load {
    running: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(app: &Arc<App>, token: &str) -> Self {
        let (running, calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..8).map(|_| {
            let (app, token) = (app.clone(), token.to_owned());
            let (running, calls) = (running.clone(), calls.clone());
            tokio::spawn(async move {
                while running.load(Ordering::Relaxed) {
                    assert!(is_allowed(&app, &token).await, "a caller that remains allowed");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self { running, calls, tasks }
    }

    /// Waits until more calls have ended.
    async fn more(&self) {
        let goal = self.calls.load(Ordering::Relaxed) + 50;
        let waiting = async {
            while self.calls.load(Ordering::Relaxed) < goal {
                assert!(self.tasks.iter().all(|task| !task.is_finished()), "a call failed");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(LIMIT, waiting).await;
    }

    async fn stop(self) {
        self.running.store(false, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call failed");
        }
    }
}

/// Replaces the first key by a second one while callers with a third key call all the time.
async fn rotate(app: &Arc<App>, signers: &[Signer; 3], set_keys: impl Fn(&[&Signer])) {
    let [old, new, stays] = signers;
    let [old_token, new_token, token] = [old, new, stays].map(|signer| signer.sign(&claims()));
    let load = Load::start(app, &token);
    load.more().await;
    assert!(is_allowed(app, &old_token).await);
    set_keys(&[new, stays]);
    // The first token of a new key brings the new set.
    assert!(is_allowed(app, &new_token).await);
    assert!(!is_allowed(app, &old_token).await);
    load.more().await;
    load.stop().await;
}

fn signers() -> [Signer; 3] {
    [Signer::p256("old"), Signer::ed25519("new"), Signer::rsa("stays")]
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_file_disturbs_no_other_caller() {
    let signers = signers();
    let file = KeyFile::new(&[&signers[0], &signers[2]]);
    let app = Arc::new(App::with_sections(&file.sections()).await);
    rotate(&app, &signers, |keys| file.set_keys(keys)).await;
    let [_, new, stays] = &signers;
    let (revoked, token) = (new.sign(&claims()), stays.sign(&claims()));
    file.set_keys(&[stays]);
    let removed = async { while is_allowed(&app, &revoked).await {} };
    within(LIMIT, removed).await;
    assert!(is_allowed(&app, &token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_url_disturbs_no_other_caller() {
    let signers = signers();
    let server = KeyServer::start(&[&signers[0], &signers[2]]).await;
    let app = App::with_sections(&sections(&format!("{{ url = \"{}\" }}", server.url))).await;
    rotate(&Arc::new(app), &signers, |keys| server.set_keys(keys)).await;
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_of_the_issuer_disturbs_no_caller() {
    let signer = Signer::p256("a");
    let server = KeyServer::start(&[&signer]).await;
    let app = App::with_sections(&sections(&format!("{{ url = \"{}\" }}", server.url))).await;
    assert!(is_allowed(&app, &signer.sign(&claims())).await);
    server.set_answer("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned());
    let before = server.requests().len();
    let asked = async {
        while server.requests().len() < before + 2 {
            app.clock.advance(Duration::from_secs(600));
            assert!(is_allowed(&app, &signer.sign(&claims_but("jti", json!("new")))).await);
        }
    };
    within(LIMIT, asked).await;
}

/// Calls from another address of this machine than all other clients.
async fn from_elsewhere(app: &App) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", app.address)).expect("a URL");
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    endpoint.local_address(Some(elsewhere)).connect().await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_forged_tokens_blocks_only_its_address() {
    let (signer, forger) = (Signer::p256("a"), Signer::p256("a"));
    let file = KeyFile::new(&[&signer]);
    let app = App::still_with_sections(&file.sections()).await;
    let known = signer.sign(&claims());
    assert!(is_allowed(&app, &known).await);
    let forged = |number: usize| forger.sign(&claims_but("jti", json!(number)));
    for number in 0..100 {
        assert!(!is_allowed(&app, &forged(number)).await, "{number}");
    }
    let too_fast = is(Code::ResourceExhausted, "RATE_EXCEEDED");
    let status = read(&app, &forged(100)).await;
    assert_eq!(reason(&status), too_fast);
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let wait = wait.expect("a time to wait");
    assert!(!wait.is_zero() && wait <= Duration::from_secs(1), "{wait:?}");

    assert!(is_allowed(&app, &known).await, "a verified token is not affected");
    let new = signer.sign(&claims_but("jti", json!("new")));
    assert_eq!(reason(&read(&app, &new).await), too_fast, "it could be forged, too");
    let elsewhere = from_elsewhere(&app).await;
    let other = signer.sign(&claims_but("jti", json!("other")));
    let message = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    let card = CardServiceClient::new(elsewhere).get_store_card(with_token(message, &other)).await;
    assert_eq!(card.expect_err("no such store").code(), Code::NotFound);
    app.clock.advance(wait);
    assert!(is_allowed(&app, &new).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_make_caller_retry() {
    let signer = Signer::p256("a");
    let server = KeyServer::start(&[]).await;
    server.set_answer(answer("503 Service Unavailable", ""));
    let sections = sections(&format!("{{ url = \"{}\" }}", server.url));
    let app = App::still_with_sections(&sections).await;
    let token = signer.sign(&claims());
    let status = read(&app, &token).await;
    assert_eq!(reason(&status), is(Code::Unavailable, "ISSUER_UNAVAILABLE"));
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    assert_eq!(app.count(GET_CARD), 0);
    assert_ne!(pushback(&status), Some("-1"), "a library may repeat a read");
    // The gateway does not know yet whether this one has a request_id, so it could not recognize the repeat.
    let store = with_token(new_store("2708071440732747189", "0001"), &token);
    let status = app.stores().add_store(store).await.expect_err("no keys");
    assert_eq!(reason(&status), is(Code::Unavailable, "ISSUER_UNAVAILABLE"));
    assert_eq!(pushback(&status), Some("-1"));
    server.set_keys(&[&signer]);
    app.clock.advance(Duration::from_secs(30));
    assert!(is_allowed(&app, &token).await);
}

/// Starts a watch that the token allows.
async fn watch(app: &App, token: &str) -> Streaming<pb::WatchAuditEventsResponse> {
    let start = Some(Start::Position(pb::WatchPosition::Latest.into()));
    let request = with_token(pb::WatchAuditEventsRequest { start, ..Default::default() }, token);
    app.audits().watch_audit_events(request).await.expect("a watch").into_inner()
}

/// Waits for the end of a watch, which must come because its proof ended.
async fn unknown_at_end(app: &App, mut watch: Streaming<pb::WatchAuditEventsResponse>, why: &str) {
    let end = async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    };
    let status = within(LIMIT, app.hurried(end)).await;
    assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"), "{status:?}");
    assert!(status.message().contains(why), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_when_its_token_expires() {
    let signer = Signer::p256("a");
    let file = KeyFile::new(&[&signer]);
    let app = App::still_with_sections(&file.sections()).await;
    let now = app.clock.unix();
    let short = watch(&app, &signer.sign(&claims_but("exp", json!(now + 3)))).await;
    let mut long = watch(&app, &signer.sign(&claims())).await;
    unknown_at_end(&app, short, "has expired").await;
    // The clocks may differ by a minute.
    assert!(app.clock.unix() >= now + 63);
    long.message().await.expect("not disturbed").expect("a checkpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_when_issuer_removes_its_key() {
    let signers = signers();
    let [old, _, stays] = &signers;
    let file = KeyFile::new(&[old, stays]);
    let app = App::still_with_sections(&file.sections()).await;
    let leaving = watch(&app, &old.sign(&claims())).await;
    let mut staying = watch(&app, &stays.sign(&claims())).await;
    file.set_keys(&[stays]);
    unknown_at_end(&app, leaving, "key of the token is unknown").await;
    staying.message().await.expect("not disturbed").expect("a checkpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_when_reload_removes_its_audience() {
    let signer = Signer::p256("a");
    let file = KeyFile::new(&[&signer]);
    let mut app = App::still_with_sections(&file.sections()).await;
    let open = watch(&app, &signer.sign(&claims())).await;
    app.reload(|settings| settings.replace("[\"wechat-store-gateway\"]", "[\"another\"]"));
    unknown_at_end(&app, open, "another audience").await;
}

/// Puts TLS in front of a server of keys. Returns the URL.
async fn with_tls(server: &KeyServer, tls: ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (_, upstream) = server.url.split_once("://").expect("a URL");
    let upstream = upstream.trim_end_matches("/jwks").to_owned();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let mut plain = TcpStream::connect(&upstream).await.expect("it listens");
            // Either side may leave first.
            let _ = copy_bidirectional(&mut socket, &mut plain).await;
        }
    });
    format!("https://{address}/jwks")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_only_from_server_that_ca_signed() {
    let (signer, ours, other) = (Signer::p256("a"), Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    for (signed_by, is_trusted) in [(&ours, true), (&other, false)] {
        let server = KeyServer::start(&[&signer]).await;
        let url = with_tls(&server, signed_by.server("127.0.0.1", &["http/1.1"])).await;
        std::fs::write(&ca, ours.pem()).expect("a file");
        let sections = sections(&format!("{{ url = \"{url}\", ca = {ca:?} }}"));
        let app = App::still_with_sections(&sections).await;
        let status = read(&app, &signer.sign(&claims())).await;
        let expected = match is_trusted {
            true => is(Code::NotFound, "STORE_NOT_FOUND"),
            false => is(Code::Unavailable, "ISSUER_UNAVAILABLE"),
        };
        assert_eq!(reason(&status), expected);
        assert_eq!(server.requests().len(), usize::from(is_trusted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_with_unknown_keys_cause_one_fetch() {
    let signer = Signer::p256("a");
    let server = KeyServer::start(&[&signer]).await;
    let sections = sections(&format!("{{ url = \"{}\" }}", server.url));
    let app = App::still_with_sections(&sections).await;
    // A call waits for the first fetch.
    assert!(is_allowed(&app, &signer.sign(&claims())).await);
    assert_eq!(server.requests().len(), 1);
    for round in 2..4 {
        let forged = (0..20).map(|number| {
            let header = json!({ "alg": "ES256", "kid": format!("unknown {number}") });
            let token = signer.sign_with(&header, &claims());
            let app = &app;
            async move { is_allowed(app, &token).await }
        });
        assert!(join_all(forged).await.iter().all(|allowed| !allowed));
        assert_eq!(server.requests().len(), round);
        app.clock.advance(Duration::from_secs(30));
    }
    assert!(is_allowed(&app, &signer.sign(&claims())).await);
}
