//! Cards of stores.

use super::{Form, WriteCall};
use crate::{
    pb,
    validate::{Check, Invalid},
    wechat::{
        Done,
        card::{GetCard, GetCardReply, SetCard},
    },
};

impl TryFrom<pb::GetStoreCardRequest> for GetCard {
    type Error = Invalid;

    fn try_from(
        pb::GetStoreCardRequest { app_id: _, poi_id }: pb::GetStoreCardRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = check.formed("poi_id", poi_id, &Form::POI_ID).into();
        check.done(Self { poi_id })
    }
}

impl From<GetCardReply> for pb::GetStoreCardResponse {
    fn from(GetCardReply { card_id, unreadable: _ }: GetCardReply) -> Self {
        Self { card_id: card_id.into() }
    }
}

impl TryFrom<pb::SetStoreCardRequest> for SetCard {
    type Error = Invalid;

    fn try_from(
        pb::SetStoreCardRequest { app_id: _, request_id: _, poi_id, card_id }: pb::SetStoreCardRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = check.formed("poi_id", poi_id, &Form::POI_ID).into();
        let card_id = check.formed("card_id", card_id, &Form::CARD_ID).into();
        check.done(Self { poi_id, card_id })
    }
}

impl WriteCall for SetCard {}

impl From<Done> for pb::SetStoreCardResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}
