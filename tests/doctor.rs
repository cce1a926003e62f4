//! `doctor` as a user runs it: the built binary, its report and its exit code.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::daemon::{Daemon, command};

mod daemon;
#[path = "leaks/mod.rs"]
mod leaks;

const OFFICIAL: &str = "wx0000000000000001";
const MINI_PROGRAM: &str = "wx0000000000000002";
const ACCOUNT: &str = "
    [[accounts]]
    app_id = \"wx0000000000000001\"
    kind = \"official\"
    secret = \"official-secret\"
";
const CALLBACK: &str = "callback = { token = \"callback-token\", mode = \"plain\" }\n";

#[test]
fn healthy_account_has_no_failed_check() {
    let setup = Setup::new();
    let (report, output) = setup.report(ACCOUNT, &[]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["failed"], 0, "{report:#}");
    for (check, subject) in [
        ("secret", ""),
        ("ip_whitelist", ""),
        ("kind", ""),
        ("quota", ""),
        ("callback", ""),
        ("permission", "merchant"),
        ("permission", "store"),
        ("permission", "card"),
    ] {
        assert_eq!(find(&report, OFFICIAL, check, subject)["result"], "ok", "{check} {subject}");
    }
    for check in ["settings", "clock", "wechat"] {
        assert_eq!(find(&report, "", check, "")["result"], "ok", "{check}");
    }
    let state = find(&report, "", "state", "");
    assert!(["ok", "warning"].contains(&state["result"].as_str().expect("a text")), "{state}");
    // The folder is as before.
    assert_eq!(fs::read_dir(setup.folder.path()).expect("a folder").count(), 1);
    let paths = setup.paths();
    assert!(paths.len() >= 4, "{paths:?}");
    let reads = [
        "/",
        "/cgi-bin/stable_token",
        "/wxa/get_merchant_category",
        "/wxa/get_store_list",
        "/card/storewxa/get",
        "/cgi-bin/openapi/quota/get",
    ];
    assert!(paths.iter().all(|path| reads.contains(&path.as_str())), "{paths:?}");
}

#[test]
fn report_for_people_is_grouped_and_without_secrets() {
    let setup = Setup::new();
    let output = setup.run(ACCOUNT, &[]);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(printed.starts_with("gateway\n  ok       settings: "), "{printed}");
    assert!(printed.contains(&format!("\n{OFFICIAL}\n  ok       secret: ")), "{printed}");
    assert!(printed.contains("\n0 failed, "), "{printed}");
    assert!(!printed.contains("official-secret") && !printed.contains('\u{1b}'), "{printed}");
}

#[test]
fn wrong_secret_names_setting_and_exits_with_1() {
    let setup = Setup::new();
    let account = ACCOUNT.replace("official-secret", "not-the-secret");
    let (report, output) = setup.report(&account, &[]);
    assert_eq!(output.status.code(), Some(1));
    let secret = find(&report, OFFICIAL, "secret", "");
    assert_eq!(secret["result"], "failed");
    assert!(secret["next"].as_str().expect("a text").contains("accounts.secret"), "{secret}");
    assert_eq!(find(&report, OFFICIAL, "permission", "store")["result"], "skipped");
    assert_eq!(find(&report, "", "clock", "")["result"], "ok");
    assert!(!report.to_string().contains("not-the-secret"), "{report}");
}

#[test]
fn refused_address_is_named_for_whitelist() {
    let setup = Setup::new();
    let errmsg = "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 1-2-3";
    let kind = json!({ "errcode": { "errcode": 40164, "errmsg": errmsg } });
    setup.fault("/cgi-bin/stable_token", &kind);
    let (report, output) = setup.report(ACCOUNT, &[]);
    assert_eq!(output.status.code(), Some(1));
    let check = find(&report, OFFICIAL, "ip_whitelist", "");
    assert_eq!(check["result"], "failed");
    let next = check["next"].as_str().expect("a text");
    assert!(next.starts_with("enter 203.0.113.7 in WeChat's console"), "{next}");
}

#[test]
fn missing_permission_set_is_named() {
    let setup = Setup::new();
    setup.fault("/wxa/get_store_list", &json!({ "errcode": { "errcode": 48001 } }));
    let (report, output) = setup.report(ACCOUNT, &[]);
    assert_eq!(output.status.code(), Some(1));
    let check = find(&report, OFFICIAL, "permission", "store");
    assert_eq!(check["result"], "failed");
    assert!(check["next"].as_str().expect("a text").contains("[8, 9, 10, 13]"), "{check}");
    assert_eq!(find(&report, OFFICIAL, "permission", "card")["result"], "ok");
}

#[test]
fn spent_quota_and_wrong_kind_fail() {
    let setup = Setup::new();
    setup.fault("/wxa/get_store_list", &json!({ "errcode": { "errcode": 45009 } }));
    let (report, _) = setup.report(ACCOUNT, &[]);
    assert_eq!(find(&report, OFFICIAL, "quota", "")["result"], "failed");
    let (report, _) = setup.report(&ACCOUNT.replace("official\"", "mini_program\""), &[]);
    assert_eq!(find(&report, OFFICIAL, "kind", "")["result"], "failed", "{report:#}");
}

#[test]
fn classic_token_is_fetched_only_if_allowed() {
    let setup = Setup::new();
    let account = format!("{ACCOUNT}token = \"classic\"\n");
    let (report, output) = setup.report(&account, &[]);
    assert_eq!(output.status.code(), Some(0));
    let secret = find(&report, OFFICIAL, "secret", "");
    assert_eq!(secret["result"], "warning");
    assert!(secret["next"].as_str().expect("a text").contains("--classic-token"), "{secret}");
    let fetched = |setup: &Setup| setup.paths().iter().any(|path| path == "/cgi-bin/token");
    assert!(!fetched(&setup));
    let (report, _) = setup.report(&account, &["--classic-token"]);
    assert_eq!(find(&report, OFFICIAL, "secret", "")["result"], "ok");
    assert!(fetched(&setup));
}

#[test]
fn callback_must_know_the_token() {
    let setup = Setup::new();
    let gateway = |listen: &str, token: &str| {
        let callback = CALLBACK.replace("callback-token", token);
        format!("[listen]\ngrpc = \"127.0.0.1:0\"\ncallback = \"{listen}\"\n{ACCOUNT}{callback}")
    };
    let settings = setup.settings(&gateway("127.0.0.1:0", "callback-token"));
    let file = setup.folder.path().join("gateway.toml");
    fs::write(&file, settings).expect("a file");
    let running = Daemon::start(&["serve", "--config", file.to_str().expect("UTF-8")]);
    let address = running.address_after("\"callback\":\"");
    let (report, _) = setup.report(&gateway(&address, "callback-token"), &[]);
    assert_eq!(find(&report, OFFICIAL, "callback", "")["result"], "ok", "{report:#}");
    let (report, output) = setup.report(&gateway(&address, "another-token"), &[]);
    assert_eq!(output.status.code(), Some(1));
    let check = find(&report, OFFICIAL, "callback", "");
    assert_eq!(check["result"], "failed");
    assert!(check["next"].as_str().expect("a text").contains("callback.token"), "{check}");
    // The state of the gateway that runs is named, and the gateway goes on.
    let url = format!("http://{address}/no/{{app_id}}");
    let (report, _) = setup.report(&gateway(&address, "callback-token"), &["--callback-url", &url]);
    let check = find(&report, OFFICIAL, "callback", "");
    assert!(check["found"].as_str().expect("a text").contains("HTTP 404"), "{check}");
}

#[test]
fn container_is_checked_without_a_secret() {
    let setup = Setup::new();
    let file = setup.folder.path().join("cloudbase_access_token");
    let account = |token: &str| {
        format!(
            "[[accounts]]\napp_id = \"{MINI_PROGRAM}\"\nkind = \"mini_program\"\ntoken = {token}\n"
        )
    };
    let in_container = account(&format!("{{ cloudbase = \"{}\" }}", file.display()));
    let (report, output) = setup.report(&in_container, &[]);
    assert_eq!(output.status.code(), Some(1));
    let token = find(&report, MINI_PROGRAM, "token", "");
    assert_eq!(token["result"], "failed");
    assert!(token["found"].as_str().expect("a text").contains("does not exist"), "{token}");

    let cloud = json!({ "app_id": MINI_PROGRAM, "token_file": file, "tokenless": true });
    let answer = setup.control("POST", "clouds", &cloud.to_string());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for settings in [in_container, account("\"open_interface\"")] {
        let (report, output) = setup.report(&settings, &[]);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        for (check, subject, result) in [
            ("token", "", "ok"),
            ("permission", "nearby", "ok"),
            ("ip_whitelist", "", "skipped"),
            ("quota", "", "skipped"),
        ] {
            let found = find(&report, MINI_PROGRAM, check, subject);
            assert_eq!(found["result"], result, "{check} {subject}: {found}");
        }
    }
    assert!(!setup.paths().iter().any(|path| path.ends_with("token")), "{:?}", setup.paths());
}

#[test]
fn token_of_another_program_is_checked() {
    let setup = Setup::new();
    let file = setup.folder.path().join("token");
    let token = format!("token = {{ file = \"{}\" }}", file.display());
    let account = ACCOUNT.replace("secret = \"official-secret\"", &token);
    fs::write(&file, "outdated-token").expect("a file");
    let (report, output) = setup.report(&account, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(find(&report, OFFICIAL, "token", "")["result"], "ok", "the file has one");
    assert_eq!(find(&report, OFFICIAL, "kind", "")["result"], "failed", "WeChat refuses it");
    assert!(!report.to_string().contains("outdated-token"), "{report}");

    fs::write(&file, setup.classic_token()).expect("a file");
    let (report, output) = setup.report(&account, &[]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(find(&report, OFFICIAL, "permission", "store")["result"], "ok");
}

#[test]
fn callback_in_cloud_hosting_is_probed() {
    let setup = Setup::new();
    let gateway = |listen: &str| {
        let callback = "callback = { mode = \"cloud\", public_route_closed = true }\n";
        format!("[listen]\ngrpc = \"127.0.0.1:0\"\ncallback = \"{listen}\"\n{ACCOUNT}{callback}")
    };
    let file = setup.folder.path().join("gateway.toml");
    fs::write(&file, setup.settings(&gateway("127.0.0.1:0"))).expect("a file");
    let running = Daemon::start(&["serve", "--config", file.to_str().expect("UTF-8")]);
    let address = running.address_after("\"callback\":\"");
    let (report, _) = setup.report(&gateway(&address), &[]);
    let check = find(&report, OFFICIAL, "callback", "");
    assert_eq!(check["result"], "ok", "{report:#}");
    assert!(check["found"].as_str().expect("a text").contains("public route"), "{check}");
    let url = format!("http://{address}/no/{{app_id}}");
    let (report, _) = setup.report(&gateway(&address), &["--callback-url", &url]);
    let check = find(&report, OFFICIAL, "callback", "");
    assert!(check["found"].as_str().expect("a text").contains("HTTP 404"), "{check}");
}

#[test]
fn address_that_echoes_everything_fails() {
    // It answers as a page does that shows its own query.
    let echo = |request: &str| {
        let (_, rest) = request.split_once("echostr=").expect("a question");
        let echo: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{echo}",
            echo.len()
        )
    };
    let (setup, address) = (Setup::new(), server(echo));
    let url = format!("http://{address}/");
    let settings = format!("{ACCOUNT}{CALLBACK}");
    let (report, _) = setup.report(&settings, &["--callback-url", &url]);
    let check = find(&report, OFFICIAL, "callback", "");
    assert_eq!(check["result"], "failed");
    assert!(check["found"].as_str().expect("a text").contains("wrong signature"), "{check}");
}

#[test]
fn state_of_a_running_gateway_is_named() {
    let setup = Setup::new();
    let state = setup.folder.path().join("state.db");
    let settings = format!(
        "[state]\nurl = \"sqlite:{}\"\n[listen]\ngrpc = \"127.0.0.1:0\"\n{ACCOUNT}",
        state.display()
    );
    let file = setup.folder.path().join("gateway.toml");
    fs::write(&file, setup.settings(&settings)).expect("a file");
    let found = || {
        let (report, _) = setup.report(&settings, &[]);
        find(&report, "", "state", "")["found"].as_str().expect("a text").to_owned()
    };
    assert!(found().contains("a new file"), "{}", found());
    let running = Daemon::start(&["serve", "--config", file.to_str().expect("UTF-8")]);
    let grpc = running.address_after("\"grpc\":\"");
    assert!(found().contains("a running gateway holds the file"), "{}", found());
    assert_eq!(run(&["healthcheck", "--address", &grpc], Path::new(".")).status.code(), Some(0));
    drop(running);
    assert!(found().contains("no gateway holds the file"), "{}", found());
    let plain = settings.replace("[state]", "[state]\nplain_secrets = true");
    let (report, _) = setup.report(&plain, &[]);
    let check = find(&report, "", "state", "");
    assert_eq!(check["result"], "warning", "{check}");
    assert!(check["found"].as_str().expect("a text").contains("plain text"), "{check}");
    let gone = settings.replace("state.db", "no/such/state.db");
    let (report, _) = setup.report(&gone, &[]);
    assert_eq!(find(&report, "", "state", "")["result"], "failed");
}

#[test]
fn wrong_clock_is_a_warning() {
    let old = |_: &str| {
        "HTTP/1.1 404 Not Found\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
            .to_owned()
    };
    let setup = Setup { wechat: server(old), ..Setup::new() };
    let (report, output) = setup.report(ACCOUNT, &[]);
    let clock = find(&report, "", "clock", "");
    assert_eq!(clock["result"], "warning");
    assert!(clock["found"].as_str().expect("a text").contains("s ahead of WeChat's"), "{clock}");
    // No token came from this server.
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn certificates_are_reported_before_and_after_expiry() {
    let setup = Setup::new();
    let settings = |certificate: &str| {
        let file = |name: &str| setup.folder.path().join(name).display().to_string();
        let (certificate, key) = (file(certificate), file("key.pem"));
        format!("[listen.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n{ACCOUNT}")
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    fs::write(setup.folder.path().join("key.pem"), key.serialize_pem()).expect("a file");
    for (name, until) in [("old.pem", 2020), ("good.pem", 4000)] {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2010, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(setup.folder.path().join(name), certificate.pem()).expect("a file");
    }
    let (report, output) = setup.report(&settings("old.pem"), &[]);
    assert_eq!(output.status.code(), Some(1));
    let check = find(&report, "", "settings", "listen.tls.certificate");
    assert_eq!(check["result"], "failed");
    assert!(check["found"].as_str().expect("a text").contains("expired"), "{check}");
    assert_eq!(find(&report, OFFICIAL, "secret", "")["result"], "ok", "it does not depend on it");
    let (report, _) = setup.report(&settings("good.pem"), &[]);
    let check = find(&report, "", "certificate", "listen.tls");
    assert_eq!(check["result"], "ok");
    assert!(check["found"].as_str().expect("a text").contains("4000-01-01"), "{check}");
}

#[test]
fn certificate_near_its_expiry_is_a_warning() {
    let setup = Setup::new();
    let file = |name: &str| setup.folder.path().join(name);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    #[expect(clippy::disallowed_methods, reason = "the binary has the clock of the machine")]
    let now = SystemTime::now();
    let days = |count: u64| Duration::from_secs(count * 24 * 3600);
    (params.not_before, params.not_after) = ((now - days(60)).into(), (now + days(5)).into());
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(file("key.pem"), key.serialize_pem()).expect("a file");
    fs::write(file("near.pem"), certificate.pem()).expect("a file");
    let (certificate, key) = (file("near.pem"), file("key.pem"));
    let section = format!("[listen.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let (report, output) = setup.report(&(section + ACCOUNT), &[]);
    let check = find(&report, "", "certificate", "listen.tls");
    assert_eq!(check["result"], "warning");
    assert!(check["next"].as_str().expect("a text").contains("renew it"), "{check}");
    assert_eq!(output.status.code(), Some(0), "a warning is not a failure");
}

#[test]
fn wrong_settings_leave_the_other_checks() {
    let setup = Setup::new();
    let wrong = "
        [limits]
        drain_ms = \"long\"
        [[callers]]
        name = \"a b\"
        [[accounts]]
        app_id = \"wx0000000000000002\"
        kind = \"shop\"
        secret = \"mini-secret\"
        [[accounts]]
        app_id = \"wx0000000000000003\"
        kind = \"official\"
        secret = { env = \"ABSENT\" }
        callback = { token = { env = \"ABSENT\" }, mode = \"plain\" }
    ";
    let (report, output) = setup.report(&format!("{wrong}{ACCOUNT}"), &[]);
    assert_eq!(output.status.code(), Some(1));
    for key in [
        "limits.drain_ms",
        "callers[0].name",
        "callers[0].role",
        "accounts[0].kind",
        "accounts[1].secret",
        "accounts[1].callback.token",
    ] {
        assert_eq!(find(&report, "", "settings", key)["result"], "failed", "{key}");
    }
    for check in ["secret", "kind", "quota"] {
        assert_eq!(find(&report, OFFICIAL, check, "")["result"], "ok", "{check}");
    }
    assert_eq!(find(&report, "", "wechat", "")["result"], "ok");
    let groups = report["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 2, "the wrong accounts are left out");

    let output = setup.run("[limits", &[]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn issuer_without_keys_fails() {
    let setup = Setup::new();
    let answer = |status: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    };
    let failing = server(move |_| answer("503 Service Unavailable", ""));
    let empty = server(move |_| answer("200 OK", "{\"keys\":[]}"));
    for (address, found) in [(failing, "the server answered 503"), (empty, "no usable key")] {
        let issuer = format!(
            "[[issuers]]\nissuer = \"https://issuer\"\naudiences = [\"gateway\"]\n\
             jwks = {{ url = \"http://{address}/jwks\" }}\n"
        );
        let (report, output) = setup.report(&(issuer + ACCOUNT), &[]);
        let check = find(&report, "", "issuer", "https://issuer");
        assert_eq!(check["result"], "failed");
        assert!(check["found"].as_str().expect("a text").contains(found), "{check}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn state_in_redis_is_checked_for_durability() {
    let setup = Setup::new();
    let found = |address: SocketAddr| {
        let keys = "keys = [\"c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM=\"]";
        let settings = format!("[state]\nurl = \"redis://{address}\"\n{keys}\n{ACCOUNT}");
        find(&setup.report(&settings, &[]).0, "", "state", "")
    };
    let redis = Redis::start(setup.folder.path());
    let check = found(redis.address);
    assert_eq!(check["result"], "warning", "it does not sync its file: {check}");
    assert!(check["next"].as_str().expect("a text").contains("appendonly"), "{check}");
    let address = redis.address;
    drop(redis);
    let check = found(address);
    assert_eq!(check["result"], "failed", "{check}");
    assert!(check["found"].as_str().expect("a text").contains("redis://"), "{check}");
}

/// A `redis-server` that saves nothing.
struct Redis {
    address: SocketAddr,
    process: Child,
}

impl Redis {
    fn start(folder: &Path) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        while TcpStream::connect(address).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        Self { address, process }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const PLATFORM: &str = "wx00000000000000c1";
const PLATFORM_SECRET: &str = "platform-secret";
const AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

fn platform_section() -> String {
    format!(
        "[[platforms]]\napp_id = \"{PLATFORM}\"\nsecret = \"{PLATFORM_SECRET}\"\n\
         token = \"platform-token\"\naes_key = \"{AES_KEY}\"\n"
    )
}

/// Returns a check of the platform. An empty subject stands for any.
fn of_platform(report: &Value, check: &str, subject: &str) -> Value {
    let groups = report["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["platform"] == PLATFORM).expect("the platform");
    let checks = group["checks"].as_array().expect("checks");
    let is_it =
        |one: &&Value| one["check"] == check && (subject.is_empty() || one["subject"] == subject);
    checks.iter().find(is_it).unwrap_or_else(|| panic!("no {check} in {report:#}")).clone()
}

#[test]
fn platform_without_ticket_names_its_address() {
    let setup = Setup::new();
    let (report, output) = setup.report(&platform_section(), &["--account", PLATFORM]);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let ticket = of_platform(&report, "ticket", "");
    assert_eq!(ticket["result"], "failed");
    let address = format!("/wechat/platform/{PLATFORM}/events");
    assert!(ticket["next"].as_str().expect("a text").contains(&address), "{ticket}");
    assert_eq!(of_platform(&report, "token", "")["result"], "skipped");
    assert_eq!(of_platform(&report, "keys", "")["result"], "ok");
    let nearby = of_platform(&report, "permission", "37");
    assert!(nearby["found"].as_str().expect("a text").contains("/wxa/addnearbypoi"), "{nearby}");
    let output = setup.run(&platform_section(), &[]);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(printed.contains(&format!("\nplatform {PLATFORM}\n  ok       keys: ")), "{printed}");
    assert!(!printed.contains(PLATFORM_SECRET), "{printed}");
}

#[test]
fn running_platform_is_checked_with_its_token() {
    let setup = Setup::new();
    let state = format!("sqlite:{}", setup.folder.path().join("state.db").display());
    checks_running_platform(&setup, &state);
}

#[test]
fn running_platform_in_redis_is_checked() {
    let setup = Setup::new();
    let redis = Redis::start(setup.folder.path());
    checks_running_platform(&setup, &format!("redis://{}", redis.address));
}

/// Checks a platform whose gateway has its state at this URL.
fn checks_running_platform(setup: &Setup, state: &str) {
    // A Redis needs a key, and a file has one.
    let keys = match state.starts_with("redis") {
        true => "state.keys = [\"c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM=\"]\n",
        false => "",
    };
    let settings = format!(
        "listen.grpc = \"127.0.0.1:0\"\nlisten.callback = \"127.0.0.1:0\"\n\
         state.url = \"{state}\"\n{keys}{}",
        platform_section()
    );
    let file = setup.folder.path().join("serve.toml");
    fs::write(&file, setup.settings(&settings)).expect("a file");
    let gateway = Daemon::start(&["serve", "--config", file.to_str().expect("UTF-8")]);
    let (listening, _) = gateway.read_until("\"callback\":\"");
    let after = |key: &str| {
        let (_, rest) = listening.split_once(key).expect("an address");
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let (callback, grpc) = (after("\"callback\":\""), after("\"grpc\":\""));
    let component = json!({
        "app_id": PLATFORM,
        "secret": PLATFORM_SECRET,
        "token": "platform-token",
        "encoding_aes_key": AES_KEY,
        "events_url": format!("http://{callback}/wechat/platform/{PLATFORM}/events"),
    });
    let answer = setup.control("POST", "components", &component.to_string());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let checked = || setup.report(&settings, &[]).0;
    let begun = Instant::now();
    let report = loop {
        let report = checked();
        if of_platform(&report, "ticket", "")["result"] == "ok" {
            break report;
        }
        assert!(begun.elapsed() < daemon::LIMIT, "{report:#}");
    };
    // No gateway has a token, so doctor fetched one.
    let token = "/cgi-bin/component/api_component_token";
    let fetched = |paths: Vec<String>| paths.iter().filter(|path| *path == token).count();
    assert_eq!(of_platform(&report, "token", "")["result"], "ok", "{report:#}");
    let link = r#"{"redirect_uri": "https://shop.example.com"}"#;
    let made = run(
        &["call", "--address", &grpc, "AccountService/CreateAuthorizationLink", link],
        setup.folder.path(),
    );
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let before = fetched(setup.paths());
    assert_eq!(of_platform(&checked(), "token", "")["result"], "ok");
    assert_eq!(fetched(setup.paths()), before, "the gateway keeps its token");
}

#[test]
fn unknown_account_is_wrong_usage() {
    let setup = Setup::new();
    let output = setup.run(ACCOUNT, &["--account", "wx00000000000000ff"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
}

/// A simulated WeChat, and a folder for settings and state.
struct Setup {
    folder: TempDir,
    wechat: SocketAddr,
    _simulator: Daemon,
}

impl Setup {
    fn new() -> Self {
        let simulator = Daemon::start(&["simulate", "--listen", "127.0.0.1:0"]);
        let wechat = simulator.address_after("http://").parse().expect("an address");
        Self { folder: tempfile::tempdir().expect("a folder"), wechat, _simulator: simulator }
    }

    fn settings(&self, settings: &str) -> String {
        format!("wechat.hosts = [\"http://{}\"]\n{settings}", self.wechat)
    }

    fn run(&self, settings: &str, more: &[&str]) -> Output {
        let file = self.folder.path().join("settings.toml");
        fs::write(&file, self.settings(settings)).expect("a file");
        let file = file.to_str().expect("UTF-8");
        run(&[&["doctor", "--config", file], more].concat(), self.folder.path())
    }

    fn report(&self, settings: &str, more: &[&str]) -> (Value, Output) {
        let output = self.run(settings, &[&["--json"], more].concat());
        let report = serde_json::from_slice(&output.stdout);
        (report.unwrap_or_else(|_| panic!("no JSON: {output:?}")), output)
    }

    /// Makes the calls to a path fail.
    fn fault(&self, path: &str, kind: &Value) {
        let body = json!({ "path": path, "kind": kind, "times": 0 }).to_string();
        let answer = self.control("POST", "faults", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Returns the paths of all calls so far.
    fn paths(&self) -> Vec<String> {
        let answer = self.control("GET", "journal", "");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let journal: Value = serde_json::from_str(body).expect("JSON");
        let calls = journal.as_array().or_else(|| journal["calls"].as_array()).expect("a list");
        let path = |call: &Value| call["path"].as_str().expect("a path").to_owned();
        calls.iter().map(path).collect()
    }

    /// Takes a classic token of the official account.
    fn classic_token(&self) -> String {
        let mut stream = TcpStream::connect(self.wechat).expect("connected");
        let query = "grant_type=client_credential&appid=wx0000000000000001&secret=official-secret";
        let head = "HTTP/1.1\r\nhost: wechat\r\nconnection: close";
        write!(stream, "GET /cgi-bin/token?{query} {head}\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let reply: Value = serde_json::from_str(body).expect("JSON");
        reply["access_token"].as_str().expect("a token").to_owned()
    }

    fn control(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.wechat).expect("connected");
        let length = body.len();
        write!(
            stream,
            "{method} /_simulator/{path} HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

/// Returns a check of the report. An empty account stands for the gateway, an empty subject for any.
fn find(report: &Value, account: &str, check: &str, subject: &str) -> Value {
    let groups = report["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["account"].as_str().unwrap_or("") == account);
    let checks = group.expect("the group")["checks"].as_array().expect("checks");
    let is_it =
        |one: &&Value| one["check"] == check && (subject.is_empty() || one["subject"] == subject);
    let found = checks.iter().find(is_it);
    found.unwrap_or_else(|| panic!("no {check} {subject} in {report:#}")).clone()
}

/// Answers each request until the process ends.
fn server(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 8192];
            let length = stream.read(&mut request).unwrap_or_default();
            let text = answer(&String::from_utf8_lossy(&request[..length]));
            let _ = stream.write_all(text.as_bytes());
        }
    });
    address
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    let output = command(arguments).current_dir(folder).output().expect("the binary runs");
    leaks::check(&String::from_utf8_lossy(&output.stderr));
    output
}
