//! Many watchers, and their effect on each other, on pushes and on the process. `--nocapture` shows
//! figures.

#![expect(clippy::print_stdout, reason = "figures are shown and not judged")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};
use wechat_simulator::{
    OFFICIAL_APP_ID,
    message_crypto::{Key, sign},
};
use wechat_store_gateway::pb::{
    ListAuditEventsRequest, WatchAuditEventsRequest, WatchAuditEventsResponse, WatchPosition,
    audit_service_client::AuditServiceClient, watch_audit_events_request::Start,
};

use crate::support::{App, CALLBACK_TOKEN, OFFICIAL_AES_KEY, within};

/// The machine may be busy, and this is a lot of work for it.
const SOON: Duration = Duration::from_secs(60);
/// The number of concurrent pushes.
const SENDERS: usize = 64;
const EARLIEST: WatchPosition = WatchPosition::Earliest;
const LATEST: WatchPosition = WatchPosition::Latest;

/// Pushes this many further reviews like WeChat, and returns the rate per second.
pub(crate) async fn ingest(app: &App, count: u64) -> f64 {
    static AUDIT_ID: AtomicU64 = AtomicU64::new(1);
    let left = AtomicU64::new(count);
    let key = Key::parse(OFFICIAL_AES_KEY).expect("a key");
    let begun = Instant::now();
    let sender = async || {
        let socket = TcpStream::connect(app.callback).await.expect("it listens");
        let (mut http, connection) =
            http1::handshake::<_, Full<Bytes>>(TokioIo::new(socket)).await.expect("HTTP");
        tokio::spawn(connection);
        while left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1))
            .is_ok()
        {
            let audit_id = AUDIT_ID.fetch_add(1, Ordering::Relaxed);
            let push = push(&key, &app.clock.unix().to_string(), audit_id);
            http.ready().await.expect("kept");
            let answer = http.send_request(push).await.expect("an answer");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert_eq!(body, "success");
        }
    };
    within(SOON, join_all((0..SENDERS).map(|_| sender()))).await;
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Returns a push of more than a kilobyte.
fn push(key: &Key, timestamp: &str, audit_id: u64) -> Request<Full<Bytes>> {
    let message = json!({
        "MsgType": "event", "Event": "add_store_audit_info", "audit_id": audit_id, "status": 3,
        "reason": "门头照片不清晰。".repeat(20),
    });
    let sealed = key.encrypt(message.to_string().as_bytes(), OFFICIAL_APP_ID, [7; 16]);
    let signature = sign(CALLBACK_TOKEN, &[timestamp, "1", &sealed]);
    let query = format!("timestamp={timestamp}&nonce=1&msg_signature={signature}");
    let body = json!({ "ToUserName": "gh", "Encrypt": sealed }).to_string();
    Request::post(format!("/wechat/callback/{OFFICIAL_APP_ID}?{query}"))
        .header("host", "gateway")
        .body(body.into())
        .expect("a request")
}

/// Returns the ids of all events in the log.
pub(crate) async fn logged(app: &App) -> Vec<String> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAuditEventsRequest { page_size: 1000, page_token, ..Default::default() };
        let page = app.audits().list_audit_events(request).await.expect("a page").into_inner();
        ids.extend(page.events.into_iter().map(|event| event.event_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

/// Returns true if the admin port reports readiness.
async fn is_ready(app: &App) -> bool {
    let mut socket = TcpStream::connect(app.admin).await.expect("it listens");
    let request = b"GET /readyz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n";
    socket.write_all(request).await.expect("it reads");
    let mut answer = String::new();
    within(SOON, socket.read_to_string(&mut answer)).await.expect("an answer");
    answer.starts_with("HTTP/1.1 200 ")
}

/// Opens a separate connection. A watcher that leaves a stream's 64 kB unread blocks all others on
/// its connection, because HTTP/2 has one window for the whole connection.
async fn connect(address: impl std::fmt::Display) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
    endpoint.connect().await.expect("it listens")
}

/// A watcher.
struct Watcher(Streaming<WatchAuditEventsResponse>);

impl Watcher {
    async fn begin(channel: &Channel, start: Start) -> Self {
        let request = WatchAuditEventsRequest { start: Some(start), ..Default::default() };
        let mut client = AuditServiceClient::new(channel.clone());
        let mut watcher =
            Self(client.watch_audit_events(request).await.expect("a stream").into_inner());
        assert_eq!(watcher.next().await.event, None, "first where it starts");
        watcher
    }

    /// Begins this many watches over one connection.
    async fn begin_all(channel: &Channel, count: usize, position: WatchPosition) -> Vec<Self> {
        let start = Start::Position(position.into());
        let begun = (0..count).map(|_| Self::begin(channel, start.clone()));
        within(SOON, join_all(begun)).await
    }

    async fn next(&mut self) -> WatchAuditEventsResponse {
        self.0.message().await.expect("no error").expect("no end")
    }

    /// Returns the ids of the next events.
    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(self.next().await.event.map(|event| event.event_id));
        }
        ids
    }
}

/// Reads with all watchers at the same time and compares their events.
async fn all_get(watchers: Vec<Watcher>, expected: &Arc<Vec<String>>) {
    let reading = watchers.into_iter().map(|mut watcher| {
        let expected = expected.clone();
        tokio::spawn(async move {
            assert_eq!(watcher.ids(expected.len()).await, *expected);
        })
    });
    within(SOON, try_join_all(reading)).await.expect("everything in order");
}

/// A network path to the gateway that can fail silently.
struct Line {
    channel: Channel,
    cut: CancellationToken,
    passing: JoinHandle<()>,
}

impl Line {
    async fn to(app: &App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (gateway, cut) = (app.address, CancellationToken::new());
        let until = cut.clone();
        let passing = tokio::spawn(async move {
            let (mut near, _) = listener.accept().await.expect("a connection");
            let mut far = TcpStream::connect(gateway).await.expect("it listens");
            let both = tokio::io::copy_bidirectional(&mut near, &mut far);
            if until.run_until_cancelled(both).await.is_none() {
                // Nothing is read any more, and neither side is notified.
                std::future::pending::<()>().await;
            }
        });
        Self { channel: connect(address).await, cut, passing }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_miss_nothing_and_do_not_block_others() {
    let app = App::start().await;
    let alone = ingest(&app, 300).await;
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let channel = connect(app.address).await;
        watchers.extend(Watcher::begin_all(&channel, 100, LATEST).await);
    }
    // Some watchers never read, some lose their connection silently, and some are gone.
    let stalled = Watcher::begin_all(&connect(app.address).await, 10, LATEST).await;
    let (silent, gone) = (Line::to(&app).await, Line::to(&app).await);
    let cut_off = Watcher::begin_all(&silent.channel, 10, LATEST).await;
    let lost = Watcher::begin_all(&gone.channel, 10, LATEST).await;
    silent.cut.cancel();
    gone.passing.abort();

    let before = logged(&app).await;
    assert_eq!(before.len(), 300);
    // They read while the pushes arrive.
    let reading = watchers.into_iter().map(|mut watcher| {
        tokio::spawn(async move {
            let ids = watcher.ids(300).await;
            (watcher, ids)
        })
    });
    let reading = reading.collect::<Vec<_>>();
    let watched = ingest(&app, 300).await;
    let expected = logged(&app).await.split_off(300);
    assert_eq!(expected.len(), 300);
    let begun = Instant::now();
    let read = within(SOON, try_join_all(reading)).await.expect("no panic");
    println!(
        "pushes taken per second: {alone:.0}, with 300 watchers {watched:.0}; the last watcher had \
         everything {:?} later",
        begun.elapsed()
    );
    let watchers = read.into_iter().map(|(watcher, ids)| {
        assert_eq!(ids, expected);
        watcher
    });
    let watchers = watchers.collect::<Vec<_>>();
    // The sleeping watchers and a late one read everything now.
    let expected = Arc::new(expected);
    all_get(stalled, &expected).await;
    let everything = Arc::new([before, expected.to_vec()].concat());
    all_get(Watcher::begin_all(&app.channel, 1, EARLIEST).await, &everything).await;
    // No watcher received more events than there are.
    ingest(&app, 1).await;
    all_get(watchers, &Arc::new(logged(&app).await.split_off(600))).await;
    assert!(is_ready(&app).await);
    silent.passing.abort();
    drop((cut_off, lost));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_behind_memory_reads_the_log() {
    let app = App::start().await;
    ingest(&app, 10).await;
    let own = || connect(app.address);
    let mut first = Watcher::begin_all(&own().await, 1, EARLIEST).await.remove(0);
    let mut cursor = String::new();
    for _ in 0..5 {
        cursor = within(SOON, first.next()).await.cursor;
    }
    let stalled = Watcher::begin_all(&own().await, 3, LATEST).await;
    // The memory holds the newest 1,024 events.
    ingest(&app, 1_500).await;
    let resumed = Watcher::begin(&own().await, Start::Cursor(cursor)).await;
    let mut late = Vec::new();
    for _ in 0..3 {
        late.extend(Watcher::begin_all(&own().await, 1, EARLIEST).await);
    }
    // More events arrive while they catch up.
    let expected = async {
        ingest(&app, 100).await;
        Arc::new(logged(&app).await)
    };
    let (early, rest) = {
        let reading = late.into_iter().map(|mut watcher| async move {
            let ids = watcher.ids(700).await;
            (watcher, ids)
        });
        within(SOON, futures_util::future::join(join_all(reading), expected)).await
    };
    assert_eq!(rest.len(), 1_610);
    let early = early.into_iter().map(|(watcher, ids)| {
        assert_eq!(ids, rest[..700]);
        watcher
    });
    let early = early.collect();
    let after = |count: usize| Arc::new(rest[count..].to_vec());
    all_get(early, &after(700)).await;
    all_get(stalled, &after(10)).await;
    all_get(vec![resumed], &after(5)).await;
    all_get(vec![first], &after(5)).await;
    app.stop().await;
}

/// A gateway in a separate process, to measure that process.
#[cfg(target_os = "linux")]
pub(crate) mod process {
    use std::{
        fs,
        path::PathBuf,
        process::{Child, Command, Stdio},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::leaks;

    pub(crate) struct Process {
        child: Child,
        pub(crate) address: String,
        log: PathBuf,
        _folder: TempDir,
    }

    impl Process {
        async fn start() -> Self {
            Self::beside(tempfile::tempdir().expect("a folder")).await
        }

        /// Starts a process with `state.db` in this folder.
        pub(crate) async fn beside(folder: TempDir) -> Self {
            let [settings, log] = ["settings.toml", "log"].map(|name| folder.path().join(name));
            let text = format!(
                "listen = {{ grpc = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
                 state = {{ url = \"sqlite:{}/state.db\" }}\n\
                 accounts = [{{ app_id = \"{OFFICIAL_APP_ID}\", kind = \"official\", secret = \"-\" }}]",
                folder.path().display()
            );
            fs::write(&settings, text).expect("written");
            let child = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"))
                .args(["serve".as_ref(), "--config".as_ref(), settings.as_os_str()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).expect("a log"))
                .spawn()
                .expect("our own binary");
            let mut process =
                Self { child, address: String::new(), log: log.clone(), _folder: folder };
            process.address = within(SOON, serving_at(log)).await;
            process
        }

        /// Returns the memory in kilobytes.
        pub(crate) fn memory(&self) -> u64 {
            let status = format!("/proc/{}/status", self.child.id());
            let status = fs::read_to_string(status).expect("it runs");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        }

        /// Returns the number of open sockets.
        fn sockets(&self) -> usize {
            let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
            // A file may have been closed in the meantime.
            let links = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            leaks::check(&fs::read_to_string(&self.log).unwrap_or_default());
        }
    }

    async fn serving_at(log: PathBuf) -> String {
        loop {
            let text = fs::read_to_string(&log).expect("a log");
            let address = text.split("\"grpc\":\"").nth(1).and_then(|rest| rest.split_once('"'));
            if let Some((address, _)) = address {
                return address.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_watchers_use_little_and_leave_nothing() {
        let process = Process::start().await;
        let (sockets, memory) = (process.sockets(), process.memory());
        let mut channels = Vec::new();
        for _ in 0..3 {
            channels.push(connect(&process.address).await);
        }
        let mut after = Vec::new();
        // A connection has room for 1,024 watches, so the earlier ones must be gone each time.
        for _ in 0..3 {
            let begun = channels.iter().map(|channel| Watcher::begin_all(channel, 1_000, LATEST));
            let watchers = join_all(begun).await;
            assert_eq!(watchers.iter().map(Vec::len).sum::<usize>(), 3_000);
            after.push(process.memory());
        }
        assert_eq!(process.sockets(), sockets + 3);
        println!("memory in kB: {memory}, with 3,000 watchers, and with 3,000 others {after:?}");
        assert!(after[0] < memory + 100_000, "too much for a watcher: {memory} {after:?}");
        assert!(after[2] < after[0] + 30_000, "something is left of each: {after:?}");
        drop(channels);
        let fallen = async {
            while process.sockets() > sockets {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(SOON, fallen).await;
    }
}
