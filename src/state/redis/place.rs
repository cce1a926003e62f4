//! Finds the primary of a Redis, whatever the form of its URL, and opens connections to it.
//!
//! Sentinels name the primary, and so do the nodes of a cluster, because all keys of the state are in one slot.
//! They are asked again for each connection. Passwords and certificates are read again, too, so that a change of
//! them needs no restart. `docs/decisions/0050-redis-places.md` has the reasons.

use std::{collections::HashMap, fmt, sync::Mutex, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, ServerErrorKind,
    TlsCertificates, Value, aio::MultiplexedConnection, cmd, from_redis_value,
    io::tcp::TcpSettings,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use super::{
    failure::{Failure, damaged},
    link::TIMEOUT,
};
use crate::{
    config::{Node, RedisForm, RedisPem, RedisSettings, RedisUrl},
    state::Error,
    util::{id::Secret, lock},
};

/// The limit for an answer of a sentinel or a node.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long further answers are awaited after the first one.
const FURTHER: Duration = Duration::from_millis(200);
/// How many nodes of a cluster are asked at a time.
const ASKED: usize = 5;

/// The way to the primary of a Redis.
pub(super) struct Place {
    url: RedisUrl,
    settings: RedisSettings,
    /// A key in the slot of all keys.
    key: String,
    known: Mutex<Known>,
}

/// The knowledge about a cluster.
#[derive(Default)]
struct Known {
    nodes: Vec<Node>,
    /// The node to which another one referred.
    moved: Option<Node>,
}

/// The primary at one time, with everything that a connection to it needs.
#[derive(Clone)]
pub(super) struct Primary {
    client: Client,
    /// Its address, unless it is a socket.
    node: Option<Node>,
}

/// The content of everything that the settings name.
struct Access {
    password: Option<Secret>,
    sentinel_password: Option<Secret>,
    pem: RedisPem,
}

impl Place {
    /// Returns a place without connecting. In a cluster, the primary is that of the slot of `key`.
    pub(super) fn new(url: &RedisUrl, settings: &RedisSettings, key: &str) -> Self {
        let (url, settings) = (url.clone(), settings.clone());
        Self { url, settings, key: key.to_owned(), known: Mutex::default() }
    }

    /// Finds the primary as it is now.
    ///
    /// Fails if no sentinel or node names one, or if a file of the settings cannot be read.
    pub(super) async fn find(&self) -> Result<Primary, Error> {
        let access = self.access().await?;
        let node = match &self.url.form {
            RedisForm::Socket(_) => None,
            RedisForm::Server(node) => Some(node.clone()),
            RedisForm::Sentinels { sentinels, name } => {
                Some(self.ask_sentinels(sentinels, name, &access).await?)
            }
            RedisForm::Cluster(seeds) => Some(self.ask_cluster(seeds, &access).await?),
        };
        Ok(Primary { client: self.client(node.as_ref(), &access)?, node })
    }

    /// Finds the primary and opens a connection to it.
    ///
    /// Fails if it cannot be used.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        self.find().await?.connect(&settings).await
    }

    /// Notes the node to which a node of a cluster referred. The next search leads there, because the other nodes
    /// may not have noticed the change yet.
    pub(super) fn follow(&self, error: &RedisError, asked: &Primary) {
        if error.kind() != ErrorKind::Server(ServerErrorKind::Moved)
            || !matches!(self.url.form, RedisForm::Cluster(_))
        {
            return;
        }
        let address = error.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
        let Some((host, Ok(port))) = address.map(|(host, port)| (host, port.parse())) else {
            return;
        };
        // Without a host, it is the host that was asked.
        let host = match (host, &asked.node) {
            ("" | "?", Some(asked)) => asked.host.clone(),
            (host, _) => host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        };
        lock(&self.known).moved = Some(Node { host, port });
    }

    /// Reads everything that the settings name.
    async fn access(&self) -> Result<Access, Error> {
        let settings = self.settings.clone();
        let wrong = |key: &str, error: &dyn fmt::Display| {
            Error::Unusable(format!("Redis: `state.{key}` cannot be used: {error}"))
        };
        let read = move || {
            let RedisSettings { password, sentinel_user: _, sentinel_password, tls } = &settings;
            let password = password.as_ref().map(|source| source.read()).transpose();
            let sentinel = sentinel_password.as_ref().map(|source| source.read()).transpose();
            Ok(Access {
                password: password.map_err(|error| wrong("password", &error))?,
                sentinel_password: sentinel.map_err(|error| wrong("sentinel_password", &error))?,
                pem: tls.read().map_err(|(key, error)| wrong(&format!("tls.{key}"), &error))?,
            })
        };
        // Files can be on a slow volume.
        spawn_blocking(read).await.unwrap_or_else(|ended| Err(Error::Unusable(ended.to_string())))
    }

    /// Returns a client of a server of the state.
    fn client(&self, node: Option<&Node>, access: &Access) -> Result<Client, Error> {
        let Self { url, .. } = self;
        let mut login = login().set_db(url.database);
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = access.password.as_ref().or(url.password.as_ref()) {
            login = login.set_password(password.expose());
        }
        // RESP3 reports a lost connection before the next operation fails on it.
        self.client_of(node, login.set_protocol(ProtocolVersion::RESP3), access)
    }

    fn client_of(
        &self,
        node: Option<&Node>,
        login: RedisConnectionInfo,
        access: &Access,
    ) -> Result<Client, Error> {
        let address = match (node, &self.url.form) {
            (Some(Node { host, port }), _) if self.url.tls => {
                let (host, port) = (host.clone(), *port);
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
            (Some(Node { host, port }), _) => ConnectionAddr::Tcp(host.clone(), *port),
            (None, RedisForm::Socket(path)) => ConnectionAddr::Unix(path.clone()),
            (None, _) => return Err(damaged("address")),
        };
        let client = address.into_connection_info().and_then(|info| {
            let info = info.set_redis_settings(login).set_tcp_settings(tcp());
            if !self.url.tls {
                return Client::open(info);
            }
            let identity = access.pem.identity.clone();
            let client_tls = identity
                .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
            let root_cert = access.pem.ca.clone();
            Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
        });
        client.map_err(|error| Failure::of(&error).error)
    }

    /// Returns the primary that the sentinels name.
    async fn ask_sentinels(
        &self,
        sentinels: &[Node],
        name: &str,
        access: &Access,
    ) -> Result<Node, Error> {
        let asked = sentinels
            .iter()
            .map(async |sentinel| (sentinel, self.ask_sentinel(sentinel, name, access).await));
        let answers = first_answers(asked, sentinels.len()).await.map_err(|causes| {
            let causes = causes.replace("`state.password`", "`state.sentinel_password`");
            Error::Unusable(format!("Redis: no sentinel answers: {causes}"))
        })?;
        let known = answers.into_iter().flatten();
        // Each failover has a larger number than the one before it.
        known.max_by_key(|(failover, _)| *failover).map(|(_, primary)| primary).ok_or_else(|| {
            Error::Unusable(format!(
                "Redis: the sentinels do not know the name {name}: fix `state.url`"
            ))
        })
    }

    /// Returns the primary that one sentinel names, and the number of the failover that made it the primary. Returns
    /// `None` if the sentinel does not know the name.
    async fn ask_sentinel(
        &self,
        sentinel: &Node,
        name: &str,
        access: &Access,
    ) -> Result<Option<(u64, Node)>, Error> {
        let mut login = login();
        if let Some(user) = &self.settings.sentinel_user {
            login = login.set_username(user);
        }
        if let Some(password) = &access.sentinel_password {
            login = login.set_password(password.expose());
        }
        let mut connection = connect(&self.client_of(Some(sentinel), login, access)?).await?;
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let Some((host, port)) = ask(&question, &mut connection).await? else { return Ok(None) };
        // The former question has the newer answer during a failover, and only this one has the number. A user may
        // be allowed to put only the former.
        let mut question = cmd("SENTINEL");
        question.arg("MASTER").arg(name);
        let details: HashMap<String, String> =
            ask(&question, &mut connection).await.unwrap_or_default();
        let failover = details.get("config-epoch").and_then(|number| number.parse().ok());
        Ok(Some((failover.unwrap_or(0), Node { host, port })))
    }

    /// Returns the primary of the slot that nodes of the cluster name.
    async fn ask_cluster(&self, seeds: &[Node], access: &Access) -> Result<Node, Error> {
        let nodes = {
            let mut known = lock(&self.known);
            if let Some(moved) = known.moved.take() {
                return Ok(moved);
            }
            let mut nodes = known.nodes.clone();
            nodes.extend(seeds.iter().filter(|seed| !known.nodes.contains(seed)).cloned());
            fastrand::shuffle(&mut nodes);
            nodes.truncate(ASKED);
            nodes
        };
        let asked = nodes.iter().map(async |node| (node, self.ask_node(node, access).await));
        let answers = first_answers(asked, nodes.len()).await.map_err(|causes| {
            Error::Unusable(format!("Redis: no node of the cluster answers: {causes}"))
        })?;
        let (primaries, nodes): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        if let Some(nodes) = nodes.into_iter().max_by_key(Vec::len) {
            lock(&self.known).nodes = nodes;
        }
        let mut votes = HashMap::new();
        for primary in primaries.into_iter().flatten() {
            *votes.entry(primary).or_insert(0) += 1;
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(primary, _)| primary).ok_or_else(
            || {
                let what = "no node of the cluster has the slot of the gateway's keys";
                Error::Unusable(format!("Redis: {what}"))
            },
        )
    }

    /// Returns the primary of the slot that one node names, if there is one, and all nodes.
    async fn ask_node(
        &self,
        node: &Node,
        access: &Access,
    ) -> Result<(Option<Node>, Vec<Node>), Error> {
        let mut connection = connect(&self.client(Some(node), access)?).await?;
        let mut question = cmd("CLUSTER");
        question.arg("KEYSLOT").arg(&self.key);
        let slot = ask(&question, &mut connection).await?;
        let ranges: Vec<Vec<Value>> = ask(cmd("CLUSTER").arg("SLOTS"), &mut connection).await?;
        parse_slots(ranges, slot, node).ok_or_else(|| damaged("description of a cluster"))
    }
}

/// Hides the password.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.url).finish()
    }
}

impl Primary {
    /// Opens a connection.
    ///
    /// Fails if the server cannot be used.
    pub(super) async fn connect(
        &self,
        settings: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Error> {
        let made = self.client.get_multiplexed_async_connection_with_config(settings);
        match timeout(TIMEOUT, made).await {
            Ok(made) => made.map_err(|error| Failure::of(&error).error),
            Err(_) => Err(Failure::late().error),
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, Error> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ASK_TIMEOUT))
        .set_response_timeout(Some(ASK_TIMEOUT));
    let made = client.get_multiplexed_async_connection_with_config(&settings).await;
    made.map_err(|error| Failure::of(&error).error)
}

async fn ask<T: FromRedisValue>(
    question: &Cmd,
    connection: &mut MultiplexedConnection,
) -> Result<T, Error> {
    question.query_async(connection).await.map_err(|error| Failure::of(&error).error)
}

/// Returns the answers that arrive until most of `count` servers have answered, or a moment after the first answer.
///
/// Fails with the causes if none answers.
async fn first_answers<'a, T>(
    asked: impl Iterator<Item = impl Future<Output = (&'a Node, Result<T, Error>)>>,
    count: usize,
) -> Result<Vec<T>, String> {
    let mut asked = FuturesUnordered::from_iter(asked);
    let (mut answers, mut causes) = (Vec::new(), Vec::new());
    let mut end = Instant::now() + ASK_TIMEOUT;
    while answers.len() * 2 <= count
        && let Ok(Some((node, answer))) = timeout_at(end, asked.next()).await
    {
        match answer {
            Ok(answer) => {
                if answers.is_empty() {
                    end = end.min(Instant::now() + FURTHER);
                }
                answers.push(answer);
            }
            Err(error) => {
                let cause = error.to_string();
                causes.push(format!("{node}: {}", cause.trim_start_matches("Redis: ")));
            }
        }
    }
    if causes.len() < count && answers.is_empty() {
        causes.push("the others do not answer in time".to_owned());
    }
    if answers.is_empty() { Err(causes.join("; ")) } else { Ok(answers) }
}

/// Returns the primary of a slot, if there is one, and all nodes, from the ranges of slots that a node returned.
fn parse_slots(
    ranges: Vec<Vec<Value>>,
    slot: u16,
    asked: &Node,
) -> Option<(Option<Node>, Vec<Node>)> {
    let (mut primary, mut nodes) = (None, Vec::new());
    for range in ranges {
        let mut range = range.into_iter();
        let first: u16 = from_redis_value(range.next()?).ok()?;
        let last: u16 = from_redis_value(range.next()?).ok()?;
        // The primary is the first one.
        for (index, node) in range.enumerate() {
            let mut parts = Vec::<Value>::from_redis_value(node).ok()?.into_iter();
            let host: Option<String> = from_redis_value(parts.next()?).ok()?;
            let port = from_redis_value(parts.next()?).ok()?;
            let host = host.filter(|host| !matches!(&**host, "" | "?"));
            let node = Node { host: host.unwrap_or_else(|| asked.host.clone()), port };
            if index == 0 && (first..=last).contains(&slot) {
                primary = Some(node.clone());
            }
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
    }
    Some((primary, nodes))
}

fn login() -> RedisConnectionInfo {
    // Redis would log that a user may not set the name of its library.
    RedisConnectionInfo::default().set_skip_set_lib_name()
}

fn tcp() -> TcpSettings {
    let tcp = TcpSettings::default().set_nodelay(true);
    // A host that vanished never closes its connections.
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(2 * TIMEOUT);
    tcp
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.to_owned(), port }
    }

    #[test]
    fn primary_of_slot_is_found_in_ranges() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let server = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |first, last, servers: Vec<_>| {
            [vec![Value::Int(first), Value::Int(last)], servers].concat()
        };
        let ranges = vec![
            range(0, 99, vec![server(text("a"), 1), server(text("b"), 2)]),
            range(100, 100, vec![server(Value::Nil, 3), server(text("a"), 1)]),
        ];
        let asked = node("asked", 9);
        let all = vec![node("a", 1), node("b", 2), node("asked", 3)];
        for (slot, primary) in
            [(0, Some(&all[0])), (99, Some(&all[0])), (100, Some(&all[2])), (101, None)]
        {
            let found = parse_slots(ranges.clone(), slot, &asked);
            assert_eq!(found, Some((primary.cloned(), all.clone())), "{slot}");
        }
        assert_eq!(parse_slots(vec![vec![text("hush")]], 0, &asked), None);
    }

    #[tokio::test(start_paused = true)]
    async fn most_answers_are_awaited_but_not_for_long() {
        let nodes = [node("a", 1), node("b", 2), node("c", 3)];
        let answers = async |waits: [Option<u64>; 3]| {
            let asked = nodes.iter().zip(waits).map(async |(node, wait)| match wait {
                Some(wait) => {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                    (node, Ok(node.port))
                }
                None => (node, Err(Failure::late().error)),
            });
            let since = Instant::now();
            (first_answers(asked, 3).await, since.elapsed())
        };
        let millis = Duration::from_millis;
        assert_eq!(answers([Some(10), Some(20), Some(30)]).await, (Ok(vec![1, 2]), millis(20)));
        assert_eq!(
            answers([Some(10), Some(9_000), None]).await,
            (Ok(vec![1]), millis(10) + FURTHER)
        );
        assert_eq!(answers([None, Some(10), None]).await, (Ok(vec![2]), millis(10)));
        let (none, waited) = answers([None, Some(9_000), None]).await;
        let causes = none.expect_err("none answered");
        assert!(causes.starts_with("a:1: ") && causes.contains("the others"), "{causes}");
        assert_eq!(waited, ASK_TIMEOUT);
    }
}
