//! Doors for tests, benches and fuzz targets. Not part of the interface.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app, config::Settings, events::Audits, push::Receiver, state::State, util::clock::Clock,
};

/// Returns a future that receives WeChat's pushes until `stop`, without the rest of the service.
///
/// Fails if a secret cannot be read, or if no account receives pushes.
pub fn receive_pushes(
    state: Arc<dyn State>,
    settings: &Settings,
    socket: TcpListener,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let audits = Audits::new(state, settings, clock.clone(), stop.clone());
    let receiver = Receiver::new(settings, audits, clock)?;
    let receiver = receiver.ok_or_else(|| anyhow::anyhow!("no account receives pushes"))?;
    Ok(app::receive(receiver, socket, settings, stop))
}
