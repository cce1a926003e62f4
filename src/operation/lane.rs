//! Writes that WeChat wants one after another.
//!
//! Within this process callers stand in line, in the order of asking; among replicas a lease says
//! whose turn it is, and how long the lane rests after each call. What cannot be fenced at WeChat, a
//! replica that froze between its last look and the socket, ends with the lease's term.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Error, Operations, turns::Turn};
use crate::{context::Context, state::Acquired, wechat::Endpoint};

/// How often it is looked whether another replica has left the lane.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Beyond the deadline and WeChat's time to answer: then the call is over in any case.
const TERM_MARGIN: Duration = Duration::from_secs(5);

/// A lane that is ours, until it is left or its term is over.
#[derive(Debug)]
pub(super) struct Lane {
    ops: Operations,
    name: String,
    fence: u64,
    /// After an answer, until the next call.
    pace: Duration,
    /// After no answer: the call may still arrive.
    limit: Duration,
    _turn: Turn<String>,
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
        let before_us = pace * self.0.lanes.people(&name);
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
            let term = ctx.time_left(self.clock()) + E::REPLY_LIMIT + TERM_MARGIN;
            match self.0.state.acquire(&name, term).await? {
                Acquired::Lease(fence) => {
                    let (ops, limit) = (self.clone(), E::REPLY_LIMIT);
                    return Ok(Lane { ops, name, fence, pace, limit, _turn: turn });
                }
                // It may end sooner, but nobody knows.
                Acquired::Taken(rest) if patience().is_zero() => return Err(busy(rest)),
                Acquired::Taken(rest) => {
                    self.clock().sleep(rest.min(LOOK_AGAIN).min(patience())).await;
                }
            }
        }
    }
}

impl Lane {
    /// Leaves it to the next, after a rest; a longer one where the call may still arrive.
    pub(super) async fn leave(self, in_doubt: bool) {
        let rest = if in_doubt { self.limit } else { self.pace };
        // Where this fails the lane is free when its term is over.
        if let Err(error) = self.ops.0.state.free(&self.name, self.fence, rest).await {
            tracing::warn!(lane = self.name, "a lane cannot be given back: {error}");
        }
    }
}
