//! More calls than WeChat answers in time: how many of those that could be answered are answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use wechat_store_gateway::testing::Raw;

use crate::{
    cases::reads::get_store,
    floor::GET_STORE,
    load::{self, Shape},
    rounds::{Bound, By, Claim, Report},
    world::{Gateway, Setup, World},
};

/// The upstream takes this long. With 64 concurrency permits an account gets 320 answers a second.
const SLOW: Duration = Duration::from_millis(200);
/// Each caller waits this long.
const DEADLINE: Duration = Duration::from_secs(2);
/// Twice as many callers as an account has permits. Each waits for its answer.
const SATURATION: Shape = Shape::new(4, 32);
/// Enough connections that none reaches its limit of streams.
const CONNECTIONS: usize = 32;
/// Calls start at this interval, many at once.
const TICK: Duration = Duration::from_millis(5);

/// The results of the calls of an open loop.
#[derive(Debug, Default)]
struct Seen {
    /// In milliseconds, of the calls that were answered before their deadline.
    answered: Vec<f64>,
    /// In milliseconds, of the calls that were refused as overload.
    refused: Vec<f64>,
    deadline_exceeded: u64,
    others: u64,
}

/// Makes calls at two and four times the rate at which they can be answered. They do not wait for
/// each other.
pub async fn overload(world: &World) -> anyhow::Result<Report> {
    let upstream = world.upstream(SLOW).await?;
    let sink = world.sink().await?;
    let mut report = Report::new("overload: an open loop of GetStore, each with 2 s to wait");
    for (name, twin) in [("gateway", false), ("twin", true)] {
        let setup = Setup { twin, ..Setup::default() };
        let gateway = world.gateway(name, &upstream, &sink, setup).await?;
        let message = Bytes::from(get_store().encode_to_vec());
        let closed = message.clone();
        // As many as are answered in some seconds.
        let calls = (320.0 * world.seconds.max(2.0)) as u64;
        let saturation =
            load::calls(gateway.grpc, GET_STORE, SATURATION, calls, move |_| closed.clone());
        let saturation = saturation.await?.rate();
        report.say(&format!("{name}: {saturation:.0} answers a second at saturation"));
        for times in [2.0, 4.0] {
            let mut seen = open_loop(&gateway, &message, saturation * times, world).await?;
            let seconds = window(world).as_secs_f64();
            let rate = seen.answered.len() as f64 / seconds;
            let p99 = quantile(&mut seen.answered, 0.99);
            report.say(&format!(
                "{name} at {times} x: {} answered, {} refused as overload, {} deadlines exceeded, {} \
                 others, in {seconds:.0} s; p50 {:.0} ms and p99 {p99:.0} ms of the answers, p50 \
                 {:.0} ms of the refusals",
                seen.answered.len(),
                seen.refused.len(),
                seen.deadline_exceeded,
                seen.others,
                quantile(&mut seen.answered, 0.5),
                quantile(&mut seen.refused, 0.5),
            ));
            let bound = |wanted: Bound| if twin { Bound::Told } else { wanted };
            report.claims(&[
                claim(
                    format!("share of saturation at {times} x: {name}"),
                    rate / saturation,
                    bound(Bound::AtLeast(0.9)),
                ),
                claim(
                    format!("p99 of the answers in ms at {times} x: {name}"),
                    p99,
                    bound(Bound::AtMost(DEADLINE.as_secs_f64() * 1e3)),
                ),
            ]);
        }
        gateway.process.stop().await?;
    }
    Ok(report)
}

fn claim(text: String, value: f64, bound: Bound) -> Claim {
    Claim { text, values: vec![value], noise: Vec::new(), by: By::Difference, bound }
}

/// Returns the time that is counted. It is long enough that its start and end matter little.
fn window(world: &World) -> Duration {
    Duration::from_secs_f64(world.seconds.max(6.0))
}

/// Starts calls at this rate. Counts those that end within the window, which starts when the queue
/// is full.
async fn open_loop(
    gateway: &Gateway,
    message: &Bytes,
    rate: f64,
    world: &World,
) -> anyhow::Result<Seen> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(load::channel(gateway.grpc).await?);
    }
    let channels = Arc::new(channels);
    let begun = Instant::now();
    let from = begun + DEADLINE;
    let to = from + window(world);
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut made: u64 = 0;
    while Instant::now() < to {
        ticks.tick().await;
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        for number in made..due {
            let (channels, message) = (channels.clone(), message.clone());
            calls.spawn(async move {
                let channel = &channels[number as usize % CONNECTIONS];
                let began = Instant::now();
                let result = call(channel, message).await;
                let took = began.elapsed();
                (Instant::now(), took, result)
            });
        }
        made = due;
    }
    let mut seen = Seen::default();
    while let Some(call) = calls.join_next().await {
        let (ended, took, result) = call?;
        if ended < from || ended > to {
            continue;
        }
        let millis = took.as_secs_f64() * 1e3;
        match result.map_err(|status| status.code()) {
            Ok(()) if took <= DEADLINE => seen.answered.push(millis),
            Ok(()) => seen.deadline_exceeded += 1,
            Err(Code::ResourceExhausted) => seen.refused.push(millis),
            Err(Code::DeadlineExceeded | Code::Cancelled) => seen.deadline_exceeded += 1,
            Err(_) => seen.others += 1,
        }
    }
    Ok(seen)
}

async fn call(channel: &Channel, message: Bytes) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    let path = http::uri::PathAndQuery::from_static(GET_STORE);
    grpc.unary(request, path, Raw).await.map(drop)
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
