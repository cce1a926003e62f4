//! The line that a write leaves in the activity log.

use std::sync::Arc;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Call, Rules};
use crate::{
    activity::{ActivityLog, Entry},
    callers::Caller,
    context::{Progress, WriteNames},
    telemetry::code_name,
    util::clock::Clock,
};

/// The outcome of a write whose caller left before the answer. A write that was sent still runs to its end.
const CALLER_LEFT: &str = "CALLER_LEFT";
/// The reason for the outcome of a request that was only checked.
const VALIDATE_ONLY: &str = "VALIDATE_ONLY";

/// The line of a write that is not answered yet. If this is dropped, the caller has left, and the line
/// states that. A client that is no known caller leaves no line.
#[derive(Debug)]
pub(super) struct WriteLine {
    log: ActivityLog,
    clock: Clock,
    method: String,
    trace_id: String,
    progress: Progress,
    /// `None` after the line is written.
    caller: Option<Arc<Caller>>,
}

impl WriteLine {
    /// Returns the line of a call, or `None` if the call only reads. Calls beyond the caller's rate leave none: a
    /// flood would fill the disk.
    pub(super) fn new(
        rules: &Rules,
        call: &Call,
        progress: &Progress,
        caller: &Arc<Caller>,
    ) -> Option<Self> {
        let method = call.method.strip_prefix("wechat.store.v1.").unwrap_or(&call.method);
        progress.writes().then(|| Self {
            log: rules.activity.clone(),
            clock: rules.clock.clone(),
            method: method.to_owned(),
            trace_id: call.trace.id.to_string(),
            progress: progress.clone(),
            caller: Some(caller.clone()),
        })
    }

    /// Writes the line of a write that is answered now.
    pub(super) async fn write(mut self, failure: Option<&Status>) {
        let Some(caller) = self.caller.take() else { return };
        let mut entry = self.entry(&caller);
        entry.outcome = code_name(failure.map_or(Code::Ok, Status::code));
        if let Some(info) = failure.and_then(StatusExt::get_details_error_info) {
            entry.reason = info.reason;
        }
        self.log.write(entry).await;
    }

    fn entry(&mut self, caller: &Caller) -> Entry {
        let names = self.progress.names().unwrap_or_default();
        let WriteNames { app_id, request_id, write_id, validate_only } = names;
        Entry {
            caller: caller.name().to_owned(),
            method: std::mem::take(&mut self.method),
            app_id,
            request_id: request_id.map(|id| id.to_string()).unwrap_or_default(),
            write_id,
            reason: if validate_only { VALIDATE_ONLY } else { "" }.to_owned(),
            trace_id: std::mem::take(&mut self.trace_id),
            ..Entry::at(self.clock.wall())
        }
    }
}

impl Drop for WriteLine {
    fn drop(&mut self) {
        let Some(caller) = self.caller.take() else { return };
        let entry = Entry { outcome: CALLER_LEFT, ..self.entry(&caller) };
        self.log.write_soon(entry);
    }
}
