//! How WeChat signs and seals what it pushes, in both directions (消息加解密).
//!
//! AES-256-CBC under the EncodingAESKey, whose first half is also the IV; padded as PKCS#7 pads, but
//! to 32 bytes; around the message stand 16 random bytes, its length, and the app id of the account
//! it is for. The signature is SHA-1 over the sorted parts.

use std::fmt;

use aes::Aes256;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::NoPadding};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use crate::util::id::Secret;

/// In bytes; what messages are padded to a multiple of.
const BLOCK: usize = 32;
/// Random bytes before the length.
const RANDOM: usize = 16;
/// In characters.
const KEY_LENGTH: usize = 43;

/// Many real keys end in a character whose last bits are not zero; strict decoders refuse them.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// What seals and opens an account's pushes.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Why something sealed could not be opened. On purpose it says no more: whoever guesses learns
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not what this key seals.
    #[error("cannot be opened with this key")]
    Unreadable,
    /// It was sealed for another account.
    #[error("was sealed for another account")]
    Foreign,
}

impl Key {
    /// Reads an EncodingAESKey: 43 characters of base64. `None` if it is none.
    pub fn read(text: &Secret) -> Option<Self> {
        let text = text.expose();
        if text.len() != KEY_LENGTH {
            return None;
        }
        let bytes = LENIENT.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Opens what was sealed for `app_id`: base64 in, the message out.
    pub fn open(&self, sealed: &str, app_id: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = general_purpose::STANDARD.decode(sealed).map_err(|_| Error::Unreadable)?;
        if bytes.is_empty() || bytes.len() % BLOCK != 0 {
            return Err(Error::Unreadable);
        }
        let length = cbc::Decryptor::<Aes256>::new(&self.0.into(), &self.iv().into())
            .decrypt_padded::<NoPadding>(&mut bytes)
            .map_err(|_| Error::Unreadable)?
            .len();
        bytes.truncate(length);
        let whole = unpadded(&bytes).ok_or(Error::Unreadable)?;
        let rest = whole.get(RANDOM..).ok_or(Error::Unreadable)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(Error::Unreadable)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Error::Unreadable)?;
        let (message, recipient) = rest.split_at_checked(length).ok_or(Error::Unreadable)?;
        if !bool::from(recipient.ct_eq(app_id.as_bytes())) {
            return Err(Error::Foreign);
        }
        Ok(message.to_vec())
    }

    /// Seals a message for `app_id`, after 16 bytes that should be random: base64 out.
    pub fn seal(&self, message: &[u8], app_id: &str, random: [u8; RANDOM]) -> String {
        let mut bytes = Vec::with_capacity(message.len() + app_id.len() + 2 * BLOCK);
        bytes.extend_from_slice(&random);
        // WeChat's own messages are far below 4 GiB, and so is everything that fits in memory here.
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(message);
        bytes.extend_from_slice(app_id.as_bytes());
        let padding = BLOCK - bytes.len() % BLOCK;
        bytes.extend(std::iter::repeat_n(u8::try_from(padding).unwrap_or_default(), padding));
        let length = bytes.len();
        let sealed = cbc::Encryptor::<Aes256>::new(&self.0.into(), &self.iv().into())
            .encrypt_padded::<NoPadding>(&mut bytes, length);
        general_purpose::STANDARD.encode(sealed.unwrap_or_default())
    }

    fn iv(&self) -> [u8; 16] {
        let mut iv = [0; 16];
        iv.copy_from_slice(&self.0[..16]);
        iv
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The signature of some parts: SHA-1 over them in order of their bytes, in hex.
pub fn sign(token: &Secret, parts: &[&str]) -> String {
    let mut sorted = parts.to_vec();
    sorted.push(token.expose());
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for part in sorted {
        hash.update(part);
    }
    let digit = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
    hash.finalize().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Whether a signature is right; takes the same time for any wrong one.
pub fn verify(token: &Secret, parts: &[&str], signature: &str) -> bool {
    sign(token, parts).as_bytes().ct_eq(signature.as_bytes()).into()
}

/// Without the padding: up to 32 bytes, each saying how many they are.
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
    use serde_json::Value;

    use super::*;

    const APP_ID: &str = "wxba5fad812f8e6fb9";
    /// Its last character has bits to spare, as many real ones.
    const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

    fn key(text: &str) -> Key {
        Key::read(&Secret::from(text.to_owned())).expect(text)
    }

    /// What the key makes of bytes that were padded, or not, by the test.
    fn sealed(key: &Key, mut bytes: Vec<u8>) -> String {
        let length = bytes.len();
        let sealed = cbc::Encryptor::<Aes256>::new(&key.0.into(), &key.iv().into())
            .encrypt_padded::<NoPadding>(&mut bytes, length);
        general_purpose::STANDARD.encode(sealed.expect("whole blocks"))
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
    fn the_published_request_verifies_opens_and_is_sealed_alike() {
        let example = include_str!("../tests/documented/push/official_json_request.json");
        let example: Value = serde_json::from_str(example).expect("JSON");
        let text = |field: &str| example["sealed"][field].as_str().expect(field);
        let token = Secret::from(text("token").to_owned());
        let parts = [text("timestamp"), text("nonce"), text("encrypt")];
        assert_eq!(sign(&token, &parts), text("msg_signature"));
        assert!(verify(&token, &parts, text("msg_signature")));
        assert!(verify(&token, &parts[..2], text("signature")));
        assert!(!verify(&token, &parts, text("signature")));

        let key = key(text("aes_key"));
        let message = key.open(text("encrypt"), text("app_id")).expect("sealed with it");
        assert_eq!(message, example["message"][0].as_str().expect("text").as_bytes());
        let random = text("random").as_bytes().try_into().expect("16 bytes");
        assert_eq!(key.seal(&message, text("app_id"), random), text("encrypt"));
        let unpadded = RANDOM + 4 + message.len() + text("app_id").len();
        assert_eq!(example["sealed"]["padding"], BLOCK - unpadded % BLOCK);
    }

    #[test]
    fn every_length_of_padding_is_taken_off_again() {
        for key in [key(KEY), key(&"A".repeat(43))] {
            let message = "审核通过".repeat(8);
            for length in (0..=64).filter(|length| message.is_char_boundary(*length)) {
                let message = &message[..length];
                let sealed = key.seal(message.as_bytes(), APP_ID, [9; RANDOM]);
                assert_eq!(key.open(&sealed, APP_ID).as_deref(), Ok(message.as_bytes()));
            }
            for length in 0..BLOCK {
                let message = vec![0; length];
                let sealed = key.seal(&message, APP_ID, [0; RANDOM]);
                assert_eq!(key.open(&sealed, APP_ID), Ok(message));
            }
        }
    }

    #[test]
    fn a_key_is_read_whatever_its_spare_bits_are() {
        let spare = |last: char| format!("{}{last}", "A".repeat(42));
        assert_eq!(key(&spare('A')).0, key(&spare('B')).0);
        assert_ne!(key(&spare('A')).0, key(&spare('E')).0);
        for text in [&"A".repeat(42), &"A".repeat(44), &spare('='), &spare('-'), ""] {
            assert!(Key::read(&Secret::from(text.to_owned())).is_none(), "{text}");
        }
        assert_eq!(format!("{:?}", key(KEY)), "[redacted]");
    }

    #[test]
    fn what_was_sealed_otherwise_is_refused() {
        let key = key(KEY);
        let good = key.seal(b"message", APP_ID, [1; RANDOM]);
        assert_eq!(key.open(&good, "wx0000000000000000"), Err(Error::Foreign));
        assert_eq!(key.open(&good, &APP_ID[1..]), Err(Error::Foreign));
        assert_eq!(key.open(&good, ""), Err(Error::Foreign));

        let unreadable =
            |sealed: &str| assert_eq!(key.open(sealed, APP_ID), Err(Error::Unreadable));
        let other = self::key(&"A".repeat(43));
        unreadable(&other.seal(b"message", APP_ID, [1; RANDOM]));
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
    fn wrong_padding_and_lengths_are_refused() {
        let key = key(KEY);
        let open = |bytes| key.open(&sealed(&key, bytes), APP_ID);
        // The same by hand is right, with any message length that leaves room for the app id.
        let right = BLOCK - (RANDOM + 4 + APP_ID.len()) % BLOCK;
        let right = vec![u8::try_from(right).expect("small"); right];
        assert_eq!(open(odd(0, &right)), Ok(Vec::new()));
        for padding in [&[0_u8][..], &[0; 32], &[33; 33], &[64; 64 - 38], &[255], &[1, 3, 3]] {
            assert_eq!(open(odd(0, padding)), Err(Error::Unreadable), "{padding:?}");
        }
        for length in [u32::MAX, 0x8000_0000, 64, 19] {
            assert_eq!(open(odd(length, &right)), Err(Error::Unreadable), "{length}");
        }
        for length in [1, 18] {
            assert_eq!(open(odd(length, &right)), Err(Error::Foreign), "{length}");
        }
        // Nothing but padding, or not even a length.
        assert_eq!(open(vec![32; 32]), Err(Error::Unreadable));
        assert_eq!(open([vec![1; 18], vec![14; 14]].concat()), Err(Error::Unreadable));
    }

    #[test]
    fn a_signature_has_to_be_the_very_one() {
        let token = Secret::from("token".to_owned());
        let good = sign(&token, &["1", "2"]);
        assert_eq!(good, sign(&token, &["2", "1"]));
        assert!(verify(&token, &["1", "2"], &good));
        for wrong in ["", &good[..39], &good.to_uppercase(), &format!("{good}0")] {
            assert!(!verify(&token, &["1", "2"], wrong), "{wrong}");
        }
    }
}
