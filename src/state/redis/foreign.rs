//! Reads a key of another program, in any Redis.

use std::time::Duration;

use ::redis::{Client, RedisError, cmd, pipe};
use tokio::time::timeout;

use super::{failure::Failure, link::TIMEOUT};
use crate::state::Error;

/// Returns the value of a key, and how long the key stays there if it has an end. Returns `None` if there is no
/// such key. Opens a connection of its own, because this is rare.
///
/// The error is a text for operators. It fails if the Redis cannot be used, or if the value is longer than
/// `longest` bytes.
pub(crate) async fn foreign_value(
    url: &str,
    key: &str,
    longest: usize,
) -> Result<Option<(Vec<u8>, Option<Duration>)>, String> {
    let read = async {
        let mut connection = Client::open(url)?.get_multiplexed_async_connection().await?;
        let length = cmd("STRLEN").arg(key).query_async::<usize>(&mut connection).await?;
        if length > longest {
            return Ok(Err(format!("the value in Redis has more than {} KiB", longest / 1024)));
        }
        let mut both = pipe();
        both.get(key).pttl(key);
        let (value, left): (Option<Vec<u8>>, i64) = both.query_async(&mut connection).await?;
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        Ok(Ok(value.map(|value| (value, left))))
    };
    match timeout(TIMEOUT, read).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => Err(explained(&error)),
        Err(_) => Err(Failure::late().error.to_string()),
    }
}

/// Returns the explanation of an error, for a Redis that is not the state.
fn explained(error: &RedisError) -> String {
    let Error::Unusable(text) = Failure::of(error).error else { return "Redis failed".to_owned() };
    text.replace("`state.url`", "the url")
}
