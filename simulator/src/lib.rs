//! A small WeChat beside us: stateful, strict, and the same every time.
//!
//! It speaks the store, nearby and card APIs over HTTP as their documents describe them, type
//! oddities included, so any client of WeChat can be pointed at it. It shares no type with this
//! crate's own client: a field misspelt there must fail here.
//!
//! # Layout
//!
//! * `serve` takes requests off the socket and puts answers on it, `control` is what lies under
//!   `/_simulator/`.
//! * `world` is all the state behind one lock and the way of a call through it; `endpoint`,
//!   `error`, `mint` and `journal` are what it is made of.
//! * `token`, `merchant`, `map_poi`, `store` and `legacy`, `nearby`, `card`, `media` and `account`
//!   are the families. Each is a table of endpoints and the functions behind them, which see the
//!   world and a checked call and know nothing of HTTP.
//! * `audit` decides what was submitted, `push` tells the account, and sends whatever else is to be
//!   pushed. `faults` and `spoil` make things go wrong.
//!
//! # What it does not imitate
//!
//! * What WeChat knows and documents do not say: whether a licence is real, a name protected, a
//!   picture decent. Reviews pass or fail because somebody says so.
//! * Undocumented reactions. Where a document is silent the choice is noted at the function; do not
//!   take it for WeChat's.
//! * Pushes other than of reviews, unless somebody asks for one; what a server answers to them other
//!   than `success` (被动回复); HTTPS addresses; any order. Nobody is told of an application that
//!   lapses. When WeChat sends again what was refused at once is not known: here it is as late as
//!   after a timeout.
//! * Third-party platforms, cloud hosting tokens, address lists (`40164` comes by a fault only),
//!   TLS, HTTP/2, and speed.
//! * Cards themselves: any `card_id` is taken. Pictures: any address at WeChat's host is taken.
//! * Durability: a restart forgets everything, as does a reset.

mod account;
pub mod audit;
mod card;
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
pub use self::{faults::Fault, nearby::COMPANY, push::Callback};

/// The official account that a simulator has unless it is told otherwise.
pub const OFFICIAL_APP_ID: &str = "wx0000000000000001";
/// The secret of [`OFFICIAL_APP_ID`].
pub const OFFICIAL_SECRET: &str = "official-secret";
/// The mini program that a simulator has unless it is told otherwise.
pub const MINI_PROGRAM_APP_ID: &str = "wx0000000000000002";
/// The secret of [`MINI_PROGRAM_APP_ID`].
pub const MINI_PROGRAM_SECRET: &str = "mini-program-secret";

/// What pushes to either account are signed with, where somebody has to choose.
pub const CALLBACK_TOKEN: &str = "callback-token";
/// What pushes to [`OFFICIAL_APP_ID`] are sealed with. As in many real keys, the last character has
/// bits to spare.
pub const OFFICIAL_AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
/// What pushes to [`MINI_PROGRAM_APP_ID`] are sealed with.
pub const MINI_PROGRAM_AES_KEY: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefA";

/// Every family's endpoints. A new family is one line here.
const FAMILIES: &[&[Endpoint]] = &[
    account::ROUTES,
    card::ROUTES,
    legacy::ROUTES,
    map_poi::ROUTES,
    media::ROUTES,
    merchant::ROUTES,
    nearby::ROUTES,
    store::ROUTES,
    token::ROUTES,
];

/// A small WeChat. Clones are the same WeChat.
#[derive(Clone)]
pub struct Simulator {
    clock: Clock,
    world: Arc<Mutex<World>>,
}

/// What a simulator starts with, and returns to at a reset.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides every id, token and chance.
    pub seed: u64,
    /// Tells the simulator the time.
    pub clock: Clock,
    /// The accounts that exist.
    pub accounts: Vec<Account>,
    /// After which time reviews pass by themselves; `None` leaves them open.
    pub audit_delay: Option<Duration>,
}

/// One account at WeChat.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its id, `wx…`.
    pub app_id: String,
    /// Its secret.
    pub secret: String,
    /// What it is.
    pub kind: AccountKind,
    /// Where it is told of what happens; `None` for nowhere.
    #[serde(default)]
    pub callback: Option<Callback>,
}

/// What an account is. Store APIs want the one kind, nearby APIs the other.
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
            audit_delay: None,
        }
    }
}

impl Simulator {
    /// A fresh world.
    pub fn new(settings: Settings) -> Self {
        let clock = settings.clock.clone();
        Self { clock, world: Arc::new(Mutex::new(World::new(settings))) }
    }

    /// Answers on `listener`, and pushes, until `shutdown`; then drops every connection.
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

    /// Lets something go wrong.
    pub fn fault(&self, fault: Fault) {
        self.world().faults.add(fault);
    }

    /// Does what the same request under `/_simulator/` would do: `control("POST", "legacy_stores",
    /// &json!({ … }))`. The error says what was wrong with it. Only a callback is not asked first.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = body.to_string();
        let answer = control::act(self, method, path, &BTreeMap::new(), body.as_bytes());
        answer.map_err(|problem| problem.text)
    }

    /// Every review so far, in the order of their ids.
    pub fn audits(&self) -> Vec<Audit> {
        self.world().audits.values().cloned().collect()
    }

    /// Approves what was submitted, confirming it first where an administrator has to. Answers the
    /// id that this made, if it made one.
    pub fn approve(&self, audit_id: u64) -> Result<Option<String>, String> {
        let audit = self.decide(audit_id, Decision::Approve, "")?;
        Ok(audit.result)
    }

    /// Rejects what was submitted.
    pub fn reject(&self, audit_id: u64, reason: &str) -> Result<(), String> {
        self.decide(audit_id, Decision::Reject, reason).map(drop)
    }

    /// Decides what was submitted, and tells the account if it has a callback.
    pub fn decide(&self, audit_id: u64, decision: Decision, reason: &str) -> Result<Audit, String> {
        audit::decide(&mut self.world(), audit_id, decision, reason.to_owned())
    }

    /// Decides what was submitted, and tells nobody.
    pub fn decide_silently(
        &self,
        audit_id: u64,
        decision: Decision,
        reason: &str,
    ) -> Result<Audit, String> {
        let ended = audit::end(&mut self.world(), audit_id, decision, reason.to_owned());
        ended.map(|(audit, _)| audit)
    }

    /// From now on pushes to the account go there, or nowhere. The address is not asked.
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

    /// Pushes any event, such as `&json!({ "Event": "subscribe" })`, and answers its number. Fields
    /// that all events have are added where they are missing.
    pub fn push(&self, app_id: &str, event: &Value) -> Result<u64, String> {
        let fields = event.as_object().ok_or("an event has to be an object")?;
        push::event(&mut self.world(), app_id, fields.clone())
    }

    /// Every push so far, in order.
    pub fn pushes(&self) -> Vec<Push> {
        self.world().outbox.list()
    }

    /// The calls to `path` so far, in order.
    pub fn calls(&self, path: &str) -> Vec<Entry> {
        self.world().journal.read(Some(path))
    }

    /// Every call since this was asked last, in order. They are forgotten here, so that whoever asks
    /// often enough gets all, however many there are.
    pub fn take_calls(&self) -> Vec<Entry> {
        self.world().journal.take()
    }

    /// The time by which everything here happens.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Starts over: accounts, ids, faults and calls are as they were at first. Only time goes on.
    pub fn reset(&self) {
        self.world().reset();
    }

    /// The state, which is whole even if a call panicked: handlers check first and change then.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}
