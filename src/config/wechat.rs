//! `[wechat]`: the addresses of WeChat and the way to them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use reqwest::Url;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize, Serializer};

use super::{Account, ConfigErrors, Platform, TokenKind};

/// The error of a host without TLS.
const PLAIN: &str = "plain HTTP would expose access tokens; use https, set wechat.allow_http = true, or give \
                     every account token = \"open_interface\"";

/// `[wechat]`
#[derive(Clone, Debug, Serialize)]
pub struct WeChat {
    /// WeChat's servers, in order of preference, at least one.
    pub hosts: Vec<String>,
    /// Allows plain HTTP to a non-loopback host, for compose networks and cloud hosting.
    pub allow_http: bool,
    /// The proxy that every call goes through. `None` for direct connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Certificate authorities that are trusted in addition to the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<CaFile>,
}

impl Default for WeChat {
    fn default() -> Self {
        let RawWeChat { hosts, allow_http, proxy: _, ca_file: _ } = RawWeChat::default();
        Self { hosts, allow_http, proxy: None, ca_file: None }
    }
}

/// An HTTP proxy. Its URL can contain a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// Returns the whole URL with its password, for connecting only.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

/// Hides the user name and the password.
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

/// A PEM file with certificates of authorities. It is read again whenever new connections begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaFile(PathBuf);

impl From<PathBuf> for CaFile {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl CaFile {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the certificates, at least one. Skips everything else in the file.
    ///
    /// Returns an error if the file cannot be read, has no certificate or has a malformed one. The
    /// error does not quote the file, because the file may also contain a private key.
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
            true => Err(wrong("the file has no certificate; must be PEM".to_owned())),
            false => Ok(certificates),
        }
    }
}

impl fmt::Display for CaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// The section as it stands in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawWeChat {
    /// WeChat's servers, in order of preference.
    hosts: Vec<String>,
    /// Allows plain HTTP to a non-loopback host.
    allow_http: bool,
    /// An HTTP proxy for all calls to WeChat.
    proxy: Option<String>,
    /// A PEM file with certificate authorities that are trusted in addition to the system's.
    ca_file: Option<PathBuf>,
}

impl Default for RawWeChat {
    fn default() -> Self {
        let hosts = ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"];
        let hosts = hosts.map(str::to_owned).to_vec();
        Self { hosts, allow_http: false, proxy: None, ca_file: None }
    }
}

pub(super) fn check(raw: RawWeChat, errors: &mut ConfigErrors) -> WeChat {
    let RawWeChat { hosts, allow_http, proxy, ca_file } = raw;
    if hosts.is_empty() {
        errors
            .add("wechat.hosts", "empty; add at least one host, or remove the key for the default");
    }
    let mut seen = Vec::new();
    for (index, text) in hosts.iter().enumerate() {
        let key = format!("wechat.hosts[{index}]");
        match host(text, allow_http) {
            Ok(url) if seen.contains(&url) => {
                errors.add(key, format!("duplicate host {text}; remove it"));
            }
            Ok(url) => seen.push(url),
            Err(problem) => errors.add(key, problem),
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
        // The error does not quote the value, because it may contain a password.
        _ => {
            errors.add(
                "wechat.proxy",
                "not the URL of an HTTP proxy; must be like http://host:port or \
                 http://name:password@host:port",
            );
            None
        }
    });
    let ca_file = ca_file.map(CaFile::from);
    if let Some(file) = &ca_file
        && let Err(error) = file.read()
    {
        errors.add("wechat.ca_file", format!("{file}: {error}"));
    }
    WeChat { hosts, allow_http, proxy, ca_file }
}

/// Returns the URL of a host, or a description of what is wrong with it.
fn host(text: &str, allow_http: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| match text.contains('@') {
        // The text before the @ may be a password.
        true => format!("not a URL: {error}"),
        false => format!("{text:?} is not a URL: {error}"),
    })?;
    if url.path() != "/" || url.as_str().contains(['?', '#', '@']) {
        return Err(
            "must have only a scheme, a host and a port, such as https://api.weixin.qq.com"
                .to_owned(),
        );
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_http || is_loopback(&url) || is_open_interface(&url) => Ok(url),
        "http" => Err(PLAIN.to_owned()),
        _ => Err("the scheme must be https or http".to_owned()),
    }
}

/// Returns true for the host that WeChat's network in cloud hosting intercepts (开放接口服务).
fn is_open_interface(url: &Url) -> bool {
    url.scheme() == "http" && url.host_str() == Some("api.weixin.qq.com")
}

/// Checks that plain HTTP to WeChat itself can expose no token: all accounts must be without one.
pub(super) fn check_plain(
    wechat: &WeChat,
    accounts: &[Account],
    platforms: &[Platform],
    errors: &mut ConfigErrors,
) {
    let tokenless = accounts.iter().all(|account| account.token == TokenKind::OpenInterface);
    if wechat.allow_http || (tokenless && platforms.is_empty()) {
        return;
    }
    for (index, host) in wechat.hosts.iter().enumerate() {
        if Url::parse(host).is_ok_and(|url| is_open_interface(&url)) {
            errors.add(format!("wechat.hosts[{index}]"), PLAIN);
        }
    }
}

pub(super) fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
