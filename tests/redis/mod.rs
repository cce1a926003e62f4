//! Real Redis servers for tests: one, a primary with replicas and sentinels, or a cluster.
//!
//! Each server has its own data, and both are removed when its value is dropped. All listen on this machine only.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

mod certificates;
mod cluster;
mod sentinel;

pub(crate) use self::{
    certificates::Certificates,
    cluster::Cluster,
    sentinel::{Options, Sentinels},
};

/// How long a test waits for servers, on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(20);

/// A `redis-server` with its own data.
pub(crate) struct RedisServer {
    /// Its port without TLS. A server with TLS has this one, too, for the tests.
    pub(crate) port: u16,
    /// Its port with TLS.
    pub(crate) tls_port: Option<u16>,
    /// The password of the default user.
    password: Option<String>,
    is_sentinel: bool,
    data: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server that either syncs every change before it acknowledges it, or never saves by itself.
    pub(crate) async fn start(durable: bool) -> Self {
        Self::start_with(durable, &[], None).await
    }

    /// Starts a server with the content of this dump.
    pub(crate) async fn start_from(dump: &Path) -> Self {
        let data = folder();
        fs::copy(dump, data.path().join("dump.rdb")).expect("the dump is there");
        Self::start_in(data, false, settings(false), None).await
    }

    /// Starts a server with more lines of its configuration, such as `requirepass secret`, and perhaps with TLS on a
    /// second port.
    pub(crate) async fn start_with(
        durable: bool,
        more: &[&str],
        tls: Option<&Certificates>,
    ) -> Self {
        let mut lines = settings(durable);
        lines.extend(more.iter().map(|&line| line.to_owned()));
        Self::start_in(folder(), false, lines, tls).await
    }

    /// Starts a sentinel with these lines of its configuration.
    pub(crate) async fn start_sentinel(lines: &[&str]) -> Self {
        let lines = lines.iter().map(|&line| line.to_owned());
        Self::start_in(folder(), true, lines.collect(), None).await
    }

    async fn start_in(
        data: TempDir,
        is_sentinel: bool,
        mut lines: Vec<String>,
        tls: Option<&Certificates>,
    ) -> Self {
        let password = lines.iter().find_map(|line| line.strip_prefix("requirepass "));
        let password = password.map(str::to_owned);
        let (port, process) = (0, None);
        let mut server = Self { port, tls_port: None, password, is_sentinel, data, process };
        lines.push("bind 127.0.0.1".to_owned());
        lines.push(format!("dir {}", server.folder().display()));
        // Another process may take a free port before Redis does.
        for _ in 0..20 {
            server.port = free_port();
            let mut lines = lines.clone();
            lines.push(format!("port {}", server.port));
            if let Some(tls) = tls {
                let port = free_port();
                server.tls_port = Some(port);
                lines.extend(tls.settings(port));
            }
            // Sentinels write into the file, and let other servers do so.
            fs::write(server.file(), lines.join("\n")).expect("writable");
            server.run();
            if server.answers().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    fn file(&self) -> PathBuf {
        self.folder().join("redis.conf")
    }

    fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.arg(self.file()).stdout(Stdio::null());
        if self.is_sentinel {
            command.arg("--sentinel");
        }
        self.process = Some(command.spawn().expect("redis-server, which scripts/test installs"));
    }

    /// Waits until it answers. Returns false if it ends instead.
    async fn answers(&mut self) -> bool {
        let end = Instant::now() + LONG;
        while self.is_running() {
            assert!(Instant::now() < end, "redis-server does not answer");
            if self.command("PING").await.starts_with("+PONG") {
                return self.is_running();
            }
            sleep(MOMENT).await;
        }
        false
    }

    fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("ours").is_none())
    }

    /// Returns the value for `state.url`.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the value for `state.url` with TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port.expect("it has TLS"))
    }

    /// Returns the folder of its data.
    pub(crate) fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Kills it, so that it cannot save anything.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("ours");
            process.wait().expect("killed");
        }
    }

    /// Starts it again at the same address with its saved data.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.run();
        assert!(self.answers().await, "redis-server does not start again");
    }

    /// Makes it silent, like a machine that hangs.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it continue after [`RedisServer::stop`].
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(status.success());
    }

    /// Returns its answer to a command past the gateway, or an empty text if it does not answer.
    pub(crate) async fn command(&self, command: &str) -> String {
        let answer = ask(self.port, self.password.as_deref(), command);
        let answer = timeout(Duration::from_secs(5), answer).await;
        answer.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Returns its answer as soon as it fits.
    ///
    /// Panics if that takes long.
    pub(crate) async fn command_until(&self, command: &str, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LONG;
        loop {
            let answer = self.command(command).await;
            if fits(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{command}: {answer}");
            sleep(MOMENT).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn settings(durable: bool) -> Vec<String> {
    let append = if durable { "appendonly yes" } else { "appendonly no" };
    ["save \"\"", append, "appendfsync always"].map(str::to_owned).to_vec()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Returns a port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}

/// Returns the answer to a command, or to the last one of several lines.
async fn ask(port: u16, password: Option<&str>, commands: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut answer = Vec::new();
    let login = password.map(|password| format!("AUTH {password}"));
    for command in login.iter().map(String::as_str).chain(commands.lines()) {
        connection.write_all(format!("{command}\r\n").as_bytes()).await?;
        answer.clear();
        while !is_whole(&answer) && connection.read_buf(&mut answer).await? > 0 {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns true if these bytes are a whole answer.
fn is_whole(answer: &[u8]) -> bool {
    rest_after_reply(answer).is_some()
}

/// Returns the bytes after the first reply, if that is whole.
fn rest_after_reply(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, mut rest) = (&bytes[1..end], &bytes[end + 2..]);
    let count = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' => match usize::try_from(count()?) {
            Ok(length) => rest.get(length + 2..),
            Err(_) => Some(rest),
        },
        b'*' => {
            for _ in 0..count()? {
                rest = rest_after_reply(rest)?;
            }
            Some(rest)
        }
        _ => Some(rest),
    }
}
