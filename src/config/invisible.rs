//! Detects invisible characters that spoil a setting. They come from web pages, chats and editors.

use toml::Value;

use super::ConfigErrors;
use crate::util::invisible::has_no_width;

/// Returns a description of the first control or zero-width character of a text, with its position.
///
/// The description does not quote the text, because the text may be a secret.
pub(super) fn find(text: &str) -> Option<String> {
    let (index, char) =
        text.chars().enumerate().find(|(_, char)| char.is_control() || has_no_width(*char))?;
    let what = match char {
        '\u{feff}' => "a byte order mark",
        '\n' | '\r' => "a line break",
        char if char.is_control() => "a control character",
        _ => "an invisible character",
    };
    let code = u32::from(char);
    Some(format!("contains {what} (U+{code:04X}) at position {}; remove it", index + 1))
}

/// Adds an error for each text of a value, or of the values below it, that has such a character.
pub(super) fn check(value: &Value, key: &str, errors: &mut ConfigErrors) {
    match value {
        Value::String(text) => {
            if let Some(problem) = find(text) {
                errors.add(key, problem);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                check(value, &format!("{key}[{index}]"), errors);
            }
        }
        Value::Table(table) => {
            for (name, value) in table {
                check(value, &format!("{key}.{name}"), errors);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_character_is_named_by_code_and_position() {
        for (text, expected) in [
            ("\u{feff}s", "contains a byte order mark (U+FEFF) at position 1; remove it"),
            ("门店\u{200b}", "contains an invisible character (U+200B) at position 3; remove it"),
            ("a\u{2060}b", "contains an invisible character (U+2060) at position 2; remove it"),
            ("a\nb", "contains a line break (U+000A) at position 2; remove it"),
            ("a\0", "contains a control character (U+0000) at position 2; remove it"),
        ] {
            assert_eq!(find(text).as_deref(), Some(expected));
        }
        for text in ["", "s", "门店 1", "a b+c&d=é", "https://api.weixin.qq.com"] {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
