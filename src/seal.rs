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

use crate::id::Secret;

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
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
