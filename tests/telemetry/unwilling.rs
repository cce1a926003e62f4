//! Receivers that do not receive: none of them slows a call, grows memory, floods the log or delays the end.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpListener};
use tonic::transport::Channel;
use wechat_store_gateway::pb::{self, account_service_client::AccountServiceClient};

use super::{
    OFFICIAL_APP_ID, OFFICIAL_SECRET,
    process::{Process, connect, free_port},
};

/// The spans that may wait.
const QUEUE: u64 = 16;
/// More calls than the queue, and than all exports until the end.
const CALLS: u64 = 500;

/// Returns the URL of a receiver that accepts connections and reads, but never answers.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = [0; 1024];
                while stream.read(&mut read).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    format!("http://{address}")
}

/// Returns the URL of a server that refuses every export: by HTTP/2 with UNIMPLEMENTED, by HTTP/1 with 404.
async fn refusing(protocol: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    match protocol {
        "grpc" => {
            let (_, health) = tonic_health::server::health_reporter();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(health);
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        _ => {
            let simulator = wechat_simulator::Simulator::new(Default::default());
            tokio::spawn(simulator.run(listener, std::future::pending()));
        }
    }
    format!("http://{address}")
}

/// Returns a URL at which nothing listens.
fn gone() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// Starts a gateway whose calls are all traced, makes many calls, and stops it. Returns its log.
async fn log_of_many_calls(name: &str, otlp: &str, protocol: &str) -> String {
    let grpc = free_port();
    let gateway = Process::start(
        name,
        &["serve"],
        &[
            ("WECHAT_APP_ID", OFFICIAL_APP_ID),
            ("WECHAT_APP_SECRET", OFFICIAL_SECRET),
            ("WECHAT_STORE_GATEWAY__LISTEN__GRPC", &format!("127.0.0.1:{grpc}")),
            ("WECHAT_STORE_GATEWAY__LIMITS__LAME_DUCK_MS", "0"),
            ("RUST_LOG", "info"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", &QUEUE.to_string()),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ],
    );
    let mut accounts = AccountServiceClient::<Channel>::new(connect(grpc).await);
    for _ in 0..CALLS {
        accounts.list_accounts(pb::ListAccountsRequest::default()).await.expect("accounts");
    }
    // The harness ends a test that takes minutes, as an export without a limit would.
    let stopped = tokio::task::spawn_blocking(move || gateway.stop());
    tokio::time::timeout(Duration::from_secs(60), stopped)
        .await
        .expect("it ends")
        .expect("no panic")
}

/// Checks that the losses are logged, and in few lines.
fn losses_are_few_lines(name: &str, log: &str) {
    let about_export = |line: &&str| line.contains("export") || line.contains("span");
    let lines = log.lines().filter(about_export).collect::<Vec<_>>();
    assert!((1..=8).contains(&lines.len()), "{name}: {lines:#?}");
    let number = |line: &str, field: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line[field].as_u64().unwrap_or_else(|| panic!("{name}: no {field} in {line}"))
    };
    let summary = lines.iter().find(|line| line.contains("\"lost spans\""));
    let summary = summary.unwrap_or_else(|| panic!("{name}: no summary in {lines:#?}"));
    let [exported, failed, dropped] =
        ["exported", "failed", "dropped"].map(|field| number(summary, field));
    assert_eq!(exported, 0, "{name}: {summary}");
    assert!(failed + dropped >= CALLS - QUEUE, "{name}: {summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_receiver_costs_spans_only() {
    for (name, protocol) in [("silent-grpc", "grpc"), ("silent-http", "http/protobuf")] {
        let log = log_of_many_calls(name, &silent().await, protocol).await;
        assert!(log.contains("the receiver of traces is too slow"), "{name}: {log}");
        losses_are_few_lines(name, &log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_receiver_costs_spans_only() {
    for (name, protocol) in [("refusing-grpc", "grpc"), ("refusing-http", "http/protobuf")] {
        let log = log_of_many_calls(name, &refusing(protocol).await, protocol).await;
        assert!(log.contains("failed to export telemetry: "), "{name}: {log}");
        losses_are_few_lines(name, &log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_receiver_costs_spans_only() {
    for (name, protocol) in [("gone-grpc", "grpc"), ("gone-http", "http/protobuf")] {
        let log = log_of_many_calls(name, &gone(), protocol).await;
        losses_are_few_lines(name, &log);
    }
}
