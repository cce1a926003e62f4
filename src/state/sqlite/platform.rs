//! Tickets of platforms, and their authorizers. A checksum in each row covers all of it, because a wrong time
//! would hide every later change.

use std::{fs, path::Path};

use rusqlite::{Connection, OpenFlags, Row, params};

use super::{Sqlite, connect, millis, now, storable, token};
use crate::{
    state::{
        Authorizer, Error, Peeked, Platforms, Ticket, log_skipped, platform::TICKET_LIFE, sum,
    },
    util::{
        clock::Clock,
        id::{AppId, Secret},
    },
};

/// The columns that [`parse_row`] needs.
const COLUMNS: &str = "platform, app_id, changed_at, authorized, refresh_token, record";

#[tonic::async_trait]
impl Platforms for Sqlite {
    async fn put_ticket(
        &self,
        platform: &AppId,
        ticket: &Secret,
        sent_at: u64,
    ) -> Result<bool, Error> {
        let platform = platform.clone();
        let ticket = Ticket { value: ticket.clone(), sent_at: storable(sent_at) };
        self.writer().await?.write(move |db, _| put_ticket(db, &platform, &ticket)).await
    }

    async fn ticket(&self, platform: &AppId) -> Result<Option<Ticket>, Error> {
        let (platform, oldest) = (platform.clone(), oldest_ticket(now(&self.clock)));
        let read = move |db: &Connection| stored_ticket(db, &platform);
        let stored = self.readers().await?.read(read).await?;
        Ok(stored.filter(|ticket| ticket.sent_at >= oldest))
    }

    async fn put_authorizer(&self, authorizer: &Authorizer, only_new: bool) -> Result<bool, Error> {
        let changed_at = storable(authorizer.changed_at);
        let authorizer = Authorizer { changed_at, ..authorizer.tidy() };
        self.writer().await?.write(move |db, _| put(db, &authorizer, only_new)).await
    }

    async fn authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
    ) -> Result<Option<Authorizer>, Error> {
        let (platform, app_id) = (platform.clone(), app_id.clone());
        self.readers().await?.read(move |db| by_id(db, &platform, &app_id)).await
    }

    async fn replace_refresh_token(
        &self,
        platform: &AppId,
        app_id: &AppId,
        before: Option<&Secret>,
        value: &Secret,
    ) -> Result<bool, Error> {
        let (platform, app_id) = (platform.clone(), app_id.clone());
        let (before, value) = (before.cloned(), value.clone());
        let replace = move |db: &Connection, _| {
            replace_refresh_token(db, &platform, &app_id, before.as_ref(), &value)
        };
        self.writer().await?.write(replace).await
    }

    async fn describe_authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
        changed_at: u64,
        record: &[u8],
    ) -> Result<bool, Error> {
        let (platform, app_id) = (platform.clone(), app_id.clone());
        let record = record.to_owned();
        let describe =
            move |db: &Connection, _| describe(db, &platform, &app_id, changed_at, &record);
        self.writer().await?.write(describe).await
    }

    async fn authorizers(
        &self,
        platform: &AppId,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, Error> {
        let (platform, after) = (platform.clone(), after.cloned().unwrap_or_default());
        self.readers().await?.read(move |db| page(db, &platform, &after, most)).await
    }
}

/// Returns the secrets of a platform from a file that another process may use.
pub(in crate::state) fn peek(
    path: &Path,
    platform: &AppId,
    clock: &Clock,
) -> Result<Peeked, Error> {
    let Ok(database) = fs::canonicalize(path) else { return Ok(Peeked::default()) };
    let db = connect(&database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('tickets', 'tokens')";
    let tables: u32 = db.query_row(tables, [], |row| row.get(0))?;
    if tables < 2 {
        // An older version wrote the file.
        return Ok(Peeked::default());
    }
    let token = token::living(&db, now(clock), platform)?.map(|token| token.value);
    Ok(Peeked { ticket: stored_ticket(&db, platform)?, token, ..Peeked::default() })
}

/// Returns the earliest time of a ticket that counts, in seconds.
fn oldest_ticket(now: u64) -> u64 {
    now.saturating_sub(millis(TICKET_LIFE)).div_ceil(1000)
}

/// Returns the ticket of a platform, whatever its age. A damaged one counts as absent, because the next one comes
/// soon.
pub(super) fn stored_ticket(db: &Connection, platform: &AppId) -> Result<Option<Ticket>, Error> {
    let mut statement =
        db.prepare_cached("SELECT value, sent_at FROM tickets WHERE platform = ?1")?;
    let mut rows = statement.query([platform.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    match parse_ticket(row, platform) {
        Err(Error::Unreadable(why)) => {
            log_skipped("a ticket", &why);
            Ok(None)
        }
        ticket => ticket.map(Some),
    }
}

fn put_ticket(db: &Connection, platform: &AppId, ticket: &Ticket) -> Result<bool, Error> {
    let stored = stored_ticket(db, platform)?;
    if stored.is_some_and(|stored| stored.sent_at > ticket.sent_at) {
        return Ok(false);
    }
    store_ticket(db, platform, ticket)?;
    Ok(true)
}

/// Stores a ticket in place of any other.
pub(super) fn store_ticket(
    db: &Connection,
    platform: &AppId,
    ticket: &Ticket,
) -> Result<(), Error> {
    let Ticket { value, sent_at } = ticket;
    let value = summed_ticket(platform, value.expose().as_bytes(), *sent_at);
    db.prepare_cached("REPLACE INTO tickets (platform, value, sent_at) VALUES (?1, ?2, ?3)")?
        .execute(params![platform.as_str(), value, sent_at])?;
    Ok(())
}

/// Returns the stored form of a ticket.
pub(super) fn summed_ticket(platform: &AppId, value: &[u8], sent_at: u64) -> Vec<u8> {
    sum::with_checksum(value, &[platform.as_str().as_bytes(), &sent_at.to_be_bytes()])
}

fn put(db: &Connection, new: &Authorizer, only_new: bool) -> Result<bool, Error> {
    let stored = match by_id(db, &new.platform, &new.app_id) {
        Err(Error::Unreadable(why)) => {
            log_skipped("an authorizer", &why);
            None
        }
        stored => stored?,
    };
    if stored.as_ref() == Some(new) {
        return Ok(true);
    }
    let counts = stored.is_none_or(|stored| match only_new {
        true => !stored.authorized && stored.changed_at < new.changed_at,
        false => stored.changed_at <= new.changed_at,
    });
    if counts {
        store(db, new)?;
    }
    Ok(counts)
}

fn replace_refresh_token(
    db: &Connection,
    platform: &AppId,
    app_id: &AppId,
    before: Option<&Secret>,
    value: &Secret,
) -> Result<bool, Error> {
    let stored = by_id(db, platform, app_id)?;
    let Some(stored) = stored.filter(|stored| stored.authorized) else { return Ok(false) };
    if stored.refresh_token.as_ref() == Some(value) {
        return Ok(true);
    }
    if stored.refresh_token.as_ref() != before || value.expose().is_empty() {
        return Ok(false);
    }
    store(db, &Authorizer { refresh_token: Some(value.clone()), ..stored })?;
    Ok(true)
}

fn describe(
    db: &Connection,
    platform: &AppId,
    app_id: &AppId,
    changed_at: u64,
    record: &[u8],
) -> Result<bool, Error> {
    let stored = by_id(db, platform, app_id)?;
    let Some(stored) = stored.filter(|stored| stored.changed_at == changed_at) else {
        return Ok(false);
    };
    store(db, &Authorizer { record: record.to_owned(), ..stored })?;
    Ok(true)
}

/// Stores an authorizer in place of any other.
pub(super) fn store(db: &Connection, authorizer: &Authorizer) -> Result<(), Error> {
    let Authorizer { platform, app_id, changed_at, authorized, record, .. } = authorizer;
    let record = with_checksum(authorizer, record);
    let sql = format!("REPLACE INTO authorizers ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
    db.prepare_cached(&sql)?.execute(params![
        platform.as_str(),
        app_id.as_str(),
        changed_at,
        authorized,
        authorizer.refresh_text(),
        record,
    ])?;
    Ok(())
}

/// Returns an authorizer. Fails if its row is damaged.
pub(super) fn by_id(
    db: &Connection,
    platform: &AppId,
    app_id: &AppId,
) -> Result<Option<Authorizer>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM authorizers WHERE platform = ?1 AND app_id = ?2");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([platform.as_str(), app_id.as_str()])?;
    rows.next()?.map(parse_row).transpose()
}

fn page(
    db: &Connection,
    platform: &AppId,
    after: &AppId,
    most: usize,
) -> Result<Vec<Authorizer>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM authorizers WHERE platform = ?1 AND app_id > ?2 ORDER BY app_id"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([platform.as_str(), after.as_str()])?;
    let mut found = Vec::new();
    while found.len() < most {
        let Some(row) = rows.next()? else { break };
        match parse_row(row) {
            Ok(authorizer) => found.push(authorizer),
            Err(error) => log_skipped("an authorizer", &error.to_string()),
        }
    }
    Ok(found)
}

/// Deletes tickets that are too old to be used, and authorizers whose authorization ended before this time.
pub(super) fn prune(db: &Connection, now: u64, before: u64, limit: u64) -> Result<u64, Error> {
    let tickets = db
        .prepare_cached("DELETE FROM tickets WHERE sent_at < ?1")?
        .execute([oldest_ticket(now)])?;
    let authorizers = db
        .prepare_cached(
            "DELETE FROM authorizers WHERE (platform, app_id) IN (
               SELECT platform, app_id FROM authorizers INDEXED BY authorizers_ended
               WHERE authorized = 0 AND changed_at < ?1 LIMIT ?2)",
        )?
        .execute([before / 1000, limit])?;
    Ok(u64::try_from(tickets + authorizers).unwrap_or(u64::MAX))
}

pub(super) fn parse_ticket(row: &Row<'_>, platform: &AppId) -> Result<Ticket, Error> {
    let sent_at: u64 = row.get("sent_at")?;
    let stored = row.get_ref("value")?.as_blob().map_err(|_| wrong_form("a ticket"))?;
    let beside = [platform.as_str().as_bytes(), &sent_at.to_be_bytes()];
    let value = String::from_utf8(checked(stored, &beside)?.to_owned());
    Ok(Ticket { value: value.map_err(|_| wrong_form("a ticket"))?.into(), sent_at })
}

pub(super) fn parse_row(row: &Row<'_>) -> Result<Authorizer, Error> {
    let refresh_token: String = row.get("refresh_token")?;
    let authorizer = Authorizer {
        platform: row.get::<_, String>("platform")?.into(),
        app_id: row.get::<_, String>("app_id")?.into(),
        changed_at: row.get("changed_at")?,
        authorized: row.get("authorized")?,
        refresh_token: (!refresh_token.is_empty()).then(|| refresh_token.into()),
        record: Vec::new(),
    };
    let stored = row.get_ref("record")?.as_blob().map_err(|_| wrong_form("an authorizer"))?;
    let record = beside(&authorizer, |beside| checked(stored, beside).map(<[u8]>::to_owned))?;
    Ok(Authorizer { record, ..authorizer })
}

/// Calls a function with the parts of a row beside its record.
fn beside<T>(authorizer: &Authorizer, call: impl FnOnce(&[&[u8]]) -> T) -> T {
    let Authorizer { platform, app_id, changed_at, authorized, refresh_token: _, record: _ } =
        authorizer;
    call(&[
        platform.as_str().as_bytes(),
        app_id.as_str().as_bytes(),
        &changed_at.to_be_bytes(),
        &[u8::from(*authorized)],
        authorizer.refresh_text().as_bytes(),
    ])
}

pub(super) fn with_checksum(authorizer: &Authorizer, record: &[u8]) -> Vec<u8> {
    beside(authorizer, |beside| sum::with_checksum(record, beside))
}

/// Returns a stored message without its checksum. Fails if the checksum is wrong or missing.
fn checked<'a>(stored: &'a [u8], beside: &[&[u8]]) -> Result<&'a [u8], Error> {
    let message = sum::without_checksum(stored, beside)?;
    match message.len() < stored.len() {
        true => Ok(message),
        false => Err(Error::Unreadable("its checksum is missing".to_owned())),
    }
}

fn wrong_form(what: &str) -> Error {
    Error::Unreadable(format!("{what} has no known form"))
}
