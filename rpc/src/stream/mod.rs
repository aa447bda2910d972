//! Streams: the ack of a request opens one, items follow under the reader's credit.
//!
//! A slow reader stops its own producer and nothing else; what then happens is the stream's policy ([`Slow`]). What is
//! dropped is said ([`Event::Resync`]), never left out in silence. A stream ends with its connection; it is never resumed
//! silently: whoever needs the rest asks again from a cursor.
//!
//! [`ItemSender`] is given to handlers, [`ItemStream`] to callers; `value` carries one large value as chunks. The frames
//! between them are `session`'s.

mod reader;
mod sender;
mod value;

pub use self::reader::{Event, Events, ItemStream};
pub use self::sender::ItemSender;
pub use self::value::ValueError;
pub use crate::session::server::Slow;
pub use crate::wire::header::Gap;

/// Why an item was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The reader, its connection or the call that opened the stream has gone.
    #[error("the stream's reader has gone")]
    Closed,
    /// The reader did not keep up, and the stream's policy is to close then. It has what was queued before.
    #[error("the stream's reader did not keep up, and the stream was closed")]
    TooSlow,
    /// The item's frame would be larger than both sides agreed on.
    #[error("the item's frame has {bytes} bytes, at most {max} are allowed; cut it into smaller items")]
    TooLarge {
        /// The frame, in bytes.
        bytes: usize,
        /// The largest frame allowed.
        max: usize,
    },
    /// It cannot be encoded.
    #[error("the item cannot be encoded: {0}")]
    Encode(String),
}

/// What a reader gets instead of an item. All but [`Resync`](Self::Resync) end the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection was lost. Ask again from where you are.
    #[error("the connection was lost; ask again from where you are")]
    ConnectionLost,
    /// The server gave the stream up.
    #[error("the server gave the stream up")]
    Aborted,
    /// We did not keep up, and the stream's policy is to close then.
    #[error("the stream was closed because its items were not read fast enough; ask again from where you are")]
    TooSlow,
    /// An item could not be read.
    #[error("an item could not be read: {0}")]
    BadItem(String),
    /// Items were dropped because we did not keep up; the stream goes on. Only streams whose producer chose to drop.
    #[error(
        "{} items were dropped because they were not read fast enough; the next one is number {cursor}",
        missed.items()
    )]
    Resync {
        /// The number of the next item, counted from 0; dropped ones are counted too.
        cursor: u64,
        /// What was dropped since the last item.
        missed: Gap,
    },
}
