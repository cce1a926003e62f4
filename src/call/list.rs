//! Reads WeChat's paged lists: page by page for a caller, or from end to end.
//!
//! Rows move when others are deleted. A page is therefore read from one row before its beginning, and
//! continues after the last returned row. [`Cursor`] has the id of that row. If the row is missing, the
//! page is read further back. A list may repeat rows, and never loses any.
//!
//! A list ends when as many rows were read as WeChat counts, and not because a page is short or empty.
//! Reading also stops if WeChat repeats rows, returns none, or comes to no end ([`Broken`]). The absence of
//! a row proves nothing unless the list is whole ([`Listing::whole`]).

use std::{
    collections::HashSet,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Calls, Error};
use crate::{
    accounts::Account,
    context::Context,
    translate::{
        page::{self, Cursor},
        store::WantedRows,
        were_read,
    },
    wechat::{
        self, Endpoint, Int, Text,
        nearby::{GetNearbyPoiList, GetNearbyPoiListReply, ListedNearbyPoi},
        store::{GetPoiList, GetPoiListReply, GetStoreList, GetStoreListReply, PoiInfo, StoreInfo},
    },
};

/// How many rows a page reads again.
const OVERLAP: u32 = 1;
/// How often a list can go back without a visible reason.
const MOST_REWINDS: u8 = 8;
/// How many places a page reads until it finds a new row, in case rows have moved.
const MOST_PLACES: u32 = 4;
/// How many pages without a new row end a list that is read from end to end.
const MOST_REPEATS: u32 = 3;
/// How many calls one list may cost that is read from end to end: 98,000 stores.
const MOST_CALLS: u32 = 2_000;
/// How many rows a caller can page through.
const MOST_OFFSET: u32 = 1_000_000;

/// A WeChat call that returns some rows of a list.
pub(crate) trait Paged: Endpoint + Sized {
    /// One row.
    type Row: Send;
    /// The numbers that come with the rows.
    type Counts: Send;
    /// The most rows that WeChat returns at once.
    const MOST_ROWS: u32;
    /// Whether WeChat may count fewer rows than there are.
    const COUNTS_FEWER: bool = false;

    /// Returns the call for `limit` rows from `begin` on, and which rows it really asks for: the first
    /// of them, and also the second if there are two.
    fn window(begin: u32, limit: u32) -> (Self, Range<u32>);

    /// Returns the rows of a reply, those included that cannot be read, and its numbers.
    fn open(reply: Self::Reply) -> (Vec<Self::Row>, Self::Counts);

    /// Returns how many rows there are in all, if the reply has that number.
    fn total(counts: &Self::Counts) -> Option<u32>;

    /// Returns the id of a row. Empty if it could not be read.
    fn id(row: &Self::Row) -> &str;

    /// Whether everything that [`recovery`](crate::recovery) compares could be read.
    fn is_comparable(row: &Self::Row) -> bool;
}

/// Whether a text has no character that stands for bytes that could not be read.
fn is_exact(Text(text): &Text) -> bool {
    !text.contains(char::REPLACEMENT_CHARACTER)
}

impl Paged for GetStoreList {
    type Row = StoreInfo;
    type Counts = Int;
    const MOST_ROWS: u32 = 50;

    fn window(offset: u32, limit: u32) -> (Self, Range<u32>) {
        (Self { offset, limit }, offset..offset.saturating_add(limit))
    }

    fn open(
        GetStoreListReply { business_list, total_count }: GetStoreListReply,
    ) -> (Vec<StoreInfo>, Int) {
        (business_list.0.into_iter().map(|row| row.base_info).collect(), total_count)
    }

    fn total(&total_count: &Int) -> Option<u32> {
        count(total_count)
    }

    fn id(row: &StoreInfo) -> &str {
        row.poi_id.as_str()
    }

    fn is_comparable(row: &StoreInfo) -> bool {
        let fields = ["telephone", "open_time", "photo_list", "qualification_num"];
        let photos = row.photo_list.0.iter().map(|photo| &photo.photo_url);
        were_read(&row.unreadable, &fields)
            && [&row.telephone, &row.open_time, &row.qualification_num]
                .into_iter()
                .chain(photos)
                .all(is_exact)
    }
}

impl Paged for GetPoiList {
    type Row = PoiInfo;
    type Counts = Int;
    const MOST_ROWS: u32 = 50;

    fn window(begin: u32, limit: u32) -> (Self, Range<u32>) {
        (Self { begin, limit }, begin..begin.saturating_add(limit))
    }

    fn open(
        GetPoiListReply { business_list, total_count }: GetPoiListReply,
    ) -> (Vec<PoiInfo>, Int) {
        (business_list.0.into_iter().map(|row| row.base_info).collect(), total_count)
    }

    fn total(&total_count: &Int) -> Option<u32> {
        count(total_count)
    }

    fn id(row: &PoiInfo) -> &str {
        row.poi_id.as_str()
    }

    fn is_comparable(row: &PoiInfo) -> bool {
        were_read(&row.unreadable, &["upgrade_status"])
    }
}

/// How many more places an account may add, and how many it may have at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// `left_apply_num`.
    pub(crate) left: Int,
    /// `max_apply_num`.
    pub(crate) most: Int,
}

impl Paged for GetNearbyPoiList {
    type Row = ListedNearbyPoi;
    type Counts = Places;
    const MOST_ROWS: u32 = 1000;
    // WeChat's own sample lists two places and states that nine of ten can still be added.
    const COUNTS_FEWER: bool = true;

    /// WeChat counts pages here, not rows.
    fn window(begin: u32, _limit: u32) -> (Self, Range<u32>) {
        // A page of 999 rows reaches across the edges of pages of 1000.
        let is_last = (begin + 1).is_multiple_of(Self::MOST_ROWS);
        let page_rows = if is_last { Self::MOST_ROWS - 1 } else { Self::MOST_ROWS };
        let page = begin / page_rows;
        let first = page.saturating_mul(page_rows);
        (Self { page: page + 1, page_rows }, first..first.saturating_add(page_rows))
    }

    fn open(
        GetNearbyPoiListReply { data }: GetNearbyPoiListReply,
    ) -> (Vec<ListedNearbyPoi>, Places) {
        let counts = Places { left: data.left_apply_num, most: data.max_apply_num };
        (data.data.0.poi_list.unwrap_or_default().0, counts)
    }

    /// WeChat counts the places that can still be added, and not the rows.
    fn total(&Places { left, most }: &Places) -> Option<u32> {
        count(most)?.checked_sub(count(left)?)
    }

    fn id(row: &ListedNearbyPoi) -> &str {
        row.poi_id.as_str()
    }

    fn is_comparable(row: &ListedNearbyPoi) -> bool {
        let fields = ["qualification_address", "qualification_num", "audit_status", "audit_id"];
        were_read(&row.unreadable, &fields)
            && is_exact(&row.qualification_address)
            && is_exact(&row.qualification_num)
    }
}

fn count(number: Int) -> Option<u32> {
    number.0.and_then(|number| u32::try_from(number).ok())
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<L: Paged> {
    /// The rows that were not returned before.
    pub(crate) rows: Vec<L::Row>,
    /// The place where the list continues. `None` at its end.
    next: Option<Cursor>,
    /// The numbers that came with the rows.
    pub(crate) counts: L::Counts,
    /// The number of all rows.
    total: Option<u32>,
}

impl<L: Paged> Page<L> {
    /// Returns the token that brings the next page. Empty on the last one.
    pub(crate) fn next_token(&self) -> String {
        self.next.as_ref().map(Cursor::token).unwrap_or_default()
    }
}

/// Why a list cannot be read to its end. WeChat causes all of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// It has no end.
    #[error("the list has no end")]
    Endless,
    /// It returns the same rows again.
    #[error("the list repeats itself")]
    Repeats,
    /// It counts more rows than it returns.
    #[error("the list ends after {read} of {total} rows")]
    Short {
        /// The number of returned rows.
        read: u32,
        /// The counted number.
        total: u32,
    },
}

/// Why a caller gets no page.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// WeChat gave no page.
    #[error(transparent)]
    Call(#[from] Error),
    /// The page token belongs to another list.
    #[error("not a page token of this list")]
    PageToken,
}

impl From<page::Foreign> for PageError {
    fn from(page::Foreign: page::Foreign) -> Self {
        Self::PageToken
    }
}

/// Why there is no page.
enum Failed {
    Call(Error),
    List(Broken),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::List(broken)
    }
}

/// How much of a list was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The number of different ids.
    read: u32,
    /// The least number of rows that were not read. 0 if the list is whole.
    pub(crate) unread: u32,
    /// Why reading stopped before the end.
    broken: Option<Broken>,
}

/// The rows of a list, as far as they could be read.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    /// All rows that were read, each id once.
    pub(crate) rows: Vec<T>,
    path: &'static str,
    extent: Extent,
    /// How many rows cannot be compared with anything.
    damaged: u32,
}

impl<T> Listing<T> {
    /// Returns the rows if they are all there are.
    ///
    /// Fails if WeChat counts more rows, does not count them, or returned one that could not be read. A row
    /// that is missing here may exist nevertheless.
    pub(crate) fn whole(&self) -> Result<&[T], Error> {
        let Extent { read, unread, broken } = self.extent;
        match broken {
            None if self.damaged > 0 => {
                Err(unreadable(self.path, format!("{} rows of a list are damaged", self.damaged)))
            }
            None if unread == 0 => Ok(&self.rows),
            None => Err(unreadable(self.path, format!("{read} rows of a list are not all of it"))),
            Some(broken) => Err(unreadable(self.path, broken.to_string())),
        }
    }
}

/// Returns the error for a list with too little data, which equals that of an unreadable reply.
pub(crate) fn unreadable(path: &'static str, cause: impl Into<String>) -> Error {
    let error = wechat::Error::Unreadable { cause: cause.into() };
    Error::WeChat { path, safety: wechat::Safety::Read, error }
}

impl Calls {
    /// Returns a page of a list. Fails if there is no further row although WeChat counts some.
    pub(crate) async fn page<L: Paged>(
        &self,
        ctx: &Context,
        WantedRows { size, token }: WantedRows,
    ) -> Result<Page<L>, PageError> {
        let account = self.account::<L>(ctx).await?;
        let cursor = Cursor::parse(&token, scope::<L>(&account))?;
        let fetch = |begin, limit| self.window::<L>(&account, ctx, begin, limit);
        page(cursor, size, fetch).await.map_err(|failed| match failed {
            Failed::Call(error) => error.into(),
            Failed::List(broken) => unreadable(L::PATH, broken.to_string()).into(),
        })
    }

    /// Reads a list from end to end and passes every row on: each id once, and every row without a
    /// readable id. Returns how much of the list that was.
    pub(crate) async fn all<L: Paged>(
        &self,
        ctx: &Context,
        take: impl FnMut(L::Row) + Send,
    ) -> Result<Extent, Error> {
        let account = self.account::<L>(ctx).await?;
        let fetch = |begin, limit| self.window::<L>(&account, ctx, begin, limit);
        all(Cursor::start(scope::<L>(&account)), fetch, take).await
    }

    /// Returns what is wanted of each row of a list.
    pub(crate) async fn listing<L: Paged, T: Send>(
        &self,
        ctx: &Context,
        wanted: impl Fn(L::Row) -> T + Send + Sync,
    ) -> Result<Listing<T>, Error> {
        let (mut rows, mut damaged) = (Vec::new(), 0);
        let take = |row| {
            damaged += u32::from(!L::is_comparable(&row));
            rows.push(wanted(row));
        };
        let extent = self.all::<L>(ctx, take).await?;
        Ok(Listing { rows, path: L::PATH, extent, damaged })
    }

    async fn window<L: Paged>(
        &self,
        account: &Account,
        ctx: &Context,
        begin: u32,
        limit: u32,
    ) -> Result<Window<L>, Error> {
        let (call, asked) = L::window(begin, limit);
        let (rows, counts) = L::open(self.attempts(account, ctx, &call, None).await?);
        Ok(Window { asked, rows, counts })
    }
}

/// Names the list of an account that a page token belongs to.
fn scope<L: Paged>(account: &Account) -> String {
    format!("{} {}", L::PATH, account.app_id)
}

/// The rows that were read so far.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    /// How many rows had no readable id.
    nameless: u32,
    /// How many rows WeChat counted last.
    total: Option<u32>,
    /// How many rows WeChat counted at most.
    most: u32,
}

impl Seen {
    /// Notes a row. Returns whether it is the first with its id.
    fn is_new(&mut self, id: &str) -> bool {
        if id.is_empty() {
            self.nameless = self.nameless.saturating_add(1);
            return true;
        }
        !self.ids.contains(id) && self.ids.insert(id.to_owned())
    }

    fn extent(self, broken: Option<Broken>) -> Extent {
        let read = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        // If there are more rows than WeChat ever counted, it counts something else.
        let miscounted = self.total.is_none() || read > self.most;
        let doubtful = broken.is_some() || self.nameless > 0 || miscounted;
        let unread = self.total.unwrap_or_default().saturating_sub(read).max(u32::from(doubtful));
        Extent { read, unread, broken }
    }
}

/// Reads a list from end to end.
async fn all<L: Paged, F>(
    start: Cursor,
    fetch: impl Fn(u32, u32) -> F,
    mut take: impl FnMut(L::Row),
) -> Result<Extent, Error>
where
    F: Future<Output = Result<Window<L>, Error>>,
{
    let calls = AtomicU32::new(0);
    let fetch = |begin, limit| {
        calls.fetch_add(1, Ordering::Relaxed);
        fetch(begin, limit)
    };
    let (mut cursor, mut seen, mut repeats) = (start, Seen::default(), 0);
    loop {
        if calls.load(Ordering::Relaxed) >= MOST_CALLS {
            return Ok(seen.extent(Some(Broken::Endless)));
        }
        let Page { rows, next, counts: _, total } = match page(cursor, L::MOST_ROWS, &fetch).await {
            Ok(page) => page,
            Err(Failed::Call(error)) => return Err(error),
            Err(Failed::List(broken)) => {
                if let Broken::Short { read: _, total } = broken {
                    seen.total = Some(total);
                }
                return Ok(seen.extent(Some(broken)));
            }
        };
        (seen.total, seen.most) = (total, seen.most.max(total.unwrap_or_default()));
        let known = seen.ids.len();
        for row in rows {
            if seen.is_new(L::id(&row)) {
                take(row);
            }
        }
        let Some(next) = next else { return Ok(seen.extent(None)) };
        repeats = if seen.ids.len() == known { repeats + 1 } else { 0 };
        if repeats >= MOST_REPEATS {
            return Ok(seen.extent(Some(Broken::Repeats)));
        }
        cursor = next;
    }
}

/// Returns the rows after a cursor, `size` at most: none only at the end of the list.
async fn page<L: Paged, F>(
    mut cursor: Cursor,
    size: u32,
    fetch: impl Fn(u32, u32) -> F,
) -> Result<Page<L>, Failed>
where
    F: Future<Output = Result<Window<L>, Error>>,
{
    for _ in 0..MOST_PLACES {
        if cursor.offset > MOST_OFFSET {
            return Err(Broken::Endless.into());
        }
        let page = page_at(&cursor, size, &fetch).await?;
        match page.next {
            // All of these rows are known, because others were added before them.
            Some(next) if page.rows.is_empty() => cursor = next,
            _ => return Ok(page),
        }
    }
    Err(Broken::Repeats.into())
}

async fn page_at<L: Paged, F>(
    cursor: &Cursor,
    size: u32,
    fetch: impl Fn(u32, u32) -> F,
) -> Result<Page<L>, Failed>
where
    F: Future<Output = Result<Window<L>, Error>>,
{
    let begin = cursor.offset.saturating_sub(OVERLAP);
    let limit = size.saturating_add(cursor.offset - begin).min(L::MOST_ROWS);
    let window = fetch(begin, limit).await?;
    // Each deleted row moves those behind it by one.
    let deleted = cursor.total.saturating_sub(window.total().unwrap_or(u32::MAX));
    let known = window.known(cursor).or_else(|| {
        // The row before the cursor exists, and is probably the right one.
        (deleted == 0 && window.hides_last(cursor)).then(|| window.overlap(cursor))
    });
    if let Some(known) = known {
        return Ok(window.page(known, cursor, size)?);
    }
    let back = begin.saturating_sub(deleted.max(L::MOST_ROWS - OVERLAP));
    let earlier = fetch(back, L::MOST_ROWS).await?;
    let rewound = || {
        let mut cursor = cursor.clone();
        cursor.rewinds += 1;
        cursor
    };
    Ok(match earlier.known(cursor) {
        Some(known) if deleted > 0 => earlier.page(known, cursor, size),
        None if deleted > 0 => earlier.page(0, cursor, size),
        // As many rows were added as were deleted, or they have no order. The list must end nevertheless.
        _ if cursor.rewinds >= MOST_REWINDS => {
            let overlap = window.overlap(cursor);
            window.page(overlap, cursor, size)
        }
        Some(known) => earlier.page(known, &rewound(), size),
        None => window.page(0, &rewound(), size),
    }?)
}

/// The rows that WeChat returned for one place of a list.
struct Window<L: Paged> {
    /// The rows that were asked for.
    asked: Range<u32>,
    rows: Vec<L::Row>,
    counts: L::Counts,
}

impl<L: Paged> Window<L> {
    /// Returns the number of all rows, if WeChat's number is credible.
    fn total(&self) -> Option<u32> {
        let total = L::total(&self.counts)?;
        match u32::try_from(self.rows.len()).unwrap_or(u32::MAX) {
            came if came <= total => Some(total),
            came if L::COUNTS_FEWER && came < self.limit() => {
                Some(self.asked.start.saturating_add(came))
            }
            // It counts something else.
            _ => None,
        }
    }

    /// Returns how many rows were asked for.
    fn limit(&self) -> u32 {
        self.asked.end.saturating_sub(self.asked.start)
    }

    /// Returns how many rows lie before the cursor.
    fn overlap(&self, cursor: &Cursor) -> usize {
        cursor.offset.saturating_sub(self.asked.start) as usize
    }

    /// Returns how many of the rows were returned before. `None` if that is not known.
    fn known(&self, cursor: &Cursor) -> Option<usize> {
        match cursor.known(self.rows.iter().map(L::id)) {
            // No id is remembered: the number of rows is.
            Some(0) => Some(self.overlap(cursor)),
            known => known,
        }
    }

    /// Whether the id of the row before the cursor cannot be read.
    fn hides_last(&self, cursor: &Cursor) -> bool {
        let last = self.overlap(cursor).checked_sub(1).and_then(|last| self.rows.get(last));
        last.is_some_and(|row| L::id(row).is_empty())
    }

    /// Returns the page after `known` rows.
    fn page(mut self, known: usize, cursor: &Cursor, size: u32) -> Result<Page<L>, Broken> {
        let (came, total) = (self.rows.len(), self.total());
        // More rows are known than were returned before this place, or were added before it since.
        let came_before = total.map_or(0, |total| total.saturating_sub(cursor.total)) as usize;
        let repeats = known > self.overlap(cursor) + came_before;
        self.rows.drain(..known.min(came));
        self.rows.truncate(size as usize);
        let Self { asked, rows, counts } = self;
        let used = known.min(came) + rows.len();
        let offset = asked.start.saturating_add(u32::try_from(used).unwrap_or(u32::MAX));

        // More rows may follow a full window.
        let nothing = rows.is_empty() && came < asked.len();
        let ends = used == came
            && match total {
                // WeChat returned all rows at once, whatever the offset.
                Some(total) if came == total as usize => true,
                // Repeated rows prove nothing about the number of rows.
                Some(_) if repeats => false,
                Some(total) if offset >= total => true,
                Some(total) if nothing => return Err(Broken::Short { read: offset, total }),
                Some(_) => false,
                None => nothing,
            };
        let next = (!ends).then(|| {
            let ids = rows.iter().map(L::id).filter(|id| !id.is_empty());
            let mut next = cursor.next(offset, ids);
            next.total = total.unwrap_or_default();
            next
        });
        Ok(Page { rows, next, counts, total })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A kind of list that a test can give out.
    trait Fake: Paged {
        fn row(id: &str) -> Self::Row;
        fn counts(total: Option<i64>) -> Self::Counts;
    }

    impl Fake for GetStoreList {
        fn row(id: &str) -> StoreInfo {
            StoreInfo { poi_id: id.to_owned().into(), ..StoreInfo::default() }
        }

        fn counts(total: Option<i64>) -> Int {
            Int(total.map(|total| total as i32))
        }
    }

    impl Fake for GetNearbyPoiList {
        fn row(id: &str) -> ListedNearbyPoi {
            ListedNearbyPoi { poi_id: id.to_owned().into(), ..ListedNearbyPoi::default() }
        }

        fn counts(total: Option<i64>) -> Places {
            Places { left: Int(Some(7)), most: Int(total.map(|total| 7 + total as i32)) }
        }
    }

    /// A list that changes between its pages.
    struct List {
        rows: RefCell<Vec<u32>>,
        /// Whether it counts its rows.
        counts: bool,
        /// Whether it gives all rows from the first one on that was asked for.
        generous: bool,
    }

    impl List {
        fn new(rows: u32) -> Self {
            Self { rows: RefCell::new((0..rows).collect()), counts: true, generous: false }
        }

        fn delete(&self, gone: impl Fn(u32) -> bool) {
            self.rows.borrow_mut().retain(|row| !gone(*row));
        }

        fn window<L: Fake>(&self, begin: u32, limit: u32) -> Window<L> {
            assert!((1..=L::MOST_ROWS).contains(&limit));
            let (_, asked) = L::window(begin, limit);
            let second = begin + u32::from(limit > 1);
            assert!(asked.contains(&begin) && asked.contains(&second), "{begin}: {asked:?}");
            let all = self.rows.borrow();
            let most = if self.generous { all.len() } else { asked.len() };
            let rows = all.iter().skip(asked.start as usize).take(most);
            let rows = rows.map(|row| L::row(&row.to_string())).collect();
            Window { asked, rows, counts: L::counts(self.counts.then_some(all.len() as i64)) }
        }

        async fn page<L: Fake>(&self, cursor: &Cursor, size: u32) -> Page<L> {
            let fetch = async |begin, limit| Ok(self.window(begin, limit));
            page(cursor.clone(), size, fetch).await.unwrap_or_else(|_| panic!("no page"))
        }

        /// Everything that is given out while `between` runs after every page.
        async fn read<L: Fake>(&self, size: u32, between: impl Fn(&[u32])) -> Vec<u32> {
            let mut cursor = Cursor::start("list");
            let mut read = Vec::new();
            for _ in 0..1000 {
                let Page { rows, next, .. } = self.page::<L>(&cursor, size).await;
                assert!(rows.len() <= size as usize);
                let rows = ids::<L>(&rows);
                between(&rows);
                read.extend(rows);
                match next {
                    Some(next) => cursor = next,
                    None => return read,
                }
            }
            panic!("the list never ends");
        }
    }

    fn ids<L: Fake>(rows: &[L::Row]) -> Vec<u32> {
        rows.iter().map(|row| L::id(row).parse().expect("a number")).collect()
    }

    async fn every_row_comes_once<L: Fake>(sizes: &[u32], counts: &[u32]) {
        for counted in [true, false] {
            for &size in sizes {
                for &rows in counts {
                    let list = List { counts: counted, ..List::new(rows) };
                    let read = list.read::<L>(size, |_| {}).await;
                    assert_eq!(read, (0..rows).collect::<Vec<_>>(), "{rows} by {size}");
                }
            }
        }
    }

    #[tokio::test]
    async fn every_store_is_returned_once() {
        every_row_comes_once::<GetStoreList>(&[1, 2, 20, 49, 50], &[0, 1, 2, 49, 50, 51, 120])
            .await;
    }

    #[tokio::test]
    async fn every_nearby_place_is_returned_once() {
        let counts = [0, 1, 45, 999, 1000, 1001, 2500, 3000];
        every_row_comes_once::<GetNearbyPoiList>(&[7, 20, 999, 1000], &counts).await;
    }

    #[tokio::test]
    async fn surplus_rows_are_on_the_next_page_only() {
        for counts in [true, false] {
            let list = List { counts, generous: true, ..List::new(3_000) };
            let all = (0..3_000).collect::<Vec<_>>();
            // No page has more than its size.
            assert_eq!(list.read::<GetStoreList>(20, |_| {}).await, all);
            assert_eq!(list.read::<GetNearbyPoiList>(400, |_| {}).await, all);
        }
    }

    #[tokio::test]
    async fn deletions_lose_no_other_row() {
        let list = List::new(100);
        let read = list.read::<GetStoreList>(10, |_| list.delete(|row| row == 3 || row == 9)).await;
        assert_eq!(read, (0..100).collect::<Vec<_>>());

        // A caller who deletes what is listed moves the rest each time, and no row is known again.
        for size in [1, 20, 50] {
            let list = List::new(120);
            let read =
                list.read::<GetStoreList>(size, |rows| list.delete(|row| rows.contains(&row)));
            assert_eq!(read.await, (0..120).collect::<Vec<_>>(), "{size}");
            let list = List::new(120);
            let read =
                list.read::<GetNearbyPoiList>(size, |rows| list.delete(|row| rows.contains(&row)));
            assert_eq!(read.await, (0..120).collect::<Vec<_>>(), "{size}");
        }
    }

    #[tokio::test]
    async fn list_continues_after_many_deletions() {
        let list = List::new(200);
        let mut cursor = Cursor::start("list");
        for _ in 0..3 {
            cursor = list.page::<GetStoreList>(&cursor, 50).await.next.expect("more");
        }
        list.delete(|row| row < 120);
        let page = list.page::<GetStoreList>(&cursor, 50).await;
        assert_eq!(ids::<GetStoreList>(&page.rows).first(), Some(&148));
    }

    #[tokio::test]
    async fn list_continues_from_an_earlier_page() {
        let list = List::new(2500);
        let first = list.page::<GetNearbyPoiList>(&Cursor::start("list"), 1000).await;
        let second = list
            .page::<GetNearbyPoiList>(&first.next.expect("more"), 200)
            .await
            .next
            .expect("more");
        // The last known row stands on an earlier page of WeChat's, and is deleted itself.
        list.delete(|row| row < 1190 || row == 1199);
        let third = list.page::<GetNearbyPoiList>(&second, 1000).await;
        let rows = ids::<GetNearbyPoiList>(&third.rows);
        assert_eq!((rows.first(), rows.last()), (Some(&1200), Some(&2190)));
        let last = list.page::<GetNearbyPoiList>(&third.next.expect("more"), 1000).await;
        let rows = ids::<GetNearbyPoiList>(&last.rows);
        assert_eq!((rows.first(), rows.last()), (Some(&2191), Some(&2499)));
        assert_eq!(last.next, None);
    }

    #[tokio::test]
    async fn list_without_known_rows_starts_again() {
        for counts in [true, false] {
            let list = List { counts, ..List::new(50) };
            let first = list.page::<GetNearbyPoiList>(&Cursor::start("list"), 20).await;
            list.delete(|row| row != 0 && row != 20 && row != 21);
            let again = list.page::<GetNearbyPoiList>(&first.next.expect("more"), 20).await;
            assert_eq!(ids::<GetNearbyPoiList>(&again.rows), [0, 20, 21]);
        }
    }

    #[tokio::test]
    async fn known_rows_after_insertions_are_skipped() {
        let list = List::new(60);
        let first = list.page::<GetStoreList>(&Cursor::start("list"), 50).await;
        list.rows.borrow_mut().splice(0..0, 1000..1049);
        let second = list.page::<GetStoreList>(&first.next.expect("more"), 50).await;
        assert_eq!(ids::<GetStoreList>(&second.rows), (50..60).collect::<Vec<_>>());
        assert_eq!(second.next, None);
    }

    #[tokio::test]
    async fn reordered_list_ends() {
        let list = List::new(120);
        let rotate = |_: &[u32]| list.rows.borrow_mut().rotate_left(31);
        let read = list.read::<GetStoreList>(7, rotate).await;
        assert!(read.len() >= 50, "{}", read.len());
    }

    /// Reads a whole list, whose every window comes from `give`. Returns the rows, how much of the list
    /// they are, and how many calls that took.
    async fn read_all<L: Fake>(
        give: impl Fn(Range<u32>) -> (Vec<String>, Option<i64>),
    ) -> (usize, Extent, u32) {
        let (calls, mut rows) = (Cell::new(0), 0);
        let fetch = async |begin, limit| {
            calls.set(calls.get() + 1);
            let (_, asked) = L::window(begin, limit);
            let (rows, total) = give(asked.clone());
            let rows = rows.iter().map(|id| L::row(id)).collect();
            Ok(Window::<L> { asked, rows, counts: L::counts(total) })
        };
        let extent =
            all(Cursor::start("list"), fetch, |_| rows += 1).await.expect("no failed call");
        (rows, extent, calls.get())
    }

    fn numbers(rows: Range<u32>) -> Vec<String> {
        rows.map(|row| row.to_string()).collect()
    }

    #[tokio::test]
    async fn list_is_complete_after_all_counted_rows() {
        for count in [0, 1, 50, 51, 120] {
            let rows = |asked: Range<u32>| numbers(asked.start.min(count)..asked.end.min(count));
            let whole = Extent { read: count, unread: 0, broken: None };
            let counted = |asked| (rows(asked), Some(count.into()));
            assert_eq!(read_all::<GetStoreList>(counted).await.1, whole, "{count}");
            assert_eq!(read_all::<GetNearbyPoiList>(counted).await.1, whole, "{count}");
            let uncounted = |asked| (rows(asked), None);
            assert_eq!(read_all::<GetStoreList>(uncounted).await.1.unread, 1, "{count}");
            assert_eq!(read_all::<GetNearbyPoiList>(uncounted).await.1.unread, 1, "{count}");
            let more = |asked| (rows(asked), Some(i64::from(count) + 3));
            let short = Some(Broken::Short { read: count, total: count + 3 });
            let short = Extent { read: count, unread: 3, broken: short };
            assert_eq!(read_all::<GetStoreList>(more).await.1, short, "{count}");
            assert_eq!(read_all::<GetNearbyPoiList>(more).await.1, short, "{count}");
        }
        for less in [Some(0), Some(2), Some(-1)] {
            let extent = read_all::<GetStoreList>(|_| (numbers(0..3), less)).await.1;
            assert_eq!((extent.read, extent.unread), (3, 1), "{less:?}");
            // How many places may still be added does not count them exactly.
            let whole = if less == Some(-1) { 1 } else { 0 };
            let extent = read_all::<GetNearbyPoiList>(|_| (numbers(0..3), less)).await.1;
            assert_eq!((extent.read, extent.unread), (3, whole), "{less:?}");
        }
    }

    #[tokio::test]
    async fn list_with_an_unidentified_row_is_not_whole() {
        let nameless = |_| (vec!["1".to_owned(), String::new()], Some(2));
        let (rows, extent, _) = read_all::<GetStoreList>(nameless).await;
        assert_eq!((rows, extent), (2, Extent { read: 1, unread: 1, broken: None }));
        let twice = |_| (vec!["1".to_owned(), "1".to_owned()], Some(2));
        let (rows, extent, _) = read_all::<GetStoreList>(twice).await;
        assert_eq!((rows, extent), (1, Extent { read: 1, unread: 1, broken: None }));
    }

    #[tokio::test]
    async fn complete_list_at_any_offset_is_whole() {
        let at_once = |_| (numbers(0..120), Some(120));
        let (rows, extent, calls) = read_all::<GetStoreList>(at_once).await;
        assert_eq!((rows, extent.unread, calls), (120, 0, 3));
    }

    #[tokio::test]
    async fn endless_list_is_stopped() {
        let endless = |asked: Range<u32>| (numbers(asked.clone()), Some(i64::from(asked.end) + 1));
        let (rows, extent, calls) = read_all::<GetStoreList>(endless).await;
        assert_eq!((rows, extent.broken, calls), (98_001, Some(Broken::Endless), MOST_CALLS));
        assert!(extent.unread > 0);
        let uncounted = |asked| (numbers(asked), None);
        let (_, extent, calls) = read_all::<GetStoreList>(uncounted).await;
        assert_eq!((extent.broken, calls), (Some(Broken::Endless), MOST_CALLS));

        // A caller who goes from page to page is stopped, too.
        let mut cursor = Cursor::start("list");
        cursor.offset = MOST_OFFSET + 1;
        let list = List::new(1);
        let fetch = async |begin, limit| Ok(list.window::<GetStoreList>(begin, limit));
        let stopped = page(cursor, 50, fetch).await;
        assert!(matches!(stopped, Err(Failed::List(Broken::Endless))));
    }

    #[tokio::test]
    async fn repeating_list_is_stopped_soon() {
        for total in [Some(1_000_000), None] {
            let same = |_| (numbers(0..50), total);
            let (rows, extent, calls) = read_all::<GetStoreList>(same).await;
            assert_eq!((rows, extent.broken), (50, Some(Broken::Repeats)), "{total:?}");
            assert!(calls < 10, "{calls}");
            assert!(extent.unread > 0);
            // Every third page is the first one again.
            let turns = |asked: Range<u32>| {
                let ids = asked.map(|row| (row % 150).to_string());
                (ids.collect(), total)
            };
            let (rows, extent, calls) = read_all::<GetStoreList>(turns).await;
            assert_eq!((rows, extent.broken), (150, Some(Broken::Repeats)), "{total:?}");
            assert!(calls < 20, "{calls}");
            // The rows of a list that was counted to this number twice.
            let twice = |_| (numbers(0..50), Some(99));
            assert_eq!(read_all::<GetStoreList>(twice).await.1.broken, Some(Broken::Repeats));
            let nameless = |_| (vec![String::new(); 50], total);
            let (_, extent, calls) = read_all::<GetStoreList>(nameless).await;
            assert_eq!(extent.broken, Some(Broken::Repeats), "{total:?}");
            assert!(calls < 20, "{calls}");
        }
    }
}
