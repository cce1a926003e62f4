//! `grpc.health.v1`: reports the health of this process, never of WeChat.
//!
//! tonic-health answers. Its protocol is older than `List`, and it ends a `Watch` of an unknown service.
//! This module adds both.

use std::{collections::HashMap, pin::Pin, task::Poll};

use futures_util::{FutureExt, Stream, StreamExt, stream};
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response,
        health_client::HealthClient, health_server::Health as Answers,
    },
    server::{HealthReporter, HealthService},
};

use crate::{
    context::Ending,
    errors::status,
    pb::health::{
        HealthListRequest, HealthListResponse,
        health_server::{Health, HealthServer},
    },
    service::SERVICES,
};

/// Reports the health of this process. All its services have the same status.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    reporter: HealthReporter,
}

impl Reporter {
    /// Returns a reporter that reports SERVING.
    pub(crate) async fn new() -> Self {
        let reporter = Self { reporter: HealthReporter::new() };
        reporter.report(ServingStatus::Serving).await;
        reporter
    }

    /// Returns the gRPC service.
    pub(crate) fn service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    /// Reports NOT_SERVING, so that clients send new calls elsewhere.
    pub(crate) async fn not_serving(&self) {
        self.report(ServingStatus::NotServing).await;
    }

    async fn report(&self, status: ServingStatus) {
        for service in names() {
            self.reporter.set_service_status(service, status).await;
        }
    }

    fn answers(&self) -> HealthService {
        HealthService::from_health_reporter(self.reporter.clone())
    }
}

/// Returns the names of all services, and the empty name of the process as a whole.
fn names() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().copied().chain([""])
}

/// Returns whether the health service answers through `routes`, in a task of its own. Returns false, or
/// nothing, if this process can serve no caller.
pub(crate) async fn answers(routes: Routes) -> bool {
    let check = async move { HealthClient::new(routes).check(HealthCheckRequest::default()).await };
    tokio::spawn(check).await.is_ok_and(|answer| answer.is_ok())
}

/// Returns a stream that ends with `end`, after everything that is ready by then. `take_until` would end
/// it first, so a busy process could end a watch without its last status, NOT_SERVING.
fn until<S: Stream + Unpin>(
    mut items: S,
    end: impl Future<Output = ()>,
) -> impl Stream<Item = S::Item> {
    let mut end = Box::pin(end);
    stream::poll_fn(move |context| match items.poll_next_unpin(context) {
        Poll::Pending => end.poll_unpin(context).map(|()| None),
        ready => ready,
    })
}

fn is_here(service: &str) -> bool {
    names().any(|name| name == service)
}

#[tonic::async_trait]
impl Health for Reporter {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match is_here(&request.get_ref().service) {
            true => self.answers().check(request).await,
            false => Err(status::service_unknown(&request.get_ref().service)),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let answers = self.answers();
        let mut statuses = HashMap::new();
        for name in names() {
            let service = name.to_owned();
            let check = Request::new(HealthCheckRequest { service });
            statuses.insert(name.to_owned(), answers.check(check).await?.into_inner());
        }
        Ok(Response::new(HealthListResponse { statuses }))
    }

    /// Keeps the stream about an unknown service open, as the protocol prescribes: the service can come
    /// with the next version of this process.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // A stream without an end would keep its connection open.
        let ending = request.extensions().get::<Ending>().cloned().unwrap_or_default();
        let end = ending.token().cancelled_owned();
        if is_here(&request.get_ref().service) {
            let statuses = self.answers().watch(request).await?.into_inner();
            return Ok(Response::new(Box::pin(until(statuses, end))));
        }
        let status = health_check_response::ServingStatus::ServiceUnknown.into();
        let unknown = stream::once(std::future::ready(Ok(HealthCheckResponse { status })));
        Ok(Response::new(Box::pin(unknown.chain(stream::pending().take_until(end)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn status_that_is_ready_at_the_end_arrives() {
        let statuses = stream::iter(["SERVING", "NOT_SERVING"]).chain(stream::pending());
        let watched = until(statuses, std::future::ready(())).collect::<Vec<_>>().await;
        assert_eq!(watched, ["SERVING", "NOT_SERVING"]);
    }
}
