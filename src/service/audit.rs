//! `AuditService`: the log of review results, and submissions.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

use super::Endless;
use crate::{
    callers::Callers,
    context::Context,
    errors::status,
    events::{Audits, Page, Start, Watcher},
    pb::{
        self, WatchPosition, audit_service_server::AuditService,
        watch_audit_events_request as watch_request,
    },
    translate::{
        audit::{Filter, wanted_events, wanted_submission, wanted_submissions},
        page::{page_token, parse_page_token},
    },
    util::codec::Encoded,
    validate::{Check, Invalid},
};

/// The names of the two lists in page tokens.
const EVENTS: &str = "events";
const SUBMISSIONS: &str = "submissions";

/// Serves the results of reviews.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    pub(super) callers: Callers,
    pub(super) audits: Audits,
}

#[tonic::async_trait]
impl AuditService for Audit {
    type WatchAuditEventsStream =
        Pin<Box<dyn Stream<Item = Result<Encoded<pb::WatchAuditEventsResponse>, Status>> + Send>>;

    async fn watch_audit_events(
        &self,
        request: Request<pb::WatchAuditEventsRequest>,
    ) -> Result<Response<Self::WatchAuditEventsStream>, Status> {
        let (ctx, request) = Context::split(request)?;
        let pb::WatchAuditEventsRequest { app_id: _, start: from, kinds } = request;
        let (start, filter) = (start(from)?, Filter::new(ctx.accounts(), &kinds)?);
        let Context { identity, peer, ending, .. } = ctx;
        let grant = self.callers.grant(identity);
        let watcher = self.audits.watch(start, filter, grant, peer, ending.token()).await?;
        let responses = stream::unfold(watcher, |mut watcher: Watcher| async {
            let next = watcher.next().await?;
            Some((next.map_err(Status::from), watcher))
        });
        let mut response = Response::new(responses.boxed());
        response.extensions_mut().insert(Endless);
        Ok(response)
    }

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let after = parse_page_token(EVENTS, &request.page_token)?;
        let mut query = wanted_events(ctx.accounts(), request)?;
        query.after = after;
        let Page { events, next, cursor } = self.audits.list(query).await?;
        let next_page_token = next.map(|after| page_token(EVENTS, after)).unwrap_or_default();
        Ok(Response::new(pb::ListAuditEventsResponse { events, next_page_token, cursor }))
    }

    async fn get_submission(
        &self,
        request: Request<pb::GetSubmissionRequest>,
    ) -> Result<Response<pb::GetSubmissionResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let submission_id = wanted_submission(request)?;
        let found = self.audits.submission(&submission_id).await?;
        let submission = found
            .filter(|found| ctx.accounts().has(&found.app_id))
            .ok_or_else(|| status::submission_not_found(&submission_id))?;
        Ok(Response::new(pb::GetSubmissionResponse { submission: Some(submission) }))
    }

    async fn list_submissions(
        &self,
        request: Request<pb::ListSubmissionsRequest>,
    ) -> Result<Response<pb::ListSubmissionsResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let after = parse_page_token(SUBMISSIONS, &request.page_token)?;
        let mut query = wanted_submissions(ctx.accounts(), request)?;
        query.after = after;
        let (submissions, unreadable, next) = self.audits.submissions(query).await?;
        let next_page_token = next.map(|after| page_token(SUBMISSIONS, after)).unwrap_or_default();
        let unreadable_count = unreadable.try_into().unwrap_or(i32::MAX);
        Ok(Response::new(pb::ListSubmissionsResponse {
            submissions,
            next_page_token,
            unreadable_count,
        }))
    }
}

/// Returns the start of a watcher.
fn start(start: Option<watch_request::Start>) -> Result<Start, Invalid> {
    let mut check = Check::default();
    let start = match start {
        Some(watch_request::Start::Cursor(cursor)) => Start::Cursor(cursor),
        Some(watch_request::Start::Position(position)) => match WatchPosition::try_from(position) {
            Ok(position @ (WatchPosition::Earliest | WatchPosition::Latest)) => {
                Start::End(position)
            }
            _ => {
                check
                    .refuse("position", "must be WATCH_POSITION_EARLIEST or WATCH_POSITION_LATEST");
                Start::End(WatchPosition::Latest)
            }
        },
        None => {
            check.refuse("cursor", "required, or a position");
            Start::End(WatchPosition::Latest)
        }
    };
    check.done(start)
}
