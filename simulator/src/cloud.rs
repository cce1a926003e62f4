//! Cloud hosting (云托管): a container that runs at WeChat and calls it with the token of the cloud.
//!
//! WeChat writes the token into a file of the container every ten minutes, and each is valid for half an
//! hour. Before the first one the file has a placeholder. With the open interface service (开放接口服务) a
//! call needs no token at all. Both work only for APIs on the allow-list, which here are the nearby ones.
//!
//! Tencent's SDK sends a call such as `openapi.nearbyPoi.add` in a form that is not documented. So
//! [`Simulator::cloud_call`] stands for it. An older page of each API lists the names of such a call,
//! `picList` and `errCode`. Today's page has the names of the HTTPS call. Here both are accepted, and the
//! answer has the older names.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Simulator,
    control::{Problem, parse},
    endpoint::{Bearer, Endpoint},
    error::Refusal,
    world::{Incoming, World},
};

/// The content of the file before the first token.
const PLACEHOLDER: &str = "default-tcb-wx-access-token";
const LENGTH: usize = 136;
/// The name of the file in a container.
const FILE_NAME: &str = "cloudbase_access_token";

/// The calls of Tencent's SDK, and their APIs.
const CALLS: &[(&str, &str)] = &[
    ("openapi.nearbyPoi.add", "/wxa/addnearbypoi"),
    ("openapi.nearbyPoi.getList", "/wxa/getnearbypoilist"),
    ("openapi.nearbyPoi.delete", "/wxa/delnearbypoi"),
    ("openapi.nearbyPoi.setShowStatus", "/wxa/setnearbypoishowstatus"),
];

/// A container of an account in cloud hosting.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// The account that owns the container.
    pub app_id: String,
    /// The file that receives each token. In a container it is
    /// `/.tencentcloudbase/wx/cloudbase_access_token`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The time from one token to the next.
    #[serde(rename = "token_interval_seconds", default = "ten_minutes", with = "seconds")]
    pub token_interval: Duration,
    /// A token is valid for this time.
    #[serde(rename = "token_life_seconds", default = "half_an_hour", with = "seconds")]
    pub token_life: Duration,
    /// The time until the first token. The file has a placeholder until then.
    #[serde(rename = "first_token_after_seconds", default, with = "seconds")]
    pub first_token_after: Duration,
    /// Whether calls without a token are accepted, as calls of this account. WeChat knows the container
    /// by its network. The simulator does not, so only one account can have this.
    #[serde(default)]
    pub tokenless: bool,
}

/// A container with its tokens.
#[derive(Debug)]
pub(super) struct CloudState {
    settings: Cloud,
    /// The tokens and their ends, oldest first.
    tokens: Vec<(String, Instant)>,
    next: Instant,
    /// The reason why the file could not be written.
    problem: Option<String>,
}

impl Cloud {
    /// Returns a container with the usual times, and without a file.
    pub fn new(app_id: &str) -> Self {
        Self {
            app_id: app_id.to_owned(),
            token_file: None,
            token_interval: ten_minutes(),
            token_life: half_an_hour(),
            first_token_after: Duration::ZERO,
            tokenless: false,
        }
    }

    /// Checks the times. Fails with a text that states what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.token_interval.is_zero() {
            return Err("token_interval must not be zero".to_owned());
        }
        Ok(())
    }
}

impl CloudState {
    /// Writes the file. A reader never sees half a token.
    fn write(&mut self, content: &str) {
        let Some(file) = &self.settings.token_file else { return };
        self.problem =
            replace(file, content).err().map(|error| format!("{}: {error}", file.display()));
    }
}

fn replace(file: &Path, content: &str) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, content)?;
    fs::rename(&new, file)
}

/// Adds a container, or changes the settings of an existing one. It keeps its tokens.
pub(super) fn add(world: &mut World, settings: Cloud) -> Result<(), String> {
    settings.check()?;
    if !world.accounts.contains_key(&settings.app_id) {
        return Err(format!("there is no account {}", settings.app_id));
    }
    let app_id = settings.app_id.clone();
    let other = world
        .clouds
        .values()
        .any(|state| state.settings.tokenless && state.settings.app_id != app_id);
    if settings.tokenless && other {
        return Err("another container is tokenless already".to_owned());
    }
    let tokens = world.clouds.remove(&app_id).map_or(Vec::new(), |state| state.tokens);
    let next = world.now() + settings.first_token_after;
    let mut state = CloudState { settings, tokens, next, problem: None };
    state.write(PLACEHOLDER);
    world.clouds.insert(app_id.clone(), state);
    rotate_due(world);
    world.outbox.wake();
    problem(world, &app_id)
}

/// Makes the tokens that are due. However far the clock was advanced, that is one for each container.
pub(super) fn rotate_due(world: &mut World) {
    let now = world.now();
    let due = world.clouds.iter().filter(|(_, state)| state.next <= now);
    let due: Vec<_> = due.map(|(app_id, _)| app_id.clone()).collect();
    for app_id in due {
        // A file that cannot be written is in the list of containers.
        let _ = rotate(world, &app_id);
    }
}

/// Returns the moment at which the next token is due.
pub(super) fn next_due(world: &World) -> Option<Instant> {
    world.clouds.values().map(|state| state.next).min()
}

/// Makes a new token now. The earlier ones stay valid until their ends.
pub(super) fn rotate(world: &mut World, app_id: &str) -> Result<String, String> {
    let now = world.now();
    let token = world.mint.text("cloud_token", LENGTH);
    let state = find(world, app_id)?;
    // One that ended is kept for a while, because it is refused in another way than an unknown one.
    let kept = now.checked_sub(state.settings.token_life);
    state.tokens.retain(|(_, end)| kept.is_none_or(|kept| *end > kept));
    state.tokens.push((token.clone(), now + state.settings.token_life));
    state.next = now + state.settings.token_interval;
    state.write(&token);
    world.outbox.wake();
    problem(world, app_id).map(|()| token)
}

fn find<'a>(world: &'a mut World, app_id: &str) -> Result<&'a mut CloudState, String> {
    world.clouds.get_mut(app_id).ok_or(format!("{app_id} has no container"))
}

fn problem(world: &mut World, app_id: &str) -> Result<(), String> {
    find(world, app_id)?.problem.clone().map_or(Ok(()), Err)
}

/// Returns the account's latest token, if it has a container.
pub(super) fn token(world: &World, app_id: &str) -> Option<String> {
    world.clouds.get(app_id)?.tokens.last().map(|(token, _)| token.clone())
}

/// Returns the account for which a token was made, whether it still works or not.
pub(super) fn made_for<'a>(world: &'a World, query: &BTreeMap<String, String>) -> Option<&'a str> {
    let token = query.get("cloudbase_access_token")?;
    let has = |state: &&CloudState| state.tokens.iter().any(|(own, _)| own == token);
    world.clouds.values().find(has).map(|state| state.settings.app_id.as_str())
}

/// Returns the account of a call with a token of the cloud, or without any token. Returns `None` if the
/// call has another token, or must have one.
///
/// The documents name no errcode for an API that is not on the allow-list. Here it is 48001.
pub(super) fn identify(
    world: &World,
    endpoint: &Endpoint,
    query: &BTreeMap<String, String>,
) -> Result<Option<String>, Refusal> {
    let given = |name: &str| query.get(name).filter(|token| !token.is_empty());
    // “access_token和cloudbase_access_token二选一”: with both, the usual one counts, which is our choice.
    if endpoint.bearer == Bearer::Component || given("access_token").is_some() {
        return Ok(None);
    }
    let Some(token) = given("cloudbase_access_token") else {
        let tokenless = world.clouds.values().find(|state| state.settings.tokenless);
        let account = tokenless.filter(|_| endpoint.cloud);
        return Ok(account.map(|state| state.settings.app_id.clone()));
    };
    let mut tokens = world
        .clouds
        .values()
        .flat_map(|state| state.tokens.iter().map(|(own, end)| (&state.settings.app_id, own, end)));
    let (app_id, _, end) = tokens.find(|(_, own, _)| *own == token).ok_or(Refusal::new(40001))?;
    if world.now() >= *end {
        return Err(Refusal::new(42001));
    }
    if endpoint.cloud { Ok(Some(app_id.clone())) } else { Err(Refusal::new(48001)) }
}

/// Calls an API as Tencent's SDK does in the account's container.
fn call(world: &mut World, app_id: &str, api: &str, arguments: &Value) -> Result<Value, String> {
    let known = CALLS.iter().find(|(name, _)| *name == api);
    let (_, path) = known.ok_or(format!("there is no call {api}"))?;
    find(world, app_id)?;
    let token = token(world, app_id).ok_or("the container has no token yet")?;
    let arguments = arguments.as_object().ok_or("the arguments must be an object")?;
    let fields: Map<_, _> =
        arguments.iter().map(|(name, value)| (snake(name), value.clone())).collect();
    let outcome = world.receive(Incoming {
        method: Method::POST,
        path: (*path).to_owned(),
        query: [("cloudbase_access_token".to_owned(), token)].into(),
        bytes: Bytes::from(Value::Object(fields).to_string()),
        part: None,
    });
    if let Some(app_id) = outcome.turn {
        let now = world.now();
        if let Ok(tenant) = world.tenant(&app_id) {
            tenant.nearby.serial.leave(now);
        }
    }
    let answer: Value = serde_json::from_slice(&outcome.reply.body)
        .map_err(|error| format!("the reply is not JSON: {error}"))?;
    Ok(answered(api, &answer))
}

/// Returns an answer with the names of the SDK. The ids are texts there.
fn answered(api: &str, answer: &Value) -> Value {
    let errcode = answer["errcode"].as_i64().unwrap_or(0);
    let errmsg = answer["errmsg"].as_str().unwrap_or_default();
    // The form of this text is that of all calls of the SDK.
    let text = if errcode == 0 { format!("{api}:ok") } else { format!("{api}:fail {errmsg}") };
    let mut answered = json!({ "errCode": errcode, "errMsg": text });
    if let Some(data) = answer.get("data").and_then(Value::as_object) {
        let field = |(name, value): (&String, &Value)| {
            let id = name.ends_with("_id");
            let value =
                if id && value.is_number() { json!(value.to_string()) } else { value.clone() };
            (camel(name), value)
        };
        answered["data"] = data.iter().map(field).collect();
    }
    answered
}

/// Returns `pic_list` for `picList`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 2);
    for char in name.chars() {
        if char.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
    }
    snake
}

/// Returns `auditId` for `audit_id`.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        camel.extend([first.to_ascii_uppercase().as_str(), rest]);
    }
    camel
}

/// Checks the name of the file in a control request. The file is overwritten, and a page in a browser can send the
/// request, too.
fn check_name(cloud: &Cloud) -> Result<(), String> {
    match &cloud.token_file {
        Some(file) if file.file_name().is_none_or(|name| name != FILE_NAME) => {
            Err(format!("the name of token_file must be {FILE_NAME}"))
        }
        _ => Ok(()),
    }
}

/// Executes a control request whose path starts with `clouds`.
pub(super) fn control(
    world: &mut World,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Value, Problem> {
    let mut parts = path.split('/').skip(1);
    match (method, parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        ("GET", "", "") => Ok(clouds(world)),
        ("POST", "", "") => {
            let cloud: Cloud = parse(body)?;
            check_name(&cloud).map_err(Problem::bad)?;
            add(world, cloud).map_err(Problem::bad)?;
            Ok(json!({}))
        }
        ("POST", app_id, "token") if !app_id.is_empty() => {
            let token = rotate(world, app_id).map_err(Problem::conflict)?;
            Ok(json!({ "cloudbase_access_token": token }))
        }
        ("POST", app_id, "call") if !app_id.is_empty() => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct New {
                api: String,
                arguments: Value,
            }
            let New { api, arguments } = parse(body)?;
            call(world, app_id, &api, &arguments).map_err(Problem::conflict)
        }
        _ => Err(Problem::unknown(method, path)),
    }
}

fn clouds(world: &World) -> Value {
    let describe = |state: &CloudState| {
        json!({
            "app_id": state.settings.app_id,
            "token_file": state.settings.token_file,
            "tokenless": state.settings.tokenless,
            "tokens": state.tokens.len(),
            "problem": state.problem,
        })
    };
    json!({ "clouds": world.clouds.values().map(describe).collect::<Vec<_>>() })
}

impl Simulator {
    /// Adds a container in cloud hosting, or changes the settings of an existing one. Fails if its file
    /// cannot be written.
    pub fn add_cloud(&self, cloud: Cloud) -> Result<(), String> {
        add(&mut self.world(), cloud)
    }

    /// Makes a new token of the cloud now, writes it into the file, and returns it. The earlier ones stay
    /// valid until their ends.
    pub fn rotate_cloud_token(&self, app_id: &str) -> Result<String, String> {
        rotate(&mut self.world(), app_id)
    }

    /// Returns the latest token of the account's container. Before the first one there is none.
    pub fn cloud_token(&self, app_id: &str) -> Option<String> {
        token(&self.world(), app_id)
    }

    /// Calls an API such as `openapi.nearbyPoi.add` as Tencent's SDK does in the account's container, and
    /// returns the SDK's answer. The SDK throws an answer whose `errCode` is not 0.
    pub fn cloud_call(&self, app_id: &str, api: &str, arguments: &Value) -> Result<Value, String> {
        call(&mut self.world(), app_id, api, arguments)
    }
}

const fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

const fn half_an_hour() -> Duration {
    Duration::from_secs(1800)
}

/// A duration that is written in whole seconds.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use wechat_clock::Clock;

    use super::*;
    use crate::{COMPANY, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, Settings};

    const LIST: &str = "/wxa/getnearbypoilist";

    fn desk() -> Simulator {
        Simulator::new(Settings { clock: Clock::frozen(), ..Settings::default() })
    }

    fn post(simulator: &Simulator, path: &str, query: &[(&str, &str)], body: &Value) -> i64 {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let reply = simulator.world().receive(Incoming {
            method: Method::POST,
            path: path.to_owned(),
            query: query.iter().map(text).collect(),
            bytes: Bytes::from(body.to_string()),
            part: None,
        });
        let body: Value = serde_json::from_slice(&reply.reply.body).expect("JSON");
        body["errcode"].as_i64().unwrap_or(0)
    }

    fn list(simulator: &Simulator, query: &[(&str, &str)]) -> i64 {
        post(simulator, LIST, query, &json!({ "page": 1, "page_rows": 10 }))
    }

    fn wait(simulator: &Simulator, seconds: u64) {
        simulator.clock().advance(Duration::from_secs(seconds));
        rotate_due(&mut simulator.world());
    }

    #[test]
    fn cloud_token_works_half_an_hour() {
        let simulator = desk();
        let cloud =
            Cloud { first_token_after: Duration::from_secs(60), ..Cloud::new(MINI_PROGRAM_APP_ID) };
        simulator.add_cloud(cloud).expect("an account");
        assert_eq!(simulator.cloud_token(MINI_PROGRAM_APP_ID), None);
        wait(&simulator, 60);
        let first = simulator.cloud_token(MINI_PROGRAM_APP_ID).expect("a token");
        wait(&simulator, 599);
        assert_eq!(simulator.cloud_token(MINI_PROGRAM_APP_ID).as_ref(), Some(&first));
        wait(&simulator, 1);
        assert_ne!(simulator.cloud_token(MINI_PROGRAM_APP_ID).as_ref(), Some(&first));
        let ask = || list(&simulator, &[("cloudbase_access_token", &first)]);
        wait(&simulator, 1199);
        assert_eq!(ask(), 0);
        wait(&simulator, 1);
        assert_eq!(ask(), 42001);
        assert_eq!(list(&simulator, &[("cloudbase_access_token", PLACEHOLDER)]), 40001);
        assert_eq!(list(&simulator, &[("access_token", &first)]), 40001);
    }

    #[test]
    fn cloud_token_works_only_nearby() {
        let simulator = desk();
        simulator.add_cloud(Cloud::new(OFFICIAL_APP_ID)).expect("an account");
        simulator.add_cloud(Cloud::new(MINI_PROGRAM_APP_ID)).expect("an account");
        let token = |app_id: &str| simulator.cloud_token(app_id).expect("a token");
        let (official, mini_program) = (token(OFFICIAL_APP_ID), token(MINI_PROGRAM_APP_ID));
        let body = json!({ "offset": 0, "limit": 0 });
        let query = [("cloudbase_access_token", official.as_str())];
        assert_eq!(post(&simulator, "/wxa/get_store_list", &query, &body), 48001);
        assert_eq!(list(&simulator, &query), 40001, "an official account has no nearby places");
        assert_eq!(list(&simulator, &[("cloudbase_access_token", &mini_program)]), 0);
        let calls = simulator.calls(LIST);
        let owners: Vec<_> = calls.iter().map(|call| call.app_id.as_str()).collect();
        assert_eq!(owners, [OFFICIAL_APP_ID, MINI_PROGRAM_APP_ID]);
        assert!(calls.iter().all(|call| call.query["cloudbase_access_token"] == "[redacted]"));
    }

    #[test]
    fn call_without_token_works_if_set() {
        let simulator = desk();
        assert_eq!(list(&simulator, &[]), 41001);
        let cloud = Cloud { tokenless: true, ..Cloud::new(MINI_PROGRAM_APP_ID) };
        simulator.add_cloud(cloud).expect("an account");
        assert_eq!(list(&simulator, &[]), 0);
        assert_eq!(list(&simulator, &[("access_token", "wrong")]), 40001);
        let body = json!({ "offset": 0, "limit": 0 });
        assert_eq!(post(&simulator, "/wxa/get_store_list", &[], &body), 41001);
        let second = Cloud { tokenless: true, ..Cloud::new(OFFICIAL_APP_ID) };
        assert!(simulator.add_cloud(second).is_err());
    }

    #[test]
    fn file_has_placeholder_before_first_token() {
        let file = std::env::temp_dir().join(format!("cloud-token-{}", std::process::id()));
        let content = || fs::read_to_string(&file).expect("a file");
        let simulator = desk();
        let cloud = Cloud {
            token_file: Some(file.clone()),
            first_token_after: Duration::from_secs(60),
            ..Cloud::new(MINI_PROGRAM_APP_ID)
        };
        simulator.add_cloud(cloud.clone()).expect("written");
        assert_eq!(content(), PLACEHOLDER);
        wait(&simulator, 60);
        assert_eq!(Some(content()), simulator.cloud_token(MINI_PROGRAM_APP_ID));
        let next = simulator.rotate_cloud_token(MINI_PROGRAM_APP_ID).expect("written");
        assert_eq!(content(), next);
        fs::remove_file(&file).expect("there");

        let lost = Cloud { token_file: Some(file.join("none")), ..cloud };
        let problem = simulator.add_cloud(lost).expect_err("no folder");
        assert!(problem.contains("none"), "{problem}");
    }

    #[test]
    fn control_request_overwrites_no_other_file() {
        let simulator = desk();
        let file = std::env::temp_dir().join(format!("cloud-notes-{}", std::process::id()));
        for file in [file.clone(), "/".into(), "..".into()] {
            let cloud = json!({ "app_id": MINI_PROGRAM_APP_ID, "token_file": file });
            let refused = simulator.control("POST", "clouds", &cloud).expect_err("another name");
            assert!(format!("{refused:?}").contains(FILE_NAME), "{refused:?}");
        }
        assert!(!file.exists());
    }

    #[test]
    fn cloud_call_has_names_of_its_own() {
        let simulator = desk();
        simulator.add_cloud(Cloud::new(MINI_PROGRAM_APP_ID)).expect("an account");
        let service = json!({
            "id": 2, "type": 1, "name": "快递", "appid": MINI_PROGRAM_APP_ID, "path": "a",
        });
        let arguments = json!({
            "isCommNearby": "1", "storeName": "店", "contractPhone": "1", "hour": "10:00-22:00",
            "credential": "1", "address": "路", "mapPoiId": "2708071440732747189",
            "companyName": COMPANY, "poiId": "", "kfInfo": "", "qualificationList": "",
            "picList": json!({ "list": ["http://mmbiz.qpic.cn/a/0"] }).to_string(),
            "serviceInfos": json!({ "service_infos": [service] }).to_string(),
        });
        let call = |api: &str, arguments: &Value| {
            let answer = simulator.cloud_call(MINI_PROGRAM_APP_ID, api, arguments);
            answer.expect("a known call")
        };
        let added = call("openapi.nearbyPoi.add", &arguments);
        assert_eq!(
            (&added["errCode"], &added["errMsg"]),
            (&json!(0), &json!("openapi.nearbyPoi.add:ok"))
        );
        assert!(
            added["data"]["auditId"].is_string() && added["data"]["poiId"].is_string(),
            "{added}"
        );
        let again = call("openapi.nearbyPoi.add", &arguments);
        assert_eq!(again["errCode"], -1, "there is a pause");
        let text = again["errMsg"].as_str().expect("a text");
        assert!(text.starts_with("openapi.nearbyPoi.add:fail system error"), "{text}");
        let listed = call("openapi.nearbyPoi.getList", &json!({ "page": 1, "pageRows": 10 }));
        assert!(listed["data"]["data"].as_str().expect("a text").contains("poi_list"), "{listed}");
        let unknown = simulator.cloud_call(MINI_PROGRAM_APP_ID, "openapi.poi.add", &json!({}));
        assert!(unknown.is_err());
    }
}
