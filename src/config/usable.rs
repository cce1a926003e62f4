//! The part of wrong settings that can be used, for `doctor`.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::{ConfigError, Environment, Settings, parse_text};

/// The most times that wrong parts are removed. A removed part can make others wrong that refer to it.
const ROUNDS: usize = 4;

impl Settings {
    /// Returns the settings without the parts that are wrong, and all errors. A wrong account is left out, and a
    /// wrong key has its default. They are good for checks, and not for a gateway: its callers could be missing.
    ///
    /// Returns no settings if nothing can be used.
    pub fn parse_usable(file: &str, environment: &Environment) -> (Option<Self>, Vec<ConfigError>) {
        let mut table = match parse_text(file) {
            Ok(table) => table,
            Err(errors) => return (None, errors),
        };
        let (mut environment, mut errors) = (environment.clone(), Vec::new());
        for _ in 0..ROUNDS {
            let found = match Self::from_table(table.clone(), &environment, None) {
                Ok(settings) => return (Some(settings), errors),
                Err(found) => found,
            };
            let keys = found.iter().map(|error| error.key.clone()).collect::<Vec<_>>();
            // Those of later rounds are consequences.
            if errors.is_empty() {
                errors = found;
            }
            let mut removed = false;
            // Only once, also if several errors are about one part. From the end, so that the other elements of a
            // list keep their numbers.
            for part in keys.iter().map(|key| part_of(key)).collect::<BTreeSet<_>>().iter().rev() {
                removed |= environment.remove(part.0).is_some() || remove(&mut table, part);
            }
            if !removed {
                break;
            }
        }
        (None, errors)
    }
}

/// A section, the number of its element (0 for a section that is no list), and the name of its key.
type Part<'a> = (&'a str, usize, &'a str);

/// Returns the part of the settings that contains a key. If the key has an error, that part is removed.
fn part_of(key: &str) -> Part<'_> {
    let (section, rest) = key.split_at(key.find(['.', '[']).unwrap_or(key.len()));
    let name = rest.trim_start_matches(['.', '[']);
    let name = &name[..name.find(['.', '[', ']']).unwrap_or(name.len())];
    (section, name.parse().unwrap_or(0), name)
}

/// Removes a part of the table. Returns false if the table does not have it.
fn remove(table: &mut Table, &(section, index, name): &Part<'_>) -> bool {
    if section == "callers" {
        let anyone = Value::String("anyone".to_owned());
        return table.insert(section.to_owned(), anyone.clone()) != Some(anyone);
    }
    if (section, name) == ("state", "keys") {
        // A Redis needs keys, or this.
        let state = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(state) = state else { return false };
        let plain = state.insert("plain_secrets".to_owned(), Value::Boolean(true));
        return state.remove(name).is_some() || plain != Some(Value::Boolean(true));
    }
    match table.get_mut(section) {
        Some(Value::Array(list)) if !name.is_empty() && index < list.len() => {
            list.remove(index);
            true
        }
        Some(Value::Array(_)) | None => false,
        Some(Value::Table(keys)) if !name.is_empty() => keys.remove(name).is_some(),
        Some(_) => table.remove(section).is_some(),
    }
}
