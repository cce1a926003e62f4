//! Old stores: whether a migration has begun, and how it ended.

use std::time::Instant;

use super::{Effect, Question, Recovery, gone, lists::ListedLegacyStore, reviews::ReviewResult};
use crate::{
    call::{Error, unreadable},
    context::Context,
    journal::ExpectedEffect,
    pb::{AuditState, Submission, UpgradeState},
    state::{self, is_open},
    wechat::{
        Endpoint,
        store::{GetPoi, GetPoiList},
    },
};

impl Recovery {
    /// Returns the effect of a migration, if it has begun and no other submission began it.
    pub(super) async fn migration(
        &self,
        Question { ctx, asked, .. }: Question<'_>,
        submission: &Submission,
        legacy_poi_id: &str,
    ) -> Result<Option<Effect>, Error> {
        let listed = self.listed_legacy_stores(ctx, asked).await?;
        let Some(store) = listed.rows.iter().find(|store| store.poi_id == legacy_poi_id) else {
            listed.whole()?;
            return Ok(None);
        };
        match has_begun(store.upgrade_state) {
            Some(true) => {}
            Some(false) => return Ok(None),
            None => return Err(unreadable(GetPoiList::PATH, "no known state of a store")),
        }
        let mut by_another = false;
        let visit = |other: state::Submission, its: Option<ExpectedEffect>| {
            by_another |= has_migrated(&other, its.as_ref(), legacy_poi_id);
        };
        self.each_other(submission, visit).await?;
        Ok((!by_another).then(Effect::default))
    }

    /// Returns the effect of a deletion, if WeChat has no such old store.
    pub(super) async fn legacy_store_deleted(
        &self,
        Question { ctx, .. }: Question<'_>,
        poi_id: &str,
    ) -> Result<Option<Effect>, Error> {
        let call = GetPoi { poi_id: poi_id.to_owned().into() };
        gone(self.0.calls.read(ctx, call).await.err())
    }

    /// Returns the result of the review of a migrating store: WeChat lists how far the old store is.
    pub(super) async fn migration_review(
        &self,
        ctx: &Context,
        legacy_poi_id: &str,
        began: Instant,
    ) -> Result<Option<ReviewResult>, Error> {
        let listed = self.listed_legacy_stores(ctx, began).await?;
        let found = listed.rows.iter().find(|store| store.poi_id == legacy_poi_id);
        Ok(found.map(result))
    }
}

/// Returns whether a migration in this state has begun, or `None` if that is not known. A failed one may
/// have failed before the write.
fn has_begun(state: UpgradeState) -> Option<bool> {
    match state {
        UpgradeState::Migrating | UpgradeState::Migrated => Some(true),
        UpgradeState::Pending | UpgradeState::Failed | UpgradeState::Forbidden => Some(false),
        UpgradeState::Unspecified => None,
    }
}

/// Returns whether another submission migrates this old store, or has migrated it.
fn has_migrated(
    other: &state::Submission,
    its: Option<&ExpectedEffect>,
    legacy_poi_id: &str,
) -> bool {
    (is_open(other.state) || other.state == AuditState::Approved)
        && matches!(its, Some(ExpectedEffect::Migration(its)) if its == legacy_poi_id)
}

/// Returns the result of the review of a migrating store.
fn result(store: &ListedLegacyStore) -> ReviewResult {
    let state = match store.upgrade_state {
        UpgradeState::Migrated => AuditState::Approved,
        UpgradeState::Failed => AuditState::Rejected,
        _ => AuditState::InReview,
    };
    ReviewResult { state, reason: store.upgrade_comment.clone(), ..ReviewResult::default() }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::other, *};

    #[test]
    fn migration_that_failed_may_have_failed_before() {
        assert_eq!(has_begun(UpgradeState::Migrating), Some(true));
        assert_eq!(has_begun(UpgradeState::Migrated), Some(true));
        assert_eq!(has_begun(UpgradeState::Failed), Some(false));
        assert_eq!(has_begun(UpgradeState::Pending), Some(false));
        assert_eq!(has_begun(UpgradeState::Unspecified), None);
    }

    #[test]
    fn migration_by_another_submission_is_recognized() {
        let its = |poi_id: &str| ExpectedEffect::Migration(poi_id.to_owned());
        let migrated = |state, its: &ExpectedEffect| {
            has_migrated(&other(state, "", ""), Some(its), "271262077")
        };
        assert!(migrated(AuditState::InReview, &its("271262077")));
        assert!(migrated(AuditState::Approved, &its("271262077")));
        assert!(!migrated(AuditState::Rejected, &its("271262077")));
        assert!(!migrated(AuditState::InReview, &its("271262078")));
        assert!(!migrated(AuditState::InReview, &ExpectedEffect::StoreDeleted("271262077".into())));
    }

    #[test]
    fn review_of_a_migration_has_wechats_comment() {
        let store = |upgrade_state| ListedLegacyStore {
            poi_id: "271262077".to_owned(),
            upgrade_state,
            upgrade_comment: "资料不全".to_owned(),
        };
        for (state, expected) in [
            (UpgradeState::Migrated, AuditState::Approved),
            (UpgradeState::Failed, AuditState::Rejected),
            (UpgradeState::Migrating, AuditState::InReview),
            (UpgradeState::Unspecified, AuditState::InReview),
        ] {
            let ReviewResult { state, reason, .. } = result(&store(state));
            assert_eq!((state, reason.as_str()), (expected, "资料不全"));
        }
    }
}
