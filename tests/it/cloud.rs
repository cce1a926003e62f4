//! Accounts in WeChat's cloud hosting (微信云托管): the token of a container, and calls without a token.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{
    Callback, Cloud, Fault, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET,
    faults::Kind,
    push::{Format, Mode, State},
};
use wechat_store_gateway::{
    pb::{self, TokenKind, account_service_client::AccountServiceClient},
    testing::wechat::{AccountKinds, endpoints},
};

use crate::{
    endpoints::calls,
    platform::until,
    support::{
        App, CALLBACK_TOKEN, CLASSIC_TOKEN, MINI_PROGRAM_AES_KEY, STABLE_TOKEN, is, nearby_profile,
        reason, within,
    },
};

const LIST_NEARBY: &str = "/wxa/getnearbypoilist";
const PLACE: &str = "2708071440732747189";
const LONG: Duration = Duration::from_secs(30);
/// Longer than a token is used without another look at its file.
const SECONDS: Duration = Duration::from_secs(2);

/// A gateway in a container, and the container's file.
struct Container {
    app: App,
    file: PathBuf,
    _folder: TempDir,
}

impl Container {
    /// Starts a gateway whose mini program has the token of a container. The file is missing.
    async fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cloudbase_access_token");
        let token = format!("{{ cloudbase = \"{}\" }}", file.display());
        let app = App::still_with_token(MINI_PROGRAM_SECRET, &token).await;
        Self { app, file, _folder: folder }
    }

    /// Starts the same. WeChat writes tokens into the file, the first one after this time.
    async fn with_tokens(first_token_after: Duration) -> Self {
        let container = Self::empty().await;
        let token_file = Some(container.file.clone());
        let cloud = Cloud { token_file, first_token_after, ..Cloud::new(MINI_PROGRAM_APP_ID) };
        container.app.wechat.add_cloud(cloud).expect("a good container");
        container
    }

    async fn list(&self) -> Result<(), Status> {
        list(&self.app).await
    }
}

async fn list(app: &App) -> Result<(), Status> {
    app.nearby().list_nearby_pois(pb::ListNearbyPoisRequest::default()).await.map(drop)
}

async fn token_of(app: &App) -> pb::AccountToken {
    let request = pb::GetAccountRequest { app_id: MINI_PROGRAM_APP_ID.to_owned() };
    let found = AccountServiceClient::new(app.channel.clone()).get_account(request).await;
    found.expect("an account").into_inner().account.expect("one").token.expect("always there")
}

/// Checks that the gateway has no token, and returns the text.
fn missing(result: Result<(), Status>) -> String {
    let status = result.expect_err("there is no token");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_UNAVAILABLE"));
    let details = status.get_details_error_info().expect("checked above").metadata;
    let named = [details["setting"].as_str(), details["fix_by"].as_str()];
    assert_eq!(named, ["accounts.token", "operator"]);
    status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nearby_place_is_submitted_with_container_token() {
    let container = Container::with_tokens(Duration::ZERO).await;
    let app = &container.app;
    let request =
        pb::AddNearbyPoiRequest { profile: Some(nearby_profile(PLACE)), ..Default::default() };
    let added = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    app.approve(&added.submission.expect("a submission"));
    container.list().await.expect("a list");

    let names = app.wechat.calls(LIST_NEARBY)[0].query.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names, ["cloudbase_access_token"]);
    assert_eq!((app.count(STABLE_TOKEN), app.count(CLASSIC_TOKEN)), (0, 0));
    let token = token_of(app).await;
    assert_eq!((token.kind(), token.present), (TokenKind::Cloudbase, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn review_arrives_as_cloud_push() {
    let mut app = App::start().await;
    let safe = format!(
        "callback = {{ token = \"{CALLBACK_TOKEN}\", aes_key = \"{MINI_PROGRAM_AES_KEY}\" }}"
    );
    app.change_settings(&safe, "callback = { mode = \"cloud\", public_route_closed = true }");
    let app = app.restart().await;
    for format in [Format::Json, Format::Xml] {
        let pushes = Callback {
            url: format!("http://{}/wechat/callback/{{app_id}}", app.callback),
            token: String::new(),
            encoding_aes_key: String::new(),
            mode: Mode::Cloud,
            format,
        };
        app.wechat.set_callback(MINI_PROGRAM_APP_ID, pushes).expect("a good callback");
    }
    let request =
        pb::AddNearbyPoiRequest { profile: Some(nearby_profile(PLACE)), ..Default::default() };
    let added = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    let submission = added.submission.expect("a submission");
    app.approve(&submission);
    let request =
        pb::GetSubmissionRequest { submission_id: submission.submission_id, ..Default::default() };
    let decided = async {
        loop {
            let found = app.audits().get_submission(request.clone()).await.expect("a submission");
            match found.into_inner().submission.expect("one").state() {
                state @ (pb::AuditState::Approved | pb::AuditState::Rejected) => break state,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    assert_eq!(within(LONG, decided).await, pb::AuditState::Approved);
    until(|| async { app.wechat.pushes().iter().all(|push| push.state == State::Delivered) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_token_is_used_within_seconds() {
    let container = Container::with_tokens(Duration::ZERO).await;
    let app = &container.app;
    container.list().await.expect("a list");
    for generation in 2..5 {
        app.wechat.rotate_cloud_token(MINI_PROGRAM_APP_ID).expect("a token");
        app.clock.advance(SECONDS);
        container.list().await.expect("a list");
        assert_eq!(token_of(app).await.generation, generation);
    }
    assert!(app.wechat.calls(LIST_NEARBY).iter().all(|call| call.errcode == Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_token_is_named_until_wechat_writes_it() {
    let container = Container::empty().await;
    let app = &container.app;
    let text = missing(container.list().await);
    assert!(text.contains("does not exist") && text.contains("cloudbase_access_token"), "{text}");

    for content in
        ["", "default-tcb-wx-acc", "default-tcb-wx-access-token", "default-tcb-wx-access-token\n"]
    {
        fs::write(&container.file, content).expect("writable");
        app.clock.advance(SECONDS);
        let text = missing(container.list().await);
        assert!(text.contains("微信令牌") && !text.contains("default-tcb"), "{content}: {text}");
    }
    assert_eq!(app.count(LIST_NEARBY), 0, "WeChat got no call");

    let token_file = Some(container.file.clone());
    let cloud = Cloud { token_file, ..Cloud::new(MINI_PROGRAM_APP_ID) };
    app.wechat.add_cloud(cloud).expect("a good container");
    app.clock.advance(SECONDS);
    container.list().await.expect("a list");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_token_is_read_again_and_never_fetched() {
    let container = Container::with_tokens(Duration::ZERO).await;
    let app = &container.app;
    container.list().await.expect("a list");
    // The file changes while the token in memory is younger than a second.
    app.wechat.rotate_cloud_token(MINI_PROGRAM_APP_ID).expect("a token");
    app.wechat.fault(Fault::new(LIST_NEARBY, Kind::Errcode { errcode: 42001, errmsg: None }));
    container.list().await.expect("a list");
    assert_eq!(app.count(LIST_NEARBY), 3, "a refusal, and the new token");
    assert_eq!(token_of(app).await.generation, 2);

    fs::write(&container.file, "outdated-token").expect("writable");
    app.clock.advance(SECONDS);
    let status = container.list().await.expect_err("WeChat refuses it");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_REFUSED"));
    assert_eq!(app.count(LIST_NEARBY), 4, "the same token is not sent twice in a call");
    assert_eq!((app.count(STABLE_TOKEN), app.count(CLASSIC_TOKEN)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn call_that_cloud_forbids_is_refused_before_wechat() {
    // https://developers.weixin.qq.com/miniprogram/dev/wxcloud/guide/openapi/openapi.html
    let documented = BTreeSet::from([
        "/wxa/addnearbypoi",
        "/wxa/delnearbypoi",
        LIST_NEARBY,
        "/wxa/setnearbypoishowstatus",
    ]);
    let allowed = endpoints().filter(|facts| facts.cloud).map(|facts| facts.path);
    assert_eq!(allowed.collect::<BTreeSet<_>>(), documented);

    let with_token = Container::with_tokens(Duration::ZERO).await;
    let without = open_interface().await;
    for app in [&with_token.app, &without] {
        let mut checked = 0;
        for (facts, mut example) in calls() {
            if facts.account == AccountKinds::Official {
                continue;
            }
            example.request["appId"] = MINI_PROGRAM_APP_ID.into();
            let before = app.count(facts.path);
            let answer = example.call(app).await;
            let refused = answer.as_ref().is_err_and(|status| {
                reason(status) == is(Code::FailedPrecondition, "CLOUD_CALL_NOT_ALLOWED")
            });
            assert_eq!(refused, !facts.cloud, "{}: {answer:?}", facts.path);
            assert_eq!(app.count(facts.path) > before, facts.cloud, "{}", facts.path);
            if let Some(status) = answer.err().filter(|_| refused) {
                let details = status.get_details_error_info().expect("checked above").metadata;
                // Some RPCs need another call first.
                let path = details["path"].as_str();
                assert!(!documented.contains(path) && status.message().contains(path), "{status}");
            }
            checked += 1;
        }
        assert!(checked > documented.len(), "other calls were checked, too");
    }
}

/// Starts a gateway whose mini program calls without a token.
async fn open_interface() -> App {
    let app = App::still_with_token(MINI_PROGRAM_SECRET, "\"open_interface\"").await;
    let cloud = Cloud { tokenless: true, ..Cloud::new(MINI_PROGRAM_APP_ID) };
    app.wechat.add_cloud(cloud).expect("a good container");
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn open_interface_sends_no_token() {
    let app = open_interface().await;
    list(&app).await.expect("a list");
    assert!(app.wechat.calls(LIST_NEARBY)[0].query.is_empty());
    let token = token_of(&app).await;
    assert_eq!((token.kind(), token.present), (TokenKind::OpenInterface, false));
    assert_eq!((app.count(STABLE_TOKEN), app.count(CLASSIC_TOKEN)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_changes_secret_to_container_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cloudbase_access_token");
    let mut app = App::still().await;
    let cloud = Cloud { token_file: Some(file.clone()), ..Cloud::new(MINI_PROGRAM_APP_ID) };
    app.wechat.add_cloud(cloud).expect("a good container");
    list(&app).await.expect("a list");
    assert_eq!(app.count(STABLE_TOKEN), 1);

    let token = format!("token = {{ cloudbase = \"{}\" }}", file.display());
    let secret = format!("secret = \"{MINI_PROGRAM_SECRET}\"");
    app.reload(|settings| settings.replace(&secret, &token));
    while token_of(&app).await.kind() != TokenKind::Cloudbase {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    list(&app).await.expect("a list");
    let calls = app.wechat.calls(LIST_NEARBY);
    assert!(calls.last().expect("two").query.contains_key("cloudbase_access_token"));
}
