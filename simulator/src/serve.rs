//! HTTP: reads requests from sockets and writes replies, with the faults that concern the
//! connection.
//!
//! Each connection is served directly, without a router. So a fault can hold it, cut it in the
//! middle of a reply, or reset it.

use std::{convert::Infallible, error::Error, fmt, io, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming as Received},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use multer::Multipart;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    Simulator, control,
    endpoint::Part,
    faults::Delivery,
    world::{Incoming, Outcome, Reply},
};

/// Larger than any upload that WeChat accepts.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
/// A padded reply is sent in pieces of this size.
const CHUNK: u64 = 64 * 1024;

/// The body of a reply. Its error ends the connection.
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves until `shutdown`, then drops every connection.
pub(super) async fn run(
    simulator: Simulator,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(serve(simulator.clone(), socket));
                }
                // Most likely no file descriptor is free. The next connection that ends frees one.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection to its end. A fault can make that a reset.
async fn serve(simulator: Simulator, socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let service = service_fn(|request| answer(simulator.clone(), request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    let ended = (&mut connection).await;
    let reset = |error: &hyper::Error| error.source().is_some_and(|source| source.is::<Reset>());
    if ended.is_err_and(|error| reset(&error)) {
        // Without this the kernel closes the connection in the normal way, and the caller would not
        // see a reset.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// The request gets no reply.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault resets the connection")
    }
}

impl Error for Reset {}

async fn answer(simulator: Simulator, request: Request<Received>) -> Result<Response<Body>, Reset> {
    let (head, body) = request.into_parts();
    // A caller that breaks off its own request does not wait for a reply.
    let bytes = Limited::new(body, BODY_LIMIT).collect().await.map_err(|_| Reset)?.to_bytes();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let query = form_urlencoded::parse(query).into_owned().collect();
    let control = path.strip_prefix("/_simulator");
    if let Some(rest) = control.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        let reply = control::answer(&simulator, &head.method, rest, &query, &bytes).await;
        return Ok(respond(&reply, whole(reply.body.clone())));
    }
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let part = file_part(content_type, bytes.clone()).await;
    let request = Incoming { method: head.method, path, query, bytes, part };
    let outcome = simulator.world().receive(request);
    deliver(simulator, outcome).await
}

/// Sends the reply in the way that the fault wants.
async fn deliver(simulator: Simulator, outcome: Outcome) -> Result<Response<Body>, Reset> {
    let Outcome { reply, fault, turn } = outcome;
    let turn = turn.map(|app_id| Turn { simulator, app_id });
    let bytes = reply.body.clone();
    let body = match fault.map_or(Delivery::Plain, |fault| fault.kind.delivery()) {
        Delivery::Cut => cut(bytes),
        Delivery::Drip(interval) => drip(bytes, interval, turn),
        Delivery::Late(delay) => {
            tokio::time::sleep(delay).await;
            drop(turn);
            whole(bytes)
        }
        Delivery::Never => {
            // If the caller leaves, this future is dropped, and the turn ends.
            let _turn = turn;
            std::future::pending().await
        }
        Delivery::Padded(more) => padded(bytes, more),
        Delivery::Plain => whole(bytes),
        Delivery::Reset => return Err(Reset),
    };
    Ok(respond(&reply, body))
}

/// Keeps an account's serial API busy until the reply is out.
struct Turn {
    simulator: Simulator,
    app_id: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut world = self.simulator.world();
        let now = world.now();
        if let Ok(tenant) = world.tenant(&self.app_id) {
            tenant.nearby.serial.leave(now);
        }
    }
}

fn respond(reply: &Reply, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if let Some((name, value)) = &reply.header
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
    if reply.status == StatusCode::NOT_FOUND {
        headers.remove(header::CONTENT_TYPE);
    }
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Returns the first half of the reply, then an error.
fn cut(bytes: Bytes) -> Body {
    let half = bytes.slice(..bytes.len() / 2);
    let stream = stream::unfold(Some(half), |half| async {
        if half.is_none() {
            // An error would overtake bytes that are still buffered, so those must be written
            // first.
            tokio::task::yield_now().await;
        }
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        Some((half.map(Frame::data).ok_or_else(broken), None))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// Returns the reply one byte at a time.
fn drip(bytes: Bytes, interval: Duration, turn: Option<Turn>) -> Body {
    let stream = stream::unfold((bytes, turn), move |(mut left, turn)| async move {
        if left.is_empty() {
            return None;
        }
        tokio::time::sleep(interval).await;
        let byte = left.split_to(1);
        Some((Ok(Frame::data(byte)), (left, turn)))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// Returns the reply with a field of `more` bytes in front.
fn padded(bytes: Bytes, more: u64) -> Body {
    let rest = bytes.slice(bytes.len().min(1)..);
    let head = [Bytes::from_static(b"{\"padding\":\"")].into_iter();
    let chunks = (0..more / CHUNK).map(|_| CHUNK).chain([more % CHUNK]);
    let filling =
        chunks.map(|length| Bytes::from(vec![b'x'; usize::try_from(length).unwrap_or(0)]));
    let tail = [Bytes::from_static(b"\","), rest].into_iter();
    let frames = head.chain(filling).chain(tail).map(|chunk| Ok(Frame::data(chunk)));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// Returns the first file of a form, if the request is a form.
async fn file_part(content_type: Option<&HeaderValue>, bytes: Bytes) -> Option<Part> {
    let boundary = multer::parse_boundary(content_type?.to_str().ok()?).ok()?;
    let mut form = Multipart::new(stream::iter([Ok::<_, Infallible>(bytes)]), boundary);
    let field = form.next_field().await.ok()??;
    Some(Part {
        name: field.name().unwrap_or_default().to_owned(),
        file_name: field.file_name().map(str::to_owned),
        content_type: field.content_type().map(ToString::to_string),
        bytes: field.bytes().await.ok()?,
    })
}
