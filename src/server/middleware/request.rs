//! Reads a request before a service gets it: its head, and its message as a whole.
//!
//! Every method except those of reflection takes one message. This module reads it instead of tonic, so
//! that a request of which only the head arrived costs little, ends soon, and is counted.

// Not tonic's parser of grpc-timeout: it is private.

use std::{convert::Infallible, io::Read, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use futures_util::{FutureExt, stream, stream::BoxStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};

use super::{Questions, Shares};
use crate::{
    errors::Unfit,
    util::budget::{Exhausted, Held, Share},
};

/// The bytes that HTTP/2 adds for each header (RFC 9113, 6.5.2).
const HEADER: usize = 32;
/// After a stop, a request ends if no byte of it arrives for this time.
const STOP_SILENCE: Duration = Duration::from_secs(1);
/// A reflection stream ends if the tool sends no further question within this time.
const REFLECTION_SILENCE: Duration = Duration::from_secs(300);
/// The length of the prefix of a message: one byte for its compression, four for its length.
pub(super) const PREFIX: usize = 5;

/// While a message arrives, its memory is at most so many times as long as the arrived part. Pages of it that were
/// not written yet cost nothing.
const AHEAD: usize = 8;

pub(super) static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Returns the plain HTTP answer to a request that is not gRPC. Its client would not understand another.
pub(super) fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let (status, text) = if request.method() != Method::POST {
        (StatusCode::METHOD_NOT_ALLOWED, "this port serves gRPC, whose method is POST\n")
    } else if subtype(request.headers()).is_none() {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "this port serves gRPC: application/grpc\n")
    } else {
        return None;
    };
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

/// Returns the part of the content type after `application/grpc`: empty, or the format of messages, as
/// in `+proto`. `None` if the request is not gRPC.
fn subtype(headers: &HeaderMap) -> Option<&str> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return None };
    let value = value.to_str().ok()?;
    let (essence, _) = value.split_once(';').unwrap_or((value, ""));
    let essence = essence.trim_end();
    let grpc = "application/grpc";
    let begin = essence.get(..grpc.len())?;
    let rest = &essence[grpc.len()..];
    let known = begin.eq_ignore_ascii_case(grpc) && (rest.is_empty() || rest.starts_with('+'));
    known.then_some(rest)
}

impl From<Exhausted> for Unfit {
    fn from(Exhausted { setting }: Exhausted) -> Self {
        Self::Exhausted { setting }
    }
}

/// The body of a request as it arrives.
pub(crate) trait RequestBody:
    http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static
{
}

impl<B> RequestBody for B where
    B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static
{
}

/// The facts in the head of a gRPC request about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The time that the caller waits.
    pub(super) timeout: Option<Duration>,
    /// Whether messages can be compressed with gzip.
    gzip: bool,
    /// The length of the head in bytes.
    size: usize,
}

impl Head {
    /// Parses the head of a request, of at most `limit` bytes as HTTP/2 counts them.
    pub(super) fn parse<B>(request: &Request<B>, limit: usize) -> Result<Self, Unfit> {
        let headers = request.headers();
        let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER);
        let size = size.sum::<usize>() + request.uri().path().len();
        if size > limit {
            return Err(Unfit::LongHead { size, limit });
        }
        match subtype(headers) {
            Some(format) if !format.is_empty() && !format.eq_ignore_ascii_case("+proto") => {
                return Err(Unfit::Format(clipped(&format[1..])));
            }
            _ => {}
        }
        let timeout = match one(headers, &GRPC_TIMEOUT)? {
            Some(value) => Some(timeout(value.as_bytes()).ok_or(Unfit::Timeout)?),
            None => None,
        };
        let gzip = match one(headers, &GRPC_ENCODING)?.map(HeaderValue::as_bytes) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(other) => return Err(Unfit::Encoding(clipped(&String::from_utf8_lossy(other)))),
        };
        Ok(Self { timeout, gzip, size })
    }
}

/// Returns the value of a header that must occur at most once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Unfit> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Unfit::Twice(name.clone())),
        (value, None) => Ok(value),
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(32).collect()
}

/// Parses `grpc-timeout`: at most eight digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A complete message as a body, uncompressed and with its prefix, and the memory that it takes.
pub(super) type Whole = (Body, Held);

/// The limits on the wait for the rest of a request.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    /// The longest time without a byte.
    pub(super) silence: Duration,
    /// After this the limit is lower.
    pub(super) stop: CancellationToken,
}

impl Waits {
    /// Reads the one message of a request, of at most `limit` bytes, and drops its body.
    pub(super) async fn message<B>(
        &self,
        head: Head,
        from: &mut Option<B>,
        limit: usize,
        shares: &Shares,
    ) -> Result<Whole, Unfit>
    where
        B: RequestBody,
    {
        let Some(body) = from else { return Err(Unfit::Broken) };
        let mut held = shares.memory.take(head.size)?;
        let mut unfinished = None;
        let mut message = Message::new(head.gzip, limit);
        loop {
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    if unfinished.is_none() {
                        unfinished = Some(shares.unfinished.take(1)?);
                    }
                    self.within(self.silence, body.frame()).await?
                }
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Unfit::Broken)?;
            if let Ok(data) = frame.into_data() {
                held.grow(data.len())?;
                message.push(data)?;
            }
        }
        *from = None;
        let is_packed = message.prefix().is_some_and(|[compressed, ..]| *compressed != 0);
        let whole = message.whole()?;
        if !is_packed {
            return Ok((joined(whole), held));
        }
        let unpacked = unpacked(&whole.concat()[PREFIX..], limit)?;
        held.grow(unpacked.len())?;
        Ok((joined(vec![unpacked]), held))
    }

    /// Returns the body of a stream of requests. It fails if the next request takes too long, or if the caller
    /// asks too often.
    pub(super) fn stream<B>(
        self,
        body: Option<B>,
        unfinished: Arc<Share>,
        questions: Questions,
    ) -> Body
    where
        B: RequestBody,
    {
        let frames = stream::unfold(body.map(|body| (body, self.silence)), move |state| {
            let (waits, unfinished) = (self.clone(), unfinished.clone());
            let questions = questions.clone();
            async move {
                let (mut body, silence) = state?;
                let waited = async {
                    let _unfinished = unfinished.take(1)?;
                    let Some(frame) = waits.within(silence, body.frame()).await? else {
                        return Ok(None);
                    };
                    let frame = frame.map_err(|_| Unfit::Broken)?;
                    if let Some(data) = frame.data_ref() {
                        questions.count(data)?;
                    }
                    Ok(Some(frame))
                };
                match waited.await {
                    Ok(Some(frame)) => Some((Ok(frame), Some((body, REFLECTION_SILENCE)))),
                    Ok(None) => None,
                    Err(unfit) => Some((Err(questions.refuse(unfit)), None)),
                }
            }
        });
        let frames: BoxStream<'static, Result<Frame<Bytes>, Status>> = Box::pin(frames);
        Body::new(StreamBody::new(frames))
    }

    /// Waits for a frame, but no longer than the limits.
    async fn within<F: Future>(&self, silence: Duration, frame: F) -> Result<F::Output, Unfit> {
        let stopped = async {
            self.stop.cancelled().await;
            sleep(STOP_SILENCE).await;
        };
        tokio::select! {
            biased;
            frame = frame => Ok(frame),
            () = sleep(silence) => Err(Unfit::Silent(silence)),
            () = stopped => Err(Unfit::Stopped),
        }
    }
}

/// Returns a body with these pieces.
fn joined(pieces: Vec<Bytes>) -> Body {
    match <[Bytes; 1]>::try_from(pieces) {
        Ok([whole]) => Body::new(Full::new(whole)),
        Err(pieces) => {
            let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
            Body::new(StreamBody::new(stream::iter(frames)))
        }
    }
}

/// A message of which the frames are arriving.
struct Message {
    gzip: bool,
    limit: usize,
    /// The bytes that have arrived, with the prefix.
    arrived: usize,
    /// The first frame. Most messages have no other.
    first: Bytes,
    /// All frames, if there are several. They are copied, because a frame can keep many times its own
    /// length in memory. The prefix is a piece by itself: tonic makes room for a message when it has read
    /// only the prefix, and would otherwise copy the message once more.
    pieces: Vec<Bytes>,
    /// The piece that is being filled.
    last: BytesMut,
}

impl Message {
    fn new(gzip: bool, limit: usize) -> Self {
        let (first, pieces, last) = (Bytes::new(), Vec::new(), BytesMut::new());
        Self { gzip, limit, arrived: 0, first, pieces, last }
    }

    fn push(&mut self, frame: Bytes) -> Result<(), Unfit> {
        let is_first = self.arrived == 0;
        self.arrived += frame.len();
        if is_first {
            self.first = frame;
        } else {
            let first = std::mem::take(&mut self.first);
            self.copy(&first);
            self.copy(&frame);
        }
        let Some(&[compressed, ref length @ ..]) = self.prefix() else { return Ok(()) };
        match compressed {
            0 => {}
            1 if self.gzip => {}
            1 => return Err(Unfit::Malformed("compressed, and grpc-encoding does not say how")),
            _ => return Err(Unfit::Malformed("not gRPC: it begins with neither 0 nor 1")),
        }
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.limit {
            return Err(Unfit::Long { size: Some(length), limit: self.limit });
        }
        if self.arrived - PREFIX > length {
            return Err(Unfit::Malformed("more than one message, or bytes after it"));
        }
        Ok(())
    }

    /// Returns the prefix, if all of it has arrived.
    fn prefix(&self) -> Option<&[u8; PREFIX]> {
        let begin = if self.first.is_empty() { self.pieces.first() } else { Some(&self.first) };
        begin.map_or(&self.last[..], |begin| &begin[..]).first_chunk()
    }

    /// Copies a frame into the pieces.
    fn copy(&mut self, mut frame: &[u8]) {
        while !frame.is_empty() {
            let room = self.last.capacity() - self.last.len();
            if room == 0 {
                self.begin_piece(frame.len());
                continue;
            }
            let (now, later) = frame.split_at(room.min(frame.len()));
            self.last.extend_from_slice(now);
            frame = later;
        }
    }

    /// Begins a piece with room for the next bytes, and for further ones. A message takes no more memory than its
    /// prefix states, but that can be wrong, so the room is also limited by what has arrived.
    fn begin_piece(&mut self, next: usize) {
        if !self.last.is_empty() {
            self.pieces.push(std::mem::take(&mut self.last).freeze());
        }
        let copied = self.pieces.iter().map(Bytes::len).sum::<usize>();
        let room = match self.prefix() {
            None => PREFIX,
            Some([_, length @ ..]) => {
                let stated = PREFIX + (u32::from_be_bytes(*length) as usize).min(self.limit);
                let needed = copied + next;
                needed.saturating_mul(AHEAD).min(stated).max(needed) - copied
            }
        };
        self.last = BytesMut::with_capacity(room);
    }

    /// Returns the pieces of the message, if it is complete.
    fn whole(self) -> Result<Vec<Bytes>, Unfit> {
        if self.arrived == 0 {
            return Err(Unfit::Malformed("no message"));
        }
        let Some([_, length @ ..]) = self.prefix() else { return Err(Unfit::Broken) };
        if u32::from_be_bytes(*length) as usize != self.arrived - PREFIX {
            return Err(Unfit::Broken);
        }
        let Self { first, mut pieces, last, .. } = self;
        pieces.extend([first, last.freeze()].into_iter().filter(|piece| !piece.is_empty()));
        Ok(pieces)
    }
}

/// Uncompresses a message. Returns it with the prefix of an uncompressed message.
fn unpacked(packed: &[u8], limit: usize) -> Result<Bytes, Unfit> {
    let mut message = vec![0; PREFIX];
    let mut reader = MultiGzDecoder::new(packed);
    // One byte beyond the limit is enough to detect a longer message.
    let read = (&mut reader).take(limit as u64 + 1).read_to_end(&mut message);
    let length = message.len() - PREFIX;
    if length > limit {
        return Err(Unfit::Long { size: None, limit });
    }
    read.map_err(|_| Unfit::Malformed("no gzip, or broken off, or with bytes after its end"))?;
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    message[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(message.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[test]
    fn grpc_timeout_is_parsed() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("123456789S", None),
            ("1x", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn content_type_decides_what_is_grpc() {
        for (value, expected) in [
            ("application/grpc", Some("")),
            ("Application/GRPC; charset=utf-8", Some("")),
            ("application/grpc+proto", Some("+proto")),
            ("application/grpc+json", Some("+json")),
            ("application/grpc-web", None),
            ("application/grpc-web+proto", None),
            ("application/json", None),
            ("application/gr", None),
            ("", None),
        ] {
            let headers = [(header::CONTENT_TYPE, value.parse().expect("ASCII"))];
            assert_eq!(subtype(&headers.into_iter().collect()), expected, "{value:?}");
        }
        assert_eq!(subtype(&HeaderMap::new()), None);
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn compressed_message_is_unpacked_up_to_limit() {
        let unpacked = |packed: &[u8]| unpacked(packed, 1_000);
        let message = unpacked(&packed(&[7; 1_000])).expect("within the limit");
        assert_eq!(message[..PREFIX], [0, 0, 0, 3, 232]);
        assert_eq!(message[PREFIX..], [7; 1_000]);
        assert_eq!(unpacked(&packed(&[])).expect("empty").len(), PREFIX);
        let bomb = packed(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20_000);
        for (bytes, long) in [
            (packed(&[7; 1_001]), true),
            (bomb, true),
            (packed(&[7; 9])[..15].to_vec(), false),
            ([packed(&[7; 9]), vec![0; 9]].concat(), false),
            (b"nonsense".to_vec(), false),
            (Vec::new(), false),
        ] {
            match unpacked(&bytes) {
                Err(Unfit::Long { size: None, limit: 1_000 }) => assert!(long),
                Err(Unfit::Malformed(_)) => assert!(!long),
                other => panic!("{other:?}"),
            }
        }
    }

    fn message(frames: &[&[u8]]) -> Result<Vec<Bytes>, Unfit> {
        let mut message = Message::new(false, 9);
        frames.iter().try_for_each(|frame| message.push(Bytes::copy_from_slice(frame)))?;
        message.whole()
    }

    #[test]
    fn message_is_complete_however_it_is_split() {
        let whole = b"\0\0\0\0\x03abc";
        for at in 0..whole.len() {
            let (begin, end) = whole.split_at(at);
            assert_eq!(message(&[begin, b"", end]).expect("whole").concat(), whole[..], "{at}");
        }
        let bytes = whole.iter().map(std::slice::from_ref).collect::<Vec<_>>();
        assert_eq!(message(&bytes).expect("whole").concat(), whole[..]);
    }

    #[test]
    fn prefix_of_several_frames_is_piece_by_itself() {
        let pieces = message(&[b"\0\0\0\0\x03a", b"bc"]).expect("whole");
        assert_eq!(pieces, [&b"\0\0\0\0\x03"[..], b"abc"]);
        let pieces = message(&[b"\0\0\0\0\x03abc"]).expect("whole");
        assert_eq!(pieces, [&b"\0\0\0\0\x03abc"[..]]);
    }

    #[test]
    fn long_message_takes_memory_as_it_arrives() {
        let mut message = Message::new(false, 10 << 20);
        let length = 1 << 20;
        let prefix = [0, 0, 0x10, 0, 0];
        message.push(Bytes::copy_from_slice(&prefix)).expect("a part");
        let taken = |message: &Message| {
            message.pieces.iter().map(Bytes::len).sum::<usize>() + message.last.capacity()
        };
        for arrived in 1..=64 {
            message.push(vec![7; 16 << 10].into()).expect("a part");
            let most = (PREFIX + arrived * (16 << 10)) * AHEAD;
            assert!(taken(&message) <= most, "{arrived}");
        }
        assert_eq!(taken(&message), PREFIX + length);
        let pieces = message.whole().expect("whole");
        assert!(pieces.len() < 8, "{} pieces", pieces.len());
        assert_eq!(pieces.concat().len(), PREFIX + length);
    }

    #[test]
    fn malformed_message_is_refused_at_once() {
        let refused = |frames: &[&[u8]]| message(frames).expect_err("no message");
        assert!(matches!(refused(&[]), Unfit::Malformed("no message")));
        assert!(matches!(refused(&[b"\0\0"]), Unfit::Broken));
        assert!(matches!(refused(&[b"\0\0\0\0\x03ab"]), Unfit::Broken));
        assert!(matches!(refused(&[b"\0\0\0\0\x0a"]), Unfit::Long { size: Some(10), .. }));
        for frames in [
            &[&b"\0\0\0\0\x01ab"[..]][..],
            &[b"\0\0\0\0\x01a", b"\0\0\0\0\0"],
            &[b"\x01\0\0\0\0"],
            &[b"\x02\0\0\0\0"],
            &[b"GET / HTTP/1.1"],
        ] {
            assert!(matches!(refused(frames), Unfit::Malformed(_)), "{frames:?}");
        }
    }
}
