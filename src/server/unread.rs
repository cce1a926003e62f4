//! Resets a stream whose peer does not read it. The rest of its connection continues.
//!
//! An answer comes from its body a piece at a time. hyper polls the body for the next piece when HTTP/2
//! has room for it. So if a body gave a piece and is not polled again, its peer does not read. hyper
//! itself would wait without a limit, because a peer that answers pings is alive.

use std::{
    cell::Cell,
    future::pending,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use pin_project_lite::pin_project;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The time after which an unread stream is reset. Equal to the time that a dead connection can leave
/// sent bytes unacknowledged.
const LIMIT: Duration = Duration::from_secs(60);
/// The same at a stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

thread_local! {
    /// The state of the body that was last polled on this thread.
    static BODY: Cell<Option<Body>> = const { Cell::new(None) };
}

/// The result of polling the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// It gave a piece. The peer must read it next.
    Gave,
    /// It gave a piece of an endless stream. The peer can leave it unread without a limit.
    GaveOneOfMany,
    /// It has nothing to give yet.
    Waits,
}

/// Records what a body did, for the stream that polls it.
pub(super) fn note(body: Body) {
    BODY.set(Some(body));
}

/// Runs the streams of a connection. Drops a stream if its peer has not read it for too long.
#[derive(Clone, Debug)]
pub(super) struct Executor {
    pub(super) stop: CancellationToken,
}

impl Executor {
    /// Waits until an unread stream must be reset.
    fn limit(&self, limit: Option<Duration>) -> BoxFuture<'static, ()> {
        let stop = self.stop.clone();
        async move {
            let stopped = async {
                stop.cancelled().await;
                sleep(STOP_LIMIT).await;
            };
            let limit = async {
                match limit {
                    Some(limit) => sleep(limit).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = limit => {}
                () = stopped => {}
            }
        }
        .boxed()
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Stream { stream, executor: self.clone(), limit: None });
    }
}

pin_project! {
    /// A stream that ends if its peer does not read it.
    struct Stream<F> {
        #[pin]
        stream: F,
        executor: Executor,
        // Set while its body has given a piece and has not been polled again.
        limit: Option<BoxFuture<'static, ()>>,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        BODY.set(None);
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match BODY.take() {
            Some(Body::Gave) => *this.limit = Some(this.executor.limit(Some(LIMIT))),
            Some(Body::GaveOneOfMany) => *this.limit = Some(this.executor.limit(None)),
            Some(Body::Waits) => *this.limit = None,
            None => {}
        }
        match this.limit {
            // Dropping the stream resets it.
            Some(limit) => limit.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use tokio::{sync::Notify, time::Instant};

    use super::*;

    /// Returns how many seconds a stream lives whose body does this each time it is polled.
    async fn lives(polls: &'static [Option<Body>], stop: CancellationToken) -> Option<u64> {
        let (started, woken, dropped) = (Instant::now(), Arc::new(Notify::new()), Arc::new(()));
        let (held, wake) = (Arc::downgrade(&dropped), woken.clone());
        let mut polls = polls.iter();
        let stream = async move {
            let _dropped = dropped;
            let mut woken = Box::pin(async move {
                loop {
                    wake.notified().await;
                }
            });
            poll_fn(|cx| {
                if let Some(Some(body)) = polls.next() {
                    note(*body);
                }
                woken.as_mut().poll(cx)
            })
            .await;
        };
        hyper::rt::Executor::execute(&Executor { stop }, stream);
        for second in 0..200 {
            sleep(Duration::from_secs(1)).await;
            if held.upgrade().is_none() {
                return Some(started.elapsed().as_secs());
            }
            if second % 40 == 20 {
                woken.notify_one();
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn unread_stream_ends_and_waiting_stream_does_not() {
        use Body::{Gave, GaveOneOfMany, Waits};
        let lives = |polls| lives(polls, CancellationToken::new());
        assert_eq!(lives(&[Some(Gave)]).await, Some(61));
        // Polling the stream does not mean that the peer reads it.
        assert_eq!(lives(&[Some(Gave), None, None]).await, Some(61));
        // The peer reads once more after 21 seconds.
        assert_eq!(lives(&[Some(Gave), Some(Gave)]).await, Some(82));
        assert_eq!(lives(&[Some(Gave), Some(Waits)]).await, None);
        assert_eq!(lives(&[Some(Waits)]).await, None);
        assert_eq!(lives(&[Some(GaveOneOfMany)]).await, None);
        assert_eq!(lives(&[None]).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn unread_stream_delays_stop_for_two_seconds() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(lives(&[Some(Body::Gave)], stop.clone()).await, Some(3));
        assert_eq!(lives(&[Some(Body::GaveOneOfMany)], stop.clone()).await, Some(3));
        assert_eq!(lives(&[Some(Body::Waits)], stop).await, None);
    }
}
