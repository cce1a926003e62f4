//! What a WeChat call is: data about an endpoint, and nothing that runs.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::Method;
use serde::{Serialize, de::DeserializeOwned};

use super::Listed;

/// The [`Endpoint::REPLY_LIMIT`] of most, which the HTTP clients have by themselves.
pub(super) const USUAL_REPLY_LIMIT: Duration = Duration::from_secs(10);

/// One WeChat call: what is sent, where, and what comes back.
///
/// The list in `src/wechat/registry.rs` has to name it.
pub trait Endpoint: Listed + Serialize + Send + Sync + 'static {
    /// The verb. WeChat refuses the wrong one (43001, 43002).
    const METHOD: Method;
    /// The path below the host.
    const PATH: &'static str;
    /// Whose token the call needs.
    const ACCOUNT: AccountKinds;
    /// What a lost reply means.
    const SAFETY: Safety;
    /// How this endpoint reports failure.
    const ENVELOPE: Envelope = Envelope::Errcode;
    /// Set where WeChat takes the calls of an account one at a time: how long after an answer the
    /// next may follow.
    const PACE: Option<Duration> = None;
    /// The longest wait for the whole reply.
    const REPLY_LIMIT: Duration = USUAL_REPLY_LIMIT;
    /// The longest reply that is read, in bytes. It bounds what a call can cost in memory.
    const MAX_REPLY: usize = 1 << 20;
    /// What comes back.
    type Reply: DeserializeOwned + Send + 'static;

    /// Whether a success has what the call was made for. One without it counts as unreadable.
    fn is_whole(_reply: &Self::Reply) -> bool {
        true
    }

    /// What is sent beside the path: by default the call itself as JSON, or nothing with GET.
    fn payload(&self) -> Result<Payload, serde_json::Error> {
        if Self::METHOD == Method::GET {
            return Ok(Payload::default());
        }
        // serde_json writes raw UTF-8, as WeChat demands (40033 otherwise).
        let json = serde_json::to_vec(self)?;
        Ok(Payload {
            content_type: Some("application/json".into()),
            body: vec![json.into()],
            ..Payload::default()
        })
    }
}

/// What one request carries beside its path and token.
#[derive(Debug, Default)]
pub struct Payload {
    /// Further query parameters.
    pub query: Vec<(&'static str, String)>,
    /// The kind of the body; none without a body.
    pub content_type: Option<Cow<'static, str>>,
    /// The body, in pieces so that a picture need not be copied.
    pub body: Vec<Bytes>,
}

/// Which accounts may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountKinds {
    /// Official accounts and mini programs.
    Any,
    /// Mini programs (小程序) only.
    MiniProgram,
    /// Official accounts (公众号) only.
    Official,
}

/// What a lost reply means: may the call be sent again without asking?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It changes nothing.
    Read,
    /// It changes something, but twice is the same as once.
    Repeatable,
    /// Sent twice it may happen twice. A lost reply is settled by looking for this proof.
    Once(Proof),
}

/// What shows that a lost call got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Only the audit event shows it.
    Event,
    /// What was to be deleted is gone.
    Gone,
    /// A nearby place with the same credential and address is listed.
    ListedNearbyPoi,
    /// A store with the same credential, phone, hours and pictures is listed.
    ListedStore,
    /// The merchant audit is not the one read before sending.
    MerchantAudit,
    /// Reading it back shows the wanted values.
    Values,
}

/// How an endpoint says that it failed. An `errcode` other than 0 is a failure everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// By `errcode` alone.
    Errcode,
    /// Or by an `error` that is not null (create_map_poi).
    Error,
    /// Or by a `status` other than 0 (get_district).
    Status,
}
