//! Searches every log line of all tests for secrets. `tests/telemetry.rs` does the same with the
//! most verbose logs of the libraries, which would be too many here.

use std::io;

use tokio::{net::TcpListener, sync::OnceCell};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use wechat_simulator::{self, MINI_PROGRAM_SECRET, OFFICIAL_SECRET, Simulator};

use crate::{
    forms::forms,
    support::{CALLBACK_TOKEN, MINI_PROGRAM_AES_KEY, OFFICIAL_AES_KEY, take_classic_token},
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
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(watch).init();
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
