//! The parts that tests, benches and fuzz targets use. Not an interface for others.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Services, platform::Platforms},
    app,
    config::Settings,
    events::Audits,
    metrics::Metrics,
    push::Receiver,
    server::listener::Places,
    state::State,
    telemetry::Sampler,
    wechat::Client,
};
pub use crate::{
    service::SERVICES,
    util::{
        clock::Clock,
        id::{AppId, PoiId, Secret},
        lenient,
        raw_codec::Raw,
        scope::Scope,
    },
};

/// Returns a sampler that traces every call.
pub fn sample_all() -> Sampler {
    Sampler::new(Some(Arc::new(opentelemetry_sdk::trace::Sampler::AlwaysOn)))
}

/// Calls, for the benchmark of statuses.
pub mod call {
    pub use crate::call::Error;
}

/// The encryption of pushes.
pub mod message_crypto {
    pub use crate::message_crypto::{Error, Key, verify};
}

/// The parsers of pushes.
pub mod push {
    pub use crate::push::{envelope, event, message};
}

/// The instruments as data, and the records of a call.
pub mod metrics {
    use std::time::{Duration, Instant};

    use http::Method;
    use tonic::Code;

    pub use crate::metrics::{INSTRUMENTS, Instrument, Kind};
    use crate::{
        config,
        errors::errcode,
        metrics::{Exchange, Outcome, Provider, Server},
        pb,
        telemetry::MetricExports,
    };

    /// The metrics of a gateway, for the benchmark of what a call records.
    #[derive(Debug)]
    pub struct Recorder {
        provider: Provider,
        server: Server,
    }

    impl Recorder {
        /// Creates the metrics of a gateway with these accounts. Each of them has had a token.
        pub fn new(app_ids: &[String]) -> anyhow::Result<Self> {
            let shown = config::Metrics::default().accounts();
            let provider = Provider::new(errcode::class, shown, &MetricExports::default())?;
            let metrics = provider.metrics();
            metrics.set_accounts(app_ids.iter().map(String::as_str));
            app_ids.iter().for_each(|app_id| metrics.count_token_refresh(app_id, "ok"));
            Ok(Self { provider, server: Server::new("api.weixin.qq.com", 443) })
        }

        /// Records an RPC, by its path, and the one request to WeChat that it makes, by its endpoint.
        pub fn record(&self, rpc: &str, endpoint: &'static str) {
            let metrics = self.provider.metrics();
            let mut running = metrics.begin_call(pb::full_name(rpc));
            let began = Instant::now();
            metrics.record_exchange(&Exchange {
                server: &self.server,
                method: &Method::POST,
                path: endpoint,
                status: Some(200),
                outcome: Outcome::Ok,
                duration: began.elapsed() + Duration::from_millis(20),
            });
            running.set_code(Code::Ok);
        }

        /// Returns the text of `/metrics`.
        pub fn text(&self) -> anyhow::Result<String> {
            Ok(self.provider.text().unwrap_or_else(|| Ok(String::new()))?)
        }
    }
}

/// WeChat's endpoints as data, and a few of their types.
pub mod wechat {
    pub use crate::wechat::{
        AccountKinds, Endpoint, Errcode, Error, Facts, Need, Safety, Verdict, endpoints,
    };

    /// Stores.
    pub mod store {
        pub use crate::wechat::store::{AddStore, GetStoreInfo, GetStoreInfoReply};
    }
}

/// Returns a future that receives WeChat's pushes until `stop`, without the rest of the service.
///
/// Fails if a secret cannot be read.
pub fn receive_pushes(
    state: Arc<dyn State>,
    settings: &Settings,
    socket: TcpListener,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let metrics = Metrics::default();
    let client = Client::new(&settings.wechat, &clock, metrics.clone())?;
    let services = Services { client, state: state.clone(), clock: clock.clone() };
    let platforms = Platforms::new(&settings.platforms, &settings.limits, services);
    let audits = Audits::new(state, settings, clock.clone(), metrics.clone(), stop.clone());
    let receiver = Receiver::new(settings, audits, platforms, clock, Sampler::default(), metrics)?;
    let places = Places::new(settings.limits.callback());
    Ok(app::receive(receiver, socket, places, stop))
}
