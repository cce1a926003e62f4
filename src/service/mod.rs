//! The gRPC handlers: one file per service, a few lines per RPC.
//!
//! A handler turns a request into a call of WeChat's API by `translate`, runs it by `call`, and turns the
//! result into the response.

use std::sync::Arc;

use tonic::service::Routes;

use crate::{
    call::Calls, callers::Callers, events::Audits, pb, recovery::Recovery, state::State,
    writes::Writes,
};

mod account;
mod audit;
mod card;
mod map_poi;
mod media;
mod merchant;
mod nearby;
mod platform;
mod store;
mod token;
mod write;

/// The longest request of a service of another package, such as the health service, in bytes. Clients that
/// no caller of the settings sends can reach them.
const LONGEST_FOREIGN: usize = 1024;

/// Returns the longest request of a path, in bytes. Requests without a picture have a limit of the settings.
pub(crate) fn longest_request(path: &str, without_picture: usize) -> usize {
    use pb::media_service_server::SERVICE_NAME;

    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    match service {
        Some((SERVICE_NAME, _)) => media::LONGEST_REQUEST,
        Some((name, _)) if !name.starts_with("wechat.store.v1.") => {
            LONGEST_FOREIGN.min(without_picture)
        }
        _ => without_picture,
    }
}

/// The rooms that the services use. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    /// The callers of the settings.
    pub(crate) callers: Callers,
    /// Makes calls to WeChat.
    pub(crate) calls: Calls,
    /// Runs writes.
    pub(crate) writes: Writes,
    /// Recovers writes.
    pub(crate) recovery: Recovery,
    /// The log of events.
    pub(crate) audits: Audits,
    /// The journal, among others.
    pub(crate) state: Arc<dyn State>,
    /// Whether the tokens of the accounts are given out.
    pub(crate) gives_tokens: bool,
}

/// Returns all services.
pub(crate) fn routes(
    Rooms { callers, calls, writes, recovery, audits, state, gives_tokens }: Rooms,
) -> Routes {
    use pb::{
        account_service_server::AccountServiceServer, audit_service_server::AuditServiceServer,
        card_service_server::CardServiceServer, map_poi_service_server::MapPoiServiceServer,
        media_service_server::MediaServiceServer, merchant_service_server::MerchantServiceServer,
        nearby_service_server::NearbyServiceServer, store_service_server::StoreServiceServer,
        token_service_server::TokenServiceServer, write_service_server::WriteServiceServer,
    };

    let (calls, writes) = (|| calls.clone(), || writes.clone());
    let account = account::Account { calls: calls(), writes: writes(), audits: audits.clone() };
    Routes::new(AccountServiceServer::new(account))
        .add_service(AuditServiceServer::new(audit::Audit { callers, audits }))
        .add_service(CardServiceServer::new(card::Card { calls: calls(), writes: writes() }))
        .add_service(MapPoiServiceServer::new(map_poi::MapPoi { calls: calls(), writes: writes() }))
        .add_service(
            MediaServiceServer::new(media::Media { writes: writes() })
                .max_decoding_message_size(media::LONGEST_REQUEST),
        )
        .add_service(MerchantServiceServer::new(merchant::Merchant {
            calls: calls(),
            writes: writes(),
        }))
        .add_service(NearbyServiceServer::new(nearby::Nearby { calls: calls(), writes: writes() }))
        .add_service(StoreServiceServer::new(store::Store { calls: calls(), writes: writes() }))
        .add_service(TokenServiceServer::new(token::Token {
            calls: calls(),
            enabled: gives_tokens,
        }))
        .add_service(WriteServiceServer::new(write::Write { recovery, state }))
}

/// Marks an answer that comes in pieces and does not end by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless;

/// The full names of all services.
pub const SERVICES: &[&str] = &[
    pb::account_service_server::SERVICE_NAME,
    pb::audit_service_server::SERVICE_NAME,
    pb::card_service_server::SERVICE_NAME,
    pb::map_poi_service_server::SERVICE_NAME,
    pb::media_service_server::SERVICE_NAME,
    pb::merchant_service_server::SERVICE_NAME,
    pb::nearby_service_server::SERVICE_NAME,
    pb::store_service_server::SERVICE_NAME,
    pb::token_service_server::SERVICE_NAME,
    pb::write_service_server::SERVICE_NAME,
];
