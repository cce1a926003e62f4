//! Requests that several test programs send.

use wechat_simulator::{COMPANY, MINI_PROGRAM_APP_ID};
use wechat_store_gateway::pb;

/// Returns a nearby place.
pub(crate) fn nearby_profile(map_poi_id: &str) -> pb::NearbyPoiProfile {
    pb::NearbyPoiProfile {
        name: "巷口小馆".to_owned(),
        map_poi_id: map_poi_id.to_owned(),
        address: "广东省广州市海珠区新港中路397号".to_owned(),
        picture_urls: vec!["http://mmbiz.qpic.cn/mmbiz_png/first/0".to_owned()],
        contact_phone: "020-89190388".to_owned(),
        hours: Some(hours("10:00", "21:30")),
        company_name: COMPANY.to_owned(),
        license_number: "156718193518281".to_owned(),
        service_labels: vec![pb::ServiceLabel {
            kind: pb::NearbyServiceKind::Delivery.into(),
            app_id: MINI_PROGRAM_APP_ID.to_owned(),
            path: "pages/index".to_owned(),
            description: "满减".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Returns opening hours without a text.
pub(crate) fn hours(open: &str, close: &str) -> pb::OpeningHours {
    pb::OpeningHours { open: open.to_owned(), close: close.to_owned(), text: String::new() }
}
