//! Every call that came in, in order: what was asked, whether it was carried out, what was answered.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::endpoint::Part;

/// How many calls are remembered.
const LIMIT: usize = 100_000;
/// How much is kept of a body that is no JSON.
const TEXT_LIMIT: usize = 4096;

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// 1 for the first call since the start or the last reset.
    pub seq: u64,
    /// When it came, in milliseconds since 1970 by the simulator's clock.
    pub at_unix_ms: u64,
    /// The HTTP method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// Whose token it carried, or the account that asked for one; empty where that is not known.
    pub app_id: String,
    /// The query, with tokens and secrets replaced by `[redacted]`.
    pub query: BTreeMap<String, String>,
    /// The body: as JSON where it is JSON, else as text; of a form, what the part was.
    pub body: Value,
    /// True when the API did what it was asked to.
    pub executed: bool,
    /// What was answered, where that was a verdict at all; success without an errcode counts as 0.
    pub errcode: Option<i64>,
    /// The HTTP status, absent where no answer was given.
    pub status: Option<u16>,
    /// The fault that met the call.
    pub fault: Option<String>,
}

/// The calls so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<Entry>,
    count: u64,
}

impl Journal {
    /// Writes down a call; answers its number, by which [`Journal::amend`] finds it again.
    pub(super) fn append(&mut self, mut entry: Entry) -> u64 {
        self.count += 1;
        entry.seq = self.count;
        if self.entries.len() == LIMIT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.count
    }

    /// Adds what became of the call.
    pub(super) fn amend(&mut self, seq: u64, change: impl FnOnce(&mut Entry)) {
        // Usually the last one; it is gone if the journal was cleared in between.
        if let Some(entry) = self.entries.iter_mut().rev().find(|entry| entry.seq == seq) {
            change(entry);
        }
    }

    /// The calls to `path`, or all of them for `None`.
    pub(super) fn read(&self, path: Option<&str>) -> Vec<Entry> {
        let wanted = |entry: &&Entry| path.is_none_or(|path| entry.path == path);
        self.entries.iter().filter(wanted).cloned().collect()
    }

    /// All calls, which are forgotten. Their numbers go on.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries).into()
    }

    /// Forgets the calls. Their numbers go on.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// A query as the journal may keep it.
pub(super) fn redact_query(query: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let redact = |(name, value): (&String, &String)| {
        let value = if is_secret(name) { "[redacted]" } else { value };
        (name.clone(), value.to_owned())
    };
    query.iter().map(redact).collect()
}

/// A body as the journal may keep it.
pub(super) fn describe_body(bytes: &[u8], part: Option<&Part>) -> Value {
    if let Some(Part { name, file_name, content_type, bytes }) = part {
        return json!({
            "part": name,
            "filename": file_name,
            "content_type": content_type,
            "size": bytes.len(),
        });
    }
    if bytes.is_empty() {
        return Value::Null;
    }
    let Ok(mut body) = serde_json::from_slice::<Value>(bytes) else {
        return Value::String(
            String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_LIMIT)]).into_owned(),
        );
    };
    if let Some(fields) = body.as_object_mut() {
        for (_, value) in fields.iter_mut().filter(|(name, _)| is_secret(name)) {
            *value = json!("[redacted]");
        }
    }
    body
}

fn is_secret(name: &str) -> bool {
    name.contains("token") || name.contains("secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_kept() {
        let body = describe_body(br#"{"appid":"wx1","secret":"s"}"#, None);
        assert_eq!(body, json!({ "appid": "wx1", "secret": "[redacted]" }));
        let query = [("access_token", "t"), ("type", "image")].map(|(a, b)| (a.into(), b.into()));
        let kept = redact_query(&query.into());
        assert_eq!(kept["access_token"], "[redacted]");
        assert_eq!(kept["type"], "image");
    }
}
