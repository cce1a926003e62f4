//! Sends the answers of several calls to a connection in one write.
//!
//! A write to a socket costs more than the rest of an answer's work. hyper alone writes whenever one
//! stream has something, and writes one answer in two parts: h2 copies a small DATA frame behind the
//! frames before it, but hands a larger frame to the socket by itself. The frames after it, such as the
//! trailers, wait for that write.

// Not a crate: none holds back the writes of hyper and h2 until more responses are ready.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::task::yield_now;
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    middleware::Connection,
    unread,
    unsent::{Unsent, Waiting},
};
use crate::{
    service::Endless,
    util::budget::{Held, Share},
};

/// The longest DATA frame that h2 copies, in bytes.
const COPIED: usize = 255;
/// A frame up to this length is split into several that h2 copies.
const SMALL: usize = 4 * COPIED;
/// A larger frame is given to HTTP/2 in pieces of this length, so that the rest stays here until the peer
/// reads it.
const PIECE: usize = 16 * 1024;

/// A connection that, if it has several calls, first lets every other ready task run. All answers that
/// are ready by then go out in one write.
#[derive(Debug)]
pub(super) struct Coalesced<F> {
    pub(super) connection: F,
    /// Counts its calls, until their answers are sent.
    pub(super) shares: Arc<Connection>,
    pub(super) gave_way: bool,
}

impl<F: Future + Unpin> Future for Coalesced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.gave_way = !self.gave_way && self.shares.calls() > 1;
        // One poll of it is enough to be woken after the other tasks, even though it is dropped.
        if self.gave_way && pin!(yield_now()).poll(cx).is_pending() {
            return Poll::Pending;
        }
        Pin::new(&mut self.connection).poll(cx)
    }
}

/// A service that counts the calls of a connection, and whose answers are sent in one write.
#[derive(Clone, Debug)]
pub(super) struct CoalescingService<S> {
    pub(super) service: S,
    pub(super) connection: Arc<Connection>,
    pub(super) unsent: Unsent,
}

impl<S, B> Service<Request<B>> for CoalescingService<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service checks whether the limit is exceeded.
        let shares = self.connection.shares(request.uri().path());
        let (call, memory) = (shares.calls.add(1), shares.memory.clone());
        let counted = Some(Counted { _call: call, memory });
        Answering { answer: self.service.call(request), counted, unsent: self.unsent.clone() }
    }
}

/// The future of an answer.
#[derive(Debug)]
pub(super) struct Answering<F> {
    answer: F,
    counted: Option<Counted>,
    unsent: Unsent,
}

/// The resources that count as used until an answer is sent.
#[derive(Debug)]
struct Counted {
    _call: Held,
    /// The memory of its connection.
    memory: Arc<Share>,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.answer).poll(cx))?;
        let (counted, unsent) = (self.counted.take(), self.unsent.clone());
        let waiting = response.extensions().get().map(|Endless| Waiting::default());
        Poll::Ready(Ok(response.map(|body| Answer::new(body, counted, unsent, waiting))))
    }
}

/// The body of an answer. A small body comes in frames that h2 copies. The frames of a large body wait
/// here until the peer reads.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// The rest of the last frame.
    rest: Bytes,
    /// The length of the pieces in which it is given.
    piece: usize,
    counted: Option<Counted>,
    /// The memory that the last frame takes.
    held: Option<Held>,
    unsent: Unsent,
    /// Set for an endless answer, which waits for room. Any other answer is whole in memory already.
    waiting: Option<Waiting>,
}

impl Answer {
    fn new(body: Body, counted: Option<Counted>, unsent: Unsent, waiting: Option<Waiting>) -> Self {
        Self { body, rest: Bytes::new(), piece: PIECE, counted, held: None, unsent, waiting }
    }

    fn next_piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(self.piece)))
    }

    fn next_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.next_piece())));
        }
        self.held = None;
        if let Some(waiting) = &mut self.waiting {
            ready!(self.unsent.poll_room(waiting, cx));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            Ok(match frame?.into_data() {
                Ok(data) if (COPIED + 1..=SMALL).contains(&data.len()) => {
                    self.piece = COPIED;
                    self.rest = data;
                    self.next_piece()
                }
                // An endless answer can have many of these.
                Ok(data) if self.waiting.is_some() && data.len() > SMALL => {
                    Frame::data(self.unsent.count(data))
                }
                Ok(data) if data.len() > SMALL => {
                    if data.len() > PIECE {
                        // It exists already, so it is counted even beyond the limit. While the
                        // peer does not read it, others have less.
                        let memory = self.counted.as_ref().map(|counted| &counted.memory);
                        self.held = memory.map(|memory| memory.add(data.len()));
                    }
                    self.piece = PIECE;
                    self.rest = self.unsent.count(data);
                    self.next_piece()
                }
                Ok(data) => Frame::data(data),
                Err(trailers) => trailers,
            })
        }))
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = self.next_frame(cx);
        unread::note(match frame {
            // A client can work on one event without a time limit.
            Poll::Ready(_) if self.waiting.is_some() => unread::Body::GaveOneOfMany,
            Poll::Ready(_) => unread::Body::Gave,
            Poll::Pending => unread::Body::Waits,
        });
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest.len() {
            0 => self.body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::{
        config::Limits,
        context::{Ending, Peer},
        server::middleware::Budgets,
    };

    fn connection() -> Arc<Connection> {
        Budgets::new(&Limits::default()).connection(Peer::NONE, None, Ending::default())
    }

    /// Returns what ran first, a connection with this many calls or a task that was ready after it.
    async fn first(count: usize) -> &'static str {
        let (sender, mut ran) = tokio::sync::mpsc::unbounded_channel();
        let shares = self::connection();
        let _calls: Vec<_> = (0..count).map(|_| shares.shares("").calls.add(1)).collect();
        let other = sender.clone();
        let connection = Box::pin(async move { sender.send("connection").expect("we wait") });
        let connection = Coalesced { connection, shares, gave_way: false };
        let connection = tokio::spawn(connection);
        tokio::spawn(async move { other.send("other").expect("we wait") });
        connection.await.expect("no panic");
        ran.recv().await.expect("both run")
    }

    #[tokio::test]
    async fn connection_with_several_calls_gives_way() {
        assert_eq!([first(0).await, first(1).await], ["connection"; 2]);
        assert_eq!(first(2).await, "other");
    }

    #[tokio::test]
    async fn call_is_counted_until_answer_is_sent() {
        let connection = connection();
        let calls = connection.shares("").calls.clone();
        let service = tower::service_fn(|_: Request<()>| {
            std::future::ready(Ok(Response::new(Body::new(Full::new(Bytes::from("all"))))))
        });
        let mut service = CoalescingService { service, connection, unsent: Unsent::default() };
        let under_way = || calls.own();
        let answer = service.call(Request::new(()));
        assert_eq!(under_way(), 1);
        drop(service.call(Request::new(())));
        assert_eq!(under_way(), 1, "the caller left");
        let answer = answer.await.expect("it never fails");
        assert_eq!(under_way(), 1);
        let answer = answer.into_body().collect().await.expect("no error");
        assert_eq!((answer.to_bytes(), under_way()), (Bytes::from("all"), 0));
    }

    #[tokio::test]
    async fn small_answer_is_split_without_loss() {
        for (length, pieces) in [
            (0, vec![]),
            (255, vec![255]),
            (256, vec![255, 1]),
            (SMALL, vec![255; 4]),
            (SMALL + 1, vec![SMALL + 1]),
            (2 * PIECE + 1, vec![PIECE, PIECE, 1]),
        ] {
            let sent: Bytes = (0..length).map(|at| at as u8).collect();
            let body = Body::new(Full::new(sent.clone()));
            let mut answer = Answer::new(body, None, Unsent::default(), None);
            let (mut lengths, mut arrived) = (Vec::new(), Vec::new());
            while let Some(frame) = answer.frame().await {
                let data = frame.expect("no error").into_data().expect("data");
                lengths.push(data.len());
                arrived.extend_from_slice(&data);
            }
            assert_eq!((lengths, arrived), (pieces, sent.to_vec()));
            assert!(http_body::Body::is_end_stream(&answer));
        }
    }

    #[tokio::test]
    async fn large_answer_takes_memory_until_read() {
        let connection = connection();
        let shares = connection.shares("");
        let (call, memory) = (shares.calls.add(1), shares.memory.clone());
        let counted = Some(Counted { _call: call, memory });
        let body = Body::new(Full::new(Bytes::from(vec![7; 3 * PIECE])));
        let mut answer = Answer::new(body, counted, Unsent::default(), None);
        assert_eq!(shares.memory.own(), 0);
        for _ in 0..3 {
            answer.frame().await.expect("a piece").expect("no error");
            assert_eq!(shares.memory.own(), 3 * PIECE);
        }
        assert!(answer.frame().await.is_none());
        assert_eq!(shares.memory.own(), 0);
    }
}
