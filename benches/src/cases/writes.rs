//! Writes with a journal, beside a bare proxy and bare rows of SQLite.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use wechat_store_gateway::pb;

use crate::{
    cases::reads::{BUSY, Cast},
    floor::{ADD_STORE, SET_STORE_CARD},
    load::{self, Shape},
    process::Core,
    rounds::{self, Bound, By, Claim, Contender, GATEWAY, Measured, Report, Spread, TWIN},
    world::World,
};

/// The state writes durably this many times for a call: when it is sent, and when it ends.
const VERBS: f64 = 2.0;
/// A file of raw rows gets this many.
const ROWS: u64 = 20_000;

/// WeChat's example.
pub fn set_store_card(_: u64) -> Bytes {
    let request = pb::SetStoreCardRequest {
        app_id: String::new(),
        request_id: Uuid::new_v4().to_string(),
        poi_id: "1234567".to_owned(),
        card_id: "pabcedfg1234567hijklmn".to_owned(),
    };
    request.encode_to_vec().into()
}

/// WeChat's example.
pub fn add_store(_: u64) -> Bytes {
    let request = pb::AddStoreRequest {
        request_id: Uuid::new_v4().to_string(),
        map_poi_id: "2880741500279549033".to_owned(),
        picture_urls: vec![
            "http://mmbiz.qpic.cn/mmbiz_jpg/tW66AWvE2K4EJxIYOVpiaGOkfg0iayibiaP2xHOChvbmKQD5uh8ymib\
             bEKlTTPmjTdQ8ia43sULLeG1pT2psOfPic4kTw/0?wx_fmt=jpeg"
                .to_owned(),
        ],
        contact_phone: "1111222222".to_owned(),
        hours: Some(pb::OpeningHours {
            open: "11:11".to_owned(),
            close: "12:12".to_owned(),
            ..pb::OpeningHours::default()
        }),
        license_number: "22883878-0".to_owned(),
        company_name: "某公司".to_owned(),
        qualification_media_ids: vec![
            "RTZgKZ386yFn5kQSWLTxe4bqxwgzGBjs3OE02cg9CVQk1wRVE3c8fjUFX7jvpi-P".to_owned(),
        ],
        ..pb::AddStoreRequest::default()
    };
    request.encode_to_vec().into()
}

/// Returns the request of a call, by its number.
pub type Message = fn(u64) -> Bytes;

/// Measures writes, each with its own `request_id`.
pub async fn writes(world: &World) -> anyhow::Result<Report> {
    let mut report = Report::new("write: journalled, each with a request_id of its own");
    let kinds: [(_, _, Message); 2] = [
        ("SetStoreCard", SET_STORE_CARD, set_store_card),
        ("AddStore, which is reviewed", ADD_STORE, add_store),
    ];
    for (name, path, message) in kinds {
        let (busy, syncs) = measure(world, path, message, BUSY).await?;
        let group = (VERBS / syncs).max(1.0);
        let row = row(world, group.round() as u64, Duration::ZERO).await?;
        report.say(&format!(
            "{name}, 4 connections with 16 calls each: {syncs:.3} syncs a write, {group:.1} rows a \
             transaction. A raw row of SQLite in transactions of as many: {:.1} µs of CPU; one that \
             is changed once in a later transaction, as a write is: {:.1} µs.",
            row.cpu.median, row.changed.median
        ));
        report.samples(&busy);
        let budget = Bound::AtMost(2.5);
        let of = |name| busy.values(name, |sample| sample.cpu);
        let (gateways, twins) = (of(GATEWAY), of(TWIN));
        let rows = |ours: &[f64], theirs: &[f64]| {
            let pairs = ours.iter().zip(theirs);
            pairs.map(|(ours, theirs)| (ours - theirs) / row.cpu.median).collect::<Vec<_>>()
        };
        report.claims(&[
            Claim {
                text: "CPU: (gateway − (b)) / raw row".to_owned(),
                values: rows(&gateways, &of("(b)")),
                noise: rows(&twins, &gateways),
                by: By::Difference,
                bound: budget,
            },
            Claim {
                text: "syncs a write".to_owned(),
                values: vec![syncs],
                noise: Vec::new(),
                by: By::Difference,
                bound: Bound::AtMost(0.1),
            },
            busy.ratio(GATEWAY, "(b)", "calls a second", |sample| sample.rate, Bound::Told),
        ]);

        let one = Shape::new(1, 1);
        let (alone, syncs) = measure(world, path, message, one).await?;
        // Between two of its commits, a write waits for WeChat, or its caller for the next write.
        let pause = Spread::of(alone.values("(b)", |sample| sample.p50)).median;
        let single = self::row(world, 1, Duration::from_micros(pause as u64)).await?;
        let commit = single.paused.median;
        report.say(&format!(
            "{name}, one at a time: {syncs:.2} syncs a write. A commit of one raw row, {pause:.0} µs \
             after the last: {commit:.0} µs; right after it: {:.0} µs.",
            single.commit.median
        ));
        report.samples(&alone);
        let bound = Bound::AtMost((2.0 * commit + 500.0).round());
        report.claims(&[alone.difference(
            GATEWAY,
            "(b)",
            "p50 µs (two commits + 500)",
            |sample| sample.p50,
            bound,
        )]);
    }
    Ok(report)
}

/// Measures both gateways and (b), and the syncs of a write in the first gateway.
async fn measure(
    world: &World,
    path: &'static str,
    message: Message,
    shape: Shape,
) -> anyhow::Result<(Measured, f64)> {
    let cast = Cast::start(world).await?;
    let proxy = world.proxy(&cast.upstream).await?;
    let [first, second] = &cast.gateways;
    let others = [cast.upstream.process.pid()];
    let servers = [
        (GATEWAY, first.process.pid(), first.grpc),
        (TWIN, second.process.pid(), second.grpc),
        ("(b)", proxy.process.pid(), proxy.address),
    ];
    let contenders = servers.map(|(name, pid, address)| {
        Contender::new(name, pid, &others, move |calls| {
            load::calls(address, path, shape, calls, message)
        })
    });
    let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
    let before = syncs(&first.syncs)?;
    let calls =
        2000.min((world.seconds * measured.values(GATEWAY, |sample| sample.rate)[0]) as u64);
    load::calls(first.grpc, path, shape, calls, message).await?;
    // The submission record follows the answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let syncs = syncs(&first.syncs)? - before;
    Ok((measured, syncs as f64 / calls as f64))
}

/// Returns the number of syncs that syncs.c counted.
pub fn syncs(file: &Path) -> anyhow::Result<u64> {
    let bytes = fs::read(file)?;
    Ok(u64::from_ne_bytes(bytes.get(..8).unwrap_or_default().try_into()?))
}

/// The cost of a raw row.
pub struct Row {
    /// Processor time, in microseconds.
    pub cpu: Spread,
    /// Processor time of a row that is changed once, in a later transaction.
    pub changed: Spread,
    /// The time of its transaction right after another one, in microseconds.
    pub commit: Spread,
    /// The time of its transaction after a pause, in microseconds.
    pub paused: Spread,
}

/// Writes rows of SQLite in transactions of `group`, in a process of its own.
async fn row(world: &World, group: u64, pause: Duration) -> anyhow::Result<Row> {
    let folder = world.folder("rows")?;
    let (group, rows) = (group.to_string(), ROWS.min(400 * group).to_string());
    let pause = pause.as_micros().to_string();
    let mut found = [const { Vec::new() }; 4];
    for round in 0..world.rounds {
        let file = folder.join(format!("{round}.db")).display().to_string();
        let output = world
            .placing
            .command(Core::Server, &world.floor)
            .args(["serve", "rows", "--state", &file, "--group", &group, "--rows", &rows])
            .args(["--pause", &pause])
            .output()
            .await?;
        let said = String::from_utf8(output.stdout)?;
        let numbers = said.split_whitespace().filter_map(|word| word.parse().ok());
        let numbers = Vec::<f64>::from_iter(numbers);
        anyhow::ensure!(numbers.len() == found.len(), "rows: {said}");
        found.iter_mut().zip(numbers).for_each(|(found, number)| found.push(number));
    }
    let [cpu, changed, commit, paused] = found.map(Spread::of);
    Ok(Row { cpu, changed, commit, paused })
}
