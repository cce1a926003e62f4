//! `AccountService`: the accounts and the third-party platforms, for operators.

use tonic::{Request, Response, Status};

use crate::{
    accounts::Account as Configured,
    call::Calls,
    context::Context,
    errors::status,
    events::Audits,
    pb::{self, account_service_server::AccountService},
    translate::account::{account, next_page, wanted_accounts},
    wechat::{
        Done,
        account::{ClearQuota, ClearQuotaBySecret, GetQuota},
    },
    writes::Writes,
};

/// Serves the accounts and the platforms.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) calls: Calls,
    pub(super) writes: Writes,
    pub(super) audits: Audits,
}

#[tonic::async_trait]
impl AccountService for Account {
    async fn list_accounts(
        &self,
        request: Request<pb::ListAccountsRequest>,
    ) -> Result<Response<pb::ListAccountsResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let page = wanted_accounts(&request)?;
        let (accounts, next_page_token) =
            next_page(self.calls.accounts(&ctx.accounts()), page, &request.page_token)?;
        let accounts = accounts.iter().map(|account| self.shown(account)).collect();
        Ok(Response::new(pb::ListAccountsResponse { accounts, next_page_token }))
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        let (ctx, pb::GetAccountRequest { app_id: _ }) = Context::split(request)?;
        let account = self.calls.any_account(&ctx).await?;
        let backlog = self.audits.backlog(&account.app_id).await;
        let backlog = backlog.inspect_err(|error| {
            // The state of the token matters most when other parts fail.
            tracing::warn!(app_id = %account.app_id, "failed to count the open work: {error}");
        });
        let account = Some(self.shown(&account));
        Ok(Response::new(pb::GetAccountResponse { account, backlog: backlog.ok() }))
    }

    async fn get_quota(
        &self,
        request: Request<pb::GetQuotaRequest>,
    ) -> Result<Response<pb::GetQuotaResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = GetQuota::try_from(request)?;
        let reply = self.calls.read(&ctx, call).await?;
        Ok(Response::new(reply.into()))
    }

    async fn clear_quota(
        &self,
        request: Request<pb::ClearQuotaRequest>,
    ) -> Result<Response<pb::ClearQuotaResponse>, Status> {
        let (mut ctx, request) = Context::split(request)?;
        let pb::ClearQuotaRequest { app_id: _, request_id: _, use_secret } = request;
        let account = self.calls.any_account(&ctx).await?;
        // The call names the account, so its token must be of the same one.
        ctx.app_id = account.app_id.to_string();
        let appid = account.app_id.clone();
        let secret =
            use_secret.then(|| self.calls.secret::<ClearQuotaBySecret>(&account)).transpose()?;
        let cleared = move |done: Done| {
            account.quotas.forget_daily();
            done.into()
        };
        let response = match secret {
            Some(appsecret) => {
                let call = ClearQuotaBySecret { appid, appsecret };
                self.writes.write(&ctx, call, cleared).await?
            }
            None => self.writes.write(&ctx, ClearQuota { appid }, cleared).await?,
        };
        Ok(Response::new(response))
    }

    async fn create_authorization_link(
        &self,
        request: Request<pb::CreateAuthorizationLinkRequest>,
    ) -> Result<Response<pb::CreateAuthorizationLinkResponse>, Status> {
        self.create_link(request).await
    }

    async fn list_authorizers(
        &self,
        request: Request<pb::ListAuthorizersRequest>,
    ) -> Result<Response<pb::ListAuthorizersResponse>, Status> {
        self.authorizers(request).await
    }

    async fn get_authorizer(
        &self,
        request: Request<pb::GetAuthorizerRequest>,
    ) -> Result<Response<pb::GetAuthorizerResponse>, Status> {
        self.authorizer(request).await
    }

    async fn list_platforms(
        &self,
        request: Request<pb::ListPlatformsRequest>,
    ) -> Result<Response<pb::ListPlatformsResponse>, Status> {
        self.platforms(request).await
    }

    async fn start_ticket_push(
        &self,
        request: Request<pb::StartTicketPushRequest>,
    ) -> Result<Response<pb::StartTicketPushResponse>, Status> {
        self.start_tickets(request).await
    }
}

impl Account {
    /// Returns an account for callers, with the reason of its last failure.
    fn shown(&self, configured: &Configured) -> pb::Account {
        let last_push = self.audits.last_push(&configured.app_id);
        let now = self.calls.clock().unix();
        account(configured, self.calls.current_host(), last_push, status::token_reason, now)
    }
}
