//! Reviews: every reviewed write opens one, and a request or the passing of time decides it.
//!
//! Reviews end only in `end`, and accounts are notified only in `decide`.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{endpoint::Call, map_poi, merchant, nearby, push, store, world::World};

/// An account's administrator must confirm a merchant's application within this time.
pub(super) const CONFIRMATION: Duration = Duration::from_secs(24 * 3600);

/// A review.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Audit {
    /// The id. For a map place it is the `base_id` that create_map_poi returned.
    pub audit_id: u64,
    /// The account that submitted.
    pub app_id: String,
    /// The component whose token submitted for the account. It receives the event of the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The kind of the submission.
    pub kind: Kind,
    /// The state of the review.
    pub state: State,
    /// When it was opened, in seconds since 1970 by the simulator's clock.
    pub created: u64,
    #[serde(skip)]
    since: Instant,
    /// The subject: the name of a store, place or merchant, or the id of a changed store.
    pub subject: String,
    /// The reason that the reviewer gave.
    pub reason: String,
    /// The id that an approval created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// The subject of a review. The names are those of WeChat's events, without `_audit_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A nearby place, new or changed.
    AddNearbyPoi,
    /// A new store, or one that migrates.
    AddStore,
    /// A merchant.
    ApplyMerchant,
    /// A place on the map.
    CreateMapPoi,
    /// New pictures of a store.
    ModifyStore,
}

/// The state of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The review passed.
    Approved,
    /// The account's administrator has not confirmed yet. Only merchants have this state.
    AwaitingAdmin,
    /// The account's administrator declined. Only merchants have this state.
    Declined,
    /// The account's administrator did not answer for 24 hours. Only merchants have this state.
    Lapsed,
    /// The review is under way.
    Pending,
    /// The review failed.
    Rejected,
    /// The subject is gone, or was submitted again.
    Withdrawn,
}

/// A decision about a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Passes the review. If an administrator has not confirmed yet, that happens too.
    Approve,
    /// Confirms for the administrator, which starts the review itself. Only for merchants.
    Confirm,
    /// Declines for the administrator. Only for merchants.
    Decline,
    /// Fails the review.
    Reject,
}

/// The result of a review, and the content of its event.
#[derive(Debug)]
pub(super) struct Ending {
    /// The id that an approval created.
    pub(super) result: Option<String>,
    /// The number that stands for the decision. The same number has another meaning in other
    /// events.
    pub(super) status: i64,
    /// The fields after audit_id and status, with WeChat's spelling and types.
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl State {
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::AwaitingAdmin | Self::Pending)
    }
}

/// Opens a review and returns its id.
pub(super) fn open(world: &mut World, call: &Call, kind: Kind, subject: &str) -> u64 {
    // WeChat's own numbers for map places are much smaller than all others.
    let audit_id = match kind {
        Kind::CreateMapPoi => 42_160 + world.mint.count("base_id"),
        _ => 414_569_000 + world.mint.count("audit_id"),
    };
    let state = match kind {
        Kind::ApplyMerchant => State::AwaitingAdmin,
        _ => State::Pending,
    };
    let audit = Audit {
        audit_id,
        app_id: call.app_id.clone(),
        component: call.component.clone(),
        kind,
        state,
        created: world.clock.unix(),
        since: world.now(),
        subject: subject.to_owned(),
        reason: String::new(),
        result: None,
    };
    world.audits.insert(audit_id, audit);
    // The review may pass by time alone, so the sleeping delivery must compute its next moment
    // again.
    world.outbox.wake();
    audit_id
}

/// Ends a review whose subject is gone.
pub(super) fn withdraw(world: &mut World, audit_id: u64) {
    if let Some(audit) = world.audits.get_mut(&audit_id)
        && audit.state.is_open()
    {
        audit.state = State::Withdrawn;
    }
}

/// Decides a review, applies the decision, and notifies the account.
pub(super) fn decide(
    world: &mut World,
    audit_id: u64,
    decision: Decision,
    reason: String,
) -> Result<Audit, String> {
    let (audit, ending) = end(world, audit_id, decision, reason)?;
    if let Some(ending) = ending {
        push::notify(world, &audit, ending);
    }
    Ok(audit)
}

/// Decides a review and applies the decision, without notifying the account.
pub(super) fn end(
    world: &mut World,
    audit_id: u64,
    decision: Decision,
    reason: String,
) -> Result<(Audit, Option<Ending>), String> {
    let audit = world.audits.get_mut(&audit_id).ok_or(format!("there is no audit {audit_id}"))?;
    if !audit.state.is_open() {
        return Err(format!("audit {audit_id} is closed: {:?}", audit.state));
    }
    audit.state = match (decision, audit.state) {
        (Decision::Approve, _) => State::Approved,
        (Decision::Reject, _) => State::Rejected,
        (Decision::Confirm, State::AwaitingAdmin) => State::Pending,
        (Decision::Decline, State::AwaitingAdmin) => State::Declined,
        (Decision::Confirm | Decision::Decline, _) => {
            return Err(format!("audit {audit_id} does not wait for an administrator"));
        }
    };
    audit.reason = reason;
    let decided = audit.clone();
    if decided.state.is_open() {
        return Ok((decided, None));
    }
    let ending = match decided.kind {
        Kind::AddNearbyPoi => nearby::decided(world, &decided),
        Kind::AddStore => store::added(world, &decided),
        Kind::ApplyMerchant => merchant::decided(world, &decided),
        Kind::CreateMapPoi => map_poi::decided(world, &decided),
        Kind::ModifyStore => store::pictures_decided(world, &decided),
    };
    let result = ending.as_ref().and_then(|ending| ending.result.clone());
    if let Some(audit) = world.audits.get_mut(&audit_id) {
        audit.result.clone_from(&result);
    }
    Ok((Audit { result, ..decided }, ending))
}

/// Applies what time decides: reviews older than the delay pass, and unconfirmed applications
/// lapse.
pub(super) fn decide_due(world: &mut World) {
    let (now, delay) = (world.now(), world.rules.audit_delay);
    let passes = |audit: &Audit| delay.is_some_and(|delay| now - audit.since >= delay);
    let lapses =
        |audit: &Audit| audit.state == State::AwaitingAdmin && now - audit.since >= CONFIRMATION;
    let open = world.audits.values().filter(|audit| audit.state.is_open());
    let due = open.filter(|audit| passes(audit) || lapses(audit));
    let due: Vec<_> = due.map(|audit| (audit.audit_id, passes(audit))).collect();
    for (audit_id, passes) in due {
        if passes {
            // An open review can always be approved, so there is no error to report.
            let _ = decide(world, audit_id, Decision::Approve, String::new());
        } else if let Some(audit) = world.audits.get_mut(&audit_id) {
            audit.state = State::Lapsed;
        }
    }
}

/// Returns the moment at which the next review passes by time alone.
pub(super) fn next_due(world: &World) -> Option<Instant> {
    let delay = world.rules.audit_delay?;
    let open = world.audits.values().filter(|audit| audit.state.is_open());
    open.filter_map(|audit| audit.since.checked_add(delay)).min()
}

#[cfg(test)]
mod tests {
    use wechat_clock::Clock;

    use super::*;
    use crate::Settings;

    fn world(audit_delay: Option<Duration>) -> World {
        World::new(Settings { clock: Clock::frozen(), audit_delay, ..Settings::default() })
    }

    fn state_after(world: &mut World, audit_id: u64, seconds: u64) -> State {
        world.clock.advance(Duration::from_secs(seconds));
        decide_due(world);
        world.audits[&audit_id].state
    }

    #[test]
    fn open_review_passes_after_delay() {
        let mut world = world(Some(Duration::from_secs(10)));
        let audit_id = open(&mut world, &Call::by("wx1"), Kind::AddStore, "");
        assert_eq!(state_after(&mut world, audit_id, 9), State::Pending);
        assert_eq!(state_after(&mut world, audit_id, 1), State::Approved);
    }

    #[test]
    fn unconfirmed_application_lapses_after_a_day() {
        let mut world = world(None);
        let lapsing = open(&mut world, &Call::by("wx1"), Kind::ApplyMerchant, "");
        let confirmed = open(&mut world, &Call::by("wx2"), Kind::ApplyMerchant, "");
        let decided = decide(&mut world, confirmed, Decision::Confirm, String::new());
        assert_eq!(decided.map(|audit| audit.state), Ok(State::Pending));
        assert_eq!(state_after(&mut world, lapsing, 86_399), State::AwaitingAdmin);
        assert_eq!(state_after(&mut world, lapsing, 1), State::Lapsed);
        assert_eq!(state_after(&mut world, confirmed, 0), State::Pending);
    }

    #[test]
    fn decided_review_cannot_be_decided_again() {
        let mut world = world(None);
        let audit_id = open(&mut world, &Call::by("wx1"), Kind::AddStore, "");
        let declined = decide(&mut world, audit_id, Decision::Decline, String::new());
        assert!(declined.is_err(), "no administrator is asked about a store");
        assert!(decide(&mut world, audit_id, Decision::Reject, "blurred".to_owned()).is_ok());
        assert!(decide(&mut world, audit_id, Decision::Approve, String::new()).is_err());
        assert_eq!(world.audits[&audit_id].reason, "blurred");
    }
}
