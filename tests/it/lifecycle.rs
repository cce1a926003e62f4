//! Health, reflection and an orderly shutdown.

use std::time::Duration;

use prost::Message;
use prost_types::FileDescriptorProto;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::{StreamExt, once};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};
use wechat_store_gateway::{pb, testing::SERVICES};

use crate::support::{App, is, reason, within};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn health_covers_process_and_every_service() {
    let app = App::start().await;
    // Health does not depend on WeChat: here every call to it fails.
    app.wechat.refuse_next("*", 50002);
    let mut health = HealthClient::new(app.channel.clone());
    for service in SERVICES.iter().chain(&[""]) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let answer = health.check(request).await.expect("known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "wechat.store.v1.Nothing".to_owned() };
    let status = health.check(request).await.expect_err("unknown");
    assert_eq!(reason(&status), is(Code::NotFound, "NAME_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_watchers_without_waiting() {
    let app = App::with_sections("[limits]\nlame_duck_ms = 200").await;
    let mut health = HealthClient::new(app.channel.clone());
    let mut watch =
        health.watch(HealthCheckRequest::default()).await.expect("a stream").into_inner();
    let first = watch.message().await.expect("no failure").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);
    let watcher = tokio::spawn(async move {
        let second = watch.message().await.expect("no failure").expect("a status");
        (second.status(), watch.message().await)
    });
    within(SOON, app.stop()).await;
    let (second, end) = within(SOON, watcher).await.expect("no panic");
    assert_eq!(second, ServingStatus::NotServing);
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_open_reflection() {
    use v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

    let app = App::start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(app.channel.clone());
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let questions = once(question).chain(tokio_stream::pending());
    let mut answers =
        client.server_reflection_info(questions).await.expect("a stream").into_inner();
    answers.next().await.expect("an answer").expect("no failure");
    within(SOON, app.stop()).await;
    assert!(within(SOON, answers.next()).await.is_none(), "the stream has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn non_http2_peer_is_disconnected() {
    let app = App::start().await;
    for sent in [&b""[..], b"PRI * HT", b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n"] {
        let mut peer = TcpStream::connect(app.address).await.expect("it listens");
        peer.write_all(sent).await.expect("it reads");
        let mut answer = Vec::new();
        // The connection was closed or reset, but not kept.
        let _ = within(2 * SOON, peer.read_to_end(&mut answer)).await;
    }
    // Stopping does not wait for one either.
    let _peer = TcpStream::connect(app.address).await.expect("it listens");
    within(SOON, app.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_stop_still_serves_new_callers() {
    let app = App::with_sections("[limits]\nlame_duck_ms = 3600000").await;
    app.announce_stop();
    let mut health = HealthClient::new(app.channel.clone());
    while health.check(HealthCheckRequest::default()).await.expect("known").into_inner().status()
        == ServingStatus::Serving
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    let answer = app.timeless_cards().await.get_store_card(request).await;
    assert_eq!(answer.expect_err("there is no such store").code(), Code::NotFound);
}

/// Without these symbols, grpcurl would print error details as bytes.
const SYMBOLS: [&str; 3] =
    ["wechat.store.v1.StoreService", "google.rpc.ErrorInfo", "grpc.health.v1.Health"];

#[tokio::test(flavor = "multi_thread")]
async fn reflection_serves_services_comments_and_errors() {
    let app = App::start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(app.channel.clone());
    for symbol in SYMBOLS {
        use v1::{
            ServerReflectionRequest, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        };
        let message_request = Some(MessageRequest::FileContainingSymbol(symbol.to_owned()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut answers =
            client.server_reflection_info(once(request)).await.expect("a stream").into_inner();
        let answer = answers.next().await.expect("an answer").expect("no failure");
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
            panic!("{symbol}: {answer:?}");
        };
        if symbol == SYMBOLS[0] {
            let file = &files.file_descriptor_proto[0];
            let file = FileDescriptorProto::decode(&file[..]).expect("a descriptor");
            let info = file.source_code_info.expect("comments");
            let comments: String = info.location.iter().map(|l| l.leading_comments()).collect();
            assert!(comments.contains("Calls POST /wxa/add_store."));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_reflection_version_is_served() {
    let app = App::start().await;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(app.channel.clone());
    for symbol in SYMBOLS {
        use v1alpha::{
            ServerReflectionRequest, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        };
        let message_request = Some(MessageRequest::FileContainingSymbol(symbol.to_owned()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut answers =
            client.server_reflection_info(once(request)).await.expect("a stream").into_inner();
        let answer = answers.next().await.expect("an answer").expect("no failure");
        let found =
            matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(found, "{symbol}");
    }
}

#[tokio::test]
async fn admin_port_reports_liveness_and_readiness() {
    let app = App::start().await;
    assert_eq!(app.ask("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(app.ask("/readyz").await, (200, "ok\n".to_owned()));
    let (status, text) = app.ask("/metric").await;
    assert_eq!((status, &*text), (404, "there are /livez, /readyz and /metrics\n"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_within_a_second_share_one_write() {
    let app = App::still().await;
    assert_eq!(app.ask("/readyz").await.0, 200);
    let lock = app.lock_state();
    for _ in 0..3 {
        assert_eq!(app.ask("/readyz").await.0, 200, "the state is not asked again");
    }
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(app.ask("/readyz").await.0, 503);
    drop(lock);
    assert_eq!(app.ask("/readyz").await.0, 503);
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(app.ask("/readyz").await.0, 200);
}

#[tokio::test]
async fn stopping_gateway_is_live_but_not_ready() {
    let app = App::with_sections("[limits]\nlame_duck_ms = 2000").await;
    app.announce_stop();
    within(SOON, async {
        while app.ask("/readyz").await != (503, "shutting down\n".to_owned()) {}
    })
    .await;
    assert_eq!(app.ask("/livez").await.0, 200);
    app.stop().await;
}
