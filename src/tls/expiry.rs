//! When certificates expire, and the warnings before.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, Error, KeyUsage};

const DAY: u64 = 24 * 3600;
/// A warning is logged when this many days are left.
const WARNINGS: [u64; 3] = [30, 7, 1];
/// No warning is logged while more than one part in so many of the certificate's life is left. Issuers
/// replace short-lived certificates after half or two thirds of their life.
const LAST_PART: u64 = 4;

/// The times between which a certificate is valid, in seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Validity {
    /// The certificate, for the log.
    pub(super) certificate: String,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    hash: [u8; 32],
}

impl Validity {
    /// Returns the times of a certificate. Returns `None` if they cannot be read.
    ///
    /// webpki shows them only in the errors of a verification at another time.
    pub(super) fn of(der: &CertificateDer<'_>, certificate: String) -> Option<Self> {
        let parsed = EndEntityCert::try_from(der).ok()?;
        let verify = |time| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(time));
            let usage = KeyUsage::server_auth();
            parsed.verify_for_usage(&[], &[], &[], time, usage, None, None).err()
        };
        let not_before = match verify(0) {
            Some(Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
            // The time 0 is within its life.
            _ => 0,
        };
        let Some(Error::CertExpired { not_after, .. }) = verify(u64::MAX) else { return None };
        let hash = Sha256::digest(der).into();
        Some(Self { certificate, not_before, not_after: not_after.as_secs(), hash })
    }

    /// Returns true if a warning is due.
    pub(super) fn is_near(&self, now: u64) -> bool {
        self.due(now) > 0
    }

    /// Returns how many of the warnings are due: at most 3, or 4 if the certificate has expired.
    fn due(&self, now: u64) -> usize {
        let left = self.not_after.saturating_sub(now);
        if now > self.not_after {
            WARNINGS.len() + 1
        } else if left > (self.not_after - self.not_before) / LAST_PART {
            0
        } else {
            WARNINGS.iter().filter(|days| left <= **days * DAY).count()
        }
    }
}

/// The warnings that were logged.
#[derive(Debug, Default)]
pub(super) struct Warnings(HashMap<[u8; 32], usize>);

impl Warnings {
    /// Logs the warnings that are due and were not logged before. Returns their number.
    pub(super) fn log(&mut self, section: &str, validities: &[Validity], now: u64) -> usize {
        let mut logged = 0;
        self.0.retain(|hash, _| validities.iter().any(|one| one.hash == *hash));
        for validity in validities {
            let due = validity.due(now);
            let before = self.0.insert(validity.hash, due).unwrap_or_default();
            if due <= before {
                continue;
            }
            logged += 1;
            let Validity { certificate, not_after, .. } = validity;
            let not_after_date = date(*not_after);
            if due > WARNINGS.len() {
                tracing::error!(section, certificate, not_after_date, "a certificate has expired");
            } else {
                let days_left = (not_after - now) / DAY;
                tracing::warn!(
                    section,
                    certificate,
                    not_after_date,
                    days_left,
                    "a certificate expires soon"
                );
            }
        }
        logged
    }
}

/// Returns a time as RFC 3339 has it.
pub(super) fn date(seconds: u64) -> String {
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validity(days: u64) -> Validity {
        let certificate = "certificate 1 in file".to_owned();
        Validity { certificate, not_before: DAY, not_after: (days + 1) * DAY, hash: [7; 32] }
    }

    /// Returns on which days before the expiry a warning is logged, for a life of this many days.
    fn warned(days: u64) -> Vec<i64> {
        let (validity, mut warnings) = (validity(days), Warnings::default());
        let last = i64::try_from(validity.not_after).expect("small");
        let hours = (1..days * 24 + 48).map(|hour| DAY + hour * 3600);
        let mut log = |now| warnings.log("listen.tls", std::slice::from_ref(&validity), now);
        let at = hours.filter(|now| log(*now) > 0);
        at.map(|now| (last - i64::try_from(now).expect("small")).div_euclid(3600)).collect()
    }

    #[test]
    fn warnings_come_once_before_expiry() {
        assert_eq!(warned(365), [30 * 24, 7 * 24, 24, -1]);
        // A certificate for 90 days is usually replaced after 60.
        assert_eq!(warned(90), [22 * 24 + 12, 7 * 24, 24, -1]);
        assert_eq!(warned(1), [6, -1]);
    }

    #[test]
    fn replaced_certificate_is_warned_about_anew() {
        let mut warnings = Warnings::default();
        let (old, new) = (validity(10), Validity { hash: [8; 32], ..validity(10) });
        let now = 10 * DAY + DAY / 2;
        assert_eq!(warnings.log("listen.tls", std::slice::from_ref(&old), now), 1);
        assert_eq!(warnings.log("listen.tls", std::slice::from_ref(&old), now), 0);
        assert_eq!(warnings.log("listen.tls", &[new], now), 1);
    }

    #[test]
    fn times_are_read_from_certificate() {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let validity = Validity::of(certificate.der(), String::new()).expect("times");
        let dates = [validity.not_before, validity.not_after].map(date);
        assert_eq!(dates, ["2026-01-02T00:00:00Z", "9999-12-31T00:00:00Z"]);
        assert!(Validity::of(&CertificateDer::from(vec![1, 2, 3]), String::new()).is_none());
    }
}
