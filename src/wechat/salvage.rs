//! Reads a partly unreadable reply.
//!
//! This is used only after strict parsing failed. It removes the unreadable part, notes its path in
//! every object around it, and parses the rest again. It repeats this until the rest is a valid
//! reply or nothing is left to remove. A struct receives the notes in a field named [`UNREADABLE`].
//! In a list, an unreadable row becomes null, so that later rows keep their positions.

use std::{borrow::Cow, collections::HashSet, fmt::Write};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::objects::Objects;
use crate::util::lenient;

/// The field in which a struct receives the names of its unreadable fields. WeChat uses no such
/// name.
pub(super) const UNREADABLE: &str = "$unreadable";

/// The number of JSON values that are parsed at most, over all tries. A reply with damage in every
/// row needs a fraction of it. It bounds the time for a hostile reply.
const BUDGET: usize = 1_000_000;
/// The shortest integer that may have more digits than a parsed JSON number keeps.
const LONG_NUMBER: usize = 20;

/// Returns the readable part of `json`, which must be strict JSON. Returns `None` if a required
/// part of the reply is unreadable.
pub(super) fn parse<T: DeserializeOwned>(json: &str) -> Option<T> {
    let mut value = serde_json::from_str(&with_long_numbers_quoted(json)).ok()?;
    Salvage { budget: BUDGET, split: HashSet::new() }.parse(&mut value)
}

/// A step from a value to a value inside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Field(String),
    Row(usize),
}

struct Salvage {
    budget: usize,
    /// The lists whose rows were parsed one by one.
    split: HashSet<Vec<Step>>,
}

impl Salvage {
    fn parse<T: DeserializeOwned>(&mut self, value: &mut Value) -> Option<T> {
        loop {
            self.budget = self.budget.checked_sub(size(value))?;
            let path = match attempt::<T>(value) {
                Ok(reply) => return Some(reply),
                Err(path) => path,
            };
            if path.is_empty() {
                return None;
            }
            if let Some(list) = self.unsplit(value, &path) {
                self.parse_rows::<T>(value, &list)?;
            } else if !expand(value, &path) {
                remove(value, &path)?;
            }
        }
    }

    /// Returns the outermost list on the path whose rows were not parsed one by one yet.
    fn unsplit(&self, value: &mut Value, path: &[Step]) -> Option<Vec<Step>> {
        let at = path.iter().position(|step| matches!(step, Step::Row(_)))?;
        let list = path[..at].to_vec();
        let rows = find(value, &list)?.as_array()?.len();
        (rows > 1 && !self.split.contains(&list)).then_some(list)
    }

    /// Parses the reply with each row of a list alone, so that the time grows with the number of
    /// rows and not with its square.
    fn parse_rows<T: DeserializeOwned>(&mut self, value: &mut Value, list: &[Step]) -> Option<()> {
        self.split.insert(list.to_vec());
        let rows = std::mem::take(find(value, list)?.as_array_mut()?);
        let mut good = Vec::with_capacity(rows.len());
        for row in rows {
            *find(value, list)?.as_array_mut()? = vec![row];
            self.parse::<T>(value)?;
            good.extend(find(value, list)?.as_array_mut()?.pop());
        }
        *find(value, list)?.as_array_mut()? = good;
        Some(())
    }
}

/// Returns the parsed value, or the path at which parsing failed.
fn attempt<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Step>> {
    serde_path_to_error::deserialize(Objects(value)).map_err(|error| {
        let steps = error.path().iter().map_while(|segment| match segment {
            Segment::Map { key } => Some(Step::Field(key.clone())),
            Segment::Seq { index } => Some(Step::Row(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        steps.collect()
    })
}

/// Returns the number of values in a value, including itself.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(rows) => 1 + rows.iter().map(size).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn step<'a>(value: &'a mut Value, step: &Step) -> Option<&'a mut Value> {
    match step {
        Step::Field(name) => value.get_mut(name),
        Step::Row(index) => value.get_mut(index),
    }
}

fn find<'a>(value: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, step)
}

/// Replaces a string that contains JSON with that JSON, because only a part of it may be
/// unreadable. Returns true if it did.
fn expand(value: &mut Value, path: &[Step]) -> bool {
    let Some(hidden) = find(value, path) else { return false };
    let Some(json) = hidden.as_str().filter(|json| json.trim_start().starts_with('{')) else {
        return false;
    };
    let strict = serde_json::from_str(&with_long_numbers_quoted(json)).ok();
    let shown = strict.or_else(|| {
        let repaired = lenient::repair(json.as_bytes())?;
        serde_json::from_str(&with_long_numbers_quoted(&repaired)).ok()
    });
    match shown {
        Some(shown @ Value::Object(_)) => {
            *hidden = shown;
            true
        }
        _ => false,
    }
}

/// Removes the value at `path`, or else the nearest enclosing value, and notes the path. Returns
/// `None` if nothing is left to remove.
fn remove(value: &mut Value, path: &[Step]) -> Option<()> {
    let (last, way) = path.split_last()?;
    let parent = find(value, way)?;
    let taken = match (last, parent) {
        (Step::Field(name), Value::Object(fields)) => fields.remove(name).is_some(),
        (Step::Row(index), Value::Array(rows)) => {
            rows.get_mut(*index).is_some_and(|row| !std::mem::take(row).is_null())
        }
        _ => false,
    };
    if !taken {
        return remove(value, way);
    }
    let mut around = Some(value);
    for (at, next) in path.iter().enumerate() {
        let Some(object) = around else { break };
        if let Value::Object(fields) = object {
            note(fields, &path[at..]);
        }
        around = step(object, next);
    }
    Some(())
}

/// Notes the path of a removed field in an object, such as `photo_list.photo_url`.
fn note(fields: &mut Map<String, Value>, path: &[Step]) {
    let mut name = String::new();
    for step in path {
        if let Step::Field(field) = step {
            let dot = if name.is_empty() { "" } else { "." };
            let _ = write!(name, "{dot}{field}");
        }
    }
    let names = fields.entry(UNREADABLE).or_insert_with(|| Value::Array(Vec::new()));
    if !names.is_array() {
        *names = Value::Array(Vec::new());
    }
    if let Value::Array(names) = names
        && !names.iter().any(|known| *known == name)
    {
        names.push(name.into());
    }
}

/// Returns the JSON with every very long integer as a string, which keeps all its digits.
fn with_long_numbers_quoted(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut quoted = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' {
            at = end_of_string(bytes, at);
            continue;
        }
        let begin = at;
        while bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte)) {
            at += 1;
        }
        let number = &json[begin..at];
        if number.len() >= LONG_NUMBER && number.bytes().all(|byte| byte.is_ascii_digit()) {
            let _ = write!(quoted, "{}\"{number}\"", &json[copied..begin]);
            copied = at;
        }
        at = at.max(begin + 1);
    }
    match copied {
        0 => json.into(),
        _ => (quoted + &json[copied..]).into(),
    }
}

/// Returns the position after the string that begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at += 1;
        match bytes.get(at) {
            Some(b'\\') => at += 1,
            Some(b'"') => return at + 1,
            Some(_) => {}
            None => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{
        util::id::PoiId,
        wechat::{Decimal, Int, List, Nested, Rows, Text},
    };

    #[derive(Debug, Deserialize)]
    struct Reply {
        list: Rows<Row>,
        #[serde(default)]
        total: Int,
        #[serde(default)]
        page: Nested<Page>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Page {
        rows: List<Row>,
    }

    #[derive(Debug, Default, Deserialize)]
    struct Row {
        #[serde(default)]
        id: PoiId,
        info: Info,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Info {
        price: Decimal,
        name: Text,
        photos: List<Photo>,
        #[serde(rename = "$unreadable")]
        unreadable: Vec<String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Photo {
        url: Text,
    }

    fn salvage(json: &str) -> Reply {
        parse(json).unwrap_or_else(|| panic!("unreadable: {json}"))
    }

    #[test]
    fn unreadable_field_is_absent_and_named() {
        let reply = salvage(
            r#"{"total":{},"list":[
                {"id":1,"info":{"price":"50元","name":"a"}},
                {"id":2,"info":{"price":7}},
                {"id":3,"info":{"price":[],"name":{},"photos":[{"url":"u"},{"url":[1]},{"url":{}}]}}]}"#,
        );
        assert_eq!(reply.total, Int(None));
        let [a, b, c] = &reply.list.0[..] else { panic!("{reply:?}") };
        assert_eq!((a.info.price, a.info.name.0.as_str()), (Decimal(None), "a"));
        assert_eq!(a.info.unreadable, ["price"]);
        assert_eq!((b.info.price, b.info.unreadable.len()), (Decimal(Some(7.0)), 0));
        assert_eq!(c.info.unreadable, ["name", "photos.url", "price"]);
        assert_eq!(c.info.photos.0.len(), 3);
    }

    #[test]
    fn unreadable_row_keeps_its_place() {
        let rows =
            [r#"{"id":1,"info":{}}"#, r#""x""#, r#"{"id":3,"info":[]}"#, r#"{"id":4}"#, "[]"];
        let json = format!(r#"{{"list":[{},{{"id":6,"info":{{}}}}]}}"#, rows.join(","));
        let ids: Vec<_> = salvage(&json).list.0.into_iter().map(|row| row.id).collect();
        assert_eq!(ids.iter().map(PoiId::as_str).collect::<Vec<_>>(), ["1", "", "", "", "", "6"]);
    }

    #[test]
    fn json_in_a_string_is_salvaged() {
        let hidden = r#"{"rows":[{"id":1,"info":{"price":"x"}},{"id":2,"info":{"name":"a\nb"}}]}"#;
        let json = serde_json::json!({"list": [], "page": hidden.replace("\\n", "\n")}).to_string();
        let rows = salvage(&json).page.0.rows.0;
        assert_eq!(rows[0].info.unreadable, ["price"]);
        assert_eq!(rows[1].info.name.0, "a\nb");
    }

    #[test]
    fn missing_required_part_yields_none() {
        for json in [r#"{"list":null}"#, r#"{"list":{}}"#, r#"{"list":""}"#, "{}", "[]", "7"] {
            assert!(parse::<Reply>(json).is_none(), "{json}");
        }
    }

    #[test]
    fn long_number_keeps_its_digits() {
        let json = r#"{"list":[{"id":59383144943077411530000,"info":{"name":"1 \" 59383144943077411530000"}},
            {"id":7,"info":{"name":12345678901234567890,"price":1234567890123456789012.5}}]}"#;
        let rows = salvage(json).list.0;
        assert_eq!(rows[0].id.as_str(), "59383144943077411530000");
        assert_eq!(rows[0].info.name.0, "1 \" 59383144943077411530000");
        assert_eq!(rows[1].info.name.0, "12345678901234567890");
        assert_eq!(rows[1].info.price.0, Some(1_234_567_890_123_456_789_012.5));
    }

    #[test]
    fn damaged_rows_are_salvaged_within_a_budget() {
        let row = r#"{"id":1,"info":{"price":"x","name":{}}}"#;
        let json = format!(r#"{{"list":[{}]}}"#, vec![row; 1000].join(","));
        let rows = salvage(&json).list.0;
        assert!(rows.iter().all(|row| row.info.unreadable == ["name", "price"]));
        let photos = vec![r#"{"url":{}}"#; 50_000].join(",");
        let json = format!(r#"{{"list":[{{"id":1,"info":{{"photos":[{photos}]}}}}]}}"#);
        assert!(parse::<Reply>(&json).is_none(), "it would take billions of steps");
    }
}
