//! `MerchantService`: the store mini program itself.

use tonic::{Request, Response, Status};

use crate::{
    call::Calls,
    context::Context,
    pb::{self, merchant_service_server::MerchantService},
    util::codec::Encoded,
    wechat::merchant::{ApplyMerchant, GetMerchantAuditInfo, ModifyMerchant},
    writes::Writes,
};

/// Serves the store mini program itself.
#[derive(Clone, Debug)]
pub(super) struct Merchant {
    pub(super) calls: Calls,
    pub(super) writes: Writes,
}

#[tonic::async_trait]
impl MerchantService for Merchant {
    async fn list_categories(
        &self,
        request: Request<pb::ListCategoriesRequest>,
    ) -> Result<Response<Encoded<pb::ListCategoriesResponse>>, Status> {
        let (ctx, pb::ListCategoriesRequest { app_id: _ }) = Context::split(request)?;
        let categories = self.calls.categories(&ctx).await?;
        Ok(Response::new(Encoded::clone(&categories)))
    }

    async fn apply_merchant(
        &self,
        request: Request<pb::ApplyMerchantRequest>,
    ) -> Result<Response<pb::ApplyMerchantResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let validate_only = request.validate_only;
        let call = ApplyMerchant::try_from(request)?;
        if validate_only {
            self.calls.account::<ApplyMerchant>(&ctx).await?;
            return Ok(Response::new(Default::default()));
        }
        let answer = |_, submission| pb::ApplyMerchantResponse {
            submission: Some(submission),
            recovered: false,
        };
        Ok(Response::new(self.writes.submit(&ctx, call, answer).await?))
    }

    async fn get_merchant_audit(
        &self,
        request: Request<pb::GetMerchantAuditRequest>,
    ) -> Result<Response<pb::GetMerchantAuditResponse>, Status> {
        let (ctx, pb::GetMerchantAuditRequest { app_id: _ }) = Context::split(request)?;
        let reply = self.calls.read(&ctx, GetMerchantAuditInfo {}).await?;
        Ok(Response::new(reply.into()))
    }

    async fn update_merchant(
        &self,
        request: Request<pb::UpdateMerchantRequest>,
    ) -> Result<Response<pb::UpdateMerchantResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = ModifyMerchant::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }
}
