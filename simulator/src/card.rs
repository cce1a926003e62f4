//! Cards on the pages of stores (门店卡券).

use serde_json::{Value, json};

use super::{
    endpoint::{Bearer, Call, Endpoint, done, done_with},
    error::Refusal,
    store::Store,
    world::World,
};

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::post("/card/storewxa/get", Bearer::Official, get),
    Endpoint::post("/card/storewxa/set", Bearer::Official, set),
];

/// `POST /card/storewxa/get` — 获取门店小程序配置的卡券
///
/// For a store without a card the reply has no `card_id` (“则返回中无card_id字段”).
fn get(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let store = store(world, call)?;
    Ok(match store.card_id.as_str() {
        "" => done(),
        card_id => done_with("card_id", json!(card_id)),
    })
}

/// `POST /card/storewxa/set` — 设置门店小程序配置的卡券
fn set(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let card_id = call.text("card_id")?;
    card_id.clone_into(&mut store(world, call)?.card_id);
    Ok(done())
}

/// Returns the store that a call names. The document shows the id as a number and clients send a
/// string, so both are accepted.
fn store<'a>(world: &'a mut World, call: &Call) -> Result<&'a mut Store, Refusal> {
    let poi_id = call.id("poi_id")?;
    world.tenant(&call.app_id)?.stores.find(&poi_id)
}
