//! Hundreds of callers, a WeChat with every kind of fault, and processes that are killed: the
//! promises of a `request_id` hold in spite of this. Afterwards, the calls in the simulator's
//! journal are compared with the answers to callers.
//!
//! The gateways are the built binary, in separate processes. `cargo test --test chaos --
//! --nocapture` prints figures. A build with `CHAOS_SEED=…` in the environment repeats the same
//! choices, as far as concurrency allows, and with `CHAOS_SECONDS=…` it runs longer.
//! `scripts/broken` shows that the test fails if the gateway is wrong.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod caller;
mod check;
mod door;
#[allow(dead_code, reason = "the rest of it is for tests/durability")]
#[path = "../durability/gateway.rs"]
mod gateway;
#[path = "../leaks/mod.rs"]
mod leaks;
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#[path = "../redis/mod.rs"]
mod redis;
mod run;
mod trouble;
mod wechat;
mod write;

use redis::RedisServer;

/// The methods whose writes do not stay unknown after a repeat, because the gateway recovers them
/// by reading at WeChat, or sends them again if that is harmless. For the other methods, only an
/// event shows the outcome.
const RECOVERED_BY_READING: &[&str] = &[
    "CardService/SetStoreCard",
    "MediaService/UploadImage",
    "MerchantService/UpdateMerchant",
    "NearbyService/AddNearbyPoi",
    "NearbyService/DeleteNearbyPoi",
    "NearbyService/ReplaceNearbyPoi",
    "NearbyService/SetNearbyPoiVisibility",
    "StoreService/AddStore",
    "StoreService/DeleteStore",
    "StoreService/UpdateStore",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_lost_or_doubled_with_sqlite() {
    run::run("sqlite", 1, "sqlite:{folder}/state.db").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_lost_or_doubled_with_replicas() {
    let redis = RedisServer::start(true).await;
    run::run("redis", 3, &redis.url()).await;
}

/// Prints figures.
#[expect(clippy::print_stderr, reason = "the figures are for the person at the terminal")]
fn print_figures(figures: &str) {
    eprintln!("{figures}");
}
