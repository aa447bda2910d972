//! Handlers in pooled, pinned slots: polled in place, without a task and without an allocation per call.
//!
//! A handler that panics, on a poll or on a drop, harms nobody but its own call. The slots of finished handlers go back
//! to a pool of the whole server, and the lists of them, too: an idle connection holds none, and one whose handlers wait for
//! long no more than a few that are free.
//!
//! Filled and polled by `server`; woken by whatever a handler waits for.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};

use super::hub::ServingCell;
use super::lock;
use crate::context::{self, CallContext};
use crate::limits::SLOTS_KEPT_PER_HANDLER;
use crate::service::Answer;
use crate::session::server::Reply;
use crate::sync::{AtomicBool, AtomicWaker, Mutex, Slip, slips};
use crate::watch::HandlerWatch;
use crate::wire::header::FailedCode;

/// Slots that a server keeps for reuse. LIMIT: one window; what a burst needed beyond it is freed again.
const POOL_MAX: usize = 1024;

/// Room for slots in the lists that a server keeps for reuse. LIMIT: the least that is allocated for a list, for as many
/// connections as there are slots.
const LISTED_MAX: usize = 4 * POOL_MAX;

/// The most woken slots of a connection at once whose list is kept while no handler runs. LIMIT: throughput is flat from
/// so many calls on; half a KiB.
const WOKEN_KEPT: usize = 64;

/// Free slots that a connection keeps while handlers run: for each of them so many, so that slots are not gone through more
/// often than handlers end. Where shuttle chooses the schedules they are gone through whenever one is free.
const FREE_PER_RUNNING: usize = if cfg!(shuttle) { 0 } else { SLOTS_KEPT_PER_HANDLER };

/// Free slots of one server.
pub(crate) struct Pool<F> {
    free: Mutex<Free<F>>,
    /// Whether handlers only queue their calls: each begins when somebody takes it out.
    pub(super) queues: bool,
}

struct Free<F> {
    slots: Vec<Slot<F>>,
    lists: Vec<Lists<F>>,
    /// Slots that there is room for in `lists`.
    listed: usize,
}

/// The slots of a connection, and which of them have no handler.
struct Lists<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
}

struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    wake: Arc<SlotWake>,
    waker: Waker,
    context: Option<CallContext>,
    watch: Option<HandlerWatch>,
}

/// Where to say that a slot has something to do.
struct SlotWake {
    queued: AtomicBool,
    home: Mutex<Option<(Arc<Ready>, usize)>>,
}

/// The slots of one connection that were woken.
#[derive(Default)]
struct Ready {
    indices: Mutex<Vec<usize>>,
    driver: AtomicWaker,
}

/// The handlers of one connection.
pub(super) struct Handlers<F> {
    pool: Arc<Pool<F>>,
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    woken: Vec<usize>,
}

/// How a poll of a handler came out.
pub(super) enum Polled {
    Pending(Waker),
    /// It has ended; `None` means that somebody else will answer.
    Done(Option<Reply>),
}

impl<F> Default for Pool<F> {
    fn default() -> Self {
        Self { free: Mutex::new(Free { slots: Vec::new(), lists: Vec::new(), listed: 0 }), queues: false }
    }
}

impl<F> Pool<F> {
    /// Of handlers that only queue their calls.
    pub(crate) fn of_queue() -> Self {
        Self { queues: true, ..Self::default() }
    }
}

impl Wake for SlotWake {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        // A waker that outlived its handler wakes whoever has the slot now, or nobody: spurious, and harmless.
        let home = lock(&self.home).clone();
        if let Some((ready, index)) = home {
            lock(&ready.indices).push(index);
            ready.driver.wake();
        }
    }
}

impl<F: Future<Output = Answer>> Handlers<F> {
    pub(super) fn new(pool: Arc<Pool<F>>) -> Self {
        Self { pool, slots: Vec::new(), free: Vec::new(), ready: Arc::default(), woken: Vec::new() }
    }

    /// Who is to be woken when a handler has something to do.
    pub(super) fn register(&self, waker: &Waker) {
        self.ready.driver.register(waker);
    }

    /// Whether handlers only queue their calls.
    pub(super) fn queues(&self) -> bool {
        self.pool.queues
    }

    /// Handlers that have not ended.
    pub(super) fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a handler in and polls it for the first time.
    pub(super) fn start(&mut self, context: CallContext, watch: HandlerWatch, handler: F) -> Polled {
        let index = self.free.pop().unwrap_or_else(|| self.add_slot());
        let slot = &mut self.slots[index];
        slot.context = Some(context);
        slot.watch = Some(watch);
        slot.wake.queued.swap(false, Ordering::AcqRel);
        slot.future.set(Some(handler));
        self.poll(index)
    }

    /// Polls every handler that was woken. `go_on` says whether a handler's call is still wanted; one that is not is
    /// dropped. `done` hears of each that ended.
    pub(super) fn poll_woken(
        &mut self,
        lane: &Arc<ServingCell>,
        mut go_on: impl FnMut(u64) -> bool,
        mut done: impl FnMut(u64, Option<Reply>),
    ) -> bool {
        std::mem::swap(&mut *lock(&self.ready.indices), &mut self.woken);
        if self.woken.is_empty() {
            return false;
        }
        let _lane = context::enter(lane);
        let mut woken = std::mem::take(&mut self.woken);
        for index in woken.drain(..) {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if !slips(Slip::ForgetsWakesDuringPoll) {
                // Takes what whoever woke it has published: a mere store would hide that.
                slot.wake.queued.swap(false, Ordering::AcqRel);
            }
            let Some(context) = slot.context else { continue };
            let id = context.request_id.0;
            if !go_on(id) {
                let reply = Reply::Failed(FailedCode::Aborted);
                slot.watch.iter().for_each(|watch| watch.end(&reply));
                self.clear(index);
                done(id, Some(reply));
            } else if let Polled::Done(reply) = self.poll(index) {
                done(id, reply);
            }
            if slips(Slip::ForgetsWakesDuringPoll) {
                self.slots[index].wake.queued.store(false, Ordering::Release);
            }
        }
        self.woken = woken;
        true
    }

    /// Drops every handler; `stopped` hears of each.
    pub(super) fn abort(&mut self, mut stopped: impl FnMut(u64)) {
        for index in 0..self.slots.len() {
            if let Some(context) = self.slots[index].context {
                self.clear(index);
                stopped(context.request_id.0);
            }
        }
    }

    /// Gives free slots back: all when no handler runs, else most of them when there are many, more than `kept` too.
    pub(super) fn rest(&mut self, kept: usize) {
        if !self.slots.is_empty() && (self.running() == 0 || self.free.len() > self.free_max(kept)) {
            self.give_back();
        }
    }

    /// Free slots that are kept while handlers run.
    fn free_max(&self, kept: usize) -> usize {
        let kept = if cfg!(shuttle) { 0 } else { kept };
        self.running().saturating_mul(FREE_PER_RUNNING).max(kept)
    }

    /// Gives all free slots back. Those that have a handler move together: the last slot of all may be one of them.
    fn give_back(&mut self) {
        let mut running = Vec::with_capacity(self.running());
        // Freed when the lock that all threads share is given back.
        let mut surplus = Vec::new();
        let mut pooled = lock(&self.pool.free);
        let mut indices = lock(&self.ready.indices);
        // Written anew, with the indices that hold from here on.
        indices.clear();
        for slot in self.slots.drain(..) {
            let mut home = lock(&slot.wake.home);
            if slot.context.is_none() {
                *home = None;
                drop(home);
                let into = if pooled.slots.len() < POOL_MAX { &mut pooled.slots } else { &mut surplus };
                into.push(slot);
                continue;
            }
            let index = running.len();
            *home = Some((Arc::clone(&self.ready), index));
            drop(home);
            // INVARIANT: whoever has marked it and looked for its home before now, and may still come with the old index,
            // is seen here: the lock lay between. Who looks later finds the new one. The old index, if it comes, wakes
            // whoever has the slot now, or nobody. The driver need not be told: whoever marks wakes it, afterwards.
            if slot.wake.queued.load(Ordering::Acquire) && !slips(Slip::MovesHandlersUnseen) {
                indices.push(index);
            }
            running.push(slot);
        }
        self.free.clear();
        let slots = std::mem::replace(&mut self.slots, running);
        pooled.keep(Lists { slots, free: std::mem::take(&mut self.free) });
        drop(pooled);
        indices.shrink_to(WOKEN_KEPT);
        self.woken.shrink_to(WOKEN_KEPT);
    }

    fn add_slot(&mut self) -> usize {
        let mut pooled = lock(&self.pool.free);
        if self.slots.capacity() == 0
            && let Some(Lists { slots, free }) = pooled.take_lists()
        {
            (self.slots, self.free) = (slots, free);
        }
        let slot = pooled.slots.pop();
        drop(pooled);
        let slot = slot.unwrap_or_else(Slot::new);
        let index = self.slots.len();
        *lock(&slot.wake.home) = Some((Arc::clone(&self.ready), index));
        self.slots.push(slot);
        index
    }

    fn poll(&mut self, index: usize) -> Polled {
        let slot = &mut self.slots[index];
        let Some(context) = slot.context else { return Polled::Done(None) };
        let Slot { future, waker, watch, .. } = slot;
        let mut poll = || match future.as_mut().as_pin_mut() {
            Some(future) => future.poll(&mut Context::from_waker(waker)),
            None => Poll::Ready(Answer::Deferred),
        };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            context.scope(|| match watch {
                None => poll(),
                Some(watch) => watch.scope(poll),
            })
        }));
        let reply = match polled {
            Ok(Poll::Pending) => return Polled::Pending(slot.waker.clone()),
            Ok(Poll::Ready(Answer::Now(reply))) => Some(reply),
            Ok(Poll::Ready(Answer::Deferred)) => None,
            Err(panic) => {
                tracing::error!(request_id = context.request_id.0, panic = panic_text(&*panic), "a handler panicked");
                dispose(panic);
                Some(Reply::Failed(FailedCode::Panicked))
            }
        };
        if let (Some(watch), Some(reply)) = (&slot.watch, &reply) {
            watch.end(reply);
        }
        self.clear(index);
        Polled::Done(reply)
    }

    fn clear(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.context = None;
        slot.watch = None;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| slot.future.set(None))) {
            tracing::error!(panic = panic_text(&*panic), "a handler panicked while it was dropped");
            dispose(panic);
        }
        self.free.push(index);
    }
}

impl<F> Free<F> {
    /// Keeps empty lists for the next connection.
    fn keep(&mut self, lists: Lists<F>) {
        let listed = self.listed.saturating_add(lists.slots.capacity());
        if listed <= LISTED_MAX {
            self.listed = listed;
            self.lists.push(lists);
        }
    }

    fn take_lists(&mut self) -> Option<Lists<F>> {
        let lists = self.lists.pop()?;
        self.listed = self.listed.saturating_sub(lists.slots.capacity());
        Some(lists)
    }
}

impl<F> Slot<F> {
    fn new() -> Self {
        let wake = Arc::new(SlotWake { queued: AtomicBool::new(false), home: Mutex::new(None) });
        Self { future: Box::pin(None), waker: Waker::from(Arc::clone(&wake)), wake, context: None, watch: None }
    }
}

/// Drops what a panic carried. Its own drop may panic, too; what that carries is let go.
pub(super) fn dispose(panic: Box<dyn std::any::Any + Send>) {
    if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(worse);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use futures::future::BoxFuture;

    use super::*;
    use crate::id::RequestId;
    use crate::io::client::CallingCell;
    use crate::limits::{Limits, SLOTS_KEPT};
    use crate::metrics::ServerMetrics;
    use crate::peer::Peer;
    use crate::session::server::ServerLane;
    use crate::wire::hello::ServiceInfo;

    /// Handlers of a connection, which end when they are told to.
    struct World {
        handlers: Handlers<BoxFuture<'static, Answer>>,
        cell: Arc<ServingCell>,
        polls: Arc<AtomicUsize>,
        tell: Vec<Option<tokio::sync::oneshot::Sender<()>>>,
    }

    const INFO: ServiceInfo = ServiceInfo { name: "handlers", version: 1, methods: &[] };

    impl World {
        /// With so many handlers, each polled once.
        fn new(handlers: u64) -> Self {
            let metrics = ServerMetrics::new(&INFO).lane();
            let back = std::sync::Weak::<CallingCell>::new();
            let cell = Arc::new(ServingCell::of_client(ServerLane::new(Limits::default(), 1), metrics, back));
            let mut world = Self { handlers: Handlers::new(Arc::default()), cell, polls: Arc::default(), tell: vec![] };
            (0..handlers).for_each(|id| world.start(id));
            world
        }

        fn start(&mut self, id: u64) {
            let (tell, mut told) = tokio::sync::oneshot::channel();
            self.tell.push(Some(tell));
            let polls = Arc::clone(&self.polls);
            let handler = std::future::poll_fn(move |cx| {
                polls.fetch_add(1, Ordering::SeqCst);
                std::pin::Pin::new(&mut told).poll(cx).map(|_| Answer::Deferred)
            });
            let context = CallContext { peer: Peer::own(), request_id: RequestId(id), deadline: Instant::now() };
            let watch = HandlerWatch::new(None, self.cell.metrics.begin(1, 1));
            assert!(matches!(self.handlers.start(context, watch, Box::pin(handler)), Polled::Pending(_)));
        }

        /// Tells the handler of `id`, which wakes it.
        fn tell(&mut self, id: u64) {
            self.tell[usize::try_from(id).unwrap()].take().unwrap().send(()).unwrap();
        }

        /// Polls what was woken; the ids of those that have ended.
        fn poll(&mut self) -> Vec<u64> {
            let mut ended = Vec::new();
            self.handlers.poll_woken(&self.cell, |_| true, |id, _| ended.push(id));
            ended
        }

        /// All but the handler of `id` end.
        fn end_all_but(&mut self, id: u64) {
            let others: Vec<u64> = (0..self.tell.len() as u64).filter(|other| *other != id).collect();
            others.iter().for_each(|other| self.tell(*other));
            assert_eq!(self.poll(), others);
        }
    }

    #[test]
    fn slots_of_a_burst_are_given_back_though_one_of_its_handlers_runs_on() {
        for (last, kept) in [(0, 0), (70, 0), (99, 0), (99, SLOTS_KEPT)] {
            let mut w = World::new(100);
            w.handlers.rest(kept);
            assert_eq!(w.handlers.slots.len(), 100, "all are needed");
            w.end_all_but(last);
            w.handlers.rest(kept);
            assert_eq!((w.handlers.running(), w.handlers.slots.len(), w.handlers.free.len()), (1, 1, 0));
            assert!(w.handlers.slots.capacity() + w.handlers.free.capacity() < 16, "their lists, too");
            assert_eq!(lock(&w.handlers.pool.free).slots.len(), 99);
            w.start(100);
            w.tell(last);
            w.tell(100);
            let ended = w.poll();
            assert_eq!((ended, w.handlers.running()), (vec![last, 100], 0), "it was woken where it is now");
        }
    }

    #[test]
    fn few_free_slots_are_kept_beside_a_handler_that_runs() {
        let mut w = World::new(1 + SLOTS_KEPT as u64);
        w.end_all_but(0);
        w.handlers.rest(SLOTS_KEPT);
        assert_eq!(w.handlers.free.len(), SLOTS_KEPT);
        w.handlers.rest(0);
        assert_eq!(w.handlers.slots.len(), 1);
    }

    #[test]
    fn wake_that_meets_the_move_of_its_handler_is_not_lost() {
        for early in [false, true] {
            let mut w = World::new(100);
            w.end_all_but(99);
            let polls = || w.polls.load(Ordering::SeqCst);
            let before = polls();
            // The halves of a wake, the move between them, or behind both.
            let wake = Arc::clone(&w.handlers.slots[99].wake);
            assert!(!wake.queued.swap(true, Ordering::AcqRel));
            let (ready, old) = lock(&wake.home).clone().unwrap();
            if early {
                lock(&ready.indices).push(old);
            }
            w.handlers.rest(0);
            if !early {
                lock(&ready.indices).push(old);
            }
            ready.driver.wake();
            assert_eq!((old, lock(&wake.home).as_ref().unwrap().1), (99, 0));
            let cell = Arc::clone(&w.cell);
            w.handlers.poll_woken(&cell, |_| true, |_, _| ());
            assert_eq!(polls(), before + 1, "polled where it is now");
            w.tell(99);
            assert_eq!(w.poll(), [99], "and woken there from then on");
        }
    }
}
