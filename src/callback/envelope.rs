//! The envelope around a sealed message: XML or JSON, as the message in it.
//!
//! In compatible mode it has the fields of the plain message, too. Nothing here looks at them: they
//! are not signed, so anybody could have written them.

use super::message::{self, Malformed};

/// Reads an envelope; what is sealed in it comes back, still sealed. Takes any bytes.
pub fn read(bytes: &[u8]) -> Result<String, Malformed> {
    match message::read(bytes)?.field("Encrypt") {
        "" => Err(Malformed("nothing sealed in it")),
        sealed => Ok(sealed.to_owned()),
    }
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
}
