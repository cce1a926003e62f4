//! Hundreds of callers, a WeChat that fails in every way, processes that are killed: what a
//! `request_id` promises holds all the same. Afterwards the calls that the simulator wrote down are
//! compared with the answers that callers got.
//!
//! The gateways are the built binary, in processes of their own. Figures are printed: `cargo test
//! --test chaos -- --nocapture`. Built with `CHAOS_SEED=…` in the environment it makes the same
//! choices again, as far as the order of what runs at once allows; with `CHAOS_SECONDS=…` it takes
//! longer. `scripts/broken` shows that it fails where the gateway is wrong.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod caller;
mod check;
mod door;
#[allow(dead_code, reason = "the rest of it is for tests/durability")]
#[path = "../durability/gateway.rs"]
mod gateway;
#[allow(dead_code, reason = "the rest of it is for tests/durability")]
#[path = "../durability/redis.rs"]
mod redis;
mod run;
mod trouble;
mod wechat;
mod write;

use redis::Redis;

/// The methods of which no write stays unknown once its caller repeats it, because the service looks
/// what became of it, or sends it again where that is harmless. Of the others only an event tells.
const SETTLED_BY_LOOKING: &[&str] = &[
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
async fn no_write_is_lost_or_doubled_with_three_processes_and_redis() {
    let redis = Redis::start(true).await;
    run::run("redis", 3, &redis.url()).await;
}

/// Says what was found.
#[expect(clippy::print_stderr, reason = "figures are for whoever runs this")]
fn tell(figures: &str) {
    eprintln!("{figures}");
}
