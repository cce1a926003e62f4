//! Bearer tokens. The settings hold only their hashes.

use std::{collections::HashMap, sync::Arc};

use subtle::ConstantTimeEq;

use super::Caller;
use crate::config::TokenHash;

/// The callers by the hashes of their tokens.
///
/// The first eight bytes of a hash select its entry, so the cost is the same for any number of callers. The
/// whole hashes are compared in constant time.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<[u8; 8], Vec<(TokenHash, Arc<Caller>)>>);

impl Tokens {
    /// Adds a token of a caller.
    pub(super) fn add(&mut self, hash: TokenHash, caller: &Arc<Caller>) {
        self.0.entry(first(&hash.0)).or_default().push((hash, caller.clone()));
    }

    /// Returns the caller that has the token with this hash, or `None` if no caller has it.
    pub(super) fn find(&self, hash: &[u8; 32]) -> Option<&Arc<Caller>> {
        let entry = self.0.get(&first(hash))?;
        entry.iter().find(|(known, _)| known.0.ct_eq(hash).into()).map(|(_, caller)| caller)
    }
}

fn first(hash: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    [a, b, c, d, e, f, g, h]
}
