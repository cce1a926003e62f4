//! `--address`, for the commands that call a running service.

use std::{fmt, time::Duration};

use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{
    Failure,
    rpc_error::{self, RpcError},
};

/// A service that does not accept a connection within this time counts as unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The default address, that of the default settings.
const ADDRESS: &str = "http://127.0.0.1:50051";

/// A running service.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// The address of the service, without TLS; http:// can be omitted
    #[arg(long, value_name = "URL", default_value = ADDRESS)]
    address: String,
}

impl Target {
    /// Returns the service at this address.
    #[cfg(feature = "sandbox")]
    pub(super) fn new(address: impl fmt::Display) -> Self {
        Self { address: address.to_string() }
    }

    /// Returns the start of a `call` command for the same service, as the user can type it.
    pub(super) fn command(&self) -> String {
        let program = super::program();
        match self.address.trim_start_matches("http://") == ADDRESS.trim_start_matches("http://") {
            true => format!("{program} call"),
            false => format!("{program} call --address {self}"),
        }
    }

    /// Returns the failure of a call. If the connection broke, the error names the address and the
    /// likely cause.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let Some(cause) = rpc_error::connection_error(status) else {
            return Failure::rpc(RpcError::from(status));
        };
        Failure::rpc(RpcError::new(
            Code::Unavailable,
            format_args!(
                "the connection to {self} broke: {cause}; check that this is the gRPC port of the \
                 service, and that it expects no TLS"
            ),
        ))
    }

    /// Opens a connection. Returns UNAVAILABLE if the service cannot be reached.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        let wrong = || {
            Failure::usage(format_args!(
                "--address: {self} is not an address; must be like http://127.0.0.1:50051"
            ))
        };
        // An address without a scheme is accepted, as in grpcurl.
        let url = match self.address.split_once("://") {
            None => format!("http://{self}"),
            Some(("http", _)) => self.address.clone(),
            Some(("https", _)) => {
                return Err(Failure::usage(format_args!(
                    "--address: {self} needs TLS, which this command does not support yet; use an \
                     address without TLS, or a client with TLS such as grpcurl"
                )));
            }
            Some(_) => return Err(wrong()),
        };
        let endpoint = Endpoint::from_shared(url).map_err(|_| wrong())?;
        endpoint.connect_timeout(CONNECT_LIMIT).connect().await.map_err(|error| {
            let error = anyhow::Error::new(error);
            let cause = error.root_cause();
            Failure::rpc(RpcError::new(
                Code::Unavailable,
                format_args!(
                    "failed to connect to {self}: {cause}; check that the service runs there"
                ),
            ))
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}
