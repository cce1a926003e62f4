//! Copies a state to another place.
//!
//! The target stores how far the copy has come in the same step as the rows, so a copy that was killed
//! continues where it stopped. At the end all rows of both sides are read again and compared.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{
    BATCH, Begun, Damage, Error, Head, Kind, Observer, Page, Place, Row, Source, Target, Value, at,
    row, source, target,
};
use crate::{
    config::StateUrl,
    state::{Error as StateError, platform::TICKET_LIFE},
};

/// The most by which the clocks of the two sides may differ, in milliseconds. The ends of terms are copied as
/// times.
const CLOCKS_APART: u64 = 10_000;
/// The most damaged rows that a report names.
pub(super) const NAMED: usize = 1000;

/// A complete copy.
#[derive(Debug, Default)]
pub struct Copied {
    /// The number of rows of each kind.
    pub rows: Vec<(Kind, u64)>,
    /// Whether an earlier run had begun it.
    pub resumed: bool,
    /// The damaged rows of the source, up to a limit. They are damaged in the copy, too.
    pub damage: Vec<Damage>,
    /// The number of damaged rows.
    pub damaged: u64,
}

/// The two sides of a copy, and what is known about it.
struct Copy<'a> {
    from: Box<dyn Source>,
    to: Box<dyn Target>,
    head: Head,
    /// When the copy began.
    began: u64,
    /// How far it has come: the kind, and the mark of its last row.
    at: String,
    observer: &'a mut dyn Observer,
    copied: Copied,
}

/// Copies the state at `from` to the place `to`, which must be empty or have an unfinished copy of the same
/// state. With `anew` an unfinished copy is deleted first.
///
/// Fails if a gateway uses one of them, or if the copy differs from the source at the end.
pub async fn copy(
    from: &Place,
    to: &Place,
    anew: bool,
    observer: &mut dyn Observer,
) -> Result<Copied, Error> {
    if is_same(from, to) {
        return Err(Error::Refused(format!("{from}: a state cannot be copied to its own place")));
    }
    let (at_from, at_to) = (at(from), at(to));
    let mut source = source(from, observer).await.map_err(&at_from)?;
    let head = source.head().await.map_err(&at_from)?;
    let mut target = target(to).await.map_err(&at_to)?;
    let [here, there] =
        [source.now().await.map_err(&at_from)?, target.now().await.map_err(&at_to)?];
    if here.abs_diff(there) > CLOCKS_APART {
        return Err(Error::Refused(format!(
            "the clocks of {from} and {to} differ by {} s; set them, because the ends of terms and of tokens \
             are copied as times",
            here.abs_diff(there) / 1000
        )));
    }
    let id = head.epoch.map_or_else(|| "no events".to_owned(), |epoch| format!("{epoch:016x}"));
    let begun = target.begin(&id, &from.to_string(), anew).await.map_err(&at_to)?;
    let (at, began) = match begun {
        Begun::At { at, began } => (at, began),
        Begun::Taken => {
            return Err(Error::Refused(format!(
                "{to}: it is not empty; a copy needs a new file or a Redis database without keys of the \
                 gateway"
            )));
        }
        Begun::Other(place) => {
            return Err(Error::Refused(format!(
                "{to}: it has an unfinished copy of another state, from {place}; finish that one, or delete \
                 it with --anew"
            )));
        }
    };
    let copied = Copied { resumed: !at.is_empty(), ..Copied::default() };
    let mut copy = Copy { from: source, to: target, head, began, at, observer, copied };
    copy.rows().await.map_err(|side| side.of(&at_from, &at_to))?;
    copy.to.put_head(&copy.head).await.map_err(&at_to)?;
    copy.compare(from, to).await?;
    copy.from.unchanged().await.map_err(&at_from)?;
    copy.to.finish().await.map_err(&at_to)?;
    Ok(copy.copied)
}

/// The side on which a step failed.
enum Side {
    From(StateError),
    To(StateError),
}

impl Side {
    fn of(self, from: &impl Fn(StateError) -> Error, to: &impl Fn(StateError) -> Error) -> Error {
        match self {
            Self::From(error) => from(error),
            Self::To(error) => to(error),
        }
    }
}

impl Copy<'_> {
    /// Copies all rows that are not copied yet.
    async fn rows(&mut self) -> Result<(), Side> {
        let (kind, mark) = self.at.split_once(' ').unwrap_or((&self.at, ""));
        let (first, mut after) = (Kind::named(kind), mark.to_owned());
        for kind in Kind::ALL.into_iter().filter(|kind| Some(*kind) >= first) {
            let total = self.from.count(kind).await.map_err(Side::From)?;
            self.observer.begin(&format!("copying {}", kind.name()), total);
            loop {
                let page = self.from.rows(kind, &after, BATCH).await.map_err(Side::From)?;
                let Some(last) = page.rows.last().map(Row::mark) else { break };
                let count = page.rows.len() as u64;
                let rows: Vec<_> =
                    page.rows.into_iter().filter_map(|row| self.healed(row)).collect();
                let next = format!("{} {last}", kind.name());
                if !rows.is_empty() {
                    self.to.put(&rows, &self.at, &next).await.map_err(Side::To)?;
                    self.at = next;
                }
                self.observer.advance(count);
                after = last;
            }
            self.observer.end();
            after.clear();
        }
        Ok(())
    }

    /// Returns a row as it is copied, or `None` if it is not.
    ///
    /// A lease or a token that is damaged starts again above all earlier ones, as a gateway would begin it. A
    /// counter or a ticket that is damaged counts as absent.
    fn healed(&self, mut row: Row) -> Option<Row> {
        let (count, rest): (_, &[&str]) = match row.kind {
            Kind::Leases => ("fence", &["held", "until"]),
            Kind::Tokens => ("generation", &["since", "until"]),
            Kind::Counters | Kind::Tickets => return Some(row).filter(|row| row.damage.is_none()),
            _ => return Some(row),
        };
        if row.damage.take().is_some() {
            row.set(count, number(self.began));
            rest.iter().for_each(|name| row.set(name, number(0)));
            if row.kind == Kind::Tokens {
                row.set("value", Value::Text(String::new()));
            }
        }
        row.set(count, number(row.count(count).max(self.head.base)));
        Some(row)
    }

    fn report(&mut self, damage: Vec<Damage>) {
        self.copied.damaged += damage.len() as u64;
        let room = NAMED.saturating_sub(self.copied.damage.len());
        self.copied.damage.extend(damage.into_iter().take(room));
    }

    /// Reads both sides again and compares them. Reports the damage, also that of rows that an earlier run
    /// copied.
    async fn compare(&mut self, from: &Place, to: &Place) -> Result<(), Error> {
        let (at_from, at_to) = (at(from), at(to));
        let differ = |what: &str| {
            Error::Differs(format!(
                "{to}: the copy has other {what} than {from}; either that one changed meanwhile, or a disk is \
                 damaged; run the command again with --anew"
            ))
        };
        let there = self.to.head().await.map_err(&at_to)?;
        let expected = Head { base: there.base, ..self.head.clone() };
        let is_named = expected.epoch.is_some();
        if (Head { epoch: there.epoch.filter(|_| is_named), ..there }) != expected {
            return Err(differ("bounds of its log"));
        }
        for kind in Kind::ALL {
            let total = self.from.count(kind).await.map_err(&at_from)?;
            self.observer.begin(&format!("comparing {}", kind.name()), total);
            let same = match kind.is_numbered() || kind == Kind::Authorizers {
                true => self.compare_sums(kind).await,
                false => self.compare_rows(kind).await,
            };
            self.observer.end();
            let same = same.map_err(|side| side.of(&at_from, &at_to))?;
            let count = same.ok_or_else(|| differ(kind.name()))?;
            self.copied.rows.push((kind, count));
        }
        Ok(())
    }

    /// Compares the checksums of all rows of a kind. Returns their number if they are equal.
    async fn compare_sums(&mut self, kind: Kind) -> Result<Option<u64>, Side> {
        let mut missing = Missing::new(&self.head);
        let (mut here, mut count_here, mut after) = (Sha256::new(), 0, String::new());
        while let Some(page) = self.next_from(kind, &mut after).await? {
            if kind == Kind::Events {
                self.report(missing.look(&page));
            }
            count_here += page.rows.len() as u64;
            page.rows.iter().for_each(|row| row.add_to(&mut here));
        }
        if kind == Kind::Events {
            let rest = missing.rest();
            self.report(rest);
        }
        let (mut there, mut count_there, mut after) = (Sha256::new(), 0, String::new());
        while let Some(page) = self.next_to(kind, &mut after).await? {
            count_there += page.rows.len() as u64;
            page.rows.iter().for_each(|row| row.add_to(&mut there));
        }
        let same = count_here == count_there && here.finalize() == there.finalize();
        Ok(same.then_some(count_there))
    }

    /// Compares the rows of a kind one by one, without those whose time is over by now. Returns their number
    /// if they are equal.
    async fn compare_rows(&mut self, kind: Kind) -> Result<Option<u64>, Side> {
        let (mut here, mut after) = (Vec::new(), String::new());
        while let Some(page) = self.next_from(kind, &mut after).await? {
            here.extend(page.rows);
        }
        let (mut there, mut after) = (Vec::new(), String::new());
        while let Some(page) = self.next_to(kind, &mut after).await? {
            there.extend(page.rows);
        }
        let times =
            [self.from.now().await.map_err(Side::From)?, self.to.now().await.map_err(Side::To)?];
        // A row can end between the two looks.
        let over = times[0].max(times[1]) + CLOCKS_APART;
        let kept = |rows: Vec<Row>| -> BTreeMap<String, Row> {
            let rows = rows.into_iter().filter(|row| ends(row).is_none_or(|end| end > over));
            rows.filter_map(|row| self.healed(row)).map(|row| (row.mark(), timeless(row))).collect()
        };
        let [here, there] = [here, there].map(kept);
        Ok((here == there).then_some(there.len() as u64))
    }

    /// Returns the next rows of the source and reports their damage. Returns `None` at the end.
    async fn next_from(&mut self, kind: Kind, after: &mut String) -> Result<Option<Page>, Side> {
        let page = self.from.rows(kind, after, BATCH).await.map_err(Side::From)?;
        self.observer.advance(page.rows.len() as u64);
        self.report(page.rows.iter().filter_map(damage_of).collect());
        Ok(after_last(page, after))
    }

    /// Returns the next rows of the target. Returns `None` at the end.
    async fn next_to(&mut self, kind: Kind, after: &mut String) -> Result<Option<Page>, Side> {
        let page = self.to.rows(kind, after, BATCH).await.map_err(Side::To)?;
        Ok(after_last(page, after))
    }
}

/// Returns a page, and moves `after` to its end. Returns `None` if it is empty.
fn after_last(page: Page, after: &mut String) -> Option<Page> {
    *after = page.rows.last()?.mark();
    Some(page)
}

/// Returns when a row is deleted, in milliseconds since 1970, if it is.
fn ends(row: &Row) -> Option<u64> {
    match row.kind {
        Kind::Counters => Some(row.count("until")),
        Kind::Tickets => {
            let life = u64::try_from(TICKET_LIFE.as_millis()).unwrap_or(u64::MAX);
            Some(row.count("sent_at").saturating_mul(1000).saturating_add(life))
        }
        _ => None,
    }
}

/// Returns a row without the end of a counter, because Redis states it less exactly.
fn timeless(mut row: Row) -> Row {
    if row.kind == Kind::Counters {
        row.set("until", number(0));
    }
    row
}

/// Returns the damage of a row.
pub(super) fn damage_of(row: &row::Row) -> Option<Damage> {
    row.damage.clone().map(|why| Damage { row: row.name(), why })
}

fn number(number: u64) -> Value {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Finds positions of the log that have no row.
pub(super) struct Missing {
    /// The last position that was examined.
    seen: u64,
    newest: u64,
    found: u64,
}

impl Missing {
    pub(super) fn new(head: &Head) -> Self {
        Self { seen: head.pruned, newest: head.newest, found: 0 }
    }

    /// Returns the missing rows up to the end of a page.
    pub(super) fn look(&mut self, page: &Page) -> Vec<Damage> {
        let mut missing = Vec::new();
        // The log may have been pruned since the head was read.
        self.seen = self.seen.max(page.pruned);
        for row in &page.rows {
            let position = row.count("position");
            missing.extend(self.up_to(position));
            self.seen = self.seen.max(position);
        }
        missing
    }

    /// Returns the missing rows at the end of the log.
    pub(super) fn rest(&mut self) -> Vec<Damage> {
        let end = self.newest.saturating_add(1);
        self.up_to(end)
    }

    fn up_to(&mut self, position: u64) -> Vec<Damage> {
        // If the number of events is damaged, there are too many to name.
        let most = NAMED as u64 - self.found.min(NAMED as u64);
        let missing = (self.seen.saturating_add(1)..position.min(self.newest.saturating_add(1)))
            .take(most as usize);
        let missing: Vec<_> = missing
            .map(|position| Damage {
                row: format!("event {position}"),
                why: "its row is missing".to_owned(),
            })
            .collect();
        self.found += missing.len() as u64;
        missing
    }
}

/// Returns whether two texts name one place.
fn is_same(from: &Place, to: &Place) -> bool {
    match (&from.url, &to.url) {
        (StateUrl::Sqlite(from), StateUrl::Sqlite(to)) => {
            let [from, to] = [from, to].map(|path| std::fs::canonicalize(path).ok());
            from.is_some() && from == to
        }
        _ => from == to,
    }
}
