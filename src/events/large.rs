//! Large events that watchers have taken: each is in memory once, however many of them have it.
//!
//! WeChat's events have about a kilobyte, but may have several hundred. Watchers that are behind read the
//! log by themselves, and a thousand of them that stand still would have a thousand copies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// What is shared.
pub(super) trait Large: PartialEq {
    /// Names it. Two of the same name are mostly the same.
    fn name(&self) -> u64;
    /// Whether it is worth the trouble.
    fn is_large(&self) -> bool;
}

/// Those that somebody has.
#[derive(Debug)]
pub(super) struct Shared<T>(Mutex<HashMap<u64, Weak<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Large> Shared<T> {
    /// The same, and where somebody has it already, that one.
    pub(super) fn one(&self, new: Arc<T>) -> Arc<T> {
        if !new.is_large() {
            return new;
        }
        // Every change is complete before anything can panic.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn what_is_large_and_the_same_is_there_once_and_goes_with_the_last_who_has_it() {
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
        let known = shared.0.lock().expect("nobody panicked").len();
        assert_eq!((known, &*kept), (1, &Text(2, "another")));
    }
}
