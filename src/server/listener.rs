//! A bound socket with its limits: the one loop that accepts connections, for HTTP/1 and for HTTP/2.
//!
//! A listener serves a limited number of connections at a time, in all and from one address. It closes
//! a further connection at once, which costs next to nothing. The peer sees a reset and can try again.
//! When it stops, it closes its socket first, then every connection ends in order.

// Not tonic's server: it cannot coalesce responses, and closes an old connection without a status.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::ErrorKind,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Connections, context::Peer, telemetry::may_log, tls::Tls, util::lock};

/// The pause after a failure to accept. The usual cause is that no file descriptor is free, and each
/// connection that ends frees one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The kernel closes a connection if its peer acknowledges nothing for this time, even if the peer's
/// machine still answers.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(60);

/// A bound socket that accepts a limited number of connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    /// The key in `[listen]`, for log lines.
    name: &'static str,
    places: Arc<Places>,
    tls: Option<Tls>,
}

/// An accepted connection, before its TLS handshake. It keeps its place until it is dropped.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) place: Place,
    pub(super) listener: &'static str,
    pub(super) tls: Option<Tls>,
}

impl Listener {
    /// Wraps a bound socket. `name` is its key in `[listen]`.
    pub(crate) fn new(socket: TcpListener, name: &'static str, places: Arc<Places>) -> Self {
        Self { socket, name, places, tls: None }
    }

    /// Lets every connection use TLS, if there is any.
    pub(crate) fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Accepts connections until `stop`, and serves each in a task of its own. Then closes the socket
    /// and returns when all connections have ended. `serve` must end its connection after `stop`.
    pub(super) async fn run<F>(self, stop: &CancellationToken, serve: impl Fn(Accepted) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = TaskTracker::new();
        let accept = async {
            loop {
                connections.spawn(serve(self.next().await));
            }
        };
        stop.run_until_cancelled(accept).await;
        drop(self);
        connections.close();
        connections.wait().await;
    }

    /// Waits for the next connection within the limits.
    async fn next(&self) -> Accepted {
        let listener = self.name;
        loop {
            let (stream, address) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                // The peer left before its connection was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if let Some(unlogged) = may_log("failed to accept a connection", listener) {
                        tracing::warn!(
                            listener,
                            unlogged,
                            "failed to accept a connection: {error}"
                        );
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let peer = Peer::new(address);
            match Places::take(&self.places, peer.address) {
                Ok(place) => {
                    prepare(&stream);
                    return Accepted { stream, peer, place, listener, tls: self.tls.clone() };
                }
                Err(limit) => {
                    let why = limit.why();
                    if let Some(unlogged) = may_log(why, listener) {
                        let address = peer.address;
                        tracing::warn!(listener, %address, unlogged, "refused a connection: {why}");
                    }
                }
            }
        }
    }
}

/// Serves a connection until it ends. After `stop` it is asked to finish what it has begun, by
/// `shut_down`. If it has not ended by `limit`, it is dropped, which closes its socket.
pub(super) async fn serve_until<C>(
    mut connection: Pin<&mut C>,
    stop: impl Future<Output = ()>,
    shut_down: impl FnOnce(Pin<&mut C>),
    limit: impl Future<Output = ()>,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop => {
            shut_down(connection.as_mut());
            tokio::select! {
                result = connection => result,
                () = limit => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection failed: {error}");
    }
}

/// Sets the options that every socket has. If the peer is already gone, reading from it fails later.
fn prepare(stream: &TcpStream) {
    // Without this the kernel holds back small frames to send several together.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT));
}

/// The limit that a further connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    InAll,
    PerAddress,
}

impl Limit {
    /// Returns the reason for the log.
    fn why(self) -> &'static str {
        match self {
            Self::InAll => "the limit on all connections is reached",
            Self::PerAddress => "the limit on connections from one address is reached",
        }
    }
}

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Places(Mutex<Taken>);

#[derive(Debug)]
struct Taken {
    limits: Connections,
    in_all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    /// Returns as many places as the limits allow.
    pub(crate) fn new(limits: Connections) -> Arc<Self> {
        let taken = Taken { limits, in_all: 0, by_address: HashMap::new() };
        Arc::new(Self(Mutex::new(taken)))
    }

    /// Changes the limits. Open connections stay open.
    pub(crate) fn update(&self, limits: Connections) {
        lock(&self.0).limits = limits;
    }

    /// Returns the number of connections that are open.
    pub(crate) fn taken(&self) -> usize {
        lock(&self.0).in_all
    }

    /// Returns a place, or the limit that is reached.
    fn take(places: &Arc<Self>, address: IpAddr) -> Result<Place, Limit> {
        let mut taken = lock(&places.0);
        let limits = taken.limits;
        if taken.in_all >= limits.in_all {
            return Err(Limit::InAll);
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= limits.per_address {
            return Err(Limit::PerAddress);
        }
        *of_address += 1;
        taken.in_all += 1;
        Ok(Place { places: places.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.0);
        taken.in_all -= 1;
        if let Entry::Occupied(mut entry) = taken.by_address.entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let places = Places::new(Connections { in_all: 3, per_address: 2 });
        let first = Places::take(&places, address(1)).expect("a place");
        let _second = Places::take(&places, address(1)).expect("a place");
        assert_eq!(Places::take(&places, address(1)).err(), Some(Limit::PerAddress));
        let _third = Places::take(&places, address(2)).expect("a place");
        assert_eq!(Places::take(&places, address(3)).err(), Some(Limit::InAll));
        drop(first);
        Places::take(&places, address(1)).expect("the place is free again");
    }

    #[test]
    fn closed_connections_leave_no_entry() {
        let places = Places::new(Connections { in_all: 3, per_address: 2 });
        for last in 0..100 {
            drop(Places::take(&places, address(last)).expect("a place"));
        }
        let taken = lock(&places.0);
        assert_eq!((taken.in_all, taken.by_address.len()), (0, 0));
    }
}
