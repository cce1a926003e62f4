//! `grpc.health.v1`: speaks of this process, never of WeChat.

use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::service::SERVICES;

/// Says how this process is.
#[derive(Clone, Debug)]
pub(super) struct Reporter(HealthReporter);

/// The service, and who tells it what to say.
pub(super) async fn service() -> (Reporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let reporter = Reporter(reporter);
    reporter.say(ServingStatus::Serving).await;
    (reporter, service)
}

impl Reporter {
    /// New calls should go elsewhere.
    pub(super) async fn not_serving(&self) {
        self.say(ServingStatus::NotServing).await;
    }

    /// Ends the streams of `Watch`, which would otherwise hold their connections open.
    pub(super) async fn end_watches(&self) {
        let mut reporter = self.0.clone();
        for service in SERVICES.iter().chain(&[""]) {
            reporter.clear_service_status(service).await;
        }
    }

    async fn say(&self, status: ServingStatus) {
        for service in SERVICES.iter().chain(&[""]) {
            self.0.set_service_status(service, status).await;
        }
    }
}
