//! Nearby places: which listed place came of a submission.

use std::time::Instant;

use super::{Effect, Question, Recovery, reviews::ReviewResult};
use crate::{
    call::{Error, unreadable},
    context::Context,
    journal::{ExpectedEffect, NearbyPoiFingerprint},
    pb::{AuditState, NearbyPoi, Submission, SubmissionKind, audit_event::Detail},
    state::{self, is_open},
    translate::nearby::place_fingerprint,
    wechat::{Endpoint, nearby::GetNearbyPoiList},
};

/// Another submission, and whether it wants the same place.
type Other = (state::Submission, bool);

impl Recovery {
    /// Returns the effect of a new or replaced place, if it is listed and no other submission made it.
    pub(super) async fn nearby_poi(
        &self,
        Question { ctx, write, asked, .. }: Question<'_>,
        submission: &Submission,
        wanted: &NearbyPoiFingerprint,
    ) -> Result<Option<Effect>, Error> {
        let listed = self.listed_nearby_pois(ctx, asked).await?;
        let mut others = Vec::new();
        let visit = |other, its: Option<ExpectedEffect>| {
            let same = matches!(&its, Some(ExpectedEffect::NearbyPoi(its)) if its == wanted);
            others.push((other, same));
        };
        self.each_other(submission, visit).await?;
        let fits = |place: &&NearbyPoi| {
            is_wanted(place, wanted) && !may_be_of_another(place, wanted, &others)
        };
        for place in listed.rows.iter().filter(fits) {
            let event = self.event(write, SubmissionKind::NearbyPoi, |event| {
                matches!(&event.detail, Some(Detail::NearbyPoi(its)) if its.nearby_poi_id == place.nearby_poi_id)
            });
            let audit_id = match event.await? {
                Some(event) => event.audit_id,
                None => match place.state() {
                    state if is_open(state) => place.audit_id.clone(),
                    AuditState::Unspecified => {
                        let cause = "no known state of a place";
                        return Err(unreadable(GetNearbyPoiList::PATH, cause));
                    }
                    // The place may have been like this before.
                    _ => continue,
                },
            };
            return Ok(Some(Effect { audit_id, poi_id: place.nearby_poi_id.clone() }));
        }
        listed.whole()?;
        Ok(None)
    }

    /// Returns the effect of a deletion, if the place is not listed.
    pub(super) async fn nearby_poi_deleted(
        &self,
        Question { ctx, asked, .. }: Question<'_>,
        poi_id: &str,
    ) -> Result<Option<Effect>, Error> {
        let listed = self.listed_nearby_pois(ctx, asked).await?;
        if listed.rows.iter().any(|place| place.nearby_poi_id == poi_id) {
            return Ok(None);
        }
        listed.whole()?;
        Ok(Some(Effect::default()))
    }

    /// Returns the result of the review of a place: WeChat lists it with its state.
    pub(super) async fn nearby_review(
        &self,
        ctx: &Context,
        submission: &Submission,
        began: Instant,
    ) -> Result<Option<ReviewResult>, Error> {
        let listed = self.listed_nearby_pois(ctx, began).await?;
        let found = listed.rows.iter().find(|place| is_reviewed(place, submission));
        Ok(found.map(|place| ReviewResult {
            state: place.state(),
            wechat_status: place.wechat_status,
            reason: place.reason.clone(),
            audit_id: String::new(),
            poi_id: place.nearby_poi_id.clone(),
        }))
    }
}

/// Returns whether a listed place is as a write wanted it.
fn is_wanted(place: &NearbyPoi, wanted: &NearbyPoiFingerprint) -> bool {
    place_fingerprint(&place.license_number, &place.address) == wanted.hash
        && (wanted.poi_id.is_empty() || wanted.poi_id == place.nearby_poi_id)
}

/// Returns whether another submission made a listed place what it is, or may have.
fn may_be_of_another(place: &NearbyPoi, wanted: &NearbyPoiFingerprint, others: &[Other]) -> bool {
    others.iter().any(|(other, same)| {
        let same_place = other.poi_id.as_str() == place.nearby_poi_id;
        let same_review = !place.audit_id.is_empty() && other.audit_id.as_str() == place.audit_id;
        let nameless = other.poi_id.is_empty() && other.audit_id.is_empty() && is_open(other.state);
        same_review
            // A replaced place has had other reviews before.
            || same_place && (wanted.poi_id.is_empty() || is_open(other.state))
            || nameless && *same
    })
}

/// Returns whether a listed place is the one that a submission is about.
fn is_reviewed(place: &NearbyPoi, submission: &Submission) -> bool {
    let same = |one: &str, other: &str| !one.is_empty() && one == other;
    // A replaced place keeps its id, but has a review for each time.
    if place.audit_id.is_empty() || submission.audit_id.is_empty() {
        same(&place.nearby_poi_id, &submission.nearby_poi_id)
    } else {
        same(&place.audit_id, &submission.audit_id)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{other, submission},
        *,
    };

    fn place(poi_id: &str, audit_id: &str) -> NearbyPoi {
        NearbyPoi {
            nearby_poi_id: poi_id.to_owned(),
            audit_id: audit_id.to_owned(),
            license_number: "156718193518281".to_owned(),
            address: "新港中路397号".to_owned(),
            ..NearbyPoi::default()
        }
    }

    fn wanted(poi_id: &str) -> NearbyPoiFingerprint {
        let hash = place_fingerprint("156718193518281", "新港中路397号");
        NearbyPoiFingerprint { poi_id: poi_id.to_owned(), hash }
    }

    #[test]
    fn place_matches_by_license_address_and_id() {
        assert!(is_wanted(&place("7", ""), &wanted("")));
        assert!(is_wanted(&place("7", ""), &wanted("7")));
        assert!(!is_wanted(&place("7", ""), &wanted("8")));
        let moved = NearbyPoi { address: "新港中路399号".to_owned(), ..place("7", "") };
        assert!(!is_wanted(&moved, &wanted("")));
    }

    #[test]
    fn place_of_another_submission_is_recognized() {
        use AuditState::{Approved, InReview};
        let another = |place: &NearbyPoi, wanted_id, other, same| {
            may_be_of_another(place, &wanted(wanted_id), &[(other, same)])
        };
        let place = place("7", "70");
        assert!(another(&place, "7", other(Approved, "70", ""), false), "in its review");
        assert!(another(&place, "", other(Approved, "", "7"), false), "a new place is not its own");
        assert!(!another(&place, "7", other(Approved, "", "7"), false), "replaced since");
        assert!(another(&place, "7", other(InReview, "", "7"), false), "being replaced");
        assert!(another(&place, "", other(InReview, "", ""), true), "it may be the other's");
        assert!(!another(&place, "", other(InReview, "", ""), false), "the other wants another");
        assert!(!another(&place, "", other(Approved, "", ""), true), "the other has ended");
        let unnumbered = NearbyPoi { audit_id: String::new(), ..place };
        assert!(!another(&unnumbered, "", other(Approved, "", ""), false));
    }

    #[test]
    fn review_is_found_by_number_or_place() {
        let review = |audit_id, poi_id| submission(SubmissionKind::NearbyPoi, audit_id, poi_id);
        assert!(is_reviewed(&place("7", "70"), &review("70", "")));
        assert!(!is_reviewed(&place("7", "71"), &review("70", "7")), "a later review");
        assert!(is_reviewed(&place("7", ""), &review("70", "7")));
        assert!(is_reviewed(&place("7", "70"), &review("", "7")));
        assert!(!is_reviewed(&place("", ""), &review("", "")));
    }
}
