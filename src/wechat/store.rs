//! Stores (门店) of a store mini program, and those of the older 门店管理.

use http::Method;
use serde::{Deserialize, Serialize};

use super::{
    AccountKinds, Decimal, Done, Endpoint, Int, List, Need, PicList, Proof, Quoted, Rows, Safety,
    Text,
};
use crate::util::id::{AuditId, CardId, MapPoiId, PoiId};

endpoints![AddStore, DelPoi, DelStore, GetPoi, GetPoiList, GetStoreInfo, GetStoreList, UpdateStore,];

/// `POST /wxa/add_store` — 添加门店
///
/// Submits a new store, or migrates an old one.
///
/// The documented sample sends an empty `poi_id`, and the texts call `company_name` and `card_id`
/// "empty" if they are not wanted. These three are always sent. `qualification_list` is text in one
/// source and an array in another, so it is left out if it is not needed.
#[derive(Debug, Serialize)]
pub struct AddStore {
    /// The old store that migrates. Empty for a new one.
    pub poi_id: PoiId,
    /// The place, by Tencent Maps' id.
    pub map_poi_id: MapPoiId,
    /// The pictures.
    pub pic_list: Quoted<PicList>,
    /// The telephone number. (sic)
    pub contract_phone: String,
    /// The hours, `11:11-12:12`. Missing in the sample, required by the table.
    pub hour: String,
    /// The license number.
    pub credential: String,
    /// The legal entity that holds the license. Empty for the account's own.
    pub company_name: String,
    /// Temporary media ids, `mediaid1|mediaid2`. Only sent with `company_name`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub qualification_list: String,
    /// The card. Empty for none.
    pub card_id: CardId,
}

/// The reply to [`AddStore`].
#[derive(Debug, Default, Deserialize)]
pub struct AddStoreReply {
    /// The submitted store.
    pub data: AddedStore,
}

/// The `data` of [`AddStoreReply`].
#[derive(Debug, Default, Deserialize)]
pub struct AddedStore {
    /// The id of the review. Only the event has the store's `poi_id`.
    pub audit_id: AuditId,
}

impl Endpoint for AddStore {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/add_store";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Once(Proof::ListedStore);
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[Need::Id("data.audit_id")];
    type Reply = AddStoreReply;

    fn is_whole(reply: &AddStoreReply) -> bool {
        !reply.data.audit_id.is_empty()
    }
}

/// `POST /wxa/update_store` — 更新门店信息
///
/// Replaces hours, telephone and all pictures.
#[derive(Debug, Serialize)]
pub(crate) struct UpdateStore {
    /// Another place. Absent if the store does not move. The table does not list this field, but
    /// the sample has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_poi_id: Option<MapPoiId>,
    /// The store.
    pub poi_id: PoiId,
    /// The hours, `10:00-21:00`.
    pub hour: String,
    /// The telephone number. (sic)
    pub contract_phone: String,
    /// All pictures. Unchanged ones are not reviewed again.
    pub pic_list: Quoted<PicList>,
    /// The card. Empty leaves it unchanged.
    pub card_id: CardId,
}

/// The reply to [`UpdateStore`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct UpdateStoreReply {
    /// The submitted change.
    pub data: UpdatedStore,
}

/// The `data` of [`UpdateStoreReply`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UpdatedStore {
    /// A flag in spite of its name: 1 if the pictures are reviewed, else 0.
    pub has_audit_id: Int,
    /// The id of the review. May be missing if there is none.
    pub audit_id: AuditId,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl UpdatedStore {
    /// Returns true if WeChat began a review. An audit id proves a review, even if it is unreadable
    /// and whatever the flag states.
    pub(crate) fn is_reviewed(&self) -> bool {
        let is_numbered =
            !self.audit_id.is_empty() || self.unreadable.iter().any(|it| it == "audit_id");
        self.has_audit_id == Int(Some(1)) || is_numbered
    }
}

impl Endpoint for UpdateStore {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/update_store";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Once(Proof::Values);
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[Need::NumberOrId("data.has_audit_id", "data.audit_id")];
    type Reply = UpdateStoreReply;

    fn is_whole(UpdateStoreReply { data }: &UpdateStoreReply) -> bool {
        data.has_audit_id.0.is_some() || data.is_reviewed()
    }
}

/// `POST /wxa/get_store_info` — 获取单个门店信息
///
/// Returns a store.
#[derive(Debug, Serialize)]
pub struct GetStoreInfo {
    /// The store.
    pub poi_id: PoiId,
}

/// The reply to [`GetStoreInfo`].
#[derive(Debug, Deserialize)]
pub struct GetStoreInfoReply {
    /// The store.
    pub business: Row<StoreInfo>,
}

/// WeChat's wrapper around every store.
#[derive(Debug, Default, Deserialize)]
pub struct Row<T> {
    /// The store.
    pub base_info: T,
}

/// A store.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoreInfo {
    /// Its id.
    pub poi_id: PoiId,
    /// The name on the map.
    pub business_name: Text,
    /// The province.
    pub province: Text,
    /// The city.
    pub city: Text,
    /// The district.
    pub district: Text,
    /// The address within the district.
    pub address: Text,
    /// Degrees east.
    pub longitude: Decimal,
    /// Degrees north.
    pub latitude: Decimal,
    /// The `contract_phone` of other calls.
    pub telephone: Text,
    /// The `hour` of other calls.
    pub open_time: Text,
    /// The displayed pictures.
    pub photo_list: List<Photo>,
    /// The license number.
    pub qualification_num: Text,
    /// The legal entity that holds the license.
    pub qualification_name: Text,
    /// 1 passed, 2 in review, 3 failed.
    pub status: Int,
    /// Only in lists, and empty in the samples, so any value is accepted.
    pub categories: List<serde_json::Value>,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

/// A picture.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Photo {
    /// Its URL.
    pub photo_url: Text,
}

impl Endpoint for GetStoreInfo {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/get_store_info";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[Need::Id("business.base_info.poi_id")];
    type Reply = GetStoreInfoReply;

    fn is_whole(reply: &GetStoreInfoReply) -> bool {
        !reply.business.base_info.poi_id.is_empty()
    }
}

/// `POST /wxa/get_store_list` — 获取门店信息列表
///
/// Returns some of the account's stores.
#[derive(Debug, Serialize)]
pub(crate) struct GetStoreList {
    /// The index of the first store, from 0.
    pub offset: u32,
    /// The number of stores, at most 50. 0 means 20.
    pub limit: u32,
}

/// The reply to [`GetStoreList`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GetStoreListReply {
    /// The stores.
    pub business_list: Rows<Row<StoreInfo>>,
    /// The number of stores of the account.
    #[serde(default)]
    pub total_count: Int,
}

impl Endpoint for GetStoreList {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/get_store_list";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[Need::List("business_list")];
    type Reply = GetStoreListReply;
}

/// `POST /wxa/del_store` — 删除门店
///
/// Deletes a store. Here -1 means "busy" or "failed".
#[derive(Debug, Serialize)]
pub(crate) struct DelStore {
    /// The store.
    pub poi_id: PoiId,
}

impl Endpoint for DelStore {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/del_store";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Once(Proof::Gone);
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}

// ── The older 门店管理 ──

/// `POST /cgi-bin/poi/getpoilist` — 查询门店列表
///
/// Returns some of the account's old stores, with the state of their migration (升级流程).
#[derive(Debug, Serialize)]
pub(crate) struct GetPoiList {
    /// The index of the first store, from 0.
    pub begin: u32,
    /// The number of stores, at most 50.
    pub limit: u32,
}

/// The reply to [`GetPoiList`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GetPoiListReply {
    /// The old stores.
    pub business_list: Rows<Row<PoiInfo>>,
    /// The number of old stores of the account. Text in the official sample, a number in real
    /// bodies.
    #[serde(default)]
    pub total_count: Int,
}

/// An old store.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PoiInfo {
    /// Its id.
    pub poi_id: PoiId,
    /// The merchant's own number.
    pub sid: Text,
    /// The name without the branch.
    pub business_name: Text,
    /// The branch.
    pub branch_name: Text,
    /// The province.
    pub province: Text,
    /// The city.
    pub city: Text,
    /// The district.
    pub district: Text,
    /// The address within the district.
    pub address: Text,
    /// Degrees east.
    pub longitude: Decimal,
    /// Degrees north.
    pub latitude: Decimal,
    /// The type of the coordinates. 1 is GCJ-02.
    pub offset_type: Int,
    /// The telephone number.
    pub telephone: Text,
    /// The hours.
    pub open_time: Text,
    /// The categories, each with its levels, `美食,小吃快餐`.
    pub categories: List<Text>,
    /// The pictures.
    pub photo_list: List<Photo>,
    /// A description of the store.
    pub introduction: Text,
    /// The recommended goods.
    pub recommend: Text,
    /// Further services of the store.
    pub special: Text,
    /// The average price per person, in yuan.
    pub avg_price: Decimal,
    /// 1 system error, 2 in review, 3 passed, 4 rejected.
    pub available_state: Int,
    /// 1 while a change is in review, else 0.
    pub update_status: Int,
    /// 0 to migrate, 1 failed, 2 migrating, 3 done, 4 forbidden.
    pub upgrade_status: Int,
    /// The reason why the migration failed.
    pub upgrade_comment: Text,
    /// The `map_poi_id` of other calls.
    pub mapid: MapPoiId,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl Endpoint for GetPoiList {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/poi/getpoilist";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[Need::List("business_list")];
    type Reply = GetPoiListReply;
}

/// `POST /cgi-bin/poi/getpoi` — 查询门店信息
///
/// Returns an old store. The sample has neither its `poi_id` nor the fields of the migration.
#[derive(Debug, Serialize)]
pub(crate) struct GetPoi {
    /// The old store.
    pub poi_id: PoiId,
}

/// The reply to [`GetPoi`]. Without a store it is unreadable.
#[derive(Debug, Deserialize)]
pub struct GetPoiReply {
    /// The old store.
    pub business: Row<PoiInfo>,
}

impl Endpoint for GetPoi {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/poi/getpoi";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[Need::Text("business.base_info.business_name")];
    type Reply = GetPoiReply;

    fn is_whole(reply: &GetPoiReply) -> bool {
        !reply.business.base_info.business_name.0.trim().is_empty()
    }
}

/// `POST /cgi-bin/poi/delpoi` — 删除门店
///
/// Deletes an old store.
#[derive(Debug, Serialize)]
pub(crate) struct DelPoi {
    /// The old store.
    pub poi_id: PoiId,
}

impl Endpoint for DelPoi {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/poi/delpoi";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Once(Proof::Gone);
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}
