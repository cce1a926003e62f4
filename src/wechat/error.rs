//! What can go wrong between us and WeChat. Knows nothing of gRPC.

use std::{fmt, time::Duration};

/// WeChat's own number for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errcode(pub i64);

impl Errcode {
    /// System busy; with some calls simply "failed".
    pub const BUSY: Self = Self(-1);
    /// The daily quota of this API is used up.
    pub const DAILY_QUOTA: Self = Self(45009);
    /// The per-minute quota of this API is used up.
    pub const MINUTE_QUOTA: Self = Self(45011);

    /// True where WeChat refuses the access token itself, before it executes anything.
    pub fn refuses_token(self) -> bool {
        matches!(self.0, 40001 | 40014 | 42001)
    }
}

impl fmt::Display for Errcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a call brought no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// WeChat answered with an HTTP status that is not a success. Not a verdict: whether the call
    /// was executed is unknown.
    #[error("WeChat answered HTTP {status}")]
    BadStatus {
        /// The HTTP status.
        status: u16,
    },
    /// The connection failed after the request began to leave. Whether it was executed is unknown.
    #[error("the connection to WeChat was lost: {cause}")]
    Lost {
        /// What the transport said, without the URL.
        cause: String,
    },
    /// Certainly not sent: nobody has read the first byte of its body.
    #[error("WeChat could not be reached: {cause}")]
    NotSent {
        /// What the transport said, without the URL.
        cause: String,
    },
    /// WeChat refused, and said why.
    #[error("WeChat refused: {code} {message}")]
    Refused {
        /// The number.
        code: Errcode,
        /// WeChat's `errmsg`, unchanged.
        message: String,
    },
    /// No complete reply within the limit. Whether it was executed is unknown.
    #[error("WeChat did not answer within {} ms", limit.as_millis())]
    TimedOut {
        /// How long was waited.
        limit: Duration,
    },
    /// The reply is not what the documents say. Whether the call was executed is unknown.
    #[error("WeChat's reply cannot be read: {cause}")]
    Unreadable {
        /// Where reading stopped; never the body itself.
        cause: String,
    },
}
