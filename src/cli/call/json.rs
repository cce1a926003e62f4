//! Parses a request from JSON. Errors name the field and what it must be. They do not quote values,
//! because these may be phone numbers.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::DeserializeSeed;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment, Track};

/// Returns a message parsed from JSON. An empty text is an empty message.
///
/// The error can follow "the request is".
pub(in crate::cli) fn parse_request(
    kind: MessageDescriptor,
    text: &str,
) -> Result<DynamicMessage, String> {
    let mut json = serde_json::Deserializer::from_str(if text.is_empty() { "{}" } else { text });
    let mut track = Track::new();
    let read =
        kind.clone().deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let path = track.path();
    let message = read.map_err(|error| problem(&kind, &path, &error))?;
    json.end().map_err(|error| problem(&kind, &path, &error))?;
    Ok(message)
}

fn problem(kind: &MessageDescriptor, path: &Path, error: &serde_json::Error) -> String {
    let text = error.to_string();
    // A request is usually on one line, so only the column matters.
    let text = text.replace(" at line 1 column ", " at column ");
    if error.classify() != Category::Data {
        return format!("not JSON: {text}");
    }
    let article = if kind.name().starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    let what = format!("not {article} {}", kind.name());
    if let Some((_, rest)) = text.split_once("unrecognized field name '")
        && let Some((field, _)) = rest.split_once('\'')
    {
        return format!("{what}: it has no field '{field}'");
    }
    let expected = expected(kind, path).map(|expected| match found(&text) {
        Some(found) => format!("must be {expected}, but is {found}"),
        None => format!("must be {expected}"),
    });
    match expected {
        Some(expected) if path.iter().len() == 0 => format!("{what}: it {expected}"),
        Some(expected) => format!("{what}: {path} {expected}"),
        None => format!("{what}: {path} has a wrong value"),
    }
}

/// Returns the kind of the value that was found, if the error states it.
fn found(error: &str) -> Option<&'static str> {
    let found = error.strip_prefix("invalid type: ")?;
    [
        ("integer", "a number"),
        ("floating point", "a number"),
        ("string", "a text"),
        ("boolean", "true or false"),
        ("sequence", "a list"),
        ("map", "an object"),
        ("null", "null"),
    ]
    .into_iter()
    .find_map(|(name, text)| found.starts_with(name).then_some(text))
}

/// Returns what the value at a path must be, or `None` if the path leads to no field.
fn expected(kind: &MessageDescriptor, path: &Path) -> Option<String> {
    let mut message = Some(kind.clone());
    let mut field: Option<FieldDescriptor> = None;
    let mut is_element = false;
    for segment in path.iter() {
        match segment {
            // The key of a map is not a field.
            Segment::Map { .. } if field.as_ref().is_some_and(FieldDescriptor::is_map) => {
                return None;
            }
            Segment::Map { key } => {
                let parent = message.take()?;
                let next =
                    parent.get_field_by_json_name(key).or_else(|| parent.get_field_by_name(key))?;
                message = next.kind().as_message().cloned();
                (field, is_element) = (Some(next), false);
            }
            Segment::Seq { .. } => is_element = true,
            Segment::Enum { .. } | Segment::Unknown => return None,
        }
    }
    let Some(field) = field else { return Some("an object such as {\"field\": …}".to_owned()) };
    if field.is_map() {
        return Some("an object".to_owned());
    }
    let one = value_text(&field.kind());
    Some(if field.is_list() && !is_element {
        format!("a list; each element is {one}")
    } else {
        one
    })
}

fn value_text(kind: &Kind) -> String {
    match kind {
        Kind::String => "a text in quotes".to_owned(),
        Kind::Bytes => "bytes in base64, in quotes".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Enum(kind) => format!("one of {}", value_names(kind)),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "a time such as \"2026-01-31T08:00:00Z\"".to_owned(),
            "google.protobuf.Duration" => "a duration such as \"1.5s\"".to_owned(),
            _ => format!("an object ({})", message.name()),
        },
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "a whole number of 64 bits".to_owned(),
        Kind::Uint64 | Kind::Fixed64 => "a whole number from 0, of 64 bits".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a whole number".to_owned(),
        Kind::Uint32 | Kind::Fixed32 => "a whole number from 0".to_owned(),
    }
}

/// Returns the names of an enum's values. The value 0 means that the field is not set.
fn value_names(kind: &EnumDescriptor) -> String {
    let values = kind.values().filter(|value| value.number() != 0);
    values.map(|value| value.name().to_owned()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn error(message: &str, json: &str) -> String {
        let types = prost_reflect::DescriptorPool::decode(pb::DESCRIPTORS).expect("types");
        let kind = types.get_message_by_name(&format!("wechat.store.v1.{message}"));
        parse_request(kind.expect("a message"), json).expect_err(json)
    }

    #[test]
    fn wrong_json_names_field_and_expected_value() {
        let (add, list) = ("AddStoreRequest", "ListSubmissionsRequest");
        for (message, json, expected) in [
            (add, "hello", "not JSON: expected value at column 1"),
            (add, r#"{"map_poi_id": "1""#, "not JSON: EOF while parsing an object at column 18"),
            (add, "{} {}", "not JSON: trailing characters at column 4"),
            (
                add,
                "[]",
                "not an AddStoreRequest: it must be an object such as {\"field\": …}, but is a list",
            ),
            (add, r#"{"poi": 1}"#, "not an AddStoreRequest: it has no field 'poi'"),
            (
                add,
                r#"{"map_poi_id": 5}"#,
                "not an AddStoreRequest: map_poi_id must be a text in quotes, but is a number",
            ),
            (
                add,
                r#"{"hours": {"open": 7}}"#,
                "not an AddStoreRequest: hours.open must be a text in quotes, but is a number",
            ),
            (
                add,
                r#"{"hours": "10:00"}"#,
                "not an AddStoreRequest: hours must be an object (OpeningHours), but is a text",
            ),
            (
                add,
                r#"{"pictureUrls": "http://a"}"#,
                "not an AddStoreRequest: pictureUrls must be a list; each element is a text in quotes, but is a text",
            ),
            (
                add,
                r#"{"validate_only": "yes"}"#,
                "not an AddStoreRequest: validate_only must be true or false, but is a text",
            ),
            (
                list,
                r#"{"page_size": "many"}"#,
                "not a ListSubmissionsRequest: page_size must be a whole number",
            ),
        ] {
            assert_eq!(error(message, json), expected, "{json}");
        }
        let state = error(list, r#"{"states": ["APPROVED"]}"#);
        let start = "not a ListSubmissionsRequest: states[0] must be one of AUDIT_STATE_";
        assert!(state.starts_with(start) && state.contains(", AUDIT_STATE_APPROVED"), "{state}");
        assert!(!state.contains("UNSPECIFIED") && !state.contains("'APPROVED'"), "{state}");
    }
}
