//! The secrets in their stored form.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, platform, readable};
use crate::{
    state::{Authorizer, Error, SecretColumn, SecretPage, Secrets, StoredSecret, Ticket},
    util::id::{AppId, Secret},
};

/// The rows that one page reads.
const ROWS: usize = 500;

#[tonic::async_trait]
impl Secrets for Sqlite {
    async fn stored_secrets(&self, from: Option<&str>) -> Result<SecretPage, Error> {
        let from = Place::parse(from.unwrap_or_default());
        self.readers().await?.read(move |db| page(db, &from)).await
    }

    async fn replace_form(&self, secret: &StoredSecret, form: &[u8]) -> Result<bool, Error> {
        let (secret, form) = (secret.clone(), form.to_owned());
        self.writer().await?.write(move |db, _| replace(db, &secret, &form)).await
    }

    async fn scrub(&self) -> Result<(), Error> {
        self.writer().await?.empty_log();
        Ok(())
    }
}

/// A table with secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Tokens,
    Tickets,
    Authorizers,
}

/// Where a page begins: after a row of a table.
#[derive(Debug)]
struct Place {
    table: Table,
    platform: AppId,
    app_id: AppId,
}

impl Place {
    /// Parses what [`Place::text`] returned. An empty text is the beginning.
    fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, ':');
        let table = match parts.next() {
            Some("tickets") => Table::Tickets,
            Some("authorizers") => Table::Authorizers,
            _ => Table::Tokens,
        };
        let mut id = || parts.next().unwrap_or_default().to_owned().into();
        Self { table, platform: id(), app_id: id() }
    }

    fn text(&self) -> String {
        let Self { table, platform, app_id } = self;
        let table = match table {
            Table::Tokens => "tokens",
            Table::Tickets => "tickets",
            Table::Authorizers => "authorizers",
        };
        format!("{table}:{platform}:{app_id}")
    }
}

fn page(db: &Connection, from: &Place) -> Result<SecretPage, Error> {
    let rows = match from.table {
        Table::Tokens => {
            "SELECT '', app_id FROM tokens WHERE app_id > ?2 AND ?1 = '' ORDER BY app_id LIMIT ?3"
        }
        Table::Tickets => {
            "SELECT platform, '' FROM tickets WHERE platform > ?1 AND ?2 = '' ORDER BY platform LIMIT ?3"
        }
        Table::Authorizers => {
            "SELECT platform, app_id FROM authorizers WHERE (platform, app_id) > (?1, ?2)
             ORDER BY platform, app_id LIMIT ?3"
        }
    };
    let mut statement = db.prepare_cached(rows)?;
    let bounds = params![from.platform.as_str(), from.app_id.as_str(), ROWS];
    let rows = statement.query_map(bounds, |row| {
        Ok((row.get::<_, String>(0)?.into(), row.get::<_, String>(1)?.into()))
    })?;
    let rows = rows.collect::<Result<Vec<(AppId, AppId)>, _>>()?;
    let mut secrets = Vec::new();
    for (platform, app_id) in &rows {
        secrets.extend(secrets_of(db, from.table, platform, app_id)?);
    }
    let next = match (rows.last(), from.table) {
        (Some((platform, app_id)), table) if rows.len() == ROWS => {
            Some(Place { table, platform: platform.clone(), app_id: app_id.clone() })
        }
        (_, Table::Tokens) => Some(Place::parse("tickets")),
        (_, Table::Tickets) => Some(Place::parse("authorizers")),
        (_, Table::Authorizers) => None,
    };
    Ok(SecretPage { secrets, next: next.map(|place| place.text()) })
}

/// Returns the secrets of a row. A damaged row has none.
fn secrets_of(
    db: &Connection,
    table: Table,
    platform: &AppId,
    app_id: &AppId,
) -> Result<Vec<StoredSecret>, Error> {
    let secret = |column, form: &[u8]| StoredSecret {
        column,
        platform: platform.clone(),
        app_id: app_id.clone(),
        form: form.to_owned(),
    };
    Ok(match table {
        Table::Tokens => {
            let value = db
                .prepare_cached("SELECT value FROM tokens WHERE app_id = ?1 AND value <> ''")?
                .query_row([app_id.as_str()], |row| row.get::<_, String>(0))
                .optional();
            let value = readable(value, "a token")?;
            value.iter().map(|form| secret(SecretColumn::Token, form.as_bytes())).collect()
        }
        Table::Tickets => {
            let ticket = platform::stored_ticket(db, platform)?;
            let value = ticket.iter().map(|ticket| ticket.value.expose().as_bytes());
            value.map(|form| secret(SecretColumn::Ticket, form)).collect()
        }
        Table::Authorizers => match platform::by_id(db, platform, app_id) {
            Err(Error::Unreadable(_)) | Ok(None) => Vec::new(),
            Err(error) => return Err(error),
            Ok(Some(Authorizer { refresh_token, record, .. })) => {
                let token = refresh_token.iter().map(|token| token.expose().as_bytes());
                let token = token.map(|form| secret(SecretColumn::RefreshToken, form));
                token.chain([secret(SecretColumn::Record, &record)]).collect()
            }
        },
    })
}

fn replace(db: &Connection, secret: &StoredSecret, form: &[u8]) -> Result<bool, Error> {
    let StoredSecret { column, platform, app_id, form: before } = secret;
    let text = |form: &[u8]| Secret::from(String::from_utf8_lossy(form).into_owned());
    match column {
        SecretColumn::Token => {
            let changed = db
                .prepare_cached("UPDATE tokens SET value = ?3 WHERE app_id = ?1 AND value = ?2")?
                .execute(params![app_id.as_str(), text(before).expose(), text(form).expose()])?;
            return Ok(changed > 0);
        }
        SecretColumn::Ticket => {
            let stored = platform::stored_ticket(db, platform)?;
            let Some(stored) = stored.filter(|stored| stored.value == text(before)) else {
                return Ok(false);
            };
            platform::store_ticket(db, platform, &Ticket { value: text(form), ..stored })?;
        }
        SecretColumn::RefreshToken => {
            let is_it = |stored: &Authorizer| stored.refresh_token == Some(text(before));
            let stored = platform::by_id(db, platform, app_id)?.filter(is_it);
            let Some(stored) = stored else { return Ok(false) };
            platform::store(db, &Authorizer { refresh_token: Some(text(form)), ..stored })?;
        }
        SecretColumn::Record => {
            let stored = platform::by_id(db, platform, app_id)?;
            let Some(stored) = stored.filter(|stored| stored.record == *before) else {
                return Ok(false);
            };
            platform::store(db, &Authorizer { record: form.to_owned(), ..stored })?;
        }
    }
    Ok(true)
}
