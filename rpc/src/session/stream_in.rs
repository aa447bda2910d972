//! The receiving end of a stream: items that have arrived and were not taken, and the credit to give back.
//!
//! Never holds more than the credit that it granted; a peer that sends more has broken the protocol.
//!
//! Kept per open stream by `client`.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::payload::Payload;
use crate::wire::header::{EndCode, Gap};

/// How a stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The peer said so.
    Ended(EndCode),
    /// The connection was lost, or the call failed.
    Lost,
}

/// What the reader of a stream gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// An item of the lossless type.
    Item(Payload),
    /// An item of the lossy type.
    Lossy(Payload),
    /// Items were dropped here; the number of the next one, and what is missing.
    Resync {
        /// The number of the next item: items of this stream before it, dropped ones included.
        cursor: u64,
        /// What was dropped since the last item.
        missed: Gap,
    },
}

#[derive(Debug)]
pub(super) struct StreamIn {
    arrived: VecDeque<Arrival>,
    /// Of the items in it.
    arrived_bytes: usize,
    granted_items: u32,
    granted_bytes: i64,
    taken_items: u32,
    taken_bytes: u32,
    end: Option<StreamEnd>,
    waker: Option<Waker>,
}

impl StreamIn {
    pub(super) fn new(items: u32, bytes: u32) -> Self {
        Self {
            arrived: VecDeque::new(),
            arrived_bytes: 0,
            granted_items: items,
            granted_bytes: i64::from(bytes),
            taken_items: 0,
            taken_bytes: 0,
            end: None,
            waker: None,
        }
    }

    /// An item has arrived. `false`: the peer had no credit for it. The last item within the credit may be larger
    /// than what was left of it.
    pub(super) fn push(&mut self, body: &[u8], lossy: bool) -> bool {
        if self.granted_items == 0 || self.granted_bytes <= 0 {
            return false;
        }
        self.granted_items = self.granted_items.saturating_sub(1);
        self.granted_bytes = self.granted_bytes.saturating_sub(i64::try_from(body.len()).unwrap_or(i64::MAX));
        self.arrived_bytes = self.arrived_bytes.saturating_add(body.len());
        let item = Payload::copy(body);
        self.arrived.push_back(if lossy { Arrival::Lossy(item) } else { Arrival::Item(item) });
        true
    }

    /// Items were dropped before the next one. It costs no credit, so that two in a row become one.
    pub(super) fn resync(&mut self, cursor: u64, gap: Gap) {
        match self.arrived.back_mut() {
            Some(Arrival::Resync { cursor: last, missed }) => {
                *last = cursor;
                missed.add(gap);
            }
            _ => self.arrived.push_back(Arrival::Resync { cursor, missed: gap }),
        }
    }

    /// Bytes that it holds for its reader, with the room that it keeps for more.
    pub(super) fn held_bytes(&self) -> usize {
        self.arrived.capacity().saturating_mul(size_of::<Arrival>()).saturating_add(self.arrived_bytes)
    }

    /// Whether the peer has ended it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.end, Some(StreamEnd::Ended(_)))
    }

    pub(super) fn end(&mut self, end: StreamEnd) {
        self.end.get_or_insert(end);
    }

    pub(super) fn waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    pub(super) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrival, StreamEnd>> {
        match (self.arrived.pop_front(), self.end) {
            (Some(arrival), _) => {
                if let Arrival::Item(item) | Arrival::Lossy(item) = &arrival {
                    self.arrived_bytes = self.arrived_bytes.saturating_sub(item.as_slice().len());
                    let bytes = u32::try_from(item.as_slice().len()).unwrap_or(u32::MAX);
                    self.taken_items = self.taken_items.saturating_add(1);
                    self.taken_bytes = self.taken_bytes.saturating_add(bytes);
                }
                Poll::Ready(Ok(arrival))
            }
            (None, Some(end)) => Poll::Ready(Err(end)),
            (None, None) => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Credit to grant again, once half of the window has been taken: items and bytes.
    pub(super) fn refill(&mut self, window_items: u32, window_bytes: u32) -> Option<(u32, u32)> {
        let due = self.taken_items >= window_items.div_ceil(2) || self.taken_bytes >= window_bytes.div_ceil(2);
        if !due || self.end.is_some() {
            return None;
        }
        let (items, bytes) = (std::mem::take(&mut self.taken_items), std::mem::take(&mut self.taken_bytes));
        self.granted_items = self.granted_items.saturating_add(items);
        self.granted_bytes = self.granted_bytes.saturating_add(i64::from(bytes));
        Some((items, bytes))
    }
}
