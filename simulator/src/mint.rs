//! Ids, tokens and random choices, all from one seed.
//!
//! Each purpose has its own counter, so one more token does not change the ids of stores. Two runs
//! with the same calls get the same replies, whatever other calls come between.

use std::{collections::BTreeMap, time::Duration};

/// Makes every value that looks random.
#[derive(Debug)]
pub(super) struct Mint {
    seed: u64,
    made: BTreeMap<&'static str, u64>,
}

impl Mint {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, made: BTreeMap::new() }
    }

    /// Returns 1 for the first call with this purpose, then 2, and so on.
    pub(super) fn count(&mut self, purpose: &'static str) -> u64 {
        let made = self.made.entry(purpose).or_default();
        *made += 1;
        *made
    }

    /// Returns a text of `length` letters and digits. No other call returns the same.
    pub(super) fn text(&mut self, purpose: &'static str, length: usize) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut random = self.random(purpose);
        (0..length).map(|_| char::from(ALPHABET[random.usize(..ALPHABET.len())])).collect()
    }

    /// Returns a map id: 19 digits, more than a double can hold exactly.
    pub(super) fn map_poi_id(&mut self) -> String {
        let mut random = self.random("map_poi_id");
        random.u64(1_000_000_000_000_000_000..=8_999_999_999_999_999_999).to_string()
    }

    /// Returns the trace id that WeChat appends to every refusal.
    pub(super) fn rid(&mut self) -> String {
        let mut random = self.random("rid");
        format!("6{:07x}-{:08x}-{:08x}", random.u32(..1 << 28), random.u32(..), random.u32(..))
    }

    /// Returns a number below the limit.
    pub(super) fn below(&mut self, purpose: &'static str, limit: u64) -> u64 {
        self.random(purpose).u64(..limit)
    }

    /// Returns a part of a duration, to the millisecond.
    pub(super) fn part(&mut self, purpose: &'static str, whole: Duration) -> Duration {
        let whole = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(purpose, whole.saturating_add(1)))
    }

    /// Returns random bytes.
    pub(super) fn bytes<const N: usize>(&mut self, purpose: &'static str) -> [u8; N] {
        let mut bytes = [0; N];
        self.random(purpose).fill(&mut bytes);
        bytes
    }

    /// Returns true with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability >= 1.0 || self.random("chance").f64() < probability
    }

    fn random(&mut self, purpose: &'static str) -> fastrand::Rng {
        let count = self.count(purpose);
        let salt = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        fastrand::Rng::with_seed(mix(self.seed ^ salt).wrapping_add(mix(count)))
    }
}

/// Returns a well-mixed value (the finalizer of SplitMix64), so that consecutive inputs give
/// unrelated outputs.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_same_values_per_purpose() {
        let (mut quiet, mut busy) = (Mint::new(7), Mint::new(7));
        busy.rid();
        busy.count("poi_id");
        assert_eq!(quiet.text("token", 120), busy.text("token", 120));
        assert_ne!(quiet.text("token", 120), Mint::new(8).text("token", 120));
        assert_eq!(quiet.map_poi_id().len(), 19);
    }
}
