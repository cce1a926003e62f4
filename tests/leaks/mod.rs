//! Finds secrets in what a gateway writes. All tests use it: `tests/it` for the log lines, the spans and the metrics of
//! its own process, the others for the standard error of the processes that they start. `tests/it/secrets.rs` checks
//! that no file forgets it, and that the search ends a test whose gateway writes a secret.

use std::io::Write;

pub(crate) use self::forms::forms;

mod forms;

/// The secrets that the simulator and the tests have. Secrets with a form of their own are found by
/// [`has_form_of_secret`].
const SECRETS: &[&str] = &[
    // Those of the simulator's accounts are words that also occur elsewhere, so they count with a separator.
    "\"official-secret\"",
    "=official-secret",
    "\"mini-program-secret\"",
    "=mini-program-secret",
    "\"mini-secret\"",
    "\"callback-token\"",
    "canary-official-secret-0123456789",
    "CANARY-classic-access-token_0123456789",
    "canary/secret+with=signs&more",
];
/// The least length of a text that can only be an access token of the simulator, or a JWT.
const TOKEN_LENGTH: usize = 120;
/// The length of the key of encrypted pushes (EncodingAESKey).
const AES_KEY_LENGTH: usize = 43;
/// The digits of a mobile number.
const MOBILE_LENGTH: usize = 11;

/// Ends the process if a text has a secret. A panic would be lost in a thread that reads an output.
pub(crate) fn check(text: &str) {
    check_part(text, true);
}

/// Does the same without mobile numbers, for lines that are not masked as those of a process are, if `numbers` is
/// false.
pub(crate) fn check_part(text: &str, numbers: bool) {
    if let Some(leak) = find(text, numbers) {
        // The harness of the tests does not keep this text from the user.
        let _ = writeln!(std::io::stderr(), "a gateway wrote a secret: {leak}");
        std::process::abort();
    }
}

/// Returns the first secret in a text, with some of the text around it.
pub(crate) fn find(text: &str, numbers: bool) -> Option<String> {
    for secret in SECRETS {
        let quoted = secret.starts_with(['"', '=']);
        let forms = if quoted { vec![(*secret).to_owned()] } else { forms(secret) };
        if let Some(at) = forms.iter().find_map(|form| text.find(form)) {
            return Some(around(text, at));
        }
    }
    if let Some(at) = text.find("PRIVATE KEY-----") {
        return Some(around(text, at));
    }
    let is_secret = |word: &&str| has_form_of_secret(word) || numbers && is_mobile(word);
    let word = text.split(|char| !is_of_word(char)).find(is_secret)?;
    Some(around(text, text.find(word)?))
}

/// Returns true for a mobile number.
fn is_mobile(word: &str) -> bool {
    word.len() == MOBILE_LENGTH
        && word.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(word.as_bytes(), [b'1', b'3'..=b'9', ..])
}

/// Returns true for a word that is an access token, a JWT or a key of pushes.
fn has_form_of_secret(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    let is_mixed =
        has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
    let is_key =
        word.len() == AES_KEY_LENGTH && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_mixed && (word.len() >= TOKEN_LENGTH || is_key)
}

/// Returns true for the characters of tokens in base64url.
fn is_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-')
}

/// Returns a text around a place in it.
fn around(text: &str, at: usize) -> String {
    let from = text.floor_char_boundary(at.saturating_sub(200));
    text[from..text.ceil_char_boundary((at + 200).min(text.len()))].to_owned()
}
