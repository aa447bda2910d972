//! The sending end of a stream.
//!
//! Never queues more than the stream's share of the limits; never drops an item without the reader learning it.
//!
//! Given to handlers by `responder`; above `session::server`.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use serde::Serialize;

use super::{Gap, SendError, Slow};
use crate::io::hub::ServingCell;
use crate::request::{Never, Wire};
use crate::session::server::{Pushed, ServerLane};
use crate::wire::body;
use crate::wire::frame::Oversized;
use crate::wire::header::EndCode;

/// The sending end of a stream of `T`, and of `L` where the stream also has a lossy type. Dropping it ends the stream.
pub struct ItemSender<T, L = Never> {
    cell: Arc<ServingCell>,
    id: u64,
    code: EndCode,
    /// One producer at a time waits for credit, in their order: the lane wakes one.
    turn: tokio::sync::Mutex<()>,
    _item: PhantomData<fn(T, L)>,
}

impl<T, L> ItemSender<T, L> {
    pub(crate) fn new(cell: Arc<ServingCell>, id: u64) -> Self {
        Self { cell, id, code: EndCode::Finished, turn: tokio::sync::Mutex::new(()), _item: PhantomData }
    }

    /// Chooses what happens when the reader does not keep up; without a choice, the producer waits. What is queued for
    /// a reader that has given no credit is bounded by [`Limits::stream_items`](crate::Limits::stream_items) and
    /// [`Limits::stream_bytes`](crate::Limits::stream_bytes) of the server.
    pub fn when_slow(self, policy: Slow) -> Self {
        self.cell.with(|lane| lane.set_slow(self.id, policy));
        self
    }

    /// The number of the next item, counted from 0; dropped ones are counted too. `None`: the reader has gone.
    pub fn cursor(&self) -> Option<u64> {
        self.cell.with(|lane| lane.stream_position(self.id)).map(|(cursor, _)| cursor)
    }

    /// What was dropped so far because the reader did not keep up. `None`: the reader has gone.
    pub fn missed(&self) -> Option<Gap> {
        self.cell.with(|lane| lane.stream_position(self.id)).map(|(_, missed)| missed)
    }

    /// Ends the stream: the reader gets everything sent so far, then its end.
    pub fn end(self) {}

    /// Gives the stream up: the reader gets everything sent so far, then
    /// [`StreamError::Aborted`](super::StreamError::Aborted).
    pub fn abort(mut self) {
        self.code = EndCode::Aborted;
    }

    /// What the reader will see when this sender is dropped.
    pub(super) fn set_end(&mut self, code: EndCode) {
        self.code = code;
    }

    pub(super) fn frame_bytes_max(&self) -> usize {
        self.cell.with(|lane| lane.item_format().1)
    }

    /// An item as a frame, and the bytes of the item itself.
    fn frame<I: Serialize + ?Sized>(&self, item: &I, lossy: bool) -> Result<(Bytes, usize), SendError> {
        let mut body_bytes = 0;
        let format = self.cell.with(|lane| lane.item_format());
        let frame = ServerLane::item_frame(self.id, lossy, format, |out| {
            let before = out.len();
            body::encode(item, out).map_err(|error| SendError::Encode(error.to_string()))?;
            body_bytes = out.len().saturating_sub(before);
            Ok::<(), SendError>(())
        })?;
        Ok((frame, body_bytes))
    }

    /// Sends an item of the lossless type as `send` does; `item` has its bytes.
    pub(super) async fn send_as<I: Serialize + ?Sized>(&self, item: &I) -> Result<(), SendError> {
        let (frame, body_bytes) = self.frame(item, false)?;
        let mut frame = Some(frame);
        let _turn = self.turn.lock().await;
        let pushed = poll_fn(|cx| {
            let pushed = self.cell.with(|lane| match lane.poll_stream_ready(self.id, cx) {
                Poll::Ready(Ok(())) => Poll::Ready(match frame.take() {
                    Some(frame) => lane.push_item(self.id, frame, body_bytes, false),
                    None => Ok(Pushed::Queued),
                }),
                Poll::Ready(Err(gone)) => Poll::Ready(Err(gone)),
                Poll::Pending => Poll::Pending,
            });
            pushed.map_err(|_| SendError::Closed)
        })
        .await?;
        self.pushed(pushed)
    }

    fn pushed(&self, pushed: Pushed) -> Result<(), SendError> {
        // There is something to write now: the item, or the end that its policy made.
        self.cell.with_driver(|_| ());
        match pushed {
            Pushed::Queued => {
                self.cell.metrics.item();
                Ok(())
            }
            Pushed::Dropped => Ok(()),
            Pushed::Closed => Err(SendError::TooSlow),
        }
    }
}

impl<T: Wire + Serialize, L> ItemSender<T, L> {
    /// Sends an item. With [`Slow::Block`] it waits until the reader has credit for it; with the other policies it never
    /// waits. Several tasks may send: their items go in the order of the calls.
    ///
    /// # Errors
    /// [`SendError`]; after `Closed` and `TooSlow` every further item fails.
    ///
    /// # Cancel safety
    /// A dropped call has sent nothing.
    pub async fn send(&self, item: T) -> Result<(), SendError> {
        self.send_as(&item).await
    }
}

impl<T, L: Wire + Serialize> ItemSender<T, L> {
    /// Sends an item that may be lost. Never waits: when there is no room it is dropped, or an older lossy one is
    /// ([`Slow::DropOldest`]), and the reader learns how many are missing, and where.
    ///
    /// # Errors
    /// [`SendError`]; being dropped is no error.
    pub fn send_lossy(&self, item: L) -> Result<(), SendError> {
        let (frame, body_bytes) = self.frame(&item, true)?;
        let pushed = self.cell.with(|lane| lane.push_item(self.id, frame, body_bytes, true));
        self.pushed(pushed.map_err(|_| SendError::Closed)?)
    }
}

impl From<Oversized> for SendError {
    fn from(error: Oversized) -> Self {
        Self::TooLarge { bytes: error.bytes, max: error.max }
    }
}

impl<T, L> Drop for ItemSender<T, L> {
    fn drop(&mut self) {
        self.cell.with_driver(|lane| lane.end_stream(self.id, self.code));
    }
}

impl<T, L> fmt::Debug for ItemSender<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemSender").field("request_id", &self.id).finish_non_exhaustive()
    }
}
