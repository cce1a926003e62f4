//! One run at a time, in a task of its own, with any number of waiters.

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::task::AbortHandle;

/// A run that several callers may wait for. A waiter that leaves does not stop it.
pub(crate) type Run<T> = Shared<BoxFuture<'static, T>>;

/// The run under way, if there is one. Its owner's lock decides who starts the next.
#[derive(Debug)]
pub(crate) struct Flight<T: Clone>(Option<(Run<T>, AbortHandle)>);

impl<T: Clone> Default for Flight<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// The run under way.
    pub(crate) fn running(&self) -> Option<Run<T>> {
        let (run, task) = self.0.as_ref()?;
        // A task that ended without a result has panicked; waiting for it would be for ever.
        (run.peek().is_none() && !task.is_finished()).then(|| run.clone())
    }

    /// Starts a run, which then goes on by itself.
    pub(crate) fn start(&mut self, run: impl Future<Output = T> + Send + 'static) -> Run<T> {
        let run = run.boxed().shared();
        let task = tokio::spawn(run.clone());
        self.0 = Some((run.clone(), task.abort_handle()));
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_shared_and_a_panicked_one_is_not_waited_for() {
        let mut flight = Flight::default();
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
