//! The whole life of a third-party platform, without sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Method};
use serde_json::{Value, json};
use wechat_clock::Clock;

use super::*;
use crate::{
    COMPONENT_AES_KEY, COMPONENT_APP_ID, COMPONENT_SECRET, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID,
    OFFICIAL_SECRET, Settings, audit,
    world::{Incoming, Reply},
};

const BASE: &str = "/cgi-bin/component";
const PAGE: &str = "/cgi-bin/componentloginpage";

/// A simulator with one component, on a clock that stands still.
struct Desk(Simulator);

impl Desk {
    fn new() -> Self {
        let mut component =
            Component::new(COMPONENT_APP_ID, COMPONENT_SECRET, "token", COMPONENT_AES_KEY);
        component.events_url = Some("http://127.0.0.1/events".to_owned());
        component.messages_url = Some("http://127.0.0.1/messages/$APPID$".to_owned());
        Self(Simulator::new(Settings {
            clock: Clock::frozen(),
            components: vec![component],
            ..Settings::default()
        }))
    }

    fn wait(&self, seconds: u64) {
        self.0.clock().advance(Duration::from_secs(seconds));
        push_due(&mut self.0.world());
    }

    fn ask(&self, method: Method, path: &str, query: &[(&str, &str)], body: &str) -> Reply {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let query: BTreeMap<_, _> = query.iter().map(text).collect();
        let (path, bytes) = (path.to_owned(), Bytes::from(body.to_owned()));
        self.0.world().receive(Incoming { method, path, query, bytes, part: None }).reply
    }

    fn post(&self, path: &str, token: &str, body: Value) -> Value {
        let reply = self.ask(Method::POST, path, &[("access_token", token)], &body.to_string());
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    /// Calls one of the component's endpoints. Its app id is added.
    fn component(&self, name: &str, token: &str, mut body: Value) -> Value {
        body["component_appid"] = json!(COMPONENT_APP_ID);
        self.post(&format!("{BASE}/{name}"), token, body)
    }

    /// Returns the value of this element in the latest event of this type.
    fn pushed(&self, info_type: &str, element: &str) -> String {
        let pushes = self.0.pushes();
        let push = pushes.iter().rev().find(|push| push.event == info_type).expect(info_type);
        let inside = push.message.split(&format!("<{element}>")).nth(1).expect(element);
        let inside = inside.split("</").next().expect("an end");
        inside.trim_start_matches("<![CDATA[").trim_end_matches("]]>").to_owned()
    }

    fn ticket(&self) -> String {
        self.0.push_ticket(COMPONENT_APP_ID, None).expect("an address");
        self.pushed("component_verify_ticket", "ComponentVerifyTicket")
    }

    fn ask_token(&self, app_id: &str, secret: &str, ticket: &str) -> Value {
        let body = json!({
            "component_appid": app_id, "component_appsecret": secret,
            "component_verify_ticket": ticket,
        });
        self.post(&format!("{BASE}/api_component_token"), "", body)
    }

    /// Returns a new token of the component.
    fn token(&self) -> String {
        let answer = self.ask_token(COMPONENT_APP_ID, COMPONENT_SECRET, &self.ticket());
        assert_eq!(answer["expires_in"], 7200);
        text(&answer, "component_access_token")
    }

    /// Returns the answer to an authorization code.
    fn query_auth(&self, token: &str, code: &str) -> Value {
        self.component("api_query_auth", token, json!({ "authorization_code": code }))
    }

    fn refresh(&self, token: &str, app_id: &str, refresh_token: &str) -> Value {
        let body = json!({ "authorizer_appid": app_id, "authorizer_refresh_token": refresh_token });
        self.component("api_authorizer_token", token, body)
    }

    /// Authorizes with these sets, and returns the merchant's access token and refresh token.
    fn authorized(&self, token: &str, app_id: &str, sets: &[u16]) -> (String, String) {
        let code = self.0.authorize(COMPONENT_APP_ID, app_id, sets).expect("an account");
        let info = self.query_auth(token, &code)["authorization_info"].take();
        (text(&info, "authorizer_access_token"), text(&info, "authorizer_refresh_token"))
    }

    fn search(&self, token: &str) -> Value {
        self.post("/wxa/search_map_poi", token, json!({ "districtid": 440105, "keyword": "店" }))
    }

    fn set(&self, settings: Value) {
        self.0.control("POST", "settings", &settings).expect("known");
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}")).to_owned()
}

fn code(value: &Value) -> i64 {
    value["errcode"].as_i64().unwrap_or(0)
}

#[test]
fn component_token_needs_secret_and_ticket() {
    let desk = Desk::new();
    let ticket = desk.ticket();
    let refused = |app_id, secret, ticket: &str| code(&desk.ask_token(app_id, secret, ticket));
    assert_eq!(refused("", COMPONENT_SECRET, &ticket), 41002);
    assert_eq!(refused(COMPONENT_APP_ID, "", &ticket), 41004);
    assert_eq!(refused(COMPONENT_APP_ID, "wrong", &ticket), 40125);
    assert_eq!(refused("wx9", COMPONENT_SECRET, &ticket), 40013);
    assert_eq!(refused(OFFICIAL_APP_ID, OFFICIAL_SECRET, &ticket), 61011);
    assert_eq!(refused(COMPONENT_APP_ID, COMPONENT_SECRET, "other"), 61006);
    desk.wait(12 * 3600 - 1);
    assert_eq!(refused(COMPONENT_APP_ID, COMPONENT_SECRET, &ticket), 0);
    desk.wait(1);
    assert_eq!(refused(COMPONENT_APP_ID, COMPONENT_SECRET, &ticket), 61005);
}

#[test]
fn replaced_component_token_works_five_more_minutes() {
    let desk = Desk::new();
    let (first, second) = (desk.token(), desk.token());
    let ask = |name: &str, token: &str| {
        let body = json!({ "component_appid": COMPONENT_APP_ID }).to_string();
        let path = format!("{BASE}/api_create_preauthcode");
        let reply = desk.ask(Method::POST, &path, &[(name, token)], &body);
        serde_json::from_slice::<Value>(&reply.body).expect("JSON")
    };
    for name in ["access_token", "component_access_token"] {
        assert_eq!(ask(name, &first)["expires_in"], 600, "{name}");
    }
    desk.wait(300);
    assert_eq!(code(&ask("access_token", &first)), 40001);
    let third = desk.0.take_component_token(COMPONENT_APP_ID, false).expect("known");
    assert_eq!(code(&ask("access_token", &second)), 40001);
    desk.0.take_component_token(COMPONENT_APP_ID, true).expect("known");
    assert_eq!(code(&ask("access_token", &third)), 42001);
    assert_eq!(code(&ask("token", &third)), 41001);
}

#[test]
fn each_token_works_only_for_its_apis() {
    let desk = Desk::new();
    let token = desk.token();
    assert_eq!(code(&desk.search(&token)), 61015);
    let (merchant, _) = desk.authorized(&token, OFFICIAL_APP_ID, &[13]);
    assert_eq!(code(&desk.component("api_create_preauthcode", &merchant, json!({}))), 61014);
    let other = json!({ "component_appid": OFFICIAL_APP_ID });
    assert_eq!(code(&desk.post(&format!("{BASE}/api_create_preauthcode"), &token, other)), 40013);
}

#[test]
fn tickets_come_until_they_are_paused() {
    let desk = Desk::new();
    let tickets = || desk.0.pushes().len();
    desk.wait(0);
    assert_eq!(tickets(), 1);
    desk.wait(599);
    assert_eq!(tickets(), 1);
    desk.wait(1);
    assert_eq!(tickets(), 2);
    let messages: Vec<_> = desk.0.pushes().into_iter().map(|push| push.message).collect();
    assert_ne!(messages[0], messages[1]);
    let start = |secret: &str| {
        let body = json!({ "component_appid": COMPONENT_APP_ID, "component_secret": secret });
        desk.post(&format!("{BASE}/api_start_push_ticket"), "", body)
    };
    assert_eq!(code(&start("wrong")), 40125);
    assert!(text(&start(COMPONENT_SECRET), "errmsg").contains("normal state"));

    desk.0.set_ticket_pushing(COMPONENT_APP_ID, false).expect("known");
    desk.wait(3600);
    assert_eq!(tickets(), 2);
    assert_eq!(start(COMPONENT_SECRET), json!({ "errcode": 0, "errmsg": "ok" }));
    desk.wait(0);
    assert_eq!(tickets(), 3);
    desk.0.push_ticket(COMPONENT_APP_ID, Some(1413192605)).expect("known");
    assert_eq!(desk.pushed("component_verify_ticket", "CreateTime"), "1413192605");
}

#[test]
fn authorization_code_works_once() {
    let desk = Desk::new();
    let token = desk.token();
    let given = desk.0.authorize(COMPONENT_APP_ID, OFFICIAL_APP_ID, &[13, 8]).expect("known");
    assert_eq!(desk.pushed("authorized", "AuthorizationCode"), given);
    assert_eq!(desk.pushed("authorized", "AuthorizerAppid"), OFFICIAL_APP_ID);
    let end = (desk.0.clock().unix() + 600).to_string();
    assert_eq!(desk.pushed("authorized", "AuthorizationCodeExpiredTime"), end);
    let info = desk.query_auth(&token, &given)["authorization_info"].take();
    assert_eq!(info["authorizer_appid"], OFFICIAL_APP_ID);
    let sets = [13, 8].map(|id| json!({ "funcscope_category": { "id": id } }));
    assert_eq!(info["func_info"], json!(sets));
    assert_eq!(code(&desk.search(&text(&info, "authorizer_access_token"))), 0);
    assert_eq!(code(&desk.query_auth(&token, &given)), 61009);

    let late = desk.0.authorize(COMPONENT_APP_ID, OFFICIAL_APP_ID, &[13]).expect("known");
    assert_eq!(desk.pushed("updateauthorized", "AuthorizationCode"), late);
    desk.wait(600);
    assert_eq!(code(&desk.query_auth(&token, &late)), 61010);
}

#[test]
fn account_without_apis_has_no_tokens() {
    let desk = Desk::new();
    let token = desk.token();
    let given = desk.0.authorize(COMPONENT_APP_ID, OFFICIAL_APP_ID, &[13]).expect("known");
    desk.0.set_api(COMPONENT_APP_ID, OFFICIAL_APP_ID, false).expect("authorized");
    let info = desk.query_auth(&token, &given)["authorization_info"].take();
    let names: Vec<_> = info.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["authorizer_appid", "func_info"]);
}

#[test]
fn refresh_tokens_stay_or_rotate_as_set() {
    let desk = Desk::new();
    let token = desk.token();
    let (_, first) = desk.authorized(&token, OFFICIAL_APP_ID, &[13]);
    let refresh = |old: &str| desk.refresh(&token, OFFICIAL_APP_ID, old);
    assert_eq!(text(&refresh(&first), "authorizer_refresh_token"), first);
    desk.set(json!({ "rotate_refresh_tokens": true }));
    let second = text(&refresh(&first), "authorizer_refresh_token");
    assert_ne!(first, second);
    desk.wait(299);
    assert_eq!(code(&refresh(&first)), 0);
    desk.wait(300);
    assert_eq!(code(&refresh(&first)), 61023);
    assert_eq!(code(&desk.refresh(&token, MINI_PROGRAM_APP_ID, &first)), 61003);
}

#[test]
fn lost_refresh_token_is_in_the_list() {
    let desk = Desk::new();
    let token = desk.token();
    let (_, lost) = desk.authorized(&token, OFFICIAL_APP_ID, &[13]);
    desk.0.lose_refresh_tokens(COMPONENT_APP_ID).expect("known");
    assert_eq!(code(&desk.refresh(&token, OFFICIAL_APP_ID, &lost)), 61023);
    let list =
        desk.component("api_get_authorizer_list", &token, json!({ "offset": 0, "count": 500 }));
    let found = text(&list["list"][0], "refresh_token");
    assert_eq!(code(&desk.refresh(&token, OFFICIAL_APP_ID, &found)), 0);
}

#[test]
fn empty_refresh_token_shows_in_journal() {
    let desk = Desk::new();
    let token = desk.token();
    let (_, refresh_token) = desk.authorized(&token, OFFICIAL_APP_ID, &[13]);
    desk.0.take_calls();
    assert_eq!(code(&desk.refresh(&token, OFFICIAL_APP_ID, "")), 61023);
    assert_eq!(code(&desk.refresh(&token, OFFICIAL_APP_ID, &refresh_token)), 0);
    let calls = desk.0.calls(&format!("{BASE}/api_authorizer_token"));
    let sent: Vec<_> = calls.iter().map(|call| &call.body["authorizer_refresh_token"]).collect();
    assert_eq!(sent, [&json!(""), &json!("[redacted]")]);
    assert!(calls.iter().all(|call| call.app_id == OFFICIAL_APP_ID));
}

#[test]
fn merchant_grants_some_apis() {
    let desk = Desk::new();
    let token = desk.token();
    let (merchant, refresh_token) = desk.authorized(&token, OFFICIAL_APP_ID, &[37]);
    assert_eq!(code(&desk.search(&merchant)), 0);
    let list = |token: &str| {
        code(&desk.post("/wxa/get_store_list", token, json!({ "offset": 0, "limit": 0 })))
    };
    assert_eq!(list(&merchant), 61007);
    assert_eq!(code(&desk.post("/wxa/apply_merchant", &merchant, json!({}))), 48001);
    desk.0.set_permission_sets(COMPONENT_APP_ID, OFFICIAL_APP_ID, &[13]).expect("authorized");
    assert_eq!(list(&merchant), 0);

    desk.0.unauthorize(COMPONENT_APP_ID, OFFICIAL_APP_ID).expect("authorized");
    assert_eq!(desk.pushed("unauthorized", "AuthorizerAppid"), OFFICIAL_APP_ID);
    assert_eq!(list(&merchant), 61003);
    desk.set(json!({ "unauthorized_errcode": 40001 }));
    assert_eq!(list(&merchant), 40001);
    assert_eq!(code(&desk.refresh(&token, OFFICIAL_APP_ID, &refresh_token)), 61003);

    desk.set(json!({ "unauthorized_errcode": 61003 }));
    let (again, new) = desk.authorized(&token, OFFICIAL_APP_ID, &[13]);
    assert_eq!((list(&merchant), list(&again)), (40001, 0));
    assert_ne!(refresh_token, new);
}

#[test]
fn list_names_every_merchant_page_by_page() {
    const MERCHANTS: usize = 20_000;
    let desk = Desk::new();
    let token = desk.token();
    let merchant = |number| Authorizer {
        app_id: format!("wx{number:016x}"),
        kind: AccountKind::Official,
        permission_sets: vec![13],
    };
    let merchants = (0x1000..0x1000 + MERCHANTS).map(merchant);
    desk.0.add_authorizers(COMPONENT_APP_ID, merchants).expect("known");
    assert!(desk.0.pushes().iter().all(|push| push.event == "component_verify_ticket"));
    let page = |offset: usize, count: usize| {
        let body = json!({ "offset": offset, "count": count });
        desk.component("api_get_authorizer_list", &token, body)
    };
    for count in [0, 501] {
        assert_eq!(code(&page(0, count)), 40170, "{count}");
    }
    let mut seen = BTreeSet::new();
    for offset in (0..MERCHANTS).step_by(500) {
        let page = page(offset, 500);
        assert_eq!(page["total_count"], MERCHANTS);
        let rows = page["list"].as_array().expect("rows");
        seen.extend(rows.iter().map(|row| text(row, "authorizer_appid")));
    }
    assert_eq!(seen.len(), MERCHANTS);
    assert_eq!(page(MERCHANTS, 500)["list"], json!([]));
}

#[test]
fn list_has_refresh_token_after_first_query() {
    let desk = Desk::new();
    let token = desk.token();
    let given = desk.0.authorize(COMPONENT_APP_ID, MINI_PROGRAM_APP_ID, &[37]).expect("known");
    let row = || {
        let body = json!({ "offset": 0, "count": 1 });
        desk.component("api_get_authorizer_list", &token, body)["list"][0].take()
    };
    assert_eq!(row().get("refresh_token"), None);
    desk.query_auth(&token, &given);
    let body = json!({ "authorizer_appid": MINI_PROGRAM_APP_ID });
    let info = desk.component("api_get_authorizer_info", &token, body);
    let granted = &info["authorization_info"];
    assert_eq!(granted["authorizer_refresh_token"], row()["refresh_token"]);
    assert_eq!(granted["func_info"][0]["funcscope_category"]["id"], 37);
    assert!(info["authorizer_info"]["MiniProgramInfo"].is_object());
}

/// Asks for the page with a new pre_auth_code.
fn link(desk: &Desk, token: &str, redirect_uri: &str) -> Vec<(&'static str, String)> {
    let made = desk.component("api_create_preauthcode", token, json!({}));
    vec![
        ("component_appid", COMPONENT_APP_ID.to_owned()),
        ("pre_auth_code", text(&made, "pre_auth_code")),
        ("redirect_uri", redirect_uri.to_owned()),
    ]
}

fn open(desk: &Desk, link: &[(&str, String)]) -> Reply {
    let query: Vec<_> = link.iter().map(|(name, value)| (*name, value.as_str())).collect();
    desk.ask(Method::GET, PAGE, &query, "")
}

fn confirm(desk: &Desk, link: &[(&str, String)], app_id: &str, sets: &[&str]) -> Reply {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(link).append_pair("app_id", app_id);
    form.extend_pairs(sets.iter().map(|id| ("permission_set", id)));
    desk.ask(Method::POST, PAGE, &[], &form.finish())
}

#[test]
fn confirmed_page_returns_to_the_platform() {
    let desk = Desk::new();
    let token = desk.token();
    let link = link(&desk, &token, "https://platform.example/back?tenant=1");
    let page = open(&desk, &link);
    assert_eq!((page.status.as_u16(), page.content_type), (200, "text/html; charset=utf-8"));
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(text.contains(OFFICIAL_APP_ID) && text.contains("value=\"37\""), "{text}");

    let reply = confirm(&desk, &link, OFFICIAL_APP_ID, &["13", "8"]);
    let (name, to) = reply.header.expect("a header");
    assert_eq!((reply.status.as_u16(), name), (302, HeaderName::from_static("location")));
    let (start, query) = to.split_once("&auth_code=").expect("a code");
    assert_eq!(start, "https://platform.example/back?tenant=1");
    assert!(query.ends_with("&expires_in=600"), "{query}");
    assert_eq!(desk.pushed("authorized", "PreAuthCode"), link[1].1);
    let code = desk.pushed("authorized", "AuthorizationCode");
    let info = desk.query_auth(&token, &code)["authorization_info"].take();
    assert_eq!(info["func_info"].as_array().map(Vec::len), Some(2));
    assert_eq!(open(&desk, &link).status, 400, "the code was used");
}

#[test]
fn page_refuses_what_the_link_excludes() {
    let desk = Desk::new();
    let token = desk.token();
    let mut link = link(&desk, &token, "http://127.0.0.1/back");
    link.push(("auth_type", "2".to_owned()));
    assert_eq!(confirm(&desk, &link, OFFICIAL_APP_ID, &["37"]).status, 400);
    assert_eq!(confirm(&desk, &link, MINI_PROGRAM_APP_ID, &[]).status, 400);
    assert_eq!(confirm(&desk, &link, MINI_PROGRAM_APP_ID, &["2"]).status, 400);
    desk.wait(599);
    assert_eq!(open(&desk, &link).status, 200);
    desk.wait(1);
    assert_eq!(confirm(&desk, &link, MINI_PROGRAM_APP_ID, &["37"]).status, 400);
    let pushes = desk.0.pushes();
    assert!(pushes.iter().all(|push| push.event == "component_verify_ticket"), "{pushes:?}");
}

#[test]
fn hostile_text_stays_text_on_page() {
    let desk = Desk::new();
    let token = desk.token();
    let hostile = "\"><script>alert('&')</script>";
    for field in ["component_appid", "pre_auth_code", "redirect_uri", "biz_appid"] {
        let mut link = link(&desk, &token, "http://127.0.0.1/back");
        link.retain(|(name, _)| *name != field);
        link.push((field, hostile.to_owned()));
        let page = open(&desk, &link);
        let text = String::from_utf8_lossy(&page.body).into_owned();
        assert!(!text.contains("<script"), "{text}");
        assert_eq!(page.status, if field == "biz_appid" { 200 } else { 400 }, "{field}");
    }
    let mut link = link(&desk, &token, "http://127.0.0.1/'back");
    link.push(("biz_appid", hostile.to_owned()));
    let page = open(&desk, &link);
    let text = String::from_utf8_lossy(&page.body).into_owned();
    let shown = "&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;";
    assert!(text.contains(shown) && text.contains("1/&#39;back"), "{text}");
    link[2].1 = "javascript:alert(1)".to_owned();
    assert_eq!(open(&desk, &link).status, 400);
}

#[test]
fn event_goes_to_the_acting_component() {
    let desk = Desk::new();
    let token = desk.token();
    let (merchant, _) = desk.authorized(&token, OFFICIAL_APP_ID, &[13]);
    let own = crate::Callback {
        url: "http://127.0.0.1/own".to_owned(),
        token: "token".to_owned(),
        encoding_aes_key: String::new(),
        mode: Mode::Plain,
        format: Format::Json,
    };
    desk.0.set_callback(OFFICIAL_APP_ID, own).expect("good");
    let query = [
        ("grant_type", "client_credential"),
        ("appid", OFFICIAL_APP_ID),
        ("secret", OFFICIAL_SECRET),
    ];
    let reply = desk.ask(Method::GET, "/cgi-bin/token", &query, "");
    let own: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let place = |token: &str| {
        let body = json!({
            "name": "a", "longitude": "113.32", "latitude": "23.09", "province": "广东省",
            "city": "广州市", "district": "海珠区", "address": "TIT", "category": "美食:中餐厅",
            "telephone": "1", "photo": "http://mmbiz.qpic.cn/a/0",
            "license": "http://mmbiz.qpic.cn/a/0", "introduct": "b", "districtid": "440105",
        });
        let made = desk.post("/wxa/create_map_poi", token, body);
        let base_id = made["data"]["base_id"].as_u64().expect("an id");
        desk.0.decide(base_id, audit::Decision::Reject, "blurred").expect("open");
        desk.0.pushes().pop().expect("a push")
    };
    let push = place(&merchant);
    assert_eq!(push.component.as_deref(), Some(COMPONENT_APP_ID));
    assert_eq!(push.app_id, OFFICIAL_APP_ID);
    assert!(push.message.starts_with("<xml>"), "{}", push.message);
    let push = place(&text(&own, "access_token"));
    assert_eq!(push.component, None);
    assert!(push.message.starts_with('{'), "{}", push.message);
}

#[test]
fn controls_reach_every_function() {
    let desk = Desk::new();
    let control = |method: &str, rest: &str, body: Value| {
        desk.0.control(method, &format!("components/{COMPONENT_APP_ID}/{rest}"), &body)
    };
    let post = |rest: &str, body: Value| control("POST", rest, body).expect(rest);
    let merchants = json!({ "count": 2, "kind": "official", "permission_sets": [13] });
    let merchant = post("authorizers", merchants)["app_ids"][1].take();
    post("permissions", json!({ "app_id": merchant, "permission_sets": [8], "api": false }));
    let listed = control("GET", "authorizers", json!(null)).expect("known");
    let expected = json!({ "app_id": merchant, "permission_sets": [8], "api": false });
    assert_eq!(listed["authorizers"][1], expected);
    post("unauthorize", json!({ "app_id": merchant, "push": false }));
    assert!(desk.0.pushes().is_empty());
    let given = post("authorize", json!({ "app_id": merchant, "permission_sets": [13] }));
    assert_eq!(desk.pushed("authorized", "AuthorizationCode"), text(&given, "authorization_code"));

    post("tickets", json!({ "pushing": false }));
    let id = post("tickets", json!({ "create_time": 5 }))["id"].take();
    assert_eq!(desk.pushed("component_verify_ticket", "CreateTime"), "5");
    let again = desk.0.control("POST", &format!("pushes/{id}/redeliver"), &json!({}));
    let pushes = desk.0.pushes();
    let (first, second) = (&pushes[pushes.len() - 2], &pushes[pushes.len() - 1]);
    assert_eq!((&first.message, again), (&second.message, Ok(json!({ "id": second.id }))));

    let token = text(&post("token", json!({})), "component_access_token");
    let body = json!({ "authorizer_appid": merchant });
    assert_eq!(code(&desk.component("api_get_authorizer_info", &token, body)), 0);
    control("DELETE", "refresh_tokens", json!(null)).expect("known");
    let known = desk.0.control("GET", "components", &json!(null)).expect("known");
    let known = &known["components"][0];
    assert_eq!((&known["authorizers"], &known["pushing"]), (&json!(2), &json!(false)));
    assert!(control("POST", "tickets", json!({ "pushed": true })).is_err());
    assert!(desk.0.control("POST", "components/wx9/tickets", &json!({})).is_err());
}
