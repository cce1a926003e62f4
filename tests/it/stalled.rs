//! Watchers that do not read. They use HTTP/2 frames directly, because every client library reads
//! by itself. `--nocapture` shows figures.

#![expect(clippy::print_stdout, reason = "figures are shown and not judged")]

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;
use wechat_store_gateway::pb::{
    self, WatchAuditEventsRequest, WatchAuditEventsResponse, get_write_request::Lookup,
    watch_audit_events_request::Start,
};

use crate::{
    audit::{Watch, earliest},
    support::{App, is, reason, within},
    watchers::{ingest, logged},
};

/// The machine may be busy, and this is a lot of work for it.
const SOON: Duration = Duration::from_secs(60);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The number of the setting for the window of each stream, which limits unread data.
const INITIAL_WINDOW: u16 = 4;
/// The largest window.
const WIDE: u32 = (1 << 31) - 1;

/// An HTTP/2 connection without automatic behavior.
struct Wire {
    socket: TcpStream,
    streams: u32,
    /// The data of each stream that was not examined yet.
    arrived: HashMap<u32, Vec<u8>>,
}

impl Wire {
    /// Connects with this window for each stream and the largest window for the connection.
    async fn connect(address: impl tokio::net::ToSocketAddrs, window: u32) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it reads");
        let mut wire = Self { socket, streams: 0, arrived: HashMap::new() };
        wire.set_window(window).await;
        wire.send(WINDOW_UPDATE, 0, 0, &(WIDE - 65_535).to_be_bytes()).await;
        wire
    }

    /// Sets the window of each stream from now on.
    async fn set_window(&mut self, window: u32) {
        let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat();
        self.send(SETTINGS, 0, 0, &setting).await;
    }

    /// Begins a watch.
    async fn watch(&mut self, start: Start) {
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/wechat.store.v1.AuditService/WatchAuditEvents"),
            (":authority", "gateway"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal header without an index (RFC 7541, 6.2.2).
            headers.push(0);
            for text in [name, value] {
                headers.push(text.len().try_into().expect("a short text"));
                headers.extend_from_slice(text.as_bytes());
            }
        }
        let request = WatchAuditEventsRequest { start: Some(start), ..Default::default() };
        let request = request.encode_to_vec();
        let length = u32::try_from(request.len()).expect("a short message");
        let message = [&[0][..], &length.to_be_bytes(), &request].concat();
        let stream = 2 * self.streams + 1;
        self.streams += 1;
        self.send(HEADERS, END_HEADERS, stream, &headers).await;
        self.send(DATA, END_STREAM, stream, &message).await;
    }

    /// Begins this many watches, and waits until all of them are answered.
    async fn watch_all(&mut self, count: u32, start: Start) {
        for _ in 0..count {
            self.watch(start.clone()).await;
        }
        let mut answered = 0;
        while answered < count {
            let (kind, flags, _) = self.receive().await;
            if kind == HEADERS {
                assert_eq!(flags & END_STREAM, 0, "refused after {answered}");
                answered += 1;
            }
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.socket.write_all(&[head, payload.to_vec()].concat()).await.expect("it reads");
    }

    /// Receives the next frame, and returns its kind, its flags and its stream.
    async fn receive(&mut self) -> (u8, u8, u32) {
        let mut head = [0; 9];
        within(SOON, self.socket.read_exact(&mut head)).await.expect("a frame");
        let [a, b, c, kind, flags, stream @ ..] = head;
        let stream = u32::from_be_bytes(stream);
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        within(SOON, self.socket.read_exact(&mut payload)).await.expect("all of it");
        if kind == DATA {
            self.arrived.entry(stream).or_default().extend(payload);
        }
        (kind, flags, stream)
    }

    /// Reads until every stream has received this many events, and returns their ids.
    async fn read_all(&mut self, count: usize) -> Vec<Vec<String>> {
        let mut all: HashMap<u32, Vec<String>> = HashMap::new();
        let mut changed = self.arrived.keys().copied().collect::<Vec<_>>();
        loop {
            for stream in changed.drain(..).filter(|stream| *stream > 0) {
                let ids = all.entry(stream).or_default();
                let bytes = self.arrived.entry(stream).or_default();
                while let Some(length) = bytes.get(1..5) {
                    let length =
                        u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
                    let Some(message) = bytes.get(5..5 + length) else { break };
                    let response = WatchAuditEventsResponse::decode(message).expect("a response");
                    ids.extend(response.event.map(|event| event.event_id));
                    bytes.drain(..5 + length);
                }
            }
            if all.len() == self.streams as usize && all.values().all(|ids| ids.len() >= count) {
                return all.into_values().collect();
            }
            let (_, _, stream) = self.receive().await;
            changed.push(stream);
        }
    }
}

/// Checks that every kind of call that reads the state is answered, and that a new watcher gets its
/// events.
async fn calls_are_answered(app: &App) {
    let id = "6f1f3f6e-9d3c-4a8e-8f6b-0d0c1b2a3948".to_owned();
    assert!(!logged(app).await.is_empty());
    let request = pb::ListSubmissionsRequest::default();
    app.audits().list_submissions(request).await.expect("a page");
    let request = pb::GetWriteRequest {
        lookup: Some(Lookup::WriteRequestId(id)),
        ..pb::GetWriteRequest::default()
    };
    let unknown = app.writes().get_write(request).await.expect_err("there is none");
    assert_eq!(reason(&unknown), is(Code::NotFound, "WRITE_NOT_FOUND"));
    Watch::begin(app, earliest()).await.event().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_watchers_block_no_call() {
    let app = App::start().await;
    ingest(&app, 200).await;
    let mut narrow = Wire::connect(app.address, 1).await;
    let mut shut = Wire::connect(app.address, 0).await;
    within(SOON, join_all([narrow.watch_all(200, earliest()), shut.watch_all(100, earliest())]))
        .await;
    within(SOON, calls_are_answered(&app)).await;
    // A free place in a queue may only now reach one of them.
    shut.set_window(1).await;
    within(SOON, calls_are_answered(&app)).await;

    // They have missed nothing.
    let expected = logged(&app).await;
    for wire in [&mut narrow, &mut shut] {
        wire.set_window(WIDE).await;
        for ids in wire.read_all(expected.len()).await {
            assert_eq!(ids, expected);
        }
    }
    app.stop().await;
}

#[cfg(target_os = "linux")]
mod memory {
    use wechat_store_gateway::{
        pb::AuditEvent,
        state::{EventKey, Events, NewEvent, Origin, sqlite::Sqlite},
        testing::Clock,
    };

    use super::*;
    use crate::watchers::process::Process;

    /// Returns a state with this many events. Each has a text of `length` characters of three
    /// bytes.
    async fn filled(count: u32, length: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let state = Sqlite::open(&folder.path().join("state.db"), Clock::system());
        let state = state.expect("a state");
        let events = (0..count).map(|number| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            let event = AuditEvent {
                app_id: "wx1".to_owned(),
                wechat_message: "店".repeat(length),
                ..AuditEvent::default()
            };
            state.append(NewEvent::from_event(EventKey(key), event, Origin::Pushed))
        });
        for appended in join_all(events).await {
            appended.expect("appended");
        }
        folder
    }

    /// Returns the memory in kB of a thousand watchers on each of two connections that do not read.
    async fn cost(events: u32, length: usize) -> u64 {
        let process = Process::beside(filled(events, length).await).await;
        let before = process.memory();
        let mut wires = Vec::new();
        for _ in 0..2 {
            let mut wire = Wire::connect(&process.address, 0).await;
            wire.watch_all(1_000, earliest()).await;
            // The window has its largest size, and nothing is read.
            wire.set_window(WIDE).await;
            wires.push(wire);
        }
        // A measurement that is too early is too low, which does not fail the test.
        let mut most = 0;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            most = most.max(process.memory());
        }
        println!("memory in kB: {before}, with 2,000 watchers that do not read {most}");
        most.saturating_sub(before)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stalled_watchers_use_little_memory() {
        assert!(cost(4_000, 460).await < 2_000 * 70);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stalled_watchers_of_large_events_use_little_memory() {
        assert!(cost(60, 60_000).await < 2_000 * 70);
    }
}
