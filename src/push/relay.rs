//! Relays pushes unchanged to other systems, because WeChat pushes to only one address per account.

use std::time::Duration;

use ::http::{HeaderValue, header};
use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use opentelemetry::TraceId;

use crate::{
    config::ForwardTo,
    util::http::{self, failure_kind},
};

/// The limit for all targets together. WeChat waits five seconds in total.
const LIMIT: Duration = Duration::from_secs(3);
/// The longest reply that is passed back, in bytes.
const REPLY_LIMIT: usize = 64 * 1024;

/// Relays pushes.
#[derive(Clone, Debug)]
pub(super) struct Relay(reqwest::Client);

/// A push as it arrived.
pub(super) struct Push {
    /// WeChat's query with its signatures.
    pub(super) query: String,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) body: Bytes,
    /// For the log.
    pub(super) trace_id: TraceId,
}

/// A target's answer for WeChat.
pub(super) struct Reply {
    pub(super) content_type: Option<HeaderValue>,
    pub(super) body: Bytes,
}

/// The failure of a target.
#[derive(Debug, thiserror::Error)]
#[error("the target at {host} {cause}")]
pub(super) struct Failed {
    /// The host of the target. The rest of the URL may be secret.
    host: String,
    cause: String,
}

impl Relay {
    /// Creates a relay. Fails if the system has no usable TLS roots.
    pub(super) fn new() -> anyhow::Result<Self> {
        // A second installation is refused, which is harmless because the provider is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = http::client()
            .timeout(LIMIT)
            .build()
            .context("forward_to: no certificate authorities are installed on this system")?;
        Ok(Self(http))
    }

    /// Sends a push to all targets at once, and returns the first reply, in the order of the
    /// settings, that is not just `success`.
    ///
    /// Fails if one target fails. WeChat then sends the push again, and all targets receive it
    /// again.
    pub(super) async fn pass_on(
        &self,
        push: &Push,
        targets: impl Iterator<Item = &ForwardTo>,
    ) -> Result<Option<Reply>, Failed> {
        let replies = join_all(targets.map(|target| self.send(push, target))).await;
        let replies = replies.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(replies.into_iter().find(|reply| !matches!(reply.body.trim_ascii(), b"" | b"success")))
    }

    async fn send(&self, push: &Push, target: &ForwardTo) -> Result<Reply, Failed> {
        self.exchange(push, target).await.map_err(|cause| Failed {
            host: target.url.host_str().unwrap_or_default().to_owned(),
            cause,
        })
    }

    async fn exchange(&self, push: &Push, target: &ForwardTo) -> Result<Reply, String> {
        let mut url = target.url.clone();
        let query = match url.query() {
            None | Some("") => push.query.clone(),
            Some(own) => format!("{own}&{}", push.query),
        };
        url.set_query(Some(&query));
        let mut request = self.0.post(url).body(push.body.clone());
        if let Some(content_type) = &push.content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let mut response = request.send().await.map_err(|error| failure_kind(&error))?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failure_kind(&error))? {
            if body.len() + chunk.len() > REPLY_LIMIT {
                // The target accepted the push, so a reply that is too long is no reason to send it
                // again.
                let trace_id = push.trace_id;
                tracing::warn!(%trace_id, "the reply of a relay target is too long to pass back");
                return Ok(Reply { content_type: None, body: Bytes::new() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { content_type, body: body.into() })
    }
}
