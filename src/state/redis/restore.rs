//! Restores the unfinished work of this process after a loss: its sent writes and its leases.

use std::{sync::LazyLock, time::Instant};

use ::redis::Script;

use super::{
    backup::{LeaseBackup, SentBackup, WriteBackup},
    connection::{Call, Connection, lua, millis},
    lease, submission, write,
};
use crate::state::{Outcome, sum::stored_form};

static RESTORE: LazyLock<Script> = lua!("restore.lua");

/// Returns the calls that restore all of it.
pub(super) fn calls(
    redis: &Connection,
    writes: &[&WriteBackup],
    leases: &[(&String, &LeaseBackup)],
) -> Vec<Call> {
    let leases = leases.iter().map(|(name, backup)| lease::restore(redis, name, backup));
    leases.chain(writes.iter().filter_map(|backup| call(redis, backup))).collect()
}

fn call(redis: &Connection, backup: &WriteBackup) -> Option<Call> {
    let WriteBackup { write, fence, sent, outcome, void: _ } = backup;
    let SentBackup { at, until, attempts, record } = sent.as_ref()?;
    let (outcome, reply, submission) = match outcome {
        None => ("", &[][..], None),
        Some(Outcome::Finished { reply, submission }) => {
            ("finished", &reply[..], submission.as_ref())
        }
        Some(Outcome::Released) => return None,
        Some(Outcome::Unknown) => ("unknown", &[][..], None),
    };
    let mut own = redis.call(&RESTORE);
    write::describe(&mut own, write);
    own.arg("fence")
        .arg(fence)
        .arg("attempts")
        .arg(attempts)
        .arg("record")
        .arg(stored_form(record));
    own.arg("age").arg(millis(at.elapsed()));
    own.arg("rest").arg(millis(until.saturating_duration_since(Instant::now())));
    let mut call = redis.call(&RESTORE);
    call.arg(outcome).arg(stored_form(reply)).arg(own.count()).append(own);
    if let Some(submission) = submission {
        submission::describe(&mut call, (**submission).clone());
    }
    Some(call)
}
