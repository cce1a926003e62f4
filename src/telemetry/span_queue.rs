//! The spans between the calls and the receiver.
//!
//! Their number has a limit, so a receiver that is slow or gone costs neither memory nor the time of a call. A
//! span beyond the limit is dropped and counted. Losses are logged once a minute at most.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};

use crate::util::lock;

/// The interval of the log lines about one kind of loss.
const PAUSE: Duration = Duration::from_secs(60);

/// The numbers of finished spans by their fate. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct SpanCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Spans that wait for their export.
    waiting: AtomicUsize,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    failures: Losses,
    drops: Losses,
}

impl SpanCounts {
    /// Returns the number of spans that the receiver has accepted.
    pub fn exported(&self) -> u64 {
        self.0.exported.load(Ordering::Relaxed)
    }

    /// Returns the number of spans that the receiver has not accepted.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Returns the number of spans that were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Returns the number of spans that wait for their export.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Lets one more span wait. Returns false if `most` wait already.
    fn enter(&self, most: usize) -> bool {
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        self.0.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn drop_one(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(spans) = self.0.drops.add(1, Instant::now()) {
            tracing::warn!(spans, "dropped spans, because the receiver of traces is too slow");
        }
    }

    fn end(&self, spans: usize, result: &OTelSdkResult) {
        let spans = spans as u64;
        match result {
            Ok(()) => self.0.exported.fetch_add(spans, Ordering::Relaxed),
            Err(error) => {
                self.0.failures.log("spans", spans, error);
                self.0.failed.fetch_add(spans, Ordering::Relaxed)
            }
        };
    }
}

/// Losses of one kind, which are logged once a minute at most.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<Unlogged>);

#[derive(Debug, Default)]
struct Unlogged {
    count: u64,
    logged_at: Option<Instant>,
}

impl Losses {
    /// Adds losses. Returns all that are not logged yet, if they may be logged now.
    fn add(&self, count: u64, now: Instant) -> Option<u64> {
        let mut unlogged = lock(&self.0);
        unlogged.count += count;
        if unlogged.logged_at.is_some_and(|logged_at| now < logged_at + PAUSE) {
            return None;
        }
        unlogged.logged_at = Some(now);
        Some(std::mem::take(&mut unlogged.count))
    }

    /// Logs that the receiver did not accept something. The error has no text of the receiver.
    pub(super) fn log(&self, what: &str, count: u64, error: &dyn fmt::Display) {
        if let Some(lost) = self.add(count, Instant::now()) {
            tracing::warn!(lost, what, "failed to export telemetry: {error}");
        }
    }
}

/// A processor that lets a limited number of spans wait.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    inner: P,
    most: usize,
    counts: SpanCounts,
}

impl<P> Bounded<P> {
    /// Wraps a processor, whose exporter must be [`Counted`] with the same counts.
    pub(super) fn new(inner: P, most: usize, counts: SpanCounts) -> Self {
        Self { inner, most, counts }
    }
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        match self.counts.enter(self.most) {
            true => self.inner.on_end(span),
            false => self.counts.drop_one(),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter that counts.
#[derive(Debug)]
pub(super) struct Counted<E> {
    inner: E,
    counts: SpanCounts,
}

impl<E> Counted<E> {
    pub(super) fn new(inner: E, counts: SpanCounts) -> Self {
        Self { inner, counts }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        // Not before: the spans take memory until then.
        self.counts.0.waiting.fetch_sub(spans, Ordering::Relaxed);
        self.counts.end(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, atomic::AtomicBool};

    use opentelemetry::trace::{Span as _, Tracer, TracerProvider};
    use opentelemetry_sdk::{
        error::OTelSdkError,
        trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
    };

    use super::*;

    const MOST: usize = 100;

    /// A receiver that answers only after it is released.
    #[derive(Clone, Debug, Default)]
    struct Stuck(Arc<(Mutex<bool>, Condvar, AtomicBool)>);

    impl SpanExporter for Stuck {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let (released, changed, fails) = &*self.0;
            let guard = lock(released);
            drop(changed.wait_while(guard, |released| !*released));
            match fails.load(Ordering::Relaxed) {
                true => Err(OTelSdkError::InternalFailure("refused".to_owned())),
                false => Ok(()),
            }
        }
    }

    impl Stuck {
        fn release(&self) {
            let (released, changed, _) = &*self.0;
            *lock(released) = true;
            changed.notify_all();
        }
    }

    fn provider(receiver: Stuck) -> (SdkTracerProvider, SpanCounts) {
        let counts = SpanCounts::default();
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(MOST)
            .with_max_export_batch_size(MOST / 10)
            .build();
        let processor = BatchSpanProcessor::builder(Counted::new(receiver, counts.clone()))
            .with_batch_config(config)
            .build();
        let processor = Bounded::new(processor, MOST, counts.clone());
        (SdkTracerProvider::builder().with_span_processor(processor).build(), counts)
    }

    fn finish(provider: &SdkTracerProvider, spans: usize) {
        let tracer = provider.tracer("test");
        (0..spans).for_each(|_| tracer.start("span").end());
    }

    #[test]
    fn stuck_receiver_costs_bounded_memory_and_no_waiting() {
        let receiver = Stuck::default();
        let (provider, counts) = provider(receiver.clone());
        // This would never end if a call waited for the receiver.
        finish(&provider, 50 * MOST);
        assert_eq!(counts.waiting(), MOST);
        assert_eq!(counts.dropped(), 49 * MOST as u64);
        receiver.release();
        provider.shutdown().expect("the receiver answers again");
        assert_eq!((counts.waiting(), counts.exported()), (0, MOST as u64));
    }

    #[test]
    fn refused_spans_are_counted_and_leave_the_queue() {
        let receiver = Stuck::default();
        receiver.0.2.store(true, Ordering::Relaxed);
        receiver.release();
        let (provider, counts) = provider(receiver);
        finish(&provider, MOST / 2);
        let _ = provider.shutdown();
        assert_eq!((counts.waiting(), counts.failed()), (0, MOST as u64 / 2));
        assert_eq!(counts.exported(), 0);
    }

    #[test]
    fn losses_are_logged_once_a_minute() {
        let (losses, start) = (Losses::default(), Instant::now());
        assert_eq!(losses.add(5, start), Some(5));
        assert!((0..1_000).all(|_| losses.add(2, start + PAUSE / 2).is_none()));
        assert_eq!(losses.add(1, start + PAUSE), Some(2_001));
    }
}
