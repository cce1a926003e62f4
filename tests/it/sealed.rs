//! The secrets of the state at rest. With a key, neither a file nor a Redis has one as plain text, and the state behaves
//! as without one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};
use wechat_simulator::OFFICIAL_APP_ID;
use wechat_store_gateway::{
    config::{self, Environment, Settings},
    pb::{self, platform::AuthorizerRecord},
    state::{self, Authorizer, Peeked, SharedToken, State, sqlite::Sqlite},
    testing::Clock,
};

use crate::{
    leaks::forms,
    metrics::Scrape,
    platform::{
        AES_KEY, ALL_SETS, AUTHORIZER_INFO, AUTHORIZER_LIST, MERCHANT, PLATFORM, add_account,
        authorized, connect, has_ticket, section, until,
    },
    redis::SOON,
    servers::RedisServer,
    state::{Backend, app, conformance, secret},
    state_platforms::{authorizer, platform},
    support::{App, STATE_KEY, within},
};

/// Another key than [`STATE_KEY`].
const OTHER_KEY: &str = "YW5vdGhlci1zdGF0ZS1rZXktd2l0aC0zMi1ieXRlcyE=";
/// For a state without sealed secrets.
const PLAIN: &str = "plain_secrets = true";
const LONG: Duration = Duration::from_secs(3600);

/// Returns the lines of `[state]` with these keys.
fn keys(keys: &[&str]) -> String {
    format!("keys = {keys:?}")
}

/// Returns the settings of a state. `lines` are further lines of `[state]`.
fn settings(url: &str, lines: &str) -> config::State {
    let account = "app_id = \"wx0000000000000001\"\nkind = \"official\"\nsecret = \"hush\"";
    let text = format!("[state]\nurl = \"{url}\"\n{lines}\n[[accounts]]\n{account}\n");
    Settings::parse(&text, &Environment::new()).expect("good settings").state
}

/// A place of a state, with nothing in it at first.
enum Place {
    File(TempDir),
    Redis(RedisServer),
}

impl Place {
    /// Returns one of each kind.
    async fn all() -> [Self; 2] {
        [Self::file(), Self::redis().await]
    }

    fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a folder"))
    }

    async fn redis() -> Self {
        Self::Redis(RedisServer::start(true).await)
    }

    fn url(&self) -> String {
        match self {
            Self::File(folder) => format!("sqlite:{}", folder.path().join("state.db").display()),
            Self::Redis(server) => server.url(),
        }
    }

    fn settings(&self, lines: &str) -> config::State {
        settings(&self.url(), lines)
    }

    /// Opens it as a gateway with these lines of `[state]` does, as soon as no other process has it.
    async fn open(&self, lines: &str) -> Arc<dyn State> {
        let settings = self.settings(lines);
        let open = async {
            loop {
                match state::open(&settings, Clock::system()).await {
                    Ok(state) => break state,
                    // A pass that ends releases the file.
                    Err(state::Error::Locked) => sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        within(SOON, open).await
    }

    /// Opens it without any key, as an earlier version does.
    async fn open_as_before(&self) -> Arc<dyn State> {
        match self {
            Self::File(folder) => {
                let path = folder.path().join("state.db");
                let open = async {
                    loop {
                        match Sqlite::open(&path, Clock::system()) {
                            Ok(state) => break state,
                            Err(state::Error::Locked) => sleep(Duration::from_millis(5)).await,
                            Err(error) => panic!("{error}"),
                        }
                    }
                };
                Arc::new(within(SOON, open).await)
            }
            Self::Redis(server) => server.open().await,
        }
    }

    /// Returns the needles that the data has, in any of the forms of a secret. `with_history` includes the log of
    /// changes of a Redis.
    async fn find(&self, needles: &[String], with_history: bool) -> Vec<String> {
        let mut content = Vec::new();
        match self {
            Self::File(folder) => read_all(folder.path(), &mut content),
            Self::Redis(server) => {
                if with_history {
                    read_all(server.folder(), &mut content);
                }
            }
        }
        let mut found = Vec::new();
        for needle in needles {
            let mut is_there = false;
            for form in forms(needle) {
                let in_files = content.windows(form.len()).any(|bytes| bytes == form.as_bytes());
                is_there |= in_files || self.has_key_with(&form).await;
            }
            if is_there {
                found.push(needle.clone());
            }
        }
        found
    }

    /// Returns true if a key of the Redis, or its value, has this text.
    async fn has_key_with(&self, text: &str) -> bool {
        let Self::Redis(server) = self else { return false };
        let search = r"
            local function has(value)
              if type(value) == 'table' then
                for _, part in ipairs(value) do
                  if has(part) then return true end
                end
                return false
              end
              return tostring(value):find(ARGV[1], 1, true) ~= nil
            end
            for _, key in ipairs(redis.call('KEYS', '*')) do
              local kind = redis.call('TYPE', key).ok
              local value = kind == 'hash' and redis.call('HGETALL', key)
                or kind == 'zset' and redis.call('ZRANGE', key, 0, -1)
                or kind == 'stream' and redis.call('XRANGE', key, '-', '+')
                or redis.call('GET', key)
              if has(key) or has(value) then return 'found' end
            end
            return 'nothing'"
            .replace('\n', " ");
        let answer = server.command(&format!("EVAL \"{search}\" 0 {text}")).await;
        assert!(answer.contains("found") || answer.contains("nothing"), "{answer}");
        answer.contains("found")
    }
}

/// Reads every file below a folder except keys.
fn read_all(folder: &Path, content: &mut Vec<u8>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, content);
        } else if path.extension().is_none_or(|extension| extension != "key") {
            // Redis may replace a file meanwhile.
            content.extend(fs::read(&path).unwrap_or_default());
        }
    }
}

/// Every way of a secret into the state and out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AccountToken,
    PlatformToken,
    AuthorizerToken,
    Ticket,
    RefreshToken,
    ReplacedRefreshToken,
    Code,
    DescribedCode,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::AccountToken,
        Self::PlatformToken,
        Self::AuthorizerToken,
        Self::Ticket,
        Self::RefreshToken,
        Self::ReplacedRefreshToken,
        Self::Code,
        Self::DescribedCode,
    ];

    /// Returns the name of the account that has a token of this kind, or of an authorizer.
    fn name(self, number: u8) -> String {
        match self {
            Self::AuthorizerToken => format!("wx{number}@{}", platform()),
            _ => format!("wx{self:?}{number}"),
        }
    }

    /// Returns what the metrics name it.
    fn kind(self) -> &'static str {
        match self {
            Self::AccountToken | Self::PlatformToken | Self::AuthorizerToken => "token",
            Self::Ticket => "ticket",
            Self::RefreshToken | Self::ReplacedRefreshToken => "refresh_token",
            Self::Code | Self::DescribedCode => "authorization_code",
        }
    }

    fn record(code: &str) -> Vec<u8> {
        let authorization_code = code.to_owned();
        let nick_name = "花店".to_owned();
        AuthorizerRecord { authorization_code, nick_name, ..Default::default() }.encode_to_vec()
    }

    /// Stores the secret of an account. Each call comes after the earlier ones.
    async fn put(self, state: &dyn State, number: u8, value: &str) {
        let name = self.name(number);
        let (id, before) = (app(&name), authorizer(&name, 7));
        match self {
            Self::AccountToken | Self::PlatformToken | Self::AuthorizerToken => {
                let known = state.token(&id).await.expect("no error");
                let before = known.map_or(0, |token| token.generation);
                let put = state.put_token(&id, before, &secret(value), LONG).await;
                assert_eq!(put.expect("stored").value, secret(value), "{self:?}");
            }
            Self::Ticket => {
                let sent_at = Clock::system().unix();
                assert_eq!(state.put_ticket(&id, &secret(value), sent_at).await, Ok(true));
            }
            Self::RefreshToken => {
                let new = Authorizer { refresh_token: Some(secret(value)), ..before };
                assert_eq!(state.put_authorizer(&new, false).await, Ok(true));
            }
            Self::ReplacedRefreshToken => {
                let known = state.authorizer(&platform(), &id).await.expect("no error");
                let known = match known {
                    Some(known) => known,
                    None => {
                        assert_eq!(state.put_authorizer(&before, false).await, Ok(true));
                        before
                    }
                };
                let known = known.refresh_token.as_ref();
                let (platform, value) = (platform(), secret(value));
                let replaced = state.replace_refresh_token(&platform, &id, known, &value).await;
                assert_eq!(replaced, Ok(true));
            }
            Self::Code => {
                let record = Self::record(value);
                let new = Authorizer { refresh_token: None, record, ..before };
                assert_eq!(state.put_authorizer(&new, false).await, Ok(true));
            }
            Self::DescribedCode => {
                let new = Authorizer { refresh_token: None, record: Vec::new(), ..before };
                assert_eq!(state.put_authorizer(&new, false).await, Ok(true));
                let record = Self::record(value);
                let described = state.describe_authorizer(&platform(), &id, 7, &record).await;
                assert_eq!(described, Ok(true));
            }
        }
    }

    /// Returns the secret of an account.
    async fn get(self, state: &dyn State, number: u8) -> Option<String> {
        let id = app(&self.name(number));
        let found = async || {
            let found = state.authorizer(&platform(), &id).await;
            found.expect("no error").expect("an authorizer")
        };
        match self {
            Self::AccountToken | Self::PlatformToken | Self::AuthorizerToken => {
                let token = state.token(&id).await.expect("no error");
                token.map(|token| token.value.expose().to_owned())
            }
            Self::Ticket => {
                let ticket = state.ticket(&id).await.expect("no error");
                ticket.map(|ticket| ticket.value.expose().to_owned())
            }
            Self::RefreshToken | Self::ReplacedRefreshToken => {
                found().await.refresh_token.map(|token| token.expose().to_owned())
            }
            Self::Code | Self::DescribedCode => {
                let record = found().await.record;
                let record = AuthorizerRecord::decode(&*record).expect("a record");
                assert_eq!(record.nick_name, "花店");
                Some(record.authorization_code).filter(|code| !code.is_empty())
            }
        }
    }
}

/// Stores a secret of every kind for two accounts, the second time over the first, and returns all of them and those
/// that are stored at the end.
async fn put_all(state: &dyn State) -> (Vec<String>, Vec<(Kind, u8, String)>) {
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for (round, number) in [(1, 1), (1, 2), (2, 2)] {
        for kind in Kind::ALL {
            let value = format!("the-{round}-{number}-{kind:?}-secret");
            kind.put(state, number, &value).await;
            all.push(value.clone());
            last.retain(|(its, of, _)| (*its, *of) != (kind, number));
            last.push((kind, number, value));
        }
    }
    (all, last)
}

async fn assert_all(state: &dyn State, expected: &[(Kind, u8, String)]) {
    for (kind, number, value) in expected {
        assert_eq!(kind.get(state, *number).await.as_ref(), Some(value), "{kind:?} {number}");
    }
}

/// Waits until the data has none of these texts outside of the history of a Redis.
async fn until_gone(place: &Place, needles: &[String]) {
    let gone = async {
        while !place.find(needles, false).await.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, gone).await;
}

/// Returns the beginning of what one of these keys sealed.
async fn mark(place: &Place) -> String {
    let state = place.open_as_before().await;
    let token = state.token(&app(&Kind::AccountToken.name(1))).await.expect("no error");
    let form = token.expect("a token").value.expose().to_owned();
    assert!(form.starts_with("sealed:1:"), "{form}");
    form[.."sealed:1:00000000:".len()].to_owned()
}

// === The suite of all backends ===

struct SealedFile {
    folder: TempDir,
    clock: Clock,
    state: Option<Arc<dyn State>>,
}

async fn sealed_file() -> SealedFile {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = SealedFile { folder, clock: Clock::frozen(), state: None };
    file.reopen().await;
    file
}

impl Backend for SealedFile {
    fn state(&self) -> Arc<dyn State> {
        self.state.clone().expect("open")
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn pass_for_writes(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn reopen(&mut self) {
        self.state = None;
        let url = format!("sqlite:{}", self.folder.path().join("state.db").display());
        let settings = settings(&url, "");
        let open = async {
            loop {
                match state::open(&settings, self.clock.clone()).await {
                    Ok(state) => break state,
                    Err(state::Error::Locked) => sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        self.state = Some(within(SOON, open).await);
    }
}

conformance!(sealed_file);

mod with_redis {
    use super::*;

    struct SealedRedis {
        place: Place,
        state: Arc<dyn State>,
    }

    async fn sealed_redis() -> SealedRedis {
        let place = Place::redis().await;
        let state = place.open(&keys(&[STATE_KEY])).await;
        SealedRedis { place, state }
    }

    impl Backend for SealedRedis {
        fn state(&self) -> Arc<dyn State> {
            self.state.clone()
        }

        async fn pass(&self, time: Duration) {
            sleep(time).await;
        }

        async fn pass_for_writes(&self, time: Duration) {
            sleep(time).await;
        }

        async fn reopen(&mut self) {
            self.state = self.place.open(&keys(&[STATE_KEY])).await;
        }
    }

    conformance! { @separately sealed_redis:
        token_has_generation_and_life
        first_of_two_new_tokens_is_kept
        dropped_token_keeps_its_generation
        newest_ticket_is_kept
        ticket_counts_for_twelve_hours
        two_platforms_share_nothing
        latest_authorization_change_counts
        ended_authorization_stays_ended
        refresh_token_is_replaced_by_one_caller
        changed_authorizer_is_not_described
        authorizers_are_paged_in_order
        pruning_keeps_present_authorizers
    }
}

// === At rest ===

#[tokio::test(flavor = "multi_thread")]
async fn sealed_secrets_are_nowhere_as_plain_text() {
    for place in Place::all().await {
        let state = place.open(&keys(&[STATE_KEY])).await;
        let (all, last) = put_all(&*state).await;
        assert_all(&*state, &last).await;
        assert_eq!(place.find(&all, true).await, [""; 0]);
        assert!(state.closed_secrets().iter().all(|(_, count)| *count == 0));
        drop(state);
        let state = place.open(&keys(&[STATE_KEY])).await;
        assert_all(&*state, &last).await;
        assert_eq!(place.find(&all, true).await, [""; 0]);
    }
}

/// Shows that the search finds what is there.
#[tokio::test(flavor = "multi_thread")]
async fn plain_secrets_are_found_by_the_search() {
    for place in Place::all().await {
        let state = place.open(PLAIN).await;
        let (_, last) = put_all(&*state).await;
        let last = Vec::from_iter(last.into_iter().map(|(_, _, value)| value));
        assert_eq!(place.find(&last, false).await, last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_secrets_are_sealed_after_the_start() {
    for place in Place::all().await {
        let before = place.open_as_before().await;
        let (all, last) = put_all(&*before).await;
        let token = app(&Kind::AccountToken.name(2));
        let generation = |token: Option<SharedToken>| token.map(|token| token.generation);
        let was = generation(before.token(&token).await.expect("no error"));
        drop(before);
        let state = place.open(&keys(&[STATE_KEY])).await;
        until_gone(&place, &all).await;
        assert_all(&*state, &last).await;
        assert_eq!(generation(state.token(&token).await.expect("no error")), was);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_plain_secret_is_sealed_when_read() {
    let place = Place::redis().await;
    let state = place.open(&keys(&[STATE_KEY])).await;
    // An earlier version runs beside this one.
    let before = place.open_as_before().await;
    for kind in Kind::ALL {
        let value = format!("the-plain-{kind:?}-secret");
        kind.put(&*before, 1, &value).await;
        let value = [value];
        assert_eq!(place.find(&value, false).await, value);
        assert_eq!(kind.get(&*state, 1).await.as_ref(), value.first());
        assert_eq!(place.find(&value, false).await, [""; 0], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_secrets_become_plain_again() {
    for place in Place::all().await {
        let state = place.open(&keys(&[STATE_KEY])).await;
        let (_, last) = put_all(&*state).await;
        drop(state);
        let lines = format!("{PLAIN}\n{}", keys(&[STATE_KEY]));
        let state = place.open(&lines).await;
        until_gone(&place, &["sealed:1:".to_owned()]).await;
        assert_all(&*state, &last).await;
        drop(state);
        assert_all(&*place.open_as_before().await, &last).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_key_replaces_the_old_one() {
    for place in Place::all().await {
        let state = place.open(&keys(&[STATE_KEY])).await;
        let (_, last) = put_all(&*state).await;
        drop(state);
        let old = [mark(&place).await];
        assert_eq!(place.find(&old, false).await, old);
        let state = place.open(&keys(&[OTHER_KEY, STATE_KEY])).await;
        until_gone(&place, &old).await;
        assert_all(&*state, &last).await;
        drop(state);
        let state = place.open(&keys(&[OTHER_KEY])).await;
        assert_all(&*state, &last).await;
        assert!(state.closed_secrets().iter().all(|(_, count)| *count == 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_without_its_key_counts_as_absent() {
    for place in Place::all().await {
        let state = place.open(&keys(&[STATE_KEY])).await;
        put_all(&*state).await;
        drop(state);
        let state = place.open(&keys(&[OTHER_KEY])).await;
        for kind in Kind::ALL {
            for number in [1, 2] {
                assert_eq!(kind.get(&*state, number).await, None, "{kind:?}");
            }
        }
        // The cases above have every kind of secret that the state can have.
        for (name, count) in state.closed_secrets() {
            assert!(count > 0, "{name}");
            assert!(Kind::ALL.iter().any(|kind| kind.kind() == name), "{name}");
        }
        // The next one from WeChat replaces it, although none was seen.
        let (_, last) = put_all(&*state).await;
        assert_all(&*state, &last).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_of_another_row_does_not_open() {
    for place in Place::all().await {
        let state = place.open(&keys(&[STATE_KEY])).await;
        put_all(&*state).await;
        drop(state);
        let before = place.open_as_before().await;
        for kind in Kind::ALL {
            let form = kind.get(&*before, 1).await.expect("a form");
            assert!(form.starts_with("sealed:1:"), "{kind:?}");
            kind.put(&*before, 2, &form).await;
        }
        drop(before);
        let state = place.open(&keys(&[STATE_KEY])).await;
        for kind in Kind::ALL {
            assert!(kind.get(&*state, 1).await.is_some(), "{kind:?}");
            assert_eq!(kind.get(&*state, 2).await, None, "{kind:?}");
        }
    }
}

// === Generations ===

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_agree_on_one_generation() {
    let place = Place::redis().await;
    // While a new key is introduced, they seal with different ones.
    let lines = [[STATE_KEY, OTHER_KEY], [OTHER_KEY, STATE_KEY], [STATE_KEY, OTHER_KEY]];
    let lines = lines.map(|both| keys(&both));
    let mut gateways = Vec::new();
    for lines in &lines[..] {
        gateways.push(place.open(lines).await);
    }
    let token = app("wx1");
    for round in 1..=20 {
        let value = secret(&format!("token {round}"));
        let mut puts = JoinSet::new();
        for state in gateways.iter().chain(&gateways).chain(&gateways[..1]) {
            let (state, token, value) = (state.clone(), token.clone(), value.clone());
            puts.spawn(async move { state.put_token(&token, round - 1, &value, LONG).await });
        }
        for put in puts.join_all().await {
            let put = put.expect("stored");
            assert_eq!((put.value, put.generation), (value.clone(), round));
        }
    }
}

// === Through the front door ===

/// Starts a gateway with a platform whose state is at a place, and lets a merchant authorize it and call.
async fn served(place: &Place) -> App {
    let mut app = App::with_sections(&section(PLATFORM, AES_KEY)).await;
    if let Place::Redis(server) = place {
        app.set_state_url(&server.url());
        app = app.restart().await;
    }
    connect(&app, PLATFORM, AES_KEY);
    has_ticket(&app).await;
    add_account(&app, MERCHANT);
    authorized(&app, ALL_SETS).await;
    app.stores().list_stores(pb::ListStoresRequest::default()).await.expect("a call");
    app
}

/// Returns every secret that the state has: the tokens of an account, the platform and the merchant, the ticket and the
/// refresh token.
async fn secrets_of(state: &dyn State) -> Vec<String> {
    let merchant = format!("{MERCHANT}@{PLATFORM}");
    let mut secrets = Vec::new();
    for name in [OFFICIAL_APP_ID, PLATFORM, &merchant] {
        let token = state.token(&app(name)).await.expect("no error");
        secrets.push(token.unwrap_or_else(|| panic!("a token of {name}")).value);
    }
    let ticket = state.ticket(&app(PLATFORM)).await.expect("no error");
    secrets.push(ticket.expect("a ticket").value);
    let found = state.authorizer(&app(PLATFORM), &app(MERCHANT)).await.expect("no error");
    secrets.push(found.expect("the merchant").refresh_token.expect("a refresh token"));
    secrets.iter().map(|secret| secret.expose().to_owned()).collect()
}

/// Calls for an account and for the merchant until both are served.
async fn both_are_served(app: &App) {
    until(|| async {
        let request =
            pb::ListNearbyPoisRequest { app_id: MERCHANT.to_owned(), ..Default::default() };
        let merchant = app.nearby().list_nearby_pois(request).await;
        let own = app.stores().list_stores(pb::ListStoresRequest::default()).await;
        merchant.is_ok() && own.is_ok()
    })
    .await;
}

/// Returns how often a gateway could not open a secret of a kind.
async fn closed(app: &App, kind: &str) -> f64 {
    let (_, text) = app.ask("/metrics").await;
    let name = "wechat_state_closed_secrets_total";
    assert!(text.contains(name), "{text}");
    Scrape::parse(&text).sum(name, &[("wechat_state_secret", kind)])
}

#[tokio::test(flavor = "multi_thread")]
async fn running_gateway_leaves_no_plain_secret() {
    for place in Place::all().await {
        let folder = served(&place).await.stop_and_keep().await;
        let (place, lines) = match place {
            Place::File(_) => (Place::File(folder), String::new()),
            redis => (redis, keys(&[STATE_KEY])),
        };
        let secrets = secrets_of(&*place.open(&lines).await).await;
        assert_eq!(secrets.len(), 5);
        assert_eq!(place.find(&secrets, true).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_key_heals_by_itself() {
    for place in Place::all().await {
        let mut app = served(&place).await;
        let before = app.count(AUTHORIZER_INFO) + app.count(AUTHORIZER_LIST);
        let is_redis = matches!(place, Place::Redis(_));
        if is_redis {
            app.change_settings(STATE_KEY, OTHER_KEY);
        }
        let app = app.restart_after(|file| {
            if !is_redis {
                fs::remove_file(file.with_extension("db.key")).expect("the key");
            }
        });
        let app = app.await;
        connect(&app, PLATFORM, AES_KEY);
        both_are_served(&app).await;
        assert!(app.count(AUTHORIZER_INFO) + app.count(AUTHORIZER_LIST) > before, "recovered");
        assert!(closed(&app, "token").await > 0.0);
        assert!(closed(&app, "refresh_token").await > 0.0);
        // The next start has the key.
        let app = app.restart().await;
        connect(&app, PLATFORM, AES_KEY);
        both_are_served(&app).await;
        // The first gateway may have ended before it dropped the code, which nothing needs any more.
        for kind in ["token", "ticket", "refresh_token"] {
            assert_eq!(closed(&app, kind).await, 0.0, "{kind}");
        }
        app.stop().await;
    }
}

// === The key beside a file ===

#[tokio::test(flavor = "multi_thread")]
async fn file_without_keys_gets_one_beside_it() {
    let place = Place::file();
    let state = place.open("").await;
    let (all, last) = put_all(&*state).await;
    assert_eq!(place.find(&all, true).await, [""; 0]);
    drop(state);
    let Place::File(folder) = &place else { panic!("a file") };
    let path = folder.path().join("state.db.key");
    let key = fs::read_to_string(&path).expect("a key");
    #[cfg(unix)]
    {
        let metadata = fs::metadata(&path).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    let state = place.open("").await;
    assert_all(&*state, &last).await;
    assert_eq!(fs::read_to_string(&path).expect("a key"), key);
    drop(state);
    // Keys of the settings seal, and the file still opens.
    let state = place.open(&keys(&[OTHER_KEY])).await;
    assert_all(&*state, &last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_key_beside_a_file_stops_the_start() {
    let place = Place::file();
    drop(place.open("").await);
    let Place::File(folder) = &place else { panic!("a file") };
    let path = folder.path().join("state.db.key");
    for wrong in ["", "hush hush", "aHVzaA=="] {
        fs::write(&path, wrong).expect("written");
        let open = async {
            loop {
                match state::open(&place.settings(""), Clock::system()).await {
                    Err(state::Error::Locked) => sleep(Duration::from_millis(5)).await,
                    opened => break opened.expect_err("refused").to_string(),
                }
            }
        };
        let error = within(SOON, open).await;
        assert!(error.contains("state.db.key") && error.contains("delete it"), "{error}");
        assert!(!error.contains("hush") && !error.contains("aHVz"), "{error}");
    }
    // A new key is as good, because WeChat gives other secrets.
    fs::remove_file(&path).expect("removed");
    let (_, last) = put_all(&*place.open("").await).await;
    assert_all(&*place.open("").await, &last).await;
}

// === Reading past the gateway ===

#[tokio::test(flavor = "multi_thread")]
async fn peek_opens_sealed_secrets() {
    for place in Place::all().await {
        let state = place.open(&keys(&[STATE_KEY])).await;
        let wxp = app("wxp");
        let peek = async |lines: &str| {
            let settings = place.settings(lines);
            state::peek(&settings, &wxp, &Clock::system()).await.expect("readable")
        };
        let shown = |peeked: Peeked| {
            let value = |secret: wechat_store_gateway::testing::Secret| secret.expose().to_owned();
            let ticket = peeked.ticket.map(|ticket| value(ticket.value));
            (ticket, peeked.token.map(value), peeked.has_closed)
        };
        assert_eq!(shown(peek(&keys(&[OTHER_KEY])).await), (None, None, false));
        let ticket = state.put_ticket(&wxp, &secret("a ticket"), Clock::system().unix()).await;
        assert_eq!(ticket, Ok(true));
        state.put_token(&wxp, 0, &secret("a token"), LONG).await.expect("stored");
        let all = (Some("a ticket".to_owned()), Some("a token".to_owned()), false);
        assert_eq!(shown(peek(&keys(&[STATE_KEY])).await), all);
        assert_eq!(shown(peek(&keys(&[OTHER_KEY, STATE_KEY])).await), all);
        assert_eq!(shown(peek(&keys(&[OTHER_KEY])).await), (None, None, true));
    }
}

// === Completeness ===

/// Every column that can have text or bytes: those with secrets, and the others.
const SECRET_COLUMNS: &[&str] =
    &["authorizers.record", "authorizers.refresh_token", "tickets.value", "tokens.value"];
const OTHER_COLUMNS: &[&str] = &[
    "authorizers.app_id",
    "authorizers.platform",
    "counters.name",
    "events.amends",
    "events.app_id",
    "events.audit_id",
    "events.event_id",
    "events.key",
    "events.map_poi_id",
    "events.message",
    "events.poi_id",
    "events.reason",
    "events.submission_id",
    "events.superseded_by",
    "leases.name",
    "log.newest_key",
    "log.pruned_key",
    "submissions.app_id",
    "submissions.audit_id",
    "submissions.client_reference",
    "submissions.event_id",
    "submissions.map_poi_id",
    "submissions.message",
    "submissions.poi_id",
    "submissions.reason",
    "submissions.submission_id",
    "tickets.platform",
    "tokens.app_id",
    "writes.app_id",
    "writes.caller",
    "writes.client_reference",
    "writes.fingerprint",
    "writes.method",
    "writes.reply",
    "writes.request_id",
    "writes.sought",
    "writes.state",
    "writes.write_id",
];

/// A new column needs a decision whether it can have a secret.
#[tokio::test]
async fn every_column_with_text_is_classified() {
    let place = Place::file();
    drop(place.open("").await);
    let Place::File(folder) = &place else { panic!("a file") };
    let path: PathBuf = folder.path().join("state.db");
    let db = rusqlite::Connection::open(path).expect("a file");
    let columns =
        "SELECT t.name || '.' || c.name FROM pragma_table_list t, pragma_table_info(t.name) c
        WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
          AND c.type IN ('TEXT', 'BLOB', 'ANY') ORDER BY 1";
    let mut statement = db.prepare(columns).expect("a query");
    let columns = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    let columns = columns.collect::<Result<Vec<_>, _>>().expect("texts");
    let mut known = [SECRET_COLUMNS, OTHER_COLUMNS].concat();
    known.sort_unstable();
    assert_eq!(columns, known);
}
