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
/// The `endpoints!` of its file must name it.
pub trait Endpoint: Listed + Serialize + Send + Sync + 'static {
    /// The verb. WeChat refuses the wrong one (43001, 43002).
    const METHOD: Method;
    /// The path below the host.
    const PATH: &'static str;
    /// Whose token the call needs.
    const ACCOUNT: AccountKinds;
    /// What a lost reply means.
    const SAFETY: Safety;
    /// The permission sets (权限集) by WeChat's numbers. A third-party platform needs one of them, and
    /// 48001 and 61007 mean that it has none. Empty if WeChat's page names none.
    const PERMISSION_SETS: &'static [u8];
    /// How its reply states success.
    const VERDICT: Verdict = Verdict::Errcode;
    /// What a reply has to have beside the verdict, as the documents promise it. A reply without is not
    /// whole: it is [`Error::Unreadable`](super::Error::Unreadable), whatever its verdict says. The types
    /// of [`Endpoint::Reply`] and [`Endpoint::is_whole`] enforce it; tests damage each of these in turn.
    const WHOLE: &'static [Need];
    /// Whether the rest of a reply is of use where a part of it cannot be read. Not so for what is kept
    /// for a day: the damage would stay as long.
    const SALVAGED: bool = true;
    /// Set where WeChat takes the calls of an account one at a time: how long after an answer the
    /// next may follow.
    const PACE: Option<Duration> = None;
    /// The longest wait for the whole reply.
    const REPLY_LIMIT: Duration = USUAL_REPLY_LIMIT;
    /// The longest reply that is read, in bytes. It bounds what a call can cost in memory.
    const MAX_REPLY: usize = 1 << 20;
    /// What comes back.
    type Reply: DeserializeOwned + Send + 'static;

    /// Whether a success has all of [`Endpoint::WHOLE`] that its type does not enforce.
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

/// How a reply states success. An `errcode` other than 0 is a refusal everywhere. Success is never inferred
/// from silence: a reply that states neither is [`Error::Unreadable`](super::Error::Unreadable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By [`Endpoint::WHOLE`], for the documents promise no `errcode`; one that is there has to be 0.
    Content,
    /// By an `errcode` of 0.
    Errcode,
    /// As [`Verdict::Content`], if `error` is null or missing (create_map_poi).
    NoError,
    /// By a `status` of 0 (get_district).
    Status,
}

/// Something that a reply has to have. Names in it are separated by dots; a string on the way hides JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An id: text that is not empty or a number, and not 0.
    Id(&'static str),
    /// A list, empty or not.
    List(&'static str),
    /// A list with at least one row.
    Filled(&'static str),
    /// A whole number.
    Number(&'static str),
    /// A whole number or, at the second place, an id.
    NumberOrId(&'static str, &'static str),
    /// Text that is not empty.
    Text(&'static str),
}
