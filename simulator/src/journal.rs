//! The journal of calls, in order: the request, whether it was executed, and the reply.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::endpoint::Part;

/// The journal keeps this many calls.
const LIMIT: usize = 100_000;
/// The journal keeps this many bytes of a body that is not JSON.
const TEXT_LIMIT: usize = 4096;

/// A call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// 1 for the first call since the start or the last reset.
    pub seq: u64,
    /// When the call came, in milliseconds since 1970 by the simulator's clock.
    pub at_unix_ms: u64,
    /// The HTTP method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The account that owns the token, or that asked for one. It is empty if that is unknown.
    pub app_id: String,
    /// The query. Tokens and secrets are replaced by `[redacted]`.
    pub query: BTreeMap<String, String>,
    /// The body: JSON, or text if it is not JSON. Of a form it describes the file.
    pub body: Value,
    /// Whether the API executed the call.
    pub executed: bool,
    /// The errcode of the reply, if the reply has a verdict. A success without errcode is 0.
    pub errcode: Option<i64>,
    /// The HTTP status. It is absent if the call got no reply.
    pub status: Option<u16>,
    /// The fault that applied to the call.
    pub fault: Option<String>,
}

/// The calls so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<Entry>,
    count: u64,
}

impl Journal {
    /// Appends a call and returns its number for [`Journal::amend`].
    pub(super) fn append(&mut self, mut entry: Entry) -> u64 {
        self.count += 1;
        entry.seq = self.count;
        if self.entries.len() == LIMIT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.count
    }

    /// Adds the result of a call.
    pub(super) fn amend(&mut self, seq: u64, change: impl FnOnce(&mut Entry)) {
        // It is usually the last one. It is missing if the journal was cleared meanwhile.
        if let Some(entry) = self.entries.iter_mut().rev().find(|entry| entry.seq == seq) {
            change(entry);
        }
    }

    /// Returns the calls to `path`, or with `None` all calls.
    pub(super) fn entries(&self, path: Option<&str>) -> Vec<Entry> {
        let wanted = |entry: &&Entry| path.is_none_or(|path| entry.path == path);
        self.entries.iter().filter(wanted).cloned().collect()
    }

    /// Returns all calls and forgets them. The numbers continue.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries).into()
    }

    /// Forgets all calls. The numbers continue.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// Returns a query without its secrets.
pub(super) fn redact_query(query: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let redact = |(name, value): (&String, &String)| {
        // An empty secret is none, and a client that sends one is at fault.
        let value = if is_secret(name) && !value.is_empty() { "[redacted]" } else { value };
        (name.clone(), value.to_owned())
    };
    query.iter().map(redact).collect()
}

/// Returns a body in the form that the journal keeps.
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
        for (_, value) in
            fields.iter_mut().filter(|(name, value)| is_secret(name) && !is_empty(value))
        {
            *value = json!("[redacted]");
        }
    }
    body
}

/// Tickets and codes of third-party platforms are secrets, too: each can be exchanged for a token.
fn is_secret(name: &str) -> bool {
    ["token", "secret", "ticket", "authorization_code"].iter().any(|part| name.contains(part))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value == ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted() {
        let body = describe_body(br#"{"appid":"wx1","secret":"s"}"#, None);
        assert_eq!(body, json!({ "appid": "wx1", "secret": "[redacted]" }));
        let empty = describe_body(br#"{"authorizer_refresh_token":""}"#, None);
        assert_eq!(empty, json!({ "authorizer_refresh_token": "" }));
        let query = [("access_token", "t"), ("type", "image")].map(|(a, b)| (a.into(), b.into()));
        let kept = redact_query(&query.into());
        assert_eq!(kept["access_token"], "[redacted]");
        assert_eq!(kept["type"], "image");
    }
}
