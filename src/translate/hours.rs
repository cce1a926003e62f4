//! Opening hours (营业时间): a message for callers, `11:11-12:12` for WeChat.

use crate::{pb::OpeningHours, validate::Check};

const RULE: &str = "must be HH:MM, from 00:00 to 23:59";

impl Check {
    /// Checks hours, which are required, and returns them as WeChat writes them.
    pub(crate) fn hours(&mut self, field: &str, hours: Option<OpeningHours>) -> String {
        let Some(OpeningHours { open, close, text }) = hours else {
            self.refuse(field, "required");
            return String::new();
        };
        for (name, time) in [("open", &open), ("close", &close)] {
            if !is_time(time) {
                self.refuse(format!("{field}.{name}"), RULE);
            }
        }
        // Only responses have this text, and it is not sent.
        self.optional(&format!("{field}.text"), text);
        format!("{open}-{close}")
    }
}

impl OpeningHours {
    /// Parses WeChat's text. A text that is not a range becomes only `text`.
    pub(crate) fn parse(text: String) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let range = text
            .split_once('-')
            .map(|(open, close)| (open.trim(), close.trim()))
            .filter(|(open, close)| is_time(open) && is_time(close));
        let (open, close) = range.unwrap_or_default();
        Some(Self { open: open.to_owned(), close: close.to_owned(), text })
    }
}

fn is_time(text: &str) -> bool {
    let [h, tens, b':', m, ones] = *text.as_bytes() else { return false };
    let digits = [h, tens, m, ones].iter().all(u8::is_ascii_digit);
    digits && (h < b'2' || (h == b'2' && tens < b'4')) && m < b'6'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(open: &str, close: &str) -> Result<String, crate::validate::Invalid> {
        let mut check = Check::default();
        let (open, close) = (open.to_owned(), close.to_owned());
        let hours = check.hours("hours", Some(OpeningHours { open, close, text: String::new() }));
        check.done(hours)
    }

    #[test]
    fn hours_are_sent_as_one_range() {
        assert_eq!(sent("10:00", "21:30").as_deref(), Ok("10:00-21:30"));
        assert_eq!(sent("00:00", "23:59").as_deref(), Ok("00:00-23:59"));
        for (open, close) in [("9:00", "21:00"), ("24:00", "21:00"), ("10:60", "21:00"), ("", "")] {
            assert!(sent(open, close).is_err(), "{open} {close}");
        }
        let invalid = sent("10:00", "late").expect_err("no time");
        assert_eq!(invalid.violations()[0].field, "hours.close");
    }

    #[test]
    fn hours_without_a_range_stay_text() {
        let parse = |text: &str| OpeningHours::parse(text.to_owned());
        let hours = parse("10:00-21:00").expect("a range");
        assert_eq!((hours.open.as_str(), hours.close.as_str()), ("10:00", "21:00"));
        assert_eq!(hours.text, "10:00-21:00");
        let odd = parse("周一至周五 10:00-21:00").expect("text");
        assert_eq!((odd.open.as_str(), odd.text.as_str()), ("", "周一至周五 10:00-21:00"));
        assert_eq!(parse(""), None);
    }
}
