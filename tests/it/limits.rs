//! The limits of one gRPC connection.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use wechat_simulator::faults::Kind;
use wechat_store_gateway::pb::{
    self, WatchPosition, card_service_client::CardServiceClient,
    watch_audit_events_request::Start as Cursor,
};

use crate::support::{App, GET_CARD, is, reason, within};

const SOON: Duration = Duration::from_secs(20);
/// The types of frames, and the error code of an attack (RFC 9113).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

/// Starts a gateway with these limits.
async fn limited(limits: &str) -> App {
    App::with_sections(&format!("[limits]\n{limits}")).await
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Connects and sends these frames after the beginning of HTTP/2.
async fn send(to: SocketAddr, frames: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(to).await.expect("it listens");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begin = [preface, &frame(SETTINGS, 0, 0, &[])[..], frames].concat();
    socket.write_all(&begin).await.expect("it reads");
    socket
}

/// Returns what comes first: the answer to the client's ping, or the error code of a GOAWAY.
async fn pong_or_goaway(mut socket: TcpStream) -> Result<(), u8> {
    loop {
        let mut head = [0; 9];
        within(SOON, socket.read_exact(&mut head)).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length.try_into().expect("short")];
        socket.read_exact(&mut payload).await.expect("the rest");
        match (head[3], head[4]) {
            (PING, 1) => return Ok(()),
            (GOAWAY, _) => return Err(payload[7]),
            _ => {}
        }
    }
}

/// Opens a connection without calls, and waits until the gateway closes it in order.
async fn idle_connection(to: SocketAddr) {
    let socket = TcpStream::connect(to).await.expect("it listens");
    let (_sender, connection) =
        http2::handshake::<_, _, Empty<bytes::Bytes>>(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
    within(SOON, connection).await.expect("an end in order");
}

/// Makes a call. Makes it again if the client did not send it, as all gRPC libraries except tonic do.
async fn get_card(channel: Channel) -> Result<(), Status> {
    let mut cards = CardServiceClient::new(channel);
    loop {
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        match cards.get_store_card(request).await {
            Err(status) if status.code() == Code::NotFound => return Ok(()),
            Err(status) if never_sent(&status) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Returns true if the connection closed, or was about to close, before the client sent the request.
fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // After GOAWAY the client opens no further stream on the connection.
            let text = format!("{error:?}");
            let went_away = text.contains("GoAway(") && text.contains("NO_ERROR");
            return error.is_canceled() || went_away;
        }
        cause = error.source();
    }
    false
}

/// Watches from the beginning of the log.
async fn watch(app: &App) -> tonic::Streaming<pb::WatchAuditEventsResponse> {
    let start = Some(Cursor::Position(WatchPosition::Earliest.into()));
    let request = pb::WatchAuditEventsRequest { start, ..Default::default() };
    app.audits().watch_audit_events(request).await.expect("a watch").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_has_limited_streams() {
    let app = limited("streams_per_connection = 3").await;
    get_card(app.channel.clone()).await.expect("a token is there now");
    app.fault(GET_CARD, Kind::Hold);
    let before = app.count(GET_CARD);
    let held = (0..4).map(|_| tokio::spawn(get_card(app.channel.clone()))).collect::<Vec<_>>();
    let reached = async |count| {
        let wait = async {
            while app.count(GET_CARD) < before + count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        within(SOON, wait).await;
    };
    reached(3).await;
    let url = format!("http://{}", app.address);
    let other = Channel::from_shared(url).expect("a URL").connect().await.expect("it listens");
    let other = tokio::spawn(get_card(other));
    reached(4).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(app.count(GET_CARD), before + 4, "the fourth call waits at the client");
    held.iter().chain([&other]).for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_pong_is_closed() {
    let app = limited("keepalive_interval_ms = 1000\nkeepalive_timeout_ms = 1000").await;
    let mut socket = send(app.address, &[]).await;
    let mut received = Vec::new();
    // The default would take 50 seconds.
    let _ = within(SOON, socket.read_to_end(&mut received)).await;
    let ping = frame(PING, 0, 0, &[0; 8]);
    assert!(received.windows(5).any(|part| part == &ping[..5]), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_of_resets_ends_connection() {
    let mut burst = Vec::new();
    for stream in (1..100).step_by(2) {
        // POST http /, from HPACK's static table.
        burst.extend(frame(HEADERS, 5, stream, &[0x83, 0x86, 0x84]));
        burst.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    burst.extend(frame(PING, 0, 0, &[0; 8]));
    for (limits, expected) in
        [("", Err(ENHANCE_YOUR_CALM)), ("resets_per_connection = 1000", Ok(()))]
    {
        let app = limited(limits).await;
        assert_eq!(pong_or_goaway(send(app.address, &burst).await).await, expected, "{limits}");
        get_card(app.channel.clone()).await.expect("others are served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_errors_end_connection() {
    let mut faulty = Vec::new();
    for stream in (1..40).step_by(2) {
        // POST http / with a content-length of 5, and one byte.
        let head = [0x83, 0x86, 0x84, 0x0f, 0x0d, 1, b'5'];
        faulty.extend(frame(HEADERS, 4, stream, &head));
        faulty.extend(frame(DATA, 1, stream, &[0]));
    }
    faulty.extend(frame(PING, 0, 0, &[0; 8]));
    for (limits, expected) in
        [("", Ok(())), ("protocol_errors_per_connection = 5", Err(ENHANCE_YOUR_CALM))]
    {
        let app = limited(limits).await;
        assert_eq!(pong_or_goaway(send(app.address, &faulty).await).await, expected, "{limits}");
        get_card(app.channel.clone()).await.expect("others are served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_message_or_metadata_is_refused() {
    let too_large = is(Code::OutOfRange, "MESSAGE_TOO_LARGE");
    let invalid = is(Code::InvalidArgument, "INVALID_REQUEST");
    let not_found = is(Code::NotFound, "STORE_NOT_FOUND");
    for (limits, message, metadata) in [
        ("", &invalid, &not_found),
        ("message_kib = 16", &too_large, &not_found),
        ("metadata_kib = 4", &invalid, &too_large),
    ] {
        let app = limited(limits).await;
        let poi_id = "7".repeat(20_000);
        let request = pb::GetStoreCardRequest { poi_id, ..Default::default() };
        let status = app.cards().get_store_card(request).await.expect_err("no such id");
        assert_eq!(&reason(&status), message, "{limits}");
        let poi_id = "1".to_owned();
        let mut request = Request::new(pb::GetStoreCardRequest { poi_id, ..Default::default() });
        request.metadata_mut().insert("x-long", "x".repeat(5_000).parse().expect("ASCII"));
        let status = app.cards().get_store_card(request).await.expect_err("no such store");
        assert_eq!(&reason(&status), metadata, "{limits}");
        app.upload().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_connection_closes_without_failed_call() {
    let app = limited("connection_age_ms = 1000").await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = (0..4).map(|_| {
        let (channel, stop) = (app.channel.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                get_card(channel.clone()).await.expect("no failed call");
            }
        })
    });
    let load = load.collect::<Vec<_>>();
    for _ in 0..3 {
        idle_connection(app.address).await;
    }
    stop.store(true, Ordering::Relaxed);
    for one in join_all(load).await {
        one.expect("no failed call");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_continues_on_old_connection() {
    let app = limited("connection_age_ms = 1000").await;
    let mut events = watch(&app).await;
    for _ in 0..2 {
        // It ends a second or so later, so at its second end the watch's connection is too old.
        idle_connection(app.address).await;
    }
    get_card(app.channel.clone()).await.expect("the channel has a new connection now");
    let submission = app.add_store("2708071440732747189", "1").await;
    app.approve(&submission);
    let next = async {
        loop {
            let response = events.message().await.expect("no end").expect("no end");
            if let Some(event) = response.event {
                return event;
            }
        }
    };
    assert_eq!(within(SOON, next).await.audit_id, submission.audit_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_streams_end_after_grace() {
    let app = limited("connection_age_ms = 1000\nconnection_age_grace_ms = 0").await;
    let mut events = watch(&app).await;
    let mut health = HealthClient::new(app.channel.clone());
    let health = health.watch(HealthCheckRequest::default()).await.expect("a watch");
    let mut health = health.into_inner();
    let first = events.message().await.expect("a checkpoint").expect("a checkpoint");
    let last = within(SOON, events.message()).await.expect("a checkpoint").expect("a checkpoint");
    assert!(last.event.is_none() && last.cursor == first.cursor);
    let status = within(SOON, events.message()).await.expect_err("the end");
    assert_eq!(reason(&status), is(Code::Unavailable, "SHUTTING_DOWN"));
    let end = async { while health.message().await.expect("an end in order").is_some() {} };
    within(SOON, end).await;
    get_card(app.channel.clone()).await.expect("a new connection");
}
