//! Tickets (component_verify_ticket): WeChat pushes one every ten minutes, and a component needs a valid
//! one for its token.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{by_secret, find};
use crate::{
    endpoint::{Call, done},
    error::Refusal,
    push,
    world::World,
};

/// A ticket is valid for this time.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// This many tickets are remembered, more than two weeks of them.
const LIMIT: usize = 2500;
const LENGTH: usize = 86;

/// A component's tickets.
#[derive(Debug)]
pub(crate) struct Tickets {
    pub(crate) pushing: bool,
    next: Instant,
    made: VecDeque<(String, Instant)>,
}

impl Tickets {
    pub(super) const fn new(first: Instant) -> Self {
        Self { pushing: true, next: first, made: VecDeque::new() }
    }

    /// Pushes the next one at this time.
    pub(super) const fn push_at(&mut self, next: Instant) {
        self.next = next;
    }

    const fn set_pushing(&mut self, pushing: bool, now: Instant) {
        if pushing && !self.pushing {
            self.next = now;
        }
        self.pushing = pushing;
    }

    /// Returns the number of tickets so far.
    pub(crate) fn count(&self) -> usize {
        self.made.len()
    }

    /// Checks a ticket that a component sends.
    pub(super) fn check(&self, ticket: &str, now: Instant) -> Result<(), Refusal> {
        let made = self.made.iter().find(|(own, _)| own == ticket);
        let (_, since) = made.ok_or(Refusal::new(61006))?;
        if now < *since + LIFE { Ok(()) } else { Err(Refusal::new(61005)) }
    }
}

/// `POST /cgi-bin/component/api_start_push_ticket` — 启动ticket推送服务
///
/// The secret's field has another name than in api_component_token. While tickets are pushed already, a
/// component must wait for its next one.
pub(super) fn start(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let now = world.now();
    let tickets = &mut by_secret(world, call, "component_secret")?.tickets;
    if tickets.pushing {
        return Ok(json!({ "errcode": 0, "errmsg": "ticket push service is in a normal state" }));
    }
    tickets.set_pushing(true, now);
    world.outbox.wake();
    Ok(done())
}

/// Stops the tickets, or starts them again with one at once.
pub(super) fn set_pushing(world: &mut World, component: &str, pushing: bool) -> Result<(), String> {
    let now = world.now();
    find(world, component)?.tickets.set_pushing(pushing, now);
    world.outbox.wake();
    Ok(())
}

/// Makes a ticket and pushes it now.
pub(crate) fn push(
    world: &mut World,
    component: &str,
    create_time: Option<u64>,
) -> Result<u64, String> {
    let ticket = format!("ticket@@@{}", world.mint.text("ticket", LENGTH));
    let fields = [("ComponentVerifyTicket", json!(ticket))];
    let push =
        push::to_component(world, component, create_time, "component_verify_ticket", &fields)?;
    let now = world.now();
    let made = &mut find(world, component)?.tickets.made;
    made.push_back((ticket, now));
    if made.len() > LIMIT {
        made.pop_front();
    }
    Ok(push)
}

/// Pushes the tickets that are due. However far the clock was advanced, that is one for each component.
pub(crate) fn push_due(world: &mut World) {
    let now = world.now();
    let mut due = Vec::new();
    for (app_id, state) in &mut world.components {
        let receives = state.settings.events_url.is_some();
        if receives && state.tickets.pushing && state.tickets.next <= now {
            state.tickets.next = now + state.settings.ticket_interval;
            due.push(app_id.clone());
        }
    }
    for component in due {
        // It has an address, so there is no error to report.
        let _ = push(world, &component, None);
    }
}

/// Returns the moment at which the next ticket is due.
pub(crate) fn next_due(world: &World) -> Option<Instant> {
    let states = world.components.values();
    let pushing =
        states.filter(|state| state.tickets.pushing && state.settings.events_url.is_some());
    pushing.map(|state| state.tickets.next).min()
}
