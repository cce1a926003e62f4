//! `NearbyService`.

use tonic::{Request, Response, Status};

use crate::{
    context::Context,
    operation::Operations,
    pb::{self, nearby_service_server::NearbyService},
    translate::{
        nearby::{added, page_size, replaced},
        page::Cursor,
    },
    wechat::nearby::{AddNearbyPoi, DelNearbyPoi, GetNearbyPoiList, SetNearbyPoiShowStatus},
};

/// Serves places at which a mini program appears nearby.
#[derive(Clone, Debug)]
pub(super) struct Nearby {
    pub(super) ops: Operations,
}

#[tonic::async_trait]
impl NearbyService for Nearby {
    async fn add_nearby_poi(
        &self,
        request: Request<pb::AddNearbyPoiRequest>,
    ) -> Result<Response<pb::AddNearbyPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = AddNearbyPoi::try_from(request)?;
        Ok(Response::new(self.ops.submit(&ctx, call, added).await?))
    }

    async fn replace_nearby_poi(
        &self,
        request: Request<pb::ReplaceNearbyPoiRequest>,
    ) -> Result<Response<pb::ReplaceNearbyPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = AddNearbyPoi::try_from(request)?;
        Ok(Response::new(self.ops.submit(&ctx, call, replaced).await?))
    }

    async fn list_nearby_pois(
        &self,
        request: Request<pb::ListNearbyPoisRequest>,
    ) -> Result<Response<pb::ListNearbyPoisResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let pb::ListNearbyPoisRequest { app_id: _, page_size: size, page_token } = request;
        let size = page_size(size)?;
        let app_id = &self.ops.account::<GetNearbyPoiList>(&ctx)?.app_id;
        let cursor = Cursor::read(&page_token, format!("nearby/{app_id}"))?;
        let page = self.ops.nearby_pois(&ctx, &cursor, size).await?;
        Ok(Response::new(page))
    }

    async fn delete_nearby_poi(
        &self,
        request: Request<pb::DeleteNearbyPoiRequest>,
    ) -> Result<Response<pb::DeleteNearbyPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = DelNearbyPoi::try_from(request)?;
        Ok(Response::new(self.ops.write(&ctx, call, Into::into).await?))
    }

    async fn set_nearby_poi_visibility(
        &self,
        request: Request<pb::SetNearbyPoiVisibilityRequest>,
    ) -> Result<Response<pb::SetNearbyPoiVisibilityResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = SetNearbyPoiShowStatus::try_from(request)?;
        Ok(Response::new(self.ops.write(&ctx, call, Into::into).await?))
    }
}
