//! WeChat store and nearby mini programs as one typed gRPC service.
//!
//! # The story of one call
//!
//! A call goes straight down, and each layer speaks one language:
//!
//! 1. [`server`] accepts its connection, [`admit`] gives it a deadline and a place in a trace;
//! 2. [`service`] takes the caller's words ([`pb`]), [`translate`] checks them and says the same in
//!    WeChat's;
//! 3. [`operation`] runs it: which retry is safe, who may leave before it ends;
//! 4. [`account`] lends it an access token;
//! 5. [`wechat`] sends it, once, and reads what came back.
//!
//! A family of calls has the same file name in every layer: `card.rs` is always about cards.
//!
//! # The story of one event
//!
//! What WeChat took for review it decides later, and tells once. An event goes straight up:
//!
//! 1. [`callback`] receives the push, checks with [`seal`] that it is WeChat's, opens it, reads it;
//! 2. [`state`] appends it to the log, durably and once, and links it to the submission that
//!    [`operation`] remembered; only then WeChat is told `success`;
//! 3. [`audit`] gives it to everybody who watches, now or after any interruption;
//! 4. [`service`] says it in the caller's words.
//!
//! Where no push comes, [`audit`] asks WeChat through [`operation`].
//!
//! Beside all this stands [`simulator`], a small WeChat that shares nothing with [`wechat`].

mod accept;
pub mod account;
pub mod admit;
pub mod audit;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod context;
mod flight;
mod http1;
pub mod id;
mod invisible;
pub mod lenient;
pub mod operation;
pub mod pb;
pub mod seal;
pub mod server;
pub mod service;
pub mod simulator;
pub mod state;
pub mod telemetry;
pub mod translate;
pub mod wechat;
