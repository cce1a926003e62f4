//! One run at a time, in a task of its own, with any number of waiters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// A run that several callers may wait for. A waiter that leaves does not stop it.
pub(crate) type Run<T> = Shared<BoxFuture<'static, T>>;

/// The run under way, if there is one. Its owner's lock decides who starts the next.
#[derive(Debug)]
pub(crate) struct SingleFlight<T: Clone>(Option<(Run<T>, Ended)>);

/// Set at the end of a run, also if it panicked: nobody may join it then.
#[derive(Clone, Debug, Default)]
struct Ended(Arc<AtomicBool>);

/// Sets it.
struct EndsWithMe(Ended);

impl<T: Clone> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// The run under way.
    pub(crate) fn running(&self) -> Option<Run<T>> {
        let (run, Ended(ended)) = self.0.as_ref()?;
        (!ended.load(Ordering::Acquire)).then(|| run.clone())
    }

    /// Starts a run, which then goes on by itself.
    pub(crate) fn start(&mut self, run: impl Future<Output = T> + Send + 'static) -> Run<T> {
        let ended = Ended::default();
        let ends_with_me = EndsWithMe(ended.clone());
        let run = async move {
            let _ends_with_me = ends_with_me;
            run.await
        };
        let run = run.boxed().shared();
        tokio::spawn(run.clone());
        self.0 = Some((run.clone(), ended));
        run
    }
}

impl Drop for EndsWithMe {
    fn drop(&mut self) {
        let Self(Ended(ended)) = self;
        ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_shared_and_a_panicked_one_is_not_waited_for() {
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
