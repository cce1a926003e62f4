//! From a message of WeChat's to an event for the log.
//!
//! Each event numbers its results in its own way; each way has a function and its table here.

use prost::Message as _;
use prost_types::Timestamp;
use sha2::{Digest, Sha256};

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
    let key = key(app_id, message);
    let id = key.0.first_chunk().copied().unwrap_or_default();
    let event_id = uuid::Builder::from_custom_bytes(id).into_uuid().to_string();
    let seconds = number(message, "CreateTime").filter(|time| (1..=LAST_SECOND).contains(time));
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

/// The same message is the same event, however often it comes.
fn key(app_id: &AppId, message: &Message) -> EventKey {
    let mut hash = Sha256::new();
    hash.update(app_id.as_str());
    hash.update([0]);
    hash.update(message.text());
    EventKey(hash.finalize().into())
}
