//! The outbox: keeps each push until it was sent, and the result of each attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use tokio::sync::Notify;

use super::{Attempt, Callback, Push, Recipient, State, deliver};
use crate::{cloud, world::World};

/// At most this many pushes to one account are under way at once.
const AT_ONCE: usize = 32;
/// The outbox keeps this many pushes.
const LIMIT: usize = 100_000;

/// All pushes, and when each is due.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pushes: BTreeMap<u64, Push>,
    /// The queue of each account and component, so that a dead server delays no other account.
    queues: BTreeMap<String, Queue>,
    /// The number of resets. A sending from before the last reset must not change the world after
    /// it.
    era: u64,
    /// Wakes the delivery.
    pub(super) wake: Arc<Notify>,
}

/// The pushes to one account or component that are not done.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<(Instant, u64)>,
    under_way: usize,
}

/// One attempt to send a push. It holds all that the attempt needs, so the world is not locked
/// meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) era: u64,
    pub(super) push: u64,
    pub(super) app_id: String,
    /// The account or the component that owns the queue. The push is encrypted for its id.
    pub(super) owner: String,
    pub(super) callback: Option<Callback>,
    /// The field of the envelope that names the recipient, and its value.
    pub(super) to: (&'static str, String),
    /// The person that the query names. An event about authorizations names none.
    pub(super) from: Option<String>,
    pub(super) message: String,
    /// The token that a request to a container in cloud hosting brings.
    pub(super) cloud_token: Option<String>,
    pub(super) stamp: Stamp,
    pub(super) sent: Instant,
}

/// The values that are new for each signature.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub(super) timestamp: String,
    pub(super) nonce: String,
    pub(super) random: [u8; 16],
}

impl Outbox {
    /// Returns an empty outbox for the same delivery.
    pub(crate) fn reset(&self) -> Self {
        Self { era: self.era + 1, wake: self.wake.clone(), ..Self::default() }
    }

    /// Makes the delivery compute its next moment again.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns every push so far, ordered by id.
    pub(crate) fn list(&self) -> Vec<Push> {
        self.pushes.values().cloned().collect()
    }

    /// Returns the push with this number.
    pub(super) fn find(&self, id: u64) -> Option<&Push> {
        self.pushes.get(&id)
    }

    /// Returns the moment at which the next push is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let free = self.queues.values().filter(|queue| queue.under_way < AT_ONCE);
        free.filter_map(|queue| queue.waiting.first()).map(|(due, _)| *due).min()
    }
}

/// Puts a push into the outbox and returns its number.
pub(super) fn put(
    world: &mut World,
    to: Recipient,
    audit_id: Option<u64>,
    event: String,
    message: String,
) -> u64 {
    let (id, rules) = (world.mint.count("push"), world.rules.clone());
    let lost = rules.push_lose_every > 0 && id.is_multiple_of(rules.push_lose_every);
    let Recipient { app_id, component } = to;
    let owner = component.clone().unwrap_or(app_id.clone());
    let push = Push {
        id,
        app_id,
        component,
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
    let Outbox { pushes, queues, .. } = &mut world.outbox;
    pushes.insert(id, push);
    if pushes.len() > LIMIT {
        pushes.pop_first();
    }
    if !lost {
        queues.entry(owner).or_default().waiting.insert((due, id));
        world.outbox.wake();
    }
    id
}

/// Takes the pushes that are due out of the outbox.
pub(super) fn take(world: &mut World) -> Vec<Letter> {
    let now = world.now();
    let mut due = Vec::new();
    for queue in world.outbox.queues.values_mut() {
        while queue.under_way < AT_ONCE
            && let Some(&(at, push)) = queue.waiting.first()
            && at <= now
        {
            queue.waiting.pop_first();
            // A push that the outbox has forgotten is not sent.
            if let Some(push) = world.outbox.pushes.get(&push) {
                queue.under_way += 1;
                due.push(push.clone());
            }
        }
    }
    due.into_iter().filter_map(|push| letter(world, push, now)).collect()
}

/// Returns the next attempt to send a push.
fn letter(world: &mut World, push: Push, sent: Instant) -> Option<Letter> {
    let (stamp, era) = (stamp(world), world.outbox.era);
    let Push { id, app_id, component, message, .. } = push;
    let owner = component.clone().unwrap_or(app_id.clone());
    let settings = component.and_then(|id| world.components.get(&id)).map(|state| &state.settings);
    let (callback, to, from) = match settings {
        Some(component) if component.app_id == app_id => {
            (component.events(), ("AppId", app_id.clone()), None)
        }
        about_account => {
            let tenant = world.accounts.get(&app_id)?;
            let callback = match about_account {
                Some(component) => component.messages(),
                None => tenant.callback.clone(),
            };
            (callback, ("ToUserName", tenant.original_id.clone()), Some(tenant.open_id.clone()))
        }
    };
    let cloud_token = cloud::token(world, &app_id);
    let push = id;
    Some(Letter { era, push, app_id, owner, callback, to, from, message, cloud_token, stamp, sent })
}

/// Returns new values for the next signature.
pub(super) fn stamp(world: &mut World) -> Stamp {
    Stamp {
        timestamp: world.clock.unix().to_string(),
        nonce: world.mint.below("nonce", 10_000_000_000).to_string(),
        random: world.mint.bytes("sealed"),
    }
}

/// Records the result of an attempt, and schedules the next one if there is one.
pub(super) fn record(world: &mut World, letter: &Letter, attempt: Attempt) {
    let now = world.now();
    let Outbox { pushes, queues, era, .. } = &mut world.outbox;
    let Some(queue) = queues.get_mut(&letter.owner).filter(|_| *era == letter.era) else { return };
    queue.under_way -= 1;
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
        // The pause is counted from one attempt to the next, so after a timeout there is nothing
        // left to wait for.
        let next = letter.sent + world.rules.push_retry_pause;
        (push.failures <= world.rules.push_retries).then_some(next.max(now))
    };
    match again {
        Some(due) => drop(queue.waiting.insert((due, letter.push))),
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
        endpoint::Call,
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

    /// Returns the order in which pushes leave, and their nonces.
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
    fn seed_decides_the_order() {
        let order = shuffled(1);
        assert_eq!(order.len(), 20);
        assert_eq!(order, shuffled(1));
        assert_ne!(order, shuffled(2));
        assert!(!order.is_sorted_by_key(|(push, _)| *push), "no push overtook another");
    }

    #[test]
    fn pushes_are_delayed_and_lost_as_set() {
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
    fn silent_decision_pushes_nothing() {
        let mut world = world(1);
        let mut rejected = |app_id: &str, silently: bool| {
            let audit_id = audit::open(&mut world, &Call::by(app_id), Kind::ApplyMerchant, "");
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
        let refused = push::text(&mut world, MINI_PROGRAM_APP_ID, String::new());
        assert!(refused.expect_err("no callback").contains("has no callback"));
    }
}
