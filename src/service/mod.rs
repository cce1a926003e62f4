//! The caller's words: one file per service, a few lines per RPC.

use tonic::service::Routes;

use crate::{operation::Operations, pb};

mod card;
mod errcode;
mod map_poi;
pub(crate) mod status;
mod store;

/// All services, over one set of operations.
pub fn routes(ops: &Operations) -> Routes {
    let ops = || ops.clone();
    Routes::new(pb::card_service_server::CardServiceServer::new(card::Card { ops: ops() }))
        .add_service(pb::map_poi_service_server::MapPoiServiceServer::new(map_poi::MapPoi {
            ops: ops(),
        }))
        .add_service(pb::store_service_server::StoreServiceServer::new(store::Store { ops: ops() }))
}

/// The full names of all services.
pub const SERVICES: &[&str] = &[
    pb::card_service_server::SERVICE_NAME,
    pb::map_poi_service_server::SERVICE_NAME,
    pb::store_service_server::SERVICE_NAME,
];
