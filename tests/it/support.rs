//! What every test starts with: a gateway and a WeChat, wired together.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;
use wechat_store_gateway::{
    clock::Clock,
    config::{Environment, Settings},
    pb::{self, card_service_client::CardServiceClient},
    server::{self, Listeners},
    simulator::{
        self, Fault, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, OFFICIAL_APP_ID, OFFICIAL_SECRET,
        Simulator, faults::Kind,
    },
    telemetry::Sampler,
};

/// A gateway, a WeChat behind it, and a client's connection in front.
pub struct App {
    pub wechat: Simulator,
    pub clock: Clock,
    pub channel: Channel,
    pub address: SocketAddr,
    host: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

impl App {
    /// Both accounts, both default, stable tokens.
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With further settings for both accounts, such as `token = "classic"`.
    pub async fn with(account: &str) -> Self {
        Self::launch(account, "", None).await
    }

    /// With further sections of the settings.
    pub async fn with_sections(sections: &str) -> Self {
        Self::launch("", sections, None).await
    }

    /// In front of another server than the simulator.
    pub async fn in_front_of(host: SocketAddr) -> Self {
        Self::launch("", "", Some(host)).await
    }

    async fn launch(account: &str, sections: &str, host: Option<SocketAddr>) -> Self {
        let clock = Clock::system();
        let settings = simulator::Settings { clock: clock.clone(), ..Default::default() };
        let wechat = Simulator::new(settings);
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let host = host.unwrap_or_else(|| upstream.local_addr().expect("bound"));
        let stop = CancellationToken::new();
        // WeChat outlives the gateway.
        tokio::spawn(wechat.clone().run(upstream, std::future::pending()));

        let settings = format!(
            r#"
            [listen]
            grpc = "127.0.0.1:0"
            [wechat]
            host = "http://{host}"
            {sections}
            [[accounts]]
            app_id = "{OFFICIAL_APP_ID}"
            kind = "official"
            default = true
            secret = "{OFFICIAL_SECRET}"
            {account}
            [[accounts]]
            app_id = "{MINI_PROGRAM_APP_ID}"
            kind = "mini_program"
            default = true
            secret = "{MINI_PROGRAM_SECRET}"
            {account}
            "#
        );
        let settings = Settings::read(&settings, &Environment::new()).expect("good settings");
        let listeners = Listeners::bind(&settings).await.expect("free ports");
        let address = listeners.grpc.local_addr().expect("bound");
        let shutdown = stop.clone().cancelled_owned();
        let served = tokio::spawn(server::run(
            settings,
            listeners,
            clock.clone(),
            Sampler::default(),
            shutdown,
        ));
        let channel = Channel::from_shared(format!("http://{address}"))
            .expect("a URL")
            .connect()
            .await
            .expect("the gateway listens");
        Self { wechat, clock, channel, address, host, stop, served }
    }

    /// Lets the calls to a path go wrong.
    pub fn fault(&self, path: &str, kind: Kind) {
        self.wechat.fault(Fault::new(path, kind).times(0));
    }

    /// How often WeChat was called on this path.
    pub fn count(&self, path: &str) -> usize {
        self.wechat.calls(path).len()
    }

    /// Stops the gateway as SIGTERM does and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        within(Duration::from_secs(30), self.served).await.expect("no panic").expect("a clean end");
    }

    /// Makes a classic token as another process would.
    pub async fn take_classic_token(&self) {
        let host = self.host;
        let query = format!(
            "grant_type=client_credential&appid={OFFICIAL_APP_ID}&secret={OFFICIAL_SECRET}"
        );
        let mut socket = TcpStream::connect(host).await.expect("WeChat listens");
        let request = format!(
            "GET {CLASSIC_TOKEN}?{query} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("WeChat reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("WeChat answers");
        assert!(answer.contains("access_token"), "{answer}");
    }

    pub fn cards(&self) -> CardServiceClient<Channel> {
        CardServiceClient::new(self.channel.clone())
    }

    /// A read of a store that need not exist.
    pub async fn read(&self) -> Result<String, Status> {
        let request =
            pb::GetStoreCardRequest { poi_id: "472671857".to_owned(), ..Default::default() };
        Ok(self.cards().get_store_card(request).await?.into_inner().card_id)
    }

    /// A write to a store that need not exist; twice is the same as once.
    pub async fn write(&self) -> Result<(), Status> {
        let request = pb::SetStoreCardRequest {
            poi_id: "472671857".to_owned(),
            card_id: "pabcedfg1234567hijklmn".to_owned(),
            ..Default::default()
        };
        self.cards().set_store_card(request).await.map(|_| ())
    }
}

/// Where reads and writes of [`App`] go at WeChat.
pub const GET_CARD: &str = "/card/storewxa/get";
pub const SET_CARD: &str = "/card/storewxa/set";
pub const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
pub const CLASSIC_TOKEN: &str = "/cgi-bin/token";

/// Waits, but not for ever.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("an answer in time")
}

/// The code and the reason of a failure; every one has an `ErrorInfo` of our domain.
pub fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(info.domain, "wechat-store-gateway");
    (status.code(), info.reason)
}

/// The answer of `tell` as the pair that [`reason`] gives.
pub fn is(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

/// A request with a deadline.
pub fn patient<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}
