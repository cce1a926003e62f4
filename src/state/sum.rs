//! Checksums of stored messages, because neither SQLite nor Redis detects a flipped bit in a row.
//!
//! The checksum follows the message as one more field, with a number that no message uses. A reader
//! that does not check it, such as an older version, skips the field. A message that was stored
//! without a checksum is valid.

use crate::state::Error;

/// The tag of field 536870911, the highest number, with four bytes.
const TAG: [u8; 5] = [0xFD, 0xFF, 0xFF, 0xFF, 0x0F];

/// Returns the message with a checksum over the message and `beside`.
pub(super) fn with_checksum(message: &[u8], beside: &[&[u8]]) -> Vec<u8> {
    let mut checked = Vec::with_capacity(message.len() + TAG.len() + 4);
    checked.extend_from_slice(message);
    checked.extend_from_slice(&TAG);
    checked.extend_from_slice(&sum(message, beside).to_le_bytes());
    checked
}

/// Returns the message without its checksum. Fails if the checksum is wrong.
pub(super) fn without_checksum<'a>(stored: &'a [u8], beside: &[&[u8]]) -> Result<&'a [u8], Error> {
    let parts = stored.split_last_chunk::<4>();
    let parts = parts.and_then(|(rest, found)| Some((rest.split_last_chunk::<5>()?, found)));
    let Some(((message, tag), found)) = parts else { return Ok(stored) };
    if *found == sum(message, beside).to_le_bytes() {
        // The checksum is right, so the message is, even if the tag is damaged.
        return Ok(message);
    }
    match *tag == TAG {
        true => Err(Error::Unreadable("its checksum is wrong".to_owned())),
        false => Ok(stored),
    }
}

/// Returns the stored form of a message that may be absent. An empty message stays empty.
pub(super) fn stored_form(message: &[u8]) -> Vec<u8> {
    if message.is_empty() { Vec::new() } else { with_checksum(message, &[]) }
}

fn sum(message: &[u8], beside: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for part in beside {
        sum.update(&(part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    sum.update(message);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::pb::Submission;

    #[test]
    fn flipped_bit_is_detected_or_harmless() {
        let message = Submission { submission_id: "s".to_owned(), ..Submission::default() };
        let message = message.encode_to_vec();
        let checked = with_checksum(&message, &[b"beside"]);
        assert_eq!(without_checksum(&checked, &[b"beside"]), Ok(&*message));
        assert!(without_checksum(&checked, &[b"besidf"]).is_err());
        for bit in 0..8 * checked.len() {
            let mut damaged = checked.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match without_checksum(&damaged, &[b"beside"]) {
                Err(_) => assert!(!(8 * message.len()..8 * (message.len() + 5)).contains(&bit)),
                Ok(found) => assert_eq!(found, message),
            }
        }
    }

    #[test]
    fn message_without_checksum_is_unchanged() {
        for message in [&b""[..], b"abc", b"more than nine bytes", &TAG] {
            assert_eq!(without_checksum(message, &[]), Ok(message));
        }
    }

    #[test]
    fn protobuf_parser_skips_checksum() {
        let message = Submission { submission_id: "s".to_owned(), ..Submission::default() };
        let checked = with_checksum(&message.encode_to_vec(), &[]);
        assert_eq!(Submission::decode(&*checked), Ok(message));
    }
}
