//! `MapPoiService`.

use tonic::{Request, Response, Status};

use crate::{
    codec::Encoded,
    context::Context,
    operation::Operations,
    pb::{self, map_poi_service_server::MapPoiService},
    translate::map_poi::{Names, WantedDistricts},
    wechat::map_poi::{CreateMapPoi, SearchMapPoi},
};

/// Serves districts and places of Tencent Maps.
#[derive(Clone, Debug)]
pub(super) struct MapPoi {
    pub(super) ops: Operations,
}

#[tonic::async_trait]
impl MapPoiService for MapPoi {
    async fn list_districts(
        &self,
        request: Request<pb::ListDistrictsRequest>,
    ) -> Result<Response<Encoded<pb::ListDistrictsResponse>>, Status> {
        let (ctx, request) = Context::split(request)?;
        let wanted = WantedDistricts::try_from(request)?;
        let districts = self.ops.districts(&ctx).await?;
        Ok(Response::new(districts.list(&wanted)?))
    }

    async fn resolve_district(
        &self,
        request: Request<pb::ResolveDistrictRequest>,
    ) -> Result<Response<pb::ResolveDistrictResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let names = Names::try_from(request)?;
        let districts = self.ops.districts(&ctx).await?;
        Ok(Response::new(districts.resolve(names)?))
    }

    async fn search_map_pois(
        &self,
        request: Request<pb::SearchMapPoisRequest>,
    ) -> Result<Response<pb::SearchMapPoisResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = SearchMapPoi::try_from(request)?;
        let reply = self.ops.read(&ctx, call).await?;
        Ok(Response::new(reply.into()))
    }

    async fn create_map_poi(
        &self,
        request: Request<pb::CreateMapPoiRequest>,
    ) -> Result<Response<pb::CreateMapPoiResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = CreateMapPoi::try_from(request)?;
        Ok(Response::new(self.ops.create_map_poi(&ctx, call).await?))
    }
}
