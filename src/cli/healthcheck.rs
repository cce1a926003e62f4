//! `healthcheck`: for containers that have no shell and no other tool to ask with.

use std::time::Duration;

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Failure, print, target::Target};

/// Shorter than what probes usually allow.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks `grpc.health.v1`.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    #[command(flatten)]
    target: Target,
    /// Ask about this service, by its full name; without it about the whole process
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
}

impl Healthcheck {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let Self { target, service } = self;
        let check = async {
            let mut client = HealthClient::new(target.connect().await?);
            let answer = client.check(HealthCheckRequest { service }).await.map_err(|status| {
                Failure::new(format_args!("{:?}: {}", status.code(), status.message()))
            })?;
            Ok::<_, Failure>(answer.into_inner().status())
        };
        match tokio::time::timeout(LIMIT, check).await {
            Ok(Ok(ServingStatus::Serving)) => Ok(print::line("SERVING")?),
            Ok(Ok(status)) => Err(Failure::new(status.as_str_name())),
            // Whoever probes knows two answers only.
            Ok(Err(failure)) => Err(Failure::new(failure)),
            Err(_) => Err(Failure::new(format_args!(
                "no answer from {target} within {} s",
                LIMIT.as_secs()
            ))),
        }
    }
}
