//! A Redis for one test.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::gateway::{LONG, MOMENT, free_port};

/// A `redis-server` and its data. Both are removed when it is dropped.
pub(crate) struct Redis {
    address: SocketAddr,
    durable: bool,
    data: TempDir,
    process: Option<Child>,
}

impl Redis {
    /// Starts a server that either syncs every change before it acknowledges it, or saves only on
    /// command.
    pub(crate) async fn start(durable: bool) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut redis = Self { address: free_port(), durable, data, process: None };
        redis.restart().await;
        redis
    }

    /// Returns the value for `state.url`.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts it again at the same address with its saved data.
    pub(crate) async fn restart(&mut self) {
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()])
            .args(["--save", "", "--appendfsync", "always"])
            .args(["--appendonly", if self.durable { "yes" } else { "no" }])
            .arg("--dir")
            .arg(self.data.path())
            .stdout(Stdio::null())
            .spawn();
        self.process = Some(process.expect("redis-server, which scripts/test installs"));
        let end = Instant::now() + LONG;
        while !self.command("PING").await.starts_with("+PONG") {
            assert!(Instant::now() < end, "redis-server does not start");
            sleep(MOMENT).await;
        }
    }

    /// Kills it, so that it cannot save anything.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("ours");
            process.wait().expect("killed");
        }
    }

    /// Saves the beginning of its last event once more, like a kill in the middle of saving.
    pub(crate) fn tear(&self) {
        let folder = self.data.path().join("appendonlydir");
        let mut files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file"));
        let is_log = |file: &fs::DirEntry| file.path().to_string_lossy().ends_with(".incr.aof");
        let path = files.find(is_log).expect("its log").path();
        let mut log = fs::read(&path).expect("its log");
        let find = |end: usize, what: &[u8]| {
            log[..end].windows(what.len()).rposition(|found| found == what).expect("an event")
        };
        let end = find(log.len(), b"XADD");
        let torn = log[find(end, b"*1\r\n$5\r\nMULTI")..end].to_vec();
        log.extend(torn);
        fs::write(path, log).expect("written");
    }

    /// Sends a signal: `STOP` makes it silent and `CONT` lets it continue.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(status.success());
    }

    /// Returns its answer to a command, or an empty text if nothing listens.
    pub(crate) async fn command(&self, command: &str) -> String {
        let answer = async {
            let mut connection = TcpStream::connect(self.address).await?;
            connection.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = vec![0; 1000];
            let length = connection.read(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        answer.await.unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
