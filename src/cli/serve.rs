//! `serve`: runs the service.

use std::sync::Arc;

use super::{Failure, settings, signal};
use crate::{
    app::{self, Listeners},
    config::{Environment, Limits, Settings},
    live::Source,
    telemetry::{Handles, Telemetry},
    util::clock::Clock,
};

const EXAMPLES: &str = "\
Examples:
  wechat-store-gateway serve --config settings.toml
  WECHAT_APP_ID=wx0123456789abcdef WECHAT_APP_SECRET=… wechat-store-gateway serve

Environment variables:
  WECHAT_STORE_GATEWAY__SECTION__KEY  override a setting, such as …__LISTEN__GRPC=127.0.0.1:6000
  WECHAT_APP_ID, WECHAT_APP_SECRET    one account, if the file has none
  RUST_LOG                            log level instead of log.level, such as warn or debug
  OTEL_EXPORTER_OTLP_ENDPOINT         send traces and metrics to this OpenTelemetry receiver; docs/operations.md
                                      has the other OTEL_* variables

SIGHUP, or a change of the settings file, applies the new settings (docs/configuration.md).
The first SIGTERM, SIGQUIT or Ctrl-C drains running calls (limits.drain_ms); the second stops at once.";

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    #[command(flatten)]
    settings: settings::Source,
}

impl Serve {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let settings = self.settings.read(environment)?;
        let telemetry = Telemetry::start(environment, &settings.log)
            .map_err(|error| Failure::usage(format_args!("environment: {error:#}")))?;
        let file = self.settings.file();
        let source = Source {
            file,
            environment: environment.clone(),
            hangup: Arc::default(),
            log_level: telemetry.log_level(),
        };
        let result = serve(settings, source, telemetry.handles()).await;
        telemetry.flush().await;
        result
    }
}

async fn serve(settings: Settings, source: Source, handles: Handles) -> Result<(), Failure> {
    // First, so that a signal during startup is not missed.
    let stop = signal::stop()?;
    let source = Source { hangup: signal::hangup()?, ..source };
    signal::ignore_others()?;
    raise_file_limit(&settings.limits);
    let listeners = Listeners::bind(&settings).await?;
    let stop = async {
        stop.await;
        tracing::info!("stopping");
    };
    app::run(settings, source, listeners, Clock::system(), handles, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Open files in addition to the connections: the state, connections to WeChat, the log.
#[cfg(unix)]
const OTHER_FILES: usize = 256;

/// Raises the limit of open files as far as the system allows. Each connection is an open file. If
/// the limit is reached, the gateway can neither receive pushes nor call WeChat.
#[cfg(unix)]
fn raise_file_limit(limits: &Limits) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If the system refuses, the old limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = getrlimit(Resource::Nofile).current;
    let connections = [limits.grpc(), limits.callback(), limits.admin()];
    let connections: usize = connections.iter().map(|listener| listener.in_all).sum();
    let needed = (connections + OTHER_FILES) as u64;
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "the open file limit is lower than limits.connections requires; raise ulimit -n"
        );
    }
}

/// Does nothing, because this system has no such limit.
#[cfg(not(unix))]
fn raise_file_limit(_: &Limits) {}
