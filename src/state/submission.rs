//! Submissions: the data that WeChat accepted for review.

use std::time::Duration;

use bytes::Bytes;

use super::{Error, ROW_BYTES};
use crate::{
    pb::{AuditState, SubmissionKind},
    util::{
        id::{AppId, AuditId, MapPoiId, PoiId},
        scope::Scope,
    },
};

/// The records of submissions.
#[tonic::async_trait]
pub trait Submissions {
    /// Records a submission. If the event about its review came first, this links the two. Does nothing
    /// if a submission with this id is recorded already.
    async fn remember(&self, submission: NewSubmission) -> Result<(), Error>;

    /// Returns a submission by its id.
    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error>;

    /// Returns the newest submission of pictures for a store.
    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error>;

    /// Returns the submissions after a number that match, in order. The limits of
    /// [`Events::events`](super::Events::events) apply.
    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error>;

    /// Takes open submissions that are due for a poll, and sets the time of their next poll to `again`
    /// from now. Two callers never get the same one. A submission whose caller fails becomes due again.
    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error>;
}

/// A submission to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubmission {
    /// The id.
    pub submission_id: String,
    /// The account.
    pub app_id: AppId,
    /// The kind of the data.
    pub kind: SubmissionKind,
    /// The review. May be empty.
    pub audit_id: AuditId,
    /// The store or nearby place, if it is known. May be empty.
    pub poi_id: PoiId,
    /// The caller's own number for the shop. May be empty.
    pub client_reference: String,
    /// The first state of the review.
    pub state: AuditState,
    /// The time until WeChat must be polled about it. `None` if WeChat cannot be polled.
    pub ask_after: Option<Duration>,
    /// The encoded record of the journal, as it was at first.
    pub message: Bytes,
}

/// A submission in its present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Counts submissions. The first has 1.
    pub number: u64,
    /// The record, as in [`NewSubmission::message`].
    pub message: Bytes,
    /// When it was recorded, in milliseconds since 1970.
    pub created: u64,
    /// The review. May be empty.
    pub audit_id: AuditId,
    /// The state of the review.
    pub state: AuditState,
    /// The reason, if the review failed.
    pub reason: String,
    /// The store or nearby place. May be empty.
    pub poi_id: PoiId,
    /// The resulting map place. May be empty.
    pub map_poi_id: MapPoiId,
    /// The event that decided it. Empty while it is open.
    pub event_id: String,
    /// When it was decided, in milliseconds since 1970. 0 while it is open.
    pub decided: u64,
}

impl Submission {
    /// Returns the bytes for which it counts in a page.
    pub(super) fn size(&self) -> usize {
        let Self { message, audit_id, reason, poi_id, map_poi_id, event_id, .. } = self;
        let ids = [audit_id.as_str(), poi_id.as_str(), map_poi_id.as_str(), event_id];
        ROW_BYTES + message.len() + reason.len() + ids.iter().map(|id| id.len()).sum::<usize>()
    }
}

/// Selects submissions. An empty or absent condition matches every submission.
#[derive(Clone, Debug, Default)]
pub struct SubmissionQuery {
    /// Only submissions after this number.
    pub after: u64,
    /// The maximum number of submissions.
    pub limit: usize,
    /// Only submissions of these accounts.
    pub accounts: Scope,
    /// Only submissions of these kinds.
    pub kinds: Vec<SubmissionKind>,
    /// Only submissions in these states.
    pub states: Vec<AuditState>,
    /// Only submissions recorded before this time, in milliseconds since 1970.
    pub until: Option<u64>,
    /// Only submissions with this number of the caller's.
    pub client_reference: Option<String>,
}

/// A page of submissions.
#[derive(Clone, Debug, Default)]
pub struct SubmissionPage {
    /// The submissions that match.
    pub submissions: Vec<Submission>,
    /// The number of matching or possibly matching submissions that cannot be read.
    pub unreadable: u64,
    /// No matching submission up to this number is missing.
    pub seen: u64,
    /// Whether there is no submission after `seen` at present.
    pub at_end: bool,
}

/// Returns whether a result in this state ends a review.
pub(crate) const fn is_decided(state: AuditState) -> bool {
    !is_open(state) && !matches!(state, AuditState::Unspecified)
}

/// Returns whether a review in this state continues.
pub(crate) const fn is_open(state: AuditState) -> bool {
    matches!(state, AuditState::AwaitingAdmin | AuditState::InReview)
}
