//! The only place that sends a request to WeChat: one attempt, and what became of it.

use std::{
    convert::Infallible,
    fmt::Write,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body::{Frame, SizeHint};
use tracing::{Span, field::Empty};

use super::{Endpoint, Errcode, Error, Payload, envelope};
use crate::id::Secret;

/// Until the TCP and TLS handshakes are through.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// WeChat closes idle connections; leaving first keeps that race rare.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// Quotes no value, so that logs and spans can carry it.
const REDACTED: &str = "REDACTED";

/// Sends calls to WeChat. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    host: Arc<Host>,
}

#[derive(Debug)]
struct Host {
    base: String,
    address: String,
    port: u16,
}

/// What one attempt needs beside the call.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The access token; none for the token endpoints.
    pub token: Option<&'a Secret>,
    /// The longest wait for the whole reply.
    pub limit: Duration,
    /// How many attempts went before.
    pub resend_count: u32,
    /// The span of the RPC; disabled where the trace is not sampled.
    pub parent: &'a Span,
}

impl Client {
    /// A client for one host, such as `https://api.weixin.qq.com`.
    ///
    /// Fails where the system has no usable TLS roots or the host is no URL.
    pub fn new(host: &str) -> anyhow::Result<Self> {
        // A second installation is refused and harmless: it is the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = reqwest::Url::parse(host)?;
        // WeChat's answer is the verdict, so nothing may be followed, repeated or rerouted unseen.
        #[expect(clippy::disallowed_methods, reason = "this is the one HTTP client")]
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .tcp_nodelay(true)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("wechat.host: no certificate authorities are installed on this system")?;
        let host = Host {
            base: url.as_str().trim_end_matches('/').to_owned(),
            address: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
        };
        Ok(Self { http, host: Arc::new(host) })
    }

    /// Sends a call once.
    pub async fn send<E: Endpoint>(
        &self,
        call: &E,
        attempt: Attempt<'_>,
    ) -> Result<E::Reply, Error> {
        let span = self.span::<E>(&attempt);
        let result = self.exchange(call, attempt, &span).await;
        if !span.is_disabled() {
            record(&span, result.as_ref().err());
        }
        result
    }

    async fn exchange<E: Endpoint>(
        &self,
        call: &E,
        Attempt { token, limit, .. }: Attempt<'_>,
        span: &Span,
    ) -> Result<E::Reply, Error> {
        let payload =
            call.payload().map_err(|error| Error::NotSent { cause: error.to_string() })?;
        let url = self.url(E::PATH, token, &payload);
        let started = Arc::new(AtomicBool::new(false));
        let mut request = self.http.request(E::METHOD, url).timeout(limit);
        if let Some(content_type) = payload.content_type {
            request = request
                .header(header::CONTENT_TYPE, content_type)
                .body(reqwest::Body::wrap(Watched::new(payload.body, started.clone())));
        }
        // A GET has no body that could tell; it only ever reads.
        let maybe_sent = || E::METHOD == http::Method::GET || started.load(Ordering::Acquire);

        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err(failure(error, limit, maybe_sent())),
        };
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if !status.is_success() {
            return Err(Error::BadStatus { status: status.as_u16() });
        }
        let body = read(response, E::MAX_REPLY, limit).await?;
        let reply = envelope::open(E::ENVELOPE, &body)?;
        if !E::is_whole(&reply) {
            let cause = "a success without what was asked for".to_owned();
            return Err(Error::Unreadable { cause });
        }
        Ok(reply)
    }

    fn url(&self, path: &str, token: Option<&Secret>, payload: &Payload) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(token) = token {
            query.append_pair("access_token", token.expose());
        }
        query.extend_pairs(&payload.query);
        let query = query.finish();
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{}{path}{separator}{query}", self.host.base)
    }

    /// The span of one attempt, named and filled as OpenTelemetry's HTTP conventions say.
    fn span<E: Endpoint>(&self, attempt: &Attempt<'_>) -> Span {
        if attempt.parent.is_disabled() {
            return Span::none();
        }
        let mut url = format!("{}{}", self.host.base, E::PATH);
        if attempt.token.is_some() {
            let _ = write!(url, "?access_token={REDACTED}");
        }
        let span = tracing::info_span!(
            target: crate::telemetry::TRACE,
            parent: attempt.parent,
            "wechat",
            otel.name = format!("{} {}", E::METHOD, E::PATH),
            otel.kind = "client",
            otel.status_code = Empty,
            "http.request.method" = E::METHOD.as_str(),
            "http.request.resend_count" = Empty,
            "http.response.status_code" = Empty,
            "server.address" = self.host.address,
            "server.port" = self.host.port,
            "url.full" = url,
            "url.template" = E::PATH,
            "wechat.errcode" = Empty,
            "error.type" = Empty,
        );
        if attempt.resend_count > 0 {
            span.record("http.request.resend_count", attempt.resend_count);
        }
        span
    }
}

/// Says on the span how the attempt ended.
fn record(span: &Span, error: Option<&Error>) {
    let kind = match error {
        None => {
            span.record("wechat.errcode", 0);
            return;
        }
        Some(Error::Refused { code: Errcode(code), .. }) => {
            span.record("wechat.errcode", code);
            "refused"
        }
        Some(Error::BadStatus { .. }) => "bad_status",
        Some(Error::Lost { .. }) => "lost",
        Some(Error::NotSent { .. }) => "not_sent",
        Some(Error::TimedOut { .. }) => "timeout",
        Some(Error::Unreadable { .. }) => "unreadable",
    };
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}

/// Reads the whole reply, but no more than `most` bytes.
async fn read(
    mut response: reqwest::Response,
    most: usize,
    limit: Duration,
) -> Result<Bytes, Error> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(chunk)) if body.len() + chunk.len() > most => {
                let cause = format!("longer than {most} bytes");
                return Err(Error::Unreadable { cause });
            }
            Ok(Some(chunk))
                if body.is_empty() && response.content_length() == Some(chunk.len() as u64) =>
            {
                return Ok(chunk);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err(failure(error, limit, true)),
        }
    }
}

fn failure(error: reqwest::Error, limit: Duration, maybe_sent: bool) -> Error {
    // The URL carries the token.
    let error = error.without_url();
    if !maybe_sent || error.is_connect() {
        return Error::NotSent { cause: causes(&error) };
    }
    if error.is_timeout() {
        return Error::TimedOut { limit };
    }
    // A body that ends too early is "decoding" to reqwest as well, but the connection's fault.
    let of_the_connection = sources(&error).any(|cause| cause.is::<hyper::Error>());
    if error.is_decode() && !of_the_connection {
        return Error::Unreadable { cause: causes(&error) };
    }
    Error::Lost { cause: causes(&error) }
}

/// The error and what caused it, in one line.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<_> = sources(error).map(ToString::to_string).collect();
    texts.join(": ")
}

/// The error, what caused it, and so on.
fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// A request body that remembers whether anybody began to read it: until then, and only until
/// then, the request was certainly not sent.
struct Watched {
    /// In reverse order.
    pieces: Vec<Bytes>,
    left: u64,
    started: Arc<AtomicBool>,
}

impl Watched {
    fn new(mut pieces: Vec<Bytes>, started: Arc<AtomicBool>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        pieces.reverse();
        Self { pieces, left, started }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.started.store(true, Ordering::Release);
        let piece = self.pieces.pop();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The value of `multipart/form-data` with one file, in the strict form that WeChat's upload wants.
pub(super) fn multipart(name: &str, file_name: &str, kind: &str, content: Bytes) -> Payload {
    // The name of the boundary must not occur in the content.
    let boundary = format!("----{:032x}", fastrand::u128(..));
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"; \
         filelength={}\r\nContent-Type: {kind}\r\n\r\n",
        content.len()
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    Payload {
        content_type: Some(format!("multipart/form-data; boundary={boundary}")),
        body: vec![head.into(), content, tail.into()],
        ..Payload::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_part_with_its_name_and_length() {
        let content = Bytes::from_static(b"picture");
        let Payload { content_type, body, query } =
            multipart("media", "picture.png", "image/png", content.clone());
        assert!(query.is_empty());
        let content_type = content_type.expect("a kind");
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").expect("one");
        assert_eq!(
            String::from_utf8(body.concat()).expect("UTF-8"),
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"media\"; \
                 filename=\"picture.png\"; filelength=7\r\nContent-Type: image/png\r\n\r\n\
                 picture\r\n--{boundary}--\r\n"
            )
        );
        assert_eq!(body[1].as_ptr(), content.as_ptr(), "the picture is not copied");
    }
}
