//! Connections to Redis: how long they may take, what their failures mean, and whether what is
//! written there lasts.

use std::{
    collections::HashMap,
    fmt,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo, ProtocolVersion,
    RedisError, RedisResult, Script, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    cmd,
    io::tcp::TcpSettings,
    pipe,
};
use tokio::time::timeout;

use crate::state::Error;

/// What all keys begin with. The braces make it a hash tag: a cluster keeps them all in one slot.
const PREFIX: &str = "{wechat-store-gateway}:";

/// What is stored, and how. A change that this version's scripts would misread needs another number.
const SCHEMA: i64 = 1;

/// How long an answer may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long Redis is asked to wait for something new.
const WAIT: Duration = Duration::from_secs(28);

/// A script, with what all of them begin with.
macro_rules! lua {
    ($file:literal) => {
        std::sync::LazyLock::new(|| {
            ::redis::Script::new(concat!(include_str!("prelude.lua"), include_str!($file)))
        })
    };
}
pub(super) use lua;

static PROBE: LazyLock<Script> = lua!("probe.lua");

/// The way to a Redis.
pub(super) struct Connection {
    /// Shared by all verbs that are answered at once; connects again by itself.
    shared: ConnectionManager,
    /// For those that wait, which would hold up everything behind them.
    client: Client,
    /// A connection that waited before.
    waited: Mutex<Option<MultiplexedConnection>>,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(url: &str) -> Result<Self, Error> {
        let info = url.into_connection_info().map_err(unusable)?;
        // The newer protocol tells of a lost connection before the next verb runs into it.
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(redis).set_tcp_settings(tcp());
        let client = Client::open(info).map_err(unusable)?;
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(3)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(200));
        let mut shared =
            in_time(ConnectionManager::new_with_config(client.clone(), settings)).await?;
        adopt(&mut shared).await?;
        if let Some(warning) = warning(configuration(&mut shared).await.as_ref()) {
            tracing::warn!("{warning}");
        }
        Ok(Self { shared, client, waited: Mutex::default() })
    }

    /// Runs a script, made with [`Connection::call`]; again if the connection breaks.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        in_time(async {
            match call.invoke_async(&mut self.shared.clone()).await {
                // Maybe long ago: how the last attempt to connect ended is remembered. Where the
                // verb did happen, that is as if the caller had repeated it.
                Err(error) if error.is_io_error() => {
                    call.invoke_async(&mut self.shared.clone()).await
                }
                // Where it was the primary, the address leads to another one by now: Redis closes
                // this connection, and the next verb finds the way anew.
                Err(error) if is_read_only(&error) => {
                    let _: RedisResult<()> =
                        cmd("QUIT").query_async(&mut self.shared.clone()).await;
                    Err(error)
                }
                answer => answer,
            }
        })
        .await
    }

    /// A call of a script, to be given its arguments.
    pub(super) fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        script.key(PREFIX)
    }

    /// Waits until a stream has entries after an id, for a while at most.
    pub(super) async fn wait(&self, stream: &str, after: &str) -> Result<(), Error> {
        // Whoever stops waiting drops the connection, for Redis goes on.
        let idle = self.waited().take();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let settings = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(WAIT + PATIENCE));
                let client = &self.client;
                in_time(client.get_multiplexed_async_connection_with_config(&settings)).await?
            }
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(millis(WAIT));
        read.arg("STREAMS").arg(format!("{PREFIX}{stream}")).arg(after);
        let () = read.query_async(&mut connection).await.map_err(error)?;
        *self.waited() = Some(connection);
        Ok(())
    }

    /// Writes something.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        self.run(&self.call(&PROBE)).await
    }

    fn waited(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows no password.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// A span of time as scripts get it.
pub(super) fn millis(span: Duration) -> u64 {
    // More would not pass through a script's numbers unharmed, and is three centuries.
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).min(10_000_000_000_000)
}

/// Says that something is not as our scripts answer; not what, for it may be secret.
pub(super) fn damaged(what: &str) -> Error {
    Error::Damaged(format!("Redis answered with another {what} than expected"))
}

fn tcp() -> TcpSettings {
    let tcp = TcpSettings::default().set_nodelay(true);
    // A host that vanished never closes its connections.
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(2 * PATIENCE);
    tcp
}

/// Gives up after a while.
async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, Error> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(error),
        Err(_) => Err(Error::Unusable("Redis does not answer in time".to_owned())),
    }
}

/// Makes a Redis ours, unless a newer version did so before.
async fn adopt(connection: &mut ConnectionManager) -> Result<(), Error> {
    let key = format!("{PREFIX}schema");
    let mut schema = pipe();
    schema.cmd("SET").arg(&key).arg(SCHEMA).arg("NX").ignore();
    let (found,): (i64,) = in_time(schema.cmd("GET").arg(&key).query_async(connection)).await?;
    if found > SCHEMA {
        return Err(Error::Newer { found, known: SCHEMA });
    }
    Ok(())
}

/// How Redis is set, as far as it tells.
async fn configuration(connection: &mut ConnectionManager) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
        let mut ask = cmd("CONFIG");
        ask.arg("GET").arg(name);
        let answer: HashMap<String, String> = in_time(ask.query_async(connection)).await.ok()?;
        found.extend(answer);
    }
    Some(found)
}

/// What to say about how Redis is set.
fn warning(configuration: Option<&HashMap<String, String>>) -> Option<String> {
    let Some(configuration) = configuration else {
        return Some(
            "this Redis does not tell how durable it is: unless it is set to `appendonly yes`, \
             `appendfsync always` and `maxmemory-policy noeviction`, audit events that were \
             acknowledged to WeChat may be lost"
                .to_owned(),
        );
    };
    let is = |name, value| configuration.get(name).is_some_and(|found| found == value);
    let mut warnings = Vec::new();
    if !is("appendonly", "yes") {
        warnings.push(
            "if this Redis fails, everything since its last snapshot is lost, audit events that \
             were acknowledged to WeChat among it: set `appendonly yes` and `appendfsync always`",
        );
    } else if is("appendfsync", "no") {
        warnings.push(
            "if this Redis's machine fails, audit events of about the last half minute are lost, \
             though they were acknowledged to WeChat: set `appendfsync always`",
        );
    } else if !is("appendfsync", "always") {
        warnings.push(
            "if this Redis's machine fails, audit events of the last second are lost, though they \
             were acknowledged to WeChat: set `appendfsync always`",
        );
    }
    if !is("maxmemory-policy", "noeviction") {
        warnings.push(
            "this Redis forgets things when its memory is full: set `maxmemory-policy noeviction`",
        );
    }
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// What a failure means. Says nothing that was stored or sent.
fn error(error: RedisError) -> Error {
    match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => return damaged("type"),
        _ => {}
    }
    let text = text(&error);
    // Redis 6 reports what happened to a command in a script inside of another error.
    if text.contains("OOM command not allowed") || text.contains("No space left on device") {
        return Error::Full;
    }
    unusable(error)
}

/// Whether it refuses to write. Redis 6 says so inside of another error.
fn is_read_only(error: &RedisError) -> bool {
    text(error).contains("READONLY You can't write against a read only replica")
}

fn unusable(error: RedisError) -> Error {
    let text = text(&error);
    // Of a command that it does not know Redis repeats the beginning.
    let said = text.split("with args beginning").next().unwrap_or_default();
    Error::Unusable(format!("Redis: {said}"))
}

fn text(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_of(settings: &[(&str, &str)]) -> Option<String> {
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        warning(Some(&settings.collect()))
    }

    #[test]
    fn a_redis_that_may_lose_events_is_warned_of() {
        let kept = ("maxmemory-policy", "noeviction");
        let always = ("appendfsync", "always");
        assert_eq!(said_of(&[("appendonly", "yes"), always, kept]), None);

        let said = said_of(&[("appendonly", "no"), always, kept]).expect("no file");
        assert!(said.contains("everything since"), "{said}");
        let said = said_of(&[("appendonly", "yes"), ("appendfsync", "everysec"), kept]);
        assert!(said.as_ref().is_some_and(|said| said.contains("last second")), "{said:?}");
        let said = said_of(&[("appendonly", "yes"), always, ("maxmemory-policy", "allkeys-lru")]);
        assert!(said.as_ref().is_some_and(|said| said.contains("noeviction")), "{said:?}");
        assert!(warning(None).is_some_and(|said| said.contains("does not tell")));
    }

    #[test]
    fn a_full_redis_is_full_and_no_failure_repeats_what_was_sent() {
        let full = [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command \
             not allowed when used memory > 'maxmemory'.",
            "MISCONF Errors writing to the AOF file: No space left on device",
        ];
        for text in full {
            let (code, detail) = text.split_once(' ').expect("a code");
            let full = ::redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            assert_eq!(error(full), Error::Full, "{text}");
        }
        let unknown = "unknown command 'EVALSHA', with args beginning with: 'hush'".to_owned();
        let unknown = error(::redis::make_extension_error("ERR".to_owned(), Some(unknown)));
        assert!(!unknown.to_string().contains("hush"), "{unknown}");
        let other: RedisError =
            (ErrorKind::UnexpectedReturnType, "not a number", "hush".to_owned()).into();
        assert!(!error(other).to_string().contains("hush"));
    }
}
