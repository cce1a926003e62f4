//! One run at a time, in a task of its own, with any number of waiters.

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// A run that several callers may wait for. A waiter that leaves does not stop it.
pub(crate) type Run<T> = Shared<BoxFuture<'static, T>>;

/// The run under way, if there is one. Its owner's lock decides who starts the next.
#[derive(Debug)]
pub(crate) struct Flight<T: Clone>(Option<Run<T>>);

impl<T: Clone> Default for Flight<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// The run under way.
    pub(crate) fn running(&self) -> Option<Run<T>> {
        self.0.clone().filter(|run| run.peek().is_none())
    }

    /// Starts a run, which then goes on by itself.
    pub(crate) fn start(&mut self, run: impl Future<Output = T> + Send + 'static) -> Run<T> {
        let run = run.boxed().shared();
        tokio::spawn(run.clone());
        self.0 = Some(run.clone());
        run
    }
}
