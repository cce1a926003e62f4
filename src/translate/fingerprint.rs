//! Hashes that stand for values in the journal: it stores no telephone number and the like.
//!
//! Their input and their function never change, because the journal compares them with those of an earlier
//! version.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Returns the hash of some texts, each with a NUL after it.
pub(crate) fn of_each<'a>(texts: impl IntoIterator<Item = &'a str>) -> Bytes {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text);
        hash.update([0]);
    }
    Bytes::copy_from_slice(&hash.finalize())
}

/// Returns the same hash as [`of_each`], whatever the order of the texts.
pub(crate) fn of_unordered(texts: &[impl AsRef<str>]) -> Bytes {
    of_each(sorted(texts))
}

/// Returns the texts in the order of their bytes.
pub(crate) fn sorted(texts: &[impl AsRef<str>]) -> Vec<&str> {
    let mut texts: Vec<_> = texts.iter().map(AsRef::as_ref).collect();
    texts.sort_unstable();
    texts
}

/// Returns the hash of two texts, with a NUL between them.
pub(crate) fn of_pair(first: &str, second: &str) -> Bytes {
    let hash = Sha256::new().chain_update(first).chain_update([0]).chain_update(second).finalize();
    Bytes::copy_from_slice(&hash)
}
