//! The connections to WeChat.
//!
//! A connection that is kept keeps the address that its host's name once had, and whether the peer
//! closes it just now nobody knows. Therefore none is kept that was idle for long, and none for
//! ever: after a while everybody begins anew, with the addresses that the names have then.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{Safety, endpoint::USUAL_REPLY_LIMIT};
use crate::config::{CaFile, Proxy, WeChat};

/// Until the TCP and TLS handshakes are through.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A read that meets the end of its connection is sent again. Shorter than the minute after which
/// many servers close.
const READ_IDLE: Duration = Duration::from_secs(30);
/// A write that meets the end of its connection may have arrived, and nobody knows. So nearly each
/// one that comes alone has a connection of its own.
const WRITE_IDLE: Duration = Duration::from_secs(5);
/// How long new calls join connections that are never idle, HTTP/2's above all.
const LIFE: Duration = Duration::from_secs(300);

/// The pools of connections that calls take theirs from.
#[derive(Debug)]
pub(super) struct Pools {
    way: Way,
    current: Mutex<Current>,
}

/// What the settings say about connections.
#[derive(Debug)]
struct Way {
    proxy: Option<Proxy>,
    ca_file: Option<CaFile>,
}

#[derive(Clone, Debug)]
struct Current {
    reads: reqwest::Client,
    writes: reqwest::Client,
    until: Instant,
}

impl Pools {
    pub(super) fn new(settings: &WeChat, now: Instant) -> anyhow::Result<Self> {
        // A second installation is refused and harmless: it is the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let way = Way { proxy: settings.proxy.clone(), ca_file: settings.ca_file.clone() };
        let current = Current::new(&way, now)?;
        Ok(Self { way, current: Mutex::new(current) })
    }

    /// The pool for a call of this safety that begins now.
    pub(super) fn pool(&self, safety: Safety, now: Instant) -> reqwest::Client {
        let old = {
            let mut current = self.lock();
            if now < current.until {
                return current.pool(safety);
            }
            // Meanwhile others go on with the old ones.
            current.until = now + LIFE;
            current.clone()
        };
        match Current::new(&self.way, now) {
            Ok(new) => {
                let pool = new.pool(safety);
                // Calls under way end on their old connections.
                *self.lock() = new;
                pool
            }
            Err(error) => {
                tracing::warn!("connections to WeChat are kept on: {error:#}");
                old.pool(safety)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // Every change is complete before anything can panic.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn new(way: &Way, now: Instant) -> anyhow::Result<Self> {
        let [reads, writes] = [READ_IDLE, WRITE_IDLE].map(|idle| client(way, idle));
        Ok(Self { reads: reads?, writes: writes?, until: now + LIFE })
    }

    fn pool(&self, safety: Safety) -> reqwest::Client {
        match safety {
            Safety::Read => self.reads.clone(),
            Safety::Repeatable | Safety::Once(_) => self.writes.clone(),
        }
    }
}

/// WeChat's answer is the verdict, so nothing may be followed, repeated or rerouted unseen.
fn client(way: &Way, idle: Duration) -> anyhow::Result<reqwest::Client> {
    #[expect(clippy::disallowed_methods, reason = "this is the one HTTP client")]
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        // Neither one of the environment's nor any exception of it.
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_LIMIT)
        .timeout(USUAL_REPLY_LIMIT)
        .pool_idle_timeout(idle)
        .tcp_nodelay(true)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    if let Some(proxy) = &way.proxy {
        let proxy = reqwest::Proxy::all(proxy.url().clone());
        builder = builder.proxy(proxy.map_err(|_| anyhow::anyhow!("wechat.proxy: no proxy"))?);
    }
    if let Some(file) = &way.ca_file {
        let certificates = file.read().with_context(|| format!("wechat.ca_file: {file}"))?;
        let certificates = certificates.iter().map(|der| reqwest::Certificate::from_der(der));
        builder = builder.tls_certs_merge(certificates.collect::<Result<Vec<_>, _>>()?);
    }
    builder.build().context("wechat.hosts: no certificate authorities are installed on this system")
}
