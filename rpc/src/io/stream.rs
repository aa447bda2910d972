//! A connection's byte stream, whatever it is made of, and who is at its other end.
//!
//! Credentials are the kernel's (`SO_PEERCRED`) or the transport's, known before a byte is parsed; nothing that a peer says
//! changes them.
//!
//! Made by `listener`, `dial` and `transport`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::UnixStream;

use super::socket::Socket;
use crate::peer::Peer;
use crate::server::PeerPidfd;
use crate::transport::Transport;

/// A byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(Socket),
    Mem(DuplexStream),
    /// Boxed, so that the others stay small.
    Opaque(Box<Opaque>),
}

/// A stream of which nothing is known but that it reads and writes.
pub(crate) struct Opaque {
    io: Box<dyn Transport>,
    peer: Peer,
    /// It may hold bytes that it has taken.
    unflushed: bool,
}

impl Stream {
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::Unix(Socket::new(stream.into_std()?.into())?))
    }

    pub(crate) fn opaque(io: impl Transport, peer: Peer) -> Self {
        Self::Opaque(Box::new(Opaque { io: Box::new(io), peer, unflushed: false }))
    }

    /// Whether bytes that it has not taken cannot have left: so it is where the kernel, or a pipe of ours, takes them. What
    /// buffers, encrypts and sends in part may fail after it has sent.
    pub(crate) fn proves_unsent(&self) -> bool {
        !matches!(self, Self::Opaque(_))
    }

    /// Whether it may hold bytes that it has taken and not passed on.
    pub(crate) fn wants_flush(&self) -> bool {
        matches!(self, Self::Opaque(opaque) if opaque.unflushed)
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Unix(socket) => Ok(Peer::Process(socket.process())),
            Self::Mem(_) => Ok(Peer::own()),
            Self::Opaque(opaque) => Ok(opaque.peer),
        }
    }
}

impl Stream {
    /// The process at the other end, if it is known.
    pub(crate) fn pidfd(&self, peer: Peer) -> Option<PeerPidfd> {
        match self {
            Self::Unix(stream) => PeerPidfd::of(stream.fd().ok()?, peer),
            Self::Mem(_) | Self::Opaque(_) => None,
        }
    }

    /// Sends a few bytes at once or not at all: a last word, where nobody may be waited for.
    pub(crate) fn send_now(&mut self, bytes: &[u8]) {
        match self {
            Self::Unix(stream) => {
                let _ = stream.send_now(bytes);
            }
            Self::Mem(stream) => {
                let _ = stream.write_all(bytes).now_or_never();
            }
            Self::Opaque(stream) => {
                let _ = async {
                    stream.io.write_all(bytes).await?;
                    stream.io.flush().await
                }
                .now_or_never();
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => stream.poll_read(cx, buffer),
            Self::Mem(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Opaque(stream) => Pin::new(&mut stream.io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => stream.poll_write(cx, bytes),
            Self::Mem(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Opaque(stream) => {
                stream.unflushed = true;
                Pin::new(&mut stream.io).poll_write(cx, bytes)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => stream.poll_write_vectored(cx, slices),
            Self::Mem(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Opaque(stream) => {
                stream.unflushed = true;
                Pin::new(&mut stream.io).poll_write_vectored(cx, slices)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Mem(stream) => stream.is_write_vectored(),
            Self::Opaque(stream) => stream.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Mem(stream) => Pin::new(stream).poll_flush(cx),
            Self::Opaque(stream) => {
                ready!(Pin::new(&mut stream.io).poll_flush(cx))?;
                stream.unflushed = false;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Poll::Ready(stream.shutdown()),
            Self::Mem(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Opaque(stream) => Pin::new(&mut stream.io).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opaque").field("peer", &self.peer).finish_non_exhaustive()
    }
}
