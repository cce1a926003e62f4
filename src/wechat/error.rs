//! The errors of a call to WeChat. They do not depend on gRPC.

use std::{fmt, net::IpAddr, time::Duration};

use crate::telemetry::masked;

/// WeChat's number for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errcode(pub i64);

impl Errcode {
    /// The system is busy. A few calls also use it for any failure.
    pub const BUSY: Self = Self(-1);
    /// The daily quota of this API is used up.
    pub const DAILY_QUOTA: Self = Self(45009);
    /// The per-minute quota of this API is used up.
    pub const MINUTE_QUOTA: Self = Self(45011);

    /// WeChat has no account with this id.
    pub(crate) const APP_ID_INVALID: Self = Self(40013);
    /// The code of an authorization has expired.
    pub(crate) const CODE_EXPIRED: Self = Self(61010);
    /// The code of an authorization is invalid, or was used before.
    pub(crate) const CODE_INVALID: Self = Self(61009);
    /// The account does not authorize the platform.
    pub(crate) const NOT_AUTHORIZED: Self = Self(61003);
    /// The refresh token of an authorizer is invalid.
    pub(crate) const REFRESH_TOKEN_INVALID: Self = Self(61023);
    /// The ticket of a platform has expired.
    pub(crate) const TICKET_EXPIRED: Self = Self(61005);
    /// The ticket of a platform is invalid.
    pub(crate) const TICKET_INVALID: Self = Self(61006);
    /// The ticket of a platform is invalid, too.
    pub(crate) const TICKET_REFUSED: Self = Self(40091);

    /// The address of the gateway is not in the account's IP whitelist.
    pub const IP_NOT_ALLOWED: Self = Self(40164);
    /// The address of the gateway is not in the platform's IP whitelist.
    const PLATFORM_IP_NOT_ALLOWED: Self = Self(61004);

    /// Returns true if WeChat refuses the access token itself, before it executes anything.
    pub fn refuses_token(self) -> bool {
        matches!(self.0, 40001 | 40014 | 42001)
    }
}

impl fmt::Display for Errcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The reason for a missing reply.
#[derive(Clone, thiserror::Error)]
pub enum Error {
    /// WeChat answered with an HTTP status that is neither a success nor a proof. It is unknown
    /// whether the call was executed.
    #[error("WeChat answered HTTP {status}")]
    BadStatus {
        /// The HTTP status.
        status: u16,
        /// The `Retry-After` of the reply.
        retry_after: Option<Duration>,
    },
    /// The connection failed after the request began to leave. It is unknown whether the call was
    /// executed.
    #[error("the connection to WeChat was lost: {cause}")]
    Lost {
        /// The error of the transport, without the URL.
        cause: String,
    },
    /// WeChat's edge or a gateway refused the call with an HTTP status before it was executed.
    #[error("HTTP {status} came before the call was executed")]
    NotExecuted {
        /// The HTTP status.
        status: u16,
        /// The `Retry-After` of the reply.
        retry_after: Option<Duration>,
    },
    /// The call was certainly not sent: the transport did not read the first byte of its body.
    #[error("WeChat could not be reached: {cause}")]
    NotSent {
        /// The error of the transport, without the URL.
        cause: String,
    },
    /// Markup arrived with a success status: the page of a portal or gateway. It is unknown whether
    /// the call was executed.
    #[error("an HTML page came instead of WeChat's reply")]
    Page,
    /// The configured proxy requires valid credentials. The call was not executed.
    #[error("the proxy refused the call (HTTP 407): check the name and password in wechat.proxy")]
    ProxyRefused,
    /// WeChat refused the call and gave a reason.
    #[error("WeChat refused: {code} {}", masked(message))]
    Refused {
        /// The error number.
        code: Errcode,
        /// WeChat's `errmsg`, unchanged. It may quote the caller's values, including telephone
        /// numbers.
        message: String,
    },
    /// No complete reply arrived within the limit. It is unknown whether the call was executed.
    #[error("WeChat did not answer within {} ms", limit.as_millis())]
    TimedOut {
        /// The limit that passed.
        limit: Duration,
    },
    /// The reply does not match the documents. It is unknown whether the call was executed.
    #[error("WeChat's reply cannot be read: {cause}")]
    Unreadable {
        /// The position at which parsing stopped. Never quotes the body.
        cause: String,
    },
}

impl Error {
    /// Returns the delay that the server asked for, if it sent one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BadStatus { retry_after, .. } | Self::NotExecuted { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Returns the address that WeChat names in its refusal of an address, as in `invalid ip 203.0.113.7
    /// ipv6 ::ffff:203.0.113.7, not in whitelist`, or for a platform `access clientip is not registered
    /// requestIP: 203.0.113.7`.
    pub(crate) fn refused_ip(&self) -> Option<IpAddr> {
        let Self::Refused {
            code: Errcode::IP_NOT_ALLOWED | Errcode::PLATFORM_IP_NOT_ALLOWED,
            message,
        } = self
        else {
            return None;
        };
        let words = message.split(|c: char| c.is_whitespace() || c == ',');
        words.filter_map(|word| word.parse().ok()).next().map(|ip: IpAddr| ip.to_canonical())
    }
}

/// Returns WeChat's id of the request, the last word of `errmsg`. WeChat's support asks for it.
pub(crate) fn rid(errmsg: &str) -> Option<&str> {
    let (_, rid) = errmsg.rsplit_once("rid: ")?;
    rid.split_whitespace().next()
}

/// Writes the same text as [`Display`](fmt::Display), which masks telephone numbers.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_address_is_the_first_in_the_text() {
        let named = |code, message: &str| {
            let error = Error::Refused { code: Errcode(code), message: message.to_owned() };
            error.refused_ip().map(|ip| ip.to_string())
        };
        let usual = "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 61-2-3";
        assert_eq!(named(40164, usual).as_deref(), Some("203.0.113.7"));
        assert_eq!(named(40164, "invalid ip 203.0.113.7, not").as_deref(), Some("203.0.113.7"));
        let only_ipv6 = "invalid ip  ipv6 2001:db8::7, not in whitelist";
        assert_eq!(named(40164, only_ipv6).as_deref(), Some("2001:db8::7"));
        assert_eq!(named(40164, "not in whitelist"), None);
        let of_platform = "access clientip is not registered requestIP: 203.0.113.7 rid: 61-2-3";
        assert_eq!(named(61004, of_platform).as_deref(), Some("203.0.113.7"));
        assert_eq!(named(40001, usual), None);
    }
}
