//! Stores (门店): adding, changing, reading and deleting them.
//!
//! The documents do not state when a store appears. Here it is listed when it is submitted, with
//! status 2 and the id that its event will name. This fits the samples, in which a store in review
//! has an id. A store's status is that of its latest review. So new pictures change 1 to 2 for a
//! while, and a rejection of them changes it to 3. The store itself stays, with its old pictures.

use serde_json::{Value, json};

use super::{
    audit::{self, Audit, Ending, Kind, State},
    districts,
    endpoint::{Bearer, Call, Endpoint, done, done_with},
    error::Refusal,
    legacy::LegacyStore,
    map_poi, media,
    places::Place,
    world::World,
};

/// A third party needs one of these permission sets (权限集).
const SETS: &[u16] = &[8, 9, 10, 13];

/// The endpoints of this family. Those for stores that must migrate are in `legacy`.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::post("/wxa/add_store", Bearer::Official, add).permission_sets(SETS),
    Endpoint::post("/wxa/update_store", Bearer::Official, update).permission_sets(SETS),
    Endpoint::post("/wxa/get_store_info", Bearer::Official, info).permission_sets(SETS),
    Endpoint::post("/wxa/get_store_list", Bearer::Official, list).permission_sets(SETS),
    Endpoint::post("/wxa/del_store", Bearer::Official, delete).permission_sets(SETS),
];

/// An account's stores, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Stores {
    pub(super) current: Vec<Store>,
    pub(super) legacy: Vec<LegacyStore>,
}

/// A store.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) poi_id: String,
    place: Place,
    pictures: Vec<String>,
    /// Pictures that are shown when their review passes.
    awaited: Option<Awaited>,
    phone: String,
    hours: String,
    credential: String,
    company: String,
    pub(super) card_id: String,
    /// The latest review: 1 passed, 2 open, 3 failed.
    status: i64,
    /// Whether the store itself has passed.
    accepted: bool,
    audit_id: u64,
    /// Whether the store was migrated. The rejection of such a store leaves nothing behind.
    migrated: bool,
}

#[derive(Clone, Debug)]
struct Awaited {
    pictures: Vec<String>,
    audit_id: u64,
}

impl Stores {
    /// Returns this account's store with this id.
    pub(super) fn find(&mut self, poi_id: &str) -> Result<&mut Store, Refusal> {
        let mut stores = self.current.iter_mut();
        stores.find(|store| store.poi_id == poi_id).ok_or(Refusal::new(65115))
    }
}

impl Store {
    /// Returns whether the store counts toward limits and duplicates. A store whose first review
    /// failed does not.
    fn counts(&self) -> bool {
        self.accepted || self.status == 2
    }
}

/// `POST /wxa/add_store` — 添加门店
///
/// Adds a store, or migrates the one that `poi_id` names. If several refusals would be right, the
/// order is our choice: merchant, fields, migration, place, credential, limit.
fn add(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    if !world.tenant(&call.app_id)?.merchant.exists() {
        return Err(Refusal::new(85053));
    }
    let mut store = requested(world, call)?;
    let migrating = call.optional_text("poi_id")?;
    world.tenant(&call.app_id)?.stores.may_add(migrating)?;
    refuse_duplicates(world, &call.app_id, &store)?;

    let subject = store.place.branch_name.clone();
    store.audit_id = audit::open(world, call, Kind::AddStore, &subject);
    store.migrated = !migrating.is_empty();
    store.poi_id = match migrating {
        "" => (472_600_000 + world.mint.count("poi_id")).to_string(),
        poi_id => poi_id.to_owned(),
    };
    let answer = done_with("data", json!({ "audit_id": store.audit_id }));
    let stores = &mut world.tenant(&call.app_id)?.stores;
    stores.migrate(&store.poi_id, &store.place.map_poi_id);
    stores.current.push(store);
    Ok(answer)
}

/// Returns the store that add_store asks for. Checks every field.
fn requested(world: &mut World, call: &Call) -> Result<Store, Refusal> {
    let map_poi_id = call.text("map_poi_id")?;
    let (pictures, hours) = (call.pictures(40097)?, call.hours(40097)?);
    let company = call.optional_text("company_name")?;
    let documents = call.optional_text("qualification_list")?;
    // “不复用公众号主体时，才需要填”: another company must send documents.
    if !company.is_empty() && documents.is_empty() {
        return Err(Refusal::new(40097));
    }
    let (phone, credential) = (call.text("contract_phone")?, call.text("credential")?);
    let card_id = call.optional_text("card_id")?;
    media::check_list(world, &call.app_id, documents)?;
    Ok(Store {
        poi_id: String::new(),
        place: map_poi::find(world, map_poi_id).ok_or(Refusal::new(85055))?.clone(),
        pictures,
        awaited: None,
        phone: phone.to_owned(),
        hours: hours.to_owned(),
        credential: credential.to_owned(),
        company: company.to_owned(),
        card_id: card_id.to_owned(),
        status: 2,
        accepted: false,
        audit_id: 0,
        migrated: false,
    })
}

/// Refuses a second store with the same place or credential, also of another account.
fn refuse_duplicates(world: &World, app_id: &str, wanted: &Store) -> Result<(), Refusal> {
    for (owner, tenant) in &world.accounts {
        for store in tenant.stores.current.iter().filter(|store| store.counts()) {
            if store.place.map_poi_id == wanted.place.map_poi_id {
                return Err(Refusal::new(match (owner == app_id, store.accepted) {
                    (true, true) => 85040,
                    (true, false) => 85038,
                    (false, _) => 85039,
                }));
            }
            if store.credential == wanted.credential {
                return Err(Refusal::new(85041));
            }
        }
    }
    let own = world.accounts.get(app_id).map_or(0, |tenant| tenant.stores.current.len());
    if own >= world.rules.store_limit { Err(Refusal::new(85042)) } else { Ok(()) }
}

/// `POST /wxa/update_store` — 更新门店信息
///
/// Replaces everything except the card, which an empty `card_id` keeps. Pictures that are already
/// shown need no review (“此时这个图片不需要重新审核”). If the call sends the shown pictures while others are in
/// review, it withdraws those.
fn update(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.text("poi_id")?;
    let (hours, phone) = (call.hours(40097)?, call.text("contract_phone")?);
    let (pictures, card_id) = (call.pictures(40097)?, call.optional_text("card_id")?);
    let place = match call.optional_text("map_poi_id")? {
        "" => None,
        id => Some(map_poi::find(world, id).ok_or(Refusal::new(85055))?.clone()),
    };
    let tenant = world.tenant(&call.app_id)?;
    if !tenant.merchant.exists() {
        return Err(Refusal::new(85053));
    }
    let store = tenant.stores.find(poi_id)?;
    // Before its first approval a store cannot be updated.
    if !store.accepted {
        return Err(Refusal::new(65118));
    }
    hours.clone_into(&mut store.hours);
    phone.clone_into(&mut store.phone);
    if !card_id.is_empty() {
        card_id.clone_into(&mut store.card_id);
    }
    if let Some(place) = place {
        store.place = place;
    }
    let audit_id = show(world, call, poi_id, pictures)?;
    Ok(done_with(
        "data",
        match audit_id {
            // This is a flag, not an id (“1表示需要，0表示不需要”). Without a review there is no audit_id.
            Some(audit_id) => json!({ "has_audit_id": 1, "audit_id": audit_id }),
            None => json!({ "has_audit_id": 0 }),
        },
    ))
}

/// Shows the pictures now, or opens a review and returns its id.
fn show(
    world: &mut World,
    call: &Call,
    poi_id: &str,
    pictures: Vec<String>,
) -> Result<Option<u64>, Refusal> {
    let store = world.tenant(&call.app_id)?.stores.find(poi_id)?;
    if store.awaited.as_ref().is_some_and(|awaited| awaited.pictures == pictures) {
        return Ok(None);
    }
    let known = pictures.iter().all(|picture| store.pictures.contains(picture));
    let overtaken = store.awaited.take();
    if known {
        (store.pictures, store.status) = (pictures, 1);
    } else {
        store.status = 2;
        let audit_id = audit::open(world, call, Kind::ModifyStore, poi_id);
        let store = world.tenant(&call.app_id)?.stores.find(poi_id)?;
        store.awaited = Some(Awaited { pictures, audit_id });
        store.audit_id = audit_id;
    }
    if let Some(Awaited { audit_id, .. }) = overtaken {
        audit::withdraw(world, audit_id);
    }
    let store = world.tenant(&call.app_id)?.stores.find(poi_id)?;
    Ok(store.awaited.as_ref().map(|awaited| awaited.audit_id))
}

/// `POST /wxa/get_store_info` — 获取单个门店信息
fn info(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.text("poi_id")?;
    let base_info = world.tenant(&call.app_id)?.stores.find(poi_id).map(|store| describe(store))?;
    Ok(done_with("business", json!({ "base_info": base_info })))
}

/// `POST /wxa/get_store_list` — 获取门店信息列表
///
/// A limit of 0 means 20 (“那么按默认值20处理”). A limit above 50 is refused.
fn list(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let (offset, limit) = window(call.number("offset")?, call.number("limit")?)?;
    let stores = &world.tenant(&call.app_id)?.stores.current;
    let rows = stores.iter().skip(offset).take(limit).map(|store| {
        let mut base_info = describe(store);
        base_info["categories"] = json!([]);
        base_info["qualification_list"] = json!([]);
        json!({ "base_info": base_info })
    });
    let mut answer = done_with("business_list", rows.collect());
    answer["total_count"] = json!(stores.len());
    Ok(answer)
}

/// Returns the first row of a page and the number of its rows.
pub(super) fn window(offset: i64, limit: i64) -> Result<(usize, usize), Refusal> {
    let bad = Refusal::new(40097);
    let offset = usize::try_from(offset).map_err(|_| bad.clone())?;
    match usize::try_from(limit) {
        Ok(0) => Ok((offset, 20)),
        Ok(limit @ 1..=50) => Ok((offset, limit)),
        _ => Err(bad),
    }
}

fn describe(store: &Store) -> Value {
    let Store { place, .. } = store;
    let names = districts::find(place.district_id).unwrap_or_default();
    let photos = store.pictures.iter().map(|url| json!({ "photo_url": url }));
    let company = if store.company.is_empty() { &place.branch_name } else { &store.company };
    json!({
        "business_name": place.branch_name,
        "address": place.address,
        "telephone": store.phone,
        "city": names.city,
        "province": names.province,
        "district": names.district,
        "longitude": place.longitude,
        "latitude": place.latitude,
        "photo_list": photos.collect::<Vec<_>>(),
        "open_time": store.hours,
        "poi_id": store.poi_id,
        "status": store.status,
        "qualification_num": store.credential,
        "qualification_name": company,
    })
}

/// `POST /wxa/del_store` — 删除门店
///
/// The document knows only the refusals -1 and 85053, so an unknown store is a -1.
fn delete(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let poi_id = call.text("poi_id")?;
    let tenant = world.tenant(&call.app_id)?;
    if !tenant.merchant.exists() {
        return Err(Refusal::new(85053));
    }
    let stores = &mut tenant.stores.current;
    let at = stores.iter().position(|store| store.poi_id == poi_id).ok_or(Refusal::new(-1))?;
    let store = stores.remove(at);
    if store.migrated && !store.accepted {
        tenant.stores.migrated(poi_id, false, "");
    }
    audit::withdraw(world, store.audit_id);
    Ok(done())
}

/// Applies the end of a store's first review.
///
/// The event has `poiid`, which is “valid” only if the store passed. Otherwise it is 0 here.
pub(super) fn added(world: &mut World, audit: &Audit) -> Option<Ending> {
    let stores = &mut world.accounts.get_mut(&audit.app_id)?.stores;
    let at = stores.current.iter().position(|store| store.audit_id == audit.audit_id)?;
    let approved = audit.state == State::Approved;
    let store = &mut stores.current[at];
    (store.accepted, store.status) = (approved, if approved { 1 } else { 3 });
    let (status, poi_id) = (store.status, store.poi_id.clone());
    let number = poi_id.parse().unwrap_or(0);
    let fields = vec![
        ("reason", json!(audit.reason)),
        ("is_upgrade", json!(u8::from(store.migrated))),
        ("poiid", json!(if approved { number } else { 0 })),
    ];
    if store.migrated {
        stores.migrated(&poi_id, approved, &audit.reason);
        if !approved {
            stores.current.remove(at);
        }
    }
    Some(Ending { result: approved.then_some(poi_id), status, fields })
}

/// Applies the end of a review of pictures.
///
/// The event names no store.
pub(super) fn pictures_decided(world: &mut World, audit: &Audit) -> Option<Ending> {
    let stores = &mut world.accounts.get_mut(&audit.app_id)?.stores.current;
    let store = stores.iter_mut().find(|store| store.audit_id == audit.audit_id)?;
    let awaited = store.awaited.take()?;
    store.status = 3;
    if audit.state == State::Approved {
        (store.pictures, store.status) = (awaited.pictures, 1);
    }
    let fields = vec![("reason", json!(audit.reason))];
    Some(Ending { result: None, status: store.status, fields })
}
