//! WeChat's words: one file per API family, spelt as WeChat spells them.
//!
//! Every call is a plain struct that implements [`Endpoint`]; [`Client`] sends any of them, once.
//! [`ENDPOINTS`] has the facts of all of them.
//! Nothing here knows gRPC, retries or where tokens come from.

mod access;
mod client;
mod endpoint;
mod envelope;
mod error;
mod hosts;
mod objects;
mod pools;
mod quoted;
mod registry;
mod salvage;
mod status;
mod tolerant;

pub mod card;
pub mod map_poi;
pub mod media;
pub mod merchant;
pub mod nearby;
pub mod store;
pub mod token;

pub use access::AccessToken;
pub use client::{Attempt, Client, Tries};
pub use endpoint::{AccountKinds, Endpoint, Need, Payload, Proof, Safety, Verdict};
pub use envelope::Done;
pub use error::{Errcode, Error};
pub use quoted::{PicList, Quoted};
pub use registry::{ENDPOINTS, Facts, Listed};
pub(crate) use status::passes;
pub use tolerant::{Decimal, Int, List, Nested, Rows, Seconds, Text};
