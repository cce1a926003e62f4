//! Stores every secret of the state again that has an old form: plain text of an earlier version, or an old key. After
//! that, an old key can be removed from the settings.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future, stream};
use tokio::time::sleep;

use super::{Keys, Sealed};
use crate::state::Error;

/// The time from one pass to the next. A process that is about to be replaced may store an old form after the first
/// pass.
const EVERY: Duration = Duration::from_secs(3600);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(60);
/// The secrets that are stored at the same time.
const CONCURRENT: usize = 16;

/// Makes passes until the state is closed. A state of plain text has one pass.
pub(super) async fn follow(sealed: Weak<Sealed>) {
    loop {
        let pause = match pass(&sealed).await {
            None => return,
            Some(Ok(replaced)) => {
                if replaced > 0 {
                    tracing::info!(
                        replaced,
                        "stored the secrets of the state in their present form"
                    );
                }
                match sealed.upgrade() {
                    Some(sealed) if !sealed.keys.get().is_some_and(Keys::are_plain) => EVERY,
                    _ => return,
                }
            }
            Some(Err(error)) => {
                tracing::warn!(
                    "failed to store the secrets of the state in their present form: {error}"
                );
                PAUSE
            }
        };
        sleep(pause).await;
    }
}

/// Makes one pass and returns the number of the secrets that it stored. Returns `None` if the state was closed.
async fn pass(sealed: &Weak<Sealed>) -> Option<Result<u64, Error>> {
    let (mut from, mut replaced) = (None, 0);
    loop {
        let sealed = sealed.upgrade()?;
        match page(&sealed, from.as_deref()).await {
            Ok((count, next)) => {
                replaced += count;
                from = next;
            }
            Err(error) => return Some(Err(error)),
        }
        if from.is_none() {
            return match replaced {
                0 => Some(Ok(0)),
                _ => Some(sealed.state.scrub().await.map(|()| replaced)),
            };
        }
    }
}

/// Stores the secrets of a page. Returns their number, and where the next page begins.
async fn page(sealed: &Arc<Sealed>, from: Option<&str>) -> Result<(u64, Option<String>), Error> {
    let keys = sealed.keys().await?;
    let page = sealed.state.stored_secrets(from).await?;
    let renewed = stream::iter(page.secrets)
        .map(|secret| async move { sealed.renew(keys, &secret).await })
        .buffer_unordered(CONCURRENT)
        .try_fold(0, |count, renewed| future::ready(Ok(count + u64::from(renewed))));
    Ok((renewed.await?, page.next))
}
