//! Sends traces and metrics by OTLP, over gRPC or HTTP.
//!
//! The library reads `OTEL_EXPORTER_OTLP_HEADERS` itself. Everything else comes from [`Variables`], which are
//! checked.

// Not the TLS and the HTTP clients of the library: they have other authorities, and a second crypto library.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Compression, MetricExporter, Protocol as OtlpProtocol, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{PeriodicReader, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{net::TcpStream, runtime::Handle};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::{BoxError, service_fn};

use super::{
    span_queue::{Bounded, Counted, Losses, SpanCounts},
    variables::{self, Protocol, Queue, Receiver},
};
use crate::util;

/// The limit for a connection with its handshakes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The interval of the pings that detect a receiver which is gone without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The longest answer of a receiver, in bytes.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Returns the provider of the spans. Must be called within the runtime.
pub(super) fn tracer_provider(
    receiver: &Receiver,
    Queue { size, batch, delay }: Queue,
    resource: Resource,
    counts: SpanCounts,
) -> anyhow::Result<SdkTracerProvider> {
    let exporter = match receiver.protocol {
        Protocol::Grpc => {
            let builder = SpanExporter::builder().with_tonic().with_channel(channel(receiver)?);
            let builder = builder.with_timeout(receiver.timeout);
            match receiver.gzip {
                true => builder.with_compression(Compression::Gzip).build()?,
                false => builder.build()?,
            }
        }
        Protocol::HttpProtobuf => {
            let builder =
                SpanExporter::builder().with_http().with_http_client(Http::new(receiver)?);
            let builder = builder.with_endpoint(&receiver.url).with_timeout(receiver.timeout);
            let builder = builder.with_protocol(OtlpProtocol::HttpBinary);
            match receiver.gzip {
                true => builder.with_compression(Compression::Gzip).build()?,
                false => builder.build()?,
            }
        }
    };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(size)
        .with_max_export_batch_size(batch)
        .with_scheduled_delay(delay)
        .build();
    let processor = BatchSpanProcessor::builder(Counted::new(exporter, counts.clone()))
        .with_batch_config(config)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        // Only sampled calls create spans.
        .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
        .with_span_processor(Bounded::new(processor, size, counts))
        .build())
}

/// Returns a reader that sends the metrics of one provider. Must be called within the runtime.
pub(super) fn metric_reader(
    receiver: &Receiver,
    interval: Duration,
    temporality: variables::Temporality,
) -> anyhow::Result<PeriodicReader<LoggedExporter>> {
    let temporality = match temporality {
        variables::Temporality::Cumulative => Temporality::Cumulative,
        variables::Temporality::Delta => Temporality::Delta,
        variables::Temporality::LowMemory => Temporality::LowMemory,
    };
    let builder = MetricExporter::builder().with_temporality(temporality);
    let inner = match receiver.protocol {
        Protocol::Grpc => {
            let builder = builder.with_tonic().with_channel(channel(receiver)?);
            let builder = builder.with_timeout(receiver.timeout);
            match receiver.gzip {
                true => builder.with_compression(Compression::Gzip).build()?,
                false => builder.build()?,
            }
        }
        Protocol::HttpProtobuf => {
            let builder = builder.with_http().with_http_client(Http::new(receiver)?);
            let builder = builder.with_endpoint(&receiver.url).with_timeout(receiver.timeout);
            let builder = builder.with_protocol(OtlpProtocol::HttpBinary);
            match receiver.gzip {
                true => builder.with_compression(Compression::Gzip).build()?,
                false => builder.build()?,
            }
        }
    };
    let exporter = LoggedExporter { inner, losses: Losses::default() };
    Ok(PeriodicReader::builder(exporter).with_interval(interval).build())
}

/// An exporter of metrics that logs its failures.
#[derive(Debug)]
pub(super) struct LoggedExporter {
    inner: MetricExporter,
    losses: Losses,
}

impl PushMetricExporter for LoggedExporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(metrics).await;
        if let Err(error) = &result {
            self.losses.log("metrics", 1, error);
        }
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

/// Returns a channel that connects when it is used.
fn channel(receiver: &Receiver) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(receiver.url.clone())?
        .timeout(receiver.timeout)
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(CONNECT_LIMIT);
    Ok(match receiver.tls.clone() {
        None => endpoint.connect_lazy(),
        Some(tls) => {
            let connect = move |uri: Uri| connect(uri, tls.clone());
            endpoint.connect_with_connector_lazy(service_fn(connect))
        }
    })
}

/// Opens a connection with TLS.
async fn connect(
    uri: Uri,
    tls: Arc<ClientConfig>,
) -> Result<TokioIo<TlsStream<TcpStream>>, BoxError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone())?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    Ok(TokioIo::new(TlsConnector::from(tls).connect(name, stream).await?))
}

/// Sends exports over HTTP. The exporters run in threads without a runtime, so it brings its own.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    runtime: Handle,
}

impl Http {
    fn new(receiver: &Receiver) -> anyhow::Result<Self> {
        let tls = match &receiver.tls {
            Some(tls) => ClientConfig::clone(tls),
            None => without_authorities()?,
        };
        let client = util::http::client()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(receiver.timeout)
            .tls_backend_preconfigured(tls)
            .build()?;
        Ok(Self { client, runtime: Handle::current() })
    }
}

#[tonic::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), request.try_into()?);
        let sent = self.runtime.spawn(async move {
            // The texts of errors would quote the URL.
            let response = client.execute(request).await.map_err(reqwest::Error::without_url)?;
            let (head, body) = Response::from(response).into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        });
        sent.await?
    }
}

/// Returns a configuration for a client that needs no TLS, which trusts nothing.
fn without_authorities() -> anyhow::Result<ClientConfig> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}
