//! Partial updates of stores. WeChat has only whole ones, so the gateway adds the values that the caller
//! leaves out.

use std::slice;

use super::{
    Form, fingerprint,
    store::{quoted, store},
    were_read,
};
use crate::{
    journal::{ExpectedEffect, Review, StoreFingerprint},
    pb::{self, OpeningHours, SubmissionKind},
    util::id::{AuditId, CardId, MapPoiId, PoiId},
    validate::{Check, Invalid},
    wechat::{
        PicList, Quoted, Text,
        store::{StoreInfo, UpdateStore},
    },
};

/// The changes of a store.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    /// The store.
    pub(crate) poi_id: PoiId,
    contract_phone: Option<String>,
    hour: Option<String>,
    pictures: Option<Vec<String>>,
    /// Empty: unchanged, also for WeChat.
    card_id: CardId,
    /// Absent: unchanged, also for WeChat.
    map_poi_id: Option<MapPoiId>,
}

impl TryFrom<pb::UpdateStoreRequest> for Change {
    type Error = Invalid;

    fn try_from(
        pb::UpdateStoreRequest {
            app_id: _,
            request_id: _,
            client_reference: _,
            poi_id,
            contact_phone,
            hours,
            picture_urls,
            card_id,
            map_poi_id,
            validate_only: _,
        }: pb::UpdateStoreRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let change = Self {
            poi_id: store(&mut check, poi_id),
            contract_phone: check.formed_change("contact_phone", contact_phone, &Form::PHONE),
            hour: hours.map(|hours| check.hours("hours", Some(hours))),
            pictures: picture_urls.map(|pb::PictureUrls { urls }| {
                check.pictures("picture_urls.urls", urls, usize::MAX)
            }),
            card_id: check
                .formed_change("card_id", card_id, &Form::CARD_ID)
                .unwrap_or_default()
                .into(),
            map_poi_id: check
                .formed_change("map_poi_id", map_poi_id, &Form::MAP_POI_ID)
                .map(Into::into),
        };
        if change.is_empty() {
            for field in ["contact_phone", "hours", "picture_urls", "card_id", "map_poi_id"] {
                check.refuse(field, "at least one of the optional fields is needed");
            }
        }
        check.done(change)
    }
}

impl Change {
    /// Returns whether the change has every value that WeChat requires each time.
    pub(crate) fn is_whole(&self) -> bool {
        self.contract_phone.is_some() && self.hour.is_some() && self.pictures.is_some()
    }

    /// Returns the update with these changes and otherwise the values that the store shows. Pictures in
    /// review take precedence over the shown ones.
    ///
    /// Fails if the caller leaves out a value that the store does not have either, or that could not be
    /// read exactly: sent back, it would change what the caller left out.
    pub(crate) fn over(
        self,
        shown: StoreInfo,
        in_review: Option<Vec<String>>,
    ) -> Result<UpdateStore, Invalid> {
        let mut check = Check::default();
        let damaged = |field: &str| !were_read(&shown.unreadable, &[field]);
        let mut kept = |field, shown: &[String], damaged: bool| {
            let is_damaged = |text: &String| text.is_empty() || text.contains(is_damage);
            if !damaged && shown.iter().all(String::is_empty) {
                check.refuse(field, "required: WeChat shows none that could be kept");
            } else if damaged || shown.iter().any(is_damaged) {
                check.refuse(field, "required: WeChat shows a value that cannot be kept unchanged");
            }
        };
        let contract_phone = self.contract_phone.unwrap_or_else(|| {
            let Text(phone) = shown.telephone;
            kept("contact_phone", slice::from_ref(&phone), damaged("telephone"));
            phone
        });
        let hour = self.hour.unwrap_or_else(|| {
            let Text(hours) = shown.open_time;
            kept("hours", slice::from_ref(&hours), damaged("open_time"));
            hours
        });
        let list = self.pictures.or(in_review).unwrap_or_else(|| {
            let photos = shown.photo_list.0.into_iter();
            let urls: Vec<_> = photos.map(|photo| photo.photo_url.0).collect();
            kept("picture_urls", &urls, damaged("photo_list"));
            urls
        });
        check.done(UpdateStore {
            map_poi_id: self.map_poi_id,
            poi_id: self.poi_id,
            hour,
            contract_phone,
            pic_list: quoted(list),
            card_id: self.card_id,
        })
    }

    /// Returns the effect that shows that the update was executed. It has only what the update changes,
    /// because other callers may change the rest.
    pub(crate) fn expected_effect(&self) -> ExpectedEffect {
        let Self { poi_id, contract_phone, hour, pictures, card_id, map_poi_id } = self;
        ExpectedEffect::StoreValues(StoreFingerprint {
            poi_id: poi_id.to_string(),
            phone: contract_phone.as_ref().map(|phone| fingerprint::of_each([&**phone])),
            hours: hour.as_ref().map(|hours| fingerprint::of_each([&**hours])),
            pictures: pictures.as_ref().map(|pictures| fingerprint::of_unordered(pictures)),
            // No call shows a store's card, nor the id of its place.
            unseen: !card_id.is_empty() || map_poi_id.is_some(),
        })
    }

    fn is_empty(&self) -> bool {
        let Self { poi_id: _, contract_phone, hour, pictures, card_id, map_poi_id } = self;
        contract_phone.is_none()
            && hour.is_none()
            && pictures.is_none()
            && card_id.is_empty()
            && map_poi_id.is_none()
    }
}

/// Returns whether a character is part of no value: no caller could send it, or it replaces bytes that
/// could not be decoded.
fn is_damage(character: char) -> bool {
    character.is_control() || character == char::REPLACEMENT_CHARACTER
}

/// Returns what WeChat reviews of an update.
pub(crate) fn pictures_review(call: &UpdateStore, audit_id: AuditId) -> Review {
    let Quoted(PicList { list }) = &call.pic_list;
    Review {
        kind: SubmissionKind::StorePictures,
        audit_id,
        poi_id: call.poi_id.clone(),
        picture_urls: list.clone(),
        ..Review::default()
    }
}

/// Returns the response to an update, made from the call.
pub(crate) fn updated(
    UpdateStore { map_poi_id, poi_id: _, hour, contract_phone, pic_list, card_id }: &UpdateStore,
    submission: Option<pb::Submission>,
) -> pb::UpdateStoreResponse {
    let Quoted(PicList { list }) = pic_list;
    pb::UpdateStoreResponse {
        submission,
        recovered: false,
        contact_phone: contract_phone.clone(),
        hours: OpeningHours::parse(hour.clone()),
        picture_urls: list.clone(),
        card_id: card_id.to_string(),
        map_poi_id: map_poi_id.as_ref().map(MapPoiId::to_string).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::{List, Text, store::Photo};

    const PICTURE: &str = "http://mmbiz.qpic.cn/mmbiz_jpg/tW66AWvE2K4EJx/0?wx_fmt=jpeg";

    fn request() -> pb::UpdateStoreRequest {
        pb::UpdateStoreRequest { poi_id: "472671857".to_owned(), ..Default::default() }
    }

    fn shown() -> StoreInfo {
        StoreInfo {
            telephone: Text("123456".to_owned()),
            open_time: Text("周一至周五 10:00-21:00".to_owned()),
            photo_list: List(vec![Photo { photo_url: Text(PICTURE.to_owned()) }]),
            ..StoreInfo::default()
        }
    }

    fn fields(invalid: &Invalid) -> Vec<&str> {
        invalid.violations().iter().map(|violation| violation.field.as_str()).collect()
    }

    #[test]
    fn whole_update_matches_the_document() {
        let change = Change::try_from(pb::UpdateStoreRequest {
            contact_phone: Some("123456".to_owned()),
            hours: OpeningHours::parse("10:00-21:00".to_owned()),
            picture_urls: Some(pb::PictureUrls { urls: vec![PICTURE.to_owned()] }),
            map_poi_id: Some("5938314494307741153".to_owned()),
            ..request()
        })
        .expect("valid");
        assert!(change.is_whole());
        let call = change.over(StoreInfo::default(), None).expect("nothing is missing");
        let expected = format!(
            r#"{{"map_poi_id":"5938314494307741153","poi_id":"472671857","hour":"10:00-21:00","contract_phone":"123456","pic_list":"{{\"list\":[\"{PICTURE}\"]}}","card_id":""}}"#
        );
        assert_eq!(serde_json::to_string(&call).expect("JSON"), expected);
    }

    #[test]
    fn omitted_values_stay_even_odd_hours() {
        let contact_phone = Some("654321".to_owned());
        let change = Change::try_from(pb::UpdateStoreRequest { contact_phone, ..request() });
        let call = change.expect("valid").over(shown(), None).expect("a store");
        let answer = updated(&call, None);
        assert_eq!(answer.contact_phone, "654321");
        assert_eq!(answer.hours.expect("hours").text, "周一至周五 10:00-21:00");
        assert_eq!(answer.picture_urls, [PICTURE]);
    }

    #[test]
    fn pictures_in_review_precede_shown_ones() {
        let change = |picture_urls| {
            let hours = OpeningHours::parse("10:00-21:00".to_owned());
            Change::try_from(pb::UpdateStoreRequest { hours, picture_urls, ..request() })
                .expect("valid")
        };
        let sent = |change: Change| {
            let in_review = Some(vec!["http://new".to_owned()]);
            updated(&change.over(shown(), in_review).expect("a store"), None).picture_urls
        };
        assert_eq!(sent(change(None)), ["http://new"]);
        let urls = vec![PICTURE.to_owned()];
        assert_eq!(sent(change(Some(pb::PictureUrls { urls }))), [PICTURE]);
    }

    #[test]
    fn hidden_values_are_required() {
        let card_id = Some("pabcedfg".to_owned());
        let change = Change::try_from(pb::UpdateStoreRequest { card_id, ..request() });
        let invalid = change.expect("valid").over(StoreInfo::default(), None).expect_err("empty");
        assert_eq!(fields(&invalid), ["contact_phone", "hours", "picture_urls"]);
    }

    #[test]
    fn inexact_value_is_never_sent_back() {
        let json = |field: &str, value: &str| {
            let store = format!(
                r#"{{"telephone":"1","open_time":"10:00-21:00","photo_list":[{{"photo_url":"http://a"}}],"{field}":{value}}}"#
            );
            serde_json::from_str::<serde_json::Value>(&store).expect(&store)
        };
        let photos = "photo_list";
        for (field, value, refused) in [
            ("telephone", r#""1\u00142""#, "contact_phone"),
            ("telephone", r#""1\n2""#, "contact_phone"),
            ("telephone", r#""1\ufffd""#, "contact_phone"),
            ("$unreadable", r#"["telephone"]"#, "contact_phone"),
            ("open_time", r#""10:00\t-21:00""#, "hours"),
            ("$unreadable", r#"["open_time"]"#, "hours"),
            (photos, r#"[{"photo_url":"http://a"},{"photo_url":null}]"#, "picture_urls"),
            (photos, r#"[{"photo_url":"http://a"},null]"#, "picture_urls"),
            (photos, r#"[{"photo_url":"http://a"},{}]"#, "picture_urls"),
            (photos, r#"[{"photo_url":"http://a\u0000"}]"#, "picture_urls"),
            (photos, "[]", "picture_urls"),
            (photos, "null", "picture_urls"),
            ("$unreadable", r#"["photo_list"]"#, "picture_urls"),
            ("$unreadable", r#"["photo_list.photo_url"]"#, "picture_urls"),
        ] {
            let shown = || serde_json::from_value(json(field, value)).expect("a store");
            let card_id = Some("pabcedfg".to_owned());
            let change = pb::UpdateStoreRequest { card_id, ..request() };
            let invalid = Change::try_from(change.clone()).expect("valid").over(shown(), None);
            assert_eq!(fields(&invalid.expect_err(value)), [refused], "{field}: {value}");

            // A value of the caller replaces it.
            let given = pb::UpdateStoreRequest {
                contact_phone: Some("2".to_owned()),
                hours: OpeningHours::parse("09:00-10:00".to_owned()),
                picture_urls: Some(pb::PictureUrls { urls: vec![PICTURE.to_owned()] }),
                ..change
            };
            Change::try_from(given).expect("valid").over(shown(), None).expect(value);
        }
    }

    #[test]
    fn update_changes_something_and_clears_nothing() {
        let fields = |request| {
            let invalid = Change::try_from(request).expect_err("invalid");
            fields(&invalid).join(" ")
        };
        assert_eq!(fields(request()), "contact_phone hours picture_urls card_id map_poi_id");
        let empty = pb::UpdateStoreRequest {
            contact_phone: Some(String::new()),
            picture_urls: Some(pb::PictureUrls::default()),
            card_id: Some(String::new()),
            map_poi_id: Some(String::new()),
            ..request()
        };
        assert_eq!(fields(empty), "contact_phone picture_urls.urls card_id map_poi_id");
    }
}
