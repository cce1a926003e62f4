//! What is known of a call beside its content: made by [`admit`](crate::server::middleware), carried down to
//! whatever the call needs.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tonic::Request;
use uuid::Uuid;

use crate::{
    pb::Addressed,
    telemetry::Trace,
    translate::{Check, Invalid},
    util::{budget::Held, clock::Clock},
};

/// In characters, as `proto/` says.
const LONGEST_REFERENCE: usize = 64;

/// An answer that is begun later than this before the deadline comes too late.
pub(crate) const LEAST_TIME: Duration = Duration::from_millis(100);

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
    /// Which connection it came by.
    pub peer: Peer,
    /// The memory of its request, which counts for as long as something of it is left. `None` where
    /// there is no request.
    pub(crate) _held: Option<Arc<Held>>,
}

/// Which connection a call came by, for limits on what one connection or one address may have.
///
/// Behind a mesh or a proxy all callers have one address, so a limit per address is never far below
/// that of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Differs for each connection of this process. 0 where no connection brought the call.
    pub connection: u64,
    /// The other end's address; of an IPv6 address the first 64 bits, since one machine can have all
    /// that begin with them.
    pub address: IpAddr,
}

impl Peer {
    /// A new connection from this address.
    pub fn new(address: SocketAddr) -> Self {
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
    pub const NONE: Self = Self { connection: 0, address: IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
}

/// What is known of a call before its message is read. The admission layer puts it into the
/// request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) peer: Peer,
    pub(crate) held: Arc<Held>,
    pub(crate) deadline: Instant,
    pub(crate) trace: Trace,
    pub(crate) stage: StageCell,
}

impl Context {
    /// Parts a request into what surrounds it and what it says.
    ///
    /// Fails where `app_id`, `request_id` or `client_reference` cannot be one.
    #[expect(clippy::expect_used, reason = "the layer wraps every service")]
    pub fn split<M: Addressed>(request: Request<M>) -> Result<(Self, M), Invalid> {
        let (_, mut extensions, mut message) = request.into_parts();
        let Arrival { peer, held, deadline, trace, stage } =
            extensions.remove::<Arrival>().expect("every call passes the admission layer");
        let mut check = Check::default();
        let app_id = check.name("app_id", message.take_app_id());
        let request_id = check.uuid("request_id", &message.take_request_id());
        let fingerprint = match request_id {
            Some(_) => Sha256::digest(message.encode_to_vec()).into(),
            None => [0; 32],
        };
        let client_reference = check.name("client_reference", message.take_client_reference());
        check.within("client_reference", &client_reference, LONGEST_REFERENCE);
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
            peer,
            _held: Some(held),
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
            peer: Peer::NONE,
            _held: None,
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
    fn two_addresses_of_one_ipv6_network_are_one_peer_address() {
        let address = |text: &str| Peer::new(text.parse().expect("an address")).address.to_string();
        assert_eq!(address("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::");
        assert_eq!(address("[2001:db8:1:2:ffff::1]:2"), "2001:db8:1:2::");
        assert_eq!(address("[::ffff:192.0.2.1]:1"), "192.0.2.1");
        assert_eq!(address("192.0.2.1:1"), "192.0.2.1");
        assert_eq!(address("[::1]:1"), "::1");
    }

    #[test]
    fn every_connection_has_a_number_of_its_own() {
        let peer = || Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_ne!(peer(), peer());
    }

    #[test]
    fn a_stage_is_told_as_it_was_reached() {
        let cell = StageCell::default();
        for stage in [Stage::Admitted, Stage::Token, Stage::Queue, Stage::WeChat] {
            cell.reach(stage);
            assert_eq!(cell.get(), stage);
        }
    }
}
