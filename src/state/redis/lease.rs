//! Leases: a hash each, which stays, because its fence must never come again.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ::redis::Script;

use super::{
    connection::{Call, Connection, lua, millis},
    notes::NotedLease,
};
use crate::state::{Acquired, Error};

static LEASE: LazyLock<Script> = lua!("lease.lua");

pub(super) async fn acquire(
    redis: &Connection,
    name: &str,
    term: Duration,
) -> Result<Acquired, Error> {
    let call = call(redis, "acquire", name, term, None);
    let answer = redis.run_noting(&call, |notes, answer: &(u64, u64)| {
        if let (fence @ 1.., _) = *answer {
            notes.leased(name, fence, true, term);
        }
    });
    match answer.await? {
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
    change(redis, "renew", name, fence, term).await
}

pub(super) async fn free(
    redis: &Connection,
    name: &str,
    fence: u64,
    rest: Duration,
) -> Result<(), Error> {
    change(redis, "free", name, fence, rest).await?;
    Ok(())
}

/// Notes a lease anew that Redis has lost.
pub(super) fn note(redis: &Connection, name: &str, lease: &NotedLease) -> Call {
    let NotedLease { fence, held, until } = *lease;
    let left = until.saturating_duration_since(Instant::now());
    let mut call = call(redis, "note", name, left, Some(fence));
    call.arg(u8::from(held));
    call
}

/// Prolongs a lease or gives it back; false if it was lost.
async fn change(
    redis: &Connection,
    verb: &'static str,
    name: &str,
    fence: u64,
    span: Duration,
) -> Result<bool, Error> {
    let call = call(redis, verb, name, span, Some(fence));
    let answer = redis.run_noting(&call, |notes, answer: &(u64, u64)| {
        if answer.0 == fence {
            notes.leased(name, fence, verb == "renew", span);
        }
    });
    Ok(answer.await?.0 == fence)
}

/// A call that is answered with the fence, or 0 and how long the lease is not to be had.
fn call(redis: &Connection, verb: &str, name: &str, span: Duration, fence: Option<u64>) -> Call {
    let mut call = redis.call(&LEASE);
    call.arg(verb).arg(name).arg(millis(span)).arg(fence);
    call
}
