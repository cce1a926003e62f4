//! A Redis that is unusable for a while, for any reason: the error is accurate, there are few
//! connections, and the gateway recovers without help.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use wechat_store_gateway::state::{Appended, Error, State};

use crate::{
    redis::{SOON, append_when_ready, event, open},
    servers::RedisServer,
    support::within,
};

/// The server behind an address.
#[derive(Clone, Copy, Debug)]
enum Backend {
    /// The Redis of this port.
    Redis(u16),
    /// A server that gives this answer to each command.
    Says(&'static str),
    /// A server that accepts connections and never answers.
    Silence,
    /// A server that closes immediately.
    Close,
}

/// An address that can be redirected.
pub(crate) struct Door {
    port: u16,
    backend: Arc<Mutex<Backend>>,
    /// The number of connections.
    came: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    _accepting: JoinSet<()>,
}

impl Door {
    /// Returns a door that leads to a Redis.
    pub(crate) async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let backend = Arc::new(Mutex::new(Backend::Redis(server.port)));
        let (came, open) =
            (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<AbortHandle>>>::default());
        let mut accepting = JoinSet::new();
        accepting.spawn({
            let (backend, came, open) = (backend.clone(), came.clone(), open.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    came.fetch_add(1, Ordering::Relaxed);
                    let backend = *backend.lock().expect("no panic");
                    let task = tokio::spawn(meet(client, backend)).abort_handle();
                    open.lock().expect("no panic").push(task);
                }
            }
        });
        Self { port, backend, came, open, _accepting: accepting }
    }

    /// Returns a client.
    pub(crate) async fn open(&self) -> Arc<dyn State> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        open(&url).await
    }

    /// Redirects the address, and cuts all connections.
    fn lead(&self, backend: Backend) {
        *self.backend.lock().expect("no panic") = backend;
        for task in self.open.lock().expect("no panic").drain(..) {
            task.abort();
        }
    }

    /// Redirects the address to another Redis.
    pub(crate) fn lead_to(&self, server: &RedisServer) {
        self.lead(Backend::Redis(server.port));
    }
}

async fn meet(mut client: TcpStream, backend: Backend) {
    match backend {
        Backend::Redis(port) => {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        Backend::Says(what) => {
            let mut asked = [0; 4096];
            while let Ok(read @ 1..) = client.read(&mut asked).await {
                let more = asked[..read].windows(2).filter(|two| two == b"\n*").count();
                if client.write_all(what.repeat(1 + more).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        Backend::Silence => {
            let mut asked = [0; 4096];
            while client.read(&mut asked).await.is_ok_and(|read| read > 0) {}
        }
        Backend::Close => {}
    }
}

/// Returns the error of an operation that writes.
async fn why(state: &Arc<dyn State>) -> String {
    match within(SOON, state.append(event(99))).await {
        Err(Error::Unusable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn any_outage_ends_when_redis_is_back() {
    let server = RedisServer::start(false).await;
    let door = Door::to(&server).await;
    let state = door.open().await;
    let html = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for (number, (backend, expected)) in [
        (Backend::Says(html), "not a Redis"),
        (Backend::Says("\x15\x03\x01\x00\x02\x02\x46"), ""),
        (Backend::Says("-NOAUTH Authentication required.\r\n"), "password"),
        (Backend::Says("-WRONGPASS invalid username-password pair\r\n"), "password"),
        (Backend::Says("-LOADING Redis is loading the dataset in memory\r\n"), "loading"),
        (Backend::Says("-MASTERDOWN Link with MASTER is down\r\n"), "primary"),
        (Backend::Says("-READONLY You can't write against a read only replica.\r\n"), "replica"),
        (Backend::Says("-ERR max number of clients reached\r\n"), "maxclients"),
        (Backend::Says("-DENIED Redis is running in protected mode\r\n"), "protected"),
        (Backend::Says("-ERR unknown command 'HELLO'\r\n"), "older"),
        (Backend::Says("+OK\r\n"), ""),
        (Backend::Silence, "in time"),
        (Backend::Close, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let number = u8::try_from(number).expect("few");
        door.lead(backend);
        // The lost connection is reported first.
        let is_told = async {
            while !why(&state).await.contains(expected) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(SOON, is_told).await.is_ok(), "{backend:?}");
        for _ in 0..3 {
            why(&state).await;
            sleep(Duration::from_millis(50)).await;
        }
        let waits = within(SOON, state.newer(200)).await;
        assert!(waits.is_err(), "{backend:?}: {waits:?}");

        door.lead_to(&server);
        assert_eq!(
            append_when_ready(&state, number).await,
            Appended::New(u64::from(number) + 1),
            "{backend:?}"
        );
        assert_eq!(within(SOON, state.newer(0)).await, Ok(None), "{backend:?}");
    }
}

#[tokio::test]
async fn unusable_redis_is_contacted_rarely() {
    let server = RedisServer::start(false).await;
    let door = Door::to(&server).await;
    let state = door.open().await;
    for backend in [Backend::Close, Backend::Says("-NOAUTH Authentication required.\r\n")] {
        door.lead(backend);
        let (before, begun) = (door.came.load(Ordering::Relaxed), Instant::now());
        for _ in 0..20 {
            join_all((0..50).map(|_| state.probe())).await;
            sleep(Duration::from_millis(25)).await;
        }
        let came = door.came.load(Ordering::Relaxed) - before;
        // The first pauses are short, and the later ones are at least half a second.
        let most = 10 + usize::try_from(begun.elapsed().as_secs()).expect("few") * 2;
        assert!(came <= most, "{backend:?}: {came} connections for 1,000 verbs");
        door.lead_to(&server);
        within(SOON, async { while state.probe().await.is_err() {} }).await;
    }
}

#[tokio::test]
async fn hang_and_failover_end_without_restart() {
    let (server, other) = (RedisServer::start(false).await, RedisServer::start(false).await);
    let door = Door::to(&server).await;
    let state = door.open().await;
    // The connection stays open, but carries no answers any more.
    server.command("CLIENT PAUSE 60000 ALL").await;
    assert!(why(&state).await.contains("in time"));
    // Existing connections stay where they are.
    *door.backend.lock().expect("no panic") = Backend::Redis(other.port);
    assert_eq!(append_when_ready(&state, 1).await, Appended::New(1));
}

#[tokio::test]
async fn password_error_ends_with_its_cause() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    server.command("CONFIG SET requirepass other").await;
    server.command("AUTH other\r\nCLIENT KILL TYPE normal").await;
    let is_told = async {
        while !why(&state).await.contains("password") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, is_told).await;
    assert!(state.newer(0).await.is_err());
    server.command("AUTH other\r\nCONFIG SET requirepass \"\"").await;
    assert_eq!(append_when_ready(&state, 1).await, Appended::New(1));
    assert_eq!(state.newer(0).await, Ok(None));
}

#[tokio::test]
async fn redis_refusal_is_explained_and_ends() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    for (number, (begin, expected, end)) in [
        ("CONFIG SET maxmemory 1", "memory is full", "CONFIG SET maxmemory 0"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "min-replicas-to-write",
            "CONFIG SET min-replicas-to-write 0",
        ),
        ("REPLICAOF 127.0.0.1 1", "is a replica", "REPLICAOF NO ONE"),
        ("ACL SETUSER default -evalsha", "access list", "ACL SETUSER default +evalsha"),
        ("ACL SETUSER default -set", "access list", "ACL SETUSER default +set"),
        // The folder of the save does not exist.
        ("CONFIG SET save \"1 1\"", "own disk", "CONFIG SET save \"\""),
    ]
    .into_iter()
    .enumerate()
    {
        let number = u8::try_from(number).expect("few");
        if expected == "own disk" {
            fs::remove_dir_all(server.folder()).expect("there");
        }
        let reply = server.command(begin).await;
        assert!(reply.starts_with("+OK"), "{reply}");
        let refused = async {
            loop {
                // A save in the background starts and fails a moment later.
                match state.probe().await {
                    Ok(()) => sleep(Duration::from_millis(20)).await,
                    // It was a replica in the meantime.
                    Err(Error::Unusable(why)) if why.contains("writes are refused for") => {
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(Error::Unusable(why)) => break why,
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        let why = timeout(SOON, refused).await.expect(begin);
        assert!(why.contains(expected), "{begin}: {why}");
        assert!(!why.contains("disk is full"), "{why}");
        server.command(end).await;
        timeout(SOON, append_when_ready(&state, number)).await.expect(end);
    }
}

#[tokio::test]
async fn busy_redis_or_orphaned_replica_is_reported() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    server.command("CONFIG SET busy-reply-threshold 1").await;
    server.command("CONFIG SET lua-time-limit 1").await;
    let looping = server.command("EVAL \"while true do end\" 0");
    let busy = async {
        let why = within(SOON, async {
            loop {
                match state.probe().await {
                    Ok(()) => sleep(Duration::from_millis(5)).await,
                    Err(error) => break error.to_string(),
                }
            }
        });
        assert!(why.await.contains("busy"));
        server.command("SCRIPT KILL").await;
    };
    tokio::join!(looping, busy);
    append_when_ready(&state, 1).await;

    server.command("CONFIG SET replica-serve-stale-data no").await;
    server.command("REPLICAOF 127.0.0.1 1").await;
    assert!(why(&state).await.contains("primary"));
    server.command("REPLICAOF NO ONE").await;
    append_when_ready(&state, 2).await;
}
