//! `simulate`: the small WeChat, alone.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::net::TcpListener;
use wechat_simulator::{
    Callback, Settings, Simulator,
    push::{Format, Mode},
};

use super::{Failure, print, seconds::seconds, signal};

/// Where the simulator listens unless it is told otherwise.
pub(super) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8090);

/// Runs the simulator.
#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value_t = ADDRESS)]
    listen: SocketAddr,
    /// Decides every id and token that the simulator makes up
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Reviews pass by themselves after this time; without it they stay open
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    audit_delay: Option<Duration>,
    #[command(flatten)]
    pushes: Pushes,
}

/// Where the accounts are told of reviews.
#[derive(Debug, clap::Args)]
struct Pushes {
    /// Where pushes go, such as http://127.0.0.1:8080/wechat/callback/{app_id}
    #[arg(long, value_name = "URL", requires = "callback_token")]
    callback_url: Option<String>,
    /// What pushes are signed with
    #[arg(long, value_name = "TOKEN", requires = "callback_url")]
    callback_token: Option<String>,
    /// What pushes are sealed with, unless they are plain
    #[arg(long, value_name = "KEY", requires = "callback_url")]
    callback_aes_key: Option<String>,
    /// How pushes are sealed
    #[arg(long, default_value = "safe", requires = "callback_url")]
    callback_mode: Mode,
}

impl Pushes {
    fn callback(self) -> Result<Option<Callback>, Failure> {
        let Self { callback_url, callback_token, callback_aes_key, callback_mode: mode } = self;
        let Some(url) = callback_url else { return Ok(None) };
        let token = callback_token.unwrap_or_default();
        let encoding_aes_key = callback_aes_key.unwrap_or_default();
        let callback = Callback { url, token, encoding_aes_key, mode, format: Format::Xml };
        callback
            .check()
            .map_err(|problem| Failure::usage(format_args!("--callback: {problem}")))?;
        Ok(Some(callback))
    }
}

impl Simulate {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let Self { listen, seed, audit_delay, pushes } = self;
        let mut settings = Settings { seed, audit_delay, ..Settings::default() };
        let callback = pushes.callback()?;
        for account in &mut settings.accounts {
            account.callback.clone_from(&callback);
        }
        let stop = signal::stop()?;
        let listener = bind("--listen", listen).await?;
        let guide = Guide { address: listener.local_addr()?, settings: &settings }.to_string();
        // The simulator is of use even where nobody reads this.
        let _ = print::line(guide);
        Simulator::new(settings).run(listener, stop).await;
        Ok(())
    }
}

/// Opens a port that an argument names.
pub(super) async fn bind(argument: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(format_args!("{argument}: cannot listen on {address}: {error}"))
    })
}

/// What there is, and how to use it.
struct Guide<'a> {
    address: SocketAddr,
    settings: &'a Settings,
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, settings } = self;
        writeln!(f, "A simulated WeChat listens on http://{address}\n")?;
        writeln!(f, "Accounts:")?;
        for account in &settings.accounts {
            let kind = format!("{:?}", account.kind);
            writeln!(f, "  {}  secret {:<20} {kind}", account.app_id, account.secret)?;
            if let Some(callback) = &account.callback {
                writeln!(f, "  {:18}  told at {}", "", callback.address(&account.app_id))?;
            }
        }
        let account = settings.accounts.first();
        let (app_id, secret) =
            account.map_or(("", ""), |account| (&account.app_id, &account.secret));
        write!(
            f,
            "
Point any client of WeChat at it: its base URL is http://{address}
instead of https://api.weixin.qq.com. A token to begin with:
  curl 'http://{address}/cgi-bin/token?grant_type=client_credential&appid={app_id}&secret={secret}'

What is done to it, such as deciding reviews or letting calls fail:
  curl http://{address}/_simulator/

Ctrl-C ends it; it forgets everything."
        )
    }
}
