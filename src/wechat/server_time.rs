//! The time of WeChat's servers, which shows whether this machine's clock is right.

use std::time::SystemTime;

use http::header;

use super::pools;
use crate::{config::WeChat, util::http::failure_kind};

/// Asks a host of the settings for its time, without an account. Returns `None` if the reply has no time.
///
/// Returns an error if the host cannot be reached.
pub(crate) async fn server_time(
    settings: &WeChat,
    host: &str,
) -> anyhow::Result<Option<SystemTime>> {
    let settings = settings.clone();
    // Loading the authorities takes milliseconds.
    let client = tokio::task::spawn_blocking(move || pools::alone(&settings)).await??;
    let response = client.get(host).send().await;
    let response =
        response.map_err(|error| anyhow::anyhow!("the server {}", failure_kind(&error)))?;
    let date = response.headers().get(header::DATE);
    Ok(date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok()))
}
