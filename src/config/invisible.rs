//! Characters that no person sees and that spoil a setting: copied from a web page or a chat, or put
//! before a file by an editor.

use toml::Value;

use super::Mistakes;

/// Returns what is wrong with a text that has a control or zero-width character, and where; the
/// text itself, which may be a secret, is not quoted.
pub(super) fn found(text: &str) -> Option<String> {
    let (index, char) = text.chars().enumerate().find(|(_, char)| is_invisible(*char))?;
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

/// Unicode's controls, and what has no width: marks of order and direction, joiners, variation
/// selectors, tags.
fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
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
