//! Reads the settings anew while the process runs: after SIGHUP, and when the content of the file changes.
//!
//! New settings are parsed and checked as a whole, with the environment variables of the start. An error
//! changes nothing. [`app`](crate::app) then gives them to every part.

// Not notify: Kubernetes replaces a symbolic link two folders up, and a comparison of the contents misses
// nothing.

use std::{
    io, mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    config::{Changes, ConfigError, Environment, Settings},
    systemd,
    telemetry::LogLevel,
};

/// The interval at which the content of the file is compared.
const POLL: Duration = Duration::from_millis(400);
/// The time after which refused settings are checked again: a file that they name, or a port, can be good then.
const RETRY: Duration = Duration::from_secs(2);

/// The place that the settings come from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file. `None` if all settings come from the environment.
    pub file: Option<PathBuf>,
    /// The environment variables of the start.
    pub environment: Environment,
    /// Notified by SIGHUP.
    pub hangup: Arc<Notify>,
    /// The level of the log, which new settings can change.
    pub log_level: LogLevel,
}

/// The hash of a file's content, or of the error of reading it.
type Fingerprint = [u8; 32];

/// The content of the file.
struct Content {
    text: io::Result<String>,
    fingerprint: Fingerprint,
}

/// Follows a source.
pub(crate) struct Follower {
    source: Source,
    ticks: Interval,
    /// The content that was read last.
    last: Option<Fingerprint>,
    /// The content that was returned last.
    used: Option<Fingerprint>,
    /// True if the last settings were read without a change or a signal.
    silent: bool,
    /// True if they were read after a signal.
    asked: bool,
    /// The errors of the last settings, and when they were found. Empty if they were used.
    refused: (Vec<ConfigError>, Instant),
}

impl Follower {
    /// Returns a follower. It also returns the first content, because the file may have changed since the
    /// start read it.
    pub(crate) fn new(source: Source) -> Self {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let refused = (Vec::new(), Instant::now());
        Self { source, ticks, last: None, used: None, silent: false, asked: false, refused }
    }

    /// Waits until the settings may have changed, and returns them checked. Returns all errors at once. After
    /// errors it returns the same settings again after a while.
    pub(crate) async fn next(
        &mut self,
        running: &ArcSwap<Settings>,
    ) -> Result<Settings, Vec<ConfigError>> {
        loop {
            let asked = tokio::select! {
                () = self.source.hangup.notified() => true,
                _ = self.ticks.tick(), if self.source.file.is_some() => false,
            };
            if asked {
                systemd::reloading();
            }
            let content = self.source.content().await;
            let now = Some(content.fingerprint);
            // Another program may be in the middle of writing the file. Then it soon differs again.
            let settled = self.last == now;
            self.last = now;
            let changed = settled && self.used != now;
            let (errors, since) = &self.refused;
            let again = settled && !errors.is_empty() && since.elapsed() >= RETRY;
            if asked || changed || again {
                self.silent = !asked && (self.used.is_none() || !changed);
                self.asked = asked;
                self.used = now;
                return self.source.parse(content, running.load_full()).await;
            }
        }
    }

    /// Changes the level of the log.
    pub(crate) fn change_log_level(&self, level: &str) {
        self.source.log_level.change(level);
    }

    /// Logs what became of the last settings, and reports it to systemd. Errors that were found again are not
    /// logged again.
    pub(crate) fn report(&mut self, applied: Result<Changes, Vec<ConfigError>>) {
        let errors = applied.as_ref().err().cloned().unwrap_or_default();
        let before = mem::replace(&mut self.refused, (errors, Instant::now())).0;
        if self.asked || (applied.is_ok() && !before.is_empty()) {
            systemd::ready(match &applied {
                Ok(_) => "serving",
                Err(_) => "serving with the old settings; the log has each error of the new ones",
            });
        }
        match applied {
            Err(errors) if self.silent && errors == before => {}
            Err(errors) => refused(&errors),
            Ok(changes) if !changes.is_empty() => changed(changes),
            Ok(_) if self.silent => {}
            Ok(_) => tracing::info!("read the settings again, nothing changed"),
        }
    }
}

impl Source {
    /// Returns the content of the file, which is empty if there is no file.
    async fn content(&self) -> Content {
        let file = self.file.clone();
        let read = move || file.map_or_else(|| Ok(String::new()), std::fs::read_to_string);
        let text = spawn_blocking(read).await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        let fingerprint = match &text {
            Ok(text) => Sha256::digest(text).into(),
            Err(error) => Sha256::digest(error.to_string()).into(),
        };
        Content { text, fingerprint }
    }

    /// Returns the settings of a content. Returns all errors at once.
    async fn parse(
        &self,
        content: Content,
        running: Arc<Settings>,
    ) -> Result<Settings, Vec<ConfigError>> {
        let text = content.text.map_err(|error| vec![self.unreadable(&error)])?;
        let environment = self.environment.clone();
        let parse = move || Settings::parse_again(&text, &environment, Some(&running));
        let parsed = spawn_blocking(parse).await;
        parsed.unwrap_or_else(|ended| Err(vec![self.unreadable(&io::Error::other(ended))]))
    }

    fn unreadable(&self, error: &io::Error) -> ConfigError {
        let key = match &self.file {
            Some(file) => file.display().to_string(),
            None => "environment".to_owned(),
        };
        ConfigError { key, message: format!("failed to read the settings: {error}") }
    }
}

fn refused(errors: &[ConfigError]) {
    for ConfigError { key, message } in errors {
        tracing::error!(key, "refused the new settings: {message}");
    }
    tracing::error!(errors = errors.len(), "kept the old settings");
}

fn changed(changes: Changes) {
    let Changes { keys, accounts, platforms, callers, opens: _ } = changes;
    let names = |names: Vec<String>| Some(names.join(" ")).filter(|names| !names.is_empty());
    tracing::info!(
        keys = names(keys),
        accounts_added = names(accounts.added),
        accounts_removed = names(accounts.removed),
        accounts_changed = names(accounts.changed),
        platforms_added = names(platforms.added),
        platforms_removed = names(platforms.removed),
        platforms_changed = names(platforms.changed),
        callers_added = names(callers.added),
        callers_removed = names(callers.removed),
        callers_changed = names(callers.changed),
        "changed the settings"
    );
}
