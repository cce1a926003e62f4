//! Checks requests. A response names every error, not only the first.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use uuid::Uuid;

use crate::util::invisible::has_no_width;

/// The longest `client_reference`, in characters, as `proto/` states.
const LONGEST_REFERENCE: usize = 64;

/// The rule that an empty new text violates.
pub(crate) const CANNOT_CLEAR: &str = "must not be empty: WeChat can clear nothing; leave it out";

/// The errors in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(Vec<Violation>);

/// A field, and the rule that it violates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The path of the field, as in `profile.picture_urls[2]`.
    pub field: String,
    /// The rule for the caller.
    pub rule: String,
}

impl Invalid {
    /// Returns all errors, in the order of the fields.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.0
    }
}

/// Collects errors while a request is translated.
#[derive(Debug, Default)]
pub(crate) struct Check(Vec<Violation>);

impl Check {
    /// Adds an error.
    pub(crate) fn refuse(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.0.push(Violation { field: field.into(), rule: rule.into() });
    }

    /// Returns the translation, or all errors.
    pub(crate) fn done<T>(self, translation: T) -> Result<T, Invalid> {
        if self.0.is_empty() { Ok(translation) } else { Err(Invalid(self.0)) }
    }

    /// Checks that each number is a value of its enum.
    pub(crate) fn each<T>(
        &mut self,
        field: &str,
        values: &[i32],
        known: fn(&i32) -> Option<T>,
    ) -> Vec<T> {
        let mut read = Vec::new();
        for (index, value) in values.iter().enumerate() {
            match known(value) {
                Some(value) => read.push(value),
                None => self.refuse(format!("{field}[{index}]"), "must be one of its values"),
            }
        }
        read
    }

    /// Checks a time and returns it in milliseconds since 1970.
    pub(crate) fn moment(&mut self, field: &str, moment: Option<Timestamp>) -> Option<u64> {
        let moment = moment?;
        let since = SystemTime::try_from(moment)
            .ok()
            .and_then(|moment| moment.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_millis()).ok());
        if since.is_none() {
            self.refuse(field, "must be a time after 1970");
        }
        since
    }

    /// Checks a required line of text.
    pub(crate) fn required(&mut self, field: &str, text: String) -> String {
        if text.trim().is_empty() {
            self.refuse(field, "required");
            return text;
        }
        self.optional(field, text)
    }

    /// Checks a line of text that may be empty.
    pub(crate) fn optional(&mut self, field: &str, text: String) -> String {
        self.text(field, text, false)
    }

    /// Checks a name that the gateway compares with others. It may be empty, and must not begin or end with
    /// a blank.
    pub(crate) fn name(&mut self, field: &str, name: String) -> String {
        if !name.trim().is_empty() && name.trim() != name {
            self.refuse(field, "must not begin or end with a blank");
        }
        self.optional(field, name)
    }

    /// Checks a caller's own ID for a shop, which may be empty.
    pub(crate) fn reference(&mut self, reference: String) -> String {
        let reference = self.name("client_reference", reference);
        self.within("client_reference", &reference, LONGEST_REFERENCE);
        reference
    }

    /// Checks a required text, which may have several lines.
    pub(crate) fn prose(&mut self, field: &str, text: String) -> String {
        if text.trim().is_empty() {
            self.refuse(field, "required");
            return text;
        }
        self.text(field, text, true)
    }

    /// Checks a new text, which may have several lines: absent leaves the old one, and empty is invalid.
    pub(crate) fn change(&mut self, field: &str, text: Option<String>) -> Option<String> {
        let text = text?;
        if text.trim().is_empty() {
            self.refuse(field, CANNOT_CLEAR);
            return Some(text);
        }
        Some(self.text(field, text, true))
    }

    fn text(&mut self, field: &str, text: String, has_lines: bool) -> String {
        // JSON writes most of these as \uXXXX, which WeChat refuses (40033).
        let is_control =
            |c: char| c.is_control() && !(has_lines && matches!(c, '\t' | '\n' | '\r'));
        if let Some(c) = text.chars().find(|c| is_control(*c)) {
            self.refuse(field, format!("must not contain control characters ({})", code_point(c)));
        } else if let Some(c) = invisible(&text) {
            let c = code_point(c);
            self.refuse(field, format!("must not contain invisible characters ({c})"));
        } else if !text.is_empty() && text.trim().is_empty() {
            self.refuse(field, "must not be blank");
        }
        text
    }

    /// Checks a line of text with a limited number of characters.
    pub(crate) fn at_most(&mut self, field: &str, text: String, characters: usize) -> String {
        let text = self.optional(field, text);
        self.within(field, &text, characters);
        text
    }

    /// Checks the number of characters.
    pub(crate) fn within(&mut self, field: &str, text: &str, characters: usize) {
        if text.chars().count() > characters {
            self.refuse(field, format!("must have at most {characters} characters"));
        }
    }

    /// Checks a UUID. Returns `None` if the text is empty.
    pub(crate) fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        if text.is_empty() {
            return None;
        }
        let uuid = Uuid::try_parse(text).ok();
        if uuid.is_none() {
            self.refuse(field, "must be a UUID");
        }
        uuid
    }
}

/// Returns the first invisible character that the caller hardly intended, if there is one: a character
/// without width, or one that replaces undecodable bytes.
fn invisible(text: &str) -> Option<char> {
    let mut before = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let is_meant = match c {
            // Joins two emoji into one.
            '\u{200d}' => {
                before.is_some_and(is_pictograph)
                    && rest.peek().is_some_and(|next| is_pictograph(*next))
            }
            // Selects a variant of the character before.
            '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => {
                before.is_some_and(|before| !has_no_width(before))
            }
            char::REPLACEMENT_CHARACTER => false,
            c => !has_no_width(c),
        };
        if !is_meant {
            return Some(c);
        }
        before = Some(c);
    }
    None
}

fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{2bff}' | '\u{fe0f}' | '\u{1f000}'..='\u{1faff}')
}

/// Returns the name of a character that cannot be shown, as in `U+200B`.
fn code_point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_rejected() {
        for (text, line, prose) in [
            ("家常菜 老店", true, true),
            ("家常菜\r\n\t老店", false, true),
            ("👨\u{200d}🍳 ❤\u{fe0f} 私房菜", true, true),
            ("葛\u{e0100}店", true, true),
            ("\u{0}", false, false),
            ("a\u{14}", false, false),
            ("\u{7f}", false, false),
            ("\u{85}", false, false),
            ("店\u{200b}", false, false),
            ("\u{feff}店", false, false),
            ("店\u{200d}", false, false),
            ("\u{fe0f}店", false, false),
            ("店\u{3164}", false, false),
            ("\u{202e}店", false, false),
            ("店\u{2028}", false, false),
            ("店\u{fffd}", false, false),
            (" ", false, false),
            ("\u{3000}", false, false),
        ] {
            let mut check = Check::default();
            let kept = check.optional("field", text.to_owned());
            assert_eq!((kept.as_str(), check.done(()).is_ok()), (text, line), "{text:?}");
            let mut check = Check::default();
            check.prose("field", text.to_owned());
            assert_eq!(check.done(()).is_ok(), prose, "{text:?}");
        }
        let mut check = Check::default();
        check.optional("field", String::new());
        assert_eq!(check.done(()), Ok(()));
    }

    #[test]
    fn invisible_character_is_named() {
        let mut check = Check::default();
        check.required("name", "巷口\u{200b}小馆".to_owned());
        let invalid = check.done(()).expect_err("invisible");
        assert_eq!(invalid.violations()[0].rule, "must not contain invisible characters (U+200B)");
    }

    #[test]
    fn required_text_needs_more_than_blanks() {
        for (text, good) in [("a", true), ("", false), (" \t\n", false), ("\u{3000}", false)] {
            let mut check = Check::default();
            check.required("field", text.to_owned());
            assert_eq!(check.done(()).is_ok(), good, "{text:?}");
        }
    }
}
