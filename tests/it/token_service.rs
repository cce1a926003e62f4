//! `TokenService`: the one place at which a caller gets an access token.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{self, token_service_client::TokenServiceClient};

use crate::{
    access::{bearer, caller},
    endpoints::calls,
    external::TokenServer,
    leaks::forms,
    platform::{AES_KEY, ALL_SETS, MERCHANT, PLATFORM, authorized, ready, section, until},
    support::{App, STABLE_TOKEN, is, reason},
};

const ON: &str = "[token_service]\nenabled = true\n";

impl App {
    fn token_service(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel.clone())
    }

    async fn access_token(
        &self,
        app_id: &str,
        seconds: i64,
    ) -> Result<pb::GetAccessTokenResponse, Status> {
        let min_life = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = pb::GetAccessTokenRequest { app_id: app_id.to_owned(), min_life };
        self.token_service().get_access_token(request).await.map(tonic::Response::into_inner)
    }
}

fn unix(time: Option<prost_types::Timestamp>) -> u64 {
    let time = SystemTime::try_from(time.expect("a time")).expect("after 1970");
    time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn token_service_is_off_by_default() {
    let app = App::start().await;
    let status = app.access_token("", 0).await.expect_err("it is off");
    assert_eq!(reason(&status), is(Code::Unimplemented, "METHOD_UNKNOWN"));
    let details = status.get_details_error_info().expect("checked above").metadata;
    assert_eq!(details["setting"], "token_service.enabled");
    assert_eq!(app.count(STABLE_TOKEN), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn given_token_is_that_of_the_gateways_calls() {
    let app = App::still_with_sections(ON).await;
    let given = app.access_token("", 0).await.expect("a token");
    assert_eq!(unix(given.expire_time), app.clock.unix() + 7_200);
    assert_eq!(given.generation, 1);
    app.read().await.expect_err("there is no such store");
    let again = app.access_token(OFFICIAL_APP_ID, 0).await.expect("a token");
    assert_eq!(again.access_token, given.access_token);
    assert_eq!(app.count(STABLE_TOKEN), 1, "one fetch for both");
    let other = app.access_token(MINI_PROGRAM_APP_ID, 0).await.expect("a token");
    assert_ne!(other.access_token, given.access_token);
    assert!(!format!("{given:?}").contains(&given.access_token), "Debug hides it");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_with_short_life_is_renewed_first() {
    let app = App::still_with_sections(ON).await;
    let first = app.access_token("", 0).await.expect("a token");
    // WeChat has the next token in the last five minutes. The gateway itself renews it later than that.
    app.clock.advance(Duration::from_secs(7_200 - 299));
    let renewed = app.access_token("", 300).await.expect("a token");
    assert_ne!(renewed.access_token, first.access_token);
    assert_eq!(app.count(STABLE_TOKEN), 2);
    for seconds in [-1, 301, i64::MAX] {
        let status = app.access_token("", seconds).await.expect_err("no such life");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"), "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wish_for_longer_life_cannot_flood_wechat() {
    let app = App::still_with_sections(ON).await;
    let body = json!({ "access_token": "always-the-same-token", "expires_in": 100 });
    app.fault(STABLE_TOKEN, Kind::Replace { body });
    for _ in 0..20 {
        let given = app.access_token("", 300).await.expect("a token");
        assert_eq!(given.access_token, "always-the-same-token");
    }
    assert_eq!(app.count(STABLE_TOKEN), 2, "the first one, and one for the longer life");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_of_the_account_get_its_token() {
    let sections = [
        ON.to_owned(),
        caller("admin", "role = \"admin\""),
        caller("writer", "role = \"writer\""),
        caller("mini", &format!("roles = {{ {MINI_PROGRAM_APP_ID} = \"admin\" }}")),
    ];
    let app = App::with_sections(&sections.concat()).await;
    let get = async |name: &str, app_id: &str| {
        let mut request = Request::new(pb::GetAccessTokenRequest {
            app_id: app_id.to_owned(),
            ..Default::default()
        });
        let value = MetadataValue::try_from(bearer(name)).expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        app.token_service().get_access_token(request).await.map(drop)
    };
    for (name, app_id, allowed) in [
        ("admin", OFFICIAL_APP_ID, true),
        ("admin", "", true),
        ("writer", OFFICIAL_APP_ID, false),
        ("writer", "", false),
        ("mini", MINI_PROGRAM_APP_ID, true),
        ("mini", OFFICIAL_APP_ID, false),
        ("mini", "", false),
    ] {
        let result = get(name, app_id).await;
        assert_eq!(result.is_ok(), allowed, "{name} {app_id}: {result:?}");
        if let Err(status) = result {
            assert_eq!(reason(&status), is(Code::PermissionDenied, "PERMISSION_MISSING"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_restricted_account_is_not_given() {
    for (setting, expected) in
        [("paused = true", "ACCOUNT_PAUSED"), ("read_only = true", "ACCOUNT_READ_ONLY")]
    {
        let mut app = App::with_sections(ON).await;
        app.change_settings("default = true", &format!("default = true\n{setting}"));
        let app = app.restart().await;
        let status = app.access_token("", 0).await.expect_err("it is restricted");
        assert_eq!(reason(&status), is(Code::FailedPrecondition, expected));
        assert_eq!(app.count(STABLE_TOKEN), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn container_token_is_not_given() {
    for token in ["{ cloudbase = \"/no/such\" }", "\"open_interface\""] {
        let mut app = App::with_sections(ON).await;
        let secret = format!("secret = \"{}\"", wechat_simulator::MINI_PROGRAM_SECRET);
        app.change_settings(&secret, &format!("token = {token}"));
        let app = app.restart().await;
        let status = app.access_token(MINI_PROGRAM_APP_ID, 0).await.expect_err("it stays");
        assert_eq!(reason(&status), is(Code::FailedPrecondition, "CLOUD_CALL_NOT_ALLOWED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_authorizer_is_given() {
    let section = section(PLATFORM, AES_KEY) + ON;
    let mut app = App::with_sections(&section).await;
    // So that this test can read the state.
    app.change_settings("[state]\n", "[state]\nplain_secrets = true\n");
    let mut app = ready(app.restart().await).await;
    let status = app.access_token(MERCHANT, 0).await.expect_err("not authorized yet");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));
    authorized(&app, ALL_SETS).await;
    let given = app.access_token(MERCHANT, 0).await.expect("a token");
    let sql = "SELECT value FROM tokens WHERE app_id LIKE ?1";
    let stored = |app_id: &str| -> String {
        let row = app.open_state().query_row(sql, [app_id], |row| row.get(0));
        row.expect("one token")
    };
    assert_eq!(given.access_token, stored(&format!("{MERCHANT}@%")));
    assert!(given.expire_time.is_some(), "WeChat states it");
    // The token of the platform itself could act for every merchant.
    assert!(!stored(PLATFORM).is_empty(), "there is one");
    let status = app.access_token(PLATFORM, 0).await.expect_err("it is no account");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));

    app.reload(|settings| settings.replace("[[platforms]]\n", "[[platforms]]\nread_only = true\n"));
    until(|| async {
        let status = app.access_token(MERCHANT, 0).await.err();
        status.is_some_and(|status| {
            reason(&status) == is(Code::FailedPrecondition, "ACCOUNT_READ_ONLY")
        })
    })
    .await;
    app.reload(|settings| settings.replace("read_only = true\n", ""));
    until(|| async { app.access_token(MERCHANT, 0).await.is_ok() }).await;
    app.clock.advance(Duration::from_secs(2));
    app.wechat.unauthorize(PLATFORM, MERCHANT).expect("withdrawn");
    until(|| async {
        let status = app.access_token(MERCHANT, 0).await.err();
        status.is_some_and(|status| {
            reason(&status) == is(Code::FailedPrecondition, "AUTHORIZATION_LOST")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_of_merchant_get_its_token() {
    let sections = [
        ON.to_owned(),
        caller("merchant", &format!("roles = {{ {MERCHANT} = \"admin\" }}")),
        caller("writer", &format!("roles = {{ {MERCHANT} = \"writer\" }}")),
        caller("platform", &format!("roles = {{ {PLATFORM} = \"admin\" }}")),
        caller("other", &format!("roles = {{ {OFFICIAL_APP_ID} = \"admin\" }}")),
    ];
    let section = section(PLATFORM, AES_KEY) + &sections.concat();
    let app = ready(App::with_sections(&section).await).await;
    app.wechat.authorize(PLATFORM, MERCHANT, ALL_SETS).expect("authorized");
    let get = async |name: &str, app_id: &str| {
        let mut request = Request::new(pb::GetAccessTokenRequest {
            app_id: app_id.to_owned(),
            ..Default::default()
        });
        let value = MetadataValue::try_from(bearer(name)).expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        app.token_service().get_access_token(request).await
    };
    until(|| async { get("merchant", MERCHANT).await.is_ok() }).await;
    for (name, app_id) in
        [("writer", MERCHANT), ("platform", MERCHANT), ("other", MERCHANT), ("merchant", PLATFORM)]
    {
        let status = get(name, app_id).await.expect_err("no right");
        assert_eq!(reason(&status), is(Code::PermissionDenied, "PERMISSION_MISSING"), "{name}");
    }
    let status = get("platform", PLATFORM).await.expect_err("it is no account");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_another_program_is_given() {
    let server = TokenServer::start("token-of-another-program").await;
    let mut app = App::still_with_sections(ON).await;
    let secret = format!("secret = \"{}\"", wechat_simulator::OFFICIAL_SECRET);
    app.change_settings(&secret, &format!("token = {{ url = \"{}\" }}", server.url()));
    let app = app.restart().await;
    let given = app.access_token("", 300).await.expect("a token");
    assert_eq!(given.access_token, "token-of-another-program");
    assert_eq!(given.expire_time, None, "its end is unknown");
    assert_eq!(app.access_token("", 300).await.expect("a token").generation, 1);
    assert_eq!((server.requests().len(), app.count(STABLE_TOKEN)), (1, 0));
    // The other program has another one.
    server.set(200, "{\"access_token\":\"the-next-token\",\"expires_in\":30}");
    app.clock.advance(Duration::from_secs(61));
    app.access_token("", 0).await.expect("a token");
    until(|| async {
        let given = app.access_token("", 0).await.expect("a token");
        given.access_token == "the-next-token" && given.expire_time.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_this_rpc_returns_a_token() {
    let app = App::with_sections(ON).await;
    let given = app.access_token("", 0).await.expect("a token").access_token;
    let other = app.access_token(MINI_PROGRAM_APP_ID, 0).await.expect("a token").access_token;
    let hidden = [&given, &other].into_iter().flat_map(|token| forms(token)).collect::<Vec<_>>();
    let assert_hidden = |what: &str, text: &str| {
        assert!(hidden.iter().all(|token| !text.contains(token)), "{what} shows a token: {text}");
    };
    let mut checked = 0;
    for (facts, example) in calls() {
        app.wechat.fault(Fault::new(facts.path, Kind::Replace { body: example.reply.clone() }));
        let answer = example.call(&app).await;
        assert_hidden(facts.path, &format!("{answer:?}"));
        // And if it fails.
        app.wechat.fault(Fault::new(facts.path, Kind::Errcode { errcode: 40001, errmsg: None }));
        assert_hidden(facts.path, &format!("{:?}", example.call(&app).await));
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
    let mut accounts = pb::account_service_client::AccountServiceClient::new(app.channel.clone());
    let listed = accounts.list_accounts(pb::ListAccountsRequest::default()).await;
    assert_hidden("ListAccounts", &format!("{listed:?}"));
    let writes = app.writes().list_writes(pb::ListWritesRequest::default()).await;
    assert_hidden("ListWrites", &format!("{writes:?}"));
    for page in ["/metrics", "/readyz"] {
        assert_hidden(page, &app.ask(page).await.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn given_token_leaves_a_line_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("activity.jsonl");
    let section = format!(
        "{ON}[activity]\nlog = \"{}\"\n{}",
        file.display(),
        caller("deployer", "role = \"admin\"")
    );
    let app = App::with_sections(&section).await;
    let mut request = Request::new(pb::GetAccessTokenRequest::default());
    let value = MetadataValue::try_from(bearer("deployer")).expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    let given = app.token_service().get_access_token(request).await.expect("a token").into_inner();
    let text = std::fs::read_to_string(&file).expect("a file");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let [line] = &lines.collect::<Vec<_>>()[..] else { panic!("one line: {text}") };
    assert_eq!(line["caller"], "deployer");
    assert_eq!(line["method"], "TokenService/GetAccessToken");
    assert_eq!((&line["app_id"], &line["outcome"]), (&json!(OFFICIAL_APP_ID), &json!("OK")));
    assert!(forms(&given.access_token).iter().all(|token| !text.contains(token)), "{text}");
}
