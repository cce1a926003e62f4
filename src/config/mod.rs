//! The settings: one TOML file, overridden by environment variables, one struct per section.
//!
//! Reading is a pure function of the file's text and the environment variables. It returns all
//! errors together, before any port opens.

// Not figment or config: they stop at the first error. Here all errors are reported together.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{Serialize, de::DeserializeOwned};
use serde_path_to_error::Segment;
use toml::{Table, Value};

pub(crate) use self::{account::is_app_id, token::parse_header};
pub use self::{
    account::{Account, AccountKind},
    activity::{Activity, ActivityTarget},
    audit::Audit,
    callback::{AccountCallback, Callback, CallbackMode, ForwardTo},
    callers::{Caller, Callers, JwtSubject, Rate, Role, TokenHash},
    changes::{Changes, Differences},
    issuers::{Issuer, Jwks},
    limits::{Connections, Limits},
    listen::{Listen, Reflection, parse_address},
    log::{Log, LogFormat},
    metrics::Metrics,
    platforms::Platform,
    redis::{Node, RedisForm, RedisPem, RedisSettings, RedisTls, RedisUrl},
    secret::SecretSource,
    state::{STATE_KEY_BYTES, State, StateUrl, parse_state_key, state_key_text},
    token::{ExternalToken, TokenKind, TokenUrl},
    token_service::TokenService,
    wechat::{CaFile, Proxy, WeChat},
};
pub use crate::tls::{ClientCertificates, Files as TlsFiles};

mod account;
mod activity;
mod audit;
mod callback;
mod callers;
mod changes;
mod invisible;
mod issuers;
mod limits;
mod listen;
mod log;
mod metrics;
mod platforms;
mod redis;
mod secret;
mod state;
mod token;
mod token_service;
mod usable;
mod wechat;

/// The prefix of environment variables that override the file.
///
/// After it come section and key in capitals, joined by two underscores, such as
/// `WECHAT_STORE_GATEWAY__LISTEN__GRPC`.
pub const PREFIX: &str = "WECHAT_STORE_GATEWAY__";

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// All settings, checked.
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
    /// `[log]`
    pub log: Log,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[activity]`
    pub activity: Activity,
    /// `[token_service]`
    pub token_service: TokenService,
    /// `[[accounts]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Account>,
    /// `[[platforms]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// `[[callers]]`
    pub callers: Callers,
    /// `[[issuers]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
}

/// One error in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The path of the key, such as `accounts[0].kind`.
    pub key: String,
    /// The error, its cause, and the fix.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Settings {
    /// Returns true if an account or a platform receives pushes from WeChat.
    pub fn receives_pushes(&self) -> bool {
        !self.platforms.is_empty() || self.accounts.iter().any(|account| account.callback.is_some())
    }

    /// Returns the settings from the text of a file (empty for no file) and the environment.
    ///
    /// Returns all errors at once, each with its key.
    pub fn parse(file: &str, environment: &Environment) -> Result<Self, Vec<ConfigError>> {
        Self::parse_again(file, environment, None)
    }

    /// Returns the settings as [`parse`](Self::parse) does, for a gateway that runs with other ones. It follows
    /// its certificate and key files by itself, so these are checked only if a section names others.
    pub fn parse_again(
        file: &str,
        environment: &Environment,
        running: Option<&Self>,
    ) -> Result<Self, Vec<ConfigError>> {
        Self::from_table(parse_text(file)?, environment, running)
    }

    /// Returns the settings of a parsed file.
    fn from_table(
        mut table: Table,
        environment: &Environment,
        running: Option<&Self>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut errors = ConfigErrors::default();
        apply_overrides(environment, &mut table, &mut errors);
        for (name, value) in &table {
            invisible::check(value, name, &mut errors);
        }

        let listen = listen::check(
            section(&mut table, "listen", &mut errors),
            running.map(|running| &running.listen),
            &mut errors,
        );
        let wechat = wechat::check(section(&mut table, "wechat", &mut errors), &mut errors);
        let limits = limits::check(section(&mut table, "limits", &mut errors), &mut errors);
        let state = section(&mut table, "state", &mut errors);
        let state = state::check(state, environment, &mut errors);
        let callback = callback::check(section(&mut table, "callback", &mut errors), &mut errors);
        let audit = audit::check(section(&mut table, "audit", &mut errors), &mut errors);
        let log = log::check(section(&mut table, "log", &mut errors), &mut errors);
        let metrics = metrics::check(section(&mut table, "metrics", &mut errors), &mut errors);
        let activity = activity::check(section(&mut table, "activity", &mut errors), &mut errors);
        let token_service = section(&mut table, "token_service", &mut errors);
        let platforms = sections(&mut table, "platforms", &mut errors);
        let accounts = sections(&mut table, "accounts", &mut errors);
        let can_be_empty = !platforms.is_empty();
        let accounts = account::check(accounts, can_be_empty, environment, &mut errors);
        let platforms = platforms::check(platforms, &accounts, environment, &mut errors);
        wechat::check_plain(&wechat, &accounts, &platforms, &mut errors);
        // An account that authorizes a platform later has no section.
        let known = (!can_be_empty).then_some(&accounts[..]);
        let callers = read_callers(&mut table, known, &mut errors);
        listen::check_exposure(&listen, &callers, &token_service, &mut errors);
        let issuers = sections(&mut table, "issuers", &mut errors);
        let known = running.map_or(&[][..], |running| &running.issuers);
        let issuers = issuers::check(issuers, known, &callers, environment, &mut errors);
        for key in table.keys() {
            errors.add_section(
                key,
                format!(
                    "unknown section {key}; the sections are listen, wechat, limits, state, \
                     callback, audit, log, metrics, activity, token_service, accounts, platforms, \
                     callers and issuers"
                ),
            );
        }
        if errors.found.is_empty() {
            Ok(Self {
                listen,
                wechat,
                limits,
                state,
                callback,
                audit,
                log,
                metrics,
                activity,
                token_service,
                accounts,
                platforms,
                callers,
                issuers,
            })
        } else {
            Err(errors.found)
        }
    }
}

/// Parses the text of a file. An error names the line.
fn parse_text(file: &str) -> Result<Table, Vec<ConfigError>> {
    file.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| file[..span.start].lines().count().max(1));
        vec![ConfigError { key: format!("line {line}"), message: error.message().to_owned() }]
    })
}

/// Collects the errors.
#[derive(Debug, Default)]
struct ConfigErrors {
    found: Vec<ConfigError>,
    /// The environment variables that set a key, by the path of the key.
    variables: BTreeMap<String, String>,
}

impl ConfigErrors {
    /// Adds an error, unless the key already has one. A wrong value that was removed is then not
    /// also reported as missing.
    ///
    /// If an environment variable set the key, the error names the variable instead.
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        let key = key.into();
        let key = self.variable(&key).unwrap_or(key);
        if self.found.iter().all(|error| error.key != key) {
            self.found.push(ConfigError { key, message: message.into() });
        }
    }

    /// Returns true if the key has an error.
    fn has(&self, key: &str) -> bool {
        self.found.iter().any(|error| error.key == key)
    }

    /// Adds an error of a whole section. If environment variables set keys of it, the error names the
    /// first variable instead.
    fn add_section(&mut self, section: &str, message: String) {
        let within = format!("{section}.");
        let first = self.variables.iter().find(|(path, _)| path.starts_with(&within));
        let key = first.map_or(section, |(_, variable)| variable).to_owned();
        self.add(key, message);
    }

    /// Returns the environment variable that set a key, or the value that the key is a part of.
    fn variable(&self, key: &str) -> Option<String> {
        let is_within = |path: &str| {
            key.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.variables.iter().find(|(path, _)| is_within(path)).map(|(_, name)| name.clone())
    }

    /// Adds an error if the value is not within the range.
    fn check_range<T: PartialOrd + fmt::Display>(
        &mut self,
        key: impl Into<String>,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            self.add(key, format!("must be between {least} and {most}, but is {value}"));
        }
    }
}

/// Writes the overrides of the environment into the table.
fn apply_overrides(environment: &Environment, table: &mut Table, errors: &mut ConfigErrors) {
    for (name, value) in environment {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path = path.to_lowercase();
        if path == "callers" {
            if table.get("callers").is_some_and(|known| known.as_str() != Some(value)) {
                errors.add(
                    name,
                    "contradicts callers in the file, and would discard it; remove this variable, or \
                     callers in the file",
                );
                continue;
            }
            table.insert(path, Value::String(value.clone()));
            continue;
        }
        let Some((section, key)) = path.split_once("__") else {
            errors.add(
                name,
                format!("names a section without a key; must be like {PREFIX}LISTEN__GRPC"),
            );
            continue;
        };
        // `8` is a number, `true` a boolean, `["a"]` a list. Everything else is text.
        let value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut parsed| parsed.remove("v"))
            .unwrap_or_else(|| Value::String(value.clone()));
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        match section {
            Value::Table(section) => {
                errors.variables.insert(path.replacen("__", ".", 1), name.clone());
                section.insert(key.to_owned(), value);
            }
            _ => errors.add(
                name,
                "cannot override a list such as [[accounts]]; only keys of single sections can be \
                 overridden",
            ),
        }
    }
}

/// Removes a section from the table and returns it deserialized.
fn section<T: DeserializeOwned + Default>(
    table: &mut Table,
    name: &str,
    errors: &mut ConfigErrors,
) -> T {
    table.remove(name).map(|value| deserialize(value, name, errors)).unwrap_or_default()
}

/// Removes a list of sections from the table and returns each deserialized.
fn sections<T: DeserializeOwned + Default>(
    table: &mut Table,
    name: &str,
    errors: &mut ConfigErrors,
) -> Vec<T> {
    match table.remove(name) {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .into_iter()
            .enumerate()
            .map(|(index, value)| deserialize(value, &format!("{name}[{index}]"), errors))
            .collect(),
        Some(_) => {
            errors.add(name, format!("not a list of sections; write it as [[{name}]]"));
            Vec::new()
        }
    }
}

/// Removes `callers` from the table and returns it checked: a list of sections, or `"anyone"`. `accounts` has all
/// accounts, or is `None` if there can be others.
fn read_callers(
    table: &mut Table,
    accounts: Option<&[Account]>,
    errors: &mut ConfigErrors,
) -> Callers {
    match table.get("callers") {
        None => Callers::Loopback,
        Some(Value::String(text)) => {
            if text != "anyone" {
                errors.add("callers", "must be \"anyone\", or a list of [[callers]] sections");
            }
            table.remove("callers");
            Callers::Anyone
        }
        Some(_) => {
            let callers = sections(table, "callers", errors);
            Callers::Known(callers::check(callers, accounts, errors))
        }
    }
}

/// Returns one section deserialized.
///
/// serde stops at the first error. So each error is added, its key is removed, and the rest is
/// deserialized again. A list with a wrong element is removed as a whole, because without the
/// element the other ones would have other numbers.
fn deserialize<T: DeserializeOwned + Default>(
    mut value: Value,
    name: &str,
    errors: &mut ConfigErrors,
) -> T {
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(section) => return section,
            Err(error) => error,
        };
        let message = without_values(error.inner().message().trim());
        let keys = error.path().iter().map_while(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        if !remove(&mut value, &keys.collect::<Vec<_>>()) {
            errors.add(name, message);
            return T::default();
        }
        errors.add(format!("{name}.{}", error.path()), message);
    }
}

/// Returns the message of a parser without the text that it quotes, because that may be a secret in the wrong
/// place.
fn without_values(message: &str) -> String {
    let quoted = ["invalid type: string \"", "invalid value: string \""];
    let Some(begin) = quoted.iter().find(|begin| message.starts_with(**begin)) else {
        return message.to_owned();
    };
    // The text ends before the last mention of what was expected, which is the parser's own.
    let rest = message.rfind("\", expected ").map_or("\"", |at| &message[at..]);
    format!("{begin}…{rest}")
}

/// Removes the value at a path of keys. Returns false if there is none.
fn remove(value: &mut Value, keys: &[&str]) -> bool {
    let Some((last, parents)) = keys.split_last() else { return false };
    let mut table = value.as_table_mut();
    for key in parents {
        table = table.and_then(|table| table.get_mut(*key)).and_then(Value::as_table_mut);
    }
    table.is_some_and(|table| table.remove(*last).is_some())
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
