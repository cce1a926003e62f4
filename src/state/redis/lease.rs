//! Leases: a hash each. It is never deleted, because its fence must never be used again.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ::redis::Script;

use super::{
    Redis,
    backup::LeaseBackup,
    connection::{Call, Connection, lua, millis},
};
use crate::state::{Acquired, Error, Leases};

static LEASE: LazyLock<Script> = lua!("lease.lua");

#[tonic::async_trait]
impl Leases for Redis {
    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        let redis = &self.connection;
        let call = call(redis, "acquire", name, term, None);
        let answer = redis.run_recording(&call, |backup, answer: &(u64, u64)| {
            if let (fence @ 1.., _) = *answer {
                backup.leased(name, fence, true, term);
            }
        });
        match answer.await? {
            (0, left) => Ok(Acquired::Taken(Duration::from_millis(left))),
            (fence, _) => Ok(Acquired::Lease(fence)),
        }
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        let redis = &self.connection;
        change(redis, "renew", name, fence, term).await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        let redis = &self.connection;
        change(redis, "free", name, fence, rest).await?;
        Ok(())
    }
}

/// Returns the call that restores a lease after Redis lost it.
pub(super) fn restore(redis: &Connection, name: &str, lease: &LeaseBackup) -> Call {
    let LeaseBackup { fence, held, until } = *lease;
    let left = until.saturating_duration_since(Instant::now());
    let mut call = call(redis, "restore", name, left, Some(fence));
    call.arg(u8::from(held));
    call
}

/// Renews or releases a lease. Returns false if it was lost.
async fn change(
    redis: &Connection,
    action: &'static str,
    name: &str,
    fence: u64,
    span: Duration,
) -> Result<bool, Error> {
    let call = call(redis, action, name, span, Some(fence));
    let answer = redis.run_recording(&call, |backup, answer: &(u64, u64)| {
        if answer.0 == fence {
            backup.leased(name, fence, action == "renew", span);
        }
    });
    Ok(answer.await?.0 == fence)
}

/// Returns a call that answers with the fence, or with 0 and the time until the lease is available.
fn call(redis: &Connection, action: &str, name: &str, span: Duration, fence: Option<u64>) -> Call {
    let mut call = redis.call(&LEASE);
    call.arg(action).arg(name).arg(millis(span)).arg(fence);
    call
}
