//! How many calls of one account are at WeChat at a time, so that a busy account leaves connections
//! and memory to the others.
//!
//! Who finds no free slot waits in line, and gets one in the order of asking. A slot is taken for
//! one attempt: nobody who waits for a token, for a retry or for a turn holds one.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Clock;

/// So many times the slots may wait for one. At WeChat's usual tenths of a second the last one has
/// its turn after some seconds.
const MOST_WAITING: usize = 16;
/// A slot that comes later than this before the deadline comes too late for an answer.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// The slots of one account.
#[derive(Debug)]
pub struct Slots {
    free: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// While it lives, a call of the account may be at WeChat.
#[derive(Debug)]
pub struct Slot<'a>(#[expect(dead_code, reason = "freed when it is dropped")] SemaphorePermit<'a>);

/// The account has too much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// A place in the line.
struct Place<'a>(&'a Slots);

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        let most_waiting = count.saturating_mul(MOST_WAITING);
        Self { free: Semaphore::new(count), waiting: AtomicUsize::new(0), most_waiting }
    }

    /// Waits for a slot. Fails at once where the line is too long, and later where no slot came
    /// early enough before `deadline`.
    pub async fn take(&self, deadline: Instant, clock: &Clock) -> Result<Slot<'_>, Busy> {
        // This overtakes nobody: what becomes free is given to who waits before it counts as free.
        if let Ok(permit) = self.free.try_acquire() {
            return Ok(Slot(permit));
        }
        let _place = self.queue()?;
        let too_late = deadline.checked_sub(LEAST_TIME).unwrap_or(deadline);
        tokio::select! {
            biased;
            // Never closed.
            permit = self.free.acquire() => permit.map(Slot).map_err(|_| Busy),
            () = clock.sleep_until(too_late) => Err(Busy),
        }
    }

    /// Whether nobody would have to wait.
    pub fn are_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    fn queue(&self) -> Result<Place<'_>, Busy> {
        let place = Place(self);
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.most_waiting {
            Ok(place)
        } else {
            Err(Busy)
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn slots_are_given_in_the_order_of_asking() {
        let (slots, clock) = (Slots::new(1), Clock::frozen());
        let take = || Box::pin(slots.take(clock.now() + LONG, &clock));
        let first = take().await.expect("free");
        let (mut second, mut third, mut fourth) = (take(), take(), take());
        for waiter in [&mut second, &mut third, &mut fourth] {
            assert!(waiter.now_or_never().is_none());
        }
        drop(second);
        drop(first);
        assert!(take().now_or_never().is_none(), "nobody overtakes");
        assert!((&mut fourth).now_or_never().is_none());
        let third = third.now_or_never().expect("whoever asked before has left");
        drop(third);
        drop(fourth.now_or_never().expect("its turn").expect("a slot"));
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(slots.free.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_line_has_an_end_and_who_waits_a_deadline() {
        let (slots, clock) = (Slots::new(2), Clock::frozen());
        let take = || Box::pin(slots.take(clock.now() + LONG, &clock));
        let _taken = [take().await.expect("free"), take().await.expect("free")];
        let mut line: Vec<_> = (0..2 * MOST_WAITING).map(|_| take()).collect();
        assert!(line.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        assert_eq!(take().await.err(), Some(Busy), "at once");
        line.pop();
        assert!(take().now_or_never().is_none(), "there is room again");

        clock.advance(LONG - LEAST_TIME);
        for waiter in line {
            assert_eq!(waiter.now_or_never().expect("an answer").err(), Some(Busy));
        }
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 0);
    }
}
