//! The envelope around a sealed message: XML or JSON, as the message in it.
//!
//! In compatible mode it has the fields of the plain message, too. Nothing here looks at them: they
//! are not signed, so anybody could have written them.

use super::message::{self, Malformed};

/// The shortest thing that is sealed, in characters: two blocks of AES.
const SHORTEST: usize = 43;

/// Reads an envelope; what is sealed in it comes back, still sealed. Takes any bytes.
///
/// An envelope that cannot be read, because the plain message in it is damaged, may still have what
/// is sealed: the signature then proves whether it was found.
pub fn read(bytes: &[u8]) -> Result<String, Malformed> {
    let nothing = Malformed("nothing sealed in it");
    let malformed = match message::read(bytes) {
        Ok(message) => match message.field("Encrypt") {
            "" if message.faulty().is_none() => return Err(nothing),
            "" => nothing,
            sealed => return Ok(sealed.to_owned()),
        },
        Err(malformed) => malformed,
    };
    found(&String::from_utf8_lossy(bytes)).ok_or(malformed)
}

/// Finds the longest text that can be something sealed, behind the name of its field.
fn found(text: &str) -> Option<String> {
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
    let sealed = longest.replace('\\', "");
    (sealed.len() >= SHORTEST).then_some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_has_something_sealed() {
        let sealed = |text: &str| read(text.as_bytes()).map_err(|error| error.to_string());
        for envelope in [
            "<xml><ToUserName><![CDATA[gh]]></ToUserName><Encrypt><![CDATA[ab+/=]]></Encrypt></xml>",
            "<xml><AppId>wx</AppId><Encrypt>\nab+/=\n</Encrypt></xml>",
            r#"{"ToUserName":"gh","Encrypt":"ab+\/=","Event":"add_store_audit_info"}"#,
        ] {
            assert_eq!(sealed(envelope).as_deref(), Ok("ab+/="), "{envelope}");
        }
        for plain in ["<xml><Event>a</Event></xml>", "{}", r#"{"Encrypt":""}"#] {
            assert_eq!(sealed(plain), Err("nothing sealed in it".to_owned()), "{plain}");
        }
    }

    #[test]
    fn damaged_envelope_is_searched_for_its_seal() {
        let inner = format!("{}+/=", "aB3".repeat(20));
        for (before, after) in [
            ("<xml><a>x < y</a><Encrypt><![CDATA[", "]]></Encrypt><Encrypt>abc</Encrypt></xml>"),
            ("<xml><a>Encrypt:abc</b><Encrypt>\n", "\n</Encrypt>"),
            (r#"{"a":"x" y,"Encrypt" : ""#, r#"","b":1}"#),
        ] {
            let envelope = format!("{before}{inner}{after}");
            assert_eq!(read(envelope.as_bytes()).as_ref(), Ok(&inner), "{envelope}");
        }
        for nothing in
            ["Encrypt", "EncryptEncrypt", "<xml><Encrypt>abc</Encrypt>", "{\"Encrypt\":\"a"]
        {
            assert!(read(nothing.as_bytes()).is_err(), "{nothing}");
        }
    }
}
