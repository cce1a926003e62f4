//! The table of WeChat's error codes, with one row per code and no logic.
//!
//! A row has the gRPC code and the reason that a refusal becomes, the party that can fix it, and its meaning
//! in English and Chinese. The codes come from the documents of every call that the gateway makes, from
//! WeChat's global table (全局返回码), from its page about cards (卡券错误码) and from that of Tencent Maps
//! (状态码说明). From the last three, the table has the codes that one of these calls can return. A code
//! that is not in the table becomes [`UNKNOWN_ERRCODE`](ErrorReason::UnknownErrcode) with WeChat's text.
//!
//! How the gRPC codes are chosen:
//!
//! - `UNAVAILABLE` only if WeChat certainly did not execute the call and a retry can help. A refused token is
//!   one of these: it was refreshed and refused again, and the next call may get a token that works. It is
//!   never `UNAUTHENTICATED`, because that code is about the caller's own identity.
//! - `FAILED_PRECONDITION` if something outside the request must be fixed first: secrets, whitelists, rights,
//!   reviews. A right that the account lacks at WeChat is one of these. `PERMISSION_DENIED` is reserved for
//!   callers that the gateway's own settings refuse.
//! - `INVALID_ARGUMENT` if the request's own values can never pass.
//! - `INTERNAL` if WeChat did not understand the gateway, because no caller can fix that.
//! - `UNKNOWN` for -1 on calls that create something, because it does not show whether WeChat executed the
//!   call.
//! - `ABORTED` for -1 on `/wxa/del_store`. It means "failed" there, possibly for good, so no client should
//!   retry at once by itself.

use tonic::Code;

use crate::pb::ErrorReason::{self, self as R};

/// The meaning of one errcode, on every call or on one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// WeChat's code.
    pub(crate) code: i64,
    /// The only call that the row applies to. `None`: every call that has no row of its own.
    pub(crate) path: Option<&'static str>,
    /// The gRPC code of the status.
    pub(crate) status: Code,
    /// The reason of the status.
    pub(crate) reason: ErrorReason,
    /// The party that can fix it.
    pub(crate) fix_by: FixBy,
    /// The meaning in English, for the message of the status.
    pub(crate) en: &'static str,
    /// The meaning in Chinese, for `google.rpc.LocalizedMessage`.
    pub(crate) zh: &'static str,
}

/// The party that can fix a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FixBy {
    /// The caller, with another request.
    Caller,
    /// The developers of the gateway.
    Developer,
    /// The owner of the account at WeChat, usually its administrator.
    Merchant,
    /// The operator of the gateway, with its settings.
    Operator,
    /// No party. A later retry can help.
    Wait,
}

impl FixBy {
    /// Returns the value in the metadata of `google.rpc.ErrorInfo`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Developer => "developer",
            Self::Merchant => "merchant",
            Self::Operator => "operator",
            Self::Wait => "wait",
        }
    }
}

/// WeChat's code for a busy system.
const BUSY: i64 = -1;

/// Returns the row of `errcode` on the call to `path`. `None` if no document has the code.
pub(crate) fn lookup(path: &str, errcode: i64) -> Option<&'static Row> {
    let first = TABLE.partition_point(|row| row.code < errcode);
    TABLE[first..]
        .iter()
        .take_while(|row| row.code == errcode)
        .find(|row| row.path.is_none_or(|only| only == path))
}

/// Returns the class of `errcode` on the call to `path`, for metrics.
pub(crate) fn class(path: &str, errcode: i64) -> &'static str {
    let Some(row) = lookup(path, errcode) else { return "undocumented" };
    match row.reason {
        R::TokenRefused => "token",
        R::DailyQuotaSpent | R::MinuteQuotaSpent => "quota",
        // Some calls return it for a write that may have been executed.
        _ if errcode == BUSY => "busy",
        R::WechatBusy => "busy",
        R::WechatCallMalformed => "malformed",
        _ => "refused",
    }
}

/// Returns a row for every call that has none of its own.
const fn any(
    code: i64,
    status: Code,
    reason: ErrorReason,
    fix_by: FixBy,
    en: &'static str,
    zh: &'static str,
) -> Row {
    Row { code, path: None, status, reason, fix_by, en, zh }
}

/// Returns a row for one call.
const fn on(
    path: &'static str,
    code: i64,
    status: Code,
    reason: ErrorReason,
    fix_by: FixBy,
    en: &'static str,
    zh: &'static str,
) -> Row {
    Row { code, path: Some(path), status, reason, fix_by, en, zh }
}

// Sorted by code. Within a code, the rows for one call come first, by path. Each row is one line, so that the
// table is readable.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    on("/cgi-bin/clear_quota", -1, Code::Unknown, R::OutcomeUnknown, FixBy::Operator, "WeChat returned no clear result; the quotas may have been cleared", "微信未给出明确结果，调用次数可能已经清零"),
    on("/cgi-bin/clear_quota/v2", -1, Code::Unknown, R::OutcomeUnknown, FixBy::Operator, "WeChat returned no clear result; the quotas may have been cleared", "微信未给出明确结果，调用次数可能已经清零"),
    on("/wxa/add_store", -1, Code::Unknown, R::OutcomeUnknown, FixBy::Operator, "WeChat returned no clear result; the store may have been submitted", "微信未给出明确结果，门店可能已经提交"),
    on("/wxa/addnearbypoi", -1, Code::Unknown, R::OutcomeUnknown, FixBy::Operator, "WeChat returned no clear result; the place may have been submitted", "微信未给出明确结果，地点可能已经提交"),
    on("/wxa/apply_merchant", -1, Code::Unknown, R::OutcomeUnknown, FixBy::Operator, "WeChat returned no clear result; the application may have been submitted", "微信未给出明确结果，申请可能已经提交"),
    on("/wxa/create_map_poi", -1, Code::Unknown, R::OutcomeUnknown, FixBy::Operator, "WeChat returned no clear result; the place may have been submitted", "微信未给出明确结果，地图地点可能已经提交"),
    on("/wxa/del_store", -1, Code::Aborted, R::DeletionFailed, FixBy::Wait, "WeChat failed to delete the store; try again later", "微信未能删除该门店，请稍后再试"),
    any(-1, Code::Unavailable, R::WechatBusy, FixBy::Wait, "WeChat is busy; try again later", "微信系统繁忙，请稍后再试"),
    on("/wxa/get_district", 110, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's request because of its source; try again later", "腾讯地图拒绝了请求来源，请稍后再试"),
    on("/wxa/get_district", 111, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's signature; try again later", "腾讯地图返回错误：签名验证失败，请稍后再试"),
    on("/wxa/get_district", 112, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps does not allow WeChat's IP address; try again later", "腾讯地图返回错误：来源 IP 未被授权，请稍后再试"),
    on("/wxa/get_district", 113, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps does not allow WeChat to use this function; try again later", "腾讯地图返回错误：此功能未被授权，请稍后再试"),
    on("/wxa/get_district", 120, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "WeChat sent too many requests to Tencent Maps in this second; try again later", "腾讯地图的每秒请求量已达到上限，请稍后再试"),
    on("/wxa/get_district", 121, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "WeChat sent too many requests to Tencent Maps today; try again later", "腾讯地图的每日调用量已达到上限，请稍后再试"),
    on("/wxa/get_district", 160, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's signature method; try again later", "腾讯地图返回错误：签名方式有误，请稍后再试"),
    on("/wxa/get_district", 161, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's signature method; try again later", "腾讯地图返回错误：签名方式有误，请稍后再试"),
    on("/wxa/get_district", 190, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's key; try again later", "腾讯地图返回错误：密钥无效，请稍后再试"),
    on("/wxa/get_district", 199, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's key for this use; try again later", "腾讯地图返回错误：密钥未开通此服务，请稍后再试"),
    on("/wxa/get_district", 300, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "WeChat sent a request without a required field to Tencent Maps; try again later", "腾讯地图返回错误：请求缺少必要字段，请稍后再试"),
    on("/wxa/get_district", 301, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "WeChat sent a request without a key to Tencent Maps; try again later", "腾讯地图返回错误：请求缺少密钥，请稍后再试"),
    on("/wxa/get_district", 306, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "WeChat sent an incomplete request to Tencent Maps; try again later", "腾讯地图返回错误：请求缺少参数，请稍后再试"),
    on("/wxa/get_district", 310, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused a parameter of WeChat's request; try again later", "腾讯地图返回错误：请求参数有误，请稍后再试"),
    on("/wxa/get_district", 311, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused WeChat's key; try again later", "腾讯地图返回错误：密钥有误，请稍后再试"),
    on("/wxa/get_district", 320, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused the type of a parameter of WeChat's request; try again later", "腾讯地图返回错误：请求参数类型有误，请稍后再试"),
    on("/wxa/get_district", 330, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused the length of a parameter of WeChat's request; try again later", "腾讯地图返回错误：请求参数长度有误，请稍后再试"),
    on("/wxa/get_district", 348, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused a parameter of WeChat's request; try again later", "腾讯地图返回错误：请求参数有误，请稍后再试"),
    on("/wxa/get_district", 351, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused parameters of WeChat's request that exclude each other; try again later", "腾讯地图返回错误：请求参数互相冲突，请稍后再试"),
    on("/wxa/get_district", 395, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps refused a parameter of WeChat's request; try again later", "腾讯地图返回错误：请求参数不合法，请稍后再试"),
    on("/wxa/get_district", 500, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps timed out; try again later", "腾讯地图后端超时，请稍后再试"),
    on("/wxa/get_district", 510, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps failed to reach its own servers; try again later", "腾讯地图后端无法连接，请稍后再试"),
    on("/wxa/get_district", 520, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps failed; try again later", "腾讯地图后端请求失败，请稍后再试"),
    on("/wxa/get_district", 530, Code::Unavailable, R::MapServiceFailed, FixBy::Wait, "Tencent Maps failed; try again later", "腾讯地图后端返回的数据有误，请稍后再试"),
    any(20002, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a parameter; check the values of the request", "微信返回：请求参数有误，请检查填写的内容"),
    on("/cgi-bin/clear_quota/v2", 40001, Code::FailedPrecondition, R::AppSecretInvalid, FixBy::Operator, "the account's secret in the settings is wrong", "配置中的 AppSecret 不正确，请运维人员更正"),
    on("/cgi-bin/stable_token", 40001, Code::FailedPrecondition, R::AppSecretInvalid, FixBy::Operator, "the account's secret in the settings is wrong", "配置中的 AppSecret 不正确，请运维人员更正"),
    on("/cgi-bin/token", 40001, Code::FailedPrecondition, R::AppSecretInvalid, FixBy::Operator, "the account's secret in the settings is wrong", "配置中的 AppSecret 不正确，请运维人员更正"),
    any(40001, Code::Unavailable, R::TokenRefused, FixBy::Operator, "WeChat refuses the access token; check that no other program refreshes it and that the account has the right kind", "微信不接受当前的 access_token，请检查是否有其他系统在刷新它，以及账号类型是否正确"),
    any(40002, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the grant type that the gateway sent", "网关发送的凭证类型有误，请联系开发人员"),
    any(40004, Code::InvalidArgument, R::MediaTypeInvalid, FixBy::Caller, "WeChat does not accept this type of media", "微信不支持该素材类型"),
    any(40005, Code::InvalidArgument, R::MediaTypeInvalid, FixBy::Caller, "WeChat does not accept this type of file", "微信不支持该文件格式，请更换图片"),
    any(40006, Code::InvalidArgument, R::MediaTooLarge, FixBy::Caller, "WeChat does not accept a file of this size", "文件大小不符合微信要求，请压缩后再传"),
    any(40007, Code::InvalidArgument, R::MediaIdInvalid, FixBy::Caller, "a media id is invalid; upload the picture again", "素材 media_id 无效，请重新上传图片"),
    any(40009, Code::InvalidArgument, R::MediaTooLarge, FixBy::Caller, "WeChat does not accept a picture of this size", "图片大小不符合微信要求，请压缩后再传"),
    any(40013, Code::FailedPrecondition, R::AppIdInvalid, FixBy::Operator, "WeChat has no account with the app id in the settings", "微信没有配置中的这个 AppID，请运维人员更正"),
    any(40014, Code::Unavailable, R::TokenRefused, FixBy::Operator, "WeChat refuses the access token; check that no other program refreshes it", "微信不接受当前的 access_token，请检查是否有其他系统在刷新它"),
    any(40033, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses escaped characters that the gateway sent", "网关发送了微信不接受的转义字符，请联系开发人员"),
    any(40035, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a parameter as invalid", "微信返回：参数不合法，请检查填写的内容"),
    any(40038, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the format of the gateway's call", "网关发送的请求格式不合法，请联系开发人员"),
    any(40039, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses the length of a URL", "链接的长度不符合微信要求，请检查图片地址和页面路径"),
    any(40048, Code::InvalidArgument, R::PictureUrlInvalid, FixBy::Caller, "WeChat refuses a URL; send the one that UploadImage returned", "链接无效，请使用上传图片后返回的地址"),
    any(40053, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses an action as invalid", "微信返回：操作内容不合法，请检查填写的内容"),
    any(40056, Code::InvalidArgument, R::CardIdInvalid, FixBy::Caller, "WeChat refuses the code of the card as invalid", "卡券的 Code 码不合法，请检查 card_id"),
    any(40066, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the URL of the gateway's call", "网关请求的接口地址无效，请联系开发人员"),
    any(40071, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "stores accept only membership cards, pay-the-bill cards and swipe cards", "卡券类型不符合要求，门店只支持会员卡，以及用于买单或刷卡的卡券"),
    any(40072, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "WeChat does not accept this card's kind of code here", "卡券的编码方式不符合要求，请换一张卡券"),
    any(40073, Code::InvalidArgument, R::CardIdInvalid, FixBy::Caller, "WeChat has no card with this card_id", "没有这张卡券，请检查 card_id"),
    any(40078, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the state of the card does not allow this; check that it is approved and neither expired nor deleted", "卡券状态不合法，请确认它已通过审核且未过期、未删除"),
    any(40079, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a time; check the card's period and the opening hours", "时间不合法，请检查卡券有效期和营业时间"),
    any(40080, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses the extension of the card", "卡券的扩展内容不合法，请检查"),
    any(40090, Code::FailedPrecondition, R::IpNotAllowed, FixBy::Operator, "WeChat does not accept calls from the gateway's IP address", "微信不接受来自网关出口 IP 的请求，请运维人员检查"),
    any(40091, Code::Unavailable, R::ComponentTicketInvalid, FixBy::Wait, "the ticket of the third-party platform is invalid; WeChat pushes a new one within ten minutes", "第三方平台的 ticket 无效，请等待微信重新推送"),
    any(40093, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "a required field of a place is empty", "地点缺少必填字段，请补充后重试"),
    any(40094, Code::FailedPrecondition, R::ComponentInvalid, FixBy::Operator, "WeChat refuses the credential of the third-party platform", "第三方平台的凭证无效，请运维人员更正"),
    any(40097, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses an argument", "微信返回：输入参数有误，请检查填写的内容"),
    any(40098, Code::NotFound, R::StoreNotFound, FixBy::Caller, "WeChat has no store with this id", "没有这家门店，请检查 poi_id"),
    any(40099, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the code of the card was already used", "卡券已被核销"),
    any(40100, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "WeChat refuses the card's period", "卡券的时间区间不合法"),
    any(40101, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "a required parameter is empty", "微信返回：缺少参数，请补充后重试"),
    any(40104, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat has no category with this id", "没有这个类目 ID，请重新选择类目"),
    any(40107, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the card must be approved and must have a place first", "卡券须先通过审核并设置适用门店"),
    any(40113, Code::InvalidArgument, R::MediaTypeInvalid, FixBy::Caller, "WeChat does not accept this type of file", "微信不支持该文件格式，请更换图片"),
    any(40116, Code::InvalidArgument, R::CardIdInvalid, FixBy::Caller, "WeChat refuses the code of the card as invalid", "卡券的 Code 码不合法，请检查 card_id"),
    any(40118, Code::InvalidArgument, R::MediaIdInvalid, FixBy::Caller, "the length of a media id is wrong; upload the picture again", "素材 media_id 的长度不正确，请重新上传图片"),
    any(40121, Code::InvalidArgument, R::MediaIdInvalid, FixBy::Caller, "a media id is of the wrong type; upload the picture again", "素材 media_id 的类型不正确，请重新上传图片"),
    any(40122, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "WeChat refuses the card's stock", "卡券的库存数量不合法"),
    any(40124, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the membership card has more custom fields than WeChat allows", "会员卡的自定义字段超过限制"),
    any(40125, Code::FailedPrecondition, R::AppSecretInvalid, FixBy::Operator, "the account's secret in the settings is wrong", "配置中的 AppSecret 不正确，请运维人员更正"),
    any(40127, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the card was deleted, given away or has expired", "卡券已被删除、转赠或过期"),
    any(40128, Code::InvalidArgument, R::MediaIdInvalid, FixBy::Caller, "a media id is invalid; upload the picture again", "素材 media_id 无效，请重新上传图片"),
    any(40137, Code::InvalidArgument, R::MediaTypeInvalid, FixBy::Caller, "WeChat does not accept pictures of this format", "微信不支持该图片格式，请更换图片"),
    any(40141, Code::InvalidArgument, R::PictureUrlInvalid, FixBy::Caller, "WeChat refuses the URL of a picture; send the one that UploadImage returned", "图片地址无效，请使用上传图片后返回的地址"),
    any(40150, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a parameter of the card", "卡券参数不合法，请检查填写的内容"),
    any(40158, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "a store cannot have a card with custom codes", "门店不支持自定义 Code 的卡券，请换一张卡券"),
    any(40159, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses the length of a path", "页面路径的长度不符合微信要求，请检查"),
    any(40160, Code::InvalidArgument, R::MediaTypeInvalid, FixBy::Caller, "the picture is damaged", "图片文件无效，请更换图片"),
    any(40161, Code::InvalidArgument, R::MediaTypeInvalid, FixBy::Caller, "the format of the picture does not match its name", "图片内容与格式不符，请更换图片"),
    any(40164, Code::FailedPrecondition, R::IpNotAllowed, FixBy::Operator, "the gateway's IP address, which errmsg contains, is not in the account's IP whitelist", "网关的出口 IP（见 errmsg）不在该账号的 IP 白名单中，请在公众平台添加"),
    any(40165, Code::FailedPrecondition, R::ServicePathNotFound, FixBy::Caller, "the page of a service label is invalid", "服务标签的页面路径无效"),
    any(40166, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat has no mini program with the app id of a service label", "没有服务标签所填 AppID 的小程序，请检查"),
    any(40187, Code::FailedPrecondition, R::IpNotAllowed, FixBy::Operator, "WeChat refuses the gateway's IP address as invalid", "微信返回：网关的出口 IP 无效，请运维人员检查"),
    any(40191, Code::InvalidArgument, R::PictureUrlInvalid, FixBy::Caller, "WeChat refuses the URL of a picture; send the one that UploadImage returned", "图片地址无效，请使用上传图片后返回的地址"),
    any(40221, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the content encoding that the gateway sent", "网关发送的内容编码不合法，请联系开发人员"),
    any(40222, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat does not offer this call at the host that the gateway used", "网关请求的微信域名不支持此接口，请联系开发人员"),
    any(40243, Code::FailedPrecondition, R::AppSecretFrozen, FixBy::Merchant, "the account's secret is frozen; its administrator can unfreeze it at WeChat", "AppSecret 已被冻结，请账号管理员在公众平台解冻"),
    any(41001, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no access token", "网关没有携带 access_token，请联系开发人员"),
    any(41002, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no app id", "网关没有携带 AppID，请联系开发人员"),
    any(41003, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no refresh token", "网关没有携带 refresh_token，请联系开发人员"),
    any(41004, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no secret", "网关没有携带 AppSecret，请联系开发人员"),
    any(41005, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the upload that the gateway sent has no file", "微信没有收到上传的文件，请联系开发人员"),
    any(41006, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no media id", "网关没有携带 media_id，请联系开发人员"),
    any(41010, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no URL", "网关没有携带 url 参数，请联系开发人员"),
    any(41011, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "a required field is empty", "缺少必填字段，请补充后重试"),
    any(41012, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "the card_id is empty", "缺少卡券 ID（card_id）"),
    any(41018, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no app id of the third-party platform", "网关没有携带第三方平台的 AppID，请联系开发人员"),
    any(41019, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no secret of the third-party platform", "网关没有携带第三方平台的密钥，请联系开发人员"),
    any(41020, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no ticket of the third-party platform", "网关没有携带第三方平台的 ticket，请联系开发人员"),
    any(41021, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway sent no token of the third-party platform", "网关没有携带第三方平台的凭证，请联系开发人员"),
    any(41025, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "the list of places is empty", "缺少地点列表"),
    any(41030, Code::FailedPrecondition, R::ServicePathNotFound, FixBy::Caller, "the published mini program has no page with this path", "现网版本的小程序中没有该页面路径，请检查"),
    any(42001, Code::Unavailable, R::TokenRefused, FixBy::Operator, "the access token has expired and the gateway found no newer one; check that no other program refreshes it", "access_token 已过期，网关也没有取得更新的 access_token，请检查是否有其他系统在刷新它"),
    any(42002, Code::FailedPrecondition, R::AuthorizationLost, FixBy::Merchant, "the authorization has expired; the administrator must grant it again", "授权凭证已过期，请账号管理员重新授权"),
    any(42005, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the account's right to this call has expired", "该账号对此接口的使用权限已过期，请账号管理员续期"),
    any(42006, Code::Unavailable, R::TokenRefused, FixBy::Operator, "the component_access_token of the third-party platform has expired", "第三方平台的 component_access_token 已过期，请运维人员检查"),
    any(42007, Code::FailedPrecondition, R::AuthorizationLost, FixBy::Merchant, "the authorization has lapsed; the administrator must grant it again", "授权已失效，请账号管理员重新授权"),
    any(43001, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat requires GET and the gateway used another method", "网关使用了错误的请求方式（应为 GET），请联系开发人员"),
    any(43002, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat requires POST and the gateway used another method", "网关使用了错误的请求方式（应为 POST），请联系开发人员"),
    any(43003, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat requires HTTPS", "网关没有使用 HTTPS，请联系开发人员"),
    any(43007, Code::FailedPrecondition, R::AuthorizationLost, FixBy::Merchant, "the account must authorize this first", "该账号尚未授权，请账号管理员授权"),
    any(43009, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "the account is not allowed to use cards with custom codes", "没有自定义 Code 的权限，请前往公众平台申请"),
    any(43010, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "the account is not allowed to use cards with a balance", "没有储值权限，请前往公众平台申请"),
    any(43011, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "the account is not allowed to use cards with bonus points", "没有积分权限，请前往公众平台申请"),
    any(43012, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "the account is not allowed to use cards with custom links", "没有自定义链接的权限，请前往公众平台申请"),
    any(43015, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the account must get this function from WeChat first", "使用此功能须先获得微信团队的授权"),
    any(43016, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "the mini program is not verified", "小程序尚未认证，请先完成认证"),
    any(43017, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "a required place is missing", "缺少地点，请补充后重试"),
    any(43104, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "the account or its category is not allowed to do this", "该账号或所选类目没有此权限"),
    any(44001, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the file that the gateway uploaded is empty", "微信收到的文件内容为空，请联系开发人员"),
    any(44002, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the body of the gateway's call is empty", "微信收到的请求内容为空，请联系开发人员"),
    any(44005, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "a list is empty", "列表不能为空，请补充后重试"),
    any(44006, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the file that the gateway uploaded is empty", "微信收到的文件内容为空，请联系开发人员"),
    any(45001, Code::InvalidArgument, R::MediaTooLarge, FixBy::Caller, "WeChat does not accept a file of this size", "文件超过微信的大小限制，请压缩后再传"),
    any(45002, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the content is too long", "内容超过微信的长度限制，请缩短后重试"),
    any(45003, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "a title is too long", "标题超过微信的长度限制，请缩短后重试"),
    any(45004, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "a description is too long", "描述超过微信的长度限制，请缩短后重试"),
    any(45005, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "a link is too long", "链接超过微信的长度限制，请检查"),
    any(45006, Code::InvalidArgument, R::PictureUrlInvalid, FixBy::Caller, "the URL of a picture is too long; send the one that UploadImage returned", "图片链接超过微信的长度限制，请使用上传图片后返回的地址"),
    any(45009, Code::ResourceExhausted, R::DailyQuotaSpent, FixBy::Wait, "the account's daily quota for this call is used up", "该接口今日的调用次数已用完，请明日再试或由运维人员清零"),
    any(45011, Code::ResourceExhausted, R::MinuteQuotaSpent, FixBy::Wait, "the account made too many calls in this minute", "调用过于频繁，请下一分钟再试"),
    any(45020, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "there are too many pictures", "图片数量超过微信的限制，请减少后重试"),
    any(45021, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "a field is too long", "字段超过微信的长度限制，请缩短后重试"),
    any(45025, Code::ResourceExhausted, R::NearbyLimitReached, FixBy::Merchant, "the account has reached WeChat's limit of places", "可添加的地点数量已满"),
    any(45030, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "this card cannot be used with this call", "该卡券没有使用此接口的权限，请换一张卡券"),
    any(45031, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the stock of the card is used up", "卡券库存为 0"),
    any(45032, Code::FailedPrecondition, R::IpNotAllowed, FixBy::Operator, "the gateway's IP address is not in the account's whitelist", "网关的出口 IP 不在该账号的 IP 白名单中，请在公众平台添加"),
    any(45033, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the card has reached its limit of receivers", "卡券的领取次数已达上限"),
    any(45034, Code::ResourceExhausted, R::WechatLimitReached, FixBy::Wait, "the account has as many media files as WeChat allows; delete files in WeChat's console, or wait until temporary ones expire after three days", "账号的素材数量已达微信上限，请在公众平台删除不用的素材，或等临时素材（三天）过期后再试"),
    any(45035, Code::FailedPrecondition, R::IpNotAllowed, FixBy::Operator, "the gateway's IP address is not in the platform's IP whitelist", "网关的出口 IP 不在第三方平台的 IP 白名单中，请运维人员添加"),
    any(45040, Code::ResourceExhausted, R::WechatLimitReached, FixBy::Wait, "the account's monthly quota for this call is used up", "该接口本月的调用次数已用完，请下月再试"),
    any(45042, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "a sub-merchant is not allowed to use this type of card", "子商户不能使用该类型的卡券"),
    any(45061, Code::ResourceExhausted, R::WechatLimitReached, FixBy::Wait, "this was changed too often; try again later", "更新过于频繁，请稍后再试"),
    any(45063, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "the account is not a mini program", "该账号不是小程序，请检查账号类型"),
    any(45068, Code::InvalidArgument, R::MediaTooLarge, FixBy::Caller, "WeChat does not accept a file of this size", "文件超过微信的大小限制，请压缩后再传"),
    any(45101, Code::ResourceExhausted, R::WechatLimitReached, FixBy::Wait, "the account has reached WeChat's limit of uploads; try again later", "上传次数已达上限，请稍后再试"),
    any(45102, Code::FailedPrecondition, R::ApiBlocked, FixBy::Merchant, "WeChat has blocked this call for a while", "此接口已被微信暂时封禁，请登录公众平台查看原因"),
    any(45103, Code::Internal, R::ApiWithdrawn, FixBy::Developer, "WeChat no longer offers this call", "微信已不再提供此接口，请联系开发人员"),
    any(45164, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the offset of a list that the gateway sent", "网关发送的列表起始位置不合法，请联系开发人员"),
    any(45165, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the page size that the gateway sent", "网关发送的列表长度不合法，请联系开发人员"),
    any(45501, Code::FailedPrecondition, R::ApiBlocked, FixBy::Merchant, "WeChat has blocked the account's calls for a while", "微信已暂时封禁该账号的请求，请登录公众平台查看原因"),
    any(46001, Code::InvalidArgument, R::MediaIdInvalid, FixBy::Caller, "the media id does not exist; upload the picture again", "素材不存在或已过期，请重新上传图片"),
    any(46005, Code::NotFound, R::StoreNotFound, FixBy::Caller, "the account has no such store", "门店不存在"),
    on("/wxa/create_map_poi", 47001, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a value as malformed; check that legacy_poi_id is the id of a legacy store", "微信返回：数据格式有误，请检查旧门店 ID（legacy_poi_id）等内容"),
    any(47001, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat failed to parse the gateway's call", "微信无法解析网关发送的数据，请联系开发人员"),
    any(47002, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses escaped characters that the gateway sent", "网关发送了微信不接受的转义字符，请联系开发人员"),
    any(47003, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "a value is empty or against WeChat's rules; errmsg names the field", "参数为空或不符合规则，请按错误信息中指出的字段检查"),
    any(48001, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the account is not authorized to use this call", "该账号没有此接口的权限，请账号管理员开通或授权"),
    any(48004, Code::FailedPrecondition, R::ApiBlocked, FixBy::Merchant, "WeChat has blocked this call for the account", "该账号的此接口已被封禁，请登录公众平台查看原因"),
    any(48006, Code::ResourceExhausted, R::ClearQuotaSpent, FixBy::Wait, "the account has used its ten quota resets of this month; its calls work again when WeChat fills the quotas at midnight", "本月重置调用次数（清零）的机会已用完，请等额度在零点恢复"),
    any(48009, Code::Internal, R::ApiWithdrawn, FixBy::Developer, "WeChat no longer offers this call", "微信已不再提供此接口，请联系开发人员"),
    any(48012, Code::Unavailable, R::TokenRefused, FixBy::Operator, "WeChat refuses the access token; check that no other program refreshes it", "微信不接受当前的 access_token，请检查是否有其他系统在刷新它"),
    any(50001, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the account is not authorized for this call", "该账号未获得此接口的授权，请账号管理员开通或授权"),
    any(50002, Code::FailedPrecondition, R::AccountRestricted, FixBy::Merchant, "WeChat has frozen, closed or moved the account", "该账号受限，可能已被冻结、注销或迁移"),
    any(50003, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "the account is not on WeChat's list for this call", "该账号不在此接口的白名单中"),
    any(50004, Code::FailedPrecondition, R::TokenInterfaceForbidden, FixBy::Merchant, "the account is not allowed to fetch tokens", "该账号被禁止使用获取凭证的接口"),
    any(50007, Code::FailedPrecondition, R::AccountRestricted, FixBy::Merchant, "the account is frozen", "该账号已被冻结，请登录公众平台处理"),
    any(52000, Code::InvalidArgument, R::PictureUrlInvalid, FixBy::Caller, "a picture is not hosted by WeChat; send the URL that UploadImage returned", "图片不在微信服务器上，请使用上传图片后返回的地址"),
    any(53000, Code::ResourceExhausted, R::LegalEntityLimitReached, FixBy::Merchant, "the legal entity has reached WeChat's limit of accounts", "该主体的登记数量已满"),
    any(53001, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not accept this legal entity", "该主体已被微信限制，无法登记"),
    any(53002, Code::ResourceExhausted, R::AdminPhoneLimitReached, FixBy::Merchant, "the administrator's telephone number has reached WeChat's limit of accounts", "管理员手机号的登记数量已满"),
    any(53003, Code::ResourceExhausted, R::AdminIdCardLimitReached, FixBy::Merchant, "the administrator's identity card has reached WeChat's limit of accounts", "管理员身份证的登记次数已满，请换一个身份证"),
    any(53010, Code::InvalidArgument, R::MerchantNameInvalid, FixBy::Caller, "the format of the name is invalid", "名称格式不合法，请修改"),
    any(53011, Code::ResourceExhausted, R::WechatLimitReached, FixBy::Wait, "the account had too many names checked; try again later", "名称检测过于频繁，请稍后再试"),
    any(53012, Code::InvalidArgument, R::MerchantNameForbidden, FixBy::Caller, "WeChat does not allow this name", "该名称禁止使用，请换一个"),
    any(53013, Code::AlreadyExists, R::MerchantNameTaken, FixBy::Caller, "another account has the name; choose another name", "该名称已被占用，请换一个再试"),
    any(53014, Code::FailedPrecondition, R::MerchantEntityMismatch, FixBy::Merchant, "only the same legal entity is allowed to use the name", "只有相同主体才能申请该名称"),
    any(53015, Code::FailedPrecondition, R::MerchantEntityMismatch, FixBy::Merchant, "only the same legal entity is allowed to use the name", "只有相同主体才能申请该名称"),
    any(53016, Code::AlreadyExists, R::MerchantNameTaken, FixBy::Caller, "several accounts have the name; choose another name", "该名称与多个账号重复，请换一个再试"),
    any(53017, Code::FailedPrecondition, R::MerchantEntityMismatch, FixBy::Merchant, "only the same legal entity is allowed to use the name", "只有相同主体才能申请该名称"),
    any(53018, Code::AlreadyExists, R::MerchantNameTaken, FixBy::Caller, "the name is the WeChat id of another user; choose another name", "该名称与微信号相同，请换一个再试"),
    any(53019, Code::FailedPrecondition, R::MerchantNameProtected, FixBy::Caller, "the name is protected for now; choose another name", "该名称在保护期内，请换一个"),
    any(53200, Code::ResourceExhausted, R::MerchantChangeLimitReached, FixBy::Wait, "the introduction was changed too often this month", "本月修改介绍的次数已满"),
    any(53201, Code::InvalidArgument, R::IntroductionForbidden, FixBy::Caller, "the introduction has words that WeChat forbids", "介绍含有被禁止的内容，请修改"),
    any(53202, Code::ResourceExhausted, R::MerchantChangeLimitReached, FixBy::Wait, "the avatar was changed too often this month", "本月修改头像的次数已满"),
    any(53203, Code::ResourceExhausted, R::MerchantChangeLimitReached, FixBy::Wait, "avatar or introduction cannot be changed yet", "头像或介绍暂时不能修改，请稍后再试"),
    any(53302, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "an account of this kind of legal entity cannot have the category", "该主体类型不能设置此类目"),
    any(61003, Code::FailedPrecondition, R::AuthorizationLost, FixBy::Merchant, "the account has not authorized the third-party platform", "该账号未授权给第三方平台，请账号管理员授权"),
    any(61004, Code::FailedPrecondition, R::IpNotAllowed, FixBy::Operator, "the gateway's IP address is not registered with the third-party platform", "网关的出口 IP 没有在第三方平台登记，请运维人员添加"),
    any(61005, Code::Unavailable, R::ComponentTicketInvalid, FixBy::Wait, "the ticket of the third-party platform has expired; WeChat pushes a new one within ten minutes", "第三方平台的 ticket 已过期，请等待微信重新推送"),
    any(61006, Code::Unavailable, R::ComponentTicketInvalid, FixBy::Wait, "the ticket of the third-party platform is invalid; WeChat pushes a new one within ten minutes", "第三方平台的 ticket 无效，请等待微信重新推送"),
    any(61007, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the account has not granted the third-party platform the permission set of this call", "该账号未把此接口所属的权限集授权给第三方平台"),
    any(61011, Code::FailedPrecondition, R::ComponentInvalid, FixBy::Operator, "WeChat has no third-party platform with the app id in the settings", "配置中的第三方平台 AppID 无效，请运维人员更正"),
    any(61014, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway used the wrong kind of token for this call", "网关使用了错误类型的凭证，请联系开发人员"),
    any(61015, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway used the wrong kind of token for this call", "网关使用了错误类型的凭证，请联系开发人员"),
    any(61016, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the third-party platform must confirm the kind of this call first", "第三方平台尚未确认此接口所属的权限集"),
    any(61017, Code::FailedPrecondition, R::ApiNotPermitted, FixBy::Merchant, "the account has not granted the third-party platform the permission set of this call", "该账号未把此接口所属的权限集授权给第三方平台"),
    any(61023, Code::FailedPrecondition, R::AuthorizationLost, FixBy::Merchant, "the refresh token is invalid; the administrator must authorize the platform again", "授权的刷新凭证无效，请账号管理员重新授权"),
    any(61024, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "the gateway used the wrong call for the token of the third-party platform", "网关使用了错误的接口获取第三方平台凭证，请联系开发人员"),
    any(61028, Code::FailedPrecondition, R::ComponentInvalid, FixBy::Operator, "the third-party platform is not published", "第三方平台尚未发布，请运维人员发布"),
    any(61029, Code::FailedPrecondition, R::ComponentInvalid, FixBy::Operator, "the third-party platform must be published again with the basic permission sets", "第三方平台须带基础权限集重新发布"),
    any(61052, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "the account must be verified first", "该账号须先完成认证"),
    any(61061, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not offer this to accounts abroad", "海外账号不能使用此功能"),
    any(61063, Code::ResourceExhausted, R::AdminWechatLimitReached, FixBy::Merchant, "the administrator has reached WeChat's limit of accounts", "管理员绑定的账号已满，请换一个微信号"),
    any(61064, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not accept this administrator", "该管理员已被微信限制，请换一位管理员"),
    any(61065, Code::ResourceExhausted, R::AdminIdCardLimitReached, FixBy::Merchant, "the administrator's identity card has reached WeChat's limit of accounts", "管理员身份证的登记次数已满，请换一个身份证"),
    any(61066, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not accept this administrator's identity card", "该身份证已被微信限制，请换一位管理员"),
    any(61067, Code::ResourceExhausted, R::AdminPhoneLimitReached, FixBy::Merchant, "the administrator's telephone number has reached WeChat's limit of accounts", "管理员手机号的登记数量已满"),
    any(61068, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not accept this administrator's telephone number", "该手机号已被微信限制，请换一个手机号"),
    any(61069, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat refuses the account's administrator as invalid; check the administrator in WeChat's console", "账号的管理员无效，请在公众平台核对管理员信息"),
    any(61451, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a parameter as invalid", "微信返回：参数不合法，请检查填写的内容"),
    any(65104, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat refuses a category of the store", "门店的类目不合法，请重新选择类目"),
    any(65105, Code::InvalidArgument, R::PictureUrlInvalid, FixBy::Caller, "WeChat refuses the URL of a picture; send the one that UploadImage returned", "图片地址不合法，请使用上传图片后返回的地址"),
    any(65106, Code::FailedPrecondition, R::StoreNotApproved, FixBy::Wait, "the store must pass its review first", "门店审核通过后才能进行此操作"),
    any(65107, Code::FailedPrecondition, R::StoreUnderReview, FixBy::Wait, "the store is in review or its state does not allow this", "门店正在审核或当前状态不允许此操作"),
    any(65109, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the name of the store is empty or invalid", "门店名称为空或不合法，请检查"),
    any(65110, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the address of the store is empty or invalid", "门店地址为空或不合法，请检查"),
    any(65111, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the telephone number of the store is empty or invalid", "门店电话为空或不合法，请检查"),
    any(65112, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the city of the store is empty or invalid", "门店所在城市为空或不合法，请检查"),
    any(65113, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the province of the store is empty or invalid", "门店所在省份为空或不合法，请检查"),
    any(65114, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "the list of pictures is empty", "图片列表不能为空"),
    any(65115, Code::NotFound, R::StoreNotFound, FixBy::Caller, "the account has no such store", "门店不存在"),
    any(65116, Code::NotFound, R::StoreNotFound, FixBy::Caller, "the store was deleted", "门店已被删除"),
    any(65117, Code::FailedPrecondition, R::StoreNotDeletable, FixBy::Merchant, "WeChat does not allow the deletion of the store", "该门店不允许删除"),
    any(65118, Code::FailedPrecondition, R::StoreNotUpdatable, FixBy::Wait, "the state of the store does not allow changes", "门店当前状态不允许修改"),
    any(65119, Code::FailedPrecondition, R::QualificationsMissing, FixBy::Caller, "documents of the legal entity are needed", "缺少相关主体的证明材料，请补充"),
    any(65120, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat has no category with this id", "没有这个类目 ID，请重新选择类目"),
    any(65318, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat requires UTF-8", "网关发送的内容不是 UTF-8 编码，请联系开发人员"),
    any(76003, Code::InvalidArgument, R::QuotaPathUnknown, FixBy::Caller, "WeChat has no quota for this path, or does not show it for this account; check the path", "微信没有该路径的调用额度，或不向该账号提供，请检查路径"),
    any(76021, Code::InvalidArgument, R::QuotaPathUnknown, FixBy::Caller, "WeChat has no quota for this path, or does not show it for this account; check the path", "微信没有该路径的调用额度，或不向该账号提供，请检查路径"),
    any(76022, Code::InvalidArgument, R::QuotaPathUnknown, FixBy::Caller, "WeChat has no quota for this path, or does not show it for this account; check the path", "微信没有该路径的调用额度，或不向该账号提供，请检查路径"),
    any(85008, Code::FailedPrecondition, R::CategoryMissing, FixBy::Merchant, "the mini program has no approved category", "小程序没有已审核通过的类目，请先添加类目"),
    any(85012, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "WeChat has no review with this audit id", "没有这个审核单号，请检查"),
    any(85015, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "the account is not a mini program", "该账号不是小程序，请检查账号类型"),
    any(85024, Code::FailedPrecondition, R::MerchantNameNeedsDocuments, FixBy::Caller, "WeChat needs evidence of the right to the name; send license_media_id and, if there is more, supplementary_media_ids", "该名称需要补充材料，请上传营业执照等证明"),
    any(85025, Code::ResourceExhausted, R::AdminPhoneLimitReached, FixBy::Merchant, "the administrator's telephone number has reached WeChat's limit of accounts", "管理员手机号的登记数量已满"),
    any(85026, Code::ResourceExhausted, R::AdminWechatLimitReached, FixBy::Merchant, "the administrator's WeChat user already administers five accounts", "管理员微信号绑定的账号已满 5 个，请换一个微信号"),
    any(85027, Code::ResourceExhausted, R::AdminIdCardLimitReached, FixBy::Merchant, "the administrator's identity card was already used five times", "管理员身份证已登记满 5 次，请换一个身份证"),
    any(85028, Code::ResourceExhausted, R::LegalEntityLimitReached, FixBy::Merchant, "the legal entity has reached WeChat's limit of accounts", "该主体的登记数量已满"),
    any(85029, Code::AlreadyExists, R::MerchantNameTaken, FixBy::Caller, "another account has the name; choose another name", "商家名称已被占用，请换一个再试"),
    any(85030, Code::InvalidArgument, R::MerchantNameInvalid, FixBy::Caller, "the name is too short or too long, or has special characters or reserved words", "名称长度须为 4 到 30 个字符（汉字算两个），且不能含特殊字符或保留字"),
    any(85031, Code::InvalidArgument, R::MerchantNameForbidden, FixBy::Caller, "WeChat does not allow this name", "该名称不可使用，请换一个"),
    any(85032, Code::FailedPrecondition, R::MerchantNameProtected, FixBy::Caller, "the name is protected while a complaint is open; choose another name", "该名称处于侵权投诉保护期，请换一个"),
    any(85033, Code::InvalidArgument, R::MerchantNameForbidden, FixBy::Caller, "the name violates WeChat's rules", "名称违反平台规定，请换一个"),
    any(85034, Code::FailedPrecondition, R::MerchantNameProtected, FixBy::Caller, "the name was given up less than 15 days ago; choose another name", "该名称处于改名后的 15 天保护期，请换一个"),
    any(85035, Code::FailedPrecondition, R::MerchantEntityMismatch, FixBy::Merchant, "only the same legal entity is allowed to use the name", "只有相同主体才能申请该名称"),
    any(85036, Code::InvalidArgument, R::IntroductionForbidden, FixBy::Caller, "the introduction violates WeChat's rules", "介绍内容违反平台规定，请修改"),
    any(85038, Code::AlreadyExists, R::StoreDuplicate, FixBy::Caller, "such a store already exists", "该门店已存在，请勿重复添加"),
    any(85039, Code::FailedPrecondition, R::StoreNotAvailable, FixBy::Merchant, "the place's state does not allow it, or another account has added it", "该门店当前状态不可用，或已被其他账号添加"),
    any(85040, Code::AlreadyExists, R::StoreAlreadyBound, FixBy::Caller, "the account already has this store", "本账号已绑定该门店"),
    any(85041, Code::AlreadyExists, R::LicenseNumberTaken, FixBy::Caller, "the license number is already in use", "该经营资质已被使用，请勿重复添加"),
    any(85042, Code::ResourceExhausted, R::NearbyLimitReached, FixBy::Merchant, "the account has reached WeChat's limit of places", "可添加的地点数量已满"),
    any(85049, Code::ResourceExhausted, R::MerchantChangeLimitReached, FixBy::Wait, "avatar or introduction were changed too often this month", "本月修改头像或介绍的次数已满"),
    any(85050, Code::FailedPrecondition, R::MerchantUnderReview, FixBy::Wait, "an application is already in review; wait for its event", "申请正在审核中，请等待结果"),
    any(85053, Code::FailedPrecondition, R::MerchantMissing, FixBy::Caller, "the account has no store mini program yet; apply for it first", "该账号还没有门店小程序，请先申请创建"),
    any(85054, Code::FailedPrecondition, R::UpgradeRequired, FixBy::Caller, "the account has legacy stores that must migrate first; send legacy_poi_id", "账号升级尚未完成，请填写旧门店 ID（legacy_poi_id）进行迁移"),
    any(85055, Code::InvalidArgument, R::MapPoiIdInvalid, FixBy::Caller, "Tencent Maps has no place with this map_poi_id", "腾讯地图没有这个地点，请检查 map_poi_id"),
    any(85056, Code::InvalidArgument, R::MediaIdInvalid, FixBy::Caller, "a temporary media id is invalid or expired; upload the picture again", "临时素材无效或已过期，请重新上传图片"),
    any(85058, Code::FailedPrecondition, R::MerchantMissing, FixBy::Caller, "the account has not applied for a store mini program", "该账号没有申请过门店小程序，请先申请"),
    any(85059, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not offer this to accounts abroad", "海外账号不能使用此功能"),
    any(85061, Code::ResourceExhausted, R::AdminPhoneLimitReached, FixBy::Merchant, "the administrator's telephone number has reached WeChat's limit of accounts", "管理员手机号的登记数量已满"),
    any(85062, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not accept this administrator's telephone number", "该手机号已被微信限制，请换一个手机号"),
    any(85063, Code::FailedPrecondition, R::AccountNotEligible, FixBy::Merchant, "WeChat does not accept this administrator's identity card", "该身份证已被微信限制，请换一位管理员"),
    any(85074, Code::FailedPrecondition, R::MiniProgramUnpublished, FixBy::Merchant, "the mini program is not published", "小程序尚未发布上线"),
    any(85077, Code::FailedPrecondition, R::CategoryMissing, FixBy::Merchant, "the mini program's category is no longer valid; choose another category", "小程序类目已失效，请重新选择类目"),
    any(85079, Code::FailedPrecondition, R::MiniProgramUnpublished, FixBy::Merchant, "the mini program has no published version", "小程序没有线上版本"),
    any(85084, Code::Internal, R::WechatCallMalformed, FixBy::Developer, "WeChat refuses the state that the gateway sent", "网关发送的状态值不合法，请联系开发人员"),
    any(87014, Code::InvalidArgument, R::ParameterRefused, FixBy::Caller, "the content violates WeChat's rules", "内容含有违法违规信息，请修改"),
    any(89013, Code::FailedPrecondition, R::AccountRestricted, FixBy::Merchant, "WeChat has banned the mini program", "该小程序已被封禁，请登录公众平台处理"),
    any(89501, Code::FailedPrecondition, R::IpAwaitingConfirmation, FixBy::Merchant, "WeChat waits until the administrator confirms the gateway's IP address", "微信正在等待账号管理员确认网关的出口 IP"),
    any(89502, Code::FailedPrecondition, R::IpAwaitingConfirmation, FixBy::Merchant, "WeChat finds the gateway's IP address risky; the administrator must check it", "微信返回：网关的出口 IP 有风险，请账号管理员处理"),
    any(89503, Code::FailedPrecondition, R::IpAwaitingConfirmation, FixBy::Merchant, "the administrator must confirm the gateway's IP address", "账号管理员须先确认网关的出口 IP，之后才能调用"),
    any(89504, Code::FailedPrecondition, R::IpAwaitingConfirmation, FixBy::Merchant, "WeChat finds the gateway's IP address risky; the administrator must check it", "微信返回：网关的出口 IP 有风险，请账号管理员处理"),
    any(89505, Code::FailedPrecondition, R::IpAwaitingConfirmation, FixBy::Merchant, "WeChat finds the gateway's IP address risky; the administrator must check it", "微信返回：网关的出口 IP 有风险，请账号管理员处理"),
    any(89506, Code::FailedPrecondition, R::IpRefusedByAdmin, FixBy::Merchant, "the administrator refused the gateway's IP address twice; WeChat blocks it for 24 hours", "账号管理员两次拒绝了网关的出口 IP，24 小时内不能使用"),
    any(89507, Code::FailedPrecondition, R::IpRefusedByAdmin, FixBy::Merchant, "the administrator refused the gateway's IP address; WeChat blocks it for an hour", "账号管理员拒绝了网关的出口 IP，1 小时内不能使用"),
    any(92000, Code::AlreadyExists, R::LicenseNumberTaken, FixBy::Caller, "the license number is already in use", "该经营资质已添加过，请勿重复添加"),
    any(92002, Code::ResourceExhausted, R::NearbyLimitReached, FixBy::Merchant, "the account has reached WeChat's limit of nearby places", "附近地点的数量已满"),
    on("/wxa/setnearbypoishowstatus", 92003, Code::FailedPrecondition, R::PlaceTaken, FixBy::Merchant, "another account appears at this place", "该地点已被其他账号占用，无法展示"),
    any(92003, Code::AlreadyExists, R::PlaceTaken, FixBy::Merchant, "another account appears at this place", "该地点已被其他账号占用"),
    any(92004, Code::FailedPrecondition, R::PlaceBanned, FixBy::Merchant, "WeChat has banned the place", "该附近地点已被封禁"),
    any(92005, Code::FailedPrecondition, R::NearbyPoiUnderReview, FixBy::Wait, "the place is in review", "该附近地点正在审核中，请等待结果"),
    any(92006, Code::FailedPrecondition, R::NearbyPoiVisible, FixBy::Caller, "the place is visible; hide it first", "该附近地点正在展示，请先取消展示"),
    any(92007, Code::FailedPrecondition, R::NearbyPoiRejected, FixBy::Caller, "WeChat rejected the place; fix what its reason names", "该附近地点审核未通过，请修改后重新提交"),
    any(92008, Code::FailedPrecondition, R::NearbyPoiNotShowable, FixBy::Caller, "the place is not shown or cannot be shown", "该附近地点未展示或不能展示"),
    any(93009, Code::FailedPrecondition, R::MiniProgramUnpublished, FixBy::Merchant, "the mini program is not published", "小程序尚未发布上线"),
    any(93010, Code::NotFound, R::NearbyPoiNotFound, FixBy::Caller, "the account has no such nearby place", "附近地点不存在"),
    any(93011, Code::FailedPrecondition, R::MiniProgramUnsupported, FixBy::Merchant, "a personal mini program cannot appear nearby", "个人类型的小程序不支持附近地点"),
    any(93012, Code::FailedPrecondition, R::MiniProgramUnsupported, FixBy::Merchant, "only an ordinary mini program can appear nearby", "门店或小店类小程序不支持附近地点，请使用普通小程序"),
    any(93013, Code::FailedPrecondition, R::MapPoiUnreadable, FixBy::Caller, "WeChat failed to read the place from Tencent Maps; search it again", "微信无法从腾讯地图读取该地点，请重新搜索并选择地点"),
    any(93014, Code::AlreadyExists, R::LicenseNumberTaken, FixBy::Caller, "the license number was submitted twice", "同一经营资质重复提交"),
    any(93015, Code::FailedPrecondition, R::CategoryUnderReview, FixBy::Wait, "the mini program's category is in review", "小程序类目正在审核中，请等待结果"),
    any(93016, Code::InvalidArgument, R::ServiceLabelLimitReached, FixBy::Caller, "there are too many service labels; at most 5 with WeChat's own names and 4 custom ones are allowed", "服务标签过多：官方标签最多 5 个，自定义标签最多 4 个"),
    any(93017, Code::InvalidArgument, R::ServiceNameInvalid, FixBy::Caller, "the name of a service label or of the customer service is not allowed", "服务标签或客服的名称不符合要求"),
    any(93018, Code::FailedPrecondition, R::ServiceAppEntityMismatch, FixBy::Caller, "the mini program of a service label belongs to another legal entity", "服务标签的小程序与本小程序不是同一主体"),
    any(93019, Code::FailedPrecondition, R::CategoryMissing, FixBy::Merchant, "the mini program must apply for the category first", "请先为小程序申请相应类目"),
    any(93020, Code::InvalidArgument, R::QualificationsInvalid, FixBy::Caller, "the qualification documents are invalid; upload them again", "证明材料无效，请重新上传"),
    any(93021, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "the company name is missing", "主体名称不能为空"),
    any(93022, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "the license number is missing", "经营资质证件号不能为空"),
    any(93023, Code::InvalidArgument, R::RequiredFieldEmpty, FixBy::Caller, "the address is missing", "地址不能为空"),
    any(93024, Code::FailedPrecondition, R::QualificationsMissing, FixBy::Caller, "the request needs documents that prove the tie to the other legal entity", "主体不一致，请补充证明材料"),
    any(93025, Code::FailedPrecondition, R::ServicePathNotFound, FixBy::Caller, "the page of a service label does not exist", "服务标签的页面路径不存在"),
    any(9300011, Code::InvalidArgument, R::CardIdInvalid, FixBy::Caller, "WeChat has no card with this card_id", "没有这张卡券，请检查 card_id"),
    any(9300012, Code::InvalidArgument, R::CardIdInvalid, FixBy::Caller, "the card belongs to another account", "卡券不属于该账号，请检查 card_id"),
    any(9300013, Code::FailedPrecondition, R::CardNotAllowed, FixBy::Merchant, "stores accept only membership cards, pay-the-bill cards and swipe cards", "卡券类型不符合要求，门店只支持会员卡，以及用于买单或刷卡的卡券"),
    any(9300014, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the stock of the card is used up", "卡券库存不足"),
    any(9300015, Code::FailedPrecondition, R::CardNotUsable, FixBy::Merchant, "the state of the card does not allow this; check that it is approved and neither expired nor deleted", "卡券状态不合法，请确认它已通过审核且未过期、未删除"),
];

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::telemetry::code_name;

    /// Every code that WeChat's documents list for the gateway's calls, for tokens and for all calls. Also
    /// the codes of its global table, of its page about cards and of Tencent Maps that one of these calls can
    /// return.
    const DOCUMENTED: &[i64] = &[
        -1, 110, 111, 112, 113, 120, 121, 160, 161, 190, 199, 300, 301, 306, 310, 311, 320, 330,
        348, 351, 395, 500, 510, 520, 530, 20002, 40001, 40002, 40004, 40005, 40006, 40007, 40009,
        40013, 40014, 40033, 40035, 40038, 40039, 40048, 40053, 40056, 40066, 40071, 40072, 40073,
        40078, 40079, 40080, 40090, 40091, 40093, 40094, 40097, 40098, 40099, 40100, 40101, 40104,
        40107, 40113, 40116, 40118, 40121, 40122, 40124, 40125, 40127, 40128, 40137, 40141, 40150,
        40158, 40159, 40160, 40161, 40164, 40165, 40166, 40187, 40191, 40221, 40222, 40243, 41001,
        41002, 41003, 41004, 41005, 41006, 41010, 41011, 41012, 41018, 41019, 41020, 41021, 41025,
        41030, 42001, 42002, 42005, 42006, 42007, 43001, 43002, 43003, 43007, 43009, 43010, 43011,
        43012, 43015, 43016, 43017, 43104, 44001, 44002, 44005, 44006, 45001, 45002, 45003, 45004,
        45005, 45006, 45009, 45011, 45020, 45021, 45025, 45030, 45031, 45032, 45033, 45034, 45035,
        45040, 45042, 45061, 45063, 45068, 45101, 45102, 45103, 45164, 45165, 45501, 46001, 46005,
        47001, 47002, 47003, 48001, 48004, 48006, 48009, 48012, 50001, 50002, 50003, 50004, 50007,
        52000, 53000, 53001, 53002, 53003, 53010, 53011, 53012, 53013, 53014, 53015, 53016, 53017,
        53018, 53019, 53200, 53201, 53202, 53203, 53302, 61003, 61004, 61005, 61006, 61007, 61011,
        61014, 61015, 61016, 61017, 61023, 61024, 61028, 61029, 61052, 61061, 61063, 61064, 61065,
        61066, 61067, 61068, 61069, 61451, 65104, 65105, 65106, 65107, 65109, 65110, 65111, 65112,
        65113, 65114, 65115, 65116, 65117, 65118, 65119, 65120, 65318, 76003, 76021, 76022, 85008,
        85012, 85015, 85024, 85025, 85026, 85027, 85028, 85029, 85030, 85031, 85032, 85033, 85034,
        85035, 85036, 85038, 85039, 85040, 85041, 85042, 85049, 85050, 85053, 85054, 85055, 85056,
        85058, 85059, 85061, 85062, 85063, 85074, 85077, 85079, 85084, 87014, 89013, 89501, 89502,
        89503, 89504, 89505, 89506, 89507, 92000, 92002, 92003, 92004, 92005, 92006, 92007, 92008,
        93009, 93010, 93011, 93012, 93013, 93014, 93015, 93016, 93017, 93018, 93019, 93020, 93021,
        93022, 93023, 93024, 93025, 9300011, 9300012, 9300013, 9300014, 9300015,
    ];

    /// The contract. Callers read its comments.
    const ERROR_PROTO: &str = include_str!("../../proto/wechat/store/v1/error.proto");

    /// Reasons with a smaller number are the gateway's own.
    const FIRST_OF_WECHAT: i32 = 100;

    #[test]
    fn table_is_sorted_without_duplicates() {
        let keys: Vec<_> =
            TABLE.iter().map(|row| (row.code, row.path.is_none(), row.path)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn table_has_exactly_the_documented_codes() {
        let listed: BTreeSet<_> = TABLE.iter().map(|row| row.code).collect();
        assert_eq!(listed, DOCUMENTED.iter().copied().collect());
    }

    #[test]
    fn every_errcode_reason_is_used() {
        let used: BTreeSet<_> = TABLE.iter().map(|row| row.reason as i32).collect();
        for reason in (FIRST_OF_WECHAT..1000).filter_map(|n| ErrorReason::try_from(n).ok()) {
            assert!(used.contains(&(reason as i32)), "{}", reason.as_str_name());
        }
    }

    #[test]
    fn contract_lists_the_codes_of_the_table() {
        let mut table = BTreeMap::<_, BTreeSet<String>>::new();
        for row in TABLE {
            let code = row.code;
            let named = row.path.map_or(format!("{code}"), |path| format!("{code} on {path}"));
            table.entry(row.reason.as_str_name()).or_default().insert(named);
        }
        assert_eq!(errcodes_in_contract(), table);
    }

    #[test]
    fn row_of_one_call_applies_only_there() {
        let reason = |path, code| lookup(path, code).map(|row| row.reason);
        assert_eq!(reason("/wxa/del_store", -1), Some(R::DeletionFailed));
        assert_eq!(reason("/wxa/add_store", -1), Some(R::OutcomeUnknown));
        assert_eq!(reason("/wxa/get_store_list", -1), Some(R::WechatBusy));
        assert_eq!(reason("/cgi-bin/token", 40001), Some(R::AppSecretInvalid));
        assert_eq!(reason("/wxa/add_store", 40001), Some(R::TokenRefused));
        assert_eq!(reason("/wxa/get_district", 310), Some(R::MapServiceFailed));
        assert_eq!(reason("/wxa/add_store", 310), None);
        assert_eq!(reason("/wxa/add_store", 99999), None);
    }

    /// Codes of the global table and of the page about cards that the pages of these calls do not have.
    #[test]
    fn global_and_card_codes_have_reasons() {
        for (code, reason, fix_by) in [
            (40056, R::CardIdInvalid, FixBy::Caller),
            (40066, R::WechatCallMalformed, FixBy::Developer),
            (40073, R::CardIdInvalid, FixBy::Caller),
            (40078, R::CardNotUsable, FixBy::Merchant),
            (40079, R::ParameterRefused, FixBy::Caller),
            (40158, R::CardNotAllowed, FixBy::Merchant),
            (41011, R::RequiredFieldEmpty, FixBy::Caller),
            (41012, R::RequiredFieldEmpty, FixBy::Caller),
            (45030, R::CardNotAllowed, FixBy::Merchant),
            (45102, R::ApiBlocked, FixBy::Merchant),
            (45103, R::ApiWithdrawn, FixBy::Developer),
            (47003, R::ParameterRefused, FixBy::Caller),
            (65105, R::PictureUrlInvalid, FixBy::Caller),
            (85008, R::CategoryMissing, FixBy::Merchant),
        ] {
            let row = lookup("/card/storewxa/set", code).unwrap_or_else(|| panic!("no {code}"));
            assert_eq!((row.reason, row.fix_by), (reason, fix_by), "{code}");
        }
    }

    #[test]
    fn no_errcode_becomes_a_caller_identity_error() {
        for row in TABLE {
            assert!(
                !matches!(row.status, Code::Ok | Code::PermissionDenied | Code::Unauthenticated),
                "{row:?}"
            );
        }
    }

    #[test]
    fn every_row_has_both_languages() {
        for row in TABLE {
            assert!(row.en.is_ascii() && !row.en.is_empty(), "{row:?}");
            assert!(row.zh.chars().any(|c| ('一'..='龥').contains(&c)), "{row:?}");
            assert!(!row.zh.contains([',', ';', ':', '(', ')']), "half-width punctuation: {row:?}");
        }
    }

    #[test]
    fn contract_has_code_and_fix_by_of_rows() {
        let contract = contract();
        for row in TABLE {
            let comment = &contract[row.reason.as_str_name()];
            let codes = between(comment, "Code: ", ".").expect("a code");
            let mut codes = codes.split([' ', ';']);
            // The first one. If the row applies to one call, any of them.
            let most = if row.path.is_none() { 1 } else { usize::MAX };
            assert!(codes.by_ref().take(most).any(|code| code == code_name(row.status)), "{row:?}");
            assert_eq!(between(comment, FIX_BY, "\""), Some(row.fix_by.as_str()), "{row:?}");
        }
    }

    /// Returns the lists behind `Errcodes:` in the comments of error.proto, by the value that follows.
    fn errcodes_in_contract() -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut found = BTreeMap::new();
        for (value, comment) in contract() {
            if let Some(codes) = between(&comment, "Errcodes: ", ".") {
                found.insert(value, codes.split(", ").map(str::to_owned).collect());
            }
        }
        found
    }

    /// The text before the `fix_by` in the examples of error.proto.
    pub(in super::super) const FIX_BY: &str = "\"fix_by\": \"";

    /// Returns the comments of error.proto, each in one line, by the value that follows.
    pub(in super::super) fn contract() -> BTreeMap<&'static str, String> {
        let mut contract = BTreeMap::new();
        let mut comment = String::new();
        for line in ERROR_PROTO.lines().map(str::trim) {
            match line.strip_prefix("//") {
                Some(text) => comment.extend([text.trim(), " "]),
                None => {
                    let value = line.split(' ').next().unwrap_or_default();
                    contract.insert(value, std::mem::take(&mut comment));
                }
            }
        }
        contract
    }

    /// Returns the first piece of `text` between these two.
    pub(in super::super) fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
        let (_, rest) = text.split_once(from)?;
        rest.split_once(to).map(|(piece, _)| piece)
    }
}
