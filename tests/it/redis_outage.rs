//! A Redis that cannot be used for a while, whatever the cause: it is told truthfully, it costs few
//! connections, and it ends by itself.

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
use wechat_store_gateway::state::{Appended, Error, State, redis::Redis};

use crate::{
    redis::{RedisServer, SOON, event, healed},
    support::within,
};

/// What whoever connects to an address meets there.
#[derive(Clone, Copy, Debug)]
enum Meets {
    /// The Redis of this port.
    Redis(u16),
    /// A server that says this to each command.
    Says(&'static str),
    /// One that takes connections and is silent.
    Silence,
    /// One that closes at once.
    Close,
}

/// An address that leads somewhere else when it is told to.
pub(crate) struct Door {
    port: u16,
    meets: Arc<Mutex<Meets>>,
    /// How many came.
    came: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    _accepting: JoinSet<()>,
}

impl Door {
    /// One that leads to a Redis.
    pub(crate) async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let meets = Arc::new(Mutex::new(Meets::Redis(server.port)));
        let (came, open) =
            (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<AbortHandle>>>::default());
        let mut accepting = JoinSet::new();
        accepting.spawn({
            let (meets, came, open) = (meets.clone(), came.clone(), open.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    came.fetch_add(1, Ordering::Relaxed);
                    let meets = *meets.lock().expect("no panic");
                    let task = tokio::spawn(meet(client, meets)).abort_handle();
                    open.lock().expect("no panic").push(task);
                }
            }
        });
        Self { port, meets, came, open, _accepting: accepting }
    }

    /// A client.
    pub(crate) async fn open(&self) -> Arc<dyn State> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        Arc::new(Redis::open(&url).await.expect("Redis runs"))
    }

    /// Leads there from now on; who came before is cut off.
    fn lead(&self, meets: Meets) {
        *self.meets.lock().expect("no panic") = meets;
        for task in self.open.lock().expect("no panic").drain(..) {
            task.abort();
        }
    }

    /// Leads to another Redis.
    pub(crate) fn lead_to(&self, server: &RedisServer) {
        self.lead(Meets::Redis(server.port));
    }
}

async fn meet(mut client: TcpStream, meets: Meets) {
    match meets {
        Meets::Redis(port) => {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        Meets::Says(what) => {
            let mut asked = [0; 4096];
            while let Ok(read @ 1..) = client.read(&mut asked).await {
                let more = asked[..read].windows(2).filter(|two| two == b"\n*").count();
                if client.write_all(what.repeat(1 + more).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        Meets::Silence => {
            let mut asked = [0; 4096];
            while client.read(&mut asked).await.is_ok_and(|read| read > 0) {}
        }
        Meets::Close => {}
    }
}

/// What a verb of writing fails with.
async fn why(state: &Arc<dyn State>) -> String {
    match within(SOON, state.append(event(99))).await {
        Err(Error::Unusable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whatever_a_reconnect_meets_is_over_when_redis_is_back() {
    let server = RedisServer::start(false).await;
    let door = Door::to(&server).await;
    let state = door.open().await;
    let html = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for (number, (meets, told)) in [
        (Meets::Says(html), "not a Redis"),
        (Meets::Says("\x15\x03\x01\x00\x02\x02\x46"), ""),
        (Meets::Says("-NOAUTH Authentication required.\r\n"), "password"),
        (Meets::Says("-WRONGPASS invalid username-password pair\r\n"), "password"),
        (Meets::Says("-LOADING Redis is loading the dataset in memory\r\n"), "loading"),
        (Meets::Says("-MASTERDOWN Link with MASTER is down\r\n"), "primary"),
        (Meets::Says("-READONLY You can't write against a read only replica.\r\n"), "replica"),
        (Meets::Says("-ERR max number of clients reached\r\n"), "maxclients"),
        (Meets::Says("-DENIED Redis is running in protected mode\r\n"), "protected"),
        (Meets::Says("-ERR unknown command 'HELLO'\r\n"), "older"),
        (Meets::Says("+OK\r\n"), ""),
        (Meets::Silence, "in time"),
        (Meets::Close, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let number = u8::try_from(number).expect("few");
        door.lead(meets);
        // That the connection was lost is told first.
        let is_told = async {
            while !why(&state).await.contains(told) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(SOON, is_told).await.is_ok(), "{meets:?}");
        for _ in 0..3 {
            why(&state).await;
            sleep(Duration::from_millis(50)).await;
        }
        let waits = within(SOON, state.newer(200)).await;
        assert!(waits.is_err(), "{meets:?}: {waits:?}");

        door.lead_to(&server);
        assert_eq!(healed(&state, number).await, Appended::New(u64::from(number) + 1), "{meets:?}");
        assert_eq!(within(SOON, state.newer(0)).await, Ok(None), "{meets:?}");
    }
}

#[tokio::test]
async fn a_redis_that_cannot_be_used_is_connected_to_seldom() {
    let server = RedisServer::start(false).await;
    let door = Door::to(&server).await;
    let state = door.open().await;
    for meets in [Meets::Close, Meets::Says("-NOAUTH Authentication required.\r\n")] {
        door.lead(meets);
        let (before, begun) = (door.came.load(Ordering::Relaxed), Instant::now());
        for _ in 0..20 {
            join_all((0..50).map(|_| state.probe())).await;
            sleep(Duration::from_millis(25)).await;
        }
        let came = door.came.load(Ordering::Relaxed) - before;
        // The first pauses are short, and none is shorter than half a second in the end.
        let most = 10 + usize::try_from(begun.elapsed().as_secs()).expect("few") * 2;
        assert!(came <= most, "{meets:?}: {came} connections for 1,000 verbs");
        door.lead_to(&server);
        within(SOON, async { while state.probe().await.is_err() {} }).await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_and_one_at_another_address_are_over_when_they_are() {
    let (server, other) = (RedisServer::start(false).await, RedisServer::start(false).await);
    let door = Door::to(&server).await;
    let state = door.open().await;
    // The connection is there, but nothing comes from it any more.
    server.command("CLIENT PAUSE 60000 ALL").await;
    assert!(why(&state).await.contains("in time"));
    // Nobody is cut off: who is connected stays where it is.
    *door.meets.lock().expect("no panic") = Meets::Redis(other.port);
    assert_eq!(healed(&state, 1).await, Appended::New(1));
}

#[tokio::test]
async fn a_password_that_was_changed_and_changed_back_is_forgotten() {
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
    assert_eq!(healed(&state, 1).await, Appended::New(1));
    assert_eq!(state.newer(0).await, Ok(None));
}

#[tokio::test]
async fn what_a_redis_refuses_is_told_as_what_it_is_and_is_over_when_it_is() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    for (number, (begin, told, end)) in [
        ("CONFIG SET maxmemory 1", "memory is full", "CONFIG SET maxmemory 0"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "min-replicas-to-write",
            "CONFIG SET min-replicas-to-write 0",
        ),
        ("REPLICAOF 127.0.0.1 1", "is a replica", "REPLICAOF NO ONE"),
        ("ACL SETUSER default -evalsha", "access list", "ACL SETUSER default +evalsha"),
        ("ACL SETUSER default -set", "access list", "ACL SETUSER default +set"),
        // Its folder is gone.
        ("CONFIG SET save \"1 1\"", "own disk", "CONFIG SET save \"\""),
    ]
    .into_iter()
    .enumerate()
    {
        let number = u8::try_from(number).expect("few");
        if told == "own disk" {
            fs::remove_dir_all(server.folder()).expect("there");
        }
        let said = server.command(begin).await;
        assert!(said.starts_with("+OK"), "{said}");
        let refused = async {
            loop {
                // A save in the background comes, and fails, a moment later.
                match state.probe().await {
                    Ok(()) => sleep(Duration::from_millis(20)).await,
                    // It has been a replica since.
                    Err(Error::Unusable(why)) if why.contains("taken again") => {
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(Error::Unusable(why)) => break why,
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        let why = timeout(SOON, refused).await.expect(begin);
        assert!(why.contains(told), "{begin}: {why}");
        assert!(!why.contains("disk is full"), "{why}");
        server.command(end).await;
        timeout(SOON, healed(&state, number)).await.expect(end);
    }
}

#[tokio::test]
async fn a_redis_that_is_busy_or_a_lost_replica_says_so() {
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
    healed(&state, 1).await;

    server.command("CONFIG SET replica-serve-stale-data no").await;
    server.command("REPLICAOF 127.0.0.1 1").await;
    assert!(why(&state).await.contains("primary"));
    server.command("REPLICAOF NO ONE").await;
    healed(&state, 2).await;
}
