//! Characters that no person sees and that spoil a setting: copied from a web page or a chat, or put
//! before a file by an editor.

use toml::Value;

use super::Mistakes;
use crate::util::invisible::has_no_width;

/// Returns what is wrong with a text that has a control or zero-width character, and where; the
/// text itself, which may be a secret, is not quoted.
pub(super) fn found(text: &str) -> Option<String> {
    let (index, char) =
        text.chars().enumerate().find(|(_, char)| char.is_control() || has_no_width(*char))?;
    let what = match char {
        '\u{feff}' => "byte order mark",
        '\n' | '\r' => "line break",
        char if char.is_control() => "control character",
        _ => "invisible character",
    };
    let code = u32::from(char);
    let a = if what.starts_with('i') { "an" } else { "a" };
    Some(format!("has {a} {what} (U+{code:04X}) at position {}; remove it", index + 1))
}

/// Notes each text at or below a key that has such a character.
pub(super) fn check(value: &Value, key: &str, mistakes: &mut Mistakes) {
    match value {
        Value::String(text) => {
            if let Some(mistake) = found(text) {
                mistakes.add(key, mistake);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                check(value, &format!("{key}[{index}]"), mistakes);
            }
        }
        Value::Table(table) => {
            for (name, value) in table {
                check(value, &format!("{key}.{name}"), mistakes);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_named_by_its_number_and_place() {
        for (text, expected) in [
            ("\u{feff}s", "has a byte order mark (U+FEFF) at position 1; remove it"),
            ("门店\u{200b}", "has an invisible character (U+200B) at position 3; remove it"),
            ("a\u{2060}b", "has an invisible character (U+2060) at position 2; remove it"),
            ("a\nb", "has a line break (U+000A) at position 2; remove it"),
            ("a\0", "has a control character (U+0000) at position 2; remove it"),
        ] {
            assert_eq!(found(text).as_deref(), Some(expected));
        }
        for text in ["", "s", "门店 1", "a b+c&d=é", "https://api.weixin.qq.com"] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
