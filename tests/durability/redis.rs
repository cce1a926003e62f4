//! A Redis of a test's own.

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

/// A `redis-server` and its data. Both are gone when it is dropped.
pub(crate) struct Redis {
    address: SocketAddr,
    durable: bool,
    data: TempDir,
    process: Option<Child>,
}

impl Redis {
    /// Starts one that writes down what it did before it says so, or only when it is told to.
    pub(crate) async fn start(durable: bool) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut redis = Self { address: free_port(), durable, data, process: None };
        redis.restart().await;
        redis
    }

    /// What the settings' `state.url` is.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts it where it was, with what it wrote down.
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

    /// Kills it: it has no time to write anything down.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("ours");
            process.wait().expect("killed");
        }
    }

    /// Writes the beginning of its last event down once more, as if a kill had met it in the middle.
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

    /// `STOP`s it, so that it is silent but there, or lets it `CONT`inue.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(status.success());
    }

    /// Its answer to a command; empty if nobody is there.
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
