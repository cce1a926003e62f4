//! The state in Redis, beside the state in a file.

use std::time::Duration;

use crate::{
    cases::{
        callbacks::push,
        reads::BUSY,
        writes::{Message, add_store, set_store_card},
    },
    floor::{ADD_STORE, SET_STORE_CARD},
    load::{self, Seen, Shape},
    process,
    rounds::{self, Bound, By, Claim, Contender, GATEWAY, Report, TWIN},
    world::{Gateway, Redis, Server, Setup, World},
};

/// The gateway with a file.
const FILE: &str = "SQLite";
/// The calls of which the round trips are counted.
const COUNTED: u64 = 2000;
const ALONE: Shape = Shape::new(1, 1);
/// As many as WeChat may have at a time.
const PUSHES: usize = 16;

/// What takes part.
struct Cast {
    upstream: Server,
    _sink: Server,
    /// Those of the first two gateways.
    stores: [Redis; 2],
    gateways: [Gateway; 3],
}

/// Measures writes and pushes.
pub async fn redis(world: &World) -> anyhow::Result<Report> {
    let mut report = Report::new("redis: writes and pushes with the state in Redis");
    let writes: [(_, _, Message); 2] = [
        ("SetStoreCard", SET_STORE_CARD, set_store_card),
        ("AddStore, which is reviewed", ADD_STORE, add_store),
    ];
    for (name, path, message) in writes {
        for (shape, how) in [(BUSY, "64 callers"), (ALONE, "one caller")] {
            let cast = Cast::start(world).await?;
            let calls = |gateway: &Gateway| {
                let address = gateway.grpc;
                move |calls| load::calls(address, path, shape, calls, message)
            };
            measure(world, &mut report, &cast, &format!("{name}, {how}"), "write", calls).await?;
        }
    }
    let cast = Cast::start(world).await?;
    let pushes = |gateway: &Gateway| {
        let address = gateway.callback;
        move |count| push(address, PUSHES, count)
    };
    measure(world, &mut report, &cast, "A push, 16 at a time", "push", pushes).await?;
    Ok(report)
}

impl Cast {
    async fn start(world: &World) -> anyhow::Result<Self> {
        let (upstream, sink) = (world.upstream(Duration::ZERO).await?, world.sink().await?);
        let stores = [world.redis("redis").await?, world.redis("redis-twin").await?];
        let [first, second] = &stores;
        let setup = Setup { redis: Some(first.url()), ..Setup::default() };
        let first = world.gateway("gateway", &upstream, &sink, setup).await?;
        let setup = Setup { redis: Some(second.url()), twin: true, ..Setup::default() };
        let second = world.gateway("twin", &upstream, &sink, setup).await?;
        let third = world.gateway("file", &upstream, &sink, Setup::default()).await?;
        Ok(Self { upstream, _sink: sink, stores, gateways: [first, second, third] })
    }
}

/// Measures one kind of call.
async fn measure<D, F>(
    world: &World,
    report: &mut Report,
    cast: &Cast,
    title: &str,
    noun: &str,
    drive: impl Fn(&Gateway) -> D,
) -> anyhow::Result<()>
where
    D: Fn(u64) -> F,
    F: Future<Output = anyhow::Result<Seen>>,
{
    let Cast { upstream, stores, gateways, .. } = cast;
    let others = [upstream.process.pid(), stores[0].process.pid(), stores[1].process.pid()];
    let contenders: Vec<_> = [GATEWAY, TWIN, FILE]
        .iter()
        .zip(gateways)
        .map(|(name, gateway)| {
            let contender = Contender::new(name, gateway.process.pid(), &others, drive(gateway));
            contender.at_most(10_000)
        })
        .collect();
    let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
    let store = &stores[0];
    let (reads, cpu) = (store.reads()?, process::cpu(store.process.pid())?);
    drive(&gateways[0])(COUNTED).await?;
    let cpu = (process::cpu(store.process.pid())? - cpu) as f64 / 1e3 / COUNTED as f64;
    // The count itself is one.
    let reads = (store.reads()? - reads - 1) as f64 / COUNTED as f64;
    report.say(&format!("{title}. Redis itself: {cpu:.1} µs of CPU a {noun}."));
    report.samples(&measured);
    report.claims(&[
        Claim {
            text: format!("round trips a {noun}"),
            values: vec![reads],
            noise: Vec::new(),
            by: By::Difference,
            bound: Bound::Told,
        },
        measured.difference(GATEWAY, FILE, "CPU µs", |sample| sample.cpu, Bound::Told),
        measured.difference(GATEWAY, FILE, "p50 µs", |sample| sample.p50, Bound::Told),
    ]);
    Ok(())
}
