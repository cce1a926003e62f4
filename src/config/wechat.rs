//! `[wechat]`: where WeChat is, and how it is reached.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};

use super::Mistakes;

/// `[wechat]`
#[derive(Clone, Debug, Serialize)]
pub struct WeChat {
    /// WeChat's servers, in order of preference; at least one.
    pub hosts: Vec<String>,
    /// Allows plain http to a host other than loopback: compose networks, cloud hosting.
    pub allow_http: bool,
    /// Through which every call goes; `None` for straight to WeChat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl Default for WeChat {
    fn default() -> Self {
        let Written { hosts, allow_http, proxy: _ } = Written::default();
        Self { hosts, allow_http, proxy: None }
    }
}

/// An HTTP proxy, perhaps with a password, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// The whole URL. Only for whoever connects.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

/// Shows neither name nor password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(url) = self;
        let hidden = if has_credentials(url) { "[hidden]@" } else { "" };
        write!(f, "{}://{hidden}{}", url.scheme(), url.host_str().unwrap_or_default())?;
        url.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As written in the file.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    hosts: Vec<String>,
    allow_http: bool,
    proxy: Option<String>,
}

impl Default for Written {
    fn default() -> Self {
        let hosts = ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"];
        Self { hosts: hosts.map(str::to_owned).to_vec(), allow_http: false, proxy: None }
    }
}

pub(super) fn check(written: Written, mistakes: &mut Mistakes) -> WeChat {
    let Written { hosts, allow_http, proxy } = written;
    if hosts.is_empty() {
        mistakes.add("wechat.hosts", "empty; has to name at least one host");
    }
    let mut seen = Vec::new();
    for (index, text) in hosts.iter().enumerate() {
        let key = format!("wechat.hosts[{index}]");
        match host(text, allow_http) {
            Ok(url) if seen.contains(&url) => mistakes.add(key, format!("{text} is there twice")),
            Ok(url) => seen.push(url),
            Err(mistake) => mistakes.add(key, mistake),
        }
    }
    let proxy = proxy.and_then(|text| match Url::parse(&text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Some(Proxy(url))
        }
        // What was written may contain a password.
        _ => {
            mistakes.add("wechat.proxy", "has to be http://host:port or http://name:password@…");
            None
        }
    });
    WeChat { hosts, allow_http, proxy }
}

/// The URL of a host, or what is wrong with it.
fn host(text: &str, allow_http: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| match text.contains('@') {
        // It may be a password's.
        true => format!("no URL: {error}"),
        false => format!("{text:?} is no URL: {error}"),
    })?;
    if url.path() != "/" || url.as_str().contains(['?', '#', '@']) {
        return Err("only scheme, host and port, as in https://api.weixin.qq.com".to_owned());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_http || is_loopback(&url) => Ok(url),
        "http" => {
            Err("tokens would travel in the clear; use https, or say allow_http = true".to_owned())
        }
        _ => Err("the scheme has to be https or http".to_owned()),
    }
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
