//! Nearby mini programs (附近的小程序): the places at which a mini program is shown.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    audit::{self, Audit, Ending, Kind, State},
    endpoint::{Bearer, Call, Endpoint, done, done_with},
    error::Refusal,
    map_poi, media,
    world::World,
};

/// The company that owns every mini program here. A place of another company needs documents.
pub const COMPANY: &str = "深圳市江南茶铺餐饮管理有限公司";

/// A third party needs this permission set (权限集).
const SETS: &[u16] = &[37];

/// The endpoints of this family. The list is a POST on today's page and was a GET before. Clients
/// use both.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::post("/wxa/addnearbypoi", Bearer::MiniProgram, add)
        .serial()
        .permission_sets(SETS)
        .cloud(),
    Endpoint::post("/wxa/getnearbypoilist", Bearer::MiniProgram, list)
        .permission_sets(SETS)
        .cloud(),
    Endpoint::get("/wxa/getnearbypoilist", Bearer::MiniProgram, list).permission_sets(SETS).cloud(),
    Endpoint::post("/wxa/delnearbypoi", Bearer::MiniProgram, delete).permission_sets(SETS).cloud(),
    Endpoint::post("/wxa/setnearbypoishowstatus", Bearer::MiniProgram, set_show_status)
        .permission_sets(SETS)
        .cloud(),
];

/// An account's nearby places.
#[derive(Debug, Default)]
pub(super) struct Nearby {
    pois: Vec<Poi>,
    pub(super) serial: Serial,
}

/// Serializes calls to addnearbypoi.
///
/// The document only states that concurrent calls are “暂不支持” and asks for a pause of one second. It
/// does not state the errcode of a call that comes too early. Here it is -1.
#[derive(Debug, Default)]
pub(super) struct Serial {
    busy: bool,
    rests_since: Option<Instant>,
}

impl Serial {
    pub(super) fn enter(&mut self, now: Instant, pause: Duration) -> Result<(), Refusal> {
        if self.busy || self.rests_since.is_some_and(|since| now < since + pause) {
            return Err(Refusal::new(-1));
        }
        self.busy = true;
        Ok(())
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.busy = false;
        self.rests_since = Some(now);
    }
}

/// A nearby place.
#[derive(Debug)]
struct Poi {
    poi_id: u64,
    map_poi_id: String,
    address: String,
    credential: String,
    audit_id: u64,
    /// 3 in review, 4 failed, 5 passed.
    audit_status: i64,
    shown: bool,
    refuse_reason: String,
}

impl Poi {
    const REVIEW: i64 = 3;
    const FAILED: i64 = 4;
    const PASSED: i64 = 5;
}

/// The checked fields of a call to addnearbypoi.
struct Wanted {
    /// The place that the call changes. With `None` it adds a new one.
    poi_id: Option<u64>,
    map_poi_id: String,
    address: String,
    credential: String,
}

/// `POST /wxa/addnearbypoi` — 添加地点
///
/// With `poi_id` it changes a place. `audit_id` and `poi_id` are numbers in the reply.
fn add(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let wanted = requested(world, call)?;
    refuse_duplicates(world, &call.app_id, &wanted)?;
    let audit_id = audit::open(world, call, Kind::AddNearbyPoi, call.text("store_name")?);
    let Wanted { poi_id, map_poi_id, address, credential } = wanted;
    let new_id = poi_id.unwrap_or_else(|| 112_333_000 + world.mint.count("nearby_poi_id"));
    let pois = &mut world.tenant(&call.app_id)?.nearby.pois;
    let previous = pois.iter().position(|poi| poi.poi_id == new_id);
    let poi = Poi {
        poi_id: new_id,
        map_poi_id,
        address,
        credential: credential.clone(),
        audit_id,
        audit_status: Poi::REVIEW,
        shown: previous.is_some_and(|at| pois[at].shown),
        refuse_reason: String::new(),
    };
    match previous {
        Some(at) => pois[at] = poi,
        None => pois.push(poi),
    }
    let data = json!({ "audit_id": audit_id, "poi_id": new_id, "related_credential": credential });
    Ok(done_with("data", data))
}

fn requested(world: &World, call: &Call) -> Result<Wanted, Refusal> {
    // This constant is a string in the tables and a number in a sample.
    if call.id("is_comm_nearby")? != "1" {
        return Err(Refusal::new(40097));
    }
    for name in ["store_name", "contract_phone"] {
        call.text(name)?;
    }
    if call.pictures(20002)?.len() > 9 {
        return Err(Refusal::new(20002));
    }
    call.hours(20002)?;
    check_services(&call.nested("service_infos", 20002)?)?;
    check_service_desk(call)?;
    let own = |name: &str, missing: i64| match call.optional_text(name)? {
        "" => Err(Refusal::new(missing)),
        text => Ok(text.to_owned()),
    };
    let (company, credential) = (own("company_name", 93021)?, own("credential", 93022)?);
    let address = own("address", 93023)?;
    check_proof(world, call, &company)?;
    let map_poi_id = call.optional_text("map_poi_id")?;
    if !map_poi_id.is_empty() && map_poi::find(world, map_poi_id).is_none() {
        return Err(Refusal::new(93013));
    }
    let poi_id = match call.optional_text("poi_id")? {
        "" => None,
        text => Some(text.parse().map_err(|_| Refusal::new(93010))?),
    };
    Ok(Wanted { poi_id, map_poi_id: map_poi_id.to_owned(), address, credential })
}

/// Checks that another company than the mini program's own comes with documents.
fn check_proof(world: &World, call: &Call, company: &str) -> Result<(), Refusal> {
    let papers = call.optional_text("qualification_list")?;
    if company != COMPANY && papers.is_empty() {
        return Err(Refusal::new(93024));
    }
    media::check_list(world, &call.app_id, papers).map_err(|_| Refusal::new(93020))
}

/// Checks `{"service_infos":[{id,type,name,appid,path,desc}]}`. A label of one's own has id 0 and
/// type 2, WeChat's labels have ids 1 to 15 and type 1. `id` and `type` come as numbers or strings.
fn check_services(nested: &Value) -> Result<(), Refusal> {
    let (mut official, mut custom) = (0, 0);
    for service in nested["service_infos"].as_array().ok_or(Refusal::new(20002))? {
        let number = |name: &str| match &service[name] {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let text = |name: &str| service[name].as_str().unwrap_or_default();
        let (name, detail) = (text("name"), text("desc"));
        match (number("type"), number("id")) {
            (Some(1), Some(1..=15)) => official += 1,
            (Some(2), Some(0)) if name.chars().count() <= 10 && detail.is_empty() => custom += 1,
            (Some(2), Some(0)) => return Err(Refusal::new(93017)),
            _ => return Err(Refusal::new(20002)),
        }
        if name.is_empty() || detail.chars().count() > 10 {
            return Err(Refusal::new(93017));
        }
        if text("appid").is_empty() {
            return Err(Refusal::new(20002));
        }
        if text("path").is_empty() {
            return Err(Refusal::new(93025));
        }
    }
    match (official, custom) {
        (0, 0) => Err(Refusal::new(20002)),
        (0..=5, 0..=4) => Ok(()),
        _ => Err(Refusal::new(93016)),
    }
}

/// Checks `{"open_kf":bool,"kf_headimg":url,"kf_name":text}`. The table requires it, but WeChat
/// accepts a call without it.
fn check_service_desk(call: &Call) -> Result<(), Refusal> {
    if call.optional_text("kf_info")?.is_empty() {
        return Ok(());
    }
    let desk = call.nested("kf_info", 20002)?;
    match desk["open_kf"].as_bool() {
        None => Err(Refusal::new(20002)),
        Some(true) if desk["kf_name"].as_str().unwrap_or_default().is_empty() => {
            Err(Refusal::new(93017))
        }
        Some(_) => Ok(()),
    }
}

fn refuse_duplicates(world: &World, app_id: &str, wanted: &Wanted) -> Result<(), Refusal> {
    let tenant = world.accounts.get(app_id).ok_or(Refusal::new(40013))?;
    let others = world.accounts.iter().filter(|(other, _)| *other != app_id);
    let mut others = others.flat_map(|(_, tenant)| &tenant.nearby.pois);
    let is_taken =
        |poi: &Poi| poi.map_poi_id == wanted.map_poi_id && poi.audit_status != Poi::FAILED;
    if !wanted.map_poi_id.is_empty() && others.any(is_taken) {
        return Err(Refusal::new(92003));
    }
    let pois = &tenant.nearby.pois;
    if let Some(poi_id) = wanted.poi_id {
        let poi = pois.iter().find(|poi| poi.poi_id == poi_id).ok_or(Refusal::new(93010))?;
        let reviewed = poi.audit_status == Poi::REVIEW;
        return if reviewed { Err(Refusal::new(92005)) } else { Ok(()) };
    }
    let mut same = pois.iter().filter(|poi| poi.credential == wanted.credential);
    match same.find(|poi| poi.audit_status != Poi::FAILED) {
        Some(Poi { audit_status: Poi::PASSED, .. }) => Err(Refusal::new(92000)),
        Some(_) => Err(Refusal::new(93014)),
        None if pois.len() >= world.rules.nearby_limit => Err(Refusal::new(92002)),
        None => Ok(()),
    }
}

/// `POST /wxa/getnearbypoilist` — 查看地点列表
///
/// `data.data` is JSON in a string, the ids in it are strings, and errmsg is empty.
fn list(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let number = |name: &str, most: usize| {
        let asked = match call.query.get(name) {
            Some(text) => text.parse().map_err(|_| Refusal::new(40097))?,
            None => usize::try_from(call.number(name)?).map_err(|_| Refusal::new(40097))?,
        };
        if (1..=most).contains(&asked) { Ok(asked) } else { Err(Refusal::new(40097)) }
    };
    let (page, rows) = (number("page", usize::MAX / 1000)?, number("page_rows", 1000)?);
    let limit = world.rules.nearby_limit;
    let pois = &world.tenant(&call.app_id)?.nearby.pois;
    let rows: Vec<_> = pois.iter().skip((page - 1) * rows).take(rows).map(describe).collect();
    Ok(json!({
        "errcode": 0,
        "errmsg": "",
        "data": {
            "left_apply_num": limit.saturating_sub(pois.len()),
            "max_apply_num": limit,
            "data": json!({ "poi_list": rows }).to_string(),
        },
    }))
}

fn describe(poi: &Poi) -> Value {
    json!({
        "poi_id": poi.poi_id.to_string(),
        "qualification_address": poi.address,
        "qualification_num": poi.credential,
        "audit_status": poi.audit_status,
        "display_status": i32::from(poi.shown),
        "refuse_reason": poi.refuse_reason,
    })
}

/// `POST /wxa/delnearbypoi` — 删除地点
fn delete(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.id("poi_id")?;
    let pois = &mut world.tenant(&call.app_id)?.nearby.pois;
    let at = position(pois, &poi_id)?;
    match &pois[at] {
        Poi { audit_status: Poi::REVIEW, .. } => return Err(Refusal::new(92005)),
        Poi { shown: true, .. } => return Err(Refusal::new(92006)),
        _ => pois.remove(at),
    };
    Ok(done())
}

/// `POST /wxa/setnearbypoishowstatus` — 展示/取消展示附近小程序
fn set_show_status(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.id("poi_id")?;
    let shown = match call.number("status")? {
        0 => false,
        1 => true,
        _ => return Err(Refusal::new(40097)),
    };
    let pois = &mut world.tenant(&call.app_id)?.nearby.pois;
    let at = position(pois, &poi_id)?;
    match pois[at].audit_status {
        Poi::REVIEW => return Err(Refusal::new(92005)),
        Poi::FAILED => return Err(Refusal::new(92007)),
        _ => pois[at].shown = shown,
    }
    Ok(done())
}

fn position(pois: &[Poi], poi_id: &str) -> Result<usize, Refusal> {
    let at = pois.iter().position(|poi| poi.poi_id.to_string() == poi_id);
    at.ok_or(Refusal::new(93010))
}

/// Applies the end of a place's review and returns the content of its event. An approved place is
/// shown.
///
/// The event has 3 for an approval and 2 for a rejection. The list has 5 and 4 for the same.
pub(super) fn decided(world: &mut World, audit: &Audit) -> Option<Ending> {
    let pois = &mut world.accounts.get_mut(&audit.app_id)?.nearby.pois;
    let poi = pois.iter_mut().find(|poi| poi.audit_id == audit.audit_id)?;
    let fields = vec![("reason", json!(audit.reason)), ("poi_id", json!(poi.poi_id))];
    if audit.state == State::Approved {
        (poi.audit_status, poi.shown) = (Poi::PASSED, true);
        Some(Ending { result: Some(poi.poi_id.to_string()), status: 3, fields })
    } else {
        (poi.audit_status, poi.shown) = (Poi::FAILED, false);
        audit.reason.clone_into(&mut poi.refuse_reason);
        Some(Ending { result: None, status: 2, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(services: &[Value]) -> Option<i64> {
        let nested = json!({ "service_infos": services });
        check_services(&nested).err().map(|refusal| refusal.errcode)
    }

    #[test]
    fn labels_are_limited_by_kind() {
        let official = json!({ "id": 2, "type": 1, "name": "快递", "appid": "wx1", "path": "a" });
        let own = json!({ "id": "0", "type": "2", "name": "自助", "appid": "wx1", "path": "a" });
        assert_eq!(code(&[]), Some(20002));
        assert_eq!(code(&[vec![official.clone(); 5], vec![own.clone(); 4]].concat()), None);
        assert_eq!(code(&vec![official; 6]), Some(93016));
        assert_eq!(code(&vec![own; 5]), Some(93016));
        // One client misspells it like this, as the document's own text does.
        let misspelt = json!({ "id": 2, "tpye": 1, "name": "快递", "appid": "wx1", "path": "a" });
        assert_eq!(code(&[misspelt]), Some(20002));
    }

    #[test]
    fn serial_api_pauses_after_each_answer() {
        let (mut serial, now, pause) = (Serial::default(), Instant::now(), Duration::from_secs(1));
        assert!(serial.enter(now, pause).is_ok());
        assert_eq!(serial.enter(now + 5 * pause, pause), Err(Refusal::new(-1)));
        serial.leave(now + 5 * pause);
        assert!(serial.enter(now + 5 * pause + pause / 2, pause).is_err());
        assert!(serial.enter(now + 6 * pause, pause).is_ok());
    }
}
