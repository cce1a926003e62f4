//! Input that is certainly invalid never reaches WeChat. The cases come from the contract: every
//! text of every request is tried, so a new field is covered immediately.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};
use wechat_store_gateway::pb;

use crate::{
    documented::{Account, examples},
    support::{App, STABLE_TOKEN, is, new_map_poi, reason},
};

const ID: &str = "0192f7a4-5b1c-7d3e-8f00-0123456789ab";

/// Texts that people read. They may begin and end with a blank, which is harmless there.
const FREE: [&str; 13] = [
    "address",
    "category",
    "company_name",
    "custom_name",
    "customer_service.name",
    "description",
    "hours.text",
    "introduction",
    "keyword",
    "name",
    "names[0]",
    "profile.company_name",
    "profile.name",
];
/// The one of these that may have several lines.
const PROSE: &str = "introduction";

/// Returns true if the full path of a field is in the list.
fn is_one_of(path: &str, names: &[&str]) -> bool {
    let ends = |name: &&str| path == *name || path.ends_with(&format!(".{name}"));
    names.iter().any(ends)
}

fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("our own descriptors");
    let services = pool.services().filter(|service| service.package_name() == "wechat.store.v1");
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().name(), method.name())
}

/// Returns a valid request for every RPC by name: WeChat's own examples, and these.
fn requests() -> BTreeMap<String, Value> {
    let mut requests = BTreeMap::new();
    for (_, example) in examples() {
        requests.insert(example.rpc.clone(), example.request);
    }
    let profile = requests["NearbyService/AddNearbyPoi"]["profile"].clone();
    for (rpc, request) in [
        ("AccountService/ListAccounts", json!({})),
        ("AccountService/GetAccount", json!({})),
        (
            "AccountService/CreateAuthorizationLink",
            json!({"redirectUri": "https://shop.example.com/welcome"}),
        ),
        ("AccountService/ListAuthorizers", json!({})),
        ("AccountService/GetAuthorizer", json!({"appId": OFFICIAL_APP_ID})),
        ("AccountService/ListPlatforms", json!({})),
        ("AccountService/StartTicketPush", json!({})),
        ("AuditService/WatchAuditEvents", json!({})),
        ("AuditService/ListAuditEvents", json!({})),
        ("AuditService/GetSubmission", json!({"submissionId": ID})),
        ("AuditService/ListSubmissions", json!({})),
        ("MapPoiService/ResolveDistrict", json!({"names": ["广东", "海珠"]})),
        ("NearbyService/ReplaceNearbyPoi", json!({"nearbyPoiId": "112333", "profile": profile})),
        ("StoreService/GetUpgradeProgress", json!({})),
        ("TokenService/GetAccessToken", json!({})),
        ("WriteService/GetWrite", json!({"writeId": ID})),
        ("WriteService/ListWrites", json!({})),
        (
            "WriteService/ResolveWrite",
            json!({"writeId": ID, "resolution": "WRITE_RESOLUTION_EXECUTED"}),
        ),
    ] {
        requests.insert(rpc.to_owned(), request);
    }
    requests
}

async fn call(app: &App, method: &MethodDescriptor, request: &Value) -> Result<Bytes, Status> {
    let message = DynamicMessage::deserialize(method.input(), request);
    let message = message.unwrap_or_else(|error| panic!("{}: {error}", name(method)));
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    app.unary(&path, &message.encode_to_vec()).await
}

/// Returns the paths from a message to each text in it.
fn texts(message: &MessageDescriptor) -> Vec<Vec<FieldDescriptor>> {
    let mut ways = Vec::new();
    for field in message.fields() {
        match field.kind() {
            Kind::String => ways.push(vec![field]),
            Kind::Message(inner) if inner.package_name() == "wechat.store.v1" => {
                for mut way in texts(&inner) {
                    way.insert(0, field.clone());
                    ways.push(way);
                }
            }
            _ => {}
        }
    }
    ways
}

/// Returns the path of a field as refusals name it. A list is represented by its first element.
fn path(way: &[FieldDescriptor]) -> String {
    let step = |field: &FieldDescriptor| {
        format!("{}{}", field.name(), if field.is_list() { "[0]" } else { "" })
    };
    way.iter().map(step).collect::<Vec<_>>().join(".")
}

/// Returns the text at the end of a path, and creates it if it is missing.
fn text<'a>(mut at: &'a mut Value, way: &[FieldDescriptor]) -> &'a mut Value {
    for field in way {
        if let Some(one_of) = field.containing_oneof() {
            for other in one_of.fields().filter(|other| other != field) {
                at.as_object_mut().expect("a message").remove(other.json_name());
            }
        }
        at = &mut at[field.json_name()];
        if field.is_list() {
            if at.as_array().is_none_or(Vec::is_empty) {
                *at = json!([null]);
            }
            at = &mut at[0];
        }
        if at.is_null() && !matches!(field.kind(), Kind::String) {
            *at = json!({});
        }
    }
    at
}

/// Fails if WeChat was called. Only the district table may be requested, because the validity of a
/// `page_token` depends on it.
fn never_called(app: &App) {
    let journal = app.wechat.control("GET", "journal", &json!({})).expect("a journal");
    let calls = journal["calls"].as_array().expect("calls").iter();
    let calls: Vec<_> = calls.map(|call| call["path"].as_str().expect("a path")).collect();
    let is_table = |path: &&str| [STABLE_TOKEN, "/wxa/get_district"].contains(path);
    assert!(calls.iter().all(is_table), "{calls:?}");
}

/// Returns the fields that the refusal of a request names.
fn named(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request().map(|bad| bad.field_violations);
    bad.into_iter().flatten().map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_text_is_refused_by_field() {
    let app = App::start().await;
    let requests = requests();
    let mut tried = 0;
    for method in methods() {
        let rpc = name(&method);
        let good = requests.get(&rpc).unwrap_or_else(|| panic!("no request of {rpc}"));
        for way in texts(&method.input()) {
            let path = path(&way);
            let mut request = good.clone();
            let value = text(&mut request, &way).as_str().unwrap_or("1").to_owned();
            let mut wrong = vec![
                format!("{value}\u{14}"),
                "\u{0}".to_owned(),
                format!("\u{7f}{value}"),
                format!("{value}\u{200b}"),
                format!("\u{feff}{value}"),
                " ".to_owned(),
                "\u{3000}".to_owned(),
            ];
            if !is_one_of(&path, &[PROSE]) {
                wrong.push(format!("{value}\n"));
            }
            if !is_one_of(&path, &FREE) {
                wrong.extend([format!(" {value}"), format!("{value} "), format!("{value}\u{a0}")]);
            }
            for wrong in wrong {
                *text(&mut request, &way) = wrong.as_str().into();
                let answer = call(&app, &method, &request).await;
                let what = format!("{rpc} {path}: {wrong:?}");
                let status = answer.expect_err(&what);
                assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
                assert!(named(&status).contains(&path), "{what}: {status:?}");
                tried += 1;
            }
        }
    }
    // Every RPC has at least its `app_id`.
    assert!(tried > 500, "{tried}");
    never_called(&app);
}

/// Values that look valid to people, each with its field.
#[tokio::test(flavor = "multi_thread")]
async fn impossible_value_is_refused_by_field() {
    let app = App::start().await;
    let requests = requests();
    for (rpc, field, values) in [
        (
            "StoreService/AddStore",
            "map_poi_id",
            &[
                "2.88E+18",
                "2.88074150027955E+18",
                "２８８０７４１５００２７９５４９０３３",
                "+2880741500279549033",
                "02880741500279549033",
                "99999999999999999999",
                "472671857",
                "2880741500279549033.0",
            ][..],
        ),
        ("StoreService/UpdateStore", "map_poi_id", &["5.93831E+18", "59383144943077411x3"]),
        ("NearbyService/AddNearbyPoi", "profile.map_poi_id", &["3.03231E+18"]),
        ("StoreService/AddStore", "legacy_poi_id", &["2880741500279549033", "2.71E+8"]),
        ("MapPoiService/CreateMapPoi", "legacy_poi_id", &["2880741500279549033"]),
        (
            "StoreService/GetStore",
            "poi_id",
            &["4.7E+8", "４７２６７１８５７", "472 671 857", "007"],
        ),
        ("StoreService/DeleteStore", "poi_id", &["472671857.0"]),
        ("NearbyService/DeleteNearbyPoi", "nearby_poi_id", &["poi"]),
        ("CardService/SetStoreCard", "card_id", &["卡", "p abc", "p|q"]),
        (
            "StoreService/AddStore",
            "picture_urls[0]",
            &[
                "http://a",
                "https://cos.example.com/a.png",
                "http://mmbiz.qpic.cn.example.com/a",
                "RTZgKZ386yFn5kQSWLTxe4bqxwgzGBjs3OE02cg9CVQk1wRVE3c8fjUFX7jvpi-P",
                "/uploads/a.png",
            ],
        ),
        ("StoreService/UpdateStore", "picture_urls.urls[0]", &["https://example.com/a.png"]),
        ("MapPoiService/CreateMapPoi", "photo_url", &["https://example.com/a.png"]),
        ("MapPoiService/CreateMapPoi", "license_url", &["https://example.com/a.png"]),
        (
            "NearbyService/AddNearbyPoi",
            "profile.customer_service.avatar_url",
            &["https://example.com/a.png"],
        ),
        (
            "StoreService/AddStore",
            "contact_phone",
            &["电话", "０２０-８９１９０３８８", "1.38E+10", "none", "-"],
        ),
        ("StoreService/UpdateStore", "contact_phone", &["n/a"]),
        ("MapPoiService/CreateMapPoi", "telephones[0]", &["010-6666666;010-7777777", "无"]),
        ("NearbyService/AddNearbyPoi", "profile.contact_phone", &["<phone>"]),
        (
            "StoreService/AddStore",
            "license_number",
            &["９１４４", "9144 0105", "1.5671819E+14", "执照"],
        ),
        ("NearbyService/ReplaceNearbyPoi", "profile.license_number", &["9144,0105"]),
        ("MerchantService/ApplyMerchant", "avatar_media_id", &["a|b", "http://mmbiz.qpic.cn/a"]),
        ("MerchantService/UpdateMerchant", "avatar_media_id", &["http://mmbiz.qpic.cn/a"]),
        ("MapPoiService/ListDistricts", "parent_id", &["4401", "广州", "４４０１００"]),
        ("MapPoiService/CreateMapPoi", "district_id", &["44010", "海珠区", "440105.0"]),
    ] {
        let method = methods().into_iter().find(|method| name(method) == rpc).expect(rpc);
        let way = texts(&method.input()).into_iter().find(|way| path(way) == field);
        let way = way.unwrap_or_else(|| panic!("{rpc} has no {field}"));
        for wrong in values {
            let mut request = requests[rpc].clone();
            *text(&mut request, &way) = (*wrong).into();
            let status = call(&app, &method, &request).await.expect_err(wrong);
            let expected = is(Code::InvalidArgument, "INVALID_REQUEST");
            assert_eq!(reason(&status), expected, "{rpc} {field}: {wrong:?}");
            assert_eq!(named(&status), [field], "{rpc}: {wrong:?}");
        }
    }
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn place_outside_its_district_is_refused() {
    let app = App::start().await;
    for (district_id, latitude, longitude, says) in [
        ("440105", 0.0, 0.0, "both 0"),
        ("440105", 113.32, 23.09, "swapped"),
        ("650102", 87.6, 43.8, "swapped"),
        ("440105", 40.7, -74.0, "from 73 to 136"),
        ("440105", 23.09, f64::NAN, "from 73 to 136"),
        // Beijing, and Guilin, 400 km away.
        ("440105", 39.9, 116.4, "km from it"),
        ("440105", 25.27, 110.29, "km from it"),
        // The districts lie in Beijing, Harbin and Urumqi, and the places in Guangzhou, Qiqihar and
        // Kashgar.
        ("110105", 23.09, 113.32, "km from it"),
        ("230102", 47.35, 123.92, "km from it"),
        ("650102", 39.47, 75.99, "km from it"),
    ] {
        for validate_only in [true, false] {
            let location = Some(pb::LatLng { latitude, longitude });
            let district_id = district_id.to_owned();
            let request =
                pb::CreateMapPoiRequest { district_id, location, validate_only, ..new_map_poi() };
            let status = app.map_pois().create_map_poi(request).await.expect_err(says);
            assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
            assert!(named(&status)[0].starts_with("location"), "{status:?}");
            assert!(status.message().contains(says), "{says}: {status:?}");
        }
    }
    assert_eq!(app.count("/wxa/create_map_poi"), 0);
    // Tanggula belongs to Golmud, which is 420 km away.
    let location = Some(pb::LatLng { latitude: 34.2, longitude: 92.44 });
    let district_id = "632801".to_owned();
    let far = pb::CreateMapPoiRequest { district_id, location, ..new_map_poi() };
    app.map_pois().create_map_poi(far).await.expect("submitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_writes_nothing() {
    let requests = requests();
    let mut paths: BTreeMap<_, _> = examples()
        .into_iter()
        .map(|(_, example)| (example.rpc.clone(), (example.path, example.account)))
        .collect();
    let replaces = paths["NearbyService/AddNearbyPoi"].clone();
    paths.insert("NearbyService/ReplaceNearbyPoi".to_owned(), replaces);
    let mut tried = 0;
    for method in methods() {
        let (rpc, request, response) = (name(&method), method.input(), method.output());
        let writes = request.get_field_by_name("request_id").is_some();
        if !writes || response.get_field_by_name("submission").is_none() {
            continue;
        }
        assert!(request.get_field_by_name("validate_only").is_some(), "{rpc}");
        let app = App::start().await;
        let (path, account) = &paths[&rpc];
        let mut valid = requests[&rpc].clone();
        valid["validateOnly"] = true.into();
        valid["requestId"] = ID.into();
        let answer = call(&app, &method, &valid).await;
        let answer = answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
        let answer = DynamicMessage::decode(response, answer).expect("a message");
        assert!(!answer.has_field_by_name("submission"), "{rpc}");
        assert!(!answer.has_field_by_name("recovered"), "{rpc}");

        let mut wrong = valid.clone();
        wrong["clientReference"] = "shop\u{14}".into();
        let status = call(&app, &method, &wrong).await.expect_err(&rpc);
        assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"), "{rpc}");
        wrong = valid.clone();
        wrong["appId"] = "wx0000000000000000".into();
        let status = call(&app, &method, &wrong).await.expect_err(&rpc);
        assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"), "{rpc}");
        if *account != Account::Any {
            let is_official = *account == Account::Official;
            let other = if is_official { MINI_PROGRAM_APP_ID } else { OFFICIAL_APP_ID };
            wrong["appId"] = other.into();
            let status = call(&app, &method, &wrong).await.expect_err(&rpc);
            assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_KIND_MISMATCH"));
        }

        assert_eq!(app.count(path), 0, "{rpc}");
        let writes = app.writes().list_writes(pb::ListWritesRequest::default()).await;
        assert_eq!(writes.expect("a list").into_inner().writes, [], "{rpc}");
        // The request id is still free, also for another request.
        valid["validateOnly"] = false.into();
        valid["clientReference"] = "shop-7".into();
        let answer = call(&app, &method, &valid).await;
        assert!(
            answer.as_ref().err().is_none_or(|status| reason(status).1 != "REQUEST_ID_REUSED"),
            "{rpc}: {answer:?}"
        );
        assert_eq!(app.count(path), 1, "{rpc}");
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn validated_update_returns_merged_store() {
    let app = App::start().await;
    let poi_id = app.approved_store("1").await;
    let request = pb::UpdateStoreRequest {
        poi_id,
        contact_phone: Some("020-1234".to_owned()),
        validate_only: true,
        ..Default::default()
    };
    let answer = app.stores().update_store(request.clone()).await.expect("valid").into_inner();
    assert_eq!(answer.contact_phone, "020-1234");
    assert_eq!(answer.picture_urls, ["http://mmbiz.qpic.cn/mmbiz_png/first/0"]);
    assert_eq!(answer.hours.map(|hours| hours.text).as_deref(), Some("10:00-21:30"));
    let request = pb::UpdateStoreRequest { poi_id: "1".to_owned(), ..request };
    let status = app.stores().update_store(request).await.expect_err("no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    assert_eq!(app.count("/wxa/update_store"), 0);
}
