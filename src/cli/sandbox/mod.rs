//! `sandbox`: the service and the simulator in one process, wired together.

use std::{
    future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use wechat_simulator::{
    AccountKind, CALLBACK_TOKEN, Callback, MINI_PROGRAM_AES_KEY, MINI_PROGRAM_APP_ID,
    MINI_PROGRAM_SECRET, OFFICIAL_AES_KEY, OFFICIAL_APP_ID, OFFICIAL_SECRET, Simulator,
    push::{Format, Mode},
};

use super::{
    Failure, print, signal,
    simulate::{self, bind},
};
use crate::{
    app::{self, Listeners},
    config::{Environment, Settings},
    telemetry::{Sampler, Telemetry},
    util::clock::Clock,
};

mod guide;
mod steps;
mod tour;

/// Where the service listens unless it is told otherwise, as without settings.
const GRPC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
/// Where the service hears from WeChat, likewise.
const CALLBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where it is asked by operators, likewise.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Any free port, on loopback.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs the service against the simulator, with an official account and a mini program, and prints
/// what to try. Nothing is kept.
#[derive(Debug, clap::Args)]
pub struct Sandbox {
    /// Walk the main job from end to end, print each request and response as JSON, and exit with 0
    /// only if all of it was right
    #[arg(long)]
    tour: bool,
    /// Where the service listens [default: 127.0.0.1:50051, or any free port with --tour]
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Where the simulator listens [default: 127.0.0.1:8090, or any free port with --tour]
    #[arg(long, value_name = "ADDRESS")]
    simulator: Option<SocketAddr>,
    /// Where the service hears from the simulator [default: 127.0.0.1:8080, or any free port with
    /// --tour]
    #[arg(long, value_name = "ADDRESS")]
    callback: Option<SocketAddr>,
    /// Where the service is asked by operators [default: 127.0.0.1:9464, or any free port with
    /// --tour]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Decides every id and token that the simulator makes up
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

/// Where the two are reached, and where the one reaches the other.
#[derive(Clone, Copy, Debug)]
struct Places {
    grpc: SocketAddr,
    simulator: SocketAddr,
    callback: SocketAddr,
}

impl Sandbox {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let telemetry = Telemetry::start(environment)
            .map_err(|error| Failure::usage(format_args!("the environment: {error:#}")))?;
        let result = self.serve(telemetry.sampler()).await;
        telemetry.flush().await;
        result
    }

    /// Runs both until the tour is over, or somebody says stop.
    async fn serve(&self, sampler: Sampler) -> Result<(), Failure> {
        let stop = signal::stop()?;
        let or = |default| if self.tour { ANYWHERE } else { default };
        let wechat = self.simulator.unwrap_or(or(simulate::ADDRESS));
        let wechat = bind("--simulator", wechat).await?;
        let grpc = bind("--grpc", self.grpc.unwrap_or(or(GRPC))).await?;
        let callback = bind("--callback", self.callback.unwrap_or(or(CALLBACK))).await?;
        let admin = bind("--admin", self.admin.unwrap_or(or(ADMIN))).await?;
        let places = Places {
            grpc: reachable(grpc.local_addr()?),
            simulator: reachable(wechat.local_addr()?),
            callback: reachable(callback.local_addr()?),
        };
        // One clock, so that who advances the simulator's advances the service's.
        let clock = Clock::system();
        let mut world = wechat_simulator::Settings {
            seed: self.seed,
            clock: clock.clone(),
            ..Default::default()
        };
        for account in &mut world.accounts {
            account.callback = Some(pushes(account.kind, places.callback));
        }
        // Nothing is kept: gone with this value.
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state.db");
        let settings = settings(grpc.local_addr()?, places.simulator, &state)?;

        let listeners = Listeners { grpc, callback: Some(callback), admin };
        let mut result = Ok(());
        let until = async { result = self.attend(places, stop).await };
        tokio::select! {
            served = app::run(settings, listeners, clock, sampler, until) => served?,
            // It has to be there until the service has ended.
            () = Simulator::new(world).run(wechat, future::pending()) => {}
        }
        result
    }

    /// What happens while both run.
    async fn attend(&self, places: Places, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        if self.tour {
            tokio::select! {
                result = tour::walk(places) => result,
                () = stop => Err(Failure::new("stopped in the middle of the tour")),
            }
        } else {
            // The sandbox is of use even where nobody reads this.
            let _ = print::line(guide::text(places));
            stop.await;
            Ok(())
        }
    }
}

/// Where the simulator's accounts are told of reviews. Between them, both formats and two modes.
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

/// The settings of a service for the simulator's two accounts.
fn settings(grpc: SocketAddr, simulator: SocketAddr, state: &Path) -> Result<Settings, Failure> {
    // Whoever lets others in lets them play; there is nothing to keep from anybody.
    let text = format!(
        r#"
        [listen]
        grpc = "{grpc}"
        plaintext = "behind-a-mesh"

        [wechat]
        hosts = ["http://{simulator}"]
        allow_http = true

        [state]
        url = "sqlite:{state}"

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
        "#,
        state = state.display(),
    );
    Settings::read(&text, &Environment::new()).map_err(|mistakes| {
        Failure::new(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// How this host reaches what listens everywhere: by loopback.
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
    fn the_settings_are_right_wherever_both_listen() {
        for (grpc, simulator) in
            [("127.0.0.1:1", "127.0.0.1:2"), ("0.0.0.0:1", "0.0.0.0:2"), ("[::]:1", "10.0.0.1:2")]
        {
            let address = |text: &str| text.parse::<SocketAddr>().expect(text);
            let settings =
                settings(address(grpc), reachable(address(simulator)), Path::new("state.db"));
            let settings = settings.expect(grpc);
            assert_eq!(settings.accounts.len(), 2);
            assert!(settings.accounts.iter().all(|account| account.callback.is_some()));
            assert!(!settings.wechat.hosts[0].contains("0.0.0.0:"));
        }
    }
}
