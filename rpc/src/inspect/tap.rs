//! Watching a connection while it is used: a tap around a transport, and a proxy that stands between two processes.
//!
//! Passes every byte on as it is. Never answers for anybody, and holds no more than a buffer of each direction.
//!
//! Tells a `Watcher`; knows no frames.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;

use super::{Direction, Seen, Watcher};
use crate::address::Address;
use crate::io::listener::{ListenError, Listener};
use crate::io::{dial, now};
use crate::limits::INSPECT_CONNECTIONS_MAX;
use crate::transport::Arrival;

/// A watcher, and the connections that it has been told of.
pub struct Watching {
    watcher: Box<dyn Watcher>,
    began: Instant,
    connections: AtomicU32,
}

/// A transport whose bytes somebody watches.
pub struct Tap<T> {
    io: T,
    watching: Arc<Watching>,
    connection: u32,
    reads: Direction,
    writes: Direction,
}

impl Watching {
    /// Begins to watch: times are counted from here.
    pub fn new(watcher: impl Watcher + 'static) -> Arc<Self> {
        Arc::new(Self { watcher: Box::new(watcher), began: now(), connections: AtomicU32::new(0) })
    }

    /// A connection that we have opened.
    pub fn connected<T>(self: &Arc<Self>, io: T) -> Tap<T> {
        self.tap(io, Direction::FromServer, Direction::ToServer)
    }

    /// A connection that we have accepted.
    pub fn accepted<T>(self: &Arc<Self>, io: T) -> Tap<T> {
        self.tap(io, Direction::ToServer, Direction::FromServer)
    }

    fn tap<T>(self: &Arc<Self>, io: T, reads: Direction, writes: Direction) -> Tap<T> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.saw(connection, Seen::Opened);
        Tap { io, watching: Arc::clone(self), connection, reads, writes }
    }

    fn saw(&self, connection: u32, seen: Seen<'_>) {
        // Whole microseconds, as a recording keeps them.
        let micros = now().saturating_duration_since(self.began).as_micros();
        self.watcher.saw(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)), connection, seen);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            self.watching.saw(self.connection, Seen::Bytes(self.reads, read));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        let taken = bytes.get(..written).unwrap_or(bytes);
        if !taken.is_empty() {
            self.watching.saw(self.connection, Seen::Bytes(self.writes, taken));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T> Drop for Tap<T> {
    fn drop(&mut self) {
        self.watching.saw(self.connection, Seen::Closed);
    }
}

/// Listens at `listen`, and passes every connection of this user on to the server at `to`, telling `watching` what goes
/// over it. Runs until the future is dropped; at most 1 024 connections at a time.
///
/// # What it changes
/// The server sees the proxy's process, not its client's: policies and identities that rest on the process (its pid, its
/// pidfd) are those of the proxy. The user is the same. Promises hold through it: what the proxy has taken counts as
/// written, so its client says *unknown* of what the proxy had not passed on yet, never *not delivered*; and a late byte of an
/// old connection is fenced by its epoch, as without a proxy.
///
/// # Errors
/// [`ListenError`], at once; nothing is left behind.
///
/// # Panics
/// Outside a tokio runtime.
pub fn proxy(
    listen: &Address,
    to: &Address,
    watching: Arc<Watching>,
) -> Result<impl Future<Output = ()> + use<>, ListenError> {
    let mut listener = Listener::bind(listen)?;
    let to = to.clone();
    Ok(async move {
        let mut open = JoinSet::new();
        loop {
            // CANCEL SAFETY: a connection is returned or stays in the backlog; an ended task is waited for again.
            let accepted = tokio::select! {
                accepted = listener.accept(), if open.len() < INSPECT_CONNECTIONS_MAX => accepted,
                Some(_) = open.join_next() => continue,
            };
            match accepted.map(|incoming| incoming.0) {
                Ok(Arrival::Ready(stream)) if stream.peer().is_ok_and(|peer| peer.is_trusted_by_default()) => {
                    let (to, watching) = (to.clone(), Arc::clone(&watching));
                    open.spawn(async move { pass_on(stream, &to, &watching).await });
                }
                Ok(_) => tracing::warn!("refused a connection of another user"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    // Most likely the table of descriptors is full: asked again at once, it would say the same.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

async fn pass_on(mut client: impl AsyncRead + AsyncWrite + Unpin, to: &Address, watching: &Arc<Watching>) {
    match dial(to).await {
        Ok(server) => {
            let mut server = watching.connected(server);
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                tracing::debug!(%error, "a connection broke");
            }
        }
        // Its client sees the connection end, and says what it can prove.
        Err(error) => tracing::warn!(%error, "cannot pass a connection on"),
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Tap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("connection", &self.connection).finish_non_exhaustive()
    }
}
