//! WeChat's quotas: a spent quota stops calls, and a restored one is detected.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::{pb, testing::Clock};

use crate::support::{App, GET_CARD, SET_CARD, is, png, reason};

const UPLOAD: &str = "/cgi-bin/media/upload";
const DAY: u64 = 24 * 3600;
const PROBE_PAUSE: Duration = Duration::from_secs(300);

/// Returns the time until midnight in China.
fn until_midnight(clock: &Clock) -> Duration {
    Duration::from_secs(DAY - (clock.unix() + 8 * 3600) % DAY)
}

/// Starts a gateway at noon in China, with a clock that stands still.
async fn at_noon() -> App {
    noon(App::still().await)
}

fn noon(app: App) -> App {
    app.clock.advance(until_midnight(&app.clock) + Duration::from_secs(DAY / 2));
    app
}

fn limit(app: &App, app_id: &str, path: &str, daily_limit: u64) {
    let limit = json!({"app_id": app_id, "path": path, "daily_limit": daily_limit});
    app.wechat.control("POST", "quota", &limit).expect("a limit");
}

/// Checks that WeChat processed the call: the store does not exist.
fn taken(result: Result<String, Status>) {
    let status = result.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
}

/// Checks that the quota of the call is spent, and returns the retry delay in seconds.
fn spent(result: Result<String, Status>, expected: &str) -> i64 {
    let status = result.expect_err("spent");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, expected));
    let failure = status.get_details_quota_failure().expect("a quota");
    assert_eq!(failure.violations[0].subject, GET_CARD);
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!((&*info.metadata["path"], &*info.metadata["fix_by"]), (GET_CARD, "wait"));
    assert!(info.metadata["errcode"].starts_with("450") && !info.metadata["errmsg"].is_empty());
    assert!(status.get_details_localized_message().is_some());
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let wait = wait.expect("when to come back").as_secs();
    i64::try_from(wait).expect("some seconds")
}

fn spent_today(result: Result<String, Status>) -> i64 {
    spent(result, "DAILY_QUOTA_SPENT")
}

async fn reads(app: &App, count: usize) -> Vec<Result<String, Status>> {
    join_all((0..count).map(|_| app.read())).await
}

/// Makes three calls that pass and one that WeChat refuses.
async fn spend(app: &App) {
    limit(app, OFFICIAL_APP_ID, GET_CARD, 3);
    for _ in 0..3 {
        taken(app.read().await);
    }
    assert_eq!(spent_today(app.read().await), 300);
    assert_eq!(app.count(GET_CARD), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_quota_stops_further_calls() {
    let app = at_noon().await;
    spend(&app).await;
    for result in reads(&app, 20).await {
        assert!((1..=300).contains(&spent_today(result)));
    }
    assert_eq!(app.count(GET_CARD), 4);
    app.write().await.expect_err("there is no such store");
    assert_eq!(app.count(SET_CARD), 1, "another call has a quota of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_is_per_account() {
    let app = at_noon().await;
    limit(&app, OFFICIAL_APP_ID, UPLOAD, 0);
    let upload = async |app_id: &str| {
        let (app_id, content) = (app_id.to_owned(), png().into());
        let request = pb::UploadTemporaryImageRequest { app_id, content, ..Default::default() };
        app.media().upload_temporary_image(request).await
    };
    for _ in 0..3 {
        let status = upload(OFFICIAL_APP_ID).await.expect_err("spent");
        assert_eq!(reason(&status), is(Code::ResourceExhausted, "DAILY_QUOTA_SPENT"));
        upload(MINI_PROGRAM_APP_ID).await.expect("taken");
    }
    assert_eq!(app.count(UPLOAD), 1 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_quota_is_probed_every_five_minutes() {
    let app = at_noon().await;
    spend(&app).await;
    for tried in 1..=2 {
        app.clock.advance(PROBE_PAUSE);
        // This call is running while the others arrive.
        app.wechat.fault(Fault::new(GET_CARD, Kind::Latency { ms: 300 }));
        for result in reads(&app, 20).await {
            assert_eq!(spent_today(result), 300);
        }
        assert_eq!(app.count(GET_CARD), 4 + tried);
    }

    limit(&app, OFFICIAL_APP_ID, GET_CARD, 1_000);
    spent_today(app.read().await);
    assert_eq!(app.count(GET_CARD), 6, "the restored quota is not known yet");
    app.clock.advance(PROBE_PAUSE);
    taken(app.read().await);
    for result in reads(&app, 20).await {
        taken(result);
    }
    assert_eq!(app.count(GET_CARD), 6 + 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_probe_does_not_clear_quota() {
    // This clock runs, because the call is repeated after pauses.
    let app = noon(App::start().await);
    spend(&app).await;
    app.clock.advance(PROBE_PAUSE);
    app.wechat.fault(Fault::new(GET_CARD, Kind::ResetBefore).times(3));
    let status = app.read().await.expect_err("lost");
    assert_eq!(reason(&status), is(Code::Unavailable, "WECHAT_UNREACHABLE"));
    assert_eq!(app.count(GET_CARD), 4 + 3, "to its caller a call like any other");
    spent_today(app.read().await);
    assert_eq!(app.count(GET_CARD), 4 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn daily_quota_resets_at_midnight_in_china() {
    let app = at_noon().await;
    spend(&app).await;
    app.clock.advance(until_midnight(&app.clock) - Duration::from_secs(60));
    assert!(spent_today(app.read().await) <= 60);
    assert_eq!(app.count(GET_CARD), 5, "the probe");
    assert!(spent_today(app.read().await) <= 60);
    app.clock.advance(until_midnight(&app.clock));
    for result in reads(&app, 3).await {
        taken(result);
    }
    assert_eq!(app.count(GET_CARD), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn minute_quota_resets_in_next_minute() {
    let app = at_noon().await;
    app.wechat.refuse_next(GET_CARD, 45011);
    for _ in 0..5 {
        assert!(spent(app.read().await, "MINUTE_QUOTA_SPENT") <= 60);
    }
    assert_eq!(app.count(GET_CARD), 1);
    app.write().await.expect_err("there is no such store");
    assert_eq!(app.count(SET_CARD), 1, "another call has a quota of its own");
    app.clock.advance(Duration::from_secs(60 - app.clock.unix() % 60));
    for result in reads(&app, 3).await {
        taken(result);
    }
    assert_eq!(app.count(GET_CARD), 4);
}
