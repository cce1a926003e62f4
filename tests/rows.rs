//! `call --rows` as a user runs it: the built binary calls a running service, and the tests check the
//! calls that the simulated WeChat received.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use wechat_simulator::{
    COMPANY, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, OFFICIAL_APP_ID, OFFICIAL_SECRET, Settings,
    Simulator,
};

#[path = "leaks/mod.rs"]
mod leaks;

const ADD: &str = "StoreService/AddStore";
const ADD_PATH: &str = "/wxa/add_store";
const CARD: &str = "CardService/GetStoreCard";
const CARD_PATH: &str = "/card/storewxa/get";

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_line_fails_alone_and_is_reported_first() {
    let bench = Bench::start().await;
    let [one, two] = [0, 1].map(|_| bench.store());
    let wrong = r#"{"contact_phone": 13800138000}"#;
    let rows = format!("\u{feff}{one}\r\n{{\"map_poi_id\n\n{{\"poi\": 1}}\n{wrong}\n{two}");
    let file = bench.file("rows.jsonl", &rows);

    let checked = bench.call(&[ADD, "--rows", &file, "--check"], "");
    assert_eq!((checked.code, checked.lines.len()), (Some(2), 0), "{}", checked.stderr);
    assert!(
        bench.calls(ADD_PATH) == 0 && checked.stderr.contains("line 4: "),
        "{}",
        checked.stderr
    );

    let run = bench.call(&[ADD, "--rows", &file], "");
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.starts_with(&format!("{file}: 5 rows, 3 unreadable\n  line 2: ")));
    assert_eq!(run.rows_with("ok"), [1, 6]);
    assert_eq!(run.rows_with("failed"), [2, 4, 5]);
    let row = run.row(4);
    assert_eq!(
        (&row["error"]["code"], &row["reason"]),
        (&json!("INVALID_ARGUMENT"), &json!("ROW_UNREADABLE"))
    );
    assert!(row["error"]["message"].as_str().is_some_and(|text| text.contains("'poi'")), "{row}");
    assert!(!run.all().contains("13800138000"), "{}", run.all());
    assert!(run.stderr.contains("5 rows: 2 ok, 3 failed ("), "{}", run.stderr);
    let wrong = &run.row(5)["error"]["message"];
    let expected =
        "not an AddStoreRequest: contact_phone must be a text in quotes, but is a number";
    assert_eq!(*wrong, json!(expected));
    let wrong = run.row(2)["error"]["message"].as_str().map(str::to_owned).expect("a text");
    assert!(wrong.starts_with("not JSON: "), "{wrong}");
    assert_eq!(bench.calls(ADD_PATH), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_row_is_counted_in_singular() {
    let bench = Bench::start().await;
    let file = bench.file("rows.jsonl", &bench.store().to_string());
    let run = bench.call(&[ADD, "--rows", &file], "");
    assert!(run.stderr.starts_with(&format!("{file}: 1 row\n1 row: 1 ok (")), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_file_is_executed_once() {
    let bench = Bench::start().await;
    let rows: Vec<_> = (0..20).map(|_| bench.store().to_string()).collect();
    let file = bench.file("rows.jsonl", &rows.join("\n"));
    let first = bench.call(&[ADD, "--rows", &file], "");
    assert_eq!((first.code, first.rows_with("ok").len()), (Some(0), 20), "{}", first.stderr);
    let again = bench.call(&[ADD, "--rows", &file], "");
    assert_eq!((again.code, again.rows_with("ok").len()), (Some(0), 20), "{}", again.stderr);
    for row in 1..=20 {
        assert_eq!(first.row(row), again.row(row), "the recorded response");
    }
    assert_eq!(bench.calls(ADD_PATH), 20);
    // Another batch executes the same rows again. WeChat already has these stores.
    let other = bench.call(&[ADD, "--rows", &file, "--batch", "second"], "");
    assert_eq!((other.code, other.rows_with("failed").len()), (Some(2), 20));
    assert_eq!(bench.calls(ADD_PATH), 40);
    assert!(other.stderr.contains("failed      20 STORE_DUPLICATE"), "{}", other.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn ok_rows_are_skipped_unless_edited() {
    let bench = Bench::start().await;
    let (good, mut bad) = (bench.store(), bench.store());
    bad["map_poi_id"] = json!("1000000000000000000");
    let results = bench.path("results.jsonl");
    let import = |bad: &Value| {
        let file = bench.file("rows.jsonl", &format!("{good}\n{bad}"));
        bench.call(&[ADD, "--rows", &file, "--results", &results], "")
    };
    let run = import(&bad);
    assert_eq!((run.code, run.lines.len()), (Some(2), 0), "{}", run.stderr);
    assert_eq!(bench.calls(ADD_PATH), 2);
    // The failed row is sent again, the row that is ok is not.
    let run = import(&bad);
    assert!(run.stderr.contains("2 rows: 0 ok, 1 ok before, 1 failed ("), "{}", run.stderr);
    assert_eq!((run.code, bench.calls(ADD_PATH)), (Some(2), 3));
    bad["map_poi_id"] = bench.store()["map_poi_id"].clone();
    let run = import(&bad);
    assert_eq!((run.code, bench.calls(ADD_PATH)), (Some(0), 4), "{}", run.stderr);
    let run = import(&bad);
    assert!(run.stderr.contains("2 rows: 0 ok, 2 ok before ("), "{}", run.stderr);
    assert_eq!((run.code, bench.calls(ADD_PATH)), (Some(0), 4));
    let lines = fs::read_to_string(&results).expect("results");
    assert_eq!(lines.lines().count(), 4, "one for each row that was sent: {lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_last_result_is_ignored() {
    let bench = Bench::start().await;
    let file = bench.file("rows.jsonl", &format!("{}\n{}", bench.store(), bench.store()));
    let results = bench.path("results.jsonl");
    let import = || bench.call(&[ADD, "--rows", &file, "--results", &results], "");
    assert_eq!(import().code, Some(0));
    let whole = fs::read(&results).expect("results");
    for cut in [1, 30, 1000] {
        let torn = whole
            .len()
            .saturating_sub(cut)
            .max(whole.iter().position(|b| *b == b'\n').expect("a line") + 4);
        fs::write(&results, &whole[..torn]).expect("results");
        let run = import();
        assert!(run.stderr.contains("2 rows: 1 ok, 1 ok before ("), "{cut}: {}", run.stderr);
        let lines = fs::read_to_string(&results).expect("results");
        let read = lines.lines().map(serde_json::from_str::<Value>);
        assert_eq!(read.filter(Result::is_ok).count(), 2, "{lines}");
    }
    assert_eq!(bench.calls(ADD_PATH), 2, "the service had recorded the responses");
    // A file that does not contain results is not changed.
    let note = bench.file("note", "not ours, and no line");
    for other in [&file, &note] {
        let before = fs::read(other).expect("a file");
        let run = bench.call(&[ADD, "--rows", &file, "--results", other], "");
        assert_eq!(
            (run.code, fs::read(other).expect("a file")),
            (Some(64), before),
            "{}",
            run.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicate_row_is_sent_once_and_reported() {
    let bench = Bench::start().await;
    let store = bench.store();
    let mut turned: Vec<_> = store.as_object().expect("an object").iter().collect();
    turned.reverse();
    let turned: Vec<_> = turned.iter().map(|(key, value)| format!("{key:?}: {value}")).collect();
    let rows = format!("{store}\n{}\n{{{}}}", bench.store(), turned.join(", "));
    let run = bench.call(&[ADD, "--rows", "-"], &rows);
    assert_eq!((run.code, bench.calls(ADD_PATH)), (Some(0), 2), "{}", run.stderr);
    let row = run.row(3);
    assert_eq!((&row["outcome"], &row["same_as_row"]), (&json!("duplicate"), &json!(1)));
    assert_eq!(row["row_id"], run.row(1)["row_id"]);
    assert!(run.stderr.contains("3 rows: 2 ok, 1 duplicate ("), "{}", run.stderr);
    assert!(run.stderr.contains("duplicate   line 3 repeats line 1; sent once"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_streams_rows_with_own_request_ids() {
    let bench = Bench::start().await;
    let mut named = bench.store();
    named["request_id"] = json!("0b8a4a8e-2f0b-4c6a-9d55-7a9f5a1f0c11");
    let mut child = bench.command(&[ADD, "--rows", "-"]).spawn().expect("the binary");
    let mut input = child.stdin.take().expect("piped");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Each row has its result before the next row is written.
    for row in [named, bench.store()] {
        writeln!(input, "{row}").expect("it reads");
        let line: Value =
            serde_json::from_str(&output.next().expect("a line").expect("text")).expect("JSON");
        assert_eq!(line["outcome"], "ok");
        let (own, id) = (&row["request_id"], &line["request_id"]);
        assert!(if own.is_null() { *id == line["row_id"] } else { id == own }, "{line}");
    }
    drop(input);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_quota_stops_the_import() {
    let bench = Bench::start().await;
    bench
        .control("quota", json!({ "app_id": OFFICIAL_APP_ID, "path": ADD_PATH, "daily_limit": 3 }));
    let rows: Vec<_> = (0..20).map(|_| bench.store().to_string()).collect();
    let file = bench.file("rows.jsonl", &rows.join("\n"));
    let results = bench.path("results.jsonl");
    let arguments = [ADD, "--rows", &file, "--results", &results, "--at-once", "1"];
    let run = bench.call(&arguments, "");
    assert_eq!((run.code, bench.calls(ADD_PATH)), (Some(4), 4), "{}", run.stderr);
    assert!(run.stderr.contains("20 rows: 3 ok, 1 failed, 16 not sent ("), "{}", run.stderr);
    // Midnight in China.
    let stopped = "stopped     the default account until ";
    assert!(run.stderr.contains(stopped), "{}", run.stderr);
    let rest = "T16:00:00Z: DAILY_QUOTA_SPENT; 16 of its rows not sent";
    assert!(run.stderr.contains(rest), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_quota_stops_only_its_account() {
    let bench = Bench::start().await;
    const UPLOAD: &str = "/cgi-bin/media/upload";
    bench.control("quota", json!({ "app_id": OFFICIAL_APP_ID, "path": UPLOAD, "daily_limit": 2 }));
    // A unique GIF for each row, with the two accounts in turn.
    let rows: Vec<_> = (0..20)
        .map(|number| {
            let app_id = [OFFICIAL_APP_ID, MINI_PROGRAM_APP_ID][number % 2];
            let mut gif = b"GIF89a\x01\0\x01\0\0\0\0;".to_vec();
            gif.push(u8::try_from(number).expect("few"));
            json!({ "app_id": app_id, "content": STANDARD.encode(gif) }).to_string()
        })
        .collect();
    let file = bench.file("rows.jsonl", &rows.join("\n"));
    let arguments = [
        "MediaService/UploadTemporaryImage",
        "--rows",
        &file,
        "--at-once",
        "1",
        "--max-failures",
        "1",
    ];
    let run = bench.call(&arguments, "");
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("20 rows: 12 ok, 1 failed, 7 not sent ("), "{}", run.stderr);
    let stopped = format!("stopped     {OFFICIAL_APP_ID} until ");
    assert!(run.stderr.contains(&stopped), "{}", run.stderr);
    assert!(run.stderr.contains("DAILY_QUOTA_SPENT; 7 of its rows not sent"), "{}", run.stderr);
    let sent = bench.wechat.calls(UPLOAD);
    let of = |app_id: &str| sent.iter().filter(|call| call.app_id == app_id).count();
    assert_eq!((of(OFFICIAL_APP_ID), of(MINI_PROGRAM_APP_ID)), (3, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn stated_retry_time_is_respected() {
    let bench = Bench::start().await;
    // The service itself tries three times. Then it asks for a retry after a second.
    bench.fault(json!({ "path": CARD_PATH, "kind": { "errcode": { "errcode": -1 } }, "times": 3 }));
    let run = bench.call(&[CARD, "--rows", "-"], r#"{"poi_id": "1"}"#);
    assert_eq!((run.code, &run.row(1)["reason"]), (Some(2), &json!("STORE_NOT_FOUND")));
    let calls: Vec<_> = bench.wechat.calls(CARD_PATH).iter().map(|call| call.at_unix_ms).collect();
    assert_eq!(calls.len(), 4);
    assert!(calls[3] - calls[2] >= 1000, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_write_queue_is_retried() {
    let bench = Bench::start().await;
    // The queue runs one call per second. With a shorter deadline all calls except one fail at first.
    let rows: Vec<_> = (0..3).map(|number| nearby(number).to_string()).collect();
    let add = "NearbyService/AddNearbyPoi";
    let run = bench.call(&[add, "--rows", "-", "--deadline", "0.9"], &rows.join("\n"));
    assert!(!run.all().contains("WRITE_QUEUE_BUSY"), "{}", run.all());
    assert_eq!(run.rows_with("ok").len(), 3, "{}", run.all());
    assert_eq!(bench.calls("/wxa/addnearbypoi"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_wechat_stops_the_import() {
    let bench = Bench::start().await;
    bench.fault(json!({ "path": CARD_PATH, "kind": "reset_before", "times": 1_000_000 }));
    let rows: String = (0..10).map(|row| format!("{{\"poi_id\": \"{row}\"}}\n")).collect();
    let file = bench.file("rows.jsonl", &rows);
    let began = Instant::now();
    let run = bench.call(&[CARD, "--rows", &file, "--retry-for", "1.5", "--at-once", "2"], "");
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("10 rows: 0 ok, 2 unfinished, 8 not sent ("), "{}", run.stderr);
    assert!(run.stderr.contains("unfinished  2 WECHAT_UNREACHABLE"), "{}", run.stderr);
    assert!(began.elapsed() > Duration::from_millis(1000), "it retried for a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_outcome_waits_for_resolve_write() {
    let bench = Bench::start().await;
    bench.fault(json!({ "path": ADD_PATH, "kind": "reset_after" }));
    // WeChat does not show the result either.
    bench.fault(json!({ "path": "/wxa/get_store_list", "kind": "html502", "times": 1_000_000 }));
    let file = bench.file("rows.jsonl", &bench.store().to_string());
    let results = bench.path("results.jsonl");
    let import =
        || bench.call(&[ADD, "--rows", &file, "--results", &results, "--retry-for", "1"], "");
    for _ in 0..2 {
        let run = import();
        assert_eq!((run.code, bench.calls(ADD_PATH)), (Some(3), 1), "{}", run.stderr);
        assert!(run.stderr.contains("ResolveWrite"), "{}", run.stderr);
    }
    let line: Value = serde_json::from_str(
        fs::read_to_string(&results).expect("results").lines().next().expect("a line"),
    )
    .expect("JSON");
    assert_eq!((&line["outcome"], &line["reason"]), (&json!("unknown"), &json!("OUTCOME_UNKNOWN")));
    let named = json!({ "write_request_id": line["request_id"] }).to_string();
    let write = bench.call(&["WriteService/GetWrite", &named], "").json();
    let resolve = json!({
        "write_id": write["write"]["writeId"], "resolution": "WRITE_RESOLUTION_EXECUTED",
    });
    let resolved = bench.call(&["WriteService/ResolveWrite", &resolve.to_string()], "");
    assert_eq!(resolved.code, Some(0), "{}", resolved.stderr);
    assert_eq!((import().code, bench.calls(ADD_PATH)), (Some(0), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_stops_sending_further_rows() {
    let bench = Bench::start().await;
    bench.fault(json!({ "path": ADD_PATH, "kind": { "latency": { "ms": 700 } }, "times": 1000 }));
    let rows: Vec<_> = (0..40).map(|_| bench.store().to_string()).collect();
    let file = bench.file("rows.jsonl", &rows.join("\n"));
    let mut child =
        bench.command(&[ADD, "--rows", &file, "--at-once", "4"]).spawn().expect("the binary");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a row has ended");
    let kill = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    assert!(kill.expect("kill").success());
    let ended = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(5), "{stderr}");
    let rest: Vec<_> = output.lines().map_while(Result::ok).collect();
    let sent = 1 + rest.len();
    assert!((4..=12).contains(&sent), "{stderr}");
    assert!(rest.iter().all(|line| line.contains("\"outcome\":\"ok\"")), "{rest:#?}");
    assert!(stderr.contains(&format!("40 rows: {sent} ok, {} not sent (", 40 - sent)), "{stderr}");
    assert_eq!(bench.calls(ADD_PATH), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_failures_stops_the_import() {
    let bench = Bench::start().await;
    let rows: String = (0..10).map(|row| format!("{{\"poi_id\": \"{row}\"}}\n")).collect();
    let file = bench.file("rows.jsonl", &rows);
    let run = bench.call(&[CARD, "--rows", &file, "--max-failures", "3", "--at-once", "1"], "");
    assert_eq!((run.code, bench.calls(CARD_PATH)), (Some(4), 3), "{}", run.stderr);
    assert!(run.stderr.contains("3 failed, 7 not sent ("), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_reported_before_anything_is_sent() {
    let bench = Bench::start().await;
    let file = bench.file("rows.jsonl", "{}");
    for wrong in [
        &["AuditService/WatchAuditEvents", "--rows", &file][..],
        &[CARD, "{}", "--rows", &file],
        &[CARD, "--at-once", "3"],
        &[CARD, "--rows", &file, "--at-once", "0"],
        &[CARD, "--rows", &file, "--at-once", "1001"],
        &[CARD, "--rows", "/there/is/no/such.jsonl"],
        &["CardService/Nothing", "--rows", &file],
    ] {
        let run = bench.call(wrong, "");
        assert_eq!(run.code, Some(64), "{wrong:?}: {}", run.stderr);
    }
    let help = bench.call(&["--help"], "");
    assert!(help.printed.contains("5  interrupted by a signal"), "{}", help.printed);
    let results = bench.path("results.jsonl");
    let locked = fs::File::create(&results).expect("a file");
    locked.lock().expect("a lock");
    let run = bench.call(&[CARD, "--rows", &file, "--results", &results], "");
    assert!(run.code == Some(64) && run.stderr.contains("another import"), "{}", run.stderr);
}

/// Returns a nearby place that the simulator accepts.
/// The token `right` of a writer, `weak` of a reader.
const CALLERS: &str = r#"
    [[callers]]
    name = "importer"
    role = "writer"
    tokens = ["RIGHT"]
    [[callers]]
    name = "viewer"
    role = "reader"
    tokens = ["WEAK"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn rows_continue_with_replaced_token() {
    let hash = |token: &str| base16ct::lower::encode_string(&Sha256::digest(token));
    let callers = CALLERS.replace("RIGHT", &hash("right")).replace("WEAK", &hash("weak"));
    let bench = Bench::start_with(&callers).await;
    let token = bench.file("token", "right");
    let rows = [ADD, "--rows", "-", "--token-file", &token];
    let mut child = bench.command(&rows).spawn().expect("the binary");
    let mut input = child.stdin.take().expect("piped");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut result = || -> Value {
        serde_json::from_str(&output.next().expect("a line").expect("text")).expect("JSON")
    };
    writeln!(input, "{}", bench.store()).expect("it reads");
    assert_eq!(result()["outcome"], "ok");
    // The service no longer accepts the token, and the file has the new one a little later.
    bench.file("token", "outdated");
    writeln!(input, "{}", bench.store()).expect("it reads");
    bench.logged("belongs to no caller");
    bench.file("token", "right");
    assert_eq!(result()["outcome"], "ok");
    // A role that is too low stops the account.
    bench.file("token", "weak");
    writeln!(input, "{}", bench.store()).expect("it reads");
    let refused = result();
    assert_eq!(
        (&refused["outcome"], &refused["reason"]),
        (&json!("failed"), &json!("PERMISSION_MISSING"))
    );
    drop(input);
    let ended = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(stderr.contains("stopping the default account: PERMISSION_MISSING"), "{stderr}");
    assert_eq!((ended.status.code(), bench.calls(ADD_PATH)), (Some(4), 2));
}

fn nearby(number: u32) -> Value {
    json!({
        "client_reference": format!("shop-{number}"),
        "profile": {
            "name": "X-MAX工厂",
            "map_poi_id": "2708071440732747189",
            "address": "广东省广州市海珠区怡安路172-174号怡安花园二、三层(中海名都)",
            "picture_urls": ["http://mmbiz.qpic.cn/mmbiz_png/a/0"],
            "contact_phone": "020-89190388",
            "hours": { "open": "10:00", "close": "21:30" },
            "company_name": COMPANY,
            "license_number": format!("15671819351828{number}"),
            "service_labels": [{
                "kind": "NEARBY_SERVICE_KIND_DELIVERY",
                "app_id": MINI_PROGRAM_APP_ID,
                "path": "pages/index",
                "description": "满减",
            }],
        },
    })
}

/// A simulated WeChat, a service that calls it, and a folder.
struct Bench {
    wechat: Simulator,
    service: Child,
    grpc: String,
    folder: TempDir,
    /// The further lines of the service's log.
    log: Receiver<String>,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts with further settings.
    async fn start_with(more: &str) -> Self {
        let wechat = Simulator::new(Settings::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(wechat.clone().run(listener, std::future::pending()));
        let folder = tempfile::tempdir().expect("a folder");
        let settings = format!(
            r#"
            [listen]
            grpc = "127.0.0.1:0"
            admin = "127.0.0.1:0"
            [wechat]
            hosts = ["http://{address}"]
            [[accounts]]
            app_id = "{OFFICIAL_APP_ID}"
            kind = "official"
            default = true
            secret = "{OFFICIAL_SECRET}"
            [[accounts]]
            app_id = "{MINI_PROGRAM_APP_ID}"
            kind = "mini_program"
            default = true
            secret = "{MINI_PROGRAM_SECRET}"
            {more}
            "#
        );
        let file = folder.path().join("settings.toml");
        fs::write(&file, settings).expect("a file");
        let mut service = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"))
            .args(["serve", "--config"])
            .arg(&file)
            .current_dir(&folder)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut log = BufReader::new(service.stderr.take().expect("piped")).lines();
        let grpc = log.by_ref().map_while(Result::ok).find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            [&line, &line["fields"]].iter().find_map(|at| at["grpc"].as_str().map(str::to_owned))
        });
        let (sender, receiver) = channel();
        // Nothing reads the lines after the test.
        std::thread::spawn(move || {
            let lines = log.map_while(Result::ok).inspect(|line| leaks::check(line));
            lines.for_each(|line| drop(sender.send(line)))
        });
        let grpc = grpc.expect("it logs its address");
        Self { wechat, service, grpc, folder, log: receiver }
    }

    /// Waits for a line of the service's log with this text.
    fn logged(&self, text: &str) {
        let limit = Duration::from_secs(30);
        while !self.log.recv_timeout(limit).expect("a line with the text").contains(text) {}
    }

    fn control(&self, path: &str, body: Value) -> Value {
        self.wechat.control("POST", path, &body).expect(path)
    }

    fn fault(&self, fault: Value) {
        self.control("faults", fault);
    }

    /// Returns a store at a new place.
    fn store(&self) -> Value {
        let places = self.control("map_pois", json!({ "count": 1 }));
        let place = places["map_poi_ids"][0].as_str().expect("an id");
        json!({
            "map_poi_id": place,
            "picture_urls": ["http://mmbiz.qpic.cn/mmbiz_png/a/0"],
            "contact_phone": "020-89190388",
            "hours": { "open": "10:00", "close": "21:30" },
            "license_number": format!("9144{place}"),
        })
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// Returns how many calls WeChat received at this path.
    fn calls(&self, path: &str) -> usize {
        self.wechat.calls(path).len()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"));
        command.args(["call", "--address", &self.grpc]).args(arguments).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn call(&self, arguments: &[&str], input: &str) -> Run {
        let mut child = self.command(arguments).spawn().expect("the binary");
        // It can end without reading its input.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let (printed, stderr) = (text(output.stdout), text(output.stderr));
        leaks::check(&stderr);
        let lines = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Run { code: output.status.code(), lines, printed, stderr }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// The result of a command.
struct Run {
    code: Option<i32>,
    /// The results.
    lines: Vec<Value>,
    printed: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.printed).expect("JSON")
    }

    fn all(&self) -> String {
        format!("{}{}", self.printed, self.stderr)
    }

    fn row(&self, number: u64) -> &Value {
        let mut rows = self.lines.iter().filter(|line| line["row"] == number);
        let row = rows.next().expect("a result of the row");
        assert!(rows.next().is_none(), "one result");
        row
    }

    fn rows_with(&self, outcome: &str) -> Vec<u64> {
        let rows = self.lines.iter().filter(|line| line["outcome"] == outcome);
        let mut rows: Vec<_> = rows.filter_map(|line| line["row"].as_u64()).collect();
        rows.sort_unstable();
        rows
    }
}
