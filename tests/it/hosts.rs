//! Several hosts of WeChat, some of which fail, and a proxy in front of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tonic::Status;
use wechat_simulator::{
    Fault,
    faults::Kind::{Html502, ResetAfter},
};
use wechat_store_gateway::pb;

use crate::support::{
    App, GET_CARD, SET_CARD, STABLE_TOKEN, is, new_store, reason, with_deadline, within,
};

const LONG: Duration = Duration::from_secs(40);
/// After this time, a failed host gets a half-open probe.
const PAUSE: Duration = Duration::from_secs(30);
const PLACE: &str = "2708071440732747189";

/// A host of WeChat that relays everything to the simulator, or fails.
struct Host {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Keeps the port reserved while the host does not listen.
    _port: TcpSocket,
    running: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    upstream: OnceLock<SocketAddr>,
    /// The first lines of the requests, and the connections that were ended immediately.
    seen: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

impl Shared {
    fn see(&self, what: impl Into<String>) {
        self.seen.lock().expect("no panic").push(what.into());
    }
}

/// The behavior of a host.
#[derive(Clone, Copy)]
enum Manner {
    HangsUp,
    PassesOn,
    SendsNothing,
}

impl Host {
    /// Reserves a port without listening.
    fn reserve() -> Self {
        let port = socket("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("bound");
        Self { address, shared: Arc::default(), _port: port, running: None }
    }

    fn starts(&mut self, manner: Manner) {
        self.stop();
        let listener = socket(self.address).listen(1_024).expect("the port is ours");
        self.running = Some(tokio::spawn(run(listener, self.shared.clone(), manner)));
    }

    /// Ends all connections and refuses new ones.
    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    /// Stops, and gives the gateway time to notice.
    async fn vanish(&mut self) {
        self.stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns the requests since the last call.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen.lock().expect("no panic"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("a listener beside the one who keeps the port");
    socket.set_reuseaddr(true).expect("connections may still be ending");
    socket.bind(address).expect("a free port");
    socket
}

async fn run(listener: TcpListener, shared: Arc<Shared>, manner: Manner) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        match manner {
            Manner::HangsUp => shared.see("hung up"),
            Manner::PassesOn => drop(connections.spawn(pass_on(socket, shared.clone()))),
            Manner::SendsNothing => {
                shared.see("nothing sent");
                connections.spawn(async move {
                    let _silent = socket;
                    std::future::pending().await
                });
            }
        }
    }
}

async fn pass_on(mut socket: TcpStream, shared: Arc<Shared>) {
    let upstream = *shared.upstream.get().expect("WeChat is known");
    let mut upstream = TcpStream::connect(upstream).await.expect("WeChat listens");
    let ((mut from, mut to), (mut back, mut forth)) = (socket.split(), upstream.split());
    let requests = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let text = String::from_utf8_lossy(&bytes[..length]);
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                shared.see(head);
            }
            forth.write_all(&bytes[..length]).await.expect("WeChat reads");
        }
    };
    tokio::select! {
        () = requests => {}
        _ = copy(&mut back, &mut to) => {}
    }
}

/// Returns a gateway with two hosts. The first is preferred.
async fn two() -> (App, Host, Host) {
    let (mut first, mut second) = (Host::reserve(), Host::reserve());
    let [a, b] = [first.address, second.address];
    let app = App::reaching(&format!("hosts = [\"http://{a}\", \"http://{b}\"]")).await;
    for host in [&mut first, &mut second] {
        host.shared.upstream.set(app.host).expect("only once");
        host.starts(Manner::PassesOn);
    }
    (app, first, second)
}

/// Checks that WeChat was called: the store does not exist.
fn accepted<T>(result: Result<T, Status>) {
    let status = result.map(|_| ()).expect_err("there is no such store");
    assert_eq!(reason(&status), is(tonic::Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_host_is_left_without_errors() {
    let (app, mut first, second) = two().await;
    accepted(app.read().await);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 0), "a token and a card");
    first.vanish().await;
    // The write that must not be sent twice goes first.
    app.add_store(PLACE, "1").await;
    accepted(app.write().await);
    accepted(app.read().await);
    assert_eq!((app.count("/wxa/add_store"), second.seen().len()), (1, 3));

    first.starts(Manner::PassesOn);
    accepted(app.read().await);
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1), "it is not time yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_from_available_host() {
    for manner in [None, Some(Manner::HangsUp)] {
        let (app, mut first, second) = two().await;
        first.vanish().await;
        if let Some(manner) = manner {
            first.starts(manner);
        }
        accepted(within(LONG, app.read()).await);
        assert_eq!(second.seen().len(), 2, "a token and a card");
        assert_eq!(app.count(STABLE_TOKEN), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_with_invalid_answers_is_left() {
    let (app, first, second) = two().await;
    accepted(app.read().await);
    first.seen();
    app.wechat.fault(Fault::new(GET_CARD, Html502).times(2));
    accepted(within(LONG, app.read()).await);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn write_with_lost_reply_stays_at_its_host() {
    let (app, first, second) = two().await;
    accepted(app.read().await);
    first.seen();
    app.wechat.fault(Fault::new("/wxa/add_store", ResetAfter));
    // Recovery asks whichever host is available.
    let found = app.stores().add_store(new_store(PLACE, "1")).await.expect("it got through");
    assert!(found.into_inner().recovered);
    assert_eq!(app.count("/wxa/add_store"), 1);
    second.seen();
    accepted(app.read().await);

    // This call is sent again, but only to the same host. Other calls go to the other host.
    app.wechat.fault(Fault::new(SET_CARD, ResetAfter).times(2));
    accepted(within(LONG, app.write()).await);
    assert_eq!((app.count(SET_CARD), second.seen().len()), (3, 0));
    accepted(app.write().await);
    assert_eq!((app.count(SET_CARD), second.seen().len()), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn successful_read_probe_returns_all_calls() {
    let (app, mut first, second) = two().await;
    first.vanish().await;
    accepted(app.read().await);
    first.starts(Manner::PassesOn);
    app.clock.advance(PAUSE);
    second.seen();
    accepted(app.write().await);
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1), "a write is never a probe");
    accepted(app.read().await);
    accepted(app.write().await);
    accepted(app.read().await);
    assert_eq!((first.seen().len(), second.seen().len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_probe_delays_one_caller_without_error() {
    for (manner, saw) in [(Manner::HangsUp, "hung up"), (Manner::SendsNothing, "nothing sent")] {
        let (app, mut first, second) = two().await;
        first.vanish().await;
        accepted(app.read().await);
        first.starts(manner);
        for pause in [PAUSE, PAUSE * 2] {
            second.seen();
            app.clock.advance(pause);
            let reads = join_all((0..10).map(|_| app.read()));
            within(LONG, reads).await.into_iter().for_each(accepted);
            assert_eq!((first.seen(), second.seen().len()), (vec![saw.to_owned()], 10));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_deadline_makes_no_probe() {
    let (app, mut first, second) = two().await;
    first.vanish().await;
    accepted(app.read().await);
    first.starts(Manner::SendsNothing);
    app.clock.advance(PAUSE);
    second.seen();
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    accepted(app.cards().get_store_card(with_deadline(request, Duration::from_secs(4))).await);
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_calls_mark_a_silent_host() {
    let (app, mut first, second) = two().await;
    accepted(app.read().await);
    first.vanish().await;
    first.starts(Manner::SendsNothing);
    for _ in 0..2 {
        let left = tokio::time::timeout(Duration::from_millis(1_300), app.read()).await;
        assert!(left.is_err(), "no host answers");
    }
    // The gateway notices a moment later that they have left.
    tokio::time::sleep(Duration::from_millis(100)).await;
    accepted(app.read().await);
    assert_eq!(second.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_refusal_after_host_change_is_ignored() {
    let (app, mut first, _second) = two().await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(60));
    first.vanish().await;
    accepted(app.read().await);
    app.wechat.refuse_next(GET_CARD, 40001);
    accepted(app.read().await);
    assert_eq!(app.count(STABLE_TOKEN), 1);

    app.clock.advance(Duration::from_secs(4));
    app.wechat.refuse_next(GET_CARD, 40001);
    let status = app.read().await.expect_err("the same token again");
    assert_eq!(reason(&status).1, "TOKEN_REFUSED");
    assert_eq!(app.count(STABLE_TOKEN), 2, "later a refusal counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_hosts_down_is_unreachable_until_one_returns() {
    let (app, mut first, mut second) = two().await;
    accepted(app.read().await);
    first.vanish().await;
    second.vanish().await;
    for _ in 0..3 {
        let status = app.read().await.expect_err("no server is there");
        assert_eq!(reason(&status), is(tonic::Code::Unavailable, "WECHAT_UNREACHABLE"));
    }
    second.starts(Manner::PassesOn);
    accepted(app.read().await);
    accepted(app.write().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_not_kept_forever() {
    let (app, first, _second) = two().await;
    accepted(app.write().await);
    assert_eq!(first.connections(), 1, "for the token and the write");
    accepted(app.read().await);
    accepted(app.write().await);
    accepted(app.read().await);
    assert_eq!(first.connections(), 2, "and one for reads");
    // Sockets only have real time.
    tokio::time::sleep(Duration::from_secs(6)).await;
    accepted(app.read().await);
    assert_eq!(first.connections(), 2);
    accepted(app.write().await);
    assert_eq!(first.connections(), 3);
    // The connection is never idle, but the name may have another address by now.
    app.clock.advance(Duration::from_secs(300));
    accepted(app.read().await);
    accepted(app.read().await);
    assert_eq!(first.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_proxy_sees_every_call() {
    for host in ["wechat.invalid", "127.0.0.1:1"] {
        let mut proxy = Host::reserve();
        let app = App::reaching(&format!(
            "hosts = [\"http://{host}\"]\nallow_http = true\nproxy = \"http://me:p%40ss@{}\"",
            proxy.address
        ))
        .await;
        proxy.shared.upstream.set(app.host).expect("only once");
        proxy.starts(Manner::PassesOn);
        accepted(app.read().await);
        accepted(app.write().await);
        let seen = proxy.seen();
        assert_eq!(seen.len(), 3, "{seen:?}");
        for (request, path) in seen.iter().zip([STABLE_TOKEN, GET_CARD, SET_CARD]) {
            let line = format!("POST http://{host}{path}");
            assert!(request.starts_with(&line), "{request}");
            // me:p@ss
            assert!(request.contains("proxy-authorization: Basic bWU6cEBzcw=="), "{request}");
        }
    }
}
