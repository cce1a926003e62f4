//! The names of our own attributes. `telemetry` has those of the conventions.

/// The account. Those beyond `metrics.accounts` share the value `other`.
pub(crate) const APP_ID: &str = "wechat.app_id";
/// The cache.
pub(crate) const CACHE: &str = "wechat.cache";
/// The party that caused a failure of which the code alone does not show it. Only `caller` is a value.
pub(crate) const CAUSED_BY: &str = "wechat.caused_by";
/// The commit that was built.
pub(crate) const COMMIT: &str = "commit";
/// The mode in which a process used the processor: `user` or `system`.
pub(crate) const CPU_MODE: &str = "cpu.mode";
/// A key in `[listen]`.
pub(crate) const LISTENER: &str = "wechat.listener";
/// How an event became known: `pushed` or `polled`.
pub(crate) const ORIGIN: &str = "wechat.event.origin";
/// The reason of a refusal.
pub(crate) const REASON: &str = "wechat.reason";
/// The class of what happened.
pub(crate) const RESULT: &str = "wechat.result";
/// The kind of a secret in the state.
pub(crate) const SECRET: &str = "wechat.state.secret";
/// A method of the state.
pub(crate) const STATE_OPERATION: &str = "wechat.state.operation";
/// The version of the gateway.
pub(crate) const VERSION: &str = "version";
/// A step of a write.
pub(crate) const WRITE_STATE: &str = "wechat.write.state";
