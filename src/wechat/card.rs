//! Cards of stores (门店小程序卡券).

use http::Method;
use serde::{Deserialize, Serialize};

use super::{AccountKinds, Done, Endpoint, Need, Safety};
use crate::util::id::{CardId, PoiId};

endpoints![GetCard, SetCard];

/// `POST /card/storewxa/get` — 获取门店小程序配置的卡券
///
/// Returns the card on a store's page.
#[derive(Debug, Serialize)]
pub(crate) struct GetCard {
    /// The store.
    pub poi_id: PoiId,
}

/// The reply to [`GetCard`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GetCardReply {
    /// The card. Absent if the store has none.
    pub card_id: CardId,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl Endpoint for GetCard {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/card/storewxa/get";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[];
    // A store without a card has no card_id.
    const WHOLE: &'static [Need] = &[];
    type Reply = GetCardReply;

    /// Returns false if the card's id is unreadable, because that must not look like a store
    /// without a card.
    fn is_whole(reply: &GetCardReply) -> bool {
        !reply.unreadable.iter().any(|field| field == "card_id")
    }
}

/// `POST /card/storewxa/set` — 设置门店小程序配置的卡券
///
/// Puts a card on a store's page, replacing the one there.
#[derive(Debug, Serialize)]
pub(crate) struct SetCard {
    /// The store.
    pub poi_id: PoiId,
    /// The card.
    pub card_id: CardId,
}

impl Endpoint for SetCard {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/card/storewxa/set";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}
