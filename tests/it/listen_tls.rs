//! TLS of the gateway's own ports, and the certificates of its clients.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use rcgen::{Certificate, CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use wechat_store_gateway::pb::{
    self, audit_service_client::AuditServiceClient, card_service_client::CardServiceClient,
    watch_audit_events_request::Start,
};

use crate::{
    support::{App, is, reason, within},
    tls::Authority,
};

const SOON: Duration = Duration::from_secs(20);
/// The interval at which the gateway polls its files.
const POLL: Duration = Duration::from_secs(1);

type Versions = &'static [&'static SupportedProtocolVersion];
static BOTH: Versions = &[&TLS12, &TLS13];
/// Each version alone.
static EACH: [Versions; 2] = [&[&TLS12], &[&TLS13]];

type Identity = (Certificate, KeyPair);

/// Returns the properties of a certificate for a client.
fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let name = name.try_into().expect("ASCII");
    params.subject_alt_names = vec![SanType::URI(name)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// The files of the gateway.
pub(crate) struct Files {
    folder: TempDir,
    /// Signs the gateway's certificates.
    authority: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        let files =
            Self { folder: tempfile::tempdir().expect("a folder"), authority: Authority::new() };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("a file");
    }

    /// Returns a new certificate for the gateway.
    fn issue(&self) -> Identity {
        self.authority.issue(CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name"))
    }

    /// Writes a new certificate of the gateway, and returns it.
    fn renew(&self) -> CertificateDer<'static> {
        let (certificate, key) = self.issue();
        self.write("tls.crt", &certificate.pem());
        self.write("tls.key", &key.serialize_pem());
        certificate.der().clone()
    }

    /// Returns a section of the settings with these files.
    pub(crate) fn section(&self, name: &str, more: &str) -> String {
        let (certificate, key) = (self.path("tls.crt"), self.path("tls.key"));
        let (certificate, key) = (certificate.display(), key.display());
        format!("[{name}]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n{more}\n")
    }

    /// Returns the section for gRPC with these client CAs.
    fn with_clients(&self, authorities: &str, demand: &str) -> String {
        self.write("ca.crt", authorities);
        let path = self.path("ca.crt");
        let more = format!("client_ca = \"{}\"\n{demand}", path.display());
        self.section("listen.tls", &more)
    }

    fn dial(&self) -> Dial {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.pem().as_bytes());
        roots.add(authority.expect("PEM")).expect("a certificate");
        Dial { roots, identity: None, versions: BOTH, protocol: "h2" }
    }
}

/// The way in which a client connects.
#[derive(Clone)]
struct Dial {
    roots: RootCertStore,
    identity: Option<(CertificateDer<'static>, Vec<u8>)>,
    versions: Versions,
    protocol: &'static str,
}

impl Dial {
    fn with(self, (certificate, key): &Identity) -> Self {
        let identity = Some((certificate.der().clone(), key.serialize_der()));
        Self { identity, ..self }
    }

    fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(self.roots.clone());
        let mut config = match self.identity.clone() {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key).expect("a key");
                builder.with_client_auth_cert(vec![certificate], key).expect("they fit")
            }
        };
        config.alpn_protocols = vec![self.protocol.as_bytes().to_vec()];
        config
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(to).await?;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        TlsConnector::from(Arc::new(self.config())).connect(name, socket).await
    }

    /// Returns the gateway's certificate as a new connection sees it.
    async fn seen(&self, to: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(to).await.expect("a connection");
        let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
        chain[0].clone().into_owned()
    }

    /// Returns a client with a connection of its own.
    async fn cards(&self, to: SocketAddr) -> Result<Cards, tonic::transport::Error> {
        let dial = self.clone();
        let connect = tower::service_fn(move |_| {
            let dial = dial.clone();
            async move { dial.connect(to).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("a URL");
        Ok(Cards(CardServiceClient::new(endpoint.connect_with_connector(connect).await?)))
    }

    /// Makes one call over a new connection.
    async fn call(&self, to: SocketAddr) -> Result<(), Status> {
        let cards = self.cards(to).await.map_err(|error| Status::from_error(error.into()))?;
        cards.call().await
    }
}

#[derive(Clone)]
struct Cards(CardServiceClient<Channel>);

impl Cards {
    /// Makes one call. Its success is that WeChat does not know the store.
    async fn call(&self) -> Result<(), Status> {
        let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
        match self.0.clone().get_store_card(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(status),
            Ok(_) => panic!("there is no such store"),
        }
    }
}

/// Advances the clock until the condition is true.
async fn until<F: Future<Output = bool>>(app: &App, condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            app.clock.advance(POLL);
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(SOON, wait).await;
}

/// Checks that a connection was closed before any call could be made.
fn closed(result: Result<(), Status>) {
    let status = result.expect_err("no connection");
    assert_ne!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(status.details().is_empty(), "{status:?}");
}

/// Sends a GET over any stream, and returns the whole answer.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    // A TLS peer can close without a farewell.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("UTF-8")
}

/// Returns the answer of the admin port, which has no TLS.
async fn readyz(app: &App) -> String {
    get(TcpStream::connect(app.admin).await.expect("it listens"), "/readyz").await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_port_accepts_only_tls_12_and_13() {
    let files = Files::new();
    let app = App::with_sections(&files.section("listen.tls", "")).await;
    for versions in EACH {
        let dial = Dial { versions, ..files.dial() };
        dial.call(app.address).await.expect("a call");
    }
    closed(Files::new().dial().call(app.address).await);
    let other = Dial { protocol: "http/1.1", ..files.dial() };
    assert!(other.connect(app.address).await.is_err(), "it speaks only h2");

    let (kind, alert) = answer(app.address, &hello(2)).await;
    // An alert: fatal, protocol_version.
    assert_eq!((kind, &alert[..]), (21, &[2, 70][..]), "TLS 1.1");
    assert_eq!(answer(app.address, &hello(3)).await.0, 22, "TLS 1.2 gets the next message");
}

/// Returns the ClientHello of a TLS version below 1.3: 1 is TLS 1.0.
fn hello(version: u8) -> Vec<u8> {
    // The signatures, and the groups.
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23];
    // No session, ECDHE-ECDSA with AES-128-GCM, no compression.
    let lists = [0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16];
    let body = [&[3, version][..], &[7; 32], &lists, &extensions].concat();
    let length = u8::try_from(body.len()).expect("short");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &body[..]].concat()
}

/// Sends bytes, and returns the type and the content of the first TLS record of the answer.
async fn answer(to: SocketAddr, sent: &[u8]) -> (u8, Vec<u8>) {
    let mut socket = TcpStream::connect(to).await.expect("it listens");
    socket.write_all(sent).await.expect("it reads");
    let mut head = [0; 5];
    within(SOON, socket.read_exact(&mut head)).await.expect("an answer");
    let mut content = vec![0; u16::from_be_bytes([head[3], head[4]]).into()];
    socket.read_exact(&mut content).await.expect("the rest");
    (head[0], content)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_port_refuses_plaintext() {
    let files = Files::new();
    let app = App::with_sections(&files.section("listen.tls", "")).await;
    let answer = get(TcpStream::connect(app.address).await.expect("it listens"), "/").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("needs TLS"), "{answer}");
    let mut socket = TcpStream::connect(app.address).await.expect("it listens");
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it reads");
    let mut answer = Vec::new();
    let _ = within(SOON, socket.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{answer:?}");
    app.cards().get_store_card(pb::GetStoreCardRequest::default()).await.expect_err("no TLS");
    files.dial().call(app.address).await.expect("a call");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_client_on_plaintext_port_is_closed() {
    let app = App::start().await;
    let connect = Files::new().dial();
    within(SOON, connect.connect(app.address)).await.expect_err("no TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_handshake_is_closed() {
    let files = Files::new();
    let app = App::with_sections(&files.section("listen.tls", "")).await;
    for begin in [&b""[..], &[22, 3, 1]] {
        let mut socket = TcpStream::connect(app.address).await.expect("it listens");
        socket.write_all(begin).await.expect("it reads");
        let closed = within(SOON, socket.read(&mut [0; 9])).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_port_speaks_tls() {
    let files = Files::new();
    let app = App::with_sections(&files.section("listen.admin_tls", "")).await;
    let dial = Dial { protocol: "http/1.1", ..files.dial() };
    let answer = get(dial.connect(app.admin).await.expect("TLS"), "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\nok\n"), "{answer}");
    assert!(readyz(&app).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_client_ca_are_accepted() {
    let files = Files::new();
    let (ours, other) = (Authority::new(), Authority::new());
    let mut expired = client("spiffe://prod/orders");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut server_only = client("spiffe://prod/orders");
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let good = ours.issue(client("spiffe://prod/orders"));
    let bad =
        [other.issue(client("spiffe://prod/orders")), ours.issue(expired), ours.issue(server_only)];
    for demand in ["", "client_certificates = \"optional\""] {
        let app = App::with_sections(&files.with_clients(&ours.pem(), demand)).await;
        for versions in EACH {
            let dial = Dial { versions, ..files.dial() };
            dial.clone().with(&good).call(app.address).await.expect("a call");
            for identity in &bad {
                closed(dial.clone().with(identity).call(app.address).await);
            }
            match demand {
                "" => closed(dial.call(app.address).await),
                _ => dial.call(app.address).await.expect("no certificate is needed"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_name_identifies_caller() {
    let (files, authority) = (Files::new(), Authority::new());
    let callers = "[[callers]]\nname = \"orders\"\nrole = \"reader\"\n\
                   certificates = [\"spiffe://prod/orders\", \"orders.internal\"]\n";
    let sections = files.with_clients(&authority.pem(), "") + callers;
    let app = App::with_sections(&sections).await;
    let mut named = CertificateParams::new(["Orders.Internal".to_owned()]).expect("a name");
    named.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for params in [client("spiffe://prod/orders"), named] {
        let dial = files.dial().with(&authority.issue(params));
        dial.call(app.address).await.expect("a reader can read");
    }
    let dial = files.dial().with(&authority.issue(client("spiffe://prod/payments")));
    let status = dial.call(app.address).await.expect_err("no caller has this name");
    assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_client_certificate_ends_its_calls() {
    let (files, authority) = (Files::new(), Authority::new());
    let app = App::still_with_sections(&files.with_clients(&authority.pem(), "")).await;
    let mut params = client("spiffe://prod/orders");
    let now = app.clock.wall();
    params.not_after = (now + Duration::from_secs(3600)).into();
    let dial = files.dial().with(&authority.issue(params));
    let cards = dial.cards(app.address).await.expect("connected");
    app.clock.advance(Duration::from_secs(3590));
    cards.call().await.expect("still valid");
    app.clock.advance(Duration::from_secs(11));
    let status = cards.call().await.expect_err("expired");
    assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"));
    assert!(status.message().contains("expired"), "{status:?}");
    closed(dial.call(app.address).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ca_rotation_refuses_only_removed_clients() {
    let (files, old, new) = (Files::new(), Authority::new(), Authority::new());
    let app = App::still_with_sections(&files.with_clients(&old.pem(), "")).await;
    let dial =
        |authority: &Authority| files.dial().with(&authority.issue(client("spiffe://prod/orders")));
    let (leaving, staying) = (dial(&old), dial(&new));
    closed(staying.call(app.address).await);
    let leaving_cards = leaving.cards(app.address).await.expect("connected");
    leaving_cards.call().await.expect("a call");

    files.write("ca.crt", &format!("{}{}", old.pem(), new.pem()));
    until(&app, || async { staying.call(app.address).await.is_ok() }).await;
    let staying_cards = staying.cards(app.address).await.expect("connected");
    leaving_cards.call().await.expect("its CA is still there");

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = (0..4).map(|_| {
        let (cards, stop, calls) = (staying_cards.clone(), stop.clone(), calls.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                cards.call().await.expect("it stays allowed");
                calls.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load = load.collect::<Vec<_>>();
    files.write("ca.crt", &new.pem());
    until(&app, || async { leaving_cards.call().await.is_err() }).await;
    let status = leaving_cards.call().await.expect_err("its CA is gone");
    assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"));
    closed(leaving.call(app.address).await);
    let before = calls.load(Ordering::Relaxed);
    until(&app, || async { calls.load(Ordering::Relaxed) > before + 20 }).await;
    stop.store(true, Ordering::Relaxed);
    for one in join_all(load).await {
        one.expect("no failed call");
    }
    staying.call(app.address).await.expect("a new connection");
}

/// Starts a watch over a new connection.
async fn watch(dial: &Dial, to: SocketAddr) -> Streaming<pb::WatchAuditEventsResponse> {
    let dial = dial.clone();
    let connect = tower::service_fn(move |_| {
        let dial = dial.clone();
        async move { dial.connect(to).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("a URL");
    let channel = endpoint.connect_with_connector(connect).await.expect("connected");
    let start = Some(Start::Position(pb::WatchPosition::Latest.into()));
    let request = pb::WatchAuditEventsRequest { start, ..Default::default() };
    let watch = AuditServiceClient::new(channel).watch_audit_events(request).await;
    watch.expect("a watch").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_with_its_client_certificate() {
    let (files, old, new) = (Files::new(), Authority::new(), Authority::new());
    let both = format!("{}{}", old.pem(), new.pem());
    // The certificate counts even if every caller may do everything.
    let app = App::still_with_sections(&files.with_clients(&both, "")).await;
    let identity = |authority: &Authority, life: Duration| {
        let mut params = client("spiffe://prod/orders");
        params.not_after = (app.clock.wall() + life).into();
        files.dial().with(&authority.issue(params))
    };
    let (hour, year) = (Duration::from_secs(3600), Duration::from_secs(365 * 24 * 3600));
    let expiring = watch(&identity(&new, hour), app.address).await;
    let leaving = watch(&identity(&old, year), app.address).await;
    let mut staying = watch(&identity(&new, year), app.address).await;
    let end = async |mut watch: Streaming<pb::WatchAuditEventsResponse>| {
        let end = async {
            while watch.message().await?.is_some() {}
            Err::<(), _>(Status::ok(""))
        };
        let status = within(SOON, app.hurried(end)).await.expect_err("an end");
        assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"), "{status:?}");
        status.message().to_owned()
    };
    files.write("ca.crt", &new.pem());
    assert!(end(leaving).await.contains("no longer trusts"));
    app.clock.advance(hour);
    assert!(end(expiring).await.contains("has expired"));
    staying.message().await.expect("not disturbed").expect("a checkpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_certificate_does_not_keep_removed_caller() {
    let (files, authority) = (Files::new(), Authority::new());
    let caller = |name: &str| {
        format!(
            "[[callers]]\nname = \"{name}\"\nrole = \"reader\"\ncertificates = [\"{name}.internal\"]\n"
        )
    };
    let sections = files.with_clients(&authority.pem(), "") + &caller("leaves") + &caller("stays");
    let mut app = App::with_sections(&sections).await;
    let cards = async |name: &str| {
        let mut params = CertificateParams::new([format!("{name}.internal")]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let dial = files.dial().with(&authority.issue(params));
        dial.cards(app.address).await.expect("connected")
    };
    let (leaves, stays) = (cards("leaves").await, cards("stays").await);
    leaves.call().await.expect("known");
    files.write("tls.crt", "no certificate");
    app.reload(|settings| settings.replace(&caller("leaves"), ""));
    until(&app, || async { leaves.call().await.is_err() }).await;
    let status = leaves.call().await.expect_err("removed");
    assert_eq!(reason(&status), is(Code::Unauthenticated, "CALLER_UNKNOWN"));
    stays.call().await.expect("not disturbed");
}

/// Puts files into a folder as Kubernetes does: two levels of symbolic links, of which the upper one is
/// replaced.
fn mount(folder: &Path, version: &str, files: &[(&str, String)]) {
    let target = folder.join(version);
    fs::create_dir(&target).expect("a folder");
    for (name, content) in files {
        fs::write(target.join(name), content).expect("a file");
    }
    symlink(version, folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a swap");
    for (name, _) in files {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("..data/{name}"), link).expect("a link");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_secret_of_kubernetes_fails_no_call() {
    let files = Files::new();
    for name in ["tls.crt", "tls.key"] {
        fs::remove_file(files.path(name)).expect("it was there");
    }
    let issue = |version: &str| {
        let (certificate, key) = files.issue();
        let pem = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
        mount(files.folder.path(), version, &pem);
        certificate.der().clone()
    };
    let first = issue("..2026_1");
    let app = App::still_with_sections(&files.section("listen.tls", "")).await;
    let dial = files.dial();
    assert_eq!(dial.seen(app.address).await, first);

    let stop = Arc::new(AtomicBool::new(false));
    let kept = dial.cards(app.address).await.expect("connected");
    let load = (0..4).map(|_| {
        let (kept, dial, stop, to) = (kept.clone(), dial.clone(), stop.clone(), app.address);
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                kept.call().await.expect("a call on an old connection");
                dial.call(to).await.expect("a call on a new connection");
            }
        })
    });
    let load = load.collect::<Vec<_>>();
    for version in ["..2026_2", "..2026_3"] {
        let issued = issue(version);
        until(&app, || async { dial.seen(app.address).await == issued }).await;
    }
    stop.store(true, Ordering::Relaxed);
    for one in join_all(load).await {
        one.expect("no failed call");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_new_file_changes_nothing() {
    let files = Files::new();
    let app = App::still_with_sections(&files.section("listen.tls", "")).await;
    let dial = files.dial();
    let first = dial.seen(app.address).await;
    let other_key = KeyPair::generate().expect("a key").serialize_pem();
    let mut expired = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (expired, key) = files.authority.issue(expired);
    let good = ["tls.crt", "tls.key"].map(|name| fs::read_to_string(files.path(name)).expect("it"));
    for (certificate, key, expected) in [
        ("nonsense", good[1].as_str(), "listen.tls.certificate: "),
        (&good[0], "", "no unencrypted private key"),
        (&good[0], &other_key, "does not belong to the first certificate"),
        (&expired.pem(), &key.serialize_pem(), "the certificate expired at 2020-01-01T00:00:00Z"),
    ] {
        files.write("tls.crt", certificate);
        files.write("tls.key", key);
        until(&app, || async { readyz(&app).await.contains(expected) }).await;
        assert!(readyz(&app).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(dial.seen(app.address).await, first);
        dial.call(app.address).await.expect("a call");
    }
    files.write("tls.crt", &good[0]);
    files.write("tls.key", &good[1]);
    until(&app, || async { readyz(&app).await.ends_with("\r\nok\n") }).await;
    let next = files.renew();
    until(&app, || async { dial.seen(app.address).await == next }).await;
}
