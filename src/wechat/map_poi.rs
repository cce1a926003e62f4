//! Districts and places of Tencent Maps (腾讯地图).

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use super::{AccountKinds, Decimal, Endpoint, Int, List, Need, Proof, Rows, Safety, Text, Verdict};
use crate::util::id::{AuditId, DistrictId, MapPoiId, PoiId};

endpoints![CreateMapPoi, GetDistrict, SearchMapPoi];

/// `GET /wxa/get_district` — 从腾讯地图拉取省市区信息
///
/// Returns all provinces, cities and districts of China.
#[derive(Debug, Serialize)]
pub(crate) struct GetDistrict {}

/// The reply to [`GetDistrict`].
///
/// Its arrays are parsed strictly: nodes refer to each other by index, so none may be dropped.
#[derive(Debug, Deserialize)]
pub(crate) struct GetDistrictReply {
    /// The version of the table, a date such as `20170510`.
    #[serde(default)]
    pub data_version: Text,
    /// Three arrays: provinces, cities, districts.
    pub result: Vec<Vec<DistrictNode>>,
}

/// A province, city or district.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DistrictNode {
    /// Six digits. The `districtid` of other calls.
    pub id: DistrictId,
    /// The short name. Missing on the third level.
    pub name: Text,
    /// The full name.
    pub fullname: Text,
    /// The short name, one syllable per element. Missing on the third level.
    pub pinyin: List<Text>,
    /// A point that represents the area.
    pub location: Option<Point>,
    /// The first and last index of its children in the next array, both inclusive. Missing if there
    /// are none.
    pub cidx: List<Int>,
}

/// A point, as the district table spells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Point {
    /// Degrees north.
    pub lat: Decimal,
    /// Degrees east.
    pub lng: Decimal,
}

impl Endpoint for GetDistrict {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/wxa/get_district";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13, 37];
    const VERDICT: Verdict = Verdict::Status;
    const WHOLE: &'static [Need] = &[Need::Filled("result")];
    const SALVAGED: bool = false;
    /// The table has about 700 KB.
    const REPLY_LIMIT: Duration = Duration::from_secs(20);
    const MAX_REPLY: usize = 16 << 20;
    type Reply = GetDistrictReply;
}

/// `POST /wxa/search_map_poi` — 在腾讯地图中搜索门店
///
/// Finds places of a district by a keyword.
#[derive(Debug, Serialize)]
pub(crate) struct SearchMapPoi {
    /// A number here and text in [`CreateMapPoi`]. A search with text was seen to find nothing.
    pub districtid: u32,
    /// The search term.
    pub keyword: String,
}

/// The reply to [`SearchMapPoi`].
#[derive(Debug, Default, Deserialize)]
pub struct SearchMapPoiReply {
    /// The places that were found.
    pub data: FoundPlaces,
}

/// The `data` of [`SearchMapPoiReply`].
#[derive(Debug, Default, Deserialize)]
pub struct FoundPlaces {
    /// The places. Empty if none was found.
    pub item: Rows<FoundPlace>,
}

/// A place of Tencent Maps.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FoundPlace {
    /// The name.
    pub branch_name: Text,
    /// The whole address.
    pub address: Text,
    /// Degrees east.
    pub longitude: Decimal,
    /// Degrees north.
    pub latitude: Decimal,
    /// The telephone number. `;` separates several. May begin with a blank.
    pub telephone: Text,
    /// The category, `一级:二级`.
    pub category: Text,
    /// The `map_poi_id` of other calls.
    pub sosomap_poi_uid: MapPoiId,
    /// Undocumented and empty in the samples, so any value is accepted.
    pub pic_urls: List<serde_json::Value>,
    /// The fields that are unreadable.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl Endpoint for SearchMapPoi {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/search_map_poi";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13, 37];
    const WHOLE: &'static [Need] = &[Need::List("data.item")];
    type Reply = SearchMapPoiReply;
}

/// `POST /wxa/create_map_poi` — 在腾讯地图中创建门店
///
/// Proposes a place. Every value is text here.
#[derive(Debug, Serialize)]
pub(crate) struct CreateMapPoi {
    /// The name.
    pub name: String,
    /// Degrees east.
    pub longitude: String,
    /// Degrees north.
    pub latitude: String,
    /// The full name of the province.
    pub province: String,
    /// The full name of the city.
    pub city: String,
    /// The full name of the district.
    pub district: String,
    /// The address within the district.
    pub address: String,
    /// The category, `一级:二级`.
    pub category: String,
    /// The telephone number. `;` separates several.
    pub telephone: String,
    /// The URL of a picture, from uploadimg.
    pub photo: String,
    /// The URL of a picture of the license, from uploadimg.
    pub license: String,
    /// A description of the place. (sic)
    pub introduct: String,
    /// Text here and a number in [`SearchMapPoi`].
    pub districtid: DistrictId,
    /// The old store that migrates. Absent otherwise, as in the documented sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poi_id: Option<PoiId>,
}

/// The reply to [`CreateMapPoi`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct CreateMapPoiReply {
    /// The proposed place.
    pub data: ProposedPlace,
}

/// The `data` of [`CreateMapPoiReply`].
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ProposedPlace {
    /// The `audit_id` of the event.
    pub base_id: AuditId,
}

impl Endpoint for CreateMapPoi {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/create_map_poi";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Once(Proof::Event);
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13, 37];
    const VERDICT: Verdict = Verdict::NoError;
    const WHOLE: &'static [Need] = &[Need::Id("data.base_id")];
    type Reply = CreateMapPoiReply;

    fn is_whole(reply: &CreateMapPoiReply) -> bool {
        !reply.data.base_id.is_empty()
    }
}
