//! The RPCs about third-party platforms and the accounts that authorized them.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use reqwest::Url;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt;
use wechat_simulator::{AccountKind, Authorizer, Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{
    self, AuthorizationState, account_service_client::AccountServiceClient,
};

use crate::{
    access::{bearer, caller},
    platform::{
        AES_KEY, ALL_SETS, MERCHANT, OTHER_AES_KEY, OTHER_PLATFORM, PLATFORM, SECOND_MERCHANT,
        add_account, authorized, connect, has_ticket, ready, section, start, until,
    },
    support::{App, is, reason},
};

const PREAUTH_CODE: &str = "/cgi-bin/component/api_create_preauthcode";
const START_PUSH: &str = "/cgi-bin/component/api_start_push_ticket";
const WELCOME: &str = "https://shop.example.com/welcome?from=wechat";

fn accounts(app: &App) -> AccountServiceClient<Channel> {
    AccountServiceClient::new(app.channel.clone())
}

fn link_request() -> pb::CreateAuthorizationLinkRequest {
    pb::CreateAuthorizationLinkRequest { redirect_uri: WELCOME.to_owned(), ..Default::default() }
}

async fn link(app: &App, request: pb::CreateAuthorizationLinkRequest) -> Result<Url, Status> {
    let made = accounts(app).create_authorization_link(request).await?.into_inner();
    Ok(made.url.parse().expect("a URL"))
}

/// Posts a form, and returns the answer with its head.
async fn post(host: SocketAddr, path: &str, form: &str) -> String {
    let mut socket = TcpStream::connect(host).await.expect("the simulator listens");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it answers");
    answer
}

async fn authorizer(app: &App, app_id: &str) -> Result<pb::Authorizer, Status> {
    let request = pb::GetAuthorizerRequest { app_id: app_id.to_owned(), ..Default::default() };
    let answer = accounts(app).get_authorizer(request).await?.into_inner();
    Ok(answer.authorizer.expect("always there"))
}

async fn platforms(app: &App) -> Vec<pb::Platform> {
    let request = pb::ListPlatformsRequest::default();
    accounts(app).list_platforms(request).await.expect("platforms").into_inner().platforms
}

/// Returns a request with the token of a caller.
fn from<T>(caller: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = MetadataValue::try_from(bearer(caller)).expect("ASCII");
    request.metadata_mut().insert("authorization", token);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn merchant_authorizes_through_the_link() {
    let app = start().await;
    let before = app.clock.wall();
    let made = accounts(&app).create_authorization_link(link_request()).await.expect("a link");
    let made = made.into_inner();
    let expires = SystemTime::try_from(made.expire_time.expect("a time")).expect("a time");
    assert!(expires > before + Duration::from_secs(300), "{expires:?}");
    let url: Url = made.url.parse().expect("a URL");
    assert_eq!(url.host_str(), Some("mp.weixin.qq.com"));
    // The simulator has WeChat's page, too.
    let page = format!("{}?{}", url.path(), url.query().expect("parameters"));
    let form = format!("app_id={MERCHANT}&permission_set=37&permission_set=8");
    let answer = post(app.host, &page, &form).await;
    assert!(answer.to_lowercase().contains(&format!("\r\nlocation: {WELCOME}&")), "{answer}");
    until(|| async {
        let shown = authorizer(&app, MERCHANT).await;
        shown.is_ok_and(|shown| shown.describe_time.is_some())
    })
    .await;
    let shown = authorizer(&app, MERCHANT).await.expect("authorized");
    assert_eq!(
        (shown.platform_app_id.as_str(), shown.state()),
        (PLATFORM, AuthorizationState::Authorized)
    );
    assert_eq!(shown.kind(), pb::AccountKind::MiniProgram);
    let mut sets = shown.permission_sets.clone();
    sets.sort_unstable();
    assert_eq!(sets, [8, 37]);
    assert!(shown.change_time.is_some() && !shown.principal_name.is_empty(), "{shown:?}");
    let request = pb::GetAccountRequest { app_id: MERCHANT.to_owned() };
    let account = accounts(&app).get_account(request).await.expect("served").into_inner();
    let account = account.account.expect("always there");
    assert_eq!(account.platform_app_id, PLATFORM);
    assert_eq!(account.token.expect("always there").kind(), pb::TokenKind::Authorizer);
}

#[tokio::test(flavor = "multi_thread")]
async fn link_carries_every_wish() {
    let app = start().await;
    let usual = link(&app, link_request()).await.expect("a link");
    let value = |url: &Url, name: &str| {
        let pair = url.query_pairs().find(|(own, _)| own == name);
        pair.map(|(_, value)| value.into_owned())
    };
    assert_eq!(usual.path(), "/cgi-bin/componentloginpage");
    assert_eq!(value(&usual, "component_appid").as_deref(), Some(PLATFORM));
    assert_eq!(value(&usual, "redirect_uri").as_deref(), Some(WELCOME));
    assert_eq!(value(&usual, "auth_type").as_deref(), Some("3"));
    assert_eq!(value(&usual, "biz_appid"), None);
    let request = pb::CreateAuthorizationLinkRequest {
        app_id: PLATFORM.to_owned(),
        kind: pb::AccountKind::MiniProgram.into(),
        authorizer_app_id: MERCHANT.to_owned(),
        device: pb::LinkDevice::Phone.into(),
        ..link_request()
    };
    let special = link(&app, request).await.expect("a link");
    assert_eq!(special.path(), "/safe/bindcomponent");
    assert_eq!(special.fragment(), Some("wechat_redirect"));
    assert_eq!(value(&special, "no_scan").as_deref(), Some("1"));
    assert_eq!(value(&special, "auth_type").as_deref(), Some("2"));
    assert_eq!(value(&special, "biz_appid").as_deref(), Some(MERCHANT));
    assert_ne!(value(&special, "pre_auth_code"), value(&usual, "pre_auth_code"));
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_without_ticket_makes_no_link() {
    let app = App::with_sections(&section(PLATFORM, AES_KEY)).await;
    let [platform] = &platforms(&app).await[..] else { panic!("one platform") };
    assert_eq!((platform.app_id.as_str(), platform.ticket_time), (PLATFORM, None));
    let status = link(&app, link_request()).await.expect_err("no ticket");
    assert_eq!(reason(&status), is(Code::Unavailable, "COMPONENT_TICKET_INVALID"));
    assert_eq!(app.count(PREAUTH_CODE), 0);
    connect(&app, PLATFORM, AES_KEY);
    has_ticket(&app).await;
    link(&app, link_request()).await.expect("a link");
    let [platform] = &platforms(&app).await[..] else { panic!("one platform") };
    assert!(platform.ticket_time.is_some() && platform.last_push_time.is_some(), "{platform:?}");
    let token = platform.token.clone().expect("always there");
    assert!(token.present && token.kind() == pb::TokenKind::Platform, "{token:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_push_is_started_on_request() {
    let app = start().await;
    accounts(&app).start_ticket_push(pb::StartTicketPushRequest::default()).await.expect("started");
    let calls = app.wechat.calls(START_PUSH);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].body["component_appid"], PLATFORM);
    app.wechat.refuse_next(START_PUSH, 61011);
    let request = pb::StartTicketPushRequest { app_id: PLATFORM.to_owned() };
    let status = accounts(&app).start_ticket_push(request).await.expect_err("refused");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "COMPONENT_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_must_name_one_of_several_platforms() {
    let sections = section(PLATFORM, AES_KEY) + &section(OTHER_PLATFORM, OTHER_AES_KEY);
    for (app, named) in [
        (App::start().await, ""),
        (App::with_sections(&sections).await, ""),
        (App::with_sections(&sections).await, MERCHANT),
    ] {
        let named = named.to_owned();
        let list =
            pb::ListAuthorizersRequest { platform_app_id: named.clone(), ..Default::default() };
        let start = pb::StartTicketPushRequest { app_id: named.clone() };
        for (status, field) in [
            (accounts(&app).list_authorizers(list).await.map(drop), "platform_app_id"),
            (accounts(&app).start_ticket_push(start).await.map(drop), "app_id"),
            (
                link(&app, pb::CreateAuthorizationLinkRequest { app_id: named, ..link_request() })
                    .await
                    .map(drop),
                "app_id",
            ),
        ] {
            let status = status.expect_err("no such platform");
            assert_eq!(reason(&status), is(Code::InvalidArgument, "PLATFORM_UNKNOWN"), "{status}");
            let bad = status.get_details_bad_request().expect("a field");
            assert_eq!(bad.field_violations[0].field, field);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizers_are_listed_page_by_page() {
    let app = start().await;
    let ids: Vec<_> = (0..7).map(|number| format!("wx{:016x}", 0xe000 + number)).collect();
    for app_id in &ids {
        let new = Authorizer {
            app_id: app_id.clone(),
            kind: AccountKind::MiniProgram,
            permission_sets: ALL_SETS.to_vec(),
        };
        app.wechat.add_authorizers(PLATFORM, [new]).expect("added");
        app.wechat.authorize(PLATFORM, app_id, ALL_SETS).expect("authorized");
    }
    let all = async |request: pb::ListAuthorizersRequest| {
        let (mut rows, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListAuthorizersRequest { page_token, ..request.clone() };
            let page = accounts(&app).list_authorizers(request).await.expect("a page").into_inner();
            assert!(page.authorizers.len() <= 3, "a page has three rows at most");
            rows.extend(page.authorizers);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return rows;
            }
        }
    };
    let three = pb::ListAuthorizersRequest { page_size: 3, ..Default::default() };
    until(|| async { all(three.clone()).await.len() == ids.len() }).await;
    app.clock.advance(Duration::from_secs(2));
    app.wechat.unauthorize(PLATFORM, &ids[4]).expect("withdrawn");
    until(|| async {
        let shown = authorizer(&app, &ids[4]).await;
        shown.is_ok_and(|shown| shown.state() == AuthorizationState::Unauthorized)
    })
    .await;
    let rows = all(three.clone()).await;
    let shown: Vec<_> = rows.iter().map(|row| row.app_id.clone()).collect();
    assert_eq!(shown, ids, "also the one that withdrew");
    let one = pb::ListAuthorizersRequest { app_id: ids[2].clone(), ..three.clone() };
    assert_eq!(all(one).await.len(), 1);
    let page_token = "foreign".to_owned();
    let request = pb::ListAuthorizersRequest { page_token, ..three };
    let status = accounts(&app).list_authorizers(request).await.expect_err("foreign");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "PAGE_TOKEN_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_authorizer_is_an_unknown_account() {
    let app = start().await;
    let status = authorizer(&app, MERCHANT).await.expect_err("not authorized");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));
    let status = authorizer(&app, "").await.expect_err("no account");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_sees_only_its_own_authorizers() {
    let callers = [
        caller("all", "role = \"admin\""),
        caller("one", &format!("roles = {{ {MERCHANT} = \"admin\" }}")),
        caller("platform", &format!("roles = {{ {PLATFORM} = \"admin\" }}")),
    ];
    let app = App::with_sections(&(section(PLATFORM, AES_KEY) + &callers.concat())).await;
    connect(&app, PLATFORM, AES_KEY);
    has_ticket(&app).await;
    for app_id in [MERCHANT, SECOND_MERCHANT] {
        add_account(&app, app_id);
        app.wechat.authorize(PLATFORM, app_id, ALL_SETS).expect("authorized");
    }
    let list = async |caller: &str| {
        let request = from(caller, pb::ListAuthorizersRequest::default());
        let rows = accounts(&app).list_authorizers(request).await.expect("a page").into_inner();
        rows.authorizers.into_iter().map(|row| row.app_id).collect::<Vec<_>>()
    };
    until(|| async { list("all").await.len() == 2 }).await;
    assert_eq!(list("one").await, [MERCHANT]);
    assert!(list("platform").await.is_empty());
    for (caller, code) in [("all", None), ("one", Some(Code::PermissionDenied)), ("platform", None)]
    {
        let made = accounts(&app).create_authorization_link(from(caller, link_request())).await;
        assert_eq!(made.err().map(|status| status.code()), code, "{caller}");
        let request = from(caller, pb::ListPlatformsRequest::default());
        let seen = accounts(&app).list_platforms(request).await.expect("a list").into_inner();
        assert_eq!(seen.platforms.is_empty(), code.is_some(), "{caller}");
    }
}

/// A caller without a role for a platform does not learn whether the platform exists.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_platform_looks_like_foreign_one() {
    let callers = [
        caller("all", "role = \"admin\""),
        caller("other", &format!("roles = {{ {OFFICIAL_APP_ID} = \"admin\" }}")),
    ];
    let app = App::with_sections(&(section(PLATFORM, AES_KEY) + &callers.concat())).await;
    let list = async |caller: &str, platform: &str, page_token: &str| {
        let request = pb::ListAuthorizersRequest {
            platform_app_id: platform.to_owned(),
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        let answer = accounts(&app).list_authorizers(from(caller, request)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| reason(&status))
    };
    let get = async |caller: &str, platform: &str| {
        let request = pb::GetAuthorizerRequest {
            app_id: OFFICIAL_APP_ID.to_owned(),
            platform_app_id: platform.to_owned(),
        };
        let answer = accounts(&app).get_authorizer(from(caller, request)).await;
        let status = answer.expect_err("it authorized no platform");
        (reason(&status), status.message().to_owned())
    };
    let empty = Ok(pb::ListAuthorizersResponse::default());
    for platform in [PLATFORM, OTHER_PLATFORM] {
        assert_eq!(list("other", platform, "").await, empty, "{platform}");
        let refused = list("other", platform, "foreign").await;
        assert_eq!(refused, Err(is(Code::InvalidArgument, "PAGE_TOKEN_INVALID")), "{platform}");
    }
    assert_eq!(get("other", PLATFORM).await, get("other", OTHER_PLATFORM).await);
    let unknown = is(Code::InvalidArgument, "PLATFORM_UNKNOWN");
    assert_eq!(list("all", OTHER_PLATFORM, "").await, Err(unknown.clone()));
    assert_eq!(get("all", OTHER_PLATFORM).await.0, unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_platform_is_named_in_refusal() {
    let section = section(PLATFORM, AES_KEY) + "paused = true\n";
    let app = ready(App::with_sections(&section).await).await;
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized");
    // The authorization is completed nevertheless, because its code expires.
    until(|| async {
        let shown = authorizer(&app, MERCHANT).await;
        shown.is_ok_and(|shown| shown.describe_time.is_some())
    })
    .await;
    let request = pb::ListNearbyPoisRequest { app_id: MERCHANT.to_owned(), ..Default::default() };
    let status = app.nearby().list_nearby_pois(request).await.expect_err("paused");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "ACCOUNT_PAUSED"));
    assert!(status.message().contains(PLATFORM), "{status}");
    let info = status.get_details_error_info().expect("details");
    assert_eq!(info.metadata["platform_app_id"], PLATFORM);
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_without_code_is_no_link() {
    let app = start().await;
    authorized(&app, ALL_SETS).await;
    for body in [
        json!({}),
        json!({"errcode": 0, "errmsg": "ok"}),
        json!({"pre_auth_code": "", "expires_in": 600}),
        json!({"pre_auth_code": "preauthcode@@@x"}),
        json!({"pre_auth_code": "preauthcode@@@x", "expires_in": 0}),
    ] {
        let what = body.to_string();
        app.wechat.fault(Fault::new(PREAUTH_CODE, Kind::Replace { body }).times(0));
        let status = link(&app, link_request()).await.expect_err(&what);
        assert_eq!(reason(&status), is(Code::Internal, "WECHAT_BAD_REPLY"), "{what}");
        app.wechat.control("DELETE", "faults", &json!(null)).expect("cleared");
    }
    link(&app, link_request()).await.expect("a link");
}
