//! Accounts as an operator sees them: the state of the token, spent quotas and open work.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tonic::{Code, Request, Response, Status, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{
    self, Account, AccountBacklog, AccountKind, ErrorReason, TokenKind,
    account_service_client::AccountServiceClient,
};

use crate::{
    access::{bearer, caller},
    secrets::QUOTED_PHONE,
    support::{App, GET_CARD, STABLE_TOKEN, is, new_store, reason},
};

const ADD_STORE: &str = "/wxa/add_store";
const PLACE: &str = "2708071440732747189";
const MINUTE: Duration = Duration::from_secs(60);

impl App {
    fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel.clone())
    }

    /// Returns the default account and its open work.
    async fn account(&self) -> (Account, AccountBacklog) {
        let request = pb::GetAccountRequest::default();
        let found = self.accounts().get_account(request).await.expect("an account").into_inner();
        (found.account.expect("one"), found.backlog.expect("a readable state"))
    }

    async fn token(&self) -> pb::AccountToken {
        self.account().await.0.token.expect("always there")
    }
}

fn seconds(time: Option<prost_types::Timestamp>) -> u64 {
    let time = SystemTime::try_from(time.expect("a time")).expect("after 1970");
    time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn account_shows_its_settings() {
    let app = App::with("default = true\ntoken = \"classic\"").await;
    let (account, backlog) = app.account().await;
    assert_eq!(account.app_id, OFFICIAL_APP_ID);
    assert_eq!((account.kind(), account.default_of_kind), (AccountKind::Official, true));
    assert_eq!(account.token.expect("always there").kind(), TokenKind::Classic);
    assert!(account.receives_pushes);
    assert_eq!(account.wechat_host, format!("http://{}", app.host));
    assert_eq!(backlog, AccountBacklog::default());

    let app_id = MINI_PROGRAM_APP_ID.to_owned();
    let request = pb::GetAccountRequest { app_id: app_id.clone() };
    let found = app.accounts().get_account(request).await.expect("an account").into_inner();
    let account = found.account.expect("one");
    assert_eq!((account.app_id.clone(), account.kind()), (app_id, AccountKind::MiniProgram));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_described_and_never_shown() {
    let app = App::still().await;
    let token = app.token().await;
    assert_eq!((token.present, token.generation, token.kind()), (false, 0, TokenKind::Stable));
    assert_eq!(app.count(STABLE_TOKEN), 0, "GetAccount fetches no token");

    app.read().await.expect_err("there is no such store");
    let fetched = app.clock.unix();
    app.clock.advance(MINUTE);
    let (account, _) = app.account().await;
    let shown = format!("{account:?}");
    let token = account.token.expect("always there");
    assert_eq!((token.present, token.generation), (true, 1));
    assert_eq!(seconds(token.fetch_time), fetched);
    assert_eq!(seconds(token.expire_time), fetched + 7200);
    assert_eq!(token.last_failure, None);
    // The simulator's tokens have 136 characters, and every text of the account is far shorter.
    assert!(shown.split('"').skip(1).step_by(2).all(|text| text.len() < 100), "{shown}");

    app.clock.advance(Duration::from_secs(7200));
    let token = app.token().await;
    assert_eq!((token.present, token.generation), (false, 1));
    assert_eq!((token.fetch_time, token.expire_time), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_address_is_named_for_the_whitelist() {
    let app = App::still().await;
    let errmsg = format!(
        "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist, call {QUOTED_PHONE}"
    );
    let errmsg = Some(errmsg);
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Errcode { errcode: 40164, errmsg }));
    app.read().await.expect_err("no token");
    let failed = app.clock.unix();
    app.clock.advance(Duration::from_secs(1));

    let token = app.token().await;
    assert!(!token.present);
    let failure = token.last_failure.expect("a failure");
    assert_eq!(failure.reason(), ErrorReason::IpNotAllowed);
    assert_eq!((failure.wechat_errcode, &*failure.refused_ip), (Some(40164), "203.0.113.7"));
    assert!(failure.wechat_errmsg.contains("not in whitelist, call [phone]"), "{failure:?}");
    assert!(failure.wechat_errmsg.ends_with(&format!("rid: {}", failure.wechat_rid)));
    assert!(!failure.wechat_rid.is_empty() && !failure.message.contains(QUOTED_PHONE));
    assert_eq!(seconds(failure.time), failed);
    assert_eq!(seconds(failure.retry_time), failed + 60);

    app.clock.advance(MINUTE);
    app.read().await.expect_err("there is no such store");
    let token = app.token().await;
    assert!(token.present);
    let kept = token.last_failure.expect("the failure before");
    assert_eq!((kept.retry_time, kept.refused_ip), (None, failure.refused_ip));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_token_endpoint_has_no_wechat_words() {
    let app = App::start().await;
    app.fault(STABLE_TOKEN, Kind::ResetBefore);
    app.read().await.expect_err("no token");
    let failure = app.token().await.last_failure.expect("a failure");
    assert_eq!(failure.reason(), ErrorReason::TokenUnavailable);
    assert_eq!(failure.wechat_errcode, None);
    assert_eq!((&*failure.wechat_errmsg, &*failure.refused_ip), ("", ""));
    assert!(failure.message.starts_with("no access token: "), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_quota_is_shown_until_its_end() {
    let app = App::still().await;
    assert_eq!(app.account().await.0.spent_quotas, []);
    let limit = json!({"app_id": OFFICIAL_APP_ID, "path": GET_CARD, "daily_limit": 0});
    app.wechat.control("POST", "quota", &limit).expect("a limit");
    app.read().await.expect_err("spent");

    let spent = app.account().await.0.spent_quotas;
    let midnight = {
        let (day, china) = (24 * 3600, 8 * 3600);
        let now = app.clock.unix();
        now + day - (now + china) % day
    };
    let shown = (spent[0].path.as_str(), spent[0].wechat_errcode, seconds(spent[0].end_time));
    assert_eq!((spent.len(), shown), (1, (GET_CARD, Some(45009), midnight)));
    app.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(app.account().await.0.spent_quotas, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_counts_submissions_and_unknown_writes() {
    let app = App::still_with_sections("[audit]\noverdue_after_hours = 24").await;
    let first = app.add_store(PLACE, "1").await;
    app.clock.advance(Duration::from_secs(23 * 3600));
    let other = app.places(2).await.pop().expect("a place");
    app.add_store(&other, "2").await;
    app.clock.advance(Duration::from_secs(2 * 3600));
    app.wechat.fault(Fault::new(ADD_STORE, Kind::ResetBefore));
    let lost = app.stores().add_store(new_store("2880741500279549033", "3")).await;
    assert_eq!(reason(&lost.expect_err("lost")), is(Code::Unknown, "OUTCOME_UNKNOWN"));

    let (_, backlog) = app.account().await;
    let AccountBacklog {
        open_submission_count,
        overdue_submission_count,
        oldest_submission_id,
        oldest_submission_time,
        unknown_write_count,
    } = backlog;
    assert_eq!((open_submission_count, overdue_submission_count, unknown_write_count), (2, 1, 1));
    assert_eq!(
        (oldest_submission_id, oldest_submission_time),
        (first.submission_id.clone(), first.create_time)
    );

    app.approve(&first);
    while app.account().await.1.open_submission_count > 1 {
        tokio::task::yield_now().await;
    }
    let (account, backlog) = app.account().await;
    assert_eq!(backlog.overdue_submission_count, 0);
    assert_eq!(seconds(account.last_push_time), app.clock.unix(), "the push about the review");
    let request = pb::GetAccountRequest { app_id: MINI_PROGRAM_APP_ID.to_owned() };
    let other = app.accounts().get_account(request).await.expect("an account").into_inner();
    assert_eq!(other.backlog, Some(AccountBacklog::default()), "of another account");
    assert_eq!(other.account.expect("one").last_push_time, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_hides_only_the_backlog() {
    let app = App::start().await;
    app.account().await;
    app.open_state().execute_batch("DROP TABLE submissions").expect("dropped");
    let request = pb::GetAccountRequest::default();
    let found = app.accounts().get_account(request).await.expect("an account").into_inner();
    assert_eq!(
        (found.account.expect("one").app_id.as_str(), found.backlog),
        (OFFICIAL_APP_ID, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn list_has_only_accounts_of_the_caller() {
    let sections = [
        caller("all", "role = \"reader\""),
        caller("mini", &format!("roles = {{ {MINI_PROGRAM_APP_ID} = \"reader\" }}")),
    ];
    let app = App::with_sections(&sections.concat()).await;
    let list = async |caller: &str, request: pb::ListAccountsRequest| {
        let mut request = Request::new(request);
        let proof = MetadataValue::try_from(bearer(caller)).expect("ASCII");
        request.metadata_mut().insert("authorization", proof);
        let page = app.accounts().list_accounts(request).await.expect("accounts").into_inner();
        let ids: Vec<_> = page.accounts.into_iter().map(|account| account.app_id).collect();
        (ids, page.next_page_token)
    };
    let both = [OFFICIAL_APP_ID, MINI_PROGRAM_APP_ID];
    assert_eq!(list("all", Default::default()).await.0, both);
    assert_eq!(list("mini", Default::default()).await.0, [MINI_PROGRAM_APP_ID]);

    let one =
        |page_token| pb::ListAccountsRequest { page_size: 1, page_token, ..Default::default() };
    let (ids, next) = list("all", one(String::new())).await;
    assert_eq!(ids, [OFFICIAL_APP_ID]);
    let (ids, last) = list("all", one(next)).await;
    assert_eq!((ids, &*last), (vec![MINI_PROGRAM_APP_ID.to_owned()], ""));
    let named =
        pb::ListAccountsRequest { app_id: OFFICIAL_APP_ID.to_owned(), ..Default::default() };
    assert_eq!(list("all", named).await.0, [OFFICIAL_APP_ID]);
}

const QUOTA: &str = "/cgi-bin/openapi/quota/get";
const CLEAR: &str = "/cgi-bin/clear_quota";
const CLEAR_BY_SECRET: &str = "/cgi-bin/clear_quota/v2";
const NAME: &str = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d";

impl App {
    async fn quota(&self, path: &str) -> Result<pb::GetQuotaResponse, Status> {
        let request = pb::GetQuotaRequest { path: path.to_owned(), ..Default::default() };
        self.accounts().get_quota(request).await.map(Response::into_inner)
    }

    /// Clears the quotas of the default account, and returns whether the response is a recovered one.
    async fn clear(&self, request_id: &str, use_secret: bool) -> Result<bool, Status> {
        let (app_id, request_id) = (String::new(), request_id.to_owned());
        let request = pb::ClearQuotaRequest { app_id, request_id, use_secret };
        Ok(self.accounts().clear_quota(request).await?.into_inner().recovered)
    }

    fn limit_reads(&self, daily_limit: u64) {
        let limit =
            json!({"app_id": OFFICIAL_APP_ID, "path": GET_CARD, "daily_limit": daily_limit});
        self.wechat.control("POST", "quota", &limit).expect("a limit");
    }

    /// Reads a card of a store that does not exist. Returns the reason of the failure.
    async fn read_reason(&self) -> String {
        reason(&self.read().await.expect_err("there is no such store")).1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cleared_quota_serves_calls_at_once() {
    for use_secret in [false, true] {
        let app = App::still().await;
        app.limit_reads(2);
        for expected in ["STORE_NOT_FOUND", "STORE_NOT_FOUND", "DAILY_QUOTA_SPENT"] {
            assert_eq!(app.read_reason().await, expected);
        }
        let quota = app.quota(GET_CARD).await.expect("a quota");
        assert_eq!((quota.daily_limit, quota.used_count, quota.remaining_count), (2, 2, 0));
        assert_eq!((quota.rate_limit, quota.component_rate_limit), (None, None));

        assert!(!app.clear("", use_secret).await.expect("cleared"));
        let quota = app.quota(GET_CARD).await.expect("a quota");
        assert_eq!((quota.used_count, quota.remaining_count), (0, 2));
        assert_eq!(app.account().await.0.spent_quotas, []);
        assert_eq!(app.read_reason().await, "STORE_NOT_FOUND");
        assert_eq!(app.quota(GET_CARD).await.expect("a quota").used_count, 1);
        let used = if use_secret { CLEAR_BY_SECRET } else { CLEAR };
        assert_eq!(app.count(CLEAR) + app.count(CLEAR_BY_SECRET), app.count(used));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_keeps_the_quota_of_a_minute() {
    let app = App::still().await;
    app.wechat.refuse_next(GET_CARD, 45011);
    assert_eq!(app.read_reason().await, "MINUTE_QUOTA_SPENT");
    app.clear("", false).await.expect("cleared");
    assert_eq!(app.read_reason().await, "MINUTE_QUOTA_SPENT");
    assert_eq!(app.count(GET_CARD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn eleventh_clear_in_a_month_is_refused() {
    let app = App::start().await;
    for number in 0..10 {
        app.clear("", number % 2 == 0).await.expect("one of ten");
    }
    for use_secret in [false, true] {
        let status = app.clear("", use_secret).await.expect_err("both forms share the ten");
        assert_eq!(reason(&status), is(Code::ResourceExhausted, "CLEAR_QUOTA_SPENT"));
    }
    let request =
        pb::ClearQuotaRequest { app_id: MINI_PROGRAM_APP_ID.to_owned(), ..Default::default() };
    app.accounts().clear_quota(request).await.expect("another account has its own ten");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_clear_is_sent_once() {
    let app = App::start().await;
    for _ in 0..3 {
        assert!(!app.clear(NAME, false).await.expect("cleared"));
    }
    assert_eq!(app.count(CLEAR), 1);
    let status = app.clear(NAME, true).await.expect_err("another request");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "REQUEST_ID_REUSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_clear_waits_for_an_operator() {
    for (path, use_secret) in [(CLEAR, false), (CLEAR_BY_SECRET, true)] {
        let app = App::still().await;
        app.wechat.fault(Fault::new(path, Kind::ResetAfter));
        let mut write_id = String::new();
        for _ in 0..2 {
            let status = app.clear(NAME, use_secret).await.expect_err("lost");
            assert_eq!(reason(&status), is(Code::Unknown, "OUTCOME_UNKNOWN"));
            write_id = status.get_details_error_info().expect("checked above").metadata["write_id"]
                .clone();
            app.clock.advance(MINUTE);
        }
        assert_eq!(app.count(path), 1);
        let resolve = pb::ResolveWriteRequest {
            write_id,
            resolution: pb::WriteResolution::Executed.into(),
            ..Default::default()
        };
        app.writes().resolve_write(resolve).await.expect("resolved");
        assert!(app.clear(NAME, use_secret).await.expect("known"));
        assert_eq!(app.count(path), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_clears_without_a_token() {
    let app = App::start().await;
    app.fault(STABLE_TOKEN, Kind::Errcode { errcode: 45009, errmsg: None });
    let status = app.clear("", false).await.expect_err("no token");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "DAILY_QUOTA_SPENT"));
    assert_eq!(app.count(CLEAR), 0);
    let tokens = app.count(STABLE_TOKEN);
    app.clear("", true).await.expect("cleared");
    assert_eq!(app.count(STABLE_TOKEN), tokens, "no token is fetched for it");
    let call = app.wechat.calls(CLEAR_BY_SECRET).remove(0);
    assert!(call.query.is_empty(), "{call:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_secret_is_not_a_token_fault() {
    let app = App::start().await;
    for code in [40001, 40125] {
        app.wechat.refuse_next(CLEAR_BY_SECRET, code);
        let status = app.clear("", true).await.expect_err("refused");
        assert_eq!(reason(&status), is(Code::FailedPrecondition, "APP_SECRET_INVALID"), "{code}");
    }
    assert_eq!((app.count(CLEAR_BY_SECRET), app.count(STABLE_TOKEN)), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn path_without_quota_is_refused() {
    let app = App::start().await;
    for path in ["/wxa/no_such_call", STABLE_TOKEN] {
        let status = app.quota(path).await.expect_err("no quota");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "QUOTA_PATH_UNKNOWN"), "{path}");
    }
    let called = app.count(QUOTA);
    for path in
        ["", "wxa/add_store", "https://api.weixin.qq.com/wxa/add_store", "//a", "/a?b", "/a b"]
    {
        let status = app.quota(path).await.expect_err("not a path");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"), "{path}");
    }
    assert_eq!(app.count(QUOTA), called);
}
