//! Limits the watches of a connection and of an address.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::Error;
use crate::{callers::Caller, config::Limits, context::Peer, util::lock};

/// The time that a new watch waits for a place. A watch that its client has ended keeps its place for a
/// moment, and the client may already start another one.
const MOMENT: Duration = Duration::from_millis(500);

/// The places of all watches. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: Mutex<Taken>,
    /// Notified when a watch has ended.
    left: Notify,
}

#[derive(Debug)]
struct Taken {
    per_connection: usize,
    per_address: usize,
    per_caller: usize,
    by_connection: HashMap<u64, usize>,
    by_address: HashMap<IpAddr, usize>,
    by_caller: HashMap<String, usize>,
}

/// The place of one watch. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    of: Places,
    peer: Peer,
    caller: Arc<Caller>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        let taken = Mutex::new(Taken {
            per_connection: limits.watches_per_connection(),
            per_address: limits.watches_per_address(),
            per_caller: limits.watches_per_caller(),
            by_connection: HashMap::new(),
            by_address: HashMap::new(),
            by_caller: HashMap::new(),
        });
        Self(Arc::new(Inner { taken, left: Notify::new() }))
    }

    /// Changes the limits. Open watches stay open.
    pub(super) fn update(&self, limits: &Limits) {
        let mut taken = lock(&self.0.taken);
        taken.per_connection = limits.watches_per_connection();
        taken.per_address = limits.watches_per_address();
        taken.per_caller = limits.watches_per_caller();
    }

    /// Returns a place. Waits a moment for one, and then fails.
    pub(super) async fn take(&self, peer: Peer, caller: &Arc<Caller>) -> Result<Place, Error> {
        let placed = async {
            loop {
                let mut left = pin!(self.0.left.notified());
                // Registered before the check, so that no notification is missed.
                left.as_mut().enable();
                match self.try_take(peer, caller) {
                    Err(_) => left.await,
                    taken => return taken,
                }
            }
        };
        timeout(MOMENT, placed).await.unwrap_or_else(|_| self.try_take(peer, caller))
    }

    fn try_take(&self, peer: Peer, caller: &Arc<Caller>) -> Result<Place, Error> {
        let mut taken = lock(&self.0.taken);
        let Taken { per_connection, per_address, per_caller, by_connection, by_address, by_caller } =
            &mut *taken;
        // The one without a name stands for all callers.
        let name = Some(caller.name()).filter(|name| !name.is_empty());
        let of_caller = name.and_then(|name| by_caller.get(name));
        for (known, most, setting) in [
            (by_connection.get(&peer.connection), per_connection, "limits.watches_per_connection"),
            (by_address.get(&peer.address), per_address, "limits.watches_per_address"),
            (of_caller, per_caller, "limits.watches_per_caller"),
        ] {
            if known.is_some_and(|known| known >= most) {
                return Err(Error::TooMany { most: *most, setting });
            }
        }
        *by_connection.entry(peer.connection).or_default() += 1;
        *by_address.entry(peer.address).or_default() += 1;
        if let Some(name) = name {
            *by_caller.entry(name.to_owned()).or_default() += 1;
        }
        drop(taken);
        Ok(Place { of: self.clone(), peer, caller: caller.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.of.0.taken);
        give_back(&mut taken.by_connection, &self.peer.connection);
        give_back(&mut taken.by_address, &self.peer.address);
        give_back(&mut taken.by_caller, self.caller.name());
        drop(taken);
        self.of.0.left.notify_waiters();
    }
}

fn give_back<K, Q>(taken: &mut HashMap<K, usize>, key: &Q)
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if let Some(count) = taken.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            taken.remove(key);
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
        let refused = |peer| match places.try_take(peer, &Caller::anyone()) {
            Err(Error::TooMany { most, setting }) => (most, setting),
            taken => panic!("{taken:?}"),
        };
        let anyone = Caller::anyone();
        let first = places.try_take(one, &anyone).expect("room");
        let second = places.try_take(one, &anyone).expect("room");
        assert_eq!(refused(one), (2, "limits.watches_per_connection"));
        let third = places.try_take(two, &anyone).expect("the connection has room");
        assert_eq!(refused(two), (3, "limits.watches_per_address"));
        let fourth = places.try_take(far, &anyone).expect("the address has room");

        drop(second);
        let second = places.try_take(two, &anyone).expect("there is room again");
        drop([first, second, third, fourth]);
        let Taken { by_connection, by_address, by_caller, .. } = &*lock(&places.0.taken);
        assert!(by_connection.is_empty() && by_address.is_empty() && by_caller.is_empty());
    }

    #[tokio::test]
    async fn new_watch_waits_for_an_ending_one() {
        let places = Places::new(&Limits { watches_per_connection: 1, ..Limits::default() });
        let anyone = Caller::anyone();
        let first = places.take(Peer::NONE, &anyone).await.expect("room");
        let leave = async { drop(first) };
        let (second, ()) = tokio::join!(places.take(Peer::NONE, &anyone), leave);
        second.expect("there is room again");
    }
}
