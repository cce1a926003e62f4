//! `[wechat]`: where WeChat is.

use serde::{Deserialize, Serialize};

use super::Mistakes;

/// `[wechat]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeChat {
    /// WeChat's server.
    pub host: String,
    /// Allows plain http to a host other than loopback: compose networks, cloud hosting.
    pub allow_http: bool,
}

impl Default for WeChat {
    fn default() -> Self {
        Self { host: "https://api.weixin.qq.com".to_owned(), allow_http: false }
    }
}

pub(super) fn check(wechat: WeChat, mistakes: &mut Mistakes) -> WeChat {
    const KEY: &str = "wechat.host";
    match reqwest::Url::parse(&wechat.host) {
        Err(error) => mistakes.add(KEY, format!("{:?} is no URL: {error}", wechat.host)),
        Ok(url) if url.path() != "/" || url.as_str().contains(['?', '#', '@']) => {
            mistakes.add(KEY, "only scheme, host and port, as in https://api.weixin.qq.com");
        }
        Ok(url) => match url.scheme() {
            "https" => {}
            "http" if wechat.allow_http || is_loopback(&url) => {}
            "http" => mistakes
                .add(KEY, "tokens would travel in the clear; use https, or say allow_http = true"),
            _ => mistakes.add(KEY, "the scheme has to be https or http"),
        },
    }
    wechat
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
