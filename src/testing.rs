//! The parts that tests, benches and fuzz targets use. Not an interface for others.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app, config::Settings, events::Audits, metrics::Metrics, push::Receiver,
    server::listener::Places, state::State, telemetry::Sampler,
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

/// The instruments as data.
pub mod metrics {
    pub use crate::metrics::{INSTRUMENTS, Instrument, Kind};
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
    let audits = Audits::new(state, settings, clock.clone(), metrics.clone(), stop.clone());
    let receiver = Receiver::new(settings, audits, clock, Sampler::default(), metrics)?;
    let places = Places::new(settings.limits.callback());
    Ok(app::receive(receiver, socket, places, stop))
}
