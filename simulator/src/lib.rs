//! Simulates WeChat: it has state, refuses what WeChat refuses, and gives the same answers every
//! time.
//!
//! It serves the store, nearby and card APIs over HTTP as WeChat's documents describe them,
//! including the odd types. So any client of WeChat can be pointed at it. It shares no type with
//! the gateway's own client, so that a misspelled field there fails here.
//!
//! # Layout
//!
//! * `serve` reads requests from the socket and writes answers to it. `control` serves everything
//!   under `/_simulator/`.
//! * `world` holds all state behind one lock and runs a call from its arrival to its answer.
//!   `endpoint`, `error`, `mint` and `journal` are its parts.
//! * `token`, `merchant`, `map_poi`, `store`, `legacy`, `nearby`, `card`, `media` and `account` are
//!   the families. Each is a table of endpoints and their functions. A function receives the world
//!   and a checked call, and no HTTP.
//! * `component` is the family of third-party platforms: their tickets, tokens and authorizations, and
//!   the page on which a merchant authorizes one.
//! * `cloud` has the tokens of cloud hosting, and writes them into a file.
//! * `audit` decides reviews. `push` notifies the account, encrypts with `message_crypto`, and
//!   sends other pushes on request. `faults` and `spoil` make calls fail.
//!
//! # Limits of the simulation
//!
//! * Facts that are not in WeChat's documents: whether a license is real, a name is protected, or a
//!   picture is decent. A review passes or fails because a request under `/_simulator/` decides it.
//! * Undocumented reactions. If a document is silent, a comment at the function states our choice.
//!   It is not WeChat's.
//! * Pushes other than of reviews, unless a request asks for one. Answers to a push other than
//!   `success` (被动回复), HTTPS addresses, and the order of pushes. An application that lapses causes
//!   no push. It is not known when WeChat repeats a push that was refused at once. Here that is as
//!   late as after a timeout.
//! * Address lists (`40164` and `61004` come only by a fault), TLS, HTTP/2, and
//!   speed. The daily quotas of third-party platforms.
//! * Cards: every `card_id` is accepted. Pictures: every address at WeChat's host is accepted.
//! * Durability: a restart or a reset loses all state.

mod account;
pub mod audit;
mod card;
mod cloud;
mod component;
mod control;
mod districts;
mod endpoint;
mod error;
pub mod faults;
pub mod journal;
mod legacy;
mod map_poi;
mod media;
mod merchant;
pub mod message_crypto;
mod mint;
mod nearby;
mod places;
pub mod push;
mod serve;
mod spoil;
mod store;
mod token;
mod world;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;
use wechat_clock::Clock;

use self::{
    audit::{Audit, Decision},
    endpoint::Endpoint,
    faults::Kind,
    journal::Entry,
    push::Push,
    world::World,
};
pub use self::{
    cloud::Cloud,
    component::{Authorizer, Component},
    faults::Fault,
    nearby::COMPANY,
    push::Callback,
};

/// The official account that a simulator has by default.
pub const OFFICIAL_APP_ID: &str = "wx0000000000000001";
/// The secret of [`OFFICIAL_APP_ID`].
pub const OFFICIAL_SECRET: &str = "official-secret";
/// The mini program that a simulator has by default.
pub const MINI_PROGRAM_APP_ID: &str = "wx0000000000000002";
/// The secret of [`MINI_PROGRAM_APP_ID`].
pub const MINI_PROGRAM_SECRET: &str = "mini-program-secret";

/// The third-party platform of the sandbox and of tests.
pub const COMPONENT_APP_ID: &str = "wx0000000000000003";
/// The secret of [`COMPONENT_APP_ID`].
pub const COMPONENT_SECRET: &str = "component-secret";

/// The token that signs pushes to either account in the sandbox and in tests.
pub const CALLBACK_TOKEN: &str = "callback-token";
/// The key that encrypts pushes to [`OFFICIAL_APP_ID`]. As in many real keys, the last character
/// has unused bits.
pub const OFFICIAL_AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
/// The key that encrypts pushes to [`MINI_PROGRAM_APP_ID`].
pub const MINI_PROGRAM_AES_KEY: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefA";

/// The key that encrypts pushes to [`COMPONENT_APP_ID`].
pub const COMPONENT_AES_KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFH";

/// The endpoints of every family. A new family adds one line here.
const FAMILIES: &[&[Endpoint]] = &[
    account::ROUTES,
    card::ROUTES,
    component::ROUTES,
    legacy::ROUTES,
    map_poi::ROUTES,
    media::ROUTES,
    merchant::ROUTES,
    nearby::ROUTES,
    store::ROUTES,
    token::ROUTES,
];

/// A simulated WeChat. Clones share one world.
#[derive(Clone)]
pub struct Simulator {
    clock: Clock,
    world: Arc<Mutex<World>>,
}

/// The state with which a simulator starts, and to which a reset returns.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The seed of every id, token and random choice.
    pub seed: u64,
    /// The simulator's time.
    pub clock: Clock,
    /// The accounts that exist.
    pub accounts: Vec<Account>,
    /// The third-party platforms that exist.
    pub components: Vec<Component>,
    /// The containers in cloud hosting that exist. One that cannot be added is left out.
    pub clouds: Vec<Cloud>,
    /// The time after which reviews pass without a decision. With `None` they stay open.
    pub audit_delay: Option<Duration>,
}

/// An account at WeChat.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The app id, `wx…`.
    pub app_id: String,
    /// The app secret.
    pub secret: String,
    /// Official account or mini program.
    pub kind: AccountKind,
    /// The address for pushes. With `None` the account receives none.
    #[serde(default)]
    pub callback: Option<Callback>,
}

/// The kind of an account. Store APIs accept one kind, nearby APIs the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// 小程序.
    MiniProgram,
    /// 公众号 or 服务号.
    Official,
}

impl Default for Settings {
    fn default() -> Self {
        let account = |app_id: &str, secret: &str, kind| Account {
            app_id: app_id.to_owned(),
            secret: secret.to_owned(),
            kind,
            callback: None,
        };
        Self {
            seed: 1,
            clock: Clock::system(),
            accounts: vec![
                account(OFFICIAL_APP_ID, OFFICIAL_SECRET, AccountKind::Official),
                account(MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, AccountKind::MiniProgram),
            ],
            components: Vec::new(),
            clouds: Vec::new(),
            audit_delay: None,
        }
    }
}

impl Simulator {
    /// Returns a simulator with a fresh world.
    pub fn new(settings: Settings) -> Self {
        let clock = settings.clock.clone();
        Self { clock, world: Arc::new(Mutex::new(World::new(settings))) }
    }

    /// Serves `listener` and sends pushes until `shutdown`, then drops every connection.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = serve::run(self.clone(), listener, shutdown) => {}
            () = push::run(self) => {}
        }
    }

    /// Refuses the next call to `path` with `errcode`.
    pub fn refuse_next(&self, path: &str, errcode: i64) {
        self.fault(Fault::new(path, Kind::Errcode { errcode, errmsg: None }));
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.world().faults.add(fault);
    }

    /// Executes the request under `/_simulator/` with this method, path and body: `control("POST",
    /// "legacy_stores", &json!({ … }))`. It differs from HTTP in one point: the address of a new
    /// callback is not verified.
    ///
    /// Fails with a text that names the error in the request.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = body.to_string();
        let answer = control::act(self, method, path, &BTreeMap::new(), body.as_bytes());
        answer.map_err(|problem| problem.text)
    }

    /// Returns every review so far, ordered by id.
    pub fn audits(&self) -> Vec<Audit> {
        self.world().audits.values().cloned().collect()
    }

    /// Approves a review. If an administrator must confirm first, that happens too. Returns the id
    /// that the approval created, if any.
    pub fn approve(&self, audit_id: u64) -> Result<Option<String>, String> {
        let audit = self.decide(audit_id, Decision::Approve, "")?;
        Ok(audit.result)
    }

    /// Rejects a review.
    pub fn reject(&self, audit_id: u64, reason: &str) -> Result<(), String> {
        self.decide(audit_id, Decision::Reject, reason).map(drop)
    }

    /// Decides a review, and notifies the account if it has a callback.
    pub fn decide(&self, audit_id: u64, decision: Decision, reason: &str) -> Result<Audit, String> {
        audit::decide(&mut self.world(), audit_id, decision, reason.to_owned())
    }

    /// Decides a review without notifying the account.
    pub fn decide_silently(
        &self,
        audit_id: u64,
        decision: Decision,
        reason: &str,
    ) -> Result<Audit, String> {
        let ended = audit::end(&mut self.world(), audit_id, decision, reason.to_owned());
        ended.map(|(audit, _)| audit)
    }

    /// Sends later pushes of the account to this callback, or stops them. The address is not
    /// verified.
    pub fn set_callback(
        &self,
        app_id: &str,
        callback: impl Into<Option<Callback>>,
    ) -> Result<(), String> {
        let callback = callback.into();
        callback.iter().try_for_each(Callback::check)?;
        let mut world = self.world();
        let tenant = world.accounts.get_mut(app_id);
        tenant.ok_or(format!("there is no account {app_id}"))?.callback = callback;
        Ok(())
    }

    /// Pushes any event, such as `&json!({ "Event": "subscribe" })`, and returns its number.
    /// Missing fields that all events have are added.
    pub fn push(&self, app_id: &str, event: &Value) -> Result<u64, String> {
        let fields = event.as_object().ok_or("an event must be an object")?;
        push::event(&mut self.world(), app_id, fields.clone())
    }

    /// Returns every push so far, in order.
    pub fn pushes(&self) -> Vec<Push> {
        self.world().outbox.list()
    }

    /// Returns the calls to `path` so far, in order.
    pub fn calls(&self, path: &str) -> Vec<Entry> {
        self.world().journal.entries(Some(path))
    }

    /// Returns every call since the previous call of this method, in order, and forgets them. The
    /// journal is limited, so a test that calls this often enough gets all of them.
    pub fn take_calls(&self) -> Vec<Entry> {
        self.world().journal.take()
    }

    /// Returns the simulator's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Starts over: accounts, ids, faults and calls are as at the start. Only the time continues.
    pub fn reset(&self) {
        self.world().reset();
    }

    /// Returns the locked state. It is consistent even after a panic, because handlers check
    /// everything before they change anything.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}
