//! `StoreService`: stores.

use tonic::{Request, Response, Status};

use crate::{
    call::Calls,
    context::Context,
    pb::{self, store_service_server::StoreService},
    translate::{change::Change, legacy::Progress, page::take_out_unreadable, store::WantedRows},
    wechat::store::{AddStore, DelPoi, DelStore, GetPoi, GetPoiList, GetStoreInfo, GetStoreList},
    writes::Writes,
};

/// Serves stores, and the stores of the older 门店管理.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) calls: Calls,
    pub(super) writes: Writes,
}

#[tonic::async_trait]
impl StoreService for Store {
    async fn add_store(
        &self,
        request: Request<pb::AddStoreRequest>,
    ) -> Result<Response<pb::AddStoreResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let validate_only = request.validate_only;
        let call = AddStore::try_from(request)?;
        if validate_only {
            self.calls.account::<AddStore>(&ctx).await?;
            return Ok(Response::new(Default::default()));
        }
        let answer =
            |_, submission| pb::AddStoreResponse { submission: Some(submission), recovered: false };
        Ok(Response::new(self.writes.submit(&ctx, call, answer).await?))
    }

    async fn update_store(
        &self,
        request: Request<pb::UpdateStoreRequest>,
    ) -> Result<Response<pb::UpdateStoreResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let validate_only = request.validate_only;
        let change = Change::try_from(request)?;
        if validate_only {
            return Ok(Response::new(self.writes.checked_update(&ctx, change).await?));
        }
        Ok(Response::new(self.writes.update_store(&ctx, change).await?))
    }

    async fn get_store(
        &self,
        request: Request<pb::GetStoreRequest>,
    ) -> Result<Response<pb::GetStoreResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = GetStoreInfo::try_from(request)?;
        let reply = self.calls.read(&ctx, call).await?;
        Ok(Response::new(reply.into()))
    }

    async fn list_stores(
        &self,
        request: Request<pb::ListStoresRequest>,
    ) -> Result<Response<pb::ListStoresResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let wanted = WantedRows::try_from(request)?;
        let page = self.calls.page::<GetStoreList>(&ctx, wanted).await?;
        let (next_page_token, total_size) = (page.next_token(), page.counts.0);
        let mut stores = page.rows.into_iter().map(Into::into).collect();
        let unreadable_count = take_out_unreadable(&mut stores, |store: &pb::Store| &store.poi_id);
        Ok(Response::new(pb::ListStoresResponse {
            stores,
            next_page_token,
            total_size,
            unreadable_count,
        }))
    }

    async fn delete_store(
        &self,
        request: Request<pb::DeleteStoreRequest>,
    ) -> Result<Response<pb::DeleteStoreResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = DelStore::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }

    async fn list_legacy_stores(
        &self,
        request: Request<pb::ListLegacyStoresRequest>,
    ) -> Result<Response<pb::ListLegacyStoresResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let wanted = WantedRows::try_from(request)?;
        let page = self.calls.page::<GetPoiList>(&ctx, wanted).await?;
        let (next_page_token, total_size) = (page.next_token(), page.counts.0);
        let mut stores = page.rows.into_iter().map(Into::into).collect();
        let unreadable_count =
            take_out_unreadable(&mut stores, |store: &pb::LegacyStore| &store.legacy_poi_id);
        Ok(Response::new(pb::ListLegacyStoresResponse {
            stores,
            next_page_token,
            total_size,
            unreadable_count,
        }))
    }

    async fn get_legacy_store(
        &self,
        request: Request<pb::GetLegacyStoreRequest>,
    ) -> Result<Response<pb::GetLegacyStoreResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = GetPoi::try_from(request)?;
        let asked = call.poi_id.clone();
        let reply = self.calls.read(&ctx, call).await?;
        Ok(Response::new((asked, reply).into()))
    }

    async fn delete_legacy_store(
        &self,
        request: Request<pb::DeleteLegacyStoreRequest>,
    ) -> Result<Response<pb::DeleteLegacyStoreResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = DelPoi::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }

    async fn get_upgrade_progress(
        &self,
        request: Request<pb::GetUpgradeProgressRequest>,
    ) -> Result<Response<pb::GetUpgradeProgressResponse>, Status> {
        let (ctx, _) = Context::split(request)?;
        let mut progress = Progress::default();
        let extent = self.calls.all::<GetPoiList>(&ctx, |row| progress.count(row)).await?;
        Ok(Response::new(progress.finish(extent.unread)))
    }
}
