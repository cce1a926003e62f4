//! Third-party platforms: tickets, authorizations, and calls for the accounts that authorized one.

use std::{future::Future, time::Duration};

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{
    AccountKind, Authorizer, Component, Fault, MINI_PROGRAM_APP_ID, faults::Kind, push::State,
};
use wechat_store_gateway::pb;

use crate::{
    servers::RedisServer,
    support::{App, is, nearby_profile, new_store, reason, within},
};

pub(crate) const PLATFORM: &str = "wx00000000000000c1";
pub(crate) const OTHER_PLATFORM: &str = "wx00000000000000c2";
const SECRET: &str = "the secret of the platform";
const TOKEN: &str = "PLATFORMTOKEN";
pub(crate) const AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
pub(crate) const OTHER_AES_KEY: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefg";
pub(crate) const MERCHANT: &str = "wx00000000000000d1";
pub(crate) const SECOND_MERCHANT: &str = "wx00000000000000d2";

const COMPONENT_TOKEN: &str = "/cgi-bin/component/api_component_token";
const AUTHORIZER_TOKEN: &str = "/cgi-bin/component/api_authorizer_token";
pub(crate) const AUTHORIZER_INFO: &str = "/cgi-bin/component/api_get_authorizer_info";
pub(crate) const AUTHORIZER_LIST: &str = "/cgi-bin/component/api_get_authorizer_list";
const QUERY_AUTH: &str = "/cgi-bin/component/api_query_auth";
const START_PUSH: &str = "/cgi-bin/component/api_start_push_ticket";
const ADD_NEARBY: &str = "/wxa/addnearbypoi";
const LIST_NEARBY: &str = "/wxa/getnearbypoilist";
const LONG: Duration = Duration::from_secs(30);
/// Stores of mini programs, and nearby places.
pub(crate) const ALL_SETS: &[u16] = &[8, 9, 10, 13, 18, 30, 37];

pub(crate) fn section(app_id: &str, key: &str) -> String {
    format!(
        "[[platforms]]\napp_id = \"{app_id}\"\nsecret = \"{SECRET}\"\ntoken = \"{TOKEN}\"\n\
         aes_key = \"{key}\"\n"
    )
}

/// Adds a platform at WeChat that pushes to the gateway.
pub(crate) fn connect(app: &App, app_id: &str, key: &str) {
    let base = format!("http://{}/wechat/platform/{app_id}", app.callback);
    let component = Component {
        events_url: Some(format!("{base}/events")),
        messages_url: Some(format!("{base}/messages/$APPID$")),
        ..Component::new(app_id, SECRET, TOKEN, key)
    };
    app.wechat.add_component(component).expect("a good component");
}

/// Adds an account at WeChat that the gateway does not have.
pub(crate) fn add_account(app: &App, app_id: &str) {
    let account = json!({ "app_id": app_id, "secret": "unknown to all", "kind": "mini_program" });
    app.wechat.control("POST", "accounts", &account).expect("a new account");
}

/// Starts a gateway with one platform, and waits for its first ticket.
pub(crate) async fn start() -> App {
    ready(App::with_sections(&section(PLATFORM, AES_KEY)).await).await
}

/// Connects the platform of a gateway, and waits for its first ticket.
pub(crate) async fn ready(app: App) -> App {
    connect(&app, PLATFORM, AES_KEY);
    has_ticket(&app).await;
    add_account(&app, MERCHANT);
    app
}

/// Waits until the gateway confirmed a ticket.
pub(crate) async fn has_ticket(app: &App) {
    until(|| async { confirmed(app, "component_verify_ticket") > 0 }).await;
}

/// Returns the number of confirmed pushes with a name.
fn confirmed(app: &App, name: &str) -> usize {
    let pushes = app.wechat.pushes();
    pushes.iter().filter(|push| push.event == name && push.state == State::Delivered).count()
}

/// Returns the number of the first push with a name.
fn number(app: &App, name: &str) -> u64 {
    let pushes = app.wechat.pushes();
    pushes.iter().find(|push| push.event == name).expect("pushed").id
}

fn busy() -> Kind {
    Kind::Errcode { errcode: -1, errmsg: None }
}

/// Waits for a condition.
pub(crate) async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, wait).await;
}

async fn list_nearby(app: &App, app_id: &str) -> Result<pb::ListNearbyPoisResponse, Status> {
    let request = pb::ListNearbyPoisRequest { app_id: app_id.to_owned(), ..Default::default() };
    app.nearby().list_nearby_pois(request).await.map(tonic::Response::into_inner)
}

/// Waits until a call for the account is no longer refused because the gateway does not know it.
async fn is_served(app: &App, app_id: &str) {
    until(|| async { list_nearby(app, app_id).await.is_ok() }).await;
}

pub(crate) async fn authorized(app: &App, sets: &[u16]) {
    app.wechat.authorize(PLATFORM, MERCHANT, sets).expect("authorized");
    is_served(app, MERCHANT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merchant_is_served_from_authorization_to_withdrawal() {
    let app = start().await;
    let status = list_nearby(&app, MERCHANT)
        .await
        .expect_err("the merchant has not authorized the platform");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));
    authorized(&app, ALL_SETS).await;

    let profile = nearby_profile("2708071440732747189");
    let request = pb::AddNearbyPoiRequest {
        app_id: MERCHANT.to_owned(),
        profile: Some(profile),
        ..Default::default()
    };
    let added = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    let submission = added.submission.expect("a submission");
    assert_eq!(submission.app_id, MERCHANT);
    // Sealed with the key of the platform, to its address for messages.
    app.approve(&submission);
    let event = until_event(&app, |event| event.submission_id == submission.submission_id).await;
    assert_eq!((&*event.app_id, event.state()), (MERCHANT, pb::AuditState::Approved));

    // The merchant takes the permission for nearby places back.
    app.wechat.authorize(PLATFORM, MERCHANT, &[8, 9]).expect("changed");
    until(|| async { list_nearby(&app, MERCHANT).await.is_err() }).await;
    let status = list_nearby(&app, MERCHANT).await.expect_err("not granted");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "API_NOT_PERMITTED"));
    assert_eq!(status.get_details_error_info().expect("details").metadata["fix_by"], "merchant");
    // WeChat refuses it with 61007, until the gateway itself has the change and does.
    let names_sets = |status: &Status| {
        let info = status.get_details_error_info().expect("details");
        info.metadata.get("permission_sets").is_some_and(|sets| sets == "37")
    };
    until(|| async { list_nearby(&app, MERCHANT).await.is_err_and(|status| names_sets(&status)) })
        .await;
    let calls = app.count(LIST_NEARBY);
    let status = list_nearby(&app, MERCHANT).await.expect_err("still not granted");
    assert!(names_sets(&status), "{status}");
    assert_eq!(app.count(LIST_NEARBY), calls, "WeChat was not asked");

    app.wechat.unauthorize(PLATFORM, MERCHANT).expect("withdrawn");
    until(|| async {
        let status = list_nearby(&app, MERCHANT).await.expect_err("refused");
        reason(&status) == is(Code::FailedPrecondition, "AUTHORIZATION_LOST")
    })
    .await;
    let names = [("authorized", 1), ("updateauthorized", 1), ("unauthorized", 1)];
    for (name, count) in names {
        let event = until_event(&app, |event| event.wechat_event == name).await;
        assert_eq!(event.app_id, MERCHANT);
        assert!(event.wechat_message.is_empty(), "the message has a secret code");
        assert_eq!(confirmed(&app, name), count, "{name}");
    }
}

/// Waits for an event in the log.
async fn until_event(app: &App, is_it: impl Fn(&pb::AuditEvent) -> bool) -> pb::AuditEvent {
    let search = async {
        loop {
            let request = pb::ListAuditEventsRequest { page_size: 1000, ..Default::default() };
            let listed = app.audits().list_audit_events(request).await.expect("a page");
            let found = listed.into_inner().events.into_iter().find(|event| is_it(event));
            match found {
                Some(event) => return event,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    within(LONG, search).await
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_ticket_survives_restart() {
    let app = start().await;
    app.wechat.set_ticket_pushing(PLATFORM, false).expect("paused");
    authorized(&app, ALL_SETS).await;
    let app = app.restart().await;
    connect(&app, PLATFORM, AES_KEY);
    app.wechat.set_ticket_pushing(PLATFORM, false).expect("paused");
    let tickets = confirmed(&app, "component_verify_ticket");
    // Both tokens are in the state. A refused one needs the ticket again.
    app.wechat.take_component_token(PLATFORM, true).expect("taken");
    app.clock.advance(Duration::from_secs(7_201));
    list_nearby(&app, MERCHANT).await.expect("served with the stored ticket");
    assert_eq!(confirmed(&app, "component_verify_ticket"), tickets, "no new one came");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_of_tickets_is_survived_for_twelve_hours() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    app.wechat.set_ticket_pushing(PLATFORM, false).expect("paused");
    app.clock.advance(Duration::from_secs(11 * 3600));
    list_nearby(&app, MERCHANT).await.expect("the ticket is good for 12 hours");
    assert_eq!(app.count(START_PUSH), 0);
    app.clock.advance(Duration::from_secs(3 * 3600));
    let status = list_nearby(&app, MERCHANT).await;
    if let Err(status) = status {
        assert_eq!(reason(&status), is(Code::Unavailable, "COMPONENT_TICKET_INVALID"));
    }
    // The gateway asked WeChat to push again.
    until(|| async { app.count(START_PUSH) == 1 }).await;
    is_served(&app, MERCHANT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_alone_refreshes_nothing() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    let before = (app.count(COMPONENT_TOKEN), app.count(AUTHORIZER_TOKEN));
    for _ in 0..3 {
        app.wechat.push_ticket(PLATFORM, None).expect("pushed");
    }
    until(|| async { confirmed(&app, "component_verify_ticket") >= 4 }).await;
    list_nearby(&app, MERCHANT).await.expect("served");
    assert_eq!((app.count(COMPONENT_TOKEN), app.count(AUTHORIZER_TOKEN)), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_ticket_does_not_replace_newer_one() {
    let app = start().await;
    let hour_ago = app.clock.unix() - 3600;
    app.wechat.push_ticket(PLATFORM, Some(hour_ago)).expect("pushed");
    until(|| async { confirmed(&app, "component_verify_ticket") >= 2 }).await;
    let stored: u64 = app
        .open_state()
        .query_row("SELECT sent_at FROM tickets", [], |row| row.get(0))
        .expect("one ticket");
    assert!(stored > hour_ago, "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_on_one_address_do_not_mix() {
    let sections = section(PLATFORM, AES_KEY) + &section(OTHER_PLATFORM, OTHER_AES_KEY);
    let app = App::with_sections(&sections).await;
    connect(&app, PLATFORM, AES_KEY);
    has_ticket(&app).await;
    // The operator entered the address of the first platform for the second one, too.
    let base = format!("http://{}/wechat/platform/{PLATFORM}", app.callback);
    let component = Component {
        events_url: Some(format!("{base}/events")),
        ..Component::new(OTHER_PLATFORM, SECRET, TOKEN, OTHER_AES_KEY)
    };
    app.wechat.add_component(component).expect("a good component");
    let foreign = || app.wechat.pushes().into_iter().filter(|push| push.app_id == OTHER_PLATFORM);
    until(|| async { foreign().any(|push| !push.attempts.is_empty()) }).await;
    assert!(
        foreign().all(|push| push.state != State::Delivered),
        "the ticket is not for this platform"
    );
    add_account(&app, MERCHANT);
    authorized(&app, ALL_SETS).await;
    let stored: Vec<String> = {
        let state = app.open_state();
        let mut rows = state.prepare("SELECT platform FROM tickets").expect("a table");
        let rows = rows.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("texts")
    };
    assert_eq!(stored, [PLATFORM]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivered_and_reordered_events_change_nothing() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    let authorized_push = number(&app, "authorized");
    app.clock.advance(Duration::from_secs(2));
    app.wechat.unauthorize(PLATFORM, MERCHANT).expect("withdrawn");
    until(|| async { confirmed(&app, "unauthorized") == 1 }).await;
    // The authorization comes once more, after the withdrawal.
    app.wechat.redeliver(authorized_push).expect("sent again");
    until(|| async { confirmed(&app, "authorized") == 2 }).await;
    let status = list_nearby(&app, MERCHANT).await.expect_err("withdrawn");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "AUTHORIZATION_LOST"));
    // A new authorization is newer than both.
    app.clock.advance(Duration::from_secs(2));
    authorized(&app, ALL_SETS).await;
    app.wechat.redeliver(number(&app, "unauthorized")).expect("sent again");
    until(|| async { confirmed(&app, "unauthorized") == 2 }).await;
    list_nearby(&app, MERCHANT).await.expect("the newest authorization counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_refresh_token_is_recovered_from_wechat() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    app.wechat.lose_refresh_tokens(PLATFORM).expect("lost");
    app.clock.advance(Duration::from_secs(7_201));
    list_nearby(&app, MERCHANT).await.expect("recovered");
    let refused = app.wechat.calls(AUTHORIZER_TOKEN);
    assert!(refused.iter().any(|call| call.errcode == Some(61023)), "the old one was refused");
    assert!(app.count(AUTHORIZER_INFO) + app.count(AUTHORIZER_LIST) > 0);
}

/// The refresh token comes only for the code, which is good for one use. The process may end before it was used.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_authorization_is_finished_after_restart() {
    let app = start().await;
    app.fault(QUERY_AUTH, busy());
    app.fault(AUTHORIZER_INFO, busy());
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized");
    until(|| async { confirmed(&app, "authorized") == 1 && app.count(QUERY_AUTH) > 0 }).await;
    let app = app.restart().await;
    app.wechat.control("DELETE", "faults", &Value::Null).expect("no faults");
    list_nearby(&app, MERCHANT).await.expect("the stored code gave the refresh token");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_exchange_keeps_working_refresh_token() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    for path in [QUERY_AUTH, AUTHORIZER_INFO, AUTHORIZER_LIST] {
        app.fault(path, busy());
    }
    app.clock.advance(Duration::from_secs(7_201));
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized again");
    until(|| async { confirmed(&app, "updateauthorized") == 1 }).await;
    list_nearby(&app, MERCHANT).await.expect("the refresh token of before works");
}

/// WeChat refuses the refresh token of before, because the merchant withdrew the authorization, of which the push
/// was lost.
#[tokio::test(flavor = "multi_thread")]
async fn new_authorization_wins_over_old_refresh_token() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    let silent = json!({ "app_id": MERCHANT, "push": false });
    let path = format!("components/{PLATFORM}/unauthorize");
    app.wechat.control("POST", &path, &silent).expect("withdrawn");
    app.clock.advance(Duration::from_secs(7_201));
    // The exchange in the background fails, and that of the call does not.
    app.wechat.fault(Fault::new(QUERY_AUTH, busy()).times(3));
    app.fault(AUTHORIZER_INFO, busy());
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized again");
    until(|| async { app.count(QUERY_AUTH) == 4 }).await;
    list_nearby(&app, MERCHANT).await.expect("the code gave another one");
}

/// The question about the refresh token fails before anything is sent for the token itself.
#[tokio::test(flavor = "multi_thread")]
async fn failed_recovery_ends_the_fetch() {
    let app = start().await;
    app.fault(QUERY_AUTH, Kind::Errcode { errcode: 61009, errmsg: None });
    app.fault(AUTHORIZER_INFO, busy());
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized");
    until(|| async { app.count(AUTHORIZER_INFO) == 3 }).await;
    let status = list_nearby(&app, MERCHANT).await.expect_err("there is no refresh token");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let asked = app.count(AUTHORIZER_INFO);
    assert!(asked <= 9, "{asked} questions: about the account, again, and about its refresh token");
    assert_eq!(app.count(AUTHORIZER_TOKEN), 0);
}

/// Lets a merchant whose token is gone withdraw its authorization while the next one is fetched.
async fn withdraw_during_fetch(app: &App) {
    app.wechat.fault(Fault::new(AUTHORIZER_TOKEN, Kind::Latency { ms: 500 }));
    let fetched = app.count(AUTHORIZER_TOKEN);
    let withdraw = async {
        until(|| async { app.count(AUTHORIZER_TOKEN) > fetched }).await;
        app.wechat.unauthorize(PLATFORM, MERCHANT).expect("withdrawn");
        until(|| async { confirmed(app, "unauthorized") == 1 }).await;
    };
    let (called, ()) = tokio::join!(list_nearby(app, MERCHANT), withdraw);
    let status = called.expect_err("withdrawn");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "AUTHORIZATION_LOST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_arrives_after_withdrawal_is_deleted() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    app.clock.advance(Duration::from_secs(7_201));
    withdraw_during_fetch(&app).await;
    let value: String = app
        .open_state()
        .query_row("SELECT value FROM tokens WHERE app_id LIKE '%@%'", [], |row| row.get(0))
        .expect("one token of a merchant");
    assert_eq!(value, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_after_withdrawal_is_deleted_in_redis() {
    let redis = RedisServer::start(false).await;
    let app = ready(App::with_state(&redis.url(), &section(PLATFORM, AES_KEY)).await).await;
    authorized(&app, ALL_SETS).await;
    let key = format!("{{wechat-store-gateway}}:token:{MERCHANT}@{PLATFORM}");
    // Redis has a clock of its own.
    for key in [&key, &format!("{{wechat-store-gateway}}:token:{PLATFORM}")] {
        redis.command(&format!("HSET {key} over 0")).await;
    }
    app.clock.advance(Duration::from_secs(7_201));
    withdraw_during_fetch(&app).await;
    assert_eq!(redis.command(&format!("EXISTS {key}")).await.trim(), ":1", "it was fetched");
    assert_eq!(redis.command(&format!("HEXISTS {key} value")).await.trim(), ":0");
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawal_without_push_asks_merchant() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    let silent = json!({ "app_id": MERCHANT, "push": false });
    app.wechat
        .control("POST", &format!("components/{PLATFORM}/unauthorize"), &silent)
        .expect("withdrawn");
    app.clock.advance(Duration::from_secs(7_201));
    let status = list_nearby(&app, MERCHANT).await.expect_err("withdrawn");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "AUTHORIZATION_LOST"));
    let info = status.get_details_error_info().expect("details");
    assert_eq!(info.metadata["errcode"], "61003");
    let value: String = app
        .open_state()
        .query_row("SELECT value FROM tokens WHERE app_id LIKE '%@%'", [], |row| row.get(0))
        .expect("one token of a merchant");
    assert_eq!(value, "", "its token is deleted, too");
    // The gateway stores what WeChat stated, and asks no more.
    let refused = app.count(AUTHORIZER_TOKEN);
    app.clock.advance(Duration::from_secs(10));
    let status = list_nearby(&app, MERCHANT).await.expect_err("withdrawn");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "AUTHORIZATION_LOST"));
    assert_eq!(app.count(AUTHORIZER_TOKEN), refused);
    let searched = app.wechat.calls(AUTHORIZER_LIST);
    assert!(searched.len() <= 1, "no search beside the daily reading: {searched:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn component_token_of_other_system_is_renewed_once() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    for expired in [false, true] {
        let before = app.count(COMPONENT_TOKEN);
        app.wechat.take_component_token(PLATFORM, expired).expect("taken");
        app.clock.advance(Duration::from_secs(6_970));
        let renewed = app.count(AUTHORIZER_TOKEN);
        list_nearby(&app, MERCHANT).await.expect("renewed");
        // The token is renewed ahead of its end, in the background.
        let tokens = || app.wechat.calls(AUTHORIZER_TOKEN).into_iter().skip(renewed);
        until(|| async { tokens().any(|call| call.errcode == Some(0)) }).await;
        assert_eq!(app.count(COMPONENT_TOKEN), before + 1, "expired: {expired}");
    }
}

/// The platform's token was just fetched, and a machine of WeChat does not have it yet.
#[tokio::test(flavor = "multi_thread")]
async fn refused_platform_token_stops_merchant_for_second() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    app.clock.advance(Duration::from_secs(7_201));
    let refused = Kind::Errcode { errcode: 40001, errmsg: None };
    app.wechat.fault(Fault { times: 3, ..Fault::new(AUTHORIZER_TOKEN, refused) });
    let status = within(LONG, app.hurried(list_nearby(&app, MERCHANT))).await;
    let status = status.expect_err("no token");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_REFUSED"));
    app.clock.advance(Duration::from_secs(2));
    list_nearby(&app, MERCHANT).await.expect("the next attempt has a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_lost_state_are_found_at_wechat() {
    let app = start().await;
    let merchants = (0..1_100).map(|number| Authorizer {
        app_id: format!("wx{:016x}", 0xe000 + number),
        kind: AccountKind::MiniProgram,
        permission_sets: ALL_SETS.to_vec(),
    });
    app.wechat.add_authorizers(PLATFORM, merchants).expect("added");
    // The list is not read yet: the gateway asks about the account alone.
    list_nearby(&app, "wx000000000000e44b").await.expect("found");
    // The daily reading brings all others.
    app.clock.advance(Duration::from_secs(24 * 3600 + 60));
    app.wechat.push_ticket(PLATFORM, None).expect("pushed");
    let count = || -> u64 {
        let state = app.open_state();
        let sql = "SELECT count(*) FROM authorizers";
        state.query_row(sql, [], |row| row.get(0)).expect("a number")
    };
    within(
        LONG,
        app.hurried(async {
            while count() < 1_100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }),
    )
    .await;
    let pages = app.wechat.calls(AUTHORIZER_LIST);
    let pages = pages.iter().filter(|call| call.body["offset"] != 0).count();
    assert_eq!(pages, 2, "500 rows a page");
}

#[tokio::test(flavor = "multi_thread")]
async fn account_of_settings_is_not_an_authorizer() {
    let app = start().await;
    app.wechat.authorize(PLATFORM, MINI_PROGRAM_APP_ID, ALL_SETS).expect("authorized");
    until(|| async { confirmed(&app, "authorized") == 1 }).await;
    list_nearby(&app, MINI_PROGRAM_APP_ID).await.expect("served by its own secret");
    assert_eq!(app.count(AUTHORIZER_TOKEN), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_other_replica_is_not_fetched_again() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    add_account(&app, SECOND_MERCHANT);
    app.wechat.authorize(PLATFORM, SECOND_MERCHANT, ALL_SETS).expect("authorized");
    is_served(&app, SECOND_MERCHANT).await;
    let app = app.restart().await;
    connect(&app, PLATFORM, AES_KEY);
    let before = (app.count(COMPONENT_TOKEN), app.count(AUTHORIZER_TOKEN));
    for merchant in [MERCHANT, SECOND_MERCHANT] {
        list_nearby(&app, merchant).await.expect("served");
    }
    assert_eq!((app.count(COMPONENT_TOKEN), app.count(AUTHORIZER_TOKEN)), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_of_merchants_are_written_and_read() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    let request = pb::ListCategoriesRequest { app_id: MERCHANT.to_owned() };
    app.merchants().list_categories(request).await.expect("categories");
    let request = pb::AddStoreRequest { app_id: MERCHANT.to_owned(), ..new_store("1", "2") };
    let status = app.stores().add_store(request).await.expect_err("no such place");
    assert_ne!(status.code(), Code::Unavailable, "{status}");
    let calls: Vec<Value> =
        app.wechat.calls(ADD_NEARBY).into_iter().map(|call| call.body).collect();
    assert!(calls.is_empty(), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_authorizer_is_replaced_from_wechat() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    let damage = "UPDATE authorizers SET changed_at = changed_at + 1";
    app.open_state().execute(damage, []).expect("a row");
    let app = app.restart().await;
    connect(&app, PLATFORM, AES_KEY);
    list_nearby(&app, MERCHANT).await.expect("WeChat has the account");
    // A new authorization replaces a damaged row, too.
    app.open_state().execute(damage, []).expect("a row");
    app.clock.advance(Duration::from_secs(10));
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized");
    until(|| async { confirmed(&app, "updateauthorized") == 1 }).await;
    list_nearby(&app, MERCHANT).await.expect("served");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_authorization_ends_pause_after_failure() {
    let app = App::still_with_sections(&section(PLATFORM, AES_KEY)).await;
    connect(&app, PLATFORM, AES_KEY);
    has_ticket(&app).await;
    add_account(&app, MERCHANT);
    authorized(&app, ALL_SETS).await;
    let silent = json!({ "app_id": MERCHANT, "push": false });
    let path = format!("components/{PLATFORM}/unauthorize");
    app.wechat.control("POST", &path, &silent).expect("withdrawn");
    app.clock.advance(Duration::from_secs(7_201));
    let status = list_nearby(&app, MERCHANT).await.expect_err("withdrawn");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "AUTHORIZATION_LOST"));
    // The clock stands still, so no pause ends by itself.
    authorized(&app, ALL_SETS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_look_up_is_not_a_missing_authorization() {
    let app = start().await;
    let merchant = Authorizer {
        app_id: SECOND_MERCHANT.to_owned(),
        kind: AccountKind::MiniProgram,
        permission_sets: ALL_SETS.to_vec(),
    };
    app.wechat.add_authorizers(PLATFORM, [merchant]).expect("added");
    app.fault(AUTHORIZER_INFO, Kind::Errcode { errcode: -1, errmsg: None });
    let status = list_nearby(&app, SECOND_MERCHANT).await.expect_err("WeChat is busy");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    app.wechat.control("DELETE", "faults", &Value::Null).expect("no faults");
    list_nearby(&app, SECOND_MERCHANT).await.expect("found");
}

/// WeChat's own sample for platforms: a message to an authorizer, sealed with the key of the platform.
#[tokio::test(flavor = "multi_thread")]
async fn official_message_is_accepted_and_foreign_is_not() {
    let sample = include_str!("../documented/push/official_platform_request.json");
    let sample: Value = serde_json::from_str(sample).expect("JSON");
    let text = |pointer: &str| sample.pointer(pointer).and_then(Value::as_str).expect(pointer);
    let platform = text("/sealed/app_id");
    // As in the sample, beside fields that are not sealed.
    let body = format!(
        "<xml><ToUserName><![CDATA[gh_10f6c3c3ac5a]]></ToUserName><Content>forged</Content>\
         <Encrypt><![CDATA[{}]]></Encrypt></xml>",
        text("/sealed/encrypt")
    );
    let section = |app_id: &str| {
        format!(
            "[callback]\ntimestamp_window_seconds = 0\n[[platforms]]\napp_id = \"{app_id}\"\n\
             secret = \"{SECRET}\"\ntoken = \"{}\"\naes_key = \"{}\"\nkeep = [\"text\"]\n",
            text("/sealed/token"),
            text("/sealed/aes_key"),
        )
    };
    let post = async |app: &App, path: String, body: &str| {
        let query = ["timestamp", "nonce", "msg_signature"]
            .map(|name| format!("{name}={}", text(&format!("/sealed/{name}"))));
        let path = format!("{path}?{}&encrypt_type=aes", query.join("&"));
        app.post_push(&path, body).await
    };
    let app = App::with_sections(&section(platform)).await;
    let messages = format!("/wechat/platform/{platform}/messages/{MERCHANT}");
    let answer = post(&app, messages.clone(), &body).await;
    assert_eq!(answer, (200, "success".to_owned()));
    let event = until_event(&app, |event| event.wechat_event == "text").await;
    assert_eq!((&*event.app_id, &*event.wechat_message), (MERCHANT, text("/message/0")));

    let damaged = body.replace("hyzAe4OzmOMbd6", "hyzAe4OzmOMbd7");
    assert_eq!(post(&app, messages, &damaged).await.0, 403);
    // The message has no part of an authorization.
    let events = format!("/wechat/platform/{platform}/events");
    assert_eq!(post(&app, events, &body).await.0, 403);
    for unknown in ["/wechat/platform/x/events", "/wechat/platform", "/wechat/platform/x/messages"]
    {
        assert_eq!(post(&app, unknown.to_owned(), &body).await.0, 404, "{unknown}");
    }
    // Another platform with the same key: the id inside the seal is not its own.
    let app = App::with_sections(&section(OTHER_PLATFORM)).await;
    let messages = format!("/wechat/platform/{OTHER_PLATFORM}/messages/{MERCHANT}");
    assert_eq!(post(&app, messages, &body).await.0, 403);
}
