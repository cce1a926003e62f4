//! The part of `AccountService` about third-party platforms and the accounts that authorized them.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::account::Account;
use crate::{
    accounts::{
        self,
        platform::{self, Link, Platform},
    },
    call,
    callers::Forbidden,
    context::{Context, Unusable},
    errors::status,
    pb,
    state::Authorizer,
    translate,
    translate::platform::{wanted_authorizer, wanted_authorizers},
    util::{id::AppId, scope::Scope},
};

impl Account {
    pub(super) async fn create_link(
        &self,
        request: Request<pb::CreateAuthorizationLinkRequest>,
    ) -> Result<Response<pb::CreateAuthorizationLinkResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let link = Link::try_from(request)?;
        let platform = self.platform_of(&ctx)?;
        let made = platform.authorization_link(&link, ctx.deadline).await?;
        Ok(Response::new(made.into()))
    }

    pub(super) async fn start_tickets(
        &self,
        request: Request<pb::StartTicketPushRequest>,
    ) -> Result<Response<pb::StartTicketPushResponse>, Status> {
        let (ctx, pb::StartTicketPushRequest { app_id: _ }) = Context::split(request)?;
        self.platform_of(&ctx)?.start_ticket_push().await?;
        Ok(Response::new(pb::StartTicketPushResponse {}))
    }

    pub(super) async fn platforms(
        &self,
        request: Request<pb::ListPlatformsRequest>,
    ) -> Result<Response<pb::ListPlatformsResponse>, Status> {
        let (ctx, pb::ListPlatformsRequest { app_id: _ }) = Context::split(request)?;
        let scope = ctx.accounts();
        let mut platforms = Vec::new();
        for platform in self.calls.platforms().all().iter() {
            if scope.has(platform.app_id.as_str()) {
                let ticket = platform.ticket().await?;
                let last_push = self.audits.last_push(&platform.app_id);
                let reason = status::token_reason;
                let shown =
                    translate::platform::platform(platform, ticket.as_ref(), last_push, reason);
                platforms.push(shown);
            }
        }
        Ok(Response::new(pb::ListPlatformsResponse { platforms }))
    }

    pub(super) async fn authorizers(
        &self,
        request: Request<pb::ListAuthorizersRequest>,
    ) -> Result<Response<pb::ListAuthorizersResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let wanted = wanted_authorizers(request)??;
        let Some(platform) = self.other_platform(&ctx, &wanted.platform)? else {
            wanted.after(&wanted.platform.clone().into())?;
            return Ok(Response::new(wanted.page(Vec::new())));
        };
        let after = wanted.after(&platform.app_id)?;
        // One more than the page shows whether there is a further one.
        let most = wanted.size + 1;
        let rows = self.authorizers_in(&platform, ctx.accounts(), after.as_ref(), most).await?;
        Ok(Response::new(wanted.page(rows)))
    }

    pub(super) async fn authorizer(
        &self,
        request: Request<pb::GetAuthorizerRequest>,
    ) -> Result<Response<pb::GetAuthorizerResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let (app_id, platform) = wanted_authorizer(&ctx.app_id, request)?;
        let platforms = self.calls.platforms();
        let found = match platform.is_empty() {
            true => self.last_authorized(&app_id).await?,
            false => match self.other_platform(&ctx, &platform)? {
                Some(platform) => platforms.authorizer(&platform, &app_id).await?,
                None => None,
            },
        };
        let unknown = || {
            let (app_id, has_platforms) = (app_id.to_string(), !platforms.are_none());
            call::Error::from(accounts::Error::Unknown { app_id, has_platforms })
        };
        let authorizer = Some(found.ok_or_else(unknown)?.into());
        Ok(Response::new(pb::GetAuthorizerResponse { authorizer }))
    }

    /// Returns the platform that a request names, or the only one of the settings.
    ///
    /// Fails if the settings do not have the platform, or if the caller's role for it is too low.
    fn platform_of(&self, ctx: &Context) -> Result<Arc<Platform>, Status> {
        let platform = self.calls.platforms().named(&ctx.app_id);
        let may = match &platform {
            Ok(platform) => ctx.caller().may(ctx.access, platform.app_id.as_str()),
            // A caller must not learn from the error which platforms exist.
            Err(_) if ctx.app_id.is_empty() => ctx.caller().may_everywhere(ctx.access),
            Err(_) => ctx.caller().may(ctx.access, &ctx.app_id),
        };
        if !may {
            let app_id = Some(ctx.app_id.clone()).filter(|app_id| !app_id.is_empty());
            let forbidden = Forbidden::new(ctx.caller(), ctx.access, app_id);
            return Err(Unusable::from(forbidden).into());
        }
        let platform = platform?;
        // It may be the only one.
        ctx.progress.note(|write| platform.app_id.as_str().clone_into(&mut write.app_id));
        Ok(platform)
    }

    /// Returns the platform of a request that is about accounts. `None` if the settings do not have it and the
    /// caller has no role for it. To that caller it must look like a platform without accounts of the caller, so that
    /// the caller does not learn which platforms exist.
    fn other_platform(
        &self,
        ctx: &Context,
        platform: &str,
    ) -> Result<Option<Arc<Platform>>, Status> {
        match self.calls.platforms().named(platform) {
            Ok(platform) => Ok(Some(platform)),
            Err(platform::Error::Unknown { app_id }) if !ctx.caller().may(ctx.access, &app_id) => {
                Ok(None)
            }
            Err(error) => Err(status::of_platform(error, "platform_app_id")),
        }
    }

    /// Returns the authorizers of a platform that are in a scope, ordered by their ids.
    async fn authorizers_in(
        &self,
        platform: &Platform,
        scope: Scope,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, platform::Error> {
        let platforms = self.calls.platforms();
        let mut app_ids = match scope {
            Scope::All => return platforms.authorizers(platform, after, most).await,
            Scope::Only(app_ids) => app_ids,
        };
        app_ids.retain(|app_id| after.is_none_or(|after| app_id > after));
        app_ids.sort_unstable();
        let mut rows = Vec::new();
        for app_id in app_ids {
            rows.extend(platforms.authorizer(platform, &app_id).await?);
            if rows.len() == most {
                break;
            }
        }
        Ok(rows)
    }

    /// Returns an authorizer of the platform that serves it: the one that it authorized last.
    async fn last_authorized(&self, app_id: &AppId) -> Result<Option<Authorizer>, platform::Error> {
        let platforms = self.calls.platforms();
        let mut last = None::<Authorizer>;
        for platform in platforms.all().iter() {
            let order = |one: &Authorizer| (one.authorized, one.changed_at);
            let found = platforms.authorizer(platform, app_id).await?;
            last = last.into_iter().chain(found).max_by_key(order);
        }
        Ok(last)
    }
}
