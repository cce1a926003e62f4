//! The names of our own attributes. `telemetry` has those of the conventions.

/// The class of what a call to WeChat brought.
pub(crate) const RESULT: &str = "wechat.result";
