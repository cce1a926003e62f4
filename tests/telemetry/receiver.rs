//! A receiver of traces and metrics, by each form of OTLP.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Receives traces and metrics. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.traces.lock().expect("no panic").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().expect("no panic").push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Receiver {
    /// Receives by gRPC.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let (listener, address) = listen().await;
        let routes = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()));
        tokio::spawn(routes.serve_with_incoming(TcpIncoming::from(listener)));
        (receiver, address)
    }

    /// Receives by HTTP, in protobuf.
    pub(crate) async fn start_http() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let (listener, address) = listen().await;
        let server = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                let answer = service_fn(move |request| answer(server.clone(), request));
                let stream = TokioIo::new(stream);
                tokio::spawn(http1::Builder::new().serve_connection(stream, answer));
            }
        });
        (receiver, address)
    }

    /// Returns the schemas of the first export of traces.
    pub(crate) fn schemas(&self) -> [String; 2] {
        let requests = self.traces.lock().expect("no panic");
        let resource = &requests[0].resource_spans[0];
        [resource.schema_url.clone(), resource.scope_spans[0].schema_url.clone()]
    }

    /// Returns the attributes of the resource of the first export of traces.
    pub(crate) fn resource(&self) -> Vec<(String, String)> {
        let requests = self.traces.lock().expect("no panic");
        let resource = requests[0].resource_spans[0].resource.as_ref().expect("a resource");
        resource.attributes.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
    }

    /// Returns the names of all metrics, and the service that sent them.
    pub(crate) fn metrics(&self) -> BTreeSet<(String, String)> {
        let requests = self.metrics.lock().expect("no panic");
        let mut names = BTreeSet::new();
        for resource in requests.iter().flat_map(|request| &request.resource_metrics) {
            let attributes = &resource.resource.as_ref().expect("a resource").attributes;
            let service = attributes.iter().find(|pair| pair.key == "service.name");
            let service = text(service.expect("a name"));
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                names.insert((service.clone(), metric.name.clone()));
            }
        }
        names
    }

    /// Returns everything that was received, as text.
    pub(crate) fn everything(&self) -> String {
        let traces = self.traces.lock().expect("no panic");
        format!("{traces:?} {:?}", self.metrics.lock().expect("no panic"))
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.traces.lock().expect("no panic");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// Returns the value of an attribute as text.
pub(crate) fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{} is {other:?}", attribute.key),
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Answers as OTLP over HTTP does.
async fn answer(
    receiver: Receiver,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let kind = head.headers.get("content-type").map(|kind| kind.as_bytes());
    assert_eq!(kind, Some(&b"application/x-protobuf"[..]));
    let body = body.collect().await.expect("a whole body").to_bytes();
    let status = match head.uri.path() {
        "/v1/traces" => {
            let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
            receiver.traces.lock().expect("no panic").push(request);
            200
        }
        "/v1/metrics" => {
            let request = ExportMetricsServiceRequest::decode(body).expect("protobuf");
            receiver.metrics.lock().expect("no panic").push(request);
            200
        }
        _ => 404,
    };
    let mut response = hyper::Response::new(Full::default());
    *response.status_mut() = status.try_into().expect("a status");
    Ok(response)
}

/// Puts TLS in front of a receiver, for the name `localhost`. Returns the port, and the CA as PEM.
pub(crate) async fn with_tls(receiver: SocketAddr, protocol: &[u8]) -> (u16, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
    let ca = ca.expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &ca).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key);
    let mut config = config.expect("they fit");
    config.alpn_protocols = vec![protocol.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = TcpStream::connect(receiver).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    (address.port(), ca.pem())
}
