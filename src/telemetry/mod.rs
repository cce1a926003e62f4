//! Logs, traces, and the way of metrics out of the process.
//!
//! Logs go to standard error, as JSON or text (`log.format`), filtered by `log.level` or `RUST_LOG`. A successful
//! call logs nothing, and each cause logs at most a few lines per second. Traces and metrics are exported by OTLP
//! if the standard `OTEL_*` variables name a receiver. The sampling decision is made before a span is created, so
//! an untraced call has no cost.

// Not the SDK's sampler settings: it samples when a span exists, and an unsampled call must not make one.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    metrics::MeterProviderBuilder,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace as sdk,
};
use tracing_subscriber::{
    Layer, filter::Targets, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};
use uuid::Uuid;

use self::variables::Variables;
pub use self::{
    level::LogLevel,
    span_queue::SpanCounts,
    trace::{Sampler, Trace},
};
pub(crate) use self::{
    log_limit::may_log,
    mask::masked,
    trace::{code_name, is_server_failure, link},
};
use crate::config::{ConfigError, Environment, Log, LogFormat};

pub(crate) mod conventions;
mod level;
mod log_limit;
mod mask;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nothing is exported"))]
mod span_queue;
mod trace;
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nothing is exported"))]
mod variables;

/// The target of every span, so that logs and traces have separate filters.
pub const TRACE: &str = "wechat_store_gateway::trace";

/// The target of the activity log's lines, which no log level hides.
pub const ACTIVITY: &str = "activity";

/// The longest wait for the last export at the end, for traces and for metrics.
pub(crate) const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// The running telemetry. [`flush`](Self::flush) exports the remaining spans at the end.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<sdk::SdkTracerProvider>,
    sampler: Sampler,
    log_level: LogLevel,
    metrics: MetricExports,
}

impl Telemetry {
    /// Starts logging, and what the variables of OpenTelemetry ask for. The log has the lines of `RUST_LOG`, or
    /// else of `log.level`. Must be called once per process, within the runtime.
    pub fn start(environment: &Environment, log: &Log) -> anyhow::Result<Self> {
        let variables = Variables::read(environment).map_err(|errors| {
            let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
            anyhow::anyhow!("{}", errors.join("\n"))
        })?;
        let (filter, log_level) = LogLevel::start(environment, &log.level)?;
        let resource = resource(variables.service_name.as_deref());
        let counts = SpanCounts::default();
        let traces = variables.traces.as_ref();
        let provider = traces.map(|receiver| {
            otlp::tracer_provider(receiver, variables.queue, resource.clone(), counts.clone())
        });
        let provider = provider.transpose()?;
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer_with_scope(scope()))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_filter(Targets::new().with_target(TRACE, tracing::Level::INFO))
        });
        tracing_subscriber::registry()
            .with(lines(log.format).with_filter(filter))
            .with(spans)
            .try_init()?;
        let sampler = Sampler::new(traces.map(|_| Arc::new(variables.sampler.clone()) as _));
        let metrics =
            MetricExports { variables: Some(Arc::new(variables)), resource, spans: counts };
        Ok(Self { provider, sampler, log_level, metrics })
    }

    /// Returns what the gateway needs of the telemetry.
    pub fn handles(&self) -> Handles {
        Handles { sampler: self.sampler.clone(), metrics: self.metrics.clone() }
    }

    /// Returns the level of the log, to change it.
    pub fn log_level(&self) -> LogLevel {
        self.log_level.clone()
    }

    /// Exports the remaining spans. A receiver that does not answer delays the end by three seconds at most.
    pub async fn flush(self) {
        let Some(provider) = self.provider else { return };
        let spans = self.metrics.spans;
        // The shutdown blocks until the exporter has finished, which needs this runtime.
        let end = move || provider.shutdown_with_timeout(FLUSH_LIMIT);
        let ended = tokio::task::spawn_blocking(end).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(lost = spans.waiting(), "failed to export the last spans: {error}");
        }
        if spans.failed() + spans.dropped() > 0 {
            let (failed, dropped) = (spans.failed(), spans.dropped());
            tracing::warn!(exported = spans.exported(), failed, dropped, "lost spans");
        }
    }
}

/// What a gateway needs of the telemetry of its process. With the default values, it traces nothing and sends
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Handles {
    /// Decides whether a call is traced.
    pub sampler: Sampler,
    /// The way of metrics out of the process.
    pub metrics: MetricExports,
}

/// Returns what is wrong with the variables of OpenTelemetry.
pub fn check(environment: &Environment) -> Vec<ConfigError> {
    Variables::read(environment).err().unwrap_or_default()
}

/// The way of metrics out of the process. Clones are cheap. A default value sends none, and lets Prometheus
/// fetch them.
#[derive(Clone, Debug)]
pub struct MetricExports {
    variables: Option<Arc<Variables>>,
    resource: Resource,
    spans: SpanCounts,
}

impl Default for MetricExports {
    fn default() -> Self {
        Self { variables: None, resource: resource(None), spans: SpanCounts::default() }
    }
}

impl MetricExports {
    /// Adds the resource to a provider of metrics and, if the variables name a receiver, a reader that sends
    /// them. Must be called within the runtime.
    pub fn add_to(&self, builder: MeterProviderBuilder) -> anyhow::Result<MeterProviderBuilder> {
        let builder = builder.with_resource(self.resource.clone());
        let Some(variables) = &self.variables else { return Ok(builder) };
        let Some(receiver) = &variables.metrics else { return Ok(builder) };
        let Variables { metric_interval, temporality, .. } = **variables;
        Ok(builder.with_reader(otlp::metric_reader(receiver, metric_interval, temporality)?))
    }

    /// Returns true if Prometheus may fetch metrics.
    pub fn prometheus(&self) -> bool {
        self.variables.as_ref().is_none_or(|variables| variables.prometheus)
    }

    /// Returns what happened to the spans of this process.
    pub fn spans(&self) -> &SpanCounts {
        &self.spans
    }
}

/// Returns the layer that writes the lines of the log.
fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer();
    let layer = layer.with_writer(|| mask::Writer::new(std::io::stderr()));
    match format {
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
    }
}

/// Returns the name under which the gateway's own spans and metrics are exported.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(conventions::SCHEMA_URL)
        .build()
}

/// Returns the description of this process. `OTEL_RESOURCE_ATTRIBUTES` and the name come before its own.
fn resource(service_name: Option<&str>) -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name(env!("CARGO_PKG_NAME"))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::now_v7().to_string()),
        ])
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ])
        // The detectors of the SDK have no schema.
        .with_schema_url([], conventions::SCHEMA_URL);
    match service_name {
        Some(name) => resource.with_service_name(name.to_owned()).build(),
        None => resource.build(),
    }
}

/// Builds without OTLP, which refuse what needs it.
#[cfg(not(feature = "otlp"))]
mod otlp {
    use std::time::Duration;

    use opentelemetry_sdk::{
        Resource,
        error::OTelSdkResult,
        metrics::{
            PeriodicReader, Temporality as SdkTemporality, data::ResourceMetrics,
            exporter::PushMetricExporter,
        },
        trace::SdkTracerProvider,
    };

    use super::{
        SpanCounts,
        variables::{Queue, Receiver, Temporality},
    };

    const MISSING: &str = "OTEL_* asks for an export, but this build has no OTLP support; unset it";

    pub(super) fn tracer_provider(
        _: &Receiver,
        _: Queue,
        _: Resource,
        _: SpanCounts,
    ) -> anyhow::Result<SdkTracerProvider> {
        anyhow::bail!(MISSING)
    }

    pub(super) fn metric_reader(
        _: &Receiver,
        _: Duration,
        _: Temporality,
    ) -> anyhow::Result<PeriodicReader<Impossible>> {
        anyhow::bail!(MISSING)
    }

    /// Has no value.
    pub(super) enum Impossible {}

    impl PushMetricExporter for Impossible {
        async fn export(&self, _: &ResourceMetrics) -> OTelSdkResult {
            match *self {}
        }

        fn force_flush(&self) -> OTelSdkResult {
            match *self {}
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            match *self {}
        }

        fn temporality(&self) -> SdkTemporality {
            match *self {}
        }
    }
}
