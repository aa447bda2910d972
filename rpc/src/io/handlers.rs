//! Handlers in pooled, pinned slots: polled in place, without a task and without an allocation per call.
//!
//! A handler that panics, on a poll or on a drop, harms nobody but its own call. The slots of finished handlers go back
//! to a pool of the whole server, and the lists of them, too: an idle connection holds none.
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

    /// Gives the slots back when no handler runs.
    pub(super) fn rest(&mut self) {
        if self.slots.is_empty() || self.running() > 0 {
            return;
        }
        let mut pooled = lock(&self.pool.free);
        for slot in self.slots.drain(..) {
            *lock(&slot.wake.home) = None;
            if pooled.slots.len() < POOL_MAX {
                pooled.slots.push(slot);
            }
        }
        self.free.clear();
        pooled.keep(Lists { slots: std::mem::take(&mut self.slots), free: std::mem::take(&mut self.free) });
        drop(pooled);
        let mut indices = lock(&self.ready.indices);
        indices.clear();
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
