//! Frames an event of the log as a response to watchers.
//!
//! WeChat's raw message is most of an event. It goes from the log into the response as the bytes that
//! are stored, without being decoded and encoded. The few fields around it are decoded, because the log
//! and the submission add to them.

use std::ops::RangeInclusive;

use bytes::{Buf, Bytes};
use prost::Message;

use super::{cursor::Cursor, tail::Watched};
use crate::{
    pb::{AuditEvent, SubmissionKind, WatchAuditEventsResponse},
    state::{Event, gap::is_gap},
    translate,
    util::codec::Encoded,
};

/// The fields of an [`AuditEvent`] that are not decoded: `wechat_message`, `raw_wechat_message` and
/// `unreadable_fields`.
const RAW: RangeInclusive<usize> = 17..=19;
/// `raw_wechat_message`, the only one of them that need not be UTF-8.
const RAW_BYTES: usize = 18;
/// The wire type of a number.
const NUMBER: usize = 0;
/// The wire type of a field with a length.
const LENGTH: usize = 2;
/// The key of the field `event` of a [`WatchAuditEventsResponse`]: number 2, with a length.
const EVENT_KEY: u8 = 2 << 3 | 2;

/// A response, with the facts by which watchers filter.
pub(super) struct Framed {
    pub(super) app_id: String,
    pub(super) kind: SubmissionKind,
    /// Whether the event cannot be read.
    pub(super) lost: bool,
    pub(super) watched: Watched,
}

/// Returns the response with an event and the cursor after it.
pub(super) fn framed(cursor: Cursor, stored: &Event) -> Framed {
    let (mut event, raw) = match split(&stored.message) {
        Some((event, raw)) => (translate::audit::completed(stored, event), raw),
        None => (translate::audit::event(stored), Bytes::new()),
    };
    let (kind, lost) = (event.kind(), is_gap(&event));
    // Of the other fields only `detail`, `caller` and `trace_id` come after the raw ones.
    let mut last = AuditEvent::default();
    if !raw.is_empty() {
        last.detail = event.detail.take();
        last.caller = std::mem::take(&mut event.caller);
        last.trace_id = std::mem::take(&mut event.trace_id);
    }
    let length = event.encoded_len() + raw.len() + last.encoded_len();
    let mut first = WatchAuditEventsResponse { cursor: cursor.text(), event: None }.encode_to_vec();
    first.push(EVENT_KEY);
    // Writing into a vector cannot fail.
    let _ = prost::encode_length_delimiter(length, &mut first);
    let _ = event.encode(&mut first);
    let watched = Encoded::of([first.into(), raw, last.encode_to_vec().into()]);
    Framed { app_id: event.app_id, kind, lost, watched }
}

/// Splits an encoded event into its other fields, decoded, and its raw fields. Returns `None` if they
/// are not in order, or if one is damaged. Then the event must be decoded as a whole.
fn split(message: &Bytes) -> Option<(AuditEvent, Bytes)> {
    let mut rest = &message[..];
    let mut last = 0;
    let (mut begin, mut end) = (None, 0);
    while !rest.is_empty() {
        let at = message.len() - rest.len();
        let (number, value) = take_field(&mut rest)?;
        if number < last {
            return None;
        }
        last = number;
        if RAW.contains(&number) {
            if number != RAW_BYTES {
                str::from_utf8(value?).ok()?;
            }
            begin.get_or_insert(at);
            end = message.len() - rest.len();
        }
    }
    let begin = begin?;
    let event = AuditEvent::decode(message[..begin].chain(&message[end..])).ok()?;
    Some((event, message.slice(begin..end)))
}

/// Takes the first field off encoded ones. Returns its number, and its value if it has a length.
fn take_field<'a>(rest: &mut &'a [u8]) -> Option<(usize, Option<&'a [u8]>)> {
    // Keys and lengths are encoded alike.
    let mut number = || prost::decode_length_delimiter(&mut *rest).ok();
    let key = number()?;
    let value_or_length = number()?;
    let value = match key & 7 {
        NUMBER => None,
        LENGTH => Some(rest.split_off(..value_or_length)?),
        _ => return None,
    };
    Some((key >> 3, value))
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::{
        events::cursor::TaggedPosition,
        pb::{MapPoiAudit, StoreAudit, StorePicturesAudit, Submission, audit_event::Detail},
        state::EventKey,
    };

    const CURSOR: Cursor = Cursor { epoch: 1, at: TaggedPosition { position: 7, tag: 8 } };

    fn stored(message: &[u8], supersedes: &str, submission: Option<Submission>) -> Event {
        Event {
            position: 7,
            key: EventKey([9; 32]),
            received: 1_700_000_000_123,
            message: Bytes::copy_from_slice(message),
            supersedes: supersedes.to_owned(),
            superseded_by: "another".to_owned(),
            submission: submission.map(|submission| submission.encode_to_vec().into()),
        }
    }

    /// Returns the response in the long way: the whole event is decoded and encoded.
    fn encoded(stored: &Event) -> (WatchAuditEventsResponse, Vec<u8>) {
        let event = Some(translate::audit::event(stored));
        let response = WatchAuditEventsResponse { cursor: CURSOR.text(), event };
        (response.clone(), response.encode_to_vec())
    }

    fn event(detail: Option<Detail>) -> AuditEvent {
        AuditEvent {
            event_id: "event".to_owned(),
            app_id: "wx1".to_owned(),
            kind: SubmissionKind::Store.into(),
            wechat_event: "add_store_audit_info".to_owned(),
            wechat_status: Some(0),
            reason: "门头不清".to_owned(),
            event_time: Some(Timestamp { seconds: 1_600_000_000, nanos: 0 }),
            wechat_message: "<xml>审核</xml>".repeat(20),
            detail,
            ..AuditEvent::default()
        }
    }

    #[test]
    fn response_bytes_equal_reencoded_event() {
        let details = [
            None,
            Some(Detail::MapPoi(MapPoiAudit { name: "店".to_owned(), ..MapPoiAudit::default() })),
            Some(Detail::Store(StoreAudit { poi_id: "12".to_owned(), ..StoreAudit::default() })),
            Some(Detail::StorePictures(StorePicturesAudit::default())),
        ];
        for detail in details {
            for bytes in ["", "a", "faulty"] {
                for submission in [
                    None,
                    Some(Submission {
                        submission_id: "s".to_owned(),
                        map_poi_id: "34".to_owned(),
                        poi_id: "56".to_owned(),
                        request_id: "r".to_owned(),
                        caller: "orders".to_owned(),
                        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
                        ..Submission::default()
                    }),
                ] {
                    let mut event = event(detail.clone());
                    event.raw_wechat_message = bytes.as_bytes().to_vec().into();
                    event.unreadable_fields = bytes.chars().map(String::from).collect();
                    let stored = stored(&event.encode_to_vec(), bytes, submission);
                    let Framed { app_id, kind, lost, watched } = framed(CURSOR, &stored);
                    assert_eq!((&*app_id, kind, lost), ("wx1", SubmissionKind::Store, false));
                    let (response, wire) = encoded(&stored);
                    assert_eq!(watched.bytes(), wire);
                    assert_eq!(watched.decode(), Ok(response));
                    assert!(split(&stored.message).is_some(), "the raw message is not decoded");
                }
            }
        }
    }

    #[test]
    fn damaged_or_unordered_event_is_decoded() {
        let raw = AuditEvent { wechat_message: "审核".to_owned(), ..AuditEvent::default() };
        let raw = raw.encode_to_vec();
        let id = AuditEvent { event_id: "event".to_owned(), ..AuditEvent::default() };
        let id = id.encode_to_vec();
        let mut not_utf8 = raw.clone();
        *not_utf8.last_mut().expect("a message") = b'a';
        for (message, lost) in [
            (Vec::new(), false),
            (id.clone(), false),
            ([&raw[..], &id].concat(), false),
            ([&id[..], &not_utf8].concat(), true),
            ([&id[..], &raw[..raw.len() - 1]].concat(), true),
            (b"\xff\xff".to_vec(), true),
        ] {
            let stored = stored(&message, "", None);
            assert!(split(&stored.message).is_none(), "{message:?}");
            let framed = framed(CURSOR, &stored);
            assert_eq!((framed.lost, framed.watched.bytes()), (lost, encoded(&stored).1));
        }
    }
}
