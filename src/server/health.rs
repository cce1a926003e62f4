//! `grpc.health.v1`: speaks of this process, never of WeChat.
//!
//! tonic-health answers. Its protocol is older than `List`, and it ends a `Watch` of an unknown service, so
//! both are added here.

use std::{collections::HashMap, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response,
        health_server::Health as Answers,
    },
    server::{HealthReporter, HealthService},
};

use crate::{
    errors::status,
    pb::health::{
        HealthListRequest, HealthListResponse,
        health_server::{Health, HealthServer},
    },
    service::SERVICES,
};

/// Says how this process is: all its services are alike.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    reporter: HealthReporter,
    /// Ends the streams of `Watch`, which would otherwise hold their connections open.
    end: CancellationToken,
}

impl Reporter {
    pub(super) async fn new(end: CancellationToken) -> Self {
        let reporter = Self { reporter: HealthReporter::new(), end };
        reporter.say(ServingStatus::Serving).await;
        reporter
    }

    /// The service that says it.
    pub(super) fn service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    /// New calls should go elsewhere.
    pub(super) async fn not_serving(&self) {
        self.say(ServingStatus::NotServing).await;
    }

    async fn say(&self, status: ServingStatus) {
        for service in names() {
            self.reporter.set_service_status(service, status).await;
        }
    }

    fn answers(&self) -> HealthService {
        HealthService::from_health_reporter(self.reporter.clone())
    }
}

/// All services, and the process as a whole.
fn names() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().copied().chain([""])
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

    /// A service that is not here may come with the next version of this process, so the stream of a
    /// client that asks about it stays open, as the protocol says.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let end = self.end.clone().cancelled_owned();
        if is_here(&request.get_ref().service) {
            let statuses = self.answers().watch(request).await?.into_inner();
            return Ok(Response::new(Box::pin(statuses.take_until(end))));
        }
        let status = health_check_response::ServingStatus::ServiceUnknown.into();
        let unknown = stream::once(std::future::ready(Ok(HealthCheckResponse { status })));
        Ok(Response::new(Box::pin(unknown.chain(stream::pending().take_until(end)))))
    }
}
