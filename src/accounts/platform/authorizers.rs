//! The authorizers that are in use, in memory. All others are only in the state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use prost::Message;

use super::{Directory, Error, Platform};
use crate::{
    accounts::{self, Account, Origin, concurrency::Limit},
    config::{self, AccountKind},
    pb::platform::{AuthorizerRecord, Kind},
    state::{self, Authorizer},
    util::{
        id::{AppId, Secret},
        keyed_mutex::KeyedMutex,
    },
    wechat::{
        self, Endpoint, Errcode,
        component::{GetAuthorizerInfo, GetAuthorizerInfoReply},
    },
};

/// How long an account is used before the state is asked whether another replica changed it.
const FRESH: Duration = Duration::from_secs(5);
/// How long an account that is not in use stays in memory.
const IDLE: Duration = Duration::from_secs(900);
/// WeChat is asked again what an account granted, if its last statement is older than this.
const DESCRIBED_LATELY: Duration = Duration::from_secs(600);
/// An account that no platform knows is looked up at WeChat once within this time.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);
/// The most look-ups of unknown accounts of one platform within a minute, over all replicas.
const MOST_LOOKUPS: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);
/// The accounts that were not found are forgotten above this number.
const MOST_UNKNOWN: u64 = 10_000;

/// The rights that an account granted to a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authorization {
    /// The platform.
    pub(crate) platform: AppId,
    /// The permission sets (权限集) that the account gave. `None` if WeChat has not stated them yet.
    pub(crate) permission_sets: Option<Vec<u8>>,
    /// Whether the settings pause the platform.
    pub(crate) paused: bool,
    /// Whether the settings allow the platform only calls that change nothing.
    pub(crate) read_only: bool,
}

/// The authorizers of all platforms.
#[derive(Debug)]
pub(super) struct Authorizers {
    directory: Arc<Directory>,
    // The injected clock counts what is fresh. moka only drops what is idle.
    entries: moka::sync::Cache<AppId, Arc<Entry>>,
    /// The accounts that no platform knows.
    unknown: moka::sync::Cache<AppId, ()>,
    reading: KeyedMutex<AppId>,
    /// Counts the changes of the settings. An entry from before one is not fresh.
    epoch: AtomicU64,
    concurrency: AtomicUsize,
    /// The authorizers about which WeChat was asked lately.
    asked: moka::sync::Cache<AppId, ()>,
}

/// An authorizer in memory.
#[derive(Debug)]
struct Entry {
    authorizer: Authorizer,
    account: Arc<Account>,
    read_at: Instant,
    epoch: u64,
    /// Set when the state has another authorization.
    changed: AtomicBool,
}

impl Authorizers {
    pub(super) fn new(directory: Arc<Directory>, concurrency: usize) -> Self {
        Self {
            directory,
            entries: moka::sync::Cache::builder().time_to_idle(IDLE).build(),
            unknown: moka::sync::Cache::builder()
                .max_capacity(MOST_UNKNOWN)
                .time_to_live(UNKNOWN_PAUSE)
                .build(),
            reading: KeyedMutex::default(),
            epoch: AtomicU64::default(),
            concurrency: AtomicUsize::new(concurrency),
            asked: moka::sync::Cache::builder().time_to_live(DESCRIBED_LATELY).build(),
        }
    }

    /// Uses other settings from now on.
    pub(super) fn update(&self, concurrency: usize) {
        self.concurrency.store(concurrency, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release);
        self.unknown.invalidate_all();
    }

    /// Reads an account again before its next call.
    pub(super) fn changed(&self, app_id: &AppId) {
        self.unknown.invalidate(app_id);
        if let Some(entry) = self.entries.get(app_id) {
            entry.changed.store(true, Ordering::Release);
        }
    }

    /// Forgets the token of an account.
    pub(super) fn drop_token(&self, app_id: &AppId) {
        if let Some(entry) = self.entries.get(app_id) {
            entry.account.tokens.iter().for_each(|tokens| tokens.clear());
        }
        self.changed(app_id);
    }

    /// Returns an account. `None` if it authorized no platform.
    ///
    /// Fails if it withdrew its authorization, or if the state fails and the account is not in memory.
    pub(super) async fn account(
        &self,
        app_id: &str,
    ) -> Result<Option<Arc<Account>>, accounts::Error> {
        if let Some(entry) = self.entries.get(app_id).filter(|entry| self.is_fresh(entry)) {
            return entry.account().map(Some);
        }
        let app_id = AppId::from(app_id.to_owned());
        let _turn = self.reading.take(app_id.clone()).await;
        let known = self.entries.get(&app_id);
        if let Some(entry) = known.as_ref().filter(|entry| self.is_fresh(entry)) {
            return entry.account().map(Some);
        }
        let found = match self.read(&app_id).await {
            Ok(Some(found)) if found.1.authorized => Some(found),
            Ok(found) => self.discovered(&app_id, found).await?,
            // The copy in memory was true a moment ago, and WeChat refuses a call that is not granted any more.
            Err(error) => {
                let Some(known) = &known else { return Err(error.into()) };
                let platform = self.directory.get(&known.authorizer.platform);
                platform.map(|platform| (platform, known.authorizer.clone()))
            }
        };
        let Some((platform, authorizer)) = found else {
            self.entries.invalidate(&app_id);
            return Ok(None);
        };
        let entry = Arc::new(self.entry(&platform, authorizer, known.as_deref()));
        self.entries.insert(app_id.clone(), entry.clone());
        if entry.authorizer.authorized && !record(&entry.authorizer).described {
            self.describe(app_id);
        }
        entry.account().map(Some)
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        let age = self.directory.services.clock.now().duration_since(entry.read_at);
        age < FRESH
            && entry.epoch == self.epoch.load(Ordering::Acquire)
            && !entry.changed.load(Ordering::Acquire)
    }

    /// Returns the authorization of an account, and its platform. If it authorized several platforms, the
    /// one that it authorized last serves it.
    async fn read(
        &self,
        app_id: &AppId,
    ) -> Result<Option<(Arc<Platform>, Authorizer)>, state::Error> {
        let mut found = None::<(Arc<Platform>, Authorizer)>;
        for platform in self.directory.current.load_full().iter() {
            let Some(authorizer) = platform.stored(app_id).await? else { continue };
            let order = |authorizer: &Authorizer| (authorizer.authorized, authorizer.changed_at);
            if found.as_ref().is_none_or(|(_, best)| order(best) <= order(&authorizer)) {
                found = Some((platform.clone(), authorizer));
            }
        }
        Ok(found)
    }

    /// Looks an account up at WeChat that the state does not have, or that withdrew its authorization according
    /// to the state, because the state or the push about it may be lost. Rarely, because callers choose the id.
    ///
    /// Fails if WeChat could not be asked. Then it is not known whether the account authorized a platform.
    async fn discovered(
        &self,
        app_id: &AppId,
        known: Option<(Arc<Platform>, Authorizer)>,
    ) -> Result<Option<(Arc<Platform>, Authorizer)>, accounts::Error> {
        if self.unknown.contains_key(app_id) || !config::is_app_id(app_id.as_str()) {
            return Ok(known);
        }
        let state = &self.directory.services.state;
        for platform in self.directory.current.load_full().iter() {
            if platform.settings.paused {
                continue;
            }
            let counter = format!("lookups/{}", platform.app_id);
            if !state.spend(&counter, MOST_LOOKUPS, MINUTE).await? {
                return Err(accounts::Error::Lookups { app_id: app_id.clone() });
            }
            let reply = match platform.info(app_id).await {
                Ok(reply) => reply,
                Err(Error::WeChat { error, .. }) if is_not_authorized(&error) => continue,
                Err(error) => return Err(accounts::Error::Platform(Box::new(error))),
            };
            let ended = known.as_ref().filter(|(of, _)| of.app_id == platform.app_id);
            let changed_at = ended.map_or(0, |(_, ended)| ended.changed_at);
            let record = record_of(&reply, self.directory.services.clock.wall());
            let refresh_token = reply.authorization_info.refresh_token();
            let authorizer = platform.new_authorizer(app_id, changed_at, refresh_token, record);
            state.put_authorizer(&authorizer, ended.is_none()).await?;
            tracing::info!(%app_id, platform = %platform.app_id, "found an authorizer at WeChat");
            // Another replica may have found it first.
            return Ok(self.read(app_id).await?);
        }
        self.unknown.insert(app_id.clone(), ());
        Ok(known)
    }

    /// Returns the entry of an authorizer. It keeps tokens, quotas and running calls of the one before.
    fn entry(&self, platform: &Platform, authorizer: Authorizer, before: Option<&Entry>) -> Entry {
        let (read_at, epoch) =
            (self.directory.services.clock.now(), self.epoch.load(Ordering::Acquire));
        let record = record(&authorizer);
        let authorization = Authorization {
            platform: authorizer.platform.clone(),
            permission_sets: record.described.then(|| permission_sets(&record)),
            paused: platform.settings.paused,
            read_only: platform.settings.read_only,
        };
        let same = |before: &&Entry| before.authorizer.platform == authorizer.platform;
        let before = before.filter(same);
        let changes = |before: &&Entry| {
            let before = &before.authorizer;
            (before.authorized, before.changed_at) != (authorizer.authorized, authorizer.changed_at)
        };
        if let Some(before) = before.filter(changes) {
            // Neither its token nor its failure belongs to this authorization.
            before.account.tokens.iter().for_each(|tokens| tokens.clear());
        }
        let before = before.map(|before| &before.account);
        let concurrency = self.concurrency.load(Ordering::Relaxed);
        let account = Account {
            app_id: authorizer.app_id.clone(),
            kind: kind(&record),
            tokens: before.map_or_else(
                || Some(self.directory.tokens(&authorizer.platform, &authorizer.app_id)),
                |before| before.tokens.clone(),
            ),
            quotas: before.map(|before| before.quotas.clone()).unwrap_or_default(),
            concurrency: before.map_or_else(
                || Arc::new(Limit::new(concurrency)),
                |before| before.concurrency.clone(),
            ),
            origin: Origin::Platform(authorization),
        };
        account.concurrency.resize(concurrency);
        let (account, changed) = (Arc::new(account), AtomicBool::new(false));
        Entry { authorizer, account, read_at, epoch, changed }
    }

    /// Asks WeChat again what an account granted, unless that is recent.
    pub(super) fn describe_again(&self, app_id: &AppId) {
        let Some(entry) = self.entries.get(app_id) else { return };
        let described = record(&entry.authorizer).describe_time;
        let described = described.and_then(|time| SystemTime::try_from(time).ok());
        let age = described.map(|time| self.directory.services.clock.wall().duration_since(time));
        if age.is_none_or(|age| age.is_ok_and(|age| age >= DESCRIBED_LATELY)) {
            self.describe(app_id.clone());
        }
    }

    /// Asks WeChat in the background what an account granted, and stores it.
    fn describe(&self, app_id: AppId) {
        let Some(entry) = self.entries.get(&app_id) else { return };
        let Some(platform) = self.directory.get(&entry.authorizer.platform) else { return };
        // Failures are not repeated sooner either.
        if platform.settings.paused || self.asked.contains_key(&app_id) {
            return;
        }
        self.asked.insert(app_id.clone(), ());
        tokio::spawn(async move {
            platform.describe(&app_id, entry.authorizer.changed_at).await;
            entry.changed.store(true, Ordering::Release);
        });
    }
}

impl Entry {
    fn account(&self) -> Result<Arc<Account>, accounts::Error> {
        match self.authorizer.authorized {
            true => Ok(self.account.clone()),
            false => Err(accounts::Error::Unauthorized {
                app_id: self.authorizer.app_id.clone(),
                platform: self.authorizer.platform.clone(),
            }),
        }
    }
}

impl Platform {
    /// Asks WeChat about an authorizer.
    pub(super) async fn info(&self, app_id: &AppId) -> Result<GetAuthorizerInfoReply, Error> {
        let call = GetAuthorizerInfo {
            component_appid: self.app_id.clone(),
            authorizer_appid: app_id.clone(),
        };
        let reply = self.ask(&call, self.background_deadline()).await?;
        if reply.authorization_info.authorizer_appid != *app_id {
            let cause = "it is about another account".to_owned();
            let error = wechat::Error::Unreadable { cause };
            return Err(Error::WeChat { path: GetAuthorizerInfo::PATH, error });
        }
        Ok(reply)
    }

    /// Asks WeChat for the grants and the kind of an account, and stores them. Also stores the refresh
    /// token, if there is none. A failure is logged: the account is usable meanwhile, and WeChat itself
    /// refuses what was not granted.
    pub(super) async fn describe(&self, app_id: &AppId, changed_at: u64) {
        let described = async {
            let reply = self.info(app_id).await?;
            let state = &self.services.state;
            if let Some(value) = reply.authorization_info.refresh_token() {
                state.replace_refresh_token(&self.app_id, app_id, None, &value).await?;
            }
            let mut record = record_of(&reply, self.services.clock.wall());
            if let Some(known) = self.stored(app_id).await? {
                record.authorization_code = self::record(&known).authorization_code;
            }
            let record = record.encode_to_vec();
            state.describe_authorizer(&self.app_id, app_id, changed_at, &record).await?;
            Ok::<_, Error>(())
        };
        if let Err(error) = described.await {
            tracing::warn!(
                %app_id,
                platform = %self.app_id,
                "failed to ask WeChat what the account granted: {error}"
            );
        }
    }

    /// Returns an authorizer for the state.
    pub(super) fn new_authorizer(
        &self,
        app_id: &AppId,
        changed_at: u64,
        refresh_token: Option<Secret>,
        record: AuthorizerRecord,
    ) -> Authorizer {
        Authorizer {
            platform: self.app_id.clone(),
            app_id: app_id.clone(),
            changed_at,
            authorized: true,
            refresh_token,
            record: record.encode_to_vec(),
        }
    }
}

/// Returns the facts of a reply about an account at the time `now`.
fn record_of(reply: &GetAuthorizerInfoReply, now: SystemTime) -> AuthorizerRecord {
    let GetAuthorizerInfoReply { authorizer_info, authorization_info } = reply;
    let kind = match authorizer_info.kind() {
        Some(AccountKind::MiniProgram) => Kind::MiniProgram,
        Some(AccountKind::Official) => Kind::Official,
        None => Kind::Unspecified,
    };
    AuthorizerRecord {
        permission_sets: authorization_info.permission_sets(),
        described: true,
        kind: kind.into(),
        nick_name: authorizer_info.nick_name.0.clone(),
        principal_name: authorizer_info.principal_name.0.clone(),
        describe_time: Some(now.into()),
        authorization_code: String::new(),
    }
}

/// Returns true if WeChat states that the account does not authorize the platform.
pub(super) fn is_not_authorized(error: &wechat::Error) -> bool {
    let wechat::Error::Refused { code, .. } = error else { return false };
    [Errcode::NOT_AUTHORIZED, Errcode::APP_ID_INVALID].contains(code)
}

/// Returns the code of an authorization that was not exchanged yet.
pub(super) fn left_code(authorizer: &Authorizer) -> Option<Secret> {
    let code = record(authorizer).authorization_code;
    (authorizer.authorized && !code.is_empty()).then(|| code.into())
}

/// Returns the stored facts about an account. A damaged record counts as none: WeChat is asked again.
pub(crate) fn record(authorizer: &Authorizer) -> AuthorizerRecord {
    AuthorizerRecord::decode(&*authorizer.record).unwrap_or_default()
}

fn permission_sets(record: &AuthorizerRecord) -> Vec<u8> {
    record.permission_sets.iter().filter_map(|set| u8::try_from(*set).ok()).collect()
}

fn kind(record: &AuthorizerRecord) -> Option<AccountKind> {
    match record.kind() {
        Kind::MiniProgram => Some(AccountKind::MiniProgram),
        Kind::Official => Some(AccountKind::Official),
        Kind::Unspecified => None,
    }
}
