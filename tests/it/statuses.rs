//! HTTP statuses other than 200 and pages that do not come from WeChat, and their meaning for a
//! call.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{App, GET_CARD, STABLE_TOKEN, is, new_store, reason, within};

const ADD_STORE: &str = "/wxa/add_store";
const PLACE: &str = "2708071440732747189";
const LONG: Duration = Duration::from_secs(40);

async fn add_store(app: &App, request_id: &str) -> Result<(), Status> {
    let request_id = request_id.to_owned();
    let request = pb::AddStoreRequest { request_id, ..new_store(PLACE, "0009") };
    app.stores().add_store(request).await.map(drop)
}

fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info().expect("every status has one");
    info.metadata.get(key).cloned().unwrap_or_default()
}

fn retry_after(status: &Status) -> Option<u64> {
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    wait.map(|wait| wait.as_secs())
}

/// Returns the number of writes in the journal.
async fn journaled_writes(app: &App) -> usize {
    let all = pb::ListWritesRequest::default();
    app.writes().list_writes(all).await.expect("a list").into_inner().writes.len()
}

fn status(code: u16, body: &str) -> Kind {
    Kind::Status { code, body: body.to_owned() }
}

const NAMES: [&str; 3] = [
    "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a90",
    "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a91",
    "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a92",
];

#[tokio::test(flavor = "multi_thread")]
async fn preexecution_status_proves_write_not_executed() {
    let app = App::start().await;
    let page = "<html>blocked by policy</html>";
    for (code, fix_by) in [
        (301, "operator"),
        (302, "operator"),
        (307, "operator"),
        (400, "operator"),
        (401, "operator"),
        (403, "operator"),
        (404, "operator"),
        (405, "operator"),
        (411, "operator"),
        (412, "operator"),
        (413, "operator"),
        (415, "operator"),
        (431, "operator"),
        (451, "operator"),
    ] {
        app.wechat.fault(Fault::new(ADD_STORE, status(code, page)));
        let before = app.count(ADD_STORE);
        let error = add_store(&app, NAMES[0]).await.expect_err("not executed");
        assert_eq!(reason(&error), is(Code::Unavailable, "WECHAT_UNREACHABLE"), "{code}");
        assert_eq!(metadata(&error, "http_status"), code.to_string());
        assert_eq!(metadata(&error, "fix_by"), fix_by, "{code}");
        assert_eq!(app.count(ADD_STORE), before + 1, "{code}: asking again would not help");
        assert_eq!(journaled_writes(&app).await, 0, "{code}: there is nothing to recover");
    }
    for code in [421, 425, 429] {
        app.wechat.fault(Fault::new(ADD_STORE, status(code, page)).times(3));
        let before = app.count(ADD_STORE);
        let error = add_store(&app, NAMES[0]).await.expect_err("not executed");
        assert_eq!(reason(&error), is(Code::Unavailable, "WECHAT_UNREACHABLE"), "{code}");
        assert_eq!(metadata(&error, "fix_by"), "wait", "{code}");
        assert_eq!(app.count(ADD_STORE), before + 3, "{code} may pass");
    }
    add_store(&app, NAMES[0]).await.expect("the same request is executed at last");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_status_leaves_write_unknown() {
    for code in [406, 408, 409, 500, 502, 503, 504] {
        let app = App::start().await;
        app.wechat.fault(Fault::new(ADD_STORE, status(code, "")));
        let error = add_store(&app, NAMES[0]).await.expect_err("unknown");
        assert_eq!(reason(&error), is(Code::Unknown, "OUTCOME_UNKNOWN"), "{code}");
        assert_eq!(app.count(ADD_STORE), 1, "{code}");
        assert_eq!(journaled_writes(&app).await, 1, "{code}");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_in_4xx_body_is_used() {
    let app = App::start().await;
    let body = r#"{"errcode":85038,"errmsg":"store has added rid: 6347a5d4-0f5f2b4a-6a9a3c4e"}"#;
    for code in [400, 403, 412, 429] {
        app.wechat.fault(Fault::new(ADD_STORE, status(code, body)));
        let error = add_store(&app, NAMES[0]).await.expect_err("refused");
        assert_eq!(reason(&error), is(Code::AlreadyExists, "STORE_DUPLICATE"), "{code}");
        assert_eq!(metadata(&error, "rid"), "6347a5d4-0f5f2b4a-6a9a3c4e");
    }
    // WeChat refuses the token before it executes anything, as with status 200.
    app.read().await.expect_err("there is no such store");
    app.clock.advance(Duration::from_secs(60));
    app.wechat.control("DELETE", "tokens", &json!({})).expect("they end");
    let body = r#"{"errcode":42001,"errmsg":"access_token expired"}"#;
    app.wechat.fault(Fault::new(GET_CARD, status(401, body)));
    let error = app.read().await.expect_err("there is no such store");
    assert_eq!(reason(&error), is(Code::NotFound, "STORE_NOT_FOUND"));
    assert_eq!(app.count(STABLE_TOKEN), 2);
    // A body that contradicts its status proves nothing.
    let body = r#"{"errcode":0,"errmsg":"ok"}"#;
    app.wechat.fault(Fault::new(ADD_STORE, status(403, body)));
    let error = add_store(&app, NAMES[1]).await.expect_err("unknown");
    assert_eq!(reason(&error), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    // The text of a gateway is not WeChat's verdict.
    let body = r#"{"code":403,"message":"forbidden by policy"}"#;
    app.wechat.fault(Fault::new(ADD_STORE, status(403, body)));
    let error = add_store(&app, NAMES[2]).await.expect_err("not executed");
    assert_eq!(reason(&error), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_with_status_200_is_not_an_answer() {
    let app = App::start().await;
    for page in ["<html>sign in</html>", "\u{feff} <!DOCTYPE html>", "<?xml version=\"1.0\"?>"] {
        let page = Kind::Replace { body: json!(page) };
        app.wechat.fault(Fault::new(GET_CARD, page.clone()).times(3));
        let error = app.read().await.expect_err("no answer");
        assert_eq!(reason(&error), is(Code::Unavailable, "WECHAT_UNREACHABLE"), "{page:?}");
    }
    let page = Kind::Replace { body: json!("<html>sign in</html>") };
    app.wechat.fault(Fault::new(ADD_STORE, page).execute(false));
    let error = add_store(&app, NAMES[0]).await.expect_err("unknown");
    assert_eq!(reason(&error), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_429_blocks_path_until_retry_after() {
    let app = App::start().await;
    // The pause is longer than any deadline, so the call itself cannot wait for it.
    let throttle = Kind::Throttle { retry_after: "120".to_owned() };
    app.wechat.fault(Fault::new(GET_CARD, throttle.clone()));
    app.wechat.fault(Fault::new(ADD_STORE, throttle));
    let error = add_store(&app, NAMES[0]).await.expect_err("limited");
    assert_eq!(reason(&error), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
    assert_eq!(retry_after(&error), Some(120));
    for advanced in [0, 60, 58] {
        app.clock.advance(Duration::from_secs(advanced));
        let error = app.read().await.expect_err("limited");
        assert_eq!(reason(&error), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
        assert_eq!((metadata(&error, "http_status"), metadata(&error, "fix_by")), {
            ("429".to_owned(), "wait".to_owned())
        });
        assert!(retry_after(&error).is_some_and(|wait| (1..=120).contains(&wait)));
        assert_eq!(app.count(GET_CARD), 1, "after {advanced} s");
    }
    app.clock.advance(Duration::from_secs(10));
    let error = app.read().await.expect_err("there is no such store");
    assert_eq!(reason(&error), is(Code::NotFound, "STORE_NOT_FOUND"));
    add_store(&app, NAMES[0]).await.expect("the same request is executed");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn call_waits_for_retry_after_within_deadline() {
    let app = App::start().await;
    let throttle = Kind::Throttle { retry_after: "8".to_owned() };
    app.wechat.fault(Fault::new(ADD_STORE, throttle));
    let waiting = async {
        while app.count(ADD_STORE) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Enough time for an attempt after the usual pause.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(app.count(ADD_STORE), 1, "not before that time");
        app.clock.advance(Duration::from_secs(8));
    };
    let (added, ()) =
        within(LONG, async { tokio::join!(add_store(&app, NAMES[0]), waiting) }).await;
    added.expect("sent again, because a 429 comes before execution");
    assert_eq!(app.count(ADD_STORE), 2);
    app.stop().await;
}

/// Answers every connection with the same bytes after a request.
async fn answering(bytes: &'static [u8]) -> std::net::SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = server.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(bytes).await;
                let _ = socket.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_password_error_is_for_the_operator() {
    let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\
        proxy-authenticate: Basic\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // Without TLS, the proxy answers the request itself, and with TLS the request for a tunnel.
    for host in ["http://wechat.invalid", "https://wechat.invalid"] {
        let proxy = answering(answer).await;
        let app = App::reaching(&format!(
            "hosts = [\"{host}\"]\nallow_http = true\nproxy = \"http://me:hidden@{proxy}\""
        ))
        .await;
        let error = within(LONG, app.read()).await.expect_err("no token");
        assert_eq!(reason(&error), is(Code::FailedPrecondition, "PROXY_REFUSED"), "{host}");
        assert_eq!(metadata(&error, "fix_by"), "operator");
        assert_eq!(metadata(&error, "setting"), "wechat.proxy");
        assert!(error.message().contains("wechat.proxy"), "{}", error.message());
        assert!(!error.message().contains("hidden"), "{}", error.message());
    }
    // The same with a cached token.
    let app = App::start().await;
    app.read().await.expect_err("there is no such store");
    app.fault("*", status(407, ""));
    let before = app.count(ADD_STORE);
    let error = add_store(&app, NAMES[0]).await.expect_err("not executed");
    assert_eq!(reason(&error), is(Code::FailedPrecondition, "PROXY_REFUSED"));
    assert_eq!(app.count(ADD_STORE), before + 1, "a wrong password is not tried again");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phone_number_in_errmsg_reaches_only_caller() {
    // `secrets.rs` searches the log for it.
    let phone = crate::secrets::QUOTED_PHONE;
    for errcode in [85038, 99999, -1, 40164, 45009] {
        let errmsg = Some(format!("invalid phone {phone} rid: 1"));
        let path = if errcode == 40164 { STABLE_TOKEN } else { GET_CARD };
        let app = App::start().await;
        app.fault(path, Kind::Errcode { errcode, errmsg });
        let error = within(LONG, app.read()).await.expect_err("refused");
        assert!(!error.message().contains(phone), "{}", error.message());
        assert!(metadata(&error, "errmsg").contains(phone), "{errcode}");
        app.stop().await;
    }
}
