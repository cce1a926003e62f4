//! Pushes: what an account's server is told without having asked (事件推送).
//!
//! What is to be pushed waits in the world's [`Outbox`]; `message` puts it into words and seals it,
//! `deliver` sends it. An account without a callback is told nothing, then or later.

mod deliver;
mod message;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

pub(super) use self::deliver::{run, verify};
use super::{
    audit::{Audit, Ending},
    world::World,
};
use crate::seal;

/// How many pushes to one account are under way at once.
const AT_ONCE: usize = 32;
/// How many pushes are remembered.
const LIMIT: usize = 100_000;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
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

/// All pushes, and which of them are to be sent when.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pushes: BTreeMap<u64, Push>,
    /// By account, so that one whose server is dead does not hold up the others.
    lanes: BTreeMap<String, Lane>,
    /// Counts resets: what was under way before one is none of the world's business after it.
    era: u64,
    /// Wakes the delivery.
    wake: Arc<Notify>,
}

/// An account's way out.
#[derive(Debug, Default)]
struct Lane {
    waiting: BTreeSet<(Instant, u64)>,
    under_way: usize,
}

/// One sending of one push: everything it takes, so that the world can go on meanwhile.
#[derive(Clone, Debug)]
struct Letter {
    era: u64,
    push: u64,
    app_id: String,
    callback: Option<Callback>,
    to: String,
    from: String,
    message: String,
    stamp: Stamp,
    sent: Instant,
}

/// What is new each time something is signed.
#[derive(Clone, Debug)]
struct Stamp {
    timestamp: String,
    nonce: String,
    random: [u8; 16],
}

impl Callback {
    /// The address for an account.
    pub(crate) fn address(&self, app_id: &str) -> String {
        self.url.replace("{app_id}", app_id)
    }

    /// What is wrong with it, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        deliver::address(self, "", "")?;
        if self.mode == Mode::Plain { Ok(()) } else { self.key().map(drop) }
    }

    fn key(&self) -> Result<seal::Key, String> {
        let key = seal::Key::read(&self.encoding_aes_key.clone().into());
        key.ok_or("the encoding_aes_key has to be 43 characters of base64".to_owned())
    }

    fn sign(&self, parts: &[&str]) -> String {
        seal::sign(&self.token.clone().into(), parts)
    }
}

impl Outbox {
    /// An empty one, for the same delivery.
    pub(super) fn reset(&self) -> Self {
        Self { era: self.era + 1, wake: self.wake.clone(), ..Self::default() }
    }

    /// Lets the delivery look whether there is something to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Every push so far, in the order of their ids.
    pub(super) fn list(&self) -> Vec<Push> {
        self.pushes.values().cloned().collect()
    }

    /// When the next push is to be sent.
    fn next(&self) -> Option<Instant> {
        let free = self.lanes.values().filter(|lane| lane.under_way < AT_ONCE);
        free.filter_map(|lane| lane.waiting.first()).map(|(due, _)| *due).min()
    }
}

/// Tells an account how its review ended, if it has a callback.
pub(super) fn tell(world: &mut World, audit: &Audit, ending: Ending) {
    let event = format!("{}_audit_info", json!(audit.kind).as_str().unwrap_or_default());
    let head = [("Event", json!(event)), ("audit_id", json!(audit.audit_id))];
    let fields = head.into_iter().chain([("status", json!(ending.status))]).chain(ending.fields);
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
    Ok(put(world, app_id, None, String::new(), text))
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
    let missing = |name: &str| fields.iter().all(|(own, _)| own != name);
    let common = common.into_iter().filter(|(name, _)| missing(name));
    let common = common.map(|(name, value)| (name.to_owned(), value));
    let fields: Vec<_> = common.chain(fields.clone()).collect();
    let event = fields.iter().find(|(name, _)| name == "Event");
    let event = event.and_then(|(_, name)| name.as_str()).unwrap_or_default().to_owned();
    Ok(put(world, app_id, audit_id, event, message::write(&fields, format)))
}

fn put(
    world: &mut World,
    app_id: &str,
    audit_id: Option<u64>,
    event: String,
    message: String,
) -> u64 {
    let (id, rules) = (world.mint.count("push"), world.rules.clone());
    let lost = rules.push_lose_every > 0 && id.is_multiple_of(rules.push_lose_every);
    let push = Push {
        id,
        app_id: app_id.to_owned(),
        event,
        audit_id,
        state: if lost { State::Lost } else { State::Waiting },
        attempts: Vec::new(),
        message,
        copies: rules.push_duplicates,
        failures: 0,
    };
    let shuffled = world.mint.part("push_shuffle", rules.push_shuffle);
    let due = world.now() + rules.push_delay + shuffled;
    let Outbox { pushes, lanes, .. } = &mut world.outbox;
    pushes.insert(id, push);
    if pushes.len() > LIMIT {
        pushes.pop_first();
    }
    if !lost {
        lanes.entry(app_id.to_owned()).or_default().waiting.insert((due, id));
        world.outbox.wake();
    }
    id
}

/// Takes out of the outbox what is to be sent now.
fn take(world: &mut World) -> Vec<Letter> {
    let now = world.now();
    let mut due = Vec::new();
    for lane in world.outbox.lanes.values_mut() {
        while lane.under_way < AT_ONCE
            && let Some(&(at, push)) = lane.waiting.first()
            && at <= now
        {
            lane.waiting.pop_first();
            // What is forgotten is not sent.
            if let Some(push) = world.outbox.pushes.get(&push) {
                lane.under_way += 1;
                due.push((push.id, push.app_id.clone(), push.message.clone()));
            }
        }
    }
    let letter = |(push, app_id, message): (_, String, _)| {
        let stamp = stamp(world);
        let tenant = world.accounts.get(&app_id)?;
        let (to, from) = (tenant.original_id.clone(), tenant.open_id.clone());
        let (era, callback) = (world.outbox.era, tenant.callback.clone());
        Some(Letter { era, push, app_id, callback, to, from, message, stamp, sent: now })
    };
    due.into_iter().filter_map(letter).collect()
}

fn stamp(world: &mut World) -> Stamp {
    Stamp {
        timestamp: world.clock.unix().to_string(),
        nonce: world.mint.below("nonce", 10_000_000_000).to_string(),
        random: world.mint.bytes("sealed"),
    }
}

/// Notes what became of a letter, and when it goes out again if it has to.
fn settle(world: &mut World, letter: &Letter, attempt: Attempt) {
    let now = world.now();
    let Outbox { pushes, lanes, era, .. } = &mut world.outbox;
    let Some(lane) = lanes.get_mut(&letter.app_id).filter(|_| *era == letter.era) else { return };
    lane.under_way -= 1;
    let Some(push) = pushes.get_mut(&letter.push) else { return };
    let taken = attempt.outcome == deliver::TAKEN;
    push.attempts.push(attempt);
    let again = if taken {
        push.failures = 0;
        let more = push.copies > 0;
        push.copies = push.copies.saturating_sub(1);
        more.then_some(now)
    } else {
        push.failures += 1;
        // From one sending to the next, so that a timeout leaves nothing to wait for.
        let next = letter.sent + world.rules.push_retry_pause;
        (push.failures <= world.rules.push_retries).then_some(next.max(now))
    };
    match again {
        Some(due) => drop(lane.waiting.insert((due, letter.push))),
        None => push.state = if taken { State::Delivered } else { State::GivenUp },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Clock,
        simulator::{
            CALLBACK_TOKEN, OFFICIAL_APP_ID, Settings,
            audit::{self, Decision, Kind},
        },
    };

    fn world(seed: u64) -> World {
        let mut settings = Settings { seed, clock: Clock::frozen(), ..Settings::default() };
        settings.accounts[0].callback = Some(Callback {
            url: "http://127.0.0.1".to_owned(),
            token: CALLBACK_TOKEN.to_owned(),
            encoding_aes_key: String::new(),
            mode: Mode::Plain,
            format: Format::Json,
        });
        World::new(settings)
    }

    fn push_some(world: &mut World, count: u64) {
        for number in 1..=count {
            let fields = json!({ "Event": "test", "number": number });
            event(world, OFFICIAL_APP_ID, fields.as_object().cloned().expect("fields"))
                .expect("a callback");
        }
    }

    /// The order in which pushes leave, and the nonces that they leave with.
    fn shuffled(seed: u64) -> Vec<(u64, String)> {
        let mut world = world(seed);
        world.rules.push_shuffle = Duration::from_secs(1);
        push_some(&mut world, 20);
        let steps = (0..=1000).flat_map(|_| {
            let letters = take(&mut world);
            world.clock.advance(Duration::from_millis(1));
            letters.into_iter().map(|letter| (letter.push, letter.stamp.nonce))
        });
        steps.collect()
    }

    #[test]
    fn the_seed_decides_who_overtakes_whom() {
        let order = shuffled(1);
        assert_eq!(order.len(), 20);
        assert_eq!(order, shuffled(1));
        assert_ne!(order, shuffled(2));
        assert!(!order.is_sorted_by_key(|(push, _)| *push), "nobody overtook anybody");
    }

    #[test]
    fn a_push_waits_for_its_delay_and_some_are_lost() {
        let mut world = world(1);
        world.rules.push_delay = Duration::from_secs(60);
        world.rules.push_lose_every = 2;
        push_some(&mut world, 4);
        world.clock.advance(Duration::from_secs(59));
        assert!(take(&mut world).is_empty());
        world.clock.advance(Duration::from_secs(1));
        let sent: Vec<_> = take(&mut world).iter().map(|letter| letter.push).collect();
        assert_eq!(sent, [1, 3]);
        let states: Vec<_> = world.outbox.list().iter().map(|push| push.state).collect();
        assert_eq!(states, [State::Waiting, State::Lost, State::Waiting, State::Lost]);
    }

    #[test]
    fn nothing_is_pushed_in_silence_or_to_nobody() {
        let mut world = world(1);
        let mut rejected = |app_id: &str, silently: bool| {
            let audit_id = audit::open(&mut world, app_id, Kind::ApplyMerchant, "");
            if silently {
                audit::end(&mut world, audit_id, Decision::Reject, String::new()).expect("open");
            } else {
                audit::decide(&mut world, audit_id, Decision::Reject, String::new()).expect("open");
            }
            world.outbox.list().len()
        };
        assert_eq!(rejected(OFFICIAL_APP_ID, true), 0);
        assert_eq!(rejected(crate::simulator::MINI_PROGRAM_APP_ID, false), 0);
        assert_eq!(rejected(OFFICIAL_APP_ID, false), 1);
        let nobody = text(&mut world, crate::simulator::MINI_PROGRAM_APP_ID, String::new());
        assert!(nobody.expect_err("no callback").contains("has no callback"));
    }
}
