//! Places of Tencent Maps.

use super::{Form, ReviewedCall, WriteCall, page::take_out_unreadable, store::texts};
use crate::{
    journal::{ExpectedEffect, MapPoi, Review},
    pb::{self, SubmissionKind},
    util::id::DistrictId,
    validate::{Check, Invalid},
    wechat::{
        Rows,
        map_poi::{CreateMapPoi, CreateMapPoiReply, FoundPlace, SearchMapPoi, SearchMapPoiReply},
    },
};

/// Areas per page: the default and the maximum.
const AREAS: u32 = 100;
const MOST_AREAS: u32 = 1000;
/// The maximum number of places in a response. WeChat documents none.
const MOST_PLACES: usize = 1000;
/// Province, city, district.
const MOST_NAMES: usize = 3;

/// A request for a page of areas.
#[derive(Debug, PartialEq)]
pub(crate) struct WantedDistricts {
    /// The area. Empty for the whole country.
    pub(crate) parent: String,
    /// Whether to return everything under the area or only its children.
    pub(crate) recursive: bool,
    /// The page size.
    pub(crate) size: u32,
    /// The page token.
    pub(crate) token: String,
}

impl TryFrom<pb::ListDistrictsRequest> for WantedDistricts {
    type Error = Invalid;

    fn try_from(
        pb::ListDistrictsRequest { app_id: _, parent_id, recursive, page_size, page_token }: pb::ListDistrictsRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let size = check.page_size(page_size, AREAS, MOST_AREAS);
        if !parent_id.is_empty() {
            check.area("parent_id", &parent_id);
        }
        check.done(Self { parent: parent_id, recursive, size, token: page_token })
    }
}

/// The names of an area and of the areas that it lies in, from large to small, trimmed.
#[derive(Debug, PartialEq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl TryFrom<pb::ResolveDistrictRequest> for Names {
    type Error = Invalid;

    fn try_from(
        pb::ResolveDistrictRequest { app_id: _, names }: pb::ResolveDistrictRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        if names.is_empty() {
            check.refuse("names", "required");
        }
        if names.len() > MOST_NAMES {
            check.refuse("names", format!("at most {MOST_NAMES}"));
        }
        let names = names.into_iter().enumerate();
        let names = names.map(|(i, name)| check.required(&format!("names[{i}]"), name));
        let names = names.map(|name| name.trim().to_owned()).collect();
        check.done(Self(names))
    }
}

impl TryFrom<pb::SearchMapPoisRequest> for SearchMapPoi {
    type Error = Invalid;

    fn try_from(
        pb::SearchMapPoisRequest { app_id: _, district_id, keyword }: pb::SearchMapPoisRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let districtid = check.district(district_id).as_str().parse().unwrap_or_default();
        let keyword = check.required("keyword", keyword);
        check.done(Self { districtid, keyword })
    }
}

impl From<SearchMapPoiReply> for pb::SearchMapPoisResponse {
    fn from(SearchMapPoiReply { data }: SearchMapPoiReply) -> Self {
        let Rows(places) = data.item;
        let mut pois = places.into_iter().map(pb::MapPoi::from).collect();
        let unreadable_count = take_out_unreadable(&mut pois, |poi| &poi.map_poi_id);
        let omitted = pois.len().saturating_sub(MOST_PLACES);
        pois.truncate(MOST_PLACES);
        Self { pois, unreadable_count, omitted_count: omitted.try_into().unwrap_or(i32::MAX) }
    }
}

impl From<FoundPlace> for pb::MapPoi {
    fn from(
        FoundPlace {
            branch_name,
            address,
            longitude,
            latitude,
            telephone,
            category,
            sosomap_poi_uid,
            pic_urls,
            mut unreadable,
        }: FoundPlace,
    ) -> Self {
        let telephones = telephone.0.split([';', '；']).map(str::trim);
        Self {
            map_poi_id: sosomap_poi_uid.into(),
            name: branch_name.0,
            address: address.0,
            location: pb::LatLng::from_wechat(latitude, longitude, &mut unreadable),
            telephones: telephones.filter(|number| !number.is_empty()).map(str::to_owned).collect(),
            category: category.0,
            picture_urls: texts(pic_urls),
            unreadable_fields: unreadable,
        }
    }
}

/// Leaves the names of province, city and district empty, because only the table of districts has them.
impl TryFrom<pb::CreateMapPoiRequest> for CreateMapPoi {
    type Error = Invalid;

    fn try_from(
        pb::CreateMapPoiRequest {
            app_id: _,
            request_id: _,
            client_reference: _,
            name,
            district_id,
            address,
            location,
            category,
            telephones,
            photo_url,
            license_url,
            introduction,
            legacy_poi_id,
            validate_only: _,
        }: pb::CreateMapPoiRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let name = check.required("name", name);
        let districtid = check.district(district_id);
        let address = check.required("address", address);
        let (latitude, longitude) = check.location("location", location);
        let category = check.category(category);
        let telephone = check.telephones(telephones);
        let photo = check.formed("photo_url", photo_url, &Form::PICTURE);
        let license = check.formed("license_url", license_url, &Form::PICTURE);
        let introduct = check.prose("introduction", introduction);
        let poi_id = check.formed_if_any("legacy_poi_id", legacy_poi_id, &Form::LEGACY_POI_ID);
        check.done(Self {
            name,
            longitude,
            latitude,
            province: String::new(),
            city: String::new(),
            district: String::new(),
            address,
            category,
            telephone,
            photo,
            license,
            introduct,
            districtid,
            poi_id: Some(poi_id).filter(|id| !id.is_empty()).map(Into::into),
        })
    }
}

impl CreateMapPoi {
    /// Returns the position of the place.
    pub(crate) fn location(&self) -> Option<pb::LatLng> {
        let degrees = |text: &str| text.parse().ok();
        let location = degrees(&self.latitude).zip(degrees(&self.longitude));
        location.map(|(latitude, longitude)| pb::LatLng { latitude, longitude })
    }
}

impl WriteCall for CreateMapPoi {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        Some(ExpectedEffect::MapPoiEvent(MapPoi {
            name: self.name.clone(),
            address: self.address.clone(),
            location: self.location().map(Into::into),
        }))
    }
}

impl ReviewedCall for CreateMapPoi {
    fn review(&self, CreateMapPoiReply { data }: &CreateMapPoiReply) -> Review {
        let audit_id = data.base_id.clone();
        Review { kind: SubmissionKind::MapPoi, audit_id, ..Review::default() }
    }
}

impl Check {
    fn district(&mut self, id: String) -> DistrictId {
        self.area("district_id", &id);
        id.into()
    }

    fn area(&mut self, field: &str, id: &str) {
        if id.len() != 6 || !id.bytes().all(|digit| digit.is_ascii_digit()) {
            self.refuse(field, "must be the six digits of an area");
        }
    }

    fn category(&mut self, category: String) -> String {
        let levels = category.split_once(':');
        if levels.is_none_or(|(first, second)| {
            first.trim().is_empty() || second.trim().is_empty() || second.contains(':')
        }) {
            self.refuse("category", "must be two levels with an ASCII colon between them");
        }
        self.optional("category", category)
    }

    /// Checks telephone numbers and joins them as WeChat requires: `010-6666666;010-7777777`.
    fn telephones(&mut self, numbers: Vec<String>) -> String {
        if numbers.is_empty() {
            self.refuse("telephones", "required");
        }
        for (index, number) in numbers.iter().enumerate() {
            let field = format!("telephones[{index}]");
            if number.contains([';', '；']) {
                self.refuse(&field, "must not contain a semicolon: each number is one of the list");
                continue;
            }
            self.formed(&field, number.clone(), &Form::PHONE);
        }
        numbers.join(";")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: &str = "http://mmbiz.qpic.cn/mmbiz_png/tW66AWE2K6EC/0?wx_fmt=png";

    fn place() -> pb::CreateMapPoiRequest {
        pb::CreateMapPoiRequest {
            name: "hardenzhang".to_owned(),
            district_id: "440105".to_owned(),
            address: "TIT".to_owned(),
            location: Some(pb::LatLng { latitude: 23.0974903107, longitude: 113.323753357 }),
            category: "美食:中餐厅".to_owned(),
            telephones: vec!["12345678901".to_owned()],
            photo_url: PICTURE.to_owned(),
            license_url: PICTURE.to_owned(),
            introduction: "test".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn new_place_matches_the_document() {
        let mut call = CreateMapPoi::try_from(place()).expect("valid");
        call.province = "广东省".to_owned();
        call.city = "广州市".to_owned();
        call.district = "海珠区".to_owned();
        let expected = format!(
            r#"{{"name":"hardenzhang","longitude":"113.323753357","latitude":"23.0974903107","province":"广东省","city":"广州市","district":"海珠区","address":"TIT","category":"美食:中餐厅","telephone":"12345678901","photo":"{PICTURE}","license":"{PICTURE}","introduct":"test","districtid":"440105"}}"#
        );
        assert_eq!(serde_json::to_string(&call).expect("JSON"), expected);
    }

    #[test]
    fn every_error_in_a_place_is_reported() {
        let request = pb::CreateMapPoiRequest {
            district_id: "海珠区".to_owned(),
            category: "美食：中餐厅".to_owned(),
            telephones: vec!["110".to_owned(), "110;120".to_owned()],
            photo_url: String::new(),
            legacy_poi_id: "2880741500279549033".to_owned(),
            ..place()
        };
        let invalid = CreateMapPoi::try_from(request).expect_err("five errors");
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            ["district_id", "category", "telephones[1]", "photo_url", "legacy_poi_id"]
        );
    }

    #[test]
    fn telephones_become_one_text() {
        let telephones = ["010-6666666-111", "010-6666666"].map(str::to_owned).to_vec();
        let call = CreateMapPoi::try_from(pb::CreateMapPoiRequest { telephones, ..place() });
        assert_eq!(call.expect("valid").telephone, "010-6666666-111;010-6666666");
    }

    #[test]
    fn search_sends_the_district_as_a_number() {
        let request = pb::SearchMapPoisRequest {
            district_id: "440105".to_owned(),
            keyword: "工厂".to_owned(),
            ..Default::default()
        };
        let call = SearchMapPoi::try_from(request).expect("valid");
        let json = serde_json::to_string(&call).expect("JSON");
        assert_eq!(json, r#"{"districtid":440105,"keyword":"工厂"}"#);
    }

    #[test]
    fn found_place_matches_the_document() {
        let reply: SearchMapPoiReply = serde_json::from_str(
            r#"{"errcode":0,"errmsg":"ok","data":{"item":[{"branch_name":"X-MAX工厂",
            "address":"广东省广州市海珠区怡安路","longitude":113.274810791,"latitude":"23.1088695526",
            "telephone":" 020-89190388; 020-1","category":"运动健身:健身中心",
            "sosomap_poi_uid":2708071440732747189,"data_supply":2,"pic_urls":[],"card_id_list":[]},
            {}]}}"#,
        )
        .expect("a reply");
        let found = pb::SearchMapPoisResponse::from(reply);
        assert_eq!(found.unreadable_count, 1);
        let [place] = found.pois.try_into().expect("one");
        assert_eq!(place.map_poi_id, "2708071440732747189");
        assert_eq!(place.telephones, ["020-89190388", "020-1"]);
        assert_eq!(place.location.expect("a point").longitude, 113.274810791);
    }

    #[test]
    fn large_search_reports_omitted_places() {
        let found = |count: usize| {
            let item = (0..count).map(|id| serde_json::json!({ "sosomap_poi_uid": id + 1 }));
            let reply = serde_json::json!({ "data": { "item": item.collect::<Vec<_>>() } });
            let reply: SearchMapPoiReply =
                serde_json::from_str(&reply.to_string()).expect("a reply");
            pb::SearchMapPoisResponse::from(reply)
        };
        for (count, passed_on, omitted) in [(1000, 1000, 0), (60_000, 1000, 59_000)] {
            let answer = found(count);
            assert_eq!((answer.pois.len(), answer.omitted_count), (passed_on, omitted));
            assert_eq!(answer.pois.last().expect("a place").map_poi_id, "1000");
        }
    }
}
