//! From a message of WeChat's to an event for the log.
//!
//! Each event numbers its results in its own way; each way has a function and its table here.

use prost::Message as _;
use prost_types::Timestamp;

use super::message::Message;
use crate::{
    id::AppId,
    pb::{
        AuditEvent, AuditState, EventOrigin, LatLng, MapPoiAudit, MerchantAudit, NearbyPoiAudit,
        StoreAudit, StorePicturesAudit, SubmissionKind, audit_event::Detail,
    },
    state::{EventKey, NewEvent, Origin},
};

/// Kept as they are: WeChat documents their names, but not what is in them.
const RAW: [&str; 2] = ["nearby_category_audit_info", "poi_check_notify"];
/// The last second of the year 9999, beyond which protobuf has no time.
const LAST_SECOND: u64 = 253_402_300_799;

/// The event that a message is, if it is one for the log: a review's result, or one of `keep`. `now`
/// is when it happened if it does not say.
pub fn read(app_id: &AppId, message: &Message, keep: &[String], now: u64) -> Option<NewEvent> {
    let name = message.name();
    let review = review(name, message);
    let kept = || RAW.contains(&name) || keep.iter().any(|kept| kept.eq_ignore_ascii_case(name));
    if review.is_none() && !kept() {
        return None;
    }
    let review = review.unwrap_or_default();
    let seconds = number(message, "CreateTime").filter(|time| (1..=LAST_SECOND).contains(time));
    // The same message is the same event, however often it comes.
    let said = [app_id.as_str(), message.text()].map(str::as_bytes);
    let key = EventKey::of(seconds.unwrap_or_default(), said);
    let event_id = key.event_id();
    let event_time = seconds.unwrap_or(now);
    let encoded = AuditEvent {
        event_id: event_id.clone(),
        app_id: app_id.to_string(),
        kind: review.kind.into(),
        wechat_event: name.to_owned(),
        state: review.state.into(),
        wechat_status: review.status,
        audit_id: review.audit_id.clone(),
        reason: review.reason.clone(),
        origin: EventOrigin::Pushed.into(),
        event_time: Some(Timestamp { seconds: event_time.cast_signed(), nanos: 0 }),
        wechat_message: message.text().to_owned(),
        detail: review.detail,
        ..AuditEvent::default()
    };
    Some(NewEvent {
        key,
        event_id,
        app_id: app_id.clone(),
        kind: review.kind,
        audit_id: review.audit_id.into(),
        state: review.state,
        reason: review.reason,
        poi_id: review.poi_id.into(),
        map_poi_id: review.map_poi_id.into(),
        event_time,
        origin: Origin::Pushed,
        message: encoded.encode_to_vec().into(),
    })
}

/// What is known of a review's result; nothing, for an event that is none.
#[derive(Default)]
struct Review {
    kind: SubmissionKind,
    status: Option<i32>,
    state: AuditState,
    audit_id: String,
    reason: String,
    poi_id: String,
    map_poi_id: String,
    detail: Option<Detail>,
}

fn review(name: &str, message: &Message) -> Option<Review> {
    let field = |name| message.field(name).to_owned();
    let (kind, meaning): (_, fn(i32) -> AuditState) = match name {
        "apply_merchant_audit_info" => (SubmissionKind::Merchant, merchant_state),
        "create_map_poi_audit_info" => (SubmissionKind::MapPoi, map_poi_state),
        "add_store_audit_info" => (SubmissionKind::Store, store_state),
        "modify_store_audit_info" => (SubmissionKind::StorePictures, store_state),
        "add_nearby_poi_audit_info" => (SubmissionKind::NearbyPoi, nearby_state),
        _ => return None,
    };
    let status = number(message, "status");
    let state = status.map_or(AuditState::Unspecified, meaning);
    // Ids of what came into being are only valid then; WeChat sends others, too.
    let if_passed =
        |id: &str| if state == AuditState::Approved { id.to_owned() } else { String::new() };
    let mut review = Review {
        kind,
        status,
        state,
        audit_id: field("audit_id"),
        reason: field("reason"),
        ..Review::default()
    };
    review.detail = Some(match kind {
        SubmissionKind::Merchant => Detail::Merchant(MerchantAudit {}),
        SubmissionKind::MapPoi => {
            review.reason = field("sh_remark");
            review.map_poi_id = if_passed(message.field("map_poi_id"));
            Detail::MapPoi(MapPoiAudit {
                map_poi_id: review.map_poi_id.clone(),
                name: field("name"),
                address: field("address"),
                location: location(message),
            })
        }
        SubmissionKind::Store => {
            review.poi_id = if_passed(poi_id(message));
            Detail::Store(StoreAudit {
                poi_id: review.poi_id.clone(),
                map_poi_id: String::new(),
                is_upgrade: number(message, "is_upgrade"),
            })
        }
        SubmissionKind::StorePictures => Detail::StorePictures(StorePicturesAudit::default()),
        SubmissionKind::NearbyPoi => {
            review.poi_id = poi_id(message).to_owned();
            Detail::NearbyPoi(NearbyPoiAudit { poi_id: review.poi_id.clone() })
        }
        SubmissionKind::Unspecified => return None,
    });
    Some(review)
}

/// The `status` of apply_merchant_audit_info (1:审核通过, 3:审核失败, 4:管理员拒绝).
fn merchant_state(status: i32) -> AuditState {
    match status {
        1 => AuditState::Approved,
        3 => AuditState::Rejected,
        4 => AuditState::DeclinedByAdmin,
        _ => AuditState::Unspecified,
    }
}

/// The `status` of create_map_poi_audit_info (0:审核通过, 1:审核失败).
fn map_poi_state(status: i32) -> AuditState {
    match status {
        0 => AuditState::Approved,
        1 => AuditState::Rejected,
        _ => AuditState::Unspecified,
    }
}

/// The `status` of add_store_audit_info and modify_store_audit_info (1:审核通过, 3:审核失败).
fn store_state(status: i32) -> AuditState {
    match status {
        1 => AuditState::Approved,
        3 => AuditState::Rejected,
        _ => AuditState::Unspecified,
    }
}

/// The `status` of add_nearby_poi_audit_info (2: 审核失败, 3: 审核通过). A note of 2017 that a reason
/// comes with 3 or 4 contradicts it, and nothing else.
fn nearby_state(status: i32) -> AuditState {
    match status {
        2 => AuditState::Rejected,
        3 => AuditState::Approved,
        _ => AuditState::Unspecified,
    }
}

/// Stores have `poiid`, nearby places `poi_id`; each is read where the other is missing.
fn poi_id(message: &Message) -> &str {
    match message.field("poi_id") {
        "" => message.field("poiid"),
        id => id,
    }
}

/// By the names of the fields, which WeChat's page swaps in its descriptions.
fn location(message: &Message) -> Option<LatLng> {
    let degrees = |name| number(message, name).filter(|degrees: &f64| degrees.is_finite());
    Some(LatLng { latitude: degrees("latitude")?, longitude: degrees("longitude")? })
}

/// A field as a number, if it is one of this size.
fn number<T: std::str::FromStr>(message: &Message, name: &str) -> Option<T> {
    message.field(name).parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use prost_reflect::{DescriptorPool, DynamicMessage};
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::{callback::message, pb};

    const NOW: u64 = 1_700_000_000;

    /// A file of `tests/documented/push`.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        /// Where WeChat shows it.
        #[serde(rename = "source")]
        _source: String,
        /// How it is sealed; of interest to `seal`.
        #[serde(default, rename = "sealed")]
        _sealed: Value,
        /// In lines.
        message: Vec<String>,
        /// In the JSON of protobuf, without what all have; none if it is not kept.
        event: Option<Value>,
    }

    fn taken(text: &str) -> Option<(NewEvent, AuditEvent)> {
        let message = message::read(text.as_bytes()).expect(text);
        let event = read(&app_id(), &message, &["subscribe".to_owned()], NOW)?;
        let encoded = AuditEvent::decode(event.message.clone()).expect("a message");
        Some((event, encoded))
    }

    fn app_id() -> AppId {
        "wx00000000000000c1".to_owned().into()
    }

    /// An event with these fields beside the usual ones.
    fn push(name: &str, fields: Value) -> (NewEvent, AuditEvent) {
        let mut message = json!({"MsgType": "event", "Event": name, "CreateTime": 1_488_856_741});
        let usual = message.as_object_mut().expect("an object");
        usual.extend(fields.as_object().expect("an object").clone());
        taken(&message.to_string()).expect("kept")
    }

    #[test]
    fn every_documented_push_becomes_what_its_document_says() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/documented/push"));
        let mut kept = Vec::new();
        for file in fs::read_dir(folder).expect("examples") {
            let file = file.expect("a file").path();
            let example = fs::read(&file).expect("readable");
            let example: Example = serde_json::from_slice(&example).expect("an example");
            let text = example.message.join("\n");
            let event = taken(&text).map(|(event, encoded)| {
                assert_eq!(encoded.app_id, app_id().as_str());
                assert_eq!(encoded.event_id, event.event_id);
                assert_eq!(encoded.wechat_message, text);
                assert_eq!(encoded.origin(), EventOrigin::Pushed);
                kept.push(event.kind);
                documented(&encoded)
            });
            assert_eq!(event, example.event, "{}", file.display());
        }
        kept.sort_unstable();
        kept.dedup();
        assert_eq!(kept.len(), 5, "an example of each kind");
    }

    /// As an example has it.
    fn documented(event: &AuditEvent) -> Value {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("our own descriptors");
        let kind = pool.get_message_by_name("wechat.store.v1.AuditEvent").expect("is there");
        let event = DynamicMessage::decode(kind, &*event.encode_to_vec()).expect("the same");
        let mut event = serde_json::to_value(&event).expect("JSON");
        let fields = event.as_object_mut().expect("an object");
        for all_have in ["appId", "eventId", "wechatMessage", "origin"] {
            fields.remove(all_have).expect(all_have);
        }
        event
    }

    #[test]
    fn every_event_numbers_its_results_in_its_own_way() {
        use AuditState::{Approved as Y, DeclinedByAdmin as D, Rejected as N, Unspecified as U};
        for (name, states) in [
            ("apply_merchant_audit_info", [U, Y, U, N, D, U]),
            ("create_map_poi_audit_info", [Y, N, U, U, U, U]),
            ("add_store_audit_info", [U, Y, U, N, U, U]),
            ("modify_store_audit_info", [U, Y, U, N, U, U]),
            ("add_nearby_poi_audit_info", [U, U, N, Y, U, U]),
        ] {
            for (status, state) in (0..).zip(states) {
                for fields in [json!({"status": status}), json!({"status": status.to_string()})] {
                    let (event, encoded) = push(name, fields);
                    assert_eq!((event.state, encoded.state()), (state, state), "{name} {status}");
                    assert_eq!(encoded.wechat_status, Some(status));
                }
            }
            for none in [json!(""), json!("passed"), json!(null), json!(1_u64 << 32), json!(1.5)] {
                let (event, encoded) = push(name, json!({"status": none}));
                assert_eq!((event.state, encoded.wechat_status), (U, None), "{name} {none}");
            }
        }
    }

    #[test]
    fn what_came_into_being_has_an_id_only_if_it_passed() {
        let id = "5938314494307741153";
        let ids = |name, fields| {
            let (event, encoded) = push(name, fields);
            let detail = match encoded.detail.expect("of its kind") {
                Detail::MapPoi(place) => place.map_poi_id,
                Detail::NearbyPoi(place) => place.poi_id,
                Detail::Store(store) => store.poi_id,
                _ => unreachable!("no id"),
            };
            (event.poi_id.to_string(), event.map_poi_id.to_string(), detail)
        };
        let map_poi = |status: i32| json!({"status": status, "map_poi_id": id.parse::<u64>().ok()});
        let found = (String::new(), id.to_owned(), id.to_owned());
        assert_eq!(ids("create_map_poi_audit_info", map_poi(0)), found);
        assert_eq!(ids("create_map_poi_audit_info", map_poi(1)), Default::default());

        let found = ("472671857".to_owned(), String::new(), "472671857".to_owned());
        for spelling in ["poiid", "poi_id"] {
            let poi = |status: i32| json!({"status": status, spelling: 472_671_857});
            assert_eq!(ids("add_store_audit_info", poi(1)), found);
            assert_eq!(ids("add_store_audit_info", poi(3)), Default::default());
            assert_eq!(ids("add_nearby_poi_audit_info", poi(3)), found);
            assert_eq!(ids("add_nearby_poi_audit_info", poi(2)), found, "it was there before");
        }
    }

    #[test]
    fn a_place_is_where_its_fields_are_named_after() {
        let location = |latitude: Value, longitude: Value| {
            let fields = json!({"status": 0, "latitude": latitude, "longitude": longitude});
            match push("create_map_poi_audit_info", fields).1.detail {
                Some(Detail::MapPoi(place)) => place.location,
                other => unreachable!("{other:?}"),
            }
        };
        let there = Some(LatLng { latitude: 23.0974903107, longitude: 113.323753357 });
        assert_eq!(location(json!(23.0974903107), json!(113.323753357)), there);
        assert_eq!(location(json!("23.0974903107"), json!("113.323753357")), there);
        for nowhere in [json!(""), json!(null), json!("NaN"), json!("inf"), json!("xxx")] {
            assert_eq!(location(nowhere.clone(), json!(1)), None);
            assert_eq!(location(json!(1), nowhere), None);
        }
    }

    #[test]
    fn a_review_says_when_and_why() {
        let name = "create_map_poi_audit_info";
        let (event, encoded) = push(name, json!({"sh_remark": "重复", "reason": "no field of it"}));
        assert_eq!((event.reason.as_str(), encoded.reason.as_str()), ("重复", "重复"));
        for (time, seconds) in [
            (json!("1488856741"), 1_488_856_741),
            (json!(253_402_300_799_u64), 253_402_300_799),
            (json!(253_402_300_800_u64), NOW),
            (json!(u64::MAX), NOW),
            (json!(0), NOW),
            (json!(-1), NOW),
            (json!(""), NOW),
        ] {
            let (event, encoded) = push("modify_store_audit_info", json!({"CreateTime": time}));
            assert_eq!(event.event_time, seconds, "{time}");
            assert_eq!(encoded.event_time.map(|time| time.seconds), Some(seconds.cast_signed()));
        }
    }

    #[test]
    fn other_messages_are_kept_as_they_are_or_not_at_all() {
        for name in ["nearby_category_audit_info", "poi_check_notify", "subscribe", "Subscribe"] {
            let (event, encoded) = push(name, json!({"status": 1, "audit_id": 7}));
            assert_eq!(event.kind, SubmissionKind::Unspecified);
            assert!(event.audit_id.is_empty() && encoded.detail.is_none());
            assert_eq!((encoded.wechat_event.as_str(), encoded.wechat_status), (name, None));
            assert!(encoded.wechat_message.contains(name));
        }
        for text in [
            r#"{"MsgType":"event","Event":"unsubscribe"}"#,
            r#"{"MsgType":"event","Event":"ADD_STORE_AUDIT_INFO"}"#,
            r#"{"MsgType":"text","Content":"hello","Event":"add_store_audit_info"}"#,
            "{}",
        ] {
            assert!(taken(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_event_is_named_after_its_account_and_every_byte_of_its_message() {
        let name = |text: &str| taken(text).expect("kept").0.event_id;
        let text = r#"{"Event":"add_store_audit_info"}"#;
        assert_eq!(name(text), name(text));
        assert_ne!(name(text), name(&format!("{text} ")));
        let id = uuid::Uuid::parse_str(&name(text)).expect("a UUID");
        assert_eq!(id.get_version_num(), 8);
        let message = message::read(text.as_bytes()).expect(text);
        let another = read(&"wx00000000000000c2".to_owned().into(), &message, &[], NOW);
        assert_ne!(another.expect("kept").event_id, name(text));
    }
}
