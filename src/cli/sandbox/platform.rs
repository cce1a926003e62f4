//! The steps of the tour of a third-party platform: from its first ticket to the end of an authorization.

use serde_json::{Value, json};
use wechat_simulator::{COMPANY, COMPONENT_APP_ID, MINI_PROGRAM_APP_ID};

use super::{
    MERCHANT_APP_ID, SECOND_MERCHANT_APP_ID,
    steps::approve,
    tour::{Chapter, Step},
};

const WATCH: &str = "AuditService/WatchAuditEvents";
const LIST_PLATFORMS: &str = "AccountService/ListPlatforms";
const LIST_AUTHORIZERS: &str = "AccountService/ListAuthorizers";
const LIST_NEARBY: &str = "NearbyService/ListNearbyPois";
const AUTHORIZE: &str = "/_simulator/components/wx0000000000000003/authorize";
const UNAUTHORIZE: &str = "/_simulator/components/wx0000000000000003/unauthorize";
/// Where WeChat sends the merchant's browser in the end.
const DONE: &str = "https://provider.example/done";
const MAP_POI: &str = "2708071440732747189";
const PICTURE_URL: &str = "http://mmbiz.qpic.cn/mmbiz_png/example/0";
const LICENSE_NUMBER: &str = "91440105MA5911XQ0T";
const PHONE: &str = "020-89190388";
/// The permission sets for stores, and the one for nearby places.
const STORES: [u16; 2] = [8, 9];
const NEARBY: u16 = 37;

/// Returns the tour.
pub(super) fn steps() -> Vec<Chapter> {
    let chapter = |title, steps| Chapter { title, steps };
    vec![
        chapter("Get a token for the platform", get_token()),
        chapter("Let a merchant authorize the platform", authorize()),
        chapter("Add a nearby place for the merchant", act_on_nearby()),
        chapter("Add a store for a second merchant", act_on_store()),
        chapter("Lose a permission set", lose_permission_set()),
        chapter("Lose the authorization", lose_authorization()),
    ]
}

fn get_token() -> Vec<Step> {
    let link = json!({ "redirectUri": DONE, "kind": "ACCOUNT_KIND_MINI_PROGRAM" });
    vec![
        Step::call(
            "Wait for the ticket that WeChat pushes every ten minutes",
            LIST_PLATFORMS,
            json!({}),
        )
        .wait()
        .expect("/platforms/0/appId", json!(COMPONENT_APP_ID))
        .keep("/platforms/0/ticketTime", "ticket_time")
        .show("/platforms/0/appId")
        .show("/platforms/0/ticketTime"),
        Step::call(
            "Get a link for a merchant; the gateway gets a token with the ticket",
            "AccountService/CreateAuthorizationLink",
            link,
        )
        .keep("/url", "link")
        .show("/expireTime")
        .show("/url"),
        Step::call("See the token of the platform, without its text", LIST_PLATFORMS, json!({}))
            .expect("/platforms/0/token/kind", json!("TOKEN_KIND_PLATFORM"))
            .expect("/platforms/0/token/present", json!(true))
            .show("/platforms/0/token/kind")
            .show("/platforms/0/token/present"),
    ]
}

fn authorize() -> Vec<Step> {
    let latest = json!({ "position": "WATCH_POSITION_LATEST" });
    let all: Vec<u16> = STORES.into_iter().chain([NEARBY]).collect();
    let form = json!({ "app_id": MERCHANT_APP_ID, "permission_set": all });
    vec![
        Step::call("Watch for events; the log is still empty", WATCH, latest)
            .show("/cursor")
            .keep("/cursor", "start"),
        Step::call("Call for the merchant, who did not authorize yet", LIST_NEARBY, merchant())
            .refuse("INVALID_ARGUMENT", "ACCOUNT_UNKNOWN")
            .show("/code")
            .show("/details/0/reason"),
        Step::page("The merchant opens the link and confirms three permission sets", "$link", form)
            .expect("/status", json!(302))
            .expect("/location", json!(DONE))
            .show_request("/app_id")
            .show_request("/permission_set")
            .show("/location"),
        event("Receive the event of the authorization", MERCHANT_APP_ID, "$start", "authorized")
            .keep("/cursor", "authorized"),
        Step::call("List the accounts that authorized the platform", LIST_AUTHORIZERS, json!({}))
            .wait()
            .expect_count("/authorizers", 1)
            .expect("/authorizers/0/appId", json!(MERCHANT_APP_ID))
            .expect_count("/authorizers/0/permissionSets", 3)
            .show("/authorizers/0/appId")
            .show("/authorizers/0/permissionSets"),
        Step::call(
            "Read what WeChat states about the merchant",
            "AccountService/GetAuthorizer",
            merchant(),
        )
        .expect("/authorizer/state", json!("AUTHORIZATION_STATE_AUTHORIZED"))
        .expect("/authorizer/platformAppId", json!(COMPONENT_APP_ID))
        .expect("/authorizer/permissionSets", json!(all))
        .show("/authorizer/kind")
        .show("/authorizer/state"),
    ]
}

fn act_on_nearby() -> Vec<Step> {
    vec![
        Step::call(
            "Add a nearby place for the merchant; WeChat starts a review",
            "NearbyService/AddNearbyPoi",
            nearby_place(),
        )
        .expect("/submission/appId", json!(MERCHANT_APP_ID))
        .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
        .show_request("/appId")
        .show("/submission/state")
        .show("/submission/auditId")
        .keep("/submission/auditId", "audit_id"),
        approve("WeChat approves it, and pushes to the one address for all merchants"),
        event(
            "Receive the result under the merchant's app id",
            MERCHANT_APP_ID,
            "$authorized",
            "add_nearby_poi_audit_info",
        )
        .expect("/event/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/event/auditId", json!("$audit_id"))
        .show("/event/state")
        .keep("/cursor", "nearby"),
    ]
}

fn act_on_store() -> Vec<Step> {
    let grant = json!({ "app_id": SECOND_MERCHANT_APP_ID, "permission_sets": STORES });
    vec![
        Step::control("An official account authorizes the platform, too", AUTHORIZE, grant)
            .show_request("/app_id")
            .show_request("/permission_sets"),
        event("Receive that event", SECOND_MERCHANT_APP_ID, "$nearby", "authorized")
            .keep("/cursor", "second"),
        Step::call("Add a store for the second merchant", "StoreService/AddStore", store())
            .expect("/submission/appId", json!(SECOND_MERCHANT_APP_ID))
            .expect("/submission/state", json!("AUDIT_STATE_IN_REVIEW"))
            .show_request("/appId")
            .show("/submission/state")
            .show("/submission/auditId")
            .keep("/submission/auditId", "audit_id"),
        approve("WeChat approves the store, and pushes to the same address"),
        event(
            "Receive the result under the second merchant's app id",
            SECOND_MERCHANT_APP_ID,
            "$second",
            "add_store_audit_info",
        )
        .expect("/event/state", json!("AUDIT_STATE_APPROVED"))
        .expect("/event/auditId", json!("$audit_id"))
        .show("/event/state")
        .keep("/cursor", "store"),
    ]
}

fn lose_permission_set() -> Vec<Step> {
    let fewer = json!({ "app_id": MERCHANT_APP_ID, "permission_sets": STORES });
    vec![
        Step::control("The first merchant takes permission set 37 back", AUTHORIZE, fewer)
            .show_request("/app_id")
            .show_request("/permission_sets"),
        event("Receive the event of the change", MERCHANT_APP_ID, "$store", "updateauthorized")
            .keep("/cursor", "changed"),
        Step::call(
            "List nearby places, which needs set 37; the gateway refuses without WeChat",
            LIST_NEARBY,
            merchant(),
        )
        .wait()
        .refuse("FAILED_PRECONDITION", "API_NOT_PERMITTED")
        // Only the gateway adds them. WeChat's own refusal has an errcode instead.
        .expect("/details/0/metadata/permission_sets", json!("37"))
        .expect("/details/0/metadata/errcode", Value::Null)
        .show("/details/0/reason")
        .show("/details/0/metadata/permission_sets"),
    ]
}

fn lose_authorization() -> Vec<Step> {
    vec![
        Step::control(
            "The first merchant withdraws the authorization",
            UNAUTHORIZE,
            json!({ "app_id": MERCHANT_APP_ID }),
        )
        .show_request("/app_id"),
        event("Receive the event of the withdrawal", MERCHANT_APP_ID, "$changed", "unauthorized"),
        Step::call("List nearby places; the error states the new cause", LIST_NEARBY, merchant())
            .wait()
            .refuse("FAILED_PRECONDITION", "AUTHORIZATION_LOST")
            .show("/code")
            .show("/details/0/reason"),
        Step::call(
            "List both merchants; only the second one is served",
            LIST_AUTHORIZERS,
            json!({}),
        )
        .wait()
        .expect("/authorizers/0/appId", json!(MERCHANT_APP_ID))
        .expect("/authorizers/0/state", json!("AUTHORIZATION_STATE_UNAUTHORIZED"))
        .expect("/authorizers/1/appId", json!(SECOND_MERCHANT_APP_ID))
        .expect("/authorizers/1/state", json!("AUTHORIZATION_STATE_AUTHORIZED"))
        .show("/authorizers/0/state")
        .show("/authorizers/1/state"),
        Step::call(
            "List the stores of the second merchant",
            "StoreService/ListStores",
            json!({ "appId": SECOND_MERCHANT_APP_ID }),
        )
        .expect("/totalSize", json!(1))
        .show_request("/appId")
        .show("/totalSize"),
    ]
}

/// Waits for the next event after a cursor. It must be this event of this merchant.
fn event(
    name: &'static str,
    merchant: &'static str,
    after: &'static str,
    wechat_event: &'static str,
) -> Step {
    Step::watch(name, WATCH, json!({ "cursor": after }))
        .expect("/event/appId", json!(merchant))
        .expect("/event/wechatEvent", json!(wechat_event))
        .show("/event/appId")
        .show("/event/wechatEvent")
}

/// Returns a request that only names the merchant.
fn merchant() -> Value {
    json!({ "appId": MERCHANT_APP_ID })
}

fn store() -> Value {
    json!({
        "appId": SECOND_MERCHANT_APP_ID,
        "mapPoiId": MAP_POI,
        "pictureUrls": [PICTURE_URL],
        "contactPhone": PHONE,
        "hours": { "open": "10:00", "close": "22:00" },
        "licenseNumber": LICENSE_NUMBER,
    })
}

fn nearby_place() -> Value {
    let label = json!({
        "kind": "NEARBY_SERVICE_KIND_MEAL_ORDERING",
        "appId": MINI_PROGRAM_APP_ID,
        "path": "/pages/order/index",
    });
    let profile = json!({
        "name": "X-MAX",
        "mapPoiId": MAP_POI,
        "address": "艺苑路12号",
        "pictureUrls": [PICTURE_URL],
        "contactPhone": PHONE,
        "hours": { "open": "09:30", "close": "23:00" },
        "companyName": COMPANY,
        "licenseNumber": LICENSE_NUMBER,
        "serviceLabels": [label],
    });
    json!({ "appId": MERCHANT_APP_ID, "profile": profile })
}
