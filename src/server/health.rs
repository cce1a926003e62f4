//! `grpc.health.v1`: speaks of this process, never of WeChat.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    pb::health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    service::{SERVICES, status},
};

/// Says how this process is: all its services are alike.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    status: Arc<watch::Sender<ServingStatus>>,
    /// Ends the streams of `Watch`, which would otherwise hold their connections open.
    end: CancellationToken,
}

impl Reporter {
    pub(super) fn new(end: CancellationToken) -> Self {
        Self { status: Arc::new(watch::Sender::new(ServingStatus::Serving)), end }
    }

    /// The service that says it.
    pub(super) fn service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    /// New calls should go elsewhere.
    pub(super) fn not_serving(&self) {
        self.status.send_replace(ServingStatus::NotServing);
    }
}

fn is_here(service: &str) -> bool {
    service.is_empty() || SERVICES.contains(&service)
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Reporter {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match is_here(&service) {
            true => Ok(Response::new(response(*self.status.borrow()))),
            false => Err(status::service_unknown(&service)),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let status = response(*self.status.borrow());
        let names = SERVICES.iter().chain(&[""]);
        let statuses: HashMap<_, _> = names.map(|name| ((*name).to_owned(), status)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    /// A service that is not here may come with the next version of this process, so the stream of
    /// who asks about it stays open, as the protocol says.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let statuses = if is_here(&service) {
            let receiver = self.status.subscribe();
            stream::unfold((receiver, None, self.end.clone()), async |(mut receiver, said, end)| {
                let status = tokio::select! {
                    // The last news first.
                    biased;
                    status = receiver.wait_for(|status| Some(*status) != said) => *status.ok()?,
                    () = end.cancelled() => return None,
                };
                Some((status, (receiver, Some(status), end)))
            })
            .left_stream()
        } else {
            let unknown = stream::once(std::future::ready(ServingStatus::ServiceUnknown));
            let end = self.end.clone().cancelled_owned();
            unknown.chain(stream::pending().take_until(end)).right_stream()
        };
        Ok(Response::new(Box::pin(statuses.map(|status| Ok(response(status))))))
    }
}
