//! What WeChat takes for review: what a caller gets for it, and what is remembered of it.

use std::time::{Duration, SystemTime};

use prost::Message;

use super::{Evidence, Evident};
use crate::{
    context::Context,
    pb::{AuditState, Submission, SubmissionKind},
    state::{self, NewSubmission, is_open},
    util::id::{AppId, AuditId, MapPoiId, PoiId},
};

/// An administrator who has not confirmed by then can be asked again (S3 §2: 24 小时).
pub(crate) const CONFIRM_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// A call that WeChat reviews.
pub(crate) trait Reviewed: Evident {
    /// What is reviewed, now that WeChat took it.
    fn review(&self, reply: &Self::Reply) -> Review;
}

/// What WeChat reviews.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// What it is.
    pub(crate) kind: SubmissionKind,
    /// WeChat's number of it; may be empty.
    pub(crate) audit_id: AuditId,
    /// The place that it is about; may be empty.
    pub(crate) map_poi_id: MapPoiId,
    /// The store or nearby place that it is about; may be empty.
    pub(crate) poi_id: PoiId,
    /// The pictures, where pictures are reviewed.
    pub(crate) picture_urls: Vec<String>,
}

/// What is remembered of a submission: the opaque part of it in the state.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Remembered {
    /// As the caller got it.
    #[prost(message, required, tag = "1")]
    pub(crate) submission: Submission,
    /// What WeChat will show it by.
    #[prost(oneof = "Evidence", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub(crate) evidence: Option<Evidence>,
}

impl Remembered {
    /// A new submission, taken by WeChat at `now`. It has the id of the write that it came with:
    /// remembered twice, it is there once.
    pub(crate) fn new(
        review: Review,
        evidence: Option<Evidence>,
        write_id: &str,
        app_id: &AppId,
        ctx: &Context,
        now: SystemTime,
    ) -> Self {
        let Review { kind, audit_id, map_poi_id, poi_id, picture_urls } = review;
        let awaits_admin = kind == SubmissionKind::Merchant;
        let state = if awaits_admin { AuditState::AwaitingAdmin } else { AuditState::InReview };
        let submission = Submission {
            submission_id: write_id.to_owned(),
            kind: kind.into(),
            audit_id: audit_id.into(),
            client_reference: ctx.client_reference.clone(),
            state: state.into(),
            create_time: Some(now.into()),
            resubmit_after: awaits_admin.then(|| (now + CONFIRM_WITHIN).into()),
            app_id: app_id.to_string(),
            request_id: ctx.request_id.map(|id| id.to_string()).unwrap_or_default(),
            map_poi_id: map_poi_id.into(),
            poi_id: poi_id.into(),
            picture_urls,
            ..Submission::default()
        };
        Self { submission, evidence }
    }

    /// The same for the state.
    pub(crate) fn to_state(&self, ask_after: Option<Duration>) -> NewSubmission {
        let submission = &self.submission;
        NewSubmission {
            submission_id: submission.submission_id.clone(),
            app_id: submission.app_id.clone().into(),
            kind: submission.kind(),
            audit_id: submission.audit_id.clone().into(),
            poi_id: submission.poi_id.clone().into(),
            client_reference: submission.client_reference.clone(),
            state: submission.state(),
            ask_after,
            message: self.encode_to_vec().into(),
        }
    }

    /// Reads the opaque part.
    pub(crate) fn read(message: &[u8]) -> Result<Self, state::Error> {
        Self::decode(message).map_err(damaged)
    }

    /// A submission of the state, as it stands at `now`.
    pub(crate) fn from_state(
        stored: state::Submission,
        now: SystemTime,
        overdue_after: Duration,
    ) -> Result<Self, state::Error> {
        let state::Submission {
            number: _,
            message,
            created,
            audit_id,
            state,
            reason,
            poi_id,
            map_poi_id,
            event_id,
            settled,
        } = stored;
        let mut remembered = Self::read(&message)?;
        let submission = &mut remembered.submission;
        submission.audit_id = audit_id.into();
        submission.state = state.into();
        submission.reason = reason;
        submission.poi_id = poi_id.into();
        if !map_poi_id.is_empty() {
            submission.map_poi_id = map_poi_id.into();
        }
        submission.event_id = event_id;
        submission.decide_time = (settled > 0).then(|| time(settled).into());
        submission.overdue = is_open(state)
            && now.duration_since(time(created)).is_ok_and(|age| age >= overdue_after);
        Ok(remembered)
    }
}

/// Returns a submission as callers get it: a stored one has the id of a nearby place in `poi_id`.
pub(crate) fn for_caller(mut submission: Submission) -> Submission {
    if submission.kind() == SubmissionKind::NearbyPoi && !submission.poi_id.is_empty() {
        submission.nearby_poi_id = std::mem::take(&mut submission.poi_id);
    }
    submission
}

/// A moment of the state.
pub(super) fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// What is stored cannot be read.
pub(crate) fn damaged(error: prost::DecodeError) -> state::Error {
    state::Error::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::Clock;

    fn remembered(kind: SubmissionKind) -> Remembered {
        let mut ctx = Context::internal(Clock::frozen().now());
        ctx.client_reference = "shop-7".to_owned();
        let review = Review { kind, audit_id: "1".to_owned().into(), ..Review::default() };
        let app_id = "wx1".to_owned().into();
        Remembered::new(review, None, "write", &app_id, &ctx, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_submission_has_the_id_of_its_write_and_a_state_by_its_kind() {
        let store = remembered(SubmissionKind::Store).submission;
        assert_eq!((store.state(), store.resubmit_after), (AuditState::InReview, None));
        assert_eq!((store.client_reference.as_str(), store.audit_id.as_str()), ("shop-7", "1"));
        let merchant = remembered(SubmissionKind::Merchant).submission;
        assert_eq!(merchant.state(), AuditState::AwaitingAdmin);
        assert_eq!(merchant.resubmit_after.map(|at| at.seconds), Some(24 * 3600));
        assert_eq!(store.submission_id, "write");
    }

    #[test]
    fn what_is_remembered_is_read_as_it_stands_now() {
        let new = remembered(SubmissionKind::MapPoi).to_state(None);
        let stored = |state, map_poi_id: &str, settled| state::Submission {
            number: 1,
            message: new.message.clone(),
            created: 1_000,
            audit_id: "2".to_owned().into(),
            state,
            reason: "资料不全".to_owned(),
            poi_id: "7".to_owned().into(),
            map_poi_id: map_poi_id.to_owned().into(),
            event_id: "e".to_owned(),
            settled,
        };
        let week = Duration::from_secs(7 * 24 * 3600);
        let read = |stored, seconds| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            Remembered::from_state(stored, now, week).expect("readable").submission
        };
        let settled = read(stored(AuditState::Rejected, "593", 5_000), 8 * 24 * 3600);
        assert_eq!(settled.client_reference, "shop-7");
        assert_eq!((settled.audit_id.as_str(), settled.state()), ("2", AuditState::Rejected));
        assert_eq!((settled.poi_id.as_str(), settled.map_poi_id.as_str()), ("7", "593"));
        assert_eq!((settled.reason.as_str(), settled.event_id.as_str()), ("资料不全", "e"));
        assert_eq!(settled.decide_time.map(|at| at.seconds), Some(5));
        assert!(!settled.overdue, "it has ended");
        let open = |seconds| read(stored(AuditState::InReview, "", 0), seconds);
        assert_eq!((open(7 * 24 * 3600).overdue, open(7 * 24 * 3600 + 1).overdue), (false, true));
        assert_eq!(open(0).decide_time, None);
    }
}
