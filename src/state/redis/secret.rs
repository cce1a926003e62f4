//! The secrets in their stored form.

use std::sync::LazyLock;

use ::redis::Script;

use super::{Redis, connection::lua};
use crate::state::{Error, SecretColumn, SecretPage, Secrets, StoredSecret};

static SECRETS: LazyLock<Script> = lua!("secrets.lua");
static REPLACE_FORM: LazyLock<Script> = lua!("replace_form.lua");

/// The keys of which one script reads the secrets, because Redis does nothing else meanwhile.
const KEYS: usize = 500;

/// A secret as `secrets.lua` returns it: column, platform, account, form.
type SecretRow = (String, String, String, Vec<u8>);

#[tonic::async_trait]
impl Secrets for Redis {
    async fn stored_secrets(&self, from: Option<&str>) -> Result<SecretPage, Error> {
        let redis = &self.connection;
        let mut call = redis.call(&SECRETS);
        call.arg(from.unwrap_or("0")).arg(KEYS);
        let (next, rows): (String, Vec<SecretRow>) = redis.run(&call).await?;
        let secrets = rows.into_iter().filter_map(parse_row).collect();
        Ok(SecretPage { secrets, next: (next != "0").then_some(next) })
    }

    async fn replace_form(&self, secret: &StoredSecret, form: &[u8]) -> Result<bool, Error> {
        let StoredSecret { column, platform, app_id, form: before } = secret;
        let redis = &self.connection;
        let mut call = redis.call(&REPLACE_FORM);
        call.arg(name(*column)).arg(platform.as_str()).arg(app_id.as_str());
        call.arg(&before[..]).arg(form);
        redis.run(&call).await
    }

    /// Does nothing: the append-only file has the replaced rows until Redis rewrites it.
    async fn scrub(&self) -> Result<(), Error> {
        Ok(())
    }
}

const COLUMNS: [SecretColumn; 4] =
    [SecretColumn::Token, SecretColumn::Ticket, SecretColumn::RefreshToken, SecretColumn::Record];

/// Returns the name of a column in the scripts.
fn name(column: SecretColumn) -> &'static str {
    match column {
        SecretColumn::Token => "token",
        SecretColumn::Ticket => "ticket",
        SecretColumn::RefreshToken => "refresh_token",
        SecretColumn::Record => "record",
    }
}

fn parse_row((column, platform, app_id, form): SecretRow) -> Option<StoredSecret> {
    let column = COLUMNS.into_iter().find(|known| name(*known) == column)?;
    Some(StoredSecret { column, platform: platform.into(), app_id: app_id.into(), form })
}
