//! Pages: opaque tokens on our side, moving offsets on WeChat's.
//!
//! WeChat counts rows, and its counts move when rows are deleted. A token therefore remembers the
//! ids of the last rows that were given out; the next page begins a little before its end and goes
//! on after the last row that is known, so that nothing is skipped and nothing repeated.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::validate::Check;

/// Rows of a list of our own, where the caller names no number, and at most.
const ROWS: u32 = 100;
const MOST_ROWS: u32 = 1000;

/// So many of the last ids are remembered: a page may lose all but one of them meanwhile.
const REMEMBERED: usize = 8;

/// Where a list goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Which list of which account; another list's token is refused.
    #[serde(rename = "s")]
    scope: String,
    /// The row after the last that was given out, as WeChat counted then.
    #[serde(rename = "o")]
    pub(crate) offset: u32,
    /// The ids of the last rows that were given out, the very last one last.
    #[serde(rename = "l")]
    last_ids: Vec<String>,
    /// How many rows there were in all, as WeChat counted then; 0 where it did not.
    #[serde(rename = "t", default)]
    pub(crate) total: u32,
    /// How often the list went back although nothing seemed to be deleted.
    #[serde(rename = "r", default)]
    pub(crate) rewinds: u8,
}

/// The token is not one of this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign;

impl Cursor {
    /// The beginning of a list.
    pub(crate) fn start(scope: impl Into<String>) -> Self {
        Self { scope: scope.into(), offset: 0, last_ids: Vec::new(), total: 0, rewinds: 0 }
    }

    /// Reads a caller's `page_token`; empty means the beginning.
    pub(crate) fn read(token: &str, scope: impl Into<String>) -> Result<Self, Foreign> {
        let scope = scope.into();
        if token.is_empty() {
            return Ok(Self::start(scope));
        }
        let json = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Foreign)?;
        let cursor: Self = serde_json::from_slice(&json).map_err(|_| Foreign)?;
        if cursor.scope == scope { Ok(cursor) } else { Err(Foreign) }
    }

    /// The cursor after a page that ends before row `offset` and held rows of these ids.
    pub(crate) fn next<'a>(&self, offset: u32, ids: impl Iterator<Item = &'a str>) -> Self {
        let mut last_ids = self.last_ids.clone();
        last_ids.extend(ids.map(str::to_owned));
        last_ids.drain(..last_ids.len().saturating_sub(REMEMBERED));
        Self { offset, last_ids, ..self.clone() }
    }

    /// The `next_page_token` that brings a caller back here.
    pub(crate) fn token(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        BASE64_URL_SAFE_NO_PAD.encode(json)
    }

    /// How many of `ids` were given out before: all up to the last known one. `None` if none of
    /// them is known although some should be: the rows have moved further than this.
    pub(crate) fn known<'a>(
        &self,
        ids: impl DoubleEndedIterator<Item = &'a str> + ExactSizeIterator,
    ) -> Option<usize> {
        if self.last_ids.is_empty() {
            return Some(0);
        }
        let mut ids = ids.enumerate();
        let (index, _) = ids.rfind(|(_, id)| self.last_ids.iter().any(|known| known == id))?;
        Some(index + 1)
    }
}

/// A `page_token` of a list of our own, which never moves: after which row the page begins.
pub(crate) fn page_token(list: &str, after: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{list}/{after}"))
}

/// Reads a caller's `page_token`; empty means the beginning.
pub(crate) fn read_page_token(list: &str, token: &str) -> Result<u64, Foreign> {
    if token.is_empty() {
        return Ok(0);
    }
    let text = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Foreign)?;
    let text = String::from_utf8(text).map_err(|_| Foreign)?;
    let (of, after) = text.rsplit_once('/').ok_or(Foreign)?;
    if of == list { after.parse().map_err(|_| Foreign) } else { Err(Foreign) }
}

impl Check {
    /// How many rows of a list of our own to give.
    pub(super) fn rows(&mut self, page_size: i32) -> usize {
        self.page_size(page_size, ROWS, MOST_ROWS).try_into().unwrap_or(usize::MAX)
    }

    /// How many rows to give: 0 means `default`, more than `max` means `max`.
    pub(crate) fn page_size(&mut self, size: i32, default: u32, max: u32) -> u32 {
        match u32::try_from(size) {
            Err(_) => {
                self.refuse("page_size", "must not be negative");
                default
            }
            Ok(0) => default,
            Ok(size) => size.min(max),
        }
    }
}

/// Takes the rows without a readable id out of a page, and returns how many there were. Their positions
/// count for where the next page begins, so this comes last.
pub(crate) fn take_out_unreadable<R>(rows: &mut Vec<R>, id: impl Fn(&R) -> &str) -> i32 {
    let all = rows.len();
    rows.retain(|row| !id(row).is_empty());
    i32::try_from(all - rows.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_brings_back_where_it_was_made() {
        let cursor = Cursor::start("stores/wx1").next(20, ["a", "b"].into_iter());
        assert_eq!(Cursor::read(&cursor.token(), "stores/wx1"), Ok(cursor.clone()));
        assert_eq!(Cursor::read("", "stores/wx1"), Ok(Cursor::start("stores/wx1")));
        assert_eq!(Cursor::read(&cursor.token(), "stores/wx2"), Err(Foreign));
        for foreign in ["x", "!!", "eyJzIjoxfQ"] {
            assert_eq!(Cursor::read(foreign, "stores/wx1"), Err(Foreign), "{foreign}");
        }
    }

    #[test]
    fn rows_that_were_given_out_are_known_again_after_others_were_deleted() {
        let cursor = Cursor::start("stores/wx1").next(3, ["a", "b", "c"].into_iter());
        assert_eq!(cursor.known(["c", "d"].into_iter()), Some(1));
        assert_eq!(cursor.known(["b", "d"].into_iter()), Some(1), "c was deleted");
        assert_eq!(cursor.known(["d", "e"].into_iter()), None);
        assert_eq!(Cursor::start("stores/wx1").known(["d"].into_iter()), Some(0));
    }

    #[test]
    fn a_token_stays_small() {
        let ids: Vec<_> = (0..500).map(|id| (400_000_000 + id).to_string()).collect();
        let cursor = Cursor::start("stores/wx1").next(500, ids.iter().map(String::as_str));
        assert!(cursor.token().len() < 300);
    }
}
