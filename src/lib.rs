//! WeChat store and nearby mini programs as one typed gRPC service.
//!
//! # The story of one call
//!
//! A call goes straight down:
//!
//! 1. [`server`] accepts its connection, and [`server::middleware`] gives it a deadline and a trace.
//! 2. [`service`] receives the request ([`pb`]), and [`translate`] checks it and converts it to WeChat's
//!    fields.
//! 3. [`call`] runs it and decides which retry is safe. A write runs in [`writes`], which claims it in the
//!    journal first, and calls `recovery` if its reply is lost.
//! 4. [`accounts`] provides an access token.
//! 5. [`wechat`] sends it once and parses the reply.
//!
//! A family of calls has the same file name in every layer: `card.rs` is always about cards.
//!
//! # The story of one event
//!
//! WeChat decides a review later and reports the result once, in a push. An event goes straight up:
//!
//! 1. [`push`] receives the push, verifies and decrypts it with [`message_crypto`], and parses it.
//! 2. [`state`] appends it to the log, durably and once, and links it to the submission that
//!    [`writes`] recorded. Only then WeChat gets the answer `success`.
//! 3. [`events`] sends it to every watcher, now or after any interruption.
//! 4. [`service`] returns it in the fields of the contract.
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
