//! A connection's byte stream, whatever it is made of, and who is at its other end.
//!
//! Credentials are the kernel's (`SO_PEERCRED`), read before a byte is parsed; nothing that a peer says changes them.
//!
//! Made by `listener` and `dial`.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::UnixStream;

use crate::server::PeerPidfd;

/// Who is at the other end of a connection, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The process that connected, or that listens; `None` if it lies outside our pid namespace.
    pub pid: Option<i32>,
}

impl Peer {
    /// This process itself: what stands at both ends of a `mem:` connection.
    pub fn own() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: Some(rustix::process::getpid().as_raw_nonzero().get()),
        }
    }
}

/// A byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Mem(DuplexStream),
}

impl Stream {
    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Unix(stream) => {
                let credentials = stream.peer_cred()?;
                Ok(Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
            }
            Self::Mem(_) => Ok(Peer::own()),
        }
    }
}

impl Stream {
    /// The process at the other end, if it is known.
    pub(crate) fn pidfd(&self, peer: Peer) -> Option<PeerPidfd> {
        match self {
            Self::Unix(stream) => PeerPidfd::of(stream.as_fd(), peer),
            Self::Mem(_) => None,
        }
    }

    /// Sends a few bytes at once or not at all: a last word, where nobody may be waited for.
    pub(crate) fn send_now(&mut self, bytes: &[u8]) {
        match self {
            // Not by tokio, which knows nothing of a new socket's readiness until its driver has run.
            Self::Unix(stream) => {
                let _ = rustix::net::send(&*stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
            Self::Mem(stream) => {
                let _ = stream.write_all(bytes).now_or_never();
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Mem(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Mem(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mem(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mem(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
