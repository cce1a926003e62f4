//! The settings: one TOML file, overridden by the environment, one struct per concern.
//!
//! Reading is a pure function of the file's text and the environment's variables. All mistakes are
//! found together, before any port opens.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

pub use self::{
    account::{Account, AccountKind, TokenKind},
    audit::Audit,
    callback::{AccountCallback, Callback, CallbackMode, ForwardTo},
    limits::{Connections, Limits},
    listen::Listen,
    secret::SecretSource,
    state::{State, StateUrl},
    wechat::{CaFile, Proxy, WeChat},
};

mod account;
mod audit;
mod callback;
mod invisible;
mod limits;
mod listen;
mod secret;
mod state;
mod wechat;

/// Environment variables with this prefix override the file: the path of a key in capitals, its
/// parts joined by two underscores, as in `WECHAT_STORE_GATEWAY__LISTEN__GRPC`.
pub const PREFIX: &str = "WECHAT_STORE_GATEWAY__";

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// Everything that can be set, checked.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// `[listen]`
    pub listen: Listen,
    /// `[wechat]`
    pub wechat: WeChat,
    /// `[limits]`
    pub limits: Limits,
    /// `[state]`
    pub state: State,
    /// `[callback]`
    pub callback: Callback,
    /// `[audit]`
    pub audit: Audit,
    /// `[[accounts]]`
    pub accounts: Vec<Account>,
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, as in `accounts[0].kind`.
    pub key: String,
    /// What, and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Settings {
    /// Reads the settings from the text of a file (empty for none) and the environment.
    pub fn read(file: &str, environment: &Environment) -> Result<Self, Vec<Mistake>> {
        let mut table = file.parse::<Table>().map_err(|error| {
            let line = error.span().map_or(1, |span| file[..span.start].lines().count().max(1));
            vec![Mistake { key: format!("line {line}"), message: error.message().to_owned() }]
        })?;
        let mut mistakes = Mistakes::default();
        override_from(environment, &mut table, &mut mistakes);
        for (name, value) in &table {
            invisible::check(value, name, &mut mistakes);
        }

        let listen = listen::check(section(&mut table, "listen", &mut mistakes), &mut mistakes);
        let wechat = wechat::check(section(&mut table, "wechat", &mut mistakes), &mut mistakes);
        let limits = limits::check(section(&mut table, "limits", &mut mistakes), &mut mistakes);
        let state = state::check(section(&mut table, "state", &mut mistakes), &mut mistakes);
        let callback =
            callback::check(section(&mut table, "callback", &mut mistakes), &mut mistakes);
        let audit = audit::check(section(&mut table, "audit", &mut mistakes), &mut mistakes);
        let accounts = account::check(
            sections(&mut table, "accounts", &mut mistakes),
            environment,
            &mut mistakes,
        );
        for key in table.keys() {
            mistakes.add(
                key,
                "no such section; known are listen, wechat, limits, state, callback, audit and \
                 accounts",
            );
        }
        if mistakes.0.is_empty() {
            Ok(Self { listen, wechat, limits, state, callback, audit, accounts })
        } else {
            Err(mistakes.0)
        }
    }
}

/// Gathers what is wrong.
#[derive(Debug, Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// One mistake per key: what was wrong and taken out is not also missing.
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        let key = key.into();
        if self.0.iter().all(|mistake| mistake.key != key) {
            self.0.push(Mistake { key, message: message.into() });
        }
    }
}

fn override_from(environment: &Environment, table: &mut Table, mistakes: &mut Mistakes) {
    for (name, value) in environment {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path = path.to_lowercase();
        let Some((section, key)) = path.split_once("__") else {
            mistakes.add(name, "names a section but no key");
            continue;
        };
        // `8` is a number, `true` a boolean, `["a"]` a list; anything else is text.
        let value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut parsed| parsed.remove("v"))
            .unwrap_or_else(|| Value::String(value.clone()));
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        match section {
            Value::Table(section) => {
                section.insert(key.to_owned(), value);
            }
            _ => mistakes.add(name, "only keys of plain sections can be overridden"),
        }
    }
}

/// Takes a section out and reads it.
fn section<T: DeserializeOwned + Default>(
    table: &mut Table,
    name: &str,
    mistakes: &mut Mistakes,
) -> T {
    table.remove(name).map(|value| read(value, name, mistakes)).unwrap_or_default()
}

/// Takes a list of sections out and reads each.
fn sections<T: DeserializeOwned + Default>(
    table: &mut Table,
    name: &str,
    mistakes: &mut Mistakes,
) -> Vec<T> {
    match table.remove(name) {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .into_iter()
            .enumerate()
            .map(|(index, value)| read(value, &format!("{name}[{index}]"), mistakes))
            .collect(),
        Some(_) => {
            mistakes.add(name, format!("write it as [[{name}]]"));
            Vec::new()
        }
    }
}

/// Reads one section. serde stops at the first mistake; so each is noted, taken out, and the rest
/// read again.
fn read<T: DeserializeOwned + Default>(mut value: Value, name: &str, mistakes: &mut Mistakes) -> T {
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(section) => return section,
            Err(error) => error,
        };
        let path = error.path().to_string();
        let message = error.inner().message().trim().to_owned();
        let first = path.split(['.', '[']).next().unwrap_or_default().to_owned();
        let removed = value.as_table_mut().and_then(|table| table.remove(&first));
        if removed.is_none() {
            mistakes.add(name, message);
            return T::default();
        }
        mistakes.add(format!("{name}.{path}"), message);
    }
}

#[cfg(test)]
mod tests;
