//! All forms in which a secret may appear.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};

/// Returns the secret as plain text, in a URL, in hex, and in base64 at each of the three
/// alignments.
pub(crate) fn forms(secret: &str) -> Vec<String> {
    let url: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.to_owned(), url, hex];
    for offset in 0..3 {
        let encoded = BASE64_STANDARD_NO_PAD.encode([&vec![0; offset], secret.as_bytes()].concat());
        // The ends depend on the bytes around the secret.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}
