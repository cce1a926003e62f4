//! Translates access tokens for other programs.

use std::time::Duration;

use crate::{
    accounts::token::GivenToken,
    pb,
    validate::{Check, Invalid},
};

/// WeChat has the next token in the last five minutes of one.
const LONGEST_WANTED: Duration = Duration::from_secs(300);

/// Returns how long a wanted token should still live.
pub(crate) fn wanted_life(request: &pb::GetAccessTokenRequest) -> Result<Duration, Invalid> {
    let pb::GetAccessTokenRequest { app_id: _, min_life } = request;
    let mut check = Check::default();
    let life = min_life.as_ref().map_or(Ok(Duration::ZERO), |life| Duration::try_from(*life));
    let life = life.ok().filter(|life| *life <= LONGEST_WANTED);
    if life.is_none() {
        check.refuse("min_life", "must be between 0 and 300 seconds");
    }
    check.done(life.unwrap_or_default())
}

/// Returns a token for a caller.
pub(crate) fn access_token(given: GivenToken) -> pb::GetAccessTokenResponse {
    let GivenToken { value, end, generation } = given;
    pb::GetAccessTokenResponse {
        access_token: value.expose().to_owned(),
        expire_time: end.map(Into::into),
        generation: generation.try_into().unwrap_or(i64::MAX),
    }
}
