//! A Redis that disappears, and one that returns with less data.

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tonic::Code;
use wechat_store_gateway::pb::watch_audit_events_request::Start;

use crate::{
    gateway::{Gateway, LONG, MOMENT, Watch, earliest, event, reason},
    print_figures,
    redis::RedisServer,
    sender::{WeChat, send, success},
    watcher::Watcher,
};

/// Operators get a report within this time on an idle machine. The tests allow twice that.
const SOON: Duration = Duration::from_secs(2);

fn expired() -> (Code, String) {
    (Code::OutOfRange, "CURSOR_EXPIRED".to_owned())
}

fn unavailable() -> (Code, String) {
    (Code::Unavailable, "STATE_UNAVAILABLE".to_owned())
}

#[tokio::test]
async fn killed_redis_is_reported_and_survived() {
    let mut redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let gateway = Gateway::start(wechat.address, &redis.url()).await;
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());
    let (_, cursor) = event(&mut watch).await;

    redis.kill();
    refuses(&gateway, "Redis").await;
    let mut another = Gateway::new(wechat.address, &redis.url());
    another.spawn();
    assert_eq!(another.ends().await, Some(1));
    let output = another.output();
    assert!(output.lines().count() == 1 && output.contains("Redis"), "{output}");
    redis.restart().await;
    recovers(&gateway, watch, cursor).await;
}

#[tokio::test]
async fn silent_redis_is_reported_and_survived() {
    let redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let gateway = Gateway::start(wechat.address, &redis.url()).await;
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());
    let (_, cursor) = event(&mut watch).await;

    redis.signal("STOP");
    refuses(&gateway, "does not answer").await;
    redis.signal("CONT");
    recovers(&gateway, watch, cursor).await;
}

/// Checks the behavior of a gateway without its Redis.
async fn refuses(gateway: &Gateway, why: &str) {
    gateway.reports(503, why).await;
    let began = Instant::now();
    let (status, text) = gateway.readyz().await.expect("it runs");
    let (elapsed, began) = (began.elapsed(), Instant::now());
    assert!(status == 503 && text.contains(why) && text.lines().count() == 1, "{text}");
    assert!(elapsed < 2 * SOON, "{elapsed:?}");
    assert_eq!(send(gateway, 2).await.expect("an answer"), (503, String::new()));
    let pushed = began.elapsed();
    assert!(pushed < 2 * SOON, "{pushed:?}");
    let began = Instant::now();
    assert_eq!(gateway.lists().await, Err(unavailable()));
    let listed = began.elapsed();
    assert_eq!(reason(&gateway.watch(earliest()).await.expect_err("no state")), unavailable());
    print_figures(&format!(
        "without Redis: {text:?} in {elapsed:.0?}, 503 in {pushed:.0?}, UNAVAILABLE in {listed:.0?}"
    ));
}

/// Checks its behavior when Redis is back.
async fn recovers(gateway: &Gateway, mut watch: Watch, cursor: String) {
    gateway.reports(200, "ok").await;
    for _ in 0..2 {
        assert_eq!(send(gateway, 2).await.expect("an answer"), success());
    }
    // A stream that had to read during the outage ends and is started again.
    let next = loop {
        match timeout(LONG, watch.message()).await.expect("an event in time") {
            Ok(next) => match next.expect("no end without an error").event {
                Some(event) => break event,
                None => continue,
            },
            Err(status) => assert_eq!(reason(&status), unavailable()),
        }
        watch = gateway.watch(Start::Cursor(cursor.clone())).await.expect("a stream");
    };
    assert_eq!(next.audit_id, "2", "watching went on");
    assert_eq!(gateway.lists().await, Ok(2), "each is there once");
}

#[tokio::test]
async fn redis_killed_during_append_leaves_no_gap() {
    let mut redis = RedisServer::start(true).await;
    let wechat = WeChat::start().await;
    let gateway = Gateway::start(wechat.address, &redis.url()).await;
    let watcher = Watcher::start(&gateway, fastrand::Rng::with_seed(1));
    for audit_id in 1..=3 {
        assert_eq!(send(&gateway, audit_id).await.expect("an answer"), success());
        redis.kill();
        if audit_id == 1 {
            // Redis drops an incomplete command, and executes the earlier commands of its
            // transaction with the next one.
            tear(&redis);
        }
        redis.restart().await;
        gateway.reports(200, "ok").await;
    }
    let seen = watcher.finish(3, LONG).await;
    assert_eq!(seen.positions, [1, 2, 3]);
}

#[tokio::test]
async fn watchers_are_notified_of_an_emptied_redis() {
    lose(&[]).await;
}

#[tokio::test]
async fn watchers_are_notified_of_a_truncated_redis() {
    lose(&[1, 2]).await;
}

#[tokio::test]
async fn watchers_are_notified_of_a_replaced_redis() {
    let mut redis = RedisServer::start(false).await;
    let wechat = WeChat::start().await;
    let gateway = Gateway::start(wechat.address, &redis.url()).await;
    // No event has arrived yet that would show that the log was replaced.
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    redis.kill();
    redis.restart().await;
    gateway.reports(200, "ok").await;
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());
    assert_eq!(ends(&mut watch).await, expired());
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    let (_, cursor) = event(&mut watch).await;
    assert_eq!(begins(&gateway, &cursor).await, Ok(()));
}

#[tokio::test]
async fn watchers_are_notified_of_a_restored_backup() {
    let wechat = WeChat::start().await;
    let mut gateway = Gateway::start(wechat.address, "sqlite:{folder}/state.db").await;
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    let mut cursors = Vec::new();
    let file = |name: &str| gateway.folder().join(name);
    let (now, then) = (file("state.db"), file("backup"));
    for audit_id in 1..=5 {
        assert_eq!(send(&gateway, audit_id).await.expect("an answer"), success());
        cursors.push(event(&mut watch).await.1);
        if audit_id == 3 {
            let db = rusqlite::Connection::open(&now).expect("opened");
            db.execute("VACUUM INTO ?1", [then.to_str()]).expect("a backup");
        }
    }
    gateway.kill();
    for with in ["-wal", "-shm"] {
        fs::remove_file(gateway.folder().join(format!("state.db{with}"))).expect("there");
    }
    fs::rename(then, now).expect("put back");
    gateway.spawn();
    gateway.serves().await;
    let all = async || {
        let mut begun = Vec::new();
        for cursor in &cursors {
            begun.push(begins(&gateway, cursor).await.is_ok());
        }
        begun
    };
    let expected = [true, true, true, false, false];
    assert_eq!(all().await, expected);
    for audit_id in 11..=15 {
        assert_eq!(send(&gateway, audit_id).await.expect("an answer"), success());
    }
    assert_eq!(all().await, expected, "though their positions are taken again");
}

/// Kills and restarts a Redis that has five events and saved only some of them.
async fn lose(kept: &[u64]) {
    let mut redis = RedisServer::start(false).await;
    let wechat = WeChat::start().await;
    let mut gateway = Gateway::start(wechat.address, &redis.url()).await;
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    let mut cursors = Vec::new();
    for audit_id in 1..=5 {
        assert_eq!(send(&gateway, audit_id).await.expect("an answer"), success());
        cursors.push(event(&mut watch).await.1);
        if kept.last() == Some(&audit_id) {
            assert!(redis.command("SAVE").await.starts_with("+OK"));
        }
    }
    redis.kill();
    redis.restart().await;
    gateway.reports(200, "ok").await;
    // Watchers are notified, and so is a client with a cursor from the lost part.
    assert_eq!(ends(&mut watch).await, expired());
    let lost = cursors.split_off(kept.len());
    for cursor in &lost {
        assert_eq!(begins(&gateway, cursor).await, Err(expired()));
    }
    // The same holds if the same positions have other events, and at a process that did not see the
    // loss.
    for audit_id in 11..=15 {
        assert_eq!(send(&gateway, audit_id).await.expect("an answer"), success());
    }
    for restart in [false, true] {
        if restart {
            gateway.kill();
            gateway.spawn();
            gateway.serves().await;
        }
        for cursor in &lost {
            assert_eq!(begins(&gateway, cursor).await, Err(expired()));
        }
        // Watchers of the remaining part continue.
        for (at, cursor) in cursors.iter().enumerate() {
            let expected = kept[at + 1..].iter().copied().chain(11..=15);
            let expected: Vec<_> = expected.map(|audit_id| audit_id.to_string()).collect();
            let mut watch = gateway.watch(Start::Cursor(cursor.clone())).await.expect("a stream");
            for audit_id in expected {
                assert_eq!(event(&mut watch).await.0.audit_id, audit_id);
            }
        }
        assert_eq!(gateway.lists().await, Ok(kept.len() + 5));
    }
}

/// Starts to watch after a cursor and returns an error if that fails.
async fn begins(gateway: &Gateway, cursor: &str) -> Result<(), (Code, String)> {
    let watch = gateway.watch(Start::Cursor(cursor.to_owned())).await;
    watch.map(drop).map_err(|status| reason(&status))
}

/// Returns the error that ends a stream.
async fn ends(watch: &mut Watch) -> (Code, String) {
    let end = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => sleep(MOMENT).await,
                Ok(None) => panic!("an end without an error"),
                Err(status) => return reason(&status),
            }
        }
    };
    timeout(LONG, end).await.expect("an end")
}

/// Saves the beginning of its last event once more, like a kill in the middle of saving.
fn tear(redis: &RedisServer) {
    let folder = redis.folder().join("appendonlydir");
    let mut files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file"));
    let is_log = |file: &fs::DirEntry| file.path().to_string_lossy().ends_with(".incr.aof");
    let path = files.find(is_log).expect("its log").path();
    let mut log = fs::read(&path).expect("its log");
    let find = |end: usize, what: &[u8]| {
        log[..end].windows(what.len()).rposition(|found| found == what).expect("an event")
    };
    let end = find(log.len(), b"XADD");
    let torn = log[find(end, b"*1\r\n$5\r\nMULTI")..end].to_vec();
    log.extend(torn);
    fs::write(path, log).expect("written");
}
