//! WeChat's lists, each read once for all questions that are asked at the same time.

use std::{panic::resume_unwind, sync::Arc, time::Instant};

use bytes::Bytes;

use super::{Recovery, TIME_LIMIT};
use crate::{
    call::{Error, Listing, Paged},
    context::Context,
    pb::{AuditState, LegacyStore, NearbyPoi, Store, UpgradeState},
    translate::store::store_fingerprint,
    util::id::AppId,
    wechat::{
        nearby::GetNearbyPoiList,
        store::{GetPoiList, GetStoreList, PoiInfo, StoreInfo},
    },
};

/// The lists of all accounts.
#[derive(Debug)]
pub(super) struct Lists {
    stores: List<ListedStore>,
    legacy_stores: List<ListedLegacyStore>,
    nearby_pois: List<NearbyPoi>,
}

/// The needed part of a listed store, because an account may have many thousands.
#[derive(Debug)]
pub(super) struct ListedStore {
    pub(super) poi_id: String,
    pub(super) state: AuditState,
    pub(super) wechat_status: Option<i32>,
    pub(super) fingerprint: Bytes,
}

impl From<StoreInfo> for ListedStore {
    fn from(store: StoreInfo) -> Self {
        let store = Store::from(store);
        let (state, fingerprint) = (store.state(), store_fingerprint(&store));
        Self { poi_id: store.poi_id, state, wechat_status: store.wechat_status, fingerprint }
    }
}

/// The needed part of a listed old store.
#[derive(Debug)]
pub(super) struct ListedLegacyStore {
    pub(super) poi_id: String,
    pub(super) upgrade_state: UpgradeState,
    pub(super) upgrade_comment: String,
}

impl From<PoiInfo> for ListedLegacyStore {
    fn from(store: PoiInfo) -> Self {
        let store = LegacyStore::from(store);
        let upgrade_state = store.upgrade_state();
        let LegacyStore { legacy_poi_id: poi_id, upgrade_comment, .. } = store;
        Self { poi_id, upgrade_state, upgrade_comment }
    }
}

// Not moka's future cache: a caller accepts only a list whose reading began after the call, and a reading
// outlives the caller that started it.
type List<T> = moka::sync::Cache<AppId, Arc<tokio::sync::Mutex<Option<Read<T>>>>>;

/// A list, or why there is none, and when reading it began.
type Read<T> = (Instant, Result<Arc<Listing<T>>, Error>);

/// Returns what was read, if the reading began at `asked` or later.
fn new_enough<T>(read: Option<&Read<T>>, asked: Instant) -> Option<Result<Arc<Listing<T>>, Error>> {
    read.filter(|(began, _)| *began >= asked).map(|(_, rows)| rows.clone())
}

impl Default for Lists {
    fn default() -> Self {
        Self { stores: list(), legacy_stores: list(), nearby_pois: list() }
    }
}

fn list<T: Send + Sync + 'static>() -> List<T> {
    moka::sync::Cache::builder().time_to_idle(TIME_LIMIT).build()
}

impl Recovery {
    /// Returns all stores of the account, as they were at `asked` or later.
    pub(super) async fn listed_stores(
        &self,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<ListedStore>>, Error> {
        self.read::<GetStoreList, _>(&self.0.lists.stores, ctx, asked).await
    }

    /// Returns all old stores of the account, as they were at `asked` or later.
    pub(super) async fn listed_legacy_stores(
        &self,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<ListedLegacyStore>>, Error> {
        self.read::<GetPoiList, _>(&self.0.lists.legacy_stores, ctx, asked).await
    }

    /// Returns all nearby places of the account, as they were at `asked` or later.
    pub(super) async fn listed_nearby_pois(
        &self,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<NearbyPoi>>, Error> {
        self.read::<GetNearbyPoiList, _>(&self.0.lists.nearby_pois, ctx, asked).await
    }

    /// Returns a list as it was at `asked` or later. A caller that leaves does not stop the reading,
    /// because the list is of use to others, and to the same caller when it comes again.
    async fn read<L, T>(
        &self,
        lists: &List<T>,
        ctx: &Context,
        asked: Instant,
    ) -> Result<Arc<Listing<T>>, Error>
    where
        L: Paged,
        T: From<L::Row> + Send + Sync + 'static,
    {
        let list = lists.get_with(ctx.app_id.clone().into(), Default::default);
        let (calls, app_id) = (self.0.calls.clone(), ctx.app_id.clone());
        let reading = tokio::spawn(async move {
            let mut list = list.lock_owned().await;
            if let Some(rows) = new_enough(list.as_ref(), asked) {
                return rows;
            }
            let began = calls.clock().now();
            let ctx = Context { app_id, ..Context::internal(began + TIME_LIMIT) };
            let rows = calls.listing::<L, T>(&ctx, T::from).await.map(Arc::new);
            *list = Some((began, rows.clone()));
            rows
        });
        match reading.await {
            Ok(rows) => rows,
            Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
            // The runtime ends.
            Err(_) => Err(Error::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::util::clock::Clock;

    fn row<T: DeserializeOwned>(row: Value) -> T {
        serde_json::from_value(row).expect("a row of WeChat's list")
    }

    #[test]
    fn list_is_used_if_reading_began_after_question() {
        let moment = Duration::from_millis(1);
        let began = Clock::frozen().now();
        let read: Read<ListedStore> = (began, Err(Error::Stopped));
        for (asked, used) in [(began - moment, true), (began, true), (began + moment, false)] {
            // A failed reading counts, too: WeChat is not asked again for the same question.
            let found = new_enough(Some(&read), asked);
            assert_eq!(matches!(found, Some(Err(Error::Stopped))), used);
        }
        assert!(new_enough::<ListedStore>(None, began).is_none());
    }

    #[test]
    fn listed_store_keeps_state_and_fingerprint() {
        use AuditState::{Approved, InReview, Rejected, Unspecified};
        let listed = |status: Option<i32>, phone: &str| {
            let store = json!({"poi_id": "1", "status": status, "telephone": phone});
            ListedStore::from(row::<StoreInfo>(store))
        };
        for (status, state) in
            [(Some(1), Approved), (Some(2), InReview), (Some(3), Rejected), (None, Unspecified)]
        {
            let store = listed(status, "1");
            assert_eq!((&*store.poi_id, store.state, store.wechat_status), ("1", state, status));
        }
        assert_eq!(listed(Some(1), "1").fingerprint, listed(Some(3), "1").fingerprint);
        assert_ne!(listed(Some(1), "1").fingerprint, listed(Some(1), "2").fingerprint);
    }

    #[test]
    fn listed_old_store_keeps_state_and_comment() {
        let store = json!({"poi_id": "1", "upgrade_status": 1, "upgrade_comment": "照片不清"});
        let store = ListedLegacyStore::from(row::<PoiInfo>(store));
        let ListedLegacyStore { poi_id, upgrade_state, upgrade_comment } = store;
        assert_eq!((&*poi_id, upgrade_state), ("1", UpgradeState::Failed));
        assert_eq!(upgrade_comment, "照片不清");
    }
}
