//! The gRPC service config: the RPCs that a client may send again by itself, and how long it waits.
//!
//! `proto/service_config.json` is what [`json`] returns. Clients load it, and then their gRPC library does the
//! retries. The facts come from the contract and from the endpoints, so a new RPC needs a row in [`WRITES`] at
//! most. Decision 47 has the reasons.

use std::time::Duration;

use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde::Serialize;

use crate::{
    config::Limits,
    pb::{self, Access, Addressed},
    wechat::{
        Endpoint, Proof, Safety,
        account::ClearQuota,
        card::SetCard,
        component::{CreatePreauthCode, StartPushTicket},
        map_poi::CreateMapPoi,
        media::{UploadImg, UploadTemporary},
        merchant::{ApplyMerchant, ModifyMerchant},
        nearby::{AddNearbyPoi, DelNearbyPoi, SetNearbyPoiShowStatus},
        store::{AddStore, DelPoi, DelStore, UpdateStore},
        token::StableToken,
    },
};

/// The RPCs that change something at WeChat, each with the safety of its call.
const WRITES: &[(&str, Safety)] = &[
    (pb::AddNearbyPoiRequest::METHOD, AddNearbyPoi::SAFETY),
    (pb::AddStoreRequest::METHOD, AddStore::SAFETY),
    (pb::ApplyMerchantRequest::METHOD, ApplyMerchant::SAFETY),
    (pb::ClearQuotaRequest::METHOD, ClearQuota::SAFETY),
    (pb::CreateAuthorizationLinkRequest::METHOD, CreatePreauthCode::SAFETY),
    (pb::CreateMapPoiRequest::METHOD, CreateMapPoi::SAFETY),
    (pb::DeleteLegacyStoreRequest::METHOD, DelPoi::SAFETY),
    (pb::DeleteNearbyPoiRequest::METHOD, DelNearbyPoi::SAFETY),
    (pb::DeleteStoreRequest::METHOD, DelStore::SAFETY),
    // It needs the role of a write, and only fetches a token.
    (pb::GetAccessTokenRequest::METHOD, StableToken::SAFETY),
    (pb::ReplaceNearbyPoiRequest::METHOD, AddNearbyPoi::SAFETY),
    (pb::SetNearbyPoiVisibilityRequest::METHOD, SetNearbyPoiShowStatus::SAFETY),
    (pb::SetStoreCardRequest::METHOD, SetCard::SAFETY),
    (pb::StartTicketPushRequest::METHOD, StartPushTicket::SAFETY),
    (pb::UpdateMerchantRequest::METHOD, ModifyMerchant::SAFETY),
    (pb::UpdateStoreRequest::METHOD, UpdateStore::SAFETY),
    (pb::UploadImageRequest::METHOD, UploadImg::SAFETY),
    (pb::UploadTemporaryImageRequest::METHOD, UploadTemporary::SAFETY),
];

/// The retries of every RPC that a client may send again. Most libraries allow no more than five attempts.
/// They make the pauses random.
const RETRY_POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 5,
    initial_backoff: "0.2s",
    max_backoff: "5s",
    backoff_multiplier: 3,
    // The gateway returns it only if nothing was executed, or if a repeat is harmless. A library returns it
    // also if a connection broke.
    retryable_status_codes: ["UNAVAILABLE"],
};
/// A channel stops its retries after half as many failures more than successes. The libraries allow no
/// higher number. A gateway that restarts can fail hundreds of calls of one channel.
const THROTTLE_TOKENS: u32 = 1000;
/// The part of a failure that each success makes up for.
const THROTTLE_RATIO: f64 = 0.5;
/// The time for a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The service of which the requests have pictures.
const UPLOADS: &str = pb::media_service_server::SERVICE_NAME;

/// What a client may do with an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Send it again: it reads, or the gateway recognizes a repeat or finds it harmless.
    Repeat,
    /// As `Repeat`, for requests with a picture, which take longer.
    RepeatUpload,
    /// Begin the stream again. A stream that has begun never ends by itself.
    RepeatStream,
    /// Send it once.
    SendOnce,
}

/// The service config, with the names of gRPC's own documents.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceConfig {
    load_balancing_config: [LoadBalancing; 1],
    health_check_config: HealthCheck,
    retry_throttling: Throttling,
    method_config: Vec<MethodConfig>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum LoadBalancing {
    RoundRobin {},
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthCheck {
    service_name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    max_tokens: u32,
    token_ratio: f64,
}

/// The part of the config that RPCs of one use share.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MethodConfig {
    name: Vec<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_for_ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_policy: Option<RetryPolicy>,
}

/// The name of an RPC.
#[derive(Serialize)]
struct Name {
    service: String,
    method: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RetryPolicy {
    max_attempts: u32,
    initial_backoff: &'static str,
    max_backoff: &'static str,
    backoff_multiplier: u32,
    retryable_status_codes: [&'static str; 1],
}

/// Returns the service config as JSON over several lines, without an end of the last line.
///
/// Fails if the contract inside this program cannot be read, which a test excludes.
pub(crate) fn json() -> anyhow::Result<String> {
    let mut method_config = Vec::new();
    for kind in [Use::Repeat, Use::RepeatUpload, Use::RepeatStream, Use::SendOnce] {
        let rpcs = rpcs()?.filter(|rpc| use_of(rpc) == kind);
        method_config.push(config_of(kind, rpcs));
    }
    method_config.push(health_config());
    let config = ServiceConfig {
        // With several addresses, calls go to all of them, except those that report NOT_SERVING.
        load_balancing_config: [LoadBalancing::RoundRobin {}],
        // The process as a whole.
        health_check_config: HealthCheck { service_name: "" },
        retry_throttling: Throttling { max_tokens: THROTTLE_TOKENS, token_ratio: THROTTLE_RATIO },
        method_config,
    };
    Ok(serde_json::to_string_pretty(&config)?)
}

/// Returns true if WeChat must not execute the write at this path twice. A repeat then needs a `request_id`.
pub(crate) fn is_sent_once(path: &str) -> bool {
    let method = path.strip_prefix("/wechat.store.v1.");
    WRITES.iter().any(|(name, safety)| Some(*name) == method && matches!(safety, Safety::Once(_)))
}

/// Returns every RPC of the contract.
fn rpcs() -> anyhow::Result<impl Iterator<Item = MethodDescriptor>> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS)?;
    let services = pool.services().collect::<Vec<_>>();
    Ok(services.into_iter().flat_map(|service| service.methods().collect::<Vec<_>>()))
}

/// Returns what a client may do with an RPC.
fn use_of(rpc: &MethodDescriptor) -> Use {
    let service = rpc.parent_service();
    let method = format!("{}/{}", service.name(), rpc.name());
    let access = pb::access(&format!("/{}/{}", service.full_name(), rpc.name()));
    let safety = WRITES.iter().find(|(name, _)| *name == method).map(|(_, safety)| safety);
    match (access, safety) {
        (Some(Access::Read), None) if rpc.is_server_streaming() => Use::RepeatStream,
        (Some(Access::Read), None) => Use::Repeat,
        // If the reply is lost, nothing shows the outcome. A person should decide.
        (_, Some(Safety::Once(Proof::Nothing))) => Use::SendOnce,
        (Some(Access::Write), Some(_)) if service.full_name() == UPLOADS => Use::RepeatUpload,
        // The journal recognizes a repeat by its request_id. Without one, a repeat is harmless, or the
        // gateway refuses it.
        (Some(Access::Write), Some(_)) => Use::Repeat,
        // It only fetches a token.
        _ if method == pb::GetAccessTokenRequest::METHOD => Use::Repeat,
        // It is for operators, or the table lacks it.
        _ => Use::SendOnce,
    }
}

fn config_of(kind: Use, rpcs: impl Iterator<Item = MethodDescriptor>) -> MethodConfig {
    let limits = Limits::default();
    let name = |rpc: MethodDescriptor| Name {
        service: rpc.parent_service().full_name().to_owned(),
        method: rpc.name().to_owned(),
    };
    let timeout = match kind {
        // Room for an attempt that fails late, and one more.
        Use::Repeat | Use::SendOnce => Some(2 * limits.default_deadline()),
        Use::RepeatUpload => Some(limits.max_deadline()),
        Use::RepeatStream => None,
    };
    MethodConfig {
        name: rpcs.map(name).collect(),
        // Without a timeout, a wrong address would never be reported.
        wait_for_ready: timeout.map(|_| true),
        timeout: timeout.map(seconds),
        retry_policy: (kind != Use::SendOnce).then_some(RETRY_POLICY),
    }
}

/// Returns the config of health checks. They must report an unreachable gateway soon, so nothing repeats
/// them. A watch of the health has no end.
fn health_config() -> MethodConfig {
    let name = |method: &str| Name {
        service: "grpc.health.v1.Health".to_owned(),
        method: method.to_owned(),
    };
    MethodConfig {
        name: vec![name("Check"), name("List")],
        wait_for_ready: None,
        timeout: Some(seconds(HEALTH_TIMEOUT)),
        retry_policy: None,
    }
}

/// Returns a duration as JSON has it. Some libraries misread fractions of a second.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_that_writes_has_its_safety() {
        for rpc in rpcs().expect("the contract") {
            let service = rpc.parent_service();
            let path = format!("/{}/{}", service.full_name(), rpc.name());
            let method = format!("{}/{}", service.name(), rpc.name());
            let has_row = WRITES.iter().any(|(name, _)| *name == method);
            // An operator's decision changes nothing at WeChat.
            let writes = pb::access(&path) != Some(Access::Read)
                && method != pb::ResolveWriteRequest::METHOD;
            assert_eq!(has_row, writes, "{method}");
        }
    }

    #[test]
    fn rpcs_of_operators_are_sent_once() {
        let once = rpcs().expect("the contract").filter(|rpc| use_of(rpc) == Use::SendOnce);
        let names = once.map(|rpc| rpc.name().to_owned()).collect::<Vec<_>>();
        let expected = ["ClearQuota", "CreateAuthorizationLink", "StartTicketPush", "ResolveWrite"];
        assert_eq!(names, expected);
    }
}
