//! Restores what this process knows after a loss: its sent writes, its leases, and the last tickets and
//! authorizers.

use std::{sync::LazyLock, time::Instant};

use ::redis::Script;

use super::{
    backup::{Backup, SentBackup, WriteBackup},
    connection::{Call, Connection, lua, millis},
    lease, platform, submission, write,
};
use crate::state::{Outcome, sum::stored_form};

static RESTORE: LazyLock<Script> = lua!("restore.lua");

/// Returns the calls that restore all of it.
pub(super) fn calls(redis: &Connection, backup: &Backup) -> Vec<Call> {
    let leases = backup.leases().map(|(name, backup)| lease::restore(redis, name, backup));
    let writes = backup.writes().filter_map(|backup| call(redis, backup));
    let tickets = backup.tickets();
    let tickets = tickets.map(|(platform, ticket)| platform::put_ticket(redis, platform, ticket));
    let authorizers = backup.authorizers().map(|backup| platform::restore(redis, backup));
    leases.chain(writes).chain(tickets).chain(authorizers).collect()
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
