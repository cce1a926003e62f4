//! `sandbox`: the service and the simulator in one process, wired together.

use std::{fmt, net::SocketAddr};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Failure, print, signal,
    simulate::{self, bind},
};
use crate::{
    clock::Clock,
    config::{Environment, Settings},
    server::{self, Listeners},
    simulator::{
        self, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, OFFICIAL_APP_ID, OFFICIAL_SECRET, Simulator,
    },
    telemetry::{Sampler, Telemetry},
};

/// Runs both.
#[derive(Debug, clap::Args)]
pub struct Sandbox {
    /// Where the service listens [default: 127.0.0.1:50051]; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Where the simulator listens [default: 127.0.0.1:8090]; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS")]
    simulator: Option<SocketAddr>,
    /// Decides every id and token that the simulator makes up
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
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

    async fn serve(&self, sampler: Sampler) -> Result<(), Failure> {
        let stop = signal::stop()?;
        let running = self.start(sampler).await?;
        let guide = Guide { grpc: running.grpc, simulator: running.simulator };
        // The sandbox is of use even where nobody reads this.
        let _ = print::line(guide);
        stop.await;
        running.end().await
    }

    /// Starts both. What listens on loopback or says nothing secret needs no TLS.
    async fn start(&self, sampler: Sampler) -> Result<Running, Failure> {
        let grpc = SocketAddr::from(([127, 0, 0, 1], 50051));
        let wechat = self.simulator.unwrap_or(simulate::ADDRESS);
        let wechat = bind("--simulator", wechat).await?;
        let listeners = Listeners { grpc: bind("--grpc", self.grpc.unwrap_or(grpc)).await? };
        Running::start(wechat, listeners, self.seed, sampler)
    }
}

/// Service and simulator at work.
struct Running {
    grpc: SocketAddr,
    simulator: SocketAddr,
    stop: CancellationToken,
    service: tokio::task::JoinHandle<anyhow::Result<()>>,
    wechat: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(
        wechat: TcpListener,
        listeners: Listeners,
        seed: u64,
        sampler: Sampler,
    ) -> Result<Self, Failure> {
        let (grpc, simulator) = (listeners.grpc.local_addr()?, wechat.local_addr()?);
        // One clock, so that who advances the simulator's advances the service's.
        let clock = Clock::system();
        let settings = settings(grpc, simulator)?;
        let stop = CancellationToken::new();
        let small = Simulator::new(simulator::Settings {
            seed,
            clock: clock.clone(),
            ..Default::default()
        });
        let service = tokio::spawn({
            let stop = stop.clone();
            async move {
                let stop = stop.cancelled_owned();
                server::run(settings, listeners, clock, sampler, stop).await
            }
        });
        let wechat = tokio::spawn(small.run(wechat, stop.clone().cancelled_owned()));
        Ok(Self { grpc, simulator, stop, service, wechat })
    }

    /// Ends both in order.
    async fn end(self) -> Result<(), Failure> {
        self.stop.cancel();
        let ended = self.service.await;
        self.wechat.abort();
        Ok(ended.map_err(anyhow::Error::new)??)
    }
}

/// The settings of a service for the simulator's two accounts.
fn settings(grpc: SocketAddr, simulator: SocketAddr) -> Result<Settings, Failure> {
    // The simulator's accounts are no secret.
    let text = format!(
        r#"
        [listen]
        grpc = "{grpc}"
        plaintext = "behind-a-mesh"
        [wechat]
        host = "http://{}"
        [[accounts]]
        app_id = "{OFFICIAL_APP_ID}"
        kind = "official"
        default = true
        secret = "{OFFICIAL_SECRET}"
        [[accounts]]
        app_id = "{MINI_PROGRAM_APP_ID}"
        kind = "mini_program"
        default = true
        secret = "{MINI_PROGRAM_SECRET}"
        "#,
        reachable(simulator)
    );
    Settings::read(&text, &Environment::new()).map_err(|mistakes| {
        Failure::new(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// How this host reaches a listener that listens everywhere: by loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    address
}

/// What to try.
struct Guide {
    grpc: SocketAddr,
    simulator: SocketAddr,
}

impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grpc, simulator } = self;
        write!(f, "gRPC on {grpc}, simulated WeChat on http://{simulator}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_right_wherever_both_listen() {
        for (grpc, simulator) in
            [("127.0.0.1:1", "127.0.0.1:2"), ("0.0.0.0:1", "0.0.0.0:2"), ("[::]:1", "[::1]:2")]
        {
            let address = |text: &str| text.parse::<SocketAddr>().expect(text);
            let settings = settings(address(grpc), address(simulator)).expect(grpc);
            assert_eq!(settings.accounts.len(), 2);
        }
    }
}
