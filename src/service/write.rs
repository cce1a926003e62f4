//! `WriteService`: the journal of writes.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{
    call::Error,
    context::Context,
    errors::status,
    pb::{self, get_write_request::Lookup, write_service_server::WriteService},
    recovery::Recovery,
    state::{self, State, WriteQuery},
    translate::{
        page::{page_token, parse_page_token},
        write::{resolution, wanted_write, wanted_writes, write},
    },
};

/// The name of the list in page tokens.
const WRITES: &str = "writes";

/// Serves the outcomes of writes.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) recovery: Recovery,
    pub(super) state: Arc<dyn State>,
}

#[tonic::async_trait]
impl WriteService for Write {
    async fn get_write(
        &self,
        request: Request<pb::GetWriteRequest>,
    ) -> Result<Response<pb::GetWriteResponse>, Status> {
        let (ctx, pb::GetWriteRequest { app_id: _, lookup }) = Context::split(request)?;
        let lookup = wanted_write(lookup)?;
        let found = match &lookup {
            Lookup::WriteId(id) => self.state.write(id).await.map_err(Error::State)?,
            Lookup::WriteRequestId(id) => self.newest(id, &ctx).await?,
        };
        let (Lookup::WriteId(id) | Lookup::WriteRequestId(id)) = lookup;
        let found = found.filter(|write| belongs(write, &ctx));
        let found = found.ok_or_else(|| status::write_not_found(&id))?;
        Ok(Response::new(pb::GetWriteResponse { write: Some(write(found)) }))
    }

    async fn list_writes(
        &self,
        request: Request<pb::ListWritesRequest>,
    ) -> Result<Response<pb::ListWritesResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let after = parse_page_token(WRITES, &request.page_token)?;
        let mut query = wanted_writes(ctx.accounts(), request)?;
        query.after = after;
        let page = self.state.writes(query).await.map_err(Error::State)?;
        let next_page_token = match page.at_end {
            true => String::new(),
            false => page_token(WRITES, page.seen),
        };
        let writes = page.writes.into_iter().map(write).collect();
        let unreadable_count = page.unreadable.try_into().unwrap_or(i32::MAX);
        Ok(Response::new(pb::ListWritesResponse { writes, next_page_token, unreadable_count }))
    }

    async fn resolve_write(
        &self,
        request: Request<pb::ResolveWriteRequest>,
    ) -> Result<Response<pb::ResolveWriteResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let (write_id, executed) = resolution(request)?;
        ctx.progress.note(|write| write_id.clone_into(&mut write.write_id));
        let known = self.state.write(&write_id).await.map_err(Error::State)?;
        let known = known.filter(|write| belongs(write, &ctx));
        let known = known.ok_or_else(|| status::write_not_found(&write_id))?;
        ctx.progress.note(|write| known.app_id.as_str().clone_into(&mut write.app_id));
        let before = self.recovery.resolve(&known, executed).await?;
        let before = before.ok_or_else(|| status::write_not_resolvable(&write_id))?;
        let caller = ctx.caller().name();
        tracing::info!(write_id, executed, caller, "write resolved by an operator");
        Ok(Response::new(pb::ResolveWriteResponse { write: Some(write(before)) }))
    }
}

impl Write {
    /// Returns the newest write with this request id: the caller's own, or else any that it may see.
    async fn newest(&self, request_id: &str, ctx: &Context) -> Result<Option<state::Write>, Error> {
        let request_id = Some(request_id.to_owned());
        let accounts = ctx.accounts();
        let mut query = WriteQuery { limit: 100, accounts, request_id, ..WriteQuery::default() };
        let caller = ctx.caller().name();
        let mut newest = None::<state::Write>;
        loop {
            let page = self.state.writes(query.clone()).await?;
            if page.unreadable > 0 {
                // The damaged write may be the one that the caller wants.
                let what = "a write with this request id is damaged".to_owned();
                return Err(state::Error::Unreadable(what).into());
            }
            let visible = page.writes.into_iter().filter(|write| belongs(write, ctx));
            newest =
                visible.chain(newest).max_by_key(|write| (write.caller == caller, write.number));
            if page.at_end {
                return Ok(newest);
            }
            query.after = page.seen;
        }
    }
}

/// Returns whether the caller's account owns a write. A call without an account sees all.
fn belongs(write: &state::Write, ctx: &Context) -> bool {
    ctx.accounts().has(write.app_id.as_str())
}
