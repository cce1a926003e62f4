//! The cost of a call when there are many accounts or events.

use std::time::Duration;

use prost::Message;
use wechat_store_gateway::pb;

use crate::{
    cases::{
        callbacks::push,
        reads::{BUSY, get_store},
    },
    floor::GET_STORE,
    load,
    process::Core,
    rounds::{self, Bound, Contender, GATEWAY, Report, TWIN},
    world::{Setup, World, app_id},
};

const SAME: Bound = Bound::AtMost(1.1);

/// Measures `GetStore` of one account, of 100, and of 10,000, one after the other.
pub async fn accounts(world: &World) -> anyhow::Result<Report> {
    let upstream = world.upstream(Duration::ZERO).await?;
    let sink = world.sink().await?;
    let sizes = [(GATEWAY, 1), (TWIN, 1), ("100", 100), ("10,000", 10_000)];
    let mut gateways = Vec::new();
    for (name, accounts) in sizes {
        let setup = Setup { accounts, twin: name == TWIN, ..Setup::default() };
        gateways.push(world.gateway(&format!("accounts-{name}"), &upstream, &sink, setup).await?);
    }
    let others = [upstream.process.pid()];
    let mut contenders = Vec::new();
    for ((name, accounts), gateway) in sizes.into_iter().zip(&gateways) {
        let message = move |number: u64| {
            let app_id = app_id(usize::try_from(number).unwrap_or_default() % accounts);
            pb::GetStoreRequest { app_id, ..get_store() }.encode_to_vec().into()
        };
        // Each account gets its token.
        load::calls(gateway.grpc, GET_STORE, BUSY, accounts as u64, message).await?;
        let address = gateway.grpc;
        contenders.push(Contender::new(name, gateway.process.pid(), &others, move |calls| {
            load::calls(address, GET_STORE, BUSY, calls, message)
        }));
    }
    let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
    let mut report = Report::new("accounts: GetStore, of as many accounts as there are");
    report.samples(&measured);
    report.claims(&[
        measured.ratio("100", GATEWAY, "CPU", |sample| sample.cpu, SAME),
        measured.ratio("10,000", GATEWAY, "CPU", |sample| sample.cpu, SAME),
    ]);
    Ok(report)
}

/// Measures pushes and reads with an empty log and with a long one.
pub async fn events(world: &World) -> anyhow::Result<Report> {
    let count = world.events;
    let file = world.folder.join("filled.db");
    let (number, state) = (count.to_string(), file.display().to_string());
    let mut fill = world.placing.command(Core::Server, &world.floor);
    let status =
        fill.args(["serve", "fill", "--state", &state, "--events", &number]).status().await?;
    anyhow::ensure!(status.success(), "fill: {status}");
    let upstream = world.upstream(Duration::ZERO).await?;
    let sink = world.sink().await?;
    let full = Setup { state: Some(file), ..Setup::default() };
    let full_name = format!("{count} events");
    let names = [GATEWAY, TWIN, &full_name];
    let mut gateways = Vec::new();
    let twin = Setup { twin: true, ..Setup::default() };
    for (folder, setup) in [("none", Setup::default()), ("twin", twin), ("full", full)] {
        gateways.push(world.gateway(folder, &upstream, &sink, setup).await?);
    }
    let mut report = Report::new(&format!("events: a log of none, and of {count}"));
    let pushed: Vec<_> = names
        .iter()
        .zip(&gateways)
        .map(|(name, gateway)| {
            let address = gateway.callback;
            Contender::new(name, gateway.process.pid(), &[], move |count| push(address, 16, count))
                .at_most(10_000)
        })
        .collect();
    let measured = rounds::run(world.rounds, world.seconds, &pushed).await?;
    report.say("Pushes, 16 at a time.");
    report.samples(&measured);
    report.claims(&[measured.ratio(&full_name, GATEWAY, "CPU", |sample| sample.cpu, SAME)]);
    let others = [upstream.process.pid()];
    let read: Vec<_> = names
        .iter()
        .zip(&gateways)
        .map(|(name, gateway)| {
            let address = gateway.grpc;
            Contender::new(name, gateway.process.pid(), &others, move |calls| {
                load::calls(address, GET_STORE, BUSY, calls, |_| get_store().encode_to_vec().into())
            })
        })
        .collect();
    let measured = rounds::run(world.rounds, world.seconds, &read).await?;
    report.say("GetStore, 4 connections with 16 calls each.");
    report.samples(&measured);
    report.claims(&[measured.ratio(&full_name, GATEWAY, "CPU", |sample| sample.cpu, SAME)]);
    Ok(report)
}
