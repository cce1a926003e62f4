//! Pushes: the events that WeChat sends to an account's server (事件推送).
//!
//! `message` writes a push, `outbox` keeps it until it is due, and `deliver` sends it. An account
//! without a callback never receives a push, also not later.
//!
//! A third-party platform has two addresses: one for events about authorizations, and one for the
//! events of its merchants.

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

/// The address for an account's pushes, and their form (服务器配置).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// The address, `http://…`. `{app_id}` in it is replaced by the account's id, and so is `$APPID$`,
    /// which WeChat itself uses for third-party platforms.
    pub url: String,
    /// The token that signs pushes (Token).
    pub token: String,
    /// The key that encrypts pushes (EncodingAESKey). Plain pushes need none.
    #[serde(default)]
    pub encoding_aes_key: String,
    /// Whether pushes are encrypted.
    #[serde(default)]
    pub mode: Mode,
    /// The format of pushes.
    #[serde(default)]
    pub format: Format,
}

/// Whether pushes are encrypted (消息加解密方式).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// 云托管: only the plain message, without a signature, inside the network of cloud hosting.
    Cloud,
    /// 兼容模式: the plain and the encrypted message side by side.
    Compatible,
    /// 明文模式: only the plain message.
    Plain,
    /// 安全模式: only the encrypted message.
    #[default]
    Safe,
}

/// The format of pushes (数据格式).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON, in which numbers are numbers.
    Json,
    /// XML, in which texts are CDATA and numbers are bare.
    #[default]
    Xml,
}

/// A push, from its cause to its end.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Push {
    /// 1 for the first push since the start or the last reset.
    pub id: u64,
    /// The account that receives it. For an event about authorizations it is the component.
    pub app_id: String,
    /// The component that receives it at its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The event's name, or its `InfoType`. It is empty for a text without a known event.
    pub event: String,
    /// The review whose end it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<u64>,
    /// The state of the push.
    pub state: State,
    /// Every attempt to send it.
    pub attempts: Vec<Attempt>,
    /// The text before encryption.
    pub message: String,
    /// It is sent this many times more after it was accepted.
    #[serde(skip)]
    copies: u64,
    /// The number of failed attempts since the last accepted one.
    #[serde(skip)]
    failures: u64,
}

/// The state of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted as often as it was to be sent.
    Delivered,
    /// Not accepted, and not sent again.
    GivenUp,
    /// Never sent, because of `push_lose_every`.
    Lost,
    /// Waits to be sent, or is under way.
    Waiting,
}

/// The result of one attempt.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Attempt {
    /// When it was sent, in milliseconds since 1970 by the simulator's clock.
    pub at_unix_ms: u64,
    /// The HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// `taken`, or the reason why the push was not accepted.
    pub outcome: String,
}

impl Callback {
    /// Returns the address for an account.
    pub fn address(&self, app_id: &str) -> String {
        self.url.replace("{app_id}", app_id).replace("$APPID$", app_id)
    }

    /// Checks the callback. Fails with a text that states what is wrong.
    pub fn check(&self) -> Result<(), String> {
        deliver::address(self, "", "")?;
        if matches!(self.mode, Mode::Cloud | Mode::Plain) { Ok(()) } else { self.key().map(drop) }
    }

    fn key(&self) -> Result<Key, String> {
        Key::parse(&self.encoding_aes_key)
            .ok_or("encoding_aes_key must be 43 characters of base64".to_owned())
    }

    fn sign(&self, parts: &[&str]) -> String {
        message_crypto::sign(&self.token, parts)
    }
}

/// Notifies an account of the end of its review, if the account has a callback.
pub(super) fn notify(world: &mut World, audit: &Audit, ending: Ending) {
    let event = format!("{}_audit_info", json!(audit.kind).as_str().unwrap_or_default());
    let head = [
        ("Event", json!(event)),
        ("audit_id", json!(audit.audit_id)),
        ("status", json!(ending.status)),
    ];
    let fields = head.into_iter().chain(ending.fields);
    let fields = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    // An account without a callback receives nothing, which is no error.
    if let Ok(to) = recipient(world, &audit.app_id, audit.component.as_deref()) {
        put_event(world, to, Some(audit.audit_id), fields);
    }
}

/// Pushes an event about authorizations to a component, and returns its number. `fields` follow the
/// three that all of them have.
pub(super) fn to_component(
    world: &mut World,
    component: &str,
    create_time: Option<u64>,
    info_type: &str,
    fields: &[(&str, Value)],
) -> Result<u64, String> {
    let state =
        world.components.get(component).ok_or(format!("there is no component {component}"))?;
    if state.settings.events_url.is_none() {
        return Err(format!("component {component} has no events_url"));
    }
    let head = [
        ("AppId", json!(component)),
        ("CreateTime", json!(create_time.unwrap_or(world.clock.unix()))),
        ("InfoType", json!(info_type)),
    ];
    let fields = head.iter().chain(fields);
    let fields: Vec<_> = fields.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let to = Recipient { app_id: component.to_owned(), component: Some(component.to_owned()) };
    let message = message::write(&fields, Format::Xml);
    Ok(outbox::put(world, to, None, info_type.to_owned(), message))
}

/// Sends an earlier push again, and returns the number of the new one.
pub(super) fn redeliver(world: &mut World, id: u64) -> Result<u64, String> {
    let push = world.outbox.find(id).ok_or(format!("there is no push {id}"))?;
    let Push { app_id, component, event, audit_id, message, .. } = push.clone();
    Ok(outbox::put(world, Recipient { app_id, component }, audit_id, event, message))
}

/// Pushes any event. Missing fields that all events have are added.
pub(super) fn event(
    world: &mut World,
    app_id: &str,
    fields: Map<String, Value>,
) -> Result<u64, String> {
    let to = recipient(world, app_id, None)?;
    Ok(put_event(world, to, None, fields.into_iter().collect()))
}

/// Pushes any text.
pub(super) fn text(world: &mut World, app_id: &str, text: String) -> Result<u64, String> {
    let to = recipient(world, app_id, None)?;
    Ok(outbox::put(world, to, None, String::new(), text))
}

/// The address of a push.
#[derive(Clone, Debug)]
struct Recipient {
    /// The account, or the component.
    app_id: String,
    /// The component that receives it at its address.
    component: Option<String>,
}

/// Returns the address for an account's events: that of the component which acted, then the account's
/// own, then that of any component which the account authorized.
fn recipient(world: &World, app_id: &str, actor: Option<&str>) -> Result<Recipient, String> {
    let tenant = world.accounts.get(app_id).ok_or(format!("there is no account {app_id}"))?;
    let mut receivers = world.components.iter().filter(|(_, state)| state.receives(app_id));
    let actor = actor.filter(|actor| receivers.clone().any(|(id, _)| id == actor));
    let component = match actor {
        Some(actor) => Some(actor.to_owned()),
        None if tenant.callback.is_some() => None,
        None => {
            let (id, _) = receivers.next().ok_or(format!("account {app_id} has no callback"))?;
            Some(id.clone())
        }
    };
    Ok(Recipient { app_id: app_id.to_owned(), component })
}

fn put_event(
    world: &mut World,
    to: Recipient,
    audit_id: Option<u64>,
    fields: Vec<(String, Value)>,
) -> u64 {
    let tenant = &world.accounts[&to.app_id];
    // Messages of a third-party platform are always XML.
    let own = tenant.callback.as_ref().filter(|_| to.component.is_none());
    let format = own.map_or(Format::Xml, |callback| callback.format);
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
    outbox::put(world, to, audit_id, event, message::write(&all, format))
}
