//! The messages that WeChat pushes. The account's settings at WeChat choose XML or JSON. Nearly all
//! messages are flat.

// Not quick-xml's serde: it hides CDATA and repeated elements, and this file decides about both.

use std::{borrow::Cow, collections::HashMap, fmt};

use bytes::Bytes;
use encoding_rs::GBK;
use quick_xml::{
    escape::resolve_xml_entity,
    events::{BytesRef, Event},
    reader::Reader,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess},
};
use serde_json::value::RawValue;

use crate::util::lenient;

/// The limit for nesting. WeChat's messages with lists have four levels.
const DEPTH: usize = 16;

/// A message with all fields as text, because a number in one message is text in the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    text: String,
    fields: Fields,
    /// The original bytes, if they have faults.
    raw: Option<Bytes>,
    /// The names of fields that occur twice with different values.
    doubtful: Vec<String>,
}

/// The reason why bytes are not a message. It does not quote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

/// Returns the parsed message. Accepts any bytes, and needs time and memory in proportion to them.
///
/// Fails if the bytes are neither XML nor JSON.
///
/// If strict parsing fails, the bytes are parsed again leniently. A fault then spoils only its
/// field and not the message.
///
/// If a field occurs twice, the first one counts, because WeChat sends no such message and a
/// refusal would only lose it. If the message has faults and the two values differ, neither counts,
/// because one of them may be text that a person typed. A nested value is not a separate field. Its
/// parent has the value as JSON, or for XML the text beside it.
pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    let exact = str::from_utf8(bytes).map_err(|_| Malformed("not UTF-8"));
    let parsed = exact.and_then(|text| Ok((text, fields(text, Rules::Strict)?)));
    let malformed = match parsed {
        Ok((text, fields)) => {
            let text = text.to_owned();
            return Ok(Message { text, fields, raw: None, doubtful: Vec::new() });
        }
        Err(malformed) => malformed,
    };
    let text = text(bytes);
    let Ok(mut fields) = fields(&text, Rules::Lenient) else { return Err(malformed) };
    let doubtful = fields.take_doubtful();
    Ok(Message {
        text: text.into_owned(),
        fields,
        raw: Some(Bytes::copy_from_slice(bytes)),
        doubtful,
    })
}

/// Returns the bytes as text. They are UTF-8, or GBK from older Chinese systems. Invalid bytes
/// become U+FFFD.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    let decoded = String::from_utf8_lossy(bytes);
    let Cow::Owned(damaged) = &decoded else { return decoded };
    // GBK that is decoded as UTF-8 is mostly faults, and UTF-8 with a fault is mostly valid
    // characters.
    let count = |is_counted: fn(char) -> bool| damaged.chars().filter(|c| is_counted(*c)).count();
    let faults = count(|character| character == '\u{fffd}');
    let characters = count(|character| !character.is_ascii() && character != '\u{fffd}');
    if faults <= characters.max(1) {
        return decoded;
    }
    GBK.decode_without_bom_handling_and_without_replacement(bytes).unwrap_or(decoded)
}

/// The treatment of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    /// Every fault is an error.
    Strict,
    /// A fault that spoils only one field is no error.
    Lenient,
}

fn fields(text: &str, rules: Rules) -> Result<Fields, Malformed> {
    let inner = match rules {
        Rules::Strict => text.trim_start_matches('\u{feff}').trim(),
        Rules::Lenient => text.trim_matches(is_blank),
    };
    let broken = |_| Malformed("broken JSON");
    match (inner.as_bytes().first(), rules) {
        (Some(b'<'), _) => xml(inner, rules),
        (Some(b'{'), Rules::Strict) => serde_json::from_str(inner).map_err(broken),
        (Some(b'{'), Rules::Lenient) => {
            let repaired = lenient::repair(inner.as_bytes()).ok_or(Malformed("broken JSON"))?;
            serde_json::from_str(&repaired).map_err(broken)
        }
        _ => Err(Malformed("neither XML nor JSON")),
    }
}

/// Returns true if the character is invisible.
pub(super) fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

impl Message {
    /// Returns the whole message as text. It is unchanged if it is valid UTF-8.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the original bytes if they are not valid XML or JSON in UTF-8.
    pub fn faulty(&self) -> Option<&Bytes> {
        self.raw.as_ref()
    }

    /// Returns the whole message unchanged.
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// Returns a field without surrounding blanks, or an empty text if it is missing.
    pub fn field(&self, name: &str) -> &str {
        let Fields(fields) = &self.fields;
        let found = fields.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// Returns true if a field is left out because it occurs twice with different values.
    pub(super) fn is_doubtful(&self, name: &str) -> bool {
        self.doubtful.iter().any(|doubtful| doubtful == name)
    }

    /// Returns the name that the settings use: the name of an event, or else the type of the
    /// message. Messages without a type are notices to third-party platforms and probes. Returns an
    /// empty text if the message has neither, or if they are ambiguous.
    pub fn name(&self) -> &str {
        if ["MsgType", "Event", "InfoType", "action"].iter().any(|name| self.is_doubtful(name)) {
            return "";
        }
        let name = |field| self.field(field).trim_matches(is_blank);
        let event = name("Event");
        match name("MsgType") {
            kind if !event.is_empty()
                && (kind.is_empty() || kind.eq_ignore_ascii_case("event")) =>
            {
                event
            }
            "" if !name("InfoType").is_empty() => name("InfoType"),
            "" => name("action"),
            kind => kind,
        }
    }
}

/// Names and values in their original order. A search finds the first field of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields(Vec<(String, String)>);

impl Fields {
    /// Removes the fields that occur twice with different values, and returns their names.
    fn take_doubtful(&mut self) -> Vec<String> {
        let mut first = HashMap::new();
        let mut doubtful = Vec::new();
        for (name, value) in &self.0 {
            if *first.entry(name).or_insert(value) != value {
                doubtful.push(name.clone());
            }
        }
        doubtful.sort_unstable();
        doubtful.dedup();
        self.0.retain(|(name, _)| doubtful.binary_search(name).is_err());
        doubtful
    }
}

/// Returns the children of `<xml>`. Only XML's five predefined entities are accepted, and a
/// document type is refused because it could define more. In lenient mode, an unknown reference is
/// text.
fn xml(text: &str, rules: Rules) -> Result<Fields, Malformed> {
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.expand_empty_elements = true;
    config.allow_dangling_amp = rules == Rules::Lenient;
    let mut fields = Fields::default();
    let (mut name, mut value) = (String::new(), String::new());
    let (mut depth, mut begun) = (0, false);
    loop {
        let event = reader.read_event().map_err(|_| Malformed("broken XML"))?;
        let piece = match event {
            Event::Start(tag) => {
                depth += 1;
                match depth {
                    1 if begun || tag.name().as_ref() != "xml" => {
                        return Err(Malformed("XML with another root"));
                    }
                    1 => begun = true,
                    2 => (name, value) = (tag.name().as_ref().to_owned(), String::new()),
                    ..=DEPTH => {}
                    _ => return Err(Malformed("XML that is nested too deeply")),
                }
                continue;
            }
            Event::End(_) => {
                if depth == 2 {
                    fields.0.push((std::mem::take(&mut name), std::mem::take(&mut value)));
                }
                depth -= 1;
                continue;
            }
            Event::Text(text) => text.xml10_content(),
            Event::CData(text) => text.xml10_content(),
            Event::GeneralRef(reference) => match resolved(&reference) {
                Ok(text) => text.into(),
                Err(_) if rules == Rules::Lenient => format!("&{};", &*reference).into(),
                Err(malformed) => return Err(malformed),
            },
            // The parser reports an empty element as a start and an end.
            Event::Comment(_) | Event::Decl(_) | Event::Empty(_) => continue,
            Event::DocType(_) => return Err(Malformed("XML with a document type")),
            Event::PI(_) if rules == Rules::Lenient => continue,
            Event::PI(_) => return Err(Malformed("XML with instructions")),
            Event::Eof if begun && depth == 0 => return Ok(fields),
            Event::Eof => return Err(Malformed("XML that is cut off")),
        };
        match depth {
            0 if !piece.trim().is_empty() => return Err(Malformed("XML with text around it")),
            2 => value.push_str(&piece),
            _ => {}
        }
    }
}

fn resolved(reference: &BytesRef<'_>) -> Result<String, Malformed> {
    match reference.resolve_char_ref() {
        Ok(Some(character)) => Ok(character.to_string()),
        Ok(None) => resolve_xml_entity(reference)
            .map(str::to_owned)
            .ok_or(Malformed("XML with an unknown entity")),
        Err(_) => Err(Malformed("XML with a broken reference")),
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.0.push((name, scalar(value.get()).map_err(de::Error::custom)?));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Returns a value as text. Numbers, lists and objects keep their original form, so nothing is
/// rounded. Fails for a string with half a surrogate pair.
fn scalar(json: &str) -> serde_json::Result<String> {
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json),
        _ if json == "null" => Ok(String::new()),
        _ => Ok(json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<const N: usize>(text: &str, names: [&str; N]) -> [String; N] {
        let message = parse(text.as_bytes()).expect(text);
        names.map(|name| message.field(name).to_owned())
    }

    fn refused(text: impl AsRef<[u8]>) -> String {
        let error = parse(text.as_ref()).expect_err("no message");
        error.to_string()
    }

    #[test]
    fn xml_and_json_yield_same_fields() {
        let xml = "\u{feff}<?xml version=\"1.0\"?>\n<!-- --><xml a='b'>\n<MsgType><![CDATA[event]]></MsgType>
            <poi_id> 5938314494307741153\n</poi_id><reason>\n<![CDATA[ 门头<不>&清 ]]>\n</reason>
            <is_upgrade/><status></status></xml>\n";
        let json = r#" {"MsgType":"event","poi_id":5938314494307741153,"reason":"门头<不>&清",
            "is_upgrade":null,"status":""} "#;
        let names = ["MsgType", "poi_id", "reason", "is_upgrade", "status", "missing"];
        assert_eq!(fields(xml, names), fields(json, names));
        assert_eq!(fields(json, ["poi_id", "reason"]), ["5938314494307741153", "门头<不>&清"]);
        assert_eq!(parse(xml.as_bytes()).expect("a message").text(), xml);
    }

    #[test]
    fn number_is_not_rounded() {
        let json = r#"{"a":59383144943077411530000,"b":113.32375335700000001,"c":-0,"d":true}"#;
        let numbers = ["59383144943077411530000", "113.32375335700000001", "-0", "true"];
        assert_eq!(fields(json, ["a", "b", "c", "d"]), numbers);
    }

    #[test]
    fn half_surrogate_does_not_lose_the_message() {
        let json = r#"{"Content":"\ud83d","MsgType":"text"}"#;
        assert_eq!(fields(json, ["Content", "MsgType"]), ["\u{fffd}", "text"]);
    }

    #[test]
    fn fault_spoils_only_its_field() {
        for (text, expected) in [
            ("{\"a\":\"x\u{14}\ny\",\"b\":1}", "x\u{14}\ny"),
            ("\u{feff}\u{200b}{\"a\":NaN,\"b\":1,}\0", "NaN"),
            (r#"{"a":"说"好"的","b":1}"#, "说\"好\"的"),
            ("<xml><a>x&nbsp;y & z&#0;</a><b>1</b></xml>", "x&nbsp;y & z&#0;"),
            ("<?php ?><xml><a>x</a><b>1</b></xml>\0", "x"),
        ] {
            let message = parse(text.as_bytes()).expect(text);
            assert_eq!((message.field("a"), message.field("b")), (expected, "1"), "{text}");
            assert_eq!(message.faulty().map(|bytes| &**bytes), Some(text.as_bytes()));
            assert_eq!((message.bytes(), message.text()), (text.as_bytes(), text));
        }
        for text in [r#"{"a":"x"}"#, "<xml><a>x\u{14}]]></a></xml>", "\u{feff} {\"a\":1} "] {
            let message = parse(text.as_bytes()).expect(text);
            assert_eq!((message.faulty(), message.bytes()), (None, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn gbk_is_not_mistaken_for_damaged_utf8() {
        for (bytes, expected) in [
            (&b"\xc3\xc5\xcd\xb7\xb2\xbb\xc7\xe5"[..], "门头不清"),
            (b"\xc9\xcc\xbb\xa7 ABC", "商户 ABC"),
            (b"\xe9\x97", "\u{fffd}"),
            (b"\xe9\x97\xa8\xe5\xa4", "门\u{fffd}"),
            (b"\xff\xff\xff", "\u{fffd}\u{fffd}\u{fffd}"),
            ("门".as_bytes(), "门"),
        ] {
            assert_eq!(text(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn only_xml_references_are_resolved() {
        let xml = "<xml><a>&lt;&amp;&gt;&quot;&apos;&#38;&#x5BA1;<![CDATA[&amp;]]></a></xml>";
        assert_eq!(fields(xml, ["a"]), ["<&>\"'&审&amp;"]);
        for text in ["&nbsp;", "&#0;", "&#xD800;", "&#x110000;", "&#;", "&#-1;"] {
            let xml = format!("<xml><a>{text}</a></xml>");
            let message = parse(xml.as_bytes()).expect(&xml);
            assert_eq!((message.field("a"), message.faulty().is_some()), (text, true));
        }
    }

    #[test]
    fn nested_values_are_harmless() {
        let xml = "<xml><SendLocationInfo><Location_X>23</Location_X><status>9</status>
            </SendLocationInfo><status>1</status></xml>";
        assert_eq!(fields(xml, ["SendLocationInfo", "Location_X", "status"]), ["", "", "1"]);
        let json = r#"{"list":[{"status":9}],"status":1}"#;
        assert_eq!(fields(json, ["list", "status"]), [r#"[{"status":9}]"#, "1"]);
        let deep =
            |levels: usize| format!("<xml>{}{}</xml>", "<a>".repeat(levels), "</a>".repeat(levels));
        assert!(parse(deep(DEPTH - 1).as_bytes()).is_ok());
        assert_eq!(refused(deep(DEPTH)), "XML that is nested too deeply");
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(deep.as_bytes()).is_ok(), "there is no stack to overflow");
    }

    #[test]
    fn first_of_doubled_fields_counts() {
        assert_eq!(fields("<xml><a>1</a><a>2</a></xml>", ["a"]), ["1"]);
        assert_eq!(fields(r#"{"a":1,"a":2}"#, ["a"]), ["1"]);
        let faulty = parse(br#"{"a":1,"a":2,"b":3,"b":3,}"#).expect("a message");
        assert_eq!((faulty.field("a"), faulty.field("b")), ("", "3"));
        assert!(faulty.is_doubtful("a") && !faulty.is_doubtful("b"));
    }

    #[test]
    fn non_message_is_refused() {
        for entity in ["<!ENTITY x SYSTEM 'file:///etc/passwd'>", "<!ENTITY x 'x'>", ""] {
            let xml = format!("<!DOCTYPE xml [{entity}]><xml><a>&x;</a></xml>");
            assert_eq!(refused(xml), "XML with a document type");
        }
        for (text, why) in [
            ("", "neither XML nor JSON"),
            ("[1]", "neither XML nor JSON"),
            ("null", "neither XML nor JSON"),
            ("{", "broken JSON"),
            (r#"{"a":1} {}"#, "broken JSON"),
            ("<", "broken XML"),
            ("<xml>", "XML that is cut off"),
            ("<xml><a>1</a>", "XML that is cut off"),
            ("<xml></a></xml>", "broken XML"),
            ("<xml><a></b></xml>", "broken XML"),
            ("<xml></xml></xml>", "broken XML"),
            ("<xml></xml><xml></xml>", "XML with another root"),
            ("<xml></xml>text", "XML with text around it"),
            ("<html></html>", "XML with another root"),
            ("<?xml version='1.0'?>", "XML that is cut off"),
        ] {
            assert_eq!(refused(text), why, "{text}");
        }
        assert_eq!(refused(b"<xml><a>\xff</xml>"), "not UTF-8");
    }

    #[test]
    fn message_name_is_event_or_else_type() {
        for (json, name) in [
            (r#"{"MsgType":"event","Event":"subscribe"}"#, "subscribe"),
            (r#"{"Event":"subscribe"}"#, "subscribe"),
            (r#"{"MsgType":"event"}"#, "event"),
            (r#"{"MsgType":"text","Event":"subscribe"}"#, "text"),
            (r#"{"InfoType":"authorized"}"#, "authorized"),
            (r#"{"action":"CheckContainerPath"}"#, "CheckContainerPath"),
            (r#"{"MsgType":"EVENT\u0000","Event":"\u200bsubscribe\u0001"}"#, "subscribe"),
            ("{}", ""),
            (r#"{"Event":"subscribe","Event":"unsubscribe",}"#, ""),
        ] {
            assert_eq!(parse(json.as_bytes()).expect(json).name(), name);
        }
    }
}
