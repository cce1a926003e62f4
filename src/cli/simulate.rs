//! `simulate`: runs only the simulated WeChat.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::net::TcpListener;
use wechat_simulator::{
    CALLBACK_TOKEN, COMPONENT_AES_KEY, COMPONENT_APP_ID, COMPONENT_SECRET, Callback, Cloud,
    Component, MINI_PROGRAM_APP_ID, Settings, Simulator,
    push::{Format, Mode},
};

use super::{Failure, print, seconds::seconds, signal};
use crate::config::parse_address;

/// The default address of the simulator.
pub(super) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8090);

const EXAMPLES: &str = "\
Examples:
  wechat-store-gateway simulate
  wechat-store-gateway simulate --listen 127.0.0.1:0 --audit-delay 5
  wechat-store-gateway simulate --callback-url 'http://127.0.0.1:8080/wechat/callback/{app_id}' \\
    --callback-token myToken --callback-mode plain
  wechat-store-gateway simulate --component-events-url http://127.0.0.1:8080/events \
    --component-messages-url 'http://127.0.0.1:8080/messages/$APPID$'

The paths under /_simulator/ decide reviews, inject faults and list the calls that WeChat received:
  curl http://127.0.0.1:8090/_simulator/";

/// The arguments of `simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Simulate {
    /// The address to listen on; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS", default_value_t = ADDRESS, value_parser = parse_address)]
    listen: SocketAddr,
    /// The seed of all ids and tokens that the simulator generates
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Approve each review after this time [default: reviews stay open until you decide them]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    audit_delay: Option<Duration>,
    #[command(flatten)]
    pushes: Pushes,
    #[command(flatten)]
    platform: Platform,
    /// Write the mini program's token of cloud hosting to this file, as WeChat does in a container
    #[arg(long, value_name = "PATH")]
    cloud_token_file: Option<PathBuf>,
}

/// How the simulator pushes the results of reviews.
#[derive(Debug, clap::Args)]
struct Pushes {
    /// Send pushes to this URL, such as http://127.0.0.1:8080/wechat/callback/{app_id}
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    /// The Token that signs pushes; not needed in cloud mode
    #[arg(long, value_name = "TOKEN", requires = "callback_url")]
    callback_token: Option<String>,
    /// The EncodingAESKey that encrypts pushes; not needed in plain and cloud mode
    #[arg(long, value_name = "KEY", requires = "callback_url")]
    callback_aes_key: Option<String>,
    /// How pushes are encrypted
    #[arg(long, default_value = "safe", requires = "callback_url")]
    callback_mode: Mode,
}

/// A third-party platform, which WeChat's APIs call a component.
#[derive(Debug, clap::Args)]
struct Platform {
    /// Simulate a third-party platform, and send its tickets and authorization events to this URL
    #[arg(long, value_name = "URL")]
    component_events_url: Option<String>,
    /// Send the events of its merchants to this URL, in which $APPID$ stands for the merchant
    #[arg(long, value_name = "URL", requires = "component_events_url")]
    component_messages_url: Option<String>,
    /// The Token that signs pushes to it
    #[arg(long, value_name = "TOKEN", default_value = CALLBACK_TOKEN)]
    component_token: String,
    /// The EncodingAESKey that encrypts pushes to it
    #[arg(long, value_name = "KEY", default_value = COMPONENT_AES_KEY)]
    component_aes_key: String,
}

impl Platform {
    fn component(self) -> Result<Option<Component>, Failure> {
        let Self {
            component_events_url,
            component_messages_url,
            component_token,
            component_aes_key,
        } = self;
        if component_events_url.is_none() {
            return Ok(None);
        }
        let component = Component {
            events_url: component_events_url,
            messages_url: component_messages_url,
            ..Component::new(
                COMPONENT_APP_ID,
                COMPONENT_SECRET,
                &component_token,
                &component_aes_key,
            )
        };
        component
            .check()
            .map_err(|problem| Failure::usage(format_args!("--component: {problem}")))?;
        Ok(Some(component))
    }
}

impl Pushes {
    fn callback(self) -> Result<Option<Callback>, Failure> {
        let Self { callback_url, callback_token, callback_aes_key, callback_mode: mode } = self;
        let Some(url) = callback_url else { return Ok(None) };
        if callback_token.is_none() && mode != Mode::Cloud {
            return Err(Failure::usage("--callback-url: --callback-token is required, too"));
        }
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
        let Self { listen, seed, audit_delay, pushes, platform, cloud_token_file } = self;
        let mut settings = Settings { seed, audit_delay, ..Settings::default() };
        let callback = pushes.callback()?;
        for account in &mut settings.accounts {
            account.callback.clone_from(&callback);
        }
        settings.components.extend(platform.component()?);
        if let Some(file) = cloud_token_file {
            let cloud = Cloud { token_file: Some(file), ..Cloud::new(MINI_PROGRAM_APP_ID) };
            settings.clouds.push(cloud);
        }
        let stop = signal::stop()?;
        let listener = bind("--listen", listen).await?;
        let guide = Guide { address: listener.local_addr()?, settings: &settings }.to_string();
        // The simulator works even if standard output is closed.
        let _ = print::line(guide);
        Simulator::new(settings).run(listener, stop).await;
        Ok(())
    }
}

/// Opens a port. An error names the argument.
pub(super) async fn bind(argument: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(format_args!("{argument}: failed to listen on {address}: {error}"))
    })
}

/// The text that the command prints: the accounts and commands to try.
struct Guide<'a> {
    address: SocketAddr,
    settings: &'a Settings,
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, settings } = self;
        writeln!(f, "A simulated WeChat listens on http://{address}\n\nAccounts:")?;
        for account in &settings.accounts {
            let kind = format!("{:?}", account.kind);
            writeln!(f, "  {}  secret {:<20} {kind}", account.app_id, account.secret)?;
            if let Some(callback) = &account.callback {
                writeln!(f, "  {:18}  pushes to {}", "", callback.address(&account.app_id))?;
            }
        }
        for component in &settings.components {
            let (app_id, secret) = (&component.app_id, &component.secret);
            writeln!(f, "  {app_id}  secret {secret:<20} third-party platform")?;
            for url in [&component.events_url, &component.messages_url].into_iter().flatten() {
                writeln!(f, "  {:18}  pushes to {url}", "")?;
            }
        }
        let account = settings.accounts.first();
        let (app_id, secret) =
            account.map_or(("", ""), |account| (&account.app_id, &account.secret));
        write!(
            f,
            "
Use http://{address} in any WeChat client instead of https://api.weixin.qq.com. Fetch a token:
  curl 'http://{address}/cgi-bin/token?grant_type=client_credential&appid={app_id}&secret={secret}'

Decide reviews, inject faults, list received calls:
  curl http://{address}/_simulator/

Stop with Ctrl-C. Nothing is stored."
        )
    }
}
