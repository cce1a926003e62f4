//! `--address`, TLS and the token, for the commands that call a running service.

use std::{fmt, path::PathBuf, time::Duration};

use http::Uri;
use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use self::{
    tls::{Handshake, Tls},
    token::{Bearer, TokenSource},
};
use super::{
    Failure,
    rpc_error::{self, RpcError},
};
use crate::{config::Environment, util::id::Secret};

mod tls;
mod token;

pub(super) use self::token::AUTHORIZATION;

/// A service that does not accept a connection within this time counts as unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The default address, that of the default settings.
const ADDRESS: &str = "127.0.0.1:50051";

/// The environment variable with the bearer token.
const TOKEN: &str = "WECHAT_STORE_GATEWAY_TOKEN";

/// A connection that sends the caller's token with each call.
pub(super) type Connection = InterceptedService<Channel, Bearer>;

/// A running service, and how this caller proves its identity there.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// The address of the service; https:// means TLS, http:// and no scheme mean none
    #[arg(long, value_name = "URL", default_value = ADDRESS)]
    address: String,
    #[command(flatten)]
    identity: Identity,
    /// The token in the environment.
    #[arg(skip)]
    token: Option<Secret>,
}

/// The options for TLS and for the identity of the caller. Secrets come from files or from the
/// environment, because other users of the machine can read the arguments of a process.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Options for TLS and the identity of the caller")]
struct Identity {
    /// Use TLS, as https:// in the address does
    #[arg(long)]
    tls: bool,
    /// Trust the CAs in this file (PEM) instead of those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Send the client certificate in this file (PEM), with the certificates between it and its CA
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Expect this name in the certificate of the service [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Send the bearer token in this file, which is read again for each call [default: the token in
    /// the environment variable WECHAT_STORE_GATEWAY_TOKEN, if it is set]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send the token without TLS to other machines too, for example because a mesh encrypts. By
    /// default only a loopback address gets a token without TLS
    #[arg(long)]
    plaintext_token: bool,
    /// The state of the TLS connections.
    #[arg(skip)]
    state: tls::State,
}

impl Target {
    /// Returns the service at this address.
    #[cfg(feature = "sandbox")]
    pub(super) fn new(address: impl fmt::Display) -> Self {
        Self { address: address.to_string(), identity: Identity::default(), token: None }
    }

    /// Returns the service at this address, with its CA and a proof of identity in files.
    #[cfg(feature = "sandbox")]
    pub(super) fn with_tls(
        address: String,
        ca: PathBuf,
        token_file: Option<PathBuf>,
        certificate: Option<(PathBuf, PathBuf)>,
    ) -> Self {
        let (cert, key) = certificate.unzip();
        let identity = Identity { ca: Some(ca), cert, key, token_file, ..Identity::default() };
        Self { address, identity, token: None }
    }

    /// Uses the token of the environment, unless a file has one.
    pub(super) fn with_environment(mut self, environment: &Environment) -> Self {
        self.token = environment.get(TOKEN).map(|token| token.clone().into());
        self
    }

    /// Returns the start of a `call` command for the same service, as the user can type it.
    pub(super) fn command(&self) -> String {
        let mut command = format!("{} call", super::program());
        if self.address.trim_start_matches("http://") != ADDRESS {
            command.push_str(&format!(" --address {self}"));
        }
        let Identity { tls, ca, cert, key, server_name, token_file, plaintext_token, state: _ } =
            &self.identity;
        let path = |path: &Option<PathBuf>| Some(path.as_ref()?.display().to_string());
        for (option, value) in [
            ("--ca", path(ca)),
            ("--cert", path(cert)),
            ("--key", path(key)),
            ("--server-name", server_name.clone()),
            ("--token-file", path(token_file)),
        ] {
            command.extend(value.map(|value| format!(" {option} {}", quoted(&value))));
        }
        for (option, set) in [("--tls", tls), ("--plaintext-token", plaintext_token)] {
            command.extend(set.then(|| format!(" {option}")));
        }
        command
    }

    /// Returns the failure of a call. If the connection broke, the error names the address and the
    /// likely cause.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let Some(cause) = rpc_error::connection_error(status) else {
            return Failure::rpc(RpcError::from(status));
        };
        let likely = match self.tls() {
            Some(tls) => tls.likely_cause(),
            None => {
                "check that this is the gRPC port of the service; if it expects TLS, use https:// \
                     in the address, or --tls"
                    .to_owned()
            }
        };
        Failure::rpc(RpcError::new(
            Code::Unavailable,
            format_args!("the connection to {self} broke: {cause}; {likely}"),
        ))
    }

    /// Returns which proof of identity a refused call had, and how to send another one. Returns `None`
    /// for an error with another cause.
    pub(super) fn hint(&self, code: Code) -> Option<String> {
        let identity = &self.identity;
        let proof = match (&identity.token_file, &self.token, &identity.cert) {
            (Some(file), ..) => format!("the token in {}", file.display()),
            (None, Some(_), _) => format!("the token in the environment variable {TOKEN}"),
            (None, None, Some(file)) => format!("the client certificate {}", file.display()),
            (None, None, None) if code == Code::Unauthenticated => {
                return Some(format!(
                    "no proof of identity was sent; pass --token-file FILE, set {TOKEN}, or pass \
                     --cert FILE and --key FILE"
                ));
            }
            (None, None, None) => return None,
        };
        match code {
            Code::Unauthenticated => Some(format!("the proof of identity was {proof}")),
            Code::PermissionDenied => Some(format!("the caller was identified by {proof}")),
            _ => None,
        }
    }

    /// Opens a connection. Returns UNAVAILABLE if the service cannot be reached.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let uri = self.uri()?;
        let bearer = Bearer::new(self.token_source(&uri)?).map_err(Failure::usage)?;
        let endpoint = Endpoint::from(uri).connect_timeout(CONNECT_LIMIT);
        let channel = match self.tls() {
            None => endpoint.connect().await,
            Some(tls) => {
                // A file that cannot be read is a wrong argument, not a broken connection.
                tls.check().map_err(Failure::usage)?;
                let connector = service_fn(move |uri: Uri| {
                    let tls = tls.clone();
                    async move { tls.connect(uri).await }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        let channel = channel.map_err(|error| self.unreachable(error))?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn unreachable(&self, error: tonic::transport::Error) -> Failure {
        let error = anyhow::Error::new(error);
        let handshake = error.chain().find_map(|cause| cause.downcast_ref::<Handshake>());
        let message = match handshake {
            Some(cause) => format!("failed to connect to {self} with TLS: {cause}"),
            None => {
                let cause = error.root_cause();
                format!("failed to connect to {self}: {cause}; check that the service runs there")
            }
        };
        Failure::rpc(RpcError::new(Code::Unavailable, message))
    }

    /// Returns the address with its scheme. Fails if it is not an address, or contradicts an option.
    fn uri(&self) -> Result<Uri, Failure> {
        let wrong = || {
            Failure::usage(format_args!(
                "--address: {self} is not an address; must be like http://127.0.0.1:50051 or \
                 https://gateway.internal:50051"
            ))
        };
        // An address without a scheme is accepted, as in grpcurl.
        let scheme = if self.identity.wants_tls().is_some() { "https" } else { "http" };
        let url = match (self.address.split_once("://"), self.identity.wants_tls()) {
            (None, _) => format!("{scheme}://{self}"),
            (Some(("http", _)), Some(option)) => {
                return Err(Failure::usage(format_args!(
                    "{option}: contradicts the address {self}, which has no TLS; use https:// there, or \
                     remove {option}"
                )));
            }
            (Some(("http" | "https", _)), _) => self.address.clone(),
            (Some(_), _) => return Err(wrong()),
        };
        let uri = url.parse::<Uri>().map_err(|_| wrong())?;
        let is_address = uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && matches!(uri.path(), "" | "/");
        if is_address { Ok(uri) } else { Err(wrong()) }
    }

    /// Returns how to make TLS connections, or `None` if the address has no TLS.
    fn tls(&self) -> Option<Tls> {
        let wanted = self.address.starts_with("https://") || self.identity.wants_tls().is_some();
        let Identity { ca, cert, key, server_name, state, .. } = self.identity.clone();
        wanted.then(|| Tls { ca, certificate: cert.zip(key), server_name, state })
    }

    /// Returns the place of the token. Fails if the token would cross a network without TLS.
    fn token_source(&self, uri: &Uri) -> Result<TokenSource, Failure> {
        let (source, name) = match (&self.identity.token_file, &self.token) {
            (Some(file), _) => (TokenSource::File(file.clone()), "--token-file"),
            (None, Some(token)) => (TokenSource::Environment(token.clone()), TOKEN),
            (None, None) => return Ok(TokenSource::None),
        };
        let is_private = uri.scheme_str() == Some("https") || is_loopback(uri);
        if is_private || self.identity.plaintext_token {
            return Ok(source);
        }
        Err(Failure::usage(format_args!(
            "{name}: {self} has no TLS, so others on the network could read the token; use https://, or \
             --plaintext-token if the network itself encrypts"
        )))
    }
}

impl Identity {
    /// Returns the first option that needs TLS.
    fn wants_tls(&self) -> Option<&'static str> {
        [
            ("--tls", self.tls),
            ("--ca", self.ca.is_some()),
            ("--cert", self.cert.is_some()),
            ("--server-name", self.server_name.is_some()),
        ]
        .iter()
        .find_map(|(option, set)| set.then_some(*option))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// Returns true if only this machine can read what is sent to the address.
fn is_loopback(uri: &Uri) -> bool {
    let host = host(uri);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Returns the host without the brackets of an IPv6 address.
fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// Returns an argument as a shell reads it.
fn quoted(text: &str) -> String {
    let plain =
        |char: char| char.is_ascii_alphanumeric() || matches!(char, '/' | '.' | '-' | '_' | ':');
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str, identity: Identity) -> Target {
        Target { address: address.to_owned(), identity, token: Some("hush".to_owned().into()) }
    }

    #[test]
    fn scheme_and_options_decide_about_tls() {
        let with = |tls| Identity { tls, ..Identity::default() };
        for (address, tls, expected) in [
            ("gateway:50051", false, Some("http://gateway:50051/")),
            ("gateway:50051", true, Some("https://gateway:50051/")),
            ("https://gateway", false, Some("https://gateway/")),
            ("http://[::1]:1", false, Some("http://[::1]:1/")),
            ("http://gateway:1", true, None),
            ("ftp://gateway:1", false, None),
            ("https://user:word@gateway:1", false, None),
            ("https://gateway:1/path", false, None),
        ] {
            let target = target(address, with(tls));
            let uri = target.uri().ok();
            assert_eq!(uri.as_ref().map(Uri::to_string).as_deref(), expected, "{address}");
            let has_tls = expected.map(|uri| uri.starts_with("https"));
            assert!(has_tls.is_none_or(|tls| target.tls().is_some() == tls), "{address}");
        }
    }

    #[test]
    fn token_without_tls_stays_on_this_machine() {
        let with = |plaintext_token| Identity { plaintext_token, ..Identity::default() };
        for (address, allowed) in [
            ("http://127.0.0.1:1", true),
            ("localhost:1", true),
            ("http://[::1]:1", true),
            ("https://gateway:1", true),
            ("http://gateway:1", false),
            ("10.0.0.1:1", false),
            ("localhost.example.com:1", false),
        ] {
            for plaintext_token in [false, true] {
                let target = target(address, with(plaintext_token));
                let source = target.token_source(&target.uri().expect(address));
                assert_eq!(source.is_ok(), allowed || plaintext_token, "{address}");
            }
        }
    }

    #[test]
    fn command_repeats_the_options() {
        let identity = Identity {
            ca: Some("my ca.pem".into()),
            token_file: Some("/run/token".into()),
            ..Identity::default()
        };
        let command = target("https://gateway:1", identity).command();
        let expected = " call --address https://gateway:1 --ca 'my ca.pem' --token-file /run/token";
        assert!(command.ends_with(expected), "{command}");
        let command = target("http://127.0.0.1:50051", Identity::default()).command();
        assert!(command.ends_with(" call"), "{command}");
    }

    #[test]
    fn token_is_in_no_debug_output() {
        let target = target("https://gateway:1", Identity::default());
        let source = target.token_source(&target.uri().expect("an address")).expect("a source");
        let bearer = Bearer::new(source).expect("a token");
        let shown = format!("{target:?} {bearer:?}");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
