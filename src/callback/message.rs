//! The messages that WeChat pushes: XML or JSON, as the account chose, and flat but for a few.

use std::fmt;

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

/// Deeper than any message of WeChat's; those with lists in them have four levels.
const DEPTH: usize = 16;

/// A message: its fields, all as text, for what is a number in one is text in the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    text: String,
    fields: Fields,
}

/// Why something is no message. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

/// Reads a message. Takes any bytes, and time and memory in proportion to them.
///
/// Of a field that is there twice the first counts, in either form: WeChat sends none, and a
/// refusal would only lose the message. What is nested is no field of its own: its parent has the
/// JSON, or in XML the text beside it.
pub fn read(bytes: &[u8]) -> Result<Message, Malformed> {
    let text = str::from_utf8(bytes).map_err(|_| Malformed("not UTF-8"))?;
    let inner = text.trim_start_matches('\u{feff}').trim();
    let fields = match inner.as_bytes().first() {
        Some(b'<') => xml(inner)?,
        Some(b'{') => serde_json::from_str(inner).map_err(|_| Malformed("broken JSON"))?,
        _ => return Err(Malformed("neither XML nor JSON")),
    };
    Ok(Message { text: text.to_owned(), fields })
}

impl Message {
    /// The whole message, as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A field, without the blanks around it; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        let Fields(fields) = &self.fields;
        let found = fields.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// What the settings call it: an event by its name, another message by its type. What comes
    /// without a type are notices to third-party platforms and probes.
    pub fn name(&self) -> &str {
        let event = self.field("Event");
        match self.field("MsgType") {
            "event" | "" if !event.is_empty() => event,
            "" if !self.field("InfoType").is_empty() => self.field("InfoType"),
            "" => self.field("action"),
            kind => kind,
        }
    }
}

/// Names and values, as they came: of a name that is there twice the first is found first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields(Vec<(String, String)>);

/// Reads `<xml>` and its children. Knows no entity but the five that XML has; a document type, which
/// could define more, is refused.
fn xml(text: &str) -> Result<Fields, Malformed> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
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
            Event::GeneralRef(reference) => resolved(&reference)?.into(),
            // Empty elements come as a start and an end, as was asked for.
            Event::Comment(_) | Event::Decl(_) | Event::Empty(_) => continue,
            Event::DocType(_) => return Err(Malformed("XML with a document type")),
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
                    fields.0.push((name, scalar(value.get())));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A value as text. Numbers stay as they are written, so that none is rounded; and so does a string
/// with half a character in it, for a follower's broken smiley must not hold up the rest.
fn scalar(json: &str) -> String {
    match json {
        "null" => String::new(),
        _ => serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<const N: usize>(text: &str, names: [&str; N]) -> [String; N] {
        let message = read(text.as_bytes()).expect(text);
        names.map(|name| message.field(name).to_owned())
    }

    fn refused(text: impl AsRef<[u8]>) -> String {
        let error = read(text.as_ref()).expect_err("no message");
        error.to_string()
    }

    #[test]
    fn xml_and_json_say_the_same() {
        let xml = "\u{feff}<?xml version=\"1.0\"?>\n<!-- --><xml a='b'>\n<MsgType><![CDATA[event]]></MsgType>
            <poi_id> 5938314494307741153\n</poi_id><reason>\n<![CDATA[ 门头<不>&清 ]]>\n</reason>
            <is_upgrade/><status></status></xml>\n";
        let json = r#" {"MsgType":"event","poi_id":5938314494307741153,"reason":"门头<不>&清",
            "is_upgrade":null,"status":""} "#;
        let names = ["MsgType", "poi_id", "reason", "is_upgrade", "status", "missing"];
        assert_eq!(fields(xml, names), fields(json, names));
        assert_eq!(fields(json, ["poi_id", "reason"]), ["5938314494307741153", "门头<不>&清"]);
        assert_eq!(read(xml.as_bytes()).expect("a message").text(), xml);
    }

    #[test]
    fn no_number_is_rounded() {
        let json = r#"{"a":59383144943077411530000,"b":113.32375335700000001,"c":-0,"d":true}"#;
        let numbers = ["59383144943077411530000", "113.32375335700000001", "-0", "true"];
        assert_eq!(fields(json, ["a", "b", "c", "d"]), numbers);
    }

    #[test]
    fn half_a_character_does_not_cost_the_message() {
        let json = r#"{"Content":"\ud83d","MsgType":"text"}"#;
        assert_eq!(fields(json, ["Content", "MsgType"]), [r#""\ud83d""#, "text"]);
    }

    #[test]
    fn references_are_resolved_and_only_those_of_xml() {
        let xml = "<xml><a>&lt;&amp;&gt;&quot;&apos;&#38;&#x5BA1;<![CDATA[&amp;]]></a></xml>";
        assert_eq!(fields(xml, ["a"]), ["<&>\"'&审&amp;"]);
        assert_eq!(refused("<xml><a>&nbsp;</a></xml>"), "XML with an unknown entity");
        for number in ["#0", "#xD800", "#x110000", "#", "#-1"] {
            let broken = refused(format!("<xml><a>&{number};</a></xml>"));
            assert_eq!(broken, "XML with a broken reference", "{number}");
        }
    }

    #[test]
    fn what_is_nested_does_no_harm() {
        let xml = "<xml><SendLocationInfo><Location_X>23</Location_X><status>9</status>
            </SendLocationInfo><status>1</status></xml>";
        assert_eq!(fields(xml, ["SendLocationInfo", "Location_X", "status"]), ["", "", "1"]);
        let json = r#"{"list":[{"status":9}],"status":1}"#;
        assert_eq!(fields(json, ["list", "status"]), [r#"[{"status":9}]"#, "1"]);
        let deep =
            |levels: usize| format!("<xml>{}{}</xml>", "<a>".repeat(levels), "</a>".repeat(levels));
        assert!(read(deep(DEPTH - 1).as_bytes()).is_ok());
        assert_eq!(refused(deep(DEPTH)), "XML that is nested too deeply");
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(deep.as_bytes()).is_ok(), "there is no stack to overflow");
    }

    #[test]
    fn of_a_doubled_field_the_first_counts() {
        assert_eq!(fields("<xml><a>1</a><a>2</a></xml>", ["a"]), ["1"]);
        assert_eq!(fields(r#"{"a":1,"a":2}"#, ["a"]), ["1"]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
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
            ("<?php ?><xml></xml>", "XML with instructions"),
            ("<?xml version='1.0'?>", "XML that is cut off"),
        ] {
            assert_eq!(refused(text), why, "{text}");
        }
        assert_eq!(refused(b"<xml><a>\xff</a></xml>"), "not UTF-8");
    }

    #[test]
    fn a_message_goes_by_the_name_of_its_event_or_else_its_type() {
        for (json, name) in [
            (r#"{"MsgType":"event","Event":"subscribe"}"#, "subscribe"),
            (r#"{"Event":"subscribe"}"#, "subscribe"),
            (r#"{"MsgType":"event"}"#, "event"),
            (r#"{"MsgType":"text","Event":"subscribe"}"#, "text"),
            (r#"{"InfoType":"authorized"}"#, "authorized"),
            (r#"{"action":"CheckContainerPath"}"#, "CheckContainerPath"),
            ("{}", ""),
        ] {
            assert_eq!(read(json.as_bytes()).expect(json).name(), name);
        }
    }
}
