//! The rows of a state, in one form for both backends.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{
    pb::{AuditState, SubmissionKind},
    state::{EventKey, WriteState, gap::placeholder_key, is_decided, sum},
};

/// A kind of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The submissions.
    Submissions,
    /// The events of the log.
    Events,
    /// The journal of writes.
    Writes,
    /// The authorizers of platforms.
    Authorizers,
    /// The leases.
    Leases,
    /// The access tokens.
    Tokens,
    /// The counters of budgets.
    Counters,
    /// The tickets of platforms.
    Tickets,
}

impl Kind {
    /// All kinds, in the order in which they are copied: an event finds its submission.
    pub const ALL: [Self; 8] = [
        Self::Submissions,
        Self::Events,
        Self::Writes,
        Self::Authorizers,
        Self::Leases,
        Self::Tokens,
        Self::Counters,
        Self::Tickets,
    ];

    /// Returns its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submissions => "submissions",
            Self::Events => "events",
            Self::Writes => "writes",
            Self::Authorizers => "authorizers",
            Self::Leases => "leases",
            Self::Tokens => "tokens",
            Self::Counters => "counters",
            Self::Tickets => "tickets",
        }
    }

    /// Returns the name of one row.
    const fn singular(self) -> &'static str {
        match self {
            Self::Submissions => "submission",
            Self::Events => "event",
            Self::Writes => "write",
            Self::Authorizers => "authorizer",
            Self::Leases => "lease",
            Self::Tokens => "token",
            Self::Counters => "counter",
            Self::Tickets => "ticket",
        }
    }

    /// Returns the kind with a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the columns of a row. The first ones identify it.
    pub(in crate::state) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Submissions => &SUBMISSION,
            Self::Events => &EVENT,
            Self::Writes => &WRITE,
            Self::Authorizers => &AUTHORIZER,
            Self::Leases => &LEASE,
            Self::Tokens => &TOKEN,
            Self::Counters => &COUNTER,
            Self::Tickets => &TICKET,
        }
    }

    /// Returns whether its rows are numbered.
    pub(in crate::state) const fn is_numbered(self) -> bool {
        matches!(self, Self::Submissions | Self::Events | Self::Writes)
    }
}

/// The name and the type of a value.
pub(in crate::state) type Column = (&'static str, Type);

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Type {
    Number,
    Text,
    Bytes,
}

use Type::{Bytes, Number, Text};

const SUBMISSION: [Column; 15] = [
    ("number", Number),
    ("submission_id", Text),
    ("app_id", Text),
    ("kind", Number),
    ("audit_id", Text),
    ("poi_id", Text),
    ("map_poi_id", Text),
    ("client_reference", Text),
    ("state", Number),
    ("reason", Text),
    ("event_id", Text),
    ("created", Number),
    ("settled", Number),
    // 0 if WeChat need not be polled.
    ("ask_at", Number),
    // With its checksum.
    ("message", Bytes),
];

const EVENT: [Column; 17] = [
    ("position", Number),
    ("key", Bytes),
    ("received", Number),
    ("event_id", Text),
    ("app_id", Text),
    ("kind", Number),
    ("audit_id", Text),
    ("state", Number),
    ("reason", Text),
    ("poi_id", Text),
    ("map_poi_id", Text),
    ("event_time", Number),
    ("pushed", Number),
    // Empty if there is none.
    ("submission", Text),
    ("amends", Text),
    ("superseded_by", Text),
    // Without its checksum, which covers the whole row.
    ("message", Bytes),
];

const WRITE: [Column; 17] = [
    ("number", Number),
    ("write_id", Text),
    ("caller", Text),
    ("app_id", Text),
    ("method", Text),
    // Empty if there is none.
    ("request_id", Text),
    ("fingerprint", Bytes),
    ("client_reference", Text),
    ("state", Text),
    ("fence", Number),
    ("until", Number),
    ("attempts", Number),
    ("created", Number),
    ("sent", Number),
    ("ended", Number),
    // Both with their checksums. The reply is empty unless the write finished.
    ("sought", Bytes),
    ("reply", Bytes),
];

const AUTHORIZER: [Column; 6] = [
    ("platform", Text),
    ("app_id", Text),
    ("changed_at", Number),
    ("authorized", Number),
    ("refresh_token", Text),
    // Without its checksum, which covers the whole row.
    ("record", Bytes),
];

const LEASE: [Column; 4] = [("name", Text), ("fence", Number), ("held", Number), ("until", Number)];

const TOKEN: [Column; 5] = [
    ("app_id", Text),
    // Empty if it was dropped.
    ("value", Text),
    ("generation", Number),
    ("since", Number),
    ("until", Number),
];

const COUNTER: [Column; 3] = [("name", Text), ("spent", Number), ("until", Number)];

const TICKET: [Column; 3] = [("platform", Text), ("value", Text), ("sent_at", Number)];

/// The state of a damaged submission. No version has one with this number.
const NO_STATE: i64 = -1;
/// The state of a damaged write. No version has one with this name.
const NO_STAGE: &str = "damaged";

/// A value of a row.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::state) enum Value {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A value as a backend stores it.
pub(in crate::state) enum Raw<'a> {
    Number(i64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// Redis has no types.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only Redis returns it"))]
    Any(&'a [u8]),
    /// It is missing, or of another type.
    Wrong,
}

/// A row.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::state) struct Row {
    pub(in crate::state) kind: Kind,
    values: Vec<Value>,
    /// The damage. The values of a damaged row are what is left of it, and stay damaged in a copy.
    pub(in crate::state) damage: Option<String>,
}

/// Hides the values, because some are secrets.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Row {
    /// Makes a row of the values that a backend stores, in the order of the columns. `damage` is the damage
    /// that the backend itself found.
    pub(in crate::state) fn new<'a>(
        kind: Kind,
        raw: impl Iterator<Item = Raw<'a>>,
        damage: Option<String>,
    ) -> Self {
        let mut row = Self { kind, values: Vec::with_capacity(kind.columns().len()), damage };
        for ((name, of), raw) in kind.columns().iter().zip(raw) {
            let value = parse(*of, raw).unwrap_or_else(|| {
                row.damage
                    .get_or_insert_with(|| format!("its {name} is missing or of a wrong form"));
                empty(*of)
            });
            row.values.push(value);
        }
        row.keep_what_is_left();
        row.find_damage();
        row
    }

    /// Returns a value by the name of its column.
    fn value(&self, name: &str) -> Option<&Value> {
        let at = self.kind.columns().iter().position(|(its, _)| *its == name)?;
        self.values.get(at)
    }

    /// Returns a number.
    pub(in crate::state) fn number(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// Returns a number that is not negative.
    pub(in crate::state) fn count(&self, name: &str) -> u64 {
        u64::try_from(self.number(name)).unwrap_or_default()
    }

    /// Returns a text.
    pub(in crate::state) fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// Returns bytes.
    pub(in crate::state) fn bytes(&self, name: &str) -> &[u8] {
        match self.value(name) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Returns all values, in the order of the columns.
    pub(in crate::state) fn values(&self) -> &[Value] {
        &self.values
    }

    /// Replaces a value.
    pub(in crate::state) fn set(&mut self, name: &str, new: Value) {
        let at = self.kind.columns().iter().position(|(its, _)| *its == name);
        if let Some(value) = at.and_then(|at| self.values.get_mut(at)) {
            *value = new;
        }
    }

    /// Returns the key of an event.
    pub(in crate::state) fn event_key(&self) -> Option<EventKey> {
        self.bytes("key").try_into().map(EventKey).ok()
    }

    /// Returns whether an event decides a review.
    pub(in crate::state) fn decides(&self) -> bool {
        let state = i32::try_from(self.number("state")).ok();
        let state = state.and_then(|state| AuditState::try_from(state).ok());
        self.damage.is_none() && state.is_some_and(is_decided)
    }

    /// Returns the text that identifies it among the rows of its kind. Their order is that of the rows.
    pub(in crate::state) fn mark(&self) -> String {
        match self.kind {
            Kind::Authorizers => format!("{} {}", self.text("platform"), self.text("app_id")),
            _ => match self.values.first() {
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Text(text)) => text.clone(),
                _ => String::new(),
            },
        }
    }

    /// Returns its name for operators.
    pub(super) fn name(&self) -> String {
        let id = match self.kind {
            Kind::Submissions => self.text("submission_id").to_owned(),
            Kind::Writes => self.text("write_id").to_owned(),
            _ => self.mark(),
        };
        format!("{} {id}", self.kind.singular())
    }

    /// Returns its size in bytes.
    pub(in crate::state) fn size(&self) -> usize {
        let size = |value: &Value| match value {
            Value::Number(_) => 8,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        };
        self.values.iter().map(size).sum()
    }

    /// Adds it to a checksum.
    pub(super) fn add_to(&self, sum: &mut Sha256) {
        for value in &self.values {
            match value {
                Value::Number(number) => sum.update(number.to_be_bytes()),
                Value::Text(text) => add_bytes(sum, text.as_bytes()),
                Value::Bytes(bytes) => add_bytes(sum, bytes),
            }
        }
        // Both sides name the damage differently.
        sum.update([u8::from(self.damage.is_some())]);
    }

    /// Gives a row that lacks values the form in which a copy of it is damaged, too.
    fn keep_what_is_left(&mut self) {
        match self.kind {
            Kind::Events => {
                if self.event_key().is_none() {
                    self.damage.get_or_insert_with(|| "its key has a wrong length".to_owned());
                    let EventKey(key) = placeholder_key(self.count("position"));
                    self.set("key", Value::Bytes(key.to_vec()));
                }
                if self.damage.is_some() {
                    self.set("message", Value::Bytes(Vec::new()));
                }
            }
            Kind::Submissions if self.damage.is_some() => {
                self.set("state", Value::Number(NO_STATE));
                if self.text("submission_id").is_empty() {
                    self.set(
                        "submission_id",
                        Value::Text(format!("damaged {}", self.number("number"))),
                    );
                }
            }
            Kind::Writes if self.damage.is_some() => {
                self.set("state", Value::Text(NO_STAGE.to_owned()));
                if self.text("write_id").is_empty() {
                    self.set("write_id", Value::Text(format!("damaged {}", self.number("number"))));
                }
            }
            Kind::Authorizers if self.damage.is_some() => {
                self.set("record", Value::Bytes(Vec::new()));
            }
            _ => {}
        }
        // A decided submission is polled no more, and only a finished write has a reply.
        if self.kind == Kind::Submissions && self.number("settled") != 0 {
            self.set("ask_at", Value::Number(0));
        }
        if self.kind == Kind::Writes && self.text("state") != WriteState::Finished.name() {
            self.set("reply", Value::Bytes(Vec::new()));
        }
    }

    /// Finds damage to values that both backends store in the same form.
    fn find_damage(&mut self) {
        let is_whole = |name| sum::without_checksum(self.bytes(name), &[]).is_ok();
        let code = |name| i32::try_from(self.number(name)).unwrap_or(NO_STATE as i32);
        let found = match self.kind {
            Kind::Submissions if !is_whole("message") => "the checksum of its message is wrong",
            Kind::Submissions if SubmissionKind::try_from(code("kind")).is_err() => {
                "its kind is unknown"
            }
            Kind::Submissions if AuditState::try_from(code("state")).is_err() => {
                "its state is unknown"
            }
            Kind::Writes if !is_whole("sought") => "the checksum of its record is wrong",
            Kind::Writes if !is_whole("reply") => "the checksum of its reply is wrong",
            Kind::Writes if WriteState::named(self.text("state")).is_none() => {
                "its state is unknown"
            }
            _ => return,
        };
        self.damage.get_or_insert_with(|| found.to_owned());
    }
}

fn parse(of: Type, raw: Raw<'_>) -> Option<Value> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Value::Text);
    match (of, raw) {
        (Number, Raw::Number(number)) => Some(Value::Number(number)),
        (Number, Raw::Any(bytes)) => number(std::str::from_utf8(bytes).ok()?).map(Value::Number),
        (Text, Raw::Text(bytes) | Raw::Any(bytes)) => text(bytes),
        (Bytes, Raw::Bytes(bytes) | Raw::Any(bytes)) => Some(Value::Bytes(bytes.to_vec())),
        _ => None,
    }
}

/// Returns a number of Redis. A score of a sorted set is a float.
fn number(text: &str) -> Option<i64> {
    let float = || text.parse::<f64>().ok().filter(|float| float.is_finite());
    text.parse().ok().or_else(|| float().map(|float| float as i64))
}

fn empty(of: Type) -> Value {
    match of {
        Number => Value::Number(0),
        Text => Value::Text(String::new()),
        Bytes => Value::Bytes(Vec::new()),
    }
}

fn add_bytes(sum: &mut Sha256, bytes: &[u8]) {
    sum.update((bytes.len() as u64).to_be_bytes());
    sum.update(bytes);
}
