//! `serve`: the service.

use super::{Failure, settings::Source, signal};
use crate::{
    clock::Clock,
    config::{Environment, Settings},
    server::{self, Listeners},
    telemetry::{Sampler, Telemetry},
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
    let listeners = Listeners::bind(&settings).await?;
    let stop = async {
        stop.await;
        tracing::info!("stopping");
    };
    server::run(settings, listeners, Clock::system(), sampler, stop).await?;
    tracing::info!("stopped");
    Ok(())
}
