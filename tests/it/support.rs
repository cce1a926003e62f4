//! The setup of every test: a gateway connected to a simulated WeChat.

use std::{
    future::Future,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Uri, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, body::Body, client::Grpc, transport::Channel};
use tonic_types::StatusExt;
use tower::Service;
/// The secrets that sign and encrypt pushes to the accounts.
pub(crate) use wechat_simulator::{CALLBACK_TOKEN, MINI_PROGRAM_AES_KEY, OFFICIAL_AES_KEY};
use wechat_simulator::{
    Callback, Fault, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, OFFICIAL_APP_ID, OFFICIAL_SECRET,
    Simulator,
    faults::Kind,
    push::{Format, Mode},
};
use wechat_store_gateway::{
    app::{self, Listeners},
    config::{Environment, Settings},
    live::Source,
    pb::{
        self, audit_service_client::AuditServiceClient, card_service_client::CardServiceClient,
        map_poi_service_client::MapPoiServiceClient, media_service_client::MediaServiceClient,
        merchant_service_client::MerchantServiceClient, nearby_service_client::NearbyServiceClient,
        store_service_client::StoreServiceClient, write_service_client::WriteServiceClient,
    },
    telemetry::Handles,
    testing::{Clock, Raw, sample_all},
};

pub(crate) use crate::samples::{hours, nearby_profile};
use crate::{leaks, secrets};

/// A key of the state. A Redis needs one.
pub(crate) const STATE_KEY: &str = "c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM=";

/// A gateway with a simulated WeChat behind it and a client connection in front.
pub(crate) struct App {
    pub(crate) wechat: Simulator,
    pub(crate) clock: Clock,
    pub(crate) channel: Channel,
    pub(crate) address: SocketAddr,
    /// The address for WeChat's pushes.
    pub(crate) callback: SocketAddr,
    /// The admin address.
    pub(crate) admin: SocketAddr,
    /// The address of WeChat.
    pub(crate) host: SocketAddr,
    settings: String,
    /// The folder of the state. It is removed with the test.
    folder: TempDir,
    /// Notified like SIGHUP.
    hangup: Arc<Notify>,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

/// The differences of a gateway from the usual one.
struct Setup<'a> {
    clock: Clock,
    /// The settings of both accounts.
    account: &'a str,
    /// Further keys of `[listen]`.
    listen: &'a str,
    /// Further sections.
    sections: &'a str,
    /// The settings of `[wechat]`, if they are not those of the simulator.
    reaching: Option<&'a str>,
    /// The URL of the state, if it is not a file.
    state: Option<&'a str>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let (clock, account) = (Clock::system(), "default = true");
        Self { clock, account, listen: "", sections: "", reaching: None, state: None }
    }
}

impl App {
    /// Starts a gateway with both accounts, both default, with stable tokens.
    pub(crate) async fn start() -> Self {
        Self::with("default = true").await
    }

    /// Starts a gateway with a clock that stands still unless a test advances it, so that nothing
    /// depends on the load of the machine.
    pub(crate) async fn still() -> Self {
        Self::still_with_sections("").await
    }

    /// Starts a gateway like [`App::still`] with further sections of the settings.
    pub(crate) async fn still_with_sections(sections: &str) -> Self {
        let clock = Clock::frozen();
        Self::launch(Setup { clock, sections, ..Setup::default() }).await
    }

    /// Starts a gateway with other settings of both accounts instead of `default = true`.
    pub(crate) async fn with(account: &str) -> Self {
        Self::launch(Setup { account, ..Setup::default() }).await
    }

    /// Starts a gateway with further sections of the settings.
    pub(crate) async fn with_sections(sections: &str) -> Self {
        Self::launch(Setup { sections, ..Setup::default() }).await
    }

    /// Starts a gateway with its state at this URL and further sections of the settings.
    pub(crate) async fn with_state(url: &str, sections: &str) -> Self {
        Self::launch(Setup { state: Some(url), sections, ..Setup::default() }).await
    }

    /// Starts a gateway in front of another server than the simulator.
    pub(crate) async fn in_front_of(host: SocketAddr) -> Self {
        Self::reaching(&format!("hosts = [\"http://{host}\"]")).await
    }

    /// Starts a gateway with other settings of `[wechat]`.
    pub(crate) async fn reaching(wechat: &str) -> Self {
        Self::launch(Setup { reaching: Some(wechat), ..Setup::default() }).await
    }

    /// Starts a gateway with further keys of `[listen]` and further sections of the settings.
    pub(crate) async fn listening(listen: &str, sections: &str) -> Self {
        Self::launch(Setup { listen, sections, ..Setup::default() }).await
    }

    async fn launch(setup: Setup<'_>) -> Self {
        let Setup { clock, account, listen, sections, reaching, state } = setup;
        secrets::watch().await;
        let settings = wechat_simulator::Settings { clock: clock.clone(), ..Default::default() };
        let wechat = Simulator::new(settings);
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let host = upstream.local_addr().expect("bound");
        let straight = format!("hosts = [\"http://{host}\"]");
        let reaching = reaching.unwrap_or(&straight);
        // The simulated WeChat outlives the gateway.
        tokio::spawn(wechat.clone().run(upstream, std::future::pending()));

        let folder = tempfile::tempdir().expect("a folder");
        let file = format!("sqlite:{}", folder.path().join("state.db").display());
        let state = state.unwrap_or(&file);
        // A file has a key of its own.
        let keys = match state.starts_with("redis") {
            true => format!("keys = [\"{STATE_KEY}\"]"),
            false => String::new(),
        };
        let settings = format!(
            r#"
            [listen]
            grpc = "127.0.0.1:0"
            callback = "127.0.0.1:0"
            admin = "127.0.0.1:0"
            {listen}
            [wechat]
            {reaching}
            [state]
            url = "{state}"
            {keys}
            {sections}
            [[accounts]]
            app_id = "{OFFICIAL_APP_ID}"
            kind = "official"
            secret = "{OFFICIAL_SECRET}"
            callback = {{ token = "{CALLBACK_TOKEN}", aes_key = "{OFFICIAL_AES_KEY}" }}
            {account}
            [[accounts]]
            app_id = "{MINI_PROGRAM_APP_ID}"
            kind = "mini_program"
            secret = "{MINI_PROGRAM_SECRET}"
            callback = {{ token = "{CALLBACK_TOKEN}", aes_key = "{MINI_PROGRAM_AES_KEY}" }}
            {account}
            "#,
        );
        Self::serve(wechat, clock, host, settings, folder).await
    }

    /// Starts the gateway.
    async fn serve(
        wechat: Simulator,
        clock: Clock,
        host: SocketAddr,
        text: String,
        folder: TempDir,
    ) -> Self {
        let settings = Settings::parse(&text, &Environment::new()).expect("good settings");
        let listeners = Listeners::bind(&settings).await.expect("free ports");
        let address = listeners.grpc.local_addr().expect("bound");
        let callback = listeners.callback.as_ref().expect("accounts have one");
        let callback = callback.local_addr().expect("bound");
        let admin = listeners.admin.local_addr().expect("bound");
        for (app_id, key, format) in [
            (OFFICIAL_APP_ID, OFFICIAL_AES_KEY, Format::Xml),
            (MINI_PROGRAM_APP_ID, MINI_PROGRAM_AES_KEY, Format::Json),
        ] {
            let pushes = Callback {
                url: format!("http://{callback}/wechat/callback/{{app_id}}"),
                token: CALLBACK_TOKEN.to_owned(),
                encoding_aes_key: key.to_owned(),
                mode: Mode::Safe,
                format,
            };
            wechat.set_callback(app_id, pushes).expect("a good callback");
        }
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, &text).expect("writable");
        let hangup = Arc::<Notify>::default();
        let source = Source { file: Some(file), hangup: hangup.clone(), ..Source::default() };
        let served = tokio::spawn(app::run(
            settings,
            source,
            listeners,
            clock.clone(),
            Handles { sampler: sample_all(), ..Handles::default() },
            shutdown,
        ));
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
        let channel = match text.contains("[listen.tls]") {
            // It needs certificates, which the test has.
            true => endpoint.connect_lazy(),
            false => endpoint.connect().await.expect("the gateway listens"),
        };
        let settings = text;
        Self {
            wechat,
            clock,
            channel,
            address,
            callback,
            admin,
            host,
            settings,
            folder,
            hangup,
            stop,
            served,
        }
    }

    /// Changes the settings file of the running gateway.
    pub(crate) fn rewrite_settings(&mut self, change: impl FnOnce(&str) -> String) {
        self.settings = change(&self.settings);
        let new = self.folder.path().join("settings.new");
        std::fs::write(&new, &self.settings).expect("writable");
        std::fs::rename(new, self.settings_file()).expect("the same folder");
    }

    /// Changes the settings file of the running gateway, and sends it the notice of SIGHUP.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&str) -> String) {
        self.rewrite_settings(change);
        self.hangup.notify_one();
    }

    /// Returns the content of the settings file.
    pub(crate) fn settings_text(&self) -> &str {
        &self.settings
    }

    /// Returns the settings file.
    pub(crate) fn settings_file(&self) -> PathBuf {
        self.folder.path().join("settings.toml")
    }

    /// Stops the gateway and starts another one with the same settings and the same state.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// Restarts as [`App::restart`] does, and changes the file of the state in between.
    pub(crate) async fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        let Self { wechat, clock, host, settings, folder, stop, served, .. } = self;
        stop.cancel();
        within(Duration::from_secs(30), served).await.expect("no panic").expect("a clean end");
        // Tasks that end a moment later may still hold the lock.
        // A state in Redis has no lock.
        if let Ok(lock) = std::fs::File::open(folder.path().join("state.db.lock")) {
            while lock.try_lock().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        change(&folder.path().join("state.db"));
        Self::serve(wechat, clock, host, settings, folder).await
    }

    /// Changes the settings of the next gateway that [`App::restart`] starts.
    pub(crate) fn change_settings(&mut self, from: &str, to: &str) {
        assert!(self.settings.contains(from), "{from} is not in the settings");
        self.settings = self.settings.replace(from, to);
    }

    /// Starts a gateway with a still clock, whose account with this secret has another `token` instead.
    pub(crate) async fn still_with_token(secret: &str, token: &str) -> Self {
        let mut app = Self::still().await;
        app.change_settings(&format!("secret = \"{secret}\""), &format!("token = {token}"));
        app.restart().await
    }

    /// Sets the URL of a Redis as that of the state for the next gateway that [`App::restart`] starts.
    pub(crate) fn set_state_url(&mut self, url: &str) {
        let before = self.settings.find("url = \"sqlite:").expect("a URL");
        let after = before + self.settings[before..].find('\n').expect("a line");
        let line = format!("url = \"{url}\"\nkeys = [\"{STATE_KEY}\"]");
        self.settings.replace_range(before..after, &line);
    }

    /// Lets the calls to a path fail.
    pub(crate) fn fault(&self, path: &str, kind: Kind) {
        self.wechat.fault(Fault::new(path, kind).times(0));
    }

    /// Waits for `future` while the clock runs fast, so that the pauses of the gateway take no time.
    pub(crate) async fn hurried<T>(&self, future: impl Future<Output = T>) -> T {
        let run_fast = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.clock.advance(Duration::from_millis(20));
            }
        };
        tokio::select! {
            biased;
            result = future => result,
            never = run_fast => never,
        }
    }

    /// Returns the number of calls to this path at WeChat.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.wechat.calls(path).len()
    }

    /// Sends a request to the admin port and returns the status and the text.
    pub(crate) async fn ask(&self, path: &str) -> (u16, String) {
        ask(self.admin, path).await
    }

    /// Posts a body to the address for pushes, and returns the status and the text.
    pub(crate) async fn post_push(&self, path: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.callback).await.expect("the gateway listens");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: text/xml\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("it answers");
        let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
        let (_, text) = answer.split_once("\r\n\r\n").expect("a body");
        (status, text.to_owned())
    }

    /// Announces a stop to the gateway, like SIGTERM.
    pub(crate) fn announce_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the gateway and waits for its end.
    pub(crate) async fn stop(self) {
        self.announce_stop();
        within(Duration::from_secs(30), self.served).await.expect("no panic").expect("a clean end");
    }

    /// Stops the gateway, waits for its end, and returns the folder of its state.
    pub(crate) async fn stop_and_keep(self) -> TempDir {
        self.announce_stop();
        within(Duration::from_secs(30), self.served).await.expect("no panic").expect("a clean end");
        self.folder
    }

    /// Opens the file of the state.
    pub(crate) fn open_state(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("state.db")).expect("a file")
    }

    /// Locks the state against writes until the result is dropped.
    pub(crate) fn lock_state(&self) -> rusqlite::Connection {
        let lock = self.open_state();
        lock.execute_batch("BEGIN IMMEDIATE").expect("a lock");
        lock
    }

    /// Makes a classic token like another process.
    pub(crate) async fn take_classic_token(&self) {
        take_classic_token(self.host).await;
    }

    pub(crate) fn audits(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
    }

    pub(crate) fn writes(&self) -> WriteServiceClient<Channel> {
        WriteServiceClient::new(self.channel.clone())
    }

    pub(crate) fn cards(&self) -> CardServiceClient<Channel> {
        CardServiceClient::new(self.channel.clone())
    }

    /// Returns a client for cards whose connection does not enforce deadlines, unlike tonic's. An
    /// answer that is late because of a busy machine therefore counts.
    pub(crate) async fn timeless_cards(&self) -> CardServiceClient<Timeless> {
        CardServiceClient::with_origin(self.timeless().await, self.origin())
    }

    /// Returns such a client for stores.
    pub(crate) async fn timeless_stores(&self) -> StoreServiceClient<Timeless> {
        StoreServiceClient::with_origin(self.timeless().await, self.origin())
    }

    /// Returns such a client for nearby places.
    pub(crate) async fn timeless_nearby(&self) -> NearbyServiceClient<Timeless> {
        NearbyServiceClient::with_origin(self.timeless().await, self.origin())
    }

    async fn timeless(&self) -> Timeless {
        let socket = TcpStream::connect(self.address).await.expect("the gateway listens");
        let socket = TokioIo::new(socket);
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        Timeless(sender)
    }

    fn origin(&self) -> Uri {
        format!("http://{}", self.address).parse().expect("a URL")
    }

    pub(crate) fn stores(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.channel.clone())
    }

    pub(crate) fn merchants(&self) -> MerchantServiceClient<Channel> {
        MerchantServiceClient::new(self.channel.clone())
    }

    pub(crate) fn map_pois(&self) -> MapPoiServiceClient<Channel> {
        MapPoiServiceClient::new(self.channel.clone())
    }

    pub(crate) fn nearby(&self) -> NearbyServiceClient<Channel> {
        NearbyServiceClient::new(self.channel.clone())
    }

    pub(crate) fn media(&self) -> MediaServiceClient<Channel> {
        MediaServiceClient::new(self.channel.clone())
    }

    /// Returns the ids of this many places in Guangzhou without a store.
    pub(crate) async fn places(&self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for keyword in ["店", "馆", "工厂"] {
            let request = pb::SearchMapPoisRequest {
                district_id: "440100".to_owned(),
                keyword: keyword.to_owned(),
                ..Default::default()
            };
            let found = self.map_pois().search_map_pois(request).await.expect("places");
            ids.extend(found.into_inner().pois.into_iter().map(|poi| poi.map_poi_id));
        }
        ids.sort();
        ids.dedup();
        assert!(ids.len() >= count, "only {} places", ids.len());
        ids.truncate(count);
        ids
    }

    /// Submits a store.
    pub(crate) async fn add_store(&self, map_poi_id: &str, license_number: &str) -> pb::Submission {
        let store = new_store(map_poi_id, license_number);
        let answer = self.stores().add_store(store).await.expect("submitted").into_inner();
        answer.submission.expect("a submission")
    }

    /// Adds a store, approves it and returns its id.
    pub(crate) async fn approved_store(&self, license_number: &str) -> String {
        let submission = self.add_store("2708071440732747189", license_number).await;
        self.approve(&submission);
        self.list_stores().await.pop().expect("it is listed").poi_id
    }

    /// Approves a submission.
    pub(crate) fn approve(&self, submission: &pb::Submission) {
        let audit_id = submission.audit_id.parse().expect("a number");
        self.wechat.approve(audit_id).expect("an open review");
    }

    /// Returns the first page of stores.
    pub(crate) async fn list_stores(&self) -> Vec<pb::Store> {
        let request = pb::ListStoresRequest::default();
        self.stores().list_stores(request).await.expect("stores").into_inner().stores
    }

    /// Returns one store.
    pub(crate) async fn store(&self, poi_id: &str) -> pb::Store {
        let request = pb::GetStoreRequest { poi_id: poi_id.to_owned(), ..Default::default() };
        let answer = self.stores().get_store(request).await.expect("the store");
        answer.into_inner().store.expect("a store")
    }

    /// Returns the progress of the migration.
    pub(crate) async fn progress(&self) -> pb::GetUpgradeProgressResponse {
        let request = pb::GetUpgradeProgressRequest::default();
        self.stores().get_upgrade_progress(request).await.expect("progress").into_inner()
    }

    /// Uploads a temporary picture and returns its id.
    pub(crate) async fn upload(&self) -> String {
        let content = png().into();
        let request = pb::UploadTemporaryImageRequest { content, ..Default::default() };
        self.media().upload_temporary_image(request).await.expect("taken").into_inner().media_id
    }

    /// Calls any path with any message.
    pub(crate) async fn unary(&self, path: &str, message: &[u8]) -> Result<Bytes, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("connected");
        let request = Request::new(Bytes::copy_from_slice(message));
        let answer =
            client.unary(request, PathAndQuery::try_from(path).expect("a path"), Raw).await?;
        Ok(answer.into_inner())
    }

    /// Calls a unary method without a message.
    pub(crate) async fn without_message(&self) -> Result<(), Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("connected");
        let request = Request::new(tokio_stream::empty::<Bytes>());
        let path = PathAndQuery::from_static("/wechat.store.v1.CardService/GetStoreCard");
        client.streaming(request, path, Raw).await.map(|_| ())
    }

    /// Reads a card of a store that need not exist.
    pub(crate) async fn read(&self) -> Result<String, Status> {
        let request =
            pb::GetStoreCardRequest { poi_id: "472671857".to_owned(), ..Default::default() };
        Ok(self.cards().get_store_card(request).await?.into_inner().card_id)
    }

    /// Writes a card to a store that need not exist. Repeating this has no further effect.
    pub(crate) async fn write(&self) -> Result<(), Status> {
        let request = pb::SetStoreCardRequest {
            poi_id: "472671857".to_owned(),
            card_id: "pabcedfg1234567hijklmn".to_owned(),
            ..Default::default()
        };
        self.cards().set_store_card(request).await.map(|_| ())
    }
}

/// Sends a request to an admin port and returns the status and the text.
pub(crate) async fn ask(admin: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(admin).await.expect("the gateway listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it answers");
    let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
    let (_, text) = answer.split_once("\r\n\r\n").expect("a body");
    // Without the values of metrics, which could be like a mobile number.
    let series = text.lines().map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series));
    series.for_each(leaks::check);
    (status, text.to_owned())
}

/// A bare connection.
#[derive(Clone)]
pub(crate) struct Timeless(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Timeless {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

/// The paths of the read and the write of [`App`] at WeChat.
pub(crate) const GET_CARD: &str = "/card/storewxa/get";
pub(crate) const SET_CARD: &str = "/card/storewxa/set";
pub(crate) const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
pub(crate) const CLASSIC_TOKEN: &str = "/cgi-bin/token";

/// Makes a classic token of the official account over a socket, without the gateway.
pub(crate) async fn take_classic_token(host: SocketAddr) -> String {
    let mut socket = TcpStream::connect(host).await.expect("WeChat listens");
    let request = format!(
        "GET {CLASSIC_TOKEN}?grant_type=client_credential&appid={OFFICIAL_APP_ID}\
         &secret={OFFICIAL_SECRET} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("WeChat reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("WeChat answers");
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body["access_token"].as_str().expect("a token").to_owned()
}

/// Fails all tests if it is not dropped in time. For code that could block a thread forever, so
/// that no timer fires.
pub(crate) struct Limit {
    _running: mpsc::Sender<()>,
}

impl Limit {
    pub(crate) fn new(limit: Duration) -> Self {
        let (running, end) = mpsc::channel();
        std::thread::spawn(move || {
            if end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = std::io::stderr().write_all(b"a test is still running\n");
                std::process::abort();
            }
        });
        Self { _running: running }
    }
}

/// Waits for the future, but fails after the limit.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("an answer in time")
}

/// Returns the code and the reason of a failure. Every failure must have an `ErrorInfo` of this
/// service's domain.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(info.domain, "wechat-store-gateway");
    (status.code(), info.reason)
}

/// Returns the pair that [`reason`] returns for such a failure.
pub(crate) fn is(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

/// Returns a request with a deadline.
pub(crate) fn with_deadline<T>(message: T, time_left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time_left);
    request
}

/// Returns a store that differs from others only in its place and its credential.
pub(crate) fn new_store(map_poi_id: &str, license_number: &str) -> pb::AddStoreRequest {
    pb::AddStoreRequest {
        client_reference: format!("shop-{license_number}"),
        map_poi_id: map_poi_id.to_owned(),
        picture_urls: vec!["http://mmbiz.qpic.cn/mmbiz_png/first/0".to_owned()],
        contact_phone: "020-89190388".to_owned(),
        hours: Some(hours("10:00", "21:30")),
        license_number: format!("91440105MA59{license_number}"),
        ..Default::default()
    }
}

/// Returns a place to propose for the map.
pub(crate) fn new_map_poi() -> pb::CreateMapPoiRequest {
    pb::CreateMapPoiRequest {
        name: "巷口小馆".to_owned(),
        district_id: "440105".to_owned(),
        address: "新港中路397号".to_owned(),
        location: Some(pb::LatLng { latitude: 23.09, longitude: 113.32 }),
        category: "美食:中餐厅".to_owned(),
        telephones: vec!["020-89190388".to_owned()],
        photo_url: "http://mmbiz.qpic.cn/a/0".to_owned(),
        license_url: "http://mmbiz.qpic.cn/b/0".to_owned(),
        introduction: "家常菜".to_owned(),
        ..Default::default()
    }
}

/// Returns a picture of one red pixel.
pub(crate) fn png() -> Vec<u8> {
    let bytes = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    BASE64_STANDARD.decode(bytes).expect("base64")
}
