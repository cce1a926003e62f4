//! Converts a message of WeChat's into an event for the log.
//!
//! Each kind of event has its own numbers for results, and a function with the table of these
//! numbers.

use std::str::FromStr;

use bytes::Bytes;
use prost_types::Timestamp;

use super::message::{self, Message};
use crate::{
    pb::{
        AuditEvent, AuditState, LatLng, MapPoiAudit, MerchantAudit, NearbyPoiAudit, StoreAudit,
        StorePicturesAudit, SubmissionKind, audit_event::Detail,
    },
    state::{EventKey, NewEvent, Origin},
    util::id::AppId,
};

/// Events that are kept unparsed: WeChat documents their names, but not their contents.
const RAW: [&str; 2] = ["nearby_category_audit_info", "poi_check_notify"];
/// The last second of the year 9999. protobuf has no later time.
const LAST_SECOND: u64 = 253_402_300_799;
/// The limit for an id in bytes. WeChat's ids are shorter.
const ID_LIMIT: usize = 64;

/// Returns the event of a message, or `None` if the message is not for the log. Events for the log
/// are results of reviews, the messages in `keep`, and messages without a clear name. `now`
/// replaces a missing time.
pub fn from_message(
    app_id: &AppId,
    message: &Message,
    keep: &[String],
    now: u64,
) -> Option<NewEvent> {
    let name = message.name();
    let mut fields = Fields { message, unreadable: Vec::new() };
    let review = review(name, &mut fields);
    let kept = || {
        is_unclear(name)
            || RAW.iter().any(|raw| raw.eq_ignore_ascii_case(name))
            || keep.iter().any(|kept| kept.eq_ignore_ascii_case(name))
    };
    if review.is_none() && !kept() {
        return None;
    }
    let seconds = fields.number("CreateTime", |time| (1..=LAST_SECOND).contains(time));
    let Fields { unreadable, .. } = fields;
    let original = AuditEvent {
        wechat_event: name.to_owned(),
        wechat_message: message.text().to_owned(),
        raw_wechat_message: message.faulty().cloned().unwrap_or_default(),
        unreadable_fields: unreadable,
        ..AuditEvent::default()
    };
    let key = key(app_id, seconds, message.bytes());
    Some(event(app_id, key, seconds.unwrap_or(now), review.unwrap_or_default(), original))
}

/// Returns the event for an authentic push with unreadable content. The content is kept unchanged
/// for an operator, because WeChat does not send it again later.
pub fn unreadable(app_id: &AppId, content: &Bytes, now: u64) -> NewEvent {
    let original = AuditEvent {
        wechat_message: message::text(content).into_owned(),
        raw_wechat_message: content.clone(),
        ..AuditEvent::default()
    };
    event(app_id, key(app_id, None, content), now, Review::default(), original)
}

/// Returns true if the name may be a damaged name of a review's result.
fn is_unclear(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    name.is_empty() || name.eq_ignore_ascii_case("event") || !name.bytes().all(is_part)
}

/// Returns the key of an event. The same message always has the same key, so a repeated push is the
/// same event.
fn key(app_id: &AppId, seconds: Option<u64>, content: &[u8]) -> EventKey {
    EventKey::of(seconds.unwrap_or_default(), [app_id.as_str().as_bytes(), content])
}

fn event(
    app_id: &AppId,
    key: EventKey,
    event_time: u64,
    review: Review,
    original: AuditEvent,
) -> NewEvent {
    let event = AuditEvent {
        app_id: app_id.to_string(),
        kind: review.kind.into(),
        state: review.state.into(),
        wechat_status: review.status,
        audit_id: review.audit_id,
        reason: review.reason,
        event_time: Some(timestamp(event_time)),
        detail: review.detail,
        ..original
    };
    NewEvent::from_event(key, event, Origin::Pushed)
}

/// Returns a time in seconds after 1970 as the contract has it.
pub(super) fn timestamp(seconds: u64) -> Timestamp {
    Timestamp { seconds: seconds.min(LAST_SECOND).cast_signed(), nanos: 0 }
}

/// The parts of a review's result. Empty for other events.
#[derive(Default)]
struct Review {
    kind: SubmissionKind,
    status: Option<i32>,
    state: AuditState,
    audit_id: String,
    reason: String,
    detail: Option<Detail>,
}

fn review(name: &str, fields: &mut Fields<'_>) -> Option<Review> {
    let (kind, meaning): (_, fn(i32) -> AuditState) = match &*name.to_ascii_lowercase() {
        "apply_merchant_audit_info" => (SubmissionKind::Merchant, merchant_state),
        "create_map_poi_audit_info" => (SubmissionKind::MapPoi, map_poi_state),
        "add_store_audit_info" => (SubmissionKind::Store, store_state),
        "modify_store_audit_info" => (SubmissionKind::StorePictures, store_state),
        "add_nearby_poi_audit_info" => (SubmissionKind::NearbyPoi, nearby_state),
        _ => return None,
    };
    let status = fields.number("status", |_| true);
    let state = status.map_or(AuditState::Unspecified, meaning);
    // The id of a new object is only valid after approval. WeChat also sends ids after a rejection.
    let passed = state == AuditState::Approved;
    let mut review =
        Review { kind, status, state, audit_id: fields.id("audit_id"), ..Review::default() };
    review.reason = fields.text(match kind {
        SubmissionKind::MapPoi => "sh_remark",
        _ => "reason",
    });
    review.detail = Some(match kind {
        SubmissionKind::Merchant => Detail::Merchant(MerchantAudit {}),
        SubmissionKind::MapPoi => {
            let location = fields.location();
            let mut map_poi_id = String::new();
            if passed {
                map_poi_id = fields.id("map_poi_id");
            } else {
                // WeChat's own example of a failure has `xxx` in these fields.
                fields.unreadable.retain(|name| !matches!(&**name, "latitude" | "longitude"));
            }
            Detail::MapPoi(MapPoiAudit {
                map_poi_id,
                name: fields.text("name"),
                address: fields.text("address"),
                location,
            })
        }
        SubmissionKind::Store => Detail::Store(StoreAudit {
            poi_id: if passed { fields.poi_id() } else { String::new() },
            map_poi_id: String::new(),
            wechat_is_upgrade: fields.number("is_upgrade", |_| true),
        }),
        SubmissionKind::StorePictures => Detail::StorePictures(StorePicturesAudit::default()),
        SubmissionKind::NearbyPoi => {
            Detail::NearbyPoi(NearbyPoiAudit { nearby_poi_id: fields.poi_id() })
        }
        SubmissionKind::Unspecified => return None,
    });
    Some(review)
}

/// The typed fields of a message.
struct Fields<'a> {
    message: &'a Message,
    /// The names of the fields with an invalid value.
    unreadable: Vec<String>,
}

impl Fields<'_> {
    /// Returns a text, or an empty one if the field is missing.
    fn text(&mut self, name: &str) -> String {
        if self.message.is_doubtful(name) {
            self.unreadable.push(name.to_owned());
        }
        self.message.field(name).to_owned()
    }

    /// Returns a number, or `None` if the field is missing or its value is not possible.
    fn number<T: FromStr>(&mut self, name: &str, is_possible: impl Fn(&T) -> bool) -> Option<T> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        let number = text.parse().ok().filter(is_possible);
        if number.is_none() {
            self.unreadable.push(name.to_owned());
        }
        number
    }

    /// Returns an id of any length, or an empty text if the field is missing or 0.
    fn id(&mut self, name: &str) -> String {
        let text = self.text(name);
        let id = text.trim_matches(message::is_blank);
        if id.bytes().all(|byte| byte == b'0') {
            return String::new();
        }
        let is_id = id.len() <= ID_LIMIT
            && !matches!(id, "true" | "false")
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !is_id {
            self.unreadable.push(name.to_owned());
            return String::new();
        }
        id.to_owned()
    }

    /// Returns the id of a store (`poiid`) or a nearby place (`poi_id`). If one field is missing,
    /// the other is used.
    fn poi_id(&mut self) -> String {
        match self.message.field("poi_id") {
            "" if !self.message.is_doubtful("poi_id") => self.id("poiid"),
            _ => self.id("poi_id"),
        }
    }

    /// Returns the location by the names of the fields. The descriptions on WeChat's page swap
    /// them.
    fn location(&mut self) -> Option<LatLng> {
        // This also excludes numbers that are not finite.
        let latitude = self.number("latitude", |degrees: &f64| degrees.abs() <= 90.0);
        let longitude = self.number("longitude", |degrees: &f64| degrees.abs() <= 180.0);
        Some(LatLng { latitude: latitude?, longitude: longitude? })
    }
}

/// Returns the state for a `status` of apply_merchant_audit_info (1:审核通过, 3:审核失败, 4:管理员拒绝).
fn merchant_state(status: i32) -> AuditState {
    match status {
        1 => AuditState::Approved,
        3 => AuditState::Rejected,
        4 => AuditState::DeclinedByAdmin,
        _ => AuditState::Unspecified,
    }
}

/// Returns the state for a `status` of create_map_poi_audit_info (0:审核通过, 1:审核失败).
fn map_poi_state(status: i32) -> AuditState {
    match status {
        0 => AuditState::Approved,
        1 => AuditState::Rejected,
        _ => AuditState::Unspecified,
    }
}

/// Returns the state for a `status` of add_store_audit_info and modify_store_audit_info (1:审核通过,
/// 3:审核失败).
fn store_state(status: i32) -> AuditState {
    match status {
        1 => AuditState::Approved,
        3 => AuditState::Rejected,
        _ => AuditState::Unspecified,
    }
}

/// Returns the state for a `status` of add_nearby_poi_audit_info (2: 审核失败, 3: 审核通过). Only a note of
/// 2017, about a reason that comes with 3 or 4, contradicts this.
fn nearby_state(status: i32) -> AuditState {
    match status {
        2 => AuditState::Rejected,
        3 => AuditState::Approved,
        _ => AuditState::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use prost::Message as _;
    use prost_reflect::{DescriptorPool, DynamicMessage};
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        pb::{self, EventOrigin},
        push::message,
    };

    const NOW: u64 = 1_700_000_000;

    /// A file in `tests/documented/push`.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        /// The page on which WeChat shows the message.
        #[serde(rename = "source")]
        _source: String,
        /// The encryption of the message, for the tests of encryption.
        #[serde(default, rename = "sealed")]
        _sealed: Value,
        /// The lines of the message.
        message: Vec<String>,
        /// The event in the JSON form of protobuf, without the fields that every event has. `None`
        /// if the message is not kept.
        event: Option<Value>,
    }

    fn taken(text: &str) -> Option<(NewEvent, AuditEvent)> {
        taken_bytes(text.as_bytes())
    }

    fn taken_bytes(bytes: &[u8]) -> Option<(NewEvent, AuditEvent)> {
        let message = message::parse(bytes).expect("readable");
        let event = from_message(&app_id(), &message, &["subscribe".to_owned()], NOW)?;
        let encoded = AuditEvent::decode(event.message.clone()).expect("a message");
        Some((event, encoded))
    }

    fn app_id() -> AppId {
        "wx00000000000000c1".to_owned().into()
    }

    /// Returns an event with the usual fields and these.
    fn push(name: &str, fields: Value) -> (NewEvent, AuditEvent) {
        let mut message = json!({"MsgType": "event", "Event": name, "CreateTime": 1_488_856_741});
        let usual = message.as_object_mut().expect("an object");
        usual.extend(fields.as_object().expect("an object").clone());
        taken(&message.to_string()).expect("kept")
    }

    #[test]
    fn documented_push_becomes_documented_event() {
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

    /// Returns the event in the form of an example.
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
    fn result_numbers_depend_on_the_event() {
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
            for none in [json!(""), json!(null)] {
                let (event, encoded) = push(name, json!({"status": none}));
                assert_eq!((event.state, encoded.wechat_status), (U, None), "{name} {none}");
                assert_eq!(encoded.unreadable_fields, [""; 0], "{name} {none}");
            }
            for none in
                [json!("passed"), json!(1_u64 << 31), json!(1_u64 << 32), json!(1.5), json!([1])]
            {
                let (event, encoded) = push(name, json!({"status": none}));
                assert_eq!((event.state, encoded.wechat_status), (U, None), "{name} {none}");
                assert_eq!(encoded.unreadable_fields, ["status"], "{name} {none}");
            }
        }
    }

    #[test]
    fn new_object_has_id_only_after_approval() {
        let id = "5938314494307741153";
        let ids = |name, fields| {
            let (event, encoded) = push(name, fields);
            let detail = match encoded.detail.expect("of its kind") {
                Detail::MapPoi(place) => place.map_poi_id,
                Detail::NearbyPoi(place) => place.nearby_poi_id,
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
    fn location_follows_the_names_of_its_fields() {
        let location = |latitude: Value, longitude: Value| {
            let fields = json!({"status": 0, "latitude": latitude, "longitude": longitude});
            let (_, encoded) = push("create_map_poi_audit_info", fields);
            match encoded.detail {
                Some(Detail::MapPoi(place)) => {
                    (place.location, encoded.unreadable_fields.join(" "))
                }
                other => unreachable!("{other:?}"),
            }
        };
        let there = Some(LatLng { latitude: 23.0974903107, longitude: 113.323753357 });
        let there = (there, String::new());
        assert_eq!(location(json!(23.0974903107), json!(113.323753357)), there);
        assert_eq!(location(json!("23.0974903107"), json!("113.323753357")), there);
        for nowhere in [json!(""), json!(null)] {
            assert_eq!(location(nowhere.clone(), json!(1)), (None, String::new()));
            assert_eq!(location(json!(1), nowhere), (None, String::new()));
        }
        for nowhere in [json!("NaN"), json!("inf"), json!("xxx"), json!(1e300), json!([1])] {
            assert_eq!(location(nowhere.clone(), json!(1)), (None, "latitude".to_owned()));
            assert_eq!(location(json!(1), nowhere), (None, "longitude".to_owned()));
        }
        let swapped = location(json!(113.323753357), json!(23.0974903107));
        assert_eq!(swapped, (None, "latitude".to_owned()));
    }

    #[test]
    fn review_result_has_time_and_reason() {
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
    fn other_message_is_kept_only_if_configured() {
        for name in ["nearby_category_audit_info", "poi_check_notify", "subscribe", "Subscribe"] {
            let (event, encoded) = push(name, json!({"status": 1, "audit_id": 7}));
            assert_eq!(event.kind, SubmissionKind::Unspecified);
            assert!(event.audit_id.is_empty() && encoded.detail.is_none());
            assert_eq!((encoded.wechat_event.as_str(), encoded.wechat_status), (name, None));
            assert!(encoded.wechat_message.contains(name));
        }
        for text in [
            r#"{"MsgType":"event","Event":"unsubscribe"}"#,
            r#"{"MsgType":"text","Content":"hello","Event":"add_store_audit_info"}"#,
            "{\"MsgType\":\"text\",\"Content\":\"a\u{14}b\"}",
        ] {
            assert!(taken(text).is_none(), "{text}");
        }
    }

    #[test]
    fn message_without_a_name_is_kept() {
        for text in [
            "{}",
            "<xml></xml>",
            r#"{"MsgType":"event","status":1}"#,
            r#"{"MsgType":"event","Event":"审核"}"#,
            r#"{"Event":{"a":1},"MsgType":"event","Event":"add_store_audit_info",}"#,
            "{\"Event\":\"add_store_audit_info\",\"a\":\"\n\",\"MsgType\":\"event\",\"MsgType\":\"text\"}",
        ] {
            let (event, encoded) = taken(text).expect(text);
            assert_eq!((event.kind, encoded.detail), (SubmissionKind::Unspecified, None), "{text}");
            assert_eq!(encoded.wechat_message, text);
        }
    }

    #[test]
    fn faulty_message_is_parsed_and_kept_unchanged() {
        let json = |reason: &[u8]| {
            let head =
                br#"{"MsgType":"event","Event":"add_store_audit_info","audit_id":416620525,"#;
            [head, &br#""status":3,"reason":""#[..], reason, b"\"}"].concat()
        };
        let xml = |reason: &[u8]| {
            let head = b"<xml><Event>add_store_audit_info</Event><audit_id>416620525</audit_id>";
            [head, &b"<status>3</status><reason>"[..], reason, b"</reason></xml>"].concat()
        };
        let (gbk, cut) = (b"\xc3\xc5\xcd\xb7\xb2\xbb\xc7\xe5", "门头不清".as_bytes());
        for (bytes, reason) in [
            (json("门头\u{14}不\n清".as_bytes()), "门头\u{14}不\n清"),
            (json("门头\"不清".as_bytes()), "门头\"不清"),
            (json(br"\ud83d"), "\u{fffd}"),
            (json(gbk), "门头不清"),
            (json(&cut[..cut.len() - 1]), "门头不\u{fffd}"),
            (xml(gbk), "门头不清"),
            (xml(&cut[..cut.len() - 1]), "门头不\u{fffd}"),
            (xml("门头&nbsp;&不清".as_bytes()), "门头&nbsp;&不清"),
            ([b"\0\xef\xbb\xbf", &xml(b"a")[..], b"\0\0"].concat(), "a"),
        ] {
            let (event, encoded) = taken_bytes(&bytes).expect("kept");
            assert_eq!((event.kind, event.state), (SubmissionKind::Store, AuditState::Rejected));
            assert_eq!(event.audit_id.as_str(), "416620525");
            assert_eq!((event.reason.as_str(), encoded.reason.as_str()), (reason, reason));
            assert_eq!(encoded.raw_wechat_message, bytes, "{reason}");
        }
        let (event, encoded) = taken_bytes(&xml("门头\u{14}不清".as_bytes())).expect("kept");
        assert_eq!(event.reason, "门头\u{14}不清");
        assert!(encoded.raw_wechat_message.is_empty(), "nothing is wrong with it");
    }

    #[test]
    fn doubled_field_of_faulty_message_is_unreadable() {
        let typed = "{\"Event\":\"create_map_poi_audit_info\",\"name\":\"x\ny\",\"status\":0,
            \"map_poi_id\":\"5938314494307741153\",\"audit_id\":7,\"status\":1,\"audit_id\":7}";
        let (event, encoded) = taken(typed).expect("kept");
        assert_eq!((event.state, encoded.wechat_status), (AuditState::Unspecified, None));
        assert_eq!(event.map_poi_id.as_str(), "");
        assert_eq!(event.audit_id.as_str(), "7", "the two say the same");
        assert_eq!(encoded.unreadable_fields, ["status"]);
    }

    #[test]
    fn id_is_text_without_blanks() {
        let id = |id: Value| {
            let (event, encoded) = push("modify_store_audit_info", json!({"audit_id": id}));
            (event.audit_id.to_string(), encoded.unreadable_fields.join(" "))
        };
        let long = "123456789012345678901234";
        assert_eq!(id(json!(long)), (long.to_owned(), String::new()));
        assert_eq!(
            id(json!("\u{feff} \t416620525\u{200b}\u{3000}\n")),
            ("416620525".to_owned(), String::new())
        );
        for none in [json!(0), json!("0"), json!(""), json!(" "), json!(null)] {
            assert_eq!(id(none.clone()), Default::default(), "{none}");
        }
        for other in
            [json!({"a": 1}), json!([7]), json!(true), json!(4.5), json!("4 5"), json!("审")]
        {
            assert_eq!(id(other.clone()), (String::new(), "audit_id".to_owned()), "{other}");
        }
        let unquoted = format!(r#"{{"Event":"modify_store_audit_info","audit_id":{long}}}"#);
        assert_eq!(taken(&unquoted).expect("kept").0.audit_id.as_str(), long);
    }

    #[test]
    fn unreadable_content_is_kept_unchanged() {
        let kept = |bytes: &'static [u8]| {
            let event = unreadable(&app_id(), &Bytes::from_static(bytes), NOW);
            let encoded = AuditEvent::decode(event.message.clone()).expect("a message");
            assert_eq!((event.kind, event.state), Default::default());
            (event, encoded)
        };
        for bytes in [&b""[..], b"\0\xff\xfe", "审核".as_bytes(), b"<!DOCTYPE xml><xml/>"] {
            let (event, encoded) = kept(bytes);
            assert_eq!(encoded.raw_wechat_message, bytes);
            assert_eq!(encoded.wechat_message, String::from_utf8_lossy(bytes));
            assert_eq!((encoded.event_id, encoded.wechat_event), (event.event_id, String::new()));
            assert_eq!(encoded.event_time.map(|time| time.seconds), Some(NOW.cast_signed()));
            assert_eq!(kept(bytes).0.key, event.key);
        }
        assert_ne!(kept(b"a").0.key, kept(b"b").0.key);
    }

    #[test]
    fn event_key_covers_account_and_whole_message() {
        let name = |text: &str| taken(text).expect("kept").0.event_id;
        let text = r#"{"Event":"add_store_audit_info"}"#;
        assert_eq!(name(text), name(text));
        assert_ne!(name(text), name(&format!("{text} ")));
        let id = uuid::Uuid::parse_str(&name(text)).expect("a UUID");
        assert_eq!(id.get_version_num(), 8);
        let message = message::parse(text.as_bytes()).expect(text);
        let another = from_message(&"wx00000000000000c2".to_owned().into(), &message, &[], NOW);
        assert_ne!(another.expect("kept").event_id, name(text));
    }
}
