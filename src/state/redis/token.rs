//! Tokens, a hash each, and counters for rate limits.

use std::{sync::LazyLock, time::Duration};

use ::redis::Script;

use super::{
    Redis,
    connection::{lua, millis},
};
use crate::{
    state::{Error, SharedToken, Tokens},
    util::id::{AppId, Secret},
};

static TOKEN: LazyLock<Script> = lua!("token.lua");
static DROP: LazyLock<Script> = lua!("drop_token.lua");
static SPEND: LazyLock<Script> = lua!("spend.lua");
static REFUND: LazyLock<Script> = lua!("refund.lua");

/// A token as `token.lua` returns it: value, generation, life, age.
type TokenRow = (String, u64, u64, u64);

#[tonic::async_trait]
impl Tokens for Redis {
    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        let redis = &self.connection;
        let found: Option<TokenRow> = redis.run(redis.call(&TOKEN).arg(app_id.as_str())).await?;
        Ok(found.map(parse_row))
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        let redis = &self.connection;
        let call = &mut redis.call(&TOKEN);
        call.arg(app_id.as_str()).arg(before).arg(value.expose()).arg(millis(life));
        redis.run(call).await.map(parse_row)
    }

    async fn drop_token(&self, app_id: &AppId) -> Result<(), Error> {
        let redis = &self.connection;
        redis.run(redis.call(&DROP).arg(app_id.as_str())).await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        let redis = &self.connection;
        // Redis has no expiry of 0 ms.
        let window = millis(window).max(1);
        redis.run(redis.call(&SPEND).arg(counter).arg(limit).arg(window)).await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        let redis = &self.connection;
        redis.run(redis.call(&REFUND).arg(counter)).await
    }
}

fn parse_row((value, generation, life, age): TokenRow) -> SharedToken {
    SharedToken {
        value: value.into(),
        generation,
        life: Duration::from_millis(life),
        age: Duration::from_millis(age),
    }
}
