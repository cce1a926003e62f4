//! Stores. Partial updates are in `change`, stores of the older 门店管理 in `legacy`.

use bytes::Bytes;
use serde_json::Value;

use super::{Form, ReviewedCall, WriteCall, fingerprint};
use crate::{
    journal::{ExpectedEffect, Review},
    pb::{self, AuditState, OpeningHours, SubmissionKind},
    util::id::PoiId,
    validate::{Check, Invalid},
    wechat::{
        Done, Int, List, PicList, Quoted,
        store::{
            AddStore, AddStoreReply, DelStore, GetStoreInfo, GetStoreInfoReply, Photo, StoreInfo,
        },
    },
};

/// Stores per page: the default and the maximum, which are WeChat's.
const ROWS: u32 = 20;
const MOST_ROWS: u32 = 50;

impl TryFrom<pb::AddStoreRequest> for AddStore {
    type Error = Invalid;

    fn try_from(
        pb::AddStoreRequest {
            app_id: _,
            request_id: _,
            client_reference: _,
            map_poi_id,
            picture_urls,
            contact_phone,
            hours,
            license_number,
            company_name,
            qualification_media_ids,
            card_id,
            legacy_poi_id,
            validate_only: _,
        }: pb::AddStoreRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        if company_name.is_empty() && !qualification_media_ids.is_empty() {
            check.refuse("qualification_media_ids", "only together with company_name");
        }
        let call = Self {
            map_poi_id: check.formed("map_poi_id", map_poi_id, &Form::MAP_POI_ID).into(),
            pic_list: quoted(check.pictures("picture_urls", picture_urls, usize::MAX)),
            contract_phone: check.formed("contact_phone", contact_phone, &Form::PHONE),
            hour: check.hours("hours", hours),
            credential: check.formed("license_number", license_number, &Form::LICENSE_NUMBER),
            company_name: check.optional("company_name", company_name),
            qualification_list: check.documents("qualification_media_ids", qualification_media_ids),
            card_id: check.formed_if_any("card_id", card_id, &Form::CARD_ID).into(),
            poi_id: check
                .formed_if_any("legacy_poi_id", legacy_poi_id, &Form::LEGACY_POI_ID)
                .into(),
        };
        check.done(call)
    }
}

impl TryFrom<pb::GetStoreRequest> for GetStoreInfo {
    type Error = Invalid;

    fn try_from(
        pb::GetStoreRequest { app_id: _, poi_id }: pb::GetStoreRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = store(&mut check, poi_id);
        check.done(Self { poi_id })
    }
}

impl From<GetStoreInfoReply> for pb::GetStoreResponse {
    fn from(GetStoreInfoReply { business }: GetStoreInfoReply) -> Self {
        Self { store: Some(business.base_info.into()) }
    }
}

impl WriteCall for AddStore {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        if !self.poi_id.is_empty() {
            return Some(ExpectedEffect::Migration(self.poi_id.to_string()));
        }
        let Quoted(PicList { list }) = &self.pic_list;
        Some(ExpectedEffect::NewStore(hash(
            &self.credential,
            &self.contract_phone,
            &self.hour,
            list,
        )))
    }
}

impl ReviewedCall for AddStore {
    fn review(&self, AddStoreReply { data }: &AddStoreReply) -> Review {
        Review {
            kind: SubmissionKind::Store,
            audit_id: data.audit_id.clone(),
            map_poi_id: self.map_poi_id.clone(),
            ..Review::default()
        }
    }
}

/// Returns the hash that identifies a listed store in [`ExpectedEffect::NewStore`]: of its credential,
/// phone, hours and pictures.
pub(crate) fn store_fingerprint(store: &pb::Store) -> Bytes {
    let hours = store.hours.as_ref().map_or("", |hours| &hours.text);
    hash(&store.license_number, &store.contact_phone, hours, &store.picture_urls)
}

fn hash(credential: &str, phone: &str, hours: &str, pictures: &[String]) -> Bytes {
    fingerprint::of_each(
        [credential, phone, hours].into_iter().chain(fingerprint::sorted(pictures)),
    )
}

impl From<StoreInfo> for pb::Store {
    fn from(
        StoreInfo {
            poi_id,
            business_name,
            province,
            city,
            district,
            address,
            longitude,
            latitude,
            telephone,
            open_time,
            photo_list,
            qualification_num,
            qualification_name,
            status,
            categories,
            mut unreadable,
        }: StoreInfo,
    ) -> Self {
        Self {
            poi_id: poi_id.into(),
            name: business_name.0,
            province: province.0,
            city: city.0,
            district: district.0,
            address: address.0,
            location: pb::LatLng::from_wechat(latitude, longitude, &mut unreadable),
            contact_phone: telephone.0,
            hours: OpeningHours::parse(open_time.0),
            picture_urls: pictures(photo_list),
            license_number: qualification_num.0,
            company_name: qualification_name.0,
            state: state(status).into(),
            wechat_status: status.0,
            categories: texts(categories),
            unreadable_fields: unreadable,
        }
    }
}

/// The `status` of get_store_info and get_store_list (S3 §10: 1 审核通过, 2 审核中, 3 审核失败).
pub(crate) fn state(status: Int) -> AuditState {
    match status.0 {
        Some(1) => AuditState::Approved,
        Some(2) => AuditState::InReview,
        Some(3) => AuditState::Rejected,
        _ => AuditState::Unspecified,
    }
}

/// A request for a page of stores.
#[derive(Debug, PartialEq)]
pub(crate) struct WantedRows {
    /// The page size, at most 50.
    pub(crate) size: u32,
    /// The page token.
    pub(crate) token: String,
}

impl WantedRows {
    pub(super) fn new(page_size: i32, page_token: String) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let size = check.page_size(page_size, ROWS, MOST_ROWS);
        check.done(Self { size, token: page_token })
    }
}

impl TryFrom<pb::ListStoresRequest> for WantedRows {
    type Error = Invalid;

    fn try_from(
        pb::ListStoresRequest { app_id: _, page_size, page_token }: pb::ListStoresRequest,
    ) -> Result<Self, Invalid> {
        Self::new(page_size, page_token)
    }
}

impl TryFrom<pb::DeleteStoreRequest> for DelStore {
    type Error = Invalid;

    fn try_from(
        pb::DeleteStoreRequest { app_id: _, request_id: _, poi_id }: pb::DeleteStoreRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = store(&mut check, poi_id);
        check.done(Self { poi_id })
    }
}

impl WriteCall for DelStore {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        Some(ExpectedEffect::StoreDeleted(self.poi_id.to_string()))
    }
}

impl From<Done> for pb::DeleteStoreResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}

/// Checks the id of a store.
pub(super) fn store(check: &mut Check, poi_id: String) -> PoiId {
    check.formed("poi_id", poi_id, &Form::POI_ID).into()
}

/// Returns the pictures of a store as WeChat requires them.
pub(super) fn quoted(list: Vec<String>) -> Quoted<PicList> {
    Quoted(PicList { list })
}

/// Returns the pictures of a store that WeChat shows.
pub(super) fn pictures(photos: List<Photo>) -> Vec<String> {
    let urls = photos.0.into_iter().map(|Photo { photo_url }| photo_url.0);
    urls.filter(|url| !url.is_empty()).collect()
}

/// Returns the texts of a list with undocumented elements.
pub(super) fn texts(list: List<Value>) -> Vec<String> {
    let text = |value| if let Value::String(text) = value { Some(text) } else { None };
    list.0.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: &str = "http://mmbiz.qpic.cn/mmbiz_jpg/tW66AWvE2K4EJx/0?wx_fmt=jpeg";
    const MEDIA_ID: &str = "RTZgKZ386yFn5kQSWLTxe4bqxwgzGBjs3OE02cg9CVQk1wRVE3c8fjUFX7jvpi-P";

    fn request() -> pb::AddStoreRequest {
        pb::AddStoreRequest {
            map_poi_id: "2880741500279549033".to_owned(),
            picture_urls: vec![PICTURE.to_owned()],
            contact_phone: "1111222222".to_owned(),
            hours: OpeningHours::parse("11:11-12:12".to_owned()),
            license_number: "22883878-0".to_owned(),
            ..Default::default()
        }
    }

    fn json(request: pb::AddStoreRequest) -> String {
        let call = AddStore::try_from(request).expect("valid");
        serde_json::to_string(&call).expect("JSON")
    }

    #[test]
    fn new_store_matches_the_document() {
        let expected = format!(
            r#"{{"poi_id":"","map_poi_id":"2880741500279549033","pic_list":"{{\"list\":[\"{PICTURE}\"]}}","contract_phone":"1111222222","hour":"11:11-12:12","credential":"22883878-0","company_name":"","card_id":""}}"#
        );
        assert_eq!(json(request()), expected);
    }

    #[test]
    fn another_company_brings_its_documents_in_one_text() {
        let sent = json(pb::AddStoreRequest {
            company_name: "龙涤小区熟食店".to_owned(),
            qualification_media_ids: vec![MEDIA_ID.to_owned(), "b".to_owned()],
            ..request()
        });
        let documents =
            format!(r#""company_name":"龙涤小区熟食店","qualification_list":"{MEDIA_ID}|b""#);
        assert!(sent.contains(&documents), "{sent}");
    }

    #[test]
    fn every_error_in_a_new_store_is_named() {
        let invalid = AddStore::try_from(pb::AddStoreRequest {
            picture_urls: vec![PICTURE.to_owned(), "mmbiz".to_owned()],
            hours: None,
            qualification_media_ids: vec!["a|b".to_owned()],
            ..request()
        })
        .expect_err("four errors");
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            ["qualification_media_ids", "picture_urls[1]", "hours", "qualification_media_ids[0]"]
        );
    }

    #[test]
    fn shown_store_matches_the_document() {
        let reply: GetStoreInfoReply = serde_json::from_str(
            r#"{"errcode":0,"errmsg":"ok","business":{"base_info":{"business_name":"龙涤小区熟食店",
            "address":"舍利街道中都大道","telephone":"12345678","city":"哈尔滨市","province":"黑龙江省",
            "longitude":126.94355011,"latitude":45.556098938,"photo_list":[{"photo_url":"http://a"}],
            "open_time":"11:00-12:00","poi_id":"472671857","status":2,"district":"value",
            "qualification_num":"91750100ME2XCR6A70","qualification_name":"龙涤小区熟食店"}}}"#,
        )
        .expect("a reply");
        let store = pb::GetStoreResponse::from(reply).store.expect("a store");
        assert_eq!((store.state(), store.wechat_status), (AuditState::InReview, Some(2)));
        assert_eq!((store.poi_id.as_str(), store.picture_urls.len()), ("472671857", 1));
        assert_eq!(store.hours.expect("hours").close, "12:00");
        assert_eq!(store.location.expect("a point").latitude, 45.556098938);
    }

    #[test]
    fn reply_without_a_store_is_unreadable() {
        for json in [r#"{"errcode":0}"#, r#"{"business":null}"#, r#"{"business":{}}"#] {
            assert!(serde_json::from_str::<GetStoreInfoReply>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn store_states_match_the_document() {
        use AuditState as S;
        let states = [None, Some(0), Some(1), Some(2), Some(3), Some(4)].map(|n| state(Int(n)));
        assert_eq!(
            states,
            [S::Unspecified, S::Unspecified, S::Approved, S::InReview, S::Rejected, S::Unspecified]
        );
    }
}
