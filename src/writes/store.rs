//! Partial updates of stores: read, fill in, write, one at a time per store.
//!
//! WeChat replaces all pictures with every update, and while new ones are in review it shows the old ones.
//! Sending those back would withdraw the new ones, so the update has the pictures that WeChat reviews: as
//! this process remembers them, or as the state recorded their submission.

use std::time::{Duration, Instant};

use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{Begun, Error, Writes, submission::name};
use crate::{
    accounts::Account,
    call::{self, Sending},
    context::Context,
    journal::{SubmissionRecord, WriteRecord},
    pb::{self, AuditState},
    state::is_open,
    translate::{
        change::{Change, pictures_review, updated},
        store::state,
    },
    util::id::{AppId, PoiId},
    wechat::{
        Int,
        store::{GetStoreInfo, StoreInfo, UpdateStore, UpdateStoreReply},
    },
};

/// WeChat is not known to review pictures for longer than this.
const REVIEW_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// WeChat may show a store as it was before an update for this long.
const READ_LAG: Duration = Duration::from_secs(60);
/// How many stores' pictures are remembered. The least used are forgotten first.
const MOST_STORES: u64 = 100_000;

/// A store of an account.
pub(super) type Store = (AppId, PoiId);

impl Writes {
    /// Changes a store and leaves the rest as it is. Reads and writes in a task of its own, as
    /// [`Writes::write`] does. If the caller leaves before the update is sent, it is not sent.
    pub(crate) async fn update_store(
        &self,
        ctx: &Context,
        change: Change,
    ) -> Result<pb::UpdateStoreResponse, Error> {
        let account = self.0.calls.account::<UpdateStore>(ctx).await?;
        self.detached(ctx, |writes, ctx, left| async move {
            // The whole update is known only after the store was read.
            let record = None::<fn(&str) -> WriteRecord>;
            let mut sending =
                match writes.begin::<UpdateStore, _>(&account, &ctx, left, record).await? {
                    Begun::Answered(response) => return Ok(response),
                    Begun::New(sending) => sending,
                };
            let sent = writes.send_update(&account, &ctx, change, &mut sending).await;
            let answered = sent.map(|(call, reply)| {
                let record = writes.reviewed_pictures(&account, &ctx, &call, reply, &sending);
                (updated(&call, record.as_ref().map(|record| record.submission.clone())), record)
            });
            writes.end::<UpdateStore, _>(&ctx, sending, answered).await
        })
        .await
    }

    /// Reads a store and sends the whole update, in the write queue of the store.
    async fn send_update(
        &self,
        account: &Account,
        ctx: &Context,
        change: Change,
        sending: &mut Sending,
    ) -> Result<(UpdateStore, UpdateStoreReply), Error> {
        let calls = &self.0.calls;
        // Replicas of earlier versions have this name for the queue, too.
        let queue = format!("lane/update_store/{}/{}", account.app_id, change.poi_id);
        let turn =
            calls.enter_queue::<UpdateStore>(ctx, queue, Duration::ZERO, &sending.left).await?;
        sending.within(&turn);
        let sent = async {
            let expected_effect = Some(change.expected_effect());
            let call = self.completed(account, ctx, change, &sending.left).await?;
            sending.set_record(|_| WriteRecord {
                expected_effect,
                response: updated(&call, None).encode_to_vec().into(),
                ..WriteRecord::default()
            });
            let reply = calls.attempts(account, ctx, &call, Some(sending)).await?;
            Ok((call, reply))
        };
        let sent: Result<_, Error> = sent.await;
        let in_doubt = matches!(&sent, Err(Error::Call(error)) if error.leaves_doubt());
        turn.end(in_doubt).await;
        sent
    }

    /// Remembers which pictures an update sent. Returns what is recorded of their review, if WeChat began
    /// one.
    fn reviewed_pictures(
        &self,
        account: &Account,
        ctx: &Context,
        call: &UpdateStore,
        UpdateStoreReply { data }: UpdateStoreReply,
        sending: &Sending,
    ) -> Option<SubmissionRecord> {
        let (store, reviewed) = ((account.app_id.clone(), call.poi_id.clone()), data.is_reviewed());
        self.0.pictures.note(store, &call.pic_list.0.list, reviewed, self.clock().now());
        if !reviewed {
            return None;
        }
        let review = pictures_review(call, data.audit_id);
        let write = name(sending.write_id(), account, ctx);
        Some(SubmissionRecord::new(review, None, write, self.clock().wall()))
    }

    /// Returns the response that an update would have, and sends nothing. Reads what the change leaves
    /// out, as for the update.
    pub(crate) async fn checked_update(
        &self,
        ctx: &Context,
        change: Change,
    ) -> Result<pb::UpdateStoreResponse, Error> {
        let account = self.0.calls.account::<UpdateStore>(ctx).await?;
        // This is in no task of its own, so it ends when the caller leaves.
        let left = CancellationToken::new();
        let call = self.completed(&account, ctx, change, &left).await?;
        Ok(updated(&call, None))
    }

    /// Returns the pictures that were last submitted for a store, if their review may still be open.
    async fn submitted(&self, (app_id, poi_id): &Store) -> Result<Option<Vec<String>>, Error> {
        let Some(stored) = self.0.journal.pictures(app_id, poi_id).await? else { return Ok(None) };
        if !is_open(stored.state) {
            return Ok(None);
        }
        Ok(Some(SubmissionRecord::parse(&stored.message)?.submission.picture_urls))
    }

    /// Returns the whole update that a change means.
    async fn completed(
        &self,
        account: &Account,
        ctx: &Context,
        change: Change,
        left: &CancellationToken,
    ) -> Result<UpdateStore, Error> {
        if change.is_whole() {
            return Ok(change.over(StoreInfo::default(), None)?);
        }
        let store = (account.app_id.clone(), change.poi_id.clone());
        let call = GetStoreInfo { poi_id: change.poi_id.clone() };
        let ctx = ctx.for_preflight_read();
        let read = self.0.calls.attempts(account, &ctx, &call, None);
        let read = left.run_until_cancelled(read).await.unwrap_or(Err(call::Error::Deadline));
        let shown = read?.business.base_info;
        let known = self.0.pictures.in_review(&store, shown.status, self.clock().now());
        let in_review = match known {
            Some(known) => known,
            None if state(shown.status) == AuditState::InReview => self.submitted(&store).await?,
            None => None,
        };
        Ok(change.over(shown, in_review)?)
    }
}

/// The pictures that WeChat reviews, as far as this process sent them. The entry of a store is `None` if
/// this process sent other pictures since.
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
    /// Returns the pictures of a store that are in review, if that is known. `status` is what WeChat
    /// shows of the store now.
    fn in_review(&self, store: &Store, status: Int, now: Instant) -> Option<Option<Vec<String>>> {
        let Some(Awaited { pictures, sent_at }) = self.0.get(store)? else { return Some(None) };
        let age = now.saturating_duration_since(sent_at);
        let awaited = match state(status) {
            AuditState::InReview => age < REVIEW_LIMIT,
            // WeChat may still show the state before the update.
            AuditState::Approved => age < READ_LAG,
            _ => false,
        };
        if !awaited {
            self.0.invalidate(store);
        }
        Some(awaited.then_some(pictures))
    }

    /// Remembers which pictures were sent, and whether WeChat began a review.
    fn note(&self, store: Store, sent: &[String], reviewed: bool, now: Instant) {
        if reviewed {
            self.0.insert(store, Some(Awaited { pictures: sent.to_vec(), sent_at: now }));
            return;
        }
        // The same pictures sent again begin no other review. Other pictures end the review.
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
    fn pictures_are_cached_until_their_review_ends() {
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
    fn store_may_lag_behind_an_update() {
        let (pictures, now) = (Pictures::default(), Instant::now());
        pictures.note(store(), &new(), true, now);
        assert_eq!(pictures.in_review(&store(), SHOWN, now), Some(Some(new())));
        assert_eq!(pictures.in_review(&store(), SHOWN, now + READ_LAG), Some(None));
    }

    #[test]
    fn only_other_pictures_end_a_review() {
        let (pictures, now) = a_day_after();
        pictures.note(store(), &new(), false, now);
        assert_eq!(pictures.in_review(&store(), IN_REVIEW, now), Some(Some(new())));
        pictures.note(store(), &["http://old".to_owned()], false, now);
        assert_eq!(pictures.in_review(&store(), IN_REVIEW, now), Some(None));
    }
}
