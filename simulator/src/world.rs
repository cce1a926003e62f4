//! The simulator's state, and the way of a call from its arrival to its reply.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wechat_clock::Clock;

use super::{
    Account, AccountKind, FAMILIES, Settings,
    account::Quota,
    audit::{self, Audit},
    cloud::{self, CloudState},
    component::{self, ComponentState},
    endpoint::{Bearer, Body, Call, Endpoint, Part},
    error::Refusal,
    faults::{Fault, Faults, Kind},
    journal::{self, Entry, Journal},
    map_poi::Requested,
    media::Media,
    merchant::Merchant,
    mint::Mint,
    nearby::Nearby,
    places::{self, Place},
    push::{Callback, Outbox},
    spoil,
    store::Stores,
    token::{Holder, Moment, Tokens},
};

/// The whole state. One lock guards it, so every call sees a consistent world.
pub(super) struct World {
    settings: Settings,
    pub(super) clock: Clock,
    pub(super) mint: Mint,
    pub(super) rules: Rules,
    pub(super) accounts: BTreeMap<String, Tenant>,
    pub(super) components: BTreeMap<String, ComponentState>,
    pub(super) clouds: BTreeMap<String, CloudState>,
    pub(super) places: Vec<Place>,
    pub(super) audits: BTreeMap<u64, Audit>,
    pub(super) tokens: Tokens,
    pub(super) faults: Faults,
    pub(super) journal: Journal,
    pub(super) outbox: Outbox,
}

/// The settings that can change while the simulator runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    /// The time after which reviews pass without a decision. With `None` they stay open.
    #[serde(rename = "audit_delay_seconds", with = "seconds")]
    pub(super) audit_delay: Option<Duration>,
    /// The pause of addnearbypoi after a reply (“使用时间隔1s进行串行调用”).
    #[serde(rename = "nearby_pause_ms", with = "milliseconds")]
    pub(super) nearby_pause: Duration,
    /// The most stores of an account. WeChat publishes no number.
    pub(super) store_limit: usize,
    /// The most nearby places of an account. WeChat publishes no number.
    pub(super) nearby_limit: usize,
    /// Calls a day to `/cgi-bin/token`.
    pub(super) classic_tokens_a_day: u64,
    /// A push times out after this time without an answer.
    #[serde(rename = "push_timeout_ms", with = "milliseconds")]
    pub(super) push_timeout: Duration,
    /// A push that was not accepted is sent again this many times.
    pub(super) push_retries: u64,
    /// The time from one attempt to the next. WeChat publishes none. If no answer comes, the next
    /// attempt follows the timeout.
    #[serde(rename = "push_retry_pause_ms", with = "milliseconds")]
    pub(super) push_retry_pause: Duration,
    /// The time from the cause of a push to its first attempt.
    #[serde(rename = "push_delay_ms", with = "milliseconds")]
    pub(super) push_delay: Duration,
    /// The most random time that is added to that delay, so that pushes overtake each other.
    #[serde(rename = "push_shuffle_ms", with = "milliseconds")]
    pub(super) push_shuffle: Duration,
    /// A push that was accepted is sent this many times more.
    pub(super) push_duplicates: u64,
    /// A push whose id is divisible by this is never sent. 0 loses none.
    pub(super) push_lose_every: u64,
    /// A pre_auth_code is valid for this time. The document has 1800 in its text and 600 in its sample.
    pub(super) pre_auth_code_seconds: u64,
    /// An authorization code is valid for this time.
    pub(super) authorization_code_seconds: u64,
    /// Whether each refresh of an authorizer's token also replaces the refresh token.
    pub(super) rotate_refresh_tokens: bool,
    /// The refusal of an authorizer's token after the merchant took the authorization back.
    pub(super) unauthorized_errcode: i64,
}

/// An account's state at WeChat.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) kind: AccountKind,
    pub(super) secret: String,
    pub(super) merchant: Merchant,
    pub(super) stores: Stores,
    pub(super) nearby: Nearby,
    pub(super) quota: Quota,
    pub(super) media: HashMap<String, Media>,
    /// Map places in review, by their base_id.
    pub(super) requested_places: BTreeMap<u64, Requested>,
    pub(super) callback: Option<Callback>,
    /// The id of the account in pushes (原始ID), `gh_…`.
    pub(super) original_id: String,
    /// The person that pushes name as their sender.
    pub(super) open_id: String,
}

/// A request as it arrived.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) bytes: Bytes,
    pub(super) part: Option<Part>,
}

/// A reply before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    /// One header in addition to the usual ones.
    pub(super) header: Option<(HeaderName, String)>,
    pub(super) body: Bytes,
}

/// The result of a call.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) reply: Reply,
    pub(super) fault: Option<Fault>,
    /// The account whose serial API is busy until the reply is out.
    pub(super) turn: Option<String>,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let mut world = Self {
            clock: settings.clock.clone(),
            mint: Mint::new(settings.seed),
            rules: Rules {
                audit_delay: settings.audit_delay,
                nearby_pause: Duration::from_secs(1),
                store_limit: 1000,
                nearby_limit: 10,
                classic_tokens_a_day: 2000,
                push_timeout: Duration::from_secs(5),
                push_retries: 3,
                push_retry_pause: Duration::from_secs(5),
                push_delay: Duration::ZERO,
                push_shuffle: Duration::ZERO,
                push_duplicates: 0,
                push_lose_every: 0,
                pre_auth_code_seconds: 600,
                authorization_code_seconds: 600,
                rotate_refresh_tokens: false,
                unauthorized_errcode: 61003,
            },
            accounts: BTreeMap::new(),
            components: BTreeMap::new(),
            clouds: BTreeMap::new(),
            places: places::places(),
            audits: BTreeMap::new(),
            tokens: Tokens::default(),
            faults: Faults::default(),
            journal: Journal::default(),
            outbox: Outbox::default(),
            settings,
        };
        for account in world.settings.accounts.clone() {
            world.add_account(account);
        }
        for settings in world.settings.components.clone() {
            component::add(&mut world, settings);
        }
        for settings in world.settings.clouds.clone() {
            // Its problem is in the list of containers, if it was added at all.
            let _ = cloud::add(&mut world, settings);
        }
        world
    }

    /// Starts over. Only the time continues.
    pub(super) fn reset(&mut self) {
        let outbox = self.outbox.reset();
        *self = Self { outbox, ..Self::new(self.settings.clone()) };
    }

    /// Adds an account, or replaces the secret, the kind and, if there is one, the callback of an
    /// existing account.
    pub(super) fn add_account(&mut self, account: Account) {
        let Account { app_id, secret, kind, callback } = account;
        if let Some(tenant) = self.accounts.get_mut(&app_id) {
            (tenant.secret, tenant.kind) = (secret, kind);
            tenant.callback = callback.or(tenant.callback.take());
            return;
        }
        let tenant = Tenant {
            kind,
            secret,
            merchant: Merchant::approved(&app_id),
            stores: Stores::default(),
            nearby: Nearby::default(),
            quota: Quota::default(),
            media: HashMap::new(),
            requested_places: BTreeMap::new(),
            callback,
            original_id: format!("gh_{:012x}", self.mint.below("original_id", 1 << 48)),
            open_id: format!("o{}", self.mint.text("open_id", 27)),
        };
        self.accounts.insert(app_id, tenant);
    }

    /// Returns the account that calls.
    pub(super) fn tenant(&mut self, app_id: &str) -> Result<&mut Tenant, Refusal> {
        self.accounts.get_mut(app_id).ok_or(Refusal::new(40013))
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Returns the milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        let since = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn moment(&self) -> Moment {
        /// China is eight hours ahead of UTC all year.
        const CHINA: u64 = 8 * 3600;
        Moment { now: self.clock.now(), day: (self.clock.unix() + CHINA) / 86_400 }
    }

    /// Runs a call from its arrival to its reply. Sending the reply is left to the caller.
    pub(super) fn receive(&mut self, request: Incoming) -> Outcome {
        audit::decide_due(self);
        let seq = self.journal.append(self.entry(&request));
        let fault = self.faults.strike(&request.path, &mut self.mint);
        let mut turn = None;
        let result = if fault.as_ref().is_none_or(Fault::executes) {
            self.execute(request, &mut turn)
        } else {
            Err(Refusal::new(-1))
        };
        let executed = matches!(result, Ok(Some(_)));
        let reply = self.reply(result, fault.as_ref());
        self.journal.amend(seq, |entry| {
            entry.executed = executed;
            entry.fault = fault.as_ref().map(|fault| fault.kind.name());
            if fault.as_ref().is_none_or(|fault| fault.kind.answers()) {
                entry.status = Some(reply.status.as_u16());
                entry.errcode = reply.errcode();
            }
        });
        Outcome { reply, fault, turn }
    }

    /// Makes a reply of a verdict, and applies the fault to it.
    fn reply(&mut self, result: Result<Option<Reply>, Refusal>, fault: Option<&Fault>) -> Reply {
        let result = match fault.map(|fault| &fault.kind) {
            Some(Kind::Errcode { errcode, errmsg }) => {
                Err(Refusal { errcode: *errcode, errmsg: errmsg.clone() })
            }
            _ => result,
        };
        let reply = match result {
            Ok(Some(reply)) => reply,
            Ok(None) => Reply::not_found(),
            Err(refusal) => Reply::json(&refusal.body(&self.mint.rid())),
        };
        match fault {
            Some(fault) => spoil::spoil(&fault.kind, reply),
            None => reply,
        }
    }

    /// Runs the call's endpoint if the call passes the general checks. Returns `None` if there is
    /// no such endpoint.
    fn execute(
        &mut self,
        request: Incoming,
        turn: &mut Option<String>,
    ) -> Result<Option<Reply>, Refusal> {
        if let Some(page) = component::page(self, &request) {
            return Ok(Some(page));
        }
        let mut endpoints = endpoints().filter(|endpoint| endpoint.path == request.path).peekable();
        let Some(first) = endpoints.peek().copied() else {
            return Ok(None);
        };
        let wrong_verb = Refusal::new(if first.method == Method::GET { 43001 } else { 43002 });
        let right_verb = |endpoint: &&Endpoint| endpoint.method == request.method;
        let endpoint = endpoints.find(right_verb).ok_or(wrong_verb)?;

        let Holder { app_id, via } = self.identify(endpoint, &request.query)?;
        if !matches!(endpoint.bearer, Bearer::Component | Bearer::NoToken) {
            let day = self.moment().day;
            self.tenant(&app_id)?.quota.spend(endpoint.path, day)?;
        }
        let fields = match endpoint.body {
            Body::Json => parse(&request.bytes)?,
            Body::Form | Body::Nothing => serde_json::Map::new(),
        };
        if endpoint.serial {
            let (now, pause) = (self.now(), self.rules.nearby_pause);
            self.tenant(&app_id)?.nearby.serial.enter(now, pause)?;
            *turn = Some(app_id.clone());
        }
        let component = via.map(|via| via.component);
        let call = Call { app_id, component, query: request.query, fields, part: request.part };
        (endpoint.run)(self, &call).map(|body| Some(Reply::json(&body)))
    }

    /// Returns the holder of the call's token. A token of the wrong kind of account is refused like an
    /// invalid token.
    fn identify(
        &self,
        endpoint: &Endpoint,
        query: &BTreeMap<String, String>,
    ) -> Result<Holder, Refusal> {
        if endpoint.bearer == Bearer::NoToken {
            return Ok(Holder::own(""));
        }
        if let Some(app_id) = cloud::identify(self, endpoint, query)? {
            self.check_kind(endpoint, &app_id)?;
            return Ok(Holder::own(&app_id));
        }
        let given = |name: &str| query.get(name).filter(|token| !token.is_empty());
        let token = match endpoint.bearer {
            // Older pages have one name, today's have the other.
            Bearer::Component => given("component_access_token").or_else(|| given("access_token")),
            _ => given("access_token"),
        };
        let holder = self.tokens.holder(token.ok_or(Refusal::new(41001))?, self.now())?;
        if self.components.contains_key(&holder.app_id) != (endpoint.bearer == Bearer::Component) {
            let ours = endpoint.bearer == Bearer::Component;
            return Err(Refusal::new(if ours { 61014 } else { 61015 }));
        }
        self.check_kind(endpoint, &holder.app_id)?;
        component::check(self, endpoint, holder)?;
        Ok(holder.clone())
    }

    fn check_kind(&self, endpoint: &Endpoint, app_id: &str) -> Result<(), Refusal> {
        let kind = self.accounts.get(app_id).map(|tenant| tenant.kind);
        let welcome = match endpoint.bearer {
            Bearer::Anyone => kind.is_some(),
            Bearer::Component | Bearer::NoToken => true,
            Bearer::MiniProgram => kind == Some(AccountKind::MiniProgram),
            Bearer::Official => kind == Some(AccountKind::Official),
        };
        if welcome { Ok(()) } else { Err(Refusal::new(40001)) }
    }

    fn entry(&self, request: &Incoming) -> Entry {
        let body = journal::describe_body(&request.bytes, request.part.as_ref());
        let named = |name: &str| body[name].as_str().filter(|app_id| !app_id.is_empty());
        let bearer =
            request.query.get("access_token").and_then(|token| self.tokens.made_for(token));
        let bearer = bearer.or_else(|| cloud::made_for(self, &request.query));
        let asking = request.query.get("appid").map(String::as_str);
        let asking = asking.or_else(|| named("appid")).or_else(|| named("component_appid"));
        Entry {
            seq: 0,
            at_unix_ms: self.unix_ms(),
            method: request.method.to_string(),
            path: request.path.clone(),
            app_id: named("authorizer_appid").or(bearer).or(asking).unwrap_or_default().to_owned(),
            query: journal::redact_query(&request.query),
            body,
            executed: false,
            errcode: None,
            status: None,
            fault: None,
        }
    }
}

impl Reply {
    /// Returns WeChat's usual reply: status 200 for every verdict.
    pub(super) fn json(body: &Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self {
            status: StatusCode::OK,
            content_type: "application/json; encoding=utf-8",
            header: None,
            body,
        }
    }

    fn not_found() -> Self {
        let status = StatusCode::NOT_FOUND;
        Self { status, content_type: "text/plain", header: None, body: Bytes::new() }
    }

    /// Returns the verdict in the reply, if a client could find one.
    fn errcode(&self) -> Option<i64> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let body = body.as_object()?;
        body.get("errcode").map_or(Some(0), Value::as_i64)
    }
}

/// Returns all endpoints of all families.
pub(super) fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    FAMILIES.iter().copied().flatten()
}

/// Parses a JSON body with the checks that WeChat does for all of them.
fn parse(bytes: &[u8]) -> Result<serde_json::Map<String, Value>, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::new(44002));
    }
    let is_escape =
        |window: &[u8]| window.starts_with(b"\\u") && window[2..].iter().all(u8::is_ascii_hexdigit);
    if bytes.windows(6).any(is_escape) {
        return Err(Refusal::new(40033));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Refusal::new(47001)),
    }
}

/// A duration that is written in milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// A duration that is written in seconds, or null for never.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_bodies_are_refused_as_by_wechat() {
        let code = |body: &str| parse(body.as_bytes()).map_err(|refusal| refusal.errcode).err();
        assert_eq!(code(r#"{"name":"海珠","nested":"{\"a\":\"\/\"}"}"#), None);
        assert_eq!(code(""), Some(44002));
        assert_eq!(code("{"), Some(47001));
        assert_eq!(code("[]"), Some(47001));
        assert_eq!(code(r#"{"name":"\u6d77"}"#), Some(40033));
    }

    #[test]
    fn every_path_and_method_is_unique() {
        let claims: Vec<_> = endpoints().map(|one| (one.method.as_str(), one.path)).collect();
        let mut unique = claims.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(claims.len(), unique.len());
    }
}
