//! The files of a state change while it is in use: they are deleted, moved, replaced or cut.
//! Afterwards the acknowledged data is there, or nothing more is acknowledged and the gateway
//! reports that.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use tonic::Code;
use wechat_store_gateway::pb;

use crate::{
    gateway::{Gateway, add_store, reason},
    sender::{WeChat, send, success},
};

const STATE: &str = "sqlite:{folder}/state.db";

/// Starts a gateway that has accepted one push.
async fn serving() -> (WeChat, Gateway) {
    let wechat = WeChat::start().await;
    let gateway = Gateway::start(wechat.address, STATE).await;
    assert_eq!(send(&gateway, 1).await.expect("an answer"), success());
    (wechat, gateway)
}

/// Checks that nothing is acknowledged any more, that reads still work, and that callers and
/// operators get this reason.
async fn stopped(wechat: &WeChat, gateway: &Gateway, why: &str) {
    assert_eq!(send(gateway, 2).await.expect("an answer"), (503, String::new()));
    gateway.reports(503, why).await;
    let refused = add_store(gateway).await.expect_err("it cannot be remembered");
    assert_eq!(reason(&refused), (Code::Unavailable, "STATE_UNAVAILABLE".to_owned()));
    assert!(wechat.simulator.calls("/wxa/add_store").is_empty(), "it was not sent");
    gateway.stores().list_stores(pb::ListStoresRequest::default()).await.expect("a page");
    let output = gateway.output();
    let lines = output.lines().filter(|line| line.contains("refusing writes"));
    assert_eq!(
        lines.filter(|line| line.contains(why) && line.contains("ERROR")).count(),
        1,
        "{output}"
    );
}

#[tokio::test]
async fn deleted_state_stops_acknowledging() {
    let (wechat, gateway) = serving().await;
    for name in ["state.db", "state.db-wal", "state.db-shm", "state.db.lock"] {
        fs::remove_file(gateway.folder().join(name)).expect("removed");
    }
    stopped(&wechat, &gateway, "is gone").await;
}

#[tokio::test]
async fn state_replaced_by_its_backup_stops_acknowledging() {
    let (wechat, mut gateway) = serving().await;
    let path = gateway.folder().join("state.db");
    let backup = gateway.folder().join("backup");
    fs::copy(&path, &backup).expect("copied");
    fs::rename(&backup, &path).expect("replaced");
    stopped(&wechat, &gateway, "another file").await;
    gateway.kill();

    let (wechat, gateway) = serving().await;
    let path = gateway.folder().join("state.db");
    // Copies the file like `cp`.
    let content = fs::read(&path).expect("a file");
    fs::write(&path, content).expect("written over");
    stopped(&wechat, &gateway, "something other than SQLite").await;
}

#[tokio::test]
async fn restored_state_acknowledges_again() {
    let (wechat, mut gateway) = serving().await;
    let path = gateway.folder().join("state.db");
    let away = gateway.folder().join("away.db");
    fs::rename(&path, &away).expect("moved");
    stopped(&wechat, &gateway, "is gone").await;
    fs::rename(&away, &path).expect("moved back");
    assert_eq!(send(&gateway, 2).await.expect("an answer"), success());
    gateway.reports(200, "ok").await;
    gateway.kill();
    gateway.spawn();
    gateway.serves().await;
    assert_eq!(gateway.lists().await, Ok(2));
}

#[tokio::test]
async fn log_deleted_in_use_loses_nothing() {
    let (wechat, mut gateway) = serving().await;
    fs::remove_file(gateway.folder().join("state.db-wal")).expect("removed");
    stopped(&wechat, &gateway, "state.db-wal was deleted").await;
    gateway.kill();
    gateway.spawn();
    gateway.serves().await;
    assert_eq!(gateway.lists().await, Ok(1), "it was brought into the database");
    assert_eq!(send(&gateway, 2).await.expect("an answer"), success());
}

#[tokio::test]
async fn cut_log_stops_acknowledging() {
    let (wechat, gateway) = serving().await;
    let log = File::options().write(true).open(gateway.folder().join("state.db-wal"));
    log.expect("a file").set_len(0).expect("cut");
    stopped(&wechat, &gateway, "cut or overwritten").await;
}

#[tokio::test]
async fn second_gateway_exits_for_any_path() {
    let (wechat, first) = serving().await;
    let link = first.folder().join("link.db");
    symlink(first.folder().join("state.db"), &link).expect("linked");
    fs::remove_file(first.folder().join("state.db.lock")).expect("removed");
    let ends = async |path: &Path| {
        let mut second = Gateway::new(wechat.address, &format!("sqlite:{}", path.display()));
        second.spawn();
        assert_eq!(second.ends().await, Some(1));
        let output = second.output();
        assert!(output.contains("locked by another process"), "{output}");
    };
    ends(&link).await;
    ends(&first.folder().join("state.db")).await;
    assert_eq!(send(&first, 2).await.expect("an answer"), success());
    let hard = first.folder().join("hard.db");
    fs::hard_link(first.folder().join("state.db"), &hard).expect("linked");
    ends(&hard).await;
}
