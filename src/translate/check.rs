//! Checks what a caller sent and gathers every mistake, not only the first.

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(Vec<Violation>);

/// One field, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, as in `profile.picture_urls[2]`.
    pub field: String,
    /// What would be right.
    pub rule: String,
}

impl Invalid {
    /// A single mistake.
    pub fn one(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self(vec![Violation { field: field.into(), rule: rule.into() }])
    }

    /// All mistakes, in the order of the fields.
    pub fn violations(&self) -> &[Violation] {
        &self.0
    }
}

/// Gathers mistakes while a request is translated.
#[derive(Debug, Default)]
pub(crate) struct Check(Vec<Violation>);

impl Check {
    /// Notes a mistake.
    pub(crate) fn refuse(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.0.push(Violation { field: field.into(), rule: rule.into() });
    }

    /// The translation, if there was no mistake.
    pub(crate) fn done<T>(self, translation: T) -> Result<T, Invalid> {
        if self.0.is_empty() { Ok(translation) } else { Err(Invalid(self.0)) }
    }

    /// Text that has to be there.
    pub(crate) fn required(&mut self, field: &str, text: String) -> String {
        if text.trim().is_empty() {
            self.refuse(field, "required");
        }
        self.optional(field, text)
    }

    /// Text that may be empty.
    pub(crate) fn optional(&mut self, field: &str, text: String) -> String {
        // JSON can only write these as \uXXXX, which WeChat refuses (40033).
        let is_control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
        if text.contains(is_control) {
            self.refuse(field, "must not contain control characters");
        }
        text
    }
}
