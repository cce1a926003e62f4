//! What `/metrics` shows after calls, failures and pushes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tonic::Streaming;
use wechat_simulator::{Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::{
    pb::{self, watch_audit_events_request::Start},
    testing::metrics::{INSTRUMENTS, Instrument},
};

use crate::{
    access::caller,
    listen_tls::Files,
    support::{
        App, CALLBACK_TOKEN, GET_CARD, MINI_PROGRAM_AES_KEY, SET_CARD, STABLE_TOKEN,
        nearby_profile, new_store, with_deadline, within,
    },
};

const ADD_STORE: &str = "/wxa/add_store";

const SOON: Duration = Duration::from_secs(10);

/// The labels of a series.
type Labels = BTreeMap<String, String>;

/// One family of `/metrics`.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// The name, the labels and the value of each line.
    series: Vec<(String, Labels, f64)>,
}

/// The parsed text of `/metrics`.
#[derive(Debug)]
pub(crate) struct Scrape(BTreeMap<String, Family>);

impl Scrape {
    /// Returns a new scrape. The gateway renders its metrics once a second at most, so the clock is advanced.
    async fn of(app: &App) -> Self {
        app.clock.advance(Duration::from_secs(1));
        Self::latest(app).await
    }

    /// Returns a scrape that can be a second old.
    async fn latest(app: &App) -> Self {
        let (status, text) = app.ask("/metrics").await;
        assert_eq!(status, 200);
        Self::parse(&text)
    }

    /// Waits until a scrape has what `has` looks for. Each scrape takes one of the few connections that an
    /// address may have, so there is a pause between two.
    async fn until(app: &App, has: impl Fn(&Self) -> bool) {
        while !has(&Self::latest(app).await) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut families = BTreeMap::<String, Family>::new();
        for line in text.lines() {
            let words = Vec::from_iter(line.splitn(4, ' '));
            match *words {
                ["#", "HELP", name, help] => {
                    families.entry(name.into()).or_default().help = help.into()
                }
                ["#", "TYPE", name, kind] => {
                    families.entry(name.into()).or_default().kind = kind.into()
                }
                _ => {
                    let (series, value) = line.rsplit_once(' ').expect("a value");
                    let (name, labels) = match series.split_once('{') {
                        Some((name, labels)) => (name, parse_labels(labels)),
                        None => (series, Labels::new()),
                    };
                    let ends = ["_bucket", "_sum", "_count"];
                    let short = ends.iter().find_map(|end| name.strip_suffix(end));
                    let family =
                        short.filter(|short| families.contains_key(*short)).unwrap_or(name);
                    let family = families.get_mut(family).expect("HELP and TYPE come first");
                    family.series.push((name.to_owned(), labels, value.parse().expect("a number")));
                }
            }
        }
        Self(families)
    }

    /// Adds the families of another gateway that this one does not have.
    fn add(&mut self, other: Self) {
        for (name, family) in other.0 {
            self.0.entry(name).or_insert(family);
        }
    }

    /// Returns the sum of the series with this name that have these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.0.values().flat_map(|family| &family.series);
        let has = |all: &Labels| {
            labels.iter().all(|(label, value)| all.get(*label).is_some_and(|has| has == value))
        };
        series.filter(|(one, all, _)| one == name && has(all)).map(|(_, _, value)| value).sum()
    }
}

fn parse_labels(text: &str) -> Labels {
    let text = text.strip_suffix("\"}").expect("a closed list");
    let labels = text.split("\",").map(|label| label.split_once("=\"").expect("a value"));
    labels.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

/// Returns the fault of a refusal.
fn refusal(errcode: i64) -> Kind {
    Kind::Errcode { errcode, errmsg: None }
}

/// Makes calls that use every part of the gateway that a plain one has.
async fn use_everything(app: &mut App, log: TempDir) {
    app.read().await.expect_err("no such store");
    app.write().await.expect_err("no such store");
    app.wechat.refuse_next(GET_CARD, 40001);
    app.read().await.expect_err("no such store");
    let request = pb::ListDistrictsRequest::default();
    app.map_pois().list_districts(request).await.expect("provinces");
    let places = app.places(2).await;
    let place =
        pb::AddNearbyPoiRequest { profile: Some(nearby_profile(&places[0])), ..Default::default() };
    app.nearby().add_nearby_poi(place).await.expect("submitted");
    // Several calls for one permit. The clock runs fast, so WeChat must be slow, and a call that arrives late on a
    // busy machine waits for none.
    app.fault(GET_CARD, Kind::Latency { ms: 3_000 });
    join_all((0..16).map(|_| app.read())).await;
    app.fault(SET_CARD, refusal(45009));
    app.write().await.expect_err("spent");
    app.write().await.expect_err("still spent");
    let mut stream = watch(app).await;
    let submission = app.add_store("2708071440732747189", "156718193518281").await;
    app.approve(&submission);
    while stream.message().await.expect("no end").expect("no error").event.is_none() {}
    app.add_store(&places[1], "156718193518282").await;
    // Its next line has no place.
    log.close().expect("removed");
    app.write().await.expect_err("still spent");
    app.reload(str::to_owned);
    let counted = Scrape::until(app, |scrape| {
        ["wechat_submission_open", "wechat_settings_reloads_total"]
            .iter()
            .all(|name| scrape.sum(name, &[]) >= 1.0)
    });
    within(SOON, counted).await;
}

async fn watch(app: &App) -> Streaming<pb::WatchAuditEventsResponse> {
    let start = Start::Position(pb::WatchPosition::Latest.into());
    let request = pb::WatchAuditEventsRequest { start: Some(start), ..Default::default() };
    app.audits().watch_audit_events(request).await.expect("a stream").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instrument_shows_after_use() {
    let log = tempfile::tempdir().expect("a folder");
    let path = log.path().join("activity.jsonl");
    let sections =
        format!("[limits]\naccount_concurrency = 1\n[activity]\nlog = \"{}\"\n", path.display());
    let mut app = App::still_with_sections(&sections).await;
    let clock = app.clock.clone();
    let run_fast = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            clock.advance(Duration::from_millis(20));
        }
    };
    tokio::select! {
        () = use_everything(&mut app, log) => {}
        () = run_fast => {}
    }
    let mut scrape = Scrape::of(&app).await;
    // These need a gateway of their own.
    let app = App::with_sections(&caller("reader", "role = \"reader\"")).await;
    app.read().await.expect_err("no caller");
    scrape.add(Scrape::of(&app).await);
    let files = Files::new();
    let app = App::with_sections(&files.section("listen.tls", "")).await;
    scrape.add(Scrape::of(&app).await);
    for instrument in INSTRUMENTS {
        let name = instrument.prometheus_name();
        let family = scrape.0.remove(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(!family.series.is_empty(), "{name} has no series");
        assert_eq!(family.kind, instrument.prometheus_type(), "{name}");
        assert_eq!(family.help, instrument.description, "{name}");
        let known = instrument.attributes.iter().map(|name| name.replace('.', "_"));
        let known = Vec::from_iter(known.chain(["le".to_owned()]));
        for (_, labels, _) in &family.series {
            for label in labels.keys() {
                assert!(known.contains(label), "{name} has the label {label}");
            }
        }
    }
    let names = Vec::from_iter(scrape.0.into_keys());
    assert!(names.is_empty(), "the table has no {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_accounts_have_few_series() {
    let app_id = |number: usize| format!("wx{:016x}", number + 0xa_0000);
    let accounts = (0..10_000).map(|number| {
        format!(
            "[[accounts]]\napp_id = \"{}\"\nkind = \"official\"\nsecret = \"s\"\n",
            app_id(number)
        )
    });
    let app = App::with_sections(&accounts.collect::<String>()).await;
    for number in 0..100 {
        let app_id = app_id(100 * number);
        let request = pb::GetStoreCardRequest { app_id, poi_id: "472671857".to_owned() };
        app.cards().get_store_card(request).await.expect_err("WeChat has no such account");
    }
    let scrape = Scrape::of(&app).await;
    let refreshes =
        |app_id: &str| scrape.sum("wechat_token_refreshes_total", &[("wechat_app_id", app_id)]);
    assert_eq!(
        (refreshes(&app_id(0)), refreshes(&app_id(100)), refreshes("other")),
        (1.0, 0.0, 99.0)
    );
    let permits = &scrape.0["wechat_permit_used"].series;
    assert_eq!(permits.len(), 51);
    let lines = scrape.0.values().map(|family| family.series.len()).sum::<usize>();
    assert!(lines < 800, "{lines} lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn account_beyond_limit_counts_as_other() {
    let app = App::with_sections("[metrics]\naccounts = 1").await;
    app.read().await.expect_err("no such store");
    let scrape = Scrape::of(&app).await;
    let mut app_ids = scrape.0["wechat_permit_used"]
        .series
        .iter()
        .map(|(_, labels, _)| &*labels["wechat_app_id"])
        .collect::<Vec<_>>();
    app_ids.sort_unstable();
    assert_eq!(app_ids, ["other", OFFICIAL_APP_ID]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_write_is_counted_by_the_journal() {
    let app = App::still().await;
    app.fault(ADD_STORE, Kind::ResetBefore);
    let store = new_store("2708071440732747189", "156718193518281");
    app.hurried(app.stores().add_store(store)).await.expect_err("lost");
    let journal = Scrape::of(&app).await;
    let steps = |step| journal.sum("wechat_journal_writes_total", &[("wechat_write_state", step)]);
    assert_eq!((steps("sent"), steps("unknown"), steps("finished")), (1.0, 1.0, 0.0));
    let counted = Scrape::until(&app, |scrape| scrape.sum("wechat_write_unknown", &[]) == 1.0);
    within(SOON, app.hurried(counted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_push_is_counted_by_reason() {
    let app = App::start().await;
    let mut socket = TcpStream::connect(app.callback).await.expect("it listens");
    let path = format!("/wechat/callback/{OFFICIAL_APP_ID}?signature=0&timestamp=0&nonce=0");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let scrape = Scrape::of(&app).await;
    assert_eq!(scrape.sum("wechat_pushes_total", &[("wechat_result", "not_authentic")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_calls_are_measured_by_code() {
    let app = App::start().await;
    app.fault(GET_CARD, refusal(-1));
    app.read().await.expect_err("busy");
    app.unary("/wechat.store.v1.CardService/Invented", b"").await.expect_err("no such method");
    app.unary("/a.b.Invented/Any", b"").await.expect_err("no such service");
    let scrape = Scrape::of(&app).await;
    let count = |method, code| {
        let labels =
            [("rpc_method", method), ("rpc_status_code", code), ("rpc_system_name", "grpc")];
        scrape.sum("rpc_server_call_duration_seconds_count", &labels)
    };
    assert_eq!(count("wechat.store.v1.CardService/GetStoreCard", "UNAVAILABLE"), 1.0);
    assert_eq!(count("_OTHER", "UNIMPLEMENTED"), 2.0);
    let failed = [("error_type", "UNAVAILABLE")];
    assert_eq!(scrape.sum("rpc_server_call_duration_seconds_count", &failed), 1.0);
}

/// The name of a write.
const NAME: &str = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d";

/// Returns how many calls ended with a code, and how many of them failed because of their caller.
async fn caused_by_caller(app: &App, code: &str) -> (f64, f64) {
    let scrape = Scrape::of(app).await;
    let count = |labels: &[_]| scrape.sum("rpc_server_call_duration_seconds_count", labels);
    let code = ("rpc_status_code", code);
    (count(&[code]), count(&[code, ("wechat_caused_by", "caller")]))
}

#[tokio::test(flavor = "multi_thread")]
async fn short_deadline_is_a_callers_failure() {
    let app = App::with_sections("[limits]\ndefault_deadline_ms = 300").await;
    app.fault(GET_CARD, Kind::Hold);
    let request = || pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    app.cards().get_store_card(request()).await.expect_err("held");
    assert_eq!(caused_by_caller(&app, "DEADLINE_EXCEEDED").await, (1.0, 0.0));
    let hasty = with_deadline(request(), Duration::from_millis(500));
    app.cards().get_store_card(hasty).await.expect_err("held");
    assert_eq!(caused_by_caller(&app, "DEADLINE_EXCEEDED").await, (2.0, 1.0));
    let patient = with_deadline(request(), Duration::from_secs(2));
    app.cards().get_store_card(patient).await.expect_err("held");
    assert_eq!(caused_by_caller(&app, "DEADLINE_EXCEEDED").await, (3.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_unknown_write_is_a_callers_failure() {
    let app = App::start().await;
    app.fault(ADD_STORE, Kind::ResetAfter);
    app.fault("/wxa/get_store_list", Kind::Html502);
    let store = new_store("2708071440732747189", "156718193518281");
    let request = pb::AddStoreRequest { request_id: NAME.to_owned(), ..store };
    app.stores().add_store(request.clone()).await.expect_err("lost");
    assert_eq!(caused_by_caller(&app, "UNKNOWN").await, (1.0, 0.0));
    app.stores().add_store(request).await.expect_err("still unknown");
    assert_eq!(caused_by_caller(&app, "UNKNOWN").await, (2.0, 1.0));
}

/// Returns the numbers of missing tokens of the official account and of all accounts beyond the limit.
async fn missing_tokens(app: &App) -> (f64, f64) {
    let scrape = Scrape::of(app).await;
    let of = |app_id| scrape.sum("wechat_token_missing", &[("wechat_app_id", app_id)]);
    (of(OFFICIAL_APP_ID), of("other"))
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_never_arrives_is_missing() {
    for (accounts, expected) in [(50, (1.0, 0.0)), (0, (0.0, 1.0))] {
        let app = App::still_with_sections(&format!("[metrics]\naccounts = {accounts}")).await;
        // Among the accounts beyond the limit, one has a token.
        let profile = pb::ListNearbyPoisRequest::default();
        app.nearby().list_nearby_pois(profile).await.expect("none yet");
        assert_eq!(missing_tokens(&app).await, (0.0, 0.0));
        app.fault(STABLE_TOKEN, refusal(40125));
        app.read().await.expect_err("no token");
        assert_eq!(missing_tokens(&app).await, expected);
        // A failure of long ago does not count, because no call needs a token.
        app.clock.advance(Duration::from_secs(15 * 60));
        assert_eq!(missing_tokens(&app).await, (0.0, 0.0));
        app.read().await.expect_err("no token");
        assert_eq!(missing_tokens(&app).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_token_is_not_missing() {
    let app = App::still().await;
    app.wechat.refuse_next(STABLE_TOKEN, 40125);
    app.read().await.expect_err("no token");
    app.clock.advance(Duration::from_secs(61));
    app.read().await.expect_err("no such store");
    assert_eq!(missing_tokens(&app).await, (0.0, 0.0));
    // It ends after two hours, and no call needs another one.
    app.clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(missing_tokens(&app).await, (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_accounts_with_callback_have_push_time() {
    let mut app = App::start().await;
    let callback =
        format!("{{ token = \"{CALLBACK_TOKEN}\", aes_key = \"{MINI_PROGRAM_AES_KEY}\" }}");
    app.change_settings(&format!("callback = {callback}"), "");
    let app = app.restart().await;
    let scrape = Scrape::of(&app).await;
    let series = &scrape.0["wechat_callback_last_time_seconds"].series;
    let series = Vec::from_iter(series.iter().map(|(_, labels, time)| (labels, *time)));
    let labels = Labels::from([("wechat_app_id".to_owned(), OFFICIAL_APP_ID.to_owned())]);
    assert_eq!(series, [(&labels, 0.0)], "{MINI_PROGRAM_APP_ID} has no callback");
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_submission_is_that_of_its_account() {
    let app = App::start().await;
    app.add_store(&app.places(1).await[0], "156718193518281").await;
    let app = app.restart().await;
    let name = "wechat_submission_oldest_time_seconds";
    let counted = Scrape::until(&app, |scrape| scrape.sum(name, &[]) > 0.0);
    within(SOON, counted).await;
    let scrape = Scrape::of(&app).await;
    let oldest = |app_id| scrape.sum(name, &[("wechat_app_id", app_id)]);
    assert!(oldest(OFFICIAL_APP_ID) > 1e9 && oldest(MINI_PROGRAM_APP_ID) == 0.0, "{scrape:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_is_measured_when_it_ends() {
    let app = App::start().await;
    let stream = watch(&app).await;
    let watched = [
        ("rpc_method", "wechat.store.v1.AuditService/WatchAuditEvents"),
        ("rpc_status_code", "CANCELLED"),
    ];
    let count = |scrape: &Scrape| scrape.sum("rpc_server_call_duration_seconds_count", &watched);
    assert_eq!(count(&Scrape::of(&app).await), 0.0);
    drop(stream);
    within(SOON, Scrape::until(&app, |scrape| count(scrape) == 1.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_wechat_are_counted_by_class() {
    let app = App::start().await;
    app.read().await.expect_err("no such store");
    app.fault(SET_CARD, refusal(45009));
    app.write().await.expect_err("spent");
    app.fault(GET_CARD, Kind::ResetAfter);
    app.read().await.expect_err("lost");
    let scrape = Scrape::of(&app).await;
    let calls = |path, result| {
        scrape.sum("wechat_calls_total", &[("url_template", path), ("wechat_result", result)])
    };
    assert_eq!(calls(STABLE_TOKEN, "ok"), 1.0);
    assert_eq!(calls(GET_CARD, "refused"), 1.0);
    assert_eq!(calls(SET_CARD, "quota"), 1.0);
    assert!(calls(GET_CARD, "lost") >= 1.0, "{scrape:?}");
    let requests =
        |labels: &[(&str, &str)]| scrape.sum("http_client_request_duration_seconds_count", labels);
    let port = app.host.port().to_string();
    let refused = [
        ("http_request_method", "POST"),
        ("http_response_status_code", "200"),
        ("server_address", "127.0.0.1"),
        ("server_port", &port),
        ("url_template", SET_CARD),
    ];
    // For HTTP, WeChat's refusal is a success.
    assert_eq!(requests(&refused), 1.0);
    assert!(requests(&[("url_template", GET_CARD), ("error_type", "lost")]) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_scrapes_share_one_rendering() {
    let app = App::still().await;
    let texts = join_all((0..20).map(|_| app.ask("/metrics"))).await;
    // The processor time and the connections of another rendering would differ.
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    app.read().await.expect_err("no such store");
    let reads = [("rpc_method", "wechat.store.v1.CardService/GetStoreCard")];
    let count = |scrape: Scrape| scrape.sum("rpc_server_call_duration_seconds_count", &reads);
    app.clock.advance(Duration::from_millis(999));
    assert_eq!(count(Scrape::latest(&app).await), 0.0, "it is not rendered again");
    app.clock.advance(Duration::from_millis(1));
    assert_eq!(count(Scrape::latest(&app).await), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_http_status_counts_as_its_class() {
    let app = App::start().await;
    for code in [418, 451, 599, 404] {
        app.wechat.fault(Fault::new(GET_CARD, Kind::Status { code, body: String::new() }));
        app.read().await.expect_err("no reply");
    }
    let scrape = Scrape::of(&app).await;
    let series = &scrape.0["http_client_request_duration_seconds"].series;
    let statuses = series.iter().filter_map(|(_, labels, _)| {
        let status = labels.get("http_response_status_code")?;
        Some((&**status, labels.get("error_type").map(|error| &**error)))
    });
    let statuses = Vec::from_iter(BTreeSet::from_iter(statuses));
    let failed = |status| (status, Some(status));
    assert_eq!(statuses, [("200", None), failed("400"), failed("404"), failed("500")]);
}

/// Returns the table of `docs/metrics.md`.
fn table() -> String {
    let mut table =
        "| name | in `/metrics` | type | attributes | meaning |\n|---|---|---|---|---|\n"
            .to_owned();
    for instrument in INSTRUMENTS {
        let Instrument { name, attributes, description, .. } = instrument;
        let attributes = attributes.iter().map(|name| format!("`{name}`"));
        let attributes = Vec::from_iter(attributes).join(", ");
        let (prometheus, kind) = (instrument.prometheus_name(), instrument.prometheus_type());
        writeln!(table, "| `{name}` | `{prometheus}` | {kind} | {attributes} | {description} |")
            .expect("memory");
    }
    table
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a developer sets this variable")]
fn manual_lists_every_instrument() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let manual = fs::read_to_string(&path).expect("a manual");
    let begin = manual.find("| name |").expect("a table");
    let end = begin + manual[begin..].find("\n\n").expect("an end") + 1;
    if std::env::var_os("WRITE_METRICS").is_some() {
        let manual = format!("{}{}{}", &manual[..begin], table(), &manual[end..]);
        fs::write(&path, manual).expect("writable");
        return;
    }
    let same = manual[begin..end] == table();
    assert!(same, "the table of docs/metrics.md is old; WRITE_METRICS=1 writes it anew");
}
