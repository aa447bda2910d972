//! Streams from server to client: the ack of a request opens one, items follow under credit.
//!
//! A reader that stops reading stops its own producer (policy *block*) and nothing else. A stream ends with its
//! connection; it is never resumed silently: whoever needs the rest asks again from a cursor.
//!
//! [`ItemSender`] is given to handlers, [`ItemStream`] to callers; the frames between them are `session`'s.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::io::client::LaneCell as ClientCell;
use crate::io::hub::LaneCell as ServerCell;
use crate::request::Wire;
use crate::session::client::StreamEnd;
use crate::session::server::ServerLane;
use crate::wire::body;
use crate::wire::header::EndCode;

/// The sending end of a stream. Dropping it ends the stream.
pub struct ItemSender<T> {
    cell: Arc<ServerCell>,
    id: u64,
    code: EndCode,
    /// One producer at a time waits for credit, in their order: the lane wakes one.
    turn: tokio::sync::Mutex<()>,
    _item: PhantomData<fn(T)>,
}

/// The receiving end of a stream. Dropping it tells the server to stop.
#[must_use = "dropping a stream ends it"]
pub struct ItemStream<T> {
    cell: Arc<ClientCell>,
    id: u64,
    ended: bool,
    _item: PhantomData<fn() -> T>,
}

/// Why an item was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The reader, its connection or the call that opened the stream has gone.
    #[error("the stream's reader has gone")]
    Closed,
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

/// Why a stream ended before its producer was done with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection was lost. Ask again from where you are.
    #[error("the connection was lost; ask again from where you are")]
    ConnectionLost,
    /// The server gave the stream up.
    #[error("the server gave the stream up")]
    Aborted,
    /// An item could not be read.
    #[error("an item could not be read: {0}")]
    BadItem(String),
}

impl<T> ItemSender<T> {
    pub(crate) fn new(cell: Arc<ServerCell>, id: u64) -> Self {
        Self { cell, id, code: EndCode::Finished, turn: tokio::sync::Mutex::new(()), _item: PhantomData }
    }

    /// Ends the stream: the reader gets everything sent so far, then its end.
    pub fn end(self) {}

    /// Gives the stream up: the reader gets everything sent so far, then [`StreamError::Aborted`].
    pub fn abort(mut self) {
        self.code = EndCode::Aborted;
    }
}

impl<T: Wire + Serialize> ItemSender<T> {
    /// Sends an item, once the reader has credit for it. Several tasks may send: their items go in the order of the calls.
    ///
    /// # Errors
    /// [`SendError`]; after `Closed` every further item fails the same way.
    ///
    /// # Cancel safety
    /// A dropped call has sent nothing.
    pub async fn send(&self, item: T) -> Result<(), SendError> {
        let mut bytes = BytesMut::new();
        body::encode(&item, &mut bytes).map_err(|error| SendError::Encode(error.to_string()))?;
        let format = self.cell.with(|lane| lane.item_format());
        let frame = ServerLane::item_frame(self.id, &bytes, format)
            .map_err(|error| SendError::TooLarge { bytes: error.bytes, max: error.max })?;
        let mut frame = Some(frame);
        let _turn = self.turn.lock().await;
        poll_fn(|cx| {
            let sent = self.cell.with(|lane| match lane.poll_stream_ready(self.id, cx) {
                Poll::Ready(Ok(())) => Poll::Ready(match frame.take() {
                    Some(frame) => lane.push_item(self.id, frame, bytes.len()),
                    None => Ok(()),
                }),
                other => other,
            });
            sent.map_err(|_| SendError::Closed)
        })
        .await?;
        self.cell.metrics.item();
        self.cell.with_driver(|_| ());
        Ok(())
    }
}

impl<T> Drop for ItemSender<T> {
    fn drop(&mut self) {
        self.cell.with_driver(|lane| lane.end_stream(self.id, self.code));
    }
}

impl<T> ItemStream<T> {
    pub(crate) fn new(cell: Arc<ClientCell>, id: u64) -> Self {
        cell.add_handle();
        Self { cell, id, ended: false, _item: PhantomData }
    }
}

impl<T: Wire + DeserializeOwned> Stream for ItemStream<T> {
    type Item = Result<T, StreamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let polled = this.cell.with(|lane| lane.poll_item(this.id, cx));
        let item = match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(payload)) => {
                this.cell.metrics().item();
                body::decode(payload.as_slice()).map_err(|error| StreamError::BadItem(error.to_string()))
            }
            Poll::Ready(Err(StreamEnd::Ended(EndCode::Finished))) => {
                this.ended = true;
                return Poll::Ready(None);
            }
            Poll::Ready(Err(StreamEnd::Ended(_))) => Err(StreamError::Aborted),
            Poll::Ready(Err(StreamEnd::Lost)) => Err(StreamError::ConnectionLost),
        };
        this.ended = item.is_err();
        Poll::Ready(Some(item))
    }
}

impl<T> Drop for ItemStream<T> {
    fn drop(&mut self) {
        self.cell.with(|lane| lane.drop_stream(self.id));
        self.cell.drop_handle();
    }
}

impl<T> fmt::Debug for ItemSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemSender").field("request_id", &self.id).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").field("request_id", &self.id).finish_non_exhaustive()
    }
}
