//! Turns a good reply into a bad one. This is the pure half of the faults.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::{faults::Kind, world::Reply};

/// The page of a proxy that cannot reach its server.
const BAD_GATEWAY: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
    <center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";

/// Returns `reply` as the fault `kind` changes it.
pub(super) fn spoil(kind: &Kind, reply: Reply) -> Reply {
    match kind {
        Kind::Bytes { base64 } => {
            Reply { body: BASE64_STANDARD.decode(base64).unwrap_or_default().into(), ..reply }
        }
        Kind::Empty => Reply { body: Bytes::new(), ..reply },
        Kind::ErrcodeAsString => rewrite(reply, errcode_as_string),
        Kind::Html502 => page(StatusCode::BAD_GATEWAY, BAD_GATEWAY),
        Kind::InvalidUtf8 => Reply { body: with_invalid_byte(&reply.body), ..reply },
        Kind::NotJson => Reply { body: reply.body.slice(..reply.body.len() / 2), ..reply },
        Kind::NullField { pointer } => rewrite(reply, |body| {
            if let Some(field) = body.pointer_mut(pointer) {
                *field = Value::Null;
            }
        }),
        Kind::Nulls => rewrite(reply, nulls),
        Kind::Redirect { location } => {
            let header = Some((header::LOCATION, location.clone()));
            Reply { header, ..page(StatusCode::FOUND, "") }
        }
        Kind::Replace { body: Value::String(text) } => {
            Reply { body: Bytes::from(text.clone()), ..reply }
        }
        Kind::Replace { body } => Reply::json(body),
        Kind::Status { code, body } => {
            page(StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body)
        }
        Kind::Throttle { retry_after } => {
            let header = Some((header::RETRY_AFTER, retry_after.clone()));
            Reply { header, ..page(StatusCode::TOO_MANY_REQUESTS, "") }
        }
        Kind::UnknownFields => rewrite(reply, unknown_fields),
        Kind::WrongTypes => rewrite(reply, wrong_types),
        // These change how the reply is sent, not its content. An errcode fault has already made
        // the reply.
        Kind::Drip { .. }
        | Kind::Errcode { .. }
        | Kind::Hold
        | Kind::Huge { .. }
        | Kind::Latency { .. }
        | Kind::ResetAfter
        | Kind::ResetBefore
        | Kind::Truncate => reply,
    }
}

fn page(status: StatusCode, text: &str) -> Reply {
    let body = Bytes::copy_from_slice(text.as_bytes());
    Reply { status, content_type: "text/html", header: None, body }
}

fn rewrite(reply: Reply, change: impl FnOnce(&mut Value)) -> Reply {
    match serde_json::from_slice(&reply.body) {
        Ok(mut body) => {
            change(&mut body);
            Reply { body: Bytes::from(body.to_string()), ..reply }
        }
        Err(_) => reply,
    }
}

fn errcode_as_string(body: &mut Value) {
    if let Some(code) = body.get_mut("errcode") {
        *code = Value::String(code.to_string());
    }
}

/// Inserts a lone continuation byte after the first quotation mark.
fn with_invalid_byte(body: &Bytes) -> Bytes {
    let at = body.iter().position(|byte| *byte == b'"').map_or(0, |at| at + 1);
    [&body[..at], &[0x80], &body[at..]].concat().into()
}

fn nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(nulls),
        Value::Object(fields) => {
            fields.iter_mut().filter(|(name, _)| *name != "errcode").for_each(|(_, value)| {
                nulls(value);
            });
        }
        _ => *value = Value::Null,
    }
}

fn unknown_fields(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(unknown_fields),
        Value::Object(fields) => {
            fields.values_mut().for_each(unknown_fields);
            let unknown = json!({ "answer": 42, "items": [1, "2", null, { "deep": true }] });
            fields.insert("added_in_a_later_version".to_owned(), unknown);
        }
        _ => {}
    }
}

fn wrong_types(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(wrong_types),
        Value::Object(fields) => fields.values_mut().for_each(wrong_types),
        Value::Number(number) => *value = Value::String(number.to_string()),
        // Only if the number is written with exactly the same digits: `020…` is not a JSON number.
        Value::String(text) => match text.parse::<u64>() {
            Ok(number) if number.to_string() == *text => *value = json!(number),
            _ => {}
        },
        Value::Bool(_) | Value::Null => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoiled(kind: Kind, body: Value) -> String {
        let reply = spoil(&kind, Reply::json(&body));
        String::from_utf8(reply.body.to_vec()).expect("text")
    }

    #[test]
    fn wrong_types_keep_every_digit() {
        let body = json!({
            "errcode": 0, "id": "2708071440732747189", "phone": "020123", "at": 23.5,
        });
        assert_eq!(
            spoiled(Kind::WrongTypes, body),
            r#"{"at":"23.5","errcode":"0","id":2708071440732747189,"phone":"020123"}"#
        );
    }

    #[test]
    fn nulls_keep_errcode_and_shape() {
        let body = json!({ "errcode": 0, "errmsg": "ok", "data": { "item": [{ "id": "1" }] } });
        assert_eq!(
            spoiled(Kind::Nulls, body.clone()),
            r#"{"data":{"item":[{"id":null}]},"errcode":0,"errmsg":null}"#
        );
        let pointer = "/data/item/0/id".to_owned();
        let one = spoiled(Kind::NullField { pointer }, body);
        assert_eq!(one, r#"{"data":{"item":[{"id":null}]},"errcode":0,"errmsg":"ok"}"#);
    }

    #[test]
    fn every_object_gets_an_unknown_field() {
        let text = spoiled(Kind::UnknownFields, json!({ "data": { "item": [{}] } }));
        assert_eq!(text.matches("added_in_a_later_version").count(), 3);
    }

    #[test]
    fn bodies_become_invalid_text_and_json() {
        let body = json!({ "errcode": 0, "errmsg": "ok" });
        let broken = spoil(&Kind::InvalidUtf8, Reply::json(&body)).body;
        assert!(str::from_utf8(&broken).is_err());
        assert!(serde_json::from_str::<Value>(&spoiled(Kind::NotJson, body.clone())).is_err());
        assert_eq!(spoiled(Kind::Replace { body: json!("<") }, body.clone()), "<");
        assert_eq!(spoiled(Kind::ErrcodeAsString, body), r#"{"errcode":"0","errmsg":"ok"}"#);
    }
}
