//! The cost of the process itself: start, memory, and both after a long run.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use prost::Message;
use tonic_health::pb::HealthCheckRequest;
use wechat_store_gateway::pb;

use crate::{
    cases::reads::{BUSY, get_store},
    floor::GET_STORE,
    load::{self, H2load, Shape},
    process::{self, Core},
    rounds::{Bound, By, Claim, Report, Spread},
    world::{Setup, World, app_id, get},
};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Calls at a time.
const CROWD: Shape = Shape::new(10, 100);
/// The upstream takes this long for each of them.
const SLOW: Duration = Duration::from_millis(200);
/// The metrics of so many calls are recorded.
const RECORDED: &str = "2000000";
/// A soak measures the memory this many times.
const LOOKS: u64 = 20;

fn claim(text: &str, values: &[f64], noise: &[f64], bound: Bound) -> Claim {
    let (values, noise) = (values.to_vec(), noise.to_vec());
    Claim { text: text.to_owned(), values, noise, by: By::Difference, bound }
}

/// Measures the time from the start of the process to its first answer.
pub async fn start(world: &World) -> anyhow::Result<Report> {
    let upstream = world.upstream(Duration::ZERO).await?;
    let sink = world.sink().await?;
    let message = Bytes::from(HealthCheckRequest::default().encode_to_vec());
    let (mut ours, mut again, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    // The first start reads the binary from the disk.
    for round in 0..=world.rounds * 3 {
        for which in 0..3 {
            let begun = Instant::now();
            let (process, address, path) = if which < 2 {
                let setup = Setup { twin: which == 1, ..Setup::default() };
                let gateway = world.spawn_gateway("start", &upstream, &sink, setup)?;
                (gateway.process, gateway.grpc, HEALTH)
            } else {
                let server = world.spawn_floor("start", Core::Server, &["echo"])?;
                (server.process, server.address, HEALTH)
            };
            while std::net::TcpStream::connect(address).is_err() {
                anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "{}", process.said());
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            load::call(&load::channel(address).await?, path, message.clone()).await?;
            let took = begun.elapsed().as_secs_f64() * 1e3;
            if round > 0 {
                [&mut ours, &mut again, &mut bare][which].push(took);
            }
            process.stop().await?;
        }
    }
    let noise: Vec<_> = ours.iter().zip(&again).map(|(one, other)| other - one).collect();
    let mut report = Report::new("start: from the start of the process to its first answer");
    report.claims(&[
        claim("ms to Health: gateway", &ours, &noise, Bound::AtMost(50.0)),
        claim("ms to any answer: (a)", &bare, &[], Bound::Told),
    ]);
    Ok(report)
}

/// Measures the memory of an idle gateway, and that of one with 1,000 calls at a time.
pub async fn memory(world: &World) -> anyhow::Result<Report> {
    let upstream = world.upstream(SLOW).await?;
    let sink = world.sink().await?;
    let (mut idle, mut most, mut connections, mut at_wechat) = (Vec::new(), Vec::new(), 0, 0);
    let (mut default, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..world.rounds.min(3) {
        let setup = Setup { accounts: 2, traces: false, ..Setup::default() };
        let gateway = world.gateway("memory", &upstream, &sink, setup).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        default.push(process::memory(gateway.process.pid(), "VmRSS")? as f64 / 1024.0);
        gateway.process.stop().await?;
        let setup = Setup { accounts: 2, ..Setup::default() };
        let gateway = world.gateway("memory", &upstream, &sink, setup).await?;
        let pid = gateway.process.pid();
        let megabytes = |line| anyhow::Ok(process::memory(pid, line)? as f64 / 1024.0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        idle.push(megabytes("VmRSS")?);
        let message = |number: u64| {
            let request =
                pb::GetStoreRequest { app_id: app_id(number as usize % 2), ..get_store() };
            request.encode_to_vec().into()
        };
        load::calls(gateway.grpc, GET_STORE, CROWD, 5000, message).await?;
        most.push(megabytes("VmHWM")?);
        let counts: serde_json::Value =
            serde_json::from_slice(&get(upstream.address, "/_counts").await?)?;
        let count = |name: &str| counts[name].as_u64().context("no number");
        // This request itself has one connection.
        connections = connections.max(count("most_connections")?.saturating_sub(1));
        at_wechat = at_wechat.max(count("most_calls")?);
        gateway.process.stop().await?;
        let server = world.floor("echo", Core::Server, &["echo"]).await?;
        bare.push(process::memory(server.process.pid(), "VmRSS")? as f64 / 1024.0);
    }
    let mut report = Report::new("memory: resident megabytes");
    report.claims(&[
        claim("idle, by default: gateway", &default, &[], Bound::AtMost(15.0)),
        claim("idle, with an exporter of traces: gateway", &idle, &[], Bound::AtMost(15.0)),
        claim("idle: (a)", &bare, &[], Bound::Told),
        claim("most, with 1,000 calls at a time: gateway", &most, &[], Bound::AtMost(40.0)),
        claim("most calls at WeChat at a time", &[at_wechat as f64], &[], Bound::AtMost(128.0)),
        claim("most connections, those for tokens too", &[connections as f64], &[], Bound::Told),
    ]);
    Ok(report)
}

/// Measures what the metrics record for a proxied read, in a process that does nothing else.
pub async fn metrics(world: &World) -> anyhow::Result<Report> {
    let mut took = [const { Vec::new() }; 2];
    for _ in 0..world.rounds {
        for took in &mut took {
            let mut command = world.placing.command(Core::Server, &world.floor);
            let output = command.args(["pure", "metrics", RECORDED]).output().await?;
            let said = String::from_utf8_lossy(&output.stdout);
            took.push(said.trim().parse::<f64>().with_context(|| said.clone().into_owned())?);
        }
    }
    let [first, again] = took;
    let noise = Vec::from_iter(first.iter().zip(&again).map(|(one, other)| other - one));
    let mut report = Report::new("metrics: what a GetStore records, with 10,000 accounts");
    report.claims(&[claim("ns a call", &first, &noise, Bound::AtMost(1000.0))]);
    Ok(report)
}

/// Makes this many calls in a row, and reports how memory and cost behave.
pub async fn soak(world: &World, calls: u64) -> anyhow::Result<Report> {
    let upstream = world.upstream(Duration::ZERO).await?;
    let sink = world.sink().await?;
    let gateway = world.gateway("soak", &upstream, &sink, Setup::default()).await?;
    let request = get_store();
    let channel = load::channel(gateway.grpc).await?;
    let response = load::call(&channel, GET_STORE, request.encode_to_vec().into()).await?;
    let h2load = H2load {
        placing: world.placing,
        way: gateway.grpc.into(),
        path: GET_STORE,
        body: world.request("soak", &request)?,
        response: response.len(),
        shape: BUSY,
    };
    let pid = gateway.process.pid();
    let (mut memory, mut cost) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let before = process::cpu(pid)?;
        let seen = h2load.run(calls / LOOKS).await?;
        cost.push((process::cpu(pid)? - before) as f64 / 1e3 / seen.calls() as f64);
        memory.push(process::memory(pid, "VmRSS")? as f64 / 1024.0);
    }
    let mut report = Report::new(&format!("soak: {calls} calls"));
    let line = |values: &[f64]| {
        let values: Vec<_> = values.iter().map(|value| format!("{value:.1}")).collect();
        values.join(" ")
    };
    report.say(&format!("Megabytes: {}.", line(&memory)));
    report.say(&format!("CPU µs a call: {}.", line(&cost)));
    // The first quarter fills memory that is then used again.
    let (early, late) = memory.split_at(memory.len() / 4);
    let early = Spread::of(early.iter().copied()).max;
    let grown = Spread::of(late.iter().copied()).max - early;
    report.claims(&[claim("MB more after the first quarter", &[grown], &[], Bound::AtMost(1.0))]);
    Ok(report)
}
