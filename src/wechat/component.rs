//! Third-party platforms (第三方平台): their tokens, and the accounts that authorized them.
//!
//! WeChat calls a platform a *component*, and an account that authorized it an *authorizer*.

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use super::{
    AccountKinds, Done, Endpoint, Int, Need, Rows, Safety, Seconds, Text, Verdict,
    token::{exposed, life},
};
use crate::{
    config::AccountKind,
    util::id::{AppId, Secret},
};

endpoints![
    AuthorizerToken,
    ComponentToken,
    CreatePreauthCode,
    GetAuthorizerInfo,
    GetAuthorizerList,
    QueryAuth,
    StartPushTicket,
];

/// The most rows of one [`GetAuthorizerList`]. WeChat refuses more with 40170.
pub(crate) const MOST_AUTHORIZERS: u32 = 500;

/// The limit of the calls for which other calls wait.
const TOKEN_REPLY_LIMIT: Duration = Duration::from_secs(5);

/// `POST /cgi-bin/component/api_start_push_ticket` — 启动票据推送服务
///
/// Makes WeChat push tickets to the platform again. WeChat accepts it, too, if it already pushes them.
#[derive(Debug, Serialize)]
pub(crate) struct StartPushTicket {
    /// The platform.
    pub component_appid: AppId,
    /// The platform's secret. Only here WeChat calls it `component_secret`.
    #[serde(serialize_with = "exposed")]
    pub component_secret: Secret,
}

impl Endpoint for StartPushTicket {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_start_push_ticket";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    const SAFETY: Safety = Safety::Repeatable;
    // One of WeChat's pages names a token. A platform that has no ticket has no token either.
    const NEEDS_TOKEN: bool = false;
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}

/// `POST /cgi-bin/component/api_component_token` — 获取第三方平台接口调用凭据
///
/// Makes a new token of the platform. The previous one works for a few more minutes.
#[derive(Debug, Serialize)]
pub(crate) struct ComponentToken {
    /// The platform.
    pub component_appid: AppId,
    /// The platform's secret.
    #[serde(serialize_with = "exposed")]
    pub component_appsecret: Secret,
    /// The newest ticket that WeChat pushed.
    #[serde(serialize_with = "exposed")]
    pub component_verify_ticket: Secret,
}

/// The reply to [`ComponentToken`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ComponentTokenReply {
    /// The token.
    pub component_access_token: Text,
    /// How many seconds it lives, at most 7200.
    pub expires_in: Seconds,
}

impl ComponentTokenReply {
    /// Returns how long the token lives, or `None` without a token.
    pub(crate) fn life(&self) -> Option<Duration> {
        life(&self.component_access_token, self.expires_in)
    }
}

impl Endpoint for ComponentToken {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_component_token";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    const SAFETY: Safety = Safety::Repeatable;
    const NEEDS_TOKEN: bool = false;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] =
        &[Need::Text("component_access_token"), Need::Number("expires_in")];
    const REPLY_LIMIT: Duration = TOKEN_REPLY_LIMIT;
    type Reply = ComponentTokenReply;

    fn is_whole(reply: &ComponentTokenReply) -> bool {
        reply.life().is_some()
    }
}

/// `POST /cgi-bin/component/api_create_preauthcode` — 获取预授权码
///
/// Returns a code for one link with which an account authorizes the platform.
#[derive(Debug, Serialize)]
pub(crate) struct CreatePreauthCode {
    /// The platform.
    pub component_appid: AppId,
}

/// The reply to [`CreatePreauthCode`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct CreatePreauthCodeReply {
    /// The code.
    pub pre_auth_code: Text,
    /// How many seconds it is valid. WeChat's text states 1800, its sample 600.
    pub expires_in: Seconds,
}

impl CreatePreauthCodeReply {
    /// Returns how long the code is valid, or `None` without a code.
    pub(crate) fn life(&self) -> Option<Duration> {
        life(&self.pre_auth_code, self.expires_in)
    }
}

impl Endpoint for CreatePreauthCode {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_create_preauthcode";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    // A second code does no harm: the first one expires without use.
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = &[Need::Text("pre_auth_code"), Need::Number("expires_in")];
    type Reply = CreatePreauthCodeReply;

    fn is_whole(reply: &CreatePreauthCodeReply) -> bool {
        reply.life().is_some()
    }
}

/// `POST /cgi-bin/component/api_query_auth` — 获取刷新令牌
///
/// Exchanges the code of an authorization for the authorization itself.
#[derive(Debug, Serialize)]
pub(crate) struct QueryAuth {
    /// The platform.
    pub component_appid: AppId,
    /// The code, which WeChat pushes with the event of the authorization. It is good for one use.
    #[serde(serialize_with = "exposed")]
    pub authorization_code: Secret,
}

/// The reply to [`QueryAuth`].
#[derive(Deserialize)]
pub(crate) struct QueryAuthReply {
    /// The authorization.
    pub authorization_info: Authorization,
}

/// The authorization of an account (授权信息).
#[derive(Deserialize)]
pub(crate) struct Authorization {
    /// The account.
    pub authorizer_appid: AppId,
    /// The account's access token. Missing if the account granted no API.
    #[serde(default)]
    pub authorizer_access_token: Text,
    /// How many seconds the access token lives.
    #[serde(default)]
    pub expires_in: Seconds,
    /// The refresh token. Missing if the account granted no API.
    #[serde(default)]
    pub authorizer_refresh_token: Text,
    /// The permission sets that the account granted. It can choose a part of those that the platform asks for.
    pub func_info: Rows<Grant>,
    /// The fields that are unreadable.
    #[serde(default, rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

/// One permission set of an [`Authorization`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Grant {
    /// The permission set.
    pub funcscope_category: PermissionSet,
}

/// A permission set (权限集).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PermissionSet {
    /// WeChat's number of it.
    pub id: Int,
}

impl Authorization {
    /// Returns the access token and its life. Returns `None` if the reply has none.
    pub(crate) fn access_token(&self) -> Option<(Secret, Duration)> {
        let life = life(&self.authorizer_access_token, self.expires_in)?;
        Some((secret(&self.authorizer_access_token)?, life))
    }

    /// Returns the refresh token. Returns `None` if the reply has none.
    pub(crate) fn refresh_token(&self) -> Option<Secret> {
        secret(&self.authorizer_refresh_token)
    }

    /// Returns the granted permission sets by WeChat's numbers. Leaves out unreadable ones.
    pub(crate) fn permission_sets(&self) -> Vec<i32> {
        let Rows(grants) = &self.func_info;
        grants.iter().filter_map(|grant| grant.funcscope_category.id.0).collect()
    }

    /// Returns false if a part is unreadable whose absence has a meaning.
    fn is_whole(&self) -> bool {
        let needed = ["authorizer_appid", "authorizer_refresh_token", "func_info"];
        let is_unreadable = |field: &String| needed.contains(&field.as_str());
        !self.authorizer_appid.is_empty() && !self.unreadable.iter().any(is_unreadable)
    }
}

/// The parts of an [`Authorization`] that a reply must have.
const WHOLE_AUTHORIZATION: &[Need] =
    &[Need::Id("authorization_info.authorizer_appid"), Need::List("authorization_info.func_info")];

impl Endpoint for QueryAuth {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_query_auth";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    // The code is good for one use. If a lost call used it, a repeat is refused and changes nothing. Then
    // `GetAuthorizerInfo` returns the same authorization.
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = WHOLE_AUTHORIZATION;
    type Reply = QueryAuthReply;

    fn is_whole(reply: &QueryAuthReply) -> bool {
        reply.authorization_info.is_whole()
    }
}

/// `POST /cgi-bin/component/api_authorizer_token` — 获取授权账号调用令牌
///
/// Makes a new access token of an account.
#[derive(Debug, Serialize)]
pub(crate) struct AuthorizerToken {
    /// The platform.
    pub component_appid: AppId,
    /// The account.
    pub authorizer_appid: AppId,
    /// The refresh token of the authorization.
    #[serde(serialize_with = "exposed")]
    pub authorizer_refresh_token: Secret,
}

/// The reply to [`AuthorizerToken`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuthorizerTokenReply {
    /// The access token.
    pub authorizer_access_token: Text,
    /// How many seconds the access token lives, at most 7200.
    pub expires_in: Seconds,
    /// The refresh token for the next time. It replaces the one that was sent.
    pub authorizer_refresh_token: Text,
}

impl AuthorizerTokenReply {
    /// Returns how long the access token lives, or `None` without a token.
    pub(crate) fn life(&self) -> Option<Duration> {
        life(&self.authorizer_access_token, self.expires_in)
    }

    /// Returns the refresh token for the next time.
    pub(crate) fn refresh_token(&self) -> Option<Secret> {
        secret(&self.authorizer_refresh_token)
    }
}

impl Endpoint for AuthorizerToken {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_authorizer_token";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    // The refresh token that was sent works for some minutes after it was replaced.
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = &[
        Need::Text("authorizer_access_token"),
        Need::Number("expires_in"),
        Need::Text("authorizer_refresh_token"),
    ];
    const REPLY_LIMIT: Duration = TOKEN_REPLY_LIMIT;
    type Reply = AuthorizerTokenReply;

    fn is_whole(reply: &AuthorizerTokenReply) -> bool {
        reply.life().is_some() && reply.refresh_token().is_some()
    }
}

/// `POST /cgi-bin/component/api_get_authorizer_list` — 拉取已授权的账号信息
///
/// Returns the accounts that authorized the platform, each with its refresh token.
#[derive(Debug, Serialize)]
pub(crate) struct GetAuthorizerList {
    /// The platform.
    pub component_appid: AppId,
    /// The number of accounts to leave out at the beginning.
    pub offset: u32,
    /// The number of accounts to return, at most [`MOST_AUTHORIZERS`].
    pub count: u32,
}

/// The reply to [`GetAuthorizerList`].
#[derive(Deserialize)]
pub(crate) struct GetAuthorizerListReply {
    /// The number of all accounts.
    pub total_count: Int,
    /// The accounts of this page.
    pub list: Rows<ListedAuthorizer>,
}

/// An account of [`GetAuthorizerList`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListedAuthorizer {
    /// The account. Empty if the row is unreadable.
    pub authorizer_appid: AppId,
    /// The refresh token.
    pub refresh_token: Text,
    /// When the account authorized the platform, in seconds after 1970.
    pub auth_time: Seconds,
}

impl ListedAuthorizer {
    /// Returns the refresh token. Returns `None` if the row has none.
    pub(crate) fn refresh_token(&self) -> Option<Secret> {
        secret(&self.refresh_token)
    }
}

impl Endpoint for GetAuthorizerList {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_get_authorizer_list";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = &[Need::Number("total_count"), Need::List("list")];
    type Reply = GetAuthorizerListReply;

    fn is_whole(reply: &GetAuthorizerListReply) -> bool {
        reply.total_count.0.is_some()
    }
}

/// `POST /cgi-bin/component/api_get_authorizer_info` — 获取授权账号详情
///
/// Describes an account that authorized the platform.
#[derive(Debug, Serialize)]
pub(crate) struct GetAuthorizerInfo {
    /// The platform.
    pub component_appid: AppId,
    /// The account.
    pub authorizer_appid: AppId,
}

/// The reply to [`GetAuthorizerInfo`].
#[derive(Deserialize)]
pub(crate) struct GetAuthorizerInfoReply {
    /// The description of the account.
    pub authorizer_info: AuthorizerInfo,
    /// The authorization, without an access token.
    pub authorization_info: Authorization,
}

/// The description of an account.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuthorizerInfo {
    /// The name. A mini program can be without one.
    pub nick_name: Text,
    /// The company or person behind the account (主体名称).
    pub principal_name: Text,
    /// The account's original id (原始 ID), which every account has.
    pub user_name: Text,
    /// Present for mini programs only.
    #[serde(rename = "MiniProgramInfo")]
    pub mini_program_info: Option<Present>,
    /// Present for channels (视频号) only.
    pub channels_info: Option<Present>,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

/// An object of which only the presence counts.
#[derive(Debug, Deserialize)]
pub(crate) struct Present {}

impl AuthorizerInfo {
    /// Returns the kind of account. Returns `None` for a kind that has no stores, such as a channel.
    pub(crate) fn kind(&self) -> Option<AccountKind> {
        match (&self.mini_program_info, &self.channels_info) {
            (Some(Present {}), _) => Some(AccountKind::MiniProgram),
            (None, None) => Some(AccountKind::Official),
            (None, Some(Present {})) => None,
        }
    }

    /// Returns false if a part is unreadable that decides about the kind.
    fn is_whole(&self) -> bool {
        let needed = ["MiniProgramInfo", "channels_info"];
        let is_unreadable = |field: &String| needed.contains(&field.as_str());
        !self.user_name.0.trim().is_empty() && !self.unreadable.iter().any(is_unreadable)
    }
}

impl Endpoint for GetAuthorizerInfo {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/component/api_get_authorizer_info";
    const ACCOUNT: AccountKinds = AccountKinds::Platform;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = &[
        Need::Text("authorizer_info.user_name"),
        Need::Id("authorization_info.authorizer_appid"),
        Need::List("authorization_info.func_info"),
    ];
    type Reply = GetAuthorizerInfoReply;

    fn is_whole(reply: &GetAuthorizerInfoReply) -> bool {
        reply.authorizer_info.is_whole() && reply.authorization_info.is_whole()
    }
}

/// Returns a text that is a secret. Returns `None` if it is empty.
fn secret(Text(text): &Text) -> Option<Secret> {
    let text = text.trim();
    (!text.is_empty()).then(|| Secret::from(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::wechat::envelope::open;

    /// WeChat's own example of a call.
    #[derive(Deserialize)]
    struct Example {
        path: String,
        sent: Value,
        reply: Value,
    }

    fn example(name: &str) -> Example {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/documented/component");
        let text = std::fs::read_to_string(folder.join(name).with_extension("json"));
        serde_json::from_str(&text.expect(name)).expect(name)
    }

    /// Compares a call with WeChat's example of it, and returns the reply of the example. Damages each part
    /// that a reply must have, and expects a failure each time.
    fn check<E: Endpoint>(name: &str, call: &E) -> E::Reply {
        let Example { path, sent, reply } = example(name);
        assert_eq!(E::PATH, path, "{name}");
        assert_eq!(serde_json::to_value(call).expect(name), sent, "{name}");
        for need in E::WHOLE {
            let (Need::Id(at) | Need::List(at) | Need::Number(at) | Need::Text(at)) = *need else {
                panic!("{name} needs {need:?}, which this test does not damage");
            };
            let pointer = format!("/{}", at.replace('.', "/"));
            for value in [json!(null), json!(""), json!(" "), json!({}), json!(1.5)] {
                let mut damaged = reply.clone();
                *damaged.pointer_mut(&pointer).unwrap_or_else(|| panic!("{name}: {at}")) = value;
                let body = damaged.to_string();
                assert!(open_text::<E>(&body).is_none(), "{name}: {body}");
            }
        }
        for body in ["{}", r#"{"errmsg":"ok"}"#, r#"{"message":"forbidden by policy"}"#] {
            assert!(open_text::<E>(body).is_none(), "{name}: {body}");
        }
        open_text::<E>(&reply.to_string()).expect(name)
    }

    fn open_text<E: Endpoint>(body: &str) -> Option<E::Reply> {
        open::<E>(body.as_bytes()).ok()
    }

    fn platform() -> AppId {
        "wx00000000000000c0".to_owned().into()
    }

    fn account() -> AppId {
        "wxf8b4f85f3a794e77".to_owned().into()
    }

    fn hush(text: &str) -> Secret {
        text.to_owned().into()
    }

    #[test]
    fn tokens_match_their_documents() {
        check(
            "api_start_push_ticket",
            &StartPushTicket {
                component_appid: platform(),
                component_secret: hush("COMPONENT_SECRET"),
            },
        );
        let reply = check(
            "api_component_token",
            &ComponentToken {
                component_appid: platform(),
                component_appsecret: hush("COMPONENT_SECRET"),
                component_verify_ticket: hush("ticket@@@TICKET"),
            },
        );
        assert_eq!(reply.component_access_token.0, "COMPONENT_ACCESS_TOKEN");
        assert_eq!(reply.life(), Some(Duration::from_secs(7200)));
        let reply =
            check("api_create_preauthcode", &CreatePreauthCode { component_appid: platform() });
        assert_eq!(reply.life(), Some(Duration::from_secs(600)));
        let reply = check(
            "api_authorizer_token",
            &AuthorizerToken {
                component_appid: platform(),
                authorizer_appid: account(),
                authorizer_refresh_token: hush("refreshtoken@@@REFRESH"),
            },
        );
        assert_eq!(reply.life(), Some(Duration::from_secs(7200)));
        assert_eq!(reply.refresh_token(), Some(hush("refreshtoken@@@NEXT")));
    }

    #[test]
    fn authorizations_match_their_documents() {
        let reply = check(
            "api_query_auth",
            &QueryAuth {
                component_appid: platform(),
                authorization_code: hush("queryauthcode@@@CODE"),
            },
        );
        let authorization = reply.authorization_info;
        assert_eq!(authorization.authorizer_appid, account());
        assert_eq!(authorization.permission_sets(), [1, 2, 3]);
        assert_eq!(authorization.refresh_token(), Some(hush("refreshtoken@@@REFRESH")));
        let access = (hush("AUTHORIZER_ACCESS_TOKEN"), Duration::from_secs(7200));
        assert_eq!(authorization.access_token(), Some(access));

        let call = GetAuthorizerList { component_appid: platform(), offset: 0, count: 100 };
        assert!(call.count <= MOST_AUTHORIZERS);
        let reply = check("api_get_authorizer_list", &call);
        assert_eq!((reply.total_count.0, reply.list.0.len()), (Some(33), 2));
        let listed = &reply.list.0[1];
        assert_eq!(listed.authorizer_appid.as_str(), "authorizer_appid_2");
        assert_eq!(listed.refresh_token(), Some(hush("refresh_token_2")));
        assert_eq!(listed.auth_time.0, Some(1_558_000_607));

        for (name, nick_name, sets, kind) in [
            ("api_get_authorizer_info", "微信SDK Demo Special", [1, 2], AccountKind::Official),
            (
                "api_get_authorizer_info_of_mini_program",
                "美妆饰品",
                [3, 37],
                AccountKind::MiniProgram,
            ),
        ] {
            let call =
                GetAuthorizerInfo { component_appid: platform(), authorizer_appid: account() };
            let reply = check(name, &call);
            assert_eq!(reply.authorizer_info.kind(), Some(kind));
            assert_eq!(reply.authorizer_info.nick_name.0, nick_name);
            assert_eq!(reply.authorization_info.permission_sets(), sets);
        }
    }

    #[test]
    fn authorization_without_api_has_no_tokens() {
        let mut reply = example("api_query_auth").reply;
        let fields = reply["authorization_info"].as_object_mut().expect("fields");
        for name in ["authorizer_access_token", "expires_in", "authorizer_refresh_token"] {
            fields.remove(name);
        }
        let reply = open_text::<QueryAuth>(&reply.to_string()).expect("a whole reply");
        assert_eq!(reply.authorization_info.access_token(), None);
        assert_eq!(reply.authorization_info.refresh_token(), None);
    }

    #[test]
    fn unreadable_part_is_not_a_missing_one() {
        for (name, pointer) in [
            ("api_get_authorizer_info", "/authorization_info/authorizer_refresh_token"),
            ("api_get_authorizer_info_of_mini_program", "/authorizer_info/MiniProgramInfo"),
        ] {
            let mut reply = example(name).reply;
            *reply.pointer_mut(pointer).expect(pointer) = json!([1]);
            assert!(open_text::<GetAuthorizerInfo>(&reply.to_string()).is_none(), "{pointer}");
        }
        // A name is worth less than the rest.
        let mut reply = example("api_get_authorizer_info").reply;
        reply["authorizer_info"]["nick_name"] = json!([1]);
        let reply = open_text::<GetAuthorizerInfo>(&reply.to_string()).expect("a whole reply");
        assert_eq!(reply.authorizer_info.nick_name.0, "");
    }

    #[test]
    fn channel_has_no_kind_of_account() {
        let mut reply = example("api_get_authorizer_info").reply;
        reply["authorizer_info"]["channels_info"] = json!({});
        let reply = open_text::<GetAuthorizerInfo>(&reply.to_string()).expect("a whole reply");
        assert_eq!(reply.authorizer_info.kind(), None);
    }

    #[test]
    fn unreadable_row_keeps_the_others() {
        let mut reply = example("api_get_authorizer_list").reply;
        reply["list"][0] = json!("x");
        let reply = open_text::<GetAuthorizerList>(&reply.to_string()).expect("a whole reply");
        let ids: Vec<_> = reply.list.0.iter().map(|row| row.authorizer_appid.as_str()).collect();
        assert_eq!(ids, ["", "authorizer_appid_2"]);
    }
}
