//! How many calls of one account are at WeChat at a time, so that a busy account leaves connections
//! and memory to the others.
//!
//! A call that finds no free slot waits in line, and gets one in the order of asking. A slot is taken
//! for one attempt: a call that waits for a token, for a retry or for its turn holds none. A call
//! whose answer cannot come before its deadline is refused: on arrival if the line is too long for
//! it, or else when its slot comes too late. So under overload the slots serve calls whose caller
//! still waits.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::reply_times::{Foreseen, ReplyTimes};
use crate::util::clock::Clock;

/// So many calls may wait for each slot.
const MOST_WAITING: usize = 16;
/// A slot that comes later than this before the deadline comes too late for an answer.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// The slots of one account.
#[derive(Debug)]
pub struct Slots {
    count: usize,
    free: Semaphore,
    waiting: AtomicUsize,
    times: Mutex<ReplyTimes>,
}

/// While it lives, a call of the account may be at WeChat.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    clock: &'a Clock,
    path: &'static str,
    since: Instant,
    answered: bool,
    /// Freed after its time was noted.
    _permit: SemaphorePermit<'a>,
}

/// The account has too much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// How long a call would have to wait for its slot.
    pub wait: Duration,
}

/// A place in the line.
struct Place<'a> {
    slots: &'a Slots,
    /// How many stood there before.
    before: usize,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self {
            count,
            free: Semaphore::new(count),
            waiting: AtomicUsize::new(0),
            times: Mutex::new(ReplyTimes::new(count)),
        }
    }

    /// Waits for a slot for a call to `path`. Fails at once if the line is too long, or if the answer
    /// would come after `deadline`; and later if no slot came early enough.
    pub async fn take<'a>(
        &'a self,
        path: &'static str,
        deadline: Instant,
        clock: &'a Clock,
    ) -> Result<Slot<'a>, Busy> {
        // This overtakes no call: what becomes free is given to one that waits before it counts as
        // free. And it is refused to no call, however long the last ones took, because only a call
        // that is made shows how long calls take now.
        if let Ok(permit) = self.free.try_acquire() {
            return Ok(self.slot(permit, path, clock));
        }
        let place = self.queue();
        let now = clock.now();
        let wait = self.foresee_wait(place.before, now);
        let Foreseen { least, most } = self.times().reply(path, now);
        let busy = Busy { wait };
        let full = place.before >= self.count.saturating_mul(MOST_WAITING);
        if full || now + with_margin(wait) + most.max(LEAST_TIME) > deadline {
            return Err(busy);
        }
        let too_late = deadline.checked_sub(LEAST_TIME.max(least)).unwrap_or(deadline);
        let permit = tokio::select! {
            biased;
            // Never closed.
            permit = self.free.acquire() => permit.map_err(|_| busy)?,
            () = clock.sleep_until(too_late) => return Err(busy),
        };
        drop(place);
        // What calls take may have changed meanwhile, and a call that waits behind this one may
        // still be in time.
        let now = clock.now();
        let Foreseen { least, most } = self.times().reply(path, now);
        let needed = if self.waiting.load(Ordering::Relaxed) > 0 { most } else { least };
        if now + needed.max(LEAST_TIME) > deadline {
            return Err(busy);
        }
        Ok(self.slot(permit, path, clock))
    }

    /// Returns true if a call would not have to wait.
    pub fn are_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// Returns how long a call waits for its slot behind so many others; no time if nothing shows it.
    fn foresee_wait(&self, before: usize, now: Instant) -> Duration {
        let hold = self.times().hold(now).unwrap_or_default();
        hold.mul_f64((before + 1) as f64 / self.count.max(1) as f64)
    }

    fn slot<'a>(
        &'a self,
        permit: SemaphorePermit<'a>,
        path: &'static str,
        clock: &'a Clock,
    ) -> Slot<'a> {
        let since = clock.now();
        Slot { slots: self, clock, path, since, answered: false, _permit: permit }
    }

    fn queue(&self) -> Place<'_> {
        Place { slots: self, before: self.waiting.fetch_add(1, Ordering::Relaxed) }
    }

    fn times(&self) -> MutexGuard<'_, ReplyTimes> {
        // Every change is complete before anything can panic.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A quarter more: the calls before it may take longer than on average, and one that ends just after
/// its deadline has taken a slot for nothing.
fn with_margin(time: Duration) -> Duration {
    time + time / 4
}

impl Slot<'_> {
    /// Frees the slot after an answer, or after a failure that says as much.
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let now = self.clock.now();
        let path = self.answered.then_some(self.path);
        self.slots.times().note(path, now.duration_since(self.since), now);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.slots.waiting.fetch_sub(1, Ordering::Relaxed);
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

    /// Makes a call that takes so long.
    fn call(slots: &Slots, clock: &Clock, path: &'static str, takes: Duration) {
        let slot = slots.take(path, clock.now(), clock).now_or_never().expect("free");
        let slot = slot.expect("whatever the deadline");
        clock.advance(takes);
        slot.answered();
    }

    #[tokio::test]
    async fn slots_are_given_in_the_order_of_asking() {
        let (slots, clock) = (Slots::new(1), Clock::frozen());
        let take = || Box::pin(slots.take(PATH, clock.now() + LONG, &clock));
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
        let take = || Box::pin(slots.take(PATH, clock.now() + LONG, &clock));
        let _taken = [take().await.expect("free"), take().await.expect("free")];
        let mut line: Vec<_> = (0..2 * MOST_WAITING).map(|_| take()).collect();
        assert!(line.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        assert!(take().now_or_never().expect("at once").is_err());
        line.pop();
        assert!(take().now_or_never().is_none(), "there is room again");

        clock.advance(LONG - LEAST_TIME);
        for waiter in line {
            assert!(waiter.now_or_never().expect("an answer").is_err());
        }
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_call_is_refused_on_arrival_if_its_turn_comes_too_late() {
        let (slots, clock) = (Slots::new(2), Clock::frozen());
        for _ in 0..4 {
            call(&slots, &clock, PATH, SECOND);
        }
        let take = |patience| Box::pin(slots.take(PATH, clock.now() + patience, &clock));
        let _taken = [take(LONG).await.expect("free"), take(LONG).await.expect("free")];
        let mut line: Vec<_> = (0..4).map(|_| take(LONG)).collect();
        assert!(line.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        // Five turns of two at a time, a second each, with a quarter more; and a second for itself.
        let needed = SECOND * 5 / 2 * 5 / 4 + SECOND;
        let refused = take(needed - Duration::from_millis(1)).now_or_never().expect("at once");
        assert_eq!(refused.err(), Some(Busy { wait: SECOND * 5 / 2 }));
        assert!(take(needed).now_or_never().is_none(), "it may wait");
        // The refused call has left its place.
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_slot_that_comes_too_late_is_not_given() {
        let (slots, clock) = (Slots::new(1), Clock::frozen());
        let take = |patience| Box::pin(slots.take(PATH, clock.now() + patience, &clock));
        let first = take(LONG).await.expect("free");
        // Nothing shows yet how long calls take.
        let (mut late, mut early) = (take(SECOND * 5), take(SECOND * 20));
        assert!((&mut late).now_or_never().is_none() && (&mut early).now_or_never().is_none());
        clock.advance(SECOND * 4);
        first.answered();
        // A second is left, and a call takes four.
        assert!(late.now_or_never().expect("an answer").is_err());
        early.now_or_never().expect("the next one").expect("it has sixteen seconds");
    }

    #[tokio::test]
    async fn a_slow_reply_refuses_no_call_of_an_idle_account_nor_for_long() {
        for slots in [1, 64] {
            let (slots, clock) = (Slots::new(slots), Clock::frozen());
            call(&slots, &clock, PATH, Duration::from_secs(60));
            let take = || Box::pin(slots.take(PATH, clock.now() + SECOND, &clock));
            let mut taken = Vec::new();
            // However slow the last one was, a free slot is given.
            while let Some(slot) = take().now_or_never().and_then(Result::ok) {
                taken.push(slot);
            }
            assert_eq!(taken.len(), slots.count);
            // And after a while a call may wait for one as well.
            clock.advance(SECOND * 20);
            let mut waiting = take();
            assert!((&mut waiting).now_or_never().is_none());
            taken.pop().expect("one").answered();
            assert!(waiting.now_or_never().is_some());
        }
    }

    #[tokio::test]
    async fn a_slow_path_does_not_refuse_the_calls_of_a_fast_one() {
        let (slots, clock) = (Slots::new(1), Clock::frozen());
        for _ in 0..9 {
            call(&slots, &clock, PATH, SECOND / 10);
        }
        call(&slots, &clock, "/wxa/get_district", SECOND);
        let take = |path| Box::pin(slots.take(path, clock.now() + SECOND, &clock));
        let _taken = take(PATH).await.expect("free");
        assert!(take("/wxa/get_district").now_or_never().expect("at once").is_err());
        assert!(take(PATH).now_or_never().is_none(), "it may wait");
    }

    /// What became of the calls of an open loop.
    #[derive(Debug, Default)]
    struct Loop {
        in_time: u32,
        /// Their deadline passed while they had a slot.
        late: u32,
        /// From arrival to refusal.
        refused_after: Vec<Duration>,
    }

    /// Calls come without regard to answers, `load` times as fast as they can be served, each with
    /// this deadline.
    fn open_loop(load: f64, deadline: Duration, takes: &dyn Fn() -> Duration) -> Loop {
        const SLOTS: usize = 8;
        const STEP: Duration = Duration::from_millis(2);
        let (slots, clock) = (Slots::new(SLOTS), Clock::frozen());
        let mean = (0..1000).map(|_| takes().as_secs_f64()).sum::<f64>() / 1000.0;
        let rate = load * SLOTS as f64 / mean;
        let result = Rc::new(RefCell::new(Loop::default()));
        let mut calls: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        let (slots, clock) = (&slots, &clock);
        // The first seconds fill the line and the memory of times.
        let (mut came, from) = (0.0, clock.now() + SECOND * 4);
        while clock.now() < from + SECOND * 8 {
            came += rate * STEP.as_secs_f64();
            while came >= 1.0 {
                came -= 1.0;
                let (result, takes) = (result.clone(), takes());
                calls.push(Box::pin(async move {
                    let began = clock.now();
                    let slot = slots.take(PATH, began + deadline, clock).await;
                    let Ok(slot) = slot else {
                        result.borrow_mut().refused_after.push(clock.now() - began);
                        return;
                    };
                    // A read ends with its caller.
                    let end = (clock.now() + takes).min(began + deadline);
                    clock.sleep_until(end).await;
                    let in_time = end < began + deadline;
                    if in_time {
                        slot.answered();
                    }
                    let mut result = result.borrow_mut();
                    if clock.now() >= from {
                        result.in_time += u32::from(in_time);
                        result.late += u32::from(!in_time);
                    }
                }));
            }
            clock.advance(STEP);
            // Until nothing moves any more: a slot that is freed may be taken in the same step.
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
    fn overload_leaves_the_answers_of_saturation_and_refuses_early() {
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
                // p99 of the accepted calls.
                assert!(seen.late * 100 <= seen.in_time, "{name} at {load}: {} late", seen.late);
                seen.refused_after.sort();
                let median = seen.refused_after[seen.refused_after.len() / 2];
                assert_eq!(median, Duration::ZERO, "{name} at {load}: refused on arrival");
            }
        }
    }
}
