//! What outlives a process, or is agreed between replicas: the log of events, submissions, leases,
//! tokens.
//!
//! A [`State`] is a set of verbs of this domain. Each is atomic and durable when it returns, but for
//! those that say otherwise; none hands out a transaction, and there is no key-value access, so that
//! both backends can do all of them well: [`sqlite`], a file beside one process, and [`redis`],
//! shared by several. Time is the backend's own, for replicas' clocks differ.
//!
//! Messages are kept as the contract's own types, encoded: the contract only grows, so what one
//! version wrote every later one reads. What verbs look at stands beside them.
//!
//! A verb whose future is dropped may still take effect.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    config,
    pb::{AuditState, SubmissionKind},
    util::clock::Clock,
    util::id::{AppId, AuditId, MapPoiId, PoiId, Secret},
};

pub(crate) mod gap;
#[cfg(feature = "redis")]
pub mod redis;
pub mod sqlite;

/// Opens what the settings name, and brings an older schema up to date.
///
/// Fails where it cannot be opened, belongs to another process, or was written by a newer version.
pub async fn open(settings: &config::State, clock: Clock) -> Result<Arc<dyn State>, Error> {
    Ok(match &settings.url {
        #[cfg(feature = "redis")]
        config::StateUrl::Redis(url) => Arc::new(redis::Redis::open(url).await?),
        #[cfg(not(feature = "redis"))]
        config::StateUrl::Redis(_) => {
            return Err(Error::Unusable("this build has no Redis support".to_owned()));
        }
        config::StateUrl::Sqlite(path) => Arc::new(sqlite::Sqlite::open(path, clock)?),
    })
}

/// How long a write is kept after it finished, and a claim after its term.
const WRITES_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A page of rows ends before they have more bytes than this, unless its first row alone has more. gRPC's
/// clients take answers of up to 4 MiB, and a page as it is answered has little more than its rows.
pub(crate) const PAGE_BYTES: usize = 3 << 20;
/// What a row counts for beside its texts, in bytes.
const ROW_BYTES: usize = 64;

/// What both backends can do.
#[tonic::async_trait]
pub trait State: fmt::Debug + Send + Sync {
    // === The log of events ===

    /// Adds an event to the log, or finds that it is there already, by its key. In the same step
    /// links it to its submission, settles that, and says which of two results of one review counts.
    ///
    /// The submission is the one with the event's audit id, of the same account and kind. Otherwise
    /// it is the newest one without an audit id, which then has this one: for a merchant, whose
    /// submissions have none at first, any; for a store, the one with the event's store, for only
    /// one whose reply was lost has none. Of two results the later pushed one counts, by `event_time`, or by arrival
    /// where they are equal; what was pushed counts more than what was asked for, whenever it was.
    async fn append(&self, event: NewEvent) -> Result<Appended, Error>;

    /// The events after a position that fit, in order. Where one cannot be read there is an
    /// [`EventGap`](crate::pb::EventGap) in its place.
    ///
    /// Looks at a bounded number of events at most and answers a bounded number of bytes, so a page may
    /// have fewer than `limit`, even none; [`EventPage::seen`] says how far it looked, and is the log's
    /// end only if it reached it.
    async fn events(&self, query: EventQuery) -> Result<EventPage, Error>;

    /// Ends when the log may have events after `position`; also sometimes for nothing, and after 30
    /// seconds at the latest. Answers what follows, if that is at hand.
    async fn newer(&self, position: u64) -> Result<Option<Stretch>, Error>;

    /// What the log is and where it ends.
    async fn log(&self) -> Result<Log, Error>;

    /// Forgets events that were received, and submissions that were settled, more than `age` ago; a
    /// bounded number of them. The newest event always stays. Forgets finished writes, and claims
    /// whose term is over, after a day, and never a write whose outcome is not known. Says how many
    /// are gone.
    async fn prune(&self, age: Duration) -> Result<u64, Error>;

    // === Submissions ===

    /// Remembers a submission. If the event about its review came first, the two are linked now.
    /// Again with the same id: does nothing.
    async fn remember(&self, submission: NewSubmission) -> Result<(), Error>;

    /// A submission by its id.
    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error>;

    /// The newest submission of pictures for a store.
    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error>;

    /// The submissions after a number that fit, in order; bounded as [`State::events`].
    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error>;

    /// Takes open submissions whose time to be asked about has come, and puts that time off by
    /// `again`: no two takers get the same one, and one that is lost comes again.
    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error>;

    // === The journal of writes ===

    /// Claims a write for `term`, or says what is known of it. A write is recognised by its account,
    /// method and request id; one without a request id is always new. With the same write id it is
    /// asked for again, after an error, and the claim is the same. A claim whose term is over is
    /// given to whoever asks next, with a higher fence: nothing was sent under it.
    ///
    /// A new one is noted as sent in the same step, as by [`State::sent`], where `write` says so.
    ///
    /// Where it returns it has happened for all, but a claim is durable only when a later verb is,
    /// such as [`State::sent`]. The loss of a machine may undo it till then: nothing was sent under
    /// it.
    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error>;

    /// Notes that a claimed write is about to be sent, again if it certainly was not the last time;
    /// that its outcome is known after `by` at the latest; and what is looked for if it is not.
    /// False if the claim was lost: then it must not be sent.
    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        sought: Bytes,
    ) -> Result<bool, Error>;

    /// Notes how a write ended. Does nothing if somebody else has claimed it since, or it finished;
    /// an outcome that is known goes before one that is not, however late it comes. What it submitted
    /// is remembered in the same step, in any case.
    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error>;

    /// A write by its id.
    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error>;

    /// The writes after a number that fit, in order; bounded as [`State::events`].
    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error>;

    /// Settles a write whose outcome is not known, as [`State::ended`] would. Answers what it was; if
    /// it was not unknown nothing is done, nor remembered.
    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error>;

    // === Leases ===
    //
    // They are durable when a later verb is, as claims are: a call that the journal knows of as sent
    // had its lease. Where only the end of one is lost, it is free when its term is over.

    /// Takes a lease for `term`, if nobody has it and its rest is over. Its fence is higher than
    /// that of every lease on this name before it.
    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error>;

    /// Prolongs a lease to `term` from now; false if it was lost.
    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error>;

    /// Gives a lease back; nobody gets it before `rest` is over. Does nothing if it was lost.
    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error>;

    // === Tokens ===

    /// The token of an account, while it lives.
    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error>;

    /// Stores a token, if the one before is of generation `before` (0: there is none, or its life
    /// is over) and answers what is stored now: this one, or the newer one that came first. The
    /// generation grows by one if the value is another, and never starts again.
    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error>;

    /// Counts something that may be done `limit` times within `window`, which begins with the first;
    /// false if it was done so often already.
    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error>;

    /// Takes back what turned out to cost nothing.
    async fn refund(&self, counter: &str) -> Result<(), Error>;

    // === The state itself ===

    /// Writes something durably, to see whether that works.
    async fn probe(&self) -> Result<(), Error>;
}

/// Why a verb did not happen. Where the future of a verb ended with an error it may have happened
/// nevertheless, as with any connection that breaks; all verbs can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What is stored is not what this version writes.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// No space is left.
    #[error("the disk is full")]
    Full,
    /// It is no longer what was acknowledged, or the next start would not find it.
    #[error("the state cannot be relied on: {0}")]
    Lost(String),
    /// One row of it is damaged. The others can be read.
    #[error("a row of the state cannot be read: {0}")]
    Unreadable(String),
    /// Somebody else holds it.
    #[error("the state is locked by another process")]
    Locked,
    /// It was written by a newer version.
    #[error("the state has schema {found}, this version knows {known}")]
    Newer {
        /// Of the file.
        found: i64,
        /// Of this version.
        known: i64,
    },
    /// It cannot be reached or used now.
    #[error("the state cannot be used: {0}")]
    Unusable(String),
}

/// Names an event: a time that it says, in five bytes, and a hash of all that it says. Keys of about
/// the same time stand together in an index, so that to add one costs the same however many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKey(pub [u8; 32]);

impl EventKey {
    /// The key of an event that these parts say all about, the time in seconds since 1970 included.
    pub(crate) fn of<'a>(time: u64, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let mut key: [u8; 32] = hash.finalize().into();
        key[..5].copy_from_slice(&time.to_be_bytes()[3..]);
        Self(key)
    }

    /// The `event_id` that an event of this key has: a UUID of version 8 (RFC 9562).
    pub(crate) fn event_id(&self) -> String {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[..16]);
        Uuid::new_v8(bytes).to_string()
    }

    /// Its last bytes: enough to notice that two are not the same.
    pub(crate) fn tag(&self) -> u64 {
        self.0[24..].iter().fold(0, |tag, byte| tag << 8 | u64::from(*byte))
    }
}

/// How an event became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// WeChat pushed it.
    Pushed,
    /// WeChat was asked about this submission. Such an event is not appended to a submission that
    /// is settled.
    Reconciled {
        /// Its id.
        submission_id: String,
    },
}

/// An event for the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Two with the same key are the same.
    pub key: EventKey,
    /// Names it for readers.
    pub event_id: String,
    /// The account.
    pub app_id: AppId,
    /// What was reviewed; unspecified for what is no review.
    pub kind: SubmissionKind,
    /// The review; may be empty.
    pub audit_id: AuditId,
    /// How it ended.
    pub state: AuditState,
    /// Why.
    pub reason: String,
    /// The store or nearby place that came of it; may be empty.
    pub poi_id: PoiId,
    /// The map place that came of it; may be empty.
    pub map_poi_id: MapPoiId,
    /// When it happened, in seconds since 1970.
    pub event_time: u64,
    /// How it became known.
    pub origin: Origin,
    /// A [`pb::AuditEvent`](crate::pb::AuditEvent), encoded, without what the log finds out.
    pub message: Bytes,
}

/// What became of an event for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is new and stands at this position.
    New(u64),
    /// It was there already, at this position.
    Known(u64),
    /// The submission that was asked about is settled, or gone; nothing was appended.
    Settled,
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log. The first has 1, and each place has one.
    pub position: u64,
    /// Its key.
    pub key: EventKey,
    /// When it was appended, in milliseconds since 1970.
    pub received: u64,
    /// What was appended.
    pub message: Bytes,
    /// The `event_id` of the event that it replaces; may be empty.
    pub amends: String,
    /// The `event_id` of the event that counts instead; may be empty.
    pub superseded_by: String,
    /// What was remembered of its submission, as in [`NewSubmission::message`].
    pub submission: Option<Bytes>,
}

impl EventQuery {
    /// How many bytes a page has at most, but for its first event.
    fn most_bytes(&self) -> usize {
        self.bytes.map_or(PAGE_BYTES, |bytes| bytes.min(PAGE_BYTES))
    }
}

impl Event {
    /// What it counts for in a page.
    fn size(&self) -> usize {
        let Self { message, amends, superseded_by, submission, .. } = self;
        let submission = submission.as_ref().map_or(0, Bytes::len);
        ROW_BYTES + message.len() + amends.len() + superseded_by.len() + submission
    }

    /// Its place.
    pub fn mark(&self) -> Mark {
        Mark { position: self.position, key: self.key }
    }
}

/// Events that follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The event before the first.
    pub after: Mark,
    /// At least one.
    pub events: Vec<Event>,
}

/// Which events are wanted. What is empty or `None` leaves nothing out.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only those after this position.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
    /// At most so many bytes, but one event if there is one. Never more than the state itself allows.
    pub bytes: Option<usize>,
    /// Only of this account.
    pub app_id: Option<AppId>,
    /// Only of these kinds.
    pub kinds: Vec<SubmissionKind>,
    /// Only about this submission.
    pub submission_id: Option<String>,
    /// Only those received then or later, in milliseconds since 1970.
    pub from: Option<u64>,
    /// Only those received before then, in milliseconds since 1970.
    pub until: Option<u64>,
}

/// Some events.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// Those that fit.
    pub events: Vec<Event>,
    /// Nothing up to this position that fits is missing. At least the query's `after`.
    pub seen: u64,
    /// Whether there is nothing after `seen`, for now.
    pub at_end: bool,
    /// The event at the query's `after`; `None` if none is kept there.
    pub before: Option<Mark>,
    /// The log that they are in, at the same moment.
    pub log: Log,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Names this log; another one, begun anew, has another name.
    pub epoch: u64,
    /// The last event that is no longer kept, or position 0.
    pub pruned: Mark,
    /// The newest event, or position 0.
    pub newest: Mark,
}

/// A place in the log, and which event stands there: should the log lose its end, the same position
/// is given out again to another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The place.
    pub position: u64,
    /// The key of its event; zeros at position 0.
    pub key: EventKey,
}

/// A submission to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubmission {
    /// Its id.
    pub submission_id: String,
    /// The account.
    pub app_id: AppId,
    /// What was submitted.
    pub kind: SubmissionKind,
    /// The review; may be empty.
    pub audit_id: AuditId,
    /// The store or nearby place, where it is known; may be empty.
    pub poi_id: PoiId,
    /// The caller's own number for the shop; may be empty.
    pub client_reference: String,
    /// Where it begins.
    pub state: AuditState,
    /// When WeChat is to be asked about it; `None` where it cannot be.
    pub ask_after: Option<Duration>,
    /// A [`pb::Submission`](crate::pb::Submission), encoded, as it was at first.
    pub message: Bytes,
}

/// A submission as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Counts submissions; the first has 1.
    pub number: u64,
    /// What was remembered, as in [`NewSubmission::message`].
    pub message: Bytes,
    /// When it was remembered, in milliseconds since 1970.
    pub created: u64,
    /// The review; may be empty.
    pub audit_id: AuditId,
    /// Where it stands.
    pub state: AuditState,
    /// Why, if it failed.
    pub reason: String,
    /// The store or nearby place; may be empty.
    pub poi_id: PoiId,
    /// The map place that came of it; may be empty.
    pub map_poi_id: MapPoiId,
    /// The event that settled it; empty while it is open.
    pub event_id: String,
    /// When it was settled, in milliseconds since 1970; 0 while it is open.
    pub settled: u64,
}

impl Submission {
    /// What it counts for in a page.
    fn size(&self) -> usize {
        let Self { message, audit_id, reason, poi_id, map_poi_id, event_id, .. } = self;
        let ids = [audit_id.as_str(), poi_id.as_str(), map_poi_id.as_str(), event_id];
        ROW_BYTES + message.len() + reason.len() + ids.iter().map(|id| id.len()).sum::<usize>()
    }
}

/// Which submissions are wanted. What is empty or `None` leaves nothing out.
#[derive(Clone, Debug, Default)]
pub struct SubmissionQuery {
    /// Only those after this number.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
    /// Only of this account.
    pub app_id: Option<AppId>,
    /// Only of these kinds.
    pub kinds: Vec<SubmissionKind>,
    /// Only in these states.
    pub states: Vec<AuditState>,
    /// Only those remembered before then, in milliseconds since 1970.
    pub until: Option<u64>,
    /// Only with this number of the caller's.
    pub client_reference: Option<String>,
}

/// Some submissions.
#[derive(Clone, Debug, Default)]
pub struct SubmissionPage {
    /// Those that fit.
    pub submissions: Vec<Submission>,
    /// How many were left out because they cannot be read, and fit or might.
    pub unreadable: u64,
    /// Nothing up to this number that fits is missing.
    pub seen: u64,
    /// Whether there is nothing after `seen`, for now.
    pub at_end: bool,
}

/// A write to be claimed.
#[derive(Clone, Debug)]
pub struct NewWrite {
    /// Names it.
    pub write_id: String,
    /// The account.
    pub app_id: AppId,
    /// The RPC, as in `StoreService/AddStore`.
    pub method: String,
    /// The caller's name for it; `None` leaves only a record.
    pub request_id: Option<String>,
    /// A hash of the request: another request under the same name is another write.
    pub fingerprint: [u8; 32],
    /// The caller's own number for the shop; may be empty.
    pub client_reference: String,
    /// For one that is sent at once.
    pub sent: Option<Sent>,
}

/// That a write is about to be sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its outcome is known after so long at the latest.
    pub by: Duration,
    /// What is looked for if it is not.
    pub sought: Bytes,
}

/// What is known of a write that somebody wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Begun {
    /// Nothing was sent. It is claimed under this fence, and this is its id: the one of the claim
    /// before, if there was one.
    Claimed {
        /// Its id.
        write_id: String,
        /// Of the claim.
        fence: u64,
        /// Whether it is noted as sent.
        sent: bool,
    },
    /// Another request has this name.
    Other,
    /// It is known already.
    Known(Write),
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed.
    Finished {
        /// The response, encoded.
        reply: Bytes,
        /// What WeChat took for review, for [`State::remember`].
        submission: Option<Box<NewSubmission>>,
    },
    /// It was certainly not executed: it is forgotten, so that a repeat is.
    Released,
    /// Nobody knows.
    Unknown,
}

/// Where a write stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// Nothing was sent yet.
    Claimed,
    /// It was executed.
    Finished,
    /// It was sent, and an answer may still come.
    Sent,
    /// It was sent, and nobody knows whether it was executed.
    Unknown,
}

impl WriteState {
    /// What it is called where it is stored.
    const fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Finished => "finished",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
        }
    }

    /// The state of that name.
    fn named(name: &str) -> Option<Self> {
        let states = [Self::Claimed, Self::Finished, Self::Sent, Self::Unknown];
        states.into_iter().find(|state| state.name() == name)
    }
}

/// A write of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Counts writes; the first has 1.
    pub number: u64,
    /// Names it.
    pub write_id: String,
    /// The account.
    pub app_id: AppId,
    /// The RPC.
    pub method: String,
    /// The caller's name for it; empty if it has none.
    pub request_id: String,
    /// The caller's own number for the shop; may be empty.
    pub client_reference: String,
    /// Where it stands now: one that was sent is unknown as soon as its time is over.
    pub state: WriteState,
    /// How often it was sent.
    pub attempts: u32,
    /// The response, if it finished; empty if that was found out otherwise.
    pub reply: Option<Bytes>,
    /// When it was claimed first, in milliseconds since 1970.
    pub created: u64,
    /// When it was sent last, in milliseconds since 1970; 0 if it was not.
    pub sent: u64,
    /// When it finished, in milliseconds since 1970; 0 while it has not.
    pub ended: u64,
    /// What is looked for if its outcome is not known, as it was sent last; empty if nothing is.
    pub sought: Bytes,
    /// How long whoever claimed or sent it still has it, unless it ends before; of one that is
    /// unknown, how long it may still arrive.
    pub rest: Duration,
}

impl Write {
    /// What it counts for in a page.
    fn size(&self) -> usize {
        let Self { write_id, app_id, method, request_id, client_reference, sought, reply, .. } =
            self;
        let reply = reply.as_ref().map_or(0, Bytes::len);
        let names = [write_id, app_id.as_str(), request_id, client_reference];
        let names = names.iter().map(|name| name.len()).sum::<usize>();
        // A response is named after its method, too.
        2 * (ROW_BYTES + method.len()) + names + sought.len() + reply
    }
}

/// Which writes are wanted. What is empty or `None` leaves nothing out.
#[derive(Clone, Debug, Default)]
pub struct WriteQuery {
    /// Only those after this number.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
    /// Only of this account.
    pub app_id: Option<AppId>,
    /// Only in these states.
    pub states: Vec<WriteState>,
    /// Only with this name of the caller's.
    pub request_id: Option<String>,
    /// Only claimed before then, in milliseconds since 1970.
    pub until: Option<u64>,
}

/// Some writes.
#[derive(Clone, Debug, Default)]
pub struct WritePage {
    /// Those that fit.
    pub writes: Vec<Write>,
    /// How many were left out because they cannot be read, and fit or might.
    pub unreadable: u64,
    /// Nothing up to this number that fits is missing.
    pub seen: u64,
    /// Whether there is nothing after `seen`, for now.
    pub at_end: bool,
}

/// What became of the wish for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is ours, with this fence.
    Lease(u64),
    /// Somebody has it, or it rests, for so long unless it is given back earlier.
    Taken(Duration),
}

/// A token that replicas share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedToken {
    /// The token itself.
    pub value: Secret,
    /// Counts changes of value.
    pub generation: u64,
    /// How long it still lives.
    pub life: Duration,
    /// How long ago its value was first stored.
    pub age: Duration,
}

/// Whether a result in this state ends a review.
pub(crate) const fn is_decided(state: AuditState) -> bool {
    !is_open(state) && !matches!(state, AuditState::Unspecified)
}

/// Whether a review is still going on.
pub(crate) const fn is_open(state: AuditState) -> bool {
    matches!(state, AuditState::AwaitingAdmin | AuditState::InReview)
}

/// A state for a unit test, and the folder that it lives in.
#[cfg(test)]
pub(crate) fn temporary(clock: &Clock) -> (tempfile::TempDir, Arc<dyn State>) {
    let folder = tempfile::tempdir().expect("a folder");
    let state = sqlite::Sqlite::open(&folder.path().join("state.db"), clock.clone());
    (folder, Arc::new(state.expect("a state")))
}
