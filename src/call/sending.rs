//! The steps before an attempt to send a write.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Error,
    write_queue::{QueueLease, QueueTurn},
};
use crate::{
    journal::{Claim, WriteRecord},
    wechat::Endpoint,
};

/// A caller that lost its turn in a write queue gets another one within this time.
const TURN_LOST: Duration = Duration::from_secs(1);

/// A write on its way to WeChat: its claim in the journal, and its turn in a write queue.
#[derive(Debug)]
pub(crate) struct Sending {
    /// Canceled when the caller has left.
    pub(crate) left: CancellationToken,
    claim: Option<Claim>,
    lease: Option<Arc<QueueLease>>,
}

impl Sending {
    /// A write with a claim, or one that the journal need not know because it can be repeated.
    pub(crate) fn new(left: CancellationToken, claim: Option<Claim>) -> Self {
        Self { left, claim, lease: None }
    }

    /// Sets what the journal records before the first attempt, unless it is recorded already. `record`
    /// gets the id of the write.
    pub(crate) fn set_record(&mut self, record: impl FnOnce(&str) -> WriteRecord) {
        if let Some(claim) = &mut self.claim {
            claim.set_record(record);
        }
    }

    /// Sends only while this turn in a write queue lasts.
    pub(crate) fn within(&mut self, turn: &QueueTurn) {
        self.lease = Some(turn.lease());
    }

    /// Returns the id of the write. Empty if the journal does not know it.
    pub(crate) fn write_id(&self) -> &str {
        self.claim.as_ref().map_or("", Claim::write_id)
    }

    /// Returns the claim, which must be finished.
    pub(crate) fn into_claim(self) -> Option<Claim> {
        self.claim
    }

    /// Records that the call is about to be sent. Fails if it must not be sent.
    pub(super) async fn before_attempt<E: Endpoint>(&mut self) -> Result<(), Error> {
        if let Some(lease) = &self.lease
            && !lease.extend_for_call(E::REPLY_LIMIT).await?
        {
            // This process was frozen, and another one may have its turn.
            return Err(Error::QueueBusy { path: E::PATH, wait: TURN_LOST });
        }
        let Some(claim) = &mut self.claim else { return Ok(()) };
        match claim.note_sent(E::REPLY_LIMIT).await? {
            true => Ok(()),
            // Recording it took too long, so another caller may have begun the write meanwhile.
            false => Err(Error::Deadline),
        }
    }
}
