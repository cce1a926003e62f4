//! The command line of the servers that the gateway is compared with, and of what they ask.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Subcommand;
use tokio::net::TcpListener;

use crate::{
    floor,
    upstream::{Upstream, tls},
    world::read,
};

/// One of them, and where it serves.
#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(subcommand)]
    server: Server,
    /// Where it serves
    #[arg(long, global = true, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum Server {
    /// (a): answers bytes to every call
    Echo {
        /// A file with them; without it there are none
        #[arg(long)]
        bytes: Option<PathBuf>,
    },
    /// (b): asks the upstream
    Proxy {
        /// Its URL
        #[arg(long)]
        upstream: String,
        /// A file with authorities that are trusted in addition
        #[arg(long)]
        ca: Option<PathBuf>,
    },
    /// Appends an event for every request
    Callback {
        /// The state
        #[arg(long)]
        state: PathBuf,
    },
    /// Sends bytes to every watcher, for every request
    Stream {
        /// Where these requests come to
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
        /// How many
        #[arg(long)]
        events: u64,
    },
    /// Raw rows of SQLite, and ends: microseconds of CPU a row, microseconds a transaction
    Rows {
        /// A file that is not there yet
        #[arg(long)]
        state: PathBuf,
        /// How many share a transaction
        #[arg(long)]
        group: u64,
        /// How many there are
        #[arg(long)]
        rows: u64,
        /// Microseconds between two of the last transactions
        #[arg(long)]
        pause: u64,
    },
    /// WeChat, as fast as can be
    Upstream {
        /// How long it takes for an answer
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
        /// A file with the table of districts
        #[arg(long)]
        districts: PathBuf,
        /// A file with its certificate; without it there is no TLS
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        /// A file with the key of the certificate
        #[arg(long, requires = "certificate")]
        key: Option<PathBuf>,
    },
}

impl Serve {
    /// Serves until the process ends, or does what it was asked for.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { server, listen } = self;
        let listener = TcpListener::bind(listen).await?;
        match server {
            Server::Echo { bytes } => {
                let bytes = bytes.as_deref().map_or(Ok(Bytes::new()), read)?;
                floor::echo(listener, bytes).await
            }
            Server::Proxy { upstream, ca } => {
                floor::proxy(listener, &upstream, ca.as_deref()).await
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
            Server::Upstream { delay_ms, districts, certificate, key } => {
                let delay = Duration::from_millis(delay_ms);
                let tls = certificate.zip(key).map(|(certificate, key)| tls(&certificate, &key));
                Upstream::new(&read(&districts)?, delay)?.run(listener, tls.transpose()?).await
            }
        }
    }
}
