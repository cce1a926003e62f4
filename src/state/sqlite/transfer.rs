//! The rows of a file, for copies and checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row as SqlRow, ToSql, config::DbConfig,
    params_from_iter, types::ValueRef,
};

use super::{
    connect,
    event::{self, Covered},
    guard::{Files, beside, checkpoint},
    inspect::is_held,
    platform, schema, unusable, wal,
};
use crate::{
    state::{
        Authorizer, Error, EventKey,
        platform::TICKET_LIFE,
        sum,
        transfer::{
            BATCH_BYTES, Begun, Damage, Facts, Head, Kind, Page, Raw, Row, Source, Target,
            UNFINISHED, Value, unfinished,
        },
    },
    util::clock::Clock,
};

/// The page cache of a copy, in kilobytes. The keys of events are random.
const CACHE: i32 = 128_000;
/// The pages of the log after which SQLite copies it into the database.
const CHECKPOINT: u32 = 10_000;

/// A file that is read, or that receives a copy.
#[derive(Debug)]
pub(in crate::state) struct Transfer {
    // It must be closed before its locks end.
    db: Connection,
    /// The schema of the file.
    schema: i64,
    path: PathBuf,
    /// The locks, unless a gateway may use the file meanwhile.
    _files: Option<Files>,
}

impl Transfer {
    /// Opens a file that a gateway may use. All reads see the same moment.
    pub(in crate::state) fn look(path: &Path) -> Result<Self, Error> {
        let opened = Self::read(path, None)?;
        opened.db.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
        Ok(opened)
    }

    /// Opens a file that no gateway uses, and keeps gateways away.
    pub(in crate::state) fn source(path: &Path) -> Result<Self, Error> {
        exists(path)?;
        let files = Files::lock(path)?;
        wal::check(files.log())?;
        let opened = Self::read(path, Some(files))?;
        if opened.schema == UNFINISHED {
            return Err(unfinished());
        }
        match schema::findings(&opened.db)?.iter().find(|found| schema::is_beyond_rows(found)) {
            Some(worst) => Err(Error::Damaged(worst.clone())),
            None => Ok(opened),
        }
    }

    /// Opens or creates a file that receives a copy.
    pub(in crate::state) fn target(path: &Path) -> Result<Self, Error> {
        let files = Files::lock(path)?;
        let db = connect(files.database(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // If the machine fails, the last batches may be missing, and the progress with them.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
        db.pragma_update(None, "cache_size", -CACHE)?;
        let schema = schema::version(&db)?;
        Ok(Self { db, schema, path: path.to_owned(), _files: Some(files) })
    }

    fn read(path: &Path, files: Option<Files>) -> Result<Self, Error> {
        exists(path)?;
        let database = fs::canonicalize(path).map_err(|error| unusable(path, &error))?;
        let db = connect(&database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let schema = schema::version(&db)?;
        match schema {
            0 => Err(Error::Unusable("it has no state".to_owned())),
            found if found > schema::KNOWN && found != UNFINISHED => {
                Err(Error::Newer { found, known: schema::KNOWN })
            }
            _ => Ok(Self { db, schema, path: path.to_owned(), _files: files }),
        }
    }

    /// Returns whether an older version wrote the file, which has no rows of this kind.
    fn lacks(&self, kind: Kind) -> bool {
        self.schema < 3 && matches!(kind, Kind::Authorizers | Kind::Tickets)
    }

    /// Returns the statement that reads rows of a kind. ?1 is the last one before, and ?2 the time.
    fn select(&self, kind: Kind) -> String {
        let columns = match kind {
            Kind::Submissions => {
                "number, submission_id, app_id, kind, audit_id, poi_id, map_poi_id, client_reference,
                 state, reason, event_id, created, settled, ifnull(ask_at, 0), message
                 FROM submissions WHERE number > ?1 ORDER BY number"
            }
            Kind::Events => {
                "position, key, received, event_id, app_id, kind, audit_id, state, reason, poi_id,
                 map_poi_id, event_time, pushed, ifnull(submission_id, ''), amends AS amends,
                 superseded_by, message
                 FROM events WHERE position > ?1 ORDER BY position"
            }
            Kind::Writes if self.schema < 2 => {
                "number, write_id, '', app_id, method, ifnull(request_id, ''), fingerprint,
                 client_reference, state, fence, until, attempts, created, sent, ended, sought,
                 ifnull(reply, x'')
                 FROM writes WHERE number > ?1 ORDER BY number"
            }
            Kind::Writes => {
                "number, write_id, caller, app_id, method, ifnull(request_id, ''), fingerprint,
                 client_reference, state, fence, until, attempts, created, sent, ended, sought,
                 ifnull(reply, x'')
                 FROM writes WHERE number > ?1 ORDER BY number"
            }
            Kind::Authorizers => {
                "platform, app_id, changed_at, authorized, refresh_token, record
                 FROM authorizers WHERE platform || ' ' || app_id > ?1 ORDER BY platform, app_id"
            }
            Kind::Leases => "name, fence, held, until FROM leases WHERE name > ?1 ORDER BY name",
            Kind::Tokens => {
                "app_id, value, generation, since, until FROM tokens WHERE app_id > ?1 ORDER BY app_id"
            }
            Kind::Counters => {
                "name, spent, until FROM counters WHERE name > ?1 AND until > ?2 ORDER BY name"
            }
            Kind::Tickets => {
                "platform, value, sent_at FROM tickets WHERE platform > ?1 AND sent_at * 1000 + ?3 > ?2
                 ORDER BY platform"
            }
        };
        format!("SELECT {columns}")
    }

    fn page(&self, kind: Kind, after: &str, most: usize) -> Result<Page, Error> {
        let mut page = Page { pruned: self.pruned()?, ..Page::default() };
        if self.lacks(kind) {
            return Ok(page);
        }
        let mut statement = self.db.prepare_cached(&self.select(kind))?;
        let after = match kind.is_numbered() {
            true => Value::Number(after.parse().unwrap_or_default()),
            false => Value::Text(after.to_owned()),
        };
        let (time, life) = (super::now(&Clock::system()), super::millis(TICKET_LIFE));
        let params: [&dyn ToSql; 3] = [&after, &time, &life];
        let needed = statement.parameter_count();
        let mut rows = statement.query(&params[..needed])?;
        let mut bytes = 0;
        while page.rows.len() < most && bytes < BATCH_BYTES {
            let Some(row) = rows.next()? else { break };
            let row = parse(kind, row)?;
            bytes += row.size();
            page.rows.push(row);
        }
        Ok(page)
    }

    fn pruned(&self) -> Result<u64, Error> {
        Ok(self.db.prepare_cached("SELECT pruned FROM log")?.query_row([], |row| row.get(0))?)
    }

    fn last(&self, table: &str) -> Result<u64, Error> {
        let last = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
        let last = self.db.query_row(last, [table], |row| row.get(0)).optional()?;
        Ok(last.unwrap_or_default())
    }

    fn number(&self, sql: &str) -> Result<u64, Error> {
        Ok(self.db.query_row(sql, [], |row| row.get(0))?)
    }

    /// Returns the source and the progress of the copy in this file.
    fn progress(&self) -> Result<(String, String, String, u64), Error> {
        let read = "SELECT id, place, at, began FROM copy";
        Ok(self
            .db
            .query_row(read, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?)
    }
}

#[tonic::async_trait]
impl Source for Transfer {
    async fn head(&mut self) -> Result<Head, Error> {
        let log = event::log(&self.db)?;
        Ok(Head {
            epoch: Some(log.epoch),
            newest: log.newest.position,
            pruned: log.pruned.position,
            pruned_key: log.pruned.key,
            last_submission: self.last("submissions")?,
            last_write: self.last("writes")?,
            base: 0,
        })
    }

    async fn count(&mut self, kind: Kind) -> Result<u64, Error> {
        match self.lacks(kind) {
            true => Ok(0),
            false => self.number(&format!("SELECT count(*) FROM {}", kind.name())),
        }
    }

    async fn rows(&mut self, kind: Kind, after: &str, most: usize) -> Result<Page, Error> {
        self.page(kind, after, most)
    }

    async fn now(&mut self) -> Result<u64, Error> {
        Ok(super::now(&Clock::system()))
    }

    async fn unchanged(&mut self) -> Result<(), Error> {
        // The lock keeps gateways away.
        Ok(())
    }

    async fn verify(&mut self) -> Result<Vec<Damage>, Error> {
        let found = schema::findings(&self.db)?;
        let row = || "file".to_owned();
        let mut damage: Vec<_> = found.into_iter().map(|why| Damage { row: row(), why }).collect();
        if let Err(why) = schema::check_end(&self.db) {
            damage.push(Damage { row: "log".to_owned(), why: why.to_string() });
        }
        Ok(damage)
    }

    async fn facts(&mut self) -> Result<Facts, Error> {
        let size = |suffix| fs::metadata(beside(&self.path, suffix)).map_or(0, |file| file.len());
        let unfinished = match self.schema == UNFINISHED {
            true => self.progress().map(|(_, place, at, _)| Some((place, at)))?,
            false => None,
        };
        Ok(Facts {
            schema: self.schema,
            unfinished,
            bytes: Some(size("") + size("-wal")),
            open_submissions: self.number(
                "SELECT count(*) FROM submissions INDEXED BY submissions_settled WHERE settled = 0",
            )?,
            unfinished_writes: self.number(
                "SELECT count(*) FROM writes INDEXED BY writes_unfinished WHERE ended = 0",
            )?,
            is_used: is_held(&beside(&self.path, ".lock"))?,
            ..Facts::default()
        })
    }
}

#[tonic::async_trait]
impl Target for Transfer {
    async fn begin(&mut self, id: &str, place: &str, anew: bool) -> Result<Begun, Error> {
        if self.schema == UNFINISHED {
            let (its_id, its_place, at, began) = self.progress()?;
            match (anew, its_id == id) {
                (true, _) => {}
                (false, true) => return Ok(Begun::At { at, began }),
                (false, false) => return Ok(Begun::Other(its_place)),
            }
        } else if self.number("SELECT count(*) FROM sqlite_schema")? > 0 {
            return Ok(Begun::Taken);
        }
        let began = super::now(&Clock::system());
        // In one transaction, so that the file is either empty or known as a copy.
        let transaction = self.db.transaction()?;
        if self.schema == UNFINISHED {
            schema::drop_all(&transaction)?;
        }
        schema::create(&transaction)?;
        transaction.execute_batch(
            "CREATE TABLE copy (id TEXT NOT NULL, place TEXT NOT NULL, at TEXT NOT NULL,
               began INTEGER NOT NULL) STRICT",
        )?;
        transaction.execute("INSERT INTO copy VALUES (?1, ?2, '', ?3)", (id, place, began))?;
        transaction.pragma_update(None, "user_version", UNFINISHED)?;
        transaction.commit()?;
        self.schema = UNFINISHED;
        Ok(Begun::At { at: String::new(), began })
    }

    async fn put(&mut self, rows: &[Row], before: &str, at: &str) -> Result<(), Error> {
        let transaction = self.db.transaction()?;
        let moved = transaction
            .prepare_cached("UPDATE copy SET at = ?2 WHERE at = ?1")?
            .execute([before, at])?;
        if moved != 1 {
            return Err(Error::Unusable("another process works on this copy".to_owned()));
        }
        for row in rows {
            store(&transaction, row)?;
        }
        Ok(transaction.commit()?)
    }

    async fn put_head(&mut self, head: &Head) -> Result<(), Error> {
        let transaction = self.db.transaction()?;
        let Head { epoch, newest, pruned, pruned_key, last_submission, last_write, base: _ } = head;
        let newest_key = match newest {
            0 => EventKey([0; 32]),
            _ => event::key_at(&transaction, *newest)?,
        };
        if let Some(epoch) = epoch {
            transaction.execute("UPDATE log SET epoch = ?1", [epoch.cast_signed()])?;
        }
        transaction.execute(
            "UPDATE log SET newest = ?1, newest_key = ?2, pruned = ?3, pruned_key = ?4",
            (newest, newest_key.0, pruned, pruned_key.0),
        )?;
        for (table, last) in [("submissions", last_submission), ("writes", last_write)] {
            transaction.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [table])?;
            transaction.execute("INSERT INTO sqlite_sequence VALUES (?1, ?2)", (table, last))?;
        }
        Ok(transaction.commit()?)
    }

    async fn finish(&mut self) -> Result<(), Error> {
        self.db.pragma_update(None, "synchronous", "FULL")?;
        let transaction = self.db.transaction()?;
        transaction.execute_batch("DROP TABLE copy")?;
        transaction.pragma_update(None, "user_version", schema::KNOWN)?;
        transaction.commit()?;
        self.schema = schema::KNOWN;
        checkpoint(&self.db, "TRUNCATE").map(drop)
    }
}

/// Fails if there is no file, because SQLite would create one.
fn exists(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => Ok(()),
        Ok(_) => Err(Error::Unusable("the path is not a file".to_owned())),
        Err(error) => Err(Error::Unusable(error.to_string())),
    }
}

/// Returns a row in the form that both backends share.
fn parse(kind: Kind, row: &SqlRow<'_>) -> Result<Row, Error> {
    let count = kind.columns().len();
    let values = (0..count).map(|column| row.get_ref(column)).collect::<Result<Vec<_>, _>>()?;
    let mut damage = None;
    // The last column of these has a checksum over the whole row.
    let whole = match kind {
        Kind::Events => Some(event::message_of(row)),
        Kind::Authorizers => Some(platform::parse_row(row).map(|authorizer| authorizer.record)),
        Kind::Tickets => Some(ticket_of(row)),
        _ => None,
    };
    let whole = match whole {
        Some(Ok(whole)) => Some(whole),
        Some(Err(Error::Unreadable(why))) => {
            damage = Some(why);
            Some(Vec::new())
        }
        Some(Err(error)) => return Err(error),
        None => None,
    };
    let checked = if kind == Kind::Tickets { 1 } else { count - 1 };
    let values = values.iter().enumerate().map(|(column, value)| match &whole {
        Some(whole) if column == checked && kind == Kind::Tickets => Raw::Text(whole),
        Some(whole) if column == checked => Raw::Bytes(whole),
        _ => raw(*value),
    });
    Ok(Row::new(kind, values, damage))
}

fn raw(value: ValueRef<'_>) -> Raw<'_> {
    match value {
        ValueRef::Integer(number) => Raw::Number(number),
        ValueRef::Text(text) => Raw::Text(text),
        ValueRef::Blob(bytes) => Raw::Bytes(bytes),
        ValueRef::Null | ValueRef::Real(_) => Raw::Wrong,
    }
}

fn ticket_of(row: &SqlRow<'_>) -> Result<Vec<u8>, Error> {
    let platform: String = row.get("platform")?;
    let ticket = platform::parse_ticket(row, &platform.into())?;
    Ok(ticket.value.expose().as_bytes().to_vec())
}

/// Inserts a row.
fn store(db: &Connection, row: &Row) -> Result<(), Error> {
    let text = |name| row.text(name);
    let unless_empty = |name| Some(row.text(name)).filter(|text| !text.is_empty());
    let summed;
    let mut values: Vec<&dyn ToSql> =
        row.values().iter().map(|value| value as &dyn ToSql).collect();
    let last = values.len() - 1;
    let (decides, submission, request_id) =
        (row.decides(), unless_empty("submission"), unless_empty("request_id"));
    let ask_at = Some(row.number("ask_at")).filter(|at| *at != 0);
    let reply = Some(row.bytes("reply")).filter(|_| text("state") == "finished");
    let columns = match row.kind {
        Kind::Submissions => {
            values[13] = &ask_at;
            "submissions (number, submission_id, app_id, kind, audit_id, poi_id, map_poi_id,
             client_reference, state, reason, event_id, created, settled, ask_at, message)"
        }
        Kind::Events => {
            summed = summed_event(row);
            values[13] = &submission;
            values[last] = &summed;
            values.push(&decides);
            "events (position, key, received, event_id, app_id, kind, audit_id, state, reason, poi_id,
             map_poi_id, event_time, pushed, submission_id, amends, superseded_by, message, decided)"
        }
        Kind::Writes => {
            values[5] = &request_id;
            values[last] = &reply;
            "writes (number, write_id, caller, app_id, method, request_id, fingerprint,
             client_reference, state, fence, until, attempts, created, sent, ended, sought, reply)"
        }
        Kind::Authorizers => {
            summed = summed_authorizer(row);
            values[last] = &summed;
            "authorizers (platform, app_id, changed_at, authorized, refresh_token, record)"
        }
        Kind::Leases => "leases (name, fence, held, until)",
        Kind::Tokens => "tokens (app_id, value, generation, since, until)",
        Kind::Counters => "counters (name, spent, until)",
        Kind::Tickets => {
            let (value, sent_at) = (text("value").as_bytes(), row.count("sent_at"));
            summed = platform::summed_ticket(&text("platform").to_owned().into(), value, sent_at);
            values[1] = &summed;
            "tickets (platform, value, sent_at)"
        }
    };
    let marks = vec!["?"; values.len()].join(", ");
    let sql = format!("INSERT INTO {columns} VALUES ({marks})");
    db.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    Ok(())
}

/// Returns the stored form of an event's message. The checksum of a damaged event is wrong.
fn summed_event(row: &Row) -> Vec<u8> {
    let beside = Covered {
        position: row.count("position"),
        key: row.event_key().unwrap_or(EventKey([0; 32])),
        received: row.count("received"),
        kind: i32::try_from(row.number("kind")).unwrap_or_default(),
        app_id: row.text("app_id"),
        supersedes: row.text("amends"),
        superseded_by: row.text("superseded_by"),
    };
    let stored = beside.sum(|beside| sum::with_checksum(row.bytes("message"), beside));
    spoiled_if(row.damage.is_some(), stored)
}

/// Returns the stored form of an authorizer's record, as above.
fn summed_authorizer(row: &Row) -> Vec<u8> {
    let refresh_token = row.text("refresh_token");
    let authorizer = Authorizer {
        platform: row.text("platform").to_owned().into(),
        app_id: row.text("app_id").to_owned().into(),
        changed_at: row.count("changed_at"),
        authorized: row.number("authorized") != 0,
        refresh_token: (!refresh_token.is_empty()).then(|| refresh_token.to_owned().into()),
        record: Vec::new(),
    };
    let stored = platform::with_checksum(&authorizer, row.bytes("record"));
    spoiled_if(row.damage.is_some(), stored)
}

fn spoiled_if(damaged: bool, mut stored: Vec<u8>) -> Vec<u8> {
    if let (true, Some(last)) = (damaged, stored.last_mut()) {
        *last ^= 0xFF;
    }
    stored
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Number(number) => number.to_sql(),
            Self::Text(text) => text.to_sql(),
            Self::Bytes(bytes) => bytes.to_sql(),
        }
    }
}
