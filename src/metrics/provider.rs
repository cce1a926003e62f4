//! The provider: it makes the instruments, collects them, and writes the text of `/metrics`.

use std::fmt;

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::{self as sdk, SdkMeterProvider, Stream};
use prometheus::{Registry, TextEncoder};
use tokio::task::spawn_blocking;

use super::{Classify, INSTRUMENTS, Instrument, Kind, Metrics, attribute::RESULT, table};
use crate::telemetry::{self, FLUSH_LIMIT, MetricExports};

/// The content type of [`Provider::text`].
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The bounds of all durations, in seconds. The conventions name them for RPC and HTTP.
const BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The metrics of one gateway. It must not be held by what its observers read: they keep that alive.
pub(crate) struct Provider {
    /// Ends the exporters when it is dropped.
    sdk: SdkMeterProvider,
    /// `None` if Prometheus may not fetch the metrics.
    registry: Option<Registry>,
    metrics: Metrics,
}

impl Provider {
    /// Creates the provider of a gateway.
    ///
    /// `accounts` is the number of accounts that have series of their own.
    pub(crate) fn new(
        classify: Classify,
        accounts: usize,
        exports: &MetricExports,
    ) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // All metrics have the same scope.
            .scope_info_enabled(false)
            // It repeats what the scraper adds, and names no place of ours.
            .without_target_info()
            .build()?;
        let builder = SdkMeterProvider::builder().with_view(limited);
        let builder = if exports.prometheus() { builder.with_reader(reader) } else { builder };
        let sdk = exports.add_to(builder)?.build();
        let registry = exports.prometheus().then_some(registry);
        let metrics = Metrics::new(&Maker::new(&sdk), classify, accounts);
        let provider = Self { sdk, registry, metrics };
        let spans = exports.spans().clone();
        provider.observe(&table::SPANS, move || {
            let counts = [
                ("exported", spans.exported()),
                ("failed", spans.failed()),
                ("dropped", spans.dropped()),
            ];
            counts.map(|(result, count)| (count as f64, vec![KeyValue::new(RESULT, result)]))
        });
        Ok(provider)
    }

    /// Returns the handle that the other rooms get.
    pub(crate) fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Lets `read` return the values of an instrument at each scrape. It must not wait for anything.
    pub(crate) fn observe<V>(
        &self,
        instrument: &Instrument,
        read: impl Fn() -> V + Send + Sync + 'static,
    ) where
        V: IntoIterator<Item = (f64, Vec<KeyValue>)>,
    {
        let meter = self.sdk.meter_with_scope(telemetry::scope());
        let observe = move |observer: &dyn AsyncInstrument<f64>| {
            for (value, attributes) in read() {
                observer.observe(value, &attributes);
            }
        };
        macro_rules! build {
            ($builder:ident) => {
                // The SDK keeps the callback. The instrument itself is only a name.
                drop(
                    meter
                        .$builder(instrument.name)
                        .with_unit(instrument.unit)
                        .with_description(instrument.description)
                        .with_callback(observe)
                        .build(),
                )
            };
        }
        match instrument.kind {
            Kind::Counter => build!(f64_observable_counter),
            Kind::Gauge => build!(f64_observable_gauge),
            Kind::UpDownCounter => build!(f64_observable_up_down_counter),
            Kind::Histogram => debug_assert!(false, "{} is not read", instrument.name),
        }
    }

    /// Returns the text of `/metrics`. `None` if Prometheus may not fetch it.
    pub(crate) fn text(&self) -> Option<Result<String, prometheus::Error>> {
        let registry = self.registry.as_ref()?;
        Some(TextEncoder::new().encode_to_string(&registry.gather()))
    }

    /// Sends the last metrics. A receiver that does not answer delays the end by three seconds at most.
    pub(crate) async fn end(&self) {
        let sdk = self.sdk.clone();
        // It blocks until the exporter has finished, which needs this runtime. A failure is in the log.
        let _ = spawn_blocking(move || sdk.shutdown_with_timeout(FLUSH_LIMIT)).await;
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

/// Limits the series of an instrument.
fn limited(instrument: &sdk::Instrument) -> Option<Stream> {
    let known = INSTRUMENTS.iter().find(|known| known.name == instrument.name())?;
    Stream::builder().with_cardinality_limit(known.most_series()).build().ok()
}

/// Makes the instruments of the table.
pub(super) struct Maker(Meter);

impl Maker {
    fn new(provider: &SdkMeterProvider) -> Self {
        Self(provider.meter_with_scope(telemetry::scope()))
    }

    /// Returns one whose instruments record nothing.
    pub(super) fn none() -> Self {
        Self::new(&SdkMeterProvider::default())
    }

    pub(super) fn histogram(&self, instrument: &Instrument) -> Histogram<f64> {
        debug_assert_eq!(instrument.kind, Kind::Histogram);
        self.0
            .f64_histogram(instrument.name)
            .with_unit(instrument.unit)
            .with_description(instrument.description)
            .with_boundaries(BOUNDS.to_vec())
            .build()
    }

    pub(super) fn counter(&self, instrument: &Instrument) -> Counter<u64> {
        debug_assert_eq!(instrument.kind, Kind::Counter);
        self.0
            .u64_counter(instrument.name)
            .with_unit(instrument.unit)
            .with_description(instrument.description)
            .build()
    }
}
