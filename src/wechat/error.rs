//! What can go wrong between us and WeChat. Knows nothing of gRPC.

use std::{fmt, time::Duration};

use crate::telemetry::masked;

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
#[derive(Clone, thiserror::Error)]
pub enum Error {
    /// WeChat answered with an HTTP status that is not a success and that proves nothing: whether
    /// the call was executed is unknown.
    #[error("WeChat answered HTTP {status}")]
    BadStatus {
        /// The HTTP status.
        status: u16,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The connection failed after the request began to leave. Whether it was executed is unknown.
    #[error("the connection to WeChat was lost: {cause}")]
    Lost {
        /// What the transport said, without the URL.
        cause: String,
    },
    /// Refused by its HTTP status before it was executed, by WeChat's edge or by a gateway on the
    /// way.
    #[error("HTTP {status} came before the call was executed")]
    NotExecuted {
        /// The HTTP status.
        status: u16,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Certainly not sent: nobody has read the first byte of its body.
    #[error("WeChat could not be reached: {cause}")]
    NotSent {
        /// What the transport said, without the URL.
        cause: String,
    },
    /// Markup came with a status of success: the page of a portal or gateway on the way. Whether
    /// the call was executed is unknown.
    #[error("an HTML page came instead of WeChat's reply")]
    Page,
    /// The proxy of the settings wants a name and a password that it accepts. Not executed.
    #[error("the proxy refuses us (HTTP 407): check the name and password in wechat.proxy")]
    ProxyRefused,
    /// WeChat refused, and said why.
    #[error("WeChat refused: {code} {}", masked(message))]
    Refused {
        /// The number.
        code: Errcode,
        /// WeChat's `errmsg`, unchanged. It may quote what the caller sent, telephone numbers
        /// included.
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

impl Error {
    /// Returns when the server wants to be asked again, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BadStatus { retry_after, .. } | Self::NotExecuted { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// Writes the same as [`Display`](fmt::Display), which masks telephone numbers.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
