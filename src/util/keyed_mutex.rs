//! One at a time per key, in the order of asking.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Gives out turns. Cheap to clone; clones share the queues.
#[derive(Clone)]
pub(crate) struct KeyedMutex<K>(Arc<SyncMutex<HashMap<K, Queue>>>);

/// Kept while anybody has or awaits a turn.
#[derive(Default)]
struct Queue {
    lane: Arc<Mutex<()>>,
    people: usize,
}

/// While it lives, nobody else has a turn with this key.
pub(crate) struct Turn<K: Eq + Hash> {
    // Dropped first: whoever is next gets the lane before the place is given up.
    _lane: OwnedMutexGuard<()>,
    _place: Place<K>,
}

/// A place in a queue.
struct Place<K: Eq + Hash> {
    turns: KeyedMutex<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> KeyedMutex<K> {
    /// How many have or await a turn.
    pub(crate) fn people(&self, key: &K) -> u32 {
        let people = self.lock().get(key).map_or(0, |queue| queue.people);
        people.try_into().unwrap_or(u32::MAX)
    }

    /// Waits for a turn. A waiter that is dropped leaves the queue.
    pub(crate) async fn take(&self, key: K) -> Turn<K> {
        let lane = {
            let mut queues = self.lock();
            let queue = queues.entry(key.clone()).or_default();
            queue.people += 1;
            queue.lane.clone()
        };
        let place = Place { turns: self.clone(), key };
        Turn { _lane: lane.lock_owned().await, _place: place }
    }
}

impl<K> KeyedMutex<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Queue>> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for KeyedMutex<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> fmt::Debug for KeyedMutex<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedMutex").field("keys", &self.lock().len()).finish()
    }
}

impl<K: Eq + Hash> fmt::Debug for Turn<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut queues = self.turns.lock();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.people -= 1;
            if queue.people == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_with_one_key_follow_each_other_and_leave_nothing() {
        let turns = KeyedMutex::default();
        let first = turns.take("a").await;
        let _other_key = turns.take("b").now_or_never().expect("free");
        let mut second = Box::pin(turns.take("a"));
        let mut third = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());

        drop(second);
        drop(first);
        let third = third.now_or_never().expect("whoever waited before has left");
        drop(third);
        assert_eq!(turns.lock().keys().collect::<Vec<_>>(), [&"b"]);
    }
}
