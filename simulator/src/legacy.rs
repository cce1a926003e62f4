//! Stores of the older 门店管理. They must migrate before new stores can be added.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    endpoint::{Bearer, Call, Endpoint, done, done_with},
    error::Refusal,
    store::{Stores, window},
    world::World,
};

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::post("/cgi-bin/poi/getpoilist", Bearer::Official, list),
    Endpoint::post("/cgi-bin/poi/getpoi", Bearer::Official, get),
    Endpoint::post("/cgi-bin/poi/delpoi", Bearer::Official, delete),
];

/// A store from before store mini programs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LegacyStore {
    /// If absent, the simulator makes one up.
    #[serde(default)]
    pub(super) poi_id: String,
    #[serde(default = "usual_name")]
    business_name: String,
    #[serde(default)]
    branch_name: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    telephone: String,
    /// 0 not migrated, 1 failed, 2 under way, 3 done, 4 forbidden.
    #[serde(default)]
    upgrade_status: i64,
    #[serde(default)]
    upgrade_comment: String,
    #[serde(default)]
    pub(super) mapid: String,
    /// 1 error, 2 in review, 3 passed, 4 rejected.
    #[serde(default = "passed")]
    available_state: i64,
    #[serde(skip)]
    deleted: bool,
}

impl Stores {
    /// Checks whether add_store may continue: with the id of a store that must migrate, or without
    /// an id if no such store is left.
    pub(super) fn may_add(&self, migrating: &str) -> Result<(), Refusal> {
        let mut legacy = self.legacy.iter().filter(|store| !store.deleted);
        if migrating.is_empty() {
            let complete = legacy.all(|store| store.upgrade_status == 3);
            return if complete { Ok(()) } else { Err(Refusal::new(85054)) };
        }
        let store = legacy.find(|store| store.poi_id == migrating).ok_or(Refusal::new(65115))?;
        match store.upgrade_status {
            0 | 1 => Ok(()),
            // “禁止迁移的门店，只能调用cgi-bin/poi/delpoi”
            4 => Err(Refusal::new(65107)),
            _ => Err(Refusal::new(85038)),
        }
    }

    /// Marks a store's migration as submitted.
    pub(super) fn migrate(&mut self, poi_id: &str, map_poi_id: &str) {
        if let Some(store) = self.legacy.iter_mut().find(|store| store.poi_id == poi_id) {
            store.upgrade_status = 2;
            store.upgrade_comment.clear();
            map_poi_id.clone_into(&mut store.mapid);
        }
    }

    /// Marks a store's migration as done or failed.
    pub(super) fn migrated(&mut self, poi_id: &str, approved: bool, reason: &str) {
        if let Some(store) = self.legacy.iter_mut().find(|store| store.poi_id == poi_id) {
            store.upgrade_status = if approved { 3 } else { 1 };
            reason.clone_into(&mut store.upgrade_comment);
        }
    }
}

/// `POST /cgi-bin/poi/getpoilist` — 查询门店列表
///
/// `total_count` is a string, as in the official sample. A real reply had a number.
fn list(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let limit = if call.fields.contains_key("limit") { call.number("limit")? } else { 0 };
    let (begin, limit) = window(call.number("begin")?, limit)?;
    let stores = &world.tenant(&call.app_id)?.stores.legacy;
    let present: Vec<_> = stores.iter().filter(|store| !store.deleted).collect();
    let rows = present.iter().skip(begin).take(limit);
    let rows = rows.map(|store| {
        let mut base_info = describe(store);
        base_info["poi_id"] = json!(store.poi_id);
        base_info["upgrade_status"] = json!(store.upgrade_status);
        base_info["upgrade_comment"] = json!(store.upgrade_comment);
        base_info["mapid"] = json!(store.mapid);
        json!({ "base_info": base_info })
    });
    let mut answer = done_with("business_list", rows.collect());
    answer["total_count"] = json!(present.len().to_string());
    Ok(answer)
}

/// `POST /cgi-bin/poi/getpoi` — 查询门店信息
///
/// The sample has neither the id nor the migration, which the document of getpoilist has.
fn get(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.id("poi_id")?;
    let mut stores = world.tenant(&call.app_id)?.stores.legacy.iter();
    let store = stores.find(|store| store.poi_id == poi_id && !store.deleted);
    let base_info = store.map(describe).ok_or(Refusal::new(65115))?;
    Ok(done_with("business", json!({ "base_info": base_info })))
}

/// Returns the fields that the list and the single reply share.
fn describe(store: &LegacyStore) -> Value {
    json!({
        "sid": format!("sid{}", store.poi_id),
        "business_name": store.business_name,
        "branch_name": store.branch_name,
        "address": store.address,
        "telephone": store.telephone,
        "categories": ["美食,小吃快餐"],
        "city": "广州市",
        "province": "广东省",
        "district": "海珠区",
        "offset_type": 1,
        "longitude": 113.323_753_357,
        "latitude": 23.097_490_310_7,
        "photo_list": [],
        "introduction": "",
        "recommend": "",
        "special": "",
        "open_time": "11:00-12:00",
        "avg_price": 35,
        "available_state": store.available_state,
        "update_status": 0,
        "type": 0,
        "qualification_list": [],
    })
}

/// `POST /cgi-bin/poi/delpoi` — 删除门店
///
/// Clients send the id as a string or as a number.
fn delete(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.id("poi_id")?;
    let mut stores = world.tenant(&call.app_id)?.stores.legacy.iter_mut();
    let store = stores.find(|store| store.poi_id == poi_id).ok_or(Refusal::new(65115))?;
    let refusal = match store {
        LegacyStore { deleted: true, .. } => 65116,
        LegacyStore { upgrade_status: 3, .. } => 65117,
        LegacyStore { upgrade_status: 2, .. } | LegacyStore { available_state: 2, .. } => 65107,
        LegacyStore { available_state: 3, .. } => {
            store.deleted = true;
            return Ok(done());
        }
        _ => 65106,
    };
    Err(Refusal::new(refusal))
}

fn usual_name() -> String {
    "老字号茶楼".to_owned()
}

const fn passed() -> i64 {
    3
}
