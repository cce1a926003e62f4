//! Checks what a caller sent and gathers every mistake, not only the first.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use uuid::Uuid;

use crate::id::MediaId;

/// WeChat takes this many documents in one field (0~5个mediaid).
const MOST_DOCUMENTS: usize = 5;

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

    /// Each of these has to be one of its enum's values.
    pub(super) fn each<T>(
        &mut self,
        field: &str,
        values: &[i32],
        known: fn(&i32) -> Option<T>,
    ) -> Vec<T> {
        let mut read = Vec::new();
        for (index, value) in values.iter().enumerate() {
            match known(value) {
                Some(value) => read.push(value),
                None => self.refuse(format!("{field}[{index}]"), "has to be one of its values"),
            }
        }
        read
    }

    /// A moment, in milliseconds since 1970.
    pub(super) fn moment(&mut self, field: &str, moment: Option<Timestamp>) -> Option<u64> {
        let moment = moment?;
        let since = SystemTime::try_from(moment)
            .ok()
            .and_then(|moment| moment.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_millis()).ok());
        if since.is_none() {
            self.refuse(field, "has to be a time after 1970");
        }
        since
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

    /// Text that replaces what is there: absent leaves it, and empty is no value.
    pub(crate) fn change(&mut self, field: &str, text: Option<String>) -> Option<String> {
        let text = text?;
        if text.trim().is_empty() {
            self.refuse(field, "must not be empty: WeChat can clear nothing; leave it out");
        }
        Some(self.optional(field, text))
    }

    /// Text of at most so many characters.
    pub(crate) fn at_most(&mut self, field: &str, text: String, characters: usize) -> String {
        if text.chars().count() > characters {
            self.refuse(field, format!("must have at most {characters} characters"));
        }
        self.optional(field, text)
    }

    /// A name of so many units by WeChat's counting, in which a Chinese character is two
    /// (一个中文占两个字符).
    pub(crate) fn units(&mut self, field: &str, text: String, min: usize, max: usize) -> String {
        let units: usize = text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
        if !(min..=max).contains(&units) {
            self.refuse(
                field,
                format!("must have {min} to {max} characters, a Chinese one counting two"),
            );
        }
        self.optional(field, text)
    }

    /// A UUID, or none where the text is empty.
    pub(crate) fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        if text.is_empty() {
            return None;
        }
        let uuid = Uuid::try_parse(text).ok();
        if uuid.is_none() {
            self.refuse(field, "has to be a UUID");
        }
        uuid
    }

    /// Documents, in the one string that WeChat wants: `mediaid1|mediaid2`.
    pub(crate) fn documents(&mut self, field: &str, ids: Vec<String>) -> String {
        if ids.len() > MOST_DOCUMENTS {
            self.refuse(field, format!("at most {MOST_DOCUMENTS}"));
        }
        for (index, id) in ids.iter().enumerate() {
            self.media_id(&format!("{field}[{index}]"), id.clone());
        }
        ids.join("|")
    }

    /// A temporary media id that has to be there.
    pub(crate) fn media_id(&mut self, field: &str, id: String) -> MediaId {
        if id.contains('|') {
            self.refuse(field, "must not contain |");
        }
        self.required(field, id).into()
    }

    /// Addresses of pictures, from one to `most`.
    pub(crate) fn pictures(&mut self, field: &str, urls: Vec<String>, most: usize) -> Vec<String> {
        if urls.is_empty() {
            self.refuse(field, "required");
        }
        if urls.len() > most {
            self.refuse(field, format!("at most {most}"));
        }
        for (index, url) in urls.iter().enumerate() {
            self.picture(&format!("{field}[{index}]"), url.clone());
        }
        urls
    }

    /// The address of a picture that has to be there.
    pub(crate) fn picture(&mut self, field: &str, url: String) -> String {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            self.refuse(field, "has to be the URL that UploadImage gave");
        }
        self.optional(field, url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_may_have_lines_but_no_other_control_characters() {
        for (text, good) in [
            ("家常菜\r\n\t老店", true),
            ("", true),
            ("\u{0}", false),
            ("a\u{1b}", false),
            ("\u{7f}", false),
            ("\u{85}", false),
        ] {
            let mut check = Check::default();
            let kept = check.optional("field", text.to_owned());
            assert_eq!((kept.as_str(), check.done(()).is_ok()), (text, good), "{text:?}");
        }
    }

    #[test]
    fn what_is_required_is_more_than_blanks() {
        for (text, good) in [("a", true), ("", false), (" \t\n", false), ("\u{3000}", false)] {
            let mut check = Check::default();
            check.required("field", text.to_owned());
            assert_eq!(check.done(()).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn pictures_are_addresses_of_either_scheme() {
        for (url, good) in
            [("http://a", true), ("https://a", true), ("a", false), ("ftp://a", false)]
        {
            let mut check = Check::default();
            check.pictures("field", vec![url.to_owned()], 1);
            assert_eq!(check.done(()).is_ok(), good, "{url}");
        }
    }
}
