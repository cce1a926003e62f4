//! Serves `/_simulator/`, from which tests and people control the simulator.
//!
//! Answers are plain JSON with a fitting HTTP status. A request with an unknown field is refused,
//! because a test with a misspelled fault would otherwise test nothing.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    Account, Fault, Simulator,
    audit::{self, Decision},
    cloud, component,
    legacy::LegacyStore,
    merchant::Merchant,
    places,
    push::{self, Callback, Format, Mode},
    world::{Reply, Tenant, World},
};

/// The list that `GET /_simulator/` returns.
const HELP: &[(&str, &str)] = &[
    ("GET /_simulator/", "this list"),
    ("POST /_simulator/reset", "start over; only the time continues"),
    (
        "POST /_simulator/callback",
        "{app_id, url, token, encoding_aes_key?, mode?: safe|compatible|plain|cloud, \
         format?: xml|json, verify?}: set the address of an account's pushes. It must echo WeChat's \
         question first, or in cloud mode accept a probe, unless verify is false. {app_id, url: null} stops the pushes",
    ),
    ("GET /_simulator/clock", "the time, in seconds since 1970"),
    ("POST /_simulator/clock", "{advance_seconds}: move the time forward"),
    ("GET /_simulator/accounts", "the accounts and their stores"),
    (
        "POST /_simulator/accounts",
        "{app_id, secret, kind: official|mini_program}: add or change one",
    ),
    ("GET /_simulator/audits", "every review, open and decided"),
    (
        "POST /_simulator/audits/{audit_id}",
        "{decision: approve|reject|confirm|decline, reason?, push?}: decide a review; with push \
         false the account is not notified",
    ),
    ("GET /_simulator/clouds", "the containers in cloud hosting"),
    (
        "POST /_simulator/clouds",
        "{app_id, token_file?, token_interval_seconds?, token_life_seconds?, \
         first_token_after_seconds?, tokenless?}: add or change one. The file receives each token. \
         With tokenless, calls without a token are those of this account",
    ),
    ("POST /_simulator/clouds/{app_id}/token", "make a new token now"),
    (
        "POST /_simulator/clouds/{app_id}/call",
        "{api, arguments}: call openapi.nearbyPoi.add, getList, delete or setShowStatus as Tencent's \
         SDK does in the container",
    ),
    ("GET /_simulator/components", "the third-party platforms"),
    (
        "POST /_simulator/components",
        "{app_id, secret, token, encoding_aes_key, events_url?, messages_url?, \
         ticket_interval_seconds?, permission_sets?}: add or change one. $APPID$ in messages_url is \
         the merchant",
    ),
    ("GET /_simulator/components/{app_id}/authorizers", "the merchants that authorized it"),
    (
        "POST /_simulator/components/{app_id}/authorizers",
        "{authorizers: [{app_id, kind, permission_sets}]} or {count, kind, permission_sets}: add \
         merchants without events, with accounts if there are none",
    ),
    (
        "POST /_simulator/components/{app_id}/authorize",
        "{app_id, permission_sets}: authorize it for a merchant, or change that, and push the event",
    ),
    (
        "POST /_simulator/components/{app_id}/unauthorize",
        "{app_id, push?}: take an authorization back; with push false there is no event",
    ),
    (
        "POST /_simulator/components/{app_id}/permissions",
        "{app_id, permission_sets?, api?}: change them without an event; with api false there are no \
         tokens for the merchant",
    ),
    (
        "DELETE /_simulator/components/{app_id}/refresh_tokens",
        "make its refresh tokens invalid; the list of merchants has new ones",
    ),
    (
        "POST /_simulator/components/{app_id}/tickets",
        "{pushing}: stop or start the tickets. {create_time?}: push a new one now",
    ),
    (
        "POST /_simulator/components/{app_id}/token",
        "{expired?}: replace its token as another system does; the previous one ends at once, with \
         40001 or 42001",
    ),
    ("GET /_simulator/faults", "the faults that have not applied yet"),
    (
        "POST /_simulator/faults",
        "{path, kind, times?, after?, probability?, execute?}: add a fault at a path, or with * \
         at every path; kind is one of \
         \"empty\", \"errcode_as_string\", \"hold\", \"html502\", \"invalid_utf8\", \"not_json\", \
         \"nulls\", \"reset_after\", \"reset_before\", \"truncate\", \"unknown_fields\", \
         \"wrong_types\", {\"drip\": {interval_ms?}}, {\"errcode\": {errcode, errmsg?}}, \
         {\"huge\": {bytes}}, {\"latency\": {ms}}, {\"null_field\": {pointer}}, \
         {\"redirect\": {location}}, {\"replace\": {body}}, {\"status\": {code, body?}}, \
         {\"throttle\": {retry_after}}",
    ),
    ("DELETE /_simulator/faults", "clear the faults"),
    ("GET /_simulator/journal?path=…", "the calls so far"),
    ("DELETE /_simulator/journal", "forget the calls"),
    (
        "POST /_simulator/legacy_stores",
        "{app_id, stores: [{poi_id?, business_name?, upgrade_status?, …}]}: add stores that must \
         migrate",
    ),
    ("POST /_simulator/map_pois", "{count}: add this many places to the map"),
    ("POST /_simulator/merchant", "{app_id, exists}: add or remove an account's merchant"),
    ("GET /_simulator/pushes", "every push and its attempts"),
    (
        "POST /_simulator/pushes",
        "{app_id, event: {Event, …}}: push an event now; missing fields that all events have are \
         added. {app_id, text}: push this text now as the whole message, unchanged",
    ),
    (
        "POST /_simulator/pushes/{id}/redeliver",
        "send an earlier push again, in a new envelope; the answer has the id of the new push",
    ),
    ("POST /_simulator/quota", "{app_id, path, daily_limit}: limit an API"),
    ("GET /_simulator/settings", "the settings"),
    (
        "POST /_simulator/settings",
        "{audit_delay_seconds?, nearby_pause_ms?, store_limit?, nearby_limit?, \
         classic_tokens_a_day?, push_timeout_ms?, push_retries?, push_retry_pause_ms?, \
         push_delay_ms?, push_shuffle_ms?, push_duplicates?, push_lose_every?, \
         pre_auth_code_seconds?, authorization_code_seconds?, rotate_refresh_tokens?, \
         unauthorized_errcode?}: change settings; a null delay leaves reviews open, shuffle adds a \
         random delay, duplicates come after an answer, every n-th push is lost, the errcode is that \
         of a merchant's token after the merchant took the authorization back",
    ),
    ("GET /_simulator/tokens", "today's token calls, by account"),
    ("DELETE /_simulator/tokens", "make every token invalid at once"),
];

/// Answers a control request that came over HTTP. `path` is the part after `/_simulator`.
pub(super) async fn answer(
    simulator: &Simulator,
    method: &Method,
    path: &str,
    query: &BTreeMap<String, String>,
    body: &[u8],
) -> Reply {
    let answer = async {
        if (method, path.trim_matches('/')) == (&Method::POST, "callback") {
            ask_callback(simulator, body).await?;
        }
        act(simulator, method.as_str(), path, query, body)
    };
    match answer.await {
        Ok(answer) => Reply::json(&answer),
        Err(Problem { status, text }) => {
            let body = Bytes::from(json!({ "error": text }).to_string());
            Reply { status, body, ..Reply::json(&Value::Null) }
        }
    }
}

/// Executes a control request.
pub(super) fn act(
    simulator: &Simulator,
    method: &str,
    path: &str,
    query: &BTreeMap<String, String>,
    body: &[u8],
) -> Result<Value, Problem> {
    let world = &mut *simulator.world();
    audit::decide_due(world);
    match (method, path.trim_matches('/')) {
        ("GET", "") => Ok(HELP.iter().map(|(what, how)| (*what, json!(how))).collect()),
        ("GET", "accounts") => Ok(accounts(world)),
        ("GET", "audits") => Ok(json!({ "audits": world.audits.values().collect::<Vec<_>>() })),
        ("GET", "clock") => Ok(time(world)),
        ("GET", "faults") => Ok(json!({ "faults": world.faults.list() })),
        ("GET", "journal") => {
            Ok(json!({ "calls": world.journal.entries(query.get("path").map(String::as_str)) }))
        }
        ("GET", "pushes") => Ok(json!({ "pushes": world.outbox.list() })),
        ("GET", "settings") => Ok(json!(world.rules)),
        ("GET", "tokens") => Ok(world.tokens.counts(world.moment())),
        ("POST", "clock") => advance(world, body),
        ("POST", "legacy_stores") => legacy_stores(world, body),
        ("POST", "map_pois") => map_pois(world, body),
        ("POST", "pushes") => push(world, body),
        ("POST", "settings") => set(world, body),
        ("POST", path) if path.starts_with("audits/") => decide(world, &path[7..], body),
        ("POST", path) if path.starts_with("pushes/") => redeliver(world, &path[7..]),
        (method, path) if path == "clouds" || path.starts_with("clouds/") => {
            cloud::control(world, method, path, body)
        }
        (method, path) if path == "components" || path.starts_with("components/") => {
            component::control(world, method, path, body)
        }
        (method, path) => change(world, method, path, body).map(|()| json!({})),
    }
}

/// Executes a control request that has no result.
fn change(world: &mut World, method: &str, path: &str, body: &[u8]) -> Result<(), Problem> {
    match (method, path) {
        ("POST", "accounts") => world.add_account(parse::<Account>(body)?),
        ("POST", "callback") => set_callback(world, body)?,
        ("POST", "faults") => world.faults.add(parse::<Fault>(body)?),
        ("POST", "merchant") => merchant(world, body)?,
        ("POST", "quota") => quota(world, body)?,
        ("POST", "reset") => world.reset(),
        ("DELETE", "faults") => world.faults.clear(),
        ("DELETE", "journal") => world.journal.clear(),
        ("DELETE", "tokens") => world.tokens.revoke(),
        _ => return Err(Problem::unknown(method, path)),
    }
    Ok(())
}

/// The reason why a control request was not executed.
pub(super) struct Problem {
    status: StatusCode,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn bad(text: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.to_string() }
    }

    /// There is no such request.
    pub(super) fn unknown(method: &str, path: &str) -> Self {
        let text = format!("no {method} /_simulator/{path}; GET /_simulator/ lists the requests");
        Self { status: StatusCode::NOT_FOUND, text }
    }

    /// The request is valid, but not in the present state.
    pub(super) const fn conflict(text: String) -> Self {
        Self { status: StatusCode::CONFLICT, text }
    }
}

/// Returns the body of a request. An error names the field.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut body = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut body).map_err(Problem::bad)
}

fn time(world: &World) -> Value {
    json!({ "unix_seconds": world.clock.unix() })
}

/// Later than the end of any token, review or quota. The clock cannot advance by every number.
const FURTHEST: f64 = 10.0 * 365.0 * 24.0 * 3600.0;

fn advance(world: &World, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Advance {
        advance_seconds: f64,
    }
    let Advance { advance_seconds } = parse(body)?;
    if advance_seconds > FURTHEST {
        return Err(Problem::bad(format!("advance_seconds: at most {FURTHEST}, ten years")));
    }
    world.clock.advance(Duration::try_from_secs_f64(advance_seconds).map_err(Problem::bad)?);
    Ok(time(world))
}

fn accounts(world: &World) -> Value {
    let accounts = world.accounts.iter().map(|(app_id, tenant)| {
        json!({
            "app_id": app_id,
            "kind": tenant.kind,
            "merchant": tenant.merchant.describe(),
            "stores": tenant.stores.current.len(),
            "legacy_stores": tenant.stores.legacy.len(),
        })
    });
    json!({ "accounts": accounts.collect::<Vec<_>>() })
}

fn decide(world: &mut World, audit_id: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Verdict {
        decision: Decision,
        #[serde(default)]
        reason: String,
        #[serde(default = "yes")]
        push: bool,
    }
    let Verdict { decision, reason, push } = parse(body)?;
    let audit_id = audit_id.parse().map_err(Problem::bad)?;
    let audit = if push {
        audit::decide(world, audit_id, decision, reason)
    } else {
        audit::end(world, audit_id, decision, reason).map(|(audit, _)| audit)
    };
    audit.map(|audit| json!(audit)).map_err(Problem::conflict)
}

fn legacy_stores(world: &mut World, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Add {
        app_id: String,
        stores: Vec<LegacyStore>,
    }
    let Add { app_id, mut stores } = parse(body)?;
    for store in stores.iter_mut().filter(|store| store.poi_id.is_empty()) {
        store.poi_id = (271_262_000 + world.mint.count("legacy_poi_id")).to_string();
    }
    let ids: Vec<_> = stores.iter().map(|store| store.poi_id.clone()).collect();
    tenant(world, &app_id)?.stores.legacy.extend(stores);
    Ok(json!({ "poi_ids": ids }))
}

/// More than a large brand opens in a year.
const MOST_PLACES: usize = 100_000;

fn map_pois(world: &mut World, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct More {
        count: usize,
    }
    let More { count } = parse(body)?;
    let known = world.places.len();
    if known + count > MOST_PLACES {
        return Err(Problem::bad(format!("count: at most {MOST_PLACES} places in all")));
    }
    // Places are never removed, so each number is used once.
    world.places.extend((known..known + count).map(places::another));
    let ids: Vec<_> = world.places[known..].iter().map(|place| &place.map_poi_id).collect();
    Ok(json!({ "map_poi_ids": ids }))
}

fn merchant(world: &mut World, body: &[u8]) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Change {
        app_id: String,
        exists: bool,
    }
    let Change { app_id, exists } = parse(body)?;
    let merchant = if exists { Merchant::approved(&app_id) } else { Merchant::default() };
    tenant(world, &app_id)?.merchant = merchant;
    Ok(())
}

fn quota(world: &mut World, body: &[u8]) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limit {
        app_id: String,
        path: String,
        daily_limit: u64,
    }
    let Limit { app_id, path, daily_limit } = parse(body)?;
    tenant(world, &app_id)?.quota.set_limit(&path, daily_limit);
    Ok(())
}

fn tenant<'a>(world: &'a mut World, app_id: &str) -> Result<&'a mut Tenant, Problem> {
    world.tenant(app_id).map_err(|_| Problem::bad(format!("there is no account {app_id}")))
}

fn push(world: &mut World, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct New {
        app_id: String,
        event: Option<Map<String, Value>>,
        text: Option<String>,
    }
    let New { app_id, event, text } = parse(body)?;
    let id = match (event, text) {
        (Some(event), None) => push::event(world, &app_id, event),
        (None, Some(text)) => push::text(world, &app_id, text),
        _ => return Err(Problem::bad("exactly one of event and text is required")),
    };
    id.map(|id| json!({ "id": id })).map_err(Problem::conflict)
}

fn redeliver(world: &mut World, path: &str) -> Result<Value, Problem> {
    let id = path.strip_suffix("/redeliver").and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| Problem::unknown("POST", &format!("pushes/{path}")))?;
    push::redeliver(world, id).map(|id| json!({ "id": id })).map_err(Problem::conflict)
}

/// The callback in a control request. Without a URL the account receives no more pushes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewCallback {
    app_id: String,
    url: Option<String>,
    #[serde(default)]
    token: String,
    #[serde(default)]
    encoding_aes_key: String,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    format: Format,
    #[serde(default = "yes")]
    verify: bool,
}

impl NewCallback {
    fn callback(&self) -> Result<Option<Callback>, Problem> {
        let Self { url, token, encoding_aes_key, mode, format, .. } = self;
        let Some(url) = url.clone() else { return Ok(None) };
        let (token, encoding_aes_key) = (token.clone(), encoding_aes_key.clone());
        let callback = Callback { url, token, encoding_aes_key, mode: *mode, format: *format };
        callback.check().map_err(Problem::bad)?;
        Ok(Some(callback))
    }
}

/// Verifies the address of a new callback as WeChat does, unless the request declines that.
async fn ask_callback(simulator: &Simulator, body: &[u8]) -> Result<(), Problem> {
    let new: NewCallback = parse(body)?;
    match new.callback()? {
        Some(callback) if new.verify => {
            push::verify(simulator, &new.app_id, &callback).await.map_err(Problem::conflict)
        }
        _ => Ok(()),
    }
}

fn set_callback(world: &mut World, body: &[u8]) -> Result<(), Problem> {
    let new: NewCallback = parse(body)?;
    tenant(world, &new.app_id)?.callback = new.callback()?;
    Ok(())
}

/// Changes the settings that the request names and keeps the others.
fn set(world: &mut World, body: &[u8]) -> Result<Value, Problem> {
    let mut rules = json!(world.rules);
    for (name, value) in parse::<Map<String, Value>>(body)? {
        rules[name] = value;
    }
    world.rules = serde_path_to_error::deserialize(rules).map_err(Problem::bad)?;
    world.outbox.wake();
    Ok(json!(world.rules))
}

pub(super) const fn yes() -> bool {
    true
}
