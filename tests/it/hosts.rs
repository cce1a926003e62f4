//! Several hosts of WeChat, of which some do not work; and a proxy on the way to them.

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
    App, GET_CARD, SET_CARD, STABLE_TOKEN, is, new_store, patient, reason, within,
};

const LONG: Duration = Duration::from_secs(40);
/// After it a host that failed gets a trial.
const PAUSE: Duration = Duration::from_secs(30);
const PLACE: &str = "2708071440732747189";

/// One of WeChat's hosts: passes everything on to the simulator, or does not.
struct Host {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Keeps the port while nobody listens.
    _port: TcpSocket,
    running: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    upstream: OnceLock<SocketAddr>,
    /// The first lines of the requests, and the connections that were ended at once.
    seen: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

impl Shared {
    fn see(&self, what: impl Into<String>) {
        self.seen.lock().expect("no panic").push(what.into());
    }
}

/// What a host does with connections.
#[derive(Clone, Copy)]
enum Manner {
    HangsUp,
    PassesOn,
    SaysNothing,
}

impl Host {
    /// Where nobody listens yet.
    fn reserve() -> Self {
        let port = socket("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("bound");
        Self { address, shared: Arc::default(), _port: port, running: None }
    }

    fn starts(&mut self, manner: Manner) {
        self.stops();
        let listener = socket(self.address).listen(1_024).expect("the port is ours");
        self.running = Some(tokio::spawn(run(listener, self.shared.clone(), manner)));
    }

    /// Ends all connections and refuses others.
    fn stops(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    /// The same, when the gateway had the time to notice.
    async fn vanishes(&mut self) {
        self.stops();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// What it saw since the last look.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen.lock().expect("no panic"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stops();
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
            Manner::SaysNothing => {
                shared.see("nothing said");
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

/// A gateway with two hosts, of which the first is preferred.
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

/// WeChat was asked: there is no such store.
fn accepted<T>(result: Result<T, Status>) {
    let status = result.map(|_| ()).expect_err("there is no such store");
    assert_eq!(reason(&status), is(tonic::Code::NotFound, "STORE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_vanishes_is_left_and_no_caller_notices() {
    let (app, mut first, second) = two().await;
    accepted(app.read().await);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 0), "a token and a card");
    first.vanishes().await;
    // What must not be sent twice goes first.
    app.add_store(PLACE, "1").await;
    accepted(app.write().await);
    accepted(app.read().await);
    assert_eq!((app.count("/wxa/add_store"), second.seen().len()), (1, 3));

    first.starts(Manner::PassesOn);
    accepted(app.read().await);
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1), "it is not time yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_where_they_can_be() {
    for manner in [None, Some(Manner::HangsUp)] {
        let (app, mut first, second) = two().await;
        first.vanishes().await;
        if let Some(manner) = manner {
            first.starts(manner);
        }
        accepted(within(LONG, app.read()).await);
        assert_eq!(second.seen().len(), 2, "a token and a card");
        assert_eq!(app.count(STABLE_TOKEN), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_only_answers_nonsense_is_left_too() {
    let (app, first, second) = two().await;
    accepted(app.read().await);
    first.seen();
    app.wechat.fault(Fault::new(GET_CARD, Html502).times(2));
    accepted(within(LONG, app.read()).await);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_reply_was_lost_is_not_moved() {
    let (app, first, second) = two().await;
    accepted(app.read().await);
    first.seen();
    app.wechat.fault(Fault::new("/wxa/add_store", ResetAfter));
    // It is looked for wherever WeChat can be asked.
    let found = app.stores().add_store(new_store(PLACE, "1")).await.expect("it got through");
    assert!(found.into_inner().recovered);
    assert_eq!(app.count("/wxa/add_store"), 1);
    second.seen();
    accepted(app.read().await);

    // This one is sent again, but where it was sent before; only others go elsewhere.
    app.wechat.fault(Fault::new(SET_CARD, ResetAfter).times(2));
    accepted(within(LONG, app.write()).await);
    assert_eq!((app.count(SET_CARD), second.seen().len()), (3, 0));
    accepted(app.write().await);
    assert_eq!((app.count(SET_CARD), second.seen().len()), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_tries_the_first_host_again_and_everybody_returns() {
    let (app, mut first, second) = two().await;
    first.vanishes().await;
    accepted(app.read().await);
    first.starts(Manner::PassesOn);
    app.clock.advance(PAUSE);
    second.seen();
    accepted(app.write().await);
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1), "no write is a trial");
    accepted(app.read().await);
    accepted(app.write().await);
    accepted(app.read().await);
    assert_eq!((first.seen().len(), second.seen().len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_fails_costs_one_caller_a_moment_and_nobody_an_error() {
    for (manner, saw) in [(Manner::HangsUp, "hung up"), (Manner::SaysNothing, "nothing said")] {
        let (app, mut first, second) = two().await;
        first.vanishes().await;
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
async fn a_caller_without_time_for_a_second_attempt_makes_no_trial() {
    let (app, mut first, second) = two().await;
    first.vanishes().await;
    accepted(app.read().await);
    first.starts(Manner::SaysNothing);
    app.clock.advance(PAUSE);
    second.seen();
    let request = pb::GetStoreCardRequest { poi_id: "1".to_owned(), ..Default::default() };
    accepted(app.cards().get_store_card(patient(request, Duration::from_secs(4))).await);
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_left_after_waiting_in_vain_make_way_for_others() {
    let (app, mut first, second) = two().await;
    accepted(app.read().await);
    first.vanishes().await;
    first.starts(Manner::SaysNothing);
    for _ in 0..2 {
        let left = tokio::time::timeout(Duration::from_millis(1_300), app.read()).await;
        assert!(left.is_err(), "nobody answers");
    }
    // That they left is known a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    accepted(app.read().await);
    assert_eq!(second.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_token_right_after_a_change_of_host_refreshes_nothing() {
    let (app, mut first, _second) = two().await;
    accepted(app.read().await);
    app.clock.advance(Duration::from_secs(60));
    first.vanishes().await;
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
async fn where_no_host_answers_the_caller_is_told_so_and_the_first_that_returns_is_used() {
    let (app, mut first, mut second) = two().await;
    accepted(app.read().await);
    first.vanishes().await;
    second.vanishes().await;
    for _ in 0..3 {
        let status = app.read().await.expect_err("nobody is there");
        assert_eq!(reason(&status), is(tonic::Code::Unavailable, "WECHAT_UNREACHABLE"));
    }
    second.starts(Manner::PassesOn);
    accepted(app.read().await);
    accepted(app.write().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_kept_for_ever_and_none_of_a_write_for_long() {
    let (app, first, _second) = two().await;
    accepted(app.write().await);
    assert_eq!(first.connections(), 1, "for the token and the write");
    accepted(app.read().await);
    accepted(app.write().await);
    accepted(app.read().await);
    assert_eq!(first.connections(), 2, "and one for reads");
    // Sockets have no other time than the real one.
    tokio::time::sleep(Duration::from_secs(6)).await;
    accepted(app.read().await);
    assert_eq!(first.connections(), 2);
    accepted(app.write().await);
    assert_eq!(first.connections(), 3);
    // Never idle, and yet the name may mean another address by now.
    app.clock.advance(Duration::from_secs(300));
    accepted(app.read().await);
    accepted(app.read().await);
    assert_eq!(first.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_settings_sees_every_call_even_those_to_this_machine() {
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
