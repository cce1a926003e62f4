//! WeChat store and nearby mini programs as one typed gRPC service.
//!
//! # The story of one call
//!
//! A call goes straight down, and each layer speaks one language:
//!
//! 1. [`server`] accepts its connection, [`server::middleware`] gives it a deadline and a place in a trace;
//! 2. [`service`] takes the caller's words ([`pb`]), [`translate`] checks them and says the same in
//!    WeChat's;
//! 3. [`call`] runs it and decides which retry is safe. A write runs in [`writes`], which claims it in the
//!    journal before, and asks `recovery` if its reply is lost;
//! 4. [`accounts`] lends it an access token;
//! 5. [`wechat`] sends it, once, and reads what came back.
//!
//! A family of calls has the same file name in every layer: `card.rs` is always about cards.
//!
//! # The story of one event
//!
//! What WeChat took for review it decides later, and tells once. An event goes straight up:
//!
//! 1. [`push`] receives the push, checks with [`message_crypto`] that it is WeChat's, opens it, reads it;
//! 2. [`state`] appends it to the log, durably and once, and links it to the submission that
//!    [`writes`] recorded; only then WeChat is told `success`;
//! 3. [`events`] gives it to everybody who watches, now or after any interruption;
//! 4. [`service`] says it in the caller's words.
//!
//! If no push arrives, `recovery` asks WeChat through [`call`].
//!
//! The feature `sandbox` adds the crate `wechat_simulator`, a small WeChat that shares nothing with
//! [`wechat`].

pub mod accounts;
pub mod app;
pub mod call;
pub mod cli;
pub mod config;
pub mod context;
mod errors;
pub mod events;
pub(crate) mod journal;
pub mod message_crypto;
pub mod pb;
pub mod push;
pub(crate) mod recovery;
pub mod server;
pub mod service;
pub mod state;
pub mod telemetry;
#[doc(hidden)]
pub mod testing;
pub mod translate;
pub mod util;
pub mod validate;
pub mod wechat;
pub mod writes;
