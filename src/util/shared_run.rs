//! Shares the result of one run between all callers within a short time.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    clock::Clock,
    lock,
    single_flight::{Run, SingleFlight},
};

/// A run whose result serves all callers for a while. At most one runs at a time.
pub(crate) struct SharedRun<T: Clone> {
    clock: Clock,
    life: Duration,
    last: Mutex<Last<T>>,
}

struct Last<T: Clone> {
    flight: SingleFlight<T>,
    /// The last run and its beginning.
    run: Option<(Instant, Run<T>)>,
}

impl<T: Clone + Send + Sync + 'static> SharedRun<T> {
    /// Returns one that has not run yet. A result serves callers for `life` after its run began.
    pub(crate) fn new(life: Duration, clock: Clock) -> Self {
        let last = Last { flight: SingleFlight::default(), run: None };
        Self { clock, life, last: Mutex::new(last) }
    }

    /// Returns a run that began a short time ago or is still running. Begins one if there is none.
    pub(crate) fn join<F>(&self, begin: impl FnOnce() -> F) -> Run<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (now, mut last) = (self.clock.now(), lock(&self.last));
        if let Some(run) = last.flight.running() {
            return run;
        }
        if let Some((began, run)) = &last.run
            && now.duration_since(*began) < self.life
        {
            return run.clone();
        }
        let run = last.flight.start(begin());
        last.run = Some((now, run.clone()));
        run
    }
}

impl<T: Clone> fmt::Debug for SharedRun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedRun")
    }
}
