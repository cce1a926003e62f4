//! Two accounts, for one of which WeChat is slow.

use std::time::Duration;

use anyhow::Context as _;
use prost::Message;
use wechat_store_gateway::pb;

use crate::{
    cases::reads::{BUSY, get_store},
    floor::GET_STORE,
    load::{self, Shape},
    rounds::{self, Bound, Contender, GATEWAY, Report, TWIN},
    upstream,
    world::{Setup, World, app_id},
};

/// WeChat takes this long for a call of the slow account.
const SLOW: Duration = Duration::from_millis(500);
/// More callers of the slow account than it has permits. The rest waits.
const CROWD: Shape = Shape::new(4, 100);
const CALM: &str = "without slow calls";

/// Measures the calls of one account while another waits for WeChat with all its permits.
pub async fn slow(world: &World) -> anyhow::Result<Report> {
    let upstream = world.sometimes_slow_upstream(SLOW).await?;
    let sink = world.sink().await?;
    let mut gateways = Vec::new();
    for name in [GATEWAY, TWIN, CALM] {
        let setup = Setup { accounts: 2, twin: name == TWIN, ..Setup::default() };
        gateways.push((name, world.gateway(name, &upstream, &sink, setup).await?));
    }
    let slow = pb::GetStoreRequest { app_id: app_id(1), poi_id: upstream::SLOW.to_owned() };
    let mut crowds = Vec::new();
    for (_, gateway) in gateways.iter().filter(|(name, _)| *name != CALM) {
        let (address, slow) = (gateway.grpc, slow.encode_to_vec());
        let calls = load::calls(address, GET_STORE, CROWD, u64::MAX, move |_| slow.clone().into());
        crowds.push(tokio::spawn(calls));
    }
    // The permits are in use.
    tokio::time::sleep(SLOW).await;
    let others = [upstream.process.pid()];
    let contenders: Vec<_> = gateways
        .iter()
        .map(|(name, gateway)| {
            let address = gateway.grpc;
            Contender::new(name, gateway.process.pid(), &others, move |calls| {
                load::calls(address, GET_STORE, BUSY, calls, |_| get_store().encode_to_vec().into())
            })
        })
        .collect();
    let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
    for crowd in crowds {
        // It ends only if a call fails.
        match crowd.is_finished() {
            true => drop(crowd.await?.context("a slow call")?),
            false => crowd.abort(),
        }
    }
    let mut report =
        Report::new("slow: GetStore of one account, beside another of which WeChat is slow");
    report.say(&format!(
        "400 callers of the other account at a time, {} ms at WeChat. The CPU includes their calls.",
        SLOW.as_millis()
    ));
    report.samples(&measured);
    report.claims(&[
        measured.ratio(GATEWAY, CALM, "calls a second", |sample| sample.rate, Bound::AtLeast(0.9)),
        measured.ratio(GATEWAY, CALM, "p50", |sample| sample.p50, Bound::AtMost(1.1)),
        measured.ratio(GATEWAY, CALM, "p99", |sample| sample.p99, Bound::AtMost(1.5)),
    ]);
    Ok(report)
}
