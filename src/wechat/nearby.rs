//! Places at which a mini program appears nearby (附近的小程序).

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use super::{
    AccountKinds, Done, Endpoint, Int, Need, Nested, PicList, Proof, Quoted, Rows, Safety, Text,
};
use crate::util::id::{AppId, AuditId, MapPoiId, PoiId};

endpoints![AddNearbyPoi, DelNearbyPoi, GetNearbyPoiList, SetNearbyPoiShowStatus];

/// `POST /wxa/addnearbypoi` — 添加地点
///
/// Adds a place, or replaces the one with this `poi_id`. WeChat accepts no concurrent calls and
/// requires a pause of one second between them.
///
/// The tag is WeChat's constant (写死为"1").
#[derive(Debug, Default, Serialize)]
#[serde(tag = "is_comm_nearby", rename = "1")]
pub(crate) struct AddNearbyPoi {
    /// The chat button. Its table calls it optional in the text and required in its columns, so it
    /// is always sent.
    pub kf_info: Quoted<KfInfo>,
    /// 1 to 9 pictures.
    pub pic_list: Quoted<PicList>,
    /// The labels.
    pub service_infos: Quoted<ServiceInfos>,
    /// The name, as Tencent Maps has it.
    pub store_name: String,
    /// The telephone number (sic: `contract`).
    pub contract_phone: String,
    /// The hours, `11:11-12:12`.
    pub hour: String,
    /// The license number.
    pub credential: String,
    /// The address.
    pub address: String,
    /// The legal entity that runs the shop.
    pub company_name: String,
    /// Temporary media ids, joined by `|`. Empty if the legal entity is the account's own.
    pub qualification_list: String,
    /// The place to replace. Absent when a place is added.
    #[serde(skip_serializing_if = "PoiId::is_empty")]
    pub poi_id: PoiId,
    /// The place on Tencent Maps. Without it, WeChat sometimes fails (小概率会提交失败).
    #[serde(skip_serializing_if = "MapPoiId::is_empty")]
    pub map_poi_id: MapPoiId,
}

/// The chat button (客服).
#[derive(Debug, Default, Serialize)]
pub(crate) struct KfInfo {
    /// Whether the button is shown.
    pub open_kf: bool,
    /// The picture of the chat agent. Absent without an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kf_headimg: Option<String>,
    /// The name of the chat agent. Absent without an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kf_name: Option<String>,
}

/// The labels, nested under their own name a second time.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ServiceInfos {
    /// The labels.
    pub service_infos: Vec<ServiceInfo>,
}

/// A label (服务标签).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ServiceInfo {
    /// 1 to 15 for WeChat's own labels, 0 for a custom label.
    pub id: u8,
    /// 1 for WeChat's own labels, 2 for a custom label. The prose of the document misspells it.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The displayed name.
    pub name: String,
    /// The mini program that the label opens.
    pub appid: AppId,
    /// The page that the label opens.
    pub path: String,
    /// A short description of an offer. Absent if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub desc: String,
}

/// The reply to [`AddNearbyPoi`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct AddNearbyPoiReply {
    /// The payload of the reply.
    pub data: AddedNearbyPoi,
}

/// The result of an [`AddNearbyPoi`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AddedNearbyPoi {
    /// The id of the review.
    pub audit_id: AuditId,
    /// The place. Missing in some samples.
    pub poi_id: PoiId,
    /// The license number. Missing in some samples.
    pub related_credential: Text,
}

impl Endpoint for AddNearbyPoi {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/addnearbypoi";
    const ACCOUNT: AccountKinds = AccountKinds::MiniProgram;
    const SAFETY: Safety = Safety::Once(Proof::ListedNearbyPoi);
    const PERMISSION_SETS: &'static [u8] = &[37];
    const CLOUD: bool = true;
    // 使用时间隔1s进行串行调用
    const PACE: Option<Duration> = Some(Duration::from_secs(1));
    const WHOLE: &'static [Need] = &[Need::Id("data.audit_id")];
    type Reply = AddNearbyPoiReply;

    fn is_whole(reply: &AddNearbyPoiReply) -> bool {
        !reply.data.audit_id.is_empty()
    }
}

/// `POST /wxa/getnearbypoilist` — 查看地点列表
///
/// Lists the account's places. Older documents use GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GetNearbyPoiList {
    /// The page, from 1.
    pub page: u32,
    /// The number of rows per page, at most 1000.
    pub page_rows: u32,
}

/// The reply to [`GetNearbyPoiList`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GetNearbyPoiListReply {
    /// The payload of the reply.
    pub data: NearbyPoiPage,
}

/// A page of places, and the account's allowance.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NearbyPoiPage {
    /// The number of places that the account can still add.
    pub left_apply_num: Int,
    /// The number of places that the account can have in total.
    pub max_apply_num: Int,
    /// The page, as JSON inside a string.
    pub data: Nested<NearbyPoiRows>,
}

impl NearbyPoiPage {
    /// Returns the number of places of the account, computed from its allowance.
    pub(crate) fn count(&self) -> Option<u32> {
        let (most, left) = (self.max_apply_num.0?, self.left_apply_num.0?);
        u32::try_from(most.checked_sub(left)?).ok().filter(|_| left >= 0)
    }
}

/// The rows of a page.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NearbyPoiRows {
    /// The rows. Their form for an account without places is not documented.
    pub poi_list: Option<Rows<ListedNearbyPoi>>,
}

/// A place as the list shows it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListedNearbyPoi {
    /// The place.
    pub poi_id: PoiId,
    /// Its address.
    pub qualification_address: Text,
    /// Its license number.
    pub qualification_num: Text,
    /// 3 in review, 4 failed, 5 passed.
    pub audit_status: Int,
    /// 0 hidden, 1 shown.
    pub display_status: Int,
    /// The reason of the failure, for 4.
    pub refuse_reason: Text,
    /// The id of the review. Undocumented, and sometimes missing.
    pub audit_id: AuditId,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl Endpoint for GetNearbyPoiList {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/getnearbypoilist";
    const ACCOUNT: AccountKinds = AccountKinds::MiniProgram;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[37];
    const CLOUD: bool = true;
    // A thousand places, each with an address and a reason.
    const MAX_REPLY: usize = 4 << 20;
    const WHOLE: &'static [Need] = &[Need::List("data.data.poi_list")];
    type Reply = GetNearbyPoiListReply;

    /// Returns true for a missing list only if the numbers of the allowance show that the account
    /// has no place.
    fn is_whole(GetNearbyPoiListReply { data }: &GetNearbyPoiListReply) -> bool {
        data.data.0.poi_list.is_some() || data.count() == Some(0)
    }
}

/// `POST /wxa/delnearbypoi` — 删除地点
///
/// Deletes a place that is hidden.
#[derive(Debug, Serialize)]
pub(crate) struct DelNearbyPoi {
    /// The place.
    pub poi_id: PoiId,
}

impl Endpoint for DelNearbyPoi {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/delnearbypoi";
    const ACCOUNT: AccountKinds = AccountKinds::MiniProgram;
    const SAFETY: Safety = Safety::Once(Proof::Gone);
    const PERMISSION_SETS: &'static [u8] = &[37];
    const CLOUD: bool = true;
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}

/// `POST /wxa/setnearbypoishowstatus` — 展示/取消展示附近小程序
///
/// Shows a place, or hides it.
#[derive(Debug, Serialize)]
pub(crate) struct SetNearbyPoiShowStatus {
    /// The place.
    pub poi_id: PoiId,
    /// 0 hides, 1 shows.
    pub status: u8,
}

impl Endpoint for SetNearbyPoiShowStatus {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/setnearbypoishowstatus";
    const ACCOUNT: AccountKinds = AccountKinds::MiniProgram;
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[37];
    const CLOUD: bool = true;
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}
