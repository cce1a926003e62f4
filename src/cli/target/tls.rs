//! TLS connections to a service, and what went wrong with them.

// Not tonic's TLS: it cannot use the system's verifier, and its errors do not name the cause.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::host;
use crate::config::CaFile;

/// The protocol that gRPC needs.
const HTTP2: &[u8] = b"h2";

/// Makes TLS connections. The files are read for each connection, so replaced ones are used.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// The CAs that the server's certificate must come from. `None` for those of the system.
    pub(super) ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate. `None` for the host of the address.
    pub(super) server_name: Option<String>,
    pub(super) state: State,
}

/// What the connections of a target have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// True if the server has asked for a client certificate.
    asked: Arc<AtomicBool>,
}

/// The reason why a connection failed, with the next step.
#[derive(Debug)]
pub(super) struct Handshake(String);

impl fmt::Display for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Handshake {}

impl Tls {
    /// Returns an error if a file cannot be used.
    pub(super) fn check(&self) -> Result<(), String> {
        self.config().map(drop)
    }

    /// Opens a connection.
    pub(super) async fn connect(
        &self,
        uri: Uri,
    ) -> Result<TokioIo<TlsStream<TcpStream>>, tower::BoxError> {
        let failed = |problem: String| tower::BoxError::from(Handshake(problem));
        let config = self.config().map_err(failed)?;
        let name = self.server_name.as_deref().unwrap_or(host(&uri)).to_owned();
        let server = ServerName::try_from(name.clone());
        let server = server.map_err(|_| {
            failed(format!(
                "{name} is neither a DNS name nor an IP address; pass --server-name NAME"
            ))
        })?;
        let stream = TcpStream::connect((host(&uri), uri.port_u16().unwrap_or(443))).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await;
        let stream = stream.map_err(|error| failed(self.explain(&error, &name)))?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(failed(
                "the server does not offer HTTP/2 (ALPN h2); check that this is the gRPC port of the \
                 service"
                    .to_owned(),
            ));
        }
        Ok(TokioIo::new(stream))
    }

    /// Returns the likely cause of a connection that broke after the handshake.
    pub(super) fn likely_cause(&self) -> String {
        let asked = self.state.asked.load(Ordering::Relaxed);
        match (&self.certificate, asked) {
            (None, true) => {
                "the server asks for a client certificate; pass --cert FILE and --key FILE"
                    .to_owned()
            }
            (Some((file, _)), true) => format!(
                "the server asked for a client certificate and may not accept {}; check that it has \
                 not expired, and that the server trusts its CA",
                file.display()
            ),
            (_, false) => "check that this is the gRPC port of the service".to_owned(),
        }
    }

    /// Returns the configuration of a connection, or the file that cannot be used and why.
    fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let certificate = self.certificate.as_ref();
        let certificate = certificate.map(|(file, key)| client_certificate(file, key, &provider));
        let certificate = certificate.transpose()?.map(Arc::new);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.ca {
            Some(file) => builder.with_root_certificates(roots(file)?),
            None => {
                let verifier = Verifier::new(provider).map_err(|error| {
                    format!("{error}: no CAs are installed on this system; pass --ca FILE")
                })?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let client = Client { certificate, asked: self.state.asked.clone() };
        let mut config = builder.with_client_cert_resolver(Arc::new(client));
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }

    /// Returns why a handshake failed, and the next step.
    fn explain(&self, error: &io::Error, name: &str) -> String {
        let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            let asked = self.state.asked.load(Ordering::Relaxed);
            let likely = if asked { self.likely_cause() } else { NO_TLS.to_owned() };
            return format!("{error}; {likely}");
        };
        match cause {
            Error::InvalidCertificate(problem) => self.explain_certificate(problem, name),
            Error::InvalidMessage(_) => format!("the answer is not TLS; {NO_TLS}"),
            Error::AlertReceived(_) => format!("{cause}; {}", self.likely_cause()),
            _ => cause.to_string(),
        }
    }

    fn explain_certificate(&self, problem: &CertificateError, name: &str) -> String {
        use CertificateError as Wrong;
        match (problem, &self.ca) {
            (Wrong::UnknownIssuer | Wrong::BadSignature, None) => "no CA of this system has signed the certificate of the \
                 server; pass the server's CA with --ca FILE"
                .to_owned(),
            (Wrong::UnknownIssuer | Wrong::BadSignature, Some(file)) => format!(
                "no CA in {} has signed the certificate of the server; pass the server's CA with --ca",
                file.display()
            ),
            (Wrong::Expired | Wrong::ExpiredContext { .. }, _) => {
                "the certificate of the server has expired; its operator must replace it, or the clock \
                 of this machine is wrong"
                    .to_owned()
            }
            (Wrong::NotValidYet | Wrong::NotValidYetContext { .. }, _) => {
                "the certificate of the server is not valid yet; check the clock of this machine"
                    .to_owned()
            }
            (Wrong::NotValidForNameContext { presented, .. }, _) => {
                let names = presented.iter().map(|name| bare_name(name)).collect::<Vec<_>>();
                let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
                format!(
                    "the certificate of the server is for {names}, not for {name}; pass one of its \
                     names with --server-name, if this is the right server"
                )
            }
            _ => format!("the certificate of the server is not valid: {problem}"),
        }
    }
}

/// The next step if the server does not speak TLS.
const NO_TLS: &str = "check that the service has TLS on this port; without TLS, the address begins with \
                      http://";

/// The client's certificate, if it has one.
#[derive(Debug)]
struct Client {
    certificate: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Client {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let certificates = CaFile::from(file.to_owned()).read();
    let certificates =
        certificates.map_err(|error| format!("--ca: {}: {error}", file.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

/// Returns the certificate and its key. An error does not quote the files.
fn client_certificate(
    file: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let wrong = |option: &str, path: &Path, problem: &dyn fmt::Display| {
        format!("{option}: {}: {problem}", path.display())
    };
    let read = |option, path| fs::read(path).map_err(|error| wrong(option, path, &error));
    let chain = CertificateDer::pem_slice_iter(&read("--cert", file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| wrong("--cert", file, &"a certificate in it is malformed"))?;
    if chain.is_empty() {
        return Err(wrong("--cert", file, &"the file has no certificate; must be PEM"));
    }
    let loaded = PrivateKeyDer::from_pem_slice(&read("--key", key)?).map_err(|_| {
        wrong("--key", key, &"the file has no unencrypted private key; must be PEM")
    })?;
    CertifiedKey::from_der(chain, loaded, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            wrong("--key", key, &format_args!("does not belong to {}", file.display()))
        }
        error => wrong("--key", key, &error),
    })
}

/// Returns the name in a text such as `DnsName("gateway.internal")`.
fn bare_name(text: &str) -> &str {
    let inner = text.split_once('(').map_or(text, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::{
        ServerConfig, SupportedProtocolVersion,
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    };
    use tempfile::TempDir;
    use tokio::{io::AsyncWriteExt, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

    /// A CA and the files of a client.
    struct Files {
        ca: CertifiedIssuer<'static, KeyPair>,
        folder: TempDir,
    }

    impl Files {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let ca = CertifiedIssuer::self_signed(params, key).expect("a certificate");
            let files = Self { ca, folder: tempfile::tempdir().expect("a folder") };
            files.write("ca", &files.ca.pem());
            files
        }

        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, content).expect("a file");
            path
        }

        /// Returns a certificate for localhost that expires in this year, and its key.
        fn issue(&self, year: i32) -> (rcgen::Certificate, KeyPair) {
            let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, &self.ca).expect("a certificate"), key)
        }

        fn client(&self) -> (PathBuf, PathBuf) {
            let (certificate, key) = self.issue(2100);
            let certificate = self.write("client.pem", &certificate.pem());
            (certificate, self.write("client.key", &key.serialize_pem()))
        }

        /// Starts a server with a certificate that expires in this year. Returns its port.
        async fn server(
            &self,
            year: i32,
            versions: &[&'static SupportedProtocolVersion],
            mutual: bool,
            protocols: &[&[u8]],
        ) -> u16 {
            let (certificate, key) = self.issue(year);
            let provider = Arc::new(ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .expect("versions");
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).expect("a CA");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let builder = match mutual {
                true => builder.with_client_cert_verifier(verifier.expect("a verifier")),
                false => builder.with_no_client_auth(),
            };
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            let config = builder.with_single_cert(vec![certificate.der().clone()], key);
            let mut config = config.expect("they fit");
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("its address").port();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let accepted = acceptor.accept(stream).await;
                    if let Ok(mut stream) = accepted {
                        let _ = stream.write_all(b"hello").await;
                    }
                }
            });
            port
        }

        fn tls(&self) -> Tls {
            let ca = Some(self.folder.path().join("ca"));
            Tls { ca, certificate: None, server_name: None, state: State::default() }
        }
    }

    /// Returns the problem of a connection, or an empty text.
    async fn problem(tls: &Tls, host: &str, port: u16) -> String {
        let uri = format!("https://{host}:{port}").parse().expect("an address");
        let connected = tls.connect(uri).await;
        connected.map(drop).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[tokio::test]
    async fn failed_handshake_names_cause_and_next_step() {
        let (files, others) = (Files::new(), Files::new());
        let good = files.server(2100, BOTH, false, &[HTTP2]).await;
        let expired = files.server(2020, BOTH, false, &[HTTP2]).await;
        let http1 = files.server(2100, BOTH, false, &[b"http/1.1", b"h2c"]).await;
        let (tls, foreign) = (files.tls(), others.tls());
        assert_eq!(problem(&tls, "localhost", good).await, "");
        let named = Tls { server_name: Some("localhost".to_owned()), ..files.tls() };
        assert_eq!(problem(&named, "127.0.0.1", good).await, "");
        let system = Tls { ca: None, ..files.tls() };
        for (tls, host, port, expected) in [
            (&foreign, "localhost", good, "no CA in "),
            (&system, "localhost", good, "pass the server's CA with --ca FILE"),
            (&tls, "127.0.0.1", good, "is for localhost, not for 127.0.0.1; pass one of its"),
            (&tls, "localhost", expired, "the certificate of the server has expired; "),
            (&tls, "localhost", http1, "NoApplicationProtocol"),
        ] {
            let problem = problem(tls, host, port).await;
            assert!(problem.contains(expected), "{expected} in {problem}");
        }
    }

    #[tokio::test]
    async fn server_without_tls_is_explained() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(async move {
            // The first frame of an HTTP/2 server.
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("sent");
            std::future::pending::<()>().await;
        });
        let problem = problem(&Files::new().tls(), "localhost", port).await;
        assert!(problem.starts_with("the answer is not TLS; check that the service"), "{problem}");
    }

    #[tokio::test]
    async fn missing_client_certificate_is_explained() {
        let (files, others) = (Files::new(), Files::new());
        let server = files.server(2100, &[&TLS12], true, &[HTTP2]).await;
        let without = problem(&files.tls(), "localhost", server).await;
        assert!(without.contains("; the server asks for a client certificate; pass"), "{without}");
        let good = Tls { certificate: Some(files.client()), ..files.tls() };
        assert_eq!(problem(&good, "localhost", server).await, "");
        let wrong = Tls { certificate: Some(others.client()), ..files.tls() };
        let refused = problem(&wrong, "localhost", server).await;
        assert!(refused.contains("the server trusts its CA"), "{refused}");
        // With TLS 1.3 the server refuses after the handshake.
        let late = files.server(2100, &[&TLS13], true, &[HTTP2]).await;
        let tls = files.tls();
        assert_eq!(problem(&tls, "localhost", late).await, "");
        assert!(tls.likely_cause().starts_with("the server asks for a client certificate"));
    }

    #[test]
    fn unusable_file_is_named_with_its_option() {
        let (files, others) = (Files::new(), Files::new());
        let (certificate, key) = files.client();
        let (_, other_key) = others.client();
        let empty = files.write("empty", "");
        let with = |certificate: &PathBuf, key: &PathBuf| Tls {
            certificate: Some((certificate.clone(), key.clone())),
            ..files.tls()
        };
        assert_eq!(with(&certificate, &key).check(), Ok(()));
        for (tls, option, expected) in [
            (Tls { ca: Some("/no/such".into()), ..files.tls() }, "--ca: /no/such: ", "No such"),
            (Tls { ca: Some(empty.clone()), ..files.tls() }, "--ca: ", "has no certificate"),
            (with(&empty, &key), "--cert: ", "has no certificate"),
            (with(&certificate, &certificate), "--key: ", "has no unencrypted private key"),
            (with(&certificate, &other_key), "--key: ", "does not belong to "),
        ] {
            let problem = tls.check().expect_err(option);
            assert!(problem.starts_with(option) && problem.contains(expected), "{problem}");
            assert!(!problem.contains("PRIVATE KEY"), "{problem}");
        }
    }
}
