//! Writes that WeChat wants one after another.
//!
//! Within this process callers stand in line, in the order of asking; among replicas a lease says
//! whose turn it is, and how long the lane rests after each call. It is short, and prolonged while
//! the caller waits, so that a replica that froze holds up the others for moments. Before a call is
//! sent it is prolonged for as long as that may take; where it was lost the call is not sent. What
//! cannot be fenced at WeChat, a replica that froze between that and the socket, ends with the term.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, Operations};
use crate::{
    context::Context,
    state::{self, Acquired, State},
    util::clock::Clock,
    util::keyed_mutex::KeyGuard,
    wechat::Endpoint,
};

/// How often it is looked whether another replica has left the lane.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a lane is held by a replica that froze before it sent anything.
const LEASE: Duration = Duration::from_secs(3);
const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// Beyond WeChat's time to answer: then the call is over in any case.
const TERM_MARGIN: Duration = Duration::from_secs(5);

/// A lane that is ours, until it is left or lost.
#[derive(Debug)]
pub(super) struct Lane {
    hold: Arc<Hold>,
    /// After an answer, until the next call.
    pace: Duration,
    /// After no answer: the call may still arrive.
    limit: Duration,
    _turn: KeyGuard<String>,
    _keeping: DropGuard,
}

/// The lease of a lane.
#[derive(Debug)]
pub(super) struct Hold {
    state: Arc<dyn State>,
    clock: Clock,
    name: String,
    fence: u64,
    /// Until when a call that was sent may take. Held while the lease is changed, so that it is not
    /// made shorter.
    sent_until: Mutex<Instant>,
}

impl Hold {
    /// Prolongs the lease for a call that is about to be sent. False if it was lost.
    pub(super) async fn send(&self, limit: Duration) -> Result<bool, state::Error> {
        let mut sent_until = self.sent_until.lock().await;
        let term = limit + TERM_MARGIN;
        let held = self.state.renew(&self.name, self.fence, term).await?;
        *sent_until = self.clock.now() + term;
        Ok(held)
    }

    /// Prolongs the lease until it is lost.
    async fn keep(&self) {
        loop {
            self.clock.sleep(LEASE_RENEWAL).await;
            let sent_until = self.sent_until.lock().await;
            let term = LEASE.max(sent_until.saturating_duration_since(self.clock.now()));
            // Where the state failed it may work again in time.
            if let Ok(false) = self.state.renew(&self.name, self.fence, term).await {
                return;
            }
        }
    }
}

impl Operations {
    /// Waits for a lane. Told at once where the turn cannot come in time.
    pub(super) async fn enter_lane<E: Endpoint>(
        &self,
        ctx: &Context,
        name: String,
        pace: Duration,
        left: &CancellationToken,
    ) -> Result<Lane, Error> {
        let enter = self.take_lane::<E>(ctx, name, pace);
        left.run_until_cancelled(enter).await.unwrap_or(Err(Error::Deadline))
    }

    async fn take_lane<E: Endpoint>(
        &self,
        ctx: &Context,
        name: String,
        pace: Duration,
    ) -> Result<Lane, Error> {
        let busy = |wait| Error::LaneBusy { path: E::PATH, wait };
        let patience = || ctx.patience(self.clock());
        let before_us = pace * self.0.lanes.callers(&name);
        if before_us >= patience() {
            return Err(busy(before_us));
        }
        let too_late = self.clock().now() + patience();
        let turn = tokio::select! {
            biased;
            turn = self.0.lanes.take(name.clone()) => turn,
            () = self.clock().sleep_until(too_late) => return Err(busy(pace)),
        };
        loop {
            match self.0.state.acquire(&name, LEASE).await? {
                Acquired::Lease(fence) => {
                    return Ok(self.held(name, fence, pace, E::REPLY_LIMIT, turn));
                }
                // It may end sooner, but nobody knows.
                Acquired::Taken(rest) if patience().is_zero() => return Err(busy(rest)),
                Acquired::Taken(rest) => {
                    self.clock().sleep(rest.min(LOOK_AGAIN).min(patience())).await;
                }
            }
        }
    }

    fn held(
        &self,
        name: String,
        fence: u64,
        pace: Duration,
        limit: Duration,
        turn: KeyGuard<String>,
    ) -> Lane {
        let (state, clock) = (self.0.state.clone(), self.clock().clone());
        let sent_until = Mutex::new(clock.now());
        let hold = Arc::new(Hold { state, clock, name, fence, sent_until });
        let left = CancellationToken::new();
        tokio::spawn({
            let (hold, left) = (hold.clone(), left.clone());
            async move { left.run_until_cancelled(hold.keep()).await }
        });
        Lane { hold, pace, limit, _turn: turn, _keeping: left.drop_guard() }
    }
}

impl Lane {
    /// Its lease.
    pub(super) fn hold(&self) -> Arc<Hold> {
        self.hold.clone()
    }

    /// Leaves it to the next, after a rest; a longer one where the call may still arrive.
    pub(super) async fn leave(self, in_doubt: bool) {
        let rest = if in_doubt { self.limit } else { self.pace };
        // The lease is not prolonged any more, nor while it is given back.
        let _sent_until = self.hold.sent_until.lock().await;
        let Hold { state, name, fence, .. } = &*self.hold;
        // Where this fails the lane is free when its term is over.
        if let Err(error) = state.free(name, *fence, rest).await {
            tracing::warn!(lane = name, "failed to release a write queue: {error}");
        }
    }
}
