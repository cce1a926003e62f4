//! The client of WeChat's API: one file per API family, with fields spelled as WeChat spells them.
//!
//! Every call is a plain struct that implements [`Endpoint`]. [`Client`] sends one call once.
//! [`endpoints`] returns the facts of all calls. This module does not depend on gRPC, retries or the
//! source of access tokens.

/// Lists the endpoints of a family in its file: `endpoints![GetCard, SetCard];`. A call that is not listed
/// does not compile.
macro_rules! endpoints {
    ($($call:ty),+ $(,)?) => {
        $(impl $crate::wechat::Listed for $call {})+

        pub(super) const ENDPOINTS: &[$crate::wechat::Facts] =
            &[$($crate::wechat::Facts::of::<$call>()),+];
    };
}

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
mod server_time;
mod status;
mod tolerant;

pub(crate) mod account;
pub(crate) mod card;
pub(crate) mod component;
pub(crate) mod map_poi;
pub(crate) mod media;
pub(crate) mod merchant;
pub(crate) mod nearby;
pub(crate) mod store;
pub(crate) mod token;

pub(crate) use access::{AccessToken, TokenName};
pub(crate) use client::{Attempt, Client, Tries};
pub use endpoint::{AccountKinds, Endpoint, Need, Safety, Verdict};
pub(crate) use endpoint::{Payload, Proof};
pub(crate) use envelope::Done;
pub(crate) use error::rid;
pub use error::{Errcode, Error};
pub(crate) use quoted::{PicList, Quoted};
pub use registry::{Facts, endpoints};
pub(crate) use registry::{Listed, permission_sets};
pub(crate) use server_time::server_time;
pub(crate) use status::passes;
pub(crate) use tolerant::{Decimal, Int, List, Nested, Rows, Seconds, Text};
