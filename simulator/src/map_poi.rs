//! Districts and places on Tencent's map (腾讯地图).

use serde_json::{Value, json};

use super::{
    audit::{self, Audit, Ending, Kind, State},
    districts,
    endpoint::{Bearer, Call, Endpoint, done_with, is_picture},
    error::Refusal,
    places::Place,
    world::World,
};

/// A third party needs one of these permission sets (权限集).
const SETS: &[u16] = &[8, 9, 10, 13, 37];

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::get("/wxa/get_district", Bearer::Anyone, district).permission_sets(SETS),
    Endpoint::post("/wxa/search_map_poi", Bearer::Anyone, search).permission_sets(SETS),
    Endpoint::post("/wxa/create_map_poi", Bearer::Anyone, create).permission_sets(SETS),
];

/// `GET /wxa/get_district` — 从腾讯地图拉取省市区信息
///
/// The reply has `status` and `message` instead of errcode and errmsg.
fn district(_: &mut World, _: &Call) -> Result<Value, Refusal> {
    Ok(districts::table().clone())
}

/// `POST /wxa/search_map_poi` — 在腾讯地图中搜索门店
///
/// `districtid` is a number here. A string has been seen to find nothing. A district contains the
/// districts below it. A search without results is a success.
fn search(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let keyword = call.text("keyword")?;
    let within = match call.fields.get("districtid") {
        None | Some(Value::Null) => return Err(Refusal::new(40097)),
        Some(Value::String(_)) => None,
        Some(number) => {
            let id = number.as_u64().ok_or(Refusal::new(47001))?;
            Some(u32::try_from(id).map_err(|_| Refusal::new(40097))?)
        }
    };
    let matches = |place: &&Place| {
        let texts = [&place.branch_name, &place.address, &place.category];
        within.is_some_and(|district| districts::contains(district, place.district_id))
            && texts.iter().any(|text| text.contains(keyword))
    };
    let items: Vec<_> = world.places.iter().filter(matches).map(describe).collect();
    Ok(done_with("data", json!({ "item": items })))
}

fn describe(place: &Place) -> Value {
    json!({
        "branch_name": place.branch_name,
        "address": place.address,
        "longitude": place.longitude,
        "latitude": place.latitude,
        "telephone": place.telephone,
        "category": place.category,
        "sosomap_poi_uid": place.map_poi_id,
        "data_supply": 2,
        "pic_urls": [],
        "card_id_list": [],
    })
}

/// `POST /wxa/create_map_poi` — 在腾讯地图中创建门店
///
/// Every field is a string here, also `districtid` and the coordinates. A success has `error` and
/// `data` instead of an errcode. A refusal has an errcode.
fn create(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let place = requested(call)?;
    let legacy = legacy_id(call)?;
    if let Some(poi_id) = &legacy {
        world.tenant(&call.app_id)?.stores.may_add(poi_id)?;
    }
    let base_id = audit::open(world, call, Kind::CreateMapPoi, &place.branch_name);
    world.tenant(&call.app_id)?.requested_places.insert(base_id, Requested { place, legacy });
    Ok(json!({ "error": null, "data": { "base_id": base_id, "rich_id": base_id - 150 } }))
}

/// A map place in review.
#[derive(Clone, Debug)]
pub(super) struct Requested {
    place: Place,
    legacy: Option<String>,
}

fn requested(call: &Call) -> Result<Place, Refusal> {
    let bad = || Refusal::new(40097);
    for name in ["province", "city", "district", "introduct"] {
        call.text(name)?;
    }
    for name in ["photo", "license"] {
        // These are addresses from uploadimg, not media ids.
        Some(call.text(name)?).filter(|url| is_picture(url)).ok_or_else(bad)?;
    }
    let degrees = |name| call.text(name)?.parse::<f64>().map_err(|_| bad());
    let category = call.text("category")?;
    let district_id = call.text("districtid")?.parse().map_err(|_| bad())?;
    let telephone = call.text("telephone")?;
    if !category.contains(':') || districts::find(district_id).is_none() {
        return Err(bad());
    }
    Ok(Place {
        map_poi_id: String::new(),
        branch_name: call.text("name")?.to_owned(),
        address: call.text("address")?.to_owned(),
        longitude: degrees("longitude")?,
        latitude: degrees("latitude")?,
        telephone: telephone.to_owned(),
        category: category.to_owned(),
        district_id,
    })
}

/// Returns the store that must migrate, if the call names one. WeChat has been seen to answer an id
/// of 19 digits with “data format error”.
fn legacy_id(call: &Call) -> Result<Option<String>, Refusal> {
    match call.fields.get("poi_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(empty)) if empty.is_empty() => Ok(None),
        Some(_) => match call.id("poi_id")? {
            id if id.len() > 18 => Err(Refusal::new(47001)),
            id => Ok(Some(id)),
        },
    }
}

/// Applies the end of a map place's review: an approved place gets an id and can be found.
///
/// The event has 0 for an approval and 1 for a rejection. The document swaps 纬度 and 经度. It does not
/// state what the fields of a rejected place hold. Here they repeat the request, without an id.
pub(super) fn decided(world: &mut World, audit: &Audit) -> Option<Ending> {
    let tenant = world.accounts.get_mut(&audit.app_id)?;
    let Requested { mut place, legacy } = tenant.requested_places.remove(&audit.audit_id)?;
    let approved = audit.state == State::Approved;
    let map_poi_id = if approved { world.mint.map_poi_id() } else { String::new() };
    let fields = vec![
        ("map_poi_id", json!(map_poi_id)),
        ("name", json!(place.branch_name)),
        ("address", json!(place.address)),
        ("latitude", json!(place.latitude.to_string())),
        ("longitude", json!(place.longitude.to_string())),
        ("sh_remark", json!(audit.reason)),
    ];
    if !approved {
        return Some(Ending { result: None, status: 1, fields });
    }
    let mut stores = tenant.stores.legacy.iter_mut();
    if let Some(store) = stores.find(|store| Some(&store.poi_id) == legacy.as_ref()) {
        store.mapid.clone_from(&map_poi_id);
    }
    place.map_poi_id.clone_from(&map_poi_id);
    world.places.push(place);
    Some(Ending { result: Some(map_poi_id), status: 0, fields })
}

/// Returns the place with this id.
pub(super) fn find<'a>(world: &'a World, map_poi_id: &str) -> Option<&'a Place> {
    world.places.iter().find(|place| place.map_poi_id == map_poi_id)
}
