//! The districts of China, fetched from WeChat about once a day.

use std::{collections::HashMap, iter, ops::Range};

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{Calls, Error};
use crate::{
    context::{Context, Stage},
    pb::{self, DistrictLevel, LatLng},
    state::PAGE_BYTES,
    translate::{
        map_poi::{Names, WantedDistricts},
        page::{self, Cursor},
    },
    util::codec::Encoded,
    validate::{Check, Invalid},
    wechat::{
        self, Endpoint,
        map_poi::{CreateMapPoi, DistrictNode, GetDistrict, GetDistrictReply},
    },
};

/// The last characters of full names, which short names lack.
const SUFFIXES: [char; 4] = ['区', '县', '市', '旗'];

/// Why the table of districts has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DistrictError {
    /// The table could not be fetched.
    #[error(transparent)]
    Call(#[from] Error),
    /// The request is wrong in a way that only the table shows.
    #[error("invalid request")]
    Invalid(Invalid),
    /// The page token belongs to another list.
    #[error("not a page token of this list")]
    PageToken,
    /// Tencent Maps has no such district.
    #[error("no district {district}")]
    Unknown {
        /// Its id or its names.
        district: String,
    },
}

impl From<Invalid> for DistrictError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<page::Foreign> for DistrictError {
    fn from(page::Foreign: page::Foreign) -> Self {
        Self::PageToken
    }
}

impl Calls {
    /// Returns what `answer` finds in the table. All accounts share the table, because it belongs to Tencent
    /// Maps. If it lacks an area that the caller names, fetches a newer one, at most every few minutes.
    pub(crate) async fn by_district<T>(
        &self,
        ctx: &Context,
        answer: impl Fn(&Districts) -> Result<T, DistrictError>,
    ) -> Result<T, DistrictError> {
        let account = self.account::<GetDistrict>(ctx).await?;
        let fetch = || {
            let (calls, account) = (self.clone(), account.clone());
            async move {
                let reply = calls.fetch(&account, GetDistrict {}).await?;
                Districts::new(reply).map_err(|error| Error::WeChat {
                    path: GetDistrict::PATH,
                    safety: GetDistrict::SAFETY,
                    error,
                })
            }
        };
        ctx.progress.reach(Stage::WeChat);
        let table = self.0.districts.get((), ctx.deadline, fetch).await?;
        match answer(&table) {
            Err(DistrictError::Unknown { district }) => {
                match self.0.districts.newer(&(), ctx.deadline, fetch).await? {
                    Some(newer) => answer(&newer),
                    None => Err(DistrictError::Unknown { district }),
                }
            }
            answered => answered,
        }
    }

    /// Adds the names of province, city and district to a proposed place, as the table has them.
    ///
    /// Fails if the place is too far away to lie in the district.
    pub(crate) async fn in_district(
        &self,
        ctx: &Context,
        mut call: CreateMapPoi,
    ) -> Result<CreateMapPoi, DistrictError> {
        let district = call.districtid.as_str();
        let location = call.location();
        let ctx = ctx.for_preflight_read();
        let named = self.by_district(&ctx, |table| {
            let names = table.address(district)?;
            table.check_near(district, location.as_ref())?;
            Ok(names)
        });
        let named = named.await?;
        [call.province, call.city, call.district] = named;
        Ok(call)
    }
}

/// How far a shop may be from the point that stands for its district, in kilometers, by the first
/// digits of the district's id. The first that fits counts.
const REACH: [(&str, f64); 18] = [
    // 阿拉善: 额济纳旗 is larger than Iceland.
    ("1529", 700.0),
    // The rest of 内蒙古.
    ("15", 400.0),
    // 三沙: islands all over the South China Sea.
    ("4603", 2_000.0),
    // 黑龙江, 四川.
    ("23", 250.0),
    ("51", 250.0),
    // 拉萨, and the rest of 西藏: 双湖, 改则, 尼玛.
    ("5401", 250.0),
    ("54", 700.0),
    // 酒泉: 肃北 lies in two parts.
    ("6209", 500.0),
    // 西宁, 海东 …
    ("6301", 200.0),
    ("6302", 200.0),
    // … 玉树 and 海西, where 唐古拉 belongs to 格尔木, and the rest of 青海.
    ("6327", 700.0),
    ("6328", 700.0),
    ("63", 300.0),
    // 乌鲁木齐, 克拉玛依, and the rest of 新疆: 若羌, 且末, 哈密.
    ("6501", 250.0),
    ("6502", 250.0),
    ("6590", 250.0),
    ("65", 700.0),
    // No other county is 200 km long.
    ("", 200.0),
];

/// How far a shop may be from the point that stands for its district, in kilometers.
fn reach(id: &str) -> f64 {
    let reach = REACH.iter().find(|(prefix, _)| id.starts_with(prefix));
    reach.map_or(f64::INFINITY, |(_, reach)| *reach)
}

/// All areas, each followed by everything under it.
#[derive(Debug)]
pub(crate) struct Districts {
    data_version: String,
    areas: Vec<Area>,
    by_id: HashMap<String, usize>,
    /// All areas as a response has them, in their order. Each answer is a part of this.
    encoded: Bytes,
}

/// An area, ready to be given out.
#[derive(Debug)]
struct Area {
    district: pb::District,
    parent: Option<usize>,
    /// The first area after this one that is not under it.
    end: usize,
    /// Where it is in [`Districts::encoded`].
    encoded: Range<usize>,
}

impl Districts {
    /// Reads WeChat's table.
    ///
    /// Fails if it has not three levels, if an area has no id or no name, if an area's children are not in
    /// it, or if an area is no child of any other. A table is cached for a day, and a gap would be, too.
    fn new(
        GetDistrictReply { data_version, result }: GetDistrictReply,
    ) -> Result<Self, wechat::Error> {
        let unreadable = |cause| wechat::Error::Unreadable { cause };
        let levels: [Vec<DistrictNode>; 3] = result
            .try_into()
            .map_err(|levels: Vec<_>| unreadable(format!("{} levels of areas", levels.len())))?;
        let mut table = Self {
            data_version: data_version.0,
            areas: Vec::new(),
            by_id: HashMap::new(),
            encoded: Bytes::new(),
        };
        table.add(&levels, 0..levels[0].len(), None)?;
        if table.areas.is_empty() {
            return Err(unreadable("no areas".to_owned()));
        }
        let nodes = || levels.iter().flatten();
        if nodes().any(|node| node.id.is_empty() || node.fullname.0.is_empty()) {
            return Err(unreadable("an area without an id or a name".to_owned()));
        }
        let lost = |node: &&DistrictNode| !table.by_id.contains_key(node.id.as_str());
        if let Some(node) = nodes().find(lost) {
            return Err(unreadable(format!("area {} belongs to no other", node.id)));
        }
        let mut encoded = Vec::new();
        for area in &mut table.areas {
            let begin = encoded.len();
            let districts = vec![area.district.clone()];
            let alone = pb::ListDistrictsResponse { districts, ..Default::default() };
            encoded.extend(alone.encode_to_vec());
            area.encoded = begin..encoded.len();
        }
        table.encoded = encoded.into();
        Ok(table)
    }

    /// Adds a range of the first of these levels with everything under it. Returns how many areas of that
    /// range are new.
    fn add(
        &mut self,
        levels: &[Vec<DistrictNode>],
        range: Range<usize>,
        parent: Option<usize>,
    ) -> Result<usize, wechat::Error> {
        let [level, lower @ ..] = levels else { return Ok(0) };
        let mut added = 0;
        for node in &level[range] {
            let index = self.areas.len();
            // An area with two parents, or with two entries, stays where it was read first.
            if self.by_id.contains_key(node.id.as_str()) {
                continue;
            }
            let parent_id = parent.map(|parent| self.areas[parent].district.id.clone());
            let district = district(node, parent_id.unwrap_or_default());
            self.by_id.insert(district.id.clone(), index);
            self.areas.push(Area { district, parent, end: 0, encoded: 0..0 });
            let children = children(node, lower.first().map_or(0, Vec::len))?;
            let count = self.add(lower, children, Some(index))?;
            let end = self.areas.len();
            let area = &mut self.areas[index];
            area.district.child_count = i32::try_from(count).unwrap_or(i32::MAX);
            area.end = end;
            added += 1;
        }
        Ok(added)
    }

    /// Returns a page of the areas under another one or, without one, of the whole country.
    pub(crate) fn list(
        &self,
        WantedDistricts { parent, recursive, size, token }: &WantedDistricts,
    ) -> Result<Encoded<pb::ListDistrictsResponse>, DistrictError> {
        let scope = format!("{} {} {parent} {recursive}", GetDistrict::PATH, self.data_version);
        let cursor = Cursor::parse(token, scope)?;
        let descendants = match parent.as_str() {
            "" => 0..self.areas.len(),
            id => {
                let index = self.find(id)?;
                index + 1..self.areas[index].end
            }
        };
        let (offset, size) = (cursor.offset as usize, *size as usize);
        let (total, count, districts) = if *recursive {
            let rest = self.areas[descendants.clone()].get(offset..).unwrap_or_default();
            let begin = rest.first().map_or(0, |first| first.encoded.start);
            let fits = |area: &&Area| area.encoded.end - begin <= PAGE_BYTES;
            let count = rest.iter().take(size).take_while(fits).count();
            let page = &rest[..count.max(1).min(rest.len())];
            let ends = page.first().zip(page.last());
            let bytes = ends.map(|(first, last)| first.encoded.start..last.encoded.end);
            (descendants.len(), page.len(), self.encoded.slice(bytes.unwrap_or_default()))
        } else {
            let (mut count, mut bytes) = (0, BytesMut::new());
            for area in self.children(descendants.clone()).skip(offset).take(size) {
                let encoded = &self.encoded[area.encoded.clone()];
                if count > 0 && bytes.len() + encoded.len() > PAGE_BYTES {
                    break;
                }
                count += 1;
                bytes.extend_from_slice(encoded);
            }
            (self.children(descendants).count(), count, bytes.freeze())
        };
        let next = offset.saturating_add(count);
        let next_page_token = if next < total {
            cursor.next(u32::try_from(next).unwrap_or(u32::MAX), [].into_iter()).token()
        } else {
            String::new()
        };
        let rest = pb::ListDistrictsResponse {
            districts: Vec::new(),
            next_page_token,
            total_size: i32::try_from(total).unwrap_or(i32::MAX),
            data_version: self.data_version.clone(),
        };
        Ok(Encoded::after(districts, &rest))
    }

    /// Returns the areas with these names, ordered by id. Fails if there is none.
    pub(crate) fn resolve(
        &self,
        Names(names): &Names,
    ) -> Result<pb::ResolveDistrictResponse, DistrictError> {
        let mut found = self.named(names);
        if found.is_empty() {
            // Callers often name a municipality twice, as province and as city.
            let mut once = names.clone();
            once.dedup();
            found = self.named(&once);
        }
        if found.is_empty() {
            return Err(DistrictError::Unknown { district: names.join(" ") });
        }
        found.sort_by(|a, b| self.areas[*a].district.id.cmp(&self.areas[*b].district.id));
        let matches = found.into_iter().map(|index| pb::DistrictMatch {
            district: Some(self.areas[index].district.clone()),
            ancestors: self.above(index).rev().map(|area| area.district.clone()).collect(),
        });
        Ok(pb::ResolveDistrictResponse { matches: matches.collect() })
    }

    /// Returns the names of province, city and district for an address in this area.
    fn address(&self, id: &str) -> Result<[String; 3], DistrictError> {
        let index = self.find(id)?;
        let area = &self.areas[index].district;
        let is_district = area.level() == DistrictLevel::District;
        if !is_district && (area.level() != DistrictLevel::City || area.child_count > 0) {
            let mut check = Check::default();
            check.refuse("district_id", "must be a district, or a city that has none");
            check.done(())?;
        }
        let line: Vec<_> = iter::once(&self.areas[index]).chain(self.above(index)).collect();
        let name = |area: &Area| area.district.full_name.clone();
        Ok(match line[..] {
            [district, city, province] => [name(province), name(city), name(district)],
            [district, province] if self.is_municipality(province) => {
                [name(province), name(province), name(district)]
            }
            // WeChat requires a district. A city without districts, and a county without a city, are
            // given as both.
            [city, province] => [name(province), name(city), name(city)],
            _ => [name(line[0]), name(line[0]), name(line[0])],
        })
    }

    /// Fails if a place is too far away to lie in this area. Accepts every place if the table has no
    /// location of the area.
    fn check_near(&self, id: &str, place: Option<&LatLng>) -> Result<(), DistrictError> {
        let area = &self.areas[self.find(id)?].district;
        let (Some(place), Some(area)) = (place, &area.location) else { return Ok(()) };
        let distance = place.kilometers_to(area);
        if distance > reach(id) {
            let mut check = Check::default();
            let rule = format!(
                "must be in the district {id}, but is {distance:.0} km from it; if the place is \
                 right, district_id is wrong"
            );
            check.refuse("location", rule);
            check.done(())?;
        }
        Ok(())
    }

    /// Returns whether an area has districts but no cities: 直辖市, and the special administrative regions.
    fn is_municipality(&self, province: &Area) -> bool {
        let Some(index) = self.by_id.get(&province.district.id) else { return false };
        let mut children = self.children(index + 1..province.end);
        children.all(|child| child.district.level() == DistrictLevel::District)
    }

    /// Returns the areas with the last of `names`, in areas with the other names.
    fn named(&self, names: &[String]) -> Vec<usize> {
        let Some((last, others)) = names.split_last() else { return Vec::new() };
        let fits = |index: &usize| {
            let mut above = self.above(*index);
            others.iter().rev().all(|name| above.any(|area| area.is_called(name)))
        };
        let areas = || self.areas.iter().enumerate();
        let full = areas().filter(|(_, area)| area.district.full_name == *last);
        let mut found: Vec<_> = full.map(|(index, _)| index).filter(fits).collect();
        if found.is_empty() {
            let short = areas().filter(|(_, area)| area.is_called(last));
            found = short.map(|(index, _)| index).filter(fits).collect();
        }
        self.without_doubles(found)
    }

    /// Counties that belong to no city (省直辖县级行政区划) have a second entry under themselves, with an id
    /// that ends in 99. A name means the first entry.
    fn without_doubles(&self, mut found: Vec<usize>) -> Vec<usize> {
        let all = found.clone();
        found.retain(|index| {
            let full_name = &self.areas[*index].district.full_name;
            !all.iter().any(|other| {
                (other + 1..self.areas[*other].end).contains(index)
                    && self.areas[*other].district.full_name == *full_name
            })
        });
        found
    }

    fn find(&self, id: &str) -> Result<usize, DistrictError> {
        let unknown = || DistrictError::Unknown { district: id.to_owned() };
        self.by_id.get(id).copied().ok_or_else(unknown)
    }

    /// Returns the topmost areas of a range of areas with everything under them.
    fn children(&self, range: Range<usize>) -> impl Iterator<Item = &Area> {
        let mut next = range.start;
        iter::from_fn(move || {
            let area = self.areas[..range.end].get(next)?;
            next = area.end;
            Some(area)
        })
    }

    /// Returns the areas that an area lies in, the province last.
    fn above(&self, index: usize) -> impl DoubleEndedIterator<Item = &Area> {
        let above = |area: &Area| area.parent.map(|parent| &self.areas[parent]);
        let first = above(&self.areas[index]);
        // There are three levels.
        [first, first.and_then(above)].into_iter().flatten()
    }
}

impl Area {
    /// Returns whether this is the area's full name or its short one. WeChat has no short names of
    /// districts. Theirs is the full one without its last character, unless one character is left (滦县).
    fn is_called(&self, called: &str) -> bool {
        let pb::District { name, full_name, .. } = &self.district;
        let short = match name.as_str() {
            "" => full_name.strip_suffix(SUFFIXES).filter(|short| short.chars().count() > 1),
            name => Some(name),
        };
        full_name == called || short == Some(called)
    }
}

/// Returns the indexes of a node's children among `count` areas of the next level.
fn children(node: &DistrictNode, count: usize) -> Result<Range<usize>, wechat::Error> {
    let bounds: Vec<_> = node.cidx.0.iter().map(|index| index.0).collect();
    let range = match bounds[..] {
        [] => return Ok(0..0),
        // Both inclusive.
        [Some(first), Some(last)] => usize::try_from(first).ok().zip(usize::try_from(last).ok()),
        _ => None,
    };
    match range {
        Some((first, last)) if last < first => Ok(0..0),
        Some((first, last)) if last < count => Ok(first..last + 1),
        _ => Err(wechat::Error::Unreadable {
            cause: format!("cidx {bounds:?} of {} among {count} areas", node.id),
        }),
    }
}

fn district(node: &DistrictNode, parent_id: String) -> pb::District {
    let DistrictNode { id, name, fullname, pinyin, location, cidx: _ } = node;
    let id = String::from(id.clone());
    let level = match id.as_bytes() {
        [.., b'0', b'0', b'0', b'0'] => DistrictLevel::Province,
        [.., b'0', b'0'] => DistrictLevel::City,
        _ => DistrictLevel::District,
    };
    pb::District {
        level: level.into(),
        name: name.0.clone(),
        full_name: fullname.0.clone(),
        pinyin: pinyin.0.iter().map(|syllable| syllable.0.clone()).collect(),
        location: location
            .as_ref()
            .and_then(|point| LatLng::from_wechat(point.lat, point.lng, &mut Vec::new())),
        parent_id,
        child_count: 0,
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small table: 广东 with a city of two districts and one without any, 北京 with districts
    /// only, 湖北 with a city and a county that belongs to none, 吉林 with a city of its own name.
    const TABLE: &str = r#"{"status":0,"message":"query ok","data_version":"20170510","result":[
        [{"id":"440000","name":"广东","fullname":"广东省","pinyin":["guang","dong"],
          "location":{"lat":23.13171,"lng":113.26627},"cidx":[0,1]},
         {"id":"110000","name":"北京","fullname":"北京市","cidx":[2,3]},
         {"id":"420000","name":"湖北","fullname":"湖北省","cidx":[4,5]},
         {"id":"220000","name":"吉林","fullname":"吉林省","cidx":[6,6]},
         {"id":"710000","name":"台湾","fullname":"台湾省"}],
        [{"id":"440100","name":"广州","fullname":"广州市","cidx":[0,1]},
         {"id":441900,"name":"东莞","fullname":"东莞市","cidx":null},
         {"id":"110101","name":"东城","fullname":"东城区"},
         {"id":"110105","name":"朝阳","fullname":"朝阳区"},
         {"id":"420100","name":"武汉","fullname":"武汉市","cidx":["2","3"]},
         {"id":"429004","name":"仙桃","fullname":"仙桃市","cidx":[4,4]},
         {"id":"220200","name":"吉林","fullname":"吉林市"}],
        [{"id":"440105","fullname":"海珠区","location":{"lat":23.08331,"lng":113.3172}},
         {"id":"440106","fullname":"天河区"},
         {"id":"420106","fullname":"武昌区"},
         {"id":"420107","fullname":"朝阳县"},
         {"id":"420499","fullname":"仙桃市"}]]}"#;

    fn table() -> Districts {
        parse_table(TABLE).expect("a table")
    }

    fn parse_table(json: &str) -> Result<Districts, wechat::Error> {
        Districts::new(serde_json::from_str(json).expect("a reply"))
    }

    fn ids(districts: &[pb::District]) -> Vec<&str> {
        districts.iter().map(|district| district.id.as_str()).collect()
    }

    fn wanted(parent: &str, recursive: bool, size: u32, token: &str) -> WantedDistricts {
        let (parent, token) = (parent.to_owned(), token.to_owned());
        WantedDistricts { parent, recursive, size, token }
    }

    fn page(table: &Districts, wanted: &WantedDistricts) -> pb::ListDistrictsResponse {
        table.list(wanted).expect("a page").decode().expect("a response")
    }

    fn listed(parent: &str, recursive: bool) -> Vec<String> {
        let answer = page(&table(), &wanted(parent, recursive, 100, ""));
        assert_eq!(answer.total_size as usize, answer.districts.len());
        assert_eq!(answer.next_page_token, "");
        answer.districts.into_iter().map(|district| district.id).collect()
    }

    /// The ids that fit the names, with those above them.
    fn resolved(names: &[&str]) -> Vec<String> {
        let names = Names(names.iter().map(|name| (*name).to_owned()).collect());
        let matches = table().resolve(&names).map(|answer| answer.matches).unwrap_or_default();
        let line = |found: pb::DistrictMatch| {
            let line = found.ancestors.into_iter().chain(found.district);
            line.map(|district| district.id).collect::<Vec<_>>().join("/")
        };
        matches.into_iter().map(line).collect()
    }

    #[test]
    fn empty_regions_have_larger_districts() {
        for (id, kilometers) in [
            ("440105", 200.0),
            ("152923", 700.0),
            ("150102", 400.0),
            ("650102", 250.0),
            ("652824", 700.0),
        ] {
            assert_eq!(reach(id), kilometers, "{id}");
        }
        for (index, (prefix, _)) in REACH.iter().enumerate() {
            let hides = |(earlier, _): &(&str, f64)| prefix.starts_with(earlier);
            assert!(!REACH[..index].iter().any(hides), "{prefix} never counts");
        }
    }

    #[test]
    fn children_range_includes_both_ends() {
        assert_eq!(listed("", false), ["440000", "110000", "420000", "220000", "710000"]);
        assert_eq!(listed("440000", false), ["440100", "441900"]);
        assert_eq!(listed("440100", false), ["440105", "440106"]);
        assert_eq!(listed("110000", false), ["110101", "110105"]);
        assert_eq!(listed("429004", false), ["420499"]);
        assert!(listed("440105", false).is_empty());
    }

    #[test]
    fn descendants_follow_their_parent() {
        assert_eq!(listed("440000", true), ["440100", "440105", "440106", "441900"]);
        let country = listed("", true);
        assert_eq!(country.len(), 17);
        assert_eq!(country[..3], ["440000", "440100", "440105"]);
    }

    #[test]
    fn area_has_level_parent_and_count() {
        use DistrictLevel as L;
        let table = table();
        let facts = |id| {
            let district = &table.areas[table.by_id[id]].district;
            (district.level(), district.parent_id.as_str(), district.child_count)
        };
        assert_eq!(facts("440000"), (L::Province, "", 2));
        assert_eq!(facts("440100"), (L::City, "440000", 2));
        assert_eq!(facts("441900"), (L::City, "440000", 0));
        assert_eq!(facts("440105"), (L::District, "440100", 0));
        assert_eq!(facts("110105"), (L::District, "110000", 0));
        assert_eq!(facts("429004"), (L::District, "420000", 1));
        assert_eq!(facts("420499"), (L::District, "429004", 0));
        let guangdong = &table.areas[0].district;
        assert_eq!(guangdong.pinyin, ["guang", "dong"]);
        assert_eq!(guangdong.location.expect("a point").longitude, 113.26627);
    }

    #[test]
    fn page_token_belongs_to_one_table_version() {
        let table = table();
        let first = page(&table, &wanted("440000", true, 3, ""));
        assert_eq!(ids(&first.districts), ["440100", "440105", "440106"]);
        assert_eq!((first.total_size, first.data_version.as_str()), (4, "20170510"));
        let token = first.next_page_token;
        let second = page(&table, &wanted("440000", true, 3, &token));
        assert_eq!(ids(&second.districts), ["441900"]);
        assert_eq!(second.next_page_token, "");

        let newer = parse_table(&TABLE.replace("20170510", "20260101")).expect("a table");
        for refused in [
            newer.list(&wanted("440000", true, 3, &token)),
            table.list(&wanted("440000", false, 3, &token)),
            table.list(&wanted("420000", true, 3, &token)),
        ] {
            assert!(matches!(refused, Err(DistrictError::PageToken)));
        }
        let unknown = table.list(&wanted("999999", false, 3, ""));
        assert!(matches!(unknown, Err(DistrictError::Unknown { .. })));
    }

    #[test]
    fn names_may_be_short_and_skip_levels() {
        for names in
            [&["广东", "广州", "海珠"][..], &["广东省", "海珠区"], &["广州", "海珠"], &["海珠"]]
        {
            assert_eq!(resolved(names), ["440000/440100/440105"], "{names:?}");
        }
        assert_eq!(resolved(&["广东"]), ["440000"]);
        assert_eq!(resolved(&["北京", "朝阳"]), ["110000/110105"]);
        assert_eq!(resolved(&["北京市", "北京市", "朝阳区"]), ["110000/110105"]);
        for names in [&["湖北", "海珠区"][..], &["海珠区", "广东"], &["广州", "广州"], &["海"]]
        {
            let found = resolved(names);
            assert_eq!(found.is_empty(), names != ["广州", "广州"], "{names:?}: {found:?}");
        }
    }

    #[test]
    fn ambiguous_names_return_all_full_names_first() {
        assert_eq!(resolved(&["吉林"]), ["220000", "220000/220200"]);
        assert_eq!(resolved(&["吉林", "吉林"]), ["220000/220200"]);
        assert_eq!(resolved(&["吉林市"]), ["220000/220200"]);
        assert_eq!(resolved(&["朝阳"]), ["110000/110105", "420000/420100/420107"]);
        assert_eq!(resolved(&["朝阳区"]), ["110000/110105"]);
    }

    #[test]
    fn county_with_two_entries_is_returned_once() {
        assert_eq!(resolved(&["仙桃"]), ["420000/429004"]);
        assert_eq!(resolved(&["湖北省", "仙桃市"]), ["420000/429004"]);
    }

    #[test]
    fn address_has_three_names() {
        let table = table();
        let address = |id| table.address(id).expect("a district").join(" ");
        assert_eq!(address("440105"), "广东省 广州市 海珠区");
        assert_eq!(address("441900"), "广东省 东莞市 东莞市");
        assert_eq!(address("110105"), "北京市 北京市 朝阳区");
        assert_eq!(address("429004"), "湖北省 仙桃市 仙桃市");
        assert_eq!(address("420499"), "湖北省 仙桃市 仙桃市");
        for large in ["440000", "440100", "110000", "710000"] {
            assert!(matches!(table.address(large), Err(DistrictError::Invalid(_))), "{large}");
        }
        assert!(matches!(table.address("999999"), Err(DistrictError::Unknown { .. })));
    }

    #[test]
    fn contradictory_table_is_unreadable() {
        for (right, wrong) in [
            (r#""cidx":[4,4]"#, r#""cidx":[4,5]"#),
            (r#""cidx":[2,3]"#, r#""cidx":[-1,3]"#),
            (r#""cidx":[6,6]"#, r#""cidx":[6]"#),
            (r#""fullname":"武昌区""#, r#""fullname":"武昌区","cidx":[0,0]"#),
            (r#""result":["#, r#""result":[[],"#),
            // Areas that nothing leads to.
            (r#","cidx":[2,3]"#, ""),
            (r#""cidx":[0,1]}"#, r#""cidx":null}"#),
            (r#""cidx":["2","3"]"#, r#""cidx":["2","2"]"#),
            (r#""id":"420106""#, r#""id":"""#),
            (r#""id":"420106""#, r#""id":null"#),
            (r#""fullname":"武昌区""#, r#""fullname":"""#),
        ] {
            assert!(TABLE.contains(right), "{right}");
            let parsed = parse_table(&TABLE.replacen(right, wrong, 1));
            assert!(matches!(parsed, Err(wechat::Error::Unreadable { .. })), "{wrong}");
        }
        assert!(parse_table(r#"{"result":[[],[],[]]}"#).is_err());
    }

    #[test]
    fn area_with_two_parents_keeps_the_first() {
        let table =
            parse_table(&TABLE.replacen(r#""cidx":[2,3]"#, r#""cidx":[0,3]"#, 1)).expect("a table");
        assert_eq!(table.areas.len(), 17);
        assert_eq!(table.areas[table.by_id["440100"]].district.parent_id, "440000");
    }
}
