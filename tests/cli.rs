//! The commands as a user runs them: the built binary, its output and its exit codes.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
};

use tempfile::TempDir;
use wechat_store_gateway::{
    pb::AuditEvent,
    state::{EventKey, Events, NewEvent, Origin, Tokens, sqlite::Sqlite},
    testing::{AppId, Clock},
};

use self::daemon::{Daemon, LIMIT, command};

mod daemon;
#[path = "leaks/mod.rs"]
mod leaks;

const ACCOUNT: &str = "
    [[accounts]]
    app_id = \"wx0000000000000001\"
    kind = \"official\"
    default = true
    secret = \"official-secret\"
";

const SECOND: &str = "
    [[accounts]]
    app_id = \"wx0000000000000002\"
    kind = \"mini_program\"
    secret = \"mini-secret\"
";

#[test]
fn wrong_settings_are_reported_before_any_port_opens() {
    // This port is taken. A process that tried to listen on it would report that instead.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let listen = taken.local_addr().expect("its address");
    let file = File::new(&format!(
        "[listen]\ngrpc = \"{listen}\"\n[wechat]\nhosts = [7]\n[limits]\ndrain_ms = \"long\"\n[[accounts]]\nkind = \"shop\"\n"
    ));
    for command in ["serve", "check"] {
        let output = run(&[command, "--config", file.path()]);
        assert_eq!(output.status.code(), Some(64));
        let printed = error(&output);
        let lines: Vec<_> = printed.lines().collect();
        assert!(lines[0].starts_with(file.path()), "{printed}");
        let keys = ["wechat.hosts[0]", "limits.drain_ms", "accounts[0].app_id", "accounts[0].kind"];
        for key in keys {
            let reports = lines.iter().filter(|line| line.starts_with(&format!("{key}: ")));
            assert_eq!(reports.count(), 1, "{key} in {printed}");
        }
        assert_eq!(printed.matches(file.path()).count(), 1, "{printed}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn missing_settings_file_is_reported_in_one_line() {
    let output = run(&["serve", "--config", "/there/is/no/such.toml"]);
    assert_eq!(output.status.code(), Some(64));
    let printed = error(&output);
    let starts = printed.starts_with("/there/is/no/such.toml: failed to read the settings: ");
    assert!(starts && printed.lines().count() == 1, "{printed}");
}

#[test]
fn taken_port_is_reported_with_address_and_key() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let file = File::new(&format!("[listen]\ngrpc = \"{address}\"\n{ACCOUNT}"));
    let output = run(&["serve", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let printed = error(&output);
    assert!(printed.contains("listen.grpc") && printed.contains(&address), "{printed}");
    assert_eq!(printed.lines().count(), 1, "{printed}");
}

#[test]
fn check_hides_secrets() {
    let file = File::new(ACCOUNT);
    let output = run(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output.stdout);
    assert!(printed.contains("wx0000000000000001") && printed.contains("[hidden]"), "{printed}");
    assert!(!printed.contains("official-secret"), "{printed}");
    // The output is TOML.
    let table = printed.parse::<toml::Table>().expect("TOML");
    assert_eq!(table["accounts"][0]["secret"].as_str(), Some("[hidden]"));
}

#[test]
fn host_name_to_listen_on_is_explained() {
    let address = "localhost:50051";
    for arguments in [["sandbox", "--grpc", address], ["simulate", "--listen", address]] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(64));
        let printed = error(&output);
        let expected = "must be an IP address and a port, such as 127.0.0.1:50051";
        assert!(printed.contains(expected) && printed.contains("localhost"), "{printed}");
    }
}

/// WeChat's simulator answers HTTP/1 only.
#[test]
fn port_without_grpc_is_named() {
    let simulate = Daemon::start(&["simulate", "--listen", "127.0.0.1:0"]);
    let address = simulate.address_after("http://");
    let expected = format!("the connection to {address} broke: ");
    let listed = run(&["call", "--address", &address, "--list"]);
    assert_eq!(listed.status.code(), Some(64 + 14));
    let printed: serde_json::Value = serde_json::from_slice(&listed.stderr).expect("JSON");
    let message = printed["message"].as_str().expect("a text");
    assert!(message.starts_with(&expected) && message.contains("gRPC port"), "{message}");
    let health = run(&["healthcheck", "--address", &address]);
    assert_eq!(health.status.code(), Some(1));
    let printed = error(&health);
    assert!(printed.starts_with(&format!("UNAVAILABLE: {expected}")), "{printed}");
}

#[test]
fn wrong_usage_exits_with_64() {
    for wrong in [&["frobnicate"][..], &["call"], &["serve", "--port", "1"], &[]] {
        assert_eq!(run(wrong).status.code(), Some(64), "{wrong:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn published_service_config_is_the_printed_one() {
    let output = run(&["service-config"]);
    assert_eq!(output.status.code(), Some(0));
    let published = include_str!("../proto/service_config.json");
    let how = "proto/service_config.json is old: run `just service-config`";
    assert!(text(&output.stdout) == published, "{how}");
}

#[test]
fn service_starts_answers_calls_and_stops() {
    let simulate = Daemon::start(&["simulate", "--listen", "127.0.0.1:0"]);
    let wechat = simulate.address_after("http://");
    let file = File::new(&format!(
        "[listen]\ngrpc = \"127.0.0.1:0\"\n[wechat]\nhosts = [\"http://{wechat}\"]\n{ACCOUNT}"
    ));
    let mut service = Daemon::start(&["serve", "--config", file.path()]);
    let grpc = service.address_after("\"grpc\":\"");

    let health = run(&["healthcheck", "--address", &grpc]);
    assert_eq!((health.status.code(), text(&health.stdout)), (Some(0), "SERVING\n".to_owned()));
    let health = run(&["healthcheck", "--address", &grpc, "--service", "no.such.Service"]);
    assert_eq!((health.status.code(), error(&health).lines().count()), (Some(1), 1));
    assert!(error(&health).starts_with("NOT_FOUND: "), "{}", error(&health));

    let call = |arguments: &[&str]| run(&[&["call", "--address", &grpc], arguments].concat());
    missing_store_returns_refusaldetails(&call);
    invalid_request_names_the_field(&call);
    list_and_describe_print_the_contract(&call);
    pipes_work_on_both_sides(&grpc);
    errors_are_text_on_a_terminal(&grpc);

    service.signal("TERM");
    assert_eq!(service.wait(), Some(0));
    let health = run(&["healthcheck", "--address", &grpc]);
    assert_eq!(health.status.code(), Some(1));
    let unreachable = call(&["--list"]);
    assert_eq!(unreachable.status.code(), Some(64 + 14));
    let error: serde_json::Value = serde_json::from_slice(&unreachable.stderr).expect("JSON");
    assert_eq!(error["code"], "UNAVAILABLE", "{error:#}");
}

fn missing_store_returns_refusaldetails(call: &dyn Fn(&[&str]) -> Output) {
    let output = call(&["CardService/GetStoreCard", r#"{"poiId": "1"}"#, "-H", "x-any: thing"]);
    assert_eq!(output.status.code(), Some(64 + 5));
    let error: serde_json::Value = serde_json::from_str(&text(&output.stderr)).expect("JSON");
    assert_eq!(error["code"], "NOT_FOUND");
    let info = &error["details"][0];
    assert_eq!(info["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
    assert_eq!(info["reason"], "STORE_NOT_FOUND");
    assert_eq!(info["metadata"]["errcode"], "65115");
}

fn invalid_request_names_the_field(call: &dyn Fn(&[&str]) -> Output) {
    let output = call(&["wechat.store.v1.CardService/GetStoreCard"]);
    assert_eq!(output.status.code(), Some(64 + 3));
    let error: serde_json::Value = serde_json::from_str(&text(&output.stderr)).expect("JSON");
    let details = error["details"].as_array().expect("details");
    let named = |detail: &serde_json::Value| detail["fieldViolations"][0]["field"] == "poi_id";
    assert!(details.iter().any(named), "{error:#}");

    // These errors are detected before a request is sent.
    for wrong in [
        &["CardService/GetStoreCard", r#"{"poi": "1"}"#][..],
        &["CardService/GetStoreCard", "{} {}"],
        &["CardService/Nothing"],
        &["Nothing"],
    ] {
        assert_eq!(call(wrong).status.code(), Some(64), "{wrong:?}");
    }
    // The commands in an error are complete.
    let binary = env!("CARGO_BIN_EXE_wechat-store-gateway");
    let wrong = crate::error(&call(&["CardService/GetStoreCard", r#"{"poi_id": 1}"#]));
    let problem = "the request is not a GetStoreCardRequest: poi_id must be a text in quotes, but is a number; ";
    assert!(wrong.starts_with(&format!("{problem}`{binary} call --address ")), "{wrong}");
    assert!(wrong.trim_end().ends_with("` prints its fields"), "{wrong}");
    let wrong = crate::error(&call(&["getstorecard"]));
    assert!(wrong.contains("did you mean CardService/GetStoreCard?"), "{wrong}");
}

fn list_and_describe_print_the_contract(call: &dyn Fn(&[&str]) -> Output) {
    let list = text(&call(&["--list"]).stdout);
    for expected in ["wechat.store.v1.CardService — ", "  GetStoreCard", "grpc.health.v1.Health"]
    {
        assert!(list.contains(expected), "{expected} in {list}");
    }
    let method = text(&call(&["--describe", "StoreService/AddStore"]).stdout);
    let expected = [
        "wechat.store.v1.StoreService/AddStore",
        "Calls POST /wxa/add_store.",
        "picture_urls: repeated string",
        "Response: AddStoreResponse",
        "See also: OpeningHours, Submission",
    ];
    for expected in expected {
        assert!(method.contains(expected), "{expected} in {method}");
    }
    let hours = text(&call(&["--describe", "OpeningHours"]).stdout);
    assert!(hours.contains("`HH:MM`"), "{hours}");
    // The further lines of a list's item are indented.
    let media = text(&call(&["--describe", "MediaService"]).stdout);
    assert!(media.contains("\n- Image: ") && media.contains("\n  that end in `url`"), "{media}");
    assert_eq!(call(&["--describe", "Nothing"]).status.code(), Some(64));
    // A value of an enum, with or without its prefix.
    for name in ["STORE_NOT_FOUND", "ERROR_REASON_STORE_NOT_FOUND"] {
        let reason = text(&call(&["--describe", name]).stdout);
        let title = "wechat.store.v1.ErrorReason.ERROR_REASON_STORE_NOT_FOUND\n\n";
        assert!(reason.starts_with(title) && reason.contains("65115"), "{reason}");
    }
    // A stream prints one line per message, and ends with the deadline.
    let watch = call(&["Health/Watch", "--deadline", "0.3"]);
    assert_eq!(text(&watch.stdout), "{\"status\":\"SERVING\"}\n");
    assert_eq!(watch.status.code(), Some(64 + 4));
}

fn pipes_work_on_both_sides(grpc: &str) {
    let shell = |script: &str| {
        let binary = env!("CARGO_BIN_EXE_wechat-store-gateway");
        let script = format!("{binary} call --address {grpc} {script}");
        Command::new("sh").args(["-c", &script]).output().expect("a shell")
    };
    let script = format!("- <<'END'\n{}\nEND", r#"{"poi_id": "1"}"#);
    let refused = shell(&format!("CardService/GetStoreCard {script}"));
    assert_eq!(refused.status.code(), Some(64 + 5), "{}", error(&refused));
    // A reader that closes the pipe early is not an error.
    let head = shell("--list | head -n 1");
    assert_eq!((error(&head).as_str(), text(&head.stdout).lines().count()), ("", 1));
}

fn errors_are_text_on_a_terminal(grpc: &str) {
    if !is_installed("script") {
        return;
    }
    // `script` runs a command in a pseudo terminal.
    let in_terminal = |arguments: &str, no_color: &str| {
        let binary = env!("CARGO_BIN_EXE_wechat-store-gateway");
        let call = format!("{binary} call --address {grpc} CardService/GetStoreCard {arguments}");
        let mut script = Command::new("script");
        script.args(["-qec", &call, "/dev/null"]).env("NO_COLOR", no_color).env("TERM", "xterm");
        let output = script.stdin(Stdio::null()).output().expect("script runs");
        assert_eq!(output.status.code(), Some(64 + 3), "{}", text(&output.stdout));
        text(&output.stdout).replace("\r\n", "\n")
    };
    let plain = in_terminal("", "1");
    let expected = "error: INVALID_ARGUMENT (INVALID_REQUEST)\n  ";
    assert!(plain.starts_with(expected) && plain.contains("fix by "), "{plain}");
    let more = format!("call --address {grpc} --describe INVALID_REQUEST");
    assert!(plain.contains(&more), "{more} in {plain}");
    assert!(in_terminal("", "").contains("\u{1b}["), "colors");
    assert!(in_terminal("--json", "").starts_with("{\n  \"code\": \"INVALID_ARGUMENT\""));
}

/// Each of these signals ends a process that does not handle it.
#[cfg(unix)]
#[test]
fn deadly_signals_are_ignored_and_logged() {
    let file = File::new(&format!("[listen]\ngrpc = \"127.0.0.1:0\"\n{ACCOUNT}"));
    let mut service = Daemon::start(&["serve", "--config", file.path()]);
    let grpc = service.address_after("\"grpc\":\"");
    for name in ["USR1", "USR2", "ALRM", "XCPU", "XFSZ", "VTALRM", "PROF"] {
        service.signal(name);
        let (line, _) = service.read_until("ignored a signal");
        assert!(line.contains(&format!("SIG{name}")), "{line}");
    }
    let health = run(&["healthcheck", "--address", &grpc]);
    assert_eq!(text(&health.stdout), "SERVING\n");
    service.signal("QUIT");
    assert_eq!(service.wait(), Some(0), "SIGQUIT stops it in order");
}

#[cfg(unix)]
#[test]
fn hangup_applies_new_settings_or_reports_every_error() {
    let listen = "[listen]\ngrpc = \"127.0.0.1:0\"\n";
    let good = format!("{listen}{ACCOUNT}");
    let file = File::new(&good);
    let service = Daemon::start(&["serve", "--config", file.path()]);
    service.read_until("\"serving\"");
    service.signal("HUP");
    service.read_until("read the settings again, nothing changed");

    file.write(&format!("{good}{SECOND}\n[limits]\ncalls = 0\ndrain_ms = \"long\"\n[extra]"));
    service.signal("HUP");
    let (last, mut lines) = service.read_until("kept the old settings");
    assert!(last.contains("\"errors\":3"), "{last}");
    lines.retain(|line| line.contains("refused the new settings"));
    for key in ["limits.calls", "limits.drain_ms", "extra"] {
        assert!(lines.iter().any(|line| line.contains(key)), "{key} in {lines:#?}");
    }

    file.write(&format!("[listen]\ngrpc = \"127.0.0.1:1\"\n{ACCOUNT}{SECOND}"));
    service.signal("HUP");
    let (line, _) = service.read_until("\"listen.grpc\"");
    assert!(line.contains("cannot change while the gateway runs; restart it"), "{line}");

    // The second account is new only now.
    file.write(&format!("{good}{SECOND}").replace("official-secret", "another-secret"));
    service.signal("HUP");
    let (line, lines) = service.read_until("changed the settings");
    assert!(line.contains("\"accounts_added\":\"wx0000000000000002\""), "{line}");
    assert!(line.contains("\"accounts_changed\":\"wx0000000000000001\""), "{line}");
    assert!(!line.contains("keys") && !line.contains("secret\""), "{line}");
    assert!(lines.iter().all(|line| !line.contains("-secret")), "{lines:#?}");

    file.write(&good);
    let (line, _) = service.read_until("changed the settings");
    assert!(
        line.contains("\"accounts_removed\":\"wx0000000000000002\""),
        "without a signal: {line}"
    );
}

/// As systemd starts it with `Type=notify` and `WatchdogSec`.
#[cfg(unix)]
#[test]
fn systemd_is_notified_from_start_to_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    // The queue of a socket is short, so a thread reads always.
    let (sender, notices) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut notice = [0; 512];
        while let Ok(length) = systemd.recv(&mut notice) {
            let Ok(()) = sender.send(text(&notice[..length])) else { return };
        }
    });
    let next = || notices.recv_timeout(LIMIT).expect("a notice");
    // Signs of life can come between all other notices.
    let next_but_life = || {
        let other = std::iter::repeat_with(next).find(|one| one != "WATCHDOG=1\n");
        other.expect("no end")
    };

    let good = format!(
        "[listen]\ngrpc = \"127.0.0.1:0\"\n[limits]\nlame_duck_ms = 1000\ndrain_ms = 2000\n{ACCOUNT}"
    );
    let file = File::new(&good);
    let mut serve = command(&["serve", "--config", file.path()]);
    serve.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    let mut service = Daemon::spawn(serve);
    let grpc = service.address_after("\"grpc\":\"");
    assert_eq!(next_but_life(), "READY=1\nSTATUS=serving\n");
    let health = run(&["healthcheck", "--address", &grpc]);
    assert_eq!(text(&health.stdout), "SERVING\n");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1\n");
    }

    let reload = |content: &str, status: &str| {
        file.write(content);
        service.signal("HUP");
        let reloading = next_but_life();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        assert!(time.trim().parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
        assert_eq!(next_but_life(), format!("READY=1\nSTATUS={status}\n"));
    };
    reload(&format!("{good}{SECOND}"), "serving");
    let kept = "serving with the old settings; the log has each error of the new ones";
    reload(&format!("{good}[extra]"), kept);

    service.signal("TERM");
    // The lame-duck time, the drain time, and the remainder for traces.
    assert_eq!(next_but_life(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=13000000\n");
    assert_eq!(next(), "WATCHDOG=1\n", "while it drains");
    assert_eq!(service.wait(), Some(0));
}

/// Writes to `/dev/full` fail as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn activity_goes_to_stderr_if_disk_is_full() {
    let file = File::new(&format!(
        "[listen]\ngrpc = \"127.0.0.1:0\"\n[activity]\nlog = \"/dev/full\"\n{ACCOUNT}"
    ));
    let service = Daemon::start(&["serve", "--config", file.path()]);
    let grpc = service.address_after("\"grpc\":\"");
    let output = run(&["call", "--address", &grpc, "StoreService/DeleteStore", "{}"]);
    assert!(error(&output).contains("INVALID_REQUEST"), "{}", error(&output));
    let (line, _) = service.read_until("failed to write into the activity log");
    assert!(line.contains("/dev/full") && line.contains("ERROR"), "{line}");
    let (line, _) = service.read_until("\"target\":\"activity\"");
    assert!(line.contains("\"method\":\"StoreService/DeleteStore\""), "{line}");
    assert!(line.contains("\"outcome\":\"INVALID_ARGUMENT\""), "{line}");
}

#[cfg(unix)]
#[test]
fn new_log_level_applies_without_restart() {
    let settings = |level: &str| {
        format!("[listen]\ngrpc = \"127.0.0.1:0\"\n[log]\nlevel = \"{level}\"\n{ACCOUNT}")
    };
    let file = File::new(&settings("info"));
    let service = Daemon::start(&["serve", "--config", file.path()]);
    let grpc = service.address_after("\"grpc\":\"");
    let list = || {
        let output = run(&["call", "--address", &grpc, "AccountService/ListAccounts", "{}"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    list();
    file.write(&settings("debug"));
    service.signal("HUP");
    let (line, before) = service.read_until("changed the settings");
    assert!(line.contains("\"keys\":\"log.level\""), "{line}");
    assert!(before.iter().all(|line| !line.contains("DEBUG")), "{before:#?}");
    list();
    service.read_until("\"served\"");

    file.write(&settings("inof"));
    service.signal("HUP");
    let (line, _) = service.read_until("log.level");
    assert!(line.contains("\\\"inof\\\" is not a level; must be off, error"), "{line}");

    file.write(&settings("off"));
    service.signal("HUP");
    service.read_until("changed the settings");
    list();
    let output = run(&["call", "--address", &grpc, "StoreService/DeleteStore", "{}"]);
    assert!(!output.status.success());
    let (line, before) = service.read_until("\"method\":\"StoreService/DeleteStore\"");
    assert!(line.contains("\"target\":\"activity\""), "{line}");
    assert!(before.iter().all(|line| !line.contains("\"served\"")), "{before:#?}");
}

#[cfg(unix)]
#[test]
fn first_callback_opens_its_port_or_is_refused() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("its address");
    let listen = format!("[listen]\ngrpc = \"127.0.0.1:0\"\ncallback = \"{address}\"\n");
    let file = File::new(&format!("{listen}{ACCOUNT}"));
    let service = Daemon::start(&["serve", "--config", file.path()]);
    service.read_until("\"serving\"");
    let callback = "callback = { token = \"token\", mode = \"plain\" }";
    file.write(&format!("{listen}{ACCOUNT}{callback}"));
    service.signal("HUP");
    let (line, _) = service.read_until("listen.callback");
    assert!(line.contains("cannot listen on"), "{line}");
    drop(taken);
    service.signal("HUP");
    service.read_until("changed the settings");
    std::net::TcpStream::connect(address).expect("it listens");
}

#[test]
fn second_signal_ends_the_process_at_once() {
    let file = File::new(&format!(
        "[listen]\ngrpc = \"127.0.0.1:0\"\n[limits]\nlame_duck_ms = 3600000\n{ACCOUNT}"
    ));
    let mut service = Daemon::start(&["serve", "--config", file.path()]);
    service.read_until("\"serving\"");
    service.signal("TERM");
    service.read_until("\"stopping\"");
    service.signal("INT");
    assert_eq!(service.wait(), Some(130));
}

/// Runs a tour, and returns its steps. Checks the form of each.
fn tour_steps(arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = run(arguments);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", error(&output));
    assert_eq!(error(&output), "", "no log line is between the steps");
    let values = serde_json::Deserializer::from_str(&printed).into_iter::<serde_json::Value>();
    let mut steps: Vec<_> = values.collect::<Result<_, _>>().expect("JSON");
    let last = steps.pop().expect("steps");
    assert_eq!(last, serde_json::json!({ "tour": "complete", "steps": steps.len() }));
    for step in &steps {
        let keys: Vec<_> = step.as_object().expect("an object").keys().collect();
        let answer = if step.get("error").is_some() { "error" } else { "response" };
        let mut expected = ["step", "call", "request", answer];
        expected.sort_unstable();
        assert_eq!(keys, expected, "{step:#}");
        let [name, call] = ["step", "call"].map(|key| step[key].as_str().expect("a text"));
        assert!(!name.is_empty(), "{step:#}");
        assert!(call.contains("Service/") || call.starts_with("POST http://"), "{call}");
        assert!(step["request"].is_object() && step[answer].is_object(), "{step:#}");
    }
    steps
}

#[test]
fn tour_with_json_prints_every_step() {
    let steps = tour_steps(&["sandbox", "--tour", "--json"]);
    let errors: Vec<_> = steps.iter().filter_map(|step| step.get("error")).collect();
    let [refusal] = errors[..] else { panic!("one error: {errors:#?}") };
    assert_eq!(refusal["code"], "ALREADY_EXISTS");
    assert!(refusal["message"].is_string() && refusal["details"].is_array(), "{refusal:#}");
}

#[test]
fn platform_tour_follows_merchants_to_withdrawal() {
    let steps = tour_steps(&["sandbox", "--tour", "platform", "--json"]);
    let at = |pointer: &str| -> Vec<_> {
        let texts = steps.iter().filter_map(|step| step.pointer(pointer)?.as_str());
        texts.map(str::to_owned).collect()
    };
    let refusals = at("/error/details/0/reason");
    assert_eq!(refusals, ["ACCOUNT_UNKNOWN", "API_NOT_PERMITTED", "AUTHORIZATION_LOST"]);
    let events = [
        "authorized",
        "add_nearby_poi_audit_info",
        "authorized",
        "add_store_audit_info",
        "updateauthorized",
        "unauthorized",
    ];
    assert_eq!(at("/response/event/wechatEvent"), events);
    let [first, second] = ["wx0000000000000004", "wx0000000000000005"];
    assert_eq!(at("/response/event/appId"), [first, first, second, second, first, first]);
    assert_eq!(at("/response/submission/appId"), [first, second]);

    let story = run(&["sandbox", "--tour", "platform"]);
    assert_eq!(story.status.code(), Some(0), "{}", error(&story));
    let story = text(&story.stdout);
    assert!(story.contains("metadata.permission_sets: 37"), "{story}");
    assert!(story.lines().all(|line| line.chars().count() <= 140), "{story}");
    // No secret code is in the text.
    assert!(!story.contains("auth_code="), "{story}");
}

#[test]
fn platform_tour_refuses_secure() {
    let output = run(&["sandbox", "--secure", "--tour", "platform"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(error(&output).contains("leave out --secure"), "{}", error(&output));
}

#[test]
fn tour_is_a_short_story_without_json() {
    let output = run(&["sandbox", "--tour"]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", error(&output));
    assert_eq!(error(&output), "", "no log line interrupts the story");
    assert!(printed.lines().count() < 80, "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() <= 140), "{printed}");
    // A pipe gets no colors.
    assert!(!printed.contains('\u{1b}'), "{printed}");
    for expected in [
        "StoreService/AddStore",
        "submission.state: AUDIT_STATE_IN_REVIEW",
        "event.clientReference: shop-0001",
        "code: ALREADY_EXISTS, details[0].reason: STORE_ALREADY_BOUND",
        "Next steps",
    ] {
        assert!(printed.contains(expected), "{expected} in {printed}");
    }
    // The last hint works in a checkout.
    let hint = printed.lines().last().expect("a line").trim();
    assert!(hint.contains("check --config settings.example.toml"), "{hint}");
    let checked = Command::new("sh").args(["-c", hint]).output().expect("a shell");
    assert!(checked.status.success(), "{hint}: {}", error(&checked));
}

/// The block in the documents must be the real output.
#[test]
fn documented_errors_of_settings_are_the_real_ones() {
    const SETTINGS: &str = r#"
        [listen]
        grpc = "0.0.0.0:50051"
        grcp = "127.0.0.1:50051"
        [limits]
        default_deadline_ms = 90000
        [[accounts]]
        app_id = "wx0123456789abcdef"
        kind = "official"
        secret = { env = "BRAND_A_SECRET" }
    "#;
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("settings.toml"), SETTINGS).expect("a file");
    let output = command(&["check", "--config", "settings.toml"])
        .current_dir(&folder)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(64));
    let expected = format!("```text\n{}```\n", error(&output));

    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    let mut folders = vec![root.join("docs")];
    documents.push(root.join("README.md"));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                documents.push(path);
            }
        }
    }
    let mut blocks = 0;
    for document in documents.iter().filter(|path| path.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(document).expect("a document");
        for (start, _) in text.match_indices("```text\nsettings.toml: ") {
            assert!(text[start..].starts_with(&expected), "{}: {expected}", document.display());
            blocks += 1;
        }
    }
    assert!(blocks > 0, "no document shows the errors of settings");
}

#[test]
fn secure_tour_shows_each_caller() {
    let output = run(&["sandbox", "--secure", "--tour", "--json"]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", error(&output));
    let values = serde_json::Deserializer::from_str(&printed).into_iter::<serde_json::Value>();
    let mut seen: Vec<_> = values
        .map(|value| value.expect("JSON"))
        .filter(|step| step["tour"].is_null())
        .map(|step| {
            let code = step["error"]["code"].as_str().unwrap_or("OK");
            format!("{} {code}", step["caller"].as_str().expect("a caller"))
        })
        .collect();
    seen.dedup();
    let expected = [
        "reader OK",
        "reader PERMISSION_DENIED",
        "writer OK",
        "writer PERMISSION_DENIED",
        "admin NOT_FOUND",
        "none UNAUTHENTICATED",
        "stranger UNAUTHENTICATED",
        "client OK",
    ];
    assert_eq!(seen, expected);
    assert!(!printed.contains("wsg_"), "{printed}");
    assert_eq!(error(&output), "", "no log line is between the steps");

    let story = run(&["sandbox", "--secure", "--tour"]);
    let story = text(&story.stdout);
    assert!(
        story.contains("StoreService/AddStore by reader\n    → code: PERMISSION_DENIED"),
        "{story}"
    );
    assert!(story.lines().all(|line| line.chars().count() <= 140), "{story}");
}

#[test]
fn commands_of_the_secure_guide_work() {
    let mut sandbox = Daemon::start(&sandbox_anywhere(&["--secure"]));
    let (_, mut lines) = sandbox.read_until("Make a token for a caller of your own");
    lines.push(sandbox.read_until("token new").0);
    let folder =
        lines.iter().find_map(|line| line.trim().strip_prefix("files ")).expect("a folder");
    let folder = PathBuf::from(folder.trim());
    #[cfg(unix)]
    for secret in ["server.key", "client.key", "reader.token", "admin.token"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.join(secret)).expect(secret).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let binary = env!("CARGO_BIN_EXE_wechat-store-gateway");
    let commands = lines.iter().map(|line| line.trim()).filter(|line| line.starts_with(binary));
    let codes: Vec<_> = commands
        .map(|line| {
            let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
            assert!(!error(&output).contains("wsg_"), "{line}");
            output.status.code().expect("an exit code")
        })
        .collect();
    assert_eq!(codes, [0, 64 + 7, 64 + 16, 0, 0, 0], "{lines:#?}");
    let python = lines.iter().skip_while(|line| *line != "python3 -c '");
    let python = python.take_while(|line| !line.is_empty()).cloned().collect::<Vec<_>>().join("\n");
    let installed = Command::new("python3").args(["-c", "import grpc"]).output();
    if installed.is_ok_and(|output| output.status.success()) {
        let output = Command::new("sh").args(["-c", &python]).output().expect("a shell");
        assert!(text(&output.stdout).starts_with("b'"), "{python}: {}", error(&output));
    }
    sandbox.signal("INT");
    assert_eq!(sandbox.wait(), Some(0));
    assert!(!folder.exists(), "nothing is stored");
}

/// Returns the arguments of a sandbox on free ports.
fn sandbox_anywhere<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let ports = ["--grpc", "--simulator", "--callback", "--admin"];
    let anywhere = ports.iter().flat_map(|port| [*port, "127.0.0.1:0"]);
    std::iter::once("sandbox").chain(anywhere).chain(more.iter().copied()).collect()
}

#[test]
fn commands_of_the_sandbox_guide_work() {
    let mut sandbox = Daemon::start(&sandbox_anywhere(&[]));
    let (_, mut lines) = sandbox.read_until("Check that the service is ready");
    assert!(lines.iter().any(|line| line.contains("RUST_LOG=info")), "{lines:#?}");
    lines.push(sandbox.read_until("curl").0);
    let tries = lines.iter().map(|line| line.trim());
    let binary = env!("CARGO_BIN_EXE_wechat-store-gateway");
    let mut tried = 0;
    for line in tries.filter(|line| line.starts_with(binary) || line.starts_with("curl ")) {
        if line.starts_with("curl ") && !is_installed("curl") {
            continue;
        }
        let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
        assert!(output.status.success(), "{line}: {}", error(&output));
        assert!(!text(&output.stdout).contains("\"error\""), "{line}: {}", text(&output.stdout));
        tried += 1;
    }
    assert!(tried >= 7, "{lines:#?}");
    sandbox.signal("INT");
    assert_eq!(sandbox.wait(), Some(0));
}

#[test]
fn token_or_certificate_identifies_caller_over_tls() {
    let secured = Secured::start("optional");
    let list = ["StoreService/ListStores"];
    let write = ["CardService/SetStoreCard", r#"{"poi_id": "1", "card_id": "card"}"#];
    let (reader, writer) = (secured.file("reader"), secured.file("writer"));
    for (proof, call, code) in [
        (vec!["--token-file", &reader], &list[..], 0),
        (vec!["--token-file", &reader], &write, 64 + 7),
        // WeChat's simulator has no such store.
        (vec!["--token-file", &writer], &write, 64 + 5),
        (
            vec!["--cert", &secured.file("client.pem"), "--key", &secured.file("client.key")],
            &list,
            0,
        ),
        (vec!["--token-file", &secured.file("wrong")], &list, 64 + 16),
        (vec![], &list, 64 + 16),
    ] {
        let output = secured.call(&[&proof, call].concat());
        assert_eq!(output.status.code(), Some(code), "{proof:?}: {}", error(&output));
        let hint = match (code, proof.last()) {
            (71, Some(file)) => format!("the caller was identified by the token in {file}"),
            (80, Some(file)) => format!("the proof of identity was the token in {file}"),
            (80, None) => "no proof of identity was sent; pass --token-file FILE".to_owned(),
            _ => continue,
        };
        let printed: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert!(
            printed["hint"].as_str().is_some_and(|text| text.starts_with(&hint)),
            "{printed:#}"
        );
    }
    // The environment has the token, and the system has the CA.
    let mut system = command(&["call", "--address", &secured.address(), list[0]]);
    system.env("SSL_CERT_FILE", secured.file("ca.pem"));
    system.env("WECHAT_STORE_GATEWAY_TOKEN", fs::read_to_string(&reader).expect("a token"));
    let output = system.output().expect("the binary runs");
    assert!(output.status.success(), "{}", error(&output));
}

#[test]
fn wrong_tls_is_explained_by_call_and_healthcheck() {
    let (secured, plain) = (Secured::start("required"), Secured::start_plain());
    let [ca, certificate, key, other] =
        ["ca.pem", "client.pem", "client.key", "server.pem"].map(|name| secured.file(name));
    let mutual = ["--ca", &ca, "--cert", &certificate, "--key", &key];
    let (address, number) = (secured.address(), secured.grpc.replace("localhost", "127.0.0.1"));
    let (without_tls, plain_tls) =
        (format!("http://{}", secured.grpc), format!("https://{}", plain.grpc));
    for (address, options, expected) in [
        (&address, &mutual[..], ""),
        (&secured.grpc, &[&mutual[..], &["--tls"]].concat(), ""),
        (&number, &[&mutual[..], &["--server-name", "localhost"]].concat(), ""),
        (&number, &mutual, "is for localhost, not for 127.0.0.1; pass one of its names with"),
        (&address, &mutual[2..], "no CA of this system has signed the certificate of the server"),
        (&address, &["--ca", &other], "has signed the certificate of the server; pass"),
        (&address, &mutual[..2], "asks for a client certificate; pass --cert FILE and --key"),
        (&without_tls, &[], "if it expects TLS, use https:// in the address, or --tls"),
        (&without_tls, &["--tls"], "--tls: contradicts the address http://"),
        (&plain_tls, &mutual[..2], "check that the service has TLS on this port"),
        (&address, &["--ca", "/no/such"], "--ca: /no/such: "),
        (&address, &["--ca", &ca, "--cert", &certificate, "--key", &ca], "--key: "),
    ] {
        for command in [&["call", "--list"][..], &["healthcheck"]] {
            let output = run(&[command, &["--address", address], options].concat());
            let printed = error(&output);
            assert_eq!(output.status.success(), expected.is_empty(), "{options:?}: {printed}");
            assert!(printed.contains(expected), "{expected} in {printed}");
        }
    }
    let health = run(&[&["healthcheck", "--address", &address], &mutual[..]].concat());
    assert_eq!(text(&health.stdout), "SERVING\n");
}

#[test]
fn token_as_argument_is_refused() {
    let (token, header) = ("wsg_hush", "Authorization: Bearer wsg_hush");
    for arguments in
        [&["-H", header, "--list"][..], &["--token", token], &["--address", "10.0.0.1:1", "--list"]]
    {
        let mut call = command(&[&["call"], arguments].concat());
        let output = call.env("WECHAT_STORE_GATEWAY_TOKEN", token).output().expect("it runs");
        let printed = error(&output);
        assert_eq!(output.status.code(), Some(64), "{printed}");
        assert!(
            printed.contains("--token-file") || printed.contains("could read the token"),
            "{printed}"
        );
        assert!(!printed.contains(token), "{printed}");
    }
}

#[test]
fn version_has_facts_of_the_build() {
    let printed = text(&run(&["version"]).stdout);
    let json: serde_json::Value =
        serde_json::from_slice(&run(&["version", "--json"]).stdout).expect("JSON");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(printed.lines().next(), Some(text(&run(&["--version"]).stdout).trim()));
    // A test is compiled with the features of the program.
    let features = [
        ("mimalloc", cfg!(feature = "mimalloc")),
        ("otlp", cfg!(feature = "otlp")),
        ("redis", cfg!(feature = "redis")),
        ("sandbox", cfg!(feature = "sandbox")),
    ];
    let features: Vec<_> = features.iter().filter(|one| one.1).map(|one| one.0).collect();
    assert_eq!(json["features"], serde_json::json!(features));
    let lines = [
        ("commit", json["commit"].as_str()),
        ("target", json["target"].as_str()),
        ("rustc", json["rustc"].as_str()),
        ("features", Some(&*features.join(" "))),
    ];
    for (line, (name, value)) in printed.lines().skip(1).zip(lines) {
        assert_eq!(
            line.split_once(' ').map(|(name, value)| (name, value.trim())),
            Some((name, value.expect(name)))
        );
    }
    let commit = json["commit"].as_str().expect("a text");
    let is_hash = commit.len() == 40 && commit.chars().all(|char| char.is_ascii_hexdigit());
    assert!(is_hash || commit == "unknown", "{commit}");
    assert!(json["target"].as_str().expect("a text").contains(std::env::consts::ARCH), "{json}");
    assert!(json["rustc"].as_str().expect("a text").starts_with("rustc "), "{json}");
}

#[test]
fn new_token_is_hashed_and_written() {
    let printed = text(&run(&["token", "new"]).stdout);
    let value = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().to_owned()
    };
    let (token, hash) = (value("token "), value("sha256 "));
    assert!(token.starts_with("wsg_") && token.len() == 4 + 43, "{token}");
    assert!(printed.contains(&format!("tokens = [\"{hash}\"]")), "{printed}");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let file = file.to_str().expect("UTF-8");
    fs::write(file, format!("{token}\n")).expect("a file");
    assert_eq!(text(&run(&["token", "hash", file]).stdout), format!("{hash}\n"));
    let output = run(&["token", "new", "--output", file]);
    assert_eq!(output.status.code(), Some(1), "an existing file stays");
    fs::remove_file(file).expect("it is there");
    let output = run(&["token", "new", "--output", file]);
    let written = fs::read_to_string(file).expect("a token");
    assert!(written.starts_with("wsg_") && !text(&output.stdout).contains(written.trim()));
    let mut hashed = command(&["token", "hash"]);
    let hashed = hashed.stdin(fs::File::open(file).expect("a file")).output().expect("it runs");
    assert!(text(&output.stdout).contains(text(&hashed.stdout).trim()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    fs::write(file, "short").expect("a file");
    assert!(error(&run(&["token", "hash", file])).contains("short"));
    for wrong in ["", "two words"] {
        fs::write(file, wrong).expect("a file");
        assert_eq!(run(&["token", "hash", file]).status.code(), Some(64), "{wrong}");
    }
}

/// A gateway with a reader, a writer and a caller with a certificate, and the files of its clients.
struct Secured {
    folder: TempDir,
    _wechat: Daemon,
    _gateway: Daemon,
    /// Its address, without a scheme.
    grpc: String,
}

impl Secured {
    /// Starts it with TLS.
    fn start(client_certificates: &str) -> Self {
        Self::new(|folder| {
            issue_certificates(folder);
            let file = |name: &str| folder.join(name).display().to_string();
            let (certificate, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
            format!(
                "[listen.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
                 client_ca = \"{ca}\"\nclient_certificates = \"{client_certificates}\"\n"
            )
        })
    }

    fn start_plain() -> Self {
        Self::new(|_| String::new())
    }

    fn new(tls: impl Fn(&std::path::Path) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = tls(folder.path());
        let hash = |name: &str| {
            let file = folder.path().join(name);
            let output = run(&["token", "new", "--output", file.to_str().expect("UTF-8")]);
            let printed = text(&output.stdout);
            let hash = printed.lines().find_map(|line| line.strip_prefix("sha256  "));
            hash.expect("a hash").to_owned()
        };
        let (reader, writer, _) = (hash("reader"), hash("writer"), hash("wrong"));
        let wechat = Daemon::start(&["simulate", "--listen", "127.0.0.1:0"]);
        let hosts = wechat.address_after("http://");
        let settings = File::new(&format!(
            "[listen]\ngrpc = \"127.0.0.1:0\"\n{tls}\n[wechat]\nhosts = [\"http://{hosts}\"]\n{ACCOUNT}\n\
             [[callers]]\nname = \"reader\"\nrole = \"reader\"\ntokens = [\"{reader}\"]\n\
             [[callers]]\nname = \"writer\"\nrole = \"writer\"\ntokens = [\"{writer}\"]\n\
             [[callers]]\nname = \"certificate\"\nrole = \"reader\"\n\
             certificates = [\"spiffe://test/client\"]\n"
        ));
        let gateway = Daemon::start(&["serve", "--config", settings.path()]);
        let grpc = gateway.address_after("\"grpc\":\"").replace("127.0.0.1", "localhost");
        Self { folder, _wechat: wechat, _gateway: gateway, grpc }
    }

    fn address(&self) -> String {
        format!("https://{}", self.grpc)
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let ca = self.file("ca.pem");
        run(&[&["call", "--address", &self.address(), "--ca", &ca], arguments].concat())
    }
}

/// Writes a CA, a certificate of a server on localhost, one of a client, and their keys.
fn issue_certificates(folder: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

    let write = |name: &str, content: &str| fs::write(folder.join(name), content).expect("a file");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
    let ca = ca.expect("a CA");
    write("ca.pem", &ca.pem());
    let uri = "spiffe://test/client".try_into().expect("ASCII");
    for (name, san) in [
        ("server", SanType::DnsName("localhost".try_into().expect("ASCII"))),
        ("client", SanType::URI(uri)),
    ] {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &ca).expect("a certificate");
        write(&format!("{name}.pem"), &certificate.pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
}

/// Makes a state with an event and a token, and returns its file.
fn state(folder: &TempDir, name: &str) -> String {
    let path = folder.path().join(name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let state = Sqlite::open(&path, Clock::system()).expect("a state");
        let account = AppId::from("wx0000000000000001".to_owned());
        let event = NewEvent::from_event(
            EventKey([7; 32]),
            AuditEvent { app_id: account.to_string(), ..AuditEvent::default() },
            Origin::Pushed,
        );
        state.append(event).await.expect("appended");
        let token = "secret-token".to_owned().into();
        let hour = std::time::Duration::from_secs(3600);
        state.put_token(&account, 0, &token, hour).await.expect("stored");
    });
    path.to_str().expect("UTF-8").to_owned()
}

fn change(path: &str, sql: &str) {
    let db = rusqlite::Connection::open(path).expect("opened");
    db.execute_batch(sql).expect("changed");
}

#[test]
fn state_is_described_without_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", state(&folder, "state.db"));
    let file = File::new(&format!("[state]\nurl = \"{url}\"\n{ACCOUNT}"));
    for place in [&["state", "show", &url][..], &["state", "show", "--config", file.path()]] {
        let shown = run(place);
        assert_eq!(shown.status.code(), Some(0), "{shown:?}");
        let shown = text(&shown.stdout);
        let token = "token              wx0000000000000001, 59 min left, generation 1";
        assert!(shown.contains(token) && shown.contains("schema             3"), "{shown}");
        assert!(!shown.contains("secret-token"), "{shown}");
    }
    let shown = run(&["state", "show", &url, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!((&json["backend"], &json["rows"]["events"]), (&"sqlite".into(), &1.into()));
    assert_eq!((&json["newest_event"]["position"], &json["used"]), (&1.into(), &false.into()));
    assert!(!text(&shown.stdout).contains("secret-token"), "{json:#}");
}

#[test]
fn damaged_state_exits_with_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = state(&folder, "state.db");
    let url = format!("sqlite:{path}");
    let verified = run(&["state", "verify", &url]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let verified = text(&verified.stdout);
    assert!(verified.contains("no damage") && verified.contains("1 plain"), "{verified}");

    change(&path, "UPDATE events SET received = received + 1");
    let verified = run(&["state", "verify", &url]);
    assert_eq!(verified.status.code(), Some(3), "{verified:?}");
    let verified = text(&verified.stdout);
    let expected = "1 damaged row:\n  event 1: its checksum is wrong";
    assert!(verified.contains(expected), "{verified}");

    // The copy is complete, and damaged in the same way.
    let copy = format!("sqlite:{}", folder.path().join("copy.db").display());
    for arguments in
        [&["state", "copy", &url, &copy, "--json"][..], &["state", "verify", &copy, "--json"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&json["damaged"], &json["damage"][0]["row"]), (&1.into(), &"event 1".into()));
    }
}

#[test]
fn backup_has_one_private_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", state(&folder, "state.db"));
    let file = File::new(&format!("[state]\nurl = \"{url}\"\n{ACCOUNT}"));
    let to = folder.path().join("backup.db");
    let backup = ["state", "backup", "--config", file.path(), to.to_str().expect("UTF-8")];
    let done = run(&backup);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&to).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = run(&backup);
    assert_eq!(again.status.code(), Some(1));
    assert!(error(&again).contains("it exists already"), "{again:?}");
    let verified = run(&["state", "verify", &format!("sqlite:{}", to.display())]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

#[test]
fn refused_state_commands_state_the_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = state(&folder, "state.db");
    let url = format!("sqlite:{path}");
    let newer = state(&folder, "newer.db");
    change(&newer, "PRAGMA user_version = 4");
    let newer = format!("sqlite:{newer}");
    let there = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let (none, new) = (there("none.db"), there("new.db"));
    let unreachable = "redis://:hush@127.0.0.1:1/0";
    for (arguments, code, cause) in [
        (&["state", "copy", "here", &url][..], 64, "FROM: not a URL of a state"),
        (&["state", "copy", &url, "there"], 64, "TO: not a URL of a state"),
        (&["state", "copy", &url], 64, "<TO>"),
        (&["state", "show", "here"], 64, "URL: not a URL of a state"),
        (&["state", "copy", &url, &url], 1, "cannot be copied to its own place"),
        (&["state", "copy", &url, &newer], 1, "it is not empty"),
        (&["state", "copy", &newer, &new], 1, "the state has schema 4"),
        (&["state", "verify", &newer], 1, "the state has schema 4"),
        (&["state", "copy", &none, &new], 1, "No such file"),
        (&["state", "show", &none], 1, "No such file"),
        (&["state", "copy", &url, "sqlite:/proc/state.db"], 1, "/proc/state.db"),
        (&["state", "copy", &url, unreachable], 1, "redis://[hidden]@127.0.0.1:1/0: "),
        (&["state", "verify", unreachable], 1, "Connection refused"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let printed = error(&output);
        assert!(printed.contains(cause) && !printed.contains("hush"), "{arguments:?}: {printed}");
    }
    assert!(!folder.path().join("none.db").exists(), "nothing is created");
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Runs the binary to its end.
fn run(arguments: &[&str]) -> Output {
    let output = command(arguments).output().expect("the binary runs");
    leaks::check(&String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn error(output: &Output) -> String {
    text(&output.stderr)
}

/// A file that is deleted when the test ends.
struct File(PathBuf);

impl File {
    fn new(content: &str) -> Self {
        let name = format!("cli-{}-{:?}.toml", std::process::id(), thread::current().id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, content).expect("a file");
        Self(path)
    }

    fn write(&self, content: &str) {
        fs::write(&self.0, content).expect("a file");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
