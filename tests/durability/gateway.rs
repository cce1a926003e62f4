//! The gateway's process, its settings and its ports.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use wechat_simulator::{
    CALLBACK_TOKEN, MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, OFFICIAL_AES_KEY, OFFICIAL_APP_ID,
    OFFICIAL_SECRET,
};
use wechat_store_gateway::pb::{
    self, AuditEvent, WatchPosition, audit_service_client::AuditServiceClient,
    store_service_client::StoreServiceClient, watch_audit_events_request::Start,
};

use crate::leaks;

/// Far more time than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// How long a call may take before it counts as hanging, on a busy machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(6);
/// The interval between two checks.
pub(crate) const MOMENT: Duration = Duration::from_millis(20);

/// The gateway of this version.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_wechat-store-gateway");

/// The key that a state in Redis needs.
pub(crate) const KEYS: &str = r#"keys = ["c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM="]"#;

/// A gateway's settings, folder and ports, and its process if it runs.
pub(crate) struct Gateway {
    program: PathBuf,
    /// The settings, with `{state}` for further lines about the state.
    settings: String,
    pub(crate) grpc: SocketAddr,
    pub(crate) callback: SocketAddr,
    admin: SocketAddr,
    folder: TempDir,
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Gateway {
    /// Creates a gateway that does not run yet. `{folder}` in the state's URL is replaced with its
    /// own folder.
    pub(crate) fn new(wechat: SocketAddr, state: &str) -> Self {
        Self::with(wechat, state, "")
    }

    /// Creates a gateway with further sections of the settings, which does not run yet.
    pub(crate) fn with(wechat: SocketAddr, state: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [grpc, callback, admin] = std::array::from_fn(|_| free_port());
        let state = state.replace("{folder}", &folder.path().display().to_string());
        let keys = if state.starts_with("redis") { KEYS } else { "" };
        let settings = format!(
            r#"
            [listen]
            grpc = "{grpc}"
            callback = "{callback}"
            admin = "{admin}"
            [wechat]
            hosts = ["http://{wechat}"]
            [state]
            url = "{state}"
            {{state}}
            [audit]
            checkpoint_seconds = 1.0
            [[accounts]]
            app_id = "{OFFICIAL_APP_ID}"
            kind = "official"
            default = true
            secret = "{OFFICIAL_SECRET}"
            callback = {{ token = "{CALLBACK_TOKEN}", aes_key = "{OFFICIAL_AES_KEY}" }}
            [[accounts]]
            app_id = "{MINI_PROGRAM_APP_ID}"
            kind = "mini_program"
            default = true
            secret = "{MINI_PROGRAM_SECRET}"
            callback = {{ token = "{CALLBACK_TOKEN}", mode = "plain" }}
            {sections}
            "#
        );
        let gateway = Self {
            program: PROGRAM.into(),
            settings,
            grpc,
            callback,
            admin,
            folder,
            environment: Vec::new(),
            process: None,
        };
        gateway.write_settings(keys);
        gateway
    }

    /// Lets it be another program, with these lines about the state, when it is started again.
    pub(crate) fn becomes(&mut self, program: &Path, state: &str) {
        self.program = program.into();
        self.write_settings(state);
    }

    fn write_settings(&self, state: &str) {
        let settings = self.settings.replace("{state}", state);
        fs::write(self.folder.path().join("settings.toml"), settings).expect("a file");
    }

    /// Starts a gateway and waits until it serves.
    pub(crate) async fn start(wechat: SocketAddr, state: &str) -> Self {
        let mut gateway = Self::new(wechat, state);
        gateway.spawn();
        gateway.serves().await;
        gateway
    }

    /// Sets a variable of its environment.
    pub(crate) fn set(&mut self, name: &str, value: &Path) {
        self.environment.push((name.to_owned(), value.display().to_string()));
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let output = File::options().create(true).append(true).open(self.log()).expect("a file");
        let process = Command::new(&self.program)
            .args(["serve", "--config"])
            .arg(self.folder.path().join("settings.toml"))
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn();
        self.process = Some(process.expect("the binary starts"));
    }

    /// Waits until it accepts pushes and calls.
    pub(crate) async fn serves(&mut self) {
        let end = Instant::now() + LONG;
        // Readiness comes last. The ports are open a little earlier.
        while self.readyz().await.is_err() {
            let process = self.process.as_mut().expect("it runs");
            let ended = process.try_wait().expect("its status");
            assert!(
                ended.is_none() && Instant::now() < end,
                "it does not serve: {}",
                self.output()
            );
            sleep(MOMENT).await;
        }
    }

    /// Kills the process, so that it cannot do anything more.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("ours");
            process.wait().expect("killed");
        }
    }

    /// Starts it again like a supervisor if it exited because its Redis was missing.
    pub(crate) fn revive(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        if process.try_wait().expect("its status").is_some() {
            self.process = None;
            self.spawn();
        }
    }

    /// Waits until it serves, and starts it again if it exits because its Redis is away.
    pub(crate) async fn returns(&mut self) {
        let end = Instant::now() + LONG;
        while self.readyz().await.is_err() {
            assert!(Instant::now() < end, "it does not return: {}", self.output());
            self.revive();
            sleep(MOMENT).await;
        }
    }

    /// Sends a signal: `STOP` freezes the process and `CONT` lets it continue.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process_id().expect("it runs").to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(status.success());
    }

    /// Waits until it exits and returns the exit code.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        let end = Instant::now() + LONG;
        loop {
            let process = self.process.as_mut().expect("it runs");
            if let Some(status) = process.try_wait().expect("its status") {
                self.process = None;
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end: {}", self.output());
            sleep(MOMENT).await;
        }
    }

    /// Returns its output so far, from both streams.
    pub(crate) fn output(&self) -> String {
        let mut output = Vec::new();
        File::open(self.log()).and_then(|mut log| log.read_to_end(&mut output)).expect("its log");
        String::from_utf8_lossy(&output).into_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Returns the answer of `/readyz`, or an error if nothing listens.
    pub(crate) async fn readyz(&self) -> io::Result<(u16, String)> {
        exchange(self.admin, "GET /readyz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
            .await
    }

    /// Waits until `/readyz` returns this.
    pub(crate) async fn reports(&self, status: u16, text: &str) {
        let end = Instant::now() + LONG;
        loop {
            let output = self.readyz().await.expect("it runs");
            if output.0 == status && output.1.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "it reports {output:?} and not {status} {text}");
            sleep(MOMENT).await;
        }
    }

    /// Returns a channel that connects when it is used.
    pub(crate) fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).expect("a URL");
        endpoint.connect_timeout(PROMPT).connect_lazy()
    }

    pub(crate) fn audits(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel())
    }

    /// Returns the id of its process if it runs.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub(crate) fn stores(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.channel())
    }

    pub(crate) async fn watch(&self, start: Start) -> Result<Watch, Status> {
        let request = pb::WatchAuditEventsRequest { start: Some(start), ..Default::default() };
        let mut audits = self.audits();
        let watch = timeout(PROMPT, audits.watch_audit_events(request)).await;
        let watch = watch.expect("watching does not hang")?;
        Ok(watch.into_inner())
    }

    /// Returns all events of the log.
    pub(crate) async fn log_of_events(&self) -> Vec<AuditEvent> {
        let (mut events, mut page_token) = (Vec::new(), String::new());
        loop {
            let request =
                pb::ListAuditEventsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.audits().list_audit_events(request).await.expect("a page");
            let page = page.into_inner();
            events.extend(page.events);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return events;
            }
        }
    }

    /// Returns the result of listing stores. Fails if it takes too long.
    pub(crate) async fn lists(&self) -> Result<usize, (Code, String)> {
        let mut audits = self.audits();
        let request = pb::ListAuditEventsRequest::default();
        let listed = timeout(PROMPT, audits.list_audit_events(request)).await;
        let listed = listed.expect("a call does not hang");
        listed.map(|page| page.into_inner().events.len()).map_err(|status| reason(&status))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if let Ok(log) = fs::read(self.log()) {
            leaks::check(&String::from_utf8_lossy(&log));
        }
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().rev().take(20).collect();
            crate::print_figures(&format!(
                "the last output of the gateway, newest first: {lines:#?}"
            ));
        }
    }
}

/// A stream of events.
pub(crate) type Watch = Streaming<pb::WatchAuditEventsResponse>;

pub(crate) fn earliest() -> Start {
    Start::Position(WatchPosition::Earliest.into())
}

/// Returns the code and the reason of a failure.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

/// Returns the next event of a stream and the cursor after it.
pub(crate) async fn event(watch: &mut Watch) -> (AuditEvent, String) {
    loop {
        let next = timeout(LONG, watch.message()).await.expect("an event in time");
        let next = next.expect("no error").expect("no end");
        if let Some(event) = next.event {
            return (event, next.cursor);
        }
    }
}

/// Submits a store.
pub(crate) async fn add_store(gateway: &Gateway) -> Result<pb::Submission, Status> {
    let answer = gateway.stores().add_store(new_store()).await?.into_inner();
    Ok(answer.submission.expect("a submission"))
}

/// Returns a store to submit.
pub(crate) fn new_store() -> pb::AddStoreRequest {
    pb::AddStoreRequest {
        map_poi_id: "2708071440732747189".to_owned(),
        picture_urls: vec!["http://mmbiz.qpic.cn/mmbiz_png/first/0".to_owned()],
        contact_phone: "020-89190388".to_owned(),
        hours: Some(pb::OpeningHours {
            open: "10:00".to_owned(),
            close: "21:30".to_owned(),
            text: String::new(),
        }),
        license_number: "91440105MA590001".to_owned(),
        ..Default::default()
    }
}

/// Returns a free port that stays free. It lies below the ports that the system assigns, because
/// otherwise a client's connection could get it while its owner is down.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 150).expect("small") * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Sends one request over its own connection and returns the status and the body of the answer.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
    };
    timeout(PROMPT, exchange).await.expect("an answer in time")
}
