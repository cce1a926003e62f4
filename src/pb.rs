//! What `proto/` generates: the caller's vocabulary.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

tonic::include_proto!("wechat.store.v1");
include!(concat!(env!("OUT_DIR"), "/servers/wechat.store.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/addressed.rs"));

/// The compiled `proto/` with its comments, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// gRPC's own protocol of health, with what tonic-health lacks of it.
pub mod health {
    tonic::include_proto!("grpc.health.v1");

    /// The compiled file, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/health.bin"));
}

/// What every request may name beside its own content.
pub trait Addressed: prost::Message {
    /// The RPC that it asks for, as in `StoreService/AddStore`.
    const METHOD: &'static str;
    /// Moves the account's id out; empty means the default account.
    fn take_app_id(&mut self) -> String;
    /// Moves the write's id out; empty where there is none.
    fn take_request_id(&mut self) -> String;
    /// Moves the caller's own number for the shop out; empty where there is none.
    fn take_client_reference(&mut self) -> String;
}

/// The response to a write.
pub trait Recovered: prost::Message + Default {
    /// Says that the write got through although WeChat's reply was lost, and what came of it, where
    /// that is reviewed.
    fn recover(&mut self, submission: Option<Submission>);
}
