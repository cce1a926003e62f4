//! `TokenService`: the access tokens of the accounts, for other programs of the operator.
//!
//! This is the only place that gives out a token. Decision 49 has the reasons.

use tonic::{Request, Response, Status};

use crate::{
    call::Calls,
    context::Context,
    errors::status,
    pb::{self, token_service_server::TokenService},
    translate::token::{access_token, wanted_life},
};

/// Gives out access tokens, if the settings allow it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) calls: Calls,
    /// `token_service.enabled`
    pub(super) enabled: bool,
}

#[tonic::async_trait]
impl TokenService for Token {
    async fn get_access_token(
        &self,
        request: Request<pb::GetAccessTokenRequest>,
    ) -> Result<Response<pb::GetAccessTokenResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let least_life = wanted_life(&request)?;
        let account = self.calls.any_account(&ctx).await?;
        // After the role, so that only admins learn whether it is on.
        if !self.enabled {
            return Err(status::token_service_off());
        }
        let token = self.calls.access_token(&ctx, &account, least_life).await?;
        Ok(Response::new(access_token(token)))
    }
}
