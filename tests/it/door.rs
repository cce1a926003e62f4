//! Unusual connections, and requests that no gRPC library sends.

use std::{convert::Infallible, io::Write, net::SocketAddr, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::once;
use tonic::{
    Code, Status, body::Body, codec::CompressionEncoding, metadata::MetadataMap, transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt;
use wechat_simulator::faults::Kind;
use wechat_store_gateway::{
    pb::{
        self,
        health::{HealthListRequest, health_client::HealthClient},
        media_service_client::MediaServiceClient,
    },
    testing::SERVICES,
};

use crate::support::{App, GET_CARD, is, png, reason, within};

const SOON: Duration = Duration::from_secs(8);
const CARD: &str = "/wechat.store.v1.CardService/GetStoreCard";
const UPLOAD: &str = "/wechat.store.v1.MediaService/UploadTemporaryImage";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A connection that can send any request.
#[derive(Clone)]
struct Raw(SendRequest<Body>);

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a gRPC POST with further headers and returns the answer.
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend(headers);
        self.send(Method::POST, path, &all, body).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut sender = self.0.clone();
        sender.ready().await.expect("connected");
        let mut request = http::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://gateway{path}").parse().expect("a URL");
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        let response = within(4 * SOON, sender.send_request(request)).await.expect("a response");
        let (head, body) = response.into_parts();
        let body = within(SOON, body.collect()).await.expect("no reset");
        let trailers = body.trailers().cloned();
        Answer { status: head.status, headers: head.headers, trailers, body: body.to_bytes() }
    }
}

/// The answer to a request.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
    body: Bytes,
}

impl Answer {
    fn grpc(&self) -> Status {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        Status::from_header_map(headers).expect("a gRPC status")
    }

    /// Returns the code and reason of a refusal. Fails if its form is unusual.
    fn refusal(&self) -> (Code, String) {
        let status = self.grpc();
        let info = status.get_details_request_info().expect("the trace's id");
        assert_eq!(info.request_id.len(), 32);
        reason(&status)
    }
}

fn prefixed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    [&[compressed], &length[..], message].concat()
}

fn whole(bytes: impl Into<Bytes>) -> Body {
    Body::new(http_body_util::Full::new(bytes.into()))
}

/// Returns a body that stops after these bytes.
fn stuck(bytes: impl Into<Bytes>) -> Body {
    let begun = Ok::<_, Infallible>(Frame::data(bytes.into()));
    Body::new(StreamBody::new(stream::once(std::future::ready(begun)).chain(stream::pending())))
}

/// Returns a body that never arrives.
fn missing_body() -> Body {
    Body::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()))
}

fn card() -> Vec<u8> {
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    prefixed(0, &request.encode_to_vec())
}

fn packed(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(message).expect("memory");
    prefixed(1, &encoder.finish().expect("memory"))
}

/// Returns an upload of a picture with this many bytes of padding.
fn upload(padding: usize) -> pb::UploadTemporaryImageRequest {
    let mut content = png();
    let end = content.split_off(content.len() - 12);
    // A chunk that every reader ignores: its length, its name, its content, its checksum.
    content.extend(u32::try_from(padding).expect("short").to_be_bytes());
    content.extend(b"prVt");
    content.resize(content.len() + padding + 4, 0);
    content.extend(end);
    pb::UploadTemporaryImageRequest { content: content.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn non_grpc_request_gets_http_answer() {
    let app = App::start().await;
    let raw = Raw::connect(app.address).await;
    for (method, content_type, expected) in [
        (Method::POST, Some("application/json"), 415),
        (Method::POST, Some("application/grpc-web+proto"), 415),
        (Method::POST, Some("application/grpcnonsense"), 415),
        (Method::POST, Some(""), 415),
        (Method::POST, None, 415),
        (Method::GET, Some("application/grpc"), 405),
        (Method::GET, None, 405),
        (Method::OPTIONS, None, 405),
    ] {
        for path in [CARD, CHECK, "/", "/no.such.Service/Nothing"] {
            let headers: Vec<_> =
                content_type.map(|kind| ("content-type", kind)).into_iter().collect();
            let answer = raw.send(method.clone(), path, &headers, whole(card())).await;
            assert_eq!(answer.status.as_u16(), expected, "{method} {content_type:?} {path}");
            assert_eq!(answer.headers[CONTENT_TYPE], "text/plain");
            assert!(answer.body.starts_with(b"this port serves gRPC"));
            assert!(!answer.headers.contains_key("grpc-status"));
        }
    }
    for good in ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=utf-8"] {
        let answer = raw.send(Method::POST, CARD, &[("content-type", good)], whole(card())).await;
        assert_eq!(answer.refusal(), is(Code::NotFound, "STORE_NOT_FOUND"), "{good}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_header_is_refused_by_name() {
    let app = App::start().await;
    let raw = Raw::connect(app.address).await;
    let long = "x".repeat(17_000);
    let invalid = is(Code::InvalidArgument, "INVALID_REQUEST");
    let unknown = is(Code::Unimplemented, "MALFORMED_REQUEST");
    let too_large = is(Code::OutOfRange, "MESSAGE_TOO_LARGE");
    for path in [CARD, CHECK] {
        for (headers, expected) in [
            (&[("grpc-timeout", "")][..], &invalid),
            (&[("grpc-timeout", "5")], &invalid),
            (&[("grpc-timeout", "S")], &invalid),
            (&[("grpc-timeout", "-5S")], &invalid),
            (&[("grpc-timeout", "+5S")], &invalid),
            (&[("grpc-timeout", "5s")], &invalid),
            (&[("grpc-timeout", "5 S")], &invalid),
            (&[("grpc-timeout", "1.5S")], &invalid),
            (&[("grpc-timeout", "123456789S")], &invalid),
            (&[("grpc-timeout", "soon")], &invalid),
            (&[("grpc-timeout", "5S"), ("grpc-timeout", "6S")], &invalid),
            (&[("grpc-encoding", "gzip"), ("grpc-encoding", "identity")], &invalid),
            (&[("grpc-encoding", "br")], &unknown),
            (&[("grpc-encoding", "GZIP")], &unknown),
            (&[("grpc-encoding", "")], &unknown),
            (&[("x-long", &long)], &too_large),
        ] {
            let answer = raw.post(path, headers, whole(card())).await;
            assert_eq!(&answer.refusal(), expected, "{path} {headers:?}");
            if expected == &invalid {
                let fields = answer.grpc().get_details_bad_request().expect("fields");
                assert_eq!(fields.field_violations[0].field, headers[0].0);
            }
            if headers[0].0 == "grpc-encoding" && expected == &unknown {
                let known = answer.headers["grpc-accept-encoding"].to_str().expect("ASCII");
                assert_eq!(known, "identity,gzip");
            }
        }
    }
    let json = [("content-type", "application/grpc+json")];
    let answer = raw.send(Method::POST, CARD, &json, whole("{}")).await;
    assert_eq!(answer.refusal(), unknown);
    // A head that is longer than the HTTP/2 limit gets an HTTP answer, and the connection stays
    // open.
    let longer = "x".repeat(70_000);
    let answer = raw.post(CARD, &[("x-long", &longer)], whole(card())).await;
    assert_eq!(answer.status.as_u16(), 431);
    for good in ["99999999H", "10S", "00000005M"] {
        let answer = raw.post(CARD, &[("grpc-timeout", good)], whole(card())).await;
        assert_eq!(answer.refusal(), is(Code::NotFound, "STORE_NOT_FOUND"), "{good}");
    }
    assert_eq!(app.count(GET_CARD), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn body_without_single_message_is_refused() {
    let app = App::start().await;
    let raw = Raw::connect(app.address).await;
    let malformed = is(Code::InvalidArgument, "MALFORMED_REQUEST");
    let gzip = [("grpc-encoding", "gzip")];
    let mut garbage = packed(&card()[5..]);
    garbage.extend([0; 4]);
    let length = u32::try_from(garbage.len() - 5).expect("short").to_be_bytes();
    garbage[1..5].copy_from_slice(&length);
    for path in [CARD, CHECK] {
        for (headers, body) in [
            (&[][..], Vec::new()),
            (&[], vec![0, 0]),
            (&[], vec![0, 0, 0, 0, 9, 1]),
            (&[], [card(), card()].concat()),
            (&[], [card(), vec![7]].concat()),
            (&[], [prefixed(0, b""), prefixed(0, b"")].concat()),
            (&[], packed(&card()[5..])),
            (&[("grpc-encoding", "identity")], packed(&card()[5..])),
            (&[], prefixed(2, b"")),
            (&[], b"{\"poi_id\":\"1\"}".to_vec()),
            (&gzip, prefixed(1, b"no gzip")),
            (&gzip, prefixed(1, b"")),
            (&gzip, garbage.clone()),
            (&gzip, packed(b"\xff\xff\xff")),
        ] {
            let answer = raw.post(path, headers, whole(body.clone())).await;
            assert_eq!(answer.refusal(), malformed, "{path} {headers:?} {body:?}");
        }
    }
    assert_eq!(app.count(GET_CARD), 0);
    // A compressed call may contain an uncompressed message.
    for body in [card(), packed(&card()[5..])] {
        let answer = raw.post(CARD, &gzip, whole(body)).await;
        assert_eq!(answer.refusal(), is(Code::NotFound, "STORE_NOT_FOUND"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_picture_is_accepted() {
    let app = App::start().await;
    let mut media =
        MediaServiceClient::new(app.channel.clone()).send_compressed(CompressionEncoding::Gzip);
    let answer = media.upload_temporary_image(upload(100_000)).await.expect("taken");
    assert!(!answer.into_inner().media_id.is_empty());
    let health = HealthClient::new(app.channel.clone());
    let mut health = health.send_compressed(CompressionEncoding::Gzip);
    health.check(HealthCheckRequest::default()).await.expect("an answer");
    let question = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let reflection = ServerReflectionClient::new(app.channel.clone());
    let mut reflection = reflection.send_compressed(CompressionEncoding::Gzip);
    let answers = reflection.server_reflection_info(once(question)).await.expect("a stream");
    answers.into_inner().next().await.expect("an answer").expect("no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_message_counts_decompressed() {
    let app = App::start().await;
    let raw = Raw::connect(app.address).await;
    let too_large = is(Code::OutOfRange, "MESSAGE_TOO_LARGE");
    for (path, zeros) in [(CARD, 5 << 20), (CHECK, 5 << 20), (UPLOAD, 12 << 20), (CARD, 100 << 20)]
    {
        let bomb = packed(&vec![0; zeros]);
        assert!(bomb.len() < 200_000);
        let answer = raw.post(path, &[("grpc-encoding", "gzip")], whole(bomb)).await;
        assert_eq!(answer.refusal(), too_large, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decompressed_requests_use_bounded_memory() {
    let app = App::with_sections("[limits]\nrequest_memory_mib = 48").await;
    app.fault("*", Kind::Hold);
    let raw = Raw::connect(app.address).await;
    let bomb = packed(&upload(9 << 20).encode_to_vec());
    assert!(bomb.len() < 20_000);
    let post = || raw.post(UPLOAD, &[("grpc-encoding", "gzip")], whole(bomb.clone())).boxed();
    // One connection may use half of the memory, 24 MiB: two uploads of nine and a bit.
    let mut calls = (0..12).map(|_| post()).collect::<stream::FuturesUnordered<_>>();
    for _ in 0..10 {
        let answer = within(SOON, calls.next()).await.expect("an answer");
        assert_eq!(answer.refusal(), is(Code::ResourceExhausted, "OVERLOADED"));
        let status = answer.grpc();
        let info = status.get_details_error_info().expect("checked above");
        assert_eq!(info.metadata["setting"], "limits.request_memory_mib");
        assert!(status.get_details_retry_info().is_some());
    }
    assert!(calls.next().now_or_never().is_none(), "the others wait for WeChat");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodiless_requests_leave_room_for_others() {
    let app = App::with_sections(
        "[limits]\nunfinished_requests = 40\nopen_calls = 40\nrequest_silence_ms = 600000\n\
         max_deadline_ms = 600000\ndefault_deadline_ms = 600000",
    )
    .await;
    let mut hogs = Vec::new();
    // One connection may use half of the free capacity, and the next half of the rest. Health has its own.
    for (path, expected) in [(CARD, 20), (CHECK, 20), (UPLOAD, 10), (CHECK, 10)] {
        let raw = Raw::connect(app.address).await;
        let mut calls = (0..100)
            .map(|_| {
                let raw = raw.clone();
                async move { raw.0.clone().send_request(request(path, missing_body())).await }
                    .boxed()
            })
            .collect::<stream::FuturesUnordered<_>>();
        for _ in expected..100 {
            let response = within(SOON, calls.next()).await.expect("a call").expect("an answer");
            let status = Status::from_header_map(response.headers()).expect("a status");
            assert_eq!(reason(&status), is(Code::ResourceExhausted, "OVERLOADED"));
        }
        assert_eq!(calls.len(), expected, "{path}");
        assert!(calls.next().now_or_never().is_none());
        hogs.push(calls);
        assert_eq!(app.read().await.expect_err("no such store").code(), Code::NotFound);
    }
    // A closed connection frees its capacity.
    hogs.clear();
    let raw = Raw::connect(app.address).await;
    within(SOON, async {
        while raw.post(CARD, &[], stuck_then_whole()).await.refusal().1 != "STORE_NOT_FOUND" {}
    })
    .await;
}

fn request(path: &str, body: Body) -> http::Request<Body> {
    http::Request::post(format!("http://gateway{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .body(body)
        .expect("a request")
}

/// Returns a body that arrives a little later than its head.
fn stuck_then_whole() -> Body {
    let frame = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from(card())))
    };
    Body::new(StreamBody::new(stream::once(frame.boxed())))
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_request_is_ended() {
    let app = App::with_sections("[limits]\nrequest_silence_ms = 2000").await;
    let raw = Raw::connect(app.address).await;
    let begun = [missing_body, || stuck(card()[..7].to_vec()), || stuck(card())];
    let calls = [CARD, CHECK, UPLOAD].into_iter().flat_map(|path| begun.map(|body| (path, body())));
    // The callers have a minute.
    let answers =
        join_all(calls.map(|(path, body)| raw.post(path, &[("grpc-timeout", "1M")], body))).await;
    for answer in answers {
        assert_eq!(answer.refusal(), is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        assert!(answer.grpc().message().contains("no data arrived for 2000 ms"));
    }
    assert_eq!(app.count("*"), 0);
    // The first question to reflection never arrives.
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let answer = within(SOON, raw.post(path, &[], missing_body())).await;
    assert_eq!(answer.grpc().code(), Code::Ok);
    // A slow body is accepted as long as it progresses.
    let slow = stream::iter(card()).then(async |byte| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![byte])))
    });
    let answer = raw.post(CARD, &[], Body::new(StreamBody::new(slow.boxed()))).await;
    assert_eq!(answer.refusal(), is(Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn excess_calls_are_refused_but_health_answers() {
    let app = App::with_sections("[limits]\ncalls = 8\nmax_deadline_ms = 600000").await;
    app.fault(GET_CARD, Kind::Hold);
    let raw = Raw::connect(app.address).await;
    let post = || {
        let raw = raw.clone();
        async move { raw.post(CARD, &[("grpc-timeout", "9M")], whole(card())).await }.boxed()
    };
    let mut calls = (0..10).map(|_| post()).collect::<stream::FuturesUnordered<_>>();
    for _ in 4..10 {
        let answer = within(SOON, calls.next()).await.expect("an answer");
        assert_eq!(answer.refusal(), is(Code::ResourceExhausted, "OVERLOADED"));
        let info = answer.grpc().get_details_error_info().expect("checked above");
        assert_eq!(info.metadata["setting"], "limits.calls");
    }
    assert_eq!(calls.len(), 4);
    let answer = raw.post(CHECK, &[], whole(prefixed(0, b""))).await;
    assert_eq!(answer.grpc().code(), Code::Ok);
    let mut health = HealthClient::new(app.channel.clone());
    health.watch(HealthCheckRequest::default()).await.expect("its own budget");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_methods_take_no_places_of_callers() {
    let app = App::with_sections("[limits]\ncalls = 4\nopen_calls = 16").await;
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let endpoint = Channel::from_shared(format!("http://{}", app.address)).expect("a URL");
        let channel = endpoint.connect().await.expect("it listens");
        for _ in 0..4 {
            let mut health = HealthClient::new(channel.clone());
            match health.watch(HealthCheckRequest::default()).await {
                Ok(watch) => open.push(watch),
                Err(status) => refused.push(status),
            }
        }
    }
    assert!(open.len() > 4, "{}", open.len());
    let status = refused.first().expect("the budget is small");
    assert_eq!(reason(status), is(Code::ResourceExhausted, "OVERLOADED"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["setting"], "limits.open_calls");
    assert_eq!(app.read().await.expect_err("no such store").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_has_places_for_health() {
    let app = App::with_sections("[limits]\nopen_calls = 2\nrequest_silence_ms = 600000").await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let endpoint = Channel::from_shared(format!("http://{}", app.address)).expect("a URL");
        let channel = endpoint.connect().await.expect("it listens");
        let mut health = HealthClient::new(channel);
        open.push(health.watch(HealthCheckRequest::default()).await.expect("a place"));
        health.check(HealthCheckRequest::default()).await.expect("a place beside it");
        health.watch(HealthCheckRequest::default()).await.map(drop).expect("a second place");
    }
    let raw = Raw::connect(app.address).await;
    let _hog = raw.0.clone().send_request(request(CHECK, missing_body())).boxed();
    let answer = raw.post(CHECK, &[], whole(prefixed(0, b""))).await;
    assert_eq!(answer.grpc().code(), Code::Ok);
}

/// Reads until the other side closes the connection.
async fn closed(socket: &mut TcpStream) {
    let mut received = Vec::new();
    let _ = socket.read_to_end(&mut received).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_per_listener() {
    let app = App::with_sections(
        "[limits]\nconnections = 9\nconnections_per_address = 4\ncallback_connections = 9\n\
         callback_connections_per_address = 3\nadmin_connections = 3\n\
         admin_connections_per_address = 3",
    )
    .await;
    // The test's own channel uses one connection of the first listener.
    for (address, expected) in [(app.address, 3), (app.callback, 3), (app.admin, 3)] {
        let mut sockets = Vec::new();
        for _ in 0..6 {
            sockets.push(TcpStream::connect(address).await.expect("it listens"));
        }
        let mut ends: stream::FuturesUnordered<_> = sockets.iter_mut().map(closed).collect();
        for _ in expected..6 {
            within(SOON, ends.next()).await.expect("a connection");
        }
        assert!(ends.next().now_or_never().is_none(), "{address}");
        drop(ends);
        drop(sockets);
        // Their places become free after a while.
        within(SOON, async {
            loop {
                let mut socket = TcpStream::connect(address).await.expect("it listens");
                let wait = Duration::from_millis(300);
                if tokio::time::timeout(wait, closed(&mut socket)).await.is_err() {
                    break;
                }
            }
        })
        .await;
    }
    assert_eq!(app.read().await.expect_err("no such store").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_do_not_delay_stop() {
    let app = App::start().await;
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
    let mut peers = Vec::new();
    for address in [app.address, app.callback, app.admin] {
        for sent in [&b""[..], &greeting, b"POST /wechat/callback/"] {
            let mut peer = TcpStream::connect(address).await.expect("it listens");
            peer.write_all(sent).await.expect("it reads");
            peers.push(peer);
        }
    }
    // The same applies to a request without its body.
    let raw = Raw::connect(app.address).await;
    let call = tokio::spawn(async move { raw.post(CARD, &[], missing_body()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    within(SOON, app.stop()).await;
    let answer = call.await.expect("no panic");
    assert_eq!(answer.refusal(), is(Code::Unavailable, "SHUTTING_DOWN"));
}

/// A peer that never reads the data of its streams, but answers every other frame.
#[tokio::test(flavor = "multi_thread")]
async fn nonreading_peers_do_not_delay_stop() {
    let app = App::start().await;
    let socket = TcpStream::connect(app.address).await.expect("it listens");
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(socket))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let mut calls = Vec::new();
    for (path, message) in [
        ("/grpc.health.v1.Health/Watch", Vec::new()),
        ("/grpc.health.v1.Health/List", Vec::new()),
        ("/wechat.store.v1.StoreService/ListStores", Vec::new()),
        (
            "/wechat.store.v1.AuditService/WatchAuditEvents",
            pb::WatchAuditEventsRequest {
                start: Some(pb::watch_audit_events_request::Start::Position(1)),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
    ] {
        let call = sender.clone().send_request(request(path, whole(prefixed(0, &message))));
        let answer = within(SOON, call).await.expect("a head, of which no window is needed");
        assert!(!answer.headers().contains_key("grpc-status"), "{path}: {answer:?}");
        calls.push(answer);
    }
    within(SOON, app.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_call_is_answered_during_stop() {
    let app = App::start().await;
    app.fault(GET_CARD, Kind::Latency { ms: 2_500 });
    let raw = Raw::connect(app.address).await;
    let call = tokio::spawn(async move { raw.post(CARD, &[], whole(card())).await });
    while app.count(GET_CARD) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.stop().await;
    let answer = call.await.expect("no panic");
    assert_eq!(answer.refusal(), is(Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_lists_services_and_watches_unknown_one() {
    let app = App::with_sections("[limits]\nlame_duck_ms = 300").await;
    let mut health = HealthClient::new(app.channel.clone());
    let listed = health.list(HealthListRequest {}).await.expect("a list").into_inner().statuses;
    let mut names: Vec<_> = listed.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut expected = [SERVICES, &[""]].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(listed.values().all(|status| status.status() == ServingStatus::Serving));

    let request = HealthCheckRequest { service: "no.such.Service".to_owned() };
    let mut watch = health.watch(request).await.expect("a stream").into_inner();
    let first = watch.message().await.expect("no failure").expect("a status");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let more = tokio::time::timeout(Duration::from_millis(300), watch.message()).await;
    assert!(more.is_err(), "it stays open: {more:?}");
    // Stopping does not wait for it.
    within(SOON, app.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_errors_have_error_info() {
    let app = App::start().await;
    let raw = Raw::connect(app.address).await;
    let health = HealthCheckRequest { service: "no.such.Service".to_owned() };
    let answer = raw.post(CHECK, &[], whole(prefixed(0, &health.encode_to_vec()))).await;
    assert_eq!(answer.refusal(), is(Code::NotFound, "NAME_UNKNOWN"));
    let answer = raw.post("/grpc.health.v1.Health/Nothing", &[], whole(prefixed(0, b""))).await;
    assert_eq!(answer.refusal(), is(Code::Unimplemented, "METHOD_UNKNOWN"));
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection");
        let symbol = MessageRequest::FileContainingSymbol("no.such.Symbol".to_owned());
        for (method, question, expected) in [
            ("Nothing", None, is(Code::Unimplemented, "METHOD_UNKNOWN")),
            ("ServerReflectionInfo", None, is(Code::InvalidArgument, "MALFORMED_REQUEST")),
            ("ServerReflectionInfo", Some(symbol), is(Code::NotFound, "NAME_UNKNOWN")),
        ] {
            let question =
                ServerReflectionRequest { message_request: question, ..Default::default() };
            let body = whole(prefixed(0, &question.encode_to_vec()));
            let answer = raw.post(&format!("{path}/{method}"), &[], body).await;
            assert_eq!(answer.refusal(), expected, "{version} {method}");
        }
    }
    let info = MetadataMap::from_headers(answer.headers);
    assert!(info.contains_key("grpc-status-details-bin"));
}
