//! `service-config`: prints the gRPC service config for clients.

use super::{Failure, print};
use crate::service_config;

const EXAMPLES: &str = "\
A client loads it, and its gRPC library then repeats failed calls, but only those of which a repeat is
harmless. docs/calls.md shows how to load it in Go, Java, Python and Node.

Examples:
  wechat-store-gateway service-config > service_config.json";

/// The arguments of `service-config`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ServiceConfig {}

impl ServiceConfig {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        Ok(print::line(service_config::json().map_err(Failure::new)?)?)
    }
}
