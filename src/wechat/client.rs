//! The only place that sends a request to WeChat. It makes one attempt and reports the result.

use std::{
    borrow::Cow,
    convert::Infallible,
    fmt::Write,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use reqwest::{Body, Request, Response, Url, Version};
use tracing::{Span, field::Empty};

use super::{
    AccessToken, Endpoint, Errcode, Error, Payload, Safety,
    endpoint::USUAL_REPLY_LIMIT,
    envelope,
    hosts::{Choice, Host, Hosts, Sign},
    pools::Pools,
    status,
};
use crate::{
    config,
    metrics::{Exchange, Metrics, Outcome, Server},
    telemetry::{
        TRACE,
        conventions::{
            ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE,
            NETWORK_PROTOCOL_VERSION, SERVER_ADDRESS, SERVER_PORT, URL_FULL, URL_TEMPLATE,
        },
    },
    util::clock::Clock,
};

/// The longest wait for a host that is out. It must leave time for another attempt.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// The longest body that is read from a reply with an error status, in bytes. A gateway's page may
/// be longer.
const LONGEST_REFUSAL: usize = 64 * 1024;
/// The error text of a proxy tunnel that was refused with status 407.
const NO_PROXY_ENTRY: &str = "proxy authorization required";
/// Replaces a secret value in logs and spans.
const REDACTED: &str = "REDACTED";

/// Sends calls to WeChat. Clones are cheap and share the connections and the current host.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hosts: Hosts,
    pools: Pools,
    clock: Clock,
    metrics: Metrics,
    /// The hosts, as metrics name them.
    servers: Vec<Server>,
}

/// The parameters of one attempt, apart from the call itself.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    /// The access token. The token endpoints need none.
    pub token: Option<&'a AccessToken>,
    /// The longest wait for the whole reply.
    pub limit: Duration,
    /// The time left for the call, including further attempts.
    pub time_left: Duration,
    /// The earlier attempts of the call. This attempt is added.
    pub tries: &'a mut Tries,
    /// The span of the RPC. It is disabled if the trace is not sampled.
    pub parent: &'a Span,
}

/// The attempts of one call so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    count: u32,
    /// The index of the host that may have received the call. Only set for calls that change
    /// something.
    stays_at: Option<usize>,
}

impl Tries {
    /// Returns the number of attempts.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

impl Client {
    /// Returns a client for the hosts of the settings.
    ///
    /// Fails if neither the system nor `wechat.ca_file` has usable TLS roots, or if the settings
    /// were not checked.
    pub(crate) fn new(
        settings: &config::WeChat,
        clock: &Clock,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let host = |text: &String| {
            let url = Url::parse(text)?;
            let address = url.host_str().unwrap_or_default().to_owned();
            let port = url.port_or_known_default().unwrap_or_default();
            anyhow::Ok(Host { url, address, port })
        };
        let hosts: Vec<_> = settings.hosts.iter().map(host).collect::<Result<_, _>>()?;
        anyhow::ensure!(!hosts.is_empty(), "wechat.hosts: empty");
        let servers = hosts.iter().map(|host| Server::new(&host.address, host.port)).collect();
        let pools = Pools::new(settings, clock.now())?;
        let (hosts, clock) = (Hosts::new(hosts, clock.clone()), clock.clone());
        Ok(Self(Arc::new(Inner { hosts, pools, clock, metrics, servers })))
    }

    /// Returns the metrics, for those that make calls.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Returns the number of hosts.
    pub(crate) fn hosts(&self) -> u32 {
        u32::try_from(self.0.hosts.count()).unwrap_or(u32::MAX)
    }

    /// Returns the URL of the host to which the next call goes.
    pub(crate) fn current_host(&self) -> &str {
        self.0.hosts.current()
    }

    /// Returns when the current host last changed.
    pub(crate) fn host_changed_at(&self) -> Option<Instant> {
        self.0.hosts.changed_at()
    }

    /// Sends a call once, to the current host or, as a half-open probe, to a host that is out.
    ///
    /// Fails if WeChat refuses the call or no readable reply arrives.
    pub(crate) async fn send<E: Endpoint>(
        &self,
        call: &E,
        mut attempt: Attempt<'_>,
    ) -> Result<E::Reply, Error> {
        let choice = self.choose::<E>(&attempt);
        if choice.is_probe() {
            attempt.limit = attempt.limit.min(PROBE_LIMIT);
        }
        let at = choice.index();
        let span = span::<E>(choice.host(), &attempt);
        let mut status = None;
        let began = Instant::now();
        let result = match self.exchange(call, &attempt, &choice, &span, &mut status).await {
            Ok(body) => {
                choice.report(sign_of(&body));
                envelope::open::<E>(&body)
            }
            Err(Failed { error, sign }) => {
                choice.report(sign);
                Err(error)
            }
        };
        self.0.metrics.record_exchange(&Exchange {
            server: &self.0.servers[at],
            method: &E::METHOD,
            path: E::PATH,
            status: status.map(|status| status.as_u16()),
            outcome: outcome(result.as_ref().err()),
            duration: began.elapsed(),
        });
        let tries = attempt.tries;
        tries.count += 1;
        let changes = match E::SAFETY {
            Safety::Read => false,
            // A repeated token request is harmless, so it may go to any host.
            Safety::Repeatable => E::NEEDS_TOKEN,
            Safety::Once(_) => true,
        };
        if changes && result.as_ref().is_err_and(may_have_arrived) {
            tries.stays_at = Some(at);
        }
        if !span.is_disabled() {
            record(&span, result.as_ref().err());
        }
        result
    }

    fn choose<E: Endpoint>(&self, attempt: &Attempt<'_>) -> Choice<'_> {
        let Attempt { token, tries, time_left, .. } = attempt;
        if let Some(index) = tries.stays_at {
            return self.0.hosts.stay(index);
        }
        // Many calls wait for a token, so a token request never probes a host.
        let alone = token.is_some() && E::SAFETY == Safety::Read;
        self.0.hosts.choose(alone && tries.count == 0 && *time_left >= 2 * PROBE_LIMIT)
    }

    async fn exchange<E: Endpoint>(
        &self,
        call: &E,
        &Attempt { token, limit, .. }: &Attempt<'_>,
        choice: &Choice<'_>,
        span: &Span,
        arrived: &mut Option<StatusCode>,
    ) -> Result<Bytes, Failed> {
        let Payload { query, content_type, body } = call.payload().map_err(not_sent)?;
        let mut request = Request::new(E::METHOD, url(choice, E::PATH, token, &query));
        if limit != USUAL_REPLY_LIMIT {
            *request.timeout_mut() = Some(limit);
        }
        let started = Arc::new(AtomicBool::new(false));
        if let Some(content_type) = content_type {
            let content_type = match content_type {
                Cow::Borrowed(known) => HeaderValue::from_static(known),
                Cow::Owned(made) => HeaderValue::try_from(made).map_err(not_sent)?,
            };
            request.headers_mut().insert(header::CONTENT_TYPE, content_type);
            *request.body_mut() = Some(Body::wrap(Watched::new(body, started.clone())));
        }
        let http = self.0.pools.pool(E::SAFETY, choice.chosen_at()).await;
        // A GET has no body that would show whether it was sent. It only reads, so the answer does
        // not matter.
        let maybe_sent = || E::METHOD == http::Method::GET || started.load(Ordering::Acquire);

        let response = match http.execute(request).await {
            Ok(response) => response,
            Err(error) => return Err(failure(error, limit, maybe_sent())),
        };
        let status = response.status();
        *arrived = Some(status);
        span.record(HTTP_RESPONSE_STATUS_CODE, status.as_u16());
        span.record(NETWORK_PROTOCOL_VERSION, version(response.version()));
        if !status.is_success() {
            return Err(self.refused::<E>(response, limit).await);
        }
        let body = read_body(response, E::MAX_REPLY, limit).await?;
        match is_page(&body) {
            true => Err(Failed { error: Error::Page, sign: Sign::Doubtful }),
            false => Ok(body),
        }
    }

    /// Returns the error for a reply whose status is not a success: the refusal in its body, or
    /// else the meaning of the status.
    async fn refused<E: Endpoint>(&self, response: Response, limit: Duration) -> Failed {
        let status = response.status();
        let error = status::error(status, response.headers(), self.0.clock.wall());
        if status.is_server_error() {
            return Failed { error, sign: Sign::Doubtful };
        }
        // Every other status concerns the call, not the host.
        let failed = Failed { error, sign: Sign::Nothing };
        if !status.is_client_error() || matches!(failed.error, Error::ProxyRefused) {
            return failed;
        }
        let Ok(body) = read_body(response, LONGEST_REFUSAL, limit).await else { return failed };
        let contradicts = match envelope::open::<E>(&body) {
            Err(error @ Error::Refused { .. }) => return Failed { error, sign: Sign::Answered },
            Err(_) => states_success(&body),
            Ok(_) => true,
        };
        if contradicts {
            // Body and status contradict each other, so the reply proves nothing.
            let error = Error::BadStatus { status: status.as_u16(), retry_after: None };
            return Failed { error, ..failed };
        }
        failed
    }
}

/// The reason for a missing reply, and its meaning for the host's health.
struct Failed {
    error: Error,
    sign: Sign,
}

/// Classifies a reply body. WeChat answers with an object, so anything else comes from a proxy or
/// gateway.
fn sign_of(body: &[u8]) -> Sign {
    match body.trim_ascii_start().first() {
        Some(b'{') => Sign::Answered,
        _ => Sign::Doubtful,
    }
}

/// Returns true for HTML or XML. WeChat answers these calls only with JSON.
fn is_page(body: &[u8]) -> bool {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii_start().first() == Some(&b'<')
}

/// Returns true if the body states a success.
fn states_success(body: &[u8]) -> bool {
    let body = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    body["errcode"] == 0 || body["errcode"] == "0"
}

/// Returns true if WeChat may have executed the call, or may still execute it.
fn may_have_arrived(error: &Error) -> bool {
    match error {
        Error::NotExecuted { .. } | Error::NotSent { .. } | Error::ProxyRefused => false,
        Error::Refused { code, .. } => !code.refuses_token(),
        _ => true,
    }
}

fn url(
    choice: &Choice<'_>,
    path: &str,
    token: Option<&AccessToken>,
    query: &[(&'static str, String)],
) -> Url {
    let host = choice.host();
    let mut url = match token {
        Some(token) => token.url(choice.index(), host, path),
        None => {
            let mut url = host.url.clone();
            url.set_path(path);
            url
        }
    };
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

/// Returns the failure of a call that could not be built.
fn not_sent(error: impl std::error::Error) -> Failed {
    Failed { error: Error::NotSent { cause: error.to_string() }, sign: Sign::Nothing }
}

/// Returns the span of one attempt, with the names and fields of OpenTelemetry's HTTP conventions.
fn span<E: Endpoint>(host: &Host, attempt: &Attempt<'_>) -> Span {
    if attempt.parent.is_disabled() {
        return Span::none();
    }
    let mut url = format!("{}{}", host.base(), E::PATH);
    if let Some(token) = attempt.token {
        let _ = write!(url, "?{}={REDACTED}", token.name().as_str());
    }
    let span = tracing::info_span!(
        target: TRACE,
        parent: attempt.parent,
        "wechat",
        otel.name = format!("{} {}", E::METHOD, E::PATH),
        otel.kind = "client",
        otel.status_code = Empty,
        { HTTP_REQUEST_METHOD } = E::METHOD.as_str(),
        { HTTP_REQUEST_RESEND_COUNT } = Empty,
        { HTTP_RESPONSE_STATUS_CODE } = Empty,
        { NETWORK_PROTOCOL_VERSION } = Empty,
        { SERVER_ADDRESS } = host.address,
        { SERVER_PORT } = host.port,
        { URL_FULL } = url,
        { URL_TEMPLATE } = E::PATH,
        "wechat.errcode" = Empty,
        { ERROR_TYPE } = Empty,
    );
    if attempt.tries.count > 0 {
        span.record(HTTP_REQUEST_RESEND_COUNT, attempt.tries.count);
    }
    span
}

/// Returns the name of a version of HTTP in the conventions.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// Records the result of the attempt on the span.
fn record(span: &Span, error: Option<&Error>) {
    let kind = match outcome(error) {
        Outcome::Ok => {
            span.record("wechat.errcode", 0);
            return;
        }
        Outcome::Refused(code) => {
            span.record("wechat.errcode", code);
            "refused"
        }
        Outcome::Failed(kind) => kind,
    };
    span.record(ERROR_TYPE, kind);
    span.record("otel.status_code", "ERROR");
}

/// Returns what an attempt brought, as metrics and traces name it.
fn outcome(error: Option<&Error>) -> Outcome {
    let Some(error) = error else { return Outcome::Ok };
    Outcome::Failed(match error {
        Error::Refused { code: Errcode(code), .. } => return Outcome::Refused(*code),
        Error::BadStatus { .. } => "bad_status",
        Error::Lost { .. } => "lost",
        Error::NotExecuted { .. } => "not_executed",
        Error::NotSent { .. } => "not_sent",
        Error::Page => "page",
        Error::ProxyRefused => "proxy_refused",
        Error::TimedOut { .. } => "timeout",
        Error::Unreadable { .. } => "unreadable",
    })
}

/// Returns the whole body of the reply. Fails if it is longer than `most` bytes.
async fn read_body(
    mut response: reqwest::Response,
    most: usize,
    limit: Duration,
) -> Result<Bytes, Failed> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(chunk)) if body.len() + chunk.len() > most => {
                let cause = format!("longer than {most} bytes");
                return Err(Failed { error: Error::Unreadable { cause }, sign: Sign::Nothing });
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

fn failure(error: reqwest::Error, limit: Duration, maybe_sent: bool) -> Failed {
    // The URL must be removed, because it carries the token.
    let error = error.without_url();
    if error.is_connect() {
        // The text is compared because hyper-util has no public type for this error.
        if sources(&error).any(|cause| cause.to_string().ends_with(NO_PROXY_ENTRY)) {
            return Failed { error: Error::ProxyRefused, sign: Sign::Nothing };
        }
        return Failed { error: Error::NotSent { cause: causes(&error) }, sign: Sign::Unreachable };
    }
    // reqwest also reports a body that ends too early as "decoding", although the connection
    // failed.
    let of_the_connection = sources(&error).any(|cause| cause.is::<hyper::Error>());
    let (timed_out, undecodable) = (error.is_timeout(), error.is_decode() && !of_the_connection);
    let cause = causes(&error);
    let error = match maybe_sent {
        false => Error::NotSent { cause },
        true if timed_out => Error::TimedOut { limit },
        true if undecodable => Error::Unreadable { cause },
        true => Error::Lost { cause },
    };
    Failed { error, sign: Sign::Doubtful }
}

/// Returns the error and its causes in one line.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<_> = sources(error).map(ToString::to_string).collect();
    texts.join(": ")
}

/// Returns an iterator over the error and its causes.
fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// A request body that records whether the transport began to read it. Until then, the request was
/// certainly not sent.
struct Watched {
    /// The pieces that were not read yet, in reverse order.
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

    fn is_end_stream(&self) -> bool {
        // A transport that asks this has not begun to read yet.
        self.left == 0 && self.started.load(Ordering::Acquire)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Returns a `multipart/form-data` payload with one file, in the strict form that WeChat's upload
/// requires.
pub(super) fn multipart(name: &str, file_name: &str, kind: &str, content: Bytes) -> Payload {
    // The boundary must not occur in the content, so it is random.
    let boundary = format!("----{:032x}", fastrand::u128(..));
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"; \
         filelength={}\r\nContent-Type: {kind}\r\n\r\n",
        content.len()
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    Payload {
        content_type: Some(format!("multipart/form-data; boundary={boundary}").into()),
        body: vec![head.into(), content, tail.into()],
        ..Payload::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_counts_as_answered() {
        for body in [r#"{"errcode":-1}"#, " \r\n{}", "{"] {
            assert_eq!(sign_of(body.as_bytes()), Sign::Answered, "{body}");
        }
        for body in ["", "<html>", "[{}]", "null"] {
            assert_eq!(sign_of(body.as_bytes()), Sign::Doubtful, "{body}");
        }
    }

    #[test]
    fn unsent_or_rejected_call_cannot_have_arrived() {
        let refused = |code| Error::Refused { code: Errcode(code), message: String::new() };
        for error in [
            Error::NotExecuted { status: 403, retry_after: None },
            Error::NotSent { cause: String::new() },
            Error::ProxyRefused,
            refused(40001),
            refused(42001),
        ] {
            assert!(!may_have_arrived(&error), "{error}");
        }
        for error in [
            Error::Lost { cause: String::new() },
            Error::TimedOut { limit: PROBE_LIMIT },
            Error::BadStatus { status: 502, retry_after: None },
            Error::Page,
            Error::Unreadable { cause: String::new() },
            refused(-1),
        ] {
            assert!(may_have_arrived(&error), "{error}");
        }
    }

    #[test]
    fn multipart_has_one_part_with_name_and_length() {
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
