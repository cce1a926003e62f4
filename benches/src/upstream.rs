//! A WeChat that answers at once, and always the same, because the simulator would be slower than
//! the measured servers. It is HTTP/1.1 by hand, with a task per connection, plain or in TLS, or hyper's HTTP/2.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// As long as WeChat's tokens.
pub const TOKEN_LENGTH: usize = 512;

/// The name of HTTP/2 in TLS.
const HTTP2: &[u8] = b"h2";
/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// A store whose replies are slow.
pub const SLOW: &str = "472671858";

const UPLOADED: &str = r#"{"type":"image","media_id":"MEDIA_ID","created_at":1488856741}"#;

/// Returns the token of all accounts.
pub fn token() -> String {
    "1234567890abcdef".repeat(TOKEN_LENGTH / 16)
}

/// The replies, by path.
#[derive(Debug)]
pub struct Upstream {
    answers: HashMap<&'static str, Bytes>,
    unknown: Bytes,
    delay: Duration,
    /// Whether only the replies to requests with [`SLOW`] in their body are delayed.
    only_slow: bool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
    most_connections: AtomicU64,
    calls: AtomicU64,
    most_calls: AtomicU64,
}

impl Upstream {
    /// Returns an upstream with this reply of `/wxa/get_district`, and a pause before each reply
    /// except tokens, or only before those to requests with [`SLOW`] in their body.
    pub fn new(districts: &[u8], delay: Duration, only_slow: bool) -> anyhow::Result<Self> {
        let store = example(include_str!("../../tests/documented/store/get_store_info.json"))?;
        let added = example(include_str!("../../tests/documented/store/add_store.json"))?;
        let categories =
            example(include_str!("../../tests/documented/merchant/get_merchant_category.json"))?;
        let token = json!({ "access_token": token(), "expires_in": 7200 });
        let done = json!({ "errcode": 0, "errmsg": "ok" });
        let answers = [
            ("/cgi-bin/stable_token", token.to_string()),
            ("/wxa/get_store_info", store),
            ("/wxa/add_store", added),
            ("/wxa/get_merchant_category", categories),
            ("/wxa/get_district", String::from_utf8(districts.to_vec())?),
            ("/card/storewxa/set", done.to_string()),
            ("/cgi-bin/media/upload", UPLOADED.to_owned()),
            ("/card/storewxa/get", r#"{"errcode":0,"card_id":"pabcedfg"}"#.to_owned()),
        ];
        let answers = answers.into_iter().map(|(path, body)| (path, answer("200 OK", &body)));
        Ok(Self {
            answers: answers.collect(),
            unknown: answer("404 Not Found", "{}"),
            delay,
            only_slow,
            counts: Counts::default(),
        })
    }

    /// Serves until the process ends. With an acceptor it serves TLS, and HTTP/2 if the acceptor chose it.
    pub async fn run(self, listener: TcpListener, tls: Option<TlsAcceptor>) -> anyhow::Result<()> {
        let upstream = Arc::new(self);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (upstream, tls) = (upstream.clone(), tls.clone());
            tokio::spawn(async move {
                let counts = &upstream.counts;
                let now = counts.connections.fetch_add(1, Relaxed) + 1;
                counts.most_connections.fetch_max(now, Relaxed);
                // A caller that breaks off has left.
                let _ = match tls {
                    None => upstream.serve(stream).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(HTTP2) => {
                            upstream.clone().serve_http2(stream).await
                        }
                        Ok(stream) => upstream.serve(stream).await,
                        Err(error) => Err(error),
                    },
                };
                counts.connections.fetch_sub(1, Relaxed);
            });
        }
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut buffer = BytesMut::with_capacity(8 * 1024);
        loop {
            let Some((head, length)) = request(&buffer) else {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
                continue;
            };
            let path = path(&buffer[..head]).to_owned();
            while buffer.len() < head + length {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            let slow = !self.delay.is_zero() && self.is_slow(&path, &buffer[head..head + length]);
            buffer.advance(head + length);
            if path == "/_counts" {
                stream.write_all(&self.counts()).await?;
                stream.flush().await?;
                continue;
            }
            let counts = &self.counts;
            counts.requests.fetch_add(1, Relaxed);
            let now = counts.calls.fetch_add(1, Relaxed) + 1;
            counts.most_calls.fetch_max(now, Relaxed);
            if slow {
                tokio::time::sleep(self.delay).await;
            }
            counts.calls.fetch_sub(1, Relaxed);
            stream.write_all(self.answers.get(path.as_str()).unwrap_or(&self.unknown)).await?;
            stream.flush().await?;
        }
    }

    /// Serves HTTP/2 without delays.
    async fn serve_http2(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let service = service_fn(|request: Request<Incoming>| {
            let upstream = self.clone();
            async move {
                let path = request.uri().path().to_owned();
                request.into_body().collect().await?;
                upstream.counts.requests.fetch_add(1, Relaxed);
                let answer = upstream.answers.get(path.as_str()).unwrap_or(&upstream.unknown);
                let head = answer.windows(4).position(|four| four == END).unwrap_or_default();
                let body = Full::new(answer.slice(head + END.len()..));
                let response = Response::builder().header("content-type", "application/json");
                Ok::<_, anyhow::Error>(response.body(body)?)
            }
        });
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(std::io::Error::other)
    }

    /// Returns whether the reply to a request is delayed. If only some are, their body has a word.
    fn is_slow(&self, path: &str, body: &[u8]) -> bool {
        let has = |word: &str| body.windows(word.len()).any(|part| part == word.as_bytes());
        path != "/cgi-bin/stable_token" && (!self.only_slow || has(SLOW))
    }

    fn counts(&self) -> Bytes {
        let Counts { requests, connections, most_connections, calls: _, most_calls } = &self.counts;
        let body = json!({
            "requests": requests.load(Relaxed),
            "connections": connections.load(Relaxed),
            "most_connections": most_connections.load(Relaxed),
            "most_calls": most_calls.load(Relaxed),
        });
        answer("200 OK", &body.to_string())
    }
}

/// A reply as WeChat sends it, with the verdict first. A [`Value`] would sort the fields by name.
#[derive(Deserialize, Serialize)]
struct Reply {
    errcode: i64,
    errmsg: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Returns the reply of a documented example.
fn example(text: &str) -> anyhow::Result<String> {
    let mut example: Value = serde_json::from_str(text)?;
    let reply: Reply = serde_json::from_value(example["reply"].take())?;
    Ok(serde_json::to_string(&reply)?)
}

/// Returns TLS with this certificate and its key, which are PEM files. It offers HTTP/2 or HTTP/1.1.
pub fn tls(certificate: &Path, key: &Path, http2: bool) -> anyhow::Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| certificate.display().to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    tls.alpn_protocols = vec![if http2 { HTTP2.to_vec() } else { b"http/1.1".to_vec() }];
    Ok(Arc::new(tls).into())
}

fn answer(status: &str, body: &str) -> Bytes {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat().into()
}

/// Returns the length of the head, once it is complete, and of the body.
fn request(buffer: &[u8]) -> Option<(usize, usize)> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let length = buffer[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked("content-length:".len())?;
        let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
        str::from_utf8(value).ok()?.trim().parse().ok()
    });
    Some((end + 4, length.unwrap_or(0)))
}

fn path(head: &[u8]) -> &str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = str::from_utf8(line).unwrap_or_default().split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}
