//! `MapPoiService`: districts, and places of Tencent Maps.

use tonic::{Request, Response, Status};

use crate::{
    call::Calls,
    context::Context,
    pb::{self, map_poi_service_server::MapPoiService},
    translate::map_poi::{Names, WantedDistricts},
    util::codec::Encoded,
    wechat::map_poi::{CreateMapPoi, SearchMapPoi},
    writes::Writes,
};

/// Serves districts and places of Tencent Maps.
#[derive(Clone, Debug)]
pub(super) struct MapPoi {
    pub(super) calls: Calls,
    pub(super) writes: Writes,
}

#[tonic::async_trait]
impl MapPoiService for MapPoi {
    async fn list_districts(
        &self,
        request: Request<pb::ListDistrictsRequest>,
    ) -> Result<Response<Encoded<pb::ListDistrictsResponse>>, Status> {
        let (ctx, request) = Context::split(request)?;
        let wanted = WantedDistricts::try_from(request)?;
        let districts = self.calls.by_district(&ctx, |table| table.list(&wanted)).await?;
        Ok(Response::new(districts))
    }

    async fn resolve_district(
        &self,
        request: Request<pb::ResolveDistrictRequest>,
    ) -> Result<Response<pb::ResolveDistrictResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let names = Names::try_from(request)?;
        let matches = self.calls.by_district(&ctx, |table| table.resolve(&names)).await?;
        Ok(Response::new(matches))
    }

    async fn search_map_pois(
        &self,
        request: Request<pb::SearchMapPoisRequest>,
    ) -> Result<Response<pb::SearchMapPoisResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = SearchMapPoi::try_from(request)?;
        let reply = self.calls.read(&ctx, call).await?;
        Ok(Response::new(reply.into()))
    }

    async fn create_map_poi(
        &self,
        request: Request<pb::CreateMapPoiRequest>,
    ) -> Result<Response<pb::CreateMapPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let validate_only = request.validate_only;
        let call = self.calls.in_district(&ctx, CreateMapPoi::try_from(request)?).await?;
        if validate_only {
            self.calls.account::<CreateMapPoi>(&ctx).await?;
            return Ok(Response::new(Default::default()));
        }
        let answer = |_, submission| pb::CreateMapPoiResponse {
            submission: Some(submission),
            recovered: false,
        };
        Ok(Response::new(self.writes.submit(&ctx, call, answer).await?))
    }
}
