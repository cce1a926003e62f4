//! The connections to WeChat.
//!
//! A connection that is kept keeps the address that its host's name once had, and whether the peer
//! closes it just now nobody knows. Therefore none is kept that was idle for long, and none for
//! ever: after a while everybody begins anew, with the addresses that the names have then, and with
//! the certificate authorities that are trusted then.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustls::{ClientConfig, crypto::ring};
use rustls_platform_verifier::Verifier;
use tokio::task::spawn_blocking;

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
    way: Arc<Way>,
    current: Arc<Mutex<Current>>,
}

/// What the settings say about connections.
#[derive(Debug)]
struct Way {
    proxy: Option<Proxy>,
    ca_file: Option<CaFile>,
}

#[derive(Debug)]
struct Current {
    reads: reqwest::Client,
    writes: reqwest::Client,
    until: Instant,
}

impl Pools {
    pub(super) fn new(settings: &WeChat, now: Instant) -> anyhow::Result<Self> {
        let way = Way { proxy: settings.proxy.clone(), ca_file: settings.ca_file.clone() };
        let current = Arc::new(Mutex::new(Current::new(&way, now)?));
        Ok(Self { way: Arc::new(way), current })
    }

    /// The pool for a call of this safety that begins now.
    pub(super) async fn pool(&self, safety: Safety, now: Instant) -> reqwest::Client {
        {
            let mut current = lock(&self.current);
            if now < current.until {
                return current.pool(safety);
            }
            // Meanwhile others go on with the old ones.
            current.until = now + LIFE;
        }
        let (way, current) = (self.way.clone(), self.current.clone());
        // Reading the authorities takes milliseconds, and goes on if this caller leaves.
        let renewed = spawn_blocking(move || match Current::new(&way, now) {
            // Calls under way end on their old connections.
            Ok(new) => *lock(&current) = new,
            Err(error) => tracing::warn!(
                "failed to renew the connections to WeChat, keeping the old ones: {error:#}"
            ),
        });
        // Whether that worked or not.
        let _ = renewed.await;
        lock(&self.current).pool(safety)
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    // Every change is complete before anything can panic.
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Current {
    fn new(way: &Way, now: Instant) -> anyhow::Result<Self> {
        let tls = tls(way.ca_file.as_ref())?;
        let [reads, writes] = [READ_IDLE, WRITE_IDLE].map(|idle| client(way, idle, tls.clone()));
        Ok(Self { reads: reads?, writes: writes?, until: now + LIFE })
    }

    fn pool(&self, safety: Safety) -> reqwest::Client {
        match safety {
            Safety::Read => self.reads.clone(),
            Safety::Repeatable | Safety::Once(_) => self.writes.clone(),
        }
    }
}

/// How TLS is spoken: as reqwest would by itself, which would load the system's authorities for each
/// client once more. Clones share them, and sessions to be resumed.
fn tls(ca_file: Option<&CaFile>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = match ca_file {
        None => Verifier::new(provider.clone())
            .context("wechat.hosts: no certificate authorities are installed on this system")?,
        Some(file) => file
            .read()
            .map_err(anyhow::Error::from)
            .and_then(|more| Ok(Verifier::new_with_extra_roots(more, provider.clone())?))
            .with_context(|| format!("wechat.ca_file: {file}"))?,
    };
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // HTTP/2 where the server can.
    tls.alpn_protocols = ["h2", "http/1.1"].map(Vec::from).to_vec();
    Ok(tls)
}

/// WeChat's answer is the verdict, so nothing may be followed, repeated or rerouted unseen.
fn client(way: &Way, idle: Duration, tls: ClientConfig) -> anyhow::Result<reqwest::Client> {
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
        .tls_backend_preconfigured(tls)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    if let Some(proxy) = &way.proxy {
        let proxy = reqwest::Proxy::all(proxy.url().clone());
        builder = builder.proxy(proxy.map_err(|_| anyhow::anyhow!("wechat.proxy: no proxy"))?);
    }
    Ok(builder.build()?)
}
