//! The identity that a client proved by its certificate.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::{Loaded, Shared, expiry::Validity};
use crate::util::lock;

/// The certificate of a client, verified in the handshake of its connection.
///
/// A connection can outlive the validity of its certificate, and the CAs can change. [`check`](Self::check)
/// detects both.
pub(crate) struct ClientCertificate {
    /// The client's own certificate, then those between it and its CA.
    chain: Vec<CertificateDer<'static>>,
    names: Vec<String>,
    /// When the client's own certificate expires, in seconds since 1970.
    not_after: u64,
    /// When the certificates of the chain expire, the first to expire first.
    expiries: Vec<u64>,
    tls: Arc<Shared>,
    /// The generation of the configuration that last accepted it.
    accepted_by: AtomicU64,
    /// The last answer that took a verification.
    last: Mutex<Option<Verdict>>,
}

/// The result of a verification.
#[derive(Clone, Copy)]
struct Verdict {
    generation: u64,
    /// The time until which it holds: then the next certificate of the chain expires.
    until: u64,
    result: Result<(), Refused>,
}

/// Why a certificate that was good in the handshake is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It has expired.
    #[error("the client certificate of the connection has expired")]
    Expired,
    /// The client CAs have changed, and none of them signed it.
    #[error("the gateway no longer trusts the CA of the connection's client certificate")]
    Untrusted,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, not_after, .. } = self;
        f.debug_struct("ClientCertificate")
            .field("names", names)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Wraps a chain that the configuration of this generation has accepted.
    pub(super) fn new(
        chain: &[CertificateDer<'_>],
        generation: u64,
        tls: Arc<Shared>,
    ) -> io::Result<Self> {
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect::<Vec<_>>();
        let unreadable = || io::Error::other("the client certificate has no readable times");
        let leaf = chain.first().ok_or_else(unreadable)?;
        let not_after = |der| Validity::of(der, String::new()).map(|validity| validity.not_after);
        let mut expiries = chain.iter().filter_map(not_after).collect::<Vec<_>>();
        expiries.sort_unstable();
        Ok(Self {
            names: names(leaf),
            not_after: not_after(leaf).ok_or_else(unreadable)?,
            expiries,
            chain,
            tls,
            accepted_by: AtomicU64::new(generation),
            last: Mutex::new(None),
        })
    }

    /// Returns the names of the certificate: its DNS names in lower case, and its URIs, such as
    /// `spiffe://prod/ns/shop/sa/orders`. A URI always has a colon, so it is never equal to a DNS name.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns an error if the certificate has expired at `now` (in seconds since 1970), or if the current
    /// client CAs did not sign it. It is cheap while neither the time nor the CAs give a reason to verify.
    pub(crate) fn check(&self, now: u64) -> Result<(), Refused> {
        let current = self.tls.current.load();
        let generation = current.generation;
        let first_expiry = self.expiries.first().copied().unwrap_or_default();
        if now <= first_expiry && self.accepted_by.load(Ordering::Relaxed) == generation {
            return Ok(());
        }
        if now > self.not_after {
            return Err(Refused::Expired);
        }
        let mut last = lock(&self.last);
        if let Some(verdict) = *last
            && verdict.generation == generation
            && now <= verdict.until
        {
            return verdict.result;
        }
        let result = self.verify(&current, now);
        let until = self.expiries.iter().copied().find(|expiry| *expiry >= now);
        *last = Some(Verdict { generation, until: until.unwrap_or(now), result });
        if result.is_ok() {
            self.accepted_by.store(generation, Ordering::Relaxed);
        }
        result
    }

    fn verify(&self, current: &Loaded, now: u64) -> Result<(), Refused> {
        let (Some(verifier), Some((leaf, between))) = (&current.verifier, self.chain.split_first())
        else {
            return Err(Refused::Untrusted);
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        match verifier.verify_client_cert(leaf, between, now) {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!("a client certificate is no longer accepted: {error}");
                Err(Refused::Untrusted)
            }
        }
    }
}

/// Returns the DNS names of a certificate in lower case, and its URIs.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().filter(|uri| uri.contains(':'));
    let dns = certificate.valid_dns_names().map(str::to_ascii_lowercase);
    dns.chain(uris.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_without_colon_is_not_a_name() {
        let mut params =
            rcgen::CertificateParams::new(["Orders.Internal".to_owned()]).expect("names");
        for uri in ["spiffe://prod/orders", "payments.internal"] {
            params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().expect("ASCII")));
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        assert_eq!(names(certificate.der()), ["orders.internal", "spiffe://prod/orders"]);
    }
}
