//! Where the processor time of a read goes, in the gateway and in (b).

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;

use crate::{
    cases::reads::{BUSY, get_store},
    floor::GET_STORE,
    load::{self, H2load},
    process::{self, Core, Process},
    rounds::Report,
    world::{Setup, World},
};

/// The layer of a function is the first one of which its name contains a word.
const LAYERS: &[(&str, &[&str])] = &[
    ("kernel", &["[k]"]),
    ("allocator", &["malloc", "_int_free", "cfree", "realloc", "calloc", "unlink_chunk", "__rdl_"]),
    ("moving memory", &["memmove", "memcpy", "memcmp", "memset"]),
    ("URLs", &["url::", "idna", "form_urlencoded", "percent_encoding"]),
    ("gateway: admit, telemetry", &["gateway::admit", "gateway::context", "gateway::telemetry"]),
    ("tracing", &["tracing", "opentelemetry"]),
    ("gateway: service, translate", &["gateway::service", "gateway::pb", "gateway::translate"]),
    ("gateway: operation, account", &["gateway::operation", "gateway::account", "gateway::clock"]),
    ("moka", &["moka"]),
    ("gateway: wechat", &["gateway::wechat"]),
    ("floor", &["gateway_benches"]),
    ("serde", &["serde"]),
    ("prost", &["prost"]),
    ("reqwest", &["reqwest", "tower_http", "rustls"]),
    ("hyper, client", &["hyper_util::client", "hyper::client", "hyper::proto::h1"]),
    ("h2", &["h2::"]),
    ("hyper, server", &["hyper"]),
    ("tonic, axum, tower", &["tonic", "axum", "tower", "matchit"]),
    ("tokio", &["tokio", "mio::"]),
    ("http", &["http::", "http_body"]),
    ("bytes", &["bytes::"]),
    ("clock", &["clock_gettime"]),
];
/// This many functions are named.
const MOST: usize = 60;
/// Samples a second.
const FREQUENCY: &str = "2500";

/// Microseconds a call, by function.
type Costs = BTreeMap<String, f64>;

/// Returns the table of the layers, and the functions in which the gateway spends more than (b).
pub async fn profile(world: &World) -> anyhow::Result<Report> {
    let upstream = world.upstream(Duration::ZERO).await?;
    let sink = world.sink().await?;
    let gateway = world.gateway("gateway", &upstream, &sink, Setup::default()).await?;
    let proxy = world.proxy(&upstream).await?;
    let request = get_store();
    let channel = load::channel(gateway.grpc).await?;
    let response = load::call(&channel, GET_STORE, request.encode_to_vec().into()).await?;
    let body = world.request("profile", &request)?;
    let mut costs = Vec::new();
    for (name, pid, address) in [
        ("gateway", gateway.process.pid(), gateway.grpc),
        ("(b)", proxy.process.pid(), proxy.address),
    ] {
        let h2load = H2load {
            placing: world.placing,
            way: address.into(),
            path: GET_STORE,
            body: body.clone(),
            response: response.len(),
            shape: BUSY,
        };
        let seen = h2load.run(5000).await?;
        let calls = (seen.rate() * world.seconds * world.rounds as f64) as u64;
        let file = world.folder.join(format!("{name}.perf"));
        let perf = record(world, pid, &file)?;
        // The load must have started.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = process::cpu(pid)?;
        let seen = h2load.run(calls).await?;
        let used = (process::cpu(pid)? - before) as f64 / 1e3 / seen.calls() as f64;
        kill(perf.pid(), Signal::SIGINT)?;
        perf.ended().await?;
        costs.push(read(world, file, used).await?);
    }
    let [ours, theirs] = &costs[..] else { anyhow::bail!("two were measured") };
    Ok(compare(ours, theirs))
}

fn record(world: &World, pid: Pid, file: &std::path::Path) -> anyhow::Result<Process> {
    let mut perf = world.placing.command(Core::Others, "perf".as_ref());
    perf.args(["record", "--quiet", "--event=cpu-clock", "--freq", FREQUENCY, "--pid"])
        .arg(pid.to_string())
        .arg("--output")
        .arg(file);
    Process::start(perf, file.with_extension("log"))
}

/// Returns the result of perf, scaled to the cost of a call.
async fn read(world: &World, file: PathBuf, used: f64) -> anyhow::Result<Costs> {
    let output = world
        .placing
        .command(Core::Others, "perf".as_ref())
        .args(["report", "--stdio", "--no-children", "--call-graph=none", "--sort=symbol"])
        .args(["--show-nr-samples", "--input"])
        .arg(&file)
        .output()
        .await?;
    let mut costs = Costs::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // As in ` 3.05% 349 [.] url::parser::Parser::parse_query`.
        let mut words = line.split_whitespace();
        let (Some(share), Some(samples)) = (words.next(), words.next()) else { continue };
        let Ok(samples) = samples.parse::<f64>() else { continue };
        if share.ends_with('%') {
            // Two empty columns follow the name.
            let name = words.collect::<Vec<_>>().join(" ").trim_end_matches(" -").to_owned();
            *costs.entry(name).or_default() += samples;
        }
    }
    let all: f64 = costs.values().sum();
    anyhow::ensure!(all > 0.0, "perf found nothing: {}", String::from_utf8_lossy(&output.stderr));
    costs.values_mut().for_each(|samples| *samples *= used / all);
    Ok(costs)
}

fn layer(function: &str) -> &'static str {
    let is = |(_, words): &&(_, &[&str])| words.iter().any(|word| function.contains(word));
    LAYERS.iter().find(is).map_or("others", |(layer, _)| layer)
}

fn compare(ours: &Costs, theirs: &Costs) -> Report {
    let sum = |costs: &Costs| costs.values().sum::<f64>();
    let mut report = Report::new("profile: GetStore, passed on");
    let mut table = String::from("| CPU µs a call | gateway | (b) | more |\n|---|---|---|---|\n");
    let mut row = |name: &str, ours: f64, theirs: f64| {
        let _ = writeln!(table, "| {name} | {ours:.2} | {theirs:.2} | {:+.2} |", ours - theirs);
    };
    row("all", sum(ours), sum(theirs));
    let mut layers: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for (index, costs) in [ours, theirs].into_iter().enumerate() {
        for (function, cost) in costs {
            layers.entry(layer(function)).or_default()[index] += cost;
        }
    }
    let mut layers: Vec<_> = layers.into_iter().collect();
    layers.sort_by(|(_, one), (_, other)| (other[0] - other[1]).total_cmp(&(one[0] - one[1])));
    for (layer, [ours, theirs]) in layers {
        row(layer, ours, theirs);
    }
    report.say(table.trim_end());

    let more = |function: &String| ours[function] - theirs.get(function).copied().unwrap_or(0.0);
    let mut functions: Vec<_> = ours.keys().collect();
    functions.sort_by(|one, other| more(other).total_cmp(&more(one)));
    let mut list = String::from("```text\n   more gateway     (b)\n");
    for function in functions.into_iter().take(MOST) {
        let (cost, most) = (ours[function], more(function));
        let _ = writeln!(list, "{most:7.2} {cost:7.2} {:7.2} {function}", cost - most);
    }
    report.say(&format!("{list}```"));
    report
}
