//! The receiving end of a stream.
//!
//! Grants credit as items are taken, so that whoever stops reading stops its producer.
//!
//! Given to callers by `client`; above `session::client`.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use serde::de::DeserializeOwned;

use super::{Gap, StreamError};
use crate::io::client::CallingCell;
use crate::request::{Never, Wire};
use crate::session::client::{Arrival, StreamEnd};
use crate::session::payload::Payload;
use crate::wire::body;
use crate::wire::header::EndCode;

/// The receiving end of a stream of `T`, and of `L` where the stream also has a lossy type. Dropping it tells the server
/// to stop.
///
/// A stream without a lossy type is a [`futures::Stream`] of its items; one with a lossy type is read by
/// [`event`](Self::event) or as [`events`](Self::events).
#[must_use = "dropping a stream ends it"]
pub struct ItemStream<T, L = Never> {
    cell: Arc<CallingCell>,
    id: u64,
    ended: bool,
    _item: PhantomData<fn() -> (T, L)>,
}

/// What a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T, L = Never> {
    /// An item. None is lost without a [`Resync`](Self::Resync) in its place.
    Item(T),
    /// An item of the type that may be lost.
    Lossy(L),
    /// Items were dropped here, because they were not read fast enough.
    Resync {
        /// The number of the next item, counted from 0; dropped ones are counted too.
        cursor: u64,
        /// What was dropped since the last item.
        missed: Gap,
    },
}

/// A stream as a [`futures::Stream`] of all that it brings.
#[derive(Debug)]
#[must_use = "dropping a stream ends it"]
pub struct Events<T, L>(ItemStream<T, L>);

impl<T, L> ItemStream<T, L> {
    pub(crate) fn new(cell: Arc<CallingCell>, id: u64) -> Self {
        cell.add_handle();
        Self { cell, id, ended: false, _item: PhantomData }
    }

    /// The next arrival, not yet read. `None`: the end.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arrival, StreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let end = match ready!(self.cell.with(|lane| lane.poll_item(self.id, cx))) {
            Ok(arrival) => {
                match &arrival {
                    Arrival::Resync { missed, .. } => self.cell.metrics().missed(missed.items()),
                    _ => self.cell.metrics().item(),
                }
                return Poll::Ready(Some(Ok(arrival)));
            }
            Err(end) => end,
        };
        self.ended = true;
        Poll::Ready(match end {
            StreamEnd::Ended(EndCode::Finished) => None,
            StreamEnd::Ended(EndCode::TooSlow) => Some(Err(StreamError::TooSlow)),
            StreamEnd::Ended(EndCode::Aborted | EndCode::Other(_)) => Some(Err(StreamError::Aborted)),
            StreamEnd::Lost => Some(Err(StreamError::ConnectionLost)),
        })
    }

    /// Reads an item. One that cannot be read ends the stream: what follows it would be misread too.
    fn read<I: Wire + DeserializeOwned>(&mut self, payload: &Payload) -> Result<I, StreamError> {
        payload.read(body::decode).map_err(|error| {
            self.ended = true;
            StreamError::BadItem(error.to_string())
        })
    }
}

impl<T: Wire + DeserializeOwned, L: Wire + DeserializeOwned> ItemStream<T, L> {
    /// The next event. `None`: the stream is over, and everything has been read.
    ///
    /// # Errors
    /// [`StreamError`], but never its `Resync`, which is an [`Event`] here. Every error is the last thing that a stream
    /// brings.
    ///
    /// # Cancel safety
    /// An event is either returned or still there.
    pub async fn event(&mut self) -> Option<Result<Event<T, L>, StreamError>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Polls for the next [`event`](Self::event).
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event<T, L>, StreamError>>> {
        let Some(arrival) = ready!(self.poll_arrival(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(arrival.and_then(|arrival| match arrival {
            Arrival::Item(payload) => self.read(&payload).map(Event::Item),
            Arrival::Lossy(payload) => self.read(&payload).map(Event::Lossy),
            Arrival::Resync { cursor, missed } => Ok(Event::Resync { cursor, missed }),
        })))
    }

    /// This stream as a [`futures::Stream`] of its events.
    pub fn events(self) -> Events<T, L> {
        Events(self)
    }
}

impl<T: Wire + DeserializeOwned> Stream for ItemStream<T, Never> {
    type Item = Result<T, StreamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.get_mut().poll_event(cx));
        Poll::Ready(event.map(|event| match event? {
            Event::Item(item) => Ok(item),
            Event::Lossy(never) => match never {},
            Event::Resync { cursor, missed } => Err(StreamError::Resync { cursor, missed }),
        }))
    }
}

impl<T: Wire + DeserializeOwned, L: Wire + DeserializeOwned> Stream for Events<T, L> {
    type Item = Result<Event<T, L>, StreamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_event(cx)
    }
}

impl<T, L> Drop for ItemStream<T, L> {
    fn drop(&mut self) {
        self.cell.with(|lane| lane.drop_stream(self.id));
        self.cell.drop_handle();
    }
}

impl<T, L> fmt::Debug for ItemStream<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").field("request_id", &self.id).finish_non_exhaustive()
    }
}
