//! What is to be pushed, until it was, and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use tokio::sync::Notify;

use super::{Attempt, Callback, Push, State, deliver};
use crate::world::World;

/// How many pushes to one account are under way at once.
const AT_ONCE: usize = 32;
/// How many pushes are remembered.
const LIMIT: usize = 100_000;

/// All pushes, and which of them are to be sent when.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pushes: BTreeMap<u64, Push>,
    /// By account, so that one whose server is dead does not hold up the others.
    lanes: BTreeMap<String, Lane>,
    /// Counts resets: what was under way before one is none of the world's business after it.
    era: u64,
    /// Wakes the delivery.
    pub(super) wake: Arc<Notify>,
}

/// An account's way out.
#[derive(Debug, Default)]
struct Lane {
    waiting: BTreeSet<(Instant, u64)>,
    under_way: usize,
}

/// One sending of one push: everything it takes, so that the world can go on meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) era: u64,
    pub(super) push: u64,
    pub(super) app_id: String,
    pub(super) callback: Option<Callback>,
    pub(super) to: String,
    pub(super) from: String,
    pub(super) message: String,
    pub(super) stamp: Stamp,
    pub(super) sent: Instant,
}

/// What is new each time something is signed.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub(super) timestamp: String,
    pub(super) nonce: String,
    pub(super) random: [u8; 16],
}

impl Outbox {
    /// An empty one, for the same delivery.
    pub(crate) fn reset(&self) -> Self {
        Self { era: self.era + 1, wake: self.wake.clone(), ..Self::default() }
    }

    /// Lets the delivery look whether there is something to do.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Every push so far, in the order of their ids.
    pub(crate) fn list(&self) -> Vec<Push> {
        self.pushes.values().cloned().collect()
    }

    /// When the next push is to be sent.
    pub(super) fn next(&self) -> Option<Instant> {
        let free = self.lanes.values().filter(|lane| lane.under_way < AT_ONCE);
        free.filter_map(|lane| lane.waiting.first()).map(|(due, _)| *due).min()
    }
}

/// Puts a push into the outbox; answers its number.
pub(super) fn put(
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
pub(super) fn take(world: &mut World) -> Vec<Letter> {
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

/// What the next signature is made of, beside the token.
pub(super) fn stamp(world: &mut World) -> Stamp {
    Stamp {
        timestamp: world.clock.unix().to_string(),
        nonce: world.mint.below("nonce", 10_000_000_000).to_string(),
        random: world.mint.bytes("sealed"),
    }
}

/// Notes what became of a letter, and when it goes out again if it has to.
pub(super) fn settle(world: &mut World, letter: &Letter, attempt: Attempt) {
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

    use serde_json::json;
    use wechat_clock::Clock;

    use super::*;
    use crate::{
        CALLBACK_TOKEN, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, Settings,
        audit::{self, Decision, Kind},
        push::{self, Format, Mode},
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
            push::event(world, OFFICIAL_APP_ID, fields.as_object().cloned().expect("fields"))
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
        assert_eq!(rejected(MINI_PROGRAM_APP_ID, false), 0);
        assert_eq!(rejected(OFFICIAL_APP_ID, false), 1);
        let nobody = push::text(&mut world, MINI_PROGRAM_APP_ID, String::new());
        assert!(nobody.expect_err("no callback").contains("has no callback"));
    }
}
