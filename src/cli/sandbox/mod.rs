//! `sandbox`: runs the service and the simulator in one process, connected to each other.

use std::{
    future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use wechat_simulator::{
    Account, AccountKind, CALLBACK_TOKEN, COMPONENT_AES_KEY, COMPONENT_APP_ID, COMPONENT_SECRET,
    Callback, Component, MINI_PROGRAM_AES_KEY, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET,
    OFFICIAL_AES_KEY, OFFICIAL_APP_ID, OFFICIAL_SECRET, Simulator,
    push::{Format, Mode},
};

use self::{
    identities::Identities,
    tour::{Chosen, Tour},
};
use super::{
    Failure, print, signal,
    simulate::{self, bind},
};
use crate::{
    app::{self, Listeners},
    config::{Environment, Log, Settings, parse_address},
    live::Source,
    telemetry::{Handles, Telemetry},
    util::clock::Clock,
};

mod guide;
mod identities;
mod page;
mod platform;
mod steps;
mod story;
mod tour;

/// The default gRPC address, the same as in the settings.
const GRPC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
/// The default address for WeChat's pushes, the same as in the settings.
const CALLBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The default address for operators, the same as in the settings.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// A mini program that is not in the settings, and that can authorize the platform.
const MERCHANT_APP_ID: &str = "wx0000000000000004";
/// An official account, the same.
const SECOND_MERCHANT_APP_ID: &str = "wx0000000000000005";
/// Any free port on loopback.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const EXAMPLES: &str = "\
Runs until Ctrl-C with an official account, a mini program and a third-party platform. Nothing is
stored. Only warnings are logged: RUST_LOG=info also logs each failed call with its trace id.

Examples:
  wechat-store-gateway sandbox --tour          watch a store being added and reviewed, in a second
  wechat-store-gateway sandbox --tour --json   the same with all requests and responses
  wechat-store-gateway sandbox --tour platform watch a merchant authorize a third-party platform
  wechat-store-gateway sandbox                 keep it running, with commands to try
  wechat-store-gateway sandbox --secure --tour watch callers with different roles, with TLS
  wechat-store-gateway sandbox --secure        keep that running, with commands to try";

/// The arguments of `sandbox`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Sandbox {
    /// Run a story with an explanation of each step, and exit with 0 only if each step returned the
    /// expected response
    #[arg(long, value_name = "STORY", num_args = 0..=1, default_missing_value = "store")]
    tour: Option<Tour>,
    /// Serve with TLS, and only known callers: a reader, a writer and an admin with a token each, and one
    /// with a client certificate. The certificate authority and all files are new at each start
    #[arg(long)]
    secure: bool,
    /// Print each request and response of the tour as JSON
    #[arg(long, requires = "tour")]
    json: bool,
    /// The gRPC address of the service [default: 127.0.0.1:50051, or any free port with --tour]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    grpc: Option<SocketAddr>,
    /// The address of the simulator [default: 127.0.0.1:8090, or any free port with --tour]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    simulator: Option<SocketAddr>,
    /// The address that receives pushes from the simulator [default: 127.0.0.1:8080, or any free port
    /// with --tour]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    callback: Option<SocketAddr>,
    /// The address for operators, with /livez and /readyz [default: 127.0.0.1:9464, or any free port
    /// with --tour]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    admin: Option<SocketAddr>,
    /// The seed of all ids and tokens that the simulator generates
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

/// The addresses of service and simulator.
#[derive(Clone, Copy, Debug)]
struct Places {
    grpc: SocketAddr,
    simulator: SocketAddr,
    callback: SocketAddr,
    admin: SocketAddr,
}

impl Sandbox {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let telemetry = Telemetry::start(&self.quiet(environment), &Log::default())
            .map_err(|error| Failure::usage(format_args!("environment: {error:#}")))?;
        let result = self.serve(telemetry.handles()).await;
        telemetry.flush().await;
        result
    }

    /// Returns the environment with a log level that hides the lines about start, stop and failed calls,
    /// unless the user set one. They would interrupt the text or the JSON. A tour with refused calls of which
    /// the gateway warns also hides warnings.
    fn quiet(&self, environment: &Environment) -> Environment {
        let refused = self.tour.is_some_and(|tour| self.secure || tour == Tour::Platform);
        let level = if refused { "error" } else { "warn,h2=error" };
        let mut environment = environment.clone();
        environment.entry("RUST_LOG".to_owned()).or_insert_with(|| level.to_owned());
        environment
    }

    /// Runs both until the tour ends or a signal arrives.
    async fn serve(&self, handles: Handles) -> Result<(), Failure> {
        if self.secure && self.tour == Some(Tour::Platform) {
            return Err(Failure::usage("--tour platform: has no callers; leave out --secure"));
        }
        let stop = signal::stop()?;
        let or = |default| if self.tour.is_some() { ANYWHERE } else { default };
        let wechat = self.simulator.unwrap_or(or(simulate::ADDRESS));
        let wechat = bind("--simulator", wechat).await?;
        let grpc = bind("--grpc", self.grpc.unwrap_or(or(GRPC))).await?;
        let callback = bind("--callback", self.callback.unwrap_or(or(CALLBACK))).await?;
        let admin = bind("--admin", self.admin.unwrap_or(or(ADMIN))).await?;
        let places = Places {
            grpc: reachable(grpc.local_addr()?),
            simulator: reachable(wechat.local_addr()?),
            callback: reachable(callback.local_addr()?),
            admin: reachable(admin.local_addr()?),
        };
        // One clock, so that a user who advances the simulator's clock also advances the service's.
        let clock = Clock::system();
        let world = wechat_simulator::Settings {
            seed: self.seed,
            clock: clock.clone(),
            ..world(places.callback)
        };
        // The folder is deleted with this value, so nothing is stored.
        let folder = tempfile::Builder::new().prefix("wechat-sandbox-").tempdir()?;
        let state = folder.path().join("state.db");
        let identities = self.secure.then(|| Identities::create(folder.path(), places.grpc));
        let identities = identities.transpose()?;
        let listen = identities.as_ref().map(Identities::settings);
        let settings = settings(grpc.local_addr()?, places.simulator, &state, listen)?;

        let listeners = Listeners { grpc, callback: Some(callback), admin };
        let mut result = Ok(());
        let until = async { result = self.attend(places, identities.as_ref(), stop).await };
        tokio::select! {
            served = app::run(settings, Source::default(), listeners, clock, handles, until) => served?,
            // The simulator must run until the service has stopped.
            () = Simulator::new(world).run(wechat, future::pending()) => {}
        }
        result
    }

    /// Runs the tour, or prints the guide and waits for a signal.
    async fn attend(
        &self,
        places: Places,
        identities: Option<&Identities>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        if let Some(tour) = self.tour {
            let chosen = Chosen { tour, json: self.json };
            tokio::select! {
                result = tour::run(places, identities, chosen) => result,
                () = stop => Err(Failure::new("a signal interrupted the tour")),
            }
        } else {
            // The sandbox works even if standard output is closed.
            let _ = print::line(match identities {
                None => guide::text(places),
                Some(identities) => guide::secure_text(places, identities),
            });
            stop.await;
            Ok(())
        }
    }
}

/// Returns the accounts and the platform of WeChat. The service does not have
/// the merchants.
fn world(service: SocketAddr) -> wechat_simulator::Settings {
    let mut world = wechat_simulator::Settings::default();
    for account in &mut world.accounts {
        account.callback = Some(pushes(account.kind, service));
    }
    let merchant = |app_id: &str, kind| Account {
        app_id: app_id.to_owned(),
        secret: "merchant-secret".to_owned(),
        kind,
        callback: None,
    };
    world.accounts.push(merchant(MERCHANT_APP_ID, AccountKind::MiniProgram));
    world.accounts.push(merchant(SECOND_MERCHANT_APP_ID, AccountKind::Official));
    let address = format!("http://{service}/wechat/platform/{COMPONENT_APP_ID}");
    world.components.push(Component {
        events_url: Some(format!("{address}/events")),
        messages_url: Some(format!("{address}/messages/$APPID$")),
        ..Component::new(COMPONENT_APP_ID, COMPONENT_SECRET, CALLBACK_TOKEN, COMPONENT_AES_KEY)
    });
    world
}

/// Returns the push settings of a simulated account. The two accounts cover both formats and two
/// modes.
fn pushes(kind: AccountKind, service: SocketAddr) -> Callback {
    let (encoding_aes_key, mode, format) = match kind {
        AccountKind::MiniProgram => (MINI_PROGRAM_AES_KEY, Mode::Compatible, Format::Json),
        AccountKind::Official => (OFFICIAL_AES_KEY, Mode::Safe, Format::Xml),
    };
    Callback {
        url: format!("http://{service}/wechat/callback/{{app_id}}"),
        token: CALLBACK_TOKEN.to_owned(),
        encoding_aes_key: encoding_aes_key.to_owned(),
        mode,
        format,
    }
}

/// Returns the settings of a service for the simulator's two accounts and its platform. `secure` are the keys of
/// `[listen.tls]` and the callers.
fn settings(
    grpc: SocketAddr,
    simulator: SocketAddr,
    state: &Path,
    secure: Option<&str>,
) -> Result<Settings, Failure> {
    let (open, listen) = match secure {
        // A sandbox has no secrets, so plaintext and any caller on any address are fine.
        None => ("callers = \"anyone\"", "plaintext = \"behind-a-mesh\"".to_owned()),
        Some(secure) => ("", format!("[listen.tls]\n{secure}")),
    };
    let text = format!(
        r#"
        {open}

        [listen]
        grpc = "{grpc}"
        {listen}

        [wechat]
        hosts = ["http://{simulator}"]
        allow_http = true

        [state]
        url = "sqlite:{state}"

        [activity]
        log = "{activity}"

        [[accounts]]
        app_id = "{OFFICIAL_APP_ID}"
        kind = "official"
        default = true
        secret = "{OFFICIAL_SECRET}"
        callback = {{ token = "{CALLBACK_TOKEN}", aes_key = "{OFFICIAL_AES_KEY}" }}

        [[accounts]]
        app_id = "{MINI_PROGRAM_APP_ID}"
        kind = "mini_program"
        default = true
        secret = "{MINI_PROGRAM_SECRET}"

        [accounts.callback]
        token = "{CALLBACK_TOKEN}"
        aes_key = "{MINI_PROGRAM_AES_KEY}"
        mode = "compatible"

        [[platforms]]
        app_id = "{COMPONENT_APP_ID}"
        secret = "{COMPONENT_SECRET}"
        token = "{CALLBACK_TOKEN}"
        aes_key = "{COMPONENT_AES_KEY}"
        authorization_page = "http://{simulator}"
        "#,
        state = state.display(),
        activity = state.with_file_name("activity.jsonl").display(),
    );
    Settings::parse(&text, &Environment::new()).map_err(|errors| {
        Failure::new(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// Returns the loopback address instead of an unspecified one, because a client cannot connect to an
/// unspecified address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_valid_for_any_listen_address() {
        for (grpc, simulator) in
            [("127.0.0.1:1", "127.0.0.1:2"), ("0.0.0.0:1", "0.0.0.0:2"), ("[::]:1", "10.0.0.1:2")]
        {
            let address = |text: &str| text.parse::<SocketAddr>().expect(text);
            let state = std::env::temp_dir().join("state.db");
            let settings = settings(address(grpc), reachable(address(simulator)), &state, None);
            let settings = settings.expect(grpc);
            assert_eq!(settings.accounts.len(), 2);
            assert!(settings.accounts.iter().all(|account| account.callback.is_some()));
            assert_eq!(settings.platforms.len(), 1);
            assert!(!settings.wechat.hosts[0].contains("0.0.0.0:"));
        }
    }
}
