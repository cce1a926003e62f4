//! Verifies and decrypts what WeChat pushes (消息加解密).
//!
//! WeChat encrypts with AES-256-CBC under the EncodingAESKey. The first half of the key is also the IV.
//! The plaintext is 16 random bytes, the length of the message, the message, and the account's app id.
//! It is padded as in PKCS#7, but to a multiple of 32 bytes. The signature is SHA-1 over the sorted
//! parts.
//!
//! The gateway only receives, so the other direction is not here. The simulator has it, written apart.

use std::fmt;

use aes::Aes256;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::NoPadding};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use crate::util::id::Secret;

/// The plaintext is padded to a multiple of this many bytes.
const BLOCK: usize = 32;
/// This many random bytes precede the length.
const RANDOM: usize = 16;
/// An EncodingAESKey has this many characters.
const KEY_LENGTH: usize = 43;

/// Many real keys end in a character whose last bits are not zero. A strict decoder would refuse them.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The key that decrypts an account's pushes.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// The reason why a push could not be decrypted. It has no detail on purpose: an attacker who guesses
/// must learn nothing from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not what this key encrypts.
    #[error("cannot be decrypted with this key")]
    Unreadable,
    /// The text was encrypted for another account.
    #[error("was encrypted for another account")]
    Foreign,
}

impl Key {
    /// Parses an EncodingAESKey: 43 characters of base64. Returns `None` for any other text.
    pub fn parse(text: &Secret) -> Option<Self> {
        let text = text.expose();
        if text.len() != KEY_LENGTH {
            return None;
        }
        let bytes = LENIENT.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Returns the message in `encrypted`, which is base64.
    ///
    /// Fails if this key did not encrypt it, or if it was encrypted for another account than `app_id`.
    pub fn decrypt(&self, encrypted: &str, app_id: &str) -> Result<Vec<u8>, Error> {
        let mut bytes =
            general_purpose::STANDARD.decode(encrypted).map_err(|_| Error::Unreadable)?;
        if bytes.is_empty() || bytes.len() % BLOCK != 0 {
            return Err(Error::Unreadable);
        }
        let mut iv = [0; 16];
        iv.copy_from_slice(&self.0[..16]);
        let padded = cbc::Decryptor::<Aes256>::new(&self.0.into(), &iv.into())
            .decrypt_padded::<NoPadding>(&mut bytes)
            .map_err(|_| Error::Unreadable)?;
        let whole = unpadded(padded).ok_or(Error::Unreadable)?;
        let rest = whole.get(RANDOM..).ok_or(Error::Unreadable)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(Error::Unreadable)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Error::Unreadable)?;
        let (message, recipient) = rest.split_at_checked(length).ok_or(Error::Unreadable)?;
        if !bool::from(recipient.ct_eq(app_id.as_bytes())) {
            return Err(Error::Foreign);
        }
        Ok(message.to_vec())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Returns whether a signature is right. It takes the same time for every wrong one.
pub fn verify(token: &Secret, parts: &[&str], signature: &str) -> bool {
    self::signature(token, parts).as_bytes().ct_eq(signature.as_bytes()).into()
}

/// Returns the signature that WeChat makes with `token`.
pub(crate) fn signature(token: &Secret, parts: &[&str]) -> String {
    let mut sorted = parts.to_vec();
    sorted.push(token.expose());
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for part in sorted {
        hash.update(part);
    }
    base16ct::lower::encode_string(&hash.finalize())
}

/// Returns the text without its padding: up to 32 bytes, each of which holds their number.
fn unpadded(bytes: &[u8]) -> Option<&[u8]> {
    let padding = usize::from(*bytes.last()?);
    if !(1..=BLOCK).contains(&padding) {
        return None;
    }
    let (whole, pad) = bytes.split_at_checked(bytes.len().checked_sub(padding)?)?;
    pad.iter().all(|byte| usize::from(*byte) == padding).then_some(whole)
}

#[cfg(test)]
mod tests {
    use cbc::cipher::BlockModeEncrypt;
    use serde_json::Value;
    use wechat_simulator::message_crypto as sender;

    use super::*;

    const APP_ID: &str = "wxba5fad812f8e6fb9";
    /// Its last character has bits to spare, as many real ones.
    const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

    fn key(text: &str) -> Key {
        Key::parse(&Secret::from(text.to_owned())).expect(text)
    }

    /// Encrypts as WeChat does.
    fn encrypted(key: &str, message: &[u8]) -> String {
        sender::Key::parse(key).expect(key).encrypt(message, APP_ID, [9; RANDOM])
    }

    /// Encrypts bytes that the test padded, rightly or wrongly.
    fn encrypted_unpadded(key: &Key, mut bytes: Vec<u8>) -> String {
        let length = bytes.len();
        let cipher = cbc::Encryptor::<Aes256>::new_from_slices(&key.0, &key.0[..16]);
        let encrypted = cipher.expect("a key").encrypt_padded::<NoPadding>(&mut bytes, length);
        general_purpose::STANDARD.encode(encrypted.expect("whole blocks"))
    }

    /// An empty message, its length as given, then this padding up to 64 bytes.
    fn odd(length: u32, padding: &[u8]) -> Vec<u8> {
        let mut bytes = vec![7; RANDOM];
        bytes.extend(length.to_be_bytes());
        bytes.extend(APP_ID.as_bytes());
        bytes.resize(64 - padding.len(), b'x');
        bytes.extend(padding);
        bytes
    }

    #[test]
    fn published_example_verifies_and_decrypts() {
        let example = include_str!("../tests/documented/push/official_json_request.json");
        let example: Value = serde_json::from_str(example).expect("JSON");
        let text = |field: &str| example["sealed"][field].as_str().expect(field);
        let token = Secret::from(text("token").to_owned());
        let parts = [text("timestamp"), text("nonce"), text("encrypt")];
        assert!(verify(&token, &parts, text("msg_signature")));
        assert!(verify(&token, &parts[..2], text("signature")));
        assert!(!verify(&token, &parts, text("signature")));

        let message = key(text("aes_key")).decrypt(text("encrypt"), text("app_id"));
        let message = message.expect("encrypted with this key");
        assert_eq!(message, example["message"][0].as_str().expect("text").as_bytes());
        let unpadded = RANDOM + 4 + message.len() + text("app_id").len();
        assert_eq!(example["sealed"]["padding"], BLOCK - unpadded % BLOCK);
    }

    #[test]
    fn every_padding_length_is_removed() {
        for text in [KEY, &"A".repeat(43)] {
            let message = "审核通过".repeat(8);
            for length in (0..=64).filter(|length| message.is_char_boundary(*length)) {
                let message = &message[..length];
                let encrypted = encrypted(text, message.as_bytes());
                assert_eq!(
                    key(text).decrypt(&encrypted, APP_ID).as_deref(),
                    Ok(message.as_bytes())
                );
            }
            for length in 0..BLOCK {
                let message = vec![0; length];
                assert_eq!(key(text).decrypt(&encrypted(text, &message), APP_ID), Ok(message));
            }
        }
    }

    #[test]
    fn key_parses_with_any_trailing_bits() {
        let spare = |last: char| format!("{}{last}", "A".repeat(42));
        assert_eq!(key(&spare('A')).0, key(&spare('B')).0);
        assert_ne!(key(&spare('A')).0, key(&spare('E')).0);
        for text in [&"A".repeat(42), &"A".repeat(44), &spare('='), &spare('-'), ""] {
            assert!(Key::parse(&Secret::from(text.to_owned())).is_none(), "{text}");
        }
        assert_eq!(format!("{:?}", key(KEY)), "[redacted]");
    }

    #[test]
    fn wrong_account_key_or_text_is_refused() {
        let key = key(KEY);
        let good = encrypted(KEY, b"message");
        assert_eq!(key.decrypt(&good, "wx0000000000000000"), Err(Error::Foreign));
        assert_eq!(key.decrypt(&good, &APP_ID[1..]), Err(Error::Foreign));
        assert_eq!(key.decrypt(&good, ""), Err(Error::Foreign));

        let unreadable =
            |encrypted: &str| assert_eq!(key.decrypt(encrypted, APP_ID), Err(Error::Unreadable));
        unreadable(&encrypted(&"A".repeat(43), b"message"));
        let bytes = general_purpose::STANDARD.decode(&good).expect("base64");
        let again = |bytes: &[u8]| general_purpose::STANDARD.encode(bytes);
        for end in 0..bytes.len() {
            unreadable(&again(&bytes[..end]));
        }
        let mut last = bytes.clone();
        last[BLOCK] ^= 1;
        unreadable(&again(&last));
        for text in ["", "=", "AAAA", "no base64", "审核", &good[..good.len() - 1]] {
            unreadable(text);
        }
    }

    #[test]
    fn wrong_padding_or_length_is_refused() {
        let key = key(KEY);
        let decrypt = |bytes| key.decrypt(&encrypted_unpadded(&key, bytes), APP_ID);
        // Built by hand and right, with any message length that leaves room for the app id.
        let right = BLOCK - (RANDOM + 4 + APP_ID.len()) % BLOCK;
        let right = vec![u8::try_from(right).expect("small"); right];
        assert_eq!(decrypt(odd(0, &right)), Ok(Vec::new()));
        for padding in [&[0_u8][..], &[0; 32], &[33; 33], &[64; 64 - 38], &[255], &[1, 3, 3]] {
            assert_eq!(decrypt(odd(0, padding)), Err(Error::Unreadable), "{padding:?}");
        }
        for length in [u32::MAX, 0x8000_0000, 64, 19] {
            assert_eq!(decrypt(odd(length, &right)), Err(Error::Unreadable), "{length}");
        }
        for length in [1, 18] {
            assert_eq!(decrypt(odd(length, &right)), Err(Error::Foreign), "{length}");
        }
        // Only padding, or too short for a length.
        assert_eq!(decrypt(vec![32; 32]), Err(Error::Unreadable));
        assert_eq!(decrypt([vec![1; 18], vec![14; 14]].concat()), Err(Error::Unreadable));
    }

    #[test]
    fn only_the_exact_signature_verifies() {
        let token = Secret::from("token".to_owned());
        let good = sender::sign("token", &["1", "2"]);
        assert!(verify(&token, &["1", "2"], &good));
        assert!(verify(&token, &["2", "1"], &good));
        for wrong in ["", &good[..39], &good.to_uppercase(), &format!("{good}0")] {
            assert!(!verify(&token, &["1", "2"], wrong), "{wrong}");
        }
    }
}
