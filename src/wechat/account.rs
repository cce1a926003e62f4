//! Quotas of an account (接口调用额度).

use http::Method;
use serde::{Deserialize, Serialize};

use super::{AccountKinds, Done, Endpoint, Int, Need, Proof, Safety, token::exposed};
use crate::util::id::{AppId, Secret};

endpoints![ClearQuota, ClearQuotaBySecret, GetQuota];

/// `POST /cgi-bin/openapi/quota/get` — 查询API调用额度
///
/// Returns how often the account made a call today, and how often it may.
#[derive(Debug, Serialize)]
pub(crate) struct GetQuota {
    /// The path of the call, without the host.
    pub cgi_path: String,
}

/// The reply to [`GetQuota`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GetQuotaReply {
    /// The quota of today.
    pub quota: DailyQuota,
    /// The limit in a short time (普通调用频率限制). Missing if there is none.
    pub rate_limit: Option<RateLimit>,
    /// The same for calls of a third-party platform (代调用频率限制). Missing if there is none.
    pub component_rate_limit: Option<RateLimit>,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

/// A quota of a day.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DailyQuota {
    /// The number of calls that are allowed.
    pub daily_limit: Int,
    /// The number of calls that were made.
    pub used: Int,
    /// The number of calls that are left.
    pub remain: Int,
}

/// A limit on calls in a short time.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RateLimit {
    /// The number of calls in each period.
    pub call_count: Int,
    /// The length of the period in seconds.
    pub refresh_second: Int,
}

impl Endpoint for GetQuota {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/openapi/quota/get";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[
        Need::Number("quota.daily_limit"),
        Need::Number("quota.used"),
        Need::Number("quota.remain"),
    ];
    type Reply = GetQuotaReply;

    fn is_whole(reply: &GetQuotaReply) -> bool {
        let DailyQuota { daily_limit, used, remain } = reply.quota;
        [daily_limit, used, remain].iter().all(|number| number.0.is_some())
    }
}

/// `POST /cgi-bin/clear_quota` — 重置API调用次数
///
/// Sets the counts of all calls of the account to 0. WeChat allows it ten times a month.
#[derive(Debug, Serialize)]
pub(crate) struct ClearQuota {
    /// The account, which must be that of the token.
    pub appid: AppId,
}

impl Endpoint for ClearQuota {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/clear_quota";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    // A second call would use up another of the ten.
    const SAFETY: Safety = Safety::Once(Proof::Nothing);
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}

/// `POST /cgi-bin/clear_quota/v2` — 使用AppSecret重置API调用次数
///
/// Does the same as [`ClearQuota`], for an account that gets no token. Both share the ten calls a month.
#[derive(Debug, Serialize)]
pub(crate) struct ClearQuotaBySecret {
    /// The account.
    pub appid: AppId,
    /// The account's secret, sent in the body.
    #[serde(serialize_with = "exposed")]
    pub appsecret: Secret,
}

impl Endpoint for ClearQuotaBySecret {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/clear_quota/v2";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Once(Proof::Nothing);
    const NEEDS_TOKEN: bool = false;
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}
