//! The settings that all HTTP clients share.

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
