//! The places that `search_map_poi` finds.
//!
//! All but one are invented: a brand on a street, the same at every start. The streets are real.
//! The telephone numbers are not in use, because no subscriber's number begins with 1. The
//! coordinates are somewhere near the middle of the district. The exception is the place in
//! WeChat's document.

use super::districts;

/// A place on Tencent's map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// WeChat's `sosomap_poi_uid`: 19 digits, more than a double can hold.
    pub(super) map_poi_id: String,
    /// The name, with the branch in parentheses.
    pub(super) branch_name: String,
    /// The full address, from the province on.
    pub(super) address: String,
    /// Degrees east.
    pub(super) longitude: f64,
    /// Degrees north.
    pub(super) latitude: f64,
    /// One or several numbers separated by `;`. Some begin with a blank, as WeChat's do.
    pub(super) telephone: String,
    /// Two levels joined by a colon: `美食:中餐厅`.
    pub(super) category: String,
    /// The lowest node of the district table that contains the place.
    pub(super) district_id: u32,
}

/// Returns all places, the documented one first.
pub(super) fn places() -> Vec<Place> {
    let invented = STREETS.iter().enumerate().flat_map(|(row, street)| {
        (0..BRANDS_PER_ROW).map(move |column| street.place(row * BRANDS_PER_ROW + column))
    });
    std::iter::once(documented()).chain(invented).collect()
}

/// Returns another invented place. The numbers of the places above are in use.
pub(super) fn another(number: usize) -> Place {
    STREETS[number % STREETS.len()].place(number)
}

/// Returns the place in WeChat's example for `search_map_poi`.
fn documented() -> Place {
    Place {
        map_poi_id: "2708071440732747189".into(),
        branch_name: "X-MAX工厂".into(),
        address: "广东省广州市海珠区怡安路172-174号怡安花园二、三层(中海名都)".into(),
        longitude: 113.274_810_791,
        latitude: 23.108_869_552_6,
        telephone: " 020-89190388".into(),
        category: "运动健身:健身中心".into(),
        district_id: 440_105,
    }
}

/// Two streets of a district, and the start of its telephone numbers.
struct Streets {
    district_id: u32,
    area_code: &'static str,
    /// The digits of a telephone number after the area code.
    digits: u32,
    names: [&'static str; 2],
}

impl Streets {
    const fn new(
        district_id: u32,
        area_code: &'static str,
        digits: u32,
        names: [&'static str; 2],
    ) -> Self {
        Self { district_id, area_code, digits, names }
    }

    /// Returns the invented place with this number, on one of these streets.
    #[expect(clippy::expect_used, reason = "the streets are compiled in, and tests look them up")]
    fn place(&self, number: usize) -> Place {
        let (brand, category) = BRANDS[number % BRANDS.len()];
        let street = self.names[number % self.names.len()];
        let names = districts::find(self.district_id).expect("a test looks every district up");
        let mut address = vec![names.province, names.city, names.district, street];
        address.dedup();
        let (lat, lng) =
            districts::location(self.district_id).expect("a test looks every district up");
        let noise = scatter(number);
        Place {
            map_poi_id: (FIRST_ID + noise % IDS).to_string(),
            branch_name: format!("{brand}({street}店)"),
            address: format!("{}{}号", address.concat(), 1 + noise % 400),
            longitude: near(lng, noise >> 20),
            latitude: near(lat, noise >> 40),
            telephone: self.telephone(number),
            category: category.into(),
            district_id: self.district_id,
        }
    }

    fn telephone(&self, number: usize) -> String {
        let lowest = 10_u64.pow(self.digits - 1);
        let subscriber = lowest + scatter(number + 10_000) % lowest;
        let first = format!("{}-{subscriber}", self.area_code);
        match number % 12 {
            0 | 5 | 8 => format!(" {first}"),
            3 => format!("{first};{}-{}", self.area_code, subscriber ^ 1),
            _ => first,
        }
    }
}

/// Spreads consecutive numbers over all of `u64` (the finalizer of SplitMix64).
fn scatter(number: usize) -> u64 {
    let mut mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns a coordinate up to about one kilometer from `middle`, with ten decimals as in WeChat's
/// example.
fn near(middle: f64, noise: u64) -> f64 {
    let offset = f64::from(noise as u16) / f64::from(u16::MAX) * 0.02 - 0.01;
    ((middle + offset) * 1e10).round() / 1e10
}

/// Ids have 19 digits and fit a signed 64-bit number.
const FIRST_ID: u64 = 1_000_000_000_000_000_000;
const IDS: u64 = 8_000_000_000_000_000_000;

const BRANDS_PER_ROW: usize = 5;

/// Brands and their categories. Their number has no factor in common with [`BRANDS_PER_ROW`], so
/// each brand comes up in every place of a row.
const BRANDS: [(&str, &str); 13] = [
    ("老巷口牛肉面", "美食:小吃快餐"),
    ("木棉里咖啡", "美食:咖啡厅"),
    ("江南小灶", "美食:中餐厅"),
    ("青禾便利", "购物:便利店"),
    ("渔港茶餐厅", "美食:中餐厅"),
    ("云朵烘焙", "美食:面包甜点"),
    ("一剪美发沙龙", "生活服务:美容美发"),
    ("山城码头火锅", "美食:火锅"),
    ("半亩书房", "文化场馆:书店"),
    ("FitBox健身工坊", "运动健身:健身中心"),
    ("南枝茶社", "美食:茶馆"),
    ("安心大药房", "医疗保健:药房"),
    ("悦亲子乐园", "娱乐休闲:亲子乐园"),
];

const STREETS: [Streets; 44] = [
    Streets::new(440_105, "020", 8, ["新港西路", "江南大道中"]),
    Streets::new(440_106, "020", 8, ["体育西路", "天河路"]),
    Streets::new(440_104, "020", 8, ["北京路", "中山五路"]),
    Streets::new(440_103, "020", 8, ["第十甫路", "龙津东路"]),
    Streets::new(440_305, "0755", 8, ["科苑路", "南海大道"]),
    Streets::new(440_304, "0755", 8, ["福华三路", "振华路"]),
    Streets::new(440_306, "0755", 8, ["新湖路", "前进一路"]),
    Streets::new(440_604, "0757", 8, ["祖庙路", "汾江中路"]),
    Streets::new(441_900, "0769", 8, ["鸿福路", "东纵路"]),
    Streets::new(110_101, "010", 8, ["王府井大街", "鼓楼东大街"]),
    Streets::new(110_105, "010", 8, ["建国路", "工人体育场北路"]),
    Streets::new(110_108, "010", 8, ["中关村大街", "知春路"]),
    Streets::new(310_101, "021", 8, ["南京东路", "淮海中路"]),
    Streets::new(310_106, "021", 8, ["南京西路", "愚园路"]),
    Streets::new(310_115, "021", 8, ["世纪大道", "张杨路"]),
    Streets::new(120_101, "022", 8, ["滨江道", "南京路"]),
    Streets::new(120_104, "022", 8, ["鞍山西道", "白堤路"]),
    Streets::new(500_103, "023", 8, ["民权路", "八一路"]),
    Streets::new(500_105, "023", 8, ["建新北路", "洋河一路"]),
    Streets::new(510_104, "028", 8, ["红星路三段", "东大街"]),
    Streets::new(510_107, "028", 8, ["科华北路", "人民南路四段"]),
    Streets::new(330_102, "0571", 8, ["延安路", "解放路"]),
    Streets::new(330_106, "0571", 8, ["文三路", "学院路"]),
    Streets::new(320_104, "025", 8, ["中山南路", "贡院街"]),
    Streets::new(320_106, "025", 8, ["湖南路", "中央路"]),
    Streets::new(320_508, "0512", 8, ["观前街", "平江路"]),
    Streets::new(420_102, "027", 8, ["沿江大道", "中山大道"]),
    Streets::new(420_106, "027", 8, ["中南路", "东湖路"]),
    Streets::new(420_499, "0728", 7, ["仙桃大道", "沔阳大道"]),
    Streets::new(610_103, "029", 8, ["南大街", "长安北路"]),
    Streets::new(610_113, "029", 8, ["小寨东路", "科技路"]),
    Streets::new(430_102, "0731", 8, ["五一大道", "解放西路"]),
    Streets::new(430_104, "0731", 8, ["麓山南路", "金星中路"]),
    Streets::new(370_202, "0532", 8, ["香港中路", "闽江路"]),
    Streets::new(370_102, "0531", 8, ["泉城路", "文化东路"]),
    Streets::new(350_203, "0592", 7, ["中山路", "湖滨南路"]),
    Streets::new(350_102, "0591", 8, ["五四路", "东街"]),
    Streets::new(530_102, "0871", 8, ["人民中路", "翠湖南路"]),
    Streets::new(230_102, "0451", 8, ["中央大街", "经纬街"]),
    Streets::new(210_102, "024", 8, ["太原街", "南京北街"]),
    Streets::new(210_202, "0411", 8, ["人民路", "中山路"]),
    Streets::new(410_105, "0371", 8, ["花园路", "经三路"]),
    Streets::new(460_204, "0898", 8, ["解放路", "新风街"]),
    Streets::new(340_104, "0551", 8, ["长江西路", "黄山路"]),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_place_is_in_a_known_district() {
        let places = places();
        assert!(places.len() >= 200, "only {} places", places.len());
        for Place { district_id, .. } in &places {
            assert!(districts::find(*district_id).is_some(), "{district_id} is not a district");
        }
        let districts: HashSet<_> = places.iter().map(|place| place.district_id).collect();
        assert!(districts.len() >= 30);
        let cities: HashSet<_> =
            places.iter().filter_map(|place| districts::find(place.district_id)).collect();
        let cities: HashSet<_> = cities.iter().map(|names| names.city).collect();
        assert!(cities.len() >= 15);
    }

    #[test]
    fn ids_are_unique_and_exceed_doubles() {
        let places = places();
        let ids: HashSet<_> = places.iter().map(|place| &place.map_poi_id).collect();
        assert_eq!(ids.len(), places.len());
        assert!(ids.iter().all(|id| id.len() == 19 && id.parse::<i64>().is_ok()));
    }

    #[test]
    fn invented_places_resemble_documented_one() {
        let places = places();
        assert_eq!(places[0].map_poi_id, "2708071440732747189");
        assert!(places.iter().any(|place| place.address.starts_with("北京市东城区王府井大街")));
        assert!(places.iter().any(|place| place.address.starts_with("广东省东莞市鸿福路")));
        assert!(places.iter().any(|place| place.address.starts_with("湖北省仙桃市仙桃大道")));
        assert!(places.iter().any(|place| place.telephone.contains(';')));
        assert!(places.iter().any(|place| !place.telephone.starts_with(' ')));
        for place in &places[1..] {
            let (lat, lng) = districts::location(place.district_id).expect("a known district");
            assert!((place.latitude - lat).abs() < 0.011 && (place.longitude - lng).abs() < 0.011);
            assert_eq!(place.category.split(':').count(), 2);
        }
    }

    #[test]
    fn places_are_deterministic() {
        assert_eq!(places(), places());
    }
}
