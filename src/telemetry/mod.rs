//! Logs and traces.
//!
//! Logs go to standard error as one JSON object per line, filtered by `log.level`
//! or `RUST_LOG`. A successful call logs nothing, and each cause logs at most a few lines per second. Traces are exported by OTLP if
//! the standard `OTEL_*` variables name a receiver. The sampling decision is made before a span is
//! created, so an untraced call has no cost.

// Not the SDK's sampler settings: it samples when a span exists, and an unsampled call must not make one.

use std::sync::Arc;

use opentelemetry::{InstrumentationScope, trace::TracerProvider};
use opentelemetry_sdk::trace as sdk;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{
    level::LogLevel,
    trace::{Sampler, Trace},
};
pub(crate) use self::{
    log_limit::may_log,
    mask::masked,
    trace::{code_name, is_server_failure},
};
use crate::config::Environment;

pub(crate) mod conventions;
mod level;
mod log_limit;
mod mask;
mod trace;

/// The target of every span, so that logs and traces have separate filters.
pub const TRACE: &str = "wechat_store_gateway::trace";

/// The target of the activity log's lines, which no log level hides.
pub const ACTIVITY: &str = "activity";

/// The share of calls without a traced caller that are traced, unless `OTEL_TRACES_SAMPLER` sets
/// another.
const DEFAULT_RATIO: f64 = 0.01;

/// The running telemetry. [`flush`](Self::flush) exports the remaining spans at the end.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<sdk::SdkTracerProvider>,
    sampler: Sampler,
    log_level: LogLevel,
}

impl Telemetry {
    /// Starts logging, and tracing if the environment configures it. The log has the lines of `RUST_LOG`, or
    /// else of `level`. Must be called once per process, within the runtime.
    pub fn start(environment: &Environment, level: &str) -> anyhow::Result<Self> {
        let (filter, log_level) = LogLevel::start(environment, level)?;
        let logs = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(|| mask::Writer::new(std::io::stderr()))
            .with_filter(filter);

        let provider = if is_configured(environment) {
            Some(provider(environment.contains_key("OTEL_SERVICE_NAME"))?)
        } else {
            None
        };
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer_with_scope(scope()))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_filter(Targets::new().with_target(TRACE, tracing::Level::INFO))
        });
        tracing_subscriber::registry().with(logs).with(spans).try_init()?;
        let sampler = provider.as_ref().map(|_| sampler(environment)).transpose()?;
        Ok(Self { provider, sampler: Sampler::new(sampler), log_level })
    }

    /// Returns the sampler, which decides whether a call is traced.
    pub fn sampler(&self) -> Sampler {
        self.sampler.clone()
    }

    /// Returns the level of the log, to change it.
    pub fn log_level(&self) -> LogLevel {
        self.log_level.clone()
    }

    /// Exports the remaining spans.
    pub async fn flush(self) {
        let Some(provider) = self.provider else { return };
        // The shutdown blocks until the exporter has finished, which needs this runtime.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!("failed to export the last spans: {error}");
        }
    }
}

/// Returns the name under which the gateway's own spans and metrics are exported.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(conventions::SCHEMA_URL)
        .build()
}

/// Returns true if the environment names a receiver for traces.
fn is_configured(environment: &Environment) -> bool {
    let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    let is = |name: &str, value: &str| environment.get(name).is_some_and(|set| set == value);
    (set("OTEL_EXPORTER_OTLP_ENDPOINT")
        || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        || is("OTEL_TRACES_EXPORTER", "otlp"))
        && !is("OTEL_TRACES_EXPORTER", "none")
        && !is("OTEL_SDK_DISABLED", "true")
}

/// Fails because this build cannot send traces.
#[cfg(not(feature = "otlp"))]
fn provider(_: bool) -> anyhow::Result<sdk::SdkTracerProvider> {
    anyhow::bail!("OTEL_* asks for traces, but this build has no OTLP support; unset it")
}

/// Returns the provider. Its exporter reads address, headers and timeout from the
/// `OTEL_EXPORTER_OTLP_*` variables.
#[cfg(feature = "otlp")]
fn provider(named: bool) -> anyhow::Result<sdk::SdkTracerProvider> {
    use opentelemetry_sdk::Resource;

    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?;
    let service = if named {
        Resource::builder()
    } else {
        Resource::builder().with_service_name(env!("CARGO_PKG_NAME"))
    };
    // An empty list of attributes: the detectors of the SDK have no schema.
    let resource = service.with_schema_url([], conventions::SCHEMA_URL).build();
    Ok(sdk::SdkTracerProvider::builder()
        .with_resource(resource)
        // Only sampled calls create spans.
        .with_sampler(sdk::Sampler::AlwaysOn)
        .with_batch_exporter(exporter)
        .build())
}

/// Returns the sampler of `OTEL_TRACES_SAMPLER` and its argument, by the OpenTelemetry
/// specification. Fails for an unknown sampler.
fn sampler(environment: &Environment) -> anyhow::Result<Arc<dyn sdk::ShouldSample>> {
    use sdk::Sampler::{AlwaysOff, AlwaysOn, ParentBased, TraceIdRatioBased};
    let named = environment.get("OTEL_TRACES_SAMPLER").map(String::as_str);
    let ratio = match environment.get("OTEL_TRACES_SAMPLER_ARG") {
        Some(ratio) => ratio
            .parse::<f64>()
            .map_err(|_| anyhow::anyhow!("OTEL_TRACES_SAMPLER_ARG={ratio} is no number"))?,
        None if named.is_some() => 1.0,
        None => DEFAULT_RATIO,
    };
    Ok(Arc::new(match named {
        Some("always_on") => AlwaysOn,
        Some("always_off") => AlwaysOff,
        Some("traceidratio") => TraceIdRatioBased(ratio),
        Some("parentbased_always_on") => ParentBased(Box::new(AlwaysOn)),
        Some("parentbased_always_off") => ParentBased(Box::new(AlwaysOff)),
        None | Some("parentbased_traceidratio") => ParentBased(Box::new(TraceIdRatioBased(ratio))),
        Some(other) => anyhow::bail!("OTEL_TRACES_SAMPLER={other} is not known"),
    }))
}
