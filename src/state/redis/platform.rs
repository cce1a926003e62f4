//! Tickets of platforms, and their authorizers: a hash each, and a sorted set of the authorizers of a platform.

use std::sync::LazyLock;

use ::redis::{Script, Value, from_redis_value};

use super::{
    Redis,
    backup::AuthorizerBackup,
    connection::{Call, Connection, lua, millis},
};
use crate::{
    state::{Authorizer, Error, Platforms, Ticket, log_skipped, platform::TICKET_LIFE},
    util::id::{AppId, Secret},
};

static TICKET: LazyLock<Script> = lua!("ticket.lua");
static PUT_TICKET: LazyLock<Script> = lua!("put_ticket.lua");
static AUTHORIZER: LazyLock<Script> = lua!("authorizer.lua");
static PUT_AUTHORIZER: LazyLock<Script> = lua!("put_authorizer.lua");
static CHANGE_AUTHORIZER: LazyLock<Script> = lua!("change_authorizer.lua");
static AUTHORIZERS: LazyLock<Script> = lua!("authorizers.lua");

/// The most authorizers that one script returns, because Redis does nothing else meanwhile.
const MOST: usize = 500;

/// An authorizer as `prelude.lua` returns it: platform, account, time of its change, whether it is authorized,
/// refresh token, record, revision.
type AuthorizerRow = (String, String, u64, bool, String, Vec<u8>, u64);

#[tonic::async_trait]
impl Platforms for Redis {
    async fn put_ticket(
        &self,
        platform: &AppId,
        ticket: &Secret,
        sent_at: u64,
    ) -> Result<bool, Error> {
        let redis = &self.connection;
        let ticket = Ticket { value: ticket.clone(), sent_at };
        let call = put_ticket(redis, platform, &ticket);
        let stored = redis.run_backed_up(&call, |backup, stored: &bool| {
            if *stored {
                backup.ticketed(platform, &ticket);
            }
        });
        stored.await
    }

    async fn ticket(&self, platform: &AppId) -> Result<Option<Ticket>, Error> {
        let redis = &self.connection;
        let mut call = redis.call(&TICKET);
        call.arg(platform.as_str()).arg(millis(TICKET_LIFE));
        let found = redis.run_backed_up(&call, |backup, found: &Option<(String, u64)>| {
            if let Some((value, sent_at)) = found {
                let ticket = Ticket { value: value.clone().into(), sent_at: *sent_at };
                backup.ticketed(platform, &ticket);
            }
        });
        Ok(found.await?.map(|(value, sent_at)| Ticket { value: value.into(), sent_at }))
    }

    async fn put_authorizer(&self, authorizer: &Authorizer, only_new: bool) -> Result<bool, Error> {
        let redis = &self.connection;
        let authorizer = authorizer.tidy();
        let call = put_authorizer(redis, if only_new { "new" } else { "change" }, &authorizer);
        let revision = redis.run_backed_up(&call, |backup, revision: &u64| {
            if *revision > 0 {
                backup.changed(&authorizer, *revision);
            }
        });
        Ok(revision.await? > 0)
    }

    async fn authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
    ) -> Result<Option<Authorizer>, Error> {
        let redis = &self.connection;
        let call = &mut redis.call(&AUTHORIZER);
        let found: Option<Value> =
            redis.run(call.arg(platform.as_str()).arg(app_id.as_str())).await?;
        found.map(|row| Ok(parse_row(row)?.0)).transpose()
    }

    async fn replace_refresh_token(
        &self,
        platform: &AppId,
        app_id: &AppId,
        before: Option<&Secret>,
        value: &Secret,
    ) -> Result<bool, Error> {
        let mut call = change(&self.connection, platform, app_id, "refresh_token");
        call.arg(before.map_or("", Secret::expose)).arg(value.expose());
        run_change(&self.connection, &call).await
    }

    async fn describe_authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
        changed_at: u64,
        record: &[u8],
    ) -> Result<bool, Error> {
        let mut call = change(&self.connection, platform, app_id, "record");
        call.arg(changed_at).arg(record);
        run_change(&self.connection, &call).await
    }

    async fn authorizers(
        &self,
        platform: &AppId,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, Error> {
        let redis = &self.connection;
        let mut after = after.cloned().unwrap_or_default();
        let mut authorizers = Vec::new();
        while authorizers.len() < most {
            let wanted = (most - authorizers.len()).min(MOST);
            let mut call = redis.call(&AUTHORIZERS);
            call.arg(platform.as_str()).arg(after.as_str()).arg(wanted);
            let (last, found): (String, Vec<Value>) = redis.run(&call).await?;
            let count = found.len();
            authorizers.extend(found.into_iter().filter_map(readable));
            after = last.into();
            if count < wanted {
                break;
            }
        }
        Ok(authorizers)
    }
}

/// Returns the call that stores a ticket.
pub(super) fn put_ticket(redis: &Connection, platform: &AppId, ticket: &Ticket) -> Call {
    let Ticket { value, sent_at } = ticket;
    let mut call = redis.call(&PUT_TICKET);
    call.arg(platform.as_str()).arg(value.expose()).arg(sent_at).arg(millis(TICKET_LIFE));
    call
}

/// Returns the call that restores an authorizer after Redis lost it or its last changes.
pub(super) fn restore(redis: &Connection, backup: &AuthorizerBackup) -> Call {
    let AuthorizerBackup { authorizer, revision, at: _ } = backup;
    let mut call = put_authorizer(redis, "restore", authorizer);
    call.arg("revision").arg(revision);
    call
}

fn put_authorizer(redis: &Connection, action: &str, authorizer: &Authorizer) -> Call {
    let Authorizer { platform, app_id, changed_at, authorized, refresh_token: _, record } =
        authorizer;
    let mut call = redis.call(&PUT_AUTHORIZER);
    call.arg(action);
    call.arg("platform").arg(platform.as_str());
    call.arg("app_id").arg(app_id.as_str());
    call.arg("changed_at").arg(changed_at);
    call.arg("authorized").arg(u8::from(*authorized));
    call.arg("refresh_token").arg(authorizer.refresh_text());
    call.arg("record").arg(&record[..]);
    call
}

/// Returns the beginning of a call that changes a field of an authorizer.
fn change(redis: &Connection, platform: &AppId, app_id: &AppId, field: &str) -> Call {
    let mut call = redis.call(&CHANGE_AUTHORIZER);
    call.arg(platform.as_str()).arg(app_id.as_str()).arg(field);
    call
}

/// Runs a call that changes an authorizer. Returns false if it changed nothing.
async fn run_change(redis: &Connection, call: &Call) -> Result<bool, Error> {
    let changed = redis.run_backed_up(call, |backup, changed: &Option<Value>| {
        if let Some(Ok((authorizer, revision))) = changed.clone().map(parse_row) {
            backup.changed(&authorizer, revision);
        }
    });
    Ok(changed.await?.map(parse_row).transpose()?.is_some())
}

/// Returns the authorizer in a row, unless the row is damaged.
fn readable(row: Value) -> Option<Authorizer> {
    let row = parse_row(row);
    let row = row.inspect_err(|error| log_skipped("an authorizer", &error.to_string()));
    row.map(|(authorizer, _)| authorizer).ok()
}

/// Returns an authorizer and its revision.
fn parse_row(row: Value) -> Result<(Authorizer, u64), Error> {
    let unreadable = |_| Error::Unreadable("an authorizer has no known form".to_owned());
    let row: AuthorizerRow = from_redis_value(row).map_err(unreadable)?;
    let (platform, app_id, changed_at, authorized, refresh_token, record, revision) = row;
    let authorizer = Authorizer {
        platform: platform.into(),
        app_id: app_id.into(),
        changed_at,
        authorized,
        refresh_token: (!refresh_token.is_empty()).then(|| refresh_token.into()),
        record,
    };
    Ok((authorizer, revision))
}
