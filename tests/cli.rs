//! The commands as their users meet them: the built binary, its output and its exit codes.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

const ACCOUNT: &str = "
    [[accounts]]
    app_id = \"wx0000000000000001\"
    kind = \"official\"
    default = true
    secret = \"official-secret\"
";

#[test]
fn wrong_settings_are_all_told_before_any_port_opens() {
    // If it tried to listen here, it would complain of that instead.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let listen = taken.local_addr().expect("its address");
    let file = File::new(&format!(
        "[listen]\ngrpc = \"{listen}\"\n[wechat]\nhosts = [7]\n[limits]\ndrain_ms = \"long\"\n[[accounts]]\nkind = \"shop\"\n"
    ));
    for command in ["serve", "check"] {
        let output = run(&[command, "--config", file.path()]);
        assert_eq!(output.status.code(), Some(64));
        let told = error(&output);
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with(file.path()), "{told}");
        let keys = ["wechat.hosts[0]", "limits.drain_ms", "accounts[0].app_id", "accounts[0].kind"];
        for key in keys {
            let told_once = lines.iter().filter(|line| line.starts_with(&format!("{key}: ")));
            assert_eq!(told_once.count(), 1, "{key} in {told}");
        }
        assert_eq!(told.matches(file.path()).count(), 1, "{told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn settings_that_cannot_be_read_are_one_line() {
    let output = run(&["serve", "--config", "/there/is/no/such.toml"]);
    assert_eq!(output.status.code(), Some(64));
    let told = error(&output);
    assert!(told.starts_with("/there/is/no/such.toml: ") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_port_in_use_is_one_line_that_names_address_and_key() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let file = File::new(&format!("[listen]\ngrpc = \"{address}\"\n{ACCOUNT}"));
    let output = run(&["serve", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let told = error(&output);
    assert!(told.contains("listen.grpc") && told.contains(&address), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn check_hides_secrets() {
    let file = File::new(ACCOUNT);
    let output = run(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output.stdout);
    assert!(printed.contains("wx0000000000000001") && printed.contains("[hidden]"), "{printed}");
    assert!(!printed.contains("official-secret"), "{printed}");
    // What it prints is TOML again.
    printed.parse::<toml::Table>().expect("TOML");
}

#[test]
fn wrong_usage_is_64_and_help_is_not() {
    for wrong in [&["frobnicate"][..], &["call"], &["serve", "--port", "1"], &[]] {
        assert_eq!(run(wrong).status.code(), Some(64), "{wrong:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_service_is_served_asked_called_and_stopped() {
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

    let call = |arguments: &[&str]| run(&[&["call", "--address", &grpc], arguments].concat());
    a_missing_store_is_refused_in_detail(&call);
    an_invalid_request_is_refused_by_field(&call);
    the_contract_can_be_read(&call);
    pipes_are_read_and_written(&grpc);

    service.signal("TERM");
    assert_eq!(service.wait(), Some(0));
    let health = run(&["healthcheck", "--address", &grpc]);
    assert_eq!(health.status.code(), Some(1));
    assert_eq!(call(&["--list"]).status.code(), Some(64 + 14));
}

fn a_missing_store_is_refused_in_detail(call: &dyn Fn(&[&str]) -> Output) {
    let output = call(&["CardService/GetStoreCard", r#"{"poiId": "1"}"#, "-H", "x-any: thing"]);
    assert_eq!(output.status.code(), Some(64 + 5));
    let refusal: serde_json::Value = serde_json::from_str(&error(&output)).expect("JSON");
    assert_eq!(refusal["code"], "NOT_FOUND");
    let info = &refusal["details"][0];
    assert_eq!(info["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
    assert_eq!(info["reason"], "STORE_NOT_FOUND");
    assert_eq!(info["metadata"]["errcode"], "65115");
}

fn an_invalid_request_is_refused_by_field(call: &dyn Fn(&[&str]) -> Output) {
    let output = call(&["wechat.store.v1.CardService/GetStoreCard"]);
    assert_eq!(output.status.code(), Some(64 + 3));
    let refusal: serde_json::Value = serde_json::from_str(&error(&output)).expect("JSON");
    let details = refusal["details"].as_array().expect("details");
    let named = |detail: &serde_json::Value| detail["fieldViolations"][0]["field"] == "poi_id";
    assert!(details.iter().any(named), "{refusal:#}");

    // These are found out before anything is sent.
    for wrong in [
        &["CardService/GetStoreCard", r#"{"poi": "1"}"#][..],
        &["CardService/GetStoreCard", "{} {}"],
        &["CardService/Nothing"],
        &["Nothing"],
    ] {
        assert_eq!(call(wrong).status.code(), Some(64), "{wrong:?}");
    }
}

fn the_contract_can_be_read(call: &dyn Fn(&[&str]) -> Output) {
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
    assert_eq!(call(&["--describe", "Nothing"]).status.code(), Some(64));
    // A stream is a line a message, and ends with the deadline.
    let watch = call(&["Health/Watch", "--deadline", "0.3"]);
    assert_eq!(text(&watch.stdout), "{\"status\":\"SERVING\"}\n");
    assert_eq!(watch.status.code(), Some(64 + 4));
}

fn pipes_are_read_and_written(grpc: &str) {
    let shell = |script: &str| {
        let binary = env!("CARGO_BIN_EXE_wechat-store-gateway");
        let script = format!("{binary} call --address {grpc} {script}");
        Command::new("sh").args(["-c", &script]).output().expect("a shell")
    };
    let script = format!("- <<'END'\n{}\nEND", r#"{"poi_id": "1"}"#);
    let refused = shell(&format!("CardService/GetStoreCard {script}"));
    assert_eq!(refused.status.code(), Some(64 + 5), "{}", error(&refused));
    // Whoever stops reading is no reason to complain.
    let head = shell("--list | head -n 1");
    assert_eq!((error(&head).as_str(), text(&head.stdout).lines().count()), ("", 1));
}

/// Each of them ends a process at once if it does nothing about it.
#[cfg(unix)]
#[test]
fn signals_that_would_kill_are_ignored_with_a_line() {
    let file = File::new(&format!("[listen]\ngrpc = \"127.0.0.1:0\"\n{ACCOUNT}"));
    let mut service = Daemon::start(&["serve", "--config", file.path()]);
    let grpc = service.address_after("\"grpc\":\"");
    for name in ["HUP", "USR1", "USR2", "ALRM", "XCPU", "XFSZ", "VTALRM", "PROF"] {
        service.signal(name);
        let (line, _) = service.read_until("ignored a signal");
        assert!(line.contains(&format!("SIG{name}")), "{line}");
    }
    let health = run(&["healthcheck", "--address", &grpc]);
    assert_eq!(text(&health.stdout), "SERVING\n");
    service.signal("QUIT");
    assert_eq!(service.wait(), Some(0), "this one stops it in order");
}

#[test]
fn a_second_signal_ends_it_at_once() {
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

#[test]
fn the_tour_goes_well() {
    let output = run(&["sandbox", "--tour"]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", error(&output));
    assert!(printed.ends_with("\"tour\":\"complete\"}\n"), "{printed}");
}

#[test]
fn what_the_sandbox_tells_to_try_works() {
    let ports = ["--grpc", "--simulator", "--callback", "--admin"];
    let anywhere = ports.iter().flat_map(|port| [*port, "127.0.0.1:0"]);
    let arguments: Vec<_> = std::iter::once("sandbox").chain(anywhere).collect();
    let mut sandbox = Daemon::start(&arguments);
    let (_, lines) = sandbox.read_until("Ctrl-C");
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
    assert!(tried >= 6, "{lines:#?}");
    sandbox.signal("INT");
    assert_eq!(sandbox.wait(), Some(0));
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Runs the binary to its end.
fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary runs")
}

/// The binary in an environment that says nothing.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    // Tests run side by side.
    command.env("WECHAT_STORE_GATEWAY__LISTEN__ADMIN", "127.0.0.1:0");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn error(output: &Output) -> String {
    text(&output.stderr)
}

/// A file that goes when the test ends.
struct File(PathBuf);

impl File {
    fn new(content: &str) -> Self {
        let name = format!("cli-{}-{:?}.toml", std::process::id(), thread::current().id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, content).expect("a file");
        Self(path)
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

/// A process that goes on, and is gone when the test ends. What it says, on either output, is read
/// line by line.
struct Daemon {
    child: Child,
    /// Where it keeps what it keeps.
    _folder: TempDir,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Daemon {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = command(arguments)
            .current_dir(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (tell, lines) = std::sync::mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for output in outputs {
            let tell = tell.clone();
            thread::spawn(move || {
                BufReader::new(output)
                    .lines()
                    .map_while(Result::ok)
                    .all(|line| tell.send(line).is_ok())
            });
        }
        Self { child, _folder: folder, lines }
    }

    /// Reads until a line contains `mark`; answers that line and all before it.
    fn read_until(&self, mark: &str) -> (String, Vec<String>) {
        let mut read = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(LIMIT) else { panic!("no {mark} in {read:#?}") };
            if line.contains(mark) {
                return (line, read);
            }
            read.push(line);
        }
    }

    /// The address that it says after `mark`.
    fn address_after(&self, mark: &str) -> String {
        let (line, _) = self.read_until(mark);
        let (_, rest) = line.split_once(mark).expect("the mark");
        rest.chars().take_while(|char| matches!(char, '0'..='9' | '.' | ':')).collect()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(status.success());
    }

    /// Its exit code.
    fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
