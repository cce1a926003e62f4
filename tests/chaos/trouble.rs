//! The faults of WeChat and of the gateways, and the reviews and the journal during a run.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;
use wechat_simulator::{Fault, Simulator, faults::Kind, journal::Entry};

use crate::{
    gateway::Gateway,
    run::Run,
    wechat::{WeChat, now},
};

/// The most faults that wait at a path. Otherwise they would accumulate at rarely called paths.
const WAITING: usize = 8;
/// The code of a made-up definite refusal.
pub(crate) const REFUSAL: i64 = 40097;

/// The downtime of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    pub(crate) gateway: usize,
    /// In milliseconds since 1970.
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// The paths of the faults, and their frequency in percent.
const PATHS: &[(&str, u32)] = &[
    ("/wxa/add_store", 25),
    ("/wxa/update_store", 18),
    ("/wxa/create_map_poi", 18),
    ("/wxa/get_store_info", 7),
    ("/card/storewxa/set", 6),
    ("/wxa/del_store", 5),
    ("/wxa/delnearbypoi", 4),
    ("/wxa/setnearbypoishowstatus", 4),
    ("/wxa/get_store_list", 4),
    ("/wxa/addnearbypoi", 3),
    ("/cgi-bin/media/uploadimg", 3),
    ("/cgi-bin/stable_token", 3),
];

/// Causes faults until the end. Returns how often all tokens became invalid.
pub(crate) async fn faults(
    simulator: Simulator,
    run: Arc<Run>,
    mut random: fastrand::Rng,
) -> usize {
    let (mut storms, mut until_storm) = (0, 40);
    while !run.has_ended() {
        sleep(Duration::from_millis(random.u64(20..250))).await;
        until_storm -= 1;
        if until_storm == 0 {
            simulator.control("DELETE", "tokens", &Value::Null).expect("done");
            (storms, until_storm) = (storms + 1, random.u32(40..90));
        }
        let waiting = simulator.control("GET", "faults", &Value::Null).expect("a list");
        if waiting["faults"].as_array().is_some_and(|waiting| waiting.len() < WAITING) {
            simulator.fault(fault(&mut random));
        }
    }
    simulator.control("DELETE", "faults", &json!({})).expect("cleared");
    storms
}

fn fault(random: &mut fastrand::Rng) -> Fault {
    let all: u32 = PATHS.iter().map(|(_, share)| share).sum();
    let mut at = random.u32(..all);
    let path = PATHS.iter().find(|(_, share)| {
        let found = at < *share;
        at = at.saturating_sub(*share);
        found
    });
    let path = path.map_or("*", |(path, _)| path);
    // For these calls, -1 is WeChat's statement that nothing was done, see `leaves_doubt` in
    // src/call.
    let believed =
        ["/wxa/del_store", "/wxa/delnearbypoi", "/wxa/update_store", "/cgi-bin/stable_token"];
    let busy = Kind::Errcode { errcode: -1, errmsg: None };
    let latency = Kind::Latency { ms: random.u64(100..1_500) };
    match random.u32(..100) {
        // A process that is killed was most likely waiting.
        0..40 => Fault::new(path, latency).times(random.u64(1..4)),
        40..50 => Fault::new(path, Kind::ResetAfter),
        50..57 => Fault::new(path, Kind::ResetBefore),
        57..63 if !believed.contains(&path) => Fault::new(path, busy).execute(true),
        57..68 => Fault::new(path, busy),
        68..73 => Fault::new(path, Kind::Status { code: 503, body: String::new() }),
        73..78 => Fault::new(path, Kind::Html502),
        78..83 => Fault::new(path, Kind::Html502).execute(true),
        83..90 => Fault::new(path, Kind::Truncate),
        90..93 => Fault::new(path, Kind::NotJson),
        93..95 if path != "/cgi-bin/stable_token" => Fault::new(path, Kind::Hold),
        95..100 if path != "/cgi-bin/stable_token" => {
            Fault::new(path, Kind::Errcode { errcode: REFUSAL, errmsg: None })
        }
        _ => Fault::new(path, Kind::Empty),
    }
}

/// Kills gateways and starts them again until the end. Returns them when all serve.
pub(crate) async fn kills(
    mut gateways: Vec<Gateway>,
    run: Arc<Run>,
    mut random: fastrand::Rng,
) -> Vec<Gateway> {
    while !run.has_ended() {
        let pause = random.u64(1_000..5_000);
        sleep(Duration::from_millis(pause)).await;
        let victim = random.usize(..gateways.len());
        let gateway = &mut gateways[victim];
        let from = now();
        gateway.kill();
        sleep(Duration::from_millis(random.u64(..300))).await;
        gateway.spawn();
        gateway.serves().await;
        let outage = Outage { gateway: victim, from, until: now() };
        run.outages.lock().expect("no panic").push(outage);
    }
    gateways
}

/// Decides reviews until the end.
pub(crate) async fn reviews(simulator: Simulator, run: Arc<Run>) {
    let wechat = WeChat { simulator, address: ([127, 0, 0, 1], 0).into() };
    while !run.has_ended() {
        sleep(Duration::from_millis(500)).await;
        wechat.approve_all();
    }
}

/// Collects the simulator's journal until the end.
pub(crate) async fn collect(simulator: Simulator, run: Arc<Run>) -> Vec<Entry> {
    let mut calls = Vec::new();
    while !run.has_ended() {
        calls.extend(simulator.take_calls());
        sleep(Duration::from_secs(1)).await;
    }
    calls
}
