//! The sender of a pod's events.
//!
//! An event takes its place in the outbox at once, in the caller; a task offers what is there to the parent, in order,
//! until the parent has it. Nothing that is committed is given up because an offer failed. Without a parent all of it
//! is a no-op.
//!
//! Used by `controller`; events that a turn's end commits are offered as well, without being raised here.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc::CallError;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::event::counters::{ReporterCounters, count};
use crate::event::delivery;
use crate::event::edge::Edge;
use crate::event::outbox::{Outbox, Taken};
use crate::id::{PodId, Seq};
use crate::protocol::{Disposition, EventAck, PodEvent, PodEventOffer};
use crate::store::{Store, StoreError};

/// How long `fire_and_forget` waits for an ack before it calls the report failed. The event is offered on.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// LIMIT: reports that are waited for by nobody. More than a pod raises in the time that one may take; above it the
/// report is kept and offered as ever, and counted as failed at once.
const FORGOTTEN_MAX: usize = 1024;
/// LIMIT: outcomes kept for those who come to wait for them after they are known.
const RECENT_MAX: usize = 1024;

/// The sender of a pod's events. Clones are the same sender.
#[derive(Clone)]
pub struct Reporter {
    shared: Option<Arc<Owner>>,
}

/// What all clones of a reporter share; with the last of them the offering ends.
struct Owner(Arc<Shared>);

/// An event that has its place.
#[must_use = "whether it was committed is known only by awaiting it"]
#[derive(Debug)]
pub struct Raised {
    taken: Taken,
}

/// What an awaited report came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The parent has it.
    Acked(EventAck),
    /// There is no parent to be told.
    NoParent,
}

/// Why a report was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// It could not be committed; it will not be offered.
    #[error("the event could not be committed")]
    NotCommitted(#[source] StoreError),
    /// No ack came in time. The event is kept and offered again; the last offer came to `last`.
    #[error("event {seq} was not acknowledged in time{}", last.as_ref().map(|last| format!(": {last}")).unwrap_or_default())]
    Late {
        /// Its place.
        seq: Seq,
        /// What became of its last offer, if one ended.
        last: Option<CallError<PodEventOffer>>,
    },
    /// The parent cannot take it. It is kept and shown, and not offered again.
    #[error("the parent cannot take event {seq}: {reason}")]
    Undeliverable {
        /// Its place.
        seq: Seq,
        /// What the parent said.
        reason: String,
    },
}

/// What was left when a reporter was drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Events that the parent has yet to ack. With a store they are kept for the next life.
    pub pending: u64,
}

pub(crate) struct Shared {
    pub(crate) own: PodId,
    pub(crate) outbox: Outbox,
    pub(crate) edge: Edge,
    pub(crate) counters: ReporterCounters,
    /// Changes with every ack: the last event that the parent has, as far as this life knows.
    pub(crate) acked: watch::Sender<Seq>,
    pub(crate) stop: Notify,
    waits: Mutex<Waits>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Waits {
    waiting: BTreeMap<Seq, Waiter>,
    recent: BTreeMap<Seq, Outcome>,
}

struct Waiter {
    last: Option<CallError<PodEventOffer>>,
    done: oneshot::Sender<Outcome>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Acked(EventAck),
    Undeliverable(String),
}

#[derive(Default)]
struct Tasks {
    delivery: Option<tokio::task::JoinHandle<()>>,
    forgotten: JoinSet<()>,
}

/// Raises `event`: its place in the outbox is taken when this returns. Awaiting the handle tells when it is committed;
/// dropping it changes nothing.
pub fn send_pod_event(reporter: &Reporter, event: PodEvent) -> Raised {
    let Some(shared) = &reporter.shared else { return Raised { taken: Taken::At(Ok(None)) } };
    count(&shared.counters.raised);
    Raised { taken: shared.outbox.take(event) }
}

/// Raises `event` and waits, at most for `deadline`, until the parent has it.
///
/// # Errors
/// [`DeliveryError`] says whether the event is kept and offered on.
///
/// # Cancel safety
/// The event has its place when this is first polled, and is offered even if the future is dropped.
pub async fn send_pod_event_awaited(
    reporter: &Reporter,
    event: PodEvent,
    deadline: Duration,
) -> Result<Delivery, DeliveryError> {
    let until = Instant::now() + deadline;
    let raised = send_pod_event(reporter, event);
    reporter.delivered(raised, until).await
}

/// Raises `event`: its place is taken when this returns. A task that [`Reporter::drain`] waits for logs and counts what
/// becomes of it. Must be called within a tokio runtime.
pub fn fire_and_forget(reporter: &Reporter, event: PodEvent) {
    let Some(shared) = &reporter.shared else { return };
    let (kind, until) = (event.kind(), Instant::now() + FORGET_AFTER);
    let raised = send_pod_event(reporter, event);
    let mut tasks = shared.tasks();
    while tasks.forgotten.try_join_next().is_some() {}
    if tasks.forgotten.len() >= FORGOTTEN_MAX {
        count(&shared.counters.forgotten_failed);
        tracing::warn!(target: "pod::event", event = kind, waiting = FORGOTTEN_MAX, "report is not waited for");
        return;
    }
    let task = reporter.clone();
    tasks.forgotten.spawn(async move {
        let delivered = task.delivered(raised, until).await;
        let Some(shared) = &task.shared else { return };
        match delivered {
            Ok(_) => count(&shared.counters.forgotten_delivered),
            Err(error) => {
                count(&shared.counters.forgotten_failed);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(target: "pod::event", event = kind, %error, cause, "report not acknowledged");
            }
        }
    });
}

impl Reporter {
    /// The reporter of a pod that has a store: events survive its death.
    pub fn with_store(store: Store, edge: Edge) -> Self {
        Self::new(store.own().pod.clone(), Outbox::Store(store), edge)
    }

    /// The reporter of `own`, which has no store: events are lost with the process.
    pub fn in_memory(own: PodId, edge: Edge) -> Self {
        Self::new(own, Outbox::in_memory(), edge)
    }

    /// A reporter without a parent. Nothing that it is given is sent.
    pub fn none() -> Self {
        Self { shared: None }
    }

    fn new(own: PodId, outbox: Outbox, edge: Edge) -> Self {
        if !edge.exists() {
            return Self::none();
        }
        let (acked, _) = watch::channel(Seq(0));
        let counters = ReporterCounters::default();
        let shared = Shared {
            own,
            outbox,
            edge,
            counters,
            acked,
            stop: Notify::new(),
            waits: Mutex::default(),
            tasks: Mutex::default(),
        };
        Self { shared: Some(Arc::new(Owner(Arc::new(shared)))) }
    }

    /// Begins to offer what the outbox holds. The second call changes nothing. Must be called within a tokio runtime.
    pub fn start(&self) {
        let Some(shared) = &self.shared else { return };
        let mut tasks = shared.tasks();
        if tasks.delivery.is_none() {
            tasks.delivery = Some(tokio::spawn(delivery::run(Arc::clone(&shared.0))));
        }
    }

    /// What has become of its offers; `None` without a parent.
    pub fn counters(&self) -> Option<&ReporterCounters> {
        self.shared.as_ref().map(|shared| &shared.counters)
    }

    /// Waits, at most for `deadline`, until the parent has everything and every forgotten report has its outcome.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        let Some(shared) = &self.shared else { return Drained { pending: 0 } };
        let until = Instant::now() + deadline;
        let mut forgotten = std::mem::take(&mut shared.tasks().forgotten);
        let all = async {
            // First those who wait for their own: what they raised may not even be committed yet.
            while forgotten.join_next().await.is_some() {}
            let mut acked = shared.acked.subscribe();
            // A store that cannot be read leaves nothing to wait for; the count below says that it is not known.
            while shared.outbox.pending().await.is_ok_and(|pending| pending > 0) {
                if acked.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = timeout_at(until, all).await;
        Drained { pending: shared.outbox.pending().await.unwrap_or(u64::MAX) }
    }

    /// Ends the offering. What was not acknowledged stays in the outbox.
    pub async fn stop(&self) {
        let Some(shared) = &self.shared else { return };
        let delivery = shared.tasks().delivery.take();
        if let Some(delivery) = delivery {
            shared.stop.notify_one();
            // Its panic, if it had one, has been logged by the runtime; there is nothing to add.
            let _ = delivery.await;
        }
    }

    async fn delivered(&self, raised: Raised, until: Instant) -> Result<Delivery, DeliveryError> {
        let Some(seq) = raised.committed().await.map_err(DeliveryError::NotCommitted)? else {
            return Ok(Delivery::NoParent);
        };
        let Some(shared) = &self.shared else { return Ok(Delivery::NoParent) };
        let outcome = match shared.wait_for(seq) {
            Ok(known) => known,
            Err(wait) => match timeout_at(until, wait).await {
                Ok(Ok(outcome)) => outcome,
                _ => return Err(DeliveryError::Late { seq, last: shared.leave(seq) }),
            },
        };
        match outcome {
            Outcome::Acked(ack) => Ok(Delivery::Acked(ack)),
            Outcome::Undeliverable(reason) => Err(DeliveryError::Undeliverable { seq, reason }),
        }
    }
}

impl Raised {
    /// The event's place, once it is committed; none without a parent.
    ///
    /// # Errors
    /// Why it could not be committed; it will then not be offered.
    pub async fn committed(self) -> Result<Option<Seq>, StoreError> {
        match self.taken {
            Taken::Submitted(submitted) => submitted.await,
            Taken::At(result) => result,
        }
    }
}

impl Shared {
    /// The parent has the events of these acks, and with them everything up to `durable`.
    pub(crate) fn acked(&self, acks: &[(Seq, EventAck)], durable: Seq) {
        for (seq, ack) in acks {
            count(match ack.disposition {
                Disposition::Applied => &self.counters.applied,
                Disposition::Duplicate => &self.counters.duplicates,
            });
            self.settle(*seq, &Outcome::Acked(*ack));
        }
        let covered: Vec<Seq> = self.waits().waiting.range(..=durable).map(|(seq, _)| *seq).collect();
        for seq in covered {
            let ack = EventAck { disposition: Disposition::Duplicate, durable_seq: durable, woke: false };
            self.settle(seq, &Outcome::Acked(ack));
        }
        self.acked.send_if_modified(|acked| std::mem::replace(acked, durable.max(*acked)) < durable);
    }

    /// The parent cannot take `seq`.
    pub(crate) fn gave_up(&self, seq: Seq, reason: &str) {
        count(&self.counters.undeliverable);
        self.settle(seq, &Outcome::Undeliverable(reason.to_owned()));
        // Whoever drains counts again: one less is pending, though none more is acknowledged.
        self.acked.send_modify(|_| {});
    }

    /// An offer of `seq` failed; it will be offered again.
    pub(crate) fn failed(&self, seq: Seq, error: CallError<PodEventOffer>) {
        if let Some(waiter) = self.waits().waiting.get_mut(&seq) {
            waiter.last = Some(error);
        }
    }

    fn settle(&self, seq: Seq, outcome: &Outcome) {
        let mut waits = self.waits();
        if let Some(waiter) = waits.waiting.remove(&seq) {
            // Whoever waited may have gone.
            let _ = waiter.done.send(outcome.clone());
            return;
        }
        waits.recent.insert(seq, outcome.clone());
        while waits.recent.len() > RECENT_MAX {
            waits.recent.pop_first();
        }
    }

    /// The outcome of `seq` if it is known, or else a wait for it.
    fn wait_for(&self, seq: Seq) -> Result<Outcome, oneshot::Receiver<Outcome>> {
        let mut waits = self.waits();
        if let Some(known) = waits.recent.remove(&seq) {
            return Ok(known);
        }
        let durable_seq = *self.acked.borrow();
        if durable_seq >= seq {
            let disposition = Disposition::Applied;
            return Ok(Outcome::Acked(EventAck { disposition, durable_seq, woke: false }));
        }
        let (done, wait) = oneshot::channel();
        waits.waiting.insert(seq, Waiter { last: None, done });
        Err(wait)
    }

    fn leave(&self, seq: Seq) -> Option<CallError<PodEventOffer>> {
        self.waits().waiting.remove(&seq).and_then(|waiter| waiter.last)
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        // No code that can panic runs while it is held.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Owner {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop.notify_one();
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shared {
            Some(shared) => f.debug_struct("Reporter").field("own", &shared.own).field("edge", &shared.edge).finish(),
            None => f.write_str("Reporter(no parent)"),
        }
    }
}

#[cfg(test)]
#[path = "reporter_tests.rs"]
mod tests;
