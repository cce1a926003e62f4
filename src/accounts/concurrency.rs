//! Limits the concurrent calls of one account, so that a busy account leaves connections and memory
//! to the others.
//!
//! A call without a free permit waits in a queue, and permits are granted in the order of arrival.
//! A permit is for one attempt: a call that waits for a token, for a retry or in a write queue
//! holds none. A call that cannot be answered before its deadline is refused. That happens on
//! arrival if the queue is too long, or later if its permit comes too late. Under overload, permits
//! therefore go only to calls that can still be answered.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::reply_times::{Forecast, ReplyTimes};
use crate::{
    context::LEAST_TIME,
    util::{clock::Clock, lock},
};

/// The number of calls that may wait per permit.
const MOST_WAITING: usize = 16;

/// The concurrency limit of one account.
#[derive(Debug)]
pub(crate) struct Limit {
    count: AtomicUsize,
    free: Semaphore,
    /// The permits beyond a limit that was lowered. Each is not given back when its call ends.
    excess: AtomicUsize,
    waiting: AtomicUsize,
    times: Mutex<ReplyTimes>,
}

/// Permission for one attempt at WeChat, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limit: &'a Limit,
    clock: &'a Clock,
    path: &'static str,
    since: Instant,
    answered: bool,
    /// Freed after the time of the attempt was recorded. Always there until then.
    permit: Option<SemaphorePermit<'a>>,
}

/// The account has too many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    /// How long a call would have to wait for its permit.
    pub wait: Duration,
}

/// A place in the queue.
struct Place<'a> {
    limit: &'a Limit,
    /// The number of calls ahead of this one.
    before: usize,
}

impl Limit {
    pub(super) fn new(count: usize) -> Self {
        Self {
            count: AtomicUsize::new(count),
            free: Semaphore::new(count),
            excess: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            times: Mutex::new(ReplyTimes::new(count)),
        }
    }

    /// Changes the limit. If it becomes lower, calls that have a permit keep it.
    pub(super) fn resize(&self, count: usize) {
        let before = self.count.swap(count, Ordering::Relaxed);
        for _ in before..count {
            if !self.take_excess() {
                self.free.add_permits(1);
            }
        }
        let fewer = before.saturating_sub(count);
        let taken = fewer - self.free.forget_permits(fewer);
        self.excess.fetch_add(taken, Ordering::Relaxed);
    }

    /// Returns true if there was a permit beyond the limit. It is then no longer counted.
    fn take_excess(&self) -> bool {
        let one_less = |excess: usize| excess.checked_sub(1);
        self.excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// Returns a permit for a call to `path`, and waits if none is free.
    ///
    /// Fails immediately if the queue is too long or if the answer would come after `deadline`.
    /// Fails later if no permit was granted in time.
    pub(crate) async fn acquire<'a>(
        &'a self,
        path: &'static str,
        deadline: Instant,
        clock: &'a Clock,
    ) -> Result<Permit<'a>, Busy> {
        // This cannot overtake a waiting call, because a released permit goes to the queue before
        // it counts as free. A free permit is granted regardless of earlier reply times, because
        // only a new call shows how long calls take now.
        if let Ok(permit) = self.free.try_acquire() {
            return Ok(self.permit(permit, path, clock));
        }
        let place = self.queue();
        let now = clock.now();
        let wait = self.foresee_wait(place.before, now);
        let Forecast { least, most } = self.times().reply(path, now);
        let busy = Busy { wait };
        let full = place.before >= self.count().saturating_mul(MOST_WAITING);
        if full || now + with_margin(wait) + most.max(LEAST_TIME) > deadline {
            return Err(busy);
        }
        let too_late = deadline.checked_sub(LEAST_TIME.max(least)).unwrap_or(deadline);
        let permit = tokio::select! {
            biased;
            // The semaphore is never closed.
            permit = self.free.acquire() => permit.map_err(|_| busy)?,
            () = clock.sleep_until(too_late) => return Err(busy),
        };
        drop(place);
        // The reply times may have changed during the wait, and a call behind this one may still be
        // in time.
        let now = clock.now();
        let Forecast { least, most } = self.times().reply(path, now);
        let needed = if self.waiting.load(Ordering::Relaxed) > 0 { most } else { least };
        if now + needed.max(LEAST_TIME) > deadline {
            return Err(busy);
        }
        Ok(self.permit(permit, path, clock))
    }

    /// Returns true if a call would not have to wait.
    pub(crate) fn has_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// Returns the number of calls that have a permit.
    pub(crate) fn running(&self) -> usize {
        let permits = self.count() + self.excess.load(Ordering::Relaxed);
        permits.saturating_sub(self.free.available_permits())
    }

    /// Returns the number of calls that wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns how long a call with this many calls ahead waits for its permit. Returns zero if too
    /// few reply times are known.
    fn foresee_wait(&self, before: usize, now: Instant) -> Duration {
        let hold = self.times().hold(now).unwrap_or_default();
        hold.mul_f64((before + 1) as f64 / self.count().max(1) as f64)
    }

    fn permit<'a>(
        &'a self,
        permit: SemaphorePermit<'a>,
        path: &'static str,
        clock: &'a Clock,
    ) -> Permit<'a> {
        let since = clock.now();
        Permit { limit: self, clock, path, since, answered: false, permit: Some(permit) }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn queue(&self) -> Place<'_> {
        Place { limit: self, before: self.waiting.fetch_add(1, Ordering::Relaxed) }
    }

    fn times(&self) -> MutexGuard<'_, ReplyTimes> {
        lock(&self.times)
    }
}

/// Returns the time plus a quarter. Calls ahead may take longer than average, and a call that ends
/// just after its deadline has used a permit for nothing.
fn with_margin(time: Duration) -> Duration {
    time + time / 4
}

impl Permit<'_> {
    /// Frees the permit after an answer, or after a failure that took as long as an answer.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let now = self.clock.now();
        let path = self.answered.then_some(self.path);
        self.limit.times().record(path, now.duration_since(self.since), now);
        if self.limit.take_excess()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limit.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, pin::Pin, rc::Rc};

    use futures_util::FutureExt;

    use super::*;

    const PATH: &str = "/wxa/get_store_list";
    const LONG: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// Makes a call that takes this long.
    fn call(limit: &Limit, clock: &Clock, path: &'static str, takes: Duration) {
        let permit = limit.acquire(path, clock.now(), clock).now_or_never().expect("free");
        let permit = permit.expect("whatever the deadline");
        clock.advance(takes);
        permit.answered();
    }

    #[tokio::test]
    async fn permits_are_granted_in_order_of_arrival() {
        let (limit, clock) = (Limit::new(1), Clock::frozen());
        let acquire = || Box::pin(limit.acquire(PATH, clock.now() + LONG, &clock));
        let first = acquire().await.expect("free");
        let (mut second, mut third, mut fourth) = (acquire(), acquire(), acquire());
        for waiter in [&mut second, &mut third, &mut fourth] {
            assert!(waiter.now_or_never().is_none());
        }
        drop(second);
        drop(first);
        assert!(acquire().now_or_never().is_none(), "a later caller does not overtake");
        assert!((&mut fourth).now_or_never().is_none());
        let third = third.now_or_never().expect("the caller before it has left");
        drop(third);
        drop(fourth.now_or_never().expect("its turn").expect("a permit"));
        assert_eq!(limit.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(limit.free.available_permits(), 1);
    }

    #[tokio::test]
    async fn changed_limit_applies_as_calls_end() {
        let (limit, clock) = (Limit::new(3), Clock::frozen());
        let acquire = || Box::pin(limit.acquire(PATH, clock.now() + LONG, &clock));
        let mut held = vec![acquire().await.expect("free"), acquire().await.expect("free")];
        limit.resize(1);
        let mut waiting = acquire();
        assert!((&mut waiting).now_or_never().is_none());
        held.pop();
        assert!((&mut waiting).now_or_never().is_none(), "one is still beyond the limit");
        held.pop();
        let first = waiting.now_or_never().expect("its turn").expect("a permit");
        assert!(acquire().now_or_never().is_none());
        limit.resize(2);
        let second = acquire().now_or_never().expect("room").expect("a permit");
        assert!(acquire().now_or_never().is_none());
        drop((first, second));
        assert_eq!(limit.free.available_permits(), 2);
    }

    #[tokio::test]
    async fn queue_is_bounded_and_waits_end_at_deadline() {
        let (limit, clock) = (Limit::new(2), Clock::frozen());
        let acquire = || Box::pin(limit.acquire(PATH, clock.now() + LONG, &clock));
        let _taken = [acquire().await.expect("free"), acquire().await.expect("free")];
        let mut line: Vec<_> = (0..2 * MOST_WAITING).map(|_| acquire()).collect();
        assert!(line.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        assert!(acquire().now_or_never().expect("at once").is_err());
        line.pop();
        assert!(acquire().now_or_never().is_none(), "there is room again");

        clock.advance(LONG - LEAST_TIME);
        for waiter in line {
            assert!(waiter.now_or_never().expect("an answer").is_err());
        }
        assert_eq!(limit.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn call_without_time_is_refused_on_arrival() {
        let (limit, clock) = (Limit::new(2), Clock::frozen());
        for _ in 0..4 {
            call(&limit, &clock, PATH, SECOND);
        }
        let acquire = |time_left| Box::pin(limit.acquire(PATH, clock.now() + time_left, &clock));
        let _taken = [acquire(LONG).await.expect("free"), acquire(LONG).await.expect("free")];
        let mut line: Vec<_> = (0..4).map(|_| acquire(LONG)).collect();
        assert!(line.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        // Five rounds of two calls, one second each, plus a quarter, plus one second for the call
        // itself.
        let needed = SECOND * 5 / 2 * 5 / 4 + SECOND;
        let refused = acquire(needed - Duration::from_millis(1)).now_or_never().expect("at once");
        assert_eq!(refused.err(), Some(Busy { wait: SECOND * 5 / 2 }));
        assert!(acquire(needed).now_or_never().is_none(), "it may wait");
        // The refused call has left the queue.
        assert_eq!(limit.waiting.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn late_permit_is_not_granted() {
        let (limit, clock) = (Limit::new(1), Clock::frozen());
        let acquire = |time_left| Box::pin(limit.acquire(PATH, clock.now() + time_left, &clock));
        let first = acquire(LONG).await.expect("free");
        // No reply time is known yet.
        let (mut late, mut early) = (acquire(SECOND * 5), acquire(SECOND * 20));
        assert!((&mut late).now_or_never().is_none() && (&mut early).now_or_never().is_none());
        clock.advance(SECOND * 4);
        first.answered();
        // One second is left, and a call takes four.
        assert!(late.now_or_never().expect("an answer").is_err());
        early.now_or_never().expect("the next one").expect("it has sixteen seconds");
    }

    #[tokio::test]
    async fn slow_reply_does_not_block_idle_account() {
        for limit in [1, 64] {
            let (limit, clock) = (Limit::new(limit), Clock::frozen());
            call(&limit, &clock, PATH, Duration::from_secs(60));
            let acquire = || Box::pin(limit.acquire(PATH, clock.now() + SECOND, &clock));
            let mut taken = Vec::new();
            // A free permit is granted even after a slow call.
            while let Some(permit) = acquire().now_or_never().and_then(Result::ok) {
                taken.push(permit);
            }
            assert_eq!(taken.len(), limit.count());
            // After a while, a call may also wait for a permit.
            clock.advance(SECOND * 20);
            let mut waiting = acquire();
            assert!((&mut waiting).now_or_never().is_none());
            taken.pop().expect("one").answered();
            assert!(waiting.now_or_never().is_some());
        }
    }

    #[tokio::test]
    async fn slow_path_does_not_affect_fast_path() {
        let (limit, clock) = (Limit::new(1), Clock::frozen());
        for _ in 0..9 {
            call(&limit, &clock, PATH, SECOND / 10);
        }
        call(&limit, &clock, "/wxa/get_district", SECOND);
        let acquire = |path| Box::pin(limit.acquire(path, clock.now() + SECOND, &clock));
        let _taken = acquire(PATH).await.expect("free");
        assert!(acquire("/wxa/get_district").now_or_never().expect("at once").is_err());
        assert!(acquire(PATH).now_or_never().is_none(), "it may wait");
    }

    /// The results of the calls of an open loop.
    #[derive(Debug, Default)]
    struct Loop {
        in_time: u32,
        /// Calls whose deadline passed while they held a permit.
        late: u32,
        /// The time from arrival to refusal.
        refused_after: Vec<Duration>,
    }

    /// Makes calls without waiting for answers. They arrive `load` times as fast as they can be
    /// served, each with this deadline.
    fn open_loop(load: f64, deadline: Duration, takes: &dyn Fn() -> Duration) -> Loop {
        const PERMITS: usize = 8;
        const STEP: Duration = Duration::from_millis(2);
        let (limit, clock) = (Limit::new(PERMITS), Clock::frozen());
        let mean = (0..1000).map(|_| takes().as_secs_f64()).sum::<f64>() / 1000.0;
        let rate = load * PERMITS as f64 / mean;
        let result = Rc::new(RefCell::new(Loop::default()));
        let mut calls: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        let (limit, clock) = (&limit, &clock);
        // The first seconds fill the queue and the record of times.
        let (mut came, from) = (0.0, clock.now() + SECOND * 4);
        while clock.now() < from + SECOND * 8 {
            came += rate * STEP.as_secs_f64();
            while came >= 1.0 {
                came -= 1.0;
                let (result, takes) = (result.clone(), takes());
                calls.push(Box::pin(async move {
                    let began = clock.now();
                    let permit = limit.acquire(PATH, began + deadline, clock).await;
                    let Ok(permit) = permit else {
                        result.borrow_mut().refused_after.push(clock.now() - began);
                        return;
                    };
                    // A read ends when its caller leaves.
                    let end = (clock.now() + takes).min(began + deadline);
                    clock.sleep_until(end).await;
                    let in_time = end < began + deadline;
                    if in_time {
                        permit.answered();
                    }
                    let mut result = result.borrow_mut();
                    if clock.now() >= from {
                        result.in_time += u32::from(in_time);
                        result.late += u32::from(!in_time);
                    }
                }));
            }
            clock.advance(STEP);
            // Repeats until nothing changes, because a freed permit may be granted in the same
            // step.
            loop {
                let before = calls.len();
                calls.retain_mut(|call| call.as_mut().now_or_never().is_none());
                if calls.len() == before {
                    break;
                }
            }
        }
        drop(calls);
        Rc::try_unwrap(result).expect("the calls are gone").into_inner()
    }

    #[test]
    fn overload_keeps_goodput_and_refuses_early() {
        let deadline = Duration::from_millis(1_800);
        let random = |least, most| {
            let seeded = RefCell::new(fastrand::Rng::with_seed(7));
            move || Duration::from_millis(seeded.borrow_mut().u64(least..=most))
        };
        let (fixed, spread) = (random(200, 200), random(50, 550));
        let slow = random(1_000, 1_000);
        for (name, takes) in [
            ("always 200 ms", &fixed as &dyn Fn() -> Duration),
            ("from 50 to 550 ms", &spread),
            ("always a second", &slow),
        ] {
            let saturated = open_loop(1.0, deadline, takes).in_time;
            for load in [2.0, 4.0] {
                let mut seen = open_loop(load, deadline, takes);
                let goodput = f64::from(seen.in_time) / f64::from(saturated);
                assert!(goodput >= 0.9, "{name} at {load}: {goodput}, {} late", seen.late);
                // The 99th percentile of the accepted calls.
                assert!(seen.late * 100 <= seen.in_time, "{name} at {load}: {} late", seen.late);
                seen.refused_after.sort();
                let median = seen.refused_after[seen.refused_after.len() / 2];
                assert_eq!(median, Duration::ZERO, "{name} at {load}: refused on arrival");
            }
        }
    }
}
