//! Checks at the start that SQLite's write-ahead log is complete.
//!
//! SQLite reads the log up to the first frame with a wrong checksum and silently discards the rest.
//! After a power failure that is right: the rest was not synced, and so not acknowledged. A damaged
//! frame looks the same, but acknowledged commits may follow it.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
    path::Path,
};

use crate::state::Error;

/// The most commits that may follow a wrong frame after a power failure: the last ones, which were
/// not synced yet. Their frames reach the disk in any order.
const NOT_SYNCED: u64 = 2;

/// The page size of this service's databases.
const USUAL_PAGE: u32 = 4096;
const HEAD: usize = 32;
const FRAME_HEAD: usize = 24;

/// Fails if more commits follow a wrong frame than a power failure explains.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let log = match File::open(path) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(super::unusable(path, &error)),
    };
    let path = path.display();
    match discarded_commits(&mut BufReader::with_capacity(1 << 20, log)) {
        Ok(0) => Ok(()),
        Ok(commits @ 1..=NOT_SYNCED) => {
            tracing::warn!(
                commits,
                "the write-ahead log ends with commits that were not synced: {path}"
            );
            Ok(())
        }
        Ok(commits) => Err(Error::Damaged(format!(
            "its log {path} is damaged, and {commits} commits behind that place would be lost"
        ))),
        Err(error) => Err(Error::Unusable(format!("{path}: {error}"))),
    }
}

/// Returns the number of commits that SQLite would discard. See “The WAL File Format” of SQLite.
fn discarded_commits(log: &mut impl Read) -> io::Result<u64> {
    let mut head = [0; HEAD];
    if !fill(log, &mut head)? {
        return Ok(0);
    }
    // The checksums of the first 24 bytes, in either byte order.
    let sums = [head[3] & 1 == 1, head[3] & 1 == 0].map(|big_endian| {
        let mut sum = Sum { big_endian, values: [0, 0] };
        sum.add(&head[..24]);
        sum
    });
    let stored = [number(&head[24..]), number(&head[28..])];
    let right = head[..3] == [0x37, 0x7F, 0x06] && sums[0].values == stored;
    let page_size = if right { number(&head[8..]) } else { USUAL_PAGE };
    let page_size = page_size.try_into().map_err(io::Error::other)?;
    let mut frame = vec![0; FRAME_HEAD.saturating_add(page_size)];
    if !fill(log, &mut frame)? {
        return Ok(0);
    }
    // If the head is wrong, the first frame may still prove that it follows. Its checksum continues
    // from the stored one, or from the right one if the stored checksum itself is damaged.
    // Otherwise the head was only partly written, and nothing followed it yet.
    let [one, other] = sums;
    let seeds = [one.with(stored), other.with(stored), one, other];
    let seeds = seeds.into_iter().take(if right { 1 } else { 4 });
    let mut sums = seeds.map(|seed| seed.and(&frame));
    let sum = sums.find(|sum| sum.is(&frame[16..]));
    let (mut sum, salts) = match (sum, right) {
        (Some(sum), false) => (Some(sum), frame[8..16].to_vec()),
        (None, false) => return Ok(0),
        (sum, true) => (sum, head[16..24].to_vec()),
    };
    let mut commits = 0;
    loop {
        let its_own = frame[8..16] == *salts;
        sum = sum.filter(|sum| its_own && sum.is(&frame[16..]));
        let is_commit = number(&frame[4..]) != 0;
        commits += u64::from(its_own && is_commit && (sum.is_none() || !right));
        if !fill(log, &mut frame)? {
            return Ok(commits);
        }
        sum = sum.map(|sum| sum.and(&frame));
    }
}

/// Fills the buffer and returns false if there were too few bytes.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The running checksum.
#[derive(Clone, Copy)]
struct Sum {
    /// The byte order of the words.
    big_endian: bool,
    values: [u32; 2],
}

impl Sum {
    fn with(self, values: [u32; 2]) -> Self {
        Self { values, ..self }
    }

    /// Returns the checksum after a frame.
    fn and(mut self, frame: &[u8]) -> Self {
        self.add(&frame[..8]);
        self.add(&frame[FRAME_HEAD..]);
        self
    }

    fn add(&mut self, bytes: &[u8]) {
        let (pairs, _) = bytes.as_chunks::<8>();
        for pair in pairs {
            let [a, b, c, d, e, f, g, h] = *pair;
            let words = [[a, b, c, d], [e, f, g, h]];
            let words = words.map(|word| match self.big_endian {
                true => u32::from_be_bytes(word),
                false => u32::from_le_bytes(word),
            });
            let [first, second] = &mut self.values;
            *first = first.wrapping_add(words[0]).wrapping_add(*second);
            *second = second.wrapping_add(words[1]).wrapping_add(*first);
        }
    }

    fn is(&self, stored: &[u8]) -> bool {
        self.values == [number(stored), number(&stored[4..])]
    }
}
