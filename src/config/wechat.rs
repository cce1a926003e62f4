//! `[wechat]`: where WeChat is, and how it is reached.

use std::{fmt, fs, io, path::PathBuf};

use reqwest::Url;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
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
    /// Who else may have signed WeChat's certificate; `None` for nobody but whom the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<CaFile>,
}

impl Default for WeChat {
    fn default() -> Self {
        let Written { hosts, allow_http, proxy: _, ca_file: _ } = Written::default();
        Self { hosts, allow_http, proxy: None, ca_file: None }
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

/// A file with certificates of authorities (PEM), which is read again whenever new connections
/// begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaFile(PathBuf);

impl CaFile {
    /// The certificates: at least one, and each can be trusted. What else is in the file is passed
    /// over; no error quotes it, for it may be a key.
    pub fn read(&self) -> io::Result<Vec<CertificateDer<'static>>> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let text = fs::read(&self.0)?;
        let mut certificates = Vec::new();
        for (index, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
            let malformed = || wrong(format!("certificate {} in it is malformed", index + 1));
            let certificate = certificate.map_err(|_| malformed())?;
            RootCertStore::empty().add(certificate.clone()).map_err(|_| malformed())?;
            certificates.push(certificate);
        }
        match certificates.is_empty() {
            true => Err(wrong("there is no certificate in it; has to be PEM".to_owned())),
            false => Ok(certificates),
        }
    }
}

impl fmt::Display for CaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// As written in the file.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    hosts: Vec<String>,
    allow_http: bool,
    proxy: Option<String>,
    ca_file: Option<PathBuf>,
}

impl Default for Written {
    fn default() -> Self {
        let hosts = ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"];
        let hosts = hosts.map(str::to_owned).to_vec();
        Self { hosts, allow_http: false, proxy: None, ca_file: None }
    }
}

pub(super) fn check(written: Written, mistakes: &mut Mistakes) -> WeChat {
    let Written { hosts, allow_http, proxy, ca_file } = written;
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
    let ca_file = ca_file.map(CaFile);
    if let Some(file) = &ca_file
        && let Err(error) = file.read()
    {
        mistakes.add("wechat.ca_file", format!("{file}: {error}"));
    }
    WeChat { hosts, allow_http, proxy, ca_file }
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
