//! The provinces, cities and districts of China, as `get_district` returns them.
//!
//! The reply is three arrays. A node's `cidx` gives the first and last index of its children in the
//! next array, both inclusive. A node without children has no `cidx`. Three kinds of branches do not
//! have three levels, and clients often get them wrong:
//!
//! - Municipalities, Hong Kong and Macau: the districts are directly below the province.
//! - Cities without districts (`东莞市`, `中山市`, `儋州市`, `嘉峪关市`), and Taiwan: they have no `cidx`.
//! - Province-administered counties (`仙桃市`): they are on the second level. Each has a virtual child
//!   that repeats it, with an id that ends in 99.
//!
//! `data/README.md` names the sources of the table.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Value, json};

/// Returns the body of a successful `get_district`.
pub(super) fn table() -> &'static Value {
    static TABLE: LazyLock<Value> = LazyLock::new(|| TREE.body());
    &TABLE
}

/// Returns the full names of the node `district_id` and of the nodes above it.
pub(super) fn find(district_id: u32) -> Option<Names> {
    let mut line: Vec<_> = TREE.upward(district_id).collect();
    line.reverse();
    let mut names = Names { province: line.first()?.fullname, ..Names::default() };
    match line[1..] {
        [district] if district.is_directly_below_province() => {
            names.city = names.province;
            names.district = district.fullname;
        }
        [city] => names.city = city.fullname,
        [city, district] => {
            names.city = city.fullname;
            names.district = district.fullname;
        }
        _ => {}
    }
    Some(names)
}

/// Returns whether `id` is `ancestor` or lies in it. An unknown id lies nowhere.
pub(super) fn contains(ancestor: u32, id: u32) -> bool {
    TREE.upward(id).any(|node| node.id == ancestor)
}

/// Returns the latitude and longitude of the node `district_id`.
pub(super) fn location(district_id: u32) -> Option<(f64, f64)> {
    TREE.upward(district_id).next().map(|node| (node.lat, node.lng))
}

/// Full names as in an address. A level that a node does not have is empty.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Names {
    /// For example `广东省`.
    pub(super) province: &'static str,
    /// For example `广州市`. In a municipality it repeats the province, as in Tencent's addresses.
    pub(super) city: &'static str,
    /// For example `海珠区`.
    pub(super) district: &'static str,
}

struct Tree {
    /// The three arrays of the reply.
    levels: [Vec<Node>; 3],
    /// The level and index of each id.
    positions: HashMap<u32, (usize, usize)>,
}

impl Tree {
    /// Parses the compiled-in table, in which a node follows its parent.
    #[expect(clippy::expect_used, reason = "the table is compiled in, and tests read it")]
    fn parse(table: &'static str) -> Self {
        let mut levels: [Vec<Node>; 3] = Default::default();
        let mut positions = HashMap::new();
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let (level, mut node) = Node::parse(line).expect("the table is compiled in");
            let index = levels[level].len();
            if let Some(parent) = level.checked_sub(1).and_then(|above| levels[above].last_mut()) {
                let first = parent.cidx.map_or(index, |(first, _)| first);
                parent.cidx = Some((first, index));
                node.parent = Some(parent.id);
            }
            positions.insert(node.id, (level, index));
            levels[level].push(node);
        }
        Self { levels, positions }
    }

    /// Returns the node `id` and the nodes above it, up to the province. An unknown id has none.
    fn upward(&self, id: u32) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.node(id), |node| self.node(node.parent?))
    }

    fn node(&self, id: u32) -> Option<&Node> {
        let &(level, index) = self.positions.get(&id)?;
        self.levels[level].get(index)
    }

    fn body(&self) -> Value {
        let bodies = |level: &Vec<Node>| level.iter().map(Node::body).collect::<Vec<_>>();
        json!({
            "status": 0,
            "message": "query ok",
            "data_version": DATA_VERSION,
            "result": self.levels.each_ref().map(bodies),
        })
    }
}

struct Node {
    id: u32,
    parent: Option<u32>,
    fullname: &'static str,
    lat: f64,
    lng: f64,
    /// The short name and pinyin syllables. Nodes on the third level have none.
    short: Option<(&'static str, Vec<&'static str>)>,
    cidx: Option<(usize, usize)>,
}

impl Node {
    /// Parses a line. Also returns its level, counted from zero.
    fn parse(line: &'static str) -> Option<(usize, Self)> {
        let mut fields = line.split('\t');
        let level = fields.next()?.parse::<usize>().ok()?.checked_sub(1)?;
        let node = Self {
            id: fields.next()?.parse().ok()?,
            parent: None,
            fullname: fields.next()?,
            lat: fields.next()?.parse().ok()?,
            lng: fields.next()?.parse().ok()?,
            short: fields.next().zip(fields.next().map(|pinyin| pinyin.split(' ').collect())),
            cidx: None,
        };
        Some((level, node))
    }

    /// Returns whether a node on the second level is a district of a municipality or SAR, and not a
    /// city.
    fn is_directly_below_province(&self) -> bool {
        self.cidx.is_none() && !self.id.is_multiple_of(100)
    }

    fn body(&self) -> Value {
        let mut body = json!({
            "id": self.id.to_string(),
            "fullname": self.fullname,
            "location": { "lat": self.lat, "lng": self.lng },
        });
        if let Some((name, pinyin)) = &self.short {
            body["name"] = json!(name);
            body["pinyin"] = json!(pinyin);
        }
        if let Some(cidx) = self.cidx {
            body["cidx"] = json!(cidx);
        }
        body
    }
}

/// The version of the table: a date, as in WeChat's replies.
const DATA_VERSION: &str = "20220101";

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::parse(include_str!("../data/districts.tsv")));

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, ops::RangeInclusive};

    use super::*;

    fn level(level: usize) -> &'static [Value] {
        table()["result"][level].as_array().expect("an array per level")
    }

    fn by_id(id: &str) -> &'static Value {
        let nodes = (0..3).flat_map(level);
        nodes.into_iter().find(|node| node["id"] == id).expect("the node is in the table")
    }

    fn children(node: &Value) -> Option<RangeInclusive<usize>> {
        let [first, last] = serde_json::from_value(node.get("cidx")?.clone()).expect("two numbers");
        Some(first..=last)
    }

    #[test]
    fn table_ids_are_unique_and_complete() {
        assert_eq!(level(0).len(), 34);
        let nodes: Vec<_> = (0..3).flat_map(level).collect();
        assert!(nodes.len() > 3200, "only {} nodes", nodes.len());
        let ids: HashSet<_> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
        assert_eq!(ids.len(), nodes.len());
        assert!(ids.iter().all(|id| id.len() == 6));
    }

    #[test]
    fn nodes_match_documented_examples() {
        let guangzhou = json!({
            "id": "440100",
            "name": "广州",
            "fullname": "广州市",
            "pinyin": ["guang", "zhou"],
            "location": { "lat": 23.12908, "lng": 113.26436 },
            "cidx": by_id("440100")["cidx"],
        });
        assert_eq!(*by_id("440100"), guangzhou);
        let haizhu = json!({
            "id": "440105",
            "fullname": "海珠区",
            "location": { "lat": 23.08331, "lng": 113.3172 },
        });
        assert_eq!(*by_id("440105"), haizhu);
        assert_eq!(by_id("110105")["pinyin"], json!(["chao", "yang"]));
    }

    #[test]
    fn cidx_is_inclusive_range_of_children() {
        let cities = children(by_id("440000")).expect("Guangdong has cities");
        assert_eq!(cities.clone().count(), 21);
        assert!(level(1)[cities].iter().all(|city| city["id"].as_str() > Some("440000")));
        let districts = children(by_id("440100")).expect("Guangzhou has districts");
        assert_eq!(level(2)[districts.clone()].len(), 11);
        assert_eq!(level(2)[*districts.start()]["fullname"], "荔湾区");
    }

    #[test]
    fn cidx_ranges_do_not_overlap() {
        for upper in 0..2 {
            let covered: Vec<_> = level(upper).iter().filter_map(children).flatten().collect();
            assert_eq!(covered, (0..level(upper + 1).len()).collect::<Vec<_>>());
        }
        assert!(level(2).iter().all(|node| node.get("cidx").is_none()));
    }

    #[test]
    fn some_branches_have_two_levels() {
        for province in ["110000", "120000", "310000", "500000", "810000", "820000"] {
            let districts = children(by_id(province)).expect("districts directly below");
            assert!(level(1)[districts].iter().all(|node| node.get("cidx").is_none()));
        }
        for childless in ["441900", "442000", "460400", "620200", "710000"] {
            assert!(by_id(childless).get("cidx").is_none());
        }
    }

    #[test]
    fn province_administered_county_has_virtual_child() {
        let child = children(by_id("429004")).expect("a child").collect::<Vec<_>>();
        assert_eq!(child.len(), 1);
        assert_eq!(level(2)[child[0]]["id"], "420499");
        assert_eq!(level(2)[child[0]]["fullname"], "仙桃市");
    }

    #[test]
    fn names_match_those_in_addresses() {
        let names = |province, city, district| Some(Names { province, city, district });
        assert_eq!(find(440_000), names("广东省", "", ""));
        assert_eq!(find(440_105), names("广东省", "广州市", "海珠区"));
        assert_eq!(find(441_900), names("广东省", "东莞市", ""));
        assert_eq!(find(110_105), names("北京市", "北京市", "朝阳区"));
        assert_eq!(find(429_004), names("湖北省", "仙桃市", ""));
        assert_eq!(find(420_499), names("湖北省", "仙桃市", "仙桃市"));
        assert_eq!(find(100_000), None);
    }

    #[test]
    fn node_contains_itself_and_descendants() {
        assert!(contains(440_000, 440_105));
        assert!(contains(440_100, 440_105));
        assert!(contains(440_105, 440_105));
        assert!(contains(429_004, 420_499));
        assert!(!contains(420_400, 420_499));
        assert!(!contains(440_105, 440_100));
        assert!(!contains(440_300, 440_105));
        assert!(!contains(100_000, 100_000));
    }
}
