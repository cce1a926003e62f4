//! The description of a WeChat call: data about an endpoint, without behavior.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::Method;
use serde::{Serialize, de::DeserializeOwned};

use super::Listed;

/// The [`Endpoint::REPLY_LIMIT`] of most endpoints, and the default timeout of the HTTP clients.
pub(super) const USUAL_REPLY_LIMIT: Duration = Duration::from_secs(10);

/// One WeChat call: its method, path, request and reply.
///
/// The `endpoints!` of its file must name it.
pub trait Endpoint: Listed + Serialize + Send + Sync + 'static {
    /// The HTTP method. WeChat refuses a wrong one (43001, 43002).
    const METHOD: Method;
    /// The path below the host.
    const PATH: &'static str;
    /// The kinds of account that may make the call.
    const ACCOUNT: AccountKinds;
    /// Whether the call may be repeated after a lost reply.
    const SAFETY: Safety;
    /// Whether the call carries an access token. The others carry the account's secret.
    const NEEDS_TOKEN: bool = true;
    /// The permission sets (权限集) by WeChat's numbers. A third-party platform needs one of them, and
    /// 48001 and 61007 mean that it has none. Empty if WeChat's page names none.
    const PERMISSION_SETS: &'static [u8];
    /// Whether WeChat allows the call from cloud hosting (云调用), with the token of a container or without
    /// one.
    const CLOUD: bool = false;
    /// How the reply states success.
    const VERDICT: Verdict = Verdict::Errcode;
    /// The parts that a reply must have in addition to the verdict, as the documents promise. A
    /// reply without them is [`Error::Unreadable`](super::Error::Unreadable), even if its verdict
    /// is a success. The types of [`Endpoint::Reply`] and [`Endpoint::is_whole`] enforce this, and
    /// tests damage each part in turn.
    const WHOLE: &'static [Need];
    /// Whether a partly unreadable reply is used. False for replies that are cached for a day,
    /// because the damage would stay as long.
    const SALVAGED: bool = true;
    /// The pause that WeChat requires after an answer before the account's next call. Set if WeChat
    /// accepts only one call of an account at a time.
    const PACE: Option<Duration> = None;
    /// The longest wait for the whole reply.
    const REPLY_LIMIT: Duration = USUAL_REPLY_LIMIT;
    /// The longest reply that is read, in bytes. It bounds the memory of a call.
    const MAX_REPLY: usize = 1 << 20;
    /// The reply.
    type Reply: DeserializeOwned + Send + 'static;

    /// Returns true if a successful reply has every part of [`Endpoint::WHOLE`] that its type does
    /// not enforce.
    fn is_whole(_reply: &Self::Reply) -> bool {
        true
    }

    /// Returns the query and the body of the request. The default is the call itself as JSON, or
    /// nothing for GET.
    fn payload(&self) -> Result<Payload, serde_json::Error> {
        if Self::METHOD == Method::GET {
            return Ok(Payload::default());
        }
        // serde_json writes raw UTF-8. WeChat refuses escaped text with 40033.
        let json = serde_json::to_vec(self)?;
        Ok(Payload {
            content_type: Some("application/json".into()),
            body: vec![json.into()],
            ..Payload::default()
        })
    }
}

/// The contents of one request, apart from its path and token.
#[derive(Debug, Default)]
pub struct Payload {
    /// Further query parameters.
    pub query: Vec<(&'static str, String)>,
    /// The content type. `None` without a body.
    pub content_type: Option<Cow<'static, str>>,
    /// The body in pieces, so that a picture is not copied.
    pub body: Vec<Bytes>,
}

/// The accounts that may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountKinds {
    /// Official accounts and mini programs.
    Any,
    /// Mini programs (小程序) only.
    MiniProgram,
    /// Official accounts (公众号) only.
    Official,
    /// No account: the call is one of a third-party platform (第三方平台) about itself or its accounts.
    Platform,
}

/// Whether a call may be repeated after a lost reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// The call changes nothing.
    Read,
    /// The call changes something, but repeating it has no further effect.
    Repeatable,
    /// The call may take effect twice if it is sent twice. After a lost reply, the gateway searches
    /// for this proof instead.
    Once(Proof),
}

/// The observation that proves that a call with a lost reply was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Only the audit event proves it.
    Event,
    /// The deleted object is gone.
    Gone,
    /// The list has a nearby place with the same license number and address.
    ListedNearbyPoi,
    /// The list has a store with the same license number, phone, hours and pictures.
    ListedStore,
    /// The merchant audit differs from the one that was read before sending.
    MerchantAudit,
    /// Nothing that the gateway can read. An operator decides.
    Nothing,
    /// A read returns the values that were written.
    Values,
}

/// How a reply states success. An `errcode` other than 0 is always a refusal. A missing statement
/// is never a success: a reply that states neither is
/// [`Error::Unreadable`](super::Error::Unreadable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By [`Endpoint::WHOLE`], because the documents promise no `errcode`. If there is one, it must
    /// be 0.
    Content,
    /// By an `errcode` of 0.
    Errcode,
    /// Like [`Verdict::Content`], but `error` must also be null or missing (create_map_poi).
    NoError,
    /// By a `status` of 0 (get_district).
    Status,
}

/// A part that a reply must have. Dots separate the names of a path. A string on the path contains
/// JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An id: non-empty text or a number, and not 0.
    Id(&'static str),
    /// A list, which may be empty.
    List(&'static str),
    /// A list with at least one row.
    Filled(&'static str),
    /// A whole number.
    Number(&'static str),
    /// A whole number at the first path or an id at the second.
    NumberOrId(&'static str, &'static str),
    /// Non-empty text.
    Text(&'static str),
}
