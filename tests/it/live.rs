//! Settings that change while the gateway runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, net::TcpStream, time::sleep};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb::{
    AddNearbyPoiRequest, GetAccountRequest, ListAuditEventsRequest, SearchMapPoisRequest,
    WatchAuditEventsRequest, WatchPosition, account_service_client::AccountServiceClient,
    map_poi_service_client::MapPoiServiceClient, watch_audit_events_request::Start,
};

use crate::{
    overdue_reviews::EAGER,
    support::{App, SET_CARD, STABLE_TOKEN, is, nearby_profile, new_map_poi, reason, within},
};

/// Far longer than any change takes.
const SOON: Duration = Duration::from_secs(30);
const SEARCH: &str = "/wxa/search_map_poi";
/// The number of reloads under load.
const RELOADS: u32 = 50;

/// Makes a call that both kinds of accounts can make.
async fn search(channel: &Channel, app_id: &str, token: Option<&str>) -> Result<(), Status> {
    let request = SearchMapPoisRequest {
        app_id: app_id.to_owned(),
        district_id: "440100".to_owned(),
        keyword: "店".to_owned(),
    };
    let request = with_token(request, token);
    MapPoiServiceClient::new(channel.clone()).search_map_pois(request).await.map(drop)
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {token}")).expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Waits until a call ends as expected.
async fn until(
    expected: impl Fn(&Result<(), Status>) -> bool,
    call: impl AsyncFn() -> Result<(), Status>,
) {
    let waiting = async {
        while !expected(&call().await) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(SOON, waiting).await;
}

fn refused_with(wanted: &'static str) -> impl Fn(&Result<(), Status>) -> bool {
    move |result| result.as_ref().is_err_and(|status| reason(status).1 == wanted)
}

/// Removes the section of the second account.
fn without_mini_program(settings: &str) -> String {
    let at = settings.rfind("[[accounts]]").expect("two accounts");
    settings[..at].to_owned()
}

/// Returns a section for a caller with these tokens.
fn caller(role: &str, tokens: &[&str]) -> String {
    let hash = |token: &&str| format!("\"{}\"", hex(&Sha256::digest(token)));
    let hashes = tokens.iter().map(hash).collect::<Vec<_>>().join(", ");
    format!("[[callers]]\nname = \"orders\"\nrole = \"{role}\"\ntokens = [{hashes}]\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn account_is_added_and_removed_without_restart() {
    let mut app = App::start().await;
    let both = app.settings_text().to_owned();
    search(&app.channel, MINI_PROGRAM_APP_ID, None).await.expect("known at the start");
    app.wechat.fault(Fault::new(SEARCH, Kind::Latency { ms: 2_000 }));
    let before = app.count(SEARCH);
    let channel = app.channel.clone();
    let in_flight = tokio::spawn(async move { search(&channel, MINI_PROGRAM_APP_ID, None).await });
    while app.count(SEARCH) == before {
        sleep(Duration::from_millis(1)).await;
    }
    app.reload(without_mini_program);
    let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
    until(refused_with("ACCOUNT_UNKNOWN"), mini).await;
    in_flight.await.expect("no panic").expect("it finishes with the account that it has");
    search(&app.channel, OFFICIAL_APP_ID, None).await.expect("not disturbed");

    app.reload(|_| both.clone());
    let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
    until(Result::is_ok, mini).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_other_call() {
    let mut app = App::start().await;
    let both = app.settings_text().to_owned();
    let (ended, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load = (0..8).map(|_| {
        let (channel, ended, calls) = (app.channel.clone(), ended.clone(), calls.clone());
        tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                search(&channel, OFFICIAL_APP_ID, None).await.expect("not disturbed");
                calls.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load = load.collect::<Vec<_>>();
    for round in 0..RELOADS {
        let before = calls.load(Ordering::Relaxed);
        let there = round % 2 == 1;
        app.reload(|_| if there { both.clone() } else { without_mini_program(&both) });
        let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
        until(|result| result.is_ok() == there, mini).await;
        within(SOON, async {
            while calls.load(Ordering::Relaxed) == before {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    ended.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no call failed");
    }
    assert_eq!(app.count(STABLE_TOKEN), 2, "each account's token stays current");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_token_ends_calls_and_watches() {
    let first = caller("reader", &["first"]);
    let mut app = App::with_sections(&format!("[audit]\ncheckpoint_seconds = 0.1\n{first}")).await;
    let call = async |app: &App, token| search(&app.channel, OFFICIAL_APP_ID, Some(token)).await;
    call(&app, "first").await.expect("known");
    assert!(call(&app, "second").await.is_err());
    let start = Start::Position(WatchPosition::Latest.into());
    let watch = WatchAuditEventsRequest { start: Some(start), ..Default::default() };
    let watch = app.audits().watch_audit_events(with_token(watch, Some("first"))).await;
    let mut watch = watch.expect("a stream").into_inner();

    let both = caller("reader", &["first", "second"]);
    app.reload(|settings| settings.replace(&first, &both));
    until(Result::is_ok, async || call(&app, "second").await).await;
    call(&app, "first").await.expect("still known");
    // Some may have arrived before the change.
    for _ in 0..10 {
        within(SOON, watch.message()).await.expect("not disturbed").expect("a checkpoint");
    }

    let second = caller("reader", &["second"]);
    app.reload(|settings| settings.replace(&both, &second));
    until(refused_with("CALLER_UNKNOWN"), async || call(&app, "first").await).await;
    call(&app, "second").await.expect("it stays");
    let end = within(SOON, async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    });
    assert_eq!(reason(&end.await), is(Code::Unauthenticated, "CALLER_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_caller_keeps_its_spent_rate() {
    let orders = |role: &str| caller(role, &["first"]) + "rate = 1\nburst = 2\n";
    let mut app = App::still_with_sections(&orders("reader")).await;
    let call = async |app: &App| search(&app.channel, OFFICIAL_APP_ID, Some("first")).await;
    for _ in 0..2 {
        call(&app).await.expect("within the burst");
    }
    let start = Start::Position(WatchPosition::Latest.into());
    app.clock.advance(Duration::from_secs(1));
    let watch = WatchAuditEventsRequest { start: Some(start), ..Default::default() };
    let watch = app.audits().watch_audit_events(with_token(watch, Some("first"))).await;
    let mut watch = watch.expect("within the rate").into_inner();
    app.reload(|settings| settings.replace("role = \"reader\"", "role = \"writer\""));
    // The watch ends when the new settings count.
    while within(SOON, watch.message()).await.is_ok() {}
    let status = call(&app).await.expect_err("the burst is spent");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "RATE_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_file_applies_without_signal() {
    let mut app = App::start().await;
    app.rewrite_settings(without_mini_program);
    let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
    until(refused_with("ACCOUNT_UNKNOWN"), mini).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_settings_apply_when_missing_file_comes() {
    let mut app = App::start().await;
    let secret = app.settings_file().with_file_name("secret");
    let added = "wx00000000000000ee";
    let account = format!(
        "[[accounts]]\napp_id = \"{added}\"\nkind = \"official\"\nsecret = {{ file = {secret:?} }}\n"
    );
    app.reload(|settings| format!("{settings}\n{account}"));
    // By then the file has been read, and the settings were refused.
    sleep(Duration::from_millis(1_500)).await;
    let new = async || search(&app.channel, added, None).await;
    assert!(refused_with("ACCOUNT_UNKNOWN")(&new().await));
    std::fs::write(&secret, "a-secret").expect("a file");
    until(|result| !refused_with("ACCOUNT_UNKNOWN")(result), new).await;
    search(&app.channel, OFFICIAL_APP_ID, None).await.expect("not disturbed");
}

/// Kubernetes mounts a ConfigMap as a link to a file below a link to a folder, and replaces the latter.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn replaced_symbolic_link_is_noticed() {
    use std::{fs, os::unix::fs::symlink};

    let app = App::start().await;
    let file = app.settings_file();
    let folder = file.parent().expect("a folder");
    let version = |name: &str, settings: &str| {
        fs::create_dir(folder.join(name)).expect("a folder");
        fs::write(folder.join(name).join("settings.toml"), settings).expect("a file");
        symlink(name, folder.join("..data.new")).expect("a link");
        fs::rename(folder.join("..data.new"), folder.join("..data")).expect("replaced");
    };
    version("v1", app.settings_text());
    fs::remove_file(&file).expect("there");
    symlink("..data/settings.toml", &file).expect("a link");
    search(&app.channel, MINI_PROGRAM_APP_ID, None).await.expect("known");
    version("v2", &without_mini_program(app.settings_text()));
    let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
    until(refused_with("ACCOUNT_UNKNOWN"), mini).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_callers_end_open_watches() {
    let mut app = App::start().await;
    let start = Start::Position(WatchPosition::Latest.into());
    let watch = WatchAuditEventsRequest { start: Some(start), ..Default::default() };
    let watch = app.audits().watch_audit_events(watch).await;
    let mut watch = watch.expect("every caller may watch").into_inner();
    app.reload(|settings| format!("{settings}\n{}", caller("reader", &["first"])));
    let end = within(SOON, async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    });
    assert_eq!(reason(&end.await), is(Code::Unavailable, "CALLER_CHANGED"));
    let status = search(&app.channel, OFFICIAL_APP_ID, None).await.expect_err("not known");
    assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"));
}

/// Adds a key to the section of the second account.
fn mini_program_with(settings: &str, key: &str) -> String {
    let at = settings.rfind("kind = \"mini_program\"").expect("two accounts");
    format!("{}{key}\n{}", &settings[..at], &settings[at..])
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_account_sends_nothing_until_resumed() {
    let mut app = App::start().await;
    let profile = Some(nearby_profile("2708071440732747189"));
    let added = AddNearbyPoiRequest { profile, ..Default::default() };
    let added = app.nearby().add_nearby_poi(added).await.expect("submitted").into_inner();
    let good = app.settings_text().to_owned();
    app.reload(|_| mini_program_with(&good, "paused = true"));
    let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
    until(refused_with("ACCOUNT_PAUSED"), mini).await;
    let status = mini().await.expect_err("paused");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "ACCOUNT_PAUSED"));
    let before = app.count(SEARCH);
    assert!(mini().await.is_err());
    assert_eq!(app.count(SEARCH), before);
    search(&app.channel, OFFICIAL_APP_ID, None).await.expect("another account");
    let request = GetAccountRequest { app_id: MINI_PROGRAM_APP_ID.to_owned() };
    let mut accounts = AccountServiceClient::new(app.channel.clone());
    let found = accounts.get_account(request).await.expect("no call to WeChat").into_inner();
    let account = found.account.expect("an account");
    assert!(account.paused && !account.read_only);
    // WeChat pushes each result only a few times, so a paused account must receive it.
    app.approve(&added.submission.expect("a submission"));
    let request =
        ListAuditEventsRequest { app_id: MINI_PROGRAM_APP_ID.to_owned(), ..Default::default() };
    let pushed = async {
        while app.events(request.clone()).await.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, pushed).await;
    app.reload(|_| good.clone());
    let mini = async || search(&app.channel, MINI_PROGRAM_APP_ID, None).await;
    until(Result::is_ok, mini).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_account_is_neither_polled_nor_recovered() {
    let mut app = App::with_sections(EAGER).await;
    app.add_store("2708071440732747189", "1").await;
    app.wechat.fault(Fault::new("/wxa/create_map_poi", Kind::ResetAfter));
    let lost = app.map_pois().create_map_poi(new_map_poi()).await;
    assert_eq!(reason(&lost.expect_err("no reply")).1, "OUTCOME_UNKNOWN");
    let good = app.settings_text().to_owned();
    let kind = "kind = \"official\"";
    app.reload(|_| good.replacen(kind, &format!("paused = true\n{kind}"), 1));
    let official = async || search(&app.channel, OFFICIAL_APP_ID, None).await;
    until(refused_with("ACCOUNT_PAUSED"), official).await;
    // A call that was already on its way can still arrive.
    sleep(Duration::from_millis(200)).await;
    let before = app.count("*");
    for _ in 0..100 {
        app.clock.advance(Duration::from_secs(5));
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.count("*"), before, "nothing was sent");
    app.reload(|_| good.clone());
    let asked = async {
        while app.count("/wxa/get_store_list") == 0 {
            app.clock.advance(Duration::from_secs(5));
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_account_refuses_writes() {
    let app = App::with("default = true\nread_only = true").await;
    let status = app.write().await.expect_err("a write");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "ACCOUNT_READ_ONLY"));
    assert_eq!(app.count(SET_CARD), 0);
    search(&app.channel, OFFICIAL_APP_ID, None).await.expect("a read");
    let mut accounts = AccountServiceClient::new(app.channel.clone());
    let request = GetAccountRequest { app_id: OFFICIAL_APP_ID.to_owned() };
    let found = accounts.get_account(request).await.expect("known").into_inner();
    assert!(found.account.expect("an account").read_only);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_limits_apply_to_next_calls_and_connections() {
    let mut app = App::start().await;
    app.wechat.fault(Fault::new(SEARCH, Kind::Hold).times(0));
    let good = app.settings_text().to_owned();
    let limits = "[limits]\ndefault_deadline_ms = 50\nconnections = 1\nconnections_per_address = 1";
    app.reload(|_| format!("{limits}\n{good}"));
    let call = async || search(&app.channel, OFFICIAL_APP_ID, None).await;
    until(refused_with("DEADLINE_EXCEEDED"), call).await;
    // The connection of this test is the only one.
    let mut further = TcpStream::connect(app.address).await.expect("it listens");
    let mut read = Vec::new();
    // It is closed or reset.
    let _ = within(SOON, further.read_to_end(&mut read)).await;
    assert!(read.is_empty(), "no connection was served");

    app.reload(|_| good.clone());
    let connect = async || {
        let channel = Channel::from_shared(format!("http://{}", app.address)).expect("a URL");
        channel.connect().await.map(drop).map_err(|error| Status::from_error(Box::new(error)))
    };
    until(Result::is_ok, connect).await;
}
