//! The state of an account's token for operators, without the token.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Error, Tokens};
use crate::util::{clock::Clock, id::Secret};

/// An account whose last refresh failed longer ago has no calls that need a token.
const FAILURE_LIFE: Duration = Duration::from_secs(15 * 60);

/// The state of an account's token in this process.
#[derive(Debug, Default)]
pub(crate) struct TokenStatus {
    /// The number of changes of the token since the start.
    pub generation: u64,
    /// When the token was fetched, and when it expires if that is known. `None` if there is no valid token.
    pub times: Option<(SystemTime, Option<SystemTime>)>,
    /// The last failure since the start.
    pub last_failure: Option<TokenFailure>,
}

/// A failure to get a token.
#[derive(Debug)]
pub(crate) struct TokenFailure {
    /// The failure.
    pub error: Error,
    /// When it happened.
    pub time: SystemTime,
    /// The earliest time of the next attempt. `None` if a later attempt succeeded.
    pub retry: Option<SystemTime>,
}

/// A token for another program of the operator.
#[derive(Debug)]
pub(crate) struct GivenToken {
    /// The token itself.
    pub value: Secret,
    /// When it expires. `None` if that is unknown.
    pub end: Option<SystemTime>,
    /// The number of changes of the token since the start.
    pub generation: u64,
}

impl Tokens {
    /// Returns the current token for another program. If it expires within `least_life`, asks for the next one
    /// first, and returns the old one if there is no other yet.
    ///
    /// Fails if no token arrives until `deadline`.
    pub(crate) async fn give(
        self: &Arc<Self>,
        least_life: Duration,
        deadline: Instant,
    ) -> Result<GivenToken, Error> {
        let token = self.get(deadline).await?;
        let token = match token.expires_at.saturating_duration_since(self.clock.now()) < least_life
        {
            true => self.renewed(token, deadline).await,
            false => token,
        };
        Ok(GivenToken {
            value: token.access.value().clone(),
            end: token.has_end.then(|| wall(token.expires_at, &self.clock)),
            generation: token.generation,
        })
    }

    /// Returns the age of the token. Returns `None` if there is no valid one.
    pub(crate) fn age(&self) -> Option<Duration> {
        let token = self.current()?;
        Some(self.clock.now().duration_since(token.fetched_at))
    }

    /// Returns true if there is no valid token, and the last refresh failed a short time ago.
    pub(crate) fn is_missing(&self) -> bool {
        if self.current().is_some() {
            return false;
        }
        let (now, state) = (self.clock.now(), self.lock());
        // A success removes the failure, but not the last failure.
        let failed_at = state.failure.as_ref().and(state.last_failure.as_ref());
        failed_at.is_some_and(|(_, at)| now.duration_since(*at) < FAILURE_LIFE)
    }

    /// Returns the state of the token. Fetches nothing.
    pub(crate) fn status(&self) -> TokenStatus {
        let (state, clock) = (self.lock(), &self.clock);
        let token = self.current();
        let retry = state.failure.as_ref().map(|failure| wall(failure.retry_at, clock));
        TokenStatus {
            generation: state.generation,
            times: token.map(|token| {
                let end = token.has_end.then(|| wall(token.expires_at, clock));
                (wall(token.fetched_at, clock), end)
            }),
            last_failure: state.last_failure.clone().map(|(error, at)| TokenFailure {
                error,
                time: wall(at, clock),
                retry,
            }),
        }
    }
}

/// Returns the time of day of an instant, which may be in the future.
fn wall(at: Instant, clock: &Clock) -> SystemTime {
    let (now, wall) = (clock.now(), clock.wall());
    match at.checked_duration_since(now) {
        Some(ahead) => wall + ahead,
        None => wall - now.duration_since(at),
    }
}
