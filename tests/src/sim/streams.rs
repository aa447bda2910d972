//! What a stream has to say, how slow its reader may be, and whether the reader gets all of it.
//!
//! The script of a stream follows from its call: both ends know every item, so the reader can say which one is missing
//! without having been told. Never an item more than the script has.
//!
//! `handlers` keep its producers, `callers` its readers.

use std::sync::Arc;
use std::task::{Context, Poll};

use rpc::session::client::{Arrival, StreamEnd};
use rpc::session::server::{Pushed, ServerLane, Slow};
use rpc::wire::frame::Oversized;
use rpc::wire::header::{EndCode, Gap};

use super::env::{Env, Flag};

/// What the stream of a call has to say.
#[derive(Clone, Copy, Debug)]
struct Script {
    policy: Slow,
    items: u64,
    some_lossy: bool,
}

impl Script {
    fn of(token: usize) -> Self {
        let token = token as u64;
        let policy = [Slow::Block, Slow::DropOldest, Slow::Close][usize::try_from(token / 12 % 3).unwrap_or(0)];
        Self { policy, items: token % 12, some_lossy: token / 36 % 2 == 1 }
    }

    fn is_lossy(self, item: u64) -> bool {
        self.some_lossy && item % 3 != 1
    }

    fn missing(self, items: std::ops::Range<u64>) -> Gap {
        let mut gap = Gap::default();
        items.for_each(|item| gap.add(Gap::of(self.is_lossy(item))));
        gap
    }
}

/// What sends the items of a stream.
#[derive(Debug)]
pub(super) struct Producer {
    token: usize,
    id: u64,
    next: u64,
    credit: Arc<Flag>,
    waits: bool,
    begun: bool,
}

impl Producer {
    pub(super) fn new(token: usize, id: u64) -> Self {
        Self { token, id, next: 0, credit: Arc::default(), waits: false, begun: false }
    }

    /// `false`: it is done.
    pub(super) fn poll(&mut self, env: &mut Env, lane: &mut ServerLane) -> bool {
        if self.waits && !self.credit.take() {
            return true;
        }
        let script = Script::of(self.token);
        if !std::mem::replace(&mut self.begun, true) {
            lane.set_slow(self.id, script.policy);
        }
        let waker = self.credit.waker();
        while self.next < script.items {
            let lossy = script.is_lossy(self.next);
            // A lossy item waits for nobody.
            if !lossy {
                match lane.poll_stream_ready(self.id, &mut Context::from_waker(&waker)) {
                    Poll::Pending => {
                        env.coverage.hit("stream: producer waited for credit");
                        self.waits = true;
                        return true;
                    }
                    Poll::Ready(Err(_)) => return false,
                    Poll::Ready(Ok(())) => {}
                }
            }
            self.waits = false;
            let mut body = [(self.token as u64).to_le_bytes(), self.next.to_le_bytes()].concat();
            body.resize(16 + env.random.choose(&[(3, 0), (2, 60), (1, 200)]), 7);
            let frame = ServerLane::item_frame(self.id, lossy, lane.item_format(), |out| {
                out.extend_from_slice(&body);
                Ok::<(), Oversized>(())
            });
            let Ok(frame) = frame else { return false };
            match lane.push_item(self.id, frame, body.len(), lossy) {
                Ok(Pushed::Queued) => {}
                Ok(Pushed::Dropped) => env.coverage.hit("stream: lossy item dropped"),
                Ok(Pushed::Closed) => env.coverage.hit("stream: closed on a slow reader"),
                Err(_) => return false,
            }
            self.next += 1;
            if env.random.per_mille(300) {
                return true;
            }
        }
        lane.end_stream(self.id, EndCode::Finished);
        false
    }
}

/// What a reader has got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reader {
    /// The number of the item that must come next.
    next: u64,
    ended: bool,
}

impl Reader {
    /// What arrived must be the next item, or say truly which ones it stands for.
    pub(super) fn takes(&mut self, token: usize, arrival: &Arrival) -> Result<(), String> {
        let script = Script::of(token);
        let (lossy, item) = match arrival {
            Arrival::Item(item) => (false, item),
            Arrival::Lossy(item) => (true, item),
            Arrival::Resync { cursor, missed } => {
                let truth = script.missing(self.next..*cursor);
                if *cursor <= self.next || *missed != truth || script.policy == Slow::Block && truth.lossless > 0 {
                    return Err(format!("is told {missed:?} up to {cursor}, and {truth:?} is missing"));
                }
                self.next = *cursor;
                return Ok(());
            }
        };
        let expected = [(token as u64).to_le_bytes(), self.next.to_le_bytes()].concat();
        if item.as_slice().get(..16) != Some(&expected[..]) || lossy != script.is_lossy(self.next) {
            return Err(format!("lost item {}, or got another", self.next));
        }
        self.next += 1;
        Ok(())
    }

    /// A stream that ends well has said everything; one whose reader was too slow says so.
    pub(super) fn ends(&mut self, token: usize, end: StreamEnd) -> Result<(), String> {
        let script = Script::of(token);
        if std::mem::replace(&mut self.ended, true) {
            return Err("ended twice".to_owned());
        }
        match end {
            StreamEnd::Ended(EndCode::Finished) if self.next != script.items => {
                Err(format!("ended well after {} of {} items", self.next, script.items))
            }
            StreamEnd::Ended(EndCode::TooSlow) if script.policy != Slow::Close || self.next == 0 => {
                Err("was closed for a slow reader, against its policy or without a word of what is missing".to_owned())
            }
            _ => Ok(()),
        }
    }
}
