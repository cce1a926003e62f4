//! Masks telephone numbers.
//!
//! WeChat's texts may quote a caller's values, and logs, spans and error texts may quote WeChat's
//! texts.

use std::{
    borrow::Cow,
    io::{self, Write},
    ops::RangeInclusive,
};

use uuid::Uuid;

/// Replaces a number.
const MASK: &str = "[phone]";
/// China's country code. Only mobile numbers may follow the last form, because ids may begin with
/// it.
const PREFIXES: [&str; 3] = ["0086", "+86", "86"];
/// The longest separator between two digits, in characters.
const LONGEST_GAP: usize = 2;
/// The digits of a mobile number (手机号).
const MOBILE: usize = 11;
/// The digits of a nationwide service number, such as 400-820-8820.
const SERVICE: usize = 10;
/// The digits of a landline number (固定电话) with the 0 of its area code.
const LANDLINE: RangeInclusive<usize> = 10..=LANDLINE_END;
const LANDLINE_END: usize = 12;

/// Returns the text with `[phone]` in place of each telephone number. Finds mobile, landline and
/// service numbers, with or without separating blanks and dashes, with or without +86, and in ASCII
/// or full-width digits. Longer numbers and ids of letters and digits stay.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    let mut masked = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(char) = text[at..].chars().next() {
        let starts = (char == '+' || digit(char).is_some())
            && text[..at].chars().next_back().and_then(digit).is_none();
        match starts.then(|| phone(text, at)).flatten() {
            Some(end) => {
                masked.push_str(&text[kept..at]);
                masked.push_str(MASK);
                (kept, at) = (end, end);
            }
            None => at += char.len_utf8(),
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    masked.push_str(&text[kept..]);
    Cow::Owned(masked)
}

/// The form of a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Abroad,
    Here,
    /// The digits before it may belong to another number.
    HereOrAbroad,
}

/// Returns the end of the telephone number that begins at `start`, if there is one.
fn phone(text: &str, start: usize) -> Option<usize> {
    let prefixed = PREFIXES.iter().find_map(|prefix| {
        let number = after_prefix(text, start, prefix)?;
        let from = if *prefix == "86" { From::HereOrAbroad } else { From::Abroad };
        after_number(text, number, from)
    });
    let end = prefixed.or_else(|| after_number(text, start, From::Here))?;
    (!is_part_of_id(text, start, end)).then_some(end)
}

/// Returns the position after this prefix and its separator.
fn after_prefix(text: &str, start: usize, prefix: &str) -> Option<usize> {
    let mut chars = text[start..].char_indices();
    for expected in prefix.chars() {
        let (_, char) = chars.next()?;
        (char == expected || digit(char).is_some_and(|digit| expected.to_digit(10) == Some(digit)))
            .then_some(())?;
    }
    let rest = chars.find(|(_, char)| !is_separator(*char));
    rest.map(|(at, _)| start + at)
}

/// Returns the position after a number of valid length that no further digit follows.
fn after_number(text: &str, start: usize, from: From) -> Option<usize> {
    // One more than the longest number has. Arrays, because a line of the log has many digits.
    let (mut digits, mut ends) = ([0; LANDLINE_END + 1], [0; LANDLINE_END + 1]);
    let (mut count, mut gap) = (0, 0);
    for (at, char) in text[start..].char_indices() {
        match digit(char) {
            Some(digit) => {
                (digits[count], ends[count]) = (digit, start + at + char.len_utf8());
                (count, gap) = (count + 1, 0);
            }
            None if is_separator(char) && gap < LONGEST_GAP && count > 0 => gap += 1,
            None => break,
        }
        if count == digits.len() {
            break;
        }
    }
    let (digits, ends) = (&digits[..count], &ends[..count]);
    let complete = |length: usize| {
        let end = *ends.get(length.checked_sub(1)?)?;
        text[end..].chars().next().and_then(digit).is_none().then_some(end)
    };
    let lengths = match *digits {
        [1, 3..=9, ..] => MOBILE..=MOBILE,
        [4 | 8, 0, 0, ..] => SERVICE..=SERVICE,
        [0, 1..=9, ..] if from != From::HereOrAbroad => LANDLINE,
        // After a country code, the 0 is left out.
        [1..=9, ..] if from == From::Abroad => LANDLINE.start() - 1..=LANDLINE.end() - 1,
        _ => return None,
    };
    lengths.rev().find_map(complete)
}

/// Returns true if the number is part of a UUID, of a WeChat app id or of another hexadecimal id, such as a
/// trace id.
fn is_part_of_id(text: &str, start: usize, end: usize) -> bool {
    let around = |belongs: fn(char) -> bool| {
        let (before, after) = (text[..start].trim_end_matches(belongs), &text[end..]);
        before.len()..text.len() - after.trim_start_matches(belongs).len()
    };
    let word = around(|char| char.is_ascii_alphanumeric());
    let longer = word.len() > end - start;
    let hex = |byte: &u8| byte.is_ascii_hexdigit() || !byte.is_ascii_alphanumeric();
    let words = around(|char| char.is_ascii_alphanumeric() || char == '-');
    let word = &text[word];
    // An app id is `wx` and 16 hexadecimal digits.
    let digits = word.strip_prefix("wx").filter(|digits| digits.len() == 16).unwrap_or(word);
    longer && digits.bytes().all(|byte| hex(&byte))
        || text[words].as_bytes().windows(36).any(|id| Uuid::try_parse_ascii(id).is_ok())
}

fn digit(char: char) -> Option<u32> {
    match char {
        '0'..='9' => char.to_digit(10),
        '０'..='９' => Some(char as u32 - '０' as u32),
        _ => None,
    }
}

fn is_separator(char: char) -> bool {
    matches!(
        char,
        ' ' | '\u{a0}' | '\u{3000}' | '-' | '\u{2010}'
            ..='\u{2015}' | '－' | '(' | ')' | '（' | '）'
    )
}

/// A writer that masks one line of the log at a time.
#[derive(Debug)]
pub(super) struct Writer<W>(W);

impl<W> Writer<W> {
    pub(super) const fn new(inner: W) -> Self {
        Self(inner)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.write_all(masked(&String::from_utf8_lossy(line)).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_number_is_masked_in_every_form() {
        for phone in [
            "13812345678",
            "19912345678",
            "138-1234-5678",
            "138 1234 5678",
            "1381234-5678",
            "138－1234－5678",
            "+8613812345678",
            "+86 138 1234 5678",
            "+86-138-1234-5678",
            "(+86)13812345678",
            "8613812345678",
            "86-13812345678",
            "008613812345678",
            "020-12345678",
            "0755-1234567",
            "0755-12345678",
            "0755 1234 5678",
            "02012345678",
            "020) 1234 5678",
            "+86 20 12345678",
            "+86 (020) 12345678",
            "+86-755-12345678",
            "400-820-8820",
            "4008208820",
            "１３８１２３４５６７８",
        ] {
            for around in [
                "{}",
                "invalid phone {} rid: 6347a5d4-0f5f2b4a-6a9a3c4e",
                "手机号{}已被使用",
                "errcode 85038 {} 85038",
                "phone:{},{}",
                "tel{}x",
                "[\"{}\"]",
                "85038-{}",
                "{}-801",
            ] {
                let masked = masked(&around.replace("{}", phone)).into_owned();
                let left = around.replace("{}", MASK);
                let same = masked == left || masked == left.replace(MASK, "([phone]");
                assert!(same, "{around}: {phone}: {masked}");
            }
        }
    }

    #[test]
    fn other_numbers_are_unchanged() {
        for text in [
            "",
            "ok",
            "85038",
            "2708071440732747189",
            "271262077",
            "20260131",
            "1769833200",
            "1769833200123",
            "914403001922038216",
            "110101199003074578",
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "a13812345678b",
            "wx0123456789abcdef",
            "wx13812345678abcde",
            "0190a1b2-1384-7567-8901-138123456789",
            "\"write_id\":\"01901384-7567-7123-8901-000000000000\"",
            "861234567890",
            "65f0-1a2b",
            "rid: 6347a5d4-0f5f2b4a-6a9a3c4e",
            "2026-11-28T10:09:32.138123Z",
            "HTTP 429 after 1500 ms",
            "10.21.138.123",
            "23.12908, 113.26436",
            "138 12345",
            "12345678901",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn log_line_is_masked_and_complete() {
        let mut writer = Writer::new(Vec::new());
        writer.write_all("{\"message\":\"手机号 13812345678\"}\n".as_bytes()).expect("memory");
        assert_eq!(writer.0, "{\"message\":\"手机号 [phone]\"}\n".as_bytes());
    }
}
