//! Runs scripts, each only in the state that this process knows.
//!
//! A state at Redis has an *era*, a random number. Every script receives the era that this process
//! knows and the number of changes that it has seen. If Redis has another era, none, or fewer
//! changes, the script changes nothing and reports that. Then the state was lost: Redis was
//! emptied, or is an older copy. Operations that were running in the old era fail, and the
//! processes agree on a new era. Each process restores its own unfinished work, and no process
//! begins new work for a short time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, Weak},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Script, ToRedisArgs, Value,
    aio::MultiplexedConnection, cmd, from_redis_value,
};
use tokio::time::{sleep, timeout};

use super::{
    backup::Backup,
    failure::{Failure, damaged},
    link::{Link, TIMEOUT},
    place::Place,
    restore,
};
use crate::{
    config::{RedisSettings, RedisUrl},
    pb::SubmissionKind,
    state::{
        Error, Inspection, Peeked, Ticket,
        transfer::{UNFINISHED, unfinished},
    },
    util::{id::AppId, lock, single_flight::SingleFlight},
};

/// The prefix of all keys. Its braces make it a hash tag, so a cluster keeps all keys in one slot.
pub(super) const PREFIX: &str = "{wechat-store-gateway}:";

/// The version of the stored data. A change that this version's scripts would misread needs a new
/// number.
pub(super) const SCHEMA: i64 = 1;

/// How long Redis waits for a new event.
const LONGEST_WAIT: Duration = Duration::from_secs(28);

/// How often a process checks that the state still exists while it has unfinished work or waits for
/// events.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long no process begins a write or gets a lease after a possible loss. By then, every process
/// has checked the state and restored its unfinished work.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

/// How often a process records that it runs, so that no command moves a state that is in use.
const SEEN_INTERVAL: Duration = Duration::from_secs(20);

/// The number of attempts at the start.
const ATTEMPTS: usize = 3;

/// Loads a script with the common beginning and end.
macro_rules! lua {
    ($file:literal) => {
        std::sync::LazyLock::new(|| crate::state::redis::connection::script(include_str!($file)))
    };
}
pub(super) use lua;

/// Returns a script that runs `body` as its operation. Its first line has the contract's numbers of
/// the kinds of submissions that scripts distinguish.
pub(super) fn script(body: &str) -> Script {
    use SubmissionKind::{Merchant, Store, StorePictures, Unspecified};
    let [unspecified, merchant, store, pictures] =
        [Unspecified, Merchant, Store, StorePictures].map(|kind| kind as i32);
    Script::new(&format!(
        "local UNSPECIFIED, MERCHANT, STORE, PICTURES = \
         '{unspecified}', '{merchant}', '{store}', '{pictures}'\n\
         {prelude}local function operation()\n{body}end\n{end}",
        prelude = include_str!("prelude.lua"),
        end = include_str!("end.lua"),
    ))
}

static IDENTIFY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(include_str!("server.lua"), include_str!("identify.lua")))
});
static ADOPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("server.lua"), include_str!("adopt.lua"))));
static CHECK: LazyLock<Script> = lua!("check.lua");
static SEEN: LazyLock<Script> = lua!("seen.lua");
static PROBE: LazyLock<Script> = lua!("probe.lua");

/// A script and its arguments.
pub(super) struct Call {
    script: &'static Script,
    args: Vec<Vec<u8>>,
}

impl Call {
    /// Adds an argument.
    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// Returns the number of arguments.
    pub(super) fn count(&self) -> usize {
        self.args.len()
    }

    /// Adds the arguments of another call.
    pub(super) fn append(&mut self, mut other: Self) {
        self.args.append(&mut other.args);
    }

    fn command(&self, before: &[&str]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(self.script.get_hash()).arg(1).arg(PREFIX).arg(before).arg(&self.args);
        command
    }
}

/// The connection to a state in Redis. Clones share it.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    /// The name of this process in the state.
    me: String,
    known: Mutex<Known>,
    /// An idle connection for waiting, and the number of the shared connection at that time.
    waited: Mutex<Option<(u64, MultiplexedConnection)>>,
}

/// The knowledge of this process about the state.
#[derive(Default)]
struct Known {
    /// `None` until the processes have agreed.
    era: Option<Era>,
    /// The previous era, which may have unfinished work.
    left: Option<Era>,
    agreement: SingleFlight<Result<(), Error>>,
    backup: Backup,
    /// Whether a task checks the state regularly.
    is_checked: bool,
}

/// The identity of a state, and the changes that this process has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Era {
    id: u64,
    /// The number of changes by all processes.
    steps: u64,
    /// The number of changes by this process.
    own: u64,
}

impl Connection {
    /// Connects to Redis and checks its version and its durability.
    pub(super) async fn open(url: &RedisUrl, settings: &RedisSettings) -> Result<Self, Error> {
        let mut identify = IDENTIFY.key(PREFIX);
        identify.arg(millis(QUIET_PERIOD));
        let link = Link::new(Place::new(url, settings, PREFIX), identify);
        let me = format!("p:{:016x}", fastrand::u64(..));
        let connection = Self(Arc::new(Inner {
            link: link.clone(),
            me,
            known: Mutex::default(),
            waited: Mutex::default(),
        }));
        let opened = timeout(TIMEOUT, async {
            for attempt in 1.. {
                match connection.agreed().await {
                    Err(Error::Unusable(_)) if attempt < ATTEMPTS => sleep(TIMEOUT / 20).await,
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
            if let Some(warning) = warning(configuration(link.connected().await?.1).await.as_ref())
            {
                tracing::warn!("Redis can lose data: {warning}");
            }
            Ok(())
        });
        opened.await.unwrap_or_else(|_| Err(link.late()))?;
        tokio::spawn(be_seen(Arc::downgrade(&connection.0)));
        Ok(connection)
    }

    /// Returns a call of a script without arguments.
    pub(super) fn call(&self, script: &'static Script) -> Call {
        Call { script, args: Vec::new() }
    }

    /// Runs a script that [`Connection::call`] made. Runs it again if the connection breaks, or in
    /// the new state if the state was lost.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &Call) -> Result<T, Error> {
        match self.run_and_note(call, |_, _| ()).await? {
            Ok(answer) => Ok(answer),
            Err(Gone) => self.run_and_note(call, |_, _| ()).await?.map_err(|Gone| lost()),
        }
    }

    /// Runs a script whose result belongs to one state, and records it as unfinished work. Fails if
    /// the state was lost.
    pub(super) async fn run_recording<T: FromRedisValue>(
        &self,
        call: &Call,
        note: impl FnOnce(&mut Backup, &T),
    ) -> Result<T, Error> {
        self.run_and_back_up(call, note).await?.map_err(|Gone| lost())
    }

    /// Runs a script like [`Connection::run`], and records its result, to restore it after a loss.
    pub(super) async fn run_backed_up<T: FromRedisValue>(
        &self,
        call: &Call,
        note: impl Fn(&mut Backup, &T),
    ) -> Result<T, Error> {
        match self.run_and_back_up(call, &note).await? {
            Ok(answer) => Ok(answer),
            Err(Gone) => self.run_and_back_up(call, note).await?.map_err(|Gone| lost()),
        }
    }

    async fn run_and_back_up<T: FromRedisValue>(
        &self,
        call: &Call,
        note: impl FnOnce(&mut Backup, &T),
    ) -> Result<Result<T, Gone>, Error> {
        let note = |known: &mut Known, answer: &_| {
            note(&mut known.backup, answer);
            if !known.is_checked && known.backup.has_unfinished() {
                known.is_checked = true;
                tokio::spawn(check_regularly(Arc::downgrade(&self.0)));
            }
        };
        self.run_and_note(call, note).await
    }

    async fn run_and_note<T: FromRedisValue>(
        &self,
        call: &Call,
        note: impl FnOnce(&mut Known, &T),
    ) -> Result<Result<T, Gone>, Error> {
        let era = timeout(TIMEOUT, self.agreed());
        let era = era.await.unwrap_or_else(|_| Err(self.0.link.late()))?;
        if let Ok((answer, era)) = self.run_in(era, call).await? {
            let answer = from_redis_value(answer).map_err(|_| damaged("type"))?;
            let mut known = self.lock();
            // The script ran, but perhaps in a state that is lost by now.
            let Some(now) = known.era.as_mut().filter(|now| now.id == era.id) else {
                return Ok(Err(Gone));
            };
            now.steps = now.steps.max(era.steps);
            now.own = now.own.max(era.own);
            note(&mut known, &answer);
            return Ok(Ok(answer));
        }
        {
            let mut known = self.lock();
            if let Some(left) = known.era.take_if(|now| now.id == era.id) {
                known.left = Some(left);
            }
        }
        self.0.link.notify();
        // This runs now, because the next operation may be long in coming.
        let _ = timeout(TIMEOUT, self.agreed()).await;
        Ok(Err(Gone))
    }

    /// Returns true if a write was claimed in a state that is lost.
    pub(super) fn is_void(&self, write_id: &str) -> bool {
        self.lock().backup.is_void(write_id)
    }

    /// Waits until a stream has entries after an id, up to a limit.
    pub(super) async fn wait(&self, stream: &str, after: &str) -> Result<(), Error> {
        let Inner { link, .. } = &*self.0;
        // The connection that operations use now, which may lead to another Redis. A caller that
        // stops waiting drops this connection, because Redis continues to wait.
        let number = link.connected().await?.0;
        let mut changes = link.changes();
        let idle = self.waited().take().filter(|(its, _)| *its == number);
        let mut connection = match idle {
            Some((_, connection)) => connection,
            None => {
                let settings = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(TIMEOUT))
                    .set_response_timeout(Some(LONGEST_WAIT + TIMEOUT));
                link.open_beside(number, &settings).await?
            }
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(millis(LONGEST_WAIT));
        read.arg("STREAMS").arg(format!("{PREFIX}{stream}")).arg(after);
        let check = async {
            loop {
                sleep(CHECK_INTERVAL).await;
                if let Err(error) = self.check().await {
                    break error;
                }
            }
        };
        tokio::select! {
            read = read.query_async(&mut connection) => {
                let () = read.map_err(|error| Failure::of(&error).error)?;
                *self.waited() = Some((number, connection));
                Ok(())
            }
            error = check => Err(error),
            _ = changes.changed() => Ok(()),
        }
    }

    /// Writes a value. Fails if the state was lost a moment ago.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        let left: u64 = self.run(&self.call(&PROBE)).await?;
        if left == 0 { Ok(()) } else { Err(quiet(left)) }
    }

    /// Checks that the state is the known one.
    async fn check(&self) -> Result<(), Error> {
        self.run(&self.call(&CHECK)).await
    }

    async fn run_in(&self, era: Era, call: &Call) -> Result<Result<(Value, Era), Gone>, Error> {
        let Inner { link, me, .. } = &*self.0;
        let [id, steps, own] = [era.id, era.steps, era.own].map(|number| number.to_string());
        let answer = link.query(call.script, &call.command(&[&id, me, &steps, &own])).await?;
        let Value::Array(mut answer) = answer else { return Err(damaged("type")) };
        if answer.is_empty() {
            return Ok(Err(Gone));
        }
        // Redis omits nil at the end of an answer.
        let reply = if answer.len() > 2 { answer.remove(2) } else { Value::Nil };
        let (steps, own) = from_redis_value(Value::Array(answer)).map_err(|_| damaged("type"))?;
        Ok(Ok((reply, Era { steps, own, ..era })))
    }

    /// Returns the era after the processes have agreed on one.
    async fn agreed(&self) -> Result<Era, Error> {
        let run = {
            let mut known = self.lock();
            match (known.era, known.agreement.running()) {
                (Some(era), _) => return Ok(era),
                (None, Some(run)) => run,
                (None, None) => {
                    let connection = self.clone();
                    known.agreement.start(async move { connection.agree().await })
                }
            }
        };
        run.await?;
        self.lock().era.ok_or_else(lost)
    }

    async fn agree(self) -> Result<(), Error> {
        let (left, backup) = {
            let known = self.lock();
            (known.left, known.backup.clone())
        };
        let fresh = fastrand::u64(1..);
        let mut adopt = self.call(&ADOPT);
        adopt.arg(SCHEMA).arg(&self.0.me).arg(fresh).arg(millis(QUIET_PERIOD));
        adopt.arg(left.map_or(String::new(), |left| left.id.to_string()));
        adopt.arg(left.map_or(0, |left| left.steps)).arg(left.map_or(0, |left| left.own));
        let answer = self.0.link.query(adopt.script, &adopt.command(&[])).await?;
        let answer = from_redis_value(answer).map_err(|_| damaged("type"))?;
        let (what, id, steps, own): (String, u64, u64, u64) = answer;
        let mut era = Era { id, steps, own };
        let is_lost = match what.as_str() {
            "newer" => {
                let found = i64::try_from(id).unwrap_or(i64::MAX);
                if found == UNFINISHED {
                    return Err(unfinished());
                }
                return Err(Error::Newer { found, known: SCHEMA });
            }
            "same" => false,
            "new" | "joined" | "behind" => left.is_some(),
            _ => return Err(damaged("word")),
        };
        if is_lost {
            for call in restore::calls(&self, &backup) {
                // If the state is lost again, the whole agreement starts again.
                (_, era) = self.run_in(era, &call).await?.map_err(|Gone| lost())?;
            }
            log_loss(&what, left, steps, backup.writes().count());
        }
        let mut known = self.lock();
        if is_lost {
            known.backup.void_all();
        }
        (known.era, known.left) = (Some(era), Some(era));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        lock(&self.0.known)
    }

    fn waited(&self) -> MutexGuard<'_, Option<(u64, MultiplexedConnection)>> {
        lock(&self.0.waited)
    }
}

/// Checks the state regularly while this process has something to restore.
async fn check_regularly(connection: Weak<Inner>) {
    loop {
        sleep(CHECK_INTERVAL).await;
        let Some(connection) = connection.upgrade().map(Connection) else { return };
        {
            let mut known = connection.lock();
            known.backup.tidy();
            if !known.backup.has_unfinished() {
                known.is_checked = false;
                return;
            }
        }
        // The next operation reports a failure.
        let _ = connection.check().await;
    }
}

/// Records regularly that this process runs, until the state is closed.
async fn be_seen(connection: Weak<Inner>) {
    loop {
        sleep(SEEN_INTERVAL).await;
        let Some(connection) = connection.upgrade().map(Connection) else { return };
        // An operation that needs the state reports a failure.
        let _ = connection.run::<()>(&connection.call(&SEEN)).await;
    }
}

/// The state is not the known one.
struct Gone;

/// Logs a loss. The process that noticed it first logs the details.
fn log_loss(what: &str, left: Option<Era>, steps: u64, again: usize) {
    let seen = left.map_or(0, |left| left.steps);
    let quiet = QUIET_PERIOD.as_secs();
    match what {
        "new" => tracing::error!(
            writes_restored = again,
            "Redis was emptied: the state, with all events, submissions, writes and tokens, is lost; \
             started a new one and refusing writes for {quiet} s"
        ),
        "behind" => tracing::error!(
            writes_restored = again,
            steps_lost_at_least = seen.saturating_sub(steps),
            "Redis went back to an older copy of the state: the last acknowledged changes are lost; \
             continuing with that copy and refusing writes for {quiet} s"
        ),
        _ => tracing::warn!(
            writes_restored = again,
            "Redis lost the state and another process started a new one; continuing with that one"
        ),
    }
}

/// Returns the error for an operation that was running when the state was lost.
pub(super) fn lost() -> Error {
    Error::Lost("Redis was emptied, or is an older copy".to_owned())
}

/// Returns the error for an operation that comes too soon after a possible loss.
pub(super) fn quiet(left: u64) -> Error {
    Error::Unusable(format!(
        "Redis was restarted, emptied or replaced, so writes are refused for another {left} ms"
    ))
}

/// Hides the password.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Returns a duration in the form that scripts use.
pub(super) fn millis(span: Duration) -> u64 {
    // A script's numbers are floats, so a larger one would lose precision. This limit is three
    // centuries.
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).min(10_000_000_000_000)
}

/// Asks Redis for its durability settings, and changes nothing.
///
/// Fails if it cannot be reached.
pub(in crate::state) async fn inspect(
    url: &RedisUrl,
    settings: &RedisSettings,
) -> Result<Inspection, Error> {
    let connection = plain(url, settings).await?;
    let warning = warning(configuration(connection).await.as_ref());
    Ok(Inspection { found: "reachable".to_owned(), warning })
}

/// Returns the secrets of a platform, without joining the processes that share the state.
pub(in crate::state) async fn peek(
    url: &RedisUrl,
    settings: &RedisSettings,
    platform: &AppId,
) -> Result<Peeked, Error> {
    type Row = (Option<String>, Option<u64>);
    let mut connection = plain(url, settings).await?;
    let fields = |kind: &str, time: &str| {
        let mut read = cmd("HMGET");
        read.arg(format!("{PREFIX}{kind}:{platform}")).arg("value").arg(time);
        read
    };
    let read = async {
        let ticket: Row = fields("ticket", "sent_at").query_async(&mut connection).await?;
        let token: Row = fields("token", "over").query_async(&mut connection).await?;
        let (now, _): (u64, u64) = cmd("TIME").query_async(&mut connection).await?;
        let ticket = ticket.0.zip(ticket.1);
        let token = token.0.zip(token.1).filter(|(_, over)| *over > now * 1000);
        Ok::<_, ::redis::RedisError>(Peeked {
            ticket: ticket.map(|(value, sent_at)| Ticket { value: value.into(), sent_at }),
            token: token.map(|(value, _)| value.into()),
            ..Peeked::default()
        })
    };
    match timeout(TIMEOUT, read).await {
        Ok(read) => read.map_err(|error| Failure::of(&error).error),
        Err(_) => Err(Failure::late().error),
    }
}

/// Returns a connection that knows nothing of the stored data.
pub(super) async fn plain(
    url: &RedisUrl,
    settings: &RedisSettings,
) -> Result<MultiplexedConnection, Error> {
    let connect = async {
        let mut connection = Place::new(url, settings, PREFIX).connect().await?;
        let answer = cmd("PING").query_async::<()>(&mut connection).await;
        answer.map(|()| connection).map_err(|error| Failure::of(&error).error)
    };
    timeout(TIMEOUT, connect).await.unwrap_or_else(|_| Err(Failure::late().error))
}

/// Returns the durability settings of Redis, or `None` if it does not reveal them.
async fn configuration(mut connection: MultiplexedConnection) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
        let mut ask = cmd("CONFIG");
        ask.arg("GET").arg(name);
        let answer: HashMap<String, String> =
            timeout(TIMEOUT, ask.query_async(&mut connection)).await.ok()?.ok()?;
        found.extend(answer);
    }
    Some(found)
}

/// Returns a warning if Redis may lose acknowledged data.
fn warning(configuration: Option<&HashMap<String, String>>) -> Option<String> {
    let Some(configuration) = configuration else {
        return Some(
            "this Redis does not reveal its durability settings: unless they are `appendonly yes`, \
             `appendfsync always` and `maxmemory-policy noeviction`, acknowledged audit events may be \
             lost"
                .to_owned(),
        );
    };
    let is = |name, value| configuration.get(name).is_some_and(|found| found == value);
    let mut warnings = Vec::new();
    if !is("appendonly", "yes") {
        warnings.push(
            "if this Redis fails, everything since its last snapshot is lost, including acknowledged \
             audit events: set `appendonly yes` and `appendfsync always`",
        );
    } else if is("appendfsync", "no") {
        warnings.push(
            "if the machine of this Redis fails, acknowledged audit events of about the last half minute \
             are lost: set `appendfsync always`",
        );
    } else if !is("appendfsync", "always") {
        warnings.push(
            "if the machine of this Redis fails, acknowledged audit events of the last second are lost: \
             set `appendfsync always`",
        );
    }
    if !is("maxmemory-policy", "noeviction") {
        warnings.push(
            "this Redis evicts data when its memory is full: set `maxmemory-policy noeviction`",
        );
    }
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning_for(settings: &[(&str, &str)]) -> Option<String> {
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        warning(Some(&settings.collect()))
    }

    #[test]
    fn lossy_redis_settings_cause_warning() {
        let kept = ("maxmemory-policy", "noeviction");
        let always = ("appendfsync", "always");
        assert_eq!(warning_for(&[("appendonly", "yes"), always, kept]), None);

        let text = warning_for(&[("appendonly", "no"), always, kept]).expect("no file");
        assert!(text.contains("everything since"), "{text}");
        let text = warning_for(&[("appendonly", "yes"), ("appendfsync", "everysec"), kept]);
        assert!(text.as_ref().is_some_and(|text| text.contains("last second")), "{text:?}");
        let text =
            warning_for(&[("appendonly", "yes"), always, ("maxmemory-policy", "allkeys-lru")]);
        assert!(text.as_ref().is_some_and(|text| text.contains("noeviction")), "{text:?}");
        assert!(warning(None).is_some_and(|text| text.contains("does not reveal")));
    }
}
