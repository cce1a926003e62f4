//! `NearbyService`: places at which a mini program appears nearby.

use tonic::{Request, Response, Status};

use crate::{
    call::Calls,
    context::Context,
    pb::{self, nearby_service_server::NearbyService},
    translate::{
        nearby::{added, replaced},
        page::take_out_unreadable,
        store::WantedRows,
    },
    wechat::nearby::{AddNearbyPoi, DelNearbyPoi, GetNearbyPoiList, SetNearbyPoiShowStatus},
    writes::Writes,
};

/// Serves places at which a mini program appears nearby.
#[derive(Clone, Debug)]
pub(super) struct Nearby {
    pub(super) calls: Calls,
    pub(super) writes: Writes,
}

#[tonic::async_trait]
impl NearbyService for Nearby {
    async fn add_nearby_poi(
        &self,
        request: Request<pb::AddNearbyPoiRequest>,
    ) -> Result<Response<pb::AddNearbyPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let validate_only = request.validate_only;
        let call = AddNearbyPoi::try_from(request)?;
        if validate_only {
            self.calls.account::<AddNearbyPoi>(&ctx).await?;
            return Ok(Response::new(Default::default()));
        }
        Ok(Response::new(self.writes.submit(&ctx, call, added).await?))
    }

    async fn replace_nearby_poi(
        &self,
        request: Request<pb::ReplaceNearbyPoiRequest>,
    ) -> Result<Response<pb::ReplaceNearbyPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let validate_only = request.validate_only;
        let call = AddNearbyPoi::try_from(request)?;
        if validate_only {
            self.calls.account::<AddNearbyPoi>(&ctx).await?;
            return Ok(Response::new(Default::default()));
        }
        Ok(Response::new(self.writes.submit(&ctx, call, replaced).await?))
    }

    async fn list_nearby_pois(
        &self,
        request: Request<pb::ListNearbyPoisRequest>,
    ) -> Result<Response<pb::ListNearbyPoisResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let wanted = WantedRows::try_from(request)?;
        let page = self.calls.page::<GetNearbyPoiList>(&ctx, wanted).await?;
        let next_page_token = page.next_token();
        let mut pois = page.rows.into_iter().map(Into::into).collect();
        let unreadable_count =
            take_out_unreadable(&mut pois, |poi: &pb::NearbyPoi| &poi.nearby_poi_id);
        Ok(Response::new(pb::ListNearbyPoisResponse {
            pois,
            next_page_token,
            remaining_count: page.counts.left.0,
            maximum_count: page.counts.most.0,
            unreadable_count,
        }))
    }

    async fn delete_nearby_poi(
        &self,
        request: Request<pb::DeleteNearbyPoiRequest>,
    ) -> Result<Response<pb::DeleteNearbyPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = DelNearbyPoi::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }

    async fn set_nearby_poi_visibility(
        &self,
        request: Request<pb::SetNearbyPoiVisibilityRequest>,
    ) -> Result<Response<pb::SetNearbyPoiVisibilityResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = SetNearbyPoiShowStatus::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }
}
