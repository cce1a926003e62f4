//! The current keys of an issuer, from a file or a URL.
//!
//! A failure changes nothing: the last good set remains. A key that is no longer in a new set is unusable
//! from then on.

use std::{
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ::http::header;
use arc_swap::ArcSwap;
use reqwest::Url;
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use super::jwk::{Algorithm, Ignored, Key, KeySet, NoKey};
use crate::{
    config::{CaFile, Issuer, Jwks, SecretSource},
    util::{
        clock::Clock,
        http, lock,
        single_flight::{Run, SingleFlight},
    },
};

/// The longest key set, in bytes.
const SET_LIMIT: usize = 256 * 1024;
const TOO_LONG: &str = "longer than 256 KiB";
/// The limit for one request. A caller whose key is unknown waits as long.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// The time between two regular requests.
const FETCH_PAUSE: Duration = Duration::from_secs(600);
/// The time until the next request after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The time between two looks at a file.
const FILE_PAUSE: Duration = Duration::from_secs(1);
/// The least time between two refreshes that tokens with unknown keys cause.
const EARLY_PAUSE: Duration = Duration::from_secs(30);

/// The keys of an issuer. They are refreshed in the background until this is dropped.
#[derive(Debug)]
pub(super) struct Keys {
    shared: Arc<Shared>,
    first: Run<bool>,
    _polling: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// The name of the issuer, for logs.
    issuer: String,
    source: Jwks,
    clock: Clock,
    current: ArcSwap<KeySet>,
    refreshing: Mutex<Refreshing>,
    last: Mutex<Last>,
}

/// The refresh that is under way, if there is one.
#[derive(Debug)]
struct Refreshing {
    run: SingleFlight<bool>,
    /// When an unknown key may cause the next refresh.
    early_from: Instant,
}

/// The result of the last refresh.
#[derive(Debug, Default)]
struct Last {
    /// The text of the current set.
    text: Vec<u8>,
    /// The failure that was logged last. Empty after a success.
    failure: String,
}

impl Keys {
    /// Starts to refresh the keys of an issuer.
    pub(super) fn new(settings: &Issuer, clock: &Clock) -> Self {
        let refreshing = Refreshing { run: SingleFlight::default(), early_from: clock.now() };
        let shared = Arc::new(Shared {
            issuer: settings.issuer.clone(),
            source: settings.jwks.clone(),
            clock: clock.clone(),
            current: ArcSwap::default(),
            refreshing: Mutex::new(refreshing),
            last: Mutex::default(),
        });
        let first = shared.refresh();
        let polling = AbortOnDropHandle::new(tokio::spawn(shared.clone().poll(first.clone())));
        Self { shared, first, _polling: polling }
    }

    /// Returns true if the keys come from the place that these settings name.
    pub(super) fn are_of(&self, settings: &Issuer) -> bool {
        self.shared.issuer == settings.issuer && self.shared.source == settings.jwks
    }

    /// Waits until the first refresh has ended.
    pub(super) async fn loaded(&self) {
        self.first.clone().await;
    }

    /// Returns true if no refresh has succeeded yet.
    pub(super) fn are_missing(&self) -> bool {
        lock(&self.shared.last).text.is_empty()
    }

    /// Returns true if this key is still one of the issuer's.
    pub(super) fn contain(&self, key: &Arc<Key>) -> bool {
        self.shared.current.load().contains(key)
    }

    /// Returns the key that a token names. For an unknown key it waits for the refresh that is under way,
    /// or starts one if the last one that an unknown key caused was long enough ago.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, NoKey> {
        let found = || self.shared.current.load().find(id, algorithm).cloned();
        // A refresh that was under way may have begun before the key existed.
        for _ in 0..2 {
            match found() {
                Err(NoKey::Unknown) => {}
                found => return found,
            }
            let Some(run) = self.shared.refresh_early() else { return Err(NoKey::Unknown) };
            run.await;
        }
        found()
    }
}

impl Shared {
    /// Refreshes regularly after this run.
    async fn poll(self: Arc<Self>, mut run: Run<bool>) {
        loop {
            let succeeded = run.await;
            self.clock.sleep(self.pause(succeeded)).await;
            run = self.refresh();
        }
    }

    /// Returns the time until the next regular refresh.
    fn pause(&self, succeeded: bool) -> Duration {
        match (&self.source, succeeded) {
            (Jwks::File { .. }, _) => FILE_PAUSE,
            (Jwks::Url { .. }, true) => FETCH_PAUSE,
            (Jwks::Url { .. }, false) => RETRY_PAUSE,
        }
    }

    /// Joins the refresh that is under way, or starts one.
    fn refresh(self: &Arc<Self>) -> Run<bool> {
        let mut refreshing = lock(&self.refreshing);
        match refreshing.run.running() {
            Some(run) => run,
            None => refreshing.run.start(self.clone().load()),
        }
    }

    /// Joins the refresh that is under way, or starts one unless it is too early. Returns `None` if it is
    /// too early.
    fn refresh_early(self: &Arc<Self>) -> Option<Run<bool>> {
        let (now, mut refreshing) = (self.clock.now(), lock(&self.refreshing));
        if let Some(run) = refreshing.run.running() {
            return Some(run);
        }
        if now < refreshing.early_from {
            return None;
        }
        refreshing.early_from = now + EARLY_PAUSE;
        Some(refreshing.run.start(self.clone().load()))
    }

    /// Loads the set and makes it the current one. Returns false if that failed.
    async fn load(self: Arc<Self>) -> bool {
        let text = read_source(&self.source).await;
        let mut last = lock(&self.last);
        let accepted = text.and_then(|text| self.accept(text, &mut last));
        match accepted {
            Ok(()) if last.failure.is_empty() => {}
            Ok(()) => {
                tracing::info!(issuer = self.issuer, "loading the keys of an issuer works again");
                last.failure.clear();
            }
            Err(error) => {
                let failure = format!("{error:#}");
                // A file is read each second.
                if failure != last.failure {
                    tracing::warn!(
                        issuer = self.issuer,
                        "failed to load the keys of an issuer, keeping the old ones: {failure}"
                    );
                    last.failure = failure;
                }
                return false;
            }
        }
        true
    }

    /// Makes a set the current one, if it differs. Returns an error if it is not a key set.
    fn accept(&self, text: Vec<u8>, last: &mut Last) -> anyhow::Result<()> {
        if text == last.text {
            return Ok(());
        }
        // The error of the parser could quote the text.
        let (set, ignored) = KeySet::parse(&text, &self.current.load())
            .map_err(|_| anyhow::anyhow!("not a JSON Web Key Set"))?;
        for reason in ignored {
            match reason {
                Ignored::Kind => {}
                Ignored::Size | Ignored::Malformed => {
                    tracing::warn!(issuer = self.issuer, "ignored a key of an issuer: {reason}")
                }
            }
        }
        tracing::info!(issuer = self.issuer, keys = set.len(), "loaded the keys of an issuer");
        self.current.store(set.into());
        last.text = text;
        Ok(())
    }
}

/// Loads a set once, and returns the number of its usable keys.
pub(crate) async fn count_keys(source: &Jwks) -> anyhow::Result<usize> {
    let text = read_source(source).await?;
    let (set, _) = KeySet::parse(&text, &KeySet::default())
        .map_err(|_| anyhow::anyhow!("not a JSON Web Key Set"))?;
    Ok(set.len())
}

async fn read_source(source: &Jwks) -> anyhow::Result<Vec<u8>> {
    match source {
        Jwks::File { file } => {
            let file = file.clone();
            blocking(move || Ok(read(&file)?)).await
        }
        Jwks::Url { url, ca, bearer } => fetch(url, ca.clone(), bearer.clone()).await,
    }
}

/// Runs something that blocks.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    spawn_blocking(run).await?
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let wrong =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(SET_LIMIT as u64 + 1).read_to_end(&mut text).map_err(wrong)?;
    match text.len() > SET_LIMIT {
        true => Err(wrong(io::Error::other(TOO_LONG))),
        false => Ok(text),
    }
}

/// Fetches a set with a client of its own, so that the authorities and the bearer token are the current
/// ones.
async fn fetch(
    url: &Url,
    ca: Option<CaFile>,
    bearer: Option<SecretSource>,
) -> anyhow::Result<Vec<u8>> {
    let (client, bearer) = blocking(move || {
        let client = http::client()
            .timeout(FETCH_LIMIT)
            .tls_backend_preconfigured(http::tls(ca.map(|file| file.read()).transpose()?)?)
            .build()?;
        Ok((client, bearer.map(|bearer| bearer.read()).transpose()?))
    })
    .await?;
    let mut request = client
        .get(url.clone())
        .header(header::ACCEPT, "application/jwk-set+json, application/json");
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer.expose());
    }
    http::read(request, SET_LIMIT).await.map_err(|failed| anyhow::anyhow!("the server {failed}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::callers::issuer::{KeyServer, Signer, answer, key_set};

    const ES256: Algorithm = Algorithm::Es256;

    /// Returns the keys of a server.
    async fn of(server: &KeyServer, clock: &Clock) -> Keys {
        with_bearer(server, None, clock).await
    }

    async fn with_bearer(server: &KeyServer, bearer: Option<SecretSource>, clock: &Clock) -> Keys {
        let url = server.url.parse().expect("a URL");
        keys(Jwks::Url { url, ca: None, bearer }, clock).await
    }

    async fn keys(jwks: Jwks, clock: &Clock) -> Keys {
        let settings =
            Issuer { issuer: "issuer".to_owned(), audiences: vec!["a".to_owned()], jwks };
        let keys = Keys::new(&settings, clock);
        keys.loaded().await;
        keys
    }

    /// Waits for a condition.
    async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let waiting = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        waited.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn has(keys: &Keys, id: &str) -> bool {
        keys.shared.current.load().find(Some(id), ES256).is_ok()
    }

    #[tokio::test]
    async fn unknown_keys_cause_one_refresh_per_pause() {
        let (signer, clock) = (Signer::p256("a"), Clock::frozen());
        let server = KeyServer::start(&[&signer]).await;
        let keys = of(&server, &clock).await;
        for round in 1..=3 {
            assert_eq!(server.requests().len(), round);
            let ids = (0..100).map(|id| format!("unknown {id}")).collect::<Vec<_>>();
            let all = ids.iter().map(|id| keys.find(Some(id), ES256));
            let found = futures_util::future::join_all(all).await;
            assert!(found.iter().all(|found| matches!(found, Err(NoKey::Unknown))));
            assert_eq!(server.requests().len(), round + 1);
            clock.advance(EARLY_PAUSE - Duration::from_secs(1));
            assert!(keys.find(Some("unknown"), ES256).await.is_err());
            assert_eq!(server.requests().len(), round + 1);
            clock.advance(Duration::from_secs(1));
        }
        assert!(keys.find(Some("a"), ES256).await.is_ok());
    }

    #[tokio::test]
    async fn new_key_is_found_at_once() {
        let (old, new) = (Signer::p256("old"), Signer::p256("new"));
        let (server, clock) = (KeyServer::start(&[&old]).await, Clock::frozen());
        let keys = of(&server, &clock).await;
        server.set_keys(&[&old, &new]);
        // All wait for the same request.
        let all = (0..20).map(|_| keys.find(Some("new"), ES256));
        let found = futures_util::future::join_all(all).await;
        assert!(found.iter().all(Result::is_ok));
        assert_eq!(server.requests().len(), 2);
    }

    #[tokio::test]
    async fn key_for_another_algorithm_causes_no_refresh() {
        let (server, clock) = (KeyServer::start(&[&Signer::p256("a")]).await, Clock::frozen());
        let keys = of(&server, &clock).await;
        let found = keys.find(Some("a"), Algorithm::Rs256).await;
        assert_eq!(found.err(), Some(NoKey::OtherAlgorithm));
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn regular_refresh_drops_a_removed_key() {
        let (old, new) = (Signer::p256("old"), Signer::p256("new"));
        let (server, clock) = (KeyServer::start(&[&old]).await, Clock::frozen());
        let keys = of(&server, &clock).await;
        let key = keys.find(Some("old"), ES256).await.expect("there");
        server.set_keys(&[&new]);
        until("the task sleeps", async || {
            clock.advance(FETCH_PAUSE);
            server.requests().len() > 1
        })
        .await;
        until("the new set counts", async || has(&keys, "new").await).await;
        assert!(!keys.contain(&key));
    }

    #[tokio::test]
    async fn failure_keeps_the_last_good_set() {
        let (old, new) = (Signer::p256("old"), Signer::p256("new"));
        let (server, clock) = (KeyServer::start(&[&old]).await, Clock::frozen());
        let keys = of(&server, &clock).await;
        let set = key_set(&[&new]);
        let ok = |text: &str| answer("200 OK", text);
        let failures = [
            answer("503 Service Unavailable", &set),
            answer("401 Unauthorized", &set),
            "HTTP/1.1 302 Found\r\nlocation: /other\r\nconnection: close\r\n\r\n".to_owned(),
            ok("<html>"),
            ok("{}"),
            ok(""),
            ok(&set[..set.len() - 1]),
            ok(&format!("{set}{}", " ".repeat(SET_LIMIT))),
            format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\nconnection: close\r\n\r\n{set}"),
            String::new(),
        ];
        for failure in failures {
            server.set_answer(failure.clone());
            let before = server.requests().len();
            clock.advance(EARLY_PAUSE);
            assert!(keys.find(Some("new"), ES256).await.is_err(), "{failure:.60}");
            assert!(server.requests().len() > before, "{failure:.60}");
            assert!(has(&keys, "old").await, "{failure:.60}");
        }
        server.set_keys(&[&new]);
        clock.advance(EARLY_PAUSE);
        assert!(keys.find(Some("new"), ES256).await.is_ok());
        assert!(!has(&keys, "old").await);
    }

    #[tokio::test]
    async fn keys_are_missing_until_a_refresh_succeeds() {
        let (server, clock) = (KeyServer::start(&[]).await, Clock::frozen());
        server.set_answer(answer("404 Not Found", ""));
        let keys = of(&server, &clock).await;
        assert!(keys.are_missing());
        server.set_keys(&[&Signer::p256("a")]);
        until("the next attempt is soon", async || {
            clock.advance(RETRY_PAUSE);
            !keys.are_missing()
        })
        .await;
    }

    #[tokio::test]
    async fn bearer_token_is_read_again_for_each_request() {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Clock::frozen());
        let file = folder.path().join("token");
        fs::write(&file, "first\n").expect("a file");
        let server = KeyServer::start(&[]).await;
        let keys =
            with_bearer(&server, Some(SecretSource::File { file: file.clone() }), &clock).await;
        fs::write(&file, "second\n").expect("a file");
        assert!(keys.find(Some("unknown"), ES256).await.is_err());
        let requests = server.requests();
        for (request, token) in requests.iter().zip(["first", "second"]) {
            assert!(request.starts_with("GET /jwks HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("authorization: Bearer {token}\r\n")), "{request}");
            assert!(request.contains("accept: application/jwk-set+json,"), "{request}");
        }
        assert_eq!(requests.len(), 2);
    }

    /// Keys in a file.
    async fn in_file(text: &str, clock: &Clock) -> (Keys, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("jwks.json");
        fs::write(&file, text).expect("a file");
        (keys(Jwks::File { file }, clock).await, folder)
    }

    #[tokio::test]
    async fn changed_file_counts_within_a_second() {
        let (old, new) = (Signer::p256("old"), Signer::p256("new"));
        let clock = Clock::frozen();
        let (keys, folder) = in_file(&key_set(&[&old]), &clock).await;
        assert!(has(&keys, "old").await);
        let next = folder.path().join("next");
        fs::write(&next, key_set(&[&new])).expect("a file");
        fs::rename(next, folder.path().join("jwks.json")).expect("renamed");
        until("the new file counts", async || {
            clock.advance(Duration::from_secs(1));
            has(&keys, "new").await
        })
        .await;
        assert!(!has(&keys, "old").await);
    }

    #[tokio::test]
    async fn bad_file_changes_nothing() {
        let (signer, clock) = (Signer::p256("a"), Clock::frozen());
        let (keys, folder) = in_file(&key_set(&[&signer]), &clock).await;
        let file = folder.path().join("jwks.json");
        let long = format!("{}{}", key_set(&[]), " ".repeat(SET_LIMIT));
        for bad in ["", "{", "[]", &long] {
            fs::write(&file, bad).expect("a file");
            clock.advance(EARLY_PAUSE);
            assert!(keys.find(Some("unknown"), ES256).await.is_err());
            assert!(has(&keys, "a").await, "{bad:.20}");
        }
        fs::remove_file(&file).expect("removed");
        clock.advance(EARLY_PAUSE);
        assert!(keys.find(Some("unknown"), ES256).await.is_err());
        assert!(has(&keys, "a").await);
    }
}
