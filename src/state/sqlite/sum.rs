//! Checksums of what is stored opaquely: SQLite does not notice a flipped bit in a row.
//!
//! A sum stands behind the message as one more field of it, with a number that no message has. So
//! whatever reads the message without looking at the sum, such as an older version, passes over it, and
//! what was stored without a sum is read as it is.

use bytes::Bytes;
use rusqlite::types::ValueRef;

use crate::state::Error;

/// Field 536870911, the highest number, with four bytes.
const TAG: [u8; 5] = [0xFD, 0xFF, 0xFF, 0xFF, 0x0F];

/// The message with a sum of it and of what stands beside it.
pub(super) fn sealed(message: &[u8], beside: &[&[u8]]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(message.len() + TAG.len() + 4);
    sealed.extend_from_slice(message);
    sealed.extend_from_slice(&TAG);
    sealed.extend_from_slice(&sum(message, beside).to_le_bytes());
    sealed
}

/// The message without its sum. Fails if that is wrong.
pub(super) fn opened<'a>(stored: &'a [u8], beside: &[&[u8]]) -> Result<&'a [u8], Error> {
    let parts = stored.split_last_chunk::<4>();
    let parts = parts.and_then(|(rest, found)| Some((rest.split_last_chunk::<5>()?, found)));
    let Some(((message, tag), found)) = parts else { return Ok(stored) };
    if *found == sum(message, beside).to_le_bytes() {
        // Even where the tag is damaged.
        return Ok(message);
    }
    match *tag == TAG {
        true => Err(Error::Unreadable("its checksum is wrong".to_owned())),
        false => Ok(stored),
    }
}

/// The same for a value of a row.
pub(super) fn value(value: ValueRef<'_>) -> Result<Bytes, Error> {
    let stored = value.as_blob().map_err(|_| Error::Unreadable("it is no message".to_owned()))?;
    Ok(Bytes::copy_from_slice(opened(stored, &[])?))
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
    fn each_flipped_bit_is_found_or_harmless() {
        let message = Submission { submission_id: "s".to_owned(), ..Submission::default() };
        let message = message.encode_to_vec();
        let sealed = sealed(&message, &[b"beside"]);
        assert_eq!(opened(&sealed, &[b"beside"]), Ok(&*message));
        assert!(opened(&sealed, &[b"besidf"]).is_err());
        for bit in 0..8 * sealed.len() {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match opened(&damaged, &[b"beside"]) {
                Err(_) => assert!(!(8 * message.len()..8 * (message.len() + 5)).contains(&bit)),
                Ok(found) => assert_eq!(found, message),
            }
        }
    }

    #[test]
    fn message_without_a_sum_is_read_as_it_is() {
        for message in [&b""[..], b"abc", b"more than nine bytes", &TAG] {
            assert_eq!(opened(message, &[]), Ok(message));
        }
    }

    #[test]
    fn sum_is_passed_over_by_what_does_not_look_at_it() {
        let message = Submission { submission_id: "s".to_owned(), ..Submission::default() };
        let sealed = sealed(&message.encode_to_vec(), &[]);
        assert_eq!(Submission::decode(&*sealed), Ok(message));
    }
}
