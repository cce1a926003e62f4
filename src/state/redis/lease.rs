//! Leases: a hash each, which stays, because its fence must never come again.

use std::{sync::LazyLock, time::Duration};

use ::redis::Script;

use super::connection::{Connection, lua, millis};
use crate::state::{Acquired, Error};

static LEASE: LazyLock<Script> = lua!("lease.lua");

pub(super) async fn acquire(
    redis: &Connection,
    name: &str,
    term: Duration,
) -> Result<Acquired, Error> {
    match run(redis, "acquire", name, term, None).await? {
        (0, left) => Ok(Acquired::Taken(Duration::from_millis(left))),
        (fence, _) => Ok(Acquired::Lease(fence)),
    }
}

pub(super) async fn renew(
    redis: &Connection,
    name: &str,
    fence: u64,
    term: Duration,
) -> Result<bool, Error> {
    let (held, _) = run(redis, "renew", name, term, Some(fence)).await?;
    Ok(held == fence)
}

pub(super) async fn free(
    redis: &Connection,
    name: &str,
    fence: u64,
    rest: Duration,
) -> Result<(), Error> {
    run(redis, "free", name, rest, Some(fence)).await?;
    Ok(())
}

/// Answers with the fence, or 0 and how long the lease is not to be had.
async fn run(
    redis: &Connection,
    verb: &str,
    name: &str,
    span: Duration,
    fence: Option<u64>,
) -> Result<(u64, u64), Error> {
    let call = &mut redis.call(&LEASE);
    redis.run(call.arg(verb).arg(name).arg(millis(span)).arg(fence)).await
}
