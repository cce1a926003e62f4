//! Lists that WeChat counts by rows, read page by page or whole.
//!
//! Rows move when others are deleted. A page therefore asks from one row before its beginning and
//! goes on after the last row that was given out; [`Cursor`] knows its id. If that row is not there,
//! the page looks further back. Rows are rather given twice than lost, and a list always ends.

use std::collections::HashSet;

use super::{Error, Operations};
use crate::{
    context::Context,
    translate::{
        page::{self, Cursor},
        store::WantedRows,
    },
    wechat::{
        Endpoint, Int,
        store::{GetPoiList, GetPoiListReply, GetStoreList, GetStoreListReply, PoiInfo, StoreInfo},
    },
};

/// So many rows a page asks for again.
const OVERLAP: u32 = 1;
/// WeChat refuses to give more at once.
const MOST_ROWS: u32 = 50;
/// So often a list goes back for no visible reason.
const MOST_REWINDS: u8 = 8;

/// A WeChat call that gives some rows of a list.
pub(crate) trait Rows: Endpoint {
    /// One row.
    type Row: Send;

    /// Asks for `limit` rows from `begin` on.
    fn window(begin: u32, limit: u32) -> Self;

    /// The rows, and how many there are in all.
    fn rows(reply: Self::Reply) -> (Vec<Self::Row>, Int);

    /// What tells a row from others.
    fn id(row: &Self::Row) -> &str;
}

impl Rows for GetStoreList {
    type Row = StoreInfo;

    fn window(offset: u32, limit: u32) -> Self {
        Self { offset, limit }
    }

    fn rows(
        GetStoreListReply { business_list, total_count }: GetStoreListReply,
    ) -> (Vec<StoreInfo>, Int) {
        (business_list.0.into_iter().map(|row| row.base_info).collect(), total_count)
    }

    fn id(row: &StoreInfo) -> &str {
        row.poi_id.as_str()
    }
}

impl Rows for GetPoiList {
    type Row = PoiInfo;

    fn window(begin: u32, limit: u32) -> Self {
        Self { begin, limit }
    }

    fn rows(
        GetPoiListReply { business_list, total_count }: GetPoiListReply,
    ) -> (Vec<PoiInfo>, Int) {
        (business_list.0.into_iter().map(|row| row.base_info).collect(), total_count)
    }

    fn id(row: &PoiInfo) -> &str {
        row.poi_id.as_str()
    }
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<R> {
    /// The rows that were not given out before.
    pub(crate) rows: Vec<R>,
    /// Where the list goes on; none at its end.
    pub(crate) next: Option<Cursor>,
    /// How many rows there are in all, as WeChat says.
    pub(crate) total: Int,
}

impl<R> Page<R> {
    /// Brings the next page; empty on the last one.
    pub(crate) fn next_token(&self) -> String {
        self.next.as_ref().map(Cursor::token).unwrap_or_default()
    }
}

impl Operations {
    /// A page of a list.
    pub(crate) async fn page<L: Rows>(
        &self,
        ctx: &Context,
        WantedRows { size, token }: WantedRows,
    ) -> Result<Page<L::Row>, Error> {
        let cursor = Cursor::read(&token, self.scope::<L>(ctx)?)
            .map_err(|page::Foreign| Error::PageToken)?;
        page(&cursor, size, L::id, |begin, limit| self.window::<L>(ctx, begin, limit)).await
    }

    /// What is wanted of each row of a list, of none of them twice.
    pub(crate) async fn all<L: Rows, T>(
        &self,
        ctx: &Context,
        wanted: impl Fn(L::Row) -> T,
    ) -> Result<Vec<T>, Error> {
        let mut cursor = Cursor::start(self.scope::<L>(ctx)?);
        let (mut all, mut ids) = (Vec::new(), HashSet::new());
        loop {
            let fetch = |begin, limit| self.window::<L>(ctx, begin, limit);
            let Page { rows, next, .. } = page(&cursor, MOST_ROWS, L::id, fetch).await?;
            let new = rows.into_iter().filter(|row| ids.insert(L::id(row).to_owned()));
            all.extend(new.map(&wanted));
            match next {
                Some(next) => cursor = next,
                None => return Ok(all),
            }
        }
    }

    /// Which list of which account a page token is good for.
    fn scope<L: Rows>(&self, ctx: &Context) -> Result<String, Error> {
        Ok(format!("{} {}", L::PATH, self.account::<L>(ctx)?.app_id))
    }

    async fn window<L: Rows>(
        &self,
        ctx: &Context,
        begin: u32,
        limit: u32,
    ) -> Result<Window<L::Row>, Error> {
        let (rows, total) = L::rows(self.read(ctx, L::window(begin, limit)).await?);
        Ok(Window { begin, limit, rows, total })
    }
}

/// What WeChat gave at one place of a list.
struct Window<R> {
    begin: u32,
    limit: u32,
    rows: Vec<R>,
    total: Int,
}

async fn page<R, F>(
    cursor: &Cursor,
    size: u32,
    id: fn(&R) -> &str,
    fetch: impl Fn(u32, u32) -> F,
) -> Result<Page<R>, Error>
where
    F: Future<Output = Result<Window<R>, Error>>,
{
    let begin = cursor.offset.saturating_sub(OVERLAP);
    let overlap = cursor.offset - begin;
    let window = fetch(begin, size.saturating_add(overlap).min(MOST_ROWS)).await?;
    if let Some(known) = window.known(cursor, overlap, id) {
        return Ok(window.page(known, cursor, size, id));
    }
    // Each deleted row moves those behind it by one.
    let deleted = cursor.total.saturating_sub(window.count());
    let back = begin.saturating_sub(deleted.max(MOST_ROWS - OVERLAP));
    let earlier = fetch(back, MOST_ROWS).await?;
    Ok(match earlier.known(cursor, overlap, id) {
        Some(known) if deleted > 0 => earlier.page(known, cursor, size, id),
        // As many new ones were added as old ones were deleted, or the rows are in no order at all:
        // then the list must come to an end all the same.
        Some(known) if cursor.rewinds < MOST_REWINDS => {
            let mut cursor = cursor.clone();
            cursor.rewinds += 1;
            earlier.page(known, &cursor, size, id)
        }
        None if deleted > 0 => earlier.page(0, cursor, size, id),
        // Where nothing was deleted, nothing moved to the front.
        Some(_) | None => window.page(overlap, cursor, size, id),
    })
}

impl<R> Window<R> {
    /// How many rows there are in all; more than can be where WeChat does not say.
    fn count(&self) -> u32 {
        self.total.0.and_then(|total| u32::try_from(total).ok()).unwrap_or(u32::MAX)
    }

    /// How many of the rows were given out before. `None` if that cannot be seen.
    fn known(&self, cursor: &Cursor, overlap: u32, id: fn(&R) -> &str) -> Option<u32> {
        match cursor.known(self.rows.iter().map(id))? {
            // No id is remembered: their number is.
            0 => Some(overlap),
            known => u32::try_from(known).ok(),
        }
    }

    /// The page that goes on after `known` rows.
    fn page(mut self, known: u32, cursor: &Cursor, size: u32, id: fn(&R) -> &str) -> Page<R> {
        let came = self.rows.len();
        let total = self.count();
        self.rows.drain(..came.min(known as usize));
        self.rows.truncate(size as usize);
        let rows = self.rows;
        let used = came.min(known as usize) + rows.len();
        let offset = self.begin.saturating_add(u32::try_from(used).unwrap_or(u32::MAX));

        let full = came >= self.limit as usize;
        let ends = used == came && (offset >= total || (rows.is_empty() && !full));
        let next = (!ends).then(|| {
            let ids = rows.iter().map(id).filter(|id| !id.is_empty());
            let mut next = cursor.next(offset, ids);
            next.total = if total == u32::MAX { 0 } else { total };
            next
        });
        Page { rows, next, total: self.total }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A list that changes between its pages.
    struct List {
        rows: RefCell<Vec<String>>,
        /// Whether it tells how many rows it has.
        counts: bool,
    }

    impl List {
        fn new(rows: u32) -> Self {
            let rows = (0..rows).map(|row| row.to_string()).collect();
            Self { rows: RefCell::new(rows), counts: true }
        }

        fn delete(&self, gone: impl Fn(u32) -> bool) {
            self.rows.borrow_mut().retain(|row| !gone(row.parse().expect("a number")));
        }

        async fn page(&self, cursor: &Cursor, size: u32) -> Page<String> {
            let fetch = async |begin: u32, limit: u32| {
                assert!((1..=MOST_ROWS).contains(&limit));
                let all = self.rows.borrow();
                let rows = all.iter().skip(begin as usize).take(limit as usize);
                let total = Int(self.counts.then_some(all.len() as i64));
                Ok(Window { begin, limit, rows: rows.cloned().collect(), total })
            };
            page(cursor, size, String::as_str, fetch).await.expect("a page")
        }

        /// Everything that is given out while `between` runs after every page.
        async fn read(&self, size: u32, between: impl Fn(&[String])) -> Vec<u32> {
            let mut cursor = Cursor::start("list");
            let mut read = Vec::new();
            for _ in 0..1000 {
                let Page { rows, next, .. } = self.page(&cursor, size).await;
                assert!(rows.len() <= size as usize);
                between(&rows);
                read.extend(rows.iter().map(|row| row.parse::<u32>().expect("a number")));
                match next {
                    Some(next) => cursor = next,
                    None => return read,
                }
            }
            panic!("the list never ends");
        }
    }

    #[tokio::test]
    async fn every_row_comes_once() {
        for counts in [true, false] {
            for size in [1, 2, 20, 49, 50] {
                for rows in [0, 1, 2, 49, 50, 51, 120] {
                    let list = List { counts, ..List::new(rows) };
                    let read = list.read(size, |_| {}).await;
                    assert_eq!(read, (0..rows).collect::<Vec<_>>(), "{rows} by {size}");
                }
            }
        }
    }

    #[tokio::test]
    async fn no_row_is_lost_when_others_are_deleted() {
        let list = List::new(100);
        let read = list.read(10, |_| list.delete(|row| row == 3 || row == 9)).await;
        assert_eq!(read, (0..100).collect::<Vec<_>>());

        // Whoever deletes what is listed moves the rest each time, and nothing is known again.
        for size in [1, 20, 50] {
            let list = List::new(120);
            let read = list.read(size, |rows| list.delete(|row| rows.contains(&row.to_string())));
            assert_eq!(read.await, (0..120).collect::<Vec<_>>(), "{size}");
        }
    }

    #[tokio::test]
    async fn a_deletion_of_many_rows_is_found_again() {
        let list = List::new(200);
        let mut cursor = Cursor::start("list");
        for _ in 0..3 {
            cursor = list.page(&cursor, 50).await.next.expect("more");
        }
        list.delete(|row| row < 120);
        let page = list.page(&cursor, 50).await;
        assert_eq!(page.rows.first().map(String::as_str), Some("148"));
    }

    #[tokio::test]
    async fn a_list_in_ever_new_order_ends() {
        let list = List::new(120);
        let read = list.read(7, |_| list.rows.borrow_mut().rotate_left(31)).await;
        assert!(read.len() >= 50, "{}", read.len());
    }
}
