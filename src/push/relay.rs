//! Who else gets the pushes, as they came: an account has only one address for WeChat to push to.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, header};

use crate::config::ForwardTo;

/// For all targets together, of WeChat's five seconds.
const LIMIT: Duration = Duration::from_secs(3);
/// The longest reply that is passed back, in bytes.
const REPLY_LIMIT: usize = 64 * 1024;

/// Passes pushes on.
#[derive(Clone, Debug)]
pub(super) struct Relay(reqwest::Client);

/// A push as it came.
pub(super) struct Push {
    /// WeChat's, with its signatures.
    pub(super) query: String,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) body: Bytes,
}

/// What a target has to say to WeChat.
pub(super) struct Reply {
    pub(super) content_type: Option<HeaderValue>,
    pub(super) body: Bytes,
}

/// A target did not take it.
#[derive(Debug, thiserror::Error)]
#[error("the target at {host} {cause}")]
pub(super) struct Failed {
    /// Not the whole URL, whose query may be secret.
    host: String,
    cause: String,
}

impl Relay {
    /// Fails where the system has no usable TLS roots.
    pub(super) fn new() -> anyhow::Result<Self> {
        // A second installation is refused and harmless: it is the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        #[expect(clippy::disallowed_methods, reason = "this does not speak to WeChat")]
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .timeout(LIMIT)
            .tcp_nodelay(true)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("forward_to: no certificate authorities are installed on this system")?;
        Ok(Self(http))
    }

    /// Passes a push on to all targets at once. Fails if one of them fails; then the others get it
    /// again, too. Of their replies the first one counts, in the order of the settings, that says
    /// more than `success`.
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
        let mut response = request.send().await.map_err(told)?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(told)? {
            if body.len() + chunk.len() > REPLY_LIMIT {
                // It took the push; that it also says too much is no reason to send it again.
                tracing::warn!("the reply of a relay target is too long to pass back");
                return Ok(Reply { content_type: None, body: Bytes::new() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { content_type, body: body.into() })
    }
}

/// The kind of a failure; the library's own words quote the URL.
fn told(error: reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "took too long"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke off"
    };
    kind.to_owned()
}
