//! Runs one task at a time for any number of waiting callers.

// Not moka or a single-flight crate: their run belongs to a waiter. Here it outlives all of its waiters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// A run that several callers may await. A caller that leaves does not stop it.
pub(crate) type Run<T> = Shared<BoxFuture<'static, T>>;

/// The current run, if there is one. The lock of its owner decides which caller starts the next
/// one.
#[derive(Debug)]
pub(crate) struct SingleFlight<T: Clone>(Option<(Run<T>, Ended)>);

/// Set at the end of a run, even after a panic. Then callers must not join it any more.
#[derive(Clone, Debug, Default)]
struct Ended(Arc<AtomicBool>);

/// Sets [`Ended`] when it is dropped.
struct EndOnDrop(Ended);

impl<T: Clone> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Returns the current run.
    pub(crate) fn running(&self) -> Option<Run<T>> {
        let (run, Ended(ended)) = self.0.as_ref()?;
        (!ended.load(Ordering::Acquire)).then(|| run.clone())
    }

    /// Starts a run in a task of its own and returns it.
    pub(crate) fn start(&mut self, run: impl Future<Output = T> + Send + 'static) -> Run<T> {
        let ended = Ended::default();
        let end_on_drop = EndOnDrop(ended.clone());
        let run = async move {
            let _end_on_drop = end_on_drop;
            run.await
        };
        let run = run.boxed().shared();
        tokio::spawn(run.clone());
        self.0 = Some((run.clone(), ended));
        run
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let Self(Ended(ended)) = self;
        ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn run_is_shared_unless_it_panicked() {
        let mut flight = SingleFlight::default();
        let run = flight.start(async { 7 });
        let joined = flight.running().expect("under way");
        assert_eq!((run.await, joined.await), (7, 7));
        assert!(flight.running().is_none(), "it has ended");

        let run = flight.start(async { panic!("on purpose") });
        assert!(tokio::spawn(run).await.is_err());
        while flight.running().is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(flight.start(async { 8 }).await, 8);
    }
}
