//! Properties that must hold for any bytes of a push, or of a reply from WeChat.
//!
//! The fuzzer calls these functions with its own inputs. `tests/it/fuzz.rs` calls them with the
//! corpus and with mutations of it.

use prost::Message as _;
use wechat_simulator::message_crypto as sender;
use wechat_store_gateway::{
    pb::{AuditEvent, AuditState, EventOrigin, SubmissionKind, audit_event::Detail},
    state::NewEvent,
    testing::{
        AppId, Secret, lenient,
        message_crypto::{self, Key},
        push::{
            envelope, event,
            message::{self, Message},
        },
    },
};

/// The account for which everything in the corpus is encrypted.
const APP_ID: &str = "wxba5fad812f8e6fb9";
/// The number of characters of a key. An input of [`open`] starts with one.
const KEY_LENGTH: usize = 43;
/// The time at which a message is read, in seconds since 1970.
const NOW: u64 = 1_700_000_000;
/// The last second of the year 9999. Protobuf has no later time.
const LAST_SECOND: i64 = 253_402_300_799;
/// The fields that the gateway reads.
const FIELDS: [&str; 22] = [
    "CreateTime",
    "Encrypt",
    "Event",
    "FromUserName",
    "InfoType",
    "MsgType",
    "ToUserName",
    "action",
    "address",
    "audit_id",
    "is_upgrade",
    "latitude",
    "longitude",
    "map_poi_id",
    "name",
    "poi_id",
    "poiid",
    "reason",
    "sh_remark",
    "status",
    "xml",
    "",
];
/// The most bytes that an encoded event adds to its message.
const FRAME: usize = 512;

/// Reads the envelope around an encrypted message.
pub fn envelope(input: &[u8]) {
    let read = envelope::parse(input);
    assert_eq!(read, envelope::parse(input), "read twice");
    if let Ok(sealed) = &read {
        assert!(!sealed.is_empty() && sealed.len() <= 3 * input.len());
        // The envelope may have been in a field that the message lost.
        if let Ok(message) = message::parse(input)
            && message.faulty().is_none()
        {
            assert_eq!(message.field("Encrypt"), sealed);
        }
    }
    // Any text survives being put into an envelope and taken out.
    let Ok(text) = str::from_utf8(input) else { return };
    let expected = if text.trim().is_empty() { Err(()) } else { Ok(text.trim().to_owned()) };
    for envelope in [in_xml("Encrypt", text), in_cdata("Encrypt", text), in_json("Encrypt", text)] {
        // CDATA cannot hold line ends as they are, because XML normalizes them (XML 1.0, 2.11).
        if !(envelope.contains("CDATA") && text.contains('\r')) {
            assert_eq!(
                envelope::parse(envelope.as_bytes()).map_err(drop),
                expected,
                "{envelope:?}"
            );
        }
    }
}

/// Reads a message in XML.
pub fn message_xml(input: &[u8]) {
    any_message(input);
    let Ok(text) = str::from_utf8(input) else { return };
    let message = in_xml("reason", text);
    let message = message::parse(message.as_bytes()).expect("it was written well");
    assert_eq!(message.field("reason"), text.trim());
}

/// Reads a message in JSON.
pub fn message_json(input: &[u8]) {
    any_message(input);
    let Ok(text) = str::from_utf8(input) else { return };
    let message = in_json("reason", text);
    let message = message::parse(message.as_bytes()).expect("it was written well");
    assert_eq!(message.field("reason"), text.trim());
    // An object for serde_json is a message, unless a part of it is damaged.
    let object = text.trim_start_matches('\u{feff}').trim();
    if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(object) {
        let message = message::parse(input).expect("an object");
        assert!(fields.contains_key("Event") || message.field("Event").is_empty());
    }
}

/// Repairs JSON that is almost JSON.
pub fn repair(input: &[u8]) {
    let strict = serde_json::from_slice::<serde_json::Value>(input);
    let is_object = matches!(&strict, Ok(strict) if strict.is_object());
    let Some(text) = lenient::repair(input) else {
        assert!(!is_object, "a good object is refused");
        return;
    };
    // An escaped byte has six.
    assert!(text.len() <= 6 * input.len(), "bounded by the input");
    let read = serde_json::from_str::<serde_json::Value>(&text).expect("strict JSON");
    assert!(read.is_object());
    if let Ok(strict) = strict {
        assert_eq!(read, strict, "the repair keeps the value");
    }
    assert_eq!(lenient::repair(text.as_bytes()).as_deref(), Some(text.as_str()), "repaired twice");
}

/// Decrypts a text that follows a key and a line end.
pub fn open(input: &[u8]) {
    let (key, rest) = input.split_at_checked(KEY_LENGTH).unwrap_or((input, &[]));
    let (_, rest) = rest.split_first().unwrap_or((&0, &[]));
    let Ok(key) = str::from_utf8(key) else { return };
    let secret = Secret::from(key.to_owned());
    let sender = sender::Key::parse(key);
    assert_eq!(sender.is_some(), Key::parse(&secret).is_some(), "both directions agree");
    let (Some(sender), Some(key)) = (sender, Key::parse(&secret)) else {
        // Every text of the right length and characters is a key.
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
        assert!(key.len() != KEY_LENGTH || !key.bytes().all(is_base64), "{key:?}");
        return;
    };
    if let Ok(encrypted) = str::from_utf8(rest) {
        let decrypted = key.decrypt(encrypted, APP_ID);
        assert_eq!(decrypted, key.decrypt(encrypted, APP_ID), "decrypted twice");
        if let Ok(message) = &decrypted {
            assert!(message.len() < encrypted.len());
            // A message is for one account or for another, but never for both.
            assert_eq!(
                key.decrypt(encrypted, "wx0000000000000000"),
                Err(message_crypto::Error::Foreign)
            );
        }
        let parts = ["1488856741", "415670741", encrypted];
        let signature = sender::sign(secret.expose(), &parts);
        assert_eq!(signature.len(), 40);
        assert!(message_crypto::verify(&secret, &parts, &signature));
        assert!(!message_crypto::verify(&secret, &parts[..2], &signature) || encrypted.is_empty());
    }
    // Every message can be encrypted, and decrypts to itself.
    let mut random = [0; 16];
    for (place, byte) in random.iter_mut().zip(rest) {
        *place = *byte;
    }
    let encrypted = sender.encrypt(rest, APP_ID, random);
    assert!(encrypted.len() <= (rest.len() + 128) * 4 / 3 + 4);
    assert_eq!(key.decrypt(&encrypted, APP_ID).as_deref(), Ok(rest));
    assert_eq!(key.decrypt(&encrypted, &APP_ID[1..]), Err(message_crypto::Error::Foreign));
    assert_eq!(key.decrypt(&encrypted[1..], APP_ID), Err(message_crypto::Error::Unreadable));
}

fn any_message(input: &[u8]) {
    let read = message::parse(input);
    assert_eq!(read, message::parse(input), "read twice");
    let input = input.to_vec().into();
    let NewEvent { event_id, message: encoded, .. } =
        event::unreadable(&AppId::from(APP_ID.to_owned()), &input, NOW);
    let kept = AuditEvent::decode(encoded).expect("an event");
    assert_eq!((&kept.raw_wechat_message, &kept.event_id), (&input, &event_id));
    assert_eq!((kept.kind(), kept.detail), (SubmissionKind::Unspecified, None));
    let Ok(message) = read else { return };
    assert_eq!(message.bytes(), &input, "the whole message is kept");
    if message.faulty().is_none() {
        assert_eq!(message.text().as_bytes(), &input);
    }
    // No field is longer than the input, and neither are all together, because they are parts of
    // it. A byte in it may have become U+FFFD, or a character of GBK.
    let fields = FIELDS.map(|name| message.field(name));
    let length = if message.faulty().is_some() { 3 * input.len() } else { input.len() };
    assert!(fields.iter().map(|value| value.len()).sum::<usize>() <= length, "{fields:?}");
    assert!(fields.iter().all(|value| value.trim() == *value));
    assert!(message.name().len() <= length);
    let kept = any_event(&message, &[message.name().to_owned()]);
    assert!(kept, "a listed event is kept");
    any_event(&message, &[]);
}

/// Checks the event of a message. Returns whether the message has one.
fn any_event(message: &Message, keep: &[String]) -> bool {
    let read =
        |app_id: &str| event::from_message(&AppId::from(app_id.to_owned()), message, keep, NOW);
    let Some(event) = read(APP_ID) else {
        assert!(!is_review(message.name()));
        return false;
    };
    let text = message.text();
    let bound = 2 * text.len() + message.faulty().map_or(0, |bytes| bytes.len()) + FRAME;
    assert!(event.message.len() <= bound, "bounded by the message");
    let again = read(APP_ID).expect("again");
    assert_eq!(
        (event.key, &event.event_id, &event.message),
        (again.key, &again.event_id, &again.message)
    );
    assert_ne!(event.key, read("wx0000000000000000").expect("another's").key);

    let pushed = AuditEvent::decode(event.message.clone()).expect("an event");
    assert_eq!(pushed.wechat_message, text);
    assert_eq!(pushed.raw_wechat_message, message.faulty().cloned().unwrap_or_default());
    assert_eq!((pushed.app_id.as_str(), pushed.wechat_event.as_str()), (APP_ID, message.name()));
    assert_eq!(pushed.origin(), EventOrigin::Pushed);
    assert_eq!((pushed.kind(), pushed.state()), (event.kind, event.state));
    assert_eq!(pushed.audit_id, event.audit_id.as_str());
    assert_eq!((&pushed.event_id, &pushed.reason), (&event.event_id, &event.reason));
    let time = pushed.event_time.expect("a time");
    assert!((1..=LAST_SECOND).contains(&time.seconds) && time.nanos == 0);
    // An event that is no review has no known result, and neither has a review without its number.
    let is_review = is_review(message.name());
    assert_eq!(is_review, event.kind != SubmissionKind::Unspecified);
    assert_eq!(is_review, pushed.detail.is_some());
    assert!(is_review || (event.audit_id.is_empty() && event.reason.is_empty()));
    assert!(event.state == AuditState::Unspecified || pushed.wechat_status.is_some());
    match &pushed.detail {
        Some(Detail::MapPoi(place)) => {
            let is_number = |location: &_| {
                let wechat_store_gateway::pb::LatLng { latitude, longitude } = location;
                latitude.is_finite() && longitude.is_finite()
            };
            assert!(place.location.as_ref().is_none_or(is_number));
            assert!(place.map_poi_id.is_empty() || event.state == AuditState::Approved);
            assert_eq!(place.map_poi_id, event.map_poi_id.as_str());
        }
        Some(Detail::Store(store)) => {
            assert!(store.poi_id.is_empty() || event.state == AuditState::Approved);
            assert_eq!(store.poi_id, event.poi_id.as_str());
        }
        _ => {}
    }
    true
}

/// The events that report the end of a review.
const REVIEWS: [&str; 5] = [
    "add_nearby_poi_audit_info",
    "add_store_audit_info",
    "apply_merchant_audit_info",
    "create_map_poi_audit_info",
    "modify_store_audit_info",
];

fn is_review(name: &str) -> bool {
    REVIEWS.iter().any(|review| review.eq_ignore_ascii_case(name))
}

fn in_xml(name: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<xml><{name}>{}</{name}></xml>", text.replace('\r', "&#13;"))
}

fn in_cdata(name: &str, text: &str) -> String {
    let text = text.replace("]]>", "]]]]><![CDATA[>");
    format!("<xml><{name}><![CDATA[{text}]]></{name}></xml>")
}

fn in_json(name: &str, text: &str) -> String {
    format!("{{\"{name}\":{}}}", serde_json::Value::from(text))
}
