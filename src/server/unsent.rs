//! What a connection has been given and has not written to its socket yet.
//!
//! hyper takes from an answer before there is room for it, and h2 keeps what it has taken for each
//! stream by itself, so a client with a thousand streams that reads none of them would have all of that
//! in our memory. Streams therefore stop at a number of bytes that they have together. Whether one of
//! them is held up by the others of its connection is in the hands of the client that reads them.

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

/// From so many bytes on the streams of a connection are asked for no more.
const MOST: usize = 8 << 20;

/// The bytes of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsent(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: AtomicUsize,
    /// They were too many, and are not any more.
    room: Arc<Notify>,
}

/// A stream that waits for room.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Pin<Box<OwnedNotified>>>);

/// Bytes that count until they are dropped.
struct Counted {
    bytes: Bytes,
    of: Unsent,
}

impl Unsent {
    /// The same bytes. They count until they have been written, or thrown away.
    pub(super) fn count(&self, bytes: Bytes) -> Bytes {
        self.0.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, of: self.clone() })
    }

    /// Ready where a stream may go on.
    pub(super) fn poll_room(&self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<()> {
        while self.0.bytes.load(Ordering::SeqCst) >= MOST {
            let room =
                waiting.0.get_or_insert_with(|| Box::pin(self.0.room.clone().notified_owned()));
            // Looked at before the bytes are once more, so that no room goes unnoticed.
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
    async fn a_stream_goes_on_as_soon_as_enough_is_written() {
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
