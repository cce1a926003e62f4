//! Reviews: every audited write opens one, and somebody, or time, decides it.
//!
//! [`decide`] is the only place where a review ends, so what is to be pushed then starts there.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{map_poi, merchant, nearby, store, world::World};

/// How long the administrator of an account has to confirm that a merchant applies.
pub(super) const CONFIRMATION: Duration = Duration::from_secs(24 * 3600);

/// One review.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Audit {
    pub(super) audit_id: u64,
    pub(super) app_id: String,
    pub(super) kind: Kind,
    pub(super) state: State,
    /// Seconds since 1970 by the simulator's clock.
    pub(super) created: u64,
    #[serde(skip)]
    pub(super) since: Instant,
    /// What is reviewed: a store, a place, a name.
    pub(super) subject: String,
    pub(super) reason: String,
    /// The id that an approval made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<String>,
}

/// What is reviewed. The names are those of WeChat's events, without `_audit_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    AddNearbyPoi,
    AddStore,
    ApplyMerchant,
    CreateMapPoi,
    ModifyStore,
}

/// Where a review stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Approved,
    /// The account's administrator has not confirmed yet; merchants only.
    AwaitingAdmin,
    /// The administrator said no; merchants only.
    Declined,
    /// The administrator said nothing for 24 hours; merchants only.
    Lapsed,
    Pending,
    Rejected,
    /// What was reviewed is gone or was submitted anew.
    Withdrawn,
}

/// What a reviewer can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decision {
    Approve,
    /// The administrator's yes, after which the review proper begins; merchants only.
    Confirm,
    /// The administrator's no; merchants only.
    Decline,
    Reject,
}

impl State {
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::AwaitingAdmin | Self::Pending)
    }
}

/// Opens a review and answers its id.
pub(super) fn open(world: &mut World, app_id: &str, kind: Kind, subject: &str) -> u64 {
    // WeChat's own numbers for places are much smaller than those for everything else.
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
        app_id: app_id.to_owned(),
        kind,
        state,
        created: world.clock.unix(),
        since: world.now(),
        subject: subject.to_owned(),
        reason: String::new(),
        result: None,
    };
    world.audits.insert(audit_id, audit);
    audit_id
}

/// Ends a review that has lost its object.
pub(super) fn withdraw(world: &mut World, audit_id: u64) {
    if let Some(audit) = world.audits.get_mut(&audit_id)
        && audit.state.is_open()
    {
        audit.state = State::Withdrawn;
    }
}

/// Decides a review and lets the decision take effect.
pub(super) fn decide(
    world: &mut World,
    audit_id: u64,
    decision: Decision,
    reason: &str,
) -> Result<Audit, String> {
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
    audit.reason = reason.to_owned();
    let decided = audit.clone();
    let result = match decided.kind {
        Kind::AddNearbyPoi => nearby::decided(world, &decided),
        Kind::AddStore => store::added(world, &decided),
        Kind::ApplyMerchant => merchant::decided(world, &decided),
        Kind::CreateMapPoi => map_poi::decided(world, &decided),
        Kind::ModifyStore => store::pictures_decided(world, &decided),
    };
    if let Some(audit) = world.audits.get_mut(&audit_id) {
        audit.result.clone_from(&result);
    }
    Ok(Audit { result, ..decided })
}

/// Decides what time has decided: reviews past the delay pass, waiting applications lapse.
pub(super) fn settle_due(world: &mut World) {
    let (now, delay) = (world.now(), world.rules.audit_delay);
    let open = world.audits.values().filter(|audit| audit.state.is_open());
    let waited = open.map(|audit| (audit.audit_id, audit.state, now - audit.since));
    for (audit_id, state, waited) in waited.collect::<Vec<_>>() {
        if delay.is_some_and(|delay| waited >= delay) {
            // An open review can be approved, so there is no error to tell anybody of.
            let _ = decide(world, audit_id, Decision::Approve, "");
        } else if state == State::AwaitingAdmin && waited >= CONFIRMATION {
            if let Some(audit) = world.audits.get_mut(&audit_id) {
                audit.state = State::Lapsed;
            }
        }
    }
}
