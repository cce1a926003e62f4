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
/// "empty" where they are not wanted; these three are always sent. `qualification_list`, which the
/// sources type as text here and as an array there, is left out where it is not needed.
#[derive(Debug, Serialize)]
pub struct AddStore {
    /// The old store that migrates; empty for a new one.
    pub poi_id: PoiId,
    /// The place, by Tencent Maps' id.
    pub map_poi_id: MapPoiId,
    /// The pictures.
    pub pic_list: Quoted<PicList>,
    /// The telephone number. (sic)
    pub contract_phone: String,
    /// The hours, `11:11-12:12`. Missing in the sample, required by the table.
    pub hour: String,
    /// The number of the licence.
    pub credential: String,
    /// Whose licence it is; empty for the account's own legal entity.
    pub company_name: String,
    /// Temporary media ids, `mediaid1|mediaid2`; only with `company_name`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub qualification_list: String,
    /// The card; empty for none.
    pub card_id: CardId,
}

/// Answers [`AddStore`].
#[derive(Debug, Default, Deserialize)]
pub struct AddStoreReply {
    /// What was submitted.
    pub data: AddedStore,
}

/// The `data` of [`AddStoreReply`].
#[derive(Debug, Default, Deserialize)]
pub struct AddedStore {
    /// The review. The store's `poi_id` comes with its event only.
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
pub struct UpdateStore {
    /// Another place. Left out where the store stays; the table does not know it, the sample does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_poi_id: Option<MapPoiId>,
    /// The store.
    pub poi_id: PoiId,
    /// The hours, `10:00-21:00`.
    pub hour: String,
    /// The telephone number. (sic)
    pub contract_phone: String,
    /// All pictures; those that were there before are not reviewed again.
    pub pic_list: Quoted<PicList>,
    /// The card; empty leaves it.
    pub card_id: CardId,
}

/// Answers [`UpdateStore`].
#[derive(Debug, Default, Deserialize)]
pub struct UpdateStoreReply {
    /// What was submitted.
    pub data: UpdatedStore,
}

/// The `data` of [`UpdateStoreReply`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UpdatedStore {
    /// A flag in spite of its name: 1 if the pictures are reviewed, else 0.
    pub has_audit_id: Int,
    /// The review. May be missing where there is none.
    pub audit_id: AuditId,
    /// The fields that could not be read.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl UpdatedStore {
    /// Whether WeChat began a review. A review that is numbered was begun, whatever the flag says, and
    /// even if its number cannot be read.
    pub fn is_reviewed(&self) -> bool {
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

/// Answers [`GetStoreInfo`].
#[derive(Debug, Deserialize)]
pub struct GetStoreInfoReply {
    /// The store.
    pub business: Row<StoreInfo>,
}

/// What WeChat wraps around every store.
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
    /// The name that the map has.
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
    /// The pictures that are shown.
    pub photo_list: List<Photo>,
    /// The number of the licence.
    pub qualification_num: Text,
    /// Whose licence it is.
    pub qualification_name: Text,
    /// 1 passed, 2 in review, 3 failed.
    pub status: Int,
    /// Only in lists, and empty in the samples, so that anything is taken.
    pub categories: List<serde_json::Value>,
    /// The fields that could not be read.
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
pub struct GetStoreList {
    /// The first one, counted from 0.
    pub offset: u32,
    /// How many, at most 50. 0 means 20.
    pub limit: u32,
}

/// Answers [`GetStoreList`].
#[derive(Debug, Default, Deserialize)]
pub struct GetStoreListReply {
    /// The stores.
    pub business_list: Rows<Row<StoreInfo>>,
    /// How many the account has.
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
/// Deletes a store. -1 is not only "busy" here but "failed".
#[derive(Debug, Serialize)]
pub struct DelStore {
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
pub struct GetPoiList {
    /// The first one, counted from 0.
    pub begin: u32,
    /// How many, at most 50.
    pub limit: u32,
}

/// Answers [`GetPoiList`].
#[derive(Debug, Default, Deserialize)]
pub struct GetPoiListReply {
    /// The old stores.
    pub business_list: Rows<Row<PoiInfo>>,
    /// How many the account has. Text in the official sample, a number in real bodies.
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
    /// Of the coordinates; 1 is GCJ-02.
    pub offset_type: Int,
    /// The telephone number.
    pub telephone: Text,
    /// The hours.
    pub open_time: Text,
    /// Each with its levels, `美食,小吃快餐`.
    pub categories: List<Text>,
    /// The pictures.
    pub photo_list: List<Photo>,
    /// What the store is.
    pub introduction: Text,
    /// What it recommends.
    pub recommend: Text,
    /// What it offers besides.
    pub special: Text,
    /// What a person spends, in yuan.
    pub avg_price: Decimal,
    /// 1 system error, 2 in review, 3 passed, 4 rejected.
    pub available_state: Int,
    /// 1 while a change is in review, else 0.
    pub update_status: Int,
    /// 0 to migrate, 1 failed, 2 migrating, 3 done, 4 forbidden.
    pub upgrade_status: Int,
    /// Why the migration failed.
    pub upgrade_comment: Text,
    /// The `map_poi_id` of other calls.
    pub mapid: MapPoiId,
    /// The fields that could not be read.
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
pub struct GetPoi {
    /// The old store.
    pub poi_id: PoiId,
}

/// Answers [`GetPoi`]. Without a store it is unreadable.
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
pub struct DelPoi {
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
