//! How the service reads requests and writes responses: prost's way, but for responses that are
//! encoded already, and in buffers of their size.
//!
//! `build.rs` names [`Codec`] to the generated servers, and [`Encoded`] as what some of their
//! methods answer.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// What most messages fit into; larger ones bring their own. Tonic's 8 KiB would be held by every
/// stream for as long as it is open, and twice by every call.
const BUFFER: usize = 512;
/// From so many bytes on no further message of a stream is gathered before they are sent. With another
/// message of the usual size they still fit into a frame of HTTP/2, which has 16 KiB.
const GATHERED: usize = 14 * 1024;

/// Encodes responses, decodes requests.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

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
pub struct Encoder<T>(PhantomData<T>);

impl<T: Encode> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // At once, instead of as it is written.
        to.reserve(item.length());
        item.write(to);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER, GATHERED)
}

/// What can be a response.
pub trait Encode {
    /// In bytes.
    fn length(&self) -> usize;
    /// Writes these bytes.
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

/// A message that was encoded before, and may be given to many. In two pieces, each the encoding of
/// a part of its fields: one after the other they are the encoding of all.
#[derive(Debug)]
pub struct Encoded<T> {
    pieces: [Bytes; 2],
    of: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Encoded<T> {
    /// Encodes a message.
    pub fn new(message: &T) -> Self {
        Self::after(Bytes::new(), message)
    }

    /// Encodes the rest of a message, whose first fields are encoded.
    pub fn after(first: Bytes, rest: &T) -> Self {
        Self { pieces: [first, rest.encode_to_vec().into()], of: PhantomData }
    }

    /// The message.
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
