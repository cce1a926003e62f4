//! Why the middleware refuses a request.

use std::time::Duration;

use http::HeaderName;

use crate::callers::{Forbidden, Refused, TooFast};

/// The reason why a request reaches no service.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// Its head is longer than the limit, in bytes.
    LongHead { size: usize, limit: usize },
    /// It has a header twice that must occur once.
    Twice(HeaderName),
    /// Its `grpc-timeout` cannot be parsed.
    Timeout,
    /// Its messages have another format than protobuf.
    Format(String),
    /// Its messages have an unknown compression.
    Encoding(String),
    /// Its message is longer than allowed. `size` is set if the prefix states it.
    Long { size: Option<usize>, limit: usize },
    /// It violates the gRPC protocol.
    Malformed(&'static str),
    /// It ended before its message was complete.
    Broken,
    /// No byte of it arrived for this time.
    Silent(Duration),
    /// The budget of this setting is exhausted.
    Exhausted { setting: &'static str },
    /// This process is stopping.
    Stopped,
    /// It has no known caller.
    Unidentified(Refused),
    /// Its caller may not use the RPC for any account.
    Forbidden(Forbidden),
    /// Its caller calls too often.
    TooFast(TooFast),
}

impl From<TooFast> for Unfit {
    fn from(refusal: TooFast) -> Self {
        Self::TooFast(refusal)
    }
}

impl From<Refused> for Unfit {
    fn from(refused: Refused) -> Self {
        Self::Unidentified(refused)
    }
}

impl From<Forbidden> for Unfit {
    fn from(forbidden: Forbidden) -> Self {
        Self::Forbidden(forbidden)
    }
}
