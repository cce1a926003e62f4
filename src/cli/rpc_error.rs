//! A gRPC error as it is printed: as JSON for programs, as aligned lines for people.

use std::{error::Error, fmt, sync::LazyLock, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, prost_types::Any};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt};

use super::print::{BAD, DIM, paint, without_controls};
use crate::telemetry::code_name;

/// The domain of errors whose reason `call --describe` can explain.
const DOMAIN: &str = "wechat-store-gateway";

/// The start of a command, if the address of the service does not matter.
const CALL: &str = "wechat-store-gateway call";

/// A gRPC error.
#[derive(Debug, Serialize)]
pub(super) struct RpcError {
    #[serde(serialize_with = "serialize_code")]
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Value>,
    /// What this command knows about the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
    /// The details of the usual types, for the text.
    #[serde(skip)]
    parsed: Box<ErrorDetails>,
    /// The start of the command that explains the reason.
    #[serde(skip)]
    pub(super) command: String,
}

impl From<&Status> for RpcError {
    fn from(status: &Status) -> Self {
        Self {
            code: code(status),
            message: status.message().to_owned(),
            details: details(status),
            hint: None,
            parsed: Box::new(status.get_error_details()),
            command: CALL.to_owned(),
        }
    }
}

impl RpcError {
    /// Returns an error that no service returned.
    pub(super) fn new(code: Code, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self {
            code,
            message,
            details: Vec::new(),
            hint: None,
            parsed: Box::default(),
            command: CALL.to_owned(),
        }
    }

    /// Returns the gRPC code.
    pub(super) const fn code(&self) -> Code {
        self.code
    }

    /// Returns the error as JSON over several lines.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|_| self.message.clone())
    }

    /// Returns the error as aligned lines with styles: code and reason, the message, then one line
    /// for each further fact.
    pub(super) fn to_text(&self) -> String {
        let title = match self.reason() {
            Some(reason) => format!("{} ({reason})", code_name(self.code)),
            None => code_name(self.code).to_owned(),
        };
        let mut text = paint(BAD, format_args!("error: {}", without_controls(&title)));
        text.push_str(&format!("\n  {}", without_controls(&self.message)));
        let facts = self.facts();
        let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        if !facts.is_empty() {
            text.push('\n');
        }
        for (label, fact) in facts {
            let label = without_controls(&label);
            let label = paint(DIM, format_args!("{label:width$}"));
            text.push_str(&format!("\n  {label}  {}", without_controls(&fact)));
        }
        text
    }

    /// Returns the reason, if the service stated one.
    fn reason(&self) -> Option<&str> {
        let info = self.parsed.error_info()?;
        Some(info.reason.as_str()).filter(|reason| !reason.is_empty())
    }

    /// Returns everything except code, reason and message, most useful first.
    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut add = |label: &str, fact: String| facts.push((label.to_owned(), fact));
        let mut metadata = self.parsed.error_info().map(|info| info.metadata.clone());
        let mut take = |key: &str| metadata.as_mut()?.remove(key);
        if let Some(fix_by) = take("fix_by") {
            add("fix by", fix_by_text(&fix_by));
        }
        if let Some(hint) = &self.hint {
            add("hint", hint.clone());
        }
        if let Some(setting) = take("setting") {
            add("setting", setting);
        }
        for violation in self.parsed.bad_request().into_iter().flat_map(|it| &it.field_violations) {
            add("field", format!("{}: {}", violation.field, violation.description));
        }
        for violation in
            self.parsed.precondition_failure().into_iter().flat_map(|it| &it.violations)
        {
            add("condition", format!("{}: {}", violation.subject, violation.description));
        }
        for violation in self.parsed.quota_failure().into_iter().flat_map(|it| &it.violations) {
            add("quota", format!("{}: {}", violation.subject, violation.description));
        }
        if let Some(delay) = self.parsed.retry_info().and_then(|info| info.retry_delay) {
            add("retry", format!("after {}", seconds(delay)));
        }
        if let Some(info) = self.parsed.resource_info() {
            // A type without a name repeats the message.
            if !info.resource_name.is_empty() {
                add("resource", format!("{} {}", info.resource_type, info.resource_name));
            }
        }
        let (errcode, errmsg) = (take("errcode"), take("errmsg"));
        if errcode.is_some() || errmsg.is_some() {
            let errcode = errcode.map(|code| format!("errcode {code}"));
            let words = [errcode, errmsg].into_iter().flatten().collect::<Vec<_>>();
            add("WeChat", words.join(": "));
        }
        if let Some(rid) = take("rid") {
            add("rid", format!("{rid} (WeChat's support asks for it)"));
        }
        if let Some(localized) = self.parsed.localized_message() {
            add(&localized.locale, localized.message.clone());
        }
        let mut rest: Vec<_> = metadata.unwrap_or_default().into_iter().collect();
        rest.sort();
        for (key, value) in rest {
            add(&key, value);
        }
        if let Some(info) = self.parsed.request_info() {
            add("request", format!("{} (the trace id in the log)", info.request_id));
        }
        let ours = self.parsed.error_info().is_some_and(|info| info.domain == DOMAIN);
        if let Some(reason) = self.reason().filter(|_| ours) {
            add("more", format!("{} --describe {reason}", self.command));
        }
        facts
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", code_name(self.code), self.message)
    }
}

/// Returns the sentence for a value of `fix_by`.
fn fix_by_text(fix_by: &str) -> String {
    let what = match fix_by {
        "caller" => "send a different request",
        "operator" => "change the settings or the environment of this gateway",
        "merchant" => "the owner of the WeChat account must act at WeChat",
        "developer" => "please report this error to the developers of the gateway",
        "wait" => "try again later",
        _ => return fix_by.to_owned(),
    };
    format!("{fix_by}: {what}")
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

fn serialize_code<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code_name(*code))
}

/// Returns the gRPC code. tonic returns CANCELLED for a deadline that passed on this side.
pub(super) fn code(status: &Status) -> Code {
    let mut cause: Option<&dyn Error> = Some(status);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        cause = error.source();
    }
    status.code()
}

/// Returns the innermost cause of a broken connection, or `None` if the service returned the status or
/// the deadline passed.
pub(super) fn connection_error(status: &Status) -> Option<String> {
    let mut cause = status.source()?;
    loop {
        if cause.is::<TimeoutExpired>() {
            return None;
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return Some(cause.to_string()),
        }
    }
}

/// Returns the details as JSON. By convention they are messages of google.rpc.
fn details(status: &Status) -> Vec<Value> {
    static TYPES: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap_or_default()
    });
    let details = tonic_types::Status::decode(status.details()).unwrap_or_default().details;
    details.iter().map(|detail| decoded(detail, &TYPES).unwrap_or_else(|| raw(detail))).collect()
}

fn decoded(Any { type_url, value }: &Any, types: &DescriptorPool) -> Option<Value> {
    let name = type_url.rsplit('/').next()?;
    let message = DynamicMessage::decode(types.get_message_by_name(name)?, &value[..]).ok()?;
    let mut json = serde_json::to_value(&message).ok()?;
    json.as_object_mut()?.insert("@type".to_owned(), json!(type_url));
    Some(json)
}

/// Returns a detail of an unknown type, its bytes in base64.
fn raw(Any { type_url, value }: &Any) -> Value {
    json!({ "@type": type_url, "value": STANDARD.encode(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found() -> RpcError {
        let mut details = ErrorDetails::new();
        let metadata = [
            ("errcode".to_owned(), "65115".to_owned()),
            ("errmsg".to_owned(), "store does not exist\u{1b}[2J".to_owned()),
            ("fix_by".to_owned(), "caller".to_owned()),
            ("path".to_owned(), "/wxa/get_store_info".to_owned()),
        ];
        details.set_error_info("STORE_NOT_FOUND", DOMAIN, metadata);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        details.add_bad_request_violation("poi_id", "must not be empty");
        details.set_localized_message("zh-CN", "门店不存在");
        RpcError::from(&Status::with_error_details(Code::NotFound, "no such store", details))
    }

    #[test]
    fn json_contains_decoded_details() {
        let printed: Value = serde_json::from_str(&not_found().to_json()).expect("it is JSON");
        assert_eq!(printed["code"], "NOT_FOUND");
        assert_eq!(printed["message"], "no such store");
        assert_eq!(printed.as_object().map(serde_json::Map::len), Some(3), "{printed}");
        let details = printed["details"].as_array().expect("details");
        let info = details.iter().find(|detail| detail["reason"] == "STORE_NOT_FOUND");
        let info = info.expect("an ErrorInfo");
        assert_eq!(info["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
        assert_eq!(info["metadata"]["errcode"], "65115");
        assert!(details.iter().any(|detail| detail["retryDelay"] == "1.500s"), "{details:?}");
    }

    #[test]
    fn text_is_aligned_and_without_control_characters() {
        let text = anstream::adapter::strip_str(&not_found().to_text()).to_string();
        let expected = "\
error: NOT_FOUND (STORE_NOT_FOUND)
  no such store

  fix by  caller: send a different request
  field   poi_id: must not be empty
  retry   after 1.5 s
  WeChat  errcode 65115: store does not exist\u{fffd}[2J
  zh-CN   门店不存在
  path    /wxa/get_store_info
  more    wechat-store-gateway call --describe STORE_NOT_FOUND";
        assert_eq!(text, expected);
        let plain = RpcError::new(Code::Unavailable, "not reachable");
        let plain = anstream::adapter::strip_str(&plain.to_text()).to_string();
        assert_eq!(plain, "error: UNAVAILABLE\n  not reachable");
    }

    #[test]
    fn unknown_detail_is_kept_as_base64() {
        let any = Any { type_url: "example.com/a.B".into(), value: vec![1, 2, 3] };
        assert_eq!(raw(&any), json!({ "@type": "example.com/a.B", "value": "AQID" }));
    }
}
