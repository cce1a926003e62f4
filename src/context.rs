//! What is known of a call beside its content: made by [`admit`](crate::admit), carried down to
//! whatever the call needs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tonic::Request;
use uuid::Uuid;

use crate::{
    clock::Clock,
    pb::Addressed,
    telemetry::Trace,
    translate::{Check, Invalid},
};

/// In characters, as `proto/` says.
const LONGEST_REFERENCE: usize = 64;

/// An answer that is begun later than this before the deadline comes too late.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// What every call carries along.
#[derive(Clone, Debug)]
pub struct Context {
    /// The account that the request names; empty for the default.
    pub app_id: String,
    /// The RPC, as in `StoreService/AddStore`.
    pub method: &'static str,
    /// Names this write, so that a repeat is recognised.
    pub request_id: Option<Uuid>,
    /// A hash of the request, if it names a write.
    pub fingerprint: [u8; 32],
    /// The caller's own number for the shop that a submission is about; empty where there is none.
    pub client_reference: String,
    /// Until when an answer is of use.
    pub deadline: Instant,
    /// Where in which trace this is.
    pub trace: Trace,
    /// How far the call has come.
    pub stage: StageCell,
}

/// What is known of a call before its message is read. The admission layer puts it into the
/// request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) deadline: Instant,
    pub(crate) trace: Trace,
    pub(crate) stage: StageCell,
}

impl Context {
    /// Parts a request into what surrounds it and what it says.
    ///
    /// Fails where `request_id` is no UUID or `client_reference` is too long.
    #[expect(clippy::expect_used, reason = "the layer wraps every service")]
    pub fn split<M: Addressed>(request: Request<M>) -> Result<(Self, M), Invalid> {
        let (_, mut extensions, mut message) = request.into_parts();
        let Arrival { deadline, trace, stage } =
            extensions.remove::<Arrival>().expect("every call passes the admission layer");
        let mut check = Check::default();
        let app_id = message.take_app_id();
        let request_id = check.uuid("request_id", &message.take_request_id());
        let fingerprint = match request_id {
            Some(_) => Sha256::digest(message.encode_to_vec()).into(),
            None => [0; 32],
        };
        let client_reference =
            check.at_most("client_reference", message.take_client_reference(), LONGEST_REFERENCE);
        let method = M::METHOD;
        let ctx = Self {
            app_id,
            method,
            request_id,
            fingerprint,
            client_reference,
            deadline,
            trace,
            stage,
        };
        check.done((ctx, message))
    }

    /// The context of a call that serves no single caller, such as filling a cache.
    pub fn internal(deadline: Instant) -> Self {
        Self {
            app_id: String::new(),
            method: "",
            request_id: None,
            fingerprint: [0; 32],
            client_reference: String::new(),
            deadline,
            trace: Trace::none(),
            stage: StageCell::default(),
        }
    }

    /// The same for what is only read before the call itself: how far that comes is not how far the
    /// call has come.
    pub fn beforehand(&self) -> Self {
        Self { stage: StageCell::default(), ..self.clone() }
    }

    /// How long this can still wait for others: what comes later comes too late for an answer.
    pub fn patience(&self, clock: &Clock) -> Duration {
        self.time_left(clock).saturating_sub(LEAST_TIME)
    }

    /// How long an answer is still of use.
    pub fn time_left(&self, clock: &Clock) -> Duration {
        self.deadline.saturating_duration_since(clock.now())
    }
}

/// How far a call has come; told to the caller whose deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nothing has happened yet.
    Admitted,
    /// It waits for an access token.
    Token,
    /// It waits for its turn among the calls of the account.
    Queue,
    /// It was handed to the connection to WeChat.
    WeChat,
}

/// The stage of one call, written by whoever carries it on.
#[derive(Clone, Debug, Default)]
pub struct StageCell(Arc<AtomicU8>);

impl StageCell {
    /// Notes that the call has come this far.
    pub fn reach(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    /// How far the call has come.
    pub fn get(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Admitted,
            1 => Stage::Token,
            2 => Stage::Queue,
            _ => Stage::WeChat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_told_as_it_was_reached() {
        let cell = StageCell::default();
        for stage in [Stage::Admitted, Stage::Token, Stage::Queue, Stage::WeChat] {
            cell.reach(stage);
            assert_eq!(cell.get(), stage);
        }
    }
}
