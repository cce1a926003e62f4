//! How scripts are run: each only in the state that this process knows.
//!
//! A state at Redis has an *era*, a number made at random. With every script goes the era that this
//! process knows and how far it has seen the state come; a Redis that has another era, none, or is
//! further back runs nothing and says so. Then the state was lost: Redis was emptied, or is an older
//! copy. What was under way in the old era fails, the processes agree on a new one, each notes anew
//! what it has under way, and for a short time nobody begins anything.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Script, ToRedisArgs, Value,
    aio::MultiplexedConnection, cmd, from_redis_value,
};
use tokio::time::{sleep, timeout};

use super::{
    failure::{Failure, damaged},
    link::{Link, PATIENCE},
    notes::Notes,
    renote,
};
use crate::{state::Error, util::single_flight::SingleFlight};

/// What all keys begin with. The braces make it a hash tag: a cluster keeps them all in one slot.
const PREFIX: &str = "{wechat-store-gateway}:";

/// What is stored, and how. A change that this version's scripts would misread needs another number.
const SCHEMA: i64 = 1;

/// How long Redis is asked to wait for something new.
const WAIT: Duration = Duration::from_secs(28);

/// How often a process that has something under way, or waits, looks whether the state is still there.
const LOOK: Duration = Duration::from_secs(1);

/// After a loss, and where there may have been one, nobody begins a write or gets a lease for so long:
/// by then every process has looked, and noted anew what it has under way.
const QUIET: Duration = Duration::from_secs(5);

/// At the start.
const ATTEMPTS: usize = 3;

/// A script, with what all of them begin and end with.
macro_rules! lua {
    ($file:literal) => {
        std::sync::LazyLock::new(|| {
            ::redis::Script::new(concat!(
                include_str!("prelude.lua"),
                "local function verb()\n",
                include_str!($file),
                "end\n",
                include_str!("end.lua"),
            ))
        })
    };
}
pub(super) use lua;

static MEET: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("server.lua"), include_str!("meet.lua"))));
static ADOPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("server.lua"), include_str!("adopt.lua"))));
static LOOKED: LazyLock<Script> = lua!("look.lua");
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

    /// How many arguments there are.
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

/// The way to a state at a Redis.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    /// What this process is called in the state.
    me: String,
    known: Mutex<Known>,
    /// A connection that waited before, and that of the others at that time.
    waited: Mutex<Option<(u64, MultiplexedConnection)>>,
}

/// What this process knows of the state.
#[derive(Default)]
struct Known {
    /// None until the processes have agreed.
    era: Option<Era>,
    /// The one before, of which something may be under way.
    left: Option<Era>,
    agreement: SingleFlight<Result<(), Error>>,
    notes: Notes,
    /// Whether a task looks after what is under way.
    looked_after: bool,
}

/// Which state this is, and how far this process has seen it come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Era {
    id: u64,
    /// How often it was changed.
    steps: u64,
    /// How often by this process.
    own: u64,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(url: &str) -> Result<Self, Error> {
        let mut meet = MEET.key(PREFIX);
        meet.arg(millis(QUIET));
        let (link, me) = (Link::new(url, meet)?, format!("p:{:016x}", fastrand::u64(..)));
        let connection = Self(Arc::new(Inner {
            link: link.clone(),
            me,
            known: Mutex::default(),
            waited: Mutex::default(),
        }));
        let opened = timeout(PATIENCE, async {
            for attempt in 1.. {
                match connection.agreed().await {
                    Err(Error::Unusable(_)) if attempt < ATTEMPTS => sleep(PATIENCE / 20).await,
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
            if let Some(warning) = warning(configuration(link.way().await?.1).await.as_ref()) {
                tracing::warn!("{warning}");
            }
            Ok(())
        });
        opened.await.unwrap_or_else(|_| Err(Failure::late().error))?;
        Ok(connection)
    }

    /// A call of a script, to be given its arguments.
    pub(super) fn call(&self, script: &'static Script) -> Call {
        Call { script, args: Vec::new() }
    }

    /// Runs a script, made with [`Connection::call`]; again if the connection breaks, or, in the new
    /// state, if the state was lost.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &Call) -> Result<T, Error> {
        match self.run_sealing(call, |_, _| ()).await? {
            Ok(answer) => Ok(answer),
            Err(Gone) => self.run_sealing(call, |_, _| ()).await?.map_err(|Gone| lost()),
        }
    }

    /// The same for what is of one state only: notes what comes of it as under way, and fails if the
    /// state was lost.
    pub(super) async fn run_noting<T: FromRedisValue>(
        &self,
        call: &Call,
        note: impl FnOnce(&mut Notes, &T),
    ) -> Result<T, Error> {
        let note = |known: &mut Known, answer: &_| {
            note(&mut known.notes, answer);
            if !known.looked_after && known.notes.is_under_way() {
                known.looked_after = true;
                tokio::spawn(look_after(Arc::downgrade(&self.0)));
            }
        };
        self.run_sealing(call, note).await?.map_err(|Gone| lost())
    }

    async fn run_sealing<T: FromRedisValue>(
        &self,
        call: &Call,
        seal: impl FnOnce(&mut Known, &T),
    ) -> Result<Result<T, Gone>, Error> {
        let era = timeout(PATIENCE, self.agreed());
        let era = era.await.unwrap_or_else(|_| Err(Failure::late().error))?;
        if let Ok((answer, era)) = self.run_in(era, call).await? {
            let answer = from_redis_value(answer).map_err(|_| damaged("type"))?;
            let mut known = self.lock();
            // It happened, but perhaps in a state that is gone by now.
            let Some(now) = known.era.as_mut().filter(|now| now.id == era.id) else {
                return Ok(Err(Gone));
            };
            now.steps = now.steps.max(era.steps);
            now.own = now.own.max(era.own);
            seal(&mut known, &answer);
            return Ok(Ok(answer));
        }
        {
            let mut known = self.lock();
            if let Some(left) = known.era.take_if(|now| now.id == era.id) {
                known.left = Some(left);
            }
        }
        self.0.link.tell();
        // Now rather than with the next verb, which may be long in coming.
        let _ = timeout(PATIENCE, self.agreed()).await;
        Ok(Err(Gone))
    }

    /// Whether a write was claimed of a state that is gone.
    pub(super) fn is_void(&self, write_id: &str) -> bool {
        self.lock().notes.is_void(write_id)
    }

    /// Waits until a stream has entries after an id, for a while at most.
    pub(super) async fn wait(&self, stream: &str, after: &str) -> Result<(), Error> {
        let Inner { link, .. } = &*self.0;
        // Where the verbs go now: elsewhere than before, perhaps. Whoever stops waiting drops the
        // connection, for Redis goes on.
        let number = link.way().await?.0;
        let mut changes = link.changes();
        let idle = self.waited().take().filter(|(its, _)| *its == number);
        let mut connection = match idle {
            Some((_, connection)) => connection,
            None => {
                let settings = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(WAIT + PATIENCE));
                link.made(&settings).await?
            }
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(millis(WAIT));
        read.arg("STREAMS").arg(format!("{PREFIX}{stream}")).arg(after);
        let look = async {
            loop {
                sleep(LOOK).await;
                if let Err(error) = self.look().await {
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
            error = look => Err(error),
            _ = changes.changed() => Ok(()),
        }
    }

    /// Writes something. Says so, too, if the state was lost a moment ago.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        let left: u64 = self.run(&self.call(&PROBE)).await?;
        if left == 0 { Ok(()) } else { Err(quiet(left)) }
    }

    /// Finds out whether the state is the one that is known.
    async fn look(&self) -> Result<(), Error> {
        self.run(&self.call(&LOOKED)).await
    }

    async fn run_in(&self, era: Era, call: &Call) -> Result<Result<(Value, Era), Gone>, Error> {
        let Inner { link, me, .. } = &*self.0;
        let [id, steps, own] = [era.id, era.steps, era.own].map(|number| number.to_string());
        let answer = link.query(call.script, &call.command(&[&id, me, &steps, &own])).await?;
        let Value::Array(mut answer) = answer else { return Err(damaged("type")) };
        if answer.is_empty() {
            return Ok(Err(Gone));
        }
        // What is nil at its end Redis leaves out.
        let said = if answer.len() > 2 { answer.remove(2) } else { Value::Nil };
        let (steps, own) = from_redis_value(Value::Array(answer)).map_err(|_| damaged("type"))?;
        Ok(Ok((said, Era { steps, own, ..era })))
    }

    /// The era, once the processes have agreed on one.
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
        let (left, notes) = {
            let known = self.lock();
            (known.left, known.notes.clone())
        };
        let fresh = fastrand::u64(1..);
        let mut adopt = self.call(&ADOPT);
        adopt.arg(SCHEMA).arg(&self.0.me).arg(fresh).arg(millis(QUIET));
        adopt.arg(left.map_or(String::new(), |left| left.id.to_string()));
        adopt.arg(left.map_or(0, |left| left.steps)).arg(left.map_or(0, |left| left.own));
        let answer = self.0.link.query(adopt.script, &adopt.command(&[])).await?;
        let answer = from_redis_value(answer).map_err(|_| damaged("type"))?;
        let (what, id, steps, own): (String, u64, u64, u64) = answer;
        let mut era = Era { id, steps, own };
        let is_lost = match what.as_str() {
            "newer" => {
                let found = i64::try_from(id).unwrap_or(i64::MAX);
                return Err(Error::Newer { found, known: SCHEMA });
            }
            "same" => false,
            "new" | "joined" | "behind" => left.is_some(),
            _ => return Err(damaged("word")),
        };
        let (writes, leases) = notes.all();
        if is_lost {
            for call in renote::calls(&self, &writes, &leases) {
                // Where it was lost once more all of this begins anew.
                (_, era) = self.run_in(era, &call).await?.map_err(|Gone| lost())?;
            }
            tell(&what, left, steps, writes.len());
        }
        let mut known = self.lock();
        if is_lost {
            known.notes.avoid();
        }
        (known.era, known.left) = (Some(era), Some(era));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change is complete before anything can panic.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waited(&self) -> MutexGuard<'_, Option<(u64, MultiplexedConnection)>> {
        self.0.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether the state is still there, while anything is under way.
async fn look_after(connection: Weak<Inner>) {
    loop {
        sleep(LOOK).await;
        let Some(connection) = connection.upgrade().map(Connection) else { return };
        {
            let mut known = connection.lock();
            known.notes.tidy();
            if !known.notes.is_under_way() {
                known.looked_after = false;
                return;
            }
        }
        // Where this fails, others say so.
        let _ = connection.look().await;
    }
}

/// The state is not the one that this process knows.
struct Gone;

/// Tells operators of a loss: the process that noticed it first tells more.
fn tell(what: &str, left: Option<Era>, steps: u64, again: usize) {
    let seen = left.map_or(0, |left| left.steps);
    let quiet = QUIET.as_secs();
    match what {
        "new" => tracing::error!(
            writes_noted_anew = again,
            "Redis was emptied: the state, with all events, submissions, writes and tokens, is lost; started a new one and refusing writes for {quiet} s"
        ),
        "behind" => tracing::error!(
            writes_noted_anew = again,
            steps_lost_at_least = seen.saturating_sub(steps),
            "Redis went back to an older copy of the state: the last acknowledged changes are lost; continuing with that copy and refusing writes for {quiet} s"
        ),
        _ => tracing::warn!(
            writes_noted_anew = again,
            "Redis lost the state and another process started a new one; continuing with that one"
        ),
    }
}

/// What a verb answers that was under way when the state was lost.
pub(super) fn lost() -> Error {
    Error::Lost("Redis was emptied, or is an older copy".to_owned())
}

/// What a verb answers that comes too soon after a loss, or after what may have been one.
pub(super) fn quiet(left: u64) -> Error {
    Error::Unusable(format!(
        "Redis was restarted, emptied or replaced, and it is looked what is missing: in {left} ms \
         writes are taken again"
    ))
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

/// How Redis is set, as far as it tells.
async fn configuration(mut connection: MultiplexedConnection) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
        let mut ask = cmd("CONFIG");
        ask.arg("GET").arg(name);
        let answer: HashMap<String, String> =
            timeout(PATIENCE, ask.query_async(&mut connection)).await.ok()?.ok()?;
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
}
