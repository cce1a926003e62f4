//! The duties of the backend for Redis alone: it must lose nothing in a
//! crash, and a missing Redis must do no harm.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpStream, time::sleep};
use wechat_store_gateway::{
    config::{Settings, StateUrl},
    pb::{AuditState, SubmissionKind},
    state::{
        Acquired, Appended, Authorizer, Error, EventKey, EventQuery, NewEvent, NewSubmission,
        Origin, Outcome, State, WriteQuery, WriteState, redis::Redis,
    },
    testing::{AppId, Secret},
};

use crate::{
    damage::{Damage, damage_redis},
    servers::RedisServer,
    state::{Backend, claim, conformance, finished, write},
    state_platforms::{self, authorizer},
    support::within,
};

conformance!(redis);

/// Longer than any working operation takes, and shorter than [`Events::newer`] waits.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A state, and the server that has its keys.
pub(crate) struct Shared {
    pub(crate) server: RedisServer,
    pub(crate) state: Option<Arc<dyn State>>,
}

pub(crate) async fn redis() -> Shared {
    let server = RedisServer::start(true).await;
    let state = server.open().await;
    Shared { server, state: Some(state) }
}

impl Backend for Shared {
    fn state(&self) -> Arc<dyn State> {
        self.state.clone().expect("open")
    }

    async fn pass(&self, time: Duration) {
        sleep(time).await;
    }

    async fn pass_for_writes(&self, time: Duration) {
        pass_for_writes(&self.server, time).await;
    }

    async fn reopen(&mut self) {
        self.state = None;
        self.server.kill();
        self.server.restart().await;
        self.state = Some(self.server.open().await);
    }
}

/// Lets time pass for the writes that a server has. The clock of Redis cannot be set, so its stored times are moved.
pub(crate) async fn pass_for_writes(server: &RedisServer, time: Duration) {
    let earlier = r"
        local prefix, time = '{wechat-store-gateway}:', -tonumber(ARGV[1])
        for _, write in ipairs(redis.call('KEYS', prefix .. 'write:*')) do
          for _, name in ipairs({ 'over', 'created', 'sent', 'ended' }) do
            if redis.call('HGET', write, name) ~= '0' then
              redis.call('HINCRBY', write, name, time)
            end
          end
        end
        for _, name in ipairs({ 'writes:finished', 'writes:claims' }) do
          for _, id in ipairs(redis.call('ZRANGE', prefix .. name, 0, -1)) do
            redis.call('ZINCRBY', prefix .. name, time, id)
          end
        end
        return 'earlier'"
        .replace('\n', " ");
    let earlier = format!("EVAL \"{earlier}\" 0 {}", time.as_millis());
    assert!(server.command(&earlier).await.contains("earlier"));
}

impl RedisServer {
    /// Returns a client.
    pub(crate) async fn open(&self) -> Arc<dyn State> {
        open(&self.url()).await
    }
}

/// Returns a client of a Redis that runs.
pub(crate) async fn open(url: &str) -> Arc<dyn State> {
    Arc::new(try_open(url, "").await.expect("Redis runs"))
}

/// Returns a client with more lines in its section of the settings.
pub(crate) async fn try_open(url: &str, more: &str) -> Result<Redis, Error> {
    let account =
        "[[accounts]]\napp_id = \"wx0000000000000001\"\nkind = \"official\"\nsecret = \"s\"";
    // This is the backend, which seals nothing.
    let settings = format!("{account}\n[state]\nurl = \"{url}\"\nplain_secrets = true\n{more}");
    let settings = Settings::parse(&settings, &BTreeMap::new()).expect(url);
    let StateUrl::Redis(url) = &settings.state.url else { panic!("the URL of a Redis") };
    Redis::open(url, &settings.state.redis).await
}

/// Returns an event that belongs to no submission.
pub(crate) fn event(number: u8) -> NewEvent {
    NewEvent {
        key: EventKey([number; 32]),
        event_id: format!("event-{number}"),
        app_id: AppId::from("wx0000000000000001".to_owned()),
        kind: SubmissionKind::Unspecified,
        audit_id: String::new().into(),
        state: AuditState::Unspecified,
        reason: String::new(),
        poi_id: String::new().into(),
        map_poi_id: String::new().into(),
        event_time: 1_700_000_000,
        origin: Origin::Pushed,
        message: vec![number, 0, 0xff, b'\r', b'\n'].into(),
    }
}

/// Returns the positions of all events.
pub(crate) async fn positions(state: &dyn State) -> Vec<u64> {
    let query = EventQuery { limit: 1000, ..EventQuery::default() };
    let page = state.events(query).await.expect("Redis runs");
    page.events.iter().map(|event| event.position).collect()
}

/// Appends an event as soon as that works.
pub(crate) async fn append_when_ready(state: &Arc<dyn State>, number: u8) -> Appended {
    let append = async {
        loop {
            match state.append(event(number)).await {
                Ok(appended) => break appended,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    within(SOON, append).await
}

#[tokio::test]
async fn acknowledged_data_survives_a_kill() {
    let mut server = RedisServer::start(true).await;
    let state = server.open().await;
    for number in 1..=100 {
        let appended = state.append(event(number)).await;
        assert_eq!(appended, Ok(Appended::New(number.into())));
    }
    let Ok(Acquired::Lease(fence)) = state.acquire("turn", Duration::from_millis(1)).await else {
        panic!("the lease is not free");
    };
    let log = state.log().await.expect("Redis runs");

    server.kill();
    server.restart().await;
    let state = server.open().await;
    assert_eq!(positions(&*state).await, (1..=100).collect::<Vec<_>>());
    let seventh = EventQuery { after: 6, limit: 1, ..EventQuery::default() };
    let seventh = state.events(seventh).await.expect("Redis runs").events.remove(0);
    assert_eq!(seventh.message, event(7).message, "byte by byte");
    assert_eq!(state.log().await, Ok(log));
    assert_eq!(state.append(event(7)).await, Ok(Appended::Known(7)));
    assert_eq!(state.append(event(101)).await, Ok(Appended::New(101)));
    let taken = state.acquire("turn", Duration::from_secs(1)).await;
    assert!(matches!(taken, Ok(Acquired::Taken(_))), "others may have it: {taken:?}");
    let again = async {
        loop {
            if let Ok(Acquired::Lease(fence)) = state.acquire("turn", Duration::from_secs(1)).await
            {
                break fence;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(within(SOON, again).await, fence + 1, "a fence never comes again");
}

#[tokio::test]
async fn append_wakes_waiting_client_that_blocks_none() {
    let server = RedisServer::start(false).await;
    let (one, other) = (server.open().await, server.open().await);
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.newer(0).await }
    });
    // A caller that leaves. No other caller may use its connection afterwards.
    let left = tokio::time::timeout(Duration::from_millis(50), one.newer(0)).await;
    assert!(left.is_err(), "nothing is there yet");
    one.probe().await.expect("not held up");
    assert!(!waiting.is_finished());

    other.append(event(1)).await.expect("Redis runs");
    within(SOON, waiting).await.expect("no panic").expect("Redis runs");
    assert_eq!(positions(&*one).await, [1]);
    assert_eq!(within(SOON, one.newer(0)).await, Ok(None), "something is there");
    let later = tokio::time::timeout(Duration::from_millis(200), one.newer(1)).await;
    assert!(later.is_err(), "nothing is newer");
}

#[tokio::test]
async fn damaged_event_does_not_stop_pruning() {
    for damage in [
        Damage::PutField("received", "soon"),
        Damage::DropField("received"),
        Damage::DropField("key"),
        Damage::DropField("app_id"),
        Damage::DropRow,
    ] {
        let server = RedisServer::start(false).await;
        let state = server.open().await;
        for number in 1..=3 {
            state.append(event(number)).await.expect("appended");
        }
        damage_redis(&server, "events", 1, damage).await;
        within(SOON, async {
            while state.log().await.expect("a log").pruned.position < 2 {
                state.prune(Duration::ZERO).await.expect("pruned");
            }
        })
        .await;
        let query = EventQuery { limit: 10, ..EventQuery::default() };
        let page = state.events(query).await.expect("a page");
        let positions: Vec<_> = page.events.iter().map(|event| event.position).collect();
        assert_eq!(positions, [3], "{damage:?}: no gap replaces a pruned event");
    }
}

#[tokio::test]
async fn missing_redis_fails_fast_until_it_returns() {
    let mut server = RedisServer::start(true).await;
    let state = server.open().await;
    let waiting = tokio::spawn({
        let state = state.clone();
        async move { state.newer(0).await }
    });
    sleep(Duration::from_millis(100)).await;
    server.kill();
    let woken = waiting.await.expect("no panic");
    assert!(matches!(woken, Err(Error::Unusable(_))), "{woken:?}");
    for _ in 0..3 {
        let answer = within(SOON, state.append(event(1))).await;
        assert!(matches!(answer, Err(Error::Unusable(_))), "{answer:?}");
    }
    // Long enough for every attempt to connect to be over.
    sleep(Duration::from_secs(1)).await;
    server.restart().await;
    assert_eq!(append_when_ready(&state, 1).await, Appended::New(1));
    assert_eq!(state.newer(0).await, Ok(None));
}

#[tokio::test]
async fn moved_primary_is_followed() {
    let (first, second) = (RedisServer::start(false).await, RedisServer::start(false).await);
    let leads_to = Arc::new(AtomicU16::new(first.port));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn({
        let leads_to = leads_to.clone();
        async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let port = leads_to.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        }
    });
    let state = open(&format!("redis://{address}")).await;
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));

    first.command(&format!("REPLICAOF 127.0.0.1 {}", second.port)).await;
    leads_to.store(second.port, Ordering::Relaxed);
    assert_eq!(state.append(event(2)).await, Ok(Appended::New(1)), "the second is new");
}

#[tokio::test]
async fn hanging_redis_fails_in_time() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    server.command("CLIENT PAUSE 60000 ALL").await;
    let answer = within(SOON, state.probe()).await;
    assert!(matches!(answer, Err(Error::Unusable(_))), "{answer:?}");
}

#[tokio::test]
async fn unusable_redis_fails_start_without_password() {
    let unused = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = unused.local_addr().expect("bound");
    let server = RedisServer::start(false).await;
    server.command("CONFIG SET requirepass other").await;
    for url in [
        "redis://:hush@127.0.0.1:1".to_owned(),
        format!("redis://:hush@{silent}"),
        server.url().replace("//", "//:hush@"),
        "redis+unix:///nowhere?pass=hush".to_owned(),
    ] {
        let error = within(SOON, try_open(&url, "")).await.expect_err(&url);
        assert!(matches!(error, Error::Unusable(_)), "{url}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn full_redis_and_newer_schema_are_reported() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    server.command("CONFIG SET maxmemory 1").await;
    let full = state.append(event(1)).await;
    assert!(matches!(&full, Err(Error::Unusable(why)) if why.contains("memory")), "{full:?}");
    server.command("CONFIG SET maxmemory 0").await;
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));
    state.log().await.expect("a name");
    server.command("CONFIG SET maxmemory 1").await;
    assert_eq!(state.log().await.map(|log| log.newest.position), Ok(1), "it can still be read");
    assert_eq!(positions(&*state).await, [1]);
    server.command("CONFIG SET maxmemory 0").await;

    server.command("SET {wechat-store-gateway}:schema 2").await;
    let error = try_open(&server.url(), "").await.expect_err("newer");
    assert_eq!(error, Error::Newer { found: 2, known: 1 });
}

#[tokio::test]
async fn token_is_shared_after_clock_went_back() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    let (app_id, value) = (AppId::from("wx1".to_owned()), Secret::from("t".to_owned()));
    state.put_token(&app_id, 0, &value, Duration::from_secs(60)).await.expect("stored");
    server.command("HSET {wechat-store-gateway}:token:wx1 since 9999999999999").await;
    let token = state.token(&app_id).await.expect("no error").expect("it lives");
    assert_eq!((token.value, token.age), (value, Duration::ZERO));
}

#[tokio::test]
async fn long_log_is_read_and_pruned_in_steps() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    for number in 0..2500_u16 {
        let [high, low] = number.to_be_bytes();
        let mut key = [high; 32];
        key[31] = low;
        let appended = state.append(NewEvent { key: EventKey(key), ..event(0) }).await;
        assert_eq!(appended, Ok(Appended::New(u64::from(number) + 1)));
    }
    let kinds = vec![SubmissionKind::Store];
    let mut query = EventQuery { limit: 10, kinds, ..EventQuery::default() };
    for (seen, at_end) in [(2000, false), (2500, true)] {
        let page = state.events(query.clone()).await.expect("Redis runs");
        assert_eq!((page.events.len(), page.seen, page.at_end), (0, seen, at_end));
        query.after = page.seen;
    }
    sleep(Duration::from_millis(10)).await;
    for gone in [500, 500, 500, 500, 499, 0] {
        assert_eq!(state.prune(Duration::ZERO).await, Ok(gone));
    }
    assert_eq!(positions(&*state).await, [2500]);
}

#[tokio::test]
async fn pruned_data_leaves_no_keys() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    let review = |number, kind, audit_id: &str, poi_id: &str| NewEvent {
        kind,
        audit_id: audit_id.to_owned().into(),
        poi_id: poi_id.to_owned().into(),
        state: AuditState::Approved,
        ..event(number)
    };
    let submission = |id: &str, kind, audit_id: &str| NewSubmission {
        submission_id: id.to_owned(),
        app_id: event(0).app_id,
        kind,
        audit_id: audit_id.to_owned().into(),
        poi_id: "7".to_owned().into(),
        client_reference: "shop".to_owned(),
        state: AuditState::InReview,
        ask_after: Some(Duration::ZERO),
        message: id.to_owned().into(),
    };
    let (merchant, pictures) = (SubmissionKind::Merchant, SubmissionKind::StorePictures);
    for new in [submission("a", pictures, "A"), submission("b", merchant, "")] {
        state.remember(new).await.expect("Redis runs");
    }
    for new in [
        review(1, pictures, "A", "8"),
        review(2, pictures, "A", ""),
        review(3, pictures, "C", ""),
        review(4, pictures, "made elsewhere", ""),
        NewEvent { event_time: 1, ..review(5, pictures, "made elsewhere", "") },
        review(6, merchant, "B", ""),
        NewEvent {
            origin: Origin::Polled { submission_id: "d".to_owned() },
            ..review(7, merchant, "", "")
        },
    ] {
        if new.origin != Origin::Pushed {
            state.remember(submission("d", merchant, "")).await.expect("Redis runs");
        }
        assert!(matches!(state.append(new).await, Ok(Appended::New(_))));
    }
    state.remember(submission("c", pictures, "C")).await.expect("Redis runs");
    assert_eq!(state.take_due(Duration::ZERO, 9).await, Ok(vec![]), "all are decided");
    state.append(event(8)).await.expect("Redis runs");
    let minute = Duration::from_secs(60);
    claim(&state, write("claimed", "r"), minute).await;
    for (id, outcome) in [
        ("finished", finished("reply")),
        ("released", Outcome::Released),
        ("executed", Outcome::Unknown),
        ("not executed", Outcome::Unknown),
    ] {
        let fence = claim(&state, write(id, id), minute).await;
        assert_eq!(state.sent(id, fence, minute, bytes::Bytes::new()).await, Ok(true));
        state.ended(id, fence, outcome).await.expect("Redis runs");
    }
    for (id, outcome) in [("executed", finished("")), ("not executed", Outcome::Released)] {
        assert!(state.resolve(id, outcome).await.is_ok_and(|write| write.is_some()));
    }
    let ended = Authorizer { authorized: false, ..authorizer("wx1", 1) };
    assert_eq!(state.put_authorizer(&ended, false).await, Ok(true));
    state
        .put_ticket(&ended.platform, &Secret::from("old".to_owned()), 1)
        .await
        .expect("Redis runs");
    let shared = Shared { server, state: Some(state.clone()) };
    shared.pass_for_writes(Duration::from_secs(2 * 24 * 60 * 60)).await;
    let server = &shared.server;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(state.prune(Duration::ZERO).await, Ok(7 + 4 + 3 + 1));

    let keys = server.command("KEYS *").await;
    let mut keys: Vec<_> =
        keys.lines().filter_map(|line| line.strip_prefix("{wechat-store-gateway}:")).collect();
    keys.sort_unstable();
    let last = ["schema", "submissions:last", "writes:last"];
    assert_eq!(keys, [&["guard", "log", "log:keys", "log:last", "log:pruned"], &last[..]].concat());
    assert!(server.command("HLEN {wechat-store-gateway}:log:keys").await.starts_with(":1"));
}

#[tokio::test]
async fn unknown_write_is_found_without_full_scan() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    let minute = Duration::from_secs(60);
    for number in 1..=1100 {
        let id = format!("{number}");
        let fence = claim(&state, write(&id, &id), minute).await;
        let outcome = if number == 1099 { Outcome::Unknown } else { finished("reply") };
        state.ended(&id, fence, outcome).await.expect("Redis runs");
    }
    let all = WriteQuery { limit: 2000, ..WriteQuery::default() };
    let page = state.writes(all.clone()).await.expect("Redis runs");
    assert_eq!((page.writes.len(), page.seen, page.at_end), (1000, 1000, false));
    let states = vec![WriteState::Unknown, WriteState::Sent];
    let request_id = Some("1099".to_owned());
    for query in [WriteQuery { states, ..all.clone() }, WriteQuery { request_id, ..all }] {
        let page = state.writes(query).await.expect("Redis runs");
        assert_eq!((page.writes.len(), page.seen, page.at_end), (1, 1100, true));
        assert_eq!(page.writes[0].number, 1099);
    }
}

#[tokio::test]
async fn damaged_authorizer_is_replaced() {
    const ROW: &str = "{wechat-store-gateway}:authorizer:wxplatform:wx2";
    for damage in [
        "HSET ROW changed_at 9999999999",
        "HSET ROW changed_at soon",
        "HSET ROW authorized 0",
        "HSET ROW refresh_token other",
        "HSET ROW record other",
        "HSET ROW revision 1",
        "HSET ROW sum 00000000",
        "HDEL ROW record",
        "HDEL ROW sum",
        "DEL ROW",
        "SET ROW text",
    ] {
        let server = RedisServer::start(false).await;
        let state = server.open().await;
        let command = damage.replace("ROW", ROW);
        let run = async || drop(server.command(&command).await);
        state_platforms::damaged_authorizer_is_replaced(&state, run, damage).await;
    }
}

#[tokio::test]
async fn damaged_ticket_is_replaced() {
    const ROW: &str = "{wechat-store-gateway}:ticket:wxplatform";
    for damage in [
        "HSET ROW sent_at 9999999999",
        "HSET ROW sent_at soon",
        "HSET ROW value other",
        "HDEL ROW sum",
        "DEL ROW",
        "SET ROW text",
    ] {
        let server = RedisServer::start(false).await;
        let state = server.open().await;
        let command = damage.replace("ROW", ROW);
        let run = async || drop(server.command(&command).await);
        state_platforms::damaged_ticket_is_replaced(&state, run, damage).await;
    }
}
