//! How an error is printed: as JSON, its details decoded.

use std::{error::Error, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, prost_types::Any};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status, TimeoutExpired};

use crate::{cli::Failure, telemetry::code_name};

/// An error as it is printed.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Refusal {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Value>,
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let message = status.message().to_owned();
        Self { code: code_name(code(status)), message, details: details(status) }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = serde_json::to_string_pretty(&Refusal::from(&status));
        Self::refused(code(&status), text.unwrap_or_else(|_| status.message().to_owned()))
    }
}

impl Refusal {
    /// One that no service made.
    pub(super) fn new(code: Code, message: String) -> Self {
        Self { code: code_name(code), message, details: Vec::new() }
    }
}

/// tonic calls a deadline that passed on this side a cancellation.
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

/// The details, which are messages of google.rpc by custom.
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

/// A detail of a type that is not known here.
fn raw(Any { type_url, value }: &Any) -> Value {
    json!({ "@type": type_url, "value": STANDARD.encode(value) })
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn details_are_printed_by_name() {
        let mut details = ErrorDetails::new();
        details.set_error_info("STORE_NOT_FOUND", "here", [("errcode".into(), "65115".into())]);
        details.set_retry_info(Some(std::time::Duration::from_millis(1500)));
        let status = Status::with_error_details(Code::NotFound, "no such store", details);
        let printed: Value =
            serde_json::from_str(&Failure::from(status).to_string()).expect("it is JSON");
        assert_eq!(printed["code"], "NOT_FOUND");
        assert_eq!(printed["message"], "no such store");
        let details = printed["details"].as_array().expect("details");
        assert!(details.contains(&json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "STORE_NOT_FOUND",
            "domain": "here",
            "metadata": { "errcode": "65115" },
        })));
        assert!(details.iter().any(|detail| detail["retryDelay"] == "1.500s"), "{details:?}");
    }

    #[test]
    fn details_of_another_kind_are_kept() {
        let any = Any { type_url: "example.com/a.B".into(), value: vec![1, 2, 3] };
        assert_eq!(raw(&any), json!({ "@type": "example.com/a.B", "value": "AQID" }));
    }
}
