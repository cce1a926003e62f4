//! Places on the map: only its event shows a place that was proposed.

use super::{Effect, Question, Recovery};
use crate::{
    call::Error,
    journal::{ExpectedEffect, MapPoi},
    pb::{MapPoiAudit, Submission, SubmissionKind, audit_event::Detail},
    state::{self, is_open},
};

impl Recovery {
    /// Returns the effect of a proposed place, if an event is certainly about it.
    pub(super) async fn map_poi_event(
        &self,
        Question { write, .. }: Question<'_>,
        submission: &Submission,
        proposed: &MapPoi,
    ) -> Result<Option<Effect>, Error> {
        let event = self.event(write, SubmissionKind::MapPoi, |event| {
            matches!(&event.detail, Some(Detail::MapPoi(place)) if is_about(place, proposed))
        });
        let Some(event) = event.await? else { return Ok(None) };
        let mut ambiguous = false;
        let visit = |other: state::Submission, its: Option<ExpectedEffect>| {
            ambiguous |= may_be_about(&other, its.as_ref(), proposed);
        };
        self.each_other(submission, visit).await?;
        let effect = Effect { audit_id: event.audit_id, ..Effect::default() };
        Ok((!ambiguous).then_some(effect))
    }
}

/// Returns whether an event is about the proposed place. WeChat may add the district in front of the
/// address, and may round.
fn is_about(event: &MapPoiAudit, proposed: &MapPoi) -> bool {
    /// In degrees: about ten meters.
    const NEAR: f64 = 0.0001;
    let (Some(there), Some(here)) = (&event.location, &proposed.location) else { return false };
    event.name == proposed.name
        && event.address.ends_with(&proposed.address)
        && (there.latitude - here.latitude).abs() < NEAR
        && (there.longitude - here.longitude).abs() < NEAR
}

/// Returns whether the event may be about another submission: an open one that proposes the same place and
/// whose number is not known.
fn may_be_about(
    other: &state::Submission,
    its: Option<&ExpectedEffect>,
    proposed: &MapPoi,
) -> bool {
    is_open(other.state)
        && other.audit_id.is_empty()
        && matches!(its, Some(ExpectedEffect::MapPoiEvent(its)) if its == proposed)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::other, *};
    use crate::{
        journal::record::Location,
        pb::{AuditState, LatLng},
    };

    fn proposed(name: &str) -> MapPoi {
        MapPoi {
            name: name.to_owned(),
            address: "新港中路397号".to_owned(),
            location: Some(Location { latitude: 23.09, longitude: 113.32 }),
        }
    }

    #[test]
    fn event_matches_place_with_longer_address_nearby() {
        let event = |name: &str, address: &str, latitude| MapPoiAudit {
            map_poi_id: String::new(),
            name: name.to_owned(),
            address: address.to_owned(),
            location: Some(LatLng { latitude, longitude: 113.32 }),
        };
        let is_about = |event| is_about(&event, &proposed("巷口小馆"));
        assert!(is_about(event("巷口小馆", "新港中路397号", 23.09)));
        assert!(is_about(event("巷口小馆", "广东省广州市海珠区新港中路397号", 23.09005)));
        assert!(!is_about(event("巷口小馆", "新港中路397号", 23.0902)));
        assert!(!is_about(event("巷口小馆", "新港中路397号二楼", 23.09)));
        assert!(!is_about(event("巷尾小馆", "新港中路397号", 23.09)));
        let nowhere =
            MapPoiAudit { location: None, ..event("巷口小馆", "新港中路397号", 23.09) };
        assert!(!is_about(nowhere));
    }

    #[test]
    fn event_may_match_open_submission_without_number() {
        let may_be = |other, name| {
            let its = ExpectedEffect::MapPoiEvent(proposed(name));
            may_be_about(&other, Some(&its), &proposed("巷口小馆"))
        };
        assert!(may_be(other(AuditState::InReview, "", ""), "巷口小馆"));
        assert!(!may_be(other(AuditState::InReview, "7", ""), "巷口小馆"));
        assert!(!may_be(other(AuditState::Rejected, "", ""), "巷口小馆"));
        assert!(!may_be(other(AuditState::InReview, "", ""), "巷尾小馆"));
    }
}
