//! Encrypts and signs pushes as WeChat does (消息加解密).
//!
//! WeChat encrypts with AES-256-CBC under the EncodingAESKey. The first half of the key is also the IV.
//! The plaintext is 16 random bytes, the length of the message, the message, and the account's app id.
//! It is padded as in PKCS#7, but to a multiple of 32 bytes. The signature is SHA-1 over the sorted
//! parts.
//!
//! A receiver has its own code for the other direction. The two are written apart on purpose, so that
//! a mistake in one of them makes a test fail.

use std::{fmt, iter};

use aes::Aes256;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::NoPadding};
use sha1::{Digest, Sha1};

/// The plaintext is padded to a multiple of this many bytes.
const BLOCK: usize = 32;
/// An EncodingAESKey has this many characters.
const KEY_LENGTH: usize = 43;

/// Many real keys end in a character whose last bits are not zero. A strict decoder would refuse them.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The key that encrypts an account's pushes.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Parses an EncodingAESKey: 43 characters of base64. Returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != KEY_LENGTH {
            return None;
        }
        Some(Self(LENIENT.decode(text).ok()?.try_into().ok()?))
    }

    /// Returns the base64 of `message`, encrypted for `app_id`. `random` should differ each time.
    pub fn encrypt(&self, message: &[u8], app_id: &str, random: [u8; 16]) -> String {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut text = [&random, length.as_slice(), message, app_id.as_bytes()].concat();
        let padding = BLOCK - text.len() % BLOCK;
        text.extend(iter::repeat_n(u8::try_from(padding).unwrap_or_default(), padding));
        let [key, iv] = [&self.0[..], &self.0[..16]];
        let cipher = cbc::Encryptor::<Aes256>::new_from_slices(key, iv);
        // The key always has its 32 bytes and the text whole blocks, so neither step can fail.
        let length = text.len();
        let encrypted = cipher
            .ok()
            .and_then(|cipher| cipher.encrypt_padded::<NoPadding>(&mut text, length).ok());
        BASE64_STANDARD.encode(encrypted.unwrap_or_default())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Returns the signature of `parts`: SHA-1 over the token and the parts in byte order, in hex.
pub fn sign(token: &str, parts: &[&str]) -> String {
    let mut all = [&[token], parts].concat();
    all.sort_unstable();
    base16ct::lower::encode_string(&Sha1::digest(all.concat()))
}

#[cfg(test)]
pub(crate) mod tests {
    use cbc::cipher::BlockModeDecrypt;
    use serde_json::Value;

    use super::*;

    /// Decrypts what was encrypted for `app_id`. Only for tests: it panics on any other text.
    pub(crate) fn decrypt(key: &Key, encrypted: &str, app_id: &str) -> String {
        let mut bytes = BASE64_STANDARD.decode(encrypted).expect("base64");
        let cipher = cbc::Decryptor::<Aes256>::new_from_slices(&key.0, &key.0[..16]);
        let text = cipher.expect("a key").decrypt_padded::<NoPadding>(&mut bytes).expect("blocks");
        let padding = usize::from(*text.last().expect("padded"));
        assert!((1..=BLOCK).contains(&padding) && text.len() % BLOCK == 0, "{padding}");
        let (text, pad) = text.split_at(text.len() - padding);
        assert!(pad.iter().all(|byte| usize::from(*byte) == padding));
        let (length, rest) = text[16..].split_first_chunk::<4>().expect("a length");
        let (message, recipient) = rest.split_at(u32::from_be_bytes(*length) as usize);
        assert_eq!(recipient, app_id.as_bytes());
        String::from_utf8(message.to_vec()).expect("UTF-8")
    }

    #[test]
    fn published_example_encrypts_and_signs_identically() {
        let example = include_str!("../../tests/documented/push/official_json_request.json");
        let example: Value = serde_json::from_str(example).expect("JSON");
        let text = |field: &str| example["sealed"][field].as_str().expect(field);
        let (timestamp, nonce, encrypted) = (text("timestamp"), text("nonce"), text("encrypt"));
        assert_eq!(sign(text("token"), &[timestamp, nonce]), text("signature"));
        assert_eq!(sign(text("token"), &[timestamp, nonce, encrypted]), text("msg_signature"));

        let key = Key::parse(text("aes_key")).expect("a key");
        let message = example["message"][0].as_str().expect("text");
        let random = text("random").as_bytes().try_into().expect("16 bytes");
        assert_eq!(key.encrypt(message.as_bytes(), text("app_id"), random), encrypted);
        assert_eq!(decrypt(&key, encrypted, text("app_id")), message);
    }

    #[test]
    fn every_message_length_is_padded() {
        let key = Key::parse(&"A".repeat(KEY_LENGTH)).expect("a key");
        for length in 0..=2 * BLOCK {
            let message = "x".repeat(length);
            let encrypted = key.encrypt(message.as_bytes(), "wx1", [9; 16]);
            assert_eq!(decrypt(&key, &encrypted, "wx1"), message);
        }
    }

    #[test]
    fn key_parses_with_any_trailing_bits() {
        let key = |last: &str| Key::parse(&format!("{}{last}", "A".repeat(KEY_LENGTH - 1)));
        assert_eq!(key("A").expect("a key").0, key("B").expect("a key").0);
        assert_ne!(key("A").expect("a key").0, key("E").expect("a key").0);
        for wrong in ["", "=", "-", "AA"] {
            assert!(key(wrong).is_none(), "{wrong}");
        }
        assert_eq!(format!("{:?}", key("A")), "Some([redacted])");
    }
}
