//! Servers that do the least possible work: the floor with which the gateway is compared.
//!
//! * [`echo`]: (a), a tonic server that returns bytes that it was given.
//! * [`proxy`]: (b), tonic and reqwest. It decodes the request, calls the upstream over HTTP/1.1
//!   with a fixed token, parses the JSON with plain serde types, and returns the same message as
//!   the gateway. It has no validation, token, retry, limit, deadline, trace or log.
//! * [`callback`]: an axum route that appends the same event as the gateway through the gateway's
//!   own state, and checks nothing.
//! * [`stream`]: a tonic server stream that wakes for each event and sends bytes that it was given.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use axum::{Router, routing::post};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use http::{Request, Response, StatusCode, header};
use nix::unistd::Pid;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::{
    Status,
    body::Body,
    server::{Grpc, ServerStreamingService, UnaryService},
    service::Routes,
    transport::{Identity, Server, ServerTlsConfig},
};
use tonic_prost::ProstCodec;
use tower::Service;
use uuid::Uuid;
use wechat_store_gateway::{
    pb::{self, AuditState, SubmissionKind},
    state::{EventKey, Events, NewEvent, Origin, sqlite::Sqlite},
    testing::{Clock, Raw},
};

use crate::{process, rounds::Spread, upstream, world};

/// The path of this method.
pub const GET_STORE: &str = "/wechat.store.v1.StoreService/GetStore";
/// The path of this method.
pub const ADD_STORE: &str = "/wechat.store.v1.StoreService/AddStore";
/// The path of this method.
pub const UPLOAD: &str = "/wechat.store.v1.MediaService/UploadTemporaryImage";
/// The path of this method.
pub const SET_STORE_CARD: &str = "/wechat.store.v1.CardService/SetStoreCard";
/// The path of this method.
pub const LIST_CATEGORIES: &str = "/wechat.store.v1.MerchantService/ListCategories";
/// The path of this method.
pub const LIST_DISTRICTS: &str = "/wechat.store.v1.MapPoiService/ListDistricts";
/// The path of this method.
pub const WATCH: &str = "/wechat.store.v1.AuditService/WatchAuditEvents";

/// The largest message of a request.
const LARGEST: usize = 16 << 20;

/// Serves a gRPC service under every name, as tonic's own router does. With an identity it serves TLS.
async fn serve<S>(
    listener: TcpListener,
    identity: Option<Identity>,
    service: S,
) -> anyhow::Result<()>
where
    S: Service<Request<axum::body::Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let routes = Routes::from(Router::new().route_service("/{service}/{method}", service));
    let incoming = TcpListenerStream::new(listener).inspect(|stream| {
        if let Ok(stream) = stream {
            // If the socket is already dead, the connection fails later.
            let _ = stream.set_nodelay(true);
        }
    });
    let mut server = Server::builder();
    if let Some(identity) = identity {
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    Ok(server.add_routes(routes.prepare()).serve_with_incoming(incoming).await?)
}

type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// (a): returns these bytes for every call.
pub async fn echo(listener: TcpListener, bytes: Bytes) -> anyhow::Result<()> {
    serve(listener, None, Echo { bytes }).await
}

#[derive(Clone)]
struct Echo {
    bytes: Bytes,
}

impl Service<Request<axum::body::Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Answer {
        let this = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).unary(this, request).await) })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, _: tonic::Request<Bytes>) -> Self::Future {
        let bytes = self.bytes.clone();
        Box::pin(async move { Ok(tonic::Response::new(bytes)) })
    }
}

/// (b): serves `GetStore`, `AddStore` and `SetStoreCard` with one request each to the upstream. The
/// authorities in a PEM file are trusted in addition to the system's. With an identity it serves TLS.
pub async fn proxy(
    listener: TcpListener,
    upstream: &str,
    authorities: Option<&Path>,
    identity: Option<Identity>,
) -> anyhow::Result<()> {
    let authorities = authorities.map_or(Ok(Bytes::new()), world::read)?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .tls_certs_merge(reqwest::Certificate::from_pem_bundle(&authorities)?)
        .build()?;
    let url = |path: &str| -> Arc<str> {
        format!("{upstream}{path}?access_token={}", upstream::token()).into()
    };
    let (get, add) = (url("/wxa/get_store_info"), url("/wxa/add_store"));
    let set_card = url("/card/storewxa/set");
    let upload = format!("{}&type=image", url("/cgi-bin/media/upload")).into();
    serve(listener, identity, Proxy { client, get, add, set_card, upload }).await
}

#[derive(Clone)]
struct Proxy {
    client: reqwest::Client,
    get: Arc<str>,
    add: Arc<str>,
    set_card: Arc<str>,
    upload: Arc<str>,
}

impl Proxy {
    async fn ask(&self, url: &str, body: &impl Serialize) -> Result<Bytes, Status> {
        let body = serde_json::to_vec(body).map_err(failed)?;
        let request = self.client.post(url).header(header::CONTENT_TYPE, "application/json");
        let response = request.body(body).send().await.map_err(failed)?;
        response.bytes().await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::new(tonic::Code::Unavailable, error.to_string())
}

impl Service<Request<axum::body::Body>> for Proxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Answer {
        let this = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                GET_STORE => {
                    let codec = ProstCodec::<pb::GetStoreResponse, pb::GetStoreRequest>::default();
                    Grpc::new(codec).unary(this, request).await
                }
                ADD_STORE => {
                    let codec = ProstCodec::<pb::AddStoreResponse, pb::AddStoreRequest>::default();
                    Grpc::new(codec).unary(this, request).await
                }
                SET_STORE_CARD => {
                    let codec =
                        ProstCodec::<pb::SetStoreCardResponse, pb::SetStoreCardRequest>::default();
                    Grpc::new(codec).unary(this, request).await
                }
                UPLOAD => {
                    let codec = ProstCodec::<
                        pb::UploadTemporaryImageResponse,
                        pb::UploadTemporaryImageRequest,
                    >::default();
                    Grpc::new(codec).max_decoding_message_size(LARGEST).unary(this, request).await
                }
                _ => Status::new(tonic::Code::Unimplemented, "").into_http(),
            })
        })
    }
}

#[derive(Serialize)]
struct GetStoreInfo<'a> {
    poi_id: &'a str,
}

#[derive(Deserialize)]
struct StoreInfo {
    business: Business,
}

#[derive(Deserialize)]
struct Business {
    base_info: BaseInfo,
}

#[derive(Deserialize)]
struct BaseInfo {
    business_name: String,
    address: String,
    telephone: String,
    city: String,
    province: String,
    district: String,
    longitude: f64,
    latitude: f64,
    photo_list: Vec<Photo>,
    open_time: String,
    poi_id: String,
    status: i32,
    qualification_num: String,
    qualification_name: String,
}

#[derive(Deserialize)]
struct Photo {
    photo_url: String,
}

impl UnaryService<pb::GetStoreRequest> for Proxy {
    type Response = pb::GetStoreResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<pb::GetStoreResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<pb::GetStoreRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let poi_id = request.into_inner().poi_id;
            let body = this.ask(&this.get, &GetStoreInfo { poi_id: &poi_id }).await?;
            let info: StoreInfo = serde_json::from_slice(&body).map_err(failed)?;
            let info = info.business.base_info;
            let (open, close) = info.open_time.split_once('-').unwrap_or_default();
            let state = if info.status == 2 { AuditState::InReview } else { AuditState::Approved };
            let store = pb::Store {
                unreadable_fields: Vec::new(),
                poi_id: info.poi_id,
                name: info.business_name,
                province: info.province,
                city: info.city,
                district: info.district,
                address: info.address,
                location: Some(pb::LatLng { latitude: info.latitude, longitude: info.longitude }),
                contact_phone: info.telephone,
                hours: Some(pb::OpeningHours {
                    open: open.to_owned(),
                    close: close.to_owned(),
                    text: info.open_time,
                }),
                picture_urls: info.photo_list.into_iter().map(|photo| photo.photo_url).collect(),
                license_number: info.qualification_num,
                company_name: info.qualification_name,
                state: state.into(),
                wechat_status: Some(info.status),
                categories: Vec::new(),
            };
            Ok(tonic::Response::new(pb::GetStoreResponse { store: Some(store) }))
        })
    }
}

#[derive(Serialize)]
struct AddStoreCall<'a> {
    map_poi_id: &'a str,
    pic_list: String,
    contract_phone: &'a str,
    hour: String,
    credential: &'a str,
    company_name: &'a str,
    qualification_list: String,
}

#[derive(Serialize)]
struct Pictures<'a> {
    list: &'a [String],
}

#[derive(Deserialize)]
struct Added {
    data: AddedData,
}

#[derive(Deserialize)]
struct AddedData {
    audit_id: u64,
}

impl UnaryService<pb::AddStoreRequest> for Proxy {
    type Response = pb::AddStoreResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<pb::AddStoreResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<pb::AddStoreRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let request = request.into_inner();
            let hours = request.hours.unwrap_or_default();
            let pictures = Pictures { list: &request.picture_urls };
            let call = AddStoreCall {
                map_poi_id: &request.map_poi_id,
                pic_list: serde_json::to_string(&pictures).map_err(failed)?,
                contract_phone: &request.contact_phone,
                hour: format!("{}-{}", hours.open, hours.close),
                credential: &request.license_number,
                company_name: &request.company_name,
                qualification_list: request.qualification_media_ids.join(","),
            };
            let body = this.ask(&this.add, &call).await?;
            let added: Added = serde_json::from_slice(&body).map_err(failed)?;
            let submission = pb::Submission {
                submission_id: Uuid::new_v4().to_string(),
                kind: SubmissionKind::Store.into(),
                audit_id: added.data.audit_id.to_string(),
                state: AuditState::InReview.into(),
                map_poi_id: request.map_poi_id,
                ..pb::Submission::default()
            };
            let response = pb::AddStoreResponse { submission: Some(submission), recovered: false };
            Ok(tonic::Response::new(response))
        })
    }
}

#[derive(Deserialize)]
struct Uploaded {
    media_id: String,
    created_at: i64,
}

impl UnaryService<pb::UploadTemporaryImageRequest> for Proxy {
    type Response = pb::UploadTemporaryImageResponse;
    type Future =
        BoxFuture<'static, Result<tonic::Response<pb::UploadTemporaryImageResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<pb::UploadTemporaryImageRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let content = request.into_inner().content;
            let boundary = "----0123456789abcdef0123456789abcdef";
            let head = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"media\"; \
                 filename=\"picture.png\"; filelength={}\r\nContent-Type: image/png\r\n\r\n",
                content.len()
            );
            let tail = format!("\r\n--{boundary}--\r\n");
            let length = head.len() + content.len() + tail.len();
            let parts = [head.into(), content, Bytes::from(tail)].map(Ok::<_, Infallible>);
            let request = this.client.post(&*this.upload);
            let request = request
                .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
                .header(header::CONTENT_LENGTH, length)
                .body(reqwest::Body::wrap_stream(futures_util::stream::iter(parts)));
            let response = request.send().await.map_err(failed)?;
            let body = response.bytes().await.map_err(failed)?;
            let Uploaded { media_id, created_at } =
                serde_json::from_slice(&body).map_err(failed)?;
            let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
            Ok(tonic::Response::new(pb::UploadTemporaryImageResponse {
                media_id,
                create_time: time(created_at),
                expire_time: time(created_at + 3 * 86_400),
                recovered: false,
            }))
        })
    }
}

#[derive(Serialize)]
struct SetCard<'a> {
    poi_id: &'a str,
    card_id: &'a str,
}

#[derive(Deserialize)]
struct Done {
    errcode: i64,
}

impl UnaryService<pb::SetStoreCardRequest> for Proxy {
    type Response = pb::SetStoreCardResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<pb::SetStoreCardResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<pb::SetStoreCardRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let pb::SetStoreCardRequest { poi_id, card_id, .. } = request.into_inner();
            let call = SetCard { poi_id: &poi_id, card_id: &card_id };
            let body = this.ask(&this.set_card, &call).await?;
            let done: Done = serde_json::from_slice(&body).map_err(failed)?;
            match done.errcode {
                0 => Ok(tonic::Response::new(pb::SetStoreCardResponse::default())),
                code => Err(failed(code)),
            }
        })
    }
}

/// Serves a route that appends an event and answers `success`. The body is the event's number.
pub async fn callback(listener: TcpListener, file: PathBuf) -> anyhow::Result<()> {
    let state = Arc::new(Sqlite::open(&file, Clock::system()).context("the state")?);
    let handler = move |body: Bytes| {
        let state = state.clone();
        async move {
            match state.append(event(&body)).await {
                Ok(_) => (StatusCode::OK, "success"),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, ""),
            }
        }
    };
    axum::serve(listener, Router::new().route("/", post(handler))).await?;
    Ok(())
}

/// Returns a rejected store, as large as the gateway's event of the push that [`crate::load`]
/// sends.
pub fn event(number: &[u8]) -> NewEvent {
    let mut key = [0; 32];
    // The time, as in the gateway's keys, and a substitute for a hash.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    key[..5].copy_from_slice(&now.to_be_bytes()[3..]);
    key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    let audit_id = String::from_utf8_lossy(number).into_owned();
    let event = pb::AuditEvent {
        app_id: "wx0000000000000001".to_owned(),
        kind: SubmissionKind::Store.into(),
        wechat_event: "add_store_audit_info".to_owned(),
        state: AuditState::Rejected.into(),
        wechat_status: Some(3),
        audit_id,
        event_time: Some(Timestamp { seconds: 1_488_856_741, nanos: 0 }),
        reason: "xxx".to_owned(),
        wechat_message: "x".repeat(400),
        ..pb::AuditEvent::default()
    };
    NewEvent::from_event(EventKey(key), event, Origin::Pushed)
}

/// WeChat's numbers grow, and are about this long.
pub const FIRST_AUDIT: u64 = 414_000_000_000;

/// Appends this many events, as fast as the state accepts them.
pub async fn fill(file: PathBuf, events: u64) -> anyhow::Result<()> {
    let state = Sqlite::open(&file, Clock::system()).context("the state")?;
    let mut appends = futures_util::stream::iter(0..events)
        .map(|number| state.append(event((FIRST_AUDIT + number).to_string().as_bytes())))
        .buffer_unordered(512);
    while let Some(appended) = appends.next().await {
        appended.context("an event")?;
    }
    Ok(())
}

/// Writes raw rows of SQLite like the journal's, in transactions of `group`, each durable. It
/// prints four figures in microseconds: the processor time of a row, that of a row that is changed
/// in a later transaction, as a write is when it ends, and the median time of the transactions. The
/// last one is printed twice: for transactions right after each other, and with a `pause` between
/// them, because an idle disk takes longer.
pub fn rows(file: &Path, group: u64, rows: u64, pause: Duration) -> anyhow::Result<()> {
    let db = rusqlite::Connection::open(file)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(include_str!("../../src/state/sqlite/schema_1.sql"))?;
    db.execute_batch(include_str!("../../src/state/sqlite/schema_2.sql"))?;
    let mut insert = db.prepare(
        "INSERT INTO writes (write_id, app_id, method, request_id, fingerprint, client_reference,
           state, fence, until, attempts, created, sent, ended, sought)
         VALUES (?1, 'wx0000000000000001', 'CardService/SetStoreCard', ?2, zeroblob(32), '',
           'claimed', 1, 0, 0, 0, 0, 0, x'')",
    )?;
    let mut finish = db.prepare(
        "UPDATE writes SET state = 'finished', reply = zeroblob(32), ended = 1
         WHERE write_id = ?1 AND fence = 1 AND state <> 'finished'",
    )?;
    let mut insert = |names: &[String]| {
        let begun = Instant::now();
        db.execute_batch("BEGIN IMMEDIATE")?;
        for name in names {
            insert.execute([name, &Uuid::new_v4().to_string()])?;
        }
        db.execute_batch("COMMIT")?;
        anyhow::Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    let names = || Vec::from_iter((0..group).map(|_| Uuid::now_v7().to_string()));
    let (mut used, mut took, mut paused) = ([0.0; 2], Vec::new(), Vec::new());
    for (changed, used) in [false, true].into_iter().zip(&mut used) {
        let before = process::cpu(Pid::this())?;
        for _ in 0..rows / group {
            let names = names();
            let commit = insert(&names)?;
            if !changed {
                took.push(commit);
                continue;
            }
            db.execute_batch("BEGIN IMMEDIATE")?;
            for name in &names {
                finish.execute([name])?;
            }
            db.execute_batch("COMMIT")?;
        }
        let rows = (rows / group * group) as f64;
        *used = (process::cpu(Pid::this())? - before) as f64 / 1e3 / rows;
    }
    for _ in 0..rows / group {
        std::thread::sleep(pause);
        paused.push(insert(&names())?);
    }
    let [took, paused] = [took, paused].map(|times| Spread::of(times).median);
    println!("{} {} {took} {paused}", used[0], used[1]);
    Ok(())
}

/// Serves a stream that gets these bytes after each POST to `trigger`.
pub async fn stream(
    listener: TcpListener,
    trigger: TcpListener,
    bytes: Bytes,
) -> anyhow::Result<()> {
    let (sender, _) = broadcast::channel(1024);
    let service = Watched { sender: sender.clone() };
    let handler = move || {
        // There may be no watcher yet.
        let _ = sender.send(bytes.clone());
        std::future::ready("success")
    };
    tokio::spawn(
        async move { axum::serve(trigger, Router::new().route("/", post(handler))).await },
    );
    serve(listener, None, service).await
}

#[derive(Clone)]
struct Watched {
    sender: broadcast::Sender<Bytes>,
}

impl Service<Request<axum::body::Body>> for Watched {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Answer {
        let this = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).server_streaming(this, request).await) })
    }
}

type EventStream = Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, Status>> + Send>>;

impl ServerStreamingService<Bytes> for Watched {
    type Response = Bytes;
    type ResponseStream = EventStream;
    type Future = BoxFuture<'static, Result<tonic::Response<EventStream>, Status>>;

    fn call(&mut self, _: tonic::Request<Bytes>) -> Self::Future {
        let events = BroadcastStream::new(self.sender.subscribe());
        let events = events.map(|event| event.map_err(failed));
        Box::pin(async move { Ok(tonic::Response::new(Box::pin(events) as EventStream)) })
    }
}
