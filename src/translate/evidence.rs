//! What a write leaves behind at WeChat: what is looked for if its reply was lost.
//!
//! It goes into the state, so evidence holds no phone number and the like, only their hash; a response
//! that is known beforehand may. Which evidence proves what, and why, stands in `docs/writes.md`.

use bytes::Bytes;
use prost::{Message, Oneof};

use super::submission::{Remembered, damaged};
use crate::{
    pb::{self, GetMerchantAuditResponse, Submission},
    state,
    wechat::{Endpoint, Safety},
};

/// A call that changes something.
pub(crate) trait Evident: Endpoint {
    /// What it leaves behind, as far as the call alone tells; `None` where it may be repeated.
    fn evidence(&self) -> Option<Evidence> {
        None
    }
}

/// What shows that a write got through.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Evidence {
    /// A store is listed with these looks, as [`store::fingerprint`](super::store::fingerprint)
    /// makes them.
    #[prost(bytes = "vec", tag = "2")]
    NewStore(Vec<u8>),
    /// The migration of this old store has begun.
    #[prost(string, tag = "3")]
    Migration(String),
    /// The audit of the merchant is not this one any more.
    #[prost(message, tag = "4")]
    OtherMerchantAudit(GetMerchantAuditResponse),
    /// An event about this place comes.
    #[prost(message, tag = "5")]
    MapPoiEvent(pb::MapPoiAudit),
    /// A nearby place is listed like this.
    #[prost(message, tag = "6")]
    NearbyPoi(Looks),
    /// A store shows these values.
    #[prost(message, tag = "7")]
    Store(Values),
    /// There is no such store.
    #[prost(string, tag = "8")]
    StoreGone(String),
    /// There is no such old store.
    #[prost(string, tag = "9")]
    LegacyStoreGone(String),
    /// There is no such nearby place.
    #[prost(string, tag = "10")]
    NearbyPoiGone(String),
}

/// How a nearby place looks.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Looks {
    /// Which one; empty for a new one.
    #[prost(string, tag = "1")]
    pub(crate) poi_id: String,
    /// A hash, as [`nearby::looks`](super::nearby::looks) makes it.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) hash: Vec<u8>,
}

/// What was to change about a store: hashes of the new values, as
/// [`change::shows`](super::change::shows) compares them.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Values {
    /// Which one.
    #[prost(string, tag = "1")]
    pub(crate) poi_id: String,
    /// The telephone number.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) phone: Option<Vec<u8>>,
    /// The hours.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(crate) hours: Option<Vec<u8>>,
    /// The pictures, in any order.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(crate) pictures: Option<Vec<u8>>,
    /// Whether something was to change that no call shows.
    #[prost(bool, tag = "5")]
    pub(crate) unseen: bool,
}

impl Evidence {
    /// Whether the write may be sent again where WeChat does not show this: what was executed all
    /// the same is then refused, or does no harm.
    pub(crate) const fn repeats(&self) -> bool {
        !matches!(self, Self::OtherMerchantAudit(_) | Self::MapPoiEvent(_))
    }
}

/// What is looked for if the outcome of a write is not known, and what is answered once it is: the
/// opaque part of it in the state.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sought {
    /// What was submitted, where WeChat reviews it.
    #[prost(message, optional, tag = "1")]
    pub(crate) submission: Option<Submission>,
    /// What shows that it got through; nothing does if there is none.
    #[prost(oneof = "Evidence", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub(crate) evidence: Option<Evidence>,
    /// The response, encoded, as far as it is known beforehand.
    #[prost(bytes = "bytes", tag = "11")]
    pub(crate) response: Bytes,
    /// Twice is the same as once: it may be sent again, whatever is shown.
    #[prost(bool, tag = "12")]
    pub(crate) repeatable: bool,
}

impl Sought {
    /// What a call without a review leaves behind.
    pub(crate) fn after<E: Evident>(call: &E) -> Self {
        let repeatable = !matches!(E::SAFETY, Safety::Once(_));
        Self { evidence: call.evidence(), repeatable, ..Self::default() }
    }

    /// Reads the opaque part.
    pub(crate) fn read(message: &[u8]) -> Result<Self, state::Error> {
        Self::decode(message).map_err(damaged)
    }

    /// What is remembered of it, where WeChat reviews it.
    pub(crate) fn remembered(self) -> Option<Remembered> {
        let Self { submission, evidence, response: _, repeatable: _ } = self;
        Some(Remembered { submission: submission?, evidence })
    }
}

impl From<Remembered> for Sought {
    fn from(Remembered { submission, evidence }: Remembered) -> Self {
        Self { submission: Some(submission), evidence, ..Self::default() }
    }
}
