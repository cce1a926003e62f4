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
pub(crate) use registry::permission_sets;
pub use registry::{Facts, Listed, endpoints};
pub(crate) use status::passes;
pub use tolerant::{Decimal, Int, List, Nested, Rows, Seconds, Text};
