//! A client that follows the log as `audit.proto` describes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::{task::JoinHandle, time::sleep};
use tonic::Code;
use wechat_store_gateway::pb::{
    audit_service_client::AuditServiceClient, watch_audit_events_request::Start,
};

use crate::gateway::{Gateway, MOMENT, earliest, reason};

/// The record of a client.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The ids of the events, in the order of their first arrival.
    pub(crate) events: Vec<String>,
    /// The position of each event.
    pub(crate) positions: Vec<u64>,
    /// The number of watches that were begun.
    pub(crate) begun: usize,
    /// The number of repeated events.
    pub(crate) again: usize,
    /// The error that ended it, if it cannot continue.
    pub(crate) failed: Option<String>,
}

/// A client that runs until it is dropped.
pub(crate) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Follows a log from its first event. After every interruption, it continues after the last
    /// cursor that it stored. Sometimes it ends before it has stored one.
    pub(crate) fn start(gateway: &Gateway, mut random: fastrand::Rng) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (notes, mut client) = (seen.clone(), gateway.audits());
        let task = tokio::spawn(async move {
            let mut start = earliest();
            while note(&notes, |seen| seen.failed.is_none()) {
                let ended = follow(&mut client, &mut start, &notes, &mut random).await;
                if let Some((code, reason)) = ended
                    && code != Code::Unavailable
                    && !reason.is_empty()
                {
                    note(&notes, |seen| seen.failed = Some(format!("{code:?} {reason}")));
                }
                sleep(MOMENT).await;
            }
        });
        Self { seen, task }
    }

    /// Returns a part of its record so far.
    pub(crate) fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        note(&self.seen, look)
    }

    /// Waits until it has received this many events, and ends it.
    pub(crate) async fn finish(self, events: usize, limit: Duration) -> Seen {
        let mut rounds = limit.as_millis() / MOMENT.as_millis();
        while self.seen(|seen| seen.events.len() < events && seen.failed.is_none()) && rounds > 0 {
            sleep(MOMENT).await;
            rounds -= 1;
        }
        self.seen(std::mem::take)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note<T>(seen: &Mutex<Seen>, what: impl FnOnce(&mut Seen) -> T) -> T {
    what(&mut seen.lock().expect("no panic"))
}

/// Watches once, until the stream ends.
async fn follow(
    client: &mut AuditServiceClient<tonic::transport::Channel>,
    start: &mut Start,
    seen: &Mutex<Seen>,
    random: &mut fastrand::Rng,
) -> Option<(Code, String)> {
    let request = wechat_store_gateway::pb::WatchAuditEventsRequest {
        start: Some(start.clone()),
        ..Default::default()
    };
    let mut stream = match client.watch_audit_events(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return Some(reason(&status)),
    };
    note(seen, |seen| seen.begun += 1);
    let mut known: HashSet<_> = note(seen, |seen| seen.events.iter().cloned().collect());
    loop {
        let next = match stream.message().await {
            Ok(next) => next?,
            Err(status) => return Some(reason(&status)),
        };
        if let Some(event) = next.event {
            note(seen, |seen| match known.insert(event.event_id.clone()) {
                true => {
                    seen.events.push(event.event_id);
                    seen.positions.push(position(&next.cursor));
                }
                false => seen.again += 1,
            });
            if random.u32(..300) == 0 {
                return None;
            }
        }
        *start = Start::Cursor(next.cursor);
    }
}

/// Returns the log position of a cursor. Clients must treat a cursor as opaque.
fn position(cursor: &str) -> u64 {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).expect("base64");
    u64::from_be_bytes(bytes[8..16].try_into().expect("a cursor"))
}
