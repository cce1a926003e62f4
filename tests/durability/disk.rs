//! A disk under the gateway's file that records syncs and can be full, and a file that another
//! program locks.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::Code;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::{pb, testing::Clock};

use crate::{
    gateway::{Gateway, MOMENT, add_store, earliest, event, reason},
    print_figures,
    sender::{WeChat, send, success},
};

const STATE: &str = "sqlite:{folder}/state.db";

/// `shim.c`, and the files that control it.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/durability/shim.c");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-ldl", "-o"])
            .arg(folder.path().join("shim.so"))
            .status();
        assert!(made.expect("cc").success(), "{source} cannot be compiled");
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Loads the shim into a gateway that does not run yet.
    fn carry(&self, gateway: &mut Gateway) {
        gateway.set("LD_PRELOAD", &self.path("shim.so"));
        gateway.set("SHIM_SYNCS", &self.path("syncs"));
        gateway.set("SHIM_FULL", &self.path("full"));
    }

    /// Returns the beginning and the end of every sync so far, in nanoseconds since 1970.
    fn syncs(&self) -> Vec<(u128, u128)> {
        let written = fs::read(self.path("syncs")).expect("something was synced");
        let time = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight")).into();
        written.chunks_exact(16).map(|sync| (time(&sync[..8]), time(&sync[8..]))).collect()
    }

    pub(crate) fn fill(&self) {
        File::create(self.path("full")).expect("a file");
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path("full")).expect("a file");
    }
}

/// Starts a gateway on a recorded disk.
async fn watched() -> (Disk, WeChat, Gateway) {
    let disk = Disk::new();
    let wechat = WeChat::start().await;
    let mut gateway = Gateway::new(wechat.address, STATE);
    disk.carry(&mut gateway);
    gateway.spawn();
    gateway.serves().await;
    (disk, wechat, gateway)
}

/// Returns when an event was sent and when it was answered with `success`, in nanoseconds since
/// 1970.
async fn timed(gateway: &Gateway, audit_id: u64) -> (u128, u128) {
    let now = || {
        let now = Clock::system().wall().duration_since(SystemTime::UNIX_EPOCH);
        now.expect("after 1970").as_nanos()
    };
    let sent = now();
    let answer = send(gateway, audit_id).await.expect("an answer");
    assert_eq!(answer, success());
    (sent, now())
}

#[tokio::test]
async fn event_is_synced_before_its_answer() {
    let (disk, _wechat, gateway) = watched().await;
    // All syncs after this are caused by the events.
    let idle = disk.syncs().len();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(disk.syncs().len(), idle, "nothing is written for nothing");

    let mut events = Vec::new();
    for audit_id in 1..=30 {
        events.push(timed(&gateway, audit_id).await);
    }
    let alone = disk.syncs().len() - idle;
    events.extend(join_all((31..=94).map(|audit_id| timed(&gateway, audit_id))).await);
    let syncs = disk.syncs();
    let together = syncs.len() - alone - idle;
    print_figures(&format!("30 events one by one: {alone} syncs; 64 at once: {together} syncs"));
    for (number, (sent, answered)) in events.iter().enumerate() {
        let between = |(begun, ended): &&(u128, u128)| begun > sent && ended < answered;
        let found = syncs.iter().find(between);
        assert!(found.is_some(), "event {number} was answered before it was synced");
    }
    assert!((1..64).contains(&together), "a sync is for several events");
    assert_eq!(gateway.log_of_events().await.len(), events.len());
}

#[tokio::test]
async fn write_is_synced_before_sending_and_answering() {
    let (disk, wechat, gateway) = watched().await;
    // This call fetches the token.
    gateway.stores().list_stores(pb::ListStoresRequest::default()).await.expect("a page");
    let before = disk.syncs().len();
    add_store(&gateway).await.expect("submitted");
    assert_eq!(disk.syncs().len() - before, 2, "and not for its claim");

    wechat.simulator.fault(Fault::new("/wxa/add_store", Kind::Hold));
    let (before, sent) = (disk.syncs().len(), wechat.simulator.calls("/wxa/add_store").len());
    let arrived = async {
        while wechat.simulator.calls("/wxa/add_store").len() == sent {
            sleep(MOMENT).await;
        }
    };
    tokio::select! {
        answer = add_store(&gateway) => panic!("it is held: {answer:?}"),
        () = arrived => {}
    }
    assert_eq!(disk.syncs().len() - before, 1);
}

#[tokio::test]
async fn full_disk_is_reported_and_survived() {
    let (disk, wechat, mut gateway) = watched().await;
    let mut watch = gateway.watch(earliest()).await.expect("a stream");
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());

    disk.fill();
    for _ in 0..3 {
        assert_eq!(send(&gateway, 2).await.expect("an answer"), (503, String::new()));
    }
    gateway.reports(503, "the disk is full\n").await;
    assert_eq!(gateway.lists().await, Ok(1), "reading goes on");
    // A write that cannot be recorded is not sent.
    let refused = add_store(&gateway).await.expect_err("it cannot be remembered");
    assert_eq!(reason(&refused), (Code::Unavailable, "STATE_UNAVAILABLE".to_owned()));
    assert_eq!(wechat.simulator.calls("/wxa/add_store").len(), 0);

    disk.make_room();
    gateway.reports(200, "ok").await;
    let submission = add_store(&gateway).await.expect("submitted").submission_id;
    assert_eq!(send(&gateway, 2).await.expect("an answer"), success());
    assert_eq!(send(&gateway, 2).await.expect("an answer"), success());
    let audit_ids = [event(&mut watch).await.0.audit_id, event(&mut watch).await.0.audit_id];
    assert_eq!(audit_ids, ["1", "2"], "the stream went on");
    assert_eq!(gateway.lists().await, Ok(2), "each is there once");
    assert_eq!(find(&gateway, &submission).await, Ok(()));
    // Everything is there after a kill.
    gateway.kill();
    gateway.spawn();
    gateway.serves().await;
    assert_eq!(gateway.lists().await, Ok(2));
}

#[tokio::test]
async fn full_disk_at_start_still_serves_reads() {
    let (disk, wechat, mut gateway) = watched().await;
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());
    for begun in [true, false] {
        gateway.kill();
        if !begun {
            for name in ["state.db", "state.db-wal", "state.db-shm", "state.db.lock"] {
                let _ = fs::remove_file(gateway.folder().join(name));
            }
        }
        disk.fill();
        gateway.spawn();
        gateway.serves().await;
        gateway.reports(503, "the disk is full").await;
        let page = gateway.stores().list_stores(pb::ListStoresRequest::default()).await;
        page.expect("reads need no state");
        let refused = add_store(&gateway).await.expect_err("it cannot be remembered");
        assert_eq!(reason(&refused), (Code::Unavailable, "STATE_UNAVAILABLE".to_owned()));
        assert_eq!(send(&gateway, 2).await.expect("an answer"), (503, String::new()));
        assert!(wechat.simulator.calls("/wxa/add_store").is_empty());

        disk.make_room();
        gateway.reports(200, "ok").await;
        assert_eq!(gateway.lists().await, Ok(usize::from(begun)), "the acknowledged events");
        assert_eq!(send(&gateway, 2).await.expect("an answer"), success());
    }
}

async fn find(gateway: &Gateway, submission_id: &str) -> Result<(), Code> {
    let submission_id = submission_id.to_owned();
    let request = pb::GetSubmissionRequest { submission_id, ..Default::default() };
    let found = gateway.audits().get_submission(request).await;
    found.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn locked_file_is_reported_and_survived() {
    let wechat = WeChat::start().await;
    let gateway = Gateway::start(wechat.address, STATE).await;
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());

    let lock = lock(&gateway.folder().join("state.db"));
    // Several at once, so that one always waits behind another.
    let locked = "the state is locked by another process";
    let reported = gateway.reports(503, locked);
    let (first, second, third, ()) =
        tokio::join!(send(&gateway, 2), send(&gateway, 3), send(&gateway, 2), reported);
    for answer in [first, second, third] {
        assert_eq!(answer.expect("an answer"), (503, String::new()));
    }
    assert_eq!(gateway.lists().await, Ok(1), "reading goes on");

    drop(lock);
    gateway.reports(200, "ok").await;
    for audit_id in [2, 3] {
        assert_eq!(send(&gateway, audit_id).await.expect("an answer"), success());
    }
    assert_eq!(gateway.lists().await, Ok(3), "each is there once");
}

/// Locks a file like an operator's shell, until the result is dropped.
fn lock(path: &Path) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(path).expect("opened");
    db.busy_timeout(Duration::from_secs(5)).expect("set");
    db.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    db
}

#[tokio::test]
async fn second_gateway_on_one_file_exits() {
    let wechat = WeChat::start().await;
    let first = Gateway::start(wechat.address, STATE).await;
    let file = first.folder().join("state.db");
    let mut second = Gateway::new(wechat.address, &format!("sqlite:{}", file.display()));
    second.spawn();
    assert_eq!(second.ends().await, Some(1));
    let output = second.output();
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(output.contains("locked by another process"), "{output}");
    assert_eq!(send(&first, 1).await.expect("an answer"), success());
}
