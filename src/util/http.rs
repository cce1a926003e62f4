//! The settings that all HTTP clients share.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::{ClientConfig, crypto::ring, pki_types::CertificateDer};
use rustls_platform_verifier::Verifier;

/// Returns a builder for a client that never redirects, retries or reroutes a request, and that ignores
/// the proxy variables of the environment.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes HTTP clients")]
pub(crate) fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
}

/// Returns the TLS configuration of a client. It trusts the system's authorities and `more`. Clones share
/// the authorities and the sessions to resume, but reqwest's default would load the authorities for each
/// client.
///
/// Returns an error if the system has no authorities.
pub(crate) fn tls(more: Option<Vec<CertificateDer<'static>>>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = match more {
        None => Verifier::new(provider.clone()),
        Some(more) => Verifier::new_with_extra_roots(more, provider.clone()),
    }
    .context("no certificate authorities are installed on this system")?;
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // HTTP/2 is used if the server supports it.
    tls.alpn_protocols = ["h2", "http/1.1"].map(Vec::from).to_vec();
    Ok(tls)
}

/// Returns the kind of a failure. The library's own text would quote the URL.
pub(crate) fn failure_kind(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "took too long"
    } else if error.is_connect() {
        "is unreachable"
    } else {
        "broke the connection"
    }
}

/// Sends a request and returns the body of a success. The error names neither the URL nor the body, because both
/// could contain a secret.
///
/// Fails if the server cannot be reached, answers with another status, or sends more than `longest` bytes.
pub(crate) async fn read(
    request: reqwest::RequestBuilder,
    longest: usize,
) -> anyhow::Result<Vec<u8>> {
    let failed = |error| anyhow::anyhow!("{}", failure_kind(&error));
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    anyhow::ensure!(status.is_success(), "answered {}", status.as_u16());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        anyhow::ensure!(
            body.len() + chunk.len() <= longest,
            "sent more than {} KiB",
            longest / 1024
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
