//! A quantity that all connections share, such as memory, and the part of it that one may take.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The quantity that all connections together may take.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The key in `[limits]` that sets it.
    pub(crate) setting: &'static str,
    limit: AtomicUsize,
    taken: AtomicUsize,
}

/// The part that one connection takes. A connection may take as much as is still free: one connection
/// alone gets at most half, two get a third each, so something is always left for another.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Budget>,
    own: AtomicUsize,
    /// The amount that the connection may take even if nothing is left.
    guaranteed: usize,
}

/// A taken amount. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    share: Arc<Share>,
    amount: usize,
}

/// The error of a share that would be too large.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    /// The setting that limits it.
    pub(crate) setting: &'static str,
}

impl Budget {
    /// Returns a budget of `limit`.
    pub(crate) fn new(setting: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self { setting, limit: AtomicUsize::new(limit), taken: AtomicUsize::new(0) })
    }

    /// Changes the limit. An amount that is taken stays taken.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the share of a new connection, which may take `guaranteed` even if other connections have
    /// taken everything.
    pub(crate) fn share(self: &Arc<Self>, guaranteed: usize) -> Arc<Share> {
        Arc::new(Share { of: self.clone(), own: AtomicUsize::new(0), guaranteed })
    }

    /// Returns the amount that all connections have taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Takes an amount, unless that is too much.
    pub(crate) fn take(self: &Arc<Self>, amount: usize) -> Result<Held, Exhausted> {
        let held = self.add(amount);
        self.check().map(|()| held)
    }

    /// Takes an amount even if that is too much. Then others are refused until it is given back.
    pub(crate) fn add(self: &Arc<Self>, amount: usize) -> Held {
        self.own.fetch_add(amount, Ordering::Relaxed);
        self.of.taken.fetch_add(amount, Ordering::Relaxed);
        Held { share: self.clone(), amount }
    }

    /// Returns the amount that this connection has taken.
    pub(crate) fn own(&self) -> usize {
        self.own.load(Ordering::Relaxed)
    }

    /// Fails if this connection has taken too much.
    pub(crate) fn check(&self) -> Result<(), Exhausted> {
        let free = self.of.limit.load(Ordering::Relaxed).saturating_sub(self.of.taken());
        match self.own() <= free.max(self.guaranteed) {
            true => Ok(()),
            false => Err(Exhausted { setting: self.of.setting }),
        }
    }
}

impl Held {
    /// Takes more, unless that is too much. Even then the amount is held until this is dropped.
    pub(crate) fn grow(&mut self, amount: usize) -> Result<(), Exhausted> {
        self.share.own.fetch_add(amount, Ordering::Relaxed);
        self.share.of.taken.fetch_add(amount, Ordering::Relaxed);
        self.amount += amount;
        self.share.check()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.own.fetch_sub(self.amount, Ordering::Relaxed);
        self.share.of.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_gets_at_most_half_of_the_rest() {
        let budget = Budget::new("calls", 90);
        let (first, second, third) = (budget.share(0), budget.share(0), budget.share(0));
        let all =
            |share: &Arc<Share>| std::iter::from_fn(|| share.take(1).ok()).collect::<Vec<_>>();
        let firsts = all(&first);
        assert_eq!(firsts.len(), 45);
        assert_eq!(all(&second).len(), 22, "half of what is left");
        let _seconds = all(&second);
        assert_eq!(all(&third).len(), 11);
        drop(firsts);
        assert_eq!((budget.taken(), first.own()), (22, 0));
        assert_eq!(all(&third).len(), 34);
    }

    #[test]
    fn guaranteed_amount_is_left_by_others() {
        let budget = Budget::new("open_calls", 2);
        let _hog = budget.share(0).add(2);
        let share = budget.share(1);
        let held = share.take(1).expect("it is guaranteed");
        assert!(share.take(1).is_err());
        drop(held);
        assert!(share.take(1).is_ok());
    }

    #[test]
    fn refused_amount_is_not_taken() {
        let budget = Budget::new("request_memory_mib", 10);
        let share = budget.share(0);
        assert_eq!(share.take(6).err(), Some(Exhausted { setting: "request_memory_mib" }));
        let mut held = share.take(2).expect("there is enough");
        assert!(held.grow(3).is_ok());
        assert!(held.grow(1).is_err());
        drop(held);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn added_amount_counts_beyond_the_limit() {
        let budget = Budget::new("calls", 10);
        let (hog, other) = (budget.share(0), budget.share(0));
        let held = hog.add(10);
        assert!(hog.check().is_err());
        assert!(other.take(1).is_err());
        drop(held);
        assert!(other.take(1).is_ok());
    }
}
