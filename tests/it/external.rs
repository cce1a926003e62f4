//! Tokens that another program fetched: the gateway reads them from a server, a file or a Redis.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::OFFICIAL_SECRET;
use wechat_store_gateway::pb::{self, TokenKind, account_service_client::AccountServiceClient};

use crate::{
    platform::until,
    servers::RedisServer,
    support::{App, CLASSIC_TOKEN, GET_CARD, STABLE_TOKEN, is, reason, take_classic_token},
    tls::Authority,
};

/// The beginning of a reply that is never sent.
const SILENT: &str = "HTTP/1.1 999";

/// A token server of a company.
#[derive(Clone)]
pub(crate) struct TokenServer {
    address: SocketAddr,
    /// The status and the body of the next replies, and the requests.
    shared: Arc<Mutex<(u16, String, Vec<String>)>>,
}

impl TokenServer {
    pub(crate) async fn start(reply: impl Into<String>) -> Self {
        Self::start_with(reply, None).await
    }

    /// Starts a server with TLS or without it.
    async fn start_with(reply: impl Into<String>, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Mutex::new((200, reply.into(), Vec::new())));
        let server = Self { address, shared };
        let own = server.clone();
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (own, tls) = (own.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => own.serve(socket).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(socket).await {
                                own.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_buf(&mut request).await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        }
        let reply = self.answer(String::from_utf8_lossy(&request).into_owned());
        if reply.starts_with(SILENT) {
            return std::future::pending().await;
        }
        let _ = stream.write_all(reply.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// Returns the reply to a request. `{n}` in it becomes the number of requests so far.
    fn answer(&self, request: String) -> String {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.2.push(request);
        let (status, body, requests) = &*shared;
        let body = body.replace("{n}", &requests.len().to_string());
        format!(
            "HTTP/1.1 {status} Reply\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    pub(crate) fn set(&self, status: u16, body: impl Into<String>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        (shared.0, shared.1) = (status, body.into());
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).2.clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/wechat/token", self.address)
    }
}

/// Starts a gateway whose official account reads its tokens from a server.
async fn with_server(reply: &str, more: &str) -> (App, TokenServer) {
    let server = TokenServer::start(reply).await;
    let token = format!("{{ url = \"{}\"{more} }}", server.url());
    (App::still_with_token(OFFICIAL_SECRET, &token).await, server)
}

/// Checks that the token was valid: WeChat searched the store, which does not exist.
fn accepted(result: Result<String, Status>) {
    let status = result.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
}

fn refused(result: Result<String, Status>) {
    let status = result.expect_err("WeChat refuses the token");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_REFUSED"));
}

/// Checks that the gateway has no token, and returns the text.
fn missing(result: Result<String, Status>) -> String {
    let status = result.expect_err("there is no token");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_UNAVAILABLE"));
    let details = status.get_details_error_info().expect("checked above").metadata;
    assert_eq!(details["setting"], "accounts.token");
    status.message().to_owned()
}

fn json(token: &str, life: u64) -> String {
    format!("{{\"access_token\":\"{token}\",\"expires_in\":{life}}}")
}

/// Checks that the gateway itself asked WeChat for no token. A test took this many.
fn fetched_none(app: &App, taken: usize) {
    assert_eq!((app.count(STABLE_TOKEN), app.count(CLASSIC_TOKEN)), (0, taken));
}

async fn token_of(app: &App) -> pb::AccountToken {
    let request = pb::GetAccountRequest::default();
    let found = AccountServiceClient::new(app.channel.clone()).get_account(request).await;
    found.expect("an account").into_inner().account.expect("one").token.expect("always there")
}

#[tokio::test(flavor = "multi_thread")]
async fn server_is_asked_once_for_many_callers() {
    let (app, server) = with_server("", ", header = \"X-Key: very-secret-key-7\"").await;
    server.set(200, json(&take_classic_token(app.host).await, 7_200));
    let reads = join_all((0..100).map(|_| app.read())).await;
    reads.into_iter().for_each(accepted);
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("GET /wechat/token HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].to_lowercase().contains("x-key: very-secret-key-7\r\n"), "{}", requests[0]);
    let token = token_of(&app).await;
    assert_eq!((token.kind(), token.present), (TokenKind::External, true));
    assert!(token.expire_time.is_some(), "expires_in states it");
    fetched_none(&app, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_forms_are_read_by_settings() {
    for (form, more) in [
        ("TOKEN\n", ""),
        (r#"{"access_token":"TOKEN"}"#, ""),
        (r#"{"token":"TOKEN"}"#, ", field = \"token\""),
        (r#"{"data":{"token":"TOKEN"}}"#, ", field = \"/data/token\""),
    ] {
        let (app, server) = with_server("", more).await;
        server.set(200, form.replace("TOKEN", &take_classic_token(app.host).await));
        accepted(app.read().await);
        assert!(token_of(&app).await.expire_time.is_none(), "{form} states no end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_without_end_is_read_each_minute() {
    let (app, server) = with_server("", "").await;
    let first = take_classic_token(app.host).await;
    server.set(200, &first);
    accepted(app.read().await);
    for reads in 2..5 {
        app.clock.advance(Duration::from_secs(30));
        accepted(app.read().await);
        app.clock.advance(Duration::from_secs(31));
        // The valid token is used meanwhile.
        accepted(app.read().await);
        until(|| async { server.requests().len() >= reads }).await;
        assert_eq!(server.requests().len(), reads);
    }
    fetched_none(&app, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_token_is_replaced_within_the_call() {
    let (app, server) = with_server("", "").await;
    server.set(200, json("outdated-token", 7_200));
    refused(app.read().await);
    server.set(200, json(&take_classic_token(app.host).await, 7_200));
    app.clock.advance(Duration::from_secs(3));
    accepted(app.read().await);
    assert_eq!(app.count(GET_CARD), 3, "one of the refused calls was repeated");
    fetched_none(&app, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_token_is_asked_for_at_growing_pauses() {
    let (app, server) = with_server(&json("outdated-token", 7_200), "").await;
    refused(app.read().await);
    assert_eq!(server.requests().len(), 2, "the first time, and after the refusal");
    // Each pause lasts 2, 4, 8, … seconds, up to a minute.
    for _ in 0..600 {
        app.clock.advance(Duration::from_secs(1));
        refused(app.read().await);
    }
    let requests = server.requests().len();
    assert!((12..=18).contains(&requests), "{requests}");
    fetched_none(&app, 0);
}

/// A server that fetches a new token from WeChat for each request must not be emptied.
#[tokio::test(flavor = "multi_thread")]
async fn changing_refused_tokens_are_asked_for_slowly() {
    let (app, server) = with_server(&json("outdated-token-{n}", 7_200), "").await;
    for _ in 0..600 {
        app.clock.advance(Duration::from_secs(1));
        refused(app.read().await);
    }
    let requests = server.requests().len();
    assert!((12..=18).contains(&requests), "{requests} requests for 600 calls");
    server.set(200, json(&take_classic_token(app.host).await, 7_200));
    app.clock.advance(Duration::from_secs(61));
    accepted(app.read().await);
    // A refusal after a time of peace causes a request at once. A new token ends this one after five minutes.
    take_classic_token(app.host).await;
    app.clock.advance(Duration::from_secs(301));
    server.set(200, json(&take_classic_token(app.host).await, 7_200));
    accepted(app.read().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_needs_trusted_certificate() {
    let (own, other) = (Authority::new(), Authority::new());
    let tls = own.server("127.0.0.1", &["http/1.1"]);
    let server = TokenServer::start_with("", Some(tls)).await;
    let url = server.url().replace("http:", "https:");
    let app = App::still_with_token(OFFICIAL_SECRET, &format!("{{ url = \"{url}\" }}")).await;
    server.set(200, take_classic_token(app.host).await);
    let text = missing(app.read().await);
    assert!(text.contains("is unreachable"), "the system does not trust it: {text}");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    fs::write(&file, other.pem()).expect("writable");
    let token = format!("{{ url = \"{url}\", ca = \"{}\" }}", file.display());
    let app = App::still_with_token(OFFICIAL_SECRET, &token).await;
    server.set(200, take_classic_token(app.host).await);
    let text = missing(app.read().await);
    assert!(text.contains("is unreachable"), "the authority is another: {text}");
    assert_eq!(server.requests().len(), 0, "no request without a trusted certificate");
    // The file is read for each request.
    fs::write(&file, own.pem()).expect("writable");
    app.clock.advance(Duration::from_secs(31));
    accepted(app.read().await);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_server_delays_only_calls_without_token() {
    let (app, server) = with_server("", "").await;
    server.set(200, take_classic_token(app.host).await);
    accepted(app.read().await);
    server.set(999, "");
    for _ in 0..3 {
        app.clock.advance(Duration::from_secs(61));
        accepted(app.read().await);
    }
    let (app, server) = with_server("", "").await;
    server.set(999, "");
    let text = missing(app.read().await);
    assert!(text.contains("took too long"), "{text}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn pipe_as_token_file_is_not_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("token");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let token = format!("{{ file = \"{}\" }}", pipe.display());
    let app = App::still_with_token(OFFICIAL_SECRET, &token).await;
    let text = missing(app.read().await);
    assert!(text.contains("not a regular file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_token_is_used_while_server_is_down() {
    let (app, server) = with_server("", "").await;
    server.set(200, take_classic_token(app.host).await);
    accepted(app.read().await);
    server.set(503, "down");
    for _ in 0..30 {
        app.clock.advance(Duration::from_secs(61));
        accepted(app.read().await);
    }
    let token = token_of(&app).await;
    let failure = token.last_failure.expect("it failed in the background");
    assert!(failure.message.contains("answered 503"), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn useless_reply_is_described_and_not_quoted() {
    let (app, server) = with_server("", "").await;
    for (status, body, expected) in [
        (500, "canary-1".to_owned(), "answered 500"),
        (302, "canary-2".to_owned(), "answered 302"),
        (200, String::new(), "it is empty"),
        (200, "{\"code\":\"canary-3\"}".to_owned(), "the field is not there"),
        (200, "{\"access_token\":\"canary 4\"}".to_owned(), "it is no token"),
        (200, "{ canary-5".to_owned(), "it is not JSON"),
        (200, "{\"access_token\":\"canary-6\",\"expires_in\":0}".to_owned(), "has expired"),
        (200, "{\"access_token\":\"canary-6\",\"expires_in\":-7200}".to_owned(), "has expired"),
        (200, "<html><title>canary-6</title></html>".to_owned(), "it is no token"),
        (200, json("default-tcb-wx-access-token", 7_200), "WeChat has not written"),
        (200, "canary-7".repeat(10_000), "more than 64 KiB"),
    ] {
        server.set(status, body);
        // Longer than any pause after a failure.
        app.clock.advance(Duration::from_secs(31));
        let text = missing(app.read().await);
        assert!(text.contains(expected) && !text.contains("canary"), "{text}");
        assert!(!text.contains("/wechat/token"), "the URL could have a secret: {text}");
    }
    let requests = server.requests().len();
    for _ in 0..20 {
        missing(app.read().await);
    }
    assert_eq!(server.requests().len(), requests, "a failure pauses the requests");
    assert_eq!(app.count(GET_CARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_file_is_used_within_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token.json");
    let app = App::still_with_token(
        OFFICIAL_SECRET,
        &format!("{{ file = \"{}\", field = \"token\" }}", file.display()),
    )
    .await;
    let text = missing(app.read().await);
    assert!(text.contains("does not exist"), "{text}");
    for generation in 1..4 {
        let token = take_classic_token(app.host).await;
        fs::write(&file, format!("{{\"token\":\"{token}\"}}")).expect("writable");
        app.clock.advance(Duration::from_secs(2));
        accepted(app.read().await);
        assert_eq!(token_of(&app).await.generation, generation);
    }
    fetched_none(&app, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_redis_key_is_used() {
    let redis = RedisServer::start(false).await;
    let token = format!("{{ redis_key = \"wx:token\", url = \"{}/3\" }}", redis.url());
    let app = App::still_with_token(OFFICIAL_SECRET, &token).await;
    let text = missing(app.read().await);
    assert!(text.contains("no key wx:token"), "{text}");
    let token = take_classic_token(app.host).await;
    // The test's own connection uses the first database, so the key is moved to the third.
    redis.command(&format!("SET wx:token {token} EX 7000")).await;
    redis.command("MOVE wx:token 3").await;
    app.clock.advance(Duration::from_secs(31));
    accepted(app.read().await);
    assert!(token_of(&app).await.expire_time.is_some(), "the key has an end");
    fetched_none(&app, 1);
}
