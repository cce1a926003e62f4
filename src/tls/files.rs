//! The PEM files of a listener, and the checks that they fit together.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    Error, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::expiry::{Validity, date};
use crate::util::clock::Clock;

/// The files of one listener's TLS, as in `[listen.tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The certificate chain, PEM: the server's certificate first, then those between it and its CA.
    pub certificate: PathBuf,
    /// The private key of the server's certificate, PEM.
    pub key: PathBuf,
    /// The CAs that sign the certificates of clients, PEM. Without them no client needs a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether every client needs a certificate. Only with `client_ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
}

/// Whether every client needs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// A client without a certificate cannot connect.
    #[default]
    Required,
    /// A client without a certificate can connect, and proves its identity in another way.
    Optional,
}

impl Files {
    /// Returns a warning if every user of the machine can read the key.
    #[cfg(unix)]
    pub(super) fn key_warning(&self) -> Option<String> {
        use std::os::unix::fs::PermissionsExt;

        let mode = fs::metadata(&self.key).ok()?.permissions().mode();
        let key = self.key.display();
        (mode & 0o004 != 0).then(|| format!("every user can read the key {key}; set mode 0400"))
    }

    /// Returns nothing, because this system has no such permissions.
    #[cfg(not(unix))]
    pub(super) fn key_warning(&self) -> Option<String> {
        None
    }
}

/// A problem of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The key of the file in its section.
    pub(crate) key: &'static str,
    /// The problem, with the path. It quotes no content, because a file can have a private key.
    pub(crate) message: String,
}

/// A hash of the contents of all files. It shows changes without keeping a key in memory.
pub(super) type Digest = [u8; 32];

/// The contents of the files, or why one cannot be read.
pub(super) struct Contents {
    certificate: io::Result<Vec<u8>>,
    key: io::Result<Vec<u8>>,
    client_ca: Option<io::Result<Vec<u8>>>,
}

/// Facts about the certificates in use.
#[derive(Debug)]
pub(super) struct Material {
    /// The DNS and URI names of the server's certificate.
    pub(super) names: Vec<String>,
    /// The server's certificate, then all others.
    pub(super) validities: Vec<Validity>,
}

/// The verifier of client certificates.
type Verifier = Option<Arc<dyn ClientCertVerifier>>;

impl Contents {
    pub(super) fn read(files: &Files) -> Self {
        let Files { certificate, key, client_ca, .. } = files;
        Self {
            certificate: fs::read(certificate),
            key: fs::read(key),
            client_ca: client_ca.as_ref().map(fs::read),
        }
    }

    pub(super) fn digest(&self) -> Digest {
        let Self { certificate, key, client_ca } = self;
        let mut hash = Sha256::new();
        for content in [Some(certificate), Some(key), client_ca.as_ref()].into_iter().flatten() {
            match content {
                Ok(bytes) => hash.update(Sha256::digest(bytes)),
                Err(error) => hash.update(error.to_string()),
            }
        }
        hash.finalize().into()
    }

    /// Returns the certificates with their key, and the verifier. Returns all problems at once.
    pub(super) fn parse(
        self,
        files: &Files,
        now: u64,
    ) -> Result<(Material, CertifiedKey, Verifier), Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |key, path: &PathBuf, message: String| {
            faults.push(Fault { key, message: format!("{}: {message}", path.display()) });
        };
        let chain = certificates(self.certificate)
            .and_then(|chain| usable(&chain[0], now).map(|()| chain))
            .map_err(|problem| fault("certificate", &files.certificate, problem));
        let key = private_key(self.key).map_err(|problem| fault("key", &files.key, problem));
        let server = match (chain, key) {
            (Ok(chain), Ok(key)) => {
                let server = CertifiedKey::new(chain, key);
                match server.keys_match() {
                    Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                        let certificate = files.certificate.display();
                        fault("key", &files.key, not_its_key(&certificate.to_string()));
                        None
                    }
                    _ => Some(server),
                }
            }
            _ => None,
        };
        let client = self.client_ca.zip(files.client_ca.as_ref()).map(|(content, path)| {
            client_verifier(content, files.client_certificates.unwrap_or_default())
                .map_err(|problem| fault("client_ca", path, problem))
        });
        let (Some(server), None | Some(Ok(_))) = (server, &client) else { return Err(faults) };
        let (authorities, verifier) = client.and_then(Result::ok).unzip();
        let mut validities = validities(&server.cert, &files.certificate);
        if let Some((authorities, path)) = authorities.zip(files.client_ca.as_ref()) {
            validities.extend(self::validities(&authorities, path));
        }
        let names = super::client::names(&server.cert[0]);
        Ok((Material { names, validities }, server, verifier))
    }
}

fn not_its_key(certificate: &str) -> String {
    format!(
        "does not belong to the first certificate in {certificate}; that file must begin with the \
         server's own certificate"
    )
}

/// Returns the certificates of a file, at least one. Skips everything else in it.
fn certificates(content: io::Result<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = content.map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(&content).enumerate() {
        certificates.push(certificate.map_err(|_| malformed(index))?);
    }
    match certificates.is_empty() {
        true => Err("the file has no certificate; must be PEM".to_owned()),
        false => Ok(certificates),
    }
}

fn malformed(index: usize) -> String {
    format!("certificate {} in it is malformed", index + 1)
}

/// Returns the private key of a file.
fn private_key(content: io::Result<Vec<u8>>) -> Result<Arc<dyn rustls::sign::SigningKey>, String> {
    let content = content.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&content).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "the file has no unencrypted private key; must be PEM".to_owned()
        }
        // The error of the parser could quote the key.
        _ => "the private key in it is malformed".to_owned(),
    })?;
    ring::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| "the private key must be RSA, ECDSA P-256 or P-384, or Ed25519".to_owned())
}

/// Returns an error if the server's certificate cannot be used now.
fn usable(certificate: &CertificateDer<'_>, now: u64) -> Result<(), String> {
    let Some(Validity { not_before, not_after, .. }) = Validity::of(certificate, String::new())
    else {
        return Err(malformed(0));
    };
    if now > not_after {
        Err(format!("the certificate expired at {}", date(not_after)))
    } else if now < not_before {
        Err(format!("the certificate is not valid before {}", date(not_before)))
    } else {
        Ok(())
    }
}

/// Returns the CAs of a file, and the verifier that trusts them.
fn client_verifier(
    content: io::Result<Vec<u8>>,
    demand: ClientCertificates,
) -> Result<(Vec<CertificateDer<'static>>, Arc<dyn ClientCertVerifier>), String> {
    let authorities = certificates(content)?;
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.iter().enumerate() {
        roots.add(authority.clone()).map_err(|_| malformed(index))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    let verifier = match demand {
        ClientCertificates::Required => verifier,
        ClientCertificates::Optional => verifier.allow_unauthenticated(),
    };
    Ok((authorities, verifier.build().map_err(|error| error.to_string())?))
}

/// Returns the times of the certificates of a file. Leaves out those of which the times cannot be read.
fn validities(certificates: &[CertificateDer<'_>], path: &std::path::Path) -> Vec<Validity> {
    let named = certificates.iter().enumerate().filter_map(|(index, certificate)| {
        Validity::of(certificate, format!("certificate {} in {}", index + 1, path.display()))
    });
    named.collect()
}

/// Returns a configuration with these parts.
pub(super) fn config(
    server: CertifiedKey,
    verifier: Verifier,
    alpn: &[u8],
    clock: &Clock,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let time = Arc::new(Wall(clock.clone()));
    let config = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let config = match verifier {
        Some(verifier) => config.with_client_cert_verifier(verifier),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(server)));
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// The time of the gateway's clock.
#[derive(Debug)]
struct Wall(Clock);

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.unix())))
    }
}
