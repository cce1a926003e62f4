//! A cluster, and the move of a slot.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Certificates, LONG, MOMENT, RedisServer, free_port};

/// A key in the slot of all keys of the gateway. It does not exist.
const KEY: &str = "{wechat-store-gateway}:";

/// Three primaries, and perhaps a replica of each.
pub(crate) struct Cluster {
    /// The primaries, then the replicas in the same order.
    pub(crate) servers: Vec<RedisServer>,
}

impl Cluster {
    /// Starts three primaries, and a replica of each if `replicas`. Waits until all of them serve.
    pub(crate) async fn start(durable: bool, replicas: bool, tls: Option<&Certificates>) -> Self {
        let (mut servers, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..if replicas { 6 } else { 3 } {
            let bus = free_port();
            let bus_line = format!("cluster-port {bus}");
            let mut lines = vec![
                "cluster-enabled yes",
                "cluster-config-file nodes.conf",
                "cluster-node-timeout 2000",
                "repl-diskless-sync-delay 0",
                &bus_line,
            ];
            if tls.is_some() {
                lines.push("tls-cluster yes");
            }
            servers.push(RedisServer::start_with(durable, &lines, tls).await);
            buses.push(bus);
        }
        let cluster = Self { servers };
        for (index, server) in cluster.servers.iter().enumerate() {
            if let Some(range) = ["0 5460", "5461 10922", "10923 16383"].get(index) {
                ok(server, &format!("CLUSTER ADDSLOTSRANGE {range}")).await;
            }
            for (other, bus) in cluster.servers.iter().zip(&buses).skip(index + 1) {
                ok(server, &format!("CLUSTER MEET 127.0.0.1 {} {bus}", address(other))).await;
            }
        }
        cluster.ready().await;
        for (index, replica) in cluster.servers.iter().enumerate().skip(3) {
            let primary = id(&cluster.servers[index - 3]).await;
            ok(replica, &format!("CLUSTER REPLICATE {primary}")).await;
            replica.command_until("INFO replication", |info| info.contains("link_status:up")).await;
        }
        cluster
    }

    /// Waits until every running server knows all others and serves.
    pub(crate) async fn ready(&self) {
        let all = format!("cluster_known_nodes:{}\r\n", self.servers.len());
        for server in self.servers.iter().filter(|server| server.process.is_some()) {
            let is_ready =
                |info: &str| info.contains("cluster_state:ok\r\n") && info.contains(&all);
            server.command_until("CLUSTER INFO", is_ready).await;
        }
    }

    /// Returns the value for `state.url`, which names two servers.
    pub(crate) fn url(&self) -> String {
        let ports = self.servers.iter().map(|server| format!("127.0.0.1:{}", address(server)));
        let scheme = match self.servers[0].tls_port {
            Some(_) => "rediss-cluster",
            None => "redis-cluster",
        };
        format!("{scheme}://{}", Vec::from_iter(ports.take(2)).join(","))
    }

    /// Returns the index of the server that has the gateway's keys.
    pub(crate) async fn owner(&self) -> usize {
        let end = Instant::now() + LONG;
        loop {
            for (index, server) in self.servers.iter().enumerate() {
                if server.command(&format!("EXISTS {KEY}")).await.starts_with(':') {
                    return index;
                }
            }
            assert!(Instant::now() < end, "no server has the keys");
            sleep(MOMENT).await;
        }
    }

    /// Begins to move the gateway's slot. Until [`Cluster::end_move`], both servers refuse the gateway.
    pub(crate) async fn begin_move(&self, from: usize, to: usize) {
        let (slot, [from, to]) = (self.slot().await, [from, to].map(|index| &self.servers[index]));
        let (from_id, to_id) = (id(from).await, id(to).await);
        ok(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")).await;
        ok(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")).await;
    }

    /// Moves all keys of the gateway, a few at a time.
    pub(crate) async fn move_keys(&self, from: usize, to: usize) {
        let (slot, from) = (self.slot().await, &self.servers[from]);
        let port = address(&self.servers[to]);
        loop {
            let keys = from.command(&format!("CLUSTER GETKEYSINSLOT {slot} 3")).await;
            let keys = keys.lines().filter(|line| line.starts_with('{'));
            let keys = Vec::from_iter(keys.map(|key| format!("{key:?}")));
            if keys.is_empty() {
                return;
            }
            let keys = keys.join(" ");
            ok(from, &format!("MIGRATE 127.0.0.1 {port} \"\" 0 5000 KEYS {keys}")).await;
        }
    }

    /// Makes the new server of the slot known.
    pub(crate) async fn end_move(&self, from: usize, to: usize) {
        let (slot, to_id) = (self.slot().await, id(&self.servers[to]).await);
        for server in [to, from] {
            ok(&self.servers[server], &format!("CLUSTER SETSLOT {slot} NODE {to_id}")).await;
        }
    }

    async fn slot(&self) -> String {
        let slot = self.servers[0].command(&format!("CLUSTER KEYSLOT {KEY}")).await;
        slot.trim_start_matches(':').trim_end().to_owned()
    }

    /// Waits until a server that runs has the gateway's keys and is not this one. Returns its index.
    pub(crate) async fn owner_after(&self, former: usize) -> usize {
        loop {
            match self.owner().await {
                owner if owner != former => return owner,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Returns the port at which other servers and the gateway reach a server.
fn address(server: &RedisServer) -> u16 {
    server.tls_port.unwrap_or(server.port)
}

async fn id(server: &RedisServer) -> String {
    server.command("CLUSTER MYID").await.lines().last().unwrap_or_default().to_owned()
}

async fn ok(server: &RedisServer, command: &str) {
    server.command_until(command, |answer| answer.starts_with('+')).await;
}
