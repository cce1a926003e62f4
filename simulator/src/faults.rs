//! Faults on demand: which call fails, and how.
//!
//! Faults at one path form a queue, and the first one applies until it is used up. A fault is
//! chosen before the call is checked, so it also applies to calls that would be refused.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mint::Mint;

/// A fault of one or more calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The path at which it applies. `*` means every path that has no fault of its own.
    pub path: String,
    /// The effect on the call.
    pub kind: Kind,
    /// The number of calls it applies to. 0 means every call until it is cleared.
    #[serde(default = "once")]
    pub times: u64,
    /// The number of calls that pass before it applies.
    #[serde(default)]
    pub after: u64,
    /// The probability that it applies to a call. The seed decides.
    #[serde(default = "always")]
    pub probability: f64,
    /// Whether the call is executed. If absent, [`Kind`] decides. If the call is not executed and
    /// the kind has no reply of its own, the reply is errcode -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute: Option<bool>,
}

/// The effect on a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Kind {
    /// Not executed. The reply is these bytes.
    Bytes {
        /// The body in base64.
        base64: String,
    },
    /// Executed. The reply comes one byte at a time, in real time.
    Drip {
        /// The pause before each byte.
        #[serde(default = "a_second")]
        interval_ms: u64,
    },
    /// Executed. The reply has no body.
    Empty,
    /// Not executed. Refused with this code.
    Errcode {
        /// The code.
        errcode: i64,
        /// The text. If absent, it is the usual one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errmsg: Option<String>,
    },
    /// Executed. The errcode is a string.
    ErrcodeAsString,
    /// Executed. The reply never comes, and the connection stays open.
    Hold,
    /// Not executed. The reply is a proxy's HTML page with status 502.
    Html502,
    /// Executed. The reply is longer than it should be by this much, and still valid JSON.
    Huge {
        /// The number of additional bytes.
        bytes: u64,
    },
    /// Executed. The reply is not UTF-8.
    InvalidUtf8,
    /// Executed at once. The reply comes later, in real time.
    Latency {
        /// The delay of the reply.
        ms: u64,
    },
    /// Executed. The reply is half of its JSON, in an intact HTTP message.
    NotJson,
    /// Executed. One field is null.
    NullField {
        /// The field, as a JSON pointer such as `/data/audit_id`.
        pointer: String,
    },
    /// Executed. Every field is null, except errcode, objects and arrays.
    Nulls,
    /// Not executed. The reply is status 302 to another address.
    Redirect {
        /// The address.
        location: String,
    },
    /// Not executed. The reply is this value. A string is sent as it is.
    Replace {
        /// The body.
        body: Value,
    },
    /// Executed. The connection is reset instead of a reply.
    ResetAfter,
    /// Not executed. The connection is reset.
    ResetBefore,
    /// Not executed. The reply has this HTTP status.
    Status {
        /// The status.
        code: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// Not executed. The reply is status 429 with this `Retry-After`.
    Throttle {
        /// Seconds, or an HTTP date.
        retry_after: String,
    },
    /// Executed. The connection ends in the middle of the reply.
    Truncate,
    /// Executed. Every object has one field that the documents do not have.
    UnknownFields,
    /// Executed. Numbers are strings, and strings of digits are numbers.
    WrongTypes,
}

/// The way in which the reply reaches the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The first half, then the connection ends.
    Cut,
    Drip(Duration),
    Late(Duration),
    Never,
    Padded(u64),
    Plain,
    Reset,
}

impl Fault {
    /// Returns a fault that applies to the next call of `path`.
    pub fn new(path: impl Into<String>, kind: Kind) -> Self {
        let path = path.into();
        Self { path, kind, times: 1, after: 0, probability: 1.0, execute: None }
    }

    /// Applies it to this number of calls. 0 means every call.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Applies it after this number of calls.
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// Applies it to each call with this probability.
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Executes the call, or does not.
    pub fn execute(mut self, execute: bool) -> Self {
        self.execute = Some(execute);
        self
    }

    pub(super) fn executes(&self) -> bool {
        self.execute.unwrap_or(!matches!(
            self.kind,
            Kind::Errcode { .. }
                | Kind::Html502
                | Kind::Redirect { .. }
                | Kind::Bytes { .. }
                | Kind::Replace { .. }
                | Kind::ResetBefore
                | Kind::Status { .. }
                | Kind::Throttle { .. }
        ))
    }
}

impl Kind {
    /// Returns the name that it has in JSON.
    pub(super) fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            Ok(Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// Returns whether the caller gets a reply at all.
    pub(super) const fn answers(&self) -> bool {
        !matches!(self.delivery(), Delivery::Never | Delivery::Reset)
    }

    pub(super) const fn delivery(&self) -> Delivery {
        match self {
            Self::Drip { interval_ms } => Delivery::Drip(Duration::from_millis(*interval_ms)),
            Self::Hold => Delivery::Never,
            Self::Huge { bytes } => Delivery::Padded(*bytes),
            Self::Latency { ms } => Delivery::Late(Duration::from_millis(*ms)),
            Self::ResetAfter | Self::ResetBefore => Delivery::Reset,
            Self::Truncate => Delivery::Cut,
            _ => Delivery::Plain,
        }
    }
}

/// The faults that have not applied yet.
#[derive(Debug, Default)]
pub(super) struct Faults(VecDeque<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push_back(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn list(&self) -> Vec<Fault> {
        self.0.iter().cloned().collect()
    }

    /// Returns the fault that applies to this call, if any, and counts it.
    pub(super) fn strike(&mut self, path: &str, mint: &mut Mint) -> Option<Fault> {
        let own = self.0.iter().position(|fault| fault.path == path);
        let at = own.or_else(|| self.0.iter().position(|fault| fault.path == "*"))?;
        let fault = self.0.get_mut(at)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        if !mint.chance(fault.probability) {
            return None;
        }
        let struck = fault.clone();
        if fault.times == 1 {
            self.0.remove(at);
        } else {
            fault.times = fault.times.saturating_sub(1);
        }
        Some(struck)
    }
}

const fn once() -> u64 {
    1
}

const fn always() -> f64 {
    1.0
}

const fn a_second() -> u64 {
    1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(faults: &mut Faults, path: &str) -> Option<Kind> {
        faults.strike(path, &mut Mint::new(1)).map(|fault| fault.kind)
    }

    #[test]
    fn queued_faults_apply_in_order() {
        let mut faults = Faults::default();
        faults.add(Fault::new("/a", Kind::Empty).after(1).times(2));
        faults.add(Fault::new("/a", Kind::Hold));
        faults.add(Fault::new("*", Kind::Html502).times(0));
        let met: Vec<_> = (0..5).map(|_| struck(&mut faults, "/a")).collect();
        let empty = Some(Kind::Empty);
        assert_eq!(met, [None, empty.clone(), empty, Some(Kind::Hold), Some(Kind::Html502)]);
        assert_eq!(struck(&mut faults, "/b"), Some(Kind::Html502));
        assert_eq!(faults.list().len(), 1);
    }

    #[test]
    fn fault_parses_from_json() {
        let text = r#"{"path":"/wxa/add_store","kind":{"errcode":{"errcode":85038}}}"#;
        let fault: Fault = serde_json::from_str(text).expect("a fault");
        assert_eq!(fault.kind.name(), "errcode");
        assert!(!fault.executes());
        assert!(serde_json::from_str::<Fault>(r#"{"path":"/a","kind":"reset_after"}"#).is_ok());
        let misspelt = r#"{"path":"/a","kind":"empty","time":2}"#;
        assert!(serde_json::from_str::<Fault>(misspelt).is_err());
    }
}
