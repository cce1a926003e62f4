//! The stored records of the journal, and their conversion from and to the types of the service.
//!
//! `proto/internal/journal/v1/record.proto` defines the stored messages. They are apart from the public
//! ones, so that either can change without the other.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

pub(crate) use self::stored::{
    Location, MapPoi, MerchantAudit, NearbyPoiFingerprint, StoreFingerprint, WriteRecord,
    write_record::ExpectedEffect,
};
use crate::{
    pb::{self, AuditState, SubmissionKind},
    state::{self, NewSubmission, is_open},
    telemetry::Trace,
    util::id::{AppId, AuditId, MapPoiId, PoiId},
};

/// The generated messages.
mod stored {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]

    tonic::include_proto!("internal.journal.v1");
}

/// An administrator who has not confirmed by then can be asked again (S3 §2: 24 小时).
pub(crate) const CONFIRM_WITHIN: Duration = Duration::from_secs(24 * 3600);

impl ExpectedEffect {
    /// Returns whether the write can be sent again if WeChat does not show this effect. WeChat then
    /// refuses a second execution, or the second one does no harm.
    pub(crate) const fn allows_repeat(&self) -> bool {
        !matches!(self, Self::MerchantAuditChanged(_) | Self::MapPoiEvent(_))
    }
}

impl WriteRecord {
    /// Decodes what the state stores beside a write.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, state::Error> {
        Self::decode(message).map_err(damaged)
    }

    /// Returns the record of the submission that came of the write, if WeChat reviews it.
    pub(crate) fn submission_record(self) -> Option<SubmissionRecord> {
        let Self { submission, expected_effect, response: _, repeatable: _ } = self;
        Some(SubmissionRecord::of(submission?, expected_effect))
    }
}

impl From<SubmissionRecord> for WriteRecord {
    fn from(SubmissionRecord { submission, expected_effect, span_id }: SubmissionRecord) -> Self {
        let submission = stored::Submission { span_id, ..submission.into() };
        Self { submission: Some(submission), expected_effect, ..Self::default() }
    }
}

/// A review of WeChat's.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// Its kind.
    pub(crate) kind: SubmissionKind,
    /// WeChat's number of it. May be empty.
    pub(crate) audit_id: AuditId,
    /// The place that it is about. May be empty.
    pub(crate) map_poi_id: MapPoiId,
    /// The store or nearby place that it is about. May be empty.
    pub(crate) poi_id: PoiId,
    /// The pictures, if WeChat reviews pictures.
    pub(crate) picture_urls: Vec<String>,
}

/// Names the write that a submission came with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteName<'a> {
    /// Its id.
    pub(crate) write_id: &'a str,
    /// The name of the caller. May be empty.
    pub(crate) caller: &'a str,
    /// The account.
    pub(crate) app_id: &'a AppId,
    /// The caller's name for it.
    pub(crate) request_id: Option<Uuid>,
    /// The caller's own name for the shop. May be empty.
    pub(crate) client_reference: &'a str,
    /// The trace of the call.
    pub(crate) trace: &'a Trace,
}

/// The record that the state stores beside a submission.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SubmissionRecord {
    /// The submission as the caller got it.
    pub(crate) submission: pb::Submission,
    /// The effect by which WeChat shows it.
    pub(crate) expected_effect: Option<ExpectedEffect>,
    /// The span of its call. 0 if the call was not sampled.
    pub(crate) span_id: u64,
}

impl SubmissionRecord {
    /// Describes a submission that WeChat accepted at `now`. It has the id of its write, so recording
    /// it twice stores it once.
    pub(crate) fn new(
        review: Review,
        expected_effect: Option<ExpectedEffect>,
        write: WriteName<'_>,
        now: SystemTime,
    ) -> Self {
        let Review { kind, audit_id, map_poi_id, poi_id, picture_urls } = review;
        let awaits_admin = kind == SubmissionKind::Merchant;
        let state = if awaits_admin { AuditState::AwaitingAdmin } else { AuditState::InReview };
        let (poi_id, nearby_poi_id) = by_kind(kind, poi_id.into());
        let submission = pb::Submission {
            submission_id: write.write_id.to_owned(),
            kind: kind.into(),
            audit_id: audit_id.into(),
            client_reference: write.client_reference.to_owned(),
            state: state.into(),
            create_time: Some(now.into()),
            resubmit_after: awaits_admin.then(|| (now + CONFIRM_WITHIN).into()),
            app_id: write.app_id.to_string(),
            request_id: write.request_id.map(|id| id.to_string()).unwrap_or_default(),
            map_poi_id: map_poi_id.into(),
            poi_id,
            nearby_poi_id,
            picture_urls,
            caller: write.caller.to_owned(),
            trace_id: write.trace.id.to_string(),
            ..pb::Submission::default()
        };
        Self { submission, expected_effect, span_id: write.trace.span_id() }
    }

    fn of(submission: stored::Submission, expected_effect: Option<ExpectedEffect>) -> Self {
        let span_id = submission.span_id;
        Self { submission: submission.into(), expected_effect, span_id }
    }

    /// Returns what the state stores.
    pub(crate) fn to_state(&self, poll_after: Option<Duration>) -> NewSubmission {
        let submission = &self.submission;
        NewSubmission {
            submission_id: submission.submission_id.clone(),
            app_id: submission.app_id.clone().into(),
            kind: submission.kind(),
            audit_id: submission.audit_id.clone().into(),
            poi_id: some_poi_id(submission).to_owned().into(),
            client_reference: submission.client_reference.clone(),
            state: submission.state(),
            ask_after: poll_after,
            message: WriteRecord::from(self.clone()).encode_to_vec().into(),
        }
    }

    /// Decodes what the state stores beside a submission.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, state::Error> {
        let WriteRecord { submission, expected_effect, .. } = WriteRecord::parse(message)?;
        Ok(Self::of(submission.unwrap_or_default(), expected_effect))
    }

    /// Returns a stored submission as it is at `now`.
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
            decided,
        } = stored;
        let mut record = Self::parse(&message)?;
        let submission = &mut record.submission;
        submission.audit_id = audit_id.into();
        submission.state = state.into();
        submission.reason = reason;
        (submission.poi_id, submission.nearby_poi_id) = by_kind(submission.kind(), poi_id.into());
        if !map_poi_id.is_empty() {
            submission.map_poi_id = map_poi_id.into();
        }
        submission.event_id = event_id;
        submission.decide_time = (decided > 0).then(|| state::from_millis(decided).into());
        submission.overdue = is_open(state)
            && now
                .duration_since(state::from_millis(created))
                .is_ok_and(|age| age >= overdue_after);
        Ok(record)
    }
}

impl From<pb::Submission> for stored::Submission {
    fn from(submission: pb::Submission) -> Self {
        let poi_id = some_poi_id(&submission).to_owned();
        let pb::Submission {
            submission_id,
            kind,
            audit_id,
            client_reference,
            state,
            create_time,
            resubmit_after,
            app_id,
            request_id,
            map_poi_id,
            poi_id: _,
            nearby_poi_id: _,
            picture_urls,
            caller,
            trace_id,
            // The state has columns for these, because they change.
            reason: _,
            decide_time: _,
            event_id: _,
            overdue: _,
        } = submission;
        Self {
            submission_id,
            kind,
            audit_id,
            client_reference,
            state,
            create_time,
            resubmit_after,
            app_id,
            request_id,
            map_poi_id,
            poi_id,
            picture_urls,
            caller,
            trace_id,
            // Beside the public fields.
            span_id: 0,
        }
    }
}

impl From<stored::Submission> for pb::Submission {
    fn from(submission: stored::Submission) -> Self {
        let stored::Submission {
            submission_id,
            kind,
            audit_id,
            client_reference,
            state,
            create_time,
            resubmit_after,
            app_id,
            request_id,
            map_poi_id,
            poi_id,
            picture_urls,
            caller,
            trace_id,
            span_id: _,
        } = submission;
        let kind_of = SubmissionKind::try_from(kind).unwrap_or_default();
        let (poi_id, nearby_poi_id) = by_kind(kind_of, poi_id);
        Self {
            submission_id,
            kind,
            audit_id,
            client_reference,
            state,
            create_time,
            resubmit_after,
            app_id,
            request_id,
            map_poi_id,
            poi_id,
            nearby_poi_id,
            picture_urls,
            caller,
            trace_id,
            ..Self::default()
        }
    }
}

/// Returns the `poi_id` and the `nearby_poi_id` of a public submission. The stored record has one
/// field for both.
fn by_kind(kind: SubmissionKind, poi_id: String) -> (String, String) {
    match kind {
        SubmissionKind::NearbyPoi => (String::new(), poi_id),
        _ => (poi_id, String::new()),
    }
}

/// Returns the store or nearby place that a submission is about.
fn some_poi_id(submission: &pb::Submission) -> &str {
    let pb::Submission { poi_id, nearby_poi_id, .. } = submission;
    if nearby_poi_id.is_empty() { poi_id } else { nearby_poi_id }
}

impl From<pb::GetMerchantAuditResponse> for MerchantAudit {
    fn from(audit: pb::GetMerchantAuditResponse) -> Self {
        let pb::GetMerchantAuditResponse {
            audit_id,
            state,
            wechat_status,
            reason,
            unreadable_fields,
        } = audit;
        Self { audit_id, state, wechat_status, reason, unreadable_fields }
    }
}

impl MerchantAudit {
    /// Returns where the review stands.
    pub(crate) fn audit_state(&self) -> AuditState {
        AuditState::try_from(self.state).unwrap_or_default()
    }
}

impl From<pb::LatLng> for Location {
    fn from(pb::LatLng { latitude, longitude }: pb::LatLng) -> Self {
        Self { latitude, longitude }
    }
}

/// Returns the error for a stored message that cannot be decoded.
pub(crate) fn damaged(error: prost::DecodeError) -> state::Error {
    state::Error::Unreadable(error.to_string())
}

/// Precedes a stored response that is known.
const KNOWN: u8 = 1;

/// Returns a response as the journal stores it. An empty one would mean that the response is not known,
/// so this is never empty.
pub(crate) fn stored_response(response: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + response.len());
    bytes.push(KNOWN);
    bytes.extend_from_slice(response);
    bytes.into()
}

/// Returns the response that the journal stores, or `None` if only the execution of the write is known.
pub(crate) fn known_response(stored: &[u8]) -> Option<&[u8]> {
    stored.strip_prefix(&[KNOWN])
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn record(kind: SubmissionKind) -> SubmissionRecord {
        let review = Review { kind, audit_id: "1".to_owned().into(), ..Review::default() };
        let app_id = "wx1".to_owned().into();
        let write = WriteName {
            write_id: "write",
            caller: "orders",
            app_id: &app_id,
            request_id: None,
            client_reference: "shop-7",
            trace: &Trace::none(),
        };
        SubmissionRecord::new(review, None, write, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn new_submission_has_write_id_and_state() {
        let store = record(SubmissionKind::Store).submission;
        assert_eq!((store.state(), store.resubmit_after), (AuditState::InReview, None));
        assert_eq!((store.client_reference.as_str(), store.audit_id.as_str()), ("shop-7", "1"));
        let merchant = record(SubmissionKind::Merchant).submission;
        assert_eq!(merchant.state(), AuditState::AwaitingAdmin);
        assert_eq!(merchant.resubmit_after.map(|at| at.seconds), Some(24 * 3600));
        assert_eq!((store.submission_id.as_str(), store.caller.as_str()), ("write", "orders"));
    }

    #[test]
    fn stored_submission_is_returned_as_it_is_now() {
        let new = record(SubmissionKind::MapPoi).to_state(None);
        let stored = |state, map_poi_id: &str, decided| state::Submission {
            number: 1,
            message: new.message.clone(),
            created: 1_000,
            audit_id: "2".to_owned().into(),
            state,
            reason: "资料不全".to_owned(),
            poi_id: "7".to_owned().into(),
            map_poi_id: map_poi_id.to_owned().into(),
            event_id: "e".to_owned(),
            decided,
        };
        let week = Duration::from_secs(7 * 24 * 3600);
        let read = |stored, seconds| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            SubmissionRecord::from_state(stored, now, week).expect("readable").submission
        };
        let decided = read(stored(AuditState::Rejected, "593", 5_000), 8 * 24 * 3600);
        assert_eq!((&*decided.client_reference, &*decided.caller), ("shop-7", "orders"));
        assert_eq!((decided.audit_id.as_str(), decided.state()), ("2", AuditState::Rejected));
        assert_eq!((decided.poi_id.as_str(), decided.map_poi_id.as_str()), ("7", "593"));
        assert_eq!((decided.reason.as_str(), decided.event_id.as_str()), ("资料不全", "e"));
        assert_eq!(decided.decide_time.map(|at| at.seconds), Some(5));
        assert!(!decided.overdue, "it has ended");
        let open = |seconds| read(stored(AuditState::InReview, "", 0), seconds);
        assert_eq!((open(7 * 24 * 3600).overdue, open(7 * 24 * 3600 + 1).overdue), (false, true));
        assert_eq!(open(0).decide_time, None);
    }

    /// The records that version 0.1.0 stored: the name of each one, its method, and its bytes.
    fn stored() -> Vec<(&'static str, &'static str, Vec<u8>)> {
        let lines = include_str!("../../tests/stored/records.txt").lines();
        lines
            .map(|line| {
                let [name, method, hex] = line.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{line}")
                };
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
                (name, method, (0..hex.len()).step_by(2).map(byte).collect())
            })
            .collect()
    }

    /// A hash of texts, each with a NUL after it.
    fn hash(texts: &[&str]) -> Bytes {
        let text: String = texts.iter().map(|text| format!("{text}\0")).collect();
        Bytes::copy_from_slice(&Sha256::digest(text))
    }

    /// Returns the effect that version 0.1.0 expected of each of these writes.
    fn expected(name: &str) -> Option<ExpectedEffect> {
        let id = |id: &str| id.to_owned();
        let picture = |name: &str| format!("http://mmbiz.qpic.cn/mmbiz_png/{name}/0");
        let store = |number: &str| {
            let credential = format!("91440105MA59{number}");
            let hours = "10:00-21:30";
            hash(&[&credential, "020-89190388", hours, &picture("first")])
        };
        let place = |poi_id: &str| {
            let text = "156718193518281\0广东省广州市海珠区新港中路397号";
            let hash = Bytes::copy_from_slice(&Sha256::digest(text));
            ExpectedEffect::NearbyPoi(NearbyPoiFingerprint { poi_id: id(poi_id), hash })
        };
        Some(match name {
            "01" | "submission" => ExpectedEffect::NewStore(store("0002")),
            "03" => ExpectedEffect::StoreDeleted(id("472671857")),
            "04" => ExpectedEffect::Migration(id("271262077")),
            "05" => ExpectedEffect::NewStore(store("0005")),
            "06" => ExpectedEffect::LegacyStoreDeleted(id("271262077")),
            "07" => ExpectedEffect::NearbyPoiDeleted(id("5938314494307741153")),
            "08" => place(""),
            "09" => place("5938314494307741153"),
            "10" => ExpectedEffect::MapPoiEvent(MapPoi {
                name: id("巷口小馆"),
                address: id("新港中路397号"),
                location: Some(Location { latitude: 23.09, longitude: 113.32 }),
            }),
            "11" => ExpectedEffect::StoreValues(StoreFingerprint {
                poi_id: id("472671857"),
                phone: Some(hash(&["020-1"])),
                hours: Some(hash(&["08:00-09:00"])),
                pictures: Some(hash(&[&picture("a"), &picture("b")])),
                unseen: true,
            }),
            "12" => ExpectedEffect::MerchantAuditChanged(MerchantAudit {
                state: AuditState::NotSubmitted.into(),
                wechat_status: Some(0),
                ..MerchantAudit::default()
            }),
            _ => return None,
        })
    }

    #[test]
    fn first_version_records_keep_their_bytes() {
        let records = stored();
        assert_eq!(records.len(), 14);
        for (name, method, bytes) in records {
            let record = WriteRecord::parse(&bytes).expect(name);
            assert_eq!(record.expected_effect, expected(name), "{name}");
            assert_eq!(record.repeatable, method == "SetStoreCard", "{name}");
            assert_eq!(record.encode_to_vec(), bytes, "{name}");
            let reviewed =
                ["AddStore", "AddNearbyPoi", "ReplaceNearbyPoi", "CreateMapPoi", "ApplyMerchant"];
            let Some(submission) = record.submission else {
                assert!(!reviewed.contains(&method), "{name}");
                continue;
            };
            // The public message and back changes nothing.
            let public = pb::Submission::from(submission.clone());
            assert_eq!(stored::Submission::from(public.clone()), submission);
            assert!(reviewed.contains(&method), "{name}");
            assert!(public.create_time.is_some(), "{name}");
            let number = if name == "submission" { "01" } else { name };
            let request_id = format!("7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a{number}");
            assert_eq!(public.request_id, request_id, "{name}");
            // Beside a submission stands the same record.
            let record = SubmissionRecord::parse(&bytes).expect(name);
            assert_eq!(record.submission, public, "{name}");
            assert_eq!(*record.to_state(None).message, *bytes, "{name}");
        }
    }

    #[test]
    fn first_version_record_contains_its_response() {
        let (_, _, bytes) =
            stored().into_iter().find(|(name, ..)| *name == "11").expect("it is there");
        let record = WriteRecord::parse(&bytes).expect("readable");
        let response = pb::UpdateStoreResponse::decode(&*record.response).expect("a response");
        assert_eq!(
            (response.contact_phone.as_str(), response.card_id.as_str()),
            ("020-1", "pabcedfg")
        );
        assert_eq!(response.hours.expect("hours").text, "08:00-09:00");
        assert_eq!(response.picture_urls.len(), 2);
    }
}
