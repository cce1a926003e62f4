//! Callers: h2load if one body can be sent again and again, and our own if each call must differ.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig},
};
use wechat_store_gateway::testing::Raw;

use crate::{
    process::{Core, Placing},
    world,
};

/// The measurements of a caller. All calls succeeded.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The time of each call, in microseconds.
    pub took: Vec<u32>,
    /// The seconds in which they were made.
    pub seconds: f64,
}

impl Seen {
    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.took.len() as u64
    }

    /// Returns the calls a second.
    pub fn rate(&self) -> f64 {
        self.took.len() as f64 / self.seconds
    }

    /// Adds later measurements.
    pub fn add(&mut self, Self { took, seconds }: Self) {
        self.took.extend(took);
        self.seconds += seconds;
    }

    /// Returns the time within which this share of the calls ended.
    pub fn at(&mut self, share: f64) -> f64 {
        let index = (self.took.len() as f64 * share) as usize;
        let index = index.min(self.took.len().saturating_sub(1));
        if self.took.is_empty() {
            return 0.0;
        }
        f64::from(*self.took.select_nth_unstable(index).1)
    }
}

/// The shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Calls at a time on each.
    pub streams: usize,
    /// Whether each connection ends after one call.
    pub once: bool,
}

impl Shape {
    /// Returns a shape of connections that make calls for as long as it takes.
    pub const fn new(connections: usize, streams: usize) -> Self {
        Self { connections, streams, once: false }
    }

    /// Returns a shape of connections that make one call each.
    pub const fn once(connections: usize) -> Self {
        Self { connections, streams: 1, once: true }
    }

    /// Returns the most calls of a measurement.
    pub fn most(self) -> u64 {
        if self.once { self.connections as u64 } else { u64::MAX }
    }
}

/// How callers reach a server.
#[derive(Clone, Debug)]
pub struct Way {
    /// The server.
    pub address: SocketAddr,
    /// A file with the authority of its certificate. `None` if it has no TLS.
    pub authority: Option<PathBuf>,
    /// The bearer token of the callers.
    pub token: Option<Token>,
}

impl From<SocketAddr> for Way {
    fn from(address: SocketAddr) -> Self {
        Self { address, authority: None, token: None }
    }
}

impl Way {
    fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// The value of an `authorization` header.
#[derive(Clone, Debug)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    /// Returns the header of a bearer token.
    pub fn bearer(token: &str) -> anyhow::Result<Self> {
        Ok(Self(format!("Bearer {token}").parse()?))
    }
}

/// A gRPC call that h2load makes again and again.
#[derive(Clone, Debug)]
pub struct H2load {
    /// The cores of h2load.
    pub placing: Placing,
    /// The way to the server.
    pub way: Way,
    /// The method.
    pub path: &'static str,
    /// A file with the request, framed.
    pub body: PathBuf,
    /// The length of the response, in bytes.
    pub response: usize,
    /// The number of callers.
    pub shape: Shape,
}

impl H2load {
    /// Makes this many calls. h2load counts every HTTP 200 as a success, and a gRPC error is one.
    /// But a gRPC error has no message, so the number of received bytes shows whether all calls
    /// were answered.
    pub async fn run(&self, calls: u64) -> anyhow::Result<Seen> {
        let Shape { connections, streams, once: _ } = self.shape;
        let log = self.body.with_extension("log");
        let _ = fs::remove_file(&log);
        let calls = calls.max((connections * streams) as u64);
        let mut command = self.placing.command(Core::Others, "h2load".as_ref());
        if let Some(Token(value)) = &self.way.token {
            command.arg(format!("--header=authorization: {}", value.to_str()?));
        }
        let output = command
            .args([
                "--threads=1",
                "--header=content-type: application/grpc",
                "--header=te: trailers",
            ])
            .arg(format!("--clients={connections}"))
            .arg(format!("--max-concurrent-streams={streams}"))
            .arg(format!("--requests={calls}"))
            .arg(format!("--data={}", self.body.display()))
            .arg(format!("--log-file={}", log.display()))
            .arg(format!("{}{}", self.way.url(), self.path))
            .output()
            .await
            .context("h2load")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let succeeded: u64 = number(&said, " succeeded").context("h2load printed no count")?;
        let bytes: u64 = number(&said, ") data").context("h2load printed no size")?;
        let expected = calls * (self.response as u64 + 5);
        anyhow::ensure!(
            output.status.success() && succeeded == calls && bytes == expected,
            "{succeeded} of {calls} calls succeeded, with {bytes} of {expected} bytes:\n{said}"
        );
        let line = said.lines().find(|line| line.starts_with("finished in ")).unwrap_or_default();
        let seconds = seconds(line.split([' ', ',']).nth(2).unwrap_or_default())
            .with_context(|| format!("h2load says no time: {said}"))?;
        let log = fs::read_to_string(log)?;
        let took: Vec<_> =
            log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
        anyhow::ensure!(took.len() as u64 == calls, "{} of {calls} calls are told", took.len());
        Ok(Seen { took, seconds })
    }
}

/// Returns the number right before a text.
fn number(said: &str, after: &str) -> Option<u64> {
    let before = said.split(after).next().filter(|before| before.len() < said.len())?;
    before.rsplit(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Parses h2load's `1.05s`, `800.02ms` and `90us`.
fn seconds(text: &str) -> Option<f64> {
    let (text, unit) = match text {
        text if text.ends_with("us") => (text.strip_suffix("us")?, 1e-6),
        text if text.ends_with("ms") => (text.strip_suffix("ms")?, 1e-3),
        text => (text.strip_suffix('s')?, 1.0),
    };
    Some(text.parse::<f64>().ok()? * unit)
}

/// Returns a message in gRPC's frame.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Connects to a server that has started to serve, or will.
pub async fn channel(way: impl Into<Way>) -> anyhow::Result<Channel> {
    let way = way.into();
    let mut endpoint = Channel::from_shared(way.url())?.tcp_nodelay(true);
    if let Some(authority) = &way.authority {
        let authority = Certificate::from_pem(world::read(authority)?);
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(authority))?;
    }
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Makes one call without a token.
pub async fn call(channel: &Channel, path: &'static str, message: Bytes) -> anyhow::Result<Bytes> {
    call_as(channel, path, message, None).await
}

/// Makes one call with a token.
pub async fn call_as(
    channel: &Channel,
    path: &'static str,
    message: Bytes,
    token: Option<Token>,
) -> anyhow::Result<Bytes> {
    let mut request = tonic::Request::new(message);
    if let Some(Token(value)) = token {
        request.metadata_mut().insert("authorization", value);
    }
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    grpc.ready().await?;
    let path = http::uri::PathAndQuery::from_static(path);
    let response = grpc.unary(request, path, Raw).await;
    Ok(response.map_err(|status| anyhow::anyhow!("{status:?}"))?.into_inner())
}

/// Makes this many calls, each with its own message. Fails if one fails.
pub async fn calls(
    way: impl Into<Way>,
    path: &'static str,
    shape: Shape,
    calls: u64,
    message: impl Fn(u64) -> Bytes + Send + Sync + 'static,
) -> anyhow::Result<Seen> {
    let way = way.into();
    let token = way.token.clone();
    calls_as(way, path, shape, calls, move |number| (message(number), token.clone())).await
}

/// Makes this many calls, each with its own message and token. Fails if one fails.
pub async fn calls_as(
    way: Way,
    path: &'static str,
    shape: Shape,
    calls: u64,
    message: impl Fn(u64) -> (Bytes, Option<Token>) + Send + Sync + 'static,
) -> anyhow::Result<Seen> {
    let (next, message) = (Arc::new(AtomicU64::new(0)), Arc::new(message));
    let mut channels = Vec::new();
    for _ in 0..shape.connections {
        channels.push(channel(way.clone()).await?);
    }
    let begun = Instant::now();
    let mut callers = Vec::new();
    for channel in channels {
        for _ in 0..shape.streams {
            let (next, message, channel) = (next.clone(), message.clone(), channel.clone());
            callers.push(tokio::spawn(async move {
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= calls {
                        return anyhow::Ok(took);
                    }
                    let (message, token) = message(number);
                    let begun = Instant::now();
                    call_as(&channel, path, message, token).await?;
                    took.push(micros(begun));
                }
            }));
        }
    }
    finish(callers, begun).await
}

/// Sends HTTP/1.1 requests, each once. Fails if one is not answered with 200.
pub async fn posts(
    address: SocketAddr,
    connections: usize,
    requests: Vec<Bytes>,
) -> anyhow::Result<Seen> {
    let (next, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(requests));
    let begun = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..connections {
        let (next, requests) = (next.clone(), requests.clone());
        callers.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut buffer = BytesMut::with_capacity(4096);
            let mut took = Vec::new();
            loop {
                let number = usize::try_from(next.fetch_add(1, Relaxed))?;
                let Some(request) = requests.get(number) else { return Ok(took) };
                let begun = Instant::now();
                stream.write_all(request).await?;
                buffer.clear();
                // Both servers answer with this body, and nothing after it.
                while !buffer.ends_with(b"success") {
                    let read = stream.read_buf(&mut buffer).await?;
                    let said = String::from_utf8_lossy(&buffer);
                    anyhow::ensure!(read > 0 && said.starts_with("HTTP/1.1 200"), "{said}");
                }
                took.push(micros(begun));
            }
        }));
    }
    finish(callers, begun).await
}

async fn finish(
    callers: Vec<tokio::task::JoinHandle<anyhow::Result<Vec<u32>>>>,
    begun: Instant,
) -> anyhow::Result<Seen> {
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await??);
    }
    Ok(Seen { took, seconds: begun.elapsed().as_secs_f64() })
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
