//! The cost of a third-party platform with many merchants, of which few are active.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use prost::Message;
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use wechat_store_gateway::pb;

use crate::{
    load::{self, Shape},
    process::{self, Core, Process},
    rounds::{Bound, By, Claim, Report},
    world::{Gateway, Server, Setup, World, free_port, get, ready},
};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const LIST_NEARBY: &str = "/wechat.store.v1.NearbyService/ListNearbyPois";
const LIST_AUTHORIZERS: &str = "/wechat.store.v1.AccountService/ListAuthorizers";
const PLATFORM: &str = "wx00000000000000c1";
const SECRET: &str = "the secret of the platform";
const TOKEN: &str = "PLATFORMTOKEN";
const AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
/// The merchants, and those of them that are active.
const MERCHANTS: u64 = 100_000;
const ACTIVE: u64 = 1_000;
/// The readers beside a list.
const READERS: Shape = Shape::new(4, 4);
/// The callers of all active merchants, more than the gateway sends to WeChat at a time.
const CROWD: Shape = Shape::new(4, 16);
/// WeChat takes this long for each call of the platform, so that calls at a time can be counted.
const SLOW_MS: u64 = 20;
/// What a platform asks WeChat.
const CALLS: [&str; 4] = [
    "/cgi-bin/component/api_component_token",
    "/cgi-bin/component/api_authorizer_token",
    "/cgi-bin/component/api_get_authorizer_info",
    "/cgi-bin/component/api_get_authorizer_list",
];
/// Far longer than any step.
const LONG: Duration = Duration::from_secs(300);

/// Measures a start with many merchants, without and with its state, and their memory and lists.
pub async fn platforms(world: &World) -> anyhow::Result<Report> {
    let wechat = WeChat::start(world).await?;
    let sink = world.sink().await?;
    let ticket = wechat.ticket(world, &sink).await?;
    let merchants = wechat.add_merchants().await?;

    // The state is lost: the new one has only a ticket, and the gateway reads the list of WeChat.
    let lost = wechat.gateway(world, "platforms-lost", &sink, Some(ticket)).await?;
    let began = Instant::now();
    let mut during = Vec::new();
    call_once(&lost, &merchants[..16]).await?;
    while !lost.process.said().contains("read the list of authorizers") {
        during.extend(reads(&lost, &merchants[..16]).await?);
        anyhow::ensure!(began.elapsed() < LONG, "the list is not read: {}", lost.process.said());
    }
    let read_in = began.elapsed();
    let after_loss = wechat.journal().await?;
    let quiet = reads(&lost, &merchants[..16]).await?;
    let state = world.folder.join("platforms-lost").join("state.db");
    lost.process.stop().await?;

    // An ordinary start.
    wechat.forget_journal().await?;
    let began = Instant::now();
    let gateway = wechat.spawn(world, "platforms", &sink, Some(state))?;
    let channel = load::channel(gateway.grpc).await?;
    load::call(&channel, HEALTH, HealthCheckRequest::default().encode_to_vec().into()).await?;
    let start = began.elapsed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let at_start = wechat.journal().await?;
    let pid = gateway.process.pid();
    let idle = process::memory(pid, "VmRSS")?;
    let active = merchants.get(..ACTIVE as usize).context("too few merchants")?;
    call_once(&gateway, active).await?;
    let busy = process::memory(pid, "VmRSS")?;
    let woken = wechat.journal().await?;
    let alone = reads(&gateway, &merchants[..16]).await?;
    let (pages, listing, beside) = list(&gateway, &merchants[..16]).await?;
    gateway.process.stop().await?;

    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut report = Report::new("platforms: 100,000 authorizers, of which 1,000 are active");
    report.say(&format!("A caller's list of all authorizers had {pages} pages."));
    report.claims(&[
        told("ms to Health, with the state", ms(start)),
        told("MB after the start", idle as f64 / 1024.0),
        told("MB after a call for each of 1,000", busy as f64 / 1024.0),
        told("KB for each of them", busy.saturating_sub(idle) as f64 / ACTIVE as f64),
        bound("calls at WeChat at a start", at_start.len() as f64, 0.0),
        told("calls at WeChat after a loss of the state", after_loss.len() as f64),
        told("s for WeChat's list after that", read_in.as_secs_f64()),
        bound("most of them at a time", most_at_a_time(&after_loss) as f64, 16.0),
        bound("most at a time, for the first calls of 1,000", most_at_a_time(&woken) as f64, 16.0),
        told("ms p99 of a read after the loss, while the list is read", p99(&during)),
        told("ms p99 of a read after that", p99(&quiet)),
        told("s for a caller's list of all, 1,000 a page", listing.as_secs_f64()),
        told("ms p99 of a read before it", p99(&alone)),
        told("ms p99 of a read beside it", p99(&beside)),
    ]);
    Ok(report)
}

fn told(text: &str, value: f64) -> Claim {
    let (text, values, noise) = (text.to_owned(), vec![value], Vec::new());
    Claim { text, values, noise, by: By::Difference, bound: Bound::Told }
}

fn bound(text: &str, value: f64, most: f64) -> Claim {
    Claim { bound: Bound::AtMost(most), ..told(text, value) }
}

/// Returns the p99 of times in microseconds, in milliseconds.
fn p99(took: &[u32]) -> f64 {
    let mut took = took.to_vec();
    took.sort_unstable();
    let index = took.len().saturating_sub(1) * 99 / 100;
    took.get(index).copied().map_or(f64::NAN, |micros| f64::from(micros) / 1e3)
}

/// Returns the most calls that ran at once. Each lasts at least [`SLOW_MS`], so all that came within this time
/// did.
fn most_at_a_time(calls: &[u64]) -> usize {
    let until = |from: u64| calls.iter().filter(|at| (from..from + SLOW_MS).contains(*at)).count();
    calls.iter().map(|at| until(*at)).max().unwrap_or_default()
}

fn message(merchants: &[String]) -> impl Fn(u64) -> bytes::Bytes + Send + Sync + use<> {
    let merchants = merchants.to_vec();
    move |number| {
        let app_id = merchants[number as usize % merchants.len()].clone();
        pb::ListNearbyPoisRequest { app_id, ..Default::default() }.encode_to_vec().into()
    }
}

/// Makes one call for each merchant.
async fn call_once(gateway: &Gateway, merchants: &[String]) -> anyhow::Result<()> {
    let count = merchants.len() as u64;
    load::calls(gateway.grpc, LIST_NEARBY, CROWD, count, message(merchants)).await?;
    Ok(())
}

/// Makes calls for some merchants, and returns the microseconds that each took.
async fn reads(gateway: &Gateway, merchants: &[String]) -> anyhow::Result<Vec<u32>> {
    Ok(load::calls(gateway.grpc, LIST_NEARBY, READERS, 1_000, message(merchants)).await?.took)
}

/// Reads all pages of the list that callers see, while other callers read. Returns the number of pages, the
/// time, and the microseconds of the reads.
async fn list(
    gateway: &Gateway,
    merchants: &[String],
) -> anyhow::Result<(u64, Duration, Vec<u32>)> {
    let channel = load::channel(gateway.grpc).await?;
    let pages = async {
        let (began, mut pages, mut rows, mut page_token) = (Instant::now(), 0, 0, String::new());
        loop {
            let request =
                pb::ListAuthorizersRequest { page_size: 1_000, page_token, ..Default::default() };
            let page = load::call(&channel, LIST_AUTHORIZERS, request.encode_to_vec().into());
            let page = pb::ListAuthorizersResponse::decode(page.await?)?;
            (pages, rows) = (pages + 1, rows + page.authorizers.len() as u64);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                anyhow::ensure!(rows == MERCHANTS, "{rows} authorizers");
                return anyhow::Ok((pages, began.elapsed()));
            }
        }
    };
    let mut pages = std::pin::pin!(pages);
    let mut took = Vec::new();
    loop {
        let reads = reads(gateway, merchants);
        tokio::select! {
            biased;
            done = &mut pages => {
                let (pages, time) = done?;
                return Ok((pages, time, took));
            }
            read = reads => took.extend(read?),
        }
    }
}

/// A simulated WeChat with one platform.
struct WeChat {
    server: Server,
    client: reqwest::Client,
}

impl WeChat {
    async fn start(world: &World) -> anyhow::Result<Self> {
        let address = free_port()?;
        let mut command = world.placing.command(Core::Others, &world.gateway);
        command.args(["simulate", "--listen", &address.to_string()]);
        let mut process = Process::start(command, world.folder.join("wechat.log"))?;
        ready(address, &mut process).await?;
        let server = Server { process, address, authority: None };
        let wechat = Self { server, client: reqwest::Client::new() };
        for path in CALLS {
            let slow =
                json!({ "path": path, "kind": { "latency": { "ms": SLOW_MS } }, "times": 0 });
            wechat.post("faults", &slow).await?;
        }
        Ok(wechat)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/_simulator/{path}", self.server.url());
        let reply = self.client.post(url).body(body.to_string()).send().await?;
        let (status, body) = (reply.status(), reply.bytes().await?);
        anyhow::ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    fn spawn(
        &self,
        world: &World,
        name: &str,
        sink: &Server,
        state: Option<PathBuf>,
    ) -> anyhow::Result<Gateway> {
        let more = format!(
            "[[platforms]]\napp_id = \"{PLATFORM}\"\nsecret = \"{SECRET}\"\ntoken = \"{TOKEN}\"\n\
             aes_key = \"{AES_KEY}\"\n"
        );
        let setup = Setup { state, traces: false, more, ..Setup::default() };
        world.spawn_gateway(name, &self.server, sink, setup)
    }

    async fn gateway(
        &self,
        world: &World,
        name: &str,
        sink: &Server,
        state: Option<PathBuf>,
    ) -> anyhow::Result<Gateway> {
        let mut gateway = self.spawn(world, name, sink, state)?;
        ready(gateway.grpc, &mut gateway.process).await?;
        ready(gateway.callback, &mut gateway.process).await?;
        Ok(gateway)
    }

    /// Returns a state that has a ticket, and no authorizers.
    async fn ticket(&self, world: &World, sink: &Server) -> anyhow::Result<PathBuf> {
        let gateway = self.gateway(world, "platforms-ticket", sink, None).await?;
        self.connect(gateway.callback).await?;
        let end = Instant::now() + LONG;
        loop {
            let pushes = get(self.server.address, "/_simulator/pushes").await?;
            let pushes: Value = serde_json::from_slice(&pushes)?;
            let pushes = pushes["pushes"].as_array().context("no pushes")?;
            if pushes.iter().any(|push| push["state"] == "delivered") {
                break;
            }
            anyhow::ensure!(Instant::now() < end, "no ticket: {}", gateway.process.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway.process.stop().await?;
        let state = world.folder.join("platforms-ticket").join("state.db");
        // That gateway has read WeChat's list, which was empty. The next one must not wait ten minutes.
        rusqlite::Connection::open(&state)?.execute("DELETE FROM counters", [])?;
        Ok(state)
    }

    /// Adds the platform, which pushes to this address.
    async fn connect(&self, callback: SocketAddr) -> anyhow::Result<()> {
        let component = json!({
            "app_id": PLATFORM, "secret": SECRET, "token": TOKEN, "encoding_aes_key": AES_KEY,
            "events_url": format!("http://{callback}/wechat/platform/{PLATFORM}/events"),
        });
        self.post("components", &component).await?;
        Ok(())
    }

    async fn add_merchants(&self) -> anyhow::Result<Vec<String>> {
        let merchants =
            json!({ "count": MERCHANTS, "kind": "mini_program", "permission_sets": [37] });
        let path = format!("components/{PLATFORM}/authorizers");
        let added = self.post(&path, &merchants).await?;
        Ok(serde_json::from_value(added["app_ids"].clone())?)
    }

    /// Returns when each call of the platform came, in milliseconds.
    async fn journal(&self) -> anyhow::Result<Vec<u64>> {
        let mut calls = Vec::new();
        for path in CALLS {
            let path = format!("/_simulator/journal?path={path}");
            let journal = get(self.server.address, &path).await?;
            let journal: Value = serde_json::from_slice(&journal)?;
            let entries = journal["calls"].as_array().context("no calls")?;
            calls.extend(entries.iter().filter_map(|call| call["at_unix_ms"].as_u64()));
        }
        calls.sort_unstable();
        Ok(calls)
    }

    async fn forget_journal(&self) -> anyhow::Result<()> {
        let url = format!("{}/_simulator/journal", self.server.url());
        self.client.delete(url).send().await?.error_for_status()?;
        Ok(())
    }
}
