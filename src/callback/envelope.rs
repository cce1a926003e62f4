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
