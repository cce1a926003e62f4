//! Copies a state from SQLite to Redis and back, and kills the command twice each time.
//!
//! With a million events and a release build, this prints the times of docs/decisions/0053-copies.md:
//! `DURABILITY_ROWS=1000000 cargo test --release --test durability copy -- --nocapture`.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tokio::time::sleep;
use wechat_store_gateway::{state::sqlite::Sqlite, testing::Clock};

use crate::{disk::Disk, gateway::MOMENT, leaks, print_figures, random, redis::RedisServer};

/// The events. There is a write for every hundredth, and a submission for every tenth.
const EVENTS: u64 = 20_000;
/// Many times the usual duration, for a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);

#[tokio::test(flavor = "multi_thread")]
async fn killed_copy_loses_and_doubles_nothing() {
    let events =
        option_env!("DURABILITY_ROWS").map_or(EVENTS, |rows| rows.parse().expect("a number"));
    let mut random = random("copy");
    let folder = tempfile::tempdir().expect("a folder");
    let [first, last] = ["first.db", "last.db"].map(|name| folder.path().join(name));
    let redis = RedisServer::start(true).await;
    fill(&first, events);
    let [from, to] = [&first, &last].map(|path| format!("sqlite:{}", path.display()));

    let progress = async || position(&redis.command("HGET {wechat-store-gateway}:copy at").await);
    copy(&from, &redis.url(), events, &mut random, progress).await;
    assert!(redis.command("EXISTS {wechat-store-gateway}:copy").await.starts_with(":0"));
    let verified = run(&["state", "verify", &redis.url(), "--json"]);
    assert!(verified.status.success(), "{verified:?}");

    let progress = async || in_file(&last).unwrap_or_default();
    copy(&redis.url(), &to, events, &mut random, progress).await;
    assert_same(&first, &last, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_to_full_disk_continues_with_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, last] = ["first.db", "last.db"].map(|name| folder.path().join(name));
    fill(&first, EVENTS / 10);
    let [from, to] = [&first, &last].map(|path| format!("sqlite:{}", path.display()));
    let disk = Disk::new();
    let backup = folder.path().join("backup.db");
    let copy = ["state", "copy", &from, &to];
    let settings = folder.path().join("settings.toml");
    let content = format!(
        "[state]\nurl = \"{from}\"\n[[accounts]]\napp_id = \"wx0000000000000001\"\nkind = \"official\"\n\
         default = true\nsecret = \"official-secret\"\n"
    );
    std::fs::write(&settings, content).expect("written");
    let [settings, to_backup] = [&settings, &backup].map(|path| path.to_str().expect("text"));
    let backup = ["state", "backup", "--config", settings, to_backup];
    let run = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("LD_PRELOAD", disk.path("shim.so")).env("SHIM_FULL", disk.path("full"));
        command.output().expect("the binary starts")
    };
    disk.fill();
    for arguments in [&copy[..], &backup] {
        let failed = run(arguments);
        let printed = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{arguments:?}: {printed}");
        assert!(printed.contains("the disk is full"), "{arguments:?}: {printed}");
    }
    assert!(!Path::new(to_backup).exists());
    disk.make_room();
    for arguments in [&copy[..], &backup] {
        assert!(run(arguments).status.success(), "{arguments:?}");
    }
    assert_same(&first, &last, EVENTS / 10);
}

/// Runs a copy, kills it in the first and in the second half, and lets the third run end.
async fn copy(
    from: &str,
    to: &str,
    events: u64,
    random: &mut fastrand::Rng,
    progress: impl AsyncFn() -> u64,
) {
    let began = Instant::now();
    for half in 0..2 {
        let at = events * half / 2 + random.u64(1..events / 3);
        let mut copy = start(&["state", "copy", from, to]);
        while progress().await < at {
            assert!(copy.try_wait().expect("ours").is_none(), "it ended before it was killed");
            assert!(began.elapsed() < LIMIT, "it copies too slowly");
            sleep(MOMENT / 10).await;
        }
        copy.kill().expect("ours");
        copy.wait().expect("killed");
        print_figures(&format!("copy: killed after {} events", progress().await));
    }
    let copied = run(&["state", "copy", from, to, "--json"]);
    assert!(copied.status.success(), "{copied:?}");
    let copied: Value = serde_json::from_slice(&copied.stdout).expect("JSON");
    assert_eq!(copied["resumed"], true);
    let rows = &copied["rows"];
    assert_eq!(
        (&rows["events"], &rows["submissions"], &rows["writes"]),
        (&events.into(), &(events / 10).into(), &(events / 100).into())
    );
    let seconds = began.elapsed().as_secs_f64();
    print_figures(&format!(
        "copy: {events} events to {} in {seconds:.1} s",
        to.split(':').next().expect("a scheme")
    ));
}

/// Returns the position in the progress of a copy.
fn position(progress: &str) -> u64 {
    let rest = progress.rsplit_once("events ").map_or("", |(_, rest)| rest.trim());
    // After the events come other rows.
    if progress.contains("writes ") { u64::MAX } else { rest.parse().unwrap_or_default() }
}

fn in_file(path: &Path) -> Option<u64> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let at: String = db.query_row("SELECT at FROM copy", [], |row| row.get(0)).ok()?;
    Some(position(&at))
}

/// Makes a state as a gateway makes it, and fills it past the gateway, because that takes seconds.
fn fill(path: &Path, events: u64) {
    drop(Sqlite::open(path, Clock::system()).expect("a state"));
    let mut db = Connection::open(path).expect("opened");
    let transaction = db.transaction().expect("begun");
    for sql in [
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1 / 10)
         INSERT INTO submissions SELECT n, 's' || n, 'wx' || n % 100, 1, 'audit ' || n, 'poi ' || n, '',
           iif(n % 3, '', 'reference ' || n), iif(n % 5, 4, 3), '', iif(n % 5, 'event ' || n, ''),
           1700000000000 + n, iif(n % 5, 1700000001000 + n, 0), iif(n % 5, NULL, 1700000002000 + n),
           randomblob(300)
         FROM n",
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
         INSERT INTO events SELECT n, randomblob(32), 'event ' || n, 'wx' || n % 100, 1, 'audit ' || n,
           iif(n <= ?1 / 10, 's' || n, NULL), 4, 1, 1, '', 'poi ' || n, '', 1700000000 + n,
           1700000000000 + n, '', '', randomblob(300)
         FROM n",
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1 / 100)
         INSERT INTO writes SELECT n, 'w' || n, 'wx' || n % 100, 'StoreService/AddStore', 'r' || n,
           randomblob(32), '', iif(n % 7, 'finished', 'unknown'), 1, 1700000000000, 1, 1700000000000 + n,
           1700000000000 + n, iif(n % 7, 1700000003000 + n, 0), randomblob(300),
           iif(n % 7, randomblob(300), NULL), iif(n % 2, 'caller', '')
         FROM n",
        "UPDATE log SET newest = ?1, newest_key = (SELECT key FROM events WHERE position = ?1)",
    ] {
        transaction.execute(sql, [events]).expect("filled");
    }
    transaction.commit().expect("filled");
}

/// Compares two files. The copied events have checksums behind their messages.
fn assert_same(first: &Path, last: &Path, events: u64) {
    let db = Connection::open(first).expect("opened");
    db.execute("ATTACH ?1 AS copy", [last.to_str().expect("text")]).expect("attached");
    for (table, by, rows) in [
        ("events", "position", events),
        ("submissions", "number", events / 10),
        ("writes", "number", events / 100),
        ("log", "id", 1),
    ] {
        let columns = format!("SELECT name FROM pragma_table_info('{table}')");
        let mut columns = db.prepare(&columns).expect("prepared");
        let columns = columns.query_map([], |row| row.get::<_, String>(0)).expect("columns");
        let equal = |column: String| match (table, &*column) {
            ("events", "message") => "substr(b.message, 1, 300) = a.message".to_owned(),
            // Only a probe changes it.
            ("log", "probes") => "1".to_owned(),
            _ => format!("a.{column} IS b.{column}"),
        };
        let equal: Vec<_> = columns.map(|column| equal(column.expect("a column"))).collect();
        let both = format!(
            "SELECT count(*), (SELECT count(*) FROM copy.{table})
             FROM {table} AS a JOIN copy.{table} AS b USING ({by}) WHERE {}",
            equal.join(" AND ")
        );
        let found =
            db.query_row(&both, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("compared");
        assert_eq!(found, (rows, rows), "{table}: the equal rows, and all of the copy");
    }
}

fn command(arguments: &[&str]) -> Command {
    // A release build can be measured without one of the test.
    let gateway = option_env!("DURABILITY_GATEWAY");
    let mut command = Command::new(gateway.unwrap_or(env!("CARGO_BIN_EXE_wechat-store-gateway")));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn start(arguments: &[&str]) -> Child {
    let mut command = command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
}

/// Runs a command to its end, and prints its progress.
fn run(arguments: &[&str]) -> Output {
    let output = command(arguments).output().expect("the binary starts");
    let printed = String::from_utf8_lossy(&output.stderr);
    leaks::check(&printed);
    print_figures(printed.trim_end());
    output
}
