//! The main job, step by step: from nothing to a store with a card, and a place nearby.
//!
//! In requests and expectations a text that begins with `$` stands for what an earlier step kept.

use serde_json::{Value, json};
use wechat_simulator::{COMPANY, MINI_PROGRAM_APP_ID};

use super::tour::Step;

/// A picture of one pixel (PNG).
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgP5gA\
                       AAH7ASk597QeAAAAAElFTkSuQmCC";
const WATCH: &str = "AuditService/WatchAuditEvents";
const REFERENCE: &str = "shop-0001";
const LICENSE_NUMBER: &str = "91440105MA5911XQ0T";
const PHONE: &str = "020-89190388";
const CARD: &str = "pabcedfg1234567hijklmn";

/// The whole tour.
pub(super) fn all() -> Vec<Step> {
    [
        begin_to_watch(),
        find_the_place(),
        add_the_store(),
        change_the_store(),
        show_it_nearby(),
        give_it_a_card(),
        look_back(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn begin_to_watch() -> Vec<Step> {
    vec![
        Step::call(
            "begin to watch, where nothing has happened",
            WATCH,
            json!({
                "position": "WATCH_POSITION_LATEST"
            }),
        )
        .keep("/cursor", "start"),
    ]
}

fn find_the_place() -> Vec<Step> {
    vec![
        Step::call("see what a shop can be", "MerchantService/ListCategories", json!({}))
            .expect("/categories/0/level", json!(1)),
        Step::call(
            "resolve a district by its names",
            "MapPoiService/ResolveDistrict",
            json!({ "names": ["广东", "海珠区"] }),
        )
        .expect_count("/matches", 1)
        .expect("/matches/0/ancestors/0/fullName", json!("广东省"))
        .keep("/matches/0/district/id", "district_id"),
        Step::call(
            "search a place there",
            "MapPoiService/SearchMapPois",
            json!({ "districtId": "$district_id", "keyword": "X-MAX" }),
        )
        .expect_count("/pois", 1)
        .keep("/pois/0/mapPoiId", "map_poi_id")
        .keep("/pois/0/name", "name")
        .keep("/pois/0/address", "address"),
    ]
}

fn add_the_store() -> Vec<Step> {
    let store = json!({
        "clientReference": REFERENCE,
        "mapPoiId": "$map_poi_id",
        "pictureUrls": ["$picture_url"],
        "contactPhone": PHONE,
        "hours": { "open": "10:00", "close": "22:00" },
        "licenseNumber": LICENSE_NUMBER,
    });
    vec![
        Step::call("upload a picture", "MediaService/UploadImage", json!({ "content": PICTURE }))
            .keep("/url", "picture_url"),
        Step::call("add a store at the place", "StoreService/AddStore", store.clone())
            .expect("/submission/kind", json!("SUBMISSION_KIND_STORE"))
            .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
            .expect("/submission/clientReference", json!(REFERENCE))
            .keep("/submission/auditId", "audit_id"),
        approve("WeChat approves the store"),
        Step::watch(
            "hear of it, with one's own number for the shop",
            WATCH,
            json!({
                "cursor": "$start"
            }),
        )
        .expect("/event/wechatEvent", json!("add_store_audit_info"))
        .expect("/event/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/event/auditId", json!("$audit_id"))
        .expect("/event/clientReference", json!(REFERENCE))
        .keep("/event/store/poiId", "poi_id")
        .keep("/cursor", "after_the_store"),
        Step::call("find the store in the list", "StoreService/ListStores", json!({}))
            .expect_count("/stores", 1)
            .expect("/totalSize", json!(1))
            .expect("/stores/0/poiId", json!("$poi_id"))
            .expect("/stores/0/name", json!("$name"))
            .expect("/stores/0/state", json!("AUDIT_STATE_APPROVED"))
            .expect("/stores/0/pictureUrls", json!(["$picture_url"]))
            .expect("/stores/0/hours/close", json!("22:00")),
        Step::call("add it again and be told why not", "StoreService/AddStore", store)
            .refuse("ALREADY_EXISTS", "STORE_ALREADY_BOUND"),
    ]
}

fn change_the_store() -> Vec<Step> {
    let change = json!({ "poiId": "$poi_id", "hours": { "open": "09:30", "close": "23:00" } });
    vec![
        Step::call("change only its hours", "StoreService/UpdateStore", change)
            .expect("/hours/open", json!("09:30"))
            .expect("/contactPhone", json!(PHONE))
            .expect("/pictureUrls", json!(["$picture_url"])),
        Step::call("read it back", "StoreService/GetStore", json!({ "poiId": "$poi_id" }))
            .expect("/store/hours/open", json!("09:30"))
            .expect("/store/hours/close", json!("23:00"))
            .expect("/store/contactPhone", json!(PHONE))
            .expect("/store/state", json!("AUDIT_STATE_APPROVED")),
    ]
}

fn show_it_nearby() -> Vec<Step> {
    let label = json!({
        "kind": "NEARBY_SERVICE_KIND_MEAL_ORDERING",
        "appId": MINI_PROGRAM_APP_ID,
        "path": "/pages/order/index",
    });
    let profile = json!({
        "name": "$name",
        "mapPoiId": "$map_poi_id",
        "address": "$address",
        "pictureUrls": ["$picture_url"],
        "contactPhone": PHONE,
        "hours": { "open": "09:30", "close": "23:00" },
        "companyName": COMPANY,
        "licenseNumber": LICENSE_NUMBER,
        "serviceLabels": [label],
    });
    let request = json!({ "clientReference": REFERENCE, "profile": profile });
    vec![
        Step::call("show a mini program nearby", "NearbyService/AddNearbyPoi", request)
            .expect("/submission/kind", json!("SUBMISSION_KIND_NEARBY_POI"))
            .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
            .keep("/submission/auditId", "audit_id"),
        approve("WeChat approves the nearby place").keep("/result", "nearby_poi_id"),
        Step::call("find it in the list", "NearbyService/ListNearbyPois", json!({}))
            .expect_count("/pois", 1)
            .expect("/pois/0/nearbyPoiId", json!("$nearby_poi_id"))
            .expect("/pois/0/state", json!("AUDIT_STATE_APPROVED"))
            .expect("/pois/0/visible", json!(true)),
    ]
}

fn give_it_a_card() -> Vec<Step> {
    let card = json!({ "poiId": "$poi_id", "cardId": CARD });
    vec![
        Step::call("put a card on the store's page", "CardService/SetStoreCard", card),
        Step::call("read the card", "CardService/GetStoreCard", json!({ "poiId": "$poi_id" }))
            .expect("/cardId", json!(CARD)),
    ]
}

fn look_back() -> Vec<Step> {
    let open = json!({ "states": ["AUDIT_STATE_AWAITING_ADMIN", "AUDIT_STATE_IN_REVIEW"] });
    vec![
        Step::watch(
            "go on where one was, and hear of the nearby place",
            WATCH,
            json!({ "cursor": "$after_the_store" }),
        )
        .expect("/event/wechatEvent", json!("add_nearby_poi_audit_info"))
        .expect("/event/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/event/clientReference", json!(REFERENCE))
        .expect("/event/nearbyPoi/nearbyPoiId", json!("$nearby_poi_id")),
        Step::call("see that nothing is pending", "AuditService/ListSubmissions", open)
            .expect_count("/submissions", 0),
    ]
}

/// What in life takes people at WeChat some days.
fn approve(name: &'static str) -> Step {
    let verdict: Value = json!({ "decision": "approve" });
    Step::control(name, "/_simulator/audits/$audit_id", verdict).expect("/state", json!("approved"))
}
