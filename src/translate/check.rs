//! Checks values that WeChat expects in a form of its own.

use super::Form;
use crate::{util::id::MediaId, validate::Check};

/// WeChat accepts this many documents in one field (0~5个mediaid).
const MOST_DOCUMENTS: usize = 5;

impl Check {
    /// Checks a name with a limited number of units. WeChat counts a Chinese character as two
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

    /// Checks documents and joins them as WeChat requires: `mediaid1|mediaid2`.
    pub(crate) fn documents(&mut self, field: &str, ids: Vec<String>) -> String {
        if ids.len() > MOST_DOCUMENTS {
            self.refuse(field, format!("at most {MOST_DOCUMENTS}"));
        }
        for (index, id) in ids.iter().enumerate() {
            self.media_id(&format!("{field}[{index}]"), id.clone());
        }
        ids.join("|")
    }

    /// Checks a required temporary media id.
    pub(crate) fn media_id(&mut self, field: &str, id: String) -> MediaId {
        self.formed(field, id, &Form::MEDIA_ID).into()
    }

    /// Checks addresses of pictures, from one to `most`.
    pub(crate) fn pictures(&mut self, field: &str, urls: Vec<String>, most: usize) -> Vec<String> {
        if urls.is_empty() {
            self.refuse(field, "required");
        }
        if urls.len() > most {
            self.refuse(field, format!("at most {most}"));
        }
        for (index, url) in urls.iter().enumerate() {
            self.formed(&format!("{field}[{index}]"), url.clone(), &Form::PICTURE);
        }
        urls
    }
}
