//! A mutex per key with first-in, first-out order.

// Not a crate of keyed locks: none is fair and estimates how long a caller would wait.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex as SyncMutex, MutexGuard},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::lock;

/// Locks keys. Clones are cheap and share the queues.
#[derive(Clone)]
pub(crate) struct KeyedMutex<K>(Arc<SyncMutex<HashMap<K, Queue>>>);

/// The queue of one key. It exists while a caller holds or awaits the lock.
#[derive(Default)]
struct Queue {
    mutex: Arc<Mutex<()>>,
    callers: usize,
}

/// Holds the lock of a key until it is dropped.
pub(crate) struct KeyGuard<K: Eq + Hash> {
    // This field is dropped first, so the next caller gets the mutex before this place is given up.
    _mutex: OwnedMutexGuard<()>,
    _place: Place<K>,
}

/// A place in a queue.
struct Place<K: Eq + Hash> {
    owner: KeyedMutex<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> KeyedMutex<K> {
    /// Returns the number of callers that hold or await the lock.
    pub(crate) fn callers(&self, key: &K) -> u32 {
        let callers = self.lock().get(key).map_or(0, |queue| queue.callers);
        callers.try_into().unwrap_or(u32::MAX)
    }

    /// Waits for the lock of a key. A dropped future leaves the queue.
    pub(crate) async fn take(&self, key: K) -> KeyGuard<K> {
        let mutex = {
            let mut queues = self.lock();
            let queue = queues.entry(key.clone()).or_default();
            queue.callers += 1;
            queue.mutex.clone()
        };
        let place = Place { owner: self.clone(), key };
        KeyGuard { _mutex: mutex.lock_owned().await, _place: place }
    }
}

impl<K> KeyedMutex<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Queue>> {
        lock(&self.0)
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

impl<K: Eq + Hash> fmt::Debug for KeyGuard<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut queues = self.owner.lock();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.callers -= 1;
            if queue.callers == 0 {
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
    async fn lock_is_exclusive_per_key() {
        let owner = KeyedMutex::default();
        let first = owner.take("a").await;
        let _other_key = owner.take("b").now_or_never().expect("free");
        let mut second = Box::pin(owner.take("a"));
        let mut third = Box::pin(owner.take("a"));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());

        drop(second);
        drop(first);
        let third = third.now_or_never().expect("the waiter before it has left");
        drop(third);
        assert_eq!(owner.lock().keys().collect::<Vec<_>>(), [&"b"]);
    }
}
