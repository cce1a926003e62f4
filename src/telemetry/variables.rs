//! The standard variables of OpenTelemetry, checked: receivers, sampler, resource.
//!
//! The libraries ignore a value that they do not understand. Here it is an error, as with every other setting.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::trace::Sampler;
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    config::{CaFile, ConfigError, Environment},
    util,
};

/// The share of calls without a traced caller that are traced, unless `OTEL_TRACES_SAMPLER` sets
/// another.
const DEFAULT_RATIO: f64 = 0.01;
/// The limit for an export.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between two exports of the metrics.
const METRIC_INTERVAL: Duration = Duration::from_secs(60);
/// The defaults of the specification for the spans that wait for their export.
const QUEUE: Queue = Queue { size: 2048, batch: 512, delay: Duration::from_secs(5) };

/// The most spans that can wait. The SDK reserves memory for all of them.
const LONGEST_QUEUE: usize = 1_000_000;

/// The checked variables.
#[derive(Debug)]
pub(super) struct Variables {
    /// The receiver of traces.
    pub(super) traces: Option<Receiver>,
    /// The receiver of metrics.
    pub(super) metrics: Option<Receiver>,
    /// True if Prometheus may fetch metrics.
    pub(super) prometheus: bool,
    pub(super) metric_interval: Duration,
    pub(super) temporality: Temporality,
    pub(super) queue: Queue,
    pub(super) sampler: Sampler,
    pub(super) service_name: Option<String>,
}

/// A receiver of traces or of metrics.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    pub(super) protocol: Protocol,
    /// With the path, if the protocol has one.
    pub(super) url: String,
    /// The limit for an export with all its attempts.
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
    /// Set if the URL begins with `https`.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// The form of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// The meaning of a number in an export of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temporality {
    /// Since the start.
    Cumulative,
    /// Since the last export.
    Delta,
    /// Since the last export, where that needs no memory.
    LowMemory,
}

/// The spans that wait for their export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) size: usize,
    /// The most spans in one export.
    pub(super) batch: usize,
    /// The longest wait.
    pub(super) delay: Duration,
}

/// A kind of data that OpenTelemetry sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
}

impl Variables {
    /// Returns the values, or everything that is wrong with them.
    pub(super) fn read(environment: &Environment) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader { environment, errors: Vec::new() };
        let disabled = reader.is_true("OTEL_SDK_DISABLED");
        let traces = reader.exporters(Signal::Traces);
        let metrics = reader.exporters(Signal::Metrics);
        let mut receiver =
            |exporters: &[Exporter], signal| match exporters.contains(&Exporter::Otlp) {
                true => reader.receiver(signal).filter(|_| !disabled),
                false => None,
            };
        let variables = Self {
            traces: receiver(&traces, Signal::Traces),
            metrics: receiver(&metrics, Signal::Metrics),
            prometheus: !disabled && metrics.contains(&Exporter::Prometheus),
            metric_interval: reader.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", METRIC_INTERVAL),
            temporality: reader.temporality(),
            queue: reader.queue(),
            sampler: reader.sampler(),
            service_name: reader.text("OTEL_SERVICE_NAME").map(str::to_owned),
        };
        reader.check_pairs("OTEL_RESOURCE_ATTRIBUTES", |key| !key.is_empty());
        match reader.errors.is_empty() {
            true => Ok(variables),
            false => Err(reader.errors),
        }
    }
}

/// A way out of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exporter {
    Otlp,
    Prometheus,
}

impl Signal {
    /// Returns the part of the names of variables.
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    /// Returns the path of OTLP over HTTP.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }
}

/// Reads variables and collects what is wrong with them. An empty variable counts as unset.
struct Reader<'a> {
    environment: &'a Environment,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    fn wrong(&mut self, variable: &str, message: impl fmt::Display) {
        self.errors.push(ConfigError { key: variable.to_owned(), message: message.to_string() });
    }

    fn text(&self, variable: &str) -> Option<&'a str> {
        self.environment.get(variable).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Returns the variable of this signal, or else the one of all signals, by name and value.
    fn of_signal(&self, signal: Signal, suffix: &str) -> Option<(String, &'a str)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{suffix}", signal.name());
        let general = format!("OTEL_EXPORTER_OTLP_{suffix}");
        [own, general].into_iter().find_map(|name| Some((name.clone(), self.text(&name)?)))
    }

    /// Returns a parsed value, or the default if the variable is unset or wrong.
    fn parsed<T: FromStr>(&mut self, variable: &str, default: T, must: &str) -> T {
        let Some(text) = self.text(variable) else { return default };
        text.trim().parse().unwrap_or_else(|_| {
            self.wrong(variable, format_args!("{text:?} is wrong; must be {must}"));
            default
        })
    }

    fn is_true(&mut self, variable: &str) -> bool {
        let text = self.text(variable).unwrap_or("false").to_ascii_lowercase();
        if text != "true" && text != "false" {
            self.wrong(variable, "must be true or false");
        }
        text == "true"
    }

    fn milliseconds(&mut self, variable: &str, default: Duration) -> Duration {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        let value = self.parsed(variable, default, "a number of milliseconds");
        if value == 0 {
            self.wrong(variable, "must be at least 1 millisecond");
        }
        Duration::from_millis(value.max(1))
    }

    /// Returns the exporters of a signal. Without a choice, a signal goes to its receiver if there is one.
    fn exporters(&mut self, signal: Signal) -> Vec<Exporter> {
        let variable = format!("OTEL_{}_EXPORTER", signal.name());
        let Some(list) = self.text(&variable) else {
            let otlp = self.of_signal(signal, "ENDPOINT").map(|_| Exporter::Otlp);
            let prometheus = (signal == Signal::Metrics).then_some(Exporter::Prometheus);
            return otlp.into_iter().chain(prometheus).collect();
        };
        let names = list.split(',').map(str::trim).collect::<Vec<_>>();
        let mut exporters = Vec::new();
        for name in &names {
            match (*name, signal) {
                ("otlp", _) => exporters.push(Exporter::Otlp),
                ("prometheus", Signal::Metrics) => exporters.push(Exporter::Prometheus),
                ("none", _) if names.len() == 1 => {}
                ("none", _) => self.wrong(&variable, "none must be the only exporter"),
                (_, Signal::Traces) => {
                    self.wrong(
                        &variable,
                        format_args!("{name:?} is no exporter; must be otlp or none"),
                    );
                }
                (_, Signal::Metrics) => self.wrong(
                    &variable,
                    format_args!("{name:?} is no exporter; must be otlp, prometheus or none"),
                ),
            }
        }
        exporters
    }

    fn receiver(&mut self, signal: Signal) -> Option<Receiver> {
        let protocol = self.protocol(signal);
        let url = self.url(signal, protocol);
        let timeout = match self.of_signal(signal, "TIMEOUT") {
            Some((variable, _)) => self.milliseconds(&variable, TIMEOUT),
            None => TIMEOUT,
        };
        let gzip = match self.of_signal(signal, "COMPRESSION") {
            Some((_, "gzip")) => true,
            None | Some((_, "none")) => false,
            Some((variable, _)) => {
                self.wrong(&variable, "must be gzip or none");
                false
            }
        };
        if let Some((variable, _)) = self.of_signal(signal, "HEADERS") {
            self.check_pairs(&variable, |key| key.parse::<HeaderName>().is_ok());
        }
        let url = url?;
        let tls = match url.starts_with("https://") {
            true => Some(Arc::new(self.tls(signal, protocol)?)),
            false => None,
        };
        Some(Receiver { protocol, url, timeout, gzip, tls })
    }

    fn protocol(&mut self, signal: Signal) -> Protocol {
        match self.of_signal(signal, "PROTOCOL") {
            None | Some((_, "grpc")) => Protocol::Grpc,
            Some((_, "http/protobuf")) => Protocol::HttpProtobuf,
            Some((variable, _)) => {
                self.wrong(&variable, "must be grpc or http/protobuf");
                Protocol::Grpc
            }
        }
    }

    /// Returns the URL of a signal. An error does not quote it, because it may contain a password.
    fn url(&mut self, signal: Signal, protocol: Protocol) -> Option<String> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name());
        let (variable, text) = self.of_signal(signal, "ENDPOINT").unwrap_or(match protocol {
            Protocol::Grpc => (String::new(), "http://localhost:4317"),
            Protocol::HttpProtobuf => (String::new(), "http://localhost:4318"),
        });
        let uri = text.parse::<Uri>().ok();
        let authority = uri.as_ref().and_then(|uri| Some(uri.authority()?.as_str()));
        let has_scheme = text.starts_with("http://") || text.starts_with("https://");
        match authority.filter(|_| has_scheme) {
            None => {
                self.wrong(&variable, "must be a URL such as http://collector:4317");
                None
            }
            Some(authority) if authority.contains('@') => {
                self.wrong(
                    &variable,
                    "must not contain a password; send one with OTEL_EXPORTER_OTLP_HEADERS",
                );
                None
            }
            // The specification: the URL of all signals gets a path, the URL of one signal has it.
            Some(_) if protocol == Protocol::HttpProtobuf && variable != own => {
                Some(format!("{}{}", text.trim_end_matches('/'), signal.path()))
            }
            Some(_) => Some(text.to_owned()),
        }
    }

    /// Returns the configuration of TLS: the authorities of the system and those of the variables, and the
    /// client certificate if there is one.
    fn tls(&mut self, signal: Signal, protocol: Protocol) -> Option<ClientConfig> {
        let more = match self.of_signal(signal, "CERTIFICATE") {
            None => None,
            Some((variable, file)) => match CaFile::from(PathBuf::from(file)).read() {
                Ok(certificates) => Some(certificates),
                Err(error) => {
                    self.wrong(&variable, format_args!("{file}: {error}"));
                    return None;
                }
            },
        };
        let certificate = self.client_certificate(signal)?;
        let mut tls = match util::http::tls(more) {
            Ok(tls) => tls,
            Err(error) => {
                let variable = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name());
                self.wrong(&variable, format_args!("{error:#}"));
                return None;
            }
        };
        if let Some(certificate) = certificate {
            tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certificate));
        }
        if protocol == Protocol::Grpc {
            tls.alpn_protocols = vec![b"h2".to_vec()];
        }
        Some(tls)
    }

    /// Returns the client certificate if the variables name one. Returns `None` if it is wrong. An error does
    /// not quote the files.
    fn client_certificate(&mut self, signal: Signal) -> Option<Option<CertifiedKey>> {
        let certificate = self.of_signal(signal, "CLIENT_CERTIFICATE");
        let key = self.of_signal(signal, "CLIENT_KEY");
        let ((variable, file), (key_variable, key_file)) = match (certificate, key) {
            (None, None) => return Some(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some((variable, _)), None) | (None, Some((variable, _))) => {
                self.wrong(&variable, "needs CLIENT_CERTIFICATE and CLIENT_KEY together");
                return None;
            }
        };
        let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let Ok(chain) = chain else {
            self.wrong(&variable, format_args!("{file}: cannot be read; must be PEM"));
            return None;
        };
        let Ok(key) = PrivateKeyDer::from_pem_file(key_file) else {
            let problem = "has no unencrypted private key, or cannot be read; must be PEM";
            self.wrong(&key_variable, format_args!("{key_file}: {problem}"));
            return None;
        };
        match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
            Ok(certificate) => Some(Some(certificate)),
            Err(_) => {
                self.wrong(&key_variable, format_args!("{key_file}: does not belong to {file}"));
                None
            }
        }
    }

    /// Checks a list of the form `key=value,key=value`. An error does not quote it: headers contain tokens.
    fn check_pairs(&mut self, variable: &str, is_key: impl Fn(&str) -> bool) {
        let Some(list) = self.text(variable) else { return };
        let is_pair = |pair: &str| {
            let pair = pair.split_once('=');
            pair.is_some_and(|(key, value)| {
                is_key(key.trim()) && HeaderValue::from_str(value.trim()).is_ok()
            })
        };
        let mut pairs = list.split(',').filter(|pair| !pair.trim().is_empty());
        if !pairs.all(is_pair) {
            self.wrong(variable, "must be a list such as key=value,key=value");
        }
    }

    fn temporality(&mut self) -> Temporality {
        let variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        match self.text(variable).map(str::to_ascii_lowercase).as_deref() {
            None | Some("cumulative") => Temporality::Cumulative,
            Some("delta") => Temporality::Delta,
            Some("lowmemory") => Temporality::LowMemory,
            Some(_) => {
                self.wrong(variable, "must be cumulative, delta or lowmemory");
                Temporality::Cumulative
            }
        }
    }

    fn queue(&mut self) -> Queue {
        let must = "a number of spans";
        let size = self.parsed("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE.size, must);
        let batch = self.parsed("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", QUEUE.batch.min(size), must);
        let delay = self.milliseconds("OTEL_BSP_SCHEDULE_DELAY", QUEUE.delay);
        if !(1..=LONGEST_QUEUE).contains(&size) {
            self.wrong("OTEL_BSP_MAX_QUEUE_SIZE", format_args!("must be 1 to {LONGEST_QUEUE}"));
        } else if !(1..=size).contains(&batch) {
            self.wrong(
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                format_args!("must be 1 to {size}, which is OTEL_BSP_MAX_QUEUE_SIZE"),
            );
        }
        Queue { size, batch, delay }
    }

    /// Returns the sampler and its argument, by the OpenTelemetry specification.
    fn sampler(&mut self) -> Sampler {
        use Sampler::{AlwaysOff, AlwaysOn, ParentBased, TraceIdRatioBased};
        let named = self.text("OTEL_TRACES_SAMPLER");
        let ratio = if named.is_some() { 1.0 } else { DEFAULT_RATIO };
        let must = "a number from 0 to 1";
        let ratio = self.parsed("OTEL_TRACES_SAMPLER_ARG", ratio, must);
        if !(0.0..=1.0).contains(&ratio) {
            self.wrong("OTEL_TRACES_SAMPLER_ARG", format_args!("must be {must}"));
        }
        match named {
            Some("always_on") => AlwaysOn,
            Some("always_off") => AlwaysOff,
            Some("traceidratio") => TraceIdRatioBased(ratio),
            Some("parentbased_always_on") => ParentBased(Box::new(AlwaysOn)),
            Some("parentbased_always_off") => ParentBased(Box::new(AlwaysOff)),
            None | Some("parentbased_traceidratio") => {
                ParentBased(Box::new(TraceIdRatioBased(ratio)))
            }
            Some(other) => {
                self.wrong(
                    "OTEL_TRACES_SAMPLER",
                    format_args!(
                        "{other:?} is no sampler; must be always_on, always_off, traceidratio, or one \
                         of these after parentbased_"
                    ),
                );
                AlwaysOff
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Variables, Vec<ConfigError>> {
        let pairs = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Variables::read(&pairs.collect())
    }

    fn good(pairs: &[(&str, &str)]) -> Variables {
        read(pairs).expect("good variables")
    }

    #[test]
    fn without_variables_only_prometheus_gets_metrics() {
        let variables = good(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]);
        assert!(variables.traces.is_none() && variables.metrics.is_none());
        assert!(variables.prometheus);
        assert_eq!(variables.queue, QUEUE);
        assert_eq!(
            format!("{:?}", variables.sampler),
            format!("{:?}", Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.01))))
        );
    }

    #[test]
    fn own_variable_of_a_signal_comes_first() {
        let variables = good(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "2000"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
        ]);
        let (traces, metrics) = (variables.traces.expect("on"), variables.metrics.expect("on"));
        assert_eq!((traces.protocol, &*traces.url), (Protocol::Grpc, "http://traces:4317"));
        let http = (Protocol::HttpProtobuf, "http://all:4318/v1/metrics");
        assert_eq!((metrics.protocol, &*metrics.url), http);
        assert_eq!((traces.timeout.as_secs(), metrics.timeout.as_secs()), (1, 2));
        assert_eq!((traces.gzip, metrics.gzip), (false, true));
    }

    #[test]
    fn url_of_one_signal_keeps_its_path() {
        let variables = good(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        assert_eq!(variables.traces.expect("on").url, "http://traces:4318/otlp");
        assert!(variables.metrics.is_none());
    }

    #[test]
    fn chosen_exporters_and_the_switch_count() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317");
        let none = good(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]);
        assert!(none.traces.is_none() && none.metrics.is_some() && none.prometheus);
        let both = good(&[("OTEL_METRICS_EXPORTER", "otlp, prometheus")]);
        assert_eq!(both.metrics.expect("on").url, "http://localhost:4317");
        assert!(both.prometheus && both.traces.is_none());
        let otlp = good(&[endpoint, ("OTEL_METRICS_EXPORTER", "otlp")]);
        assert!(otlp.metrics.is_some() && !otlp.prometheus);
        let off = good(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]);
        assert!(off.traces.is_none() && off.metrics.is_none() && !off.prometheus);
    }

    #[test]
    fn wrong_value_is_refused_with_its_variable() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://all:4317");
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "all:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://user:hunter2@traces"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "GRPC"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/no/such/file"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
            ("OTEL_METRICS_EXPORTER", "otlp,none"),
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_TRACES_EXPORTER", "prometheus"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_TRACES_SAMPLER_ARG", "often"),
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1000001"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "18446744073709551615"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ] {
            let errors = read(&[endpoint, (variable, value)]).expect_err(variable);
            assert!(errors.iter().all(|error| error.key == variable), "{variable}: {errors:?}");
            let text = format!("{errors:?}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let several = read(&[("OTEL_SDK_DISABLED", "1"), ("OTEL_TRACES_SAMPLER", "x")]);
        assert_eq!(several.expect_err("both").len(), 2);
    }
}
