//! Fewer writes to a connection: what several calls have to say goes out together.
//!
//! A write to a socket costs more than all else that an answer takes. Left alone, hyper writes whenever
//! one stream has something, and an answer in two: h2 copies a small DATA frame behind the frames before
//! it, but hands a larger one to the socket by itself, and what follows it, such as the trailers, waits
//! for that.

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
    taken,
    unsent::{Unsent, Waiting},
};
use crate::{
    server::middleware::{Connection, Held, Share},
    service::Endless,
};

/// The most of a DATA frame that h2 copies.
const COPIED: usize = 255;
/// A frame up to this is worth being made several.
const SMALL: usize = 4 * COPIED;
/// The most of a larger one that HTTP/2 gets at a time, so that the rest stays here until it is read.
const PIECE: usize = 16 * 1024;

/// A connection that gives way to everything else that is ready, where it has several calls: what
/// they have to say by then is one write.
#[derive(Debug)]
pub(super) struct Gathered<F> {
    pub(super) connection: F,
    /// Its calls that are under way, their answers included.
    pub(super) calls: Arc<Share>,
    pub(super) gave_way: bool,
}

impl<F: Future + Unpin> Future for Gathered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.gave_way = !self.gave_way && self.calls.own() > 1;
        // Whoever is polled once is woken after the others, even if it is dropped.
        if self.gave_way && pin!(yield_now()).poll(cx).is_pending() {
            return Poll::Pending;
        }
        Pin::new(&mut self.connection).poll(cx)
    }
}

/// A service that counts the calls of a connection, and whose answers go out whole.
#[derive(Clone, Debug)]
pub(super) struct Gathering<S> {
    pub(super) service: S,
    pub(super) connection: Arc<Connection>,
    pub(super) unsent: Unsent,
}

impl<S, B> Service<Request<B>> for Gathering<S>
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
        // Whether it is one too many the service sees.
        let call = self.connection.calls.add(1);
        let memory = self.connection.memory.clone();
        let counted = Some(Counted { _call: call, memory });
        Answering { answer: self.service.call(request), counted, unsent: self.unsent.clone() }
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answering<F> {
    answer: F,
    counted: Option<Counted>,
    unsent: Unsent,
}

/// What counts while an answer is on its way.
#[derive(Debug)]
struct Counted {
    _call: Held,
    /// What its connection has of it.
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

/// The body of an answer, in frames that h2 copies if it is small, and that wait here if it is large.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// Of the last frame.
    rest: Bytes,
    /// The most of it that goes at a time.
    piece: usize,
    counted: Option<Counted>,
    /// The memory of the last frame.
    held: Option<Held>,
    unsent: Unsent,
    /// Of one that has no end by itself; any other is in memory as a whole, and goes out.
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
                // Of these there may be many.
                Ok(data) if self.waiting.is_some() && data.len() > SMALL => {
                    Frame::data(self.unsent.count(data))
                }
                Ok(data) if data.len() > SMALL => {
                    if data.len() > PIECE {
                        // It is made already. While it is not read there is less for others.
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
        taken::note(match frame {
            // A client may work on one event for as long as it likes.
            Poll::Ready(_) if self.waiting.is_some() => taken::Body::GaveOneOfMany,
            Poll::Ready(_) => taken::Body::Gave,
            Poll::Pending => taken::Body::Waits,
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
    use crate::{config::Limits, context::Peer, server::middleware::Budgets};

    fn connection() -> Arc<Connection> {
        Budgets::new(&Limits::default()).connection(Peer::NONE)
    }

    /// Who ran first, a connection with so many calls or a task that was ready after it.
    async fn first(count: usize) -> &'static str {
        let (sender, mut ran) = tokio::sync::mpsc::unbounded_channel();
        let under_way = connection().calls.clone();
        let _calls: Vec<_> = (0..count).map(|_| under_way.add(1)).collect();
        let other = sender.clone();
        let connection = Box::pin(async move { sender.send("connection").expect("we wait") });
        let connection = Gathered { connection, calls: under_way.clone(), gave_way: false };
        let connection = tokio::spawn(connection);
        tokio::spawn(async move { other.send("other").expect("we wait") });
        connection.await.expect("no panic");
        ran.recv().await.expect("both run")
    }

    #[tokio::test]
    async fn a_connection_gives_way_where_it_has_several_calls() {
        assert_eq!([first(0).await, first(1).await], ["connection"; 2]);
        assert_eq!(first(2).await, "other");
    }

    #[tokio::test]
    async fn a_call_is_under_way_until_its_answer_is_out() {
        let connection = connection();
        let calls = connection.calls.clone();
        let service = tower::service_fn(|_: Request<()>| {
            std::future::ready(Ok(Response::new(Body::new(Full::new(Bytes::from("all"))))))
        });
        let mut service = Gathering { service, connection, unsent: Unsent::default() };
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
    async fn a_small_answer_is_cut_into_pieces_and_nothing_is_lost() {
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
    async fn a_large_answer_takes_memory_until_it_is_read() {
        let connection = connection();
        let (call, memory) = (connection.calls.add(1), connection.memory.clone());
        let counted = Some(Counted { _call: call, memory });
        let body = Body::new(Full::new(Bytes::from(vec![7; 3 * PIECE])));
        let mut answer = Answer::new(body, counted, Unsent::default(), None);
        assert_eq!(connection.memory.own(), 0);
        for _ in 0..3 {
            answer.frame().await.expect("a piece").expect("no error");
            assert_eq!(connection.memory.own(), 3 * PIECE);
        }
        assert!(answer.frame().await.is_none());
        assert_eq!(connection.memory.own(), 0);
    }
}
