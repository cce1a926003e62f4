//! Caches what WeChat rarely changes.
//!
//! The first caller causes a fetch, and the others wait for the same one or get the cached value. A value
//! that is old is still returned while a new one is fetched, and stays if the fetch fails.

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{Calls, Error};
use crate::{
    accounts::Account,
    context::Context,
    metrics::Metrics,
    util::{clock::Clock, lock, single_flight::SingleFlight},
    wechat::Endpoint,
};

/// WeChat changes its tables some times a year, so a value of yesterday is good enough.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// The pause after a failed fetch of a new value.
const PAUSE: Duration = Duration::from_secs(60);
/// The pause after an answer, before WeChat is asked again because the answer lacks what a caller names.
const LACK_PAUSE: Duration = Duration::from_secs(5 * 60);
/// A fetch serves many callers, so it has this time limit and no deadline of a caller.
const FETCH_LIMIT: Duration = Duration::from_secs(30);
/// A value without a request for this time is dropped, for example after its account was removed.
const IDLE_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Caches one value per key.
pub(super) struct Cached<K, V> {
    entries: moka::sync::Cache<K, Arc<Entry<V>>>,
    /// The name of the cache in metrics.
    name: &'static str,
    metrics: Metrics,
    clock: Clock,
}

struct Entry<V>(Mutex<State<V>>);

struct State<V> {
    value: Option<Arc<V>>,
    /// The time from which on a new value is fetched.
    fetch_at: Option<Instant>,
    /// When the last fetch ended, with or without a value.
    asked: Option<Instant>,
    flight: SingleFlight<Result<Arc<V>, Error>>,
}

impl<K, V> Cached<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Returns an empty cache.
    pub(super) fn new(name: &'static str, metrics: Metrics, clock: Clock) -> Self {
        // The injected clock counts the age below. moka only drops what is idle.
        let entries = moka::sync::Cache::builder().time_to_idle(IDLE_LIMIT).build();
        Self { entries, name, metrics, clock }
    }

    /// Returns the value of `key`. Waits only if there is none yet, and not beyond `deadline`. The fetch
    /// continues in a task of its own. If it fails without a cached value, all waiting callers get its
    /// error.
    pub(super) async fn get<F>(
        &self,
        key: K,
        deadline: Instant,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<V>, Error>
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let entry = self.entries.get_with(key, Arc::default);
        let run = {
            let mut state = entry.lock();
            let now = self.clock.now();
            self.metrics.count_cache_lookup(self.name, state.value.is_some());
            match (state.value.clone(), state.flight.running()) {
                (Some(value), None) if state.fetch_at.is_none_or(|at| now >= at) => {
                    // The fetch continues by itself.
                    drop(state.flight.start(entry.clone().run(self.clock.clone(), fetch())));
                    return Ok(value);
                }
                (Some(value), _) => return Ok(value),
                (None, Some(run)) => run,
                (None, None) => state.flight.start(entry.clone().run(self.clock.clone(), fetch())),
            }
        };
        tokio::select! {
            result = run => result,
            () = self.clock.sleep_until(deadline) => Err(Error::Deadline),
        }
    }
}

impl<K, V> Cached<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Returns a newer value of `key` than the one that lacks something. Returns `None` if WeChat was asked
    /// in the last [`LACK_PAUSE`], or has no newer one: then WeChat lacks it, too. Concurrent callers wait
    /// for the same fetch, not beyond `deadline`.
    pub(super) async fn newer<F>(
        &self,
        key: &K,
        deadline: Instant,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<Arc<V>>, Error>
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let run = {
            let mut state = entry.lock();
            match state.flight.running() {
                Some(run) => run,
                None => {
                    let may_ask = |asked| self.clock.now() >= asked + LACK_PAUSE;
                    if !state.asked.is_none_or(may_ask) {
                        return Ok(None);
                    }
                    state.flight.start(entry.clone().run(self.clock.clone(), fetch()))
                }
            }
        };
        tokio::select! {
            // The failure was logged.
            result = run => Ok(result.ok()),
            () = self.clock.sleep_until(deadline) => Err(Error::Deadline),
        }
    }
}

impl<K, V> fmt::Debug for Cached<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").finish_non_exhaustive()
    }
}

impl<V> Entry<V> {
    async fn run(
        self: Arc<Self>,
        clock: Clock,
        fetch: impl Future<Output = Result<V, Error>>,
    ) -> Result<Arc<V>, Error> {
        let result = fetch.await.map(Arc::new);
        let mut state = self.lock();
        state.asked = Some(clock.now());
        match &result {
            Ok(value) => {
                state.value = Some(value.clone());
                state.fetch_at = Some(clock.now() + LIFE);
            }
            Err(error) if state.value.is_some() => {
                state.fetch_at = Some(clock.now() + PAUSE);
                tracing::warn!(
                    "failed to refresh a table of WeChat's, the cached copy stays in use: {error}"
                );
            }
            // The waiting callers get the error.
            Err(_) => {}
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        lock(&self.0)
    }
}

impl<V> Default for Entry<V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            value: None,
            fetch_at: None,
            asked: None,
            flight: SingleFlight::default(),
        }))
    }
}

impl Calls {
    /// Runs a call that changes nothing, for a [`Cached`]. It serves no single caller.
    pub(super) async fn fetch<E: Endpoint>(
        &self,
        account: &Account,
        call: E,
    ) -> Result<E::Reply, Error> {
        let ctx = Context::internal(self.clock().now() + FETCH_LIMIT);
        self.attempts(account, &ctx, &call, None).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// A WeChat whose answer is the number of the fetch, each on a permit.
    #[derive(Clone)]
    struct World {
        cached: Arc<Cached<&'static str, u32>>,
        clock: Clock,
        fetches: Arc<AtomicU32>,
        permits: Arc<Semaphore>,
        fails: bool,
    }

    impl World {
        fn new(permits: usize) -> Self {
            let clock = Clock::frozen();
            Self {
                cached: Arc::new(Cached::new("", Metrics::default(), clock.clone())),
                clock,
                fetches: Arc::default(),
                permits: Arc::new(Semaphore::new(permits)),
                fails: false,
            }
        }

        async fn get(&self) -> Result<u32, Error> {
            let Self { fetches, permits, fails, .. } = self.clone();
            let deadline = self.clock.now() + Duration::from_secs(10);
            let fetch = move || async move {
                permits.acquire().await.expect("open").forget();
                let number = fetches.fetch_add(1, Ordering::SeqCst) + 1;
                if fails { Err(Error::Stopped) } else { Ok(number) }
            };
            self.cached.get("key", deadline, fetch).await.map(|value| *value)
        }

        async fn newer(&self) -> Result<Option<u32>, Error> {
            let Self { fetches, permits, fails, .. } = self.clone();
            let deadline = self.clock.now() + Duration::from_secs(10);
            let fetch = move || async move {
                permits.acquire().await.expect("open").forget();
                let number = fetches.fetch_add(1, Ordering::SeqCst) + 1;
                if fails { Err(Error::Stopped) } else { Ok(number) }
            };
            Ok(self.cached.newer(&"key", deadline, fetch).await?.map(|value| *value))
        }

        /// A hundred callers at once, and then one permit.
        async fn hundred(&self) -> Vec<Result<u32, Error>> {
            let callers = join_all((0..100).map(|_| self.get()));
            let permit = async {
                self.end_fetches().await;
                self.permits.add_permits(1);
            };
            tokio::join!(callers, permit).0
        }

        /// Lets the fetches under way end.
        async fn end_fetches(&self) {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn hundred_callers_cause_one_fetch() {
        let world = World::new(0);
        assert!(world.hundred().await.into_iter().all(|value| matches!(value, Ok(1))));
        world.clock.advance(LIFE / 2);
        assert!(matches!(world.get().await, Ok(1)));
    }

    #[tokio::test]
    async fn fetch_continues_after_its_caller_left() {
        let world = World::new(0);
        let caller = tokio::spawn({
            let world = world.clone();
            async move { world.get().await }
        });
        world.end_fetches().await;
        world.clock.advance(Duration::from_secs(10));
        assert!(matches!(caller.await.expect("no panic"), Err(Error::Deadline)));
        world.permits.add_permits(1);
        world.end_fetches().await;
        assert!(matches!(world.get().await, Ok(1)));
    }

    #[tokio::test]
    async fn old_value_is_returned_during_a_fetch() {
        let world = World::new(1);
        assert!(matches!(world.get().await, Ok(1)));
        world.clock.advance(LIFE);
        let values = world.hundred().await;
        assert!(
            values.into_iter().all(|value| matches!(value, Ok(1))),
            "callers get the old value at once"
        );
        world.end_fetches().await;
        assert!(matches!(world.get().await, Ok(2)));
    }

    #[tokio::test]
    async fn old_value_stays_after_a_failed_fetch() {
        let mut world = World::new(10);
        assert!(matches!(world.get().await, Ok(1)));
        world.clock.advance(LIFE);
        world.fails = true;
        for _ in 0..5 {
            assert!(matches!(world.get().await, Ok(1)));
            world.end_fetches().await;
        }
        assert_eq!(world.fetches.load(Ordering::SeqCst), 2, "no try within the pause");
        world.clock.advance(PAUSE);
        world.fails = false;
        assert!(matches!(world.get().await, Ok(1)));
        world.end_fetches().await;
        assert!(matches!(world.get().await, Ok(3)));
    }

    #[tokio::test]
    async fn incomplete_value_is_fetched_every_five_minutes() {
        let mut world = World::new(1);
        assert!(matches!(world.get().await, Ok(1)));
        assert!(matches!(world.newer().await, Ok(None)), "just asked");
        world.clock.advance(LACK_PAUSE);
        let callers = join_all((0..100).map(|_| world.newer()));
        let permit = async {
            world.end_fetches().await;
            world.permits.add_permits(1);
        };
        let values = tokio::join!(callers, permit).0;
        assert!(values.into_iter().all(|value| matches!(value, Ok(Some(2)))), "one fetch for all");
        assert!(matches!(world.newer().await, Ok(None)));
        world.clock.advance(LACK_PAUSE);
        world.permits.add_permits(1);
        world.fails = true;
        assert!(matches!(world.newer().await, Ok(None)), "no newer one can be had");
        assert_eq!(world.fetches.load(Ordering::SeqCst), 3);
        assert!(matches!(world.newer().await, Ok(None)), "not asked again at once");
        assert_eq!(world.fetches.load(Ordering::SeqCst), 3);
        assert!(matches!(world.get().await, Ok(2)), "the old value stays");
    }

    #[tokio::test]
    async fn failed_first_fetch_fails_all_callers() {
        let mut world = World::new(0);
        world.fails = true;
        let values = world.hundred().await;
        assert!(values.into_iter().all(|value| matches!(value, Err(Error::Stopped))));
        assert_eq!(world.fetches.load(Ordering::SeqCst), 1);
        (world.fails, world.permits) = (false, Arc::new(Semaphore::new(1)));
        assert!(matches!(world.get().await, Ok(2)), "and the next one tries again");
    }
}
