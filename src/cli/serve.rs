//! `serve`: the service.

use super::{Failure, settings::Source, signal};
use crate::{
    app::{self, Listeners},
    config::{Environment, Limits, Settings},
    telemetry::{Sampler, Telemetry},
    util::clock::Clock,
};

/// Serves until it is told to stop.
#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    settings: Source,
}

impl Serve {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let settings = self.settings.read(environment)?;
        let telemetry = Telemetry::start(environment)
            .map_err(|error| Failure::usage(format_args!("the environment: {error:#}")))?;
        let result = serve(settings, telemetry.sampler()).await;
        telemetry.flush().await;
        result
    }
}

async fn serve(settings: Settings, sampler: Sampler) -> Result<(), Failure> {
    // First, so that no signal is missed that comes while the rest begins.
    let stop = signal::stop()?;
    signal::ignore_others()?;
    raise_file_limit(&settings.limits);
    let listeners = Listeners::bind(&settings).await?;
    let stop = async {
        stop.await;
        tracing::info!("stopping");
    };
    app::run(settings, listeners, Clock::system(), sampler, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Files that are open beside callers' connections: the state's, connections to WeChat, the log.
#[cfg(unix)]
const OTHER_FILES: usize = 256;

/// Allows this process as many open files as the system lets it have: each connection is one, and
/// where none is left no push comes in and WeChat is not called.
#[cfg(unix)]
fn raise_file_limit(limits: &Limits) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is refused, what it was is what there is.
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

/// There is no such limit.
#[cfg(not(unix))]
fn raise_file_limit(_: &Limits) {}
