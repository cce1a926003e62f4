//! Repairs text that is almost JSON.
//!
//! WeChat puts text that people typed into JSON without escaping it: control characters, half
//! surrogate pairs, quotes. [`repair`] turns such text into strict JSON, so that a fault spoils
//! only its own value. Callers try strict parsing first, so valid JSON has no extra cost.
//!
//! Repairing never merges two fields with the same name. If typed text forges a second `errcode`,
//! the caller finds both and can refuse the reply. Truncated text stays unreadable.

use std::fmt::Write as _;

use serde_json::Value;

/// The deepest nesting that serde_json parses.
const DEPTH: usize = 127;
/// The longest key that is recognized after a quote that may be text, in bytes.
const KEY_LIMIT: usize = 64;

/// Returns strict JSON with the same meaning as `json`, as far as it is readable, or `None` if
/// there is no complete JSON object. Accepts any bytes, and needs time and memory in proportion to
/// them.
///
/// - Invalid UTF-8 and halves of surrogate pairs become U+FFFD.
/// - Control characters in strings are escaped. A backslash that escapes nothing stands for itself.
/// - A quote inside a string is text, unless the text after it shows that the string ends there.
/// - Extra commas are dropped.
/// - An invalid word (`NaN`, `01`) becomes a string, and a missing value becomes the empty string,
///   so that only this field is unreadable.
/// - Blanks, NULs and byte order marks around the object are dropped. Any other text there is an
///   error.
///
/// Fields with the same name are all kept.
pub fn repair(json: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(json);
    let text = text.trim_matches(|c| {
        c <= ' ' || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
    });
    // A guess may misread a valid string, so it is only tried after the parse that never guesses.
    [Quotes::End, Quotes::Guess, Quotes::GuessMore]
        .into_iter()
        .find_map(|quotes| Repair::new(text, quotes).run())
}

/// The meaning of a quote inside a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quotes {
    /// The end of the string, as JSON requires.
    End,
    /// The end only if the following text fits. After a backslash, only if another field follows.
    Guess,
    /// The end if the following text fits, even after a backslash.
    GuessMore,
}

/// The next expected token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A key, or the end of the object.
    Key,
    /// The value of a key or an element of a list, which may also end.
    Value,
    /// A comma, or the end of the innermost object or list.
    Comma,
}

/// One pass over the text.
struct Repair<'a> {
    text: &'a str,
    at: usize,
    quotes: Quotes,
    /// The open objects and lists, innermost last. True for an object.
    open: Vec<bool>,
    out: String,
}

impl<'a> Repair<'a> {
    fn new(text: &'a str, quotes: Quotes) -> Self {
        Self { text, at: 0, quotes, open: Vec::new(), out: String::with_capacity(text.len()) }
    }

    fn run(mut self) -> Option<String> {
        if self.peek()? != b'{' {
            return None;
        }
        let mut next = Next::Value;
        // A comma is only written when something follows it.
        let mut comma = false;
        loop {
            self.at = self.skip(self.at);
            let byte = self.peek()?;
            let in_object = self.open.last().copied();
            next = match (next, byte) {
                (Next::Comma, b',') => {
                    self.at += 1;
                    comma = true;
                    if in_object? { Next::Key } else { Next::Value }
                }
                // `"a":1,,"b":2`
                (Next::Key, b',') => {
                    self.at += 1;
                    Next::Key
                }
                (Next::Key | Next::Comma, b'}') if in_object? => self.close('}')?,
                (Next::Comma, b']') if !in_object? => self.close(']')?,
                // An empty list, or one with a trailing comma.
                (Next::Value, b']') if !in_object? => self.close(']')?,
                (Next::Key, b'"') => {
                    self.comma(&mut comma);
                    self.string(true)?;
                    self.at = self.skip(self.at);
                    if self.peek()? != b':' {
                        return None;
                    }
                    self.at += 1;
                    self.out.push(':');
                    Next::Value
                }
                (Next::Value, _) => {
                    self.comma(&mut comma);
                    self.value(byte)?
                }
                _ => return None,
            };
            if self.open.is_empty() {
                return (self.at == self.text.len()).then_some(self.out);
            }
            // A closed object or list has already dropped its trailing comma.
            comma &= next != Next::Comma;
        }
    }

    /// Parses a value, or the beginning of an object or list.
    fn value(&mut self, byte: u8) -> Option<Next> {
        match byte {
            b'{' | b'[' => {
                if self.open.len() == DEPTH {
                    return None;
                }
                self.at += 1;
                self.open.push(byte == b'{');
                self.out.push(byte.into());
                return Some(if byte == b'{' { Next::Key } else { Next::Value });
            }
            b'"' => self.string(false)?,
            _ => self.word(),
        }
        Some(Next::Comma)
    }

    /// Parses a number or a word. An invalid one becomes a string.
    fn word(&mut self) {
        let rest = &self.text[self.at..];
        let end = rest.find([',', '}', ']', '"', '{', '[']).unwrap_or(rest.len());
        self.at += end;
        let word = rest[..end].trim_end_matches(|c| c <= ' ');
        // serde_json's `Value` refuses a number that it cannot represent, as the caller would.
        if serde_json::from_str::<Value>(word).is_ok() {
            self.out.push_str(word);
        } else {
            self.out.push('"');
            for character in word.chars() {
                self.escaped(character);
            }
            self.out.push('"');
        }
    }

    /// Parses a string. Its opening quote is next.
    fn string(&mut self, is_key: bool) -> Option<()> {
        self.out.push('"');
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(|c| c < ' ' || matches!(c, '"' | '\\'))?;
            self.out.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    if self.quotes == Quotes::End || self.ends(is_key) {
                        self.out.push('"');
                        return Some(());
                    }
                    self.out.push_str("\\\"");
                }
                b'\\' => {
                    self.at += 1;
                    if self.escape(is_key)? {
                        self.out.push_str("\\\\\"");
                        return Some(());
                    }
                }
                control => {
                    self.at += 1;
                    self.escaped(control.into());
                }
            }
        }
    }

    /// Parses the text that a backslash escapes. Returns true if the backslash escapes nothing but
    /// precedes the quote that ends the string.
    fn escape(&mut self, is_key: bool) -> Option<bool> {
        let byte = self.peek()?;
        match byte {
            b'"' => {
                self.at += 1;
                let ends = match self.quotes {
                    Quotes::End => false,
                    Quotes::Guess => !is_key && self.field_follows(self.at),
                    Quotes::GuessMore => self.ends(is_key),
                };
                if ends {
                    return Some(true);
                }
                self.out.push_str("\\\"");
            }
            b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                self.out.push('\\');
                self.out.push(byte.into());
            }
            b'u' => match self.unit(self.at + 1) {
                Some(unit) => {
                    let begun = self.at;
                    self.at += 5;
                    let is_pair = matches!(unit, 0xD800..=0xDBFF)
                        && self.text[self.at..].starts_with("\\u")
                        && matches!(self.unit(self.at + 2), Some(0xDC00..=0xDFFF));
                    if is_pair {
                        self.at += 6;
                    }
                    if is_pair || !matches!(unit, 0xD800..=0xDFFF) {
                        self.out.push('\\');
                        self.out.push_str(&self.text[begun..self.at]);
                    } else {
                        self.out.push_str("\\ufffd");
                    }
                }
                None => self.out.push_str("\\\\"),
            },
            // JavaScript escapes it like this.
            b'\'' => {}
            // The next character is parsed as if there was no backslash.
            _ => self.out.push_str("\\\\"),
        }
        Some(false)
    }

    /// Returns the four hexadecimal digits at a position.
    fn unit(&self, at: usize) -> Option<u16> {
        let digits = self.text.as_bytes().get(at..at + 4)?;
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = str::from_utf8(digits).ok().filter(|_| is_hex)?;
        u16::from_str_radix(digits, 16).ok()
    }

    /// Returns true if a string ends with the current quote, judged by the text after it.
    fn ends(&self, is_key: bool) -> bool {
        let after = self.skip(self.at);
        let end = if self.open.last() == Some(&true) { b'}' } else { b']' };
        match self.byte(after) {
            Some(b':') => is_key,
            _ if is_key => false,
            Some(b',') if end == b'}' => {
                self.field_follows(self.at) || self.byte(self.skip_commas(after)) == Some(b'}')
            }
            Some(b',') => match self.byte(self.skip_commas(after)) {
                Some(b'"' | b'{' | b'[' | b']' | b'-') => true,
                Some(byte) => byte.is_ascii_alphanumeric(),
                None => false,
            },
            Some(byte) if byte == end => {
                let after = self.skip(after + 1);
                after == self.text.len() || matches!(self.byte(after), Some(b',' | b'}' | b']'))
            }
            _ => false,
        }
    }

    /// Returns true if a comma and the key of another field follow.
    fn field_follows(&self, at: usize) -> bool {
        let at = self.skip(at);
        if self.byte(at) != Some(b',') {
            return false;
        }
        let at = self.skip_commas(at);
        if self.byte(at) != Some(b'"') {
            return false;
        }
        let rest = &self.text.as_bytes()[at + 1..];
        let key = rest.iter().take(KEY_LIMIT + 1).position(|byte| *byte == b'"');
        key.is_some_and(|key| self.byte(self.skip(at + 1 + key + 1)) == Some(b':'))
    }

    /// Writes a character of a string.
    fn escaped(&mut self, character: char) {
        match character {
            '"' | '\\' => self.out.extend(['\\', character]),
            // Writing to a string cannot fail.
            ..' ' => drop(write!(self.out, "\\u{:04x}", u32::from(character))),
            _ => self.out.push(character),
        }
    }

    /// Writes the pending comma.
    fn comma(&mut self, comma: &mut bool) {
        if std::mem::take(comma) {
            self.out.push(',');
        }
    }

    /// Closes the innermost object or list.
    fn close(&mut self, end: char) -> Option<Next> {
        self.open.pop()?;
        self.at += 1;
        self.out.push(end);
        Some(Next::Comma)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn peek(&self) -> Option<u8> {
        self.byte(self.at)
    }

    /// Returns the next position without a blank. Control characters are blanks.
    fn skip(&self, at: usize) -> usize {
        self.skip_all(at, |byte| byte <= b' ')
    }

    fn skip_commas(&self, at: usize) -> usize {
        self.skip_all(at, |byte| byte <= b' ' || byte == b',')
    }

    fn skip_all(&self, at: usize, is_skipped: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        let skipped = rest.iter().position(|byte| !is_skipped(*byte));
        at + skipped.unwrap_or(rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the value of the repaired text.
    fn repaired(json: impl AsRef<[u8]>) -> Option<Value> {
        let json = json.as_ref();
        let text = repair(json)?;
        let value = serde_json::from_str(&text);
        Some(value.unwrap_or_else(|error| panic!("{}: {text}: {error}", json.escape_ascii())))
    }

    #[track_caller]
    fn repairs_to(json: impl AsRef<[u8]>, expected: &str) {
        let expected: Value = serde_json::from_str(expected).expect(expected);
        let json = json.as_ref();
        assert_eq!(repaired(json), Some(expected), "{}", json.escape_ascii());
    }

    #[test]
    fn strict_json_keeps_its_meaning() {
        for json in [
            "{}",
            r#" {"a":[],"b":{},"c":[1,-0.5e3,true,null,"x"]} "#,
            r#"{"":"","\"":"\"","é,b":"x","k":"\u00e9\ud83d\ude00\/\b\f\n\r\t\\"}"#,
            r#"{"id":12345678901234567890123456789}"#,
            r#"{"data":"{\"a\":\"b\",\"c\":[\"d\"]}","x":1}"#,
            r#"{"a":"\",","b":"}","c":"\"}"}"#,
        ] {
            repairs_to(json, json);
        }
        assert_eq!(
            repair(br#"{"a":1.50,"b":5938314494307741153999}"#).as_deref(),
            Some(r#"{"a":1.50,"b":5938314494307741153999}"#),
            "no number is rounded"
        );
    }

    #[test]
    fn typed_faults_in_strings_are_escaped() {
        for (json, expected) in [
            ("{\"a\":\"x\u{14}\ny\tz\0\"}", r#"{"a":"x\u0014\ny\tz\u0000"}"#),
            ("{\"a\n\":1}", r#"{"a\n":1}"#),
            (r#"{"a":"\x \' \- \u12 \u12g4","b":1}"#, r#"{"a":"\\x ' \\- \\u12 \\u12g4","b":1}"#),
            ("{\"a\":\"x\\\ny\"}", r#"{"a":"x\\\ny"}"#),
            (r#"{"a":"\ud83d","b":"x\ude00y"}"#, r#"{"a":"\ufffd","b":"x\ufffdy"}"#),
            (r#"{"a":"\ud83d\u0041\ud83d\ud83d\ude00"}"#, r#"{"a":"\ufffdA\ufffd😀"}"#),
            (r#"{"a":"\u+123"}"#, r#"{"a":"\\u+123"}"#),
            (r#"{"a":"他说"好"的","b":1}"#, r#"{"a":"他说\"好\"的","b":1}"#),
            (r#"{"a":"说"好",就走","b":1}"#, r#"{"a":"说\"好\",就走","b":1}"#),
            (
                r#"{"a":""好"","b":[""x"","y"],"c":"z""}"#,
                r#"{"a":"\"好\"","b":["\"x\"","y"],"c":"z\""}"#,
            ),
            (r#"{"a":"x"}y","b":1}"#, r#"{"a":"x\"}y","b":1}"#),
            (r#"{"a"b":"c"d"}"#, r#"{"a\"b":"c\"d"}"#),
            (r#"{"a":"C:\","b":1}"#, r#"{"a":"C:\\","b":1}"#),
            (r#"{"b":1,"a":"C:\"}"#, r#"{"b":1,"a":"C:\\"}"#),
            (r#"{"a":[{"b":"C:\"}],"c":"\"d\""}"#, r#"{"a":[{"b":"C:\\"}],"c":"\"d\""}"#),
        ] {
            repairs_to(json, expected);
        }
    }

    #[test]
    fn invalid_utf8_spoils_one_character() {
        repairs_to(
            b"{\"a\":\"\xe9\x97\",\"b\":\"\xff\xe5\xae\xa1\"}",
            r#"{"a":"\ufffd","b":"\ufffd审"}"#,
        );
        repairs_to(b"{\"a\":\xff}", r#"{"a":"\ufffd"}"#);
    }

    #[test]
    fn invalid_word_spoils_one_field() {
        for (json, expected) in [
            (r#"{"a":NaN,"b":1}"#, r#"{"a":"NaN","b":1}"#),
            (r#"{"a":01,"b":1.,"c":+5,"d":o }"#, r#"{"a":"01","b":"1.","c":"+5","d":"o"}"#),
            (r#"{"a":50元,"b":0 1,"c":1e999}"#, r#"{"a":"50元","b":"0 1","c":"1e999"}"#),
            (r#"{"a":,"b":,"c":}"#, r#"{"a":"","b":"","c":""}"#),
            ("{\"a\":-\u{0}1,\"b\":'x\\'}", r#"{"a":"-\u00001","b":"'x\\'"}"#),
            ("{\"a\":0\0,\0\"b\"\u{1}:\u{1}1}", r#"{"a":0,"b":1}"#),
        ] {
            repairs_to(json, expected);
        }
    }

    #[test]
    fn extra_commas_are_dropped() {
        repairs_to(r#"{"a":[1,2,],"b":{"c":1,},}"#, r#"{"a":[1,2],"b":{"c":1}}"#);
        repairs_to(r#"{,"a":"x",,"b":"y",}"#, r#"{"a":"x","b":"y"}"#);
        repairs_to(r#"{"a":[1,,2]}"#, r#"{"a":[1,"",2]}"#);
    }

    #[test]
    fn blanks_and_marks_around_the_object_are_dropped() {
        for around in
            ["\u{feff}", "\u{feff}\u{feff}", "\u{200b}\n", "\0\0", "\u{2060}\u{200d} \r\n"]
        {
            repairs_to(format!("{around}{{\"a\":1}}{around}"), r#"{"a":1}"#);
        }
    }

    #[test]
    fn incomplete_object_is_not_repaired() {
        for text in [
            "",
            "\u{feff}",
            "null",
            "[]",
            "<html>{}</html>",
            "{",
            r#"{"errcode":0"#,
            r#"{"errcode":0,"#,
            r#"{"errcode":0,"errmsg":"o"#,
            r#"{"errcode":0,"errmsg":"ok\"#,
            r#"{"errcode":0,"errmsg":"ok\u1"#,
            r#"{"errcode":0,"a":[{"b":1}"#,
            r#"{"errcode":0,"a":{"b":"c"}"#,
            r#"{"errcode":0]"#,
            r#"{"a":[0}"#,
            r#"{"errcode"}"#,
            r#"{errcode:0}"#,
            r#"{"errcode":0}{"errcode":40001}"#,
            r#"{"errcode":0} <br />"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":{} "b":2}"#,
        ] {
            assert_eq!(repaired(text), None, "{text}");
        }
        assert_eq!(repair(&[0xFF; 100]), None);
    }

    /// A person who types a name must not decide WeChat's verdict.
    #[test]
    fn forged_verdict_does_not_replace_real_one() {
        for json in [
            r#"{"errcode":85038,"errmsg":"bad name "x","errcode":0,"y":"z"}"#,
            r#"{"errmsg":"bad name "x","errcode":0,"y":"z","errcode":85038}"#,
            r#"{"data":{"name":"x"},"errcode":0,"y":{"name":"z"},"errcode":85038}"#,
        ] {
            let text = repair(json.as_bytes()).expect(json);
            assert_eq!(text.matches(r#""errcode":"#).count(), 2, "both are there: {text}");
        }
        for json in [
            r#"{"errmsg":"bad name "x\", "errcode":85038, "rid":"y"}"#,
            r#"{"errmsg":"bad name \", "errcode":85038, "rid":"y"}"#,
            r#"{"errmsg":"bad "name", "errcode":85038}"#,
            r#"{"errcode":85038,"errmsg":"bad name \"}"#,
            "{\"errcode\":85038,\"errmsg\":\"invalid\n\"}",
        ] {
            let verdict = repaired(json).expect(json);
            assert_eq!(verdict["errcode"], 85038, "{json}");
        }
    }

    #[test]
    fn nesting_is_parsed_up_to_the_limit() {
        let deep = |levels: usize| {
            format!(r#"{{"a":{}"{}"{}}}"#, "[".repeat(levels), '\u{1}', "]".repeat(levels))
        };
        assert!(repaired(deep(DEPTH - 1)).is_some());
        assert_eq!(repaired(deep(DEPTH)), None);
        assert_eq!(repaired(deep(100_000)), None);
    }
}
