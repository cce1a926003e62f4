//! A primary with replicas, and the sentinels that choose the primary.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Certificates, LONG, MOMENT, RedisServer, folder};

/// The name under which the sentinels know the primary.
const NAME: &str = "gateway";

/// The differences between groups.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a> {
    /// Whether the servers sync every change before they acknowledge it.
    pub(crate) durable: bool,
    pub(crate) replicas: usize,
    pub(crate) sentinels: usize,
    /// The password of the servers.
    pub(crate) password: Option<&'a str>,
    /// The password of the sentinels.
    pub(crate) sentinel_password: Option<&'a str>,
    pub(crate) tls: Option<&'a Certificates>,
    /// How long a server is silent until the sentinels choose another primary.
    pub(crate) down_after: Duration,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            durable: true,
            replicas: 2,
            sentinels: 3,
            password: None,
            sentinel_password: None,
            tls: None,
            down_after: Duration::from_millis(700),
        }
    }
}

/// A primary, its replicas, and the sentinels that choose the primary.
pub(crate) struct Sentinels {
    /// The primary and the replicas. The first one is the primary at the start.
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) sentinels: Vec<RedisServer>,
    replicas: usize,
}

impl Sentinels {
    /// Starts a primary with two replicas, and three sentinels.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts a group, and waits until every sentinel could choose another primary.
    pub(crate) async fn start_with(options: Options<'_>) -> Self {
        let Options { durable, replicas, sentinels, password, tls, .. } = options;
        let mut group = Self { servers: vec![], sentinels: vec![], replicas };
        for _ in 0..=replicas {
            let mut lines = vec!["repl-diskless-sync-delay 0".to_owned()];
            if let Some(password) = password {
                lines.extend([format!("requirepass {password}"), format!("masterauth {password}")]);
            }
            if let Some(primary) = group.servers.first() {
                lines.push(format!("replicaof 127.0.0.1 {}", address(primary)));
            }
            let lines = Vec::from_iter(lines.iter().map(String::as_str));
            group.servers.push(RedisServer::start_with(durable, &lines, tls).await);
        }
        let port = address(&group.servers[0]);
        for _ in 0..sentinels {
            let lines = sentinel_lines(port, &options);
            group.sentinels.push(RedisServer::start_in(folder(), true, lines, tls).await);
        }
        for sentinel in &group.sentinels {
            // By default, a sentinel that had no time to run does nothing for 30 seconds.
            let speed = "SENTINEL DEBUG tilt-period 1000 info-period 500 publish-period 200";
            assert!(sentinel.command(speed).await.starts_with("+OK"));
        }
        group.ready().await;
        group
    }

    /// Waits until all replicas follow the primary and every sentinel has found all servers and sentinels.
    pub(crate) async fn ready(&self) {
        let end = Instant::now() + LONG;
        let (replicas, others) =
            (self.replicas.to_string(), (self.sentinels.len() - 1).to_string());
        loop {
            // It may still change after a failover.
            let primary = self.primary().await;
            let info = self.servers[primary].command("INFO replication").await;
            let mut ready = info.matches("state=online").count() == self.replicas;
            for sentinel in &self.sentinels {
                let known = sentinel.command(&format!("SENTINEL MASTER {NAME}")).await;
                ready &= field(&known, "num-slaves") == Some(&replicas)
                    && field(&known, "num-other-sentinels") == Some(&others)
                    && field(&known, "flags") == Some("master")
                    && field(&known, "port") == Some(&address(&self.servers[primary]).to_string());
                let known = sentinel.command(&format!("SENTINEL REPLICAS {NAME}")).await;
                ready &=
                    known.matches("master-link-status\r\n$2\r\nok\r\n").count() == self.replicas;
            }
            if ready {
                return;
            }
            assert!(Instant::now() < end, "the sentinels do not find the servers: {info}");
            sleep(MOMENT).await;
        }
    }

    /// Returns the value for `state.url`.
    pub(crate) fn url(&self) -> String {
        let ports =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", address(sentinel)));
        let scheme = match self.sentinels[0].tls_port {
            Some(_) => "rediss-sentinel",
            None => "redis-sentinel",
        };
        format!("{scheme}://{}/{NAME}", Vec::from_iter(ports).join(","))
    }

    /// Returns the index of the primary that most sentinels name.
    pub(crate) async fn primary(&self) -> usize {
        let end = Instant::now() + LONG;
        loop {
            let mut votes = vec![0; self.servers.len()];
            for sentinel in &self.sentinels {
                let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}");
                let answer = sentinel.command(&question).await;
                let port = answer.lines().last().and_then(|port| port.parse().ok());
                let named = self.servers.iter().position(|server| Some(address(server)) == port);
                if let Some(index) = named {
                    votes[index] += 1;
                }
            }
            if let Some(index) = votes.iter().position(|count| count * 2 > self.sentinels.len()) {
                return index;
            }
            assert!(Instant::now() < end, "the sentinels do not agree: {votes:?}");
            sleep(MOMENT).await;
        }
    }

    /// Kills the primary. Returns its index.
    pub(crate) async fn kill_primary(&mut self) -> usize {
        let index = self.primary().await;
        self.servers[index].kill();
        index
    }

    /// Makes the primary silent. Returns its index.
    pub(crate) async fn stop_primary(&self) -> usize {
        let index = self.primary().await;
        self.servers[index].stop();
        index
    }

    /// Lets a sentinel choose another primary. Returns the index of the former one.
    pub(crate) async fn fail_over(&self) -> usize {
        let index = self.primary().await;
        let command = format!("SENTINEL FAILOVER {NAME}");
        self.sentinels[0].command_until(&command, |answer| answer.starts_with("+OK")).await;
        index
    }

    /// Waits until another server than this one is the primary and accepts writes. Returns its index.
    pub(crate) async fn primary_after(&self, former: usize) -> usize {
        let end = Instant::now() + LONG;
        loop {
            let primary = self.primary().await;
            if primary != former
                && self.servers[primary].command("ROLE").await.contains("master\r\n")
            {
                return primary;
            }
            assert!(Instant::now() < end, "the sentinels choose no other primary");
            sleep(MOMENT).await;
        }
    }
}

fn sentinel_lines(port: u16, options: &Options<'_>) -> Vec<String> {
    let Options { sentinels, password, sentinel_password, down_after, .. } = options;
    let mut lines = vec![
        format!("sentinel monitor {NAME} 127.0.0.1 {port} {}", sentinels / 2 + 1),
        format!("sentinel down-after-milliseconds {NAME} {}", down_after.as_millis()),
        format!("sentinel failover-timeout {NAME} 3000"),
        format!("sentinel parallel-syncs {NAME} 5"),
    ];
    if let Some(password) = password {
        lines.push(format!("sentinel auth-pass {NAME} {password}"));
    }
    if let Some(password) = sentinel_password {
        lines.extend([
            format!("requirepass {password}"),
            format!("sentinel sentinel-pass {password}"),
        ]);
    }
    lines
}

/// Returns the port at which other servers and the gateway reach a server.
fn address(server: &RedisServer) -> u16 {
    server.tls_port.unwrap_or(server.port)
}

/// Returns a field of an answer that is a list of names and values.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.lines().skip_while(|line| *line != name);
    lines.nth(2)
}
