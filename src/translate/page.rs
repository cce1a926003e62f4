//! Pages: opaque tokens for callers, moving offsets for WeChat.
//!
//! WeChat counts rows, and offsets move when rows are deleted. A token therefore contains the ids of the
//! last rows that were returned. The next page begins a little before their end and continues after the
//! last known row, so that no row is skipped or repeated.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::validate::Check;

/// Rows per page of the gateway's own lists: the default and the maximum.
const ROWS: u32 = 100;
const MOST_ROWS: u32 = 1000;

/// How many of the last ids a token contains. All but one of them may be deleted meanwhile.
const REMEMBERED: usize = 8;

/// The place where a list continues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The list and the account. A token of another list is rejected.
    #[serde(rename = "s")]
    scope: String,
    /// The row after the last returned one, as WeChat counted then.
    #[serde(rename = "o")]
    pub(crate) offset: u32,
    /// The ids of the last returned rows, in their order.
    #[serde(rename = "l")]
    last_ids: Vec<String>,
    /// The number of all rows, as WeChat counted then. 0 if WeChat did not.
    #[serde(rename = "t", default)]
    pub(crate) total: u32,
    /// How often the list went back although no row seemed to be deleted.
    #[serde(rename = "r", default)]
    pub(crate) rewinds: u8,
}

/// The token belongs to another list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign;

impl Cursor {
    /// Returns the beginning of a list.
    pub(crate) fn start(scope: impl Into<String>) -> Self {
        Self { scope: scope.into(), offset: 0, last_ids: Vec::new(), total: 0, rewinds: 0 }
    }

    /// Parses a `page_token`. Empty means the beginning.
    pub(crate) fn parse(token: &str, scope: impl Into<String>) -> Result<Self, Foreign> {
        let scope = scope.into();
        if token.is_empty() {
            return Ok(Self::start(scope));
        }
        let json = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Foreign)?;
        let cursor: Self = serde_json::from_slice(&json).map_err(|_| Foreign)?;
        if cursor.scope == scope { Ok(cursor) } else { Err(Foreign) }
    }

    /// Returns the cursor after a page that ends before row `offset` and has rows with these ids.
    pub(crate) fn next<'a>(&self, offset: u32, ids: impl Iterator<Item = &'a str>) -> Self {
        let mut last_ids = self.last_ids.clone();
        last_ids.extend(ids.map(str::to_owned));
        last_ids.drain(..last_ids.len().saturating_sub(REMEMBERED));
        Self { offset, last_ids, ..self.clone() }
    }

    /// Returns the `next_page_token` for this place.
    pub(crate) fn token(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        BASE64_URL_SAFE_NO_PAD.encode(json)
    }

    /// Returns how many of `ids` were returned before: all up to the last known one. Returns `None` if none
    /// of them is known although some should be, because the rows have moved further than this.
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

/// Returns a `page_token` of one of the gateway's own lists, which never move. It names the row before the
/// page.
pub(crate) fn page_token(list: &str, after: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{list}/{after}"))
}

/// Parses a `page_token`. Empty means the beginning.
pub(crate) fn parse_page_token(list: &str, token: &str) -> Result<u64, Foreign> {
    if token.is_empty() {
        return Ok(0);
    }
    let text = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Foreign)?;
    let text = String::from_utf8(text).map_err(|_| Foreign)?;
    let (of, after) = text.rsplit_once('/').ok_or(Foreign)?;
    if of == list { after.parse().map_err(|_| Foreign) } else { Err(Foreign) }
}

/// Returns a `page_token` of a list that is ordered by text. It names the row before the page.
pub(super) fn text_page_token(list: &str, after: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{list}/{after}"))
}

/// Parses a `page_token` that is not empty.
pub(super) fn parse_text_page_token(list: &str, token: &str) -> Result<String, Foreign> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Foreign)?;
    let text = String::from_utf8(text).map_err(|_| Foreign)?;
    let after = text.strip_prefix(list).and_then(|rest| rest.strip_prefix('/'));
    after.map(str::to_owned).ok_or(Foreign)
}

impl Check {
    /// Checks the page size of one of the gateway's own lists.
    pub(super) fn rows(&mut self, page_size: i32) -> usize {
        self.page_size(page_size, ROWS, MOST_ROWS).try_into().unwrap_or(usize::MAX)
    }

    /// Checks a page size: 0 means `default`, more than `max` means `max`.
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

/// Removes the rows without a readable id from a page, and returns their number. The next page begins after
/// their positions, so this must come last.
pub(crate) fn take_out_unreadable<R>(rows: &mut Vec<R>, id: impl Fn(&R) -> &str) -> i32 {
    let all = rows.len();
    rows.retain(|row| !id(row).is_empty());
    i32::try_from(all - rows.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_restores_its_place() {
        let cursor = Cursor::start("stores/wx1").next(20, ["a", "b"].into_iter());
        assert_eq!(Cursor::parse(&cursor.token(), "stores/wx1"), Ok(cursor.clone()));
        assert_eq!(Cursor::parse("", "stores/wx1"), Ok(Cursor::start("stores/wx1")));
        assert_eq!(Cursor::parse(&cursor.token(), "stores/wx2"), Err(Foreign));
        for foreign in ["x", "!!", "eyJzIjoxfQ"] {
            assert_eq!(Cursor::parse(foreign, "stores/wx1"), Err(Foreign), "{foreign}");
        }
    }

    #[test]
    fn returned_rows_are_known_after_deletions() {
        let cursor = Cursor::start("stores/wx1").next(3, ["a", "b", "c"].into_iter());
        assert_eq!(cursor.known(["c", "d"].into_iter()), Some(1));
        assert_eq!(cursor.known(["b", "d"].into_iter()), Some(1), "c was deleted");
        assert_eq!(cursor.known(["d", "e"].into_iter()), None);
        assert_eq!(Cursor::start("stores/wx1").known(["d"].into_iter()), Some(0));
    }

    #[test]
    fn token_stays_small() {
        let ids: Vec<_> = (0..500).map(|id| (400_000_000 + id).to_string()).collect();
        let cursor = Cursor::start("stores/wx1").next(500, ids.iter().map(String::as_str));
        assert!(cursor.token().len() < 300);
    }
}
