//! WeChat store and nearby mini programs as one typed gRPC service.
//!
//! # The path of a call
//!
//! A call goes straight down. Each layer has one vocabulary:
//!
//! 1. `server` accepts the connection. Its middleware adds the deadline and the trace.
//! 2. `service` receives the message ([`pb`]). `translate` checks it and turns it into WeChat's types.
//! 3. `call` runs it and decides which retry is safe. A write runs in `writes`, which claims it in the
//!    `journal` first, and asks `recovery` if its reply is lost.
//! 4. `accounts` provides an access token.
//! 5. `wechat` sends it once and parses the reply.
//!
//! A family of calls has the same file name in every layer: `card.rs` is always about cards.
//!
//! # The path of an event
//!
//! WeChat reviews what it accepts, and pushes each result once. An event goes straight up:
//!
//! 1. `push` receives the push, verifies and decrypts it with `message_crypto`, and parses it.
//! 2. [`state`] appends it to the log, durably and once, and links it to the record of its submission.
//!    Only then WeChat gets `success`.
//! 3. `events` sends it to every watcher, at once or after an interruption.
//! 4. `service` turns it into the response.
//!
//! If no push arrives, `recovery` polls WeChat through `call`.
//!
//! `doctor` checks the settings, this machine and the accounts with reads only.
//!
//! [`app`] makes all these parts and connects them. The feature `sandbox` adds the crate
//! `wechat_simulator`, a small WeChat that shares no type with `wechat`.
//!
//! Modules are private unless the binary, or the signature of a public function, needs them. Tests,
//! benches and fuzz targets use `testing`.

mod accounts;
mod activity;
pub mod app;
mod call;
mod callers;
pub mod cli;
pub mod config;
mod context;
mod doctor;
mod errors;
mod events;
mod journal;
pub mod live;
mod message_crypto;
mod metrics;
mod observe;
pub mod pb;
mod push;
mod recovery;
mod server;
mod service;
mod service_config;
pub mod state;
mod systemd;
pub mod telemetry;
#[doc(hidden)]
pub mod testing;
mod tls;
mod translate;
mod util;
mod validate;
mod wechat;
mod writes;
