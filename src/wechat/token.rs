//! Access tokens (接口调用凭据): the two calls that need no token.

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize, Serializer};

use super::{AccountKinds, Endpoint, Need, Payload, Safety, Seconds, Text, Verdict};
use crate::util::id::{AppId, Secret};

endpoints![ClassicToken, StableToken];

/// WeChat's tokens live 7200 s. A longer life would be a mistake, and a clock cannot add every number.
const LONGEST_LIFE: Duration = Duration::from_secs(7200);

/// The parts that both token replies must have.
const WHOLE_TOKEN: &[Need] = &[Need::Text("access_token"), Need::Number("expires_in")];

/// `GET /cgi-bin/token` — 获取接口调用凭据
///
/// Makes a new token. The previous one ends five minutes later. The limit is 2,000 calls a day.
#[derive(Debug, Serialize)]
pub(crate) struct ClassicToken {
    /// The account.
    pub appid: AppId,
    /// The account's secret, sent in the query.
    #[serde(serialize_with = "exposed")]
    pub secret: Secret,
}

impl Endpoint for ClassicToken {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/cgi-bin/token";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    // The call changes the valid token, but repeating it only returns a newer one.
    const SAFETY: Safety = Safety::Repeatable;
    const NEEDS_TOKEN: bool = false;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = WHOLE_TOKEN;
    const REPLY_LIMIT: Duration = Duration::from_secs(5);
    type Reply = TokenReply;

    fn is_whole(reply: &TokenReply) -> bool {
        reply.life().is_some()
    }

    fn payload(&self) -> Result<Payload, serde_json::Error> {
        let query = vec![
            ("grant_type", "client_credential".to_owned()),
            ("appid", self.appid.as_str().to_owned()),
            ("secret", self.secret.expose().to_owned()),
        ];
        Ok(Payload { query, ..Payload::default() })
    }
}

/// `POST /cgi-bin/stable_token` — 获取稳定版接口调用凭据
///
/// Returns the same token to every caller while it lives, and a new one in its last five minutes.
/// These tokens are separate from those of [`ClassicToken`].
#[derive(Debug, Serialize)]
pub(crate) struct StableToken {
    grant_type: &'static str,
    appid: AppId,
    #[serde(serialize_with = "exposed")]
    secret: Secret,
    force_refresh: bool,
}

impl StableToken {
    /// Creates a call. With `force_refresh`, the current token ends immediately for every user.
    /// WeChat allows this 20 times a day.
    pub(crate) fn new(appid: AppId, secret: Secret, force_refresh: bool) -> Self {
        Self { grant_type: "client_credential", appid, secret, force_refresh }
    }
}

impl Endpoint for StableToken {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/stable_token";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Repeatable;
    const NEEDS_TOKEN: bool = false;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = WHOLE_TOKEN;
    const REPLY_LIMIT: Duration = Duration::from_secs(5);
    type Reply = TokenReply;

    fn is_whole(reply: &TokenReply) -> bool {
        reply.life().is_some()
    }
}

/// The reply to both calls.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenReply {
    /// The token. It has 512 characters or more.
    pub access_token: Text,
    /// How many seconds it lives, at most 7200.
    pub expires_in: Seconds,
}

impl TokenReply {
    /// Returns how long the token lives, or `None` without a token.
    pub(crate) fn life(&self) -> Option<Duration> {
        life(&self.access_token, self.expires_in)
    }
}

/// Returns how long a token or a code lives. Returns `None` if it is empty, or if its life is unknown.
pub(super) fn life(value: &Text, expires_in: Seconds) -> Option<Duration> {
    let life = Duration::from_secs(u64::try_from(expires_in.0?).ok()?);
    let is_there = !value.0.trim().is_empty();
    (!life.is_zero() && is_there).then(|| life.min(LONGEST_LIFE))
}

/// Serializes a secret for WeChat.
pub(super) fn exposed<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}
