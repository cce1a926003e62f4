//! The journal of writes.

use std::time::Duration;

use bytes::Bytes;

use super::{Error, NewSubmission, ROW_BYTES};
use crate::util::{id::AppId, scope::Scope};

/// The time for which a finished write is kept, and a claim after its term.
pub(super) const WRITES_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The journal of writes.
#[tonic::async_trait]
pub trait Writes {
    /// Claims a write for `term`, or returns the known write. Caller, account, method and request id
    /// identify a write. A write without a request id is always new. A repeat with the same write id,
    /// after an error, gets the same claim. If the term of a claim is over, nothing was sent under it, and
    /// the next caller gets the claim with a higher fence.
    ///
    /// The same request of a caller without a name is the same write, too, because an operator can name
    /// the callers, or stop to, between a request and its repeat.
    ///
    /// If [`NewWrite::sent`] is set, the same step marks a new write as sent, as [`Writes::sent`] does.
    ///
    /// When this returns, all callers see the claim. It becomes durable together with the next durable
    /// step, such as [`Writes::sent`]. If the machine fails before that, the claim may be lost, and
    /// nothing was sent under it.
    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error>;

    /// Marks a claimed write as about to be sent, again if the last attempt certainly was not sent. Its
    /// outcome is known within `by`, or else recovery uses `record`. Returns false if the claim was lost.
    /// Then the write must not be sent.
    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        record: Bytes,
    ) -> Result<bool, Error>;

    /// Records the outcome of a write. Does nothing if another caller has claimed it since, or if it is
    /// finished. A known outcome replaces an unknown one, however late it comes. In any case the same
    /// step records the submission of the outcome.
    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error>;

    /// Returns a write by its id.
    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error>;

    /// Returns the writes after a number that match, in order. The limits of
    /// [`Events::events`](super::Events::events) apply.
    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error>;

    /// Records the outcome of a write whose outcome is unknown, as [`Writes::ended`] would. Returns the
    /// write as it was. If its outcome was not unknown, does nothing and returns `None`.
    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error>;
}

/// A write to claim.
#[derive(Clone, Debug)]
pub struct NewWrite {
    /// The id.
    pub write_id: String,
    /// The name of the caller. Empty if the settings name no callers.
    pub caller: String,
    /// The account.
    pub app_id: AppId,
    /// The RPC, as in `StoreService/AddStore`.
    pub method: String,
    /// The caller's name for the write. Without one the journal only keeps a record.
    pub request_id: Option<String>,
    /// A hash of the request. Another request under the same name is another write.
    pub fingerprint: [u8; 32],
    /// The caller's own number for the shop. May be empty.
    pub client_reference: String,
    /// Set if the write is sent at once.
    pub sent: Option<Sent>,
}

/// The facts about a write that is about to be sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The time within which the outcome is known.
    pub by: Duration,
    /// The encoded record of the journal. It has the expected effect, for recovery.
    pub record: Bytes,
}

/// The result of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Begun {
    /// Nothing was sent. The caller has the claim.
    Claimed {
        /// The id of the write: that of the claim before, if there was one.
        write_id: String,
        /// The fence of the claim.
        fence: u64,
        /// Whether the write is marked as sent.
        sent: bool,
    },
    /// Another request has this name.
    Other,
    /// The write is known already.
    Known(Write),
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed.
    Finished {
        /// The encoded response.
        reply: Bytes,
        /// The submission, if WeChat accepted the data for review, as for
        /// [`Submissions::remember`](super::Submissions::remember).
        submission: Option<Box<NewSubmission>>,
    },
    /// It was certainly not executed. The journal forgets it, so that a repeat is executed.
    Released,
    /// It is not known whether it was executed.
    Unknown,
}

/// The stage of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// Nothing was sent yet.
    Claimed,
    /// It was executed.
    Finished,
    /// It was sent, and an answer can still come.
    Sent,
    /// It was sent, and it is not known whether it was executed.
    Unknown,
}

impl WriteState {
    /// Returns the name under which it is stored.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Finished => "finished",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the stage that is stored under a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let stages = [Self::Claimed, Self::Finished, Self::Sent, Self::Unknown];
        stages.into_iter().find(|stage| stage.name() == name)
    }
}

/// A write of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Counts writes. The first has 1.
    pub number: u64,
    /// The id.
    pub write_id: String,
    /// The name of the caller. Empty if the settings named no callers.
    pub caller: String,
    /// The account.
    pub app_id: AppId,
    /// The RPC.
    pub method: String,
    /// The caller's name for the write. Empty if it has none.
    pub request_id: String,
    /// The caller's own number for the shop. May be empty.
    pub client_reference: String,
    /// The present stage. A write that was sent becomes unknown when its time is over.
    pub state: WriteState,
    /// How often it was sent.
    pub attempts: u32,
    /// The response, if it finished. Empty if only the effect was found.
    pub reply: Option<Bytes>,
    /// When it was first claimed, in milliseconds since 1970.
    pub created: u64,
    /// When it was last sent, in milliseconds since 1970. 0 if it was not sent.
    pub sent: u64,
    /// When it finished, in milliseconds since 1970. 0 before that.
    pub ended: u64,
    /// The encoded record of the journal, from the last attempt. Empty if the write was not sent.
    pub record: Bytes,
    /// How much longer the caller that claimed or sent it has it, unless it ends before. For an unknown
    /// write: how much longer it can still arrive at WeChat.
    pub rest: Duration,
}

impl Write {
    /// Returns the bytes for which it counts in a page.
    pub(super) fn size(&self) -> usize {
        let Self { write_id, caller, app_id, method, request_id, .. } = self;
        let Self { client_reference, record, reply, .. } = self;
        let reply = reply.as_ref().map_or(0, Bytes::len);
        let names = [write_id, caller, app_id.as_str(), request_id, client_reference];
        let names = names.iter().map(|name| name.len()).sum::<usize>();
        // The method counts twice, because the response's type is named after it.
        2 * (ROW_BYTES + method.len()) + names + record.len() + reply
    }
}

/// Selects writes. An empty or absent condition matches every write.
#[derive(Clone, Debug, Default)]
pub struct WriteQuery {
    /// Only writes after this number.
    pub after: u64,
    /// The maximum number of writes.
    pub limit: usize,
    /// Only writes of these accounts.
    pub accounts: Scope,
    /// Only writes in these stages.
    pub states: Vec<WriteState>,
    /// Only writes with this name of the caller's.
    pub request_id: Option<String>,
    /// Only writes claimed before this time, in milliseconds since 1970.
    pub until: Option<u64>,
}

/// A page of writes.
#[derive(Clone, Debug, Default)]
pub struct WritePage {
    /// The writes that match.
    pub writes: Vec<Write>,
    /// The number of matching or possibly matching writes that cannot be read.
    pub unreadable: u64,
    /// No matching write up to this number is missing.
    pub seen: u64,
    /// Whether there is no write after `seen` at present.
    pub at_end: bool,
}
