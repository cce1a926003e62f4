//! What goes wrong on demand: which call is met by which mishap.
//!
//! Faults on one path queue up; the first of them stands until it is used up. A fault is chosen
//! before the call is looked at, so it also meets calls that would be refused.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mint::Mint;

/// One or more calls that will go wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The path it waits at, or `*` for every path without a fault of its own.
    pub path: String,
    /// What happens.
    pub kind: Kind,
    /// How many calls it meets; 0 means all of them until it is cleared.
    #[serde(default = "once")]
    pub times: u64,
    /// How many calls it lets pass first.
    #[serde(default)]
    pub after: u64,
    /// How likely it meets a call, drawn from the seed.
    #[serde(default = "always")]
    pub probability: f64,
    /// Whether the call is carried out all the same; absent means what [`Kind`] says. Where a call
    /// is not carried out and the kind has no answer of its own, the answer is errcode -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute: Option<bool>,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Kind {
    /// Not carried out; these bytes are the answer, whatever they are.
    Bytes {
        /// The body.
        base64: String,
    },
    /// Carried out; the answer comes a byte at a time, by real time.
    Drip {
        /// The pause before each byte.
        #[serde(default = "a_second")]
        interval_ms: u64,
    },
    /// Carried out; the answer has no body.
    Empty,
    /// Not carried out; refused with this code.
    Errcode {
        /// The code.
        errcode: i64,
        /// The text; absent means the usual one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errmsg: Option<String>,
    },
    /// Carried out; errcode is a string.
    ErrcodeAsString,
    /// Carried out; the answer never comes, and the connection stays open.
    Hold,
    /// Not carried out; a gateway's HTML page with status 502.
    Html502,
    /// Carried out; the answer is this much longer than it should be, and still good JSON.
    Huge {
        /// How much.
        bytes: u64,
    },
    /// Carried out; the answer is no UTF-8.
    InvalidUtf8,
    /// Carried out at once; the answer comes later, by real time.
    Latency {
        /// How much later.
        ms: u64,
    },
    /// Carried out; the answer is half a JSON text in an intact HTTP message.
    NotJson,
    /// Carried out; one field is null.
    NullField {
        /// Which, as a JSON pointer such as `/data/audit_id`.
        pointer: String,
    },
    /// Carried out; every field but errcode that is no object or array is null.
    Nulls,
    /// Not carried out; status 302 to another address.
    Redirect {
        /// Where to.
        location: String,
    },
    /// Not carried out; this is the answer, a string being sent as it is.
    Replace {
        /// The body.
        body: Value,
    },
    /// Carried out; the connection is reset instead of an answer.
    ResetAfter,
    /// Not carried out; the connection is reset.
    ResetBefore,
    /// Not carried out; this HTTP status.
    Status {
        /// The status.
        code: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// Not carried out; status 429 with this `Retry-After`.
    Throttle {
        /// Seconds, or an HTTP date.
        retry_after: String,
    },
    /// Carried out; the connection ends in the middle of the answer.
    Truncate,
    /// Carried out; every object has a field more than the documents know.
    UnknownFields,
    /// Carried out; numbers are strings, and strings of digits are numbers.
    WrongTypes,
}

/// How the answer reaches the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// All of it but the second half, then the end of the connection.
    Cut,
    Drip(Duration),
    Late(Duration),
    Never,
    Padded(u64),
    Plain,
    Reset,
}

impl Fault {
    /// A fault that meets the next call to `path`.
    pub fn new(path: impl Into<String>, kind: Kind) -> Self {
        let path = path.into();
        Self { path, kind, times: 1, after: 0, probability: 1.0, execute: None }
    }

    /// The same fault for so many calls; 0 means all of them.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// The same fault after so many calls that pass.
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// The same fault, decided for each call by chance.
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// The same fault for a call that is, or is not, carried out.
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
    /// The name it has in JSON.
    pub(super) fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            Ok(Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// False where the caller gets no answer at all.
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

/// The faults that wait.
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

    /// The fault that meets this call, if any.
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
    fn faults_queue_up_and_are_used_up() {
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
    fn a_fault_reads_as_one_line_of_json() {
        let text = r#"{"path":"/wxa/add_store","kind":{"errcode":{"errcode":85038}}}"#;
        let fault: Fault = serde_json::from_str(text).expect("a fault");
        assert_eq!(fault.kind.name(), "errcode");
        assert!(!fault.executes());
        assert!(serde_json::from_str::<Fault>(r#"{"path":"/a","kind":"reset_after"}"#).is_ok());
        let misspelt = r#"{"path":"/a","kind":"empty","time":2}"#;
        assert!(serde_json::from_str::<Fault>(misspelt).is_err());
    }
}
