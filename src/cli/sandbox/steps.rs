//! The steps of the tour: from nothing to a store with a card, and a nearby place.
//!
//! In requests and expectations, a text that begins with `$` stands for a value that an earlier step
//! kept.

use serde_json::{Value, json};
use wechat_simulator::{COMPANY, MINI_PROGRAM_APP_ID};

use super::{
    identities::{CERTIFIED, NONE, STRANGER},
    tour::{Chapter, Step},
};

/// A picture of one pixel (PNG).
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgP5gA\
                       AAH7ASk597QeAAAAAElFTkSuQmCC";
const WATCH: &str = "AuditService/WatchAuditEvents";
const REFERENCE: &str = "shop-0001";
const LICENSE_NUMBER: &str = "91440105MA5911XQ0T";
const PHONE: &str = "020-89190388";
const CARD: &str = "pabcedfg1234567hijklmn";

/// Returns the whole tour.
pub(super) fn all() -> Vec<Chapter> {
    let chapter = |title, steps| Chapter { title, steps };
    vec![
        chapter("Subscribe to review results", subscribe()),
        chapter("Find the place of the store on Tencent's map", find_place()),
        chapter("Add the store and wait for its review", add_store()),
        chapter("Change the store", change_store()),
        chapter("Show a mini program to people nearby", show_nearby()),
        chapter("Put a card on the store's page", set_card()),
        chapter("Resume the watch later", resume_watch()),
    ]
}

/// Returns the tour of callers and roles.
pub(super) fn secure() -> Vec<Chapter> {
    let chapter = |title, steps| Chapter { title, steps };
    vec![
        chapter("Read with the token of a reader", read_as_reader()),
        chapter("Write with the token of a writer", write_as_writer()),
        chapter("Act as an operator with the token of an admin", act_as_admin()),
        chapter("Call without a known identity", call_unknown()),
        chapter("Prove the identity by a client certificate instead", call_certified()),
    ]
}

/// Returns a store at a place that the simulator has.
fn secure_store() -> Value {
    json!({
        "mapPoiId": "2708071440732747189",
        "pictureUrls": ["http://mmbiz.qpic.cn/mmbiz_png/example/0"],
        "contactPhone": PHONE,
        "hours": { "open": "10:00", "close": "22:00" },
        "licenseNumber": LICENSE_NUMBER,
    })
}

fn read_as_reader() -> Vec<Step> {
    vec![
        Step::call(
            "List the categories that a store can have",
            "MerchantService/ListCategories",
            json!({}),
        )
        .by("reader")
        .expect("/categories/0/level", json!(1))
        .show("/categories"),
        Step::call(
            "Try to add a store; the gateway refuses without asking WeChat",
            "StoreService/AddStore",
            secure_store(),
        )
        .by("reader")
        .refuse("PERMISSION_DENIED", "PERMISSION_MISSING")
        .show("/code")
        .show("/details/0/reason")
        .show("/message"),
    ]
}

fn write_as_writer() -> Vec<Step> {
    vec![
        Step::call(
            "Add the same store; WeChat starts a review",
            "StoreService/AddStore",
            secure_store(),
        )
        .by("writer")
        .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
        .show("/submission/state")
        .show("/submission/auditId"),
        Step::call(
            "Try to record the outcome of a write, which is for operators",
            "WriteService/ResolveWrite",
            resolve_nothing(),
        )
        .by("writer")
        .refuse("PERMISSION_DENIED", "PERMISSION_MISSING")
        .show("/code")
        .show("/details/0/reason"),
    ]
}

fn act_as_admin() -> Vec<Step> {
    vec![
        Step::call(
            "Try the same; the gateway allows it, but has no such write",
            "WriteService/ResolveWrite",
            resolve_nothing(),
        )
        .by("admin")
        .refuse("NOT_FOUND", "WRITE_NOT_FOUND")
        .show("/code")
        .show("/details/0/reason"),
    ]
}

fn call_unknown() -> Vec<Step> {
    let refused = |name, caller| {
        Step::call(name, "StoreService/ListStores", json!({}))
            .by(caller)
            .refuse("UNAUTHENTICATED", "CALLER_UNKNOWN")
            .show("/code")
            .show("/details/0/reason")
            .show("/message")
    };
    vec![
        refused("Call without a token and without a certificate", NONE),
        refused("Call with a token that the settings do not have", STRANGER),
    ]
}

fn call_certified() -> Vec<Step> {
    vec![
        Step::call(
            "Find the writer's store in review; TLS itself has proved the identity",
            "AuditService/ListSubmissions",
            json!({}),
        )
        .by(CERTIFIED)
        .expect_count("/submissions", 1)
        .show("/submissions"),
    ]
}

/// Returns the request to resolve a write that does not exist.
fn resolve_nothing() -> Value {
    json!({
        "writeId": "01890a5d-ac96-774b-bcce-b302099a8057",
        "resolution": "WRITE_RESOLUTION_NOT_EXECUTED",
    })
}

fn subscribe() -> Vec<Step> {
    let latest = json!({ "position": "WATCH_POSITION_LATEST" });
    vec![
        Step::call("Watch for review results; the log is still empty", WATCH, latest)
            .show("/cursor")
            .keep("/cursor", "start"),
    ]
}

fn find_place() -> Vec<Step> {
    vec![
        Step::call(
            "List the categories that a store can have",
            "MerchantService/ListCategories",
            json!({}),
        )
        .expect("/categories/0/level", json!(1))
        .show("/categories"),
        Step::call(
            "Find a district by its names",
            "MapPoiService/ResolveDistrict",
            json!({ "names": ["广东", "海珠区"] }),
        )
        .expect_count("/matches", 1)
        .expect("/matches/0/ancestors/0/fullName", json!("广东省"))
        .show_request("/names")
        .show("/matches/0/district/id")
        .show("/matches/0/district/fullName")
        .keep("/matches/0/district/id", "district_id"),
        Step::call(
            "Search for the place in that district",
            "MapPoiService/SearchMapPois",
            json!({ "districtId": "$district_id", "keyword": "X-MAX" }),
        )
        .expect_count("/pois", 1)
        .show_request("/keyword")
        .show("/pois/0/name")
        .show("/pois/0/mapPoiId")
        .keep("/pois/0/mapPoiId", "map_poi_id")
        .keep("/pois/0/name", "name")
        .keep("/pois/0/address", "address"),
    ]
}

fn add_store() -> Vec<Step> {
    let store = json!({
        "clientReference": REFERENCE,
        "mapPoiId": "$map_poi_id",
        "pictureUrls": ["$picture_url"],
        "contactPhone": PHONE,
        "hours": { "open": "10:00", "close": "22:00" },
        "licenseNumber": LICENSE_NUMBER,
    });
    vec![
        Step::call(
            "Upload a picture to WeChat",
            "MediaService/UploadImage",
            json!({ "content": PICTURE }),
        )
        .show("/url")
        .keep("/url", "picture_url"),
        Step::call(
            "Add a store at the place, with your own reference; WeChat starts a review",
            "StoreService/AddStore",
            store.clone(),
        )
        .expect("/submission/kind", json!("SUBMISSION_KIND_STORE"))
        .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
        .expect("/submission/clientReference", json!(REFERENCE))
        .show_request("/clientReference")
        .show("/submission/state")
        .show("/submission/auditId")
        .keep("/submission/auditId", "audit_id"),
        approve("WeChat approves the store; in real life a person does that, within days"),
        Step::watch(
            "Receive the result with your reference and the id of the new store",
            WATCH,
            json!({ "cursor": "$start" }),
        )
        .expect("/event/wechatEvent", json!("add_store_audit_info"))
        .expect("/event/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/event/auditId", json!("$audit_id"))
        .expect("/event/clientReference", json!(REFERENCE))
        .show("/event/state")
        .show("/event/clientReference")
        .show("/event/store/poiId")
        .keep("/event/store/poiId", "poi_id")
        .keep("/cursor", "after_the_store"),
        Step::call("List the stores of the account", "StoreService/ListStores", json!({}))
            .expect_count("/stores", 1)
            .expect("/totalSize", json!(1))
            .expect("/stores/0/poiId", json!("$poi_id"))
            .expect("/stores/0/name", json!("$name"))
            .expect("/stores/0/state", json!("AUDIT_STATE_APPROVED"))
            .expect("/stores/0/pictureUrls", json!(["$picture_url"]))
            .expect("/stores/0/hours/close", json!("22:00"))
            .show("/totalSize")
            .show("/stores/0/name"),
        Step::call(
            "Add the same store again; the error states code, reason and message",
            "StoreService/AddStore",
            store,
        )
        .refuse("ALREADY_EXISTS", "STORE_ALREADY_BOUND")
        .show("/code")
        .show("/details/0/reason")
        .show("/message"),
    ]
}

fn change_store() -> Vec<Step> {
    let change = json!({ "poiId": "$poi_id", "hours": { "open": "09:30", "close": "23:00" } });
    vec![
        Step::call(
            "Change only the opening hours; the other fields keep their values",
            "StoreService/UpdateStore",
            change,
        )
        .expect("/hours/open", json!("09:30"))
        .expect("/contactPhone", json!(PHONE))
        .expect("/pictureUrls", json!(["$picture_url"]))
        .show_request("/hours/open")
        .show_request("/hours/close")
        .show("/hours/open")
        .show("/hours/close")
        .show("/contactPhone"),
        Step::call("Read the store back", "StoreService/GetStore", json!({ "poiId": "$poi_id" }))
            .expect("/store/hours/open", json!("09:30"))
            .expect("/store/hours/close", json!("23:00"))
            .expect("/store/contactPhone", json!(PHONE))
            .expect("/store/state", json!("AUDIT_STATE_APPROVED"))
            .show_request("/poiId")
            .show("/store/hours/open")
            .show("/store/hours/close")
            .show("/store/state"),
    ]
}

fn show_nearby() -> Vec<Step> {
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
        Step::call(
            "Add a nearby place for the mini program; WeChat starts a review",
            "NearbyService/AddNearbyPoi",
            request,
        )
        .expect("/submission/kind", json!("SUBMISSION_KIND_NEARBY_POI"))
        .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
        .show_request("/clientReference")
        .show("/submission/state")
        .show("/submission/auditId")
        .keep("/submission/auditId", "audit_id"),
        approve("WeChat approves the nearby place").keep("/result", "nearby_poi_id"),
        Step::call(
            "List the nearby places; people can see this one now",
            "NearbyService/ListNearbyPois",
            json!({}),
        )
        .expect_count("/pois", 1)
        .expect("/pois/0/nearbyPoiId", json!("$nearby_poi_id"))
        .expect("/pois/0/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/pois/0/visible", json!(true))
        .show("/pois/0/nearbyPoiId")
        .show("/pois/0/visible"),
    ]
}

fn set_card() -> Vec<Step> {
    let card = json!({ "poiId": "$poi_id", "cardId": CARD });
    vec![
        Step::call("Link a card to the store", "CardService/SetStoreCard", card)
            .show_request("/poiId")
            .show_request("/cardId"),
        Step::call(
            "Read the card of the store",
            "CardService/GetStoreCard",
            json!({ "poiId": "$poi_id" }),
        )
        .expect("/cardId", json!(CARD))
        .show_request("/poiId")
        .show("/cardId"),
    ]
}

fn resume_watch() -> Vec<Step> {
    let open = json!({ "states": ["AUDIT_STATE_AWAITING_ADMIN", "AUDIT_STATE_IN_REVIEW"] });
    vec![
        Step::watch(
            "Continue after the last event, and receive the result of the nearby place",
            WATCH,
            json!({ "cursor": "$after_the_store" }),
        )
        .expect("/event/wechatEvent", json!("add_nearby_poi_audit_info"))
        .expect("/event/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/event/clientReference", json!(REFERENCE))
        .expect("/event/nearbyPoi/nearbyPoiId", json!("$nearby_poi_id"))
        .show("/event/state")
        .show("/event/clientReference")
        .show("/event/nearbyPoi/nearbyPoiId"),
        Step::call(
            "List the submissions that are still in review: none",
            "AuditService/ListSubmissions",
            open,
        )
        .expect_count("/submissions", 0)
        .show("/submissions"),
    ]
}

/// Approves a review, as WeChat's reviewers do after some days.
pub(super) fn approve(name: &'static str) -> Step {
    let decision: Value = json!({ "decision": "approve" });
    Step::control(name, "/_simulator/audits/$audit_id", decision)
        .expect("/state", json!("approved"))
        .show("/state")
}
