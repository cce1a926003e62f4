//! The caller's words: one file per service, a few lines per RPC.

use tonic::service::Routes;

use crate::{operation::Operations, pb};

mod card;
mod errcode;
pub(crate) mod status;

/// All services, over one set of operations.
pub fn routes(ops: &Operations) -> Routes {
    let ops = || ops.clone();
    Routes::new(pb::card_service_server::CardServiceServer::new(card::Card { ops: ops() }))
}

/// The full names of all services.
pub const SERVICES: &[&str] = &[pb::card_service_server::SERVICE_NAME];
