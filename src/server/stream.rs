//! A connection as bytes: with or without TLS, and with its first bytes put back after they were examined.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{AlertDescription, CertificateError, Error};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::listener::{Accepted, Place};
use crate::{context::Peer, telemetry::may_log, tls::ClientCertificate};

/// A connection ends if its TLS handshake takes longer.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// The first byte of every TLS connection: the type of a record with a handshake (RFC 8446, 5.1). No
/// request without TLS begins with it.
pub(super) const TLS_BEGIN: u8 = 22;
/// The answer to HTTP/1 without TLS on a port with TLS.
const USE_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 35\r\n\
    connection: close\r\n\r\nthis port needs TLS; use https://\r\n";
/// The number of bytes that can be put back: the length of HTTP/2's preface.
pub(super) const BEGIN: usize = 24;

/// An open connection, after its TLS handshake if it has one.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    /// The certificate that the client sent.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    pub(super) place: Place,
}

/// The bytes of a connection.
pub(super) struct Stream {
    /// The first bytes, if they were examined.
    begin: [u8; BEGIN],
    /// How many of them were read again.
    read_again: usize,
    io: Io,
}

// One type rather than two, so that hyper and h2 are compiled once.
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Accepted {
    /// Makes the TLS handshake if the listener has TLS. Returns `None` if the connection cannot be used, or
    /// after `stop`.
    pub(super) async fn open(self, stop: &CancellationToken) -> Option<Opened> {
        let Self { stream, peer, place, listener, tls } = self;
        let Some(tls) = tls else {
            let stream = Stream::new(Io::Plain(stream));
            return Some(Opened { stream, peer, certificate: None, place });
        };
        let handshake = async {
            let mut first = [0];
            stream.peek(&mut first).await?;
            if first != [TLS_BEGIN] {
                refuse_plaintext(stream).await?;
                return Ok(None);
            }
            tls.accept(stream).await.map(Some)
        };
        let handshake = stop.run_until_cancelled(timeout(HANDSHAKE_LIMIT, handshake)).await?;
        let cause = match handshake {
            Ok(Ok(Some((stream, certificate)))) => {
                let stream = Stream::new(Io::Tls(Box::new(stream)));
                return Some(Opened { stream, peer, certificate, place });
            }
            Ok(Ok(None)) => "the client does not use TLS, but this port needs it",
            Ok(Err(error)) => match cause(&error) {
                Some(cause) => cause,
                None => {
                    tracing::debug!(listener, "a TLS handshake failed: {error}");
                    return None;
                }
            },
            Err(_) => {
                tracing::debug!(listener, "a TLS handshake took too long");
                return None;
            }
        };
        if let Some(unlogged) = may_log("a TLS handshake failed", cause) {
            let address = peer.address;
            tracing::warn!(listener, %address, unlogged, "a TLS handshake failed: {cause}");
        }
        None
    }
}

/// Closes a connection without TLS. A client that speaks HTTP/1 gets an answer with the reason.
async fn refuse_plaintext(mut stream: TcpStream) -> io::Result<()> {
    let mut begin = [0; 4];
    stream.read_exact(&mut begin).await?;
    if [b"GET ", b"HEAD", b"POST", b"PUT "].contains(&&begin) {
        stream.write_all(USE_TLS).await?;
        stream.shutdown().await?;
        // If the rest of the request stayed unread, the kernel would reset the connection, and the client
        // could lose the answer.
        tokio::io::copy(&mut stream.take(16 * 1024), &mut tokio::io::sink()).await?;
    }
    Ok(())
}

/// Returns the cause of a failed handshake if an operator can act on it.
fn cause(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::NoCertificatesPresented => {
            "the client sent no certificate, but each client needs one"
        }
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                "the client's certificate is not signed by a CA in client_ca"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the client's certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the client's certificate is not valid yet"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the client's certificate is not for clients (extended key usage)"
            }
            _ => "the client's certificate is not valid",
        },
        Error::PeerIncompatible(_) => {
            "the client and the gateway have no TLS version or cipher in common; 1.2 and 1.3 are allowed"
        }
        Error::NoApplicationProtocol => {
            "the client does not offer the protocol of this port (ALPN): h2 for gRPC"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired,
        ) => "the client does not accept the gateway's certificate",
        _ => return None,
    })
}

impl Stream {
    fn new(io: Io) -> Self {
        Self { begin: [0; BEGIN], read_again: BEGIN, io }
    }

    /// Reads the first bytes, and puts them back.
    pub(super) async fn begin(&mut self) -> io::Result<[u8; BEGIN]> {
        let mut begin = [0; BEGIN];
        self.read_exact(&mut begin).await?;
        (self.begin, self.read_again) = (begin, 0);
        Ok(begin)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { begin, read_again, io } = self.get_mut();
        if *read_again < BEGIN {
            let count = buffer.remaining().min(BEGIN - *read_again);
            buffer.put_slice(&begin[*read_again..*read_again + count]);
            *read_again += count;
            return Poll::Ready(Ok(()));
        }
        match io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
