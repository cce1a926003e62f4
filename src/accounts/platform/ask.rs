//! Sends a call with a platform's own token.

use std::time::{Duration, Instant};

use tracing::Span;

use super::{Error, Platform};
use crate::wechat::{self, Attempt, Endpoint, Errcode, Tries};

/// The attempts of a call that WeChat did not answer.
const ATTEMPTS: u32 = 3;
/// After WeChat refused the token and gave the same one again, the next attempt waits this long.
const SAME_TOKEN_PAUSE: Duration = Duration::from_millis(400);
/// The attempts with another token.
const RENEWALS: u32 = 2;
/// The pause before a repeat, which grows with each.
const PAUSE: Duration = Duration::from_millis(200);

impl Platform {
    /// Sends a call and repeats it if WeChat is busy or does not answer. Every call of a platform can be
    /// repeated.
    ///
    /// Fails if the platform has no token, or if WeChat refuses the call.
    pub(super) async fn ask<E: Endpoint>(
        &self,
        call: &E,
        deadline: Instant,
    ) -> Result<E::Reply, Error> {
        let clock = &self.services.clock;
        let mut tries = Tries::default();
        loop {
            let error = match self.ask_once(call, &mut tries, deadline).await {
                Err(Error::WeChat { error, .. }) => error,
                result => return result,
            };
            let pause = error.retry_after().unwrap_or(PAUSE * tries.count().max(1));
            let in_time = clock.now() + pause < deadline;
            if tries.count() >= ATTEMPTS || !is_transient(&error) || !in_time {
                return Err(Error::WeChat { path: E::PATH, error });
            }
            clock.sleep(pause).await;
        }
    }

    /// Sends a call, and sends it again only if WeChat refuses the token.
    pub(super) async fn ask_once<E: Endpoint>(
        &self,
        call: &E,
        tries: &mut Tries,
        deadline: Instant,
    ) -> Result<E::Reply, Error> {
        let clock = &self.services.clock;
        let no_token = |error| Error::Token { platform: self.app_id.clone(), error };
        let _place = tokio::select! {
            place = self.calls.acquire() => place.ok(),
            () = clock.sleep_until(deadline) => return Err(Error::Deadline),
        };
        let mut token = self.tokens.get(deadline).await.map_err(no_token)?;
        let mut renewals = 0;
        loop {
            // It serves many calls of callers, so it belongs to the trace of none.
            let parent = &Span::none();
            let (limit, time_left) = (E::REPLY_LIMIT, deadline.duration_since(clock.now()));
            let attempt = Attempt {
                token: Some(&token.access),
                limit,
                time_left,
                tries: &mut *tries,
                parent,
            };
            match self.services.client.send(call, attempt).await {
                Ok(reply) => return Ok(reply),
                Err(error) if refuses_token(&error) && renewals < RENEWALS => {
                    renewals += 1;
                    let next = self.tokens.refused(&token, E::PATH, error, deadline).await;
                    let next = next.map_err(no_token)?;
                    if next.generation == token.generation {
                        clock.sleep(SAME_TOKEN_PAUSE).await;
                    }
                    token = next;
                }
                Err(error) => return Err(Error::WeChat { path: E::PATH, error }),
            }
        }
    }
}

/// Returns true if WeChat refuses the platform's own token.
pub(super) fn refuses_token(error: &wechat::Error) -> bool {
    matches!(error, wechat::Error::Refused { code, .. } if code.refuses_token())
}

/// Returns true if the failure may pass by itself.
fn is_transient(error: &wechat::Error) -> bool {
    match error {
        wechat::Error::Refused { code, .. } => *code == Errcode::BUSY,
        wechat::Error::ProxyRefused => false,
        _ => true,
    }
}
