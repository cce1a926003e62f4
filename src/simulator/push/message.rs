//! What a push says, letter by letter: the message, its envelope, and what stands in its address.

use serde::Serializer;
use serde_json::Value;

use super::{Callback, Format, Letter, Mode, Stamp};

/// A message, its fields in this order.
pub(super) fn write(fields: &[(String, Value)], format: Format) -> String {
    match format {
        Format::Json => {
            let mut text = Vec::new();
            let pairs = fields.iter().map(|(name, value)| (name, value));
            // JSON can say whatever JSON has said.
            let _ = serde_json::Serializer::new(&mut text).collect_map(pairs);
            String::from_utf8(text).unwrap_or_default()
        }
        Format::Xml => {
            let elements = fields.iter().map(|(name, value)| element(name, value));
            format!("<xml>\n{}</xml>", elements.collect::<String>())
        }
    }
}

/// Texts are CDATA, numbers stand bare, as in WeChat's samples.
fn element(name: &str, value: &Value) -> String {
    let inside = match value {
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => cdata(text),
        Value::Object(fields) => fields.iter().map(|(name, value)| element(name, value)).collect(),
        Value::Array(items) => return items.iter().map(|item| element(name, item)).collect(),
    };
    format!("<{name}>{inside}</{name}>\n")
}

/// The end of a CDATA section inside of one is spread over two.
fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

/// What is sent: the query and the body.
pub(super) fn envelope(letter: &Letter, callback: &Callback) -> Result<(String, String), String> {
    let Letter { app_id, to, from, message, stamp, .. } = letter;
    let mut query = signed(callback, stamp);
    query.append_pair("openid", from);
    if callback.mode == Mode::Plain {
        return Ok((query.finish(), message.clone()));
    }
    let sealed = callback.key()?.seal(message.as_bytes(), app_id, stamp.random);
    query.append_pair("encrypt_type", "aes");
    let signature = callback.sign(&[&stamp.timestamp, &stamp.nonce, &sealed]);
    query.append_pair("msg_signature", &signature);
    let body = match callback.mode {
        Mode::Compatible => beside(message, &sealed, callback.format),
        _ => {
            let fields = [("ToUserName", to.clone()), ("Encrypt", sealed)];
            let fields = fields.map(|(name, text)| (name.to_owned(), Value::String(text)));
            write(&fields, callback.format)
        }
    };
    Ok((query.finish(), body))
}

/// The sealed message beside the plain one, before its end. A text that does not end as a message
/// does stays as it is.
fn beside(message: &str, sealed: &str, format: Format) -> String {
    let (end, field) = match format {
        Format::Json => ("}", format!(",\"Encrypt\":\"{sealed}\"")),
        Format::Xml => ("</xml>", element("Encrypt", &Value::String(sealed.to_owned()))),
    };
    match message.strip_suffix(end) {
        Some(start) => format!("{start}{field}{end}"),
        None => message.to_owned(),
    }
}

/// The query that proves who asks. It says nothing about the body.
pub(super) fn signed(
    callback: &Callback,
    stamp: &Stamp,
) -> form_urlencoded::Serializer<'static, String> {
    let Stamp { timestamp, nonce, .. } = stamp;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("signature", &callback.sign(&[timestamp, nonce]));
    query.append_pair("timestamp", timestamp).append_pair("nonce", nonce);
    query
}
