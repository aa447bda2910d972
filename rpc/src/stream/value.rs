//! One large value as a stream of chunks, so that it never stands in front of a small call.
//!
//! Never holds more than the reader said that it takes; never gives out a part of a value as the whole.
//!
//! Above `sender` and `reader`, for streams of [`Blob`].

use futures::StreamExt;
use serde::{Serialize, Serializer};

use super::{ItemSender, ItemStream, SendError, StreamError};
use crate::limits::CHUNK_FRAME_BYTES;
use crate::wire::frame::LENGTH_BYTES;
use crate::wire::header::{COMMON_BYTES, EndCode};
use crate::wire::types::Blob;

/// Bytes of a chunk's frame that are not the chunk's: length, header, and the length of the item.
const FRAME_OVERHEAD_BYTES: usize = LENGTH_BYTES + COMMON_BYTES + 3;

/// What is made room for at once when a second chunk comes; from there on the room doubles.
const ROOM_BYTES: usize = 1 << 20;

/// Why a value did not arrive whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// It is larger than its reader wanted. Nothing of it is given out.
    #[error("the value has more than the {max} bytes that its reader takes")]
    TooLarge {
        /// What the reader takes at most.
        max: usize,
    },
    /// The stream ended before the value did.
    #[error("the value is incomplete")]
    Incomplete(#[from] StreamError),
}

impl<L> ItemSender<Blob, L> {
    /// Sends `value` as chunks of less than 64 KiB, each within the reader's credit, and ends the stream. Calls on the same
    /// connection go between the chunks.
    ///
    /// # Errors
    /// [`SendError`]: the reader has not got the whole value, and learns that it has not.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call gives the stream up, which the reader sees as [`StreamError::Aborted`].
    pub fn send_value(mut self, value: &[u8]) -> impl Future<Output = Result<(), SendError>> {
        // Until the last chunk is sent, the end of this sender is no end of the value; nor if nobody polls what sends it.
        self.set_end(EndCode::Aborted);
        async move {
            // A frame's limit does not count its length: a chunk is a little smaller than it could be.
            let chunk_bytes = CHUNK_FRAME_BYTES.min(self.frame_bytes_max()).saturating_sub(FRAME_OVERHEAD_BYTES).max(1);
            for chunk in value.chunks(chunk_bytes) {
                self.send_as(&ByteString(chunk)).await?;
            }
            self.set_end(EndCode::Finished);
            Ok(())
        }
    }
}

impl ItemStream<Blob> {
    /// Reads the whole stream as one value of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`ValueError`]: the value is not there, not even in part. A stream whose producer drops chunks is incomplete.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call has taken chunks, and ends the stream.
    pub async fn value(mut self, bytes_max: usize) -> Result<Vec<u8>, ValueError> {
        let mut value = Vec::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if chunk.len() > bytes_max.saturating_sub(value.len()) {
                return Err(ValueError::TooLarge { max: bytes_max });
            }
            if !value.is_empty() && value.capacity() < ROOM_BYTES {
                value.reserve_exact(bytes_max.saturating_sub(value.len()).min(ROOM_BYTES));
            }
            value.extend_from_slice(&chunk);
        }
        Ok(value)
    }
}

/// Borrowed bytes, with the encoding of a [`Blob`].
struct ByteString<'a>(&'a [u8]);

impl Serialize for ByteString<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
