//! What `/metrics` shows after calls, failures and pushes.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, time::Duration};

use wechat_simulator::faults::Kind;
use wechat_store_gateway::{
    pb::{self, watch_audit_events_request::Start},
    testing::metrics::{INSTRUMENTS, Instrument},
};

use crate::support::{App, GET_CARD, SET_CARD, STABLE_TOKEN, within};

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
struct Scrape(BTreeMap<String, Family>);

impl Scrape {
    async fn of(app: &App) -> Self {
        let (status, text) = app.ask("/metrics").await;
        assert_eq!(status, 200);
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
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

    /// Returns the sum of the series with this name that have these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
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

/// Makes calls that use every part of the gateway, so that every instrument has a series.
async fn use_everything(app: &App) {
    app.read().await.expect_err("no such store");
    app.write().await.expect_err("no such store");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instrument_shows_after_use() {
    let app = App::start().await;
    use_everything(&app).await;
    let mut scrape = Scrape::of(&app).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn stream_is_measured_when_it_ends() {
    let app = App::start().await;
    let start = Start::Position(pb::WatchPosition::Latest.into());
    let request = pb::WatchAuditEventsRequest { start: Some(start), ..Default::default() };
    let stream = app.audits().watch_audit_events(request).await;
    let watched = [
        ("rpc_method", "wechat.store.v1.AuditService/WatchAuditEvents"),
        ("rpc_status_code", "CANCELLED"),
    ];
    let count =
        async || Scrape::of(&app).await.sum("rpc_server_call_duration_seconds_count", &watched);
    assert_eq!(count().await, 0.0);
    drop(stream.expect("a stream"));
    within(SOON, async { while count().await != 1.0 {} }).await;
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
