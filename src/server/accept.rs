//! Which connections are taken: no more at a time than the settings allow, in all and from one
//! address. What is too much is closed at once, which costs next to nothing; the peer sees a reset and
//! comes again.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::ErrorKind,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{config::Connections, context::Peer, telemetry::seldom};

/// Where no socket is left, a pause lets some close.
const PAUSE: Duration = Duration::from_millis(100);
/// A peer that takes nothing of what it was sent for so long is gone, also where its machine still
/// answers.
const UNTAKEN: Duration = Duration::from_secs(60);

/// A listener with limits.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// Its key in `[listen]`.
    name: &'static str,
    places: Arc<Places>,
}

/// A connection that was taken. It has its place until it is dropped.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: Peer,
    pub(crate) place: Place,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, name: &'static str, limits: Connections) -> Self {
        Self { listener, name, places: Arc::new(Places::new(limits)) }
    }

    /// Waits for the next connection within the limits.
    pub(crate) async fn next(&self) -> Accepted {
        let listener = self.name;
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                // The peer left before it was its turn.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if let Some(unlogged) = seldom("failed to accept a connection", listener) {
                        tracing::warn!(
                            listener,
                            unlogged,
                            "failed to accept a connection: {error}"
                        );
                    }
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let peer = Peer::new(address);
            match Places::take(&self.places, peer.address) {
                Ok(place) => {
                    prepare(&stream);
                    return Accepted { stream, peer, place };
                }
                Err(limit) => {
                    let why = limit.why();
                    if let Some(unlogged) = seldom(why, listener) {
                        let address = peer.address;
                        tracing::warn!(listener, %address, unlogged, "refused a connection: {why}");
                    }
                }
            }
        }
    }
}

/// Sets what every connection has. A socket that is already dead shows that later.
fn prepare(stream: &TcpStream) {
    // Small frames must not wait for each other.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN));
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    InAll,
    PerAddress,
}

impl Limit {
    fn why(self) -> &'static str {
        match self {
            Self::InAll => "there are as many as the settings allow in all",
            Self::PerAddress => "there are as many as the settings allow from one address",
        }
    }
}

/// The places of one listener.
#[derive(Debug)]
struct Places {
    limits: Connections,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    fn new(limits: Connections) -> Self {
        Self { limits, taken: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // A panic between two lines of code leaves nothing half done here.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(places: &Arc<Self>, address: IpAddr) -> Result<Place, Limit> {
        let mut taken = places.lock();
        if taken.in_all >= places.limits.in_all {
            return Err(Limit::InAll);
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= places.limits.per_address {
            return Err(Limit::PerAddress);
        }
        *of_address += 1;
        taken.in_all += 1;
        Ok(Place { places: places.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
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
        let places = Arc::new(Places::new(Connections { in_all: 3, per_address: 2 }));
        let first = Places::take(&places, address(1)).expect("a place");
        let _second = Places::take(&places, address(1)).expect("a place");
        assert_eq!(Places::take(&places, address(1)).err(), Some(Limit::PerAddress));
        let _third = Places::take(&places, address(2)).expect("a place");
        assert_eq!(Places::take(&places, address(3)).err(), Some(Limit::InAll));
        drop(first);
        Places::take(&places, address(1)).expect("the place is free again");
    }

    #[test]
    fn an_address_that_left_takes_no_memory() {
        let places = Arc::new(Places::new(Connections { in_all: 3, per_address: 2 }));
        for last in 0..100 {
            drop(Places::take(&places, address(last)).expect("a place"));
        }
        let taken = places.lock();
        assert_eq!((taken.in_all, taken.by_address.len()), (0, 0));
    }
}
