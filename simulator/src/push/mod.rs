//! Pushes: what an account's server is told without having asked (事件推送).
//!
//! `message` puts it into words, `outbox` keeps it until it is due, and `deliver` sends it. An
//! account without a callback is told nothing, then or later.

mod deliver;
mod message;
mod outbox;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub(super) use self::{
    deliver::{run, verify},
    outbox::Outbox,
};
use super::{
    audit::{Audit, Ending},
    world::World,
};
use crate::message_crypto::{self, Key};

/// Where an account's pushes go, and how (服务器配置).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// The address, `http://…`; `{app_id}` in it stands for the account's id.
    pub url: String,
    /// What pushes are signed with (Token).
    pub token: String,
    /// What they are sealed with (EncodingAESKey); plain ones go without.
    #[serde(default)]
    pub encoding_aes_key: String,
    /// Whether they are sealed.
    #[serde(default)]
    pub mode: Mode,
    /// What they are written in.
    #[serde(default)]
    pub format: Format,
}

/// Whether pushes are sealed (消息加解密方式).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// 兼容模式: plain and sealed side by side.
    Compatible,
    /// 明文模式: not at all.
    Plain,
    /// 安全模式: nothing is readable but whom they are for.
    #[default]
    Safe,
}

/// What pushes are written in (数据格式).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Numbers are numbers.
    Json,
    /// Texts are CDATA, numbers stand bare.
    #[default]
    Xml,
}

/// One push, from its cause to its end.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Push {
    /// 1 for the first since the start or the last reset.
    pub id: u64,
    /// Whom it is for.
    pub app_id: String,
    /// The event's name; empty where the text has none that is known here.
    pub event: String,
    /// The review whose end it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<u64>,
    /// How far it is.
    pub state: State,
    /// Each time that it was sent.
    pub attempts: Vec<Attempt>,
    /// The text, before it is sealed.
    pub message: String,
    /// How often it is still to be sent once it was taken.
    #[serde(skip)]
    copies: u64,
    /// How often in a row it was not taken.
    #[serde(skip)]
    failures: u64,
}

/// How far a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was taken, as often as it was to be sent.
    Delivered,
    /// It was not taken, and is not sent again.
    GivenUp,
    /// It was never sent, by `push_lose_every`.
    Lost,
    /// It is to be sent, or is under way.
    Waiting,
}

/// What became of sending a push once.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Attempt {
    /// When it was sent, in milliseconds since 1970 by the simulator's clock.
    pub at_unix_ms: u64,
    /// The HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// `taken`, or why not.
    pub outcome: String,
}

impl Callback {
    /// The address for an account.
    pub fn address(&self, app_id: &str) -> String {
        self.url.replace("{app_id}", app_id)
    }

    /// What is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), String> {
        deliver::address(self, "", "")?;
        if self.mode == Mode::Plain { Ok(()) } else { self.key().map(drop) }
    }

    fn key(&self) -> Result<Key, String> {
        Key::parse(&self.encoding_aes_key)
            .ok_or("encoding_aes_key must be 43 characters of base64".to_owned())
    }

    fn sign(&self, parts: &[&str]) -> String {
        message_crypto::sign(&self.token, parts)
    }
}

/// Tells an account how its review ended, if it has a callback.
pub(super) fn tell(world: &mut World, audit: &Audit, ending: Ending) {
    let event = format!("{}_audit_info", json!(audit.kind).as_str().unwrap_or_default());
    let head = [
        ("Event", json!(event)),
        ("audit_id", json!(audit.audit_id)),
        ("status", json!(ending.status)),
    ];
    let fields = head.into_iter().chain(ending.fields);
    let fields = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    // Who has no callback has nothing to be told.
    let _ = put_event(world, &audit.app_id, Some(audit.audit_id), fields);
}

/// Pushes any event. Fields that all events have are added where they are missing.
pub(super) fn event(
    world: &mut World,
    app_id: &str,
    fields: Map<String, Value>,
) -> Result<u64, String> {
    put_event(world, app_id, None, fields.into_iter().collect())
}

/// Pushes any text.
pub(super) fn text(world: &mut World, app_id: &str, text: String) -> Result<u64, String> {
    callback(world, app_id)?;
    Ok(outbox::put(world, app_id, None, String::new(), text))
}

fn callback<'a>(world: &'a World, app_id: &str) -> Result<&'a Callback, String> {
    let tenant = world.accounts.get(app_id).ok_or(format!("there is no account {app_id}"))?;
    tenant.callback.as_ref().ok_or(format!("account {app_id} has no callback"))
}

fn put_event(
    world: &mut World,
    app_id: &str,
    audit_id: Option<u64>,
    fields: Vec<(String, Value)>,
) -> Result<u64, String> {
    let format = callback(world, app_id)?.format;
    let tenant = &world.accounts[app_id];
    let common = [
        ("ToUserName", json!(tenant.original_id)),
        ("FromUserName", json!(tenant.open_id)),
        ("CreateTime", json!(world.clock.unix())),
        ("MsgType", json!("event")),
    ];
    let is_missing = |name: &str| fields.iter().all(|(own, _)| own != name);
    let common = common.into_iter().filter(|(name, _)| is_missing(name));
    let common = common.map(|(name, value)| (name.to_owned(), value));
    let mut all: Vec<_> = common.collect();
    all.extend(fields);
    let event = all.iter().find(|(name, _)| name == "Event");
    let event = event.and_then(|(_, name)| name.as_str()).unwrap_or_default().to_owned();
    Ok(outbox::put(world, app_id, audit_id, event, message::write(&all, format)))
}
