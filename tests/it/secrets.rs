//! Searches every log line and every span of all tests for secrets, and checks that the other tests search the
//! output of the processes that they start. `tests/telemetry` does the same with the most verbose logs of the
//! libraries, which would be too many here.

use std::{fs, io, path::Path, process::Command};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::OnceCell,
};
use tonic::Request;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::FmtSpan},
};
use wechat_simulator::{self, MINI_PROGRAM_SECRET, OFFICIAL_SECRET, Simulator};
use wechat_store_gateway::pb;

use crate::{
    access::{bearer, caller},
    leaks::{self, forms},
    support::{
        App, CALLBACK_TOKEN, MINI_PROGRAM_AES_KEY, OFFICIAL_AES_KEY, ask, take_classic_token,
    },
};

/// A number that WeChat quotes in an `errmsg`. No other test uses it.
pub(crate) const QUOTED_PHONE: &str = "13700009988";
/// A token for every refresh that a test may cause.
const TOKENS: usize = 20;

/// Begins the search, once for all tests of this process.
pub(crate) async fn watch() {
    static WATCHING: OnceCell<()> = OnceCell::const_new();
    WATCHING.get_or_init(start).await;
}

async fn start() {
    let callback = [CALLBACK_TOKEN, OFFICIAL_AES_KEY, MINI_PROGRAM_AES_KEY];
    let app = [OFFICIAL_SECRET, MINI_PROGRAM_SECRET, QUOTED_PHONE];
    let mut secrets = app.into_iter().chain(callback).map(str::to_owned).collect::<Vec<_>>();
    secrets.extend(tokens().await);
    let forms = secrets.iter().flat_map(|secret| forms(secret)).collect::<Vec<_>>();
    let watch = Watch(forms.leak());
    let filter = EnvFilter::new("debug,h2=info,wechat_store_gateway=trace");
    let lines = tracing_subscriber::fmt().json().with_env_filter(filter);
    // The line about the end of a span has all its fields.
    lines.with_span_events(FmtSpan::CLOSE).with_writer(watch).init();
}

/// Returns the tokens that every simulator with the usual seed creates, in order.
async fn tokens() -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let host = listener.local_addr().expect("bound");
    let wechat = Simulator::new(wechat_simulator::Settings::default());
    let running = tokio::spawn(wechat.run(listener, std::future::pending()));
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        tokens.push(take_classic_token(host).await);
    }
    running.abort();
    tokens
}

/// Ends the process at the first secret in a line. Writes nothing.
#[derive(Clone, Copy)]
struct Watch(&'static [String]);

impl io::Write for Watch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        // Other lines are masked only in a process of their own.
        leaks::check_part(&text, text.contains("wechat_store_gateway::trace"));
        if let Some(secret) = self.0.iter().find(|secret| text.contains(*secret)) {
            // A panic would be caught between here and the test.
            let _ = writeln!(io::stderr(), "the secret {secret} was logged: {text}");
            std::process::abort();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Watch {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// Returns all Rust files below a folder.
fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn output_of_every_started_gateway_is_searched() {
    // In two parts, because this file starts none.
    let starts = ["env!(\"CARGO_BIN", "_EXE_wechat-store-gateway\")"].concat();
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let content = |path: &Path| fs::read_to_string(path).expect("UTF-8");
    let starting = files.iter().filter(|path| content(path).contains(&starts));
    let starting = starting.collect::<Vec<_>>();
    assert!(starting.len() >= 7, "{starting:?}");
    let forgetful = starting.iter().filter(|path| !content(path).contains("leaks::check"));
    let forgetful = forgetful.collect::<Vec<_>>();
    assert!(forgetful.is_empty(), "call leaks::check with its standard error: {forgetful:?}");
}

#[test]
fn secret_in_an_output_is_found() {
    let (token, phone) = (format!("{}aZ9", "x-_".repeat(45)), "139-0000-7788".replace('-', ""));
    for secret in [
        OFFICIAL_AES_KEY,
        &token,
        &phone,
        "-----BEGIN PRIVATE KEY-----",
        "canary-official-secret-0123456789",
        "Y2FuYXJ5LW9mZmljaWFsLXNlY3JldC0wMTIzNDU2Nzg5",
    ] {
        let line = format!("{{\"message\":\"手机 {secret}\"}}");
        assert!(leaks::find(&line, true).is_some(), "{line}");
    }
    for other in [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "0190a1b2-1384-7567-8901-138123456789",
        "wx0123456789abcdef",
        "2708071440732747189",
        "1769833200123",
        "https://api.weixin.qq.com/wxa/add_store?access_token=REDACTED",
    ] {
        assert_eq!(leaks::find(&format!("{{\"field\":\"{other}\"}}"), true), None);
    }
}

/// Runs an ignored test in a process of its own, which the search must end. Returns what the search printed.
fn ended_by_search(test: &str) -> String {
    let program = std::env::current_exe().expect("this program");
    let arguments = ["--exact", test, "--ignored", "--nocapture"];
    let output = Command::new(program).args(arguments).output().expect("this program");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    // A failed test has a code. The search sends a signal.
    assert_eq!(output.status.code(), None, "{printed}");
    printed
}

/// A secret that the next two tests put where the gateway writes it.
const CANARY: &str = "canary-official-secret-0123456789";

#[test]
fn secret_in_a_log_line_ends_the_test() {
    let printed = ended_by_search("secrets::gateway_logs_a_secret");
    assert!(
        printed.contains("a gateway wrote a secret: ") && printed.contains(CANARY),
        "{printed}"
    );
}

#[tokio::test]
#[ignore = "the search ends its process; secret_in_a_log_line_ends_the_test runs it"]
async fn gateway_logs_a_secret() {
    // The line of a failed call has the name of its caller.
    let app = App::with_sections(&caller(CANARY, "role = \"reader\"")).await;
    let mut request = Request::new(pb::GetStoreCardRequest::default());
    request.metadata_mut().insert("authorization", bearer(CANARY).parse().expect("ASCII"));
    app.cards().get_store_card(request).await.expect_err("no id");
}

#[test]
fn secret_in_the_metrics_ends_the_test() {
    let printed = ended_by_search("secrets::metrics_have_a_secret");
    assert!(printed.contains("wechat_a_total{") && printed.contains(CANARY), "{printed}");
}

#[tokio::test]
#[ignore = "the search ends its process; secret_in_the_metrics_ends_the_test runs it"]
async fn metrics_have_a_secret() {
    // A gateway has no label that a test can choose.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a scrape");
        let mut request = [0; 1024];
        let _ = socket.read(&mut request).await.expect("a request");
        let text = format!("HTTP/1.1 200 OK\r\n\r\nwechat_a_total{{b=\"{CANARY}\"}} 1\n");
        socket.write_all(text.as_bytes()).await.expect("it reads");
    });
    ask(address, "/metrics").await;
}
