//! Reads every line that is logged during all tests for secrets. `tests/telemetry.rs` does the same
//! with what the libraries below say at their most talkative, which would be too much here.

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::OnceCell,
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use wechat_store_gateway::simulator::{
    self, MINI_PROGRAM_SECRET, OFFICIAL_APP_ID, OFFICIAL_SECRET, Simulator,
};

/// A token for every refresh that a test may cause.
const TOKENS: usize = 20;

/// Begins to watch, once for all tests of this process.
pub(crate) async fn watch() {
    static WATCHING: OnceCell<()> = OnceCell::const_new();
    WATCHING.get_or_init(start).await;
}

async fn start() {
    let mut secrets = vec![OFFICIAL_SECRET.to_owned(), MINI_PROGRAM_SECRET.to_owned()];
    secrets.extend(tokens().await);
    let forms = secrets.iter().flat_map(|secret| forms(secret)).collect::<Vec<_>>();
    let watch = Watch(forms.leak());
    let filter = EnvFilter::new("debug,h2=info,wechat_store_gateway=trace");
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(watch).init();
}

/// The tokens that every simulator with the usual seed gives out, in its order.
async fn tokens() -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let host = listener.local_addr().expect("bound");
    let wechat = Simulator::new(simulator::Settings::default());
    let running = tokio::spawn(wechat.run(listener, std::future::pending()));
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        let mut socket = TcpStream::connect(host).await.expect("WeChat listens");
        let request = format!(
            "GET /cgi-bin/token?grant_type=client_credential&appid={OFFICIAL_APP_ID}\
             &secret={OFFICIAL_SECRET} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("WeChat reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("WeChat answers");
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        tokens.push(body["access_token"].as_str().expect("a token").to_owned());
    }
    running.abort();
    tokens
}

/// Plain, in a URL, and in base64 at any of the three alignments.
fn forms(secret: &str) -> Vec<String> {
    let url: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut forms = vec![secret.to_owned(), url];
    for offset in 0..3 {
        let encoded = BASE64_STANDARD_NO_PAD.encode([&vec![0; offset], secret.as_bytes()].concat());
        // The ends depend on what stands beside the secret.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}

/// Ends the process at the first secret that it is to write; writes nothing.
#[derive(Clone, Copy)]
struct Watch(&'static [String]);

impl io::Write for Watch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if let Some(secret) = self.0.iter().find(|secret| text.contains(*secret)) {
            // A panic would be caught somewhere between here and the test.
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
