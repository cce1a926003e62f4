//! Reads requests and writes responses with prost, but sends responses that are already encoded
//! without change, and uses small buffers.
//!
//! `build.rs` names [`Codec`] in the generated servers, and [`Encoded`] as the response of some
//! methods.

// Not tonic_prost alone: it cannot send a response that is already encoded.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// The initial buffer size, which most messages fit into. Larger messages bring their own buffer. A
/// stream would hold tonic's default of 8 KiB while it is open, and every call twice that.
const BUFFER: usize = 512;
/// A stream collects messages up to this size before it sends them. With another message of the
/// usual size, they still fit into an HTTP/2 frame of 16 KiB.
const YIELD_THRESHOLD: usize = 14 * 1024;

/// Encodes responses and decodes requests.
#[derive(Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Encode + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Bytes, U>::raw_decoder(settings())
    }
}

/// Writes responses.
#[derive(Debug)]
pub(crate) struct Encoder<T>(PhantomData<T>);

impl<T: Encode> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // One allocation instead of several while writing.
        to.reserve(item.length());
        item.write(to);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER, YIELD_THRESHOLD)
}

/// A type that can be a response.
pub(crate) trait Encode {
    /// Returns the encoded length in bytes.
    fn length(&self) -> usize;
    /// Writes the encoded bytes.
    fn write(&self, to: &mut EncodeBuf<'_>);
}

impl<M: Message> Encode for M {
    fn length(&self) -> usize {
        self.encoded_len()
    }

    fn write(&self, to: &mut EncodeBuf<'_>) {
        self.encode_raw(to);
    }
}

/// A message that is encoded once and sent to many callers. Its pieces, one after the other, are its
/// encoding.
#[derive(Debug)]
pub struct Encoded<T> {
    pieces: [Bytes; 3],
    of: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Encoded<T> {
    /// Encodes a message.
    pub fn new(message: &T) -> Self {
        Self::after(Bytes::new(), message)
    }

    /// Encodes the rest of a message, of which the first fields are encoded already.
    pub fn after(first: Bytes, rest: &T) -> Self {
        Self::of([first, rest.encode_to_vec().into(), Bytes::new()])
    }

    /// Returns the message with this encoding.
    pub(crate) fn of(pieces: [Bytes; 3]) -> Self {
        Self { pieces, of: PhantomData }
    }

    /// Returns the whole encoding.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    /// Decodes the message.
    pub fn decode(&self) -> Result<T, DecodeError> {
        T::decode(&*self.pieces.concat())
    }
}

impl<T> Clone for Encoded<T> {
    fn clone(&self) -> Self {
        Self { pieces: self.pieces.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Encoded<T> {
    fn eq(&self, other: &Self) -> bool {
        self.pieces == other.pieces
    }
}

impl<T> Encode for Encoded<T> {
    fn length(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn write(&self, to: &mut EncodeBuf<'_>) {
        for piece in &self.pieces {
            to.put_slice(piece);
        }
    }
}
