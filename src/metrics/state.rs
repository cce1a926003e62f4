//! The operations of the state.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use opentelemetry::KeyValue;

use super::{Metrics, attribute::STATE_OPERATION};
use crate::{telemetry::conventions::ERROR_TYPE, util::lock};

/// The operations that run now: the beginning of each, by its number. The first one is the oldest.
pub(super) type Running = Mutex<BTreeMap<u64, Instant>>;

/// An operation that has not ended. It is recorded when this is dropped, so one that is abandoned is recorded,
/// too.
#[derive(Debug)]
pub(crate) struct Operation {
    metrics: Metrics,
    name: &'static str,
    number: u64,
    began: Instant,
    /// `None` until it has ended.
    failed: Option<bool>,
}

impl Metrics {
    /// Begins to measure an operation of the state.
    pub(crate) fn begin_operation(&self, name: &'static str) -> Operation {
        let mut running = lock(&self.0.state_running);
        let number = running.last_key_value().map_or(0, |(last, _)| last + 1);
        let began = Instant::now();
        running.insert(number, began);
        Operation { metrics: self.clone(), name, number, began, failed: None }
    }

    /// Returns the age of the oldest operation of the state that has not ended. Zero if none runs.
    pub(crate) fn oldest_operation(&self) -> Duration {
        let running = lock(&self.0.state_running);
        running.first_key_value().map(|(_, began)| began.elapsed()).unwrap_or_default()
    }
}

impl Operation {
    /// Records the end of the operation.
    pub(crate) fn end(mut self, failed: bool) {
        self.failed = Some(failed);
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        lock(&self.metrics.0.state_running).remove(&self.number);
        let error = match self.failed {
            Some(false) => None,
            Some(true) => Some("state"),
            None => Some("abandoned"),
        };
        let name = KeyValue::new(STATE_OPERATION, self.name);
        let error = KeyValue::new(ERROR_TYPE, error.unwrap_or_default());
        let attributes = [name, error];
        let given = if self.failed == Some(false) { &attributes[..1] } else { &attributes[..] };
        self.metrics.0.state_duration.record(self.began.elapsed().as_secs_f64(), given);
    }
}
