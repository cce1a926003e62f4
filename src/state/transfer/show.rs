//! Describes a state for operators.

use super::{Error, Facts, Kind, Place, at, look};

/// The description of a state.
#[derive(Debug)]
pub struct Shown {
    /// The name of its log, which cursors contain.
    pub name: Option<u64>,
    /// The number of its schema.
    pub schema: i64,
    /// The place from which an unfinished copy comes, and the row up to which it has come.
    pub unfinished: Option<(String, String)>,
    /// Whether a gateway uses it, as far as that is known.
    pub is_used: bool,
    /// The bytes of its files, or the memory of the whole Redis.
    pub bytes: Option<u64>,
    /// The number of rows of each kind.
    pub rows: Vec<(Kind, u64)>,
    /// The number of submissions that are open.
    pub open_submissions: u64,
    /// The number of writes that have not finished.
    pub unfinished_writes: u64,
    /// The oldest and the newest event, if there is one.
    pub events: Option<Bounds>,
    /// The tokens of the accounts.
    pub tokens: Vec<TokenLife>,
    /// The era of a state in Redis.
    pub era: Option<u64>,
    /// The processes that use a Redis, the last one first.
    pub processes: Vec<Process>,
}

/// The oldest and the newest event, each as its position and the time when it was received, in milliseconds
/// since 1970.
#[derive(Debug)]
pub struct Bounds {
    /// The oldest one.
    pub oldest: (u64, u64),
    /// The newest one.
    pub newest: (u64, u64),
}

/// A token without its value.
#[derive(Debug)]
pub struct TokenLife {
    /// The account.
    pub app_id: String,
    /// The generation.
    pub generation: u64,
    /// The rest of its life in milliseconds. 0 if its life is over.
    pub left: u64,
}

/// A process that uses a state.
#[derive(Debug)]
pub struct Process {
    /// Its name in the state.
    pub name: String,
    /// The milliseconds since it was seen.
    pub seen: u64,
}

/// Describes a state, and changes nothing. A gateway that runs is not disturbed.
///
/// Fails if it cannot be read.
pub async fn show(place: &Place) -> Result<Shown, Error> {
    let at = at(place);
    let mut source = look(place).await.map_err(&at)?;
    let head = source.head().await.map_err(&at)?;
    let now = source.now().await.map_err(&at)?;
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        rows.push((kind, source.count(kind).await.map_err(&at)?));
    }
    let oldest = source.rows(Kind::Events, &head.pruned.to_string(), 1).await.map_err(&at)?;
    let before_newest = head.newest.saturating_sub(1).to_string();
    let newest = source.rows(Kind::Events, &before_newest, 1).await.map_err(&at)?;
    let bounds = oldest.rows.first().zip(newest.rows.first()).map(|(oldest, newest)| {
        let [oldest, newest] =
            [oldest, newest].map(|row| (row.count("position"), row.count("received")));
        Bounds { oldest, newest }
    });
    let mut tokens = Vec::new();
    let mut after = String::new();
    loop {
        let page = source.rows(Kind::Tokens, &after, super::BATCH).await.map_err(&at)?;
        let Some(last) = page.rows.last() else { break };
        after = last.mark();
        tokens.extend(page.rows.iter().map(|row| TokenLife {
            app_id: row.text("app_id").to_owned(),
            generation: row.count("generation"),
            left: row.count("until").saturating_sub(now),
        }));
    }
    let facts = source.facts().await.map_err(&at)?;
    let Facts { schema, unfinished, bytes, open_submissions, unfinished_writes, .. } = facts;
    let processes = facts.processes.into_iter().map(|(name, seen)| Process { name, seen });
    let mut processes: Vec<_> = processes.collect();
    processes.sort_unstable_by_key(|process| process.seen);
    Ok(Shown {
        name: head.epoch,
        schema,
        unfinished,
        is_used: facts.is_used,
        bytes,
        rows,
        open_submissions,
        unfinished_writes,
        events: bounds,
        tokens,
        era: facts.era,
        processes,
    })
}
