//! Bytes that have arrived, until they make whole frames; and bytes that leave.
//!
//! Small frames are read into one buffer a thread, many with one read, and taken from there; only what is left of a
//! partial one is kept, so an idle connection holds nothing. A large frame is read into a buffer that is its own, which
//! its body is not copied out of. Never reserves what a length announces: a buffer at most doubles, or is as large as
//! the last large frame of its connection was.
//!
//! Used by both drivers.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::stream::Stream;
use crate::limits::{KEPT_BUFFER_BYTES_MAX, LARGE_FRAME_BYTES, READ_BYTES};
use crate::wire::frame::LENGTH_BYTES;
use crate::wire::outgoing::{Outgoing, SLICES_MAX};
use crate::wire::shared;

thread_local! {
    static SCRATCH: Cell<Buffer> = Cell::new(Buffer::default());
}

/// The bytes of a partial frame, between two reads; or of whole ones that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    partial: Buffer,
    /// Bytes have arrived since that was last asked, whole frames or not.
    heard: bool,
    /// The size of the last frame if it was large: the next one is expected to be like it.
    large_bytes: usize,
}

/// A buffer that knows the size of its allocation, also while others share it.
#[derive(Debug, Default)]
struct Buffer {
    bytes: BytesMut,
    held_bytes: usize,
}

impl Inbound {
    /// Reads once and gives all that is there to `take`, which returns how many bytes made whole frames and its own
    /// result. A large frame is read until it is whole. `Ok(None)`: the end of the stream.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
        take: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<Option<T>>> {
        if let Some(whole) = announced(&self.partial.bytes).filter(|whole| *whole >= LARGE_FRAME_BYTES) {
            return self.poll_rest(cx, stream, whole, take);
        }
        let mut scratch = SCRATCH.take();
        let read_max = if self.partial.bytes.is_empty() { self.large_bytes.max(READ_BYTES) } else { READ_BYTES };
        scratch.make_room(read_max);
        let read = match poll_read_buf(Pin::new(stream), cx, &mut (&mut scratch.bytes).limit(read_max)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(_)) => {
                self.heard = true;
                Poll::Ready(Ok(Some(self.take(&mut scratch, take))))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        };
        scratch.keep();
        read
    }

    /// Gives to `take` once more what it has left of an earlier read, without a read.
    pub(super) fn take_kept<T>(&mut self, take: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        let (consumed, result) = take(&self.partial.bytes);
        self.consume_kept(consumed);
        result
    }

    /// Whether anything has arrived since this was last asked. A large frame on its way is no silence.
    pub(super) fn has_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Bytes that are kept between two reads.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.held_bytes
    }

    fn poll_rest<T>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
        whole: usize,
        take: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<Option<T>>> {
        let partial = &mut self.partial;
        while partial.bytes.len() < whole {
            if partial.bytes.len() == partial.bytes.capacity() {
                partial.grow(whole.min((partial.bytes.len() * 2).max(READ_BYTES).max(self.large_bytes)));
            }
            let missing = whole - partial.bytes.len();
            if ready!(poll_read_buf(Pin::new(&mut *stream), cx, &mut (&mut partial.bytes).limit(missing)))? == 0 {
                return Poll::Ready(Ok(None));
            }
            self.heard = true;
        }
        self.large_bytes = whole;
        let mut buffer = std::mem::take(partial);
        let result = self.take_shared(&mut buffer, take);
        // The frame's buffer is the next one's, once nobody holds a piece of it any more.
        buffer.keep();
        Poll::Ready(Ok(Some(result)))
    }

    fn take<T>(&mut self, fresh: &mut Buffer, take: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        if !self.partial.bytes.is_empty() {
            self.partial.extend(&fresh.bytes);
            return self.take_kept(take);
        }
        let whole = announced(&fresh.bytes).filter(|whole| *whole >= LARGE_FRAME_BYTES);
        self.large_bytes = whole.filter(|whole| *whole <= fresh.bytes.len()).unwrap_or(0);
        if self.large_bytes > 0 {
            return self.take_shared(fresh, take);
        }
        // A large frame that is not whole must be seen all the same: it may be larger than is allowed.
        let (consumed, result) = take(&fresh.bytes);
        if consumed == 0 && whole.is_some_and(|whole| whole >= fresh.held_bytes / 2) {
            self.partial = std::mem::take(fresh);
        } else {
            self.partial.extend(fresh.bytes.get(consumed..).unwrap_or_default());
        }
        result
    }

    fn consume_kept(&mut self, bytes: usize) {
        if bytes >= self.partial.bytes.len() {
            self.partial = Buffer::default();
        } else {
            self.partial.bytes.advance(bytes);
        }
    }

    /// Gives whole frames away in a buffer that they can be kept in.
    fn take_shared<T>(&mut self, buffer: &mut Buffer, take: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        let bytes = buffer.bytes.split().freeze();
        let (consumed, result) = shared::within(&bytes, buffer.held_bytes, || take(&bytes));
        self.partial.extend(bytes.get(consumed..).unwrap_or_default());
        result
    }
}

impl Buffer {
    /// Empties it, with room for so many bytes: in the same allocation, if nobody shares that.
    fn make_room(&mut self, bytes: usize) {
        self.bytes.clear();
        if self.bytes.capacity() < bytes && !self.bytes.try_reclaim(bytes) {
            self.grow(bytes);
        }
    }

    fn grow(&mut self, bytes_max: usize) {
        let mut grown = BytesMut::with_capacity(bytes_max);
        grown.extend_from_slice(&self.bytes);
        *self = Self { bytes: grown, held_bytes: bytes_max };
    }

    fn extend(&mut self, more: &[u8]) {
        let bytes = self.bytes.len() + more.len();
        if bytes > self.bytes.capacity() {
            self.grow(bytes);
        }
        self.bytes.extend_from_slice(more);
    }

    /// Keeps the buffer for the next read of this thread.
    fn keep(self) {
        if (1..=KEPT_BUFFER_BYTES_MAX).contains(&self.held_bytes) {
            SCRATCH.set(self);
        }
    }
}

/// The size of the frame at the front, its length included, if that can be told.
fn announced(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<LENGTH_BYTES>()?;
    Some(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX).saturating_add(LENGTH_BYTES))
}

/// Writes as much of `frames` as the stream takes now, and flushes what buffers; `on_written` hears of each piece. To be
/// called again while `frames` is not empty or the stream wants a flush.
pub(super) fn poll_write_all(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    frames: &mut Outgoing,
    mut on_written: impl FnMut(usize),
) -> Poll<io::Result<()>> {
    while !frames.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let written = match frames.slices(&mut slices) {
            1 => Pin::new(&mut *stream).poll_write(cx, &slices[0]),
            count => Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]),
        };
        let written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        on_written(written);
        frames.advance(written);
    }
    if stream.wants_flush() {
        ready!(Pin::new(&mut *stream).poll_flush(cx))?;
    }
    Poll::Ready(Ok(()))
}

/// Whether an error of reading is only the end of the stream: a peer that is gone, or one that did not say goodbye in the
/// transport's own way.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
