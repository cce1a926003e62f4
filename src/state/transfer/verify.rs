//! Checks a state that a gateway may use.

use std::collections::BTreeMap;

use super::{
    BATCH, Damage, Error, Kind, Observer, Place, Row, UNFINISHED, at,
    copy::{Missing, NAMED, damage_of},
    look, unfinished,
};
/// The beginning of a sealed secret. Its form is `sealed:1:KEY:TEXT`.
const SEALED: &str = "sealed:";

/// The result of a check.
#[derive(Debug, Default)]
pub struct Verified {
    /// The number of rows of each kind, and how many of them are damaged.
    pub rows: Vec<(Kind, u64, u64)>,
    /// The damage, up to a limit.
    pub damage: Vec<Damage>,
    /// The number of damaged rows and entries of indexes.
    pub damaged: u64,
    /// The secrets by their form.
    pub secrets: Secrets,
}

/// The number of stored secrets by their form.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Those that are stored as they are.
    pub plain: u64,
    /// Those that are sealed, by the id of their key.
    pub sealed: BTreeMap<String, u64>,
}

/// Checks all rows of a state and its indexes, and changes nothing. A gateway that runs is not disturbed.
///
/// Fails if the state cannot be read, or is an unfinished copy.
pub async fn verify(place: &Place, observer: &mut dyn Observer) -> Result<Verified, Error> {
    let at = at(place);
    let mut source = look(place).await.map_err(&at)?;
    if source.facts().await.map_err(&at)?.schema == UNFINISHED {
        return Err(at(unfinished()));
    }
    let mut verified = Verified::default();
    observer.begin("checking the whole", 0);
    verified.report(source.verify().await.map_err(&at)?);
    observer.end();
    let head = source.head().await.map_err(&at)?;
    let mut missing = Missing::new(&head);
    for kind in Kind::ALL {
        let total = source.count(kind).await.map_err(&at)?;
        observer.begin(&format!("checking {}", kind.name()), total);
        let before = verified.damaged;
        let (mut after, mut count) = (String::new(), 0);
        loop {
            let page = source.rows(kind, &after, BATCH).await.map_err(&at)?;
            let Some(last) = page.rows.last() else { break };
            after = last.mark();
            count += page.rows.len() as u64;
            observer.advance(page.rows.len() as u64);
            page.rows.iter().for_each(|row| verified.secrets.count(row));
            if kind == Kind::Events {
                verified.report(missing.look(&page));
            }
            verified.report(page.rows.iter().filter_map(damage_of).collect());
            verified.report(page.wrong);
        }
        if kind == Kind::Events {
            verified.report(missing.rest());
        }
        observer.end();
        verified.rows.push((kind, count, verified.damaged - before));
    }
    Ok(verified)
}

impl Verified {
    fn report(&mut self, damage: Vec<Damage>) {
        self.damaged += damage.len() as u64;
        let room = NAMED.saturating_sub(self.damage.len());
        self.damage.extend(damage.into_iter().take(room));
    }
}

impl Secrets {
    fn count(&mut self, row: &Row) {
        let secret = match row.kind {
            Kind::Tokens | Kind::Tickets => row.text("value"),
            Kind::Authorizers => row.text("refresh_token"),
            _ => return,
        };
        let key = secret.strip_prefix(SEALED).and_then(|rest| rest.split(':').nth(1));
        match key {
            _ if secret.is_empty() => {}
            Some(key) => *self.sealed.entry(key.to_owned()).or_default() += 1,
            None => self.plain += 1,
        }
    }
}
