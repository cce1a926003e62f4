//! Processes of the gateway, and the ways to talk to them.

use std::{
    io::Write,
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tonic::transport::Channel;

use crate::leaks;

/// The variables from which many programs take a proxy. This one ignores them.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// A process that ends with the test.
pub(crate) struct Process {
    child: Child,
    /// The folder of its data.
    _folder: TempDir,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts a gateway with these settings.
    pub(crate) fn serve(name: &str, settings: &str, environment: &[(&str, &str)]) -> Self {
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = folder.join(format!("{name}-{}.toml", std::process::id()));
        std::fs::write(&file, settings).expect("a settings file");
        Self::start(name, &["serve", "--config", file.to_str().expect("UTF-8")], environment)
    }

    pub(crate) fn start(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let log = folder.join(format!("{name}-{}.log", std::process::id()));
        let file = std::fs::File::create(&log).expect("a log file");
        let own = tempfile::tempdir().expect("a folder");
        let child = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"))
            .args(arguments)
            .current_dir(&own)
            .env("WECHAT_STORE_GATEWAY__LISTEN__ADMIN", "127.0.0.1:0")
            // Nothing listens there, so a process that used the proxy would fail.
            .envs(PROXIES.map(|name| (name, "http://127.0.0.1:1")))
            .env("NO_PROXY", "")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("our own binary");
        Self { child, _folder: own, log }
    }

    /// Ends it like a supervisor, and returns all its output.
    pub(crate) fn stop(mut self) -> String {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.expect("kill is there").success());
        let status = self.child.wait().expect("it ends");
        let output = std::fs::read_to_string(&self.log).expect("its log");
        assert!(status.success(), "{status}: {output}");
        output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The sandbox and the simulator print the secrets of their accounts, but not in their logs.
        let output = std::fs::read_to_string(&self.log).unwrap_or_default();
        output.lines().filter(|line| line.starts_with('{')).for_each(leaks::check);
    }
}

/// Returns a port that is free now, lies below the ports that the system assigns, and is not used
/// by tests in other processes.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 27_000 + u16::try_from(std::process::id() % 180).expect("small") * 10;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 10;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub(crate) async fn connect(port: u16) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
    for _ in 0..200 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no server listens at {port}");
}

/// Returns the answer of the admin port to a path.
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens");
    write!(socket, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .expect("the gateway reads");
    std::io::read_to_string(socket).expect("the gateway answers")
}

/// Posts to the simulator over a socket.
pub(crate) fn post(port: u16, path: &str, body: &serde_json::Value) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the simulator listens");
    let body = body.to_string();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the simulator reads");
    std::io::read_to_string(socket).expect("the simulator answers")
}
