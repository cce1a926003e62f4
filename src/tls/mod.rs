//! TLS of the gateway's own listeners.
//!
//! Certificates, keys and client CAs come from PEM files ([`files`]). They become one configuration, which
//! is replaced as a whole when a file changes. Each connection uses the configuration of the moment in
//! which it is accepted. [`ClientCertificate`] is the verified identity of its client, and [`expiry`] warns
//! before a certificate expires.

// Not tonic's TLS: it cannot change while it runs. Not a resolver of certificates: it cannot change the
// client CAs. Not notify: Kubernetes replaces a symbolic link two folders up, and a comparison of the
// contents misses nothing.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, server::danger::ClientCertVerifier};
use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

pub use self::files::{ClientCertificates, Files};
pub(crate) use self::{
    client::{ClientCertificate, Refused},
    files::Fault,
};
use self::{
    expiry::{Validity, Warnings, date},
    files::{Contents, Digest, Material},
};
use crate::util::{clock::Clock, lock};

mod client;
mod expiry;
mod files;

/// The interval at which the files are compared with their last contents.
const POLL: Duration = Duration::from_secs(1);

/// The application protocol that a listener speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// Returns the name that TLS negotiates (RFC 7301).
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// The TLS of one listener. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The section of the settings, such as `listen.tls`.
    section: &'static str,
    files: Files,
    protocol: Protocol,
    clock: Clock,
    current: ArcSwap<Loaded>,
    /// One reload at a time.
    reading: Mutex<Reading>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// A configuration that is in use.
#[derive(Debug)]
struct Loaded {
    /// The number of the configuration. A later one has a larger number.
    generation: u64,
    config: Arc<ServerConfig>,
    /// Verifies the certificates of clients. `None` if clients need none.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    material: Material,
}

/// The progress of the polling.
#[derive(Debug)]
struct Reading {
    /// The contents that are in use.
    used: Digest,
    /// The contents of the last poll.
    seen: Digest,
    /// Why the contents of the files are not in use.
    failure: Option<String>,
    warnings: Warnings,
}

/// The state of the TLS of one listener, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The section of the settings, such as `listen.tls`.
    pub(crate) section: &'static str,
    /// The DNS and URI names of the server's certificate.
    pub(crate) names: Vec<String>,
    /// When the server's certificate expires, in seconds since 1970.
    pub(crate) not_after: u64,
    /// When the first certificate of all files expires, client CAs included, in seconds since 1970.
    pub(crate) first_expiry: u64,
    /// Why the files are not in use as they are now. `None` if they are in use.
    pub(crate) last_error: Option<String>,
    /// How many times new files came into use since the start.
    pub(crate) reloads: u64,
    /// How many times new files could not be used.
    pub(crate) failures: u64,
}

impl Tls {
    /// Reads the files. `section` is their section in the settings.
    ///
    /// Fails with one line for each file that cannot be used.
    pub(crate) fn open(
        section: &'static str,
        files: Files,
        protocol: Protocol,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let contents = Contents::read(&files);
        let used = contents.digest();
        let loaded = load(1, &files, contents, protocol, &clock)
            .map_err(|faults| anyhow::anyhow!(described(section, &faults)))?;
        if let Some(warning) = files.key_warning() {
            tracing::warn!(section, "a private key is not safe: {warning}");
        }
        let mut warnings = Warnings::default();
        warnings.log(section, &loaded.material.validities, clock.unix());
        let reading = Mutex::new(Reading { used, seen: used, failure: None, warnings });
        let tls = Self(Arc::new(Shared {
            section,
            files,
            protocol,
            clock,
            current: ArcSwap::from_pointee(loaded),
            reading,
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }));
        tls.log_status();
        Ok(tls)
    }

    /// Compares the files with their last contents every second until `stop`, and uses new contents.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let poll = async {
            loop {
                self.0.clock.sleep(POLL).await;
                let tls = self.clone();
                // Files can be on a slow volume.
                let polled = spawn_blocking(move || tls.read(false)).await;
                if let Err(error) = polled {
                    tracing::error!(section = self.0.section, "failed to read files: {error}");
                }
            }
        };
        stop.run_until_cancelled(poll).await;
    }

    /// Reads the files now, and uses them if they fit together. Otherwise nothing changes, and the error
    /// says what is wrong.
    pub(crate) fn reload(&self) -> Result<(), String> {
        self.read(true);
        lock(&self.0.reading).failure.clone().map_or(Ok(()), Err)
    }

    /// Returns the state for operators.
    pub(crate) fn status(&self) -> Status {
        let Shared { section, current, reading, reloads, failures, .. } = &*self.0;
        let current = current.load();
        let Material { names, validities, .. } = &current.material;
        Status {
            section,
            names: names.clone(),
            not_after: validities.first().map_or(0, |first| first.not_after),
            first_expiry: validities.iter().map(|one| one.not_after).min().unwrap_or_default(),
            last_error: lock(reading).failure.clone(),
            reloads: reloads.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
        }
    }

    /// Returns the section of the settings, and when the first certificate of all files expires, in seconds
    /// since 1970.
    pub(crate) fn expiry(&self) -> (&'static str, u64) {
        let current = self.0.current.load();
        let expiries = current.material.validities.iter().map(|one| one.not_after);
        (self.0.section, expiries.min().unwrap_or_default())
    }

    fn log_status(&self) {
        let Status { section, names, not_after, first_expiry, last_error: _, reloads, failures } =
            self.status();
        let (names, not_after, first_expiry) =
            (names.join(", "), date(not_after), date(first_expiry));
        tracing::info!(
            section,
            names,
            not_after,
            first_expiry,
            reloads,
            failures,
            "loaded certificate files"
        );
    }

    /// Makes the handshake on a new connection. Returns the encrypted stream, and the client's
    /// certificate if it has sent one.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        let loaded = self.0.current.load_full();
        let stream = TlsAcceptor::from(loaded.config.clone()).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let client = certificates
            .map(|chain| ClientCertificate::new(chain, loaded.generation, self.0.clone()))
            .transpose()?;
        Ok((stream, client.map(Arc::new)))
    }

    /// Reads the files and uses them if they changed and fit together.
    ///
    /// A failure is reported if the contents have not changed for one poll, or `at_once`: an operator can
    /// replace a certificate a moment before its key.
    fn read(&self, at_once: bool) {
        let Shared { section, files, protocol, clock, current, .. } = &*self.0;
        let mut reading = lock(&self.0.reading);
        let contents = Contents::read(files);
        let digest = contents.digest();
        let settled = std::mem::replace(&mut reading.seen, digest) == digest;
        if digest == reading.used {
            if reading.failure.take().is_some() {
                tracing::info!(section, "the certificate files are again the ones in use");
            }
            let validities = &current.load().material.validities;
            reading.warnings.log(section, validities, clock.unix());
            return;
        }
        let generation = current.load().generation + 1;
        match load(generation, files, contents, *protocol, clock) {
            Ok(loaded) => {
                (reading.used, reading.failure) = (digest, None);
                self.0.reloads.fetch_add(1, Ordering::Relaxed);
                reading.warnings.log(section, &loaded.material.validities, clock.unix());
                current.store(Arc::new(loaded));
                drop(reading);
                self.log_status();
                if let Some(warning) = files.key_warning() {
                    tracing::warn!(section, "a private key is not safe: {warning}");
                }
            }
            Err(faults) if settled || at_once => {
                let failure = described(section, &faults);
                if reading.failure.as_ref() != Some(&failure) {
                    self.0.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        section,
                        "failed to use new certificate files; the old ones stay in use: {failure}"
                    );
                    reading.failure = Some(failure);
                }
            }
            Err(_) => {}
        }
    }
}

/// Returns all problems of these files.
pub(crate) fn check(files: &Files, clock: &Clock) -> Vec<Fault> {
    let loaded = load(0, files, Contents::read(files), Protocol::Http2, clock);
    let mut faults = loaded.err().unwrap_or_default();
    if files.client_certificates.is_some() && files.client_ca.is_none() {
        let message = "needs client_ca, the file with the CAs that sign them".to_owned();
        faults.push(Fault { key: "client_certificates", message });
    }
    faults
}

/// When a certificate of a listener expires.
#[derive(Debug)]
pub(crate) struct Expiry {
    /// Its place, for people.
    pub(crate) certificate: String,
    /// The date.
    pub(crate) not_after: String,
    /// True if the date has passed.
    pub(crate) is_over: bool,
    /// True if the gateway logs warnings about it.
    pub(crate) is_near: bool,
}

/// Returns when each certificate of the files expires, or every fault of the files.
pub(crate) fn expiries(files: &Files, clock: &Clock) -> Result<Vec<Expiry>, Vec<Fault>> {
    let loaded = load(0, files, Contents::read(files), Protocol::Http2, clock)?;
    let now = clock.unix();
    let expiry = |one: &Validity| Expiry {
        certificate: one.certificate.clone(),
        not_after: date(one.not_after),
        is_over: now > one.not_after,
        is_near: one.is_near(now),
    };
    Ok(loaded.material.validities.iter().map(expiry).collect())
}

/// Returns the configuration that these contents make.
fn load(
    generation: u64,
    files: &Files,
    contents: Contents,
    protocol: Protocol,
    clock: &Clock,
) -> Result<Loaded, Vec<Fault>> {
    let (material, server, verifier) = contents.parse(files, clock.unix())?;
    let config = files::config(server, verifier.clone(), protocol.alpn(), clock)
        .map_err(|error| vec![Fault { key: "certificate", message: error.to_string() }])?;
    Ok(Loaded { generation, config: Arc::new(config), verifier, material })
}

/// Returns one text for all problems.
fn described(section: &str, faults: &[Fault]) -> String {
    let lines = faults.iter().map(|Fault { key, message }| format!("{section}.{key}: {message}"));
    Vec::from_iter(lines).join("; ")
}
