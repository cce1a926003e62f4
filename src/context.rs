//! The context of a call: its caller, account, deadline, trace and stage.
//! [`middleware`](crate::server::middleware) creates it, and every layer below receives it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use uuid::Uuid;

use crate::{
    callers::{Caller, Forbidden, Identity},
    config::is_app_id,
    pb::{Access, Addressed},
    telemetry::Trace,
    util::{budget::Held, clock::Clock, lock, scope::Scope},
    validate::{Check, Invalid},
};

/// An answer that starts later than this before the deadline comes too late.
pub(crate) const LEAST_TIME: Duration = Duration::from_millis(100);

/// The header in which a client's gRPC library counts its earlier attempts. The first attempt has none.
const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// The context of a call.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The program that calls.
    pub identity: Identity,
    /// The access that the RPC needs.
    pub access: Access,
    /// The account that the request names. Empty for the default one.
    pub app_id: String,
    /// The RPC, as in `StoreService/AddStore`.
    pub method: &'static str,
    /// The name of this write, by which a repeat is recognized.
    pub request_id: Option<Uuid>,
    /// True if the client's gRPC library sends the request again by itself.
    pub repeated_by_client: bool,
    /// A hash of the request, if it has a `request_id`.
    pub fingerprint: [u8; 32],
    /// The caller's own name for the shop that a submission is about. May be empty.
    pub client_reference: String,
    /// The time after which an answer is of no use.
    pub deadline: Instant,
    /// The trace and the span that the call belongs to.
    pub trace: Trace,
    /// The stage that the call has reached and, if it writes, the names of what it writes.
    pub progress: Progress,
    /// The connection that the call arrived on.
    pub peer: Peer,
    /// Ends the call if it would not end by itself.
    pub ending: Ending,
    /// The share of a budget that the request takes, until the last clone is dropped. `None` if there is
    /// no request.
    pub(crate) _held: Option<Arc<Held>>,
}

/// The connection that a call arrived on, for limits per connection and per address.
///
/// Behind a mesh or a proxy all callers have one address, so a limit per address is never far below the
/// limit of all callers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    /// Different for each connection of this process. 0 if no connection brought the call.
    pub connection: u64,
    /// The address of the client. Of an IPv6 address only the first 64 bits, because one machine can have
    /// all addresses that begin with them.
    pub address: IpAddr,
}

impl Peer {
    /// Returns a new connection from this address.
    pub(crate) fn new(address: SocketAddr) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let address = match address.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))
            }
            address => address,
        };
        Self { connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed), address }
    }

    /// Stands for this process itself.
    pub(crate) const NONE: Self =
        Self { connection: 0, address: IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
}

/// Ends the endless answers of a connection: at a stop, and some time after the connection is too old.
// Behind an Arc, because a token's own clones share a lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Arc<CancellationToken>);

impl Ending {
    /// Returns the end of a new connection, which comes with `stop` at the latest.
    pub(crate) fn new(stop: &CancellationToken) -> Self {
        Self(Arc::new(stop.child_token()))
    }

    /// Returns a token that is canceled when the answers must end.
    pub(crate) fn token(&self) -> CancellationToken {
        CancellationToken::clone(&self.0)
    }

    /// Ends the answers.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }
}

/// The context of a call before its message is decoded. The middleware puts it into the extensions of the
/// request.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) identity: Identity,
    pub(crate) peer: Peer,
    pub(crate) ending: Ending,
    pub(crate) held: Arc<Held>,
    pub(crate) deadline: Instant,
    pub(crate) trace: Trace,
    pub(crate) progress: Progress,
}

impl Context {
    /// Splits a request into its context and its content.
    ///
    /// Fails if the caller may not use the RPC for the account of the request, or if `app_id`,
    /// `request_id` or `client_reference` is malformed.
    #[expect(clippy::expect_used, reason = "the layer wraps every service")]
    pub(crate) fn split<M: Addressed>(request: Request<M>) -> Result<(Self, M), Unusable> {
        let (metadata, mut extensions, mut message) = request.into_parts();
        let repeated_by_client = metadata.contains_key(PREVIOUS_ATTEMPTS);
        let Arrival { identity, peer, ending, held, deadline, trace, progress } =
            extensions.remove::<Arrival>().expect("every call passes the middleware");
        let mut check = Check::default();
        let app_id = check.name("app_id", message.take_app_id());
        let request_id = check.uuid("request_id", &message.take_request_id());
        if request_id.is_some() {
            progress.allow_repeat();
        }
        progress.note(|write| {
            // Another text could be anything, even a telephone number.
            if is_app_id(&app_id) {
                app_id.clone_into(&mut write.app_id);
            }
            write.request_id = request_id;
            write.validate_only = message.validates_only();
        });
        let access = M::ACCESS;
        if !app_id.is_empty() && !identity.caller.may(access, &app_id) {
            return Err(Forbidden::new(&identity.caller, access, Some(app_id)).into());
        }
        let fingerprint = match request_id {
            Some(_) => Sha256::digest(message.encode_to_vec()).into(),
            None => [0; 32],
        };
        let client_reference = check.reference(message.take_client_reference());
        let method = M::METHOD;
        let ctx = Self {
            identity,
            access,
            app_id,
            method,
            request_id,
            repeated_by_client,
            fingerprint,
            client_reference,
            deadline,
            trace,
            progress,
            peer,
            ending,
            _held: Some(held),
        };
        Ok(check.done((ctx, message))?)
    }

    /// Returns the program that calls.
    pub(crate) fn caller(&self) -> &Caller {
        &self.identity.caller
    }

    /// Returns the accounts that the call can be about: the one that the request names, or else all to which
    /// the caller has access.
    pub(crate) fn accounts(&self) -> Scope {
        match self.app_id.is_empty() {
            true => self.caller().accounts(self.access),
            false => Scope::one(self.app_id.clone()),
        }
    }

    /// Returns the context of a read that serves no single caller, such as one that fills a cache.
    pub(crate) fn internal(deadline: Instant) -> Self {
        Self {
            identity: Identity::unproven(Caller::anyone()),
            access: Access::Read,
            app_id: String::new(),
            method: "",
            request_id: None,
            repeated_by_client: false,
            fingerprint: [0; 32],
            client_reference: String::new(),
            deadline,
            trace: Trace::none(),
            progress: Progress::default(),
            peer: Peer::NONE,
            ending: Ending::default(),
            _held: None,
        }
    }

    /// Returns the context for a read before the call itself. The progress of the read is not the progress
    /// of the call.
    pub(crate) fn for_preflight_read(&self) -> Self {
        Self { progress: Progress::default(), ..self.clone() }
    }

    /// Returns how long the call can still wait for others. Whatever comes later comes too late for an
    /// answer.
    pub(crate) fn wait_limit(&self, clock: &Clock) -> Duration {
        self.time_left(clock).saturating_sub(LEAST_TIME)
    }

    /// Returns how long an answer is still of use.
    pub(crate) fn time_left(&self, clock: &Clock) -> Duration {
        self.deadline.saturating_duration_since(clock.now())
    }
}

/// The reason why a request has no context.
#[derive(Clone, Debug)]
pub(crate) enum Unusable {
    /// A field is malformed.
    Invalid(Invalid),
    /// The caller's role is too low.
    Forbidden(Forbidden),
}

impl From<Invalid> for Unusable {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<Forbidden> for Unusable {
    fn from(forbidden: Forbidden) -> Self {
        Self::Forbidden(forbidden)
    }
}

/// How far a call has come. A caller gets this if its deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Nothing has happened yet.
    Admitted,
    /// It waits for an access token.
    Token,
    /// It waits for a concurrency permit of the account.
    Queue,
    /// It was handed to the connection to WeChat.
    WeChat,
}

/// The progress of one call. Each layer notes what it knows. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Noted>);

#[derive(Debug, Default)]
struct Noted {
    stage: AtomicU8,
    /// True if the client must not send the call again by itself.
    once: AtomicBool,
    /// True if the call repeats a write whose outcome stayed unknown.
    repeats_unknown: AtomicBool,
    /// `None` for a read, which the activity log does not have.
    write: Option<Box<Mutex<WriteNames>>>,
}

/// The names by which the activity log describes a write. Each is empty until a layer knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteNames {
    /// The account.
    pub(crate) app_id: String,
    /// The caller's name for the write.
    pub(crate) request_id: Option<Uuid>,
    /// The journal's id of the write.
    pub(crate) write_id: String,
    /// True if the call only checks the request.
    pub(crate) validate_only: bool,
}

impl Progress {
    /// Returns the progress of a write that has just arrived. If the write must be executed only `once`, the client
    /// must not repeat it until its `request_id` is known. The gateway could not tell such a repeat from one of a
    /// write that was sent, and would refuse it.
    pub(crate) fn of_write(once: bool) -> Self {
        let (once, write) = (AtomicBool::new(once), Some(Box::default()));
        Self(Arc::new(Noted { once, write, ..Noted::default() }))
    }

    /// Returns true if the call writes.
    pub(crate) fn writes(&self) -> bool {
        self.0.write.is_some()
    }

    /// Sets the stage.
    pub(crate) fn reach(&self, stage: Stage) {
        self.0.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Returns the stage.
    pub(crate) fn stage(&self) -> Stage {
        match self.0.stage.load(Ordering::Relaxed) {
            0 => Stage::Admitted,
            1 => Stage::Token,
            2 => Stage::Queue,
            _ => Stage::WeChat,
        }
    }

    /// Notes that the client must not send the call again by itself.
    pub(crate) fn forbid_repeat(&self) {
        self.0.once.store(true, Ordering::Relaxed);
    }

    /// Notes that the journal recognizes a repeat of the call.
    fn allow_repeat(&self) {
        self.0.once.store(false, Ordering::Relaxed);
    }

    /// Returns true if the client may send the call again by itself.
    pub(crate) fn may_repeat(&self) -> bool {
        !self.0.once.load(Ordering::Relaxed)
    }

    /// Notes that the call repeats a write whose outcome stays unknown.
    pub(crate) fn repeat_unknown(&self) {
        self.0.repeats_unknown.store(true, Ordering::Relaxed);
    }

    /// Returns true if the call repeats a write whose outcome stays unknown.
    pub(crate) fn repeats_unknown(&self) -> bool {
        self.0.repeats_unknown.load(Ordering::Relaxed)
    }

    /// Notes names of a write. Does nothing for a read.
    pub(crate) fn note(&self, note: impl FnOnce(&mut WriteNames)) {
        if let Some(names) = &self.0.write {
            note(&mut lock(names));
        }
    }

    /// Returns the names of a write as far as they are known. Returns `None` for a read.
    pub(crate) fn names(&self) -> Option<WriteNames> {
        self.0.write.as_ref().map(|names| lock(names).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_of_one_network_are_one_peer() {
        let address = |text: &str| Peer::new(text.parse().expect("an address")).address.to_string();
        assert_eq!(address("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::");
        assert_eq!(address("[2001:db8:1:2:ffff::1]:2"), "2001:db8:1:2::");
        assert_eq!(address("[::ffff:192.0.2.1]:1"), "192.0.2.1");
        assert_eq!(address("192.0.2.1:1"), "192.0.2.1");
        assert_eq!(address("[::1]:1"), "::1");
    }

    #[test]
    fn each_connection_has_its_own_number() {
        let peer = || Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_ne!(peer(), peer());
    }

    #[test]
    fn stage_is_returned_as_it_was_set() {
        let progress = Progress::default();
        for stage in [Stage::Admitted, Stage::Token, Stage::Queue, Stage::WeChat] {
            progress.reach(stage);
            assert_eq!(progress.stage(), stage);
        }
    }
}
