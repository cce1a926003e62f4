//! Receives the messages that WeChat pushes.
//!
//! A push is verified, decrypted, parsed, stored, relayed, and only then answered with `success`.
//! After any other answer, WeChat sends it again, up to three times. An authentic push with
//! unreadable content is stored unchanged, because a refusal would lose it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use self::{
    message::{Malformed, Message},
    relay::{Failed, Push, Relay},
    trace::PushTrace,
};
use crate::{
    accounts::platform::Platforms,
    config::{AccountCallback, CallbackMode, SecretSource, Settings, is_app_id},
    events::Audits,
    message_crypto,
    metrics::Metrics,
    state::{Appended, NewEvent},
    telemetry::{self, Sampler},
    util::clock::Clock,
    util::id::{AppId, Secret},
};

mod authorization;
pub mod envelope;
pub mod event;
pub mod message;
mod relay;
mod trace;

/// Many times the longest message that WeChat documents, in bytes.
const BODY_LIMIT: usize = 256 * 1024;
/// The limit for receiving the body. WeChat waits five seconds in total.
const BODY_TIME: Duration = Duration::from_secs(5);
/// The limit for storing an event. WeChat waits five seconds in total.
const APPEND_TIME: Duration = Duration::from_secs(1);

/// Receives pushes. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Receiver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    audits: Audits,
    platforms: Platforms,
    clock: Clock,
    sampler: Sampler,
    metrics: Metrics,
    /// Replaced as a whole when the settings change. A push uses the one that it finds on arrival.
    table: ArcSwap<Table>,
}

/// The accounts and platforms that receive pushes, and how, at one time.
#[derive(Debug)]
pub(crate) struct Table {
    accounts: HashMap<AppId, Account>,
    platforms: HashMap<AppId, Account>,
    /// The largest accepted difference between a push's timestamp and the current time.
    window: Option<Duration>,
    /// Set if any account relays pushes.
    relay: Option<Relay>,
}

/// An account or platform that receives pushes.
#[derive(Debug)]
struct Account {
    app_id: AppId,
    callback: AccountCallback,
}

impl Table {
    /// Returns the table of the settings. It uses `relay` if there is one already.
    ///
    /// Fails if a key or token cannot be read.
    fn new(settings: &Settings, relay: Option<Relay>) -> anyhow::Result<Self> {
        let accounts = settings.accounts.iter();
        let accounts =
            accounts.filter_map(|account| Some((&account.app_id, account.callback.clone()?)));
        let platforms = settings.platforms.iter();
        let platforms = platforms.map(|platform| (&platform.app_id, platform.callback()));
        let (accounts, platforms) = (receiving(accounts)?, receiving(platforms)?);
        let window = settings.callback.timestamp_window();
        let mut all = accounts.values().chain(platforms.values());
        let passes_on = all.any(|account| !account.callback.forward_to.is_empty());
        let relay = passes_on.then(|| relay.map_or_else(Relay::new, Ok)).transpose()?;
        Ok(Self { accounts, platforms, window, relay })
    }

    /// Returns the meaning of a path. Proxies and people add slashes and write ids in capitals.
    fn route(&self, path: &str) -> Option<Route<'_>> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let parts: Vec<_> = parts.take(6).map(str::to_ascii_lowercase).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            ["wechat", "callback", app_id] => self.accounts.get(app_id).map(Route::Account),
            ["wechat", "platform", platform, "events"] => {
                self.platforms.get(platform).map(Route::Authorizations)
            }
            ["wechat", "platform", platform, "messages", app_id] if is_app_id(app_id) => {
                let app_id = AppId::from(app_id.to_owned());
                self.platforms.get(platform).map(|platform| Route::Messages { platform, app_id })
            }
            _ => None,
        }
    }
}

/// Returns those that receive pushes. Fails if a key or token cannot be read.
fn receiving<'a>(
    callbacks: impl Iterator<Item = (&'a AppId, AccountCallback)>,
) -> anyhow::Result<HashMap<AppId, Account>> {
    let mut receiving = HashMap::new();
    for (app_id, callback) in callbacks {
        let account = Account { app_id: app_id.clone(), callback };
        account.check().with_context(|| format!("callback of {app_id}"))?;
        receiving.insert(app_id.clone(), account);
    }
    Ok(receiving)
}

/// The meaning of a path.
#[derive(Debug)]
enum Route<'a> {
    /// The messages of an account of the settings.
    Account(&'a Account),
    /// The tickets and authorizations of a platform.
    Authorizations(&'a Account),
    /// The messages of an authorizer, sealed with the key of its platform.
    Messages {
        /// The platform.
        platform: &'a Account,
        /// The authorizer.
        app_id: AppId,
    },
}

impl Route<'_> {
    /// Returns the account or platform that has the key.
    fn account(&self) -> &Account {
        match self {
            Self::Account(account) | Self::Authorizations(account) => account,
            Self::Messages { platform, .. } => platform,
        }
    }

    /// Returns the account or platform that a message is about.
    fn app_id(&self) -> &AppId {
        match self {
            Self::Account(account) | Self::Authorizations(account) => &account.app_id,
            Self::Messages { app_id, .. } => app_id,
        }
    }

    /// Returns the name of the span of a push.
    fn span_name(&self) -> &'static str {
        match self {
            Self::Account(_) => "POST /wechat/callback/{app_id}",
            Self::Authorizations(_) => "POST /wechat/platform/{platform}/events",
            Self::Messages { .. } => "POST /wechat/platform/{platform}/messages/{app_id}",
        }
    }

    /// Returns the path in its usual form.
    fn path(&self) -> String {
        match self {
            Self::Account(account) => format!("/wechat/callback/{}", account.app_id),
            Self::Authorizations(account) => format!("/wechat/platform/{}/events", account.app_id),
            Self::Messages { platform, app_id } => {
                format!("/wechat/platform/{}/messages/{app_id}", platform.app_id)
            }
        }
    }
}

impl Receiver {
    /// Returns a receiver for the accounts that have a `callback`.
    ///
    /// Fails if a key or token cannot be read.
    pub(crate) fn new(
        settings: &Settings,
        audits: Audits,
        platforms: Platforms,
        clock: Clock,
        sampler: Sampler,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let table = ArcSwap::from_pointee(Table::new(settings, None)?);
        Ok(Self(Arc::new(Inner { audits, platforms, clock, sampler, metrics, table })))
    }

    /// Returns the accounts of other settings, for [`update`](Self::update). Changes nothing.
    ///
    /// Fails if a key or token cannot be read.
    pub(crate) fn prepare(&self, settings: &Settings) -> anyhow::Result<Table> {
        Table::new(settings, self.0.table.load().relay.clone())
    }

    /// Replaces the accounts. A push that arrived before uses the old ones.
    pub(crate) fn update(&self, table: Table) {
        self.0.table.store(Arc::new(table));
    }

    /// Answers a request. If its future is dropped, it is unknown whether the push is stored.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.0.answer(request).await
    }
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let table = self.table.load_full();
        let route = table.route(head.uri.path());
        let mut trace = PushTrace::none();
        let answer = match (&route, &head.method) {
            (None, _) => {
                Err(Refusal::new(StatusCode::NOT_FOUND, "no account has this callback path"))
            }
            // Monitors and load balancers send HEAD to check that the port answers.
            (Some(_), &Method::HEAD) => Ok(respond(None, Bytes::new())),
            (Some(route), &Method::GET) => self.echo(&table, route.account(), &head),
            (Some(route), &Method::POST) => {
                trace = PushTrace::begin(route, &head, &self.sampler);
                let answer = self.receive(&table, route, &head, body, &trace).await;
                trace.end(answer.as_ref().map_or_else(|refusal| refusal.status, Response::status));
                answer
            }
            _ => Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "the method is neither GET nor POST",
            )),
        };
        answer.unwrap_or_else(|refusal| {
            if head.method != Method::HEAD {
                refusal.log(route.as_ref(), &trace);
                self.metrics.count_push(refusal.name());
            }
            let mut response = Response::default();
            *response.status_mut() = refusal.status;
            if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
                let allowed = HeaderValue::from_static("GET, HEAD, POST");
                response.headers_mut().insert(header::ALLOW, allowed);
            }
            response
        })
    }

    /// Answers WeChat's verification, which an administrator starts by entering the address there.
    fn echo(&self, table: &Table, account: &Account, head: &Parts) -> Answer {
        let query = Query::new(head);
        self.verify(table, &account.token()?, &query, "signature", None)?;
        Ok(respond(None, query.get("echostr").to_owned().into()))
    }

    async fn receive(
        &self,
        table: &Table,
        route: &Route<'_>,
        head: &Parts,
        body: Incoming,
        trace: &PushTrace,
    ) -> Answer {
        let account = route.account();
        let body = read_body(body).await?;
        let plain = self.decrypted(table, account, &Query::new(head), &body)?;
        if account.callback.mode == CallbackMode::Cloud && is_probe(&plain) {
            tracing::debug!(app_id = %account.app_id, "answered a probe of the path");
            self.metrics.count_push("ignored");
            return Ok(respond(None, Bytes::from_static(b"success")));
        }
        let app_id = route.app_id();
        match route {
            Route::Messages { .. } => self.audits.note_authorizer_push(app_id),
            Route::Account(_) | Route::Authorizations(_) => self.audits.note_push(app_id),
        }
        let (callback, now) = (&account.callback, self.clock.unix());
        let message = message::parse(&plain);
        let event = match &message {
            Ok(message) if matches!(route, Route::Authorizations(_)) => {
                self.apply(app_id, message).await?
            }
            // WeChat repeats it, and the next ticket or the list of authorizers replaces it.
            Err(malformed) if matches!(route, Route::Authorizations(_)) => {
                return Err((*malformed).into());
            }
            Ok(message) => event::from_message(app_id, message, &callback.keep, now),
            // In plain mode, the signature does not cover the body, and in cloud mode there is none. So
            // the body may not be WeChat's.
            Err(malformed)
                if matches!(callback.mode, CallbackMode::Cloud | CallbackMode::Plain) =>
            {
                return Err((*malformed).into());
            }
            Err(_) => Some(event::unreadable(app_id, &plain, now)),
        };
        let stored = event.is_some();
        if let Some(event) = event {
            let event_id = event.event_id.clone();
            let position = self.store(event).await?;
            trace.stored(&event_id, position, &self.audits).await;
            if let Err(malformed) = &message {
                unreadable(app_id, *malformed, &event_id, trace);
            }
        }
        // A target with a list of message names does not receive unreadable messages.
        let name = message.as_ref().map_or("", Message::name);
        let reply = match &table.relay {
            Some(relay) => {
                let push = Push {
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    content_type: head.headers.get(header::CONTENT_TYPE).cloned(),
                    body,
                    trace_id: trace.id(),
                };
                let targets = callback.forward_to.iter().filter(|target| target.wants(name));
                relay.pass_on(&push, targets).await?
            }
            None => None,
        };
        self.metrics.count_push(match (&message, stored) {
            (Err(_), _) => "unreadable",
            (Ok(_), true) => "stored",
            (Ok(_), false) => "ignored",
        });
        let trace_id = trace.id();
        tracing::debug!(%app_id, %trace_id, name, stored, "accepted a push");
        Ok(match reply {
            Some(reply) => respond(reply.content_type, reply.body),
            None => respond(None, Bytes::from_static(b"success")),
        })
    }

    /// Stores the ticket or authorization that a message brings. Returns the event for the log.
    async fn apply(
        &self,
        platform: &AppId,
        message: &Message,
    ) -> Result<Option<NewEvent>, Refusal> {
        let Some(change) = authorization::change(platform, message, self.clock.unix())? else {
            return Ok(None);
        };
        let event = authorization::event(platform, message.name(), &change);
        match timeout(APPEND_TIME, self.platforms.apply(platform, change)).await {
            Ok(Ok(())) => Ok(event),
            Ok(Err(error)) => Err(Refusal::unavailable(error.to_string())),
            Err(_) => Err(Refusal::unavailable("storing the authorization took too long")),
        }
    }

    /// Returns the decrypted message of an authentic push. The encryption mode comes from the
    /// settings and never from the push: `signature` does not cover the body, so anyone with a copy
    /// of a signature could send any body with it.
    fn decrypted(
        &self,
        table: &Table,
        account: &Account,
        query: &Query,
        body: &Bytes,
    ) -> Result<Bytes, Refusal> {
        let unencrypted = |mode: &str| match envelope::parse(body) {
            Ok(_) => Err(Refusal::forbidden(format!(
                "the message is encrypted, but callback.mode is {mode:?}"
            ))),
            Err(_) => Ok(body.clone()),
        };
        match account.callback.mode {
            // The settings state that only WeChat's network reaches this port.
            CallbackMode::Cloud => unencrypted("cloud"),
            CallbackMode::Plain => {
                self.verify(table, &account.token()?, query, "signature", None)?;
                unencrypted("plain")
            }
            CallbackMode::Compatible | CallbackMode::Safe => {
                let ciphertext = envelope::parse(body)?;
                let token = account.token()?;
                self.verify(table, &token, query, "msg_signature", Some(&ciphertext))?;
                account.decrypt(&ciphertext)
            }
        }
    }

    fn verify(
        &self,
        table: &Table,
        token: &Secret,
        query: &Query,
        signature: &str,
        ciphertext: Option<&str>,
    ) -> Result<(), Refusal> {
        let timestamp = query.get("timestamp");
        let parts = [Some(timestamp), Some(query.get("nonce")), ciphertext];
        let parts = parts.into_iter().flatten().collect::<Vec<_>>();
        if !message_crypto::verify(token, &parts, query.get(signature)) {
            return Err(Refusal::forbidden("wrong signature"));
        }
        let distance = |sent: u64| Duration::from_secs(sent.abs_diff(self.clock.unix()));
        let near = |window| timestamp.parse().is_ok_and(|sent| distance(sent) <= window);
        match table.window.is_none_or(near) {
            true => Ok(()),
            false => Err(Refusal::forbidden("the timestamp is too old or too new")),
        }
    }

    /// Stores an event. It is durable when this returns. Returns its position in the log.
    async fn store(&self, event: NewEvent) -> Result<u64, Refusal> {
        match timeout(APPEND_TIME, self.audits.append(event)).await {
            Ok(Ok(Appended::New(position) | Appended::Known(position))) => Ok(position),
            Ok(Ok(Appended::Decided)) => Err(Refusal::unavailable("the event was not stored")),
            Ok(Err(error)) => Err(Refusal::unavailable(error.to_string())),
            Err(_) => Err(Refusal::unavailable("storing the event took too long")),
        }
    }
}

impl Account {
    fn check(&self) -> anyhow::Result<()> {
        self.callback.token.as_ref().map(SecretSource::read).transpose().context("token")?;
        self.keys().try_for_each(|key| key.map(drop))
    }

    /// Returns the token. Its source is read for each push, so that it can be changed while the
    /// gateway runs. The same applies to the keys.
    fn token(&self) -> Result<Secret, Refusal> {
        let Some(token) = &self.callback.token else {
            let reason = "callback.mode is \"cloud\", in which WeChat verifies no signature";
            return Err(Refusal::forbidden(reason));
        };
        let unreadable = |error| Refusal::unavailable(format!("the token cannot be read: {error}"));
        token.read().map_err(unreadable)
    }

    /// Returns the key and the previous one. Each is read only when it is needed.
    fn keys(&self) -> impl Iterator<Item = anyhow::Result<message_crypto::Key>> {
        let AccountCallback { aes_key, previous_aes_key, .. } = &self.callback;
        let keys = [("aes_key", aes_key), ("previous_aes_key", previous_aes_key)];
        keys.into_iter().filter_map(|(name, source)| Some(key(source.as_ref()?).context(name)))
    }

    fn decrypt(&self, ciphertext: &str) -> Result<Bytes, Refusal> {
        for key in self.keys() {
            let key = key.map_err(|error| Refusal::unavailable(format!("{error:#}")))?;
            match key.decrypt(ciphertext, self.app_id.as_str()) {
                Ok(message) => return Ok(message.into()),
                Err(message_crypto::Error::Unreadable) => {}
                Err(error @ message_crypto::Error::Foreign) => {
                    return Err(Refusal::forbidden(error.to_string()));
                }
            }
        }
        Err(Refusal::forbidden("the message is encrypted with an unknown key"))
    }
}

/// Returns true for the question of cloud hosting whether something answers at this path. An administrator's
/// change of the path causes it.
fn is_probe(plain: &[u8]) -> bool {
    // A message with a type is a message, whatever else it has.
    message::parse(plain).is_ok_and(|message| message.name() == "CheckContainerPath")
}

/// Logs that an unreadable push was kept.
fn unreadable(app_id: &AppId, malformed: Malformed, event_id: &str, trace: &PushTrace) {
    let trace_id = trace.id();
    let text = "kept an unreadable push unchanged";
    if let Some(unlogged) = telemetry::may_log(text, &format!("{app_id} {malformed}")) {
        tracing::warn!(%app_id, %trace_id, event_id, reason = %malformed, unlogged, "{text}");
    }
}

fn key(source: &SecretSource) -> anyhow::Result<message_crypto::Key> {
    message_crypto::Key::parse(&source.read()?).context("not an EncodingAESKey")
}

/// Returns the whole body. Fails if it is too slow or too long.
async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let too_long = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(too_long());
    }
    match timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body is incomplete")),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body arrived too slowly")),
    }
}

fn respond(content_type: Option<HeaderValue>, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let content_type = content_type.unwrap_or(HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

type Answer = Result<Response<Full<Bytes>>, Refusal>;

/// The reason why a push is not answered with `success`. The sender only receives the status.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// The text for the log. It does not quote the push.
    reason: String,
}

impl Refusal {
    /// Logs the refusal, unless many of its kind were logged recently, because anyone can send such
    /// requests.
    fn log(&self, route: Option<&Route<'_>>, trace: &PushTrace) {
        let (Self { status, reason }, trace_id) = (self, trace.id());
        // The one that has the key: anyone can write any account into the path of a platform.
        let app_id = route.map(|route| route.account().app_id.as_str());
        let text = "refused a push";
        let cause = format!("{} {reason}", app_id.unwrap_or_default());
        if let Some(unlogged) = telemetry::may_log(text, &cause) {
            let status = status.as_u16();
            tracing::warn!(app_id, %trace_id, status, reason, unlogged, "{text}");
        }
    }

    /// Returns the class of the refusal, as metrics name it.
    fn name(&self) -> &'static str {
        match self.status {
            StatusCode::FORBIDDEN => "not_authentic",
            StatusCode::BAD_GATEWAY => "not_forwarded",
            StatusCode::METHOD_NOT_ALLOWED => "wrong_method",
            StatusCode::NOT_FOUND => "unknown_path",
            StatusCode::PAYLOAD_TOO_LARGE => "too_long",
            StatusCode::REQUEST_TIMEOUT => "too_slow",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            _ => "malformed",
        }
    }

    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    fn malformed(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::new(StatusCode::BAD_REQUEST, malformed.to_string())
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, failed.to_string())
    }
}

/// The query parameters of a push.
struct Query(Vec<(String, String)>);

impl Query {
    fn new(head: &Parts) -> Self {
        let query = head.uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Returns a parameter, or an empty text if it is missing.
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}
