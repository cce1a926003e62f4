//! Stores: which listed store came of a submission, and whether a store shows an update.

use std::{collections::HashSet, time::Instant};

use bytes::Bytes;

use super::{Effect, Question, Recovery, gone, lists::ListedStore, reviews::ReviewResult};
use crate::{
    call::{Error, unreadable},
    context::Context,
    journal::{ExpectedEffect, StoreFingerprint, SubmissionRecord},
    pb::{self, AuditState, Submission, SubmissionKind, audit_event::Detail},
    state::{self, is_open},
    translate::{fingerprint, were_read},
    wechat::{Endpoint, store::GetStoreInfo},
};

/// WeChat's fields with the values that an update changes.
const COMPARED: [&str; 3] = ["telephone", "open_time", "photo_list"];

impl Recovery {
    /// Returns the effect of a new store: the listed store that came of it.
    pub(super) async fn new_store(
        &self,
        Question { ctx, write, asked, .. }: Question<'_>,
        submission: &Submission,
        wanted: &Bytes,
    ) -> Result<Option<Effect>, Error> {
        let listed = self.listed_stores(ctx, asked).await?;
        let Some(store) = self.store_of(listed.whole()?, submission, wanted).await? else {
            return Ok(None);
        };
        let poi_id = store.poi_id.clone();
        // Its event may have arrived first, and has the number of the review.
        let event = self.event(
            write,
            SubmissionKind::Store,
            |event| matches!(&event.detail, Some(Detail::Store(its)) if its.poi_id == poi_id),
        );
        let audit_id = event.await?.map(|event| event.audit_id).unwrap_or_default();
        Ok(Some(Effect { audit_id, poi_id }))
    }

    /// Returns the result of the review of a new store, if a listed store certainly came of it.
    pub(super) async fn store_review(
        &self,
        ctx: &Context,
        submission: &Submission,
        wanted: &Bytes,
        began: Instant,
    ) -> Result<Option<ReviewResult>, Error> {
        let listed = self.listed_stores(ctx, began).await?;
        let found = self.store_of(listed.whole()?, submission, wanted).await?;
        Ok(found.map(|store| ReviewResult {
            state: store.state,
            wechat_status: store.wechat_status,
            poi_id: store.poi_id.clone(),
            ..ReviewResult::default()
        }))
    }

    /// Returns the listed store that came of a submission: the only one with its fingerprint that no
    /// other submission has become or may have become.
    async fn store_of<'a>(
        &self,
        listed: &'a [ListedStore],
        submission: &Submission,
        wanted: &'a Bytes,
    ) -> Result<Option<&'a ListedStore>, Error> {
        let mut search = Search::new(listed, wanted);
        if !search.candidates.is_empty() {
            let visit = |other, its: Option<ExpectedEffect>| search.exclude(&other, its.as_ref());
            self.each_other(submission, visit).await?;
        }
        Ok(search.result())
    }

    /// Returns the effect of an update, if the store shows its values.
    pub(super) async fn store_values(
        &self,
        Question { ctx, .. }: Question<'_>,
        wanted: &StoreFingerprint,
    ) -> Result<Option<Effect>, Error> {
        if wanted.unseen {
            return Ok(None);
        }
        let poi_id = wanted.poi_id.clone().into();
        let reply = self.0.calls.read(ctx, GetStoreInfo { poi_id }).await?;
        let shown = pb::Store::from(reply.business.base_info);
        if !were_read(&shown.unreadable_fields, &COMPARED) {
            let cause = format!("fields {:?} of the store", shown.unreadable_fields);
            return Err(unreadable(GetStoreInfo::PATH, cause));
        }
        Ok(shows(&shown, wanted).then(Effect::default))
    }

    /// Returns the effect of a deletion, if WeChat has no such store.
    pub(super) async fn store_deleted(
        &self,
        Question { ctx, .. }: Question<'_>,
        poi_id: &str,
    ) -> Result<Option<Effect>, Error> {
        let call = GetStoreInfo { poi_id: poi_id.to_owned().into() };
        gone(self.0.calls.read(ctx, call).await.err())
    }

    /// Returns the result of the review of new pictures: the state of their store, if no newer pictures
    /// were submitted. The pictures passed only if the store shows them.
    pub(super) async fn pictures_review(
        &self,
        ctx: &Context,
        submission: &Submission,
    ) -> Result<Option<ReviewResult>, Error> {
        let poi_id = submission.poi_id.clone().into();
        let newest = self.0.state.pictures(&submission.app_id.clone().into(), &poi_id).await?;
        let newest = newest.map(|stored| SubmissionRecord::parse(&stored.message)).transpose()?;
        if newest.is_none_or(|newest| newest.submission.submission_id != submission.submission_id) {
            return Ok(None);
        }
        let reply = self.0.calls.read(ctx, GetStoreInfo { poi_id }).await?;
        Ok(result_of_pictures(&reply.business.base_info.into(), submission))
    }
}

/// A search for the listed store that came of a submission.
struct Search<'a> {
    wanted: &'a [u8],
    /// The listed stores with the fingerprint that no other submission has become.
    candidates: Vec<&'a ListedStore>,
    /// The states of other submissions with the same fingerprint whose store is not known.
    twins: Vec<AuditState>,
}

impl<'a> Search<'a> {
    fn new(listed: &'a [ListedStore], wanted: &'a [u8]) -> Self {
        let candidates = listed.iter().filter(|store| *store.fingerprint == *wanted).collect();
        Self { wanted, candidates, twins: Vec::new() }
    }

    /// Excludes what another submission has become or may have become.
    fn exclude(&mut self, other: &state::Submission, its: Option<&ExpectedEffect>) {
        self.candidates.retain(|store| store.poi_id != other.poi_id.as_str());
        if other.poi_id.is_empty()
            && matches!(its, Some(ExpectedEffect::NewStore(its)) if *its == *self.wanted)
        {
            self.twins.push(other.state);
        }
    }

    /// Returns the store if it is certain.
    fn result(self) -> Option<&'a ListedStore> {
        let [store] = self.candidates[..] else { return None };
        // It may be the twin's, or may have failed when the twin did.
        let may_be_its = |twin: &AuditState| is_open(*twin) || store.state != AuditState::Approved;
        (!self.twins.iter().any(may_be_its)).then_some(store)
    }
}

/// Returns whether a store shows the values that an update changed.
fn shows(shown: &pb::Store, wanted: &StoreFingerprint) -> bool {
    let StoreFingerprint { poi_id: _, phone, hours, pictures, unseen } = wanted;
    let same = |wanted: &Option<Bytes>, shown: Bytes| {
        wanted.as_ref().is_none_or(|wanted| *wanted == shown)
    };
    let shown_hours = shown.hours.as_ref().map_or("", |hours| &hours.text);
    !unseen
        && same(phone, fingerprint::of_each([&*shown.contact_phone]))
        && same(hours, fingerprint::of_each([shown_hours]))
        && same(pictures, fingerprint::of_unordered(&shown.picture_urls))
}

/// Returns the result of a review of pictures, by what their store shows.
fn result_of_pictures(shown: &pb::Store, submission: &Submission) -> Option<ReviewResult> {
    // A store may have passed before, with other pictures.
    let others = fingerprint::sorted(&shown.picture_urls).into_iter().collect::<HashSet<_>>()
        != submission.picture_urls.iter().map(String::as_str).collect();
    if others && shown.state() == AuditState::Approved {
        return None;
    }
    Some(ReviewResult {
        state: shown.state(),
        wechat_status: shown.wechat_status,
        poi_id: submission.poi_id.clone(),
        ..ReviewResult::default()
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{other, submission},
        *,
    };
    use crate::{
        pb::{OpeningHours, UpdateStoreRequest},
        translate::change::Change,
    };

    fn listed(poi_id: &str, state: AuditState, fingerprint: &'static [u8]) -> ListedStore {
        let fingerprint = Bytes::from_static(fingerprint);
        ListedStore { poi_id: poi_id.to_owned(), state, wechat_status: None, fingerprint }
    }

    fn found(stores: &[ListedStore], others: &[(state::Submission, &[u8])]) -> Option<String> {
        let mut search = Search::new(stores, b"same");
        for (other, fingerprint) in others {
            let its = ExpectedEffect::NewStore(Bytes::copy_from_slice(fingerprint));
            search.exclude(other, Some(&its));
        }
        search.result().map(|store| store.poi_id.clone())
    }

    #[test]
    fn only_one_store_with_the_fingerprint_is_found() {
        use AuditState::InReview;
        let (one, twin) = (listed("1", InReview, b"same"), listed("2", InReview, b"same"));
        let different = listed("3", InReview, b"different");
        assert_eq!(found(&[different], &[]), None);
        assert_eq!(
            found(&[listed("1", InReview, b"same"), listed("3", InReview, b"x")], &[]).as_deref(),
            Some("1")
        );
        assert_eq!(found(&[one, twin], &[]), None, "either may be it");
    }

    #[test]
    fn store_of_another_submission_is_not_found() {
        use AuditState::{Approved, InReview, Rejected};
        let stores = [listed("1", Approved, b"same"), listed("2", InReview, b"same")];
        let first = (other(Approved, "", "1"), &b"same"[..]);
        assert_eq!(found(&stores, std::slice::from_ref(&first)).as_deref(), Some("2"));
        assert_eq!(found(&stores[..1], &[first]), None);
        // A twin without a store is in the way if it is open, or if the store did not pass.
        let twin = |state| [(other(state, "", ""), &b"same"[..])];
        assert_eq!(found(&stores[..1], &twin(InReview)), None);
        assert_eq!(found(&stores[..1], &twin(Rejected)).as_deref(), Some("1"));
        assert_eq!(found(&stores[1..], &twin(Rejected)), None);
        let different = [(other(InReview, "", ""), &b"different"[..])];
        assert_eq!(found(&stores[1..], &different).as_deref(), Some("2"));
    }

    /// A store with these values.
    fn shown(phone: &str, hours: &str, pictures: &[&str]) -> pb::Store {
        pb::Store {
            contact_phone: phone.to_owned(),
            hours: OpeningHours::parse(hours.to_owned()),
            picture_urls: pictures.iter().map(|url| (*url).to_owned()).collect(),
            ..pb::Store::default()
        }
    }

    #[test]
    fn store_shows_an_update_whatever_else_changed() {
        let picture = |name: &str| format!("http://mmbiz.qpic.cn/{name}/0");
        let urls = vec![picture("b"), picture("a")];
        let change = Change::try_from(UpdateStoreRequest {
            poi_id: "472671857".to_owned(),
            contact_phone: Some("020-1".to_owned()),
            picture_urls: Some(pb::PictureUrls { urls: urls.clone() }),
            ..UpdateStoreRequest::default()
        });
        let ExpectedEffect::StoreValues(wanted) = change.expect("valid").expected_effect() else {
            panic!("an update changes values")
        };
        let (a, b) = (&*urls[1], &*urls[0]);
        assert!(shows(&shown("020-1", "08:00-09:00", &[a, b]), &wanted), "in any order");
        assert!(!shows(&shown("020-2", "08:00-09:00", &[a, b]), &wanted));
        assert!(!shows(&shown("020-1", "08:00-09:00", &[a]), &wanted));
        let unseen = StoreFingerprint { unseen: true, ..wanted };
        assert!(!shows(&shown("020-1", "08:00-09:00", &[a, b]), &unseen));
    }

    #[test]
    fn approved_store_with_other_pictures_decides_no_review() {
        let mut review = submission(SubmissionKind::StorePictures, "", "472671857");
        review.picture_urls = vec!["new".to_owned()];
        let with = |state: AuditState, url| {
            let store = pb::Store { state: state.into(), ..shown("", "", &[url]) };
            result_of_pictures(&store, &review).map(|result| result.state)
        };
        assert_eq!(with(AuditState::Approved, "new"), Some(AuditState::Approved));
        assert_eq!(with(AuditState::Approved, "old"), None);
        assert_eq!(with(AuditState::Rejected, "old"), Some(AuditState::Rejected));
    }
}
