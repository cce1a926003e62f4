//! The rows of a state in Redis, for copies and checks.
//!
//! The scripts are those of a gateway with the same beginning and end, so they belong to one era: if another
//! run continues a copy, or if a state is lost, they change nothing. This connection is no process of the
//! state: a state that is read stays as it is.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use ::redis::{
    FromRedisValue, Script, Value as Answer, aio::MultiplexedConnection, cmd, from_redis_value,
};
use tokio::time::{Instant, sleep};

use super::{
    connection::{PREFIX, SCHEMA, lost, lua, millis, plain, script},
    failure::{Failure, damaged},
};
use crate::{
    config::{RedisSettings, RedisUrl},
    state::{
        Error, EventKey,
        gap::placeholder_key,
        platform::TICKET_LIFE,
        transfer::{
            BATCH_BYTES, Begun, Damage, Facts, Head, Kind, Observer, Page, Raw, Row, Source,
            Target, UNFINISHED, Value, unfinished,
        },
    },
};

/// The longest time for one answer. A batch takes milliseconds, but Redis may have other work.
const PATIENCE: Duration = Duration::from_secs(30);
/// A process that was seen in this time may still run.
pub(super) const ALIVE: Duration = Duration::from_secs(60);
/// The pause between two looks at whether a process runs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The number of keys that one step of a scan examines.
const SCANNED: usize = 2000;
/// The name of this process in the state. No gateway has it.
const ME: &str = "p:copy";

/// Loads a script that stores rows.
macro_rules! import {
    ($file:literal) => {
        LazyLock::new(|| script(concat!(include_str!("import.lua"), include_str!($file))))
    };
}

/// Loads a script that checks no era.
macro_rules! bare {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("../server.lua"), include_str!($file))))
    };
}

static GUARD: LazyLock<Script> = bare!("guard.lua");
static BEGIN: LazyLock<Script> = bare!("begin.lua");
static FINISH: LazyLock<Script> = bare!("finish.lua");
static HEAD: LazyLock<Script> = lua!("head.lua");
static COUNTS: LazyLock<Script> = lua!("counts.lua");
static SUBMISSIONS: LazyLock<Script> = lua!("submissions.lua");
static EVENTS: LazyLock<Script> = lua!("events.lua");
static WRITES: LazyLock<Script> = lua!("writes.lua");
static AUTHORIZERS: LazyLock<Script> = lua!("authorizers.lua");
static NAMED: LazyLock<Script> = lua!("named.lua");
static PUT_HEAD: LazyLock<Script> = lua!("put_head.lua");
static PUT_SUBMISSIONS: LazyLock<Script> = import!("put_submissions.lua");
static PUT_EVENTS: LazyLock<Script> = import!("put_events.lua");
static PUT_WRITES: LazyLock<Script> = import!("put_writes.lua");
static PUT_AUTHORIZERS: LazyLock<Script> = import!("put_authorizers.lua");
static PUT_LEASES: LazyLock<Script> = import!("put_leases.lua");
static PUT_TOKENS: LazyLock<Script> = import!("put_tokens.lua");
static PUT_COUNTERS: LazyLock<Script> = import!("put_counters.lua");
static PUT_TICKETS: LazyLock<Script> = import!("put_tickets.lua");

/// The pruned position, the rows, and the wrong entries of indexes.
type PageRow = (u64, Vec<Vec<Answer>>, Vec<(String, String)>);

/// Epoch, newest position, pruned position and its key, last number of a submission, of a write.
type HeadRow = (String, u64, u64, Vec<u8>, u64, u64);

/// Schema, era, changes, the time since a process was last seen, the time, the base, and the source and the
/// progress of an unfinished copy.
type GuardRow = (String, String, u64, i64, u64, u64, (Option<String>, Option<String>));

/// A state in Redis that is read, or that receives a copy.
pub(in crate::state) struct Transfer {
    connection: MultiplexedConnection,
    /// The era in which all scripts run.
    era: String,
    /// The number of changes when it was opened.
    steps: u64,
    /// Whether indexes are checked.
    checks: bool,
    /// The names of the rows that no index lists, by the first part of their keys.
    names: Option<BTreeMap<String, Vec<String>>>,
}

impl Transfer {
    /// Opens a state that processes may use.
    pub(in crate::state) async fn look(
        url: &RedisUrl,
        settings: &RedisSettings,
    ) -> Result<Self, Error> {
        let mut opened = Self::connect(url, settings).await?;
        opened.adopt(true).await?;
        Ok(Self { checks: true, ..opened })
    }

    /// Opens a state that no process uses. Waits until none was seen for a minute.
    pub(in crate::state) async fn source(
        url: &RedisUrl,
        settings: &RedisSettings,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let mut opened = Self::connect(url, settings).await?;
        opened.adopt(false).await?;
        let began = Instant::now();
        let mut noted = false;
        loop {
            let (_, _, steps, seen, ..) = opened.guard().await?;
            let alive = u64::try_from(seen).ok().map(Duration::from_millis);
            let Some(seen) = alive.filter(|seen| *seen < ALIVE) else { return Ok(opened) };
            if steps != opened.steps || began.elapsed() > ALIVE {
                return Err(Error::Unusable(
                    "a gateway uses it; stop every gateway and run the command again".to_owned(),
                ));
            }
            if !noted {
                noted = true;
                observer.note(&format!(
                    "a gateway was seen {} s ago; waiting for {} s to be sure that none runs",
                    seen.as_secs(),
                    (ALIVE - seen).as_secs() + 1
                ));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Opens a place that receives a copy.
    pub(in crate::state) async fn target(
        url: &RedisUrl,
        settings: &RedisSettings,
    ) -> Result<Self, Error> {
        Self::connect(url, settings).await
    }

    async fn connect(url: &RedisUrl, settings: &RedisSettings) -> Result<Self, Error> {
        let mut connection = plain(url, settings).await?;
        connection.set_response_timeout(PATIENCE);
        Ok(Self { connection, era: String::new(), steps: 0, checks: false, names: None })
    }

    /// Notes the era of the state.
    async fn adopt(&mut self, also_unfinished: bool) -> Result<(), Error> {
        let (schema, era, steps, ..) = self.guard().await?;
        let found: i64 = schema.parse().unwrap_or_default();
        match found {
            UNFINISHED if !also_unfinished => return Err(unfinished()),
            0 => return Err(Error::Unusable("it has no state".to_owned())),
            found if found > SCHEMA && found != UNFINISHED => {
                return Err(Error::Newer { found, known: SCHEMA });
            }
            _ => {}
        }
        (self.era, self.steps) = (era, steps);
        Ok(())
    }

    async fn guard(&mut self) -> Result<GuardRow, Error> {
        self.bare(&GUARD, &[]).await
    }

    /// Runs a script that checks no era.
    async fn bare<T: FromRedisValue>(
        &mut self,
        script: &Script,
        args: &[&str],
    ) -> Result<T, Error> {
        let mut call = script.key(PREFIX);
        for arg in args {
            call.arg(*arg);
        }
        let answer = call.invoke_async(&mut self.connection).await;
        answer.map_err(|error| Failure::of(&error).error)
    }

    /// Runs a script in the era.
    async fn run<T: FromRedisValue>(
        &mut self,
        script: &Script,
        args: &[Vec<u8>],
    ) -> Result<T, Error> {
        let mut call = script.key(PREFIX);
        call.arg(&self.era).arg(ME).arg(0).arg(0).arg(args);
        let answer: Result<Vec<Answer>, _> = call.invoke_async(&mut self.connection).await;
        let mut answer = answer.map_err(|error| Failure::of(&error).error)?;
        if answer.is_empty() {
            return Err(lost());
        }
        // Redis omits nil at the end of an answer.
        let reply = if answer.len() > 2 { answer.swap_remove(2) } else { Answer::Nil };
        from_redis_value(reply).map_err(|_| damaged("type"))
    }

    /// Returns the names of the rows of a kind that no index lists, in order.
    async fn names(&mut self, of: &str) -> Result<Vec<String>, Error> {
        if self.names.is_none() {
            self.names = Some(self.scan_names().await?);
        }
        Ok(self.names.as_ref().and_then(|names| names.get(of)).cloned().unwrap_or_default())
    }

    async fn scan_names(&mut self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let mut names = BTreeMap::<_, Vec<String>>::new();
        // Of all keys with a name, these letters begin only `lease:`, `token:`, `spent:`, `ticket:` and
        // `authorizer…:`.
        let keys = self.scan("[ltsa][eopiu][akect]*", usize::MAX).await?;
        for (kind, name) in keys.iter().filter_map(|key| key.split_once(':')) {
            names.entry(kind.to_owned()).or_default().push(name.to_owned());
        }
        for names in names.values_mut() {
            names.sort_unstable();
            // A scan may return a key more than once.
            names.dedup();
        }
        Ok(names)
    }

    /// Returns the keys that match a pattern, without their prefix, and ends after so many.
    async fn scan(&mut self, pattern: &str, most: usize) -> Result<Vec<String>, Error> {
        let (mut cursor, mut found) = (0_u64, Vec::new());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{PREFIX}{pattern}"));
            scan.arg("COUNT").arg(SCANNED);
            let page = scan.query_async::<(u64, Vec<Vec<u8>>)>(&mut self.connection).await;
            let keys;
            (cursor, keys) = page.map_err(|error| Failure::of(&error).error)?;
            let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
            found.extend(keys.filter_map(|key| Some(key.strip_prefix(PREFIX)?.to_owned())));
            if cursor == 0 || found.len() >= most {
                return Ok(found);
            }
        }
    }

    /// Returns a page of rows that an index lists by number.
    async fn numbered(
        &mut self,
        kind: Kind,
        script: &Script,
        after: &str,
        most: usize,
    ) -> Result<Page, Error> {
        let after = if after.is_empty() { "0" } else { after };
        let args = [after, &most.to_string(), &BATCH_BYTES.to_string(), self.check()];
        let args = args.map(|arg| arg.as_bytes().to_vec());
        Ok(page(kind, self.run(script, &args).await?))
    }

    const fn check(&self) -> &'static str {
        if self.checks { "1" } else { "0" }
    }

    /// Returns the authorizers after one, of all platforms.
    async fn authorizers(&mut self, after: &str, most: usize) -> Result<Page, Error> {
        let (platform, after) = after.split_once(' ').unwrap_or_default();
        for its in self.names("authorizers").await? {
            if *its < *platform {
                continue;
            }
            let after = if its == platform { after } else { "" };
            let args = [&its, after, &most.to_string(), self.check()];
            let args = args.map(|arg| arg.as_bytes().to_vec());
            let page = page(Kind::Authorizers, self.run(&AUTHORIZERS, &args).await?);
            if !page.rows.is_empty() {
                return Ok(page);
            }
        }
        Ok(Page::default())
    }

    /// Returns the rows after a name that no index lists.
    async fn named(&mut self, kind: Kind, after: &str, most: usize) -> Result<Page, Error> {
        let names = self.names(part(kind)).await?;
        let start = names.partition_point(|name| **name <= *after);
        // Those that are gone by now may be more than a page.
        for names in names.get(start..).unwrap_or_default().chunks(most) {
            let mut args = vec![kind.name().as_bytes().to_vec()];
            args.extend(names.iter().map(|name| name.as_bytes().to_vec()));
            let page = page(kind, self.run(&NAMED, &args).await?);
            if !page.rows.is_empty() {
                return Ok(page);
            }
        }
        Ok(Page::default())
    }

    async fn counts(&mut self) -> Result<(u64, u64, u64, u64, u64, u64), Error> {
        self.run(&COUNTS, &[]).await
    }

    /// Deletes an unfinished copy. Its marks go last, so that it stays one until nothing is left.
    async fn empty(&mut self) -> Result<(), Error> {
        let marks = ["schema", "copy"];
        let keys = self.scan("*", usize::MAX).await?;
        let (last, rest): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| marks.contains(&key.as_str()));
        for keys in rest.chunks(SCANNED).chain([&*last]).filter(|keys| !keys.is_empty()) {
            let mut unlink = cmd("UNLINK");
            unlink.arg(keys.iter().map(|key| format!("{PREFIX}{key}")).collect::<Vec<_>>());
            let done = unlink.query_async::<()>(&mut self.connection).await;
            done.map_err(|error| Failure::of(&error).error)?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Source for Transfer {
    async fn head(&mut self) -> Result<Head, Error> {
        let (.., base, _) = self.guard().await?;
        let row: HeadRow = self.run(&HEAD, &[]).await?;
        let (epoch, newest, pruned, pruned_key, last_submission, last_write) = row;
        let pruned_key = match pruned {
            0 => EventKey([0; 32]),
            _ => pruned_key.try_into().map_or_else(|_| placeholder_key(pruned), EventKey),
        };
        let epoch = epoch.parse().ok();
        Ok(Head { epoch, newest, pruned, pruned_key, last_submission, last_write, base })
    }

    async fn count(&mut self, kind: Kind) -> Result<u64, Error> {
        let (events, submissions, _, writes, ..) = self.counts().await?;
        Ok(match kind {
            Kind::Submissions => submissions,
            Kind::Events => events,
            Kind::Writes => writes,
            Kind::Authorizers => self.names("authorizer").await?.len() as u64,
            _ => self.names(part(kind)).await?.len() as u64,
        })
    }

    async fn rows(&mut self, kind: Kind, after: &str, most: usize) -> Result<Page, Error> {
        match kind {
            Kind::Submissions => self.numbered(kind, &SUBMISSIONS, after, most).await,
            Kind::Events => self.numbered(kind, &EVENTS, after, most).await,
            Kind::Writes => self.numbered(kind, &WRITES, after, most).await,
            Kind::Authorizers => self.authorizers(after, most).await,
            _ => self.named(kind, after, most).await,
        }
    }

    async fn now(&mut self) -> Result<u64, Error> {
        let (_, _, _, _, time, ..) = self.guard().await?;
        Ok(time)
    }

    async fn unchanged(&mut self) -> Result<(), Error> {
        let (_, era, steps, ..) = self.guard().await?;
        match (era, steps) == (self.era.clone(), self.steps) {
            true => Ok(()),
            false => Err(Error::Unusable("a gateway changed it meanwhile".to_owned())),
        }
    }

    async fn verify(&mut self) -> Result<Vec<Damage>, Error> {
        let (events, .., keys) = self.counts().await?;
        let why = format!("it has {keys} keys for {events} events");
        let wrong = (events != keys).then(|| Damage { row: "index of keys".to_owned(), why });
        Ok(wrong.into_iter().collect())
    }

    async fn facts(&mut self) -> Result<Facts, Error> {
        let (schema, era, _, _, time, _, (place, at)) = self.guard().await?;
        let (_, _, open_submissions, _, unfinished_writes, _) = self.counts().await?;
        let mut read = cmd("HGETALL");
        read.arg(format!("{PREFIX}guard"));
        let fields = read.query_async::<BTreeMap<String, String>>(&mut self.connection).await;
        let fields = fields.map_err(|error| Failure::of(&error).error)?;
        let seen = |(name, at): (&String, &String)| {
            let process = name.strip_prefix("at:p:")?;
            Some((process.to_owned(), time.saturating_sub(at.parse().ok()?)))
        };
        let processes: Vec<_> = fields.iter().filter_map(seen).collect();
        let is_used = processes.iter().any(|(_, ago)| u128::from(*ago) < ALIVE.as_millis());
        Ok(Facts {
            schema: schema.parse().unwrap_or_default(),
            unfinished: place.zip(at),
            bytes: self.memory().await,
            open_submissions,
            unfinished_writes,
            processes,
            era: era.parse().ok(),
            is_used,
        })
    }
}

impl Transfer {
    /// Returns the memory of the whole Redis, unless the user may not use `INFO`.
    async fn memory(&mut self) -> Option<u64> {
        let mut info = cmd("INFO");
        info.arg("memory");
        let info: String = info.query_async(&mut self.connection).await.ok()?;
        info.lines().find_map(|line| line.strip_prefix("used_memory:"))?.trim().parse().ok()
    }
}

#[tonic::async_trait]
impl Target for Transfer {
    async fn begin(&mut self, id: &str, place: &str, anew: bool) -> Result<Begun, Error> {
        let era = fastrand::u64(1..).to_string();
        let unfinished = UNFINISHED.to_string();
        let (schema, ..) = self.guard().await?;
        let marked = schema == unfinished;
        // A scan takes long in a large Redis, but a part of an earlier state would become a part of this one.
        if !marked && !self.scan("*", 1).await?.is_empty() {
            return Ok(Begun::Taken);
        }
        for anew in [u8::from(anew), 0] {
            let args = [&*unfinished, &era, id, place, &anew.to_string()];
            let answer: (String, String, u64) = self.bare(&BEGIN, &args).await?;
            match answer.0.as_str() {
                "at" => {
                    self.era = era;
                    return Ok(Begun::At { at: answer.1, began: answer.2 });
                }
                "other" => return Ok(Begun::Other(answer.1)),
                "anew" => self.empty().await?,
                _ => break,
            }
        }
        Ok(Begun::Taken)
    }

    async fn put(&mut self, rows: &[Row], before: &str, at: &str) -> Result<(), Error> {
        let Some(kind) = rows.first().map(|row| row.kind) else { return Ok(()) };
        let mut columns: Vec<_> = kind.columns().iter().map(|(name, _)| *name).collect();
        columns.extend(extra(kind));
        let text = |text: &str| text.as_bytes().to_vec();
        let mut args = vec![text(before), text(at), text(&columns.len().to_string())];
        args.extend(columns.iter().map(|name| text(name)));
        for row in rows {
            args.extend(row.values().iter().map(|value| match value {
                Value::Number(number) => text(&number.to_string()),
                Value::Text(value) => text(value),
                Value::Bytes(bytes) => bytes.clone(),
            }));
            args.extend(extra(kind).iter().map(|name| match *name {
                "decides" => text(if row.decides() { "1" } else { "0" }),
                "life" => text(&millis(TICKET_LIFE).to_string()),
                _ => text(if row.damage.is_some() { "1" } else { "0" }),
            }));
        }
        let script = match kind {
            Kind::Submissions => &PUT_SUBMISSIONS,
            Kind::Events => &PUT_EVENTS,
            Kind::Writes => &PUT_WRITES,
            Kind::Authorizers => &PUT_AUTHORIZERS,
            Kind::Leases => &PUT_LEASES,
            Kind::Tokens => &PUT_TOKENS,
            Kind::Counters => &PUT_COUNTERS,
            Kind::Tickets => &PUT_TICKETS,
        };
        match self.run::<bool>(script, &args).await? {
            true => Ok(()),
            false => Err(Error::Unusable("another process works on this copy".to_owned())),
        }
    }

    async fn put_head(&mut self, head: &Head) -> Result<(), Error> {
        let Head { epoch, newest, pruned, pruned_key, last_submission, last_write, base: _ } = head;
        let text = |number: &u64| number.to_string().into_bytes();
        let args = [
            epoch.as_ref().map(text).unwrap_or_default(),
            text(newest),
            text(pruned),
            pruned_key.0.to_vec(),
            text(last_submission),
            text(last_write),
        ];
        self.run(&PUT_HEAD, &args).await
    }

    async fn finish(&mut self) -> Result<(), Error> {
        let (era, schema) = (self.era.clone(), SCHEMA.to_string());
        match self.bare::<bool>(&FINISH, &[&era, ME, &schema]).await? {
            true => Ok(()),
            false => Err(lost()),
        }
    }
}

/// Returns the values that a script needs beside the columns of a kind.
const fn extra(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Events => &["decides", "damaged"],
        Kind::Authorizers => &["damaged"],
        Kind::Tickets => &["life"],
        _ => &[],
    }
}

/// Returns the first part of the keys of rows that no index lists.
const fn part(kind: Kind) -> &'static str {
    match kind {
        Kind::Leases => "lease",
        Kind::Tokens => "token",
        Kind::Counters => "spent",
        Kind::Tickets => "ticket",
        Kind::Authorizers => "authorizers",
        Kind::Submissions | Kind::Events | Kind::Writes => "",
    }
}

/// Returns a page of rows in the form that both backends share.
fn page(kind: Kind, (pruned, rows, wrong): PageRow) -> Page {
    let row = |mut values: Vec<Answer>| {
        let damage = values.pop().and_then(|damage| match damage {
            Answer::BulkString(why) => Some(String::from_utf8_lossy(&why).into_owned()),
            _ => None,
        });
        let raw = values.iter().map(|value| match value {
            Answer::BulkString(bytes) => Raw::Any(bytes),
            Answer::Int(number) => Raw::Number(*number),
            _ => Raw::Wrong,
        });
        Row::new(kind, raw, damage)
    };
    let wrong = wrong.into_iter().map(|(row, why)| Damage { row, why }).collect();
    Page { rows: rows.into_iter().map(row).collect(), pruned, wrong }
}
