//! Large events that watchers have taken. Each is in memory once, however many watchers have it.
//!
//! An event of WeChat's usually has one kilobyte, but can have several hundred. Watchers that are behind
//! read the log by themselves, so a thousand stopped watchers would keep a thousand copies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use crate::util::lock;

/// A value that can be shared.
pub(super) trait Large: PartialEq {
    /// Returns its name. Two values of the same name are usually the same.
    fn name(&self) -> u64;
    /// Returns whether sharing it is worthwhile.
    fn is_large(&self) -> bool;
}

/// The shared values that are in use.
#[derive(Debug)]
pub(super) struct Shared<T>(Mutex<HashMap<u64, Weak<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Large> Shared<T> {
    /// Returns the shared value if an equal one is in use, and `new` otherwise.
    pub(super) fn one(&self, new: Arc<T>) -> Arc<T> {
        if !new.is_large() {
            return new;
        }
        let mut known = lock(&self.0);
        match known.get(&new.name()).and_then(Weak::upgrade) {
            Some(same) if same == new => same,
            _ => {
                known.retain(|_, known| known.strong_count() > 0);
                known.insert(new.name(), Arc::downgrade(&new));
                new
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Text(u64, &'static str);

    impl Large for Text {
        fn name(&self) -> u64 {
            self.0
        }

        fn is_large(&self) -> bool {
            self.1.len() > 3
        }
    }

    #[test]
    fn equal_large_values_are_shared_until_dropped() {
        let shared = Shared::default();
        let one = |name, text| shared.one(Arc::new(Text(name, text)));
        let (first, second) = (one(1, "large"), one(1, "large"));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&one(2, "abc"), &one(2, "abc")), "it is small");
        let changed = one(1, "other");
        assert_eq!(*changed, Text(1, "other"));
        assert!(Arc::ptr_eq(&changed, &one(1, "other")));

        drop((first, second, changed));
        let kept = one(2, "another");
        let known = shared.0.lock().expect("no thread panicked").len();
        assert_eq!((known, &*kept), (1, &Text(2, "another")));
    }
}
