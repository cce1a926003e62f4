//! One event, many watchers.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{sync::watch, task::JoinSet};
use tonic::{client::Grpc, transport::Channel};
use wechat_store_gateway::{
    pb::{self, WatchPosition, watch_audit_events_request::Start},
    testing::Raw,
};

use crate::{
    cases::callbacks::{numbers, pushes},
    floor::WATCH,
    load::{self, Seen},
    process::{self, Core, Process},
    rounds::{self, Bound, By, Claim, Contender, GATEWAY, Measured, Report, TWIN},
    world::{Setup, World, free_port},
};

/// Watchers on one connection.
const STREAMS: usize = 100;

/// Watchers, and the number of events that all of them have received together.
struct Watchers {
    _tasks: JoinSet<anyhow::Result<()>>,
    seen: watch::Receiver<u64>,
    count: u64,
}

impl Watchers {
    /// Connects this many watchers, each from now on.
    async fn connect(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let request = pb::WatchAuditEventsRequest {
            start: Some(Start::Position(WatchPosition::Latest.into())),
            ..pb::WatchAuditEventsRequest::default()
        };
        let request = Bytes::from(request.encode_to_vec());
        let (sender, seen) = watch::channel(0);
        let mut tasks = JoinSet::new();
        let mut channel = None;
        for number in 0..count {
            let channel = match &channel {
                Some(channel) if number % STREAMS != 0 => channel,
                _ => channel.insert(load::channel(address).await?),
            };
            let mut events = watch(channel.clone(), request.clone()).await?;
            let sender = sender.clone();
            tasks.spawn(async move {
                while let Some(message) = events.message().await? {
                    // A message without an event is a checkpoint. An event has far more bytes.
                    if message.len() > 128 {
                        sender.send_modify(|seen| *seen += 1);
                    }
                }
                anyhow::bail!("a stream has ended")
            });
        }
        Ok(Self { _tasks: tasks, seen, count: count as u64 })
    }

    /// Waits until each watcher has one event more than before.
    async fn all(&self, before: u64) -> anyhow::Result<()> {
        let mut seen = self.seen.clone();
        let all = seen.wait_for(|seen| *seen >= before + self.count);
        tokio::time::timeout(Duration::from_secs(20), all).await??;
        Ok(())
    }
}

async fn watch(channel: Channel, request: Bytes) -> anyhow::Result<tonic::Streaming<Bytes>> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let path = PathAndQuery::from_static(WATCH);
    Ok(grpc.server_streaming(tonic::Request::new(request), path, Raw).await?.into_inner())
}

/// Sends one event at a time. The next one follows when all watchers have the last one and the
/// interval is over. Returns the time until the last watcher has each event.
async fn one_by_one(
    address: SocketAddr,
    requests: Vec<Bytes>,
    watchers: Option<&Watchers>,
    interval: Duration,
) -> anyhow::Result<Seen> {
    let (begun, mut took) = (Instant::now(), Vec::new());
    for request in requests {
        let begun = Instant::now();
        let before = watchers.map(|watchers| *watchers.seen.borrow()).unwrap_or_default();
        load::posts(address, 1, vec![request]).await?;
        if let Some(watchers) = watchers {
            watchers.all(before).await?;
        }
        took.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        tokio::time::sleep(interval.saturating_sub(begun.elapsed())).await;
    }
    Ok(Seen { took, seconds: begun.elapsed().as_secs_f64() })
}

/// Measures events to 1, 100 and 1,000 watchers.
pub async fn fanout(world: &World) -> anyhow::Result<Report> {
    let mut report = Report::new("fanout: an event to all who watch");
    for count in [1, 100, 1000] {
        watched(world, count, &mut report).await?;
    }
    Ok(report)
}

async fn watched(world: &World, count: usize, report: &mut Report) -> anyhow::Result<()> {
    let interval = Duration::from_millis(if count < 1000 { 2 } else { 30 });
    let upstream = world.upstream(Duration::ZERO).await?;
    let sink = world.sink().await?;
    let mut gateways = Vec::new();
    for name in ["gateway", "twin", "unwatched"] {
        let setup = Setup { twin: name == "twin", ..Setup::default() };
        gateways.push(world.gateway(name, &upstream, &sink, setup).await?);
    }
    let event = sample_event(gateways[0].grpc, gateways[0].callback).await?;
    let bytes = world.folder.join("event");
    fs::write(&bytes, &event)?;
    let bytes = bytes.display().to_string();
    let mut streams = Vec::new();
    for name in ["stream", "stream-unwatched"] {
        let trigger = free_port()?;
        let at = trigger.to_string();
        let args = ["stream", "--trigger", &at, "--bytes", &bytes];
        streams.push((world.floor(name, Core::Server, &args).await?, trigger));
    }

    let resident = |process: &Process| process::memory(process.pid(), "VmRSS");
    let before = [resident(&gateways[0].process)?, resident(&streams[0].0.process)?];
    let first = Watchers::connect(gateways[0].grpc, count).await?;
    let second = Watchers::connect(gateways[1].grpc, count).await?;
    let bare = Watchers::connect(streams[0].0.address, count).await?;

    let push = |name, index: usize, watchers| {
        let (address, pid) = (gateways[index].callback, gateways[index].process.pid());
        Contender::new(name, pid, &[], move |count| async move {
            one_by_one(address, pushes(count)?, watchers, interval).await
        })
    };
    let trigger = |name, index: usize, watchers| {
        let (server, address) = &streams[index];
        Contender::new(name, server.process.pid(), &[], move |count| {
            one_by_one(*address, numbers(count), watchers, interval)
        })
    };
    let contenders = [
        push(GATEWAY, 0, Some(&first)),
        push(TWIN, 1, Some(&second)),
        push("unwatched", 2, None),
        trigger("stream", 0, Some(&bare)),
        trigger("stream unwatched", 1, None),
    ];
    let most = if count < 1000 { 125 } else { 8 };
    let contenders = contenders.map(|contender| contender.at_most(most));
    let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
    let after = [resident(&gateways[0].process)?, resident(&streams[0].0.process)?];
    let grown = [0, 1].map(|index| (after[index] as f64 - before[index] as f64) / count as f64);

    report.say(&format!(
        "{count} watchers, {STREAMS} on a connection; events of {} bytes, one every {} ms. A call is \
         an event, its time that until the last watcher has it.",
        event.len(),
        interval.as_millis()
    ));
    report.samples(&measured);
    report.claims(&claims(&measured, count, grown));
    Ok(())
}

/// Pushes an event, and returns the bytes that a watcher gets.
async fn sample_event(grpc: SocketAddr, callback: SocketAddr) -> anyhow::Result<Bytes> {
    let request = pb::WatchAuditEventsRequest {
        start: Some(Start::Position(WatchPosition::Latest.into())),
        ..pb::WatchAuditEventsRequest::default()
    };
    let mut events = watch(load::channel(grpc).await?, request.encode_to_vec().into()).await?;
    load::posts(callback, 1, pushes(1)?).await?;
    loop {
        let message = events.message().await?.unwrap_or_default();
        if message.len() > 128 {
            return Ok(message);
        }
    }
}

/// Returns the claims about this many watchers. `grown` is the memory for each of them, in KB, of the
/// gateway and of the bare stream.
fn claims(measured: &Measured, count: usize, grown: [f64; 2]) -> Vec<Claim> {
    let cpu = |name| measured.values(name, |sample| sample.cpu);
    let each = |watched, unwatched| {
        let pairs = cpu(watched).into_iter().zip(cpu(unwatched));
        pairs.map(|(watched, not)| (watched - not) / count as f64).collect::<Vec<_>>()
    };
    let (ours, twins) = (each(GATEWAY, "unwatched"), each(TWIN, "unwatched"));
    let floors = each("stream", "stream unwatched");
    let by = |one: &[f64], other: &[f64]| {
        one.iter().zip(other).map(|(one, other)| one / other).collect::<Vec<_>>()
    };
    let told = |text: &str, values: &[f64]| Claim {
        text: text.to_owned(),
        values: values.to_vec(),
        noise: Vec::new(),
        by: By::Difference,
        bound: Bound::Told,
    };
    let mut claims = vec![
        told("CPU µs a delivery: gateway", &ours),
        told("CPU µs a delivery: stream", &floors),
        Claim {
            text: "CPU a delivery: gateway / stream".to_owned(),
            values: by(&ours, &floors),
            noise: by(&twins, &ours),
            by: By::Ratio,
            bound: Bound::AtMost(1.5),
        },
    ];
    if count >= 1000 {
        let [ours, floor] = grown;
        claims.push(Claim { bound: Bound::AtMost(10.0), ..told("KB a watcher: gateway", &[ours]) });
        claims.push(told("KB a watcher: stream", &[floor]));
    }
    claims
}
