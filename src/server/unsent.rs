//! Limits the bytes that a connection holds and has not written to its socket yet.
//!
//! hyper polls an answer before there is room for it, and h2 buffers the result per stream. A client
//! with a thousand streams that reads none of them would keep all of that in this process's memory. The
//! streams of a connection therefore pause at a number of bytes that they have together. One stream
//! can hold up the others of its connection, but only if the client does not read it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::{Notify, futures::OwnedNotified};

/// The streams of a connection are not polled for more while they hold this many bytes.
const MOST: usize = 8 << 20;

/// Counts the unsent bytes of one connection. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsent(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: AtomicUsize,
    /// Notified when the count falls below the limit again.
    room: Arc<Notify>,
}

/// The wait of one stream for room.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Pin<Box<OwnedNotified>>>);

/// Bytes that are counted until they are dropped.
struct Counted {
    bytes: Bytes,
    of: Unsent,
}

impl Unsent {
    /// Returns the same bytes, counted until they have been written or discarded.
    pub(super) fn count(&self, bytes: Bytes) -> Bytes {
        self.0.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, of: self.clone() })
    }

    /// Returns ready if a stream can continue.
    pub(super) fn poll_room(&self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<()> {
        while self.0.bytes.load(Ordering::SeqCst) >= MOST {
            let room =
                waiting.0.get_or_insert_with(|| Box::pin(self.0.room.clone().notified_owned()));
            // Polled before the second check of the count, so that no notification is missed.
            if room.as_mut().poll(cx).is_pending() && self.0.bytes.load(Ordering::SeqCst) >= MOST {
                return Poll::Pending;
            }
            waiting.0 = None;
        }
        waiting.0 = None;
        Poll::Ready(())
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Inner { bytes, room } = &*self.of.0;
        let before = bytes.fetch_sub(self.bytes.len(), Ordering::SeqCst);
        if before >= MOST && before - self.bytes.len() < MOST {
            room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn stream_continues_once_enough_is_written() {
        let unsent = Unsent::default();
        let [mut one, mut other] = [Waiting::default(), Waiting::default()];
        let small = unsent.count(Bytes::from_static(b"little"));
        assert_eq!(unsent.0.bytes.load(Ordering::SeqCst), 6);
        assert!(poll_fn(|cx| unsent.poll_room(&mut one, cx)).now_or_never().is_some());

        let large = unsent.count(vec![0; MOST].into());
        assert!(poll_fn(|cx| unsent.poll_room(&mut one, cx)).now_or_never().is_none());
        let rest = large.slice(1..);
        drop((small, large));
        assert!(poll_fn(|cx| unsent.poll_room(&mut other, cx)).now_or_never().is_none(), "a rest");
        let both = async {
            poll_fn(|cx| unsent.poll_room(&mut one, cx)).await;
            poll_fn(|cx| unsent.poll_room(&mut other, cx)).await;
        };
        let written = async { drop(rest) };
        tokio::join!(both, written);
        assert_eq!(unsent.0.bytes.load(Ordering::SeqCst), 0);
    }
}
