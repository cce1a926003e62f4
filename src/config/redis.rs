//! The URL of a Redis in all its forms, and the settings of `[state]` that only a Redis has.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use percent_encoding::percent_decode_str;
use reqwest::Url;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize, Serializer};

use super::{CaFile, ConfigErrors, SecretSource};
use crate::util::id::Secret;

/// The port of a Redis.
const PORT: u16 = 6379;
/// The port of a sentinel.
const SENTINEL_PORT: u16 = 26379;
/// The forms, for error texts.
pub(super) const FORMS: &str = "redis://host:6379/0, redis-sentinel://host1,host2,host3/NAME, \
                                redis-cluster://host1,host2,host3 (each with rediss for TLS) or \
                                redis+unix:///path";

/// The URL of a Redis. It can have a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// The way to the primary.
    pub form: RedisForm,
    /// True if all connections use TLS.
    pub tls: bool,
    /// The user of the access list.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: i64,
    /// The URL without secrets.
    shown: String,
}

/// The way to the primary of a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisForm {
    /// One address, which leads to the primary: `redis://host:6379/0`.
    Server(Node),
    /// A socket on this machine: `redis+unix:///path`.
    Socket(PathBuf),
    /// Sentinels that follow the primary: `redis-sentinel://host1,host2,host3/NAME/0`.
    Sentinels {
        /// The sentinels.
        sentinels: Vec<Node>,
        /// The name under which they know the primary.
        name: String,
    },
    /// Some nodes of a cluster: `redis-cluster://host1,host2,host3`.
    Cluster(Vec<Node>),
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// A name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The settings of `[state]` that only a Redis has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RedisSettings {
    /// The password, if it is not in the URL. It is read again for each connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretSource>,
    /// The user of the sentinels' access list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_user: Option<String>,
    /// The password of the sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_password: Option<SecretSource>,
    /// `[state.tls]`
    #[serde(skip_serializing_if = "RedisTls::is_empty")]
    pub tls: RedisTls,
}

/// `[state.tls]`: the PEM files for TLS with Redis. They are read again for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RedisTls {
    /// The CAs that sign the certificates of the servers. Without them, the system's CAs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The certificate chain of the gateway, if Redis requires one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The private key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// The content of the files of [`RedisTls`]. It has no `Debug`, because one is a private key.
#[derive(Default)]
pub struct RedisPem {
    /// The CAs.
    pub ca: Option<Vec<u8>>,
    /// The certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl RedisTls {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the content of the files.
    ///
    /// Returns the key and an error that names the file for the first one that cannot be used. No error quotes a
    /// file, because one is a private key.
    pub fn read(&self) -> Result<RedisPem, (&'static str, io::Error)> {
        let Self { ca, certificate, key } = self;
        let ca = ca.as_ref().map(|file| match CaFile::from(file.clone()).read() {
            Ok(_) => fs::read(file),
            Err(error) => Err(error),
        });
        let ca = ca.transpose().map_err(|error| ("ca", named(self.ca.as_ref(), &error)))?;
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return Ok(RedisPem { ca, identity: None });
        };
        let chain = read_pem(certificate, "certificate", |text| {
            let mut chain = CertificateDer::pem_slice_iter(text);
            chain.next().is_some_and(|first| first.is_ok()) && chain.all(|one| one.is_ok())
        });
        let chain = chain.map_err(|error| ("certificate", error))?;
        let key = read_pem(key, "unencrypted private key", |text| {
            PrivateKeyDer::from_pem_slice(text).is_ok()
        });
        Ok(RedisPem { ca, identity: Some((chain, key.map_err(|error| ("key", error))?)) })
    }
}

/// Returns the content of a PEM file.
fn read_pem(file: &Path, what: &str, fits: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let named = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
    match fs::read(file) {
        Ok(text) if fits(&text) => Ok(text),
        Ok(_) => {
            let problem = format!("the file has no usable {what}; must be PEM");
            Err(io::Error::new(io::ErrorKind::InvalidData, named(&problem)))
        }
        Err(error) => Err(io::Error::new(error.kind(), named(&error))),
    }
}

fn named(file: Option<&PathBuf>, error: &io::Error) -> io::Error {
    let file = file.map(|file| file.display().to_string()).unwrap_or_default();
    io::Error::new(error.kind(), format!("{file}: {error}"))
}

impl RedisUrl {
    /// Returns the parsed URL.
    ///
    /// Returns what is wrong with it. No error quotes the text, because it may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("not the URL of a Redis; must be like {FORMS}");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        if scheme == "redis+unix" {
            return Self::parse_socket(text).ok_or_else(|| {
                "must be like redis+unix:///path, optionally with ?db=0&user=NAME&pass=PASSWORD"
                    .to_owned()
            });
        }
        let (kind, tls) = match scheme.strip_prefix("rediss") {
            Some(kind) => (kind, true),
            None => (scheme.strip_prefix("redis").ok_or_else(wrong)?, false),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains(['?', '#']) {
            return Err("must have neither ? nor #; write %3F and %23 in a password, and remove \
                        parameters"
                .to_owned());
        }
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (user, password) =
            match credentials.map(|both| both.split_once(':').unwrap_or((both, ""))) {
                Some((user, password)) => (decoded(user)?, decoded(password)?),
                None => (None, None),
            };
        let port = if kind == "-sentinel" { SENTINEL_PORT } else { PORT };
        let nodes = hosts.split(',').map(|host| node(host, port)).collect::<Option<Vec<_>>>();
        let nodes = nodes.ok_or_else(|| {
            "each host must be like host:6379; write %40, %3A and %2F for @, : and / in a password"
                .to_owned()
        })?;
        let (form, database) = match kind {
            "" => (RedisForm::Server(only(nodes)?), path),
            "-sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                let name = decoded(name)?.ok_or_else(|| {
                    "must end with the name under which the sentinels know the primary, like \
                     redis-sentinel://host1,host2,host3/NAME"
                        .to_owned()
                })?;
                (RedisForm::Sentinels { sentinels: nodes, name }, database)
            }
            "-cluster" if matches!(path, "" | "0") => (RedisForm::Cluster(nodes), ""),
            "-cluster" => return Err("a cluster has no database but 0; remove the path".to_owned()),
            _ => return Err(wrong()),
        };
        let database = match database {
            "" => 0,
            number => number
                .parse::<u16>()
                .map(i64::from)
                .map_err(|_| "must end with the number of a database, such as /0".to_owned())?,
        };
        let hidden = if credentials.is_some() { "[hidden]@" } else { "" };
        let path = if rest.contains('/') { format!("/{path}") } else { String::new() };
        let shown = format!("{scheme}://{hidden}{hosts}{path}");
        Ok(Self { form, tls, user, password: password.map(Secret::from), database, shown })
    }

    fn parse_socket(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let path = url.to_file_path().ok().filter(|path| path.file_name().is_some())?;
        let (mut user, mut password, mut database) = (None, None, 0);
        for (name, value) in url.query_pairs() {
            match &*name {
                "user" => user = Some(value.into_owned()),
                "pass" => password = Some(value.into_owned().into()),
                "db" => database = value.parse::<u16>().ok()?.into(),
                _ => return None,
            }
        }
        let hidden = if user.is_some() || password.is_some() { "?[hidden]" } else { "" };
        let shown = format!("redis+unix://{}{hidden}", path.display());
        Some(Self { form: RedisForm::Socket(path), tls: false, user, password, database, shown })
    }
}

/// Returns a part of a URL without its percent encoding, or `None` if it is empty.
fn decoded(text: &str) -> Result<Option<String>, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text.into_owned())),
        Err(_) => Err("its percent encoding is not UTF-8".to_owned()),
    }
}

/// Returns the address that `host[:port]` names.
fn node(text: &str, port: u16) -> Option<Node> {
    // The parser knows the brackets of IPv6.
    let url = Url::parse(&format!("redis://{text}")).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let is_only_host = text.len() == host.len() + url.port().map_or(0, |port| 1 + digits(port));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_any = matches!(host, "0.0.0.0" | "::");
    (is_only_host && !is_any)
        .then(|| Node { host: host.to_owned(), port: url.port().unwrap_or(port) })
}

fn digits(port: u16) -> usize {
    port.to_string().len()
}

fn only(mut nodes: Vec<Node>) -> Result<Node, String> {
    match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) => Ok(node),
        _ => {
            Err("has several hosts; must begin with redis-sentinel:// or redis-cluster://"
                .to_owned())
        }
    }
}

/// Hides the user and the password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks the settings of `[state]` that only a Redis has, in relation to the URL.
pub(super) fn check(url: Option<&RedisUrl>, settings: &RedisSettings, errors: &mut ConfigErrors) {
    let RedisSettings { password, sentinel_user, sentinel_password, tls } = settings;
    let unused = |errors: &mut ConfigErrors, key: &str, forms: &str| {
        errors.add(
            format!("state.{key}"),
            format!("is only for a state.url like {forms}; remove it"),
        );
    };
    if password.is_some() {
        match url {
            None => unused(errors, "password", FORMS),
            Some(url) if url.password.is_some() => {
                errors.add("state.password", "state.url has a password, too; remove that one");
            }
            Some(_) => {}
        }
    }
    let is_sentinel = url.is_some_and(|url| matches!(url.form, RedisForm::Sentinels { .. }));
    for (key, is_set) in [
        ("sentinel_user", sentinel_user.is_some()),
        ("sentinel_password", sentinel_password.is_some()),
    ] {
        if is_set && !is_sentinel {
            unused(errors, key, "redis-sentinel://host1,host2,host3/NAME");
        }
    }
    if sentinel_user.is_some() && sentinel_password.is_none() {
        errors.add("state.sentinel_password", "missing; sentinel_user needs it");
    }
    if tls.is_empty() {
        return;
    }
    if !url.is_some_and(|url| url.tls) {
        unused(errors, "tls", "rediss://host:6379/0");
    }
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => {
            errors.add("state.tls.key", "missing; certificate needs its private key")
        }
        (None, Some(_)) => {
            errors.add("state.tls.certificate", "missing; key belongs to a certificate")
        }
        _ => {}
    }
    if let Err((key, error)) = tls.read() {
        errors.add(format!("state.tls.{key}"), error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form of a URL, what is shown of it, its servers, the user, the password, and the database.
    #[rustfmt::skip]
    const TABLE: &[(&str, &str, &str, &str, &str, i64)] = &[
        ("redis://redis", "redis://redis", "redis:6379", "", "", 0),
        ("redis://:hush@redis:7000/3", "redis://[hidden]@redis:7000/3", "redis:7000", "", "hush", 3),
        ("redis://hush:hu%2Fsh%40@h/", "redis://[hidden]@h/", "h:6379", "hush", "hu/sh@", 0),
        ("redis://hush@127.0.0.1", "redis://[hidden]@127.0.0.1", "127.0.0.1:6379", "hush", "", 0),
        ("rediss://:hush@[::1]:7000/3", "rediss://[hidden]@[::1]:7000/3", "[::1]:7000", "", "hush", 3),
        ("redis+unix:///run/r.sock", "redis+unix:///run/r.sock", "/run/r.sock", "", "", 0),
        ("redis+unix:///r?db=3&user=hush&pass=hush", "redis+unix:///r?[hidden]", "/r", "hush", "hush", 3),
        ("redis-sentinel://s1,s2:7000,[::2]/n", "redis-sentinel://s1,s2:7000,[::2]/n",
            "s1:26379 s2:7000 [::2]:26379 n", "", "", 0),
        ("rediss-sentinel://hush:hush@s/n/3", "rediss-sentinel://[hidden]@s/n/3", "s:26379 n", "hush", "hush", 3),
        ("redis-cluster://:hush@c1,c2:7000", "redis-cluster://[hidden]@c1,c2:7000", "c1:6379 c2:7000", "", "hush", 0),
        ("rediss-cluster://hush:hush@c1/0", "rediss-cluster://[hidden]@c1/0", "c1:6379", "hush", "hush", 0),
    ];

    fn servers(form: &RedisForm) -> String {
        let all = |nodes: &[Node]| Vec::from_iter(nodes.iter().map(Node::to_string)).join(" ");
        match form {
            RedisForm::Server(node) => node.to_string(),
            RedisForm::Socket(path) => path.display().to_string(),
            RedisForm::Sentinels { sentinels, name } => format!("{} {name}", all(sentinels)),
            RedisForm::Cluster(nodes) => all(nodes),
        }
    }

    #[test]
    fn every_form_is_parsed_and_hides_secrets() {
        for (text, shown, at, user, password, database) in TABLE {
            let url = RedisUrl::parse(text).expect(text);
            assert_eq!(url.to_string(), *shown);
            assert_eq!(serde_json::to_string(&url).expect("a text"), format!("{shown:?}"));
            let debug = format!("{url:?} {:?}", super::super::StateUrl::Redis(url.clone()));
            assert!(!debug.contains("hu"), "{debug}");
            assert_eq!(servers(&url.form), *at, "{text}");
            assert_eq!(url.user.as_deref().unwrap_or_default(), *user, "{text}");
            assert_eq!(url.password.as_ref().map_or("", Secret::expose), *password, "{text}");
            assert_eq!((url.database, url.tls), (*database, text.starts_with("rediss")), "{text}");
        }
    }

    #[test]
    fn wrong_url_is_refused_without_quoting() {
        for (text, problem) in [
            ("redis:hush", "must be like"),
            ("http://hush", "must be like"),
            ("redisx://hush", "must be like"),
            ("redis-other://hush", "must be like"),
            ("redis://", "each host"),
            ("redis://:hush@", "each host"),
            ("redis://:hush@h:hush", "each host"),
            ("redis://:hu/sh@h", "each host"),
            ("redis://0.0.0.0", "each host"),
            ("redis://h1,,h2", "each host"),
            ("redis://h/hush", "number of a database"),
            ("redis://h/-1", "number of a database"),
            ("redis://:hu#sh@h", "neither ? nor #"),
            ("redis://h?pass=hush", "neither ? nor #"),
            ("redis://:%FF@h", "percent encoding"),
            ("redis://:hush@h1,h2", "several hosts"),
            ("redis-sentinel://:hush@s1,s2", "the name under which"),
            ("redis-sentinel://:hush@s1,s2//0", "the name under which"),
            ("redis-sentinel://s1/n/hush", "number of a database"),
            ("redis-cluster://:hush@c1,c2/1", "no database but 0"),
            ("redis+unix://hush", "redis+unix:///path"),
            ("redis+unix:///path?hush=hush", "redis+unix:///path"),
            ("redis+unix:///path?db=hush", "redis+unix:///path"),
        ] {
            let error = RedisUrl::parse(text).expect_err(text);
            assert!(error.contains(problem) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
