//! The merchants of a component: the list, and one of them.

use serde_json::{Value, json};

use super::caller;
use crate::{AccountKind, COMPANY, endpoint::Call, error::Refusal, world::World};

/// A page of the list has at most this many rows.
const PAGE: i64 = 500;

/// `POST /cgi-bin/component/api_get_authorizer_list` — 拉取已授权的账号列表
///
/// The rows are ordered by app id, which is our choice. A row has no refresh token before the component
/// has exchanged an authorization code.
pub(super) fn list(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let (offset, count) = (call.number("offset")?, call.number("count")?);
    let offset = usize::try_from(offset).map_err(|_| Refusal::new(40097))?;
    // The document has this code only for a count that is too large.
    let count = Some(count).filter(|count| (1..=PAGE).contains(count));
    let count = count.and_then(|count| usize::try_from(count).ok()).ok_or(Refusal::new(40170))?;
    let authorizers = &caller(world, call)?.authorizers;
    let rows = authorizers.iter().skip(offset).take(count).map(|(app_id, authorization)| {
        let mut row = json!({ "authorizer_appid": app_id, "auth_time": authorization.auth_time });
        if authorization.api && authorization.queried {
            row["refresh_token"] = json!(authorization.refresh_token);
        }
        row
    });
    Ok(json!({ "total_count": authorizers.len(), "list": rows.collect::<Vec<_>>() }))
}

/// `POST /cgi-bin/component/api_get_authorizer_info` — 获取授权账号详情
pub(super) fn info(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let app_id = call.text("authorizer_appid")?;
    let authorization = caller(world, call)?.authorizers.get(app_id);
    let authorization = authorization.ok_or(Refusal::new(61003))?;
    let mut granted = json!({ "authorizer_appid": app_id, "func_info": authorization.func_info() });
    if authorization.api && authorization.queried {
        granted["authorizer_refresh_token"] = json!(authorization.refresh_token);
    }
    let tenant = world.tenant(app_id)?;
    let is_mini_program = tenant.kind == AccountKind::MiniProgram;
    let mut account = json!({
        "nick_name": tenant.merchant.describe()["nickname"],
        "head_img": "http://wx.qlogo.cn/mmopen/GPy/0",
        // Of official accounts 2 is 服务号. All mini programs have 0.
        "service_type_info": { "id": if is_mini_program { 0 } else { 2 } },
        "verify_type_info": { "id": 0 },
        "user_name": tenant.original_id,
        "principal_name": COMPANY,
        "alias": "",
        "business_info": {
            "open_store": 0, "open_scan": 0, "open_pay": 0, "open_card": 0, "open_shake": 0,
        },
        "qrcode_url": "http://mmbiz.qpic.cn/mmbiz_jpg/qrcode/0",
        "signature": "",
    });
    if is_mini_program {
        account["MiniProgramInfo"] = json!({
            "network": {
                "RequestDomain": [], "WsRequestDomain": [], "UploadDomain": [], "DownloadDomain": [],
            },
            "categories": [{ "first": "餐饮", "second": "中餐" }],
            "visit_status": 0,
        });
    }
    Ok(json!({ "authorizer_info": account, "authorization_info": granted }))
}
