//! `--address`, for the commands that speak to a running service.

use std::{fmt, time::Duration};

use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::Failure;

/// A service that takes longer to be reached is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A running service.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The service's address, without TLS
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    address: String,
}

impl Target {
    /// The service at this address.
    #[cfg(feature = "sandbox")]
    pub(super) fn new(address: impl fmt::Display) -> Self {
        Self { address: address.to_string() }
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        let wrong = || {
            Failure::usage(format_args!("--address: {self} is no address like http://host:port"))
        };
        // Without a scheme, as grpcurl takes it.
        let url = match self.address.split_once("://") {
            None => format!("http://{self}"),
            Some(("http", _)) => self.address.clone(),
            Some(_) => return Err(wrong()),
        };
        let endpoint = Endpoint::from_shared(url).map_err(|_| wrong())?;
        endpoint.connect_timeout(CONNECT_LIMIT).connect().await.map_err(|error| {
            let error = anyhow::Error::new(error);
            let cause = error.root_cause();
            Failure::refused(Code::Unavailable, format_args!("{self} cannot be reached: {cause}"))
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}
