//! A WeChat that answers with nonsense, slowly, or not at all.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::Code;
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};

use crate::support::{App, GET_CARD, SET_CARD, is, reason, within};

const LONG: Duration = Duration::from_secs(40);

/// The errors of a read and of a repeatable write after all safe retries.
#[tokio::test(flavor = "multi_thread")]
async fn broken_answer_becomes_typed_status() {
    let unreachable = is(Code::Unavailable, "WECHAT_UNREACHABLE");
    let bad_reply = is(Code::Internal, "WECHAT_BAD_REPLY");
    let text = |body: &str| Kind::Replace { body: json!(body) };
    for (kind, expected) in [
        (Kind::Html502, &unreachable),
        (Kind::Status { code: 500, body: String::new() }, &unreachable),
        (Kind::ResetBefore, &unreachable),
        (Kind::ResetAfter, &unreachable),
        (Kind::Truncate, &unreachable),
        (Kind::Redirect { location: "http://127.0.0.1:1/".to_owned() }, &unreachable),
        (Kind::NotJson, &bad_reply),
        (Kind::Empty, &bad_reply),
        (Kind::Huge { bytes: 100 << 20 }, &bad_reply),
        (text("<html>busy</html>"), &unreachable),
        (text("[1,2]"), &bad_reply),
        (text(r#"{"errcode":"o"}"#), &bad_reply),
        (text(r#"{"errcode":0,"card_id":{"no":"text"}}"#), &bad_reply),
        (text(r#"{"errcode":0,"card_id":1.5}"#), &bad_reply),
        (text(r#"{"card_id":"p1"}"#), &bad_reply),
    ] {
        let app = App::start().await;
        app.fault(GET_CARD, kind.clone());
        let status = within(LONG, app.read()).await.expect_err("a broken answer");
        assert_eq!(&reason(&status), expected, "{kind:?}");
        assert_eq!(app.count(GET_CARD), 3, "a read is safe to repeat: {kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_is_not_followed() {
    let app = App::start().await;
    let location = "/wxa/get_merchant_category".to_owned();
    app.fault(GET_CARD, Kind::Redirect { location: location.clone() });
    let status = within(LONG, app.read()).await.expect_err("no answer");
    assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["http_status"], "302");
    assert_eq!(app.count(&location), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_survives_one_broken_answer() {
    let app = App::start().await;
    for kind in [Kind::Html502, Kind::ResetBefore, Kind::ResetAfter, Kind::Truncate, Kind::Empty] {
        app.wechat.fault(Fault::new(GET_CARD, kind));
        let status = within(LONG, app.read()).await.expect_err("there is no such store");
        assert_eq!(status.code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_types_and_unknown_fields_are_tolerated() {
    let app = App::start().await;
    for body in [
        r#"{"errcode":"0","errmsg":"ok","card_id":"p1"}"#,
        r#"{"errcode":0,"card_id":"p1","extra":{"a":[1,null]}}"#,
        r#" {"card_id":"p1","errcode":0} "#,
        r#"{"errcode":0,"errmsg":null,"card_id":" p1\n"}"#,
    ] {
        app.wechat.fault(Fault::new(GET_CARD, Kind::Replace { body: json!(body) }));
        assert_eq!(app.read().await.expect(body), "p1");
    }
    for (body, card_id) in [
        (r#"{"errcode":0,"card_id":null}"#, ""),
        (r#"{"errcode":0,"card_id":12345678901234567890123}"#, "12345678901234567890123"),
    ] {
        app.wechat.fault(Fault::new(GET_CARD, Kind::Replace { body: json!(body) }));
        assert_eq!(app.read().await.expect(body), card_id);
    }
    app.wechat.fault(Fault::new(GET_CARD, Kind::Replace { body: json!({"errcode": "65115"}) }));
    let status = app.read().await.expect_err("an errcode as text");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reply_ends_at_deadline() {
    let app = App::with_sections("[limits]\ndefault_deadline_ms = 1500").await;
    app.fault(GET_CARD, Kind::Drip { interval_ms: 1_000 });
    let status = within(Duration::from_secs(5), app.read()).await.expect_err("too slow");
    assert_eq!(reason(&status), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_reply_of_repeatable_write_is_retried() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(SET_CARD, Kind::ResetAfter));
    let status = within(LONG, app.write()).await.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    assert_eq!(app.count(SET_CARD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_token_reply_becomes_typed_status() {
    let text = |body| Kind::Replace { body };
    for kind in [
        Kind::Html502,
        Kind::Empty,
        text(json!({"expires_in": 7200})),
        text(json!({"access_token": "", "expires_in": 7200})),
        text(json!({"access_token": "t"})),
        text(json!({"access_token": "t", "expires_in": 0})),
    ] {
        for source in ["stable", "classic"] {
            let app = App::with(&format!("default = true\ntoken = \"{source}\"")).await;
            app.fault("*", kind.clone());
            let status = within(LONG, app.read()).await.expect_err("there is no token");
            assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_UNAVAILABLE"), "{kind:?}");
            assert_eq!(app.count(GET_CARD), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_port_becomes_typed_status() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = closed.local_addr().expect("bound");
    drop(closed);
    let app = App::in_front_of(address).await;
    let status = within(LONG, app.read()).await.expect_err("no server is there");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_UNAVAILABLE"));
}

/// Bytes that no HTTP library sends.
#[tokio::test(flavor = "multi_thread")]
async fn non_http_answer_becomes_typed_status() {
    for answer in [
        &b""[..],
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\"",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n\xff\xfe{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope",
    ] {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = server.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = server.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = socket.read(&mut request).await;
                    let _ = socket.write_all(answer).await;
                });
            }
        });
        let app = App::in_front_of(address).await;
        let status = within(LONG, app.read()).await.expect_err("no token in that");
        let text = String::from_utf8_lossy(answer);
        assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_UNAVAILABLE"), "{text}");
    }
}
