//! Every RPC against a WeChat whose types differ from its documents.
//!
//! There are two sources: WeChat's own examples in `tests/documented`, which every new RPC has, and the
//! story in [`every_rpc`], in which the calls depend on each other. A new RPC needs no code here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use tonic::{Response, Status};
use wechat_simulator::{Fault, OFFICIAL_APP_ID, faults::Kind};
use wechat_store_gateway::pb;

use crate::{
    contract::rpcs,
    documented::examples,
    support::{App, nearby_profile, new_map_poi, new_store, png, reason, within},
};

const PLACE: &str = "2708071440732747189";

/// Returns the text of an answer, without the parts that differ each time.
fn text_of<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> String {
    match answer {
        Ok(answer) => {
            let text = format!("{:?}", answer.into_inner());
            let words = text.split(", ").filter(|word| {
                ![
                    "submission_id",
                    "create_time",
                    "trace_id",
                    "seconds",
                    "nanos",
                    "resubmit_after",
                    "expire_time",
                ]
                .iter()
                .any(|name| word.contains(name))
            });
            words.collect::<Vec<_>>().join(", ")
        }
        Err(status) => format!("{:?}", reason(&status)),
    }
}

/// Calls every RPC once, in an order in which each has something to do. Returns the answers by the
/// lower-case name of the RPC.
async fn every_rpc(app: &App) -> BTreeMap<String, String> {
    let (mut merchants, mut map_pois, mut stores) = (app.merchants(), app.map_pois(), app.stores());
    let (mut nearby, mut cards, mut media) = (app.nearby(), app.cards(), app.media());
    let mut all = BTreeMap::new();
    macro_rules! call {
        ($client:ident.$method:ident($request:expr)) => {
            let answer = within(Duration::from_secs(60), $client.$method($request)).await;
            all.insert(stringify!($method).replace('_', ""), text_of(answer));
        };
    }
    let text = str::to_owned;
    call!(merchants.list_categories(pb::ListCategoriesRequest::default()));
    call!(merchants.get_merchant_audit(pb::GetMerchantAuditRequest::default()));
    call!(merchants.update_merchant(pb::UpdateMerchantRequest {
        introduction: Some(text("十年老店")),
        ..Default::default()
    }));
    call!(
        media.upload_image(pb::UploadImageRequest { content: png().into(), ..Default::default() })
    );
    call!(media.upload_temporary_image(pb::UploadTemporaryImageRequest {
        content: png().into(),
        ..Default::default()
    }));
    call!(merchants.apply_merchant(pb::ApplyMerchantRequest {
        first_category_id: text("278"),
        second_category_id: text("280"),
        avatar_media_id: text("no such picture"),
        name: text("巷口小馆"),
        introduction: text("家常菜"),
        ..Default::default()
    }));
    call!(map_pois.list_districts(pb::ListDistrictsRequest {
        parent_id: text("440100"),
        ..Default::default()
    }));
    call!(map_pois.resolve_district(pb::ResolveDistrictRequest {
        names: vec![text("广东"), text("海珠")],
        ..Default::default()
    }));
    call!(map_pois.search_map_pois(pb::SearchMapPoisRequest {
        district_id: text("440105"),
        keyword: text("工厂"),
        ..Default::default()
    }));
    call!(map_pois.create_map_poi(new_map_poi()));
    call!(stores.add_store(new_store(PLACE, "1")));
    call!(stores.list_stores(pb::ListStoresRequest::default()));
    for audit in app.wechat.audits() {
        let _ = app.wechat.approve(audit.audit_id);
    }
    let listed = app.stores().list_stores(pb::ListStoresRequest::default()).await;
    let poi_id = listed.ok().and_then(|listed| listed.into_inner().stores.pop()).map(|s| s.poi_id);
    let poi_id = poi_id.unwrap_or_else(|| text("1"));
    call!(stores.get_store(pb::GetStoreRequest { poi_id: poi_id.clone(), ..Default::default() }));
    call!(stores.update_store(pb::UpdateStoreRequest {
        poi_id: poi_id.clone(),
        picture_urls: Some(pb::PictureUrls { urls: vec![text("http://mmbiz.qpic.cn/new")] }),
        ..Default::default()
    }));
    call!(cards.set_store_card(pb::SetStoreCardRequest {
        poi_id: poi_id.clone(),
        card_id: text("pabc"),
        ..Default::default()
    }));
    call!(
        cards.get_store_card(pb::GetStoreCardRequest {
            poi_id: poi_id.clone(),
            ..Default::default()
        })
    );
    call!(stores.delete_store(pb::DeleteStoreRequest { poi_id, ..Default::default() }));
    let old = json!([{"poi_id": "271262077", "upgrade_status": 4, "available_state": 3}]);
    let body = json!({"app_id": OFFICIAL_APP_ID, "stores": old});
    app.wechat.control("POST", "legacy_stores", &body).expect("old stores");
    call!(stores.list_legacy_stores(pb::ListLegacyStoresRequest::default()));
    call!(stores.get_upgrade_progress(pb::GetUpgradeProgressRequest::default()));
    call!(stores.get_legacy_store(pb::GetLegacyStoreRequest {
        legacy_poi_id: text("271262077"),
        ..Default::default()
    }));
    call!(stores.delete_legacy_store(pb::DeleteLegacyStoreRequest {
        legacy_poi_id: text("271262077"),
        ..Default::default()
    }));
    let profile = Some(nearby_profile(PLACE));
    call!(nearby.add_nearby_poi(pb::AddNearbyPoiRequest {
        profile: profile.clone(),
        ..Default::default()
    }));
    call!(nearby.list_nearby_pois(pb::ListNearbyPoisRequest::default()));
    for audit in app.wechat.audits() {
        let _ = app.wechat.approve(audit.audit_id);
    }
    app.clock.advance(Duration::from_secs(2));
    let listed = app.nearby().list_nearby_pois(pb::ListNearbyPoisRequest::default()).await;
    let poi_id =
        listed.ok().and_then(|listed| listed.into_inner().pois.pop()).map(|p| p.nearby_poi_id);
    let poi_id = poi_id.unwrap_or_else(|| text("1"));
    call!(nearby.replace_nearby_poi(pb::ReplaceNearbyPoiRequest {
        nearby_poi_id: poi_id.clone(),
        profile,
        ..Default::default()
    }));
    call!(nearby.set_nearby_poi_visibility(pb::SetNearbyPoiVisibilityRequest {
        nearby_poi_id: poi_id.clone(),
        visible: Some(false),
        ..Default::default()
    }));
    call!(nearby.delete_nearby_poi(pb::DeleteNearbyPoiRequest {
        nearby_poi_id: poi_id,
        ..Default::default()
    }));
    // The other RPCs of these services do not call WeChat, and documented examples are tried below.
    let documented: BTreeSet<_> = examples().into_iter().map(|(_, example)| example.rpc).collect();
    for rpc in rpcs() {
        let (service, method) = rpc.split_once('/').expect("Service/Method");
        let called = all.contains_key(&method.to_lowercase()) || documented.contains(&rpc);
        assert!(
            called
                || ["AccountService", "AuditService", "TokenService", "WriteService"]
                    .contains(&service),
            "{rpc} is missing"
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_types_and_unknown_fields_are_tolerated() {
    let plain = every_rpc(&App::start().await).await;
    // The simulator does not have this path.
    assert!(plain.values().all(|text| !text.contains("WECHAT_UNREACHABLE")), "{plain:#?}");
    for kind in [Kind::WrongTypes, Kind::UnknownFields, Kind::ErrcodeAsString] {
        let app = App::start().await;
        app.fault("*", kind.clone());
        for (rpc, odd) in every_rpc(&app).await {
            assert_eq!(odd, plain[&rpc], "{rpc}: {kind:?}");
        }
    }
}

/// Writes numbers as text, and text that is a number as a number.
fn wrong_types(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(wrong_types),
        Value::Object(fields) => fields.values_mut().for_each(wrong_types),
        Value::Number(number) => *value = json!(number.to_string()),
        Value::String(text) => {
            if let Some(number) = text.parse::<u64>().ok().filter(|n| n.to_string() == *text) {
                *value = json!(number);
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
}

fn unknown_fields(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(unknown_fields),
        Value::Object(fields) => {
            fields.values_mut().for_each(unknown_fields);
            fields.insert("added_in_a_later_version".to_owned(), json!({"any": [1]}));
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_types_in_documented_replies_change_no_answer() {
    let mut tried = 0;
    for (name, example) in examples() {
        for (kind, odd) in
            [("wrong types", wrong_types as fn(&mut Value)), ("unknown fields", unknown_fields)]
        {
            let mut reply = example.reply.clone();
            odd(&mut reply);
            if reply == example.reply {
                continue;
            }
            tried += 1;
            let answer = example.answer_to(&App::start().await, reply).await;
            let answer = answer.unwrap_or_else(|status| panic!("{name}: {kind}: {status:?}"));
            assert_eq!(answer, example.response, "{name}: {kind}");
        }
    }
    // Every example has a message to which a field can be added.
    assert!(tried >= examples().len(), "{tried}");
}

/// Nulls may contain less, but the answer has the right type.
#[tokio::test(flavor = "multi_thread")]
async fn null_fields_yield_answer_or_typed_status() {
    let app = App::start().await;
    // A token must exist there.
    app.read().await.expect_err("there is no such store");
    app.wechat.control("POST", "clock", &json!({"advance_seconds": 1})).expect("later");
    app.fault("*", Kind::Nulls);
    app.wechat.fault(Fault::new("/cgi-bin/stable_token", Kind::Latency { ms: 1 }).times(0));
    let answers = every_rpc(&app).await;
    assert!(answers.values().all(|text| !text.contains("\"INTERNAL\"")), "{answers:#?}");
}

/// Fields that are empty, missing or undocumented in WeChat's samples.
#[tokio::test(flavor = "multi_thread")]
async fn fields_missing_in_samples_are_tolerated() {
    let app = App::start().await;
    let answers = |path: &str, body| app.wechat.fault(Fault::new(path, Kind::Replace { body }));
    let item = json!([{"sosomap_poi_uid": PLACE, "pic_urls": ["http://a"]}]);
    answers("/wxa/search_map_poi", json!({"errcode": 0, "data": {"item": item}}));
    let request = pb::SearchMapPoisRequest {
        district_id: "440105".to_owned(),
        keyword: "工厂".to_owned(),
        ..Default::default()
    };
    let found = app.map_pois().search_map_pois(request).await.expect("places").into_inner();
    assert_eq!(found.pois[0].picture_urls, ["http://a"]);

    let rows = json!([{"base_info": {"poi_id": 7, "categories": ["美食"], "update_status": 1}}]);
    answers("/wxa/get_store_list", json!({"errcode": 0, "business_list": rows, "total_count": 1}));
    assert_eq!(app.list_stores().await[0].categories, ["美食"]);
    answers("/cgi-bin/poi/getpoilist", json!({"errcode": 0, "business_list": rows}));
    let request = pb::ListLegacyStoresRequest::default();
    let listed = app.stores().list_legacy_stores(request).await.expect("old stores").into_inner();
    assert!(listed.stores[0].update_in_review);

    let added = json!({"audit_id": 1, "poi_id": 2, "related_credential": "3"});
    answers("/wxa/addnearbypoi", json!({"errcode": 0, "data": added}));
    let profile = Some(nearby_profile(PLACE));
    let request = pb::AddNearbyPoiRequest { profile, ..Default::default() };
    let added = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
    assert_eq!((added.nearby_poi_id.as_str(), added.license_number.as_str()), ("2", "3"));
    let rows = json!({"poi_list": [{"poi_id": 2, "audit_id": 4}]}).to_string();
    answers("/wxa/getnearbypoilist", json!({"errcode": 0, "data": {"data": rows}}));
    let request = pb::ListNearbyPoisRequest::default();
    let listed = app.nearby().list_nearby_pois(request).await.expect("places").into_inner();
    assert_eq!(listed.pois[0].audit_id, "4");
}
