//! The log of events.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Error, PAGE_BYTES, ROW_BYTES};
use crate::{
    pb::{AuditEvent, AuditState, EventOrigin, SubmissionKind, audit_event::Detail},
    util::{
        id::{AppId, AuditId, MapPoiId, PoiId},
        scope::Scope,
    },
};

/// The log of events.
#[tonic::async_trait]
pub trait Events {
    /// Appends an event to the log, unless an event with its key is there already. The same step links
    /// the event to its submission, decides that submission, and determines which of two results of one
    /// review counts.
    ///
    /// The submission is the one with the event's audit id, of the same account and kind. If there is
    /// none, it is the newest submission without an audit id, which then gets this audit id. For a
    /// merchant that is any submission, because merchants have no audit id at first. For a store it
    /// must have the event's store, because only a submission whose response was lost has no audit id.
    ///
    /// Of two results, the one that WeChat pushed counts more than one that was polled, whenever it
    /// happened. Between two of the same origin the later `event_time` counts, and if these are equal,
    /// the later arrival.
    async fn append(&self, event: NewEvent) -> Result<Appended, Error>;

    /// Returns the events after a position that match, in order. An
    /// [`EventGap`](crate::pb::EventGap) replaces an event that cannot be read.
    ///
    /// One call examines a limited number of events and returns a limited number of bytes. So a page
    /// can have fewer events than `limit`, even none. [`EventPage::seen`] is the last position that
    /// was examined. It is the end of the log only if the call reached that.
    async fn events(&self, query: EventQuery) -> Result<EventPage, Error>;

    /// Waits until the log may have events after `position`, for up to 30 seconds. It can also return
    /// early without a new event. Returns the next events if they are in memory.
    async fn newer(&self, position: u64) -> Result<Option<Segment>, Error>;

    /// Returns the name of the log and its two ends.
    async fn log(&self) -> Result<Log, Error>;
}

/// Identifies an event: five bytes of the time that it states, and a hash of its whole content. Keys of
/// about the same time are neighbors in an index, so that adding one costs the same however many there
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKey(pub [u8; 32]);

impl EventKey {
    /// Returns the key of an event with this content. `time`, in seconds since 1970, must be part of it.
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

    /// Returns the `event_id` of the event: a UUID of version 8 (RFC 9562).
    pub(crate) fn event_id(&self) -> String {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[..16]);
        Uuid::new_v8(bytes).to_string()
    }

    /// Returns its last bytes, which are enough to detect that two keys differ.
    pub(crate) fn tag(&self) -> u64 {
        self.0[24..].iter().fold(0, |tag, byte| tag << 8 | u64::from(*byte))
    }
}

/// The way in which an event became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// WeChat pushed it.
    Pushed,
    /// The gateway polled WeChat about this submission. Such an event is not appended if the submission
    /// is decided already.
    Polled {
        /// The id of the submission.
        submission_id: String,
    },
}

/// An event for the log. [`NewEvent::from_event`] makes it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Two events with the same key are the same.
    pub key: EventKey,
    /// The id that readers get.
    pub event_id: String,
    /// The account.
    pub app_id: AppId,
    /// The kind of the review. Unspecified if the event is not a review.
    pub kind: SubmissionKind,
    /// The review. May be empty.
    pub audit_id: AuditId,
    /// The result.
    pub state: AuditState,
    /// The reason for the result.
    pub reason: String,
    /// The resulting store or nearby place. May be empty.
    pub poi_id: PoiId,
    /// The resulting map place. May be empty.
    pub map_poi_id: MapPoiId,
    /// When it happened, in seconds since 1970.
    pub event_time: u64,
    /// How it became known.
    pub origin: Origin,
    /// The encoded [`AuditEvent`], without the fields that the log adds.
    pub message: Bytes,
}

impl NewEvent {
    /// Makes an event for the log. All columns come from `event`, so that they cannot differ from the
    /// encoded message. `event_id` and `origin` of the message are set here.
    pub fn from_event(key: EventKey, event: AuditEvent, origin: Origin) -> Self {
        let event_id = key.event_id();
        let event = AuditEvent {
            event_id: event_id.clone(),
            origin: match origin {
                Origin::Pushed => EventOrigin::Pushed.into(),
                Origin::Polled { .. } => EventOrigin::Polled.into(),
            },
            ..event
        };
        let (kind, state, message) = (event.kind(), event.state(), event.encode_to_vec().into());
        let event_time = event.event_time.map_or(0, |time| time.seconds);
        let (poi_id, map_poi_id) = match event.detail {
            Some(Detail::MapPoi(place)) => (String::new(), place.map_poi_id),
            Some(Detail::NearbyPoi(place)) => (place.nearby_poi_id, String::new()),
            Some(Detail::Store(store)) => (store.poi_id, String::new()),
            Some(Detail::StorePictures(pictures)) => (pictures.poi_id, String::new()),
            Some(Detail::Merchant(_) | Detail::Gap(_)) | None => Default::default(),
        };
        Self {
            key,
            event_id,
            app_id: event.app_id.into(),
            kind,
            audit_id: event.audit_id.into(),
            state,
            reason: event.reason,
            poi_id: poi_id.into(),
            map_poi_id: map_poi_id.into(),
            event_time: u64::try_from(event_time).unwrap_or_default(),
            origin,
            message,
        }
    }
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The event is new and has this position.
    New(u64),
    /// An event with its key was there already, at this position.
    Known(u64),
    /// Nothing was appended, because the polled submission is decided already, or gone.
    Decided,
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The position in the log. The first event has 1, and there are no gaps.
    pub position: u64,
    /// The key.
    pub key: EventKey,
    /// When it was appended, in milliseconds since 1970.
    pub received: u64,
    /// The message that was appended.
    pub message: Bytes,
    /// The `event_id` of the event that it replaces. May be empty.
    pub supersedes: String,
    /// The `event_id` of the event that counts instead. May be empty.
    pub superseded_by: String,
    /// The record of its submission, as in
    /// [`NewSubmission::message`](super::NewSubmission::message).
    pub submission: Option<Bytes>,
}

impl Event {
    /// Returns the bytes for which it counts in a page.
    pub(super) fn size(&self) -> usize {
        let Self { message, supersedes, superseded_by, submission, .. } = self;
        let submission = submission.as_ref().map_or(0, Bytes::len);
        ROW_BYTES + message.len() + supersedes.len() + superseded_by.len() + submission
    }

    /// Returns its position.
    pub fn log_position(&self) -> LogPosition {
        LogPosition { position: self.position, key: self.key }
    }
}

/// Events that follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The event before the first.
    pub after: LogPosition,
    /// At least one event.
    pub events: Vec<Event>,
}

/// Selects events. An empty or absent condition matches every event.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only events after this position.
    pub after: u64,
    /// The maximum number of events.
    pub limit: usize,
    /// The maximum number of bytes. A first event that is longer is returned nevertheless. The state's
    /// own maximum applies too.
    pub bytes: Option<usize>,
    /// Only events of these accounts.
    pub accounts: Scope,
    /// Only events of these kinds.
    pub kinds: Vec<SubmissionKind>,
    /// Only events about this submission.
    pub submission_id: Option<String>,
    /// Only events received at or after this time, in milliseconds since 1970.
    pub from: Option<u64>,
    /// Only events received before this time, in milliseconds since 1970.
    pub until: Option<u64>,
}

impl EventQuery {
    /// Returns the maximum number of bytes of a page, except for its first event.
    pub(super) fn most_bytes(&self) -> usize {
        self.bytes.map_or(PAGE_BYTES, |bytes| bytes.min(PAGE_BYTES))
    }
}

/// A page of events.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// The events that match.
    pub events: Vec<Event>,
    /// No matching event up to this position is missing. At least the query's `after`.
    pub seen: u64,
    /// Whether the log has no event after `seen` at present.
    pub at_end: bool,
    /// The event at the query's `after`. `None` if the log keeps no event there.
    pub before: Option<LogPosition>,
    /// The log, at the same moment.
    pub log: Log,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Identifies the log. A new log has another epoch.
    pub epoch: u64,
    /// The last event that is no longer kept, or position 0.
    pub pruned: LogPosition,
    /// The newest event, or position 0.
    pub newest: LogPosition,
}

/// A position in the log with the key of its event. If the log loses its end, another event gets the
/// same position, and the key shows that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// The position.
    pub position: u64,
    /// The key of the event. Zeros at position 0.
    pub key: EventKey,
}
