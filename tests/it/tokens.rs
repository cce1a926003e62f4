//! Access tokens: as few calls as possible, and never an older token in place of a newer one.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{
    App, CLASSIC_TOKEN, GET_CARD, SET_CARD, STABLE_TOKEN, is, reason, with_deadline, within,
};

const LONG: Duration = Duration::from_secs(60);

/// Checks that the token was valid: WeChat searched the store, which does not exist.
fn accepted(result: Result<String, Status>) {
    let status = result.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
}

fn card() -> pb::SetStoreCardRequest {
    let (poi_id, card_id) = ("1".to_owned(), "pabc".to_owned());
    pb::SetStoreCardRequest { poi_id, card_id, ..Default::default() }
}

/// Makes a thousand concurrent reads that wait as long as a busy machine needs.
async fn thousand_reads(app: &App) -> Vec<Result<String, Status>> {
    let read = async || {
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        let answer = app.cards().get_store_card(with_deadline(request, LONG)).await?;
        Ok(answer.into_inner().card_id)
    };
    within(LONG, join_all((0..1_000).map(|_| read()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_token_is_fetched_once_for_many_callers() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 300 }));
    for result in thousand_reads(&app).await {
        accepted(result);
    }
    assert_eq!(app.count(STABLE_TOKEN), 1);
    assert_eq!(app.count(GET_CARD), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_token_is_fetched_once_for_many_callers() {
    let app = App::start().await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(7_201));
    for result in thousand_reads(&app).await {
        accepted(result);
    }
    assert_eq!(app.count(STABLE_TOKEN), 2);
    assert_eq!(app.count(GET_CARD), 1_001, "no call used the old token");
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_continues_after_first_caller_leaves() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 500 }));
    let first = tokio::time::timeout(Duration::from_millis(100), app.read()).await;
    assert!(first.is_err(), "it hung up");
    accepted(within(LONG, app.read()).await);
    assert_eq!(app.count(STABLE_TOKEN), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refused_calls_cause_one_refresh() {
    let app = App::with("default = true\ntoken = \"classic\"").await;
    accepted(app.read().await);
    // Another process makes a token, which ends the gateway's token five minutes later.
    app.take_classic_token().await;
    app.clock.advance(Duration::from_secs(301));
    for result in thousand_reads(&app).await {
        accepted(result);
    }
    assert_eq!(app.count(CLASSIC_TOKEN), 3, "the first one, the other process's, one refresh");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_refusal_of_older_token_is_ignored() {
    let app = App::with("default = true\ntoken = \"classic\"").await;
    accepted(app.read().await);
    app.take_classic_token().await;
    app.clock.advance(Duration::from_secs(301));
    // The call is refused immediately, but the refusal arrives only after another call has caused
    // the refresh.
    app.wechat.fault(Fault::new(SET_CARD, Kind::Latency { ms: 1_000 }));
    let mut cards = app.cards();
    let late = tokio::spawn(async move { cards.set_store_card(card()).await });
    while app.count(SET_CARD) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    accepted(app.read().await);
    // All of WeChat's machines accept the new token by now.
    app.clock.advance(Duration::from_secs(10));
    let status = within(LONG, late).await.expect("no panic").expect_err("no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    assert_eq!(app.count(CLASSIC_TOKEN), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_life_counts_from_its_request() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 500 }));
    let mut cards = app.cards();
    let early = tokio::spawn(async move { cards.set_store_card(card()).await });
    while app.count(STABLE_TOKEN) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The answer takes nearly as long as the token lives.
    app.clock.advance(Duration::from_secs(7_100));
    early.await.expect("no panic").expect_err("its deadline has passed");
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(101));
    accepted(app.read().await);
    assert_eq!(app.count(GET_CARD), 2, "no call was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_a_daily_budget() {
    let app = App::start().await;
    let body = json!({"access_token": "t", "expires_in": 1});
    app.fault(STABLE_TOKEN, Kind::Replace { body });
    app.fault(GET_CARD, Kind::Errcode { errcode: 65115, errmsg: None });
    for _ in 0..1_000 {
        accepted(app.read().await);
        app.clock.advance(Duration::from_secs(2));
    }
    let status = app.read().await.expect_err("the budget is spent");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "TOKEN_BUDGET_SPENT"));
    assert_eq!(app.count(STABLE_TOKEN), 1_000);
    app.clock.advance(Duration::from_secs(24 * 3600));
    accepted(app.read().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_renewed_early_without_waiting() {
    let app = App::start().await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(7_200 - 200));
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 1_000 }));
    within(Duration::from_millis(900), async { accepted(app.read().await) }).await;
    let renewed = async {
        while app.count(STABLE_TOKEN) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(LONG, renewed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_token_is_used_while_renewal_fails() {
    let app = App::start().await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(7_200 - 200));
    app.fault(STABLE_TOKEN, Kind::Errcode { errcode: 40164, errmsg: None });
    for _ in 0..20 {
        accepted(app.read().await);
    }
    assert!(app.count(STABLE_TOKEN) <= 2, "a failure is not repeated at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secret_is_tried_once_per_pause() {
    let app = App::start().await;
    app.fault(STABLE_TOKEN, Kind::Errcode { errcode: 40001, errmsg: None });
    for result in thousand_reads(&app).await {
        let status = result.expect_err("there is no token");
        assert_eq!(reason(&status), is(Code::FailedPrecondition, "APP_SECRET_INVALID"));
    }
    assert_eq!(app.count(STABLE_TOKEN), 1);
    assert_eq!(app.count(GET_CARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn account_recovers_without_help() {
    let app = App::start().await;
    app.wechat.refuse_next(STABLE_TOKEN, 40164);
    let status = app.read().await.expect_err("there is no token");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "IP_NOT_ALLOWED"));
    app.clock.advance(Duration::from_secs(61));
    accepted(app.read().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn account_recovers_after_many_failures() {
    let app = App::start().await;
    app.fault(STABLE_TOKEN, Kind::Errcode { errcode: 40164, errmsg: None });
    // Most of a day, and more failures than the number of tokens allowed per day.
    for _ in 0..1_100 {
        let status = app.read().await.expect_err("there is no token");
        assert_eq!(reason(&status), is(Code::FailedPrecondition, "IP_NOT_ALLOWED"));
        app.clock.advance(Duration::from_secs(61));
    }
    app.wechat.control("DELETE", "faults", &json!({})).expect("no faults");
    accepted(app.read().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn excessive_token_life_is_limited() {
    let app = App::start().await;
    let forever = json!({"access_token": "x", "expires_in": i64::MAX});
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Replace { body: forever }));
    let status = app.read().await.expect_err("the simulator does not know this token");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_REFUSED"));
    app.clock.advance(Duration::from_secs(7_200));
    accepted(app.read().await);
    assert_eq!(app.count(STABLE_TOKEN), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_token_endpoint_is_retried() {
    let app = App::start().await;
    app.wechat
        .fault(Fault::new(STABLE_TOKEN, Kind::Errcode { errcode: -1, errmsg: None }).times(2));
    accepted(app.read().await);
    let asked = app.wechat.calls(STABLE_TOKEN);
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].body["grant_type"], "client_credential");
}

#[tokio::test(flavor = "multi_thread")]
async fn persistently_refused_token_is_not_fetched_in_loop() {
    let app = App::with("default = true\nforce_refresh = true").await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(60));
    app.fault(GET_CARD, Kind::Errcode { errcode: 40001, errmsg: None });
    let status = app.read().await.expect_err("every token is refused");
    assert_eq!(app.count(GET_CARD), 2, "the same value is not tried again");
    let info = status.get_details_error_info().expect("a reason");
    for (key, value) in [
        ("errcode", "40001"),
        ("path", GET_CARD),
        ("fix_by", "operator"),
        ("app_id", OFFICIAL_APP_ID),
    ] {
        assert_eq!(info.metadata[key], value);
    }
    for _ in 0..3 {
        for result in join_all((0..50).map(|_| app.read())).await {
            let status = result.expect_err("every token is refused");
            assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_REFUSED"));
        }
    }
    let asked = app.wechat.calls(STABLE_TOKEN);
    assert_eq!(asked.len(), 2, "the first one, and one that brought the same value");
    assert!(asked.iter().all(|call| call.body["force_refresh"] == false));
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_refresh_needs_setting_and_two_endpoints() {
    for (allowed, forced) in [(true, 1), (false, 0)] {
        let app = App::with(&format!("default = true\nforce_refresh = {allowed}")).await;
        accepted(app.read().await);
        app.clock.advance(Duration::from_secs(60));
        app.fault("*", Kind::Errcode { errcode: 40001, errmsg: None });
        app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 1 }).times(0));
        app.read().await.expect_err("refused");
        app.write().await.expect_err("refused");
        for _ in 0..20 {
            app.read().await.expect_err("refused");
            app.write().await.expect_err("refused");
        }
        let calls = app.wechat.calls(STABLE_TOKEN);
        let count = calls.iter().filter(|call| call.body["force_refresh"] == true).count();
        assert_eq!(count, forced, "allowed: {allowed}");
        assert!(calls.len() <= 4, "{}", calls.len());
    }
}

/// Returns the number of forced token calls.
fn forced(app: &App) -> usize {
    let calls = app.wechat.calls(STABLE_TOKEN);
    calls.iter().filter(|call| call.body["force_refresh"] == true).count()
}

/// Calls two endpoints in turn. Both refuse the token.
async fn both_refuse(app: &App) {
    app.read().await.expect_err("refused");
    app.write().await.expect_err("refused");
}

/// Lets every call except those for tokens be refused, starting in a minute.
async fn refusing(app: &App) {
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(60));
    app.fault("*", Kind::Errcode { errcode: 40001, errmsg: None });
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 1 }).times(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_refreshes_are_limited_per_day() {
    let app = App::with("default = true\nforce_refresh = true").await;
    refusing(&app).await;
    for _ in 0..8 {
        both_refuse(&app).await;
        app.clock.advance(Duration::from_secs(3_600));
    }
    assert_eq!(forced(&app), 4);
    app.clock.advance(Duration::from_secs(24 * 3_600));
    // The first call finds the token expired.
    both_refuse(&app).await;
    app.clock.advance(Duration::from_secs(60));
    both_refuse(&app).await;
    assert_eq!(forced(&app), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_refreshes_have_a_pause() {
    let app = App::with("default = true\nforce_refresh = true").await;
    refusing(&app).await;
    both_refuse(&app).await;
    assert_eq!(forced(&app), 1);
    // Long enough for the new token to be accepted everywhere, and too soon for another forced
    // refresh.
    app.clock.advance(Duration::from_secs(5));
    both_refuse(&app).await;
    assert_eq!(forced(&app), 1);
    app.clock.advance(Duration::from_secs(30));
    both_refuse(&app).await;
    both_refuse(&app).await;
    assert_eq!(forced(&app), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_far_apart_force_no_refresh() {
    let app = App::with("default = true\nforce_refresh = true").await;
    refusing(&app).await;
    app.read().await.expect_err("refused");
    app.clock.advance(Duration::from_secs(61));
    app.write().await.expect_err("refused");
    app.write().await.expect_err("refused");
    assert_eq!(forced(&app), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_forced_refresh_is_not_repeated() {
    let app = App::with("default = true\nforce_refresh = true").await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(60));
    app.fault("*", Kind::Errcode { errcode: 40001, errmsg: None });
    // One call that returns the same token, and then the forced one.
    app.wechat.fault(Fault::new(STABLE_TOKEN, Kind::Latency { ms: 1 }));
    app.fault(STABLE_TOKEN, Kind::Errcode { errcode: -1, errmsg: None });
    both_refuse(&app).await;
    assert_eq!(forced(&app), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_soon_after_refresh_retries_same_token() {
    let app = App::start().await;
    app.wechat.refuse_next(GET_CARD, 40001);
    let started = app.clock.now();
    accepted(app.read().await);
    assert!(app.clock.now() - started >= Duration::from_millis(400), "WeChat has time to learn");
    assert_eq!(app.count(STABLE_TOKEN), 1);
    assert_eq!(app.count(GET_CARD), 2);

    app.fault(GET_CARD, Kind::Errcode { errcode: 40001, errmsg: None });
    let status = app.read().await.expect_err("refused three times");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_REFUSED"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["app_id"], OFFICIAL_APP_ID);
    assert_eq!(app.count(GET_CARD), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_refresh_does_not_replace_newer_token() {
    let app = App::with("default = true\ntoken = \"classic\"").await;
    // The first answer comes after the limit. The next attempt returns the newer token.
    app.wechat.fault(Fault::new(CLASSIC_TOKEN, Kind::Latency { ms: 6_000 }));
    accepted(within(LONG, app.read()).await);
    assert_eq!(app.count(CLASSIC_TOKEN), 2);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // From now on, the older token would be refused.
    app.clock.advance(Duration::from_secs(301));
    accepted(app.read().await);
    assert_eq!(app.count(CLASSIC_TOKEN), 2);
    assert_eq!(app.count(GET_CARD), 2);
}
