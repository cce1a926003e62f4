//! What a process notes anew after a loss: the writes that it sent, and its leases.

use std::{sync::LazyLock, time::Instant};

use ::redis::Script;

use super::{
    connection::{Call, Connection, lua, millis},
    lease,
    notes::{NotedLease, NotedSent, NotedWrite},
    submission, write,
};
use crate::state::Outcome;

static RENOTE: LazyLock<Script> = lua!("renote.lua");

/// The calls that note all of it anew.
pub(super) fn calls(
    redis: &Connection,
    writes: &[&NotedWrite],
    leases: &[(&String, &NotedLease)],
) -> Vec<Call> {
    let leases = leases.iter().map(|(name, noted)| lease::note(redis, name, noted));
    leases.chain(writes.iter().filter_map(|noted| call(redis, noted))).collect()
}

fn call(redis: &Connection, noted: &NotedWrite) -> Option<Call> {
    let NotedWrite { write, fence, sent, outcome, void: _ } = noted;
    let NotedSent { at, until, attempts, sought } = sent.as_ref()?;
    let (outcome, reply, submission) = match outcome {
        None => ("", &[][..], None),
        Some(Outcome::Finished { reply, submission }) => {
            ("finished", &reply[..], submission.as_ref())
        }
        Some(Outcome::Released) => return None,
        Some(Outcome::Unknown) => ("unknown", &[][..], None),
    };
    let mut own = redis.call(&RENOTE);
    write::describe(&mut own, write);
    own.arg("fence").arg(fence).arg("attempts").arg(attempts).arg("sought").arg(&sought[..]);
    own.arg("age").arg(millis(at.elapsed()));
    own.arg("rest").arg(millis(until.saturating_duration_since(Instant::now())));
    let mut call = redis.call(&RENOTE);
    call.arg(outcome).arg(reply).arg(own.count()).append(own);
    if let Some(submission) = submission {
        submission::describe(&mut call, (**submission).clone());
    }
    Some(call)
}
