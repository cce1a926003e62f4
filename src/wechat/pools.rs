//! The connections to WeChat.
//!
//! An idle connection keeps the IP address it was opened with, and the peer may close it at any
//! time. The gateway therefore keeps no connection that was idle for long, and none forever. Every
//! few minutes all calls move to new connections, with the current addresses of the hosts and the
//! current certificate authorities.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustls::ClientConfig;
use tokio::task::spawn_blocking;

use super::{Safety, endpoint::USUAL_REPLY_LIMIT};
use crate::{
    config::{CaFile, Proxy, WeChat},
    util::{http, lock},
};

/// The limit for the TCP and TLS handshakes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A read that meets a closed connection is sent again. This is shorter than the minute after which
/// many servers close a connection.
const READ_IDLE: Duration = Duration::from_secs(30);
/// A write that meets a closed connection may have been executed. With this limit, nearly every
/// isolated write has a connection of its own.
const WRITE_IDLE: Duration = Duration::from_secs(5);
/// How long new calls may join connections that are never idle, especially those of HTTP/2.
const LIFE: Duration = Duration::from_secs(300);

/// The connection pools for calls.
#[derive(Debug)]
pub(super) struct Pools {
    settings: Arc<ConnectionSettings>,
    current: Arc<Mutex<Current>>,
}

/// The settings that concern connections.
#[derive(Debug)]
struct ConnectionSettings {
    proxy: Option<Proxy>,
    ca_file: Option<CaFile>,
}

#[derive(Debug)]
struct Current {
    reads: reqwest::Client,
    writes: reqwest::Client,
    until: Instant,
}

/// Returns a client of its own, for a request that is no call.
pub(super) fn alone(settings: &WeChat) -> anyhow::Result<reqwest::Client> {
    let WeChat { proxy, ca_file, .. } = settings.clone();
    client(&ConnectionSettings { proxy, ca_file }, READ_IDLE, tls(settings.ca_file.as_ref())?)
}

impl Pools {
    pub(super) fn new(settings: &WeChat, now: Instant) -> anyhow::Result<Self> {
        let settings =
            ConnectionSettings { proxy: settings.proxy.clone(), ca_file: settings.ca_file.clone() };
        let current = Arc::new(Mutex::new(Current::new(&settings, now)?));
        Ok(Self { settings: Arc::new(settings), current })
    }

    /// Returns the pool for a call of this safety that begins now.
    pub(super) async fn pool(&self, safety: Safety, now: Instant) -> reqwest::Client {
        {
            let mut current = lock(&self.current);
            if now < current.until {
                return current.pool(safety);
            }
            // Until then, other calls use the old pools.
            current.until = now + LIFE;
        }
        let (settings, current) = (self.settings.clone(), self.current.clone());
        // Loading the authorities takes milliseconds, and continues if this caller leaves.
        let renewed = spawn_blocking(move || match Current::new(&settings, now) {
            // Running calls end on their old connections.
            Ok(new) => *lock(&current) = new,
            Err(error) => tracing::warn!(
                "failed to renew the connections to WeChat, keeping the old ones: {error:#}"
            ),
        });
        // The old pools remain usable if the renewal failed.
        let _ = renewed.await;
        lock(&self.current).pool(safety)
    }
}

impl Current {
    fn new(settings: &ConnectionSettings, now: Instant) -> anyhow::Result<Self> {
        let tls = tls(settings.ca_file.as_ref())?;
        let [reads, writes] =
            [READ_IDLE, WRITE_IDLE].map(|idle| client(settings, idle, tls.clone()));
        Ok(Self { reads: reads?, writes: writes?, until: now + LIFE })
    }

    fn pool(&self, safety: Safety) -> reqwest::Client {
        match safety {
            Safety::Read => self.reads.clone(),
            Safety::Repeatable | Safety::Once(_) => self.writes.clone(),
        }
    }
}

fn tls(ca_file: Option<&CaFile>) -> anyhow::Result<ClientConfig> {
    let more = ca_file.map(|file| file.read().with_context(|| format!("wechat.ca_file: {file}")));
    http::tls(more.transpose()?).context("wechat.hosts")
}

/// Returns an HTTP client that never redirects, retries or reroutes a call, because WeChat's answer
/// is the verdict.
fn client(
    settings: &ConnectionSettings,
    idle: Duration,
    tls: ClientConfig,
) -> anyhow::Result<reqwest::Client> {
    let mut builder = http::client()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(USUAL_REPLY_LIMIT)
        .pool_idle_timeout(idle)
        .tls_backend_preconfigured(tls);
    if let Some(proxy) = &settings.proxy {
        let proxy = reqwest::Proxy::all(proxy.url().clone());
        builder = builder.proxy(proxy.map_err(|_| anyhow::anyhow!("wechat.proxy: no proxy"))?);
    }
    Ok(builder.build()?)
}
