//! Districts and places of Tencent Maps.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb::{self, DistrictLevel, SubmissionKind};

use crate::{
    documented::examples,
    support::{App, is, reason},
};

const GET_DISTRICT: &str = "/wxa/get_district";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn children(parent_id: &str) -> pb::ListDistrictsRequest {
    pb::ListDistrictsRequest { parent_id: parent_id.to_owned(), ..Default::default() }
}

async fn resolve(app: &App, names: &[&str]) -> Result<Vec<pb::DistrictMatch>, tonic::Status> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let request = pb::ResolveDistrictRequest { names, ..Default::default() };
    Ok(app.map_pois().resolve_district(request).await?.into_inner().matches)
}

#[tokio::test(flavor = "multi_thread")]
async fn district_table_is_fetched_once() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(GET_DISTRICT, Kind::Latency { ms: 200 }));
    let lists = join_all((0..200).map(|_| {
        let mut map_pois = app.map_pois();
        async move { map_pois.list_districts(children("")).await }
    }));
    for list in lists.await {
        assert_eq!(list.expect("provinces").into_inner().total_size, 34);
    }
    assert_eq!(app.count(GET_DISTRICT), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_district_table_survives_failed_refresh() {
    let app = App::start().await;
    let first = app.map_pois().list_districts(children("")).await.expect("provinces").into_inner();
    app.clock.advance(DAY + Duration::from_secs(1));
    app.fault(GET_DISTRICT, Kind::Html502);
    for _ in 0..5 {
        let again =
            app.map_pois().list_districts(children("")).await.expect("the old ones").into_inner();
        assert_eq!(again, first);
    }
    while app.count(GET_DISTRICT) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_district_refreshes_table_every_five_minutes() {
    let app = App::start().await;
    // The documented table is short.
    let (_, short) = examples()
        .into_iter()
        .find(|(_, example)| example.path == GET_DISTRICT)
        .expect("WeChat's example");
    app.wechat.fault(Fault::new(GET_DISTRICT, Kind::Replace { body: short.reply }));
    let unknown = || is(Code::NotFound, "DISTRICT_NOT_FOUND");
    let list = async |parent_id: &str| app.map_pois().list_districts(children(parent_id)).await;

    let status = list("440300").await.expect_err("not in the short table");
    assert_eq!(reason(&status), unknown());
    assert_eq!(app.count(GET_DISTRICT), 1, "that table has just come");
    app.clock.advance(Duration::from_secs(5 * 60));
    app.wechat.fault(Fault::new(GET_DISTRICT, Kind::Latency { ms: 300 }));
    let (listed, named) =
        tokio::join!(join_all((0..50).map(|_| list("440300"))), resolve(&app, &["深圳", "南山"]));
    assert!(listed.into_iter().all(|list| list.is_ok()));
    assert_eq!(named.expect("found").len(), 1);
    assert_eq!(app.count(GET_DISTRICT), 2, "once for all");

    let place = pb::CreateMapPoiRequest { district_id: "999999".to_owned(), ..new_place() };
    for asked in [2, 3] {
        for _ in 0..3 {
            assert_eq!(reason(&list("999999").await.expect_err("nowhere")), unknown());
            let status = app.map_pois().create_map_poi(place.clone()).await.expect_err("nowhere");
            assert_eq!(reason(&status), unknown());
        }
        assert_eq!(app.count(GET_DISTRICT), asked);
        app.clock.advance(Duration::from_secs(5 * 60));
    }
    // If the table cannot be fetched, the existing one stays.
    app.fault(GET_DISTRICT, Kind::Html502);
    assert_eq!(reason(&list("999999").await.expect_err("nowhere")), unknown());
    list("440300").await.expect("still known");
}

#[tokio::test(flavor = "multi_thread")]
async fn districts_are_listed_level_by_level() {
    let app = App::start().await;
    let cities = app.map_pois().list_districts(children("440000")).await.expect("Guangdong");
    let cities = cities.into_inner();
    assert_eq!(cities.total_size, 21);
    assert!(cities.districts.iter().all(|city| city.level() == DistrictLevel::City));
    let guangzhou = app.map_pois().list_districts(children("440100")).await.expect("Guangzhou");
    let guangzhou = guangzhou.into_inner().districts;
    assert_eq!(guangzhou.len(), 11);
    assert!(guangzhou.iter().all(|d| d.parent_id == "440100" && d.child_count == 0));
    // A municipality has districts directly below it.
    let beijing = app.map_pois().list_districts(children("110000")).await.expect("Beijing");
    let beijing = beijing.into_inner().districts;
    assert!(beijing.iter().all(|district| district.level() == DistrictLevel::District));
    let status = app.map_pois().list_districts(children("999999")).await.expect_err("nowhere");
    assert_eq!(reason(&status), is(Code::NotFound, "DISTRICT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_district_tree_is_paged() {
    let app = App::start().await;
    let mut request =
        pb::ListDistrictsRequest { recursive: true, page_size: 1_000, ..Default::default() };
    let mut ids = HashSet::new();
    loop {
        let page = app.map_pois().list_districts(request.clone()).await.expect("a page");
        let page = page.into_inner();
        for district in page.districts {
            assert!(ids.insert(district.id.clone()), "{} twice", district.id);
        }
        if page.next_page_token.is_empty() {
            assert_eq!(ids.len(), usize::try_from(page.total_size).expect("a size"));
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(ids.len() > 3_200);
    assert_eq!(app.count(GET_DISTRICT), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn district_is_found_by_its_names() {
    let app = App::start().await;
    for names in
        [&["广东省", "广州市", "海珠区"][..], &["广东", "海珠区"], &["广州", "海珠"], &["海珠区"]]
    {
        let matches = resolve(&app, names).await.expect("found");
        let [found] = &matches[..] else { panic!("{names:?}: {matches:?}") };
        let district = found.district.as_ref().expect("a district");
        assert_eq!(district.id, "440105");
        let ancestors: Vec<_> = found.ancestors.iter().map(|a| a.full_name.as_str()).collect();
        assert_eq!(ancestors, ["广东省", "广州市"]);
    }
    let matches = resolve(&app, &["朝阳区"]).await.expect("found");
    assert!(matches.len() > 1, "Beijing and Changchun both have one: {matches:?}");
    let [xiantao] = &resolve(&app, &["湖北", "仙桃"]).await.expect("found")[..] else {
        panic!("one")
    };
    assert_eq!(xiantao.district.as_ref().map(|d| d.id.as_str()), Some("429004"));
    let status = resolve(&app, &["广东", "朝阳区"]).await.expect_err("not there");
    assert_eq!(reason(&status), is(Code::NotFound, "DISTRICT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn search_sends_number_and_returns_text() {
    let app = App::start().await;
    let request = pb::SearchMapPoisRequest {
        district_id: "440105".to_owned(),
        keyword: "工厂".to_owned(),
        ..Default::default()
    };
    let pois = app.map_pois().search_map_pois(request).await.expect("places").into_inner().pois;
    assert_eq!(pois[0].map_poi_id, "2708071440732747189");
    assert_eq!(pois[0].telephones, ["020-89190388"]);
    let sent = &app.wechat.calls("/wxa/search_map_poi")[0].body;
    assert_eq!(sent, &json!({"districtid": 440105, "keyword": "工厂"}));
}

fn new_place() -> pb::CreateMapPoiRequest {
    pb::CreateMapPoiRequest {
        client_reference: "shop-7".to_owned(),
        name: "巷口小馆".to_owned(),
        district_id: "440105".to_owned(),
        address: "新港中路397号".to_owned(),
        location: Some(pb::LatLng { latitude: 23.0974903107, longitude: 113.323753357 }),
        category: "美食:中餐厅".to_owned(),
        telephones: vec!["020-89190388".to_owned(), "13800138000".to_owned()],
        photo_url: "http://mmbiz.qpic.cn/mmbiz_png/photo/0".to_owned(),
        license_url: "http://mmbiz.qpic.cn/mmbiz_png/licence/0".to_owned(),
        introduction: "家常菜".to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_place_gets_names_of_its_district() {
    let app = App::start().await;
    let answer = app.map_pois().create_map_poi(new_place()).await.expect("submitted").into_inner();
    let submission = answer.submission.expect("a submission");
    assert_eq!(submission.kind(), SubmissionKind::MapPoi);
    let sent = &app.wechat.calls("/wxa/create_map_poi")[0].body;
    for (field, value) in [
        ("province", "广东省"),
        ("city", "广州市"),
        ("district", "海珠区"),
        ("districtid", "440105"),
        ("longitude", "113.323753357"),
        ("latitude", "23.0974903107"),
        ("telephone", "020-89190388;13800138000"),
        ("introduct", "家常菜"),
    ] {
        assert_eq!(sent[field], json!(value), "{field}");
    }
    assert!(sent.get("poi_id").is_none(), "only when migrating");
    app.approve(&submission);
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_place_names_the_old_store() {
    let app = App::start().await;
    let request = pb::CreateMapPoiRequest { legacy_poi_id: "271262077".to_owned(), ..new_place() };
    // The result depends on the simulator's places and does not matter here.
    let _ = app.map_pois().create_map_poi(request).await;
    assert_eq!(app.wechat.calls("/wxa/create_map_poi")[0].body["poi_id"], "271262077");
}

#[tokio::test(flavor = "multi_thread")]
async fn tencent_maps_refusal_is_an_error() {
    let app = App::start().await;
    let body = json!({"status": 311, "message": "key格式错误"});
    app.wechat.fault(Fault::new(GET_DISTRICT, Kind::Replace { body }));
    let status = app.map_pois().list_districts(children("")).await.expect_err("refused");
    assert_eq!(reason(&status), is(Code::Unavailable, "MAP_SERVICE_FAILED"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["errmsg"], "key格式错误");

    let body = json!({"error": "place refused", "data": null});
    app.wechat.fault(Fault::new("/wxa/create_map_poi", Kind::Replace { body }));
    let status = app.map_pois().create_map_poi(new_place()).await.expect_err("refused");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "MAP_POI_REFUSED"));
    let info = status.get_details_error_info().expect("checked above");
    assert_eq!(info.metadata["errmsg"], "\"place refused\"");
}
