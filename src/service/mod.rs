//! The gRPC handlers: one file per service, a few lines per RPC.
//!
//! A handler turns a request into a call of WeChat's API by `translate`, runs it by `call`, and turns the
//! result into the response.

use std::sync::Arc;

use tonic::service::Routes;

use crate::{call::Operations, events::Audits, pb, state::State};

mod audit;
mod card;
mod map_poi;
mod media;
mod merchant;
mod nearby;
mod store;
mod write;

/// The longest request of all services except [`media`], in bytes.
const LONGEST_REQUEST: usize = 4 << 20;

/// Returns the longest request of a path, in bytes.
pub(crate) fn longest_request(path: &str) -> usize {
    use pb::media_service_server::SERVICE_NAME;

    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    match service {
        Some((SERVICE_NAME, _)) => media::LONGEST_REQUEST,
        _ => LONGEST_REQUEST,
    }
}

/// Returns all services, with one set of operations, one log and one state.
pub(crate) fn routes(ops: &Operations, audits: Audits, state: Arc<dyn State>) -> Routes {
    use pb::{
        audit_service_server::AuditServiceServer, card_service_server::CardServiceServer,
        map_poi_service_server::MapPoiServiceServer, media_service_server::MediaServiceServer,
        merchant_service_server::MerchantServiceServer, nearby_service_server::NearbyServiceServer,
        store_service_server::StoreServiceServer, write_service_server::WriteServiceServer,
    };

    let ops = || ops.clone();
    Routes::new(AuditServiceServer::new(audit::Audit { audits }))
        .add_service(CardServiceServer::new(card::Card { ops: ops() }))
        .add_service(MapPoiServiceServer::new(map_poi::MapPoi { ops: ops() }))
        .add_service(
            MediaServiceServer::new(media::Media { ops: ops() })
                .max_decoding_message_size(media::LONGEST_REQUEST),
        )
        .add_service(MerchantServiceServer::new(merchant::Merchant { ops: ops() }))
        .add_service(NearbyServiceServer::new(nearby::Nearby { ops: ops() }))
        .add_service(StoreServiceServer::new(store::Store { ops: ops() }))
        .add_service(WriteServiceServer::new(write::Write { ops: ops(), state }))
}

/// Marks an answer that comes in pieces and does not end by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless;

/// The full names of all services.
pub const SERVICES: &[&str] = &[
    pb::audit_service_server::SERVICE_NAME,
    pb::card_service_server::SERVICE_NAME,
    pb::map_poi_service_server::SERVICE_NAME,
    pb::media_service_server::SERVICE_NAME,
    pb::merchant_service_server::SERVICE_NAME,
    pb::nearby_service_server::SERVICE_NAME,
    pb::store_service_server::SERVICE_NAME,
    pb::write_service_server::SERVICE_NAME,
];
