//! `CardService`: the cards of stores.

use tonic::{Request, Response, Status};

use crate::{
    call::Calls,
    context::Context,
    pb::{self, card_service_server::CardService},
    wechat::card::{GetCard, SetCard},
    writes::Writes,
};

/// Serves cards of stores.
#[derive(Clone, Debug)]
pub(super) struct Card {
    pub(super) calls: Calls,
    pub(super) writes: Writes,
}

#[tonic::async_trait]
impl CardService for Card {
    async fn get_store_card(
        &self,
        request: Request<pb::GetStoreCardRequest>,
    ) -> Result<Response<pb::GetStoreCardResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = GetCard::try_from(request)?;
        let reply = self.calls.read(&ctx, call).await?;
        Ok(Response::new(reply.into()))
    }

    async fn set_store_card(
        &self,
        request: Request<pb::SetStoreCardRequest>,
    ) -> Result<Response<pb::SetStoreCardResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = SetCard::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }
}
