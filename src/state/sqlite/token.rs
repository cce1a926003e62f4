//! Tokens and rate limits.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, later, now, readable};
use crate::{
    state::{Error, SharedToken, Tokens, log_skipped},
    util::id::{AppId, Secret},
};

#[tonic::async_trait]
impl Tokens for Sqlite {
    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        let (app_id, now) = (app_id.clone(), now(&self.clock));
        self.readers().await?.read(move |db| living(db, now, &app_id)).await
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        let (app_id, value) = (app_id.clone(), value.clone());
        self.writer().await?.write(move |db, now| put(db, now, &app_id, before, &value, life)).await
    }

    async fn drop_token(&self, app_id: &AppId) -> Result<(), Error> {
        let app_id = app_id.clone();
        self.writer().await?.write(move |db, now| drop_token(db, now, &app_id)).await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        let counter = counter.to_owned();
        self.writer().await?.write(move |db, now| spend(db, now, &counter, limit, window)).await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        let counter = counter.to_owned();
        self.writer().await?.write(move |db, now| refund(db, now, &counter)).await
    }
}

/// Returns the token of an account, unless it has expired.
pub(super) fn living(
    db: &Connection,
    now: u64,
    app_id: &AppId,
) -> Result<Option<SharedToken>, Error> {
    let token = db
        .prepare_cached(
            "SELECT value, generation, until - ?2, max(?2 - since, 0) FROM tokens
             WHERE app_id = ?1 AND until > ?2",
        )?
        .query_row(params![app_id.as_str(), now], |row| {
            Ok(SharedToken {
                value: row.get::<_, String>(0)?.into(),
                generation: row.get(1)?,
                life: Duration::from_millis(row.get(2)?),
                age: Duration::from_millis(row.get(3)?),
            })
        })
        .optional();
    readable(token, "a token")
}

fn put(
    db: &Connection,
    now: u64,
    app_id: &AppId,
    before: u64,
    value: &Secret,
    life: Duration,
) -> Result<SharedToken, Error> {
    if let Some(token) = living(db, now, app_id)?.filter(|token| token.generation != before) {
        return Ok(token);
    }
    let put = db
        .prepare_cached(
            "INSERT INTO tokens (app_id, value, generation, since, until)
             VALUES (?1, ?2, 1, ?3, ?4)
             ON CONFLICT DO UPDATE SET
               generation = generation + (value <> excluded.value),
               since = iif(value = excluded.value, since, excluded.since),
               value = excluded.value,
               until = excluded.until
             RETURNING generation, since",
        )?
        .query_row(params![app_id.as_str(), value.expose(), now, later(now, life)], |row| {
            Ok((row.get(0)?, row.get::<_, u64>(1)?))
        });
    let (generation, since) = match put.map_err(Error::from) {
        Err(Error::Unreadable(why)) => {
            log_skipped("a token", &why);
            // There is less than one token per millisecond, so this generation is higher than every
            // earlier one.
            db.prepare_cached("REPLACE INTO tokens VALUES (?1, ?2, ?3, ?3, ?4)")?
                .execute(params![app_id.as_str(), value.expose(), now, later(now, life)])?;
            (now, now)
        }
        put => put?,
    };
    let age = Duration::from_millis(now.saturating_sub(since));
    Ok(SharedToken { value: value.clone(), generation, life, age })
}

/// Deletes a token, but not its row, which holds the generation.
fn drop_token(db: &Connection, now: u64, app_id: &AppId) -> Result<(), Error> {
    let dropped = db
        .prepare_cached("UPDATE tokens SET value = '', since = 0, until = 0 WHERE app_id = ?1")?
        .execute([app_id.as_str()]);
    match dropped.map_err(Error::from) {
        Err(Error::Unreadable(why)) => {
            log_skipped("a token", &why);
            // As above, this generation is higher than every earlier one.
            db.prepare_cached("REPLACE INTO tokens VALUES (?1, '', ?2, 0, 0)")?
                .execute(params![app_id.as_str(), now])?;
        }
        dropped => drop(dropped?),
    }
    Ok(())
}

fn spend(
    db: &Connection,
    now: u64,
    counter: &str,
    limit: u32,
    window: Duration,
) -> Result<bool, Error> {
    let spent = db
        .prepare_cached("SELECT spent FROM counters WHERE name = ?1 AND until > ?2")?
        .query_row(params![counter, now], |row| row.get::<_, u32>(0))
        .optional();
    if readable(spent, "a counter")?.unwrap_or_default() >= limit {
        return Ok(false);
    }
    db.prepare_cached(
        "INSERT INTO counters (name, spent, until) VALUES (?1, 1, ?3)
         ON CONFLICT DO UPDATE SET
           spent = iif(until > ?2, spent + 1, 1),
           until = iif(until > ?2, until, excluded.until)",
    )?
    .execute(params![counter, now, later(now, window)])?;
    Ok(true)
}

fn refund(db: &Connection, now: u64, counter: &str) -> Result<(), Error> {
    db.prepare_cached(
        "UPDATE counters SET spent = spent - 1 WHERE name = ?1 AND until > ?2 AND spent > 0",
    )?
    .execute(params![counter, now])?;
    Ok(())
}
