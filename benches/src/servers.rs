//! The command line of the servers with which the gateway is compared, and of their upstream.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Subcommand;
use tokio::net::TcpListener;
use tonic::transport::Identity;

use crate::{
    floor,
    upstream::{Upstream, tls},
    world::read,
};

/// A server, and its address.
#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(subcommand)]
    server: Server,
    /// The address to serve at
    #[arg(long, global = true, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum Server {
    /// (a): returns the same bytes for every call
    Echo {
        /// A file with the bytes. Without it there are none
        #[arg(long)]
        bytes: Option<PathBuf>,
    },
    /// (b): calls the upstream
    Proxy {
        /// The URL of the upstream
        #[arg(long)]
        upstream: String,
        /// A file with authorities that are trusted in addition
        #[arg(long)]
        ca: Option<PathBuf>,
        /// A file with its certificate. Without it there is no TLS
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        /// A file with the key of the certificate
        #[arg(long, requires = "certificate")]
        key: Option<PathBuf>,
    },
    /// Appends an event for every request
    Callback {
        /// The state
        #[arg(long)]
        state: PathBuf,
    },
    /// Sends bytes to every watcher, for every request
    Stream {
        /// The address of these requests
        #[arg(long)]
        trigger: SocketAddr,
        /// A file with the bytes
        #[arg(long)]
        bytes: PathBuf,
    },
    /// Appends events to a state, and ends
    Fill {
        /// The state
        #[arg(long)]
        state: PathBuf,
        /// The number of events
        #[arg(long)]
        events: u64,
    },
    /// Writes raw rows of SQLite, prints their cost in microseconds, and ends
    Rows {
        /// A file that does not exist yet
        #[arg(long)]
        state: PathBuf,
        /// The number of rows in a transaction
        #[arg(long)]
        group: u64,
        /// The number of rows
        #[arg(long)]
        rows: u64,
        /// Microseconds between two of the last transactions
        #[arg(long)]
        pause: u64,
    },
    /// WeChat, as fast as possible
    Upstream {
        /// The time that it takes for an answer
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
        /// Delays only the replies to requests that ask for it
        #[arg(long)]
        only_slow: bool,
        /// Serves HTTP/2 instead of HTTP/1.1, with TLS only
        #[arg(long, requires = "certificate")]
        http2: bool,
        /// A file with the table of districts
        #[arg(long)]
        districts: PathBuf,
        /// A file with its certificate. Without it there is no TLS
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        /// A file with the key of the certificate
        #[arg(long, requires = "certificate")]
        key: Option<PathBuf>,
    },
}

impl Serve {
    /// Serves until the process ends, or does the job and returns.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { server, listen } = self;
        let listener = TcpListener::bind(listen).await?;
        match server {
            Server::Echo { bytes } => {
                let bytes = bytes.as_deref().map_or(Ok(Bytes::new()), read)?;
                floor::echo(listener, bytes).await
            }
            Server::Proxy { upstream, ca, certificate, key } => {
                let identity = certificate.zip(key);
                let identity = identity.map(|(certificate, key)| {
                    anyhow::Ok(Identity::from_pem(read(&certificate)?, read(&key)?))
                });
                floor::proxy(listener, &upstream, ca.as_deref(), identity.transpose()?).await
            }
            Server::Callback { state } => floor::callback(listener, state).await,
            Server::Fill { state, events } => floor::fill(state, events).await,
            Server::Rows { state, group, rows, pause } => {
                floor::rows(&state, group, rows, Duration::from_micros(pause))
            }
            Server::Stream { trigger, bytes } => {
                let trigger = TcpListener::bind(trigger).await?;
                floor::stream(listener, trigger, read(&bytes)?).await
            }
            Server::Upstream { delay_ms, only_slow, http2, districts, certificate, key } => {
                let delay = Duration::from_millis(delay_ms);
                let files = certificate.zip(key);
                let tls = files.map(|(certificate, key)| tls(&certificate, &key, http2));
                Upstream::new(&read(&districts)?, delay, only_slow)?
                    .run(listener, tls.transpose()?)
                    .await
            }
        }
    }
}
