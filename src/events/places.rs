//! Limits the watches of a connection and of an address.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::Error;
use crate::{config::Limits, context::Peer, util::lock};

/// The time that a new watch waits for a place. A watch that its client has ended keeps its place for a
/// moment, and the client may already start another one.
const MOMENT: Duration = Duration::from_millis(500);

/// The places of all watches. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    per_connection: usize,
    per_address: usize,
    taken: Mutex<Taken>,
    /// Notified when a watch has ended.
    left: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    by_connection: HashMap<u64, usize>,
    by_address: HashMap<IpAddr, usize>,
}

/// The place of one watch. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    of: Places,
    peer: Peer,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        let (per_connection, per_address) =
            (limits.watches_per_connection(), limits.watches_per_address());
        let (taken, left) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { per_connection, per_address, taken, left }))
    }

    /// Returns a place. Waits a moment for one, and then fails.
    pub(super) async fn take(&self, peer: Peer) -> Result<Place, Error> {
        let placed = async {
            loop {
                let mut left = pin!(self.0.left.notified());
                // Registered before the check, so that no notification is missed.
                left.as_mut().enable();
                match self.try_take(peer) {
                    Err(_) => left.await,
                    taken => return taken,
                }
            }
        };
        timeout(MOMENT, placed).await.unwrap_or_else(|_| self.try_take(peer))
    }

    fn try_take(&self, peer: Peer) -> Result<Place, Error> {
        let Inner { per_connection, per_address, .. } = &*self.0;
        let mut taken = lock(&self.0.taken);
        let Taken { by_connection, by_address } = &mut *taken;
        for (known, most, setting) in [
            (by_connection.get(&peer.connection), per_connection, "limits.watches_per_connection"),
            (by_address.get(&peer.address), per_address, "limits.watches_per_address"),
        ] {
            if known.is_some_and(|known| known >= most) {
                return Err(Error::TooMany { most: *most, setting });
            }
        }
        *by_connection.entry(peer.connection).or_default() += 1;
        *by_address.entry(peer.address).or_default() += 1;
        drop(taken);
        Ok(Place { of: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.of.0.taken);
        give_back(&mut taken.by_connection, self.peer.connection);
        give_back(&mut taken.by_address, self.peer.address);
        drop(taken);
        self.of.0.left.notify_waiters();
    }
}

fn give_back<K: Eq + Hash>(taken: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = taken.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            taken.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_watch_frees_its_place_and_entry() {
        let limits =
            Limits { watches_per_connection: 2, watches_per_address: 3, ..Limits::default() };
        let places = Places::new(&limits);
        let peer = |address: &str| Peer::new(format!("{address}:1").parse().expect("an address"));
        let (one, two, far) = (peer("192.0.2.1"), peer("192.0.2.1"), peer("192.0.2.2"));
        let refused = |peer| match places.try_take(peer) {
            Err(Error::TooMany { most, setting }) => (most, setting),
            taken => panic!("{taken:?}"),
        };
        let first = places.try_take(one).expect("room");
        let second = places.try_take(one).expect("room");
        assert_eq!(refused(one), (2, "limits.watches_per_connection"));
        let third = places.try_take(two).expect("the connection has room");
        assert_eq!(refused(two), (3, "limits.watches_per_address"));
        let fourth = places.try_take(far).expect("the address has room");

        drop(second);
        let second = places.try_take(two).expect("there is room again");
        drop([first, second, third, fourth]);
        let Taken { by_connection, by_address } = &*lock(&places.0.taken);
        assert!(by_connection.is_empty() && by_address.is_empty());
    }

    #[tokio::test]
    async fn new_watch_waits_for_an_ending_one() {
        let places = Places::new(&Limits { watches_per_connection: 1, ..Limits::default() });
        let first = places.take(Peer::NONE).await.expect("room");
        let leave = async { drop(first) };
        let (second, ()) = tokio::join!(places.take(Peer::NONE), leave);
        second.expect("there is room again");
    }
}
