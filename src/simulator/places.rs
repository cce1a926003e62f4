//! The places that the map knows from the start.

/// One place on the map.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) map_poi_id: String,
    pub(super) branch_name: String,
    pub(super) address: String,
    pub(super) longitude: f64,
    pub(super) latitude: f64,
    pub(super) telephone: String,
    pub(super) category: String,
    pub(super) district_id: u32,
}

/// All places of a fresh map.
pub(super) fn places() -> Vec<Place> {
    let place = |number: u32| Place {
        map_poi_id: (2_880_741_500_279_549_000 + u64::from(number)).to_string(),
        branch_name: format!("江南茶铺({number}号店)"),
        address: format!("广东省广州市海珠区江南大道中{number}号"),
        longitude: 113.274 + f64::from(number) / 1000.0,
        latitude: 23.108,
        telephone: format!(" 020-8918{number:04}"),
        category: "美食:小吃快餐".to_owned(),
        district_id: 440_105,
    };
    (1..=20).map(place).collect()
}
