//! WeChat with TLS and a certificate of an authority that only the settings contain.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use http::{Request, Response, Version, header};
use hyper::{
    body::Incoming, client::conn::http1, server::conn::http2, service::service_fn as service,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa,
    KeyPair,
};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};

use crate::support::{App, GET_CARD, SET_CARD, STABLE_TOKEN, is, reason};

/// After this time, new connections are opened.
const LIFE: Duration = Duration::from_secs(300);
/// Recorded by a front if the other side breaks off a handshake.
const REFUSED: &str = "refused";

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns a certificate with these properties, and its key.
    pub(crate) fn issue(&self, mut params: CertificateParams) -> (Certificate, KeyPair) {
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate, key)
    }

    /// Returns the TLS configuration of a server with this name and these protocols.
    pub(crate) fn server(&self, name: &str, protocols: &[&str]) -> ServerConfig {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let (certificate, key) = self.issue(params);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("they fit");
        server.alpn_protocols = protocols.iter().map(|name| Vec::from(*name)).collect();
        server
    }
}

/// A TLS endpoint in front of the simulator.
struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    folder: TempDir,
    running: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    upstream: OnceLock<SocketAddr>,
    /// The negotiated protocol of each connection, or an empty text for none.
    seen: Mutex<Vec<String>>,
}

impl Front {
    async fn start(server: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let running = tokio::spawn(run(listener, Arc::new(server).into(), shared.clone()));
        Self { address, shared, folder: tempfile::tempdir().expect("a folder"), running }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("authorities.pem")
    }

    /// Writes the authorities to the file that the gateway reads.
    fn write(&self, authorities: &str) {
        std::fs::write(self.file(), authorities).expect("a file");
    }

    /// Starts a gateway that also trusts these authorities.
    async fn app(&self, authorities: Option<&Authority>) -> App {
        let mut settings = format!("hosts = [\"https://{}\"]", self.address);
        if let Some(authority) = authorities {
            self.write(&authority.pem());
            settings += &format!("\nca_file = \"{}\"", self.file().display());
        }
        let app = App::reaching(&settings).await;
        self.shared.upstream.set(app.host).expect("only once");
        app
    }

    /// Returns the protocols of the connections since the last call.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen.lock().expect("no panic"))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(pass_on(socket, tls.clone(), shared.clone()));
    }
}

async fn pass_on(socket: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let see = |what: String| shared.seen.lock().expect("no panic").push(what);
    let Ok(mut stream) = tls.accept(socket).await else { return see(REFUSED.to_owned()) };
    let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default();
    let protocol = String::from_utf8_lossy(protocol).into_owned();
    see(protocol.clone());
    let upstream = *shared.upstream.get().expect("WeChat is known");
    // A client that breaks off has left.
    if protocol == "h2" {
        let answer = service(|request| forward(request, upstream));
        let builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
    } else {
        let mut upstream = TcpStream::connect(upstream).await.expect("WeChat listens");
        let _ = copy_bidirectional(&mut stream, &mut upstream).await;
    }
}

/// Relays an HTTP/2 request to the simulator, which only supports HTTP/1.1.
async fn forward(
    mut request: Request<Incoming>,
    upstream: SocketAddr,
) -> hyper::Result<Response<Incoming>> {
    let path = request.uri().path_and_query().expect("a path").as_str().parse();
    *request.uri_mut() = path.expect("a URI");
    *request.version_mut() = Version::HTTP_11;
    let host = upstream.to_string().parse().expect("a header");
    request.headers_mut().insert(header::HOST, host);
    let socket = TcpStream::connect(upstream).await.expect("WeChat listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// Checks that the call failed when it fetched the token.
fn unreachable<T>(result: Result<T, Status>) {
    let status = result.map(|_| ()).expect_err("WeChat cannot be reached");
    assert_eq!(reason(&status), is(Code::Unavailable, "TOKEN_UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_authority_is_trusted() {
    let authority = Authority::new();
    let front = Front::start(authority.server("127.0.0.1", &[])).await;
    let app = front.app(Some(&authority)).await;
    let poi_id = app.approved_store("1").await;
    assert_eq!(app.store(&poi_id).await.poi_id, poi_id);
    let seen = front.seen();
    assert!(!seen.is_empty() && seen.iter().all(String::is_empty), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_server_receives_nothing() {
    let (ours, another) = (Authority::new(), Authority::new());
    for (trusted, name) in [
        (None, "127.0.0.1"),
        (Some(&another), "127.0.0.1"),
        // The authority is trusted, but the certificate has another name.
        (Some(&ours), "127.0.0.2"),
    ] {
        let front = Front::start(ours.server(name, &[])).await;
        let app = front.app(trusted).await;
        unreachable(app.read().await);
        unreachable(app.write().await);
        let seen = front.seen();
        assert!(!seen.is_empty() && seen.iter().all(|what| what == REFUSED), "{seen:?}");
        let sent = [STABLE_TOKEN, GET_CARD, SET_CARD].map(|path| app.count(path));
        assert_eq!(sent, [0, 0, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_reloaded_with_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let front = Front::start(new.server("127.0.0.1", &[])).await;
    let app = front.app(Some(&old)).await;
    unreachable(app.read().await);
    front.write(&format!("{}{}", old.pem(), new.pem()));
    app.clock.advance(LIFE);
    app.list_stores().await;
    // An unreadable file changes nothing.
    front.write("");
    app.clock.advance(LIFE);
    app.list_stores().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_used_if_supported() {
    let authority = Authority::new();
    for (offered, spoken) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let front = Front::start(authority.server("127.0.0.1", offered)).await;
        let app = front.app(Some(&authority)).await;
        let poi_id = app.approved_store("1").await;
        assert_eq!(app.store(&poi_id).await.poi_id, poi_id);
        let seen = front.seen();
        assert!(!seen.is_empty() && seen.iter().all(|protocol| protocol == spoken), "{seen:?}");
    }
}
