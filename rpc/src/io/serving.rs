//! The serving half of a connection: handlers from their request to their reply, whichever side accepted the connection.
//!
//! Takes what one read brought, polls each handler once outside the lane's lock, and gives all replies back under one.
//! Never waits for a handler: one that is pending keeps its slot and is polled again when it is woken. Handlers outlive
//! the connection that brought them.
//!
//! Part of the drivers `server` and `client`; works on a `hub::ServingCell`.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::handlers::{Handlers, Polled, Pool, dispose};
use super::hub::{Hub, ServingCell};
use super::load::LaneLoad;
use super::timer::{Timer, now};
use super::{give_way, lock, wake_all};
use crate::context::{self, CallContext};
use crate::id::RequestId;
use crate::limits::{SLOTS_KEPT, WAKERS_KEPT};
use crate::peer::Peer;
use crate::request::DecodeFault;
use crate::responder::RawResponder;
use crate::server::Pass;
use crate::service::{Answer, overloaded, refuse};
use crate::session::payload::Payload;
use crate::session::server::{NewCall, Reply, ServerLane};
use crate::trace::{self, HandledCall, HandlerSpan};
use crate::watch::HandlerWatch;
use crate::wire::header::{FailedCode, NackCode, Tlvs};
use crate::wire::hello::ServiceInfo;

/// Turns of a driver before it lets other tasks run.
pub(super) const TURNS_MAX: usize = 32;
/// Frames of a connection before its driver lets other tasks run. LIMIT: a millisecond's worth of small ones; one read of
/// the most that may be in flight is less.
pub(super) const FRAMES_MAX: usize = 2048;

thread_local! {
    /// Empty lists: those that are filled and emptied within one turn of a driver are the thread's, so an idle connection
    /// has none. LIMIT: as long as the longest of one turn, [`FRAMES_MAX`] and what one read adds.
    static QUEUED: Cell<Vec<Queued>> = const { Cell::new(Vec::new()) };
    static REPLIES: Cell<Vec<(u64, Reply)>> = const { Cell::new(Vec::new()) };
}

/// A request that was taken from a read and waits for its first poll: where its body lies in the read's bytes.
struct Queued {
    id: u64,
    method: u16,
    version: u16,
    deadline: Instant,
    /// Its TLVs stand before its body.
    tlv_bytes: usize,
    body: Range<usize>,
}

/// The handlers of one connection, and what they were given and have answered.
pub(crate) struct Serving<S, F> {
    peer: Peer,
    service: ServiceInfo,
    /// Whose rules hold; a client that serves on its own connection has none.
    hub: Option<Arc<Hub>>,
    /// What this connection may call; anything, if nothing was said.
    pass: Option<Box<Pass>>,
    start: S,
    handlers: Handlers<F>,
    /// Without memory between two turns, as are the replies.
    queued: Vec<Queued>,
    replies: Vec<(u64, Reply)>,
    /// Calls for whose handlers there was no room.
    shed: Vec<u64>,
    wakers: Vec<Waker>,
}

/// A [`Serving`] of whatever service, for a driver that does not know its types.
pub(crate) trait Answering: Send {
    /// [`Serving::register`].
    fn register(&self, waker: &Waker);
    /// [`Serving::queue`].
    fn queue(&mut self, call: &NewCall<'_>, end: usize);
    /// [`Serving::start_queued`].
    fn start_queued(&mut self, now: Instant, cell: &Arc<ServingCell>, epoch: u64, bytes: &[u8]);
    /// [`Serving::poll_woken`].
    fn poll_woken(&mut self, cell: &Arc<ServingCell>, epoch: u64) -> bool;
    /// Handlers that have not ended.
    fn running(&self) -> usize;
    /// [`Serving::rest`].
    fn rest(&mut self);
    /// [`Serving::run_out`].
    fn run_out<'a>(&'a mut self, cell: &'a Arc<ServingCell>, epoch: u64) -> BoxFuture<'a, ()>;
    /// Stops all handlers and answers in their place.
    fn abort(&mut self, cell: &ServingCell);
}

impl<S, F> Answering for Serving<S, F>
where
    S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    fn register(&self, waker: &Waker) {
        self.register(waker);
    }

    fn queue(&mut self, call: &NewCall<'_>, end: usize) {
        self.queue(call, end);
    }

    fn start_queued(&mut self, now: Instant, cell: &Arc<ServingCell>, epoch: u64, bytes: &[u8]) {
        self.start_queued(now, cell, epoch, bytes);
    }

    fn poll_woken(&mut self, cell: &Arc<ServingCell>, epoch: u64) -> bool {
        self.poll_woken(cell, epoch)
    }

    fn running(&self) -> usize {
        self.handlers.running()
    }

    fn rest(&mut self) {
        self.rest();
    }

    fn run_out<'a>(&'a mut self, cell: &'a Arc<ServingCell>, epoch: u64) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.run_out(cell, epoch, &mut Timer::default()).await })
    }

    fn abort(&mut self, cell: &ServingCell) {
        self.handlers.abort(|id| cell.answer(id, Reply::Failed(FailedCode::Aborted)));
    }
}

impl<S, F> Serving<S, F>
where
    S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    pub(crate) fn new(peer: Peer, service: ServiceInfo, hub: Option<Arc<Hub>>, start: S, pool: Arc<Pool<F>>) -> Self {
        let handlers = Handlers::new(pool);
        let (queued, replies, shed, wakers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { peer, service, hub, pass: None, start, handlers, queued, replies, shed, wakers }
    }

    /// What the connection was let in for.
    pub(super) fn keep_to(&mut self, pass: Option<Box<Pass>>) {
        self.pass = pass;
    }

    /// Who is to be woken when a handler has something to do.
    pub(super) fn register(&self, waker: &Waker) {
        self.handlers.register(waker);
    }

    /// Notes a request that the lane has taken up; its body ends at `end` of the read's bytes.
    pub(super) fn queue(&mut self, call: &NewCall<'_>, end: usize) {
        if self.queued.capacity() == 0 {
            self.queued = QUEUED.take();
        }
        self.queued.push(Queued {
            id: call.id,
            method: call.method,
            version: call.version,
            deadline: call.deadline,
            tlv_bytes: call.tlvs.bytes(),
            body: end.saturating_sub(call.body.len())..end,
        });
    }

    /// Gives each noted request its handler and the handler its first poll. Taken is taken, however the read ended.
    pub(super) fn start_queued(&mut self, now: Instant, cell: &Arc<ServingCell>, epoch: u64, bytes: &[u8]) {
        if self.queued.is_empty() {
            return;
        }
        let _lane = context::enter(cell);
        let mut queued = std::mem::take(&mut self.queued);
        let mut room = cell.load.as_ref().map_or(queued.len(), |load| load.take(queued.len(), now));
        for call in queued.drain(..) {
            if room == 0 {
                self.shed.push(call.id);
                continue;
            }
            room -= 1;
            let tlvs = call.body.start.saturating_sub(call.tlv_bytes)..call.body.start;
            let watch = self.watch(cell, &call, bytes.get(tlvs).unwrap_or_default());
            self.start_handler(cell, &call, watch, bytes.get(call.body.clone()).unwrap_or_default());
        }
        QUEUED.set(queued);
        self.give_replies(cell, epoch);
    }

    /// Polls the handlers that were woken. Returns whether any was.
    pub(super) fn poll_woken(&mut self, cell: &Arc<ServingCell>, epoch: u64) -> bool {
        let replies = &mut self.replies;
        let any = self.handlers.poll_woken(
            cell,
            |id| lock(&cell.lane).is_running(id),
            |id, reply| put_reply(replies, id, reply),
        );
        self.give_replies(cell, epoch);
        any
    }

    /// Nothing to do for now: gives back what the handlers that run do not need.
    pub(super) fn rest(&mut self) {
        self.rest_with(SLOTS_KEPT);
    }

    fn rest_with(&mut self, slots_kept: usize) {
        self.handlers.rest(slots_kept);
        self.shed.shrink_to(WAKERS_KEPT);
        self.wakers.shrink_to(WAKERS_KEPT);
    }

    /// Polls on what still runs, to its end or its deadline: losing a connection cancels nothing.
    pub(super) async fn run_out(&mut self, cell: &Arc<ServingCell>, epoch: u64, timer: &mut Timer) {
        poll_fn(|cx| {
            self.handlers.register(cx.waker());
            for _ in 0..TURNS_MAX {
                // Told to the driver of the lane's present connection, which is another one.
                let due = cell.with_driver(|lane| {
                    lane.handle_timeout(now());
                    lane.poll_deadline()
                });
                let polled = self.poll_woken(cell, epoch);
                if self.handlers.running() == 0 {
                    return Poll::Ready(());
                }
                // None begins any more.
                self.rest_with(0);
                if !polled && timer.poll(cx, due).is_pending() {
                    return Poll::Pending;
                }
            }
            give_way(cx);
            Poll::Pending
        })
        .await;
    }

    fn give_replies(&mut self, cell: &ServingCell, epoch: u64) {
        if self.replies.is_empty() && self.shed.is_empty() {
            return;
        }
        if let Some(load) = &cell.load {
            load.ended(self.replies.iter().map(|(id, _)| *id));
        }
        let ours = {
            let mut lane = lock(&cell.lane);
            for (id, reply) in self.replies.drain(..) {
                lane.answer(id, reply);
            }
            if !self.shed.is_empty() {
                let reply = overloaded(cell.load.as_ref().map_or(Duration::ZERO, LaneLoad::retry_after));
                for id in self.shed.drain(..) {
                    lane.answer(id, reply.clone());
                }
            }
            cell.hold(&lane);
            lane.take_wakers(&mut self.wakers);
            lane.is_attached(epoch)
        };
        REPLIES.set(std::mem::take(&mut self.replies));
        wake_all(&mut self.wakers);
        if !ours {
            // The handlers have outlived their connection; their answers go to the lane's present one.
            cell.driver.wake();
        }
    }

    /// What those who watch are told of a handler. A trace context that came with the request is continued.
    fn watch(&self, cell: &ServingCell, call: &Queued, tlvs: &[u8]) -> HandlerWatch {
        let (parent, bad) = if tlvs.is_empty() { (None, false) } else { trace::parse_tlvs(Tlvs::of(tlvs)) };
        if bad {
            cell.with(ServerLane::ignored_trace);
        }
        let Queued { id, method, version, deadline, .. } = *call;
        let span = HandlerSpan::begin(parent, &self.service, &HandledCall { id, method, version, deadline });
        HandlerWatch::new(span, cell.metrics.begin(method, version))
    }

    fn start_handler(&mut self, cell: &Arc<ServingCell>, call: &Queued, watch: HandlerWatch, body: &[u8]) {
        let (pass, method) = (self.pass.as_deref(), (call.method, call.version));
        let permits = |hub: &Hub| hub.policy.permits(&self.peer, pass, self.service.methods, method);
        if let Some(Err(denial)) = self.hub.as_deref().map(permits) {
            let reason = Payload::copy(denial.reason());
            return self.refuse(call.id, &watch, Reply::Nack(NackCode::Unauthorized, reason));
        }
        let enter = |load: &LaneLoad| load.enter(call.id, (call.method, call.version));
        if let Some(Err(retry_after)) = cell.load.as_ref().map(enter) {
            return self.refuse(call.id, &watch, overloaded(retry_after));
        }
        let context = CallContext { peer: self.peer, request_id: RequestId(call.id), deadline: call.deadline };
        let raw = RawResponder::new(Arc::clone(cell), context, watch.clone(), (call.method, call.version));
        let start = catch_unwind(AssertUnwindSafe(|| (self.start)(call.method, call.version, body, raw)));
        let handler = match start {
            Ok(Ok(handler)) => handler,
            Ok(Err(fault)) => return self.refuse(call.id, &watch, refuse(&fault)),
            // A `Deserialize` of the user's panicked.
            Err(panic) => {
                dispose(panic);
                return self.refuse(call.id, &watch, Reply::Failed(FailedCode::Panicked));
            }
        };
        match self.handlers.start(context, watch, handler) {
            Polled::Done(reply) => put_reply(&mut self.replies, call.id, reply),
            Polled::Pending(waker) => {
                let queues = self.handlers.queues();
                cell.with(|lane| {
                    if !queues {
                        lane.started(call.id);
                    }
                    lane.on_cancel(call.id, &waker);
                });
            }
        }
    }

    fn refuse(&mut self, id: u64, watch: &HandlerWatch, reply: Reply) {
        watch.end(&reply);
        put_reply(&mut self.replies, id, Some(reply));
    }
}

/// Notes what a handler has answered, if it has.
fn put_reply(replies: &mut Vec<(u64, Reply)>, id: u64, reply: Option<Reply>) {
    let Some(reply) = reply else { return };
    if replies.capacity() == 0 {
        *replies = REPLIES.take();
    }
    replies.push((id, reply));
}
