//! What `proto/` generates: the caller's vocabulary.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]

tonic::include_proto!("wechat.store.v1");
include!(concat!(env!("OUT_DIR"), "/addressed.rs"));

/// The compiled `proto/` with its comments, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The two things that every request may name beside its own content.
pub trait Addressed {
    /// Moves the account's id out; empty means the default account.
    fn take_app_id(&mut self) -> String;
    /// Moves the write's id out; empty where there is none.
    fn take_request_id(&mut self) -> String;
}
