//! Calls that change nothing: forwarded to WeChat, or answered from a table in memory.

use std::time::Duration;

use bytes::Bytes;
use nix::unistd::Pid;
use prost::Message;
use wechat_store_gateway::pb;

use crate::{
    floor::{GET_STORE, LIST_CATEGORIES, LIST_DISTRICTS},
    load::{self, H2load, Shape, Way},
    rounds::{self, Bound, Contender, GATEWAY, Measured, Report, TWIN},
    world::{Gateway, Server, Setup, World},
};

/// Many calls at a time on few connections, as a service makes them for its users.
pub const BUSY: Shape = Shape::new(4, 16);

/// Returns the call that is forwarded.
pub fn get_store() -> pb::GetStoreRequest {
    pb::GetStoreRequest { app_id: String::new(), poi_id: "472671857".to_owned() }
}

/// Two gateways and their upstream.
pub struct Cast {
    /// The upstream of both.
    pub upstream: Server,
    _sink: Server,
    /// The gateway that is measured, and the one that shows the noise.
    pub gateways: [Gateway; 2],
}

impl Cast {
    /// Starts them with the default settings.
    pub async fn start(world: &World) -> anyhow::Result<Self> {
        Self::asking(world, world.upstream(Duration::ZERO).await?).await
    }

    /// Starts them in front of this upstream.
    async fn asking(world: &World, upstream: Server) -> anyhow::Result<Self> {
        let sink = world.sink().await?;
        let first = world.gateway("gateway", &upstream, &sink, Setup::default()).await?;
        let twin = Setup { twin: true, ..Setup::default() };
        let second = world.gateway("twin", &upstream, &sink, twin).await?;
        Ok(Self { upstream, _sink: sink, gateways: [first, second] })
    }
}

/// Measures the same call to the gateways, (a), and further servers.
async fn compare(
    world: &World,
    cast: &Cast,
    path: &'static str,
    request: &impl Message,
    shape: Shape,
    more: &[(&str, &Server)],
) -> anyhow::Result<(Measured, Bytes)> {
    let message = Bytes::from(request.encode_to_vec());
    let [first, second] = &cast.gateways;
    let response = ask(&first.grpc.into(), path, &message).await?;
    let echo = world.echo(&response).await?;
    let mut servers = vec![
        (GATEWAY, first.process.pid(), first.grpc.into()),
        (TWIN, second.process.pid(), second.grpc.into()),
        ("(a)", echo.process.pid(), echo.address.into()),
    ];
    let more = more.iter().map(|(name, more)| (*name, more.process.pid(), more.address.into()));
    servers.extend(more);
    compare_all(world, &cast.upstream, path, request, shape, &servers).await
}

/// Measures the same call to these servers. All must give the same response, which is returned.
pub async fn compare_all(
    world: &World,
    upstream: &Server,
    path: &'static str,
    request: &impl Message,
    shape: Shape,
    servers: &[(&str, Pid, Way)],
) -> anyhow::Result<(Measured, Bytes)> {
    let body = world.request("call", request)?;
    let message = Bytes::from(request.encode_to_vec());
    let mut responses = Vec::<Bytes>::new();
    for (name, _, way) in servers {
        let response = ask(way, path, &message).await?;
        let first = responses.first().unwrap_or(&response);
        anyhow::ensure!(same(path, &response, first), "{name} answers something else");
        responses.push(response);
    }
    let others = [upstream.process.pid()];
    let contender = |((name, pid, way), response): (&(&str, Pid, Way), &Bytes)| {
        let load = H2load {
            placing: world.placing,
            way: way.clone(),
            path,
            body: body.clone(),
            response: response.len(),
            shape,
        };
        let contender = Contender::new(name, *pid, &others, move |calls| {
            let load = load.clone();
            async move { load.run(calls).await }
        });
        contender.at_most(shape.most())
    };
    let contenders: Vec<_> = servers.iter().zip(&responses).map(contender).collect();
    let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
    for ((name, _, way), first) in servers.iter().zip(&responses) {
        let response = ask(way, path, &message).await?;
        anyhow::ensure!(same(path, &response, first), "{name} answers something else afterwards");
    }
    Ok((measured, responses.swap_remove(0)))
}

/// Returns whether two responses have the same content. Servers write the fields in different
/// orders.
fn same(path: &str, one: &Bytes, other: &Bytes) -> bool {
    let read = |bytes: &Bytes| pb::GetStoreResponse::decode(bytes.clone());
    one == other || path == GET_STORE && read(one).is_ok_and(|one| read(other) == Ok(one))
}

async fn ask(way: &Way, path: &'static str, message: &Bytes) -> anyhow::Result<Bytes> {
    let channel = load::channel(way.clone()).await?;
    load::call_as(&channel, path, message.clone(), way.token.clone()).await
}

/// Measures `GetStore`, forwarded to an upstream without TLS, and to one with it.
pub async fn proxied(world: &World) -> anyhow::Result<Report> {
    let mut report = Report::new("read: GetStore, passed on");
    let upstream = world.upstream(Duration::ZERO).await?;
    pass_on(world, &mut report, upstream, "plain HTTP/1.1").await?;
    for (http2, protocol) in [(false, "HTTP/1.1 in TLS 1.3"), (true, "HTTP/2 in TLS 1.3")] {
        let upstream = world.tls_upstream(http2).await?;
        pass_on(world, &mut report, upstream, protocol).await?;
    }
    Ok(report)
}

async fn pass_on(
    world: &World,
    report: &mut Report,
    upstream: Server,
    protocol: &str,
) -> anyhow::Result<()> {
    let cast = Cast::asking(world, upstream).await?;
    let proxy = world.proxy(&cast.upstream).await?;
    let request = get_store();
    let (measured, response) =
        compare(world, &cast, GET_STORE, &request, BUSY, &[("(b)", &proxy)]).await?;
    report.say(&format!(
        "4 connections with 16 calls each; {} bytes of response; upstream over {protocol}.",
        response.len()
    ));
    report.samples(&measured);
    report.claims(&[
        measured.ratio(GATEWAY, "(b)", "CPU", |sample| sample.cpu, Bound::AtMost(1.15)),
        measured.ratio(GATEWAY, "(b)", "calls a second", |sample| sample.rate, Bound::Told),
        measured.ratio(GATEWAY, "(a)", "CPU", |sample| sample.cpu, Bound::Told),
    ]);
    Ok(())
}

/// Measures `GetStore` by one caller that waits for each answer.
pub async fn alone(world: &World) -> anyhow::Result<Report> {
    let cast = Cast::start(world).await?;
    let proxy = world.proxy(&cast.upstream).await?;
    let shape = Shape::new(1, 1);
    let (measured, _) =
        compare(world, &cast, GET_STORE, &get_store(), shape, &[("(b)", &proxy)]).await?;
    let mut report = Report::new("alone: GetStore, passed on, one call at a time");
    report.samples(&measured);
    report.claims(&[
        measured.difference(GATEWAY, "(b)", "p50 µs", |sample| sample.p50, Bound::Told),
        measured.ratio(GATEWAY, "(b)", "CPU", |sample| sample.cpu, Bound::Told),
    ]);
    Ok(report)
}

/// Measures `GetStore` beside programs that users could write instead. A peer is a name and a
/// command. `{listen}`, `{upstream}` and `{token}` in it are replaced.
pub async fn peers(world: &World, peers: &[(String, String)]) -> anyhow::Result<Report> {
    let cast = Cast::start(world).await?;
    let proxy = world.proxy(&cast.upstream).await?;
    let mut servers = Vec::new();
    for (name, command) in peers {
        servers.push((name.as_str(), world.peer(name, command, &cast.upstream).await?));
    }
    let mut more: Vec<_> = vec![("(b)", &proxy)];
    more.extend(servers.iter().map(|(name, server)| (*name, server)));
    let (measured, _) = compare(world, &cast, GET_STORE, &get_store(), BUSY, &more).await?;
    let mut report = Report::new("peers: GetStore, passed on, beside naked proxies");
    report.samples(&measured);
    let mut claims = Vec::new();
    for (name, _) in &servers {
        let aim = match *name {
            "Go" => Bound::AtLeast(1.2),
            "Node" => Bound::AtLeast(3.0),
            "Python" => Bound::AtLeast(10.0),
            _ => Bound::Told,
        };
        claims.push(measured.ratio(GATEWAY, name, "calls a second", |sample| sample.rate, aim));
        claims.push(measured.ratio(GATEWAY, name, "CPU", |sample| sample.cpu, Bound::Told));
    }
    report.claims(&claims);
    Ok(report)
}

/// Measures answers from a table in memory.
pub async fn cached(world: &World) -> anyhow::Result<Report> {
    let cast = Cast::start(world).await?;
    let mut report = Report::new("cached: small answers from memory");
    let districts = pb::ListDistrictsRequest {
        parent_id: "440100".to_owned(),
        ..pb::ListDistrictsRequest::default()
    };
    let (measured, response) = compare(world, &cast, LIST_DISTRICTS, &districts, BUSY, &[]).await?;
    report.say(&format!("ListDistricts, the children of a city: {} bytes.", response.len()));
    cost(&mut report, &measured);
    let categories = pb::ListCategoriesRequest::default();
    let (measured, response) =
        compare(world, &cast, LIST_CATEGORIES, &categories, BUSY, &[]).await?;
    report.say(&format!("ListCategories: {} bytes.", response.len()));
    cost(&mut report, &measured);
    Ok(report)
}

fn cost(report: &mut Report, measured: &Measured) {
    report.samples(measured);
    report.claims(&[
        measured.difference(GATEWAY, "(a)", "CPU µs", |sample| sample.cpu, Bound::AtMost(3.0)),
        measured.ratio(GATEWAY, "(a)", "calls a second", |sample| sample.rate, Bound::Told),
    ]);
}

/// Measures all districts of the country, in the largest pages.
pub async fn tree(world: &World) -> anyhow::Result<Report> {
    let cast = Cast::start(world).await?;
    let request = pb::ListDistrictsRequest {
        recursive: true,
        page_size: 1000,
        ..pb::ListDistrictsRequest::default()
    };
    let (measured, response) = compare(world, &cast, LIST_DISTRICTS, &request, BUSY, &[]).await?;
    let mut report = Report::new("tree: ListDistricts, recursive, the first 1,000");
    report.say(&format!("{} bytes of response.", response.len()));
    report.samples(&measured);
    report.claims(&[
        measured.ratio(GATEWAY, "(a)", "CPU", |sample| sample.cpu, Bound::AtMost(1.1)),
        measured.ratio(GATEWAY, "(a)", "calls a second", |sample| sample.rate, Bound::Told),
    ]);
    Ok(report)
}
