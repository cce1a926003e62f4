//! Write queues: WeChat accepts some writes only one after another.
//!
//! Within this process callers get their turns in the order of their requests. Among replicas a lease in
//! the state decides which replica has the turn, and how long the queue pauses after each call. The lease
//! is short and is extended while its caller waits, so a frozen replica delays the others only for
//! moments. Before a call is sent the lease is extended for as long as the call may take. If the lease
//! was lost, the call is not sent. WeChat checks no fence: a replica that freezes between the extension
//! and the socket can still send, until the term of its lease is over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Calls, Error};
use crate::{
    context::Context,
    state::{self, Acquired, State},
    util::clock::Clock,
    util::keyed_mutex::KeyGuard,
    wechat::Endpoint,
};

/// How often a waiting replica checks whether another one has released the queue.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// How long a replica keeps the turn that froze before it sent anything.
const LEASE: Duration = Duration::from_secs(3);
const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// A lease lasts this much longer than WeChat's time to answer: the call is over then in any case.
const TERM_MARGIN: Duration = Duration::from_secs(5);

/// The turn of one caller in a write queue, until [`QueueTurn::end`] or until its lease is lost.
#[derive(Debug)]
pub(crate) struct QueueTurn {
    lease: Arc<QueueLease>,
    /// The pause after an answer.
    pace: Duration,
    /// The pause after no answer, because the call may still arrive.
    limit: Duration,
    _turn: KeyGuard<String>,
    _renewing: DropGuard,
}

/// The lease of a write queue.
#[derive(Debug)]
pub(crate) struct QueueLease {
    state: Arc<dyn State>,
    clock: Clock,
    name: String,
    fence: u64,
    /// The time by which a call that was sent is over. Locked while the lease is changed, so that the
    /// lease does not become shorter.
    sent_until: Mutex<Instant>,
}

impl QueueLease {
    /// Extends the lease for a call that is about to be sent. Returns false if the lease was lost.
    pub(super) async fn extend_for_call(&self, limit: Duration) -> Result<bool, state::Error> {
        let mut sent_until = self.sent_until.lock().await;
        let term = limit + TERM_MARGIN;
        let held = self.state.renew(&self.name, self.fence, term).await?;
        *sent_until = self.clock.now() + term;
        Ok(held)
    }

    /// Extends the lease until it is lost.
    async fn renew(&self) {
        loop {
            self.clock.sleep(LEASE_RENEWAL).await;
            let sent_until = self.sent_until.lock().await;
            let term = LEASE.max(sent_until.saturating_duration_since(self.clock.now()));
            // If the state failed, it may work again in time.
            if let Ok(false) = self.state.renew(&self.name, self.fence, term).await {
                return;
            }
        }
    }
}

impl Calls {
    /// Waits for a turn in the write queue `name`. Fails at once if the turn cannot come in time, and
    /// when the caller has left.
    pub(crate) async fn enter_queue<E: Endpoint>(
        &self,
        ctx: &Context,
        name: String,
        pace: Duration,
        left: &CancellationToken,
    ) -> Result<QueueTurn, Error> {
        let enter = self.take_turn::<E>(ctx, name, pace);
        let began = self.clock().now();
        let entered = left.run_until_cancelled(enter).await.unwrap_or(Err(Error::Deadline));
        let wait = self.clock().now() - began;
        self.0.client.metrics().record_write_queue_wait(E::PATH, wait);
        entered
    }

    async fn take_turn<E: Endpoint>(
        &self,
        ctx: &Context,
        name: String,
        pace: Duration,
    ) -> Result<QueueTurn, Error> {
        let busy = |wait| Error::QueueBusy { path: E::PATH, wait };
        let wait_limit = || ctx.wait_limit(self.clock());
        let before_us = pace * self.0.queues.callers(&name);
        if before_us >= wait_limit() {
            return Err(busy(before_us));
        }
        let too_late = self.clock().now() + wait_limit();
        let turn = tokio::select! {
            biased;
            turn = self.0.queues.take(name.clone()) => turn,
            () = self.clock().sleep_until(too_late) => return Err(busy(pace)),
        };
        loop {
            match self.0.state.acquire(&name, LEASE).await? {
                Acquired::Lease(fence) => {
                    return Ok(self.held(name, fence, pace, E::REPLY_LIMIT, turn));
                }
                // It may end sooner, but this is not known.
                Acquired::Taken(rest) if wait_limit().is_zero() => return Err(busy(rest)),
                Acquired::Taken(rest) => {
                    self.clock().sleep(rest.min(CHECK_EVERY).min(wait_limit())).await;
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
    ) -> QueueTurn {
        let (state, clock) = (self.0.state.clone(), self.clock().clone());
        let sent_until = Mutex::new(clock.now());
        let lease = Arc::new(QueueLease { state, clock, name, fence, sent_until });
        let left = CancellationToken::new();
        tokio::spawn({
            let (lease, left) = (lease.clone(), left.clone());
            async move { left.run_until_cancelled(lease.renew()).await }
        });
        QueueTurn { lease, pace, limit, _turn: turn, _renewing: left.drop_guard() }
    }
}

impl QueueTurn {
    /// Returns the lease.
    pub(super) fn lease(&self) -> Arc<QueueLease> {
        self.lease.clone()
    }

    /// Gives the turn to the next caller, after a pause. The pause is longer if the call may still
    /// arrive.
    pub(crate) async fn end(self, in_doubt: bool) {
        let rest = if in_doubt { self.limit } else { self.pace };
        // The lease is not extended from here on.
        let _sent_until = self.lease.sent_until.lock().await;
        let QueueLease { state, name, fence, .. } = &*self.lease;
        // If this fails, the queue is free when the term is over.
        if let Err(error) = state.free(name, *fence, rest).await {
            tracing::warn!(queue = name, "failed to release a write queue: {error}");
        }
    }
}
