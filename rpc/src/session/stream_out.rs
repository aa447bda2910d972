//! The sending end of a stream: items encoded and waiting to be written, within the reader's credit.
//!
//! Never takes an item without credit: the producer waits (policy *block*).
//!
//! Kept per open stream by `server`.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

#[derive(Debug, Default)]
pub(super) struct StreamOut {
    frames: VecDeque<Bytes>,
    credit_items: u32,
    credit_bytes: i64,
    ended: bool,
    waker: Option<Waker>,
}

impl StreamOut {
    pub(super) fn new(items: u32, bytes: u32) -> Self {
        Self { credit_items: items, credit_bytes: i64::from(bytes), ..Self::default() }
    }

    /// Room for one more item?
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.credit_items > 0 && self.credit_bytes > 0 {
            Poll::Ready(())
        } else {
            self.waker = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    /// Takes a whole frame that carries `body_bytes` of item.
    pub(super) fn push(&mut self, frame: Bytes, body_bytes: usize) {
        self.credit_items = self.credit_items.saturating_sub(1);
        self.credit_bytes = self.credit_bytes.saturating_sub(i64::try_from(body_bytes).unwrap_or(i64::MAX));
        self.frames.push_back(frame);
    }

    /// The producer is done; `frame` says so to the reader.
    pub(super) fn end(&mut self, frame: Bytes) {
        if !self.ended {
            self.ended = true;
            self.frames.push_back(frame);
        }
    }

    pub(super) fn grant(&mut self, items: u32, bytes: u32) -> Option<Waker> {
        self.credit_items = self.credit_items.saturating_add(items);
        self.credit_bytes = self.credit_bytes.saturating_add(i64::from(bytes));
        self.waker.take()
    }

    pub(super) fn waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    pub(super) fn next_frame(&mut self) -> Option<Bytes> {
        self.frames.pop_front()
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Everything was sent and nothing more will come.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.frames.is_empty()
    }
}
