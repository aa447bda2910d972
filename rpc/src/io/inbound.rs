//! Bytes that have arrived, until they make whole frames.
//!
//! Reads into one buffer a thread and keeps only what is left of a partial frame, so an idle connection holds nothing.
//! Never reserves what a length announces: the buffer grows with the bytes that are there.
//!
//! Used by both drivers.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;
use crate::limits::READ_BYTES;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The bytes of a partial frame, between two reads.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    partial: BytesMut,
}

impl Inbound {
    /// Reads once and gives all that is there to `take`, which returns how many bytes made whole frames and its own
    /// result. `Ok(None)`: the end of the stream.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
        take: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<Option<T>>> {
        let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = Pin::new(stream).poll_read(cx, &mut buffer);
        let outcome = match ready_or(read) {
            Some(Ok(())) if buffer.filled().is_empty() => Some(Ok(None)),
            Some(Ok(())) => Some(Ok(Some(self.take(buffer.filled(), take)))),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        SCRATCH.set(Some(scratch));
        outcome.map_or(Poll::Pending, Poll::Ready)
    }

    /// Bytes that are kept between two reads.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    fn take<T>(&mut self, fresh: &[u8], take: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        if self.partial.is_empty() {
            let (consumed, result) = take(fresh);
            self.partial.extend_from_slice(fresh.get(consumed..).unwrap_or_default());
            return result;
        }
        self.partial.extend_from_slice(fresh);
        let (consumed, result) = take(&self.partial);
        if consumed >= self.partial.len() {
            self.partial = BytesMut::new();
        } else {
            self.partial.advance(consumed);
        }
        result
    }
}

fn ready_or<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Writes as much of `bytes` as the stream takes now, and flushes what buffers; `on_written` hears of each piece. To be
/// called again while `bytes` is not empty or the stream wants a flush.
pub(super) fn poll_write_all(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    bytes: &mut BytesMut,
    mut on_written: impl FnMut(usize),
) -> Poll<io::Result<()>> {
    while !bytes.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        on_written(written);
        bytes.advance(written);
    }
    if stream.wants_flush() {
        ready!(Pin::new(&mut *stream).poll_flush(cx))?;
    }
    // Keeps a buffer for the next batch, but not a large one.
    if bytes.capacity() > READ_BYTES {
        *bytes = BytesMut::new();
    } else {
        bytes.clear();
    }
    Poll::Ready(Ok(()))
}

/// Whether an error of reading is only the end of the stream: a peer that is gone, or one that did not say goodbye in the
/// transport's own way.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe)
}
