//! Partial updates of stores: read, fill in, write, one at a time per store.
//!
//! WeChat replaces all pictures with every update, and while new ones are in review it shows the
//! old ones. Sending those back would withdraw the new ones, so pictures that WeChat reviews are
//! sent instead: as this process remembers them, or else as they were submitted, by the state.

use std::time::{Duration, Instant};

use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{Error, Operations};
use crate::{
    accounts::Account,
    context::Context,
    pb::{self, AuditState},
    state::is_open,
    translate::{
        Remembered, Sought,
        change::{Change, pictures_review, updated},
        store::state,
    },
    util::id::{AppId, PoiId},
    wechat::{
        Int,
        store::{GetStoreInfo, StoreInfo, UpdateStore},
    },
};

/// No review of pictures was heard of that took longer.
const REVIEW_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// So long a store may still be shown as it was before an update.
const READ_LAG: Duration = Duration::from_secs(60);
/// Stores whose pictures are remembered at most; the least used are forgotten first.
const MOST_STORES: u64 = 100_000;

/// A store of an account.
pub(super) type Store = (AppId, PoiId);

impl Operations {
    /// Changes a store and leaves the rest as it is. Reads and writes in a task of its own, as
    /// [`Operations::write`] does; nothing is sent if the caller leaves before.
    pub(crate) async fn update_store(
        &self,
        ctx: &Context,
        change: Change,
    ) -> Result<pb::UpdateStoreResponse, Error> {
        // It is read first.
        let unknown = None::<fn(&_, &_, &_) -> _>;
        self.journaled::<UpdateStore, _, _>(ctx, unknown, |ops, account, ctx, sending| async move {
            let store = (account.app_id.clone(), change.poi_id.clone());
            let lane = format!("lane/update_store/{}/{}", store.0, store.1);
            let left = &sending.left;
            let lane = ops.enter_lane::<UpdateStore>(&ctx, lane, Duration::ZERO, left).await?;
            let sent = async {
                let evidence = Some(change.evidence());
                let call = ops.completed(&account, &ctx, &store, change, left).await?;
                let response = updated(&call, None).encode_to_vec().into();
                let sought = Sought { evidence, response, ..Sought::default() };
                let mut sending = sending.clone().seeking(|| sought).within(Some(&lane));
                let reply = ops.attempts(&account, &ctx, &call, Some(&mut sending)).await?;
                Ok((call, reply))
            };
            let sent = sent.await;
            lane.leave(sent.as_ref().is_err_and(Error::leaves_doubt)).await;
            let (call, reply) = sent?;
            let data = reply.data;
            let reviewed = data.is_reviewed();
            ops.0.pictures.note(store, &call.pic_list.0.list, reviewed, ops.clock().now());
            if !reviewed {
                return Ok((updated(&call, None), None));
            }
            let review = pictures_review(&call, data.audit_id);
            let (write_id, now) = (sending.write_id(), ops.clock().wall());
            let remembered = Remembered::new(review, None, write_id, &account.app_id, &ctx, now);
            Ok((updated(&call, Some(remembered.submission.clone())), Some(remembered)))
        })
        .await
    }

    /// Returns what an update would send, and sends nothing. What is absent is read, as for the update.
    pub(crate) async fn checked_update(
        &self,
        ctx: &Context,
        change: Change,
    ) -> Result<pb::UpdateStoreResponse, Error> {
        let account = self.account::<UpdateStore>(ctx)?;
        let store = (account.app_id.clone(), change.poi_id.clone());
        // The caller's leave ends this, too: it is in no task of its own.
        let left = CancellationToken::new();
        let call = self.completed(account, ctx, &store, change, &left).await?;
        Ok(updated(&call, None))
    }

    /// The pictures that were last submitted for a store, if their review is not known to have ended.
    async fn submitted(&self, (app_id, poi_id): &Store) -> Result<Option<Vec<String>>, Error> {
        let Some(stored) = self.0.state.pictures(app_id, poi_id).await? else { return Ok(None) };
        if !is_open(stored.state) {
            return Ok(None);
        }
        Ok(Some(Remembered::read(&stored.message)?.submission.picture_urls))
    }

    /// The whole update that a change means.
    async fn completed(
        &self,
        account: &Account,
        ctx: &Context,
        (app_id, poi_id): &Store,
        change: Change,
        left: &CancellationToken,
    ) -> Result<UpdateStore, Error> {
        if change.is_whole() {
            return change.over(StoreInfo::default(), None).map_err(Error::Invalid);
        }
        let call = GetStoreInfo { poi_id: poi_id.clone() };
        let ctx = ctx.beforehand();
        let reads = left.run_until_cancelled(self.attempts(account, &ctx, &call, None));
        let shown = reads.await.unwrap_or(Err(Error::Deadline))?.business.base_info;
        let store = (app_id.clone(), poi_id.clone());
        let known = self.0.pictures.in_review(&store, shown.status, self.clock().now());
        let in_review = match known {
            Some(known) => known,
            None if state(shown.status) == AuditState::InReview => self.submitted(&store).await?,
            None => None,
        };
        change.over(shown, in_review).map_err(Error::Invalid)
    }
}

/// The pictures that WeChat reviews, as far as this process sent them. What it knows of a store is
/// none where it sent others since.
#[derive(Debug)]
pub(super) struct Pictures(moka::sync::Cache<Store, Option<Awaited>>);

#[derive(Clone, Debug)]
struct Awaited {
    pictures: Vec<String>,
    sent_at: Instant,
}

impl Default for Pictures {
    fn default() -> Self {
        let cache = moka::sync::Cache::builder();
        Self(cache.max_capacity(MOST_STORES).time_to_live(REVIEW_LIMIT).build())
    }
}

impl Pictures {
    /// The pictures of a store that are in review, if that is known, going by what WeChat shows of
    /// the store now.
    fn in_review(&self, store: &Store, status: Int, now: Instant) -> Option<Option<Vec<String>>> {
        let Some(Awaited { pictures, sent_at }) = self.0.get(store)? else { return Some(None) };
        let age = now.saturating_duration_since(sent_at);
        let awaited = match state(status) {
            AuditState::InReview => age < REVIEW_LIMIT,
            // What WeChat shows may trail what it has just taken.
            AuditState::Approved => age < READ_LAG,
            _ => false,
        };
        if !awaited {
            self.0.invalidate(store);
        }
        Some(awaited.then_some(pictures))
    }

    /// Notes which pictures were sent, and whether WeChat began a review.
    fn note(&self, store: Store, sent: &[String], reviewed: bool, now: Instant) {
        if reviewed {
            self.0.insert(store, Some(Awaited { pictures: sent.to_vec(), sent_at: now }));
            return;
        }
        // Those in review sent again begin no other review; others end theirs.
        let known = self.0.get(&store);
        if known.is_none_or(|known| known.is_none_or(|awaited| awaited.pictures != sent)) {
            self.0.insert(store, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: Int = Int(Some(1));
    const IN_REVIEW: Int = Int(Some(2));
    const REJECTED: Int = Int(Some(3));

    fn store() -> Store {
        ("wx1".to_owned().into(), "472671857".to_owned().into())
    }

    fn new() -> Vec<String> {
        vec!["http://new".to_owned()]
    }

    /// The memory after new pictures went into review a day ago, and what time it is.
    fn a_day_after() -> (Pictures, Instant) {
        let (pictures, now) = (Pictures::default(), Instant::now());
        pictures.note(store(), &new(), true, now);
        (pictures, now + Duration::from_secs(24 * 3600))
    }

    #[test]
    fn pictures_are_remembered_until_their_review_ends() {
        for ended in [SHOWN, REJECTED, Int(None)] {
            let (pictures, now) = a_day_after();
            assert_eq!(pictures.in_review(&store(), IN_REVIEW, now), Some(Some(new())));
            assert_eq!(pictures.in_review(&store(), ended, now), Some(None));
            assert_eq!(pictures.in_review(&store(), IN_REVIEW, now), None, "forgotten");
        }
        let (pictures, now) = a_day_after();
        assert_eq!(pictures.in_review(&store(), IN_REVIEW, now + REVIEW_LIMIT), Some(None));
    }

    #[test]
    fn a_store_read_at_once_may_look_as_it_did_before() {
        let (pictures, now) = (Pictures::default(), Instant::now());
        pictures.note(store(), &new(), true, now);
        assert_eq!(pictures.in_review(&store(), SHOWN, now), Some(Some(new())));
        assert_eq!(pictures.in_review(&store(), SHOWN, now + READ_LAG), Some(None));
    }

    #[test]
    fn other_pictures_end_the_review_and_the_same_do_not() {
        let (pictures, now) = a_day_after();
        pictures.note(store(), &new(), false, now);
        assert_eq!(pictures.in_review(&store(), IN_REVIEW, now), Some(Some(new())));
        pictures.note(store(), &["http://old".to_owned()], false, now);
        assert_eq!(pictures.in_review(&store(), IN_REVIEW, now), Some(None));
    }
}
