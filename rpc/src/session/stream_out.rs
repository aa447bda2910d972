//! The sending end of a stream: items encoded and waiting for the reader's credit.
//!
//! Never holds more than one stream's share of the limits, and never drops an item in silence: a gap stands in the
//! queue where the items were, and is told to the reader as Resync. SPEC: PROTOCOL §4.7.
//!
//! Kept per open stream by `server`.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::client::put_frame_with;
use crate::wire::header::{Gap, Kind};

/// What happens when the reader of a stream does not keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slow {
    /// The producer waits for the reader.
    #[default]
    Block,
    /// The producer goes on; the oldest items that were not sent are dropped, lossy ones first, and the reader is told.
    DropOldest,
    /// The stream ends: the reader gets what was queued, then learns that it was too slow.
    Close,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was queued; older ones may have been dropped for it.
    Queued,
    /// It was dropped, because it is lossy and there was no room.
    Dropped,
    /// There was no room, and the stream is over because of it.
    Closed,
}

#[derive(Debug)]
struct Item {
    frame: Bytes,
    body_bytes: usize,
    lossy: bool,
    /// What was dropped right before it.
    gap: Gap,
}

#[derive(Debug)]
pub(super) struct StreamOut {
    id: u64,
    /// Of the lane's frames.
    flags: u8,
    policy: Slow,
    items: VecDeque<Item>,
    lossy_items: usize,
    queued_bytes: usize,
    items_max: usize,
    bytes_max: usize,
    credit_items: u32,
    credit_bytes: i64,
    /// The number of the next item: items of this stream so far, dropped ones included.
    next: u64,
    /// What was dropped behind the last queued item.
    tail: Gap,
    /// What was dropped in all.
    missed: Gap,
    end: Option<Bytes>,
    done: bool,
    waker: Option<Waker>,
}

impl StreamOut {
    /// A stream whose reader has given its first credit, and which may queue so many items and bytes.
    pub(super) fn new(id: u64, flags: u8, credit: (u32, u32), queue_max: (u32, u32)) -> Self {
        Self {
            id,
            flags,
            policy: Slow::Block,
            items: VecDeque::new(),
            lossy_items: 0,
            queued_bytes: 0,
            items_max: usize::try_from(queue_max.0).unwrap_or(usize::MAX).max(1),
            bytes_max: usize::try_from(queue_max.1).unwrap_or(usize::MAX).max(1),
            credit_items: credit.0,
            credit_bytes: i64::from(credit.1),
            next: 0,
            tail: Gap::default(),
            missed: Gap::default(),
            end: None,
            done: false,
            waker: None,
        }
    }

    /// What its items occupy while they wait.
    pub(super) fn held_bytes(&self) -> usize {
        self.queued_bytes.saturating_add(self.items.len().saturating_mul(size_of::<Item>()))
    }

    pub(super) fn set_policy(&mut self, policy: Slow) {
        self.policy = policy;
    }

    /// May one more item be pushed? Only *block* ever waits, for a reader whose credit is used up by what is queued.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.policy != Slow::Block || self.has_room() {
            Poll::Ready(())
        } else {
            self.waker = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    /// Takes a whole frame that carries `body_bytes` of item.
    pub(super) fn push(&mut self, frame: Bytes, body_bytes: usize, lossy: bool) -> Pushed {
        if self.is_over() {
            return Pushed::Closed;
        }
        self.next = self.next.saturating_add(1);
        let room = self.has_room();
        if !room && lossy && (self.policy != Slow::DropOldest || self.lossy_items == 0) {
            self.drop_newest(lossy);
            return Pushed::Dropped;
        }
        match self.policy {
            // A lossless item waits for room before it is pushed.
            Slow::Block => {}
            Slow::DropOldest => while !self.is_within_queue() && self.drop_oldest() {},
            Slow::Close if !room => {
                self.drop_newest(lossy);
                return Pushed::Closed;
            }
            Slow::Close => {}
        }
        self.lossy_items = self.lossy_items.saturating_add(usize::from(lossy));
        self.queued_bytes = self.queued_bytes.saturating_add(body_bytes);
        let gap = std::mem::take(&mut self.tail);
        self.items.push_back(Item { frame, body_bytes, lossy, gap });
        Pushed::Queued
    }

    /// The producer is done; `frame` says so to the reader, behind everything that is queued.
    pub(super) fn end(&mut self, frame: Bytes) {
        if !self.is_over() {
            self.end = Some(frame);
        }
    }

    pub(super) fn grant(&mut self, items: u32, bytes: u32) -> Option<Waker> {
        self.credit_items = self.credit_items.saturating_add(items);
        self.credit_bytes = self.credit_bytes.saturating_add(i64::from(bytes));
        self.ready_waker()
    }

    /// The producer that waits, if there is room for its item now.
    pub(super) fn ready_waker(&mut self) -> Option<Waker> {
        if self.waker.is_some() && self.has_room() { self.waker.take() } else { None }
    }

    pub(super) fn waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    /// The next frame that the reader has credit for: an item, or what was dropped before it, or the end.
    pub(super) fn next_frame(&mut self) -> Option<Bytes> {
        if self.has_credit() {
            let gap = self.items.front_mut().map_or(&mut self.tail, |item| &mut item.gap);
            if !gap.is_empty() {
                let gap = std::mem::take(gap);
                return Some(self.resync(gap));
            }
            if let Some(item) = self.take_front() {
                self.credit_items = self.credit_items.saturating_sub(1);
                let bytes = i64::try_from(item.body_bytes).unwrap_or(i64::MAX);
                self.credit_bytes = self.credit_bytes.saturating_sub(bytes);
                return Some(item.frame);
            }
        }
        if !self.items.is_empty() {
            return None;
        }
        // The end costs no credit, and neither does what was missed before it.
        self.end.as_ref()?;
        if !self.tail.is_empty() {
            let gap = std::mem::take(&mut self.tail);
            return Some(self.resync(gap));
        }
        self.done = true;
        self.end.take()
    }

    /// Whether [`next_frame`](Self::next_frame) has anything.
    pub(super) fn has_frames(&self) -> bool {
        if self.items.is_empty() {
            return self.end.is_some() || (self.has_credit() && !self.tail.is_empty());
        }
        self.has_credit()
    }

    /// The producer has nothing more to say.
    pub(super) fn is_over(&self) -> bool {
        self.done || self.end.is_some()
    }

    /// Everything was sent and nothing more will come.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The number of the next item.
    pub(super) fn cursor(&self) -> u64 {
        self.next
    }

    /// What was dropped so far.
    pub(super) fn missed(&self) -> Gap {
        self.missed
    }

    /// Room for one more item. *Block* queues nothing that the reader has no credit for; a reader that grants a lot can
    /// still not make us queue more than our own share.
    fn has_room(&self) -> bool {
        self.is_within_queue() && (self.policy != Slow::Block || self.is_within_credit())
    }

    fn has_credit(&self) -> bool {
        self.credit_items > 0 && self.credit_bytes > 0
    }

    /// Whether the reader has credit for one more item behind the queued ones. The last one may be larger than what is
    /// left of its bytes.
    fn is_within_credit(&self) -> bool {
        let bytes = i64::try_from(self.queued_bytes).unwrap_or(i64::MAX);
        self.items.len() < usize::try_from(self.credit_items).unwrap_or(usize::MAX) && bytes < self.credit_bytes
    }

    fn is_within_queue(&self) -> bool {
        self.items.len() < self.items_max && self.queued_bytes < self.bytes_max
    }

    fn take_front(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.forget(&item);
        Some(item)
    }

    fn forget(&mut self, item: &Item) {
        self.lossy_items = self.lossy_items.saturating_sub(usize::from(item.lossy));
        self.queued_bytes = self.queued_bytes.saturating_sub(item.body_bytes);
    }

    fn drop_newest(&mut self, lossy: bool) {
        self.tail.add(Gap::of(lossy));
        self.missed.add(Gap::of(lossy));
    }

    /// Drops the oldest lossy item, or the oldest if there is none; the gap goes to whatever follows it.
    fn drop_oldest(&mut self) -> bool {
        let at = match self.lossy_items {
            0 => 0,
            _ => self.items.iter().position(|item| item.lossy).unwrap_or(0),
        };
        let Some(item) = self.items.remove(at) else { return false };
        self.forget(&item);
        let mut gap = item.gap;
        gap.add(Gap::of(item.lossy));
        self.missed.add(Gap::of(item.lossy));
        self.items.get_mut(at).map_or(&mut self.tail, |next| &mut next.gap).add(gap);
        true
    }

    /// Tells the reader what it missed before the next queued item.
    fn resync(&self, gap: Gap) -> Bytes {
        let mut later = self.tail.items();
        for item in &self.items {
            later = later.saturating_add(1).saturating_add(item.gap.items());
        }
        let cursor = self.next.saturating_sub(later);
        let mut frame = BytesMut::new();
        put_frame_with(&mut frame, Kind::Resync, self.flags, 0, self.id, &gap.to_bytes(cursor));
        frame.freeze()
    }
}

#[cfg(test)]
#[path = "stream_out_tests.rs"]
mod tests;
