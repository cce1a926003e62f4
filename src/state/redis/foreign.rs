//! Reads a key of another program, in any Redis.

use std::time::Duration;

use ::redis::{cmd, pipe};
use tokio::time::timeout;

use super::{failure::Failure, link::TIMEOUT, place::Place};
use crate::{
    config::{RedisSettings, RedisUrl},
    state::Error,
};

/// Returns the value of a key, and how long the key stays there if it has an end. Returns `None` if there is no
/// such key. Opens a connection of its own, because this is rare.
///
/// The error is a text for operators. It fails if the Redis cannot be used, or if the value is longer than
/// `longest` bytes.
pub(crate) async fn foreign_value(
    url: &RedisUrl,
    settings: &RedisSettings,
    key: &str,
    longest: usize,
) -> Result<Option<(Vec<u8>, Option<Duration>)>, String> {
    let read = async {
        let failed = |error| Failure::of(&error).error;
        let mut connection = Place::new(url, settings, key).connect().await?;
        let length = cmd("STRLEN").arg(key).query_async::<usize>(&mut connection).await;
        if length.map_err(failed)? > longest {
            return Ok(Err(format!("the value in Redis has more than {} KiB", longest / 1024)));
        }
        let mut both = pipe();
        both.get(key).pttl(key);
        let (value, left): (Option<Vec<u8>>, i64) =
            both.query_async(&mut connection).await.map_err(failed)?;
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        Ok(Ok(value.map(|value| (value, left))))
    };
    match timeout(TIMEOUT, read).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => Err(explained(error)),
        Err(_) => Err(Failure::late().error.to_string()),
    }
}

/// Returns the explanation of an error, for a Redis that is not the state.
fn explained(error: Error) -> String {
    let Error::Unusable(text) = error else { return "Redis failed".to_owned() };
    let text = text.replace("`state.url` or `state.password`", "the url");
    text.replace("`state.url`", "the url").replace("`state.tls.ca`", "its ca")
}
