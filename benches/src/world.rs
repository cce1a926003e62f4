//! Starts everything that takes part in a case.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use wechat_simulator::{
    CALLBACK_TOKEN, OFFICIAL_AES_KEY, OFFICIAL_APP_ID, OFFICIAL_SECRET, Settings, Simulator,
};

use crate::process::{Core, Placing, Process};

/// The files and options of a run.
#[derive(Clone, Debug)]
pub struct World {
    /// The cores of the processes.
    pub placing: Placing,
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// The binary of the second gateway. It is the same, unless two builds are compared.
    pub twin: PathBuf,
    /// This binary, which also has the servers to compare with.
    pub floor: PathBuf,
    /// A folder for settings, states and logs, on the disk that is measured.
    pub folder: PathBuf,
    /// The library that counts syncs, to be preloaded.
    pub shim: PathBuf,
    /// The number of events in a long log.
    pub events: u64,
    /// The number of rounds.
    pub rounds: usize,
    /// The seconds that each measurement takes.
    pub seconds: f64,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its process.
    pub process: Process,
    /// The address for calls.
    pub grpc: SocketAddr,
    /// The address for pushes.
    pub callback: SocketAddr,
    /// The file in which its syncs are counted.
    pub syncs: PathBuf,
}

/// Another running server.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Its address.
    pub address: SocketAddr,
    /// A file with the authority of its certificate. `None` if it has no TLS.
    pub authority: Option<PathBuf>,
}

impl Server {
    /// Returns its base URL.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its authority.
    pub authority: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

fn text(file: &Path) -> String {
    file.display().to_string()
}

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    /// Its process.
    pub process: Process,
    socket: PathBuf,
}

impl Redis {
    /// Returns its URL for the settings.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Returns how often it has read from its sockets. Commands that were sent together count once.
    pub fn reads(&self) -> anyhow::Result<u64> {
        let mut socket = std::os::unix::net::UnixStream::connect(&self.socket)?;
        socket.write_all(b"INFO stats\r\nQUIT\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let line = answer.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        Ok(line.context("Redis counts no reads")?.trim().parse()?)
    }
}

/// Options of a gateway.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The number of its accounts.
    pub accounts: usize,
    /// A file to start with.
    pub state: Option<PathBuf>,
    /// The URL of a Redis for its state. Without it the state is in a file.
    pub redis: Option<String>,
    /// Whether it is the second one, beside an equal one.
    pub twin: bool,
    /// Whether its traces are exported. By default they are not.
    pub traces: bool,
    /// Whether all calls are traced. By default one of a hundred is.
    pub all_traced: bool,
    /// Further sections of its settings.
    pub more: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            accounts: 1,
            state: None,
            redis: None,
            twin: false,
            traces: true,
            all_traced: false,
            more: String::new(),
        }
    }
}

/// Returns the id of an account by its number. The first account is the default one.
pub fn app_id(number: usize) -> String {
    if number == 0 { OFFICIAL_APP_ID.to_owned() } else { format!("wx{:016x}", 0x1000 + number) }
}

impl World {
    /// Returns an empty folder with this name.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Starts a gateway with the default settings, except for addresses, accounts and state. It
    /// exports its traces to `sink`.
    pub async fn gateway(
        &self,
        name: &str,
        upstream: &Server,
        sink: &Server,
        setup: Setup,
    ) -> anyhow::Result<Gateway> {
        let mut gateway = self.spawn_gateway(name, upstream, sink, setup)?;
        ready(gateway.grpc, &mut gateway.process).await?;
        ready(gateway.callback, &mut gateway.process).await?;
        Ok(gateway)
    }

    /// Starts a gateway without waiting for it.
    pub fn spawn_gateway(
        &self,
        name: &str,
        upstream: &Server,
        sink: &Server,
        setup: Setup,
    ) -> anyhow::Result<Gateway> {
        let Setup { accounts, state, redis, twin, traces, all_traced, more } = setup;
        let binary = if twin { &self.twin } else { &self.gateway };
        let folder = self.folder(name)?;
        let [grpc, callback, admin] = [free_port()?, free_port()?, free_port()?];
        let file = folder.join("state.db");
        if let Some(state) = state {
            fs::copy(&state, &file)?;
            // A gateway that ends leaves the last changes in the log beside the file.
            let log = |file: &Path| file.with_extension("db-wal");
            if log(&state).exists() {
                fs::copy(log(&state), log(&file))?;
            }
        }
        // A Redis needs a key.
        let keys = match redis {
            Some(_) => "keys = [\"c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM=\"]\n",
            None => "",
        };
        let mut settings = format!(
            "[listen]\ngrpc = \"{grpc}\"\ncallback = \"{callback}\"\nadmin = \"{admin}\"\n\
             [state]\nurl = \"{}\"\n{keys}[wechat]\nhosts = [\"{}\"]\n",
            redis.unwrap_or_else(|| format!("sqlite:{}", file.display())),
            upstream.url()
        );
        if let Some(authority) = &upstream.authority {
            writeln!(settings, "ca_file = \"{}\"", authority.display())?;
        }
        for number in 0..accounts {
            let app_id = app_id(number);
            let default = number == 0;
            write!(
                settings,
                "[[accounts]]\napp_id = \"{app_id}\"\nkind = \"official\"\ndefault = {default}\n\
                 secret = \"{OFFICIAL_SECRET}\"\n"
            )?;
            if default {
                writeln!(
                    settings,
                    "callback = {{ token = \"{CALLBACK_TOKEN}\", aes_key = \"{OFFICIAL_AES_KEY}\" }}"
                )?;
            }
        }
        settings.push_str(&more);
        let file = folder.join("settings.toml");
        fs::write(&file, settings)?;
        let syncs = folder.join("syncs");
        let mut command = self.placing.command(Core::Server, binary);
        command
            .args(["serve", "--config"])
            .arg(file)
            .env("LD_PRELOAD", &self.shim)
            .env("SYNCS", &syncs);
        if traces {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", sink.address));
        }
        if all_traced {
            command.env("OTEL_TRACES_SAMPLER", "always_on");
        }
        let process = Process::start(command, folder.join("log"))?;
        Ok(Gateway { process, grpc, callback, syncs })
    }

    /// Starts a server of the floor.
    pub async fn floor(&self, name: &str, core: Core, args: &[&str]) -> anyhow::Result<Server> {
        let mut server = self.spawn_floor(name, core, args)?;
        ready(server.address, &mut server.process).await?;
        Ok(server)
    }

    /// Starts a server of the floor without waiting for it.
    pub fn spawn_floor(&self, name: &str, core: Core, args: &[&str]) -> anyhow::Result<Server> {
        let address = free_port()?;
        let mut command = self.placing.command(core, &self.floor);
        command.arg("serve").args(args).arg("--listen").arg(address.to_string());
        let process = Process::start(command, self.folder.join(format!("{name}.log")))?;
        Ok(Server { process, address, authority: None })
    }

    /// Starts the upstream, with a pause before each reply.
    pub async fn upstream(&self, delay: Duration) -> anyhow::Result<Server> {
        self.any_upstream(delay, &[]).await
    }

    /// Starts an upstream with a pause before the replies to requests with [`SLOW`](crate::upstream::SLOW)
    /// in their body.
    pub async fn sometimes_slow_upstream(&self, delay: Duration) -> anyhow::Result<Server> {
        self.any_upstream(delay, &["--only-slow"]).await
    }

    /// Starts an upstream with TLS, and a certificate of an authority that is made for it.
    pub async fn tls_upstream(&self, http2: bool) -> anyhow::Result<Server> {
        let identity = self.identity()?;
        let (certificate, key) = (text(&identity.certificate), text(&identity.key));
        let mut args = vec!["--certificate", &certificate, "--key", &key];
        args.extend(http2.then_some("--http2"));
        let upstream = self.any_upstream(Duration::ZERO, &args).await?;
        Ok(Server { authority: Some(identity.authority), ..upstream })
    }

    /// Returns a certificate of an authority that is made for it.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        let [authority, certificate, key] =
            ["authority", "certificate", "key"].map(|name| self.folder.join(name));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(&authority, issuer.pem())?;
        let mut params = CertificateParams::new([Ipv4Addr::LOCALHOST.to_string()])?;
        params.distinguished_name = DistinguishedName::new();
        let its_key = KeyPair::generate()?;
        fs::write(&certificate, params.signed_by(&its_key, &issuer)?.pem())?;
        fs::write(&key, its_key.serialize_pem())?;
        Ok(Identity { authority, certificate, key })
    }

    async fn any_upstream(&self, delay: Duration, more: &[&str]) -> anyhow::Result<Server> {
        let districts = self.folder.join("districts.json");
        if !districts.exists() {
            fs::write(&districts, simulated_districts().await?)?;
        }
        let (delay, districts) = (delay.as_millis().to_string(), districts.display().to_string());
        let args = ["upstream", "--delay-ms", &delay, "--districts", &districts];
        self.floor("upstream", Core::Others, &[&args, more].concat()).await
    }

    /// Starts the receiver of the traces.
    pub async fn sink(&self) -> anyhow::Result<Server> {
        self.floor("sink", Core::Others, &["echo"]).await
    }

    /// Starts a Redis that syncs before it answers.
    pub async fn redis(&self, name: &str) -> anyhow::Result<Redis> {
        let folder = self.folder(name)?;
        let socket = folder.join("socket");
        let mut command = self.placing.command(Core::Others, "redis-server".as_ref());
        command
            .args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(&folder);
        let mut process = Process::start(command, folder.join("log"))?;
        let end = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            process.check()?;
            anyhow::ensure!(Instant::now() < end, "no Redis at {}", socket.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Redis { process, socket })
    }

    /// Starts (a) for a response.
    pub async fn echo(&self, response: &Bytes) -> anyhow::Result<Server> {
        let file = self.folder.join("response");
        fs::write(&file, response)?;
        let file = file.display().to_string();
        self.floor("echo", Core::Server, &["echo", "--bytes", &file]).await
    }

    /// Starts (b).
    pub async fn proxy(&self, upstream: &Server) -> anyhow::Result<Server> {
        self.any_proxy("proxy", upstream, &[]).await
    }

    /// Starts (b) with TLS for its callers.
    pub async fn tls_proxy(
        &self,
        upstream: &Server,
        identity: &Identity,
    ) -> anyhow::Result<Server> {
        let args = ["--certificate", &text(&identity.certificate), "--key", &text(&identity.key)];
        let proxy = self.any_proxy("tls-proxy", upstream, &args).await?;
        Ok(Server { authority: Some(identity.authority.clone()), ..proxy })
    }

    async fn any_proxy(
        &self,
        name: &str,
        upstream: &Server,
        more: &[&str],
    ) -> anyhow::Result<Server> {
        let (url, authority) = (upstream.url(), upstream.authority.as_deref().map(text));
        let mut args = vec!["proxy", "--upstream", &url];
        args.extend(authority.iter().flat_map(|file| ["--ca", file]));
        args.extend(more);
        self.floor(name, Core::Server, &args).await
    }

    /// Starts a server of another project.
    pub async fn peer(&self, name: &str, line: &str, upstream: &Server) -> anyhow::Result<Server> {
        let address = free_port()?;
        let line = line
            .replace("{listen}", &address.to_string())
            .replace("{upstream}", &upstream.url())
            .replace("{token}", &crate::upstream::token());
        let mut words = line.split_whitespace();
        let program = words.next().context("a peer without a command")?;
        let mut command = self.placing.command(Core::Server, program.as_ref());
        command.args(words);
        let mut process = Process::start(command, self.folder.join(format!("{name}.log")))?;
        ready(address, &mut process).await?;
        Ok(Server { process, address, authority: None })
    }

    /// Returns a file with a framed request.
    pub fn request(&self, name: &str, message: &impl prost::Message) -> anyhow::Result<PathBuf> {
        let file = self.folder.join(format!("{name}.request"));
        fs::write(&file, crate::load::framed(&message.encode_to_vec()))?;
        Ok(file)
    }
}

/// Returns an address that is free now. It is below the ports that the system gives to connections,
/// because such a connection could take it before its server does.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    for _ in 0..100 {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000)));
        if let Ok(listener) = bound {
            return Ok(listener.local_addr()?);
        }
    }
    anyhow::bail!("no port is free")
}

/// Waits until a process accepts connections at an address.
pub async fn ready(address: SocketAddr, process: &mut Process) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(address).await.is_err() {
        process.check()?;
        anyhow::ensure!(Instant::now() < end, "no server at {address}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Returns the whole table of districts, as the simulator sends it.
async fn simulated_districts() -> anyhow::Result<Vec<u8>> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let simulator =
        tokio::spawn(Simulator::new(Settings::default()).run(listener, std::future::pending()));
    let path = format!(
        "/cgi-bin/token?grant_type=client_credential&appid={OFFICIAL_APP_ID}&secret={OFFICIAL_SECRET}"
    );
    let token: serde_json::Value = serde_json::from_slice(&get(address, &path).await?)?;
    let token = token["access_token"].as_str().context("no token")?;
    let table = get(address, &format!("/wxa/get_district?access_token={token}")).await?;
    simulator.abort();
    Ok(table)
}

/// Returns the body of the reply to a GET.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let end = answer.windows(4).position(|four: &[u8]| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
            let length = head.split("content-length:").nth(1).context("no length")?;
            let length: usize = length.split("\r\n").next().unwrap_or_default().trim().parse()?;
            if answer.len() >= end + 4 + length {
                return Ok(answer[end + 4..end + 4 + length].to_vec());
            }
        }
        anyhow::ensure!(stream.read_buf(&mut answer).await? > 0, "{path}: broken off");
    }
}

/// Returns a file's content.
pub fn read(file: &Path) -> anyhow::Result<Bytes> {
    Ok(fs::read(file).with_context(|| file.display().to_string())?.into())
}
