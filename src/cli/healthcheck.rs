//! `healthcheck`: for containers without a shell or another tool to check with.

use std::time::Duration;

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Failure, print, target::Target};
use crate::config::Environment;

/// Shorter than the usual timeout of a probe.
const LIMIT: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Calls grpc.health.v1.Health/Check and prints SERVING, or the reason why not. Gives up after 2 seconds.

Examples:
  wechat-store-gateway healthcheck
  wechat-store-gateway healthcheck --address http://127.0.0.1:50051 \\
    --service wechat.store.v1.StoreService
  wechat-store-gateway healthcheck --address https://gateway.internal:50051 --ca ca.pem \\
    --cert client.pem --key client.key";

/// The arguments of `healthcheck`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Healthcheck {
    /// The full name of one service to check [default: the whole process]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
    #[command(flatten)]
    target: Target,
}

impl Healthcheck {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let Self { target, service } = self;
        let target = target.with_environment(environment);
        let check = async {
            let mut client = HealthClient::new(target.connect().await?);
            let response = client.check(HealthCheckRequest { service }).await;
            let response = response.map_err(|status| target.failure(&status))?;
            Ok::<_, Failure>(response.into_inner().status())
        };
        match tokio::time::timeout(LIMIT, check).await {
            Ok(Ok(ServingStatus::Serving)) => Ok(print::line("SERVING")?),
            Ok(Ok(status)) => Err(Failure::new(status.as_str_name())),
            // A probe distinguishes only 0 and 1.
            Ok(Err(failure)) => Err(Failure::new(failure)),
            Err(_) => Err(Failure::new(format_args!(
                "no response from {target} within {} s",
                LIMIT.as_secs()
            ))),
        }
    }
}
