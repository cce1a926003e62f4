//! The envelope around an encrypted message: XML or JSON, like the message itself.
//!
//! In compatible mode, the envelope also has the fields of the plain message. They are ignored,
//! because they are not signed and any sender could have written them.

use super::message::{self, Malformed};

/// The shortest possible ciphertext in characters: two AES blocks.
const SHORTEST: usize = 43;

/// Returns the ciphertext in an envelope, still encrypted. Accepts any bytes.
///
/// Fails if there is no ciphertext. An envelope that is unreadable because of damage in its plain
/// message may still have one. The signature then proves whether the right text was found.
pub fn parse(bytes: &[u8]) -> Result<String, Malformed> {
    let nothing = Malformed("no encrypted message in it");
    let malformed = match message::parse(bytes) {
        Ok(message) => match message.field("Encrypt") {
            "" if message.faulty().is_none() => return Err(nothing),
            "" => nothing,
            ciphertext => return Ok(ciphertext.to_owned()),
        },
        Err(malformed) => malformed,
    };
    search_ciphertext(&String::from_utf8_lossy(bytes)).ok_or(malformed)
}

/// Returns the longest text after the field's name that can be a ciphertext.
fn search_ciphertext(text: &str) -> Option<String> {
    let (mut longest, mut rest) = ("", text);
    while let Some((_, after)) = rest.split_once("Encrypt") {
        let value = after.trim_start_matches(|c: char| c.is_whitespace() || "\">:".contains(c));
        let value = value.strip_prefix("<![CDATA[").unwrap_or(value).trim_start();
        let end = value.find(|c: char| !c.is_ascii_alphanumeric() && !"+/=\\".contains(c));
        let (value, behind) = value.split_at(end.unwrap_or(value.len()));
        if value.len() > longest.len() {
            longest = value;
        }
        rest = behind;
    }
    // JSON may escape a slash.
    let ciphertext = longest.replace('\\', "");
    (ciphertext.len() >= SHORTEST).then_some(ciphertext)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_without_ciphertext_is_malformed() {
        let ciphertext = |text: &str| parse(text.as_bytes()).map_err(|error| error.to_string());
        for envelope in [
            "<xml><ToUserName><![CDATA[gh]]></ToUserName><Encrypt><![CDATA[ab+/=]]></Encrypt></xml>",
            "<xml><AppId>wx</AppId><Encrypt>\nab+/=\n</Encrypt></xml>",
            r#"{"ToUserName":"gh","Encrypt":"ab+\/=","Event":"add_store_audit_info"}"#,
        ] {
            assert_eq!(ciphertext(envelope).as_deref(), Ok("ab+/="), "{envelope}");
        }
        for plain in ["<xml><Event>a</Event></xml>", "{}", r#"{"Encrypt":""}"#] {
            assert_eq!(ciphertext(plain), Err("no encrypted message in it".to_owned()), "{plain}");
        }
    }

    #[test]
    fn damaged_envelope_still_yields_ciphertext() {
        let inner = format!("{}+/=", "aB3".repeat(20));
        for (before, after) in [
            ("<xml><a>x < y</a><Encrypt><![CDATA[", "]]></Encrypt><Encrypt>abc</Encrypt></xml>"),
            ("<xml><a>Encrypt:abc</b><Encrypt>\n", "\n</Encrypt>"),
            (r#"{"a":"x" y,"Encrypt" : ""#, r#"","b":1}"#),
        ] {
            let envelope = format!("{before}{inner}{after}");
            assert_eq!(parse(envelope.as_bytes()).as_ref(), Ok(&inner), "{envelope}");
        }
        for nothing in
            ["Encrypt", "EncryptEncrypt", "<xml><Encrypt>abc</Encrypt>", "{\"Encrypt\":\"a"]
        {
            assert!(parse(nothing.as_bytes()).is_err(), "{nothing}");
        }
    }
}
